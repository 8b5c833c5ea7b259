"""FlexAttention gets its masks and biases from the same predicates; only once is it compiled."""

import pytest
import torch

from attn_core import attention, kernels, masks, positions
from attn_core.arguments import check_arguments
from attn_core.kernels import flex

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without")
LENGTH = 140  # more than one block of FlexAttention, which has 128 positions


def normal(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


MASKS = {
    "none": {},
    "causal": {"mask": masks.causal()},
    "window": {"mask": masks.window(9, 30)},
    "global tokens": {"mask": masks.window(9, 3) | masks.global_tokens(2)},
    "padding": {"mask": masks.padding([LENGTH, 5]) & masks.causal()},
    "nothing": {"mask": masks.padding([0, 0])},
    "documents": {"mask": masks.document(torch.arange(2 * LENGTH).reshape(2, -1) // 50)},
    "blocks of heads": {"mask": masks.block_sparse(torch.eye(14).repeat(4, 1, 1) > 0, 10)},
    "table": {"mask": normal((4, LENGTH, LENGTH), seed=3)[0] > 0.5},
    "offset": {"mask": masks.causal(), "q_offset": 7},
    "offset for each entry": {"mask": masks.window(5, 0), "q_offset": torch.tensor([0, -9])},
}
BIASES = {
    "none": {},
    "key": {"bias": normal((4, 1, LENGTH), seed=4)[0]},
    "query and key": {"bias": normal((2, 1, LENGTH, LENGTH), seed=4)[0]},
    "ALiBi": {"bias": positions.ALiBi(4).double()},
    "T5, softcap": {"bias": positions.T5Bias(4).double().requires_grad_(False), "softcap": 2.0},
}


@pytest.mark.parametrize(
    ("mask", "bias"),
    [
        *((mask, "none") for mask in MASKS),
        *(("causal", bias) for bias in BIASES),
        ("offset for each entry", "ALiBi"),
        ("offset", "T5, softcap"),
    ],
)
def test_it_gives_what_the_explicit_kernel_gives(mask, bias):
    tensors = normal((2, 4, LENGTH, 8), (2, 2, LENGTH, 8), (2, 2, LENGTH, 8))
    options = MASKS[mask] | BIASES[bias]
    with kernels.use("explicit"):
        expected = attention(*tensors, **options)
    with kernels.use("flex"):
        seen = attention(*tensors, **options)
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout_p": 0.1}, "dropout"),
        ({"bias": positions.ShawBias(4, max_distance=3)}, "reads query and key"),
        ({"bias": positions.T5Bias(2)}, "no backward on the CPU"),
        ({"normalizer": torch.softmax}, "normalizer"),
        ({"score": lambda q, k: q @ k.mT}, "score"),
    ],
    ids=["dropout", "content", "backward", "normalizer", "score"],
)
def test_what_it_cannot_do_it_refuses(options, says):
    x = torch.ones(1, 2, 5, 4)
    assert says in flex.refusal(check_arguments(x, x, x, **options))


def test_a_gradient_on_the_cpu_is_refused_and_not_lost():
    x = torch.ones(1, 2, 5, 4, requires_grad=True)
    with kernels.use("flex"):
        with pytest.raises(ValueError, match="no backward on the CPU"):
            attention(x, x, x)
        with torch.no_grad():
            assert attention(x, x, x).shape == x.shape


@pytest.mark.parametrize(
    ("mask", "q_offset"),
    [
        (masks.causal(), None),
        (masks.window(20, 0) & masks.padding([300, 7]), None),
        (masks.window(3, 3) | masks.global_tokens(1), 40),
        (masks.causal(), torch.tensor([0, 70])),
        (masks.block_sparse(torch.eye(30).repeat(2, 1, 1) > 0, 10), None),
    ],
    ids=str,
)
def test_a_block_mask_is_the_mask(mask, q_offset):
    from torch.nn.attention.flex_attention import create_mask

    q_len, k_len = (300, 300) if q_offset is None else (200, 300)
    block_mask = mask.block_mask(q_len, k_len, q_offset)
    table = mask.dense(q_len, k_len, q_offset)
    batch, heads = block_mask.shape[:2]
    pairs = create_mask(block_mask.mask_mod, batch, heads, q_len, k_len, device="cpu")
    assert torch.equal(pairs, table.expand(batch, heads, q_len, k_len))
    # A block is left out if and only if nothing in it is allowed.
    padded = torch.zeros(batch, heads, 384, 384, dtype=torch.bool)
    padded[:, :, :q_len, :k_len] = pairs
    blocks = padded.unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128)).any(-1).any(-2)
    kept = block_mask.to_dense() > 0
    assert torch.equal(kept, blocks[..., : kept.shape[-2], : kept.shape[-1]])


def test_a_block_mask_refuses_what_the_mask_does_not_fit():
    mask = masks.padding([3, 4])
    with pytest.raises(ValueError, match="batch is 2 in mask padding"):
        mask.block_mask(5, 5, batch=3)
    with pytest.raises(ValueError, match="q_offset"):
        masks.causal().block_mask(4, 5)
    with pytest.raises(ValueError, match="at least 4 keys"):
        mask.block_mask(2, 3)
    assert masks.causal().block_mask(5, 5, batch=2, heads=3).shape == (2, 3, 5, 5)


@pytest.mark.parametrize("q_offset", [None, 3, torch.tensor([0, -9])], ids=["none", "one", "many"])
def test_with_a_bias_it_compiles_to_one_graph(q_offset):
    """No number of an offset is read, and the kernel may be fixed inside of what is compiled."""
    torch._dynamo.reset()
    x, bias = normal((2, 4, 9, 8))[0], positions.ALiBi(4).double()

    @torch.compile(backend="eager", fullgraph=True)
    def call(x):
        with kernels.use("flex"):
            return attention(x, x, x, bias=bias, q_offset=q_offset)

    expected = attention(x, x, x, bias=bias, q_offset=q_offset)
    torch.testing.assert_close(call(x), expected, rtol=1e-10, atol=1e-10)
    assert kernels.which(x, x, x).kernel == "sdpa"


def test_it_can_be_compiled_with_what_stands_around_it():
    """Inside a compiled function it is one graph together with what stands around it."""
    query, key, value = normal((1, 2, 130, 8), (1, 2, 130, 8), (1, 2, 130, 8))
    compiled = torch.compile(
        lambda *x: 2 * attention(*x, softcap=3.0), backend="eager", fullgraph=True
    )
    with kernels.use("flex"):
        seen = compiled(query, key, value)
    expected = 2 * attention(query, key, value, softcap=3.0)
    torch.testing.assert_close(seen, expected, rtol=1e-10, atol=1e-10)


def test_code_for_a_length_that_fills_no_block_gives_the_numbers_of_attention():
    """No mask but a bias: PyTorch 2.13 alone generates code that gives NaN here."""
    inputs = normal(*[(1, 2, 200, 16)] * 3, dtype=torch.float32)
    bias = positions.ALiBi(2)

    @torch.compile
    def compiled(query, key, value):
        with kernels.use("flex"):
            return attention(query, key, value, bias=bias)

    with torch.no_grad():
        output = compiled(*inputs)
    torch.testing.assert_close(output, attention(*inputs, bias=bias))
