"""Modules are judged from outside: each mistake planted in a layer, and named."""

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
