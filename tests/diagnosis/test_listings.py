"""The documents' listings, as printed: the crash first, then every mistake that can be seen."""

import ast
from types import SimpleNamespace

import nbformat
import pytest
import torch
from execute_notebooks import ROOT

from attn_core.diagnosis import diagnose

CHAPTER = ROOT / "chapters/code/listings_repaired.ipynb"


def listings():
    """The text that the chapter shows, by the name that it gives it: d0 to d4."""
    found = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.parse(cell.source).body:
            is_shown = (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and getattr(node.value.func, "id", None) == "show"
                and isinstance(node.value.args[0], ast.Constant)
            )
            if is_shown:
                found[node.targets[0].id] = node.value.args[0].value
    return found


LISTINGS = listings()


def load(source):
    names = {}
    exec(compile(source, "listing", "exec"), names)
    return SimpleNamespace(**names)


def names(report):
    assert report.trouble is None, str(report)
    return {one.name for one in report.mistakes}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_all_five_are_there():
    assert set(LISTINGS) >= {"d0", "d1", "d2", "d3", "d4"}


def test_d0_pooling_takes_no_mask():
    report = diagnose(load(LISTINGS["d0"]).Attention(16))
    assert report
    assert "takes no mask" in str(report)


def test_d0_self_attention_has_symmetric_scores():
    report = diagnose(load(LISTINGS["d0"]).SelfAttention(16))
    assert names(report) == {"symmetric scores"}
    assert "no projection of values" in str(report)


def test_d1_crashes_and_then_has_every_mistake_at_once():
    printed = diagnose(load(LISTINGS["d1"]).Attention(32, 4))
    assert "RuntimeError: batch1 must be a 3D tensor" in str(printed)
    mended = LISTINGS["d1"].replace("torch.bmm", "torch.matmul")
    report = diagnose(load(mended).Attention(32, 4))
    assert names(report) == {
        "scale not rooted",
        "softmax over queries",
        "heads joined by view",
        "parameters unused",
    }
    assert report.others == ()
    assert "only as many keys as queries" in str(report)
    assert "query_linear.weight" in str(report)


def test_d2_crashes_and_is_attention_without_a_mask():
    printed = diagnose(load(LISTINGS["d2"]).Attention(16))
    assert "NameError: name 'math' is not defined" in str(printed)
    report = diagnose(load("import math\n" + LISTINGS["d2"]).Attention(16))
    assert report
    assert "takes no mask" in str(report)


def test_d3_in_pytorch_normalises_over_queries():
    """As the chapter carries it over: Keras with PyTorch underneath, or PyTorch itself."""
    q, k, v = (0.3 * torch.randn(16, 8, dtype=torch.float64) for _ in range(3))

    def with_axis(axis):
        class SelfAttentionLayer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.kernels = torch.nn.ParameterList([q, k, v])

            def forward(self, inputs):
                query, key, value = (inputs @ kernel for kernel in self.kernels)
                scores = query @ key.mT / key.shape[-1] ** 0.5
                return scores.softmax(axis) @ value

        return SelfAttentionLayer()

    assert "axis=1" in LISTINGS["d3"]
    assert names(diagnose(with_axis(1))) == {"weights over queries"}
    assert diagnose(with_axis(-1))


def test_d4_cannot_be_read_and_then_cannot_be_run():
    with pytest.raises(SyntaxError):
        load(LISTINGS["d4"])
    dotted = load(LISTINGS["d4"].replace("self Attention", "self.Attention"))
    report = diagnose(dotted.Model(50, 16, 16))
    assert "RuntimeError: Sizes of tensors must match" in str(report)


def test_d4_with_its_sizes_mended_has_weights_that_are_all_1():
    mended = LISTINGS["d4"].replace("self Attention", "self.Attention")
    mended = mended.replace("nn.Linear(embedding_dim, 1)", "nn.Linear(2 * embedding_dim, 1)")
    layer = load(mended).Attention(1)
    x = torch.randn(5, 1)
    report = diagnose(layer, inputs=(x, x))
    assert "weights all 1" in names(report)


def test_d4_positions_follow_the_batch():
    dotted = load(LISTINGS["d4"].replace("self Attention", "self.Attention"))
    assert names(diagnose(dotted.PositionalEncoding(16))) == {"positions follow the batch"}
