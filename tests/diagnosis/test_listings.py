"""Tools to read a listing with; and the documents' own: the crash, then what else can be seen."""

import ast

import nbformat
import pytest
import torch
from execute_notebooks import ROOT

from attn_core.diagnosis import diagnose
from attn_core.diagnosis.listings import excerpt, load, outcome, softmax_of

CHAPTER = ROOT / "chapters/code/listings_repaired.ipynb"


def listings():
    """The text that the chapter shows, by the name that it gives it: d0 to d4."""
    found = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                found[ast.unparse(node.targets[0])] = node.value.value
    return found


LISTINGS = listings()


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


LONG = f"        total = add({', '.join(['first', 'second', 'third'] * 5)})"
PRINTED = f"def f():\n    first = 1\n{LONG}\n    return first"


def test_an_excerpt_keeps_lines_as_printed_and_marks_the_gap():
    shown = excerpt(PRINTED, (2, 2), (4, 4))
    assert shown.splitlines() == ["first = 1", "# …", "return first"]
    assert excerpt(PRINTED, (1, 4), width=200) == PRINTED


@pytest.mark.parametrize("width", [40, 76])
def test_an_excerpt_fits_and_loses_no_character(width):
    shown = excerpt(PRINTED, (1, 4), width=width)
    assert max(map(len, shown.splitlines())) <= width
    assert "".join(shown.split()) == "".join(PRINTED.split())


def test_a_line_is_broken_before_its_comment_or_else_before_a_dot():
    comment = f"value = {'x' * 40}  # its shape is (batch, length)"
    assert excerpt(comment, (1, 1), width=60).splitlines()[1].strip().startswith("# its")
    chain = "value = " + ".".join(["permute()"] * 9)
    assert all(line.strip()[0] in "v." for line in excerpt(chain, (1, 1), width=40).splitlines())


@pytest.mark.parametrize("part", [(0, 1), (3, 2), (1, 5)])
def test_an_excerpt_outside_the_listing_is_refused(part):
    with pytest.raises(ValueError, match="4 lines"):
        excerpt(PRINTED, part)


def test_a_notebook_shows_an_excerpt_as_python():
    shown = excerpt("x = 1", (1, 1))
    assert shown._repr_markdown_() == "```python\nx = 1\n```"


def test_what_one_listing_defines_another_does_not_see():
    load("width = 3")
    with pytest.raises(NameError):
        load("print(width)")


def test_an_outcome_is_one_error_in_lines_that_fit():
    assert outcome(lambda: None) == "runs"
    assert outcome(lambda: {}["key"]) == "KeyError: 'key'"
    said = outcome(lambda: int("9" * 60 + " nine " + "9" * 60), width=50)
    assert said.startswith("ValueError: invalid literal")
    assert len(said.splitlines()) > 1

    def without_words():
        raise RuntimeError

    assert outcome(without_words) == "RuntimeError: without a message"


@pytest.mark.parametrize(
    "softmax",
    [
        lambda x: x.softmax(-1),
        lambda x: torch.softmax(x, -1),
        lambda x: torch.softmax(input=x, dim=-1),
        lambda x: torch.nn.functional.softmax(x, dim=-1),
        torch.nn.Softmax(dim=-1),
    ],
)
def test_a_softmax_is_seen_however_it_is_called(softmax):
    x = torch.randn(2, 3, requires_grad=True)
    seen = softmax_of(lambda x: softmax(2 * x).sum(), x)
    torch.testing.assert_close(seen.scores, 2 * x.detach())
    torch.testing.assert_close(seen.weights, (2 * x).softmax(-1).detach())
    assert not seen.weights.requires_grad


def test_the_last_softmax_is_kept_and_none_is_refused():
    seen = softmax_of(lambda x: (x.softmax(0), x.softmax(1)), torch.zeros(2, 4))
    assert seen.weights[0, 0] == 0.25
    with pytest.raises(ValueError, match="softmax"):
        softmax_of(torch.exp, torch.zeros(2))
