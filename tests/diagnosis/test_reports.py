"""Whatever a function does, its author gets a report in words, and never a traceback of ours."""

import functools
import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from planted import planted
from refusals import assert_refuses
from torch.nn import functional

from attn_core.diagnosis import CATALOGUE, diagnose
from attn_core.diagnosis.__main__ import main
from attn_core.diagnosis.mistakes_of_masks import FORMS
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


class Unreadable(Exception):
    def __str__(self):
        raise KeyError


def says_nothing_readable(query, key, value):
    raise Unreadable


class Odd:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError


def shrinks_query(query, key, value):
    output = right(query, key, value)
    query.resize_(1)
    return output


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
        (lambda *x: sys.exit(3), ["SystemExit", "3"]),
        (says_nothing_readable, ["Unreadable", "cannot be read"]),
        (lambda *x: right(*x).to_sparse(), ["Tensor", "no array"]),
        (lambda *x: right(*x).to("meta"), ["Tensor", "no array"]),
        (lambda *x: right(*x) * 1j, ["Tensor", "no array of real numbers"]),
        (lambda *x: right(*x).tolist(), ["list", "no array"]),
        (lambda *x: Odd(), ["Odd", "no array"]),
        (shrinks_query, ["changes its input query"]),
    ],
)
def test_trouble_is_told_in_words(function, says):
    report = diagnose(function, backend="torch")
    assert not report
    assert report.trouble is not None
    assert "broke off" not in report.trouble
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

    report = diagnose(attention, layout="BHLD")
    assert report.is_unexplained
    assert report.mistakes == ()
    assert "differs from it by up to 0.0" in str(report)


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


def in_place(query, key, value):
    """The softmax needs its output for the gradient, and it is gone."""
    weights = scores_of(query, key).softmax(-1)
    output = weights @ value
    weights.mul_(2)
    return output


def asks_for_gradients(query, key, value):
    query.requires_grad_()
    return right(query, key, value)


def with_strict_numpy(query, key, value):
    np.seterr(all="raise")
    return right(query, key, value)


@pytest.mark.parametrize(
    ("function", "mistakes"),
    [
        (lambda *x: right(*x).numpy(), []),
        (lambda *x: (right(*x).detach().numpy(), "weights"), []),
        (lambda *x: {"output": right(*x), "weights": None}, []),
        (in_place, ["gradient cut"]),
        (asks_for_gradients, []),
        (with_strict_numpy, []),
        (lambda *x: right(*x).bfloat16(), ["computed in half precision"]),
    ],
)
def test_what_can_be_judged_is_judged(function, mistakes):
    before = np.geterr()
    report = diagnose(function, backend="torch", layout="BHLD")
    assert [one.name for one in report.mistakes] == mistakes, str(report)
    assert report.trouble is None
    assert bool(report) == (not mistakes)
    assert np.geterr() == before


def test_what_nobody_has_foreseen_gets_a_report(monkeypatch):
    def fails(*_, **__):
        raise IndexError("nobody knows")

    monkeypatch.setattr("attn_core.diagnosis.diagnose_function", fails)
    report = diagnose(right)
    assert not report
    assert "broke off with IndexError: nobody knows" in report.trouble


def grouped(repeat, times=None):
    def attention(query, key, value):
        group = times or query.shape[1] // key.shape[1]
        return right(query, repeat(key, group), repeat(value, group))

    return attention


def each(x, group):
    return x.repeat_interleave(group, 1)


def whole(x, group):
    return x.repeat(1, group, 1, 1)


def test_grouped_heads_are_tried():
    assert diagnose(grouped(each))
    assert diagnose(functools.partial(functional.scaled_dot_product_attention, enable_gqa=True))
    report = diagnose(grouped(whole))
    assert report.mistakes == ()
    (broken,) = report.broken
    assert "paired with the wrong heads" in broken.says
    assert "1 with 1, 2 with 0" in broken.example
    assert "1 with 0, 2 with 1" in broken.example
    assert "is attention there" in report.notes[0]


@pytest.mark.parametrize("times", [2, 4])
def test_heads_that_have_to_be_grouped_are_judged(times):
    report = diagnose(grouped(each, times))
    assert report, str(report)
    assert report.convention.group == times
    assert f"{times} heads of queries for one of keys" in str(report)

    def attention(query, key, value):
        return scores_of(query, each(key, times)).softmax(-2) @ each(value, times)

    assert [one.name for one in diagnose(attention).mistakes] == ["softmax over queries"]


