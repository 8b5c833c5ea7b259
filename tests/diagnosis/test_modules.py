"""Modules are judged from outside: each mistake planted in a layer, and named."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from attn_core.diagnosis import diagnose
from attn_core.modules import SelfAttention


class Layer(nn.Module):
    """Self-attention of one head, with a place for a mistake."""

    def __init__(self, dim=12):
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def scores(self, x):
        return self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5

    def forward(self, x):
        return self.scores(x).softmax(-1) @ self.value(x)


class Unused(Layer):
    def forward(self, x):
        return (x @ self.key(x).mT).softmax(-1) @ x


class Transposed(Layer):
    def forward(self, x):
        return self.scores(x).softmax(-2) @ self.value(x)


class Unnormalised(Layer):
    def forward(self, x):
        return torch.sigmoid(self.scores(x)) @ self.value(x)


class Symmetric(Layer):
    def scores(self, x):
        return self.query(x) @ self.query(x).mT / x.shape[-1] ** 0.5

    def forward(self, x):
        return (self.scores(x) + 0 * self.key(x).sum()).softmax(-1) @ self.value(x)


class Blind(Layer):
    """A linear score of the joined vectors: the query's part is the same for all keys."""

    def scores(self, x):
        return self.query(x)[..., :1] + self.key(x)[..., :1].mT


class OfOneElement(Layer):
    def forward(self, x):
        weights = self.scores(x).mean(-1)[:, :, None, None].softmax(-1)[:, :, 0]
        return weights * self.value(x), weights


class Dropping(Layer):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.2)


class InPlace(Layer):
    def forward(self, x):
        x += 1
        return super().forward(x)


class AcrossTheBatch(Layer):
    def forward(self, x):
        return super().forward(x.transpose(0, 1)).transpose(0, 1)


class PositionsOfTheBatch(Layer):
    def forward(self, x):
        return super().forward(x + torch.arange(len(x), dtype=x.dtype)[:, None, None])


class Positions(Layer):
    def forward(self, x):
        return super().forward(x + torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 5)


class Detached(Layer):
    def forward(self, x):
        return self.scores(x).softmax(-1).detach() @ self.value(x) + 0 * self.scores(x).sum()


class SinglePrecision(Layer):
    def forward(self, x):
        return super().forward(x + torch.zeros(x.shape[1], 1) @ torch.zeros(1, 12))

    def scores(self, x):
        return super().scores(x.float())


class CausalByHalves(Layer):
    """Each of the two halves of a sequence is causal, and the second sees all of the first."""

    def forward(self, x):
        length = x.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril()
        allowed[0, 1] = True
        return self.scores(x).masked_fill(~allowed, -torch.inf).softmax(-1) @ self.value(x)


class Masked(Layer):
    def forward(self, x, mask=None):
        scores = self.scores(x)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).nan_to_num() @ self.value(x)


class LeavesNaN(Layer):
    def forward(self, x, mask=None):
        scores = self.scores(x)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1) @ self.value(x)


class Leaking(Layer):
    def forward(self, x, mask=None):
        scores = self.scores(x)
        if mask is not None:
            scores = scores * mask
        return scores.softmax(-1) @ self.value(x)


class OfThree(Layer):
    def forward(self, query, key, value):
        scores = self.query(query) @ self.key(key).mT / query.shape[-1] ** 0.5
        return scores.softmax(-1) @ self.value(value)


class OfEqualLengths(OfThree):
    def forward(self, query, key, value):
        return super().forward(query, key, value.reshape(query.shape))


class OutOfOrder(OfThree):
    def forward(self, values, keys, queries):
        return super().forward(queries, keys, values)


class OutOfOrderAndOfEqualLengths(OfThree):
    def forward(self, values, keys, queries):
        return super().forward(queries, keys, values.reshape(queries.shape))


