"""Layers and their NumPy twins agree to 1e-12 in float64, forward and backward."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_twins import TOLERANCE, assert_twins, normal
from torch import nn

from attn_core import masks, modules, reference
from attn_core.normalizers import sparsemax
from attn_core.positions import Rotary


def with_parameters(layer, names, **options):
    """Call a layer as a function of its inputs and of these parameters."""
    layer = layer.double()
    assert set(names) == {name for name, _ in layer.named_parameters()}

    def call(*tensors):
        inputs, parameters = tensors[: -len(names)], tensors[-len(names) :]
        given_parameters = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given_parameters, inputs, options)

    return call


def assert_is_twin(layer, names, name, arrays, torch_options=None, **options):
    assert_twins(
        with_parameters(layer, names, **(torch_options or {})),
        lambda *arrays: getattr(reference, name)(*arrays, **options),
        lambda grad, *arrays: [
            gradient
            for gradient in getattr(reference, f"{name}_backward")(grad, *arrays, **options)
            if gradient is not None
        ],
        arrays,
    )


PROJECTIONS = [f"{name}_proj.weight" for name in ("query", "key", "value", "out")]


@given(kv_heads=st.integers(1, 2), group=st.integers(1, 3), masked=st.booleans())
def test_multi_head(kv_heads, group, masked):
    heads = kv_heads * group
    layer = modules.MultiHeadAttention(
        5, heads, kv_heads=kv_heads, head_dim=3, bias=False, key_dim=6, value_dim=7
    )
    arrays = normal(
        (2, 4, 5), (2, 3, 6), (2, 3, 7),
        (heads * 3, 5), (kv_heads * 3, 6), (kv_heads * 3, 7), (5, heads * 3),
    )  # fmt: skip
    torch_mask = masks.causal() & masks.padding([3, 1]) if masked else None
    mask = reference.causal(4, 3, q_offset=-1) & reference.padding([3, 1], 3) if masked else None
    assert_is_twin(
        layer,
        PROJECTIONS,
        "multi_head",
        arrays,
        {"mask": torch_mask, "q_offset": -1},
        heads=heads,
        kv_heads=kv_heads,
        mask=mask,
    )


STEPS = {
    "scale": ({"scale": 0.7}, {"scale": 0.7}),
    "softcap": ({"softcap": 0.8}, {"softcap": 0.8}),
    "sparsemax": ({"normalizer": sparsemax}, {"normalizer": reference.sparsemax}),
    "all": (
        {"scale": 0.7, "softcap": 0.8, "normalizer": sparsemax},
        {"scale": 0.7, "softcap": 0.8, "normalizer": reference.sparsemax},
    ),
}


@pytest.mark.parametrize("with_norms", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize(("ours", "twins"), STEPS.values(), ids=STEPS)
def test_the_steps_and_norms_of_multi_head(ours, twins, with_norms):
    norms = {name: nn.RMSNorm(3, eps=1e-2) for name in ("query_norm", "key_norm")}
    layer = modules.MultiHeadAttention(
        5, 4, kv_heads=2, head_dim=3, bias=False, **ours, **(norms if with_norms else {})
    ).double()
    names = PROJECTIONS + [f"{name}.weight" for name in norms if with_norms]
    arrays = normal(*[(2, 4, 5)] * 3, (12, 5), (6, 5), (6, 5), (5, 12), *[(3,)] * (len(names) - 4))
    call = with_parameters(layer, names, mask=masks.causal())
    settings = {"heads": 4, "kv_heads": 2, "mask": reference.causal(4, 4), "eps": 1e-2, **twins}

    def twin(function, *given):
        *given, query_norm, key_norm = given if with_norms else (*given, None, None)
        return function(*given, query_norm=query_norm, key_norm=key_norm, **settings)

    assert_twins(
        call,
        lambda *given: twin(reference.multi_head, *given),
        lambda *given: [x for x in twin(reference.multi_head_backward, *given) if x is not None],
        arrays,
    )


def test_the_weights_of_multi_head():
    layer = modules.MultiHeadAttention(6, 2, bias=False).double()
    weights = [getattr(layer, name[:-7]).weight.detach().numpy() for name in PROJECTIONS]
    (x,) = normal((2, 4, 6))
    seen = layer(torch.tensor(x), return_weights=True)
    twin = reference.multi_head(x, x, x, *weights, heads=2, return_weights=True)
    np.testing.assert_allclose(seen.weights.detach().numpy(), twin.weights, **TOLERANCE)
    np.testing.assert_allclose(seen.output.detach().numpy(), twin.output, **TOLERANCE)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, None), (4, 2), (4, 1), (1, 1)])
def test_decoding_with_a_cache_is_the_causal_pass(heads, kv_heads):
    shared = kv_heads or heads
    x, *weights = normal((7, 5), (heads * 3, 5), (shared * 3, 5), (shared * 2, 5), (5, heads * 2))
    settings = {"heads": heads, "kv_heads": kv_heads}
    seen = reference.multi_head_decoding(x, *weights, **settings)
    expected = reference.multi_head(x, x, x, *weights, mask=reference.causal(7, 7), **settings)
    np.testing.assert_allclose(seen, expected, **TOLERANCE)


LATENT = [
    f"{name}_proj.weight"
    for name in ("latent", "rotary_key", "key", "value", "query", "rotary_query", "out")
]


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("masked", [False, True])
def test_multi_head_latent(absorbed, pairing, masked):
    layer = modules.MultiHeadLatentAttention(
        6,
        2,
        kv_rank=5,
        value_dim=7,
        rotary_dim=4,
        rotary=Rotary(base=50.0, pairing=pairing),
        norm=False,
    )
    arrays = normal((2, 4, 6), (5, 6), (4, 6), (6, 5), (14, 5), (6, 6), (8, 6), (6, 14))
    assert_is_twin(
        layer,
        LATENT,
        "multi_head_latent",
        arrays,
        {"absorbed": absorbed, "mask": masks.causal() if masked else None},
        heads=2,
        mask=reference.causal(4, 4) if masked else None,
        base=50.0,
        pairing=pairing,
    )


def test_compressed_queries_are_a_product_of_two_matrices():
    layer = modules.MultiHeadLatentAttention(
        6, 2, kv_rank=5, query_rank=3, rotary_dim=2, norm=False
    ).double()
    down = layer.query_latent_proj.weight
    matrices = [
        layer.latent_proj.weight,
        layer.rotary_key_proj.weight,
        layer.key_proj.weight,
        layer.value_proj.weight,
        layer.query_proj.weight @ down,
        layer.rotary_query_proj.weight @ down,
        layer.out_proj.weight,
    ]
    (x,) = normal((2, 4, 6))
    twin = reference.multi_head_latent(x, *[w.detach().numpy() for w in matrices], heads=2)
    np.testing.assert_allclose(layer(torch.tensor(x)).detach().numpy(), twin, **TOLERANCE)


@pytest.mark.parametrize("lengths", [None, [6, 3], [0, 5]])
@pytest.mark.parametrize("q_offset", [0, 3, [0, 4]])
def test_local_m(lengths, q_offset):
    layer = modules.LocalMonotonic(window=1)
    given_offset = torch.tensor(q_offset) if isinstance(q_offset, list) else q_offset
    assert_twins(
        lambda *tensors: layer(*tensors, lengths=lengths, q_offset=given_offset),
        lambda *arrays: reference.local_m(*arrays, window=1, lengths=lengths, q_offset=q_offset),
        lambda grad, *arrays: reference.local_m_backward(
            grad, *arrays, window=1, lengths=lengths, q_offset=q_offset
        ),
        normal((2, 4, 3), (2, 6, 3), (2, 6, 5)),
    )


@pytest.mark.parametrize("lengths", [None, [6, 3], [0, 5]])
@pytest.mark.parametrize("window", [1, 3])
def test_local_p(lengths, window):
    assert_is_twin(
        modules.LocalPredictive(3, window, hidden_dim=4),
        ["hidden_proj.weight", "position_vector"],
        "local_p",
        normal((2, 4, 3), (2, 6, 3), (2, 6, 5), (4, 3), (4,)),
        {"lengths": lengths},
        lengths=lengths,
        window=window,
    )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_poisoned_padding_of_local_windows(poison):
    query, key, value, hidden_weight, vector = normal((2, 4, 3), (2, 6, 3), (2, 6, 5), (4, 3), (4,))
    key[1, 3:], value[1, 3:] = poison, poison
    for name, inputs in [
        ("local_m", (query, key, value)),
        ("local_p", (query, key, value, hidden_weight, vector)),
    ]:
        options = {"window": 2, "lengths": [6, 3]}
        output = getattr(reference, name)(*inputs, **options)
        gradients = getattr(reference, f"{name}_backward")(np.ones_like(output), *inputs, **options)
        assert all(np.isfinite(x).all() for x in (output, *gradients))


@pytest.mark.parametrize("name", ["local_m", "local_p"])
def test_the_weights_of_local_windows(name):
    query, key, value, hidden_weight, vector = normal((2, 4, 3), (2, 6, 3), (2, 6, 5), (4, 3), (4,))
    parameters = [] if name == "local_m" else [hidden_weight, vector]
    twin = getattr(reference, name)(query, key, value, *parameters, window=2, return_weights=True)
    layer = modules.LocalMonotonic(2)
    if parameters:
        layer = modules.LocalPredictive(3, 2, hidden_dim=4).double()
        layer.load_state_dict(
            {
                "hidden_proj.weight": torch.tensor(hidden_weight),
                "position_vector": torch.tensor(vector),
            }
        )
    seen = layer(*map(torch.tensor, (query, key, value)), return_weights=True)
    np.testing.assert_allclose(seen.weights.detach().numpy(), twin.weights, **TOLERANCE)
    np.testing.assert_allclose(seen.output.detach().numpy(), twin.output, **TOLERANCE)


WORDS = np.arange(4) < np.array([[4, 1, 0], [0, 0, 0]])[..., None]


@pytest.mark.parametrize("mask", [None, WORDS], ids=["no padding", "padding"])
def test_hierarchical(mask):
    layer = modules.HierarchicalAttention(5, hidden_dim=6)
    names = [
        f"{level}_{part}"
        for level in ("word", "sentence")
        for part in ("proj.weight", "proj.bias", "query")
    ]
    assert_is_twin(
        layer,
        names,
        "hierarchical",
        normal((2, 3, 4, 5), (6, 5), (6,), (6,), (6, 5), (6,), (6,)),
        {"mask": None if mask is None else torch.tensor(mask)},
        mask=mask,
    )


TABLE = np.array([[True, True, False, False], [False] * 4, [True] * 4])


@pytest.mark.parametrize("mask", [None, TABLE], ids=["no mask", "mask"])
@pytest.mark.parametrize("poison", [0.0, np.nan])
def test_hard_attention(mask, poison):
    arrays = normal((2, 3, 5), (2, 4, 5), (2, 4, 6))
    choice = np.array([[1, 2, 3], [0, 0, 2]])
    if mask is not None:
        choice[:, 1] = -1
        mask = mask & (np.arange(4) < 3)
        choice[:, 2] = 2
        arrays[1][:, 3], arrays[2][:, 3] = poison, poison
    tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
    seen = modules.HardAttention()(
        *tensors,
        mask=None if mask is None else torch.tensor(mask),
        choice=torch.tensor(choice),
    )
    twin = reference.hard_attention(*arrays, choice, mask=mask)
    for name in twin._fields:
        ours = getattr(seen, name).detach().numpy()
        np.testing.assert_allclose(ours, getattr(twin, name), **TOLERANCE)
    grads = reference.HardAttentionOutput(*normal((2, 3, 6), (2, 3), (2, 3), seed=7))
    loss = sum(
        (getattr(seen, name) * torch.tensor(getattr(grads, name))).sum() for name in twin._fields
    )
    loss.backward()
    expected = reference.hard_attention_backward(grads, *arrays, choice, mask=mask)
    for tensor, gradient in zip(tensors, expected, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, **TOLERANCE)


@pytest.mark.parametrize("baseline", [0.0, 1.5, np.array([[1.0], [2.0]])], ids=str)
@pytest.mark.parametrize("entropy_weight", [0.0, 0.2])
def test_reinforce_loss(baseline, entropy_weight):
    reward, log_prob, entropy = normal((2, 1), (2, 3), (2, 3))
    settings = {"baseline": baseline, "entropy_weight": entropy_weight}
    torch_baseline = torch.tensor(baseline) if isinstance(baseline, np.ndarray) else baseline
    tensors = [torch.tensor(x, requires_grad=True) for x in (reward, log_prob, entropy)]
    loss = modules.reinforce_loss(
        *tensors[:2], entropy=tensors[2], baseline=torch_baseline, entropy_weight=entropy_weight
    )
    twin = reference.reinforce_loss(reward, log_prob, entropy=entropy, **settings)
    np.testing.assert_allclose(loss.item(), twin, **TOLERANCE)
    (3 * loss).backward()
    grad_reward, *gradients = reference.reinforce_loss_backward(
        3.0, reward, log_prob, entropy=entropy, **settings
    )
    assert tensors[0].grad is None
    assert (grad_reward == 0).all()
    for tensor, gradient in zip(tensors[1:], gradients, strict=True):
        np.testing.assert_allclose(tensor.grad.numpy(), gradient, **TOLERANCE)
    assert reference.reinforce_loss_backward(1.0, reward, log_prob)[2] is None
