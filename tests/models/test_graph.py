"""Graph attention: the neighbours of a node decide, and nobody else does."""

import numpy as np
import pytest
import torch
from test_twins import assert_twins, normal
from torch import nn

from attn_core import reference
from attn_core.attend import AttentionOutput
from attn_core.models.graph import GAT, GraphAttention

VERSIONS = [1, 2]
# Node 3 has no neighbour; nobody gathers from node 4.
EDGES = torch.tensor(
    [
        [0, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 1, 0],
    ]
).bool()


def make_layer(version, **options):
    torch.manual_seed(0)
    return GraphAttention(3, 4, heads=2, version=version, **options).double()


def nodes(*leading, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*leading, 5, 3, generator=generator, dtype=torch.float64)


def by_hand(layer, x, edges):
    """One node and one neighbour at a time, as equations 1 to 5 of the paper read."""
    width = layer.key_proj.out_features // layer.heads
    heads = []
    for head in range(layer.heads):
        rows = slice(head * width, (head + 1) * width)
        query = x @ layer.query_proj.weight[rows].T
        key = x @ layer.key_proj.weight[rows].T
        outputs = []
        for i in range(len(x)):
            neighbours = [j for j in range(len(x)) if edges[i, j]]
            scores = []
            for j in neighbours:
                if layer.version == 1:
                    total = layer.query_vector[head] @ query[i] + layer.key_vector[head] @ key[j]
                    scores.append(total if total > 0 else 0.2 * total)
                else:
                    pair = query[i] + key[j]
                    scores.append(
                        layer.score_vector[head] @ torch.where(pair > 0, pair, 0.2 * pair)
                    )
            output = torch.zeros(width, dtype=x.dtype)
            if neighbours:
                powers = torch.stack(scores).exp()
                for power, j in zip(powers / powers.sum(), neighbours, strict=True):
                    output = output + power * key[j]
            outputs.append(output)
        heads.append(torch.stack(outputs))
    return heads


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("self_loops", [False, True])
def test_a_node_gathers_from_its_neighbours_as_the_equations_say(version, self_loops):
    layer, x = make_layer(version, self_loops=self_loops), nodes()
    edges = EDGES | torch.eye(5, dtype=torch.bool) if self_loops else EDGES
    heads = by_hand(layer, x, edges)
    torch.testing.assert_close(layer(x, EDGES), torch.cat(heads, dim=-1))
    layer.concat = False
    torch.testing.assert_close(layer(x, EDGES), torch.stack(heads).mean(0))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_torch_and_numpy_agree_forward_and_backward(version, leading):
    shapes = [(*leading, 5, 3)] + [(2, 4, 3)] * version + [(2, 4)] * (3 - version)
    layer = make_layer(version, self_loops=False)
    names = {
        1: ["key_proj.weight", "query_vector", "key_vector"],
        2: ["query_proj.weight", "key_proj.weight", "score_vector"],
    }[version]
    suffix = {1: "", 2: "_v2"}[version]

    def call(x, *parameters):
        given = {
            name: value.flatten(0, 1) if "weight" in name else value
            for name, value in zip(names, parameters, strict=True)
        }
        return torch.func.functional_call(layer, given, (x, EDGES))

    def twin(x, *parameters):
        return getattr(reference, f"graph_attention{suffix}")(x, EDGES.numpy(), *parameters)

    def backward(grad, x, *parameters):
        function = getattr(reference, f"graph_attention{suffix}_backward")
        return function(grad, x, EDGES.numpy(), *parameters)

    assert_twins(call, twin, backward, normal(*shapes))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_gradient_is_that_of_finite_differences(version):
    layer = make_layer(version)
    x = nodes().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, EDGES), [x])