class Heads(nn.Module):
    """Several heads, split and joined right or by a view."""

    def __init__(self, heads=4, *, split=False, join=False, knows=None, kept=False):
        super().__init__()
        torch.manual_seed(0)
        self.projections = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.positions = nn.Parameter(torch.randn(64, 16))
        self.sizes = (heads, 16 // heads)
        self.split, self.join, self.knows = split, join, knows
        if kept:
            self.num_heads = heads

    def forward(self, x):
        batch, length, _ = x.shape
        heads, width = self.sizes
        if self.knows == "added":
            x = x + self.positions[:length]

        def split(x):
            if self.split:
                return x.view(batch, heads, length, width)
            return x.view(batch, length, heads, width).transpose(1, 2)

        query, key, value = (split(one(x)) for one in self.projections[:3])
        scores = query @ key.mT / width**0.5
        places = torch.arange(length)
        if self.knows == "distances":
            scores = scores - (places[:, None] - places).abs()
        if self.knows == "past":
            scores = scores.masked_fill(places > places[:, None], -torch.inf)
        output = scores.softmax(-1) @ value
        output = output if self.join else output.transpose(1, 2)
        return self.projections[3](output.reshape(batch, length, 16)) + 0 * self.positions.sum()


def names(report):
    assert report.trouble is None, str(report)
    return [one.name for one in report.mistakes]


@pytest.mark.parametrize(
    ("layer", "mistakes"),
    [
        (Layer, []),
        (Positions, []),
        (Masked, []),
        (OfThree, []),
        (Unused, ["parameters unused"]),
        (Transposed, ["weights over queries"]),
        (Unnormalised, ["weights do not sum to 1"]),
        (Symmetric, ["parameters unused", "symmetric scores"]),
        (OfOneElement, ["weights all 1"]),
        (Dropping, ["random in evaluation"]),
        (InPlace, ["changes its input"]),
        (OutOfOrder, []),
        (AcrossTheBatch, ["batch entries influence each other"]),
        (PositionsOfTheBatch, ["positions follow the batch"]),
        (Detached, ["parameters unused", "gradient wrong"]),
        (LeavesNaN, ["nothing to attend gives NaN"]),
        (Leaking, ["padding leaks"]),
        (OfEqualLengths, ["equal lengths needed"]),
    ],
)
def test_what_can_be_seen_from_outside_is_named(layer, mistakes):
    report = diagnose(layer())
    seen = names(report)
    assert set(mistakes) <= set(seen), str(report)
    if not mistakes:
        assert report, str(report)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("settings", "mistake"),
    [
        ({}, None),
        ({"knows": "distances"}, None),
        ({"knows": "past"}, None),
        ({"split": True}, "heads split by view"),
        ({"split": True, "heads": 2}, "heads split by view"),
        ({"split": True, "join": True}, "heads split by view"),
        ({"join": True}, "heads joined by view"),
        ({"join": True, "knows": "past"}, "heads joined by view"),
    ],
)
def test_heads_that_are_split_or_joined_by_view_are_named(settings, mistake, kept):
    report = diagnose(Heads(**settings, kept=kept))
    seen = names(report)
    assert [name for name in seen if name.startswith("heads")] == ([mistake] if mistake else [])
    assert report.untested == ()
    if mistake:
        assert f"{settings.get('heads', 4)} heads" in str(report)


@pytest.mark.parametrize("split", [True, False])
def test_of_added_positions_it_is_said_that_heads_cannot_be_told(split):
    report = diagnose(Heads(split=split, knows="added"))
    assert "nothing wrong was seen, but not all can be told" in str(report)
    assert "nothing wrong that can be seen" not in str(report)
    assert "heads" in report.untested[0]
    assert "cannot be told" in report.untested[0]
    assert report.as_data()["untested"] == list(report.untested)


@pytest.mark.parametrize("knows", ["distances", "past"])
def test_views_with_positions_are_never_said_to_be_right(knows):
    report = diagnose(Heads(split=True, knows=knows))
    assert not report or report.untested


def test_distances_are_positions():
    assert "knows positions" in str(diagnose(Heads(knows="distances")))