def test_names_of_arguments_tell_their_order():
    def attention(values, keys, query, mask):
        scores = scores_of(query, keys).masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).nan_to_num() @ values

    report = diagnose(attention)
    assert report, str(report)
    assert report.convention.mask_argument == "mask"
    assert "query, key and value were given as query, keys, values" in str(report)

    def swapped(query, key, value):
        assert query.shape == key.shape
        return right(key, query, value)

    assert [one.name for one in diagnose(swapped).mistakes] == ["query and key swapped"]

    def keywords(*, v_states, q_states, k_states):
        return right(q_states, k_states, v_states)

    assert diagnose(keywords)
    assert diagnose(lambda a, b, c: right(a, b, c))


def scores_of(query, key):
    return query @ key.mT / query.shape[-1] ** 0.5


def loses_keys(query, key, value):
    key, value = key[..., :4, :], value[..., :4, :]
    return scores_of(query, key).softmax(-1) @ value


def multiplies_infinity(query, key, value, mask):
    return (scores_of(query, key) + ~mask * -torch.inf).softmax(-1) @ value


def shows_hidden(query, key, value, mask):
    return scores_of(query, key).masked_fill(~mask, -2.0).softmax(-1) @ value


def off_by_one(query, key, value):
    powers = (scores_of(query, key) + 6).exp()
    return powers / (1 + powers.sum(-1, keepdim=True)) @ value


def larger_sum(query, key, value):
    powers = scores_of(query, key).exp()
    return powers / (powers.sum(-1, keepdim=True) + 1e-3) @ value


UNNAMED = {
    "the weights of a query do not sum to 1": {off_by_one},
    "an output lies outside the values that it should be a mean of": {off_by_one, larger_sum},
    "the order of keys and values matters": {loses_keys},
    "adding the same vector to all keys changes the output": {off_by_one, larger_sum, shows_hidden},
    "a mask gives NaN where every query may attend a key": {multiplies_infinity},
    "a key that the mask hides changes the output": {shows_hidden},
}


@pytest.mark.parametrize(
    "function",
    [loses_keys, multiplies_infinity, shows_hidden, off_by_one, larger_sum],
    ids=lambda function: function.__name__,
)
def test_of_a_mistake_without_a_name_only_what_is_true_is_said(function):
    # Keys that are lost were once taken for heads that attend heads, in another layout.
    report = diagnose(function, layout=None if function is loses_keys else "BHLD")
    assert report.is_unexplained, str(report)
    assert report.mistakes == ()
    said = {one.says for one in report.broken}
    assert said == {says for says, functions in UNNAMED.items() if function in functions}
    assert len(str(report)) < 2000


@pytest.mark.parametrize("number", [-100.0, -1e4, -1e9, torch.finfo(torch.float64).min])
@pytest.mark.parametrize("how", ["set", "added"])
def test_the_finite_number_that_stands_for_infinity_is_measured(number, how):
    def attention(query, key, value, mask):
        scores = scores_of(query, key)
        hidden = (
            scores + number * (~mask).double()
            if how == "added"
            else scores.masked_fill(~mask, number)
        )
        return hidden.softmax(-1) @ value

    report = diagnose(attention, layout="BHLD")
    assert [one.name for one in report.mistakes][:1] == ["mask finite"]
    words = {-100.0: "−100", -1e4: "−10000", -1e9: "−1e9"}.get(number, "below −1e12")
    does = "added to hidden" if how == "added" and number > -1e12 else "hidden scores are set"
    assert words in report.mistakes[0].says
    assert "<svg" in report._repr_html_()
    assert does in report.mistakes[0].says


def test_a_gradient_is_looked_for_outside_inference_mode():
    with torch.inference_mode():
        assert diagnose(right)

    @torch.inference_mode()
    def attention(query, key, value):
        return right(query, key, value)

    assert [one.name for one in diagnose(attention).mistakes] == ["gradient cut"]