@pytest.mark.parametrize("version", VERSIONS)
def test_weights_sum_to_one_over_neighbours_and_are_zero_elsewhere(version):
    layer, x = make_layer(version), nodes(2)
    output, weights = layer(x, EDGES, return_weights=True)
    assert weights.shape == (2, 2, 5, 5)
    edges = EDGES | torch.eye(5, dtype=torch.bool)
    assert (weights[..., ~edges] == 0).all()
    assert (weights[..., edges] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5, dtype=torch.float64))
    assert torch.equal(output, layer(x, EDGES))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_without_neighbours_gives_zeros_or_itself(version):
    x = nodes()
    layer = make_layer(version, self_loops=False)
    result = layer(x.requires_grad_(), EDGES, return_weights=True)
    assert isinstance(result, AttentionOutput)
    assert (result.output[3] == 0).all()
    assert (result.weights[:, 3] == 0).all()
    (gradient,) = torch.autograd.grad(result.output[3].sum(), x)
    assert (gradient == 0).all()
    with_loops = make_layer(version, self_loops=True)
    torch.testing.assert_close(with_loops(x, EDGES)[3], with_loops.key_proj(x[3]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("self_loops", [False, True])
def test_who_is_no_neighbour_does_not_change_a_bit(version, self_loops):
    layer, x = make_layer(version, self_loops=self_loops), nodes()
    before = layer(x, EDGES)
    for changed in range(5):
        other = x.clone()
        other[changed] += 3.0
        after = layer(other, EDGES)
        # In version 2 the node that asks has a say in its own scores even without a loop.
        is_touched = EDGES[:, changed] | (torch.arange(5) == changed)
        assert torch.equal(after[~is_touched], before[~is_touched])
        gathers = EDGES[:, changed] & EDGES.any(-1)
        assert not (after[gathers] == before[gathers]).all(-1).any()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_poison_in_a_node_that_nobody_gathers_from_reaches_nobody(version, poison):
    layer, x = make_layer(version, self_loops=False), nodes()
    edges = EDGES.clone()
    edges[4] = False  # nor does node 4 itself gather: padding
    parameters = list(layer.parameters())
    results = []
    for value in (0.5, poison):
        x[4] = value
        output = layer(x, edges)
        results.append([output, *torch.autograd.grad(output.sum(), parameters)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.isfinite(results[1][0]).all()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("make", ["layer", "model"])
def test_renaming_the_nodes_renames_the_outputs(version, make):
    torch.manual_seed(0)
    model = (
        make_layer(version)
        if make == "layer"
        else GAT(3, 4, classes=2, heads=2, out_heads=3, version=version).double()
    )
    x, order = nodes(), torch.tensor([3, 0, 4, 2, 1])
    renamed = model(x[order], EDGES[order][:, order])
    torch.testing.assert_close(renamed, model(x, EDGES)[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_graphs_of_a_batch_do_not_see_each_other(version):
    layer, x = make_layer(version), nodes(3)
    edges = torch.stack([EDGES, EDGES.T, torch.zeros_like(EDGES)])
    together = layer(x, edges)
    for i in range(3):
        torch.testing.assert_close(together[i], layer(x[i], edges[i]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("version", VERSIONS)
def test_more_nodes_without_edges_change_nothing(version):
    layer, x = make_layer(version), nodes()
    more = torch.cat([x, 9 * nodes(seed=2)])
    edges = nn.functional.pad(EDGES, (0, 5, 0, 5))
    torch.testing.assert_close(layer(more, edges)[:5], layer(x, EDGES), rtol=1e-12, atol=1e-12)


def test_version_1_ranks_the_neighbours_alike_for_everyone_and_version_2_does_not():
    """Theorem 1 of Brody et al.: what LeakyReLU does to a sum keeps the order of its terms."""
    x = nodes()
    everyone = torch.ones(5, 5, dtype=torch.bool)
    _, static = make_layer(1)(x, everyone, return_weights=True)
    _, dynamic = make_layer(2)(3 * x, everyone, return_weights=True)
    assert (static.argsort(-1) == static.argsort(-1)[:, :1]).all()
    assert not (dynamic.argsort(-1) == dynamic.argsort(-1)[:, :1]).all()


@pytest.mark.parametrize("version", VERSIONS)
def test_dropout_is_for_training(version):
    torch.manual_seed(0)
    model = GAT(3, 4, classes=2, heads=2, version=version, dropout=0.5).double()
    x = nodes()
    assert not torch.equal(model(x, EDGES), model(x, EDGES))
    model.eval()
    assert torch.equal(model(x, EDGES), model(x, EDGES))
    layer = make_layer(version, dropout=0.5)
    output, weights = layer(x, EDGES, return_weights=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    assert not torch.equal(output, layer.eval()(x, EDGES))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_parameter_gets_a_gradient(version):
    torch.manual_seed(0)
    model = GAT(3, 4, classes=2, heads=2, version=version).double()
    model(nodes(), EDGES).square().sum().backward()
    names = {
        1: {"key_proj.weight", "query_vector", "key_vector"},
        2: {"query_proj.weight", "key_proj.weight", "score_vector"},
    }[version]
    seen = {name for name, p in model.named_parameters() if p.grad.abs().sum() > 0}
    assert seen == {f"{layer}.{name}" for layer in ("hidden", "output") for name in names}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_twice_as_far_off_as_the_plain_formula_at_most(version, dtype):
    layer = make_layer(version)
    x = nodes(40)
    edges = EDGES | torch.eye(5, dtype=torch.bool)
    rounded = GraphAttention(3, 4, heads=2, version=version).to(dtype)
    rounded.load_state_dict(layer.state_dict())
    layer.load_state_dict(rounded.state_dict())
    x = x.to(dtype).double()

    def plain(layer, x):
        query, key = (
            (x @ p.weight.T).unflatten(-1, (2, 4)).transpose(-3, -2)
            for p in (layer.query_proj, layer.key_proj)
        )
        if version == 1:
            rows = torch.einsum("...hnd,hd->...hn", query, layer.query_vector)
            columns = torch.einsum("...hnd,hd->...hn", key, layer.key_vector)
            scores = nn.functional.leaky_relu(rows[..., None] + columns[..., None, :], 0.2)
        else:
            pairs = nn.functional.leaky_relu(query[..., None, :] + key[..., None, :, :], 0.2)
            scores = torch.einsum("...hnmd,hd->...hnm", pairs, layer.score_vector)
        weights = scores.masked_fill(~edges, -torch.inf).softmax(-1)
        return (weights @ key).transpose(-3, -2).flatten(-2)

    exact = plain(layer, x)
    torch.testing.assert_close(layer(x, EDGES), exact)
    ours = (rounded(x.to(dtype), EDGES).double() - exact).abs().max()
    theirs = (plain(rounded, x.to(dtype)).double() - exact).abs().max()
    assert 0 < ours <= 2 * theirs


def fit(model, x, edges, labels, is_scored, steps):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(x, edges)[..., is_scored, :]
        nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()).backward()
        optimizer.step()


@pytest.mark.parametrize("version", VERSIONS)
def test_it_learns_classes_that_only_the_neighbours_show(version):
    """Every node says little of its class, but its neighbours are mostly of the same one."""
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 3, 120))
    alike = labels[:, None] == labels
    edges = torch.tensor(rng.random((120, 120))) < torch.where(alike, 0.12, 0.01)
    edges = edges | edges.T
    x = nn.functional.one_hot(labels, 3) + 2.0 * torch.tensor(rng.normal(size=(120, 3)))
    x = x.float()
    is_trained = torch.arange(120) < 60
    accuracy = {}
    for name, seen in (("neighbours", edges), ("alone", torch.zeros_like(edges))):
        torch.manual_seed(0)
        model = GAT(3, 8, classes=3, heads=4, version=version, dropout=0.3)
        fit(model, x, seen, labels[is_trained], is_trained, steps=80)
        right = model.eval()(x, seen).argmax(-1) == labels
        accuracy[name] = right[~is_trained].double().mean()
    assert accuracy["neighbours"] > 0.85
    assert accuracy["alone"] < 0.7


def test_version_2_looks_up_a_dictionary_which_version_1_cannot():
    """Section 4.1 of Brody et al.: each of the askers needs another one of the same neighbours."""
    size = 8
    edges = torch.zeros(2 * size, 2 * size, dtype=torch.bool)
    edges[:size, size:] = True  # the first nodes ask the others
    accuracy = {}
    for version in VERSIONS:
        torch.manual_seed(0)
        values = torch.stack([torch.randperm(size) for _ in range(64)])
        keys = torch.eye(size).expand(64, size, size)
        held = nn.functional.one_hot(values, size)
        x = torch.cat(
            [
                torch.cat([keys, torch.zeros(64, size, size)], dim=-1),
                torch.cat([keys, held], dim=-1),
            ],
            dim=1,
        )
        layer = GraphAttention(2 * size, 24, version=version, self_loops=False)
        model = nn.ModuleList([layer, nn.Linear(24, size)])
        model.forward = lambda x, edges, m=model: m[1](m[0](x, edges))
        is_asker = torch.arange(2 * size) < size
        fit(model, x[:48], edges, values[:48], is_asker, steps=350)
        answers = model(x[48:], edges)[:, :size].argmax(-1)
        accuracy[version] = (answers == values[48:]).double().mean()
    assert accuracy[2] > 0.9
    assert accuracy[1] < 0.4