def test_names_of_arguments_tell_their_order():
    assert names(diagnose(OutOfOrderAndOfEqualLengths())) == ["equal lengths needed"]
    given = tuple(torch.randn(2, length, 12) for length in (7, 7, 5))
    assert names(diagnose(OutOfOrder(), inputs=given)) == []


def test_dropout_is_one_mistake():
    report = diagnose(Dropping())
    assert names(report) == ["random in evaluation"]
    assert "two calls" in report.untested[0]


class Gives(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.layer, self.given = nn.Linear(12, 12), given

    def forward(self, x):
        return self.given(self.layer(x))


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(12)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Gives(lambda x: x.detach().numpy()), "ndarray"),
        (Gives(lambda x: x.sum()), "shape ()"),
        (Gives(lambda x: x / 0), "NaN or infinity"),
        (Gives(lambda x: x * 1j), "no tensor of numbers"),
        (Gives(lambda x: x.to_sparse()), "no tensor of numbers"),
        (Gives(lambda x: {}), "no tensor"),
        (Gives(lambda x: sys.exit(3)), "SystemExit"),
        (Gives(lambda x: x.flatten(1)[:, : torch.randint(1, 9, ())]), ""),
        (Gives(lambda x: x.argmax(-1)), ""),
        (Lazy(), ""),
    ],
)
def test_whatever_a_module_returns_there_is_a_report(module, says):
    report = diagnose(module)
    assert says in str(report)
    assert "broke off" not in str(report)
    if says:
        assert report.trouble


@pytest.mark.filterwarnings("ignore")  # it is on its way out
def test_a_module_that_torchscript_has_compiled_is_judged():
    assert names(diagnose(torch.jit.script(Layer()))) == []


def test_a_module_made_in_inference_mode_has_gradients():
    with torch.inference_mode():
        assert names(diagnose(Layer())) == []


def test_a_query_that_does_not_matter_is_named():
    assert "query does not matter" in names(diagnose(Blind()))


def test_a_layer_that_is_meant_to_be_causal():
    assert names(diagnose(CausalByHalves(), causal=True)) == ["sees the future"]
    assert "token 1 changes the output at position 0" in str(
        diagnose(CausalByHalves(), causal=True)
    )


def test_a_layer_without_double_precision_is_judged_in_single():
    assert "needs float32" in names(diagnose(SinglePrecision()))


def test_the_module_stays_as_it_was():
    layer = Layer().train()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    diagnose(layer)
    assert layer.training
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in layer.parameters())


def test_inputs_that_cannot_be_guessed_can_be_given():
    class Odd(nn.Module):
        def forward(self, x):
            assert x.shape[-1] == 7
            return x.mean(1, keepdim=True).expand_as(x)

    assert "say inputs=" in str(diagnose(Odd()))
    assert diagnose(Odd(), inputs=(torch.randn(3, 6, 7),)).trouble is None


def test_positions_are_noticed():
    assert "knows no positions" in str(diagnose(Layer()))
    assert "knows positions" in str(diagnose(Positions()))
    assert "it is no attention" in str(diagnose(nn.Linear(12, 12)))


def test_weights_are_recovered_from_outputs_alone():
    from attn_core.diagnosis.calling import Budget
    from attn_core.diagnosis.module_checks import recovered_weights
    from attn_core.diagnosis.runner import runner_of

    torch.manual_seed(0)
    layer = SelfAttention(16).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    runner, _ = runner_of(layer, (x,), Budget(5))
    seen = recovered_weights(runner)
    torch.testing.assert_close(seen, layer(x, return_weights=True).weights.detach())


class CastsToSingle(nn.Module):
    """Takes double precision and returns single, as layers of Keras do."""

    def __init__(self):
        super().__init__()
        self.layer = Layer()

    def forward(self, x):
        return self.layer(x).float()


def test_an_output_in_single_precision_is_no_wrong_gradient():
    assert "gradient wrong" not in names(diagnose(CastsToSingle()))