def test_what_was_not_tested_is_said():
    def without_gradient(query, key, value):
        return right(query, key, value).numpy()

    def without_its_mask(query, key, value, score_mask=None):
        if score_mask is not None:
            raise RuntimeError("no masks")
        return right(query, key, value)

    for function, untested in (
        (without_gradient, "its gradient: with inputs that need one it raises RuntimeError"),
        (lambda *x: right(*x).detach().numpy(), "its gradient: it returns ndarray"),
        (without_its_mask, "its mask, the argument score_mask: it raises RuntimeError"),
    ):
        report = diagnose(function)
        assert report
        assert len(report.untested) == 1
        assert f"Not tested: {untested}" in str(report)
    assert diagnose(right).untested == ()


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
    assert {form.name for form in FORMS} <= {mistake.name for mistake in CATALOGUE}


def test_check_attention_fails_with_the_words_of_the_report():
    check_attention(right)
    with pytest.raises(AssertionError, match="divided by d, not by its square root"):
        check_attention(planted("scale not rooted"), layout="BHLD")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of somebody's functions, in the folder where the command is run."""
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def right(query, key, value):\n"
        "    return torch.nn.functional.scaled_dot_product_attention(query, key, value)\n"
        "def wrong(query, key, value):\n"
        "    return (query @ key.mT).softmax(-1) @ value\n"
        "def crashes(query, key, value):\n"
        "    raise KeyError('x')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("mine:right", 0, "is scaled dot-product attention"),
        ("mine:wrong", 1, "scores are not divided by √d"),
        ("mine:crashes", 2, "KeyError"),
        ("mine:missing", 2, "missing"),
        ("mine", 2, "module:function"),
    ],
)
def test_the_command_line(mine, capsys, target, status, says):
    assert main([target]) == status
    printed = capsys.readouterr()
    assert says in (printed.err if "missing" in target or target == "mine" else printed.out)


def test_the_command_line_writes_utf_8_whatever_the_terminal_says(mine):
    command = [sys.executable, "-m", "attn_core.diagnosis", "mine:wrong"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    run = subprocess.run(command, capture_output=True, cwd=mine, env=environment)
    assert run.returncode == 1, run.stderr
    assert "scores are not divided by √d" in run.stdout.decode()
    assert run.stderr == b""


REFUSED = {
    "no function": (lambda: diagnose(3), TypeError, ["function", "int"]),
    "layout": (lambda: diagnose(right, layout="DLHB"), ValueError, ["layout", "'DLHB'", "BHLD"]),
    "backend": (lambda: diagnose(right, backend="jax"), ValueError, ["backend", "'jax'"]),
    "mask_means": (lambda: diagnose(right, mask_means="x"), ValueError, ["mask_means", "'x'"]),
    "mask": (lambda: diagnose(right, mask="m"), ValueError, ["mask", "'m'", "query"]),
    "mask's kind": (lambda: diagnose(right, mask=torch.ones(2)), TypeError, ["mask", "Tensor"]),
    "heads": (lambda: diagnose(right, heads=0), ValueError, ["heads", "0"]),
    "width": (lambda: diagnose(right, width=2.5), TypeError, ["width", "float"]),
    "inputs": (lambda: diagnose(right, inputs="x"), TypeError, ["inputs", "str"]),
    "seconds' kind": (lambda: diagnose(right, seconds="5"), TypeError, ["seconds", "str"]),
    "seconds": (lambda: diagnose(right, seconds=0), ValueError, ["seconds", "0"]),
    "check": (lambda: check_attention(None), TypeError, ["function", "NoneType"]),
}


@pytest.mark.parametrize(("call", "error", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_it_refuses(call, error, says):
    assert_refuses(call, error, says)


def test_a_numpy_function_needs_no_torch():
    """It is not loaded; and where there is none, as in the pages of the book, all goes as well."""
    program = """
import sys
import numpy as np
from attn_core import diagnose, reference
def mine(query, key, value):
    scores = query @ key.swapaxes(-1, -2) / query.shape[-1]
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True) @ value
print(*(mistake.name for mistake in diagnose(mine).mistakes), sep=", ")
assert diagnose(reference.attention, layout="BHLD")
assert "torch" not in sys.modules
sys.modules["torch"] = None  # every import of it fails
print(*(mistake.name for mistake in diagnose(mine).mistakes), sep=", ")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == 2 * "scale not rooted\n", done.stderr
