"""Whatever a function does, its author gets a report in words, and never a traceback of ours."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import planted
from refusals import assert_refuses
from torch.nn import functional

from attn_core.diagnosis import CATALOGUE, diagnose
from attn_core.testing import check_attention


def right(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value)


def softmax(scores, axis=-1):
    powers = np.exp(scores - scores.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def crashes(query, key, value):
    raise KeyError("weights")


def crashes_without_words(query, key, value):
    raise ValueError


def returns_nothing(query, key, value):
    """It forgets to return."""


def returns_text(query, key, value):
    return "attention"


def returns_one_number(query, key, value):
    return value.sum()


def drops_a_dimension(query, key, value):
    return right(query, key, value).sum(-1)


def changes_query(query, key, value):
    query *= 2
    return right(query / 2, key, value)


def is_slow(query, key, value):
    time.sleep(60)


def is_random(query, key, value):
    return right(query, key, value) + torch.rand(())


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (crashes, ["KeyError", "weights"]),
        (crashes_without_words, ["ValueError", "without a message"]),
        (returns_nothing, ["NoneType", "no array"]),
        (returns_text, ["str", "no array"]),
        (returns_one_number, ["shape ()", "expected"]),
        (drops_a_dimension, ["shape", "expected", "value"]),
        (changes_query, ["changes its input query"]),
        (is_random, ["different outputs"]),
        (lambda query: query, ["TypeError", "argument"]),
    ],
)
def test_trouble_is_told_in_words(function, says):
    report = diagnose(function, backend="torch")
    assert not report
    assert report.trouble is not None
    for part in says:
        assert part in str(report)
    json.dumps(report.as_data())


def test_a_function_that_waits_too_long_is_stopped():
    begin = time.monotonic()
    report = diagnose(is_slow, seconds=0.05)
    assert time.monotonic() - begin < 10
    assert "waits too long: more than 0.5 seconds" in str(report)


def test_a_function_that_computes_too_long_is_stopped_though_it_catches_exceptions():
    def attention(query, key, value):
        while True:
            try:
                query = query + 1
            except Exception:
                continue

    assert "takes too long: more than 0.2 seconds" in str(diagnose(attention, seconds=0.2))


def test_a_busy_machine_makes_no_function_slow(monkeypatch):
    """The clock on the wall runs eight times as fast as the processor works for us."""
    clock = time.process_time
    monkeypatch.setattr(time, "monotonic", lambda: 8 * clock())
    computed = []

    def attention(query, key, value):
        begin = clock()
        while clock() - begin < 0.005:
            pass
        computed.append(clock() - begin)
        return right(query, key, value)

    assert diagnose(attention, layout="BHLD", seconds=2), sum(computed)
    assert 8 * sum(computed) > 2


def test_a_diagnosis_leaves_the_alarm_of_others_alone():
    import signal

    before = signal.getsignal(signal.SIGALRM)
    diagnose(right)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_that_is_always_on_is_named_beside_another_mistake(share):
    def attention(query, key, value):
        weights = (query @ key.mT).softmax(-1)
        return functional.dropout(weights, share) @ value

    torch.manual_seed(0)
    report = diagnose(attention, layout="BHLD")
    assert [one.name for one in report.mistakes] == ["dropout always on", "scale missing"]
    assert f"{share:.0%}" in str(report)


def test_a_softmax_that_overflows_is_named():
    def attention(query, key, value):
        powers = np.exp(query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5)
        return powers / powers.sum(-1, keepdims=True) @ value

    with np.errstate(all="ignore"):
        report = diagnose(attention, backend="numpy")
    assert [one.name for one in report.mistakes] == ["softmax overflows"]


def test_a_mask_that_overflows_in_half_precision_is_named():
    def attention(query, key, value, mask=None):
        scores = query @ key.mT / query.shape[-1] ** 0.5
        if mask is not None:
            hidden = torch.tensor(-1e9).to(scores.dtype)  # −∞ in half precision, and −∞ · 0 is NaN
            scores = scores + hidden * (~mask)
        return scores.softmax(-1) @ value

    report = diagnose(attention, layout="BHLD", masked_rows=False)
    assert [one.name for one in report.mistakes] == ["half precision overflows"]


def test_a_cast_to_half_precision_is_named():
    def attention(query, key, value):
        return right(query.half(), key.half(), value.half()).to(query.dtype)

    assert [one.name for one in diagnose(attention).mistakes] == ["computed in half precision"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("part", ["scores", "weights", "value"])
def test_a_cast_of_one_step_is_named(dtype, part):
    def attention(query, key, value):
        scores = query @ key.mT / query.shape[-1] ** 0.5
        if part == "scores":
            scores = scores.to(dtype).to(query.dtype)
        weights = scores.softmax(-1)
        if part == "weights":
            weights = weights.to(dtype).to(query.dtype)
        if part == "value":
            value = value.to(dtype).to(query.dtype)
        return weights @ value

    assert [one.name for one in diagnose(attention).mistakes] == ["computed in half precision"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_that_is_nearly_right_is_no_rounding(dtype):
    def attention(query, key, value):
        scores = (query / (1.01 * query.shape[-1] ** 0.5)).to(dtype) @ key.mT.to(dtype)
        return scores.softmax(-1) @ value.to(dtype)

    report = diagnose(attention)
    assert report.is_unexplained
    assert report.mistakes == ()


@pytest.mark.parametrize("cut", ["query", "value"])
def test_a_gradient_that_is_cut_is_named(cut):
    def attention(query, key, value):
        query = query.detach() if cut == "query" else query
        return right(query, key, value.data if cut == "value" else value)

    assert [one.name for one in diagnose(attention).mistakes] == ["gradient cut"]


def test_returned_weights_are_looked_at():
    def attention(query, key, value):
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        return weights @ value, weights

    report = diagnose(attention)
    assert report, str(report)

    def wrong(query, key, value):
        output, weights = attention(query, key, value)
        return output, 2 * weights

    def turned(query, key, value):
        assert query.shape == key.shape
        output, weights = attention(query, key, value)
        return output, weights.mT

    assert [one.name for one in diagnose(wrong).mistakes] == ["returned weights differ"]
    assert [one.name for one in diagnose(turned).mistakes] == ["returned weights transposed"]


@pytest.mark.parametrize("layout", ["BHLD", "BLHD", "BLD", "LBD", "LD"])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_every_layout_is_understood(layout, library):
    turned = {"BLHD": (1, 2), "LBD": (0, 1)}.get(layout)

    def attention(query, key, value):
        assert query.ndim == len(layout)
        if library == "numpy":
            query, key, value = map(torch.from_numpy, (query, key, value))
        if turned:
            query, key, value = (x.transpose(*turned) for x in (query, key, value))
        output = (query @ key.mT / query.shape[-1]).softmax(-1) @ value
        output = output.transpose(*turned) if turned else output
        return output.numpy() if library == "numpy" else output

    report = diagnose(attention, layout=layout, backend=library)
    assert [one.name for one in report.mistakes] == ["scale not rooted"]


def test_the_layout_is_found_by_trying():
    def of_matrices(query, key, value):
        return softmax(query @ key.T / query.shape[1] ** 0.5) @ value

    report = diagnose(of_matrices)
    assert report
    assert report.convention.layout == "LD"
    assert report.convention.backend == "numpy"


@pytest.mark.parametrize("means", ["allowed", "hidden", "additive"])
def test_a_mask_means_what_it_is_said_to_mean(means):
    def attention(query, key, value, mask):
        scores = query @ key.mT / query.shape[-1] ** 0.5
        if means == "additive":
            scores = scores + mask
        else:
            scores = scores.masked_fill(mask if means == "hidden" else ~mask, -torch.inf)
        return scores.softmax(-1).nan_to_num() @ value

    assert diagnose(attention, mask_means=means)
    if means == "hidden":
        (mistake,) = diagnose(attention, layout="BHLD").mistakes
        assert mistake.name == "mask inverted"


def test_a_function_that_is_meant_to_be_causal():
    def attention(query, key, value):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    assert diagnose(attention, causal=True)
    assert [one.name for one in diagnose(attention).mistakes] == ["causal unasked"]
    assert [one.name for one in diagnose(right, causal=True).mistakes] == ["causal ignored"]


def test_the_smallest_example_is_small_and_wrong():
    report = diagnose(planted("softmax over queries"), layout="LD")
    case = report.example.case
    assert case.query.size + case.key.size <= 4
    assert not np.allclose(report.example.expected.output, report.example.seen.output)
    assert "Smallest example: query [[" in str(report)


def test_what_no_mistake_explains_is_told_by_its_properties():
    def attention(query, key, value):
        return value.mean(-2, keepdim=True) * torch.ones_like(query[..., :1]) + key.mean()

    report = diagnose(attention, layout="LD")
    assert report.is_unexplained
    said = " ".join(one.says for one in report.broken)
    assert "do not sum to 1" in said
    assert "query does not matter" in said
    assert all(one.example for one in report.broken)


HEADS = "(batch, heads, length, width)"
SENTENCES = "(batch, length, width)"
MATRICES = "(length, width)"


@pytest.mark.parametrize("library", ["torch", "numpy"])
@pytest.mark.parametrize(
    ("dim", "mistake", "elsewhere"),
    [
        (-1, None, {}),
        (2, "softmax over queries", {SENTENCES: "is attention"}),
        (1, "softmax over heads", {SENTENCES: "over queries", MATRICES: "is attention"}),
    ],
)
def test_an_axis_counted_from_the_front_is_judged_with_all_dimensions_that_it_takes(
    dim, mistake, elsewhere, library
):
    def attention(query, key, value):
        scores = query @ key.swapaxes(-1, -2) / query.shape[-1] ** 0.5
        return (scores.softmax(dim) if library == "torch" else softmax(scores, dim)) @ value

    report = diagnose(attention, backend=library)
    assert [one.name for one in report.mistakes] == ([mistake] if mistake else [])
    assert bool(report) == (mistake is None)
    if mistake:
        assert report.convention.layout == "BHLD"
    assert len(report.notes) == len(elsewhere)
    for note, (inputs, says) in zip(report.notes, elsewhere.items(), strict=True):
        assert inputs in note.partition(" as well")[0]
        assert says in note
        assert "layout=" in note
    for layout, axis in {"BHLD": 3, "BLD": 2, "LD": 1}.items():
        alone = diagnose(attention, layout=layout, backend=library)
        assert bool(alone) == (dim in (-1, axis))
        assert alone.notes == ()


def test_a_mistake_that_all_dimensions_have_is_told_once():
    def attention(query, key, value):
        return (query @ key.mT).softmax(2) @ value

    report = diagnose(attention)
    names = [one.name for one in report.mistakes]
    assert names == ["scale missing", "softmax over queries"]
    assert [SENTENCES in note for note in report.notes] == [True]
    assert "divided" in report.notes[0]
    assert diagnose(lambda query, key, value: (query @ key.mT).softmax(-1) @ value).notes == ()


def test_an_attention_of_heads_that_takes_less_by_chance_is_not_accused():
    """With (batch, L, width) it attends features, where L = S; with (B, L, H, D), heads."""

    def attention(query, key, value):
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        return (weights @ value).transpose(1, 2)

    report = diagnose(attention)
    assert report, str(report)
    assert report.convention.layout == "BLHD"
    assert report.notes == ()


def looped(query, key, value):
    """Numbers only, and a new array: it takes arrays and tensors alike."""
    output = np.zeros((len(query), value.shape[1]))
    for i in range(len(query)):
        pairs = [zip(query[i], key[j], strict=True) for j in range(len(key))]
        scores = [sum(float(q) * float(k) for q, k in pair) for pair in pairs]
        largest = max(scores)
        powers = [math.exp((s - largest) / query.shape[1] ** 0.5) for s in scores]
        for j, power in enumerate(powers):
            for d in range(value.shape[1]):
                output[i, d] += power / sum(powers) * float(value[j, d])
    return output


@pytest.mark.parametrize(
    "asked", [{}, {"layout": "LD"}, {"backend": "numpy"}, {"backend": "torch"}]
)
def test_a_loop_over_numbers_is_judged_by_its_output(asked):
    assert diagnose(looped, **asked)


def test_a_function_runs_on_one_thread_and_leaves_the_others():
    seen = set()

    def attention(query, key, value):
        seen.add(torch.get_num_threads())
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert diagnose(attention)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_squared_weights_are_not_accused_of_reading_nothing():
    """In small cases all values may be equal, or the output NaN: neither shows anything."""

    def attention(query, key, value):
        powers = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).exp() ** 2
        powers = powers.masked_fill(powers == 1, torch.nan)
        return powers / powers.sum(-1, keepdim=True) @ value

    report = diagnose(attention, layout="LD")
    assert report.is_unexplained
    assert report.broken == ()


def test_mistakes_that_look_the_same_are_both_told():
    """With as many heads as a head is wide, 1/d is the scale of all heads together."""
    report = diagnose(planted("scale not rooted"), layout="BHLD", width=4)
    names = [[one.name for one in other] for other in [report.mistakes, *report.others]]
    assert sorted(names) == [["scale by model width"], ["scale not rooted"]]
    assert "From outside this looks the same" in str(report)


def test_a_report_is_text_html_and_data():
    report = diagnose(planted("scale missing", "softmax over queries"), layout="BHLD")
    assert "with these mistakes:" in str(report)
    html = report._repr_html_()
    assert "<svg" in html
    assert "aria-label" in html
    assert "no mistakes" not in html
    data = report.as_data()
    assert data["mistakes"] == ["scale missing", "softmax over queries"]
    assert data["ok"] is False
    assert json.loads(json.dumps(data)) == data
    assert "<svg" not in diagnose(right)._repr_html_()


@pytest.mark.parametrize("mistake", CATALOGUE, ids=lambda mistake: mistake.name)
def test_every_mistake_of_the_catalogue_is_described(mistake):
    for text in (mistake.name, mistake.says, mistake.formula, mistake.shows, mistake.seen):
        assert text
    assert not mistake.says.endswith(".")


def test_the_names_of_the_catalogue_are_different():
    assert len({mistake.name for mistake in CATALOGUE}) == len(CATALOGUE)


def test_check_attention_fails_with_the_words_of_the_report():
    check_attention(right)
    with pytest.raises(AssertionError, match="divided by d, not by its square root"):
        check_attention(planted("scale not rooted"), layout="BHLD")


def run_on(target, *options, at):
    command = [sys.executable, "-m", "attn_core.diagnosis", target, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=at)


def test_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def right(query, key, value):\n"
        "    return torch.nn.functional.scaled_dot_product_attention(query, key, value)\n"
        "def wrong(query, key, value):\n"
        "    return (query @ key.mT).softmax(-1) @ value\n"
        "def crashes(query, key, value):\n"
        "    raise KeyError('x')\n"
    )
    seen = {
        target: run_on(target, at=tmp_path)
        for target in ("mine:right", "mine:wrong", "mine:crashes", "mine:missing", "mine")
    }
    assert [run.returncode for run in seen.values()] == [0, 1, 2, 2, 2]
    assert "scores are not divided by √d" in seen["mine:wrong"].stdout
    assert "KeyError" in seen["mine:crashes"].stdout
    assert "missing" in seen["mine:missing"].stderr
    assert "module:function" in seen["mine"].stderr
    assert all("Traceback" not in run.stdout + run.stderr for run in seen.values())


REFUSED = {
    "no function": (lambda: diagnose(3), TypeError, ["function", "int"]),
    "layout": (lambda: diagnose(right, layout="DLHB"), ValueError, ["layout", "'DLHB'", "BHLD"]),
    "backend": (lambda: diagnose(right, backend="jax"), ValueError, ["backend", "'jax'"]),
    "mask_means": (lambda: diagnose(right, mask_means="x"), ValueError, ["mask_means", "'x'"]),
    "seconds": (lambda: diagnose(right, seconds=0), ValueError, ["seconds", "0"]),
    "check": (lambda: check_attention(None), TypeError, ["function", "NoneType"]),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(call, error, says):
    assert_refuses(call, error, says)


def test_diagnosis_of_arrays_needs_no_torch():
    code = (
        "import sys, numpy as np\n"
        "from attn_core.diagnosis import diagnose\n"
        "import attn_core.reference as reference\n"
        "assert diagnose(reference.attention, backend='numpy', layout='BHLD')\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.returncode == 0, run.stderr


def test_a_numpy_function_is_judged_where_there_is_no_torch():
    """As in the pages of the book, where Python runs in the browser."""
    program = """
import sys
sys.modules["torch"] = None  # every import of it fails
import numpy as np
from attn_core import diagnose
def mine(query, key, value):
    scores = query @ key.swapaxes(-1, -2) / query.shape[-1]
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ value
print(*(mistake.name for mistake in diagnose(mine).mistakes), sep=", ")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "scale not rooted\n", done.stderr
