"""Every mistake is planted, alone and with others, and has to be named.

The plants are written apart from the package (``planted.py``), so that a mistake in the recipes of
the package cannot hide behind itself.
"""

import random

import pytest
from planted import KNOWN, planted, planted_in_heads

from attn_core.diagnosis import diagnose
from attn_core.diagnosis.mistakes import MISTAKES, combined

HEADS = {"heads split by view", "heads joined by view"}
# What a mistake leaves nothing to be seen of: steps of attention, or single mistakes.
HIDES = {
    "mean of values": {"product", "scale", "normaliser", "mask", "causal"},
    "arg max": {"scale", "mask leaves NaN"},
    "scores divided by their sum": {"scale", "mask leaves NaN"},
    # These are functions without a mask.
    "heads attend heads": {"mask", "causal"},
    "batch attends batch": {"mask", "causal"},
    "heads split by view": {"mask", "causal", "scale by value width", "query added"},
    "heads joined by view": {"mask", "causal", "scale by value width"},
    "elementwise product": {
        *("mask", "causal", "heads", "aggregate"),
        *("scale after softmax", "scale by value width"),
    },
    "no aggregation": {"heads attend heads", "batch attends batch", "query added"},
    # Their score of −∞ is a weight of 0: before or after, finite or not.
    "sigmoid": {"mask finite", "mask leaves NaN", "mask after softmax"},
    "exponential without sum": {"mask finite", "mask leaves NaN", "mask after softmax"},
    "softmax missing": {
        "mask leaves NaN",
        "mask after softmax",
        "mask makes zeros",
        "scale after softmax",
    },
    "softmax twice": {"mask finite", "mask leaves NaN"},
    # A column of −∞, and no row, is what its softmax cannot do.
    "softmax over everything": {"mask finite", "mask leaves NaN"},
    "softmax over heads": {"mask finite", "mask after softmax"},
    "softmax over batch": {"mask finite"},
    # With this one, queries, keys and values are all equally wide.
    "values used as keys": {"scale by value width"},
    "query added": {"scale by value width"},
    "query and key swapped": {"causal at the wrong corner"},
    "queries compared with queries": {"causal at the wrong corner"},
    "keys compared with keys": {"causal at the wrong corner"},
    "queries used as values": {"causal at the wrong corner"},
    # Both together are a softmax over queries.
    "weights transposed": {"causal at the wrong corner", "query and key swapped"},
    "mask transposed": {"causal at the wrong corner"},
    # A weight of −1e9 leaves no digits for the others.
    "logarithm of softmax": {"mask finite"},
}


def named_by_diagnosis(names):
    if HEADS & set(names):
        report = diagnose(planted_in_heads(*names, heads=4), heads=4, width=5)
    else:
        report = diagnose(planted(*names), layout="BHLD")
    return report


def test_there_is_a_plant_for_every_mistake():
    assert {mistake.name for mistake in MISTAKES} == KNOWN


def test_attention_without_a_mistake_is_right():
    assert named_by_diagnosis([])


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named(mistake):
    report = named_by_diagnosis([mistake.name])
    assert report.mistakes == (mistake,)
    assert not report
    assert mistake.says in str(report)
    assert report.error < 1e-9
    assert report.cases == 64
    assert report.example is not None
    assert report.others == ()


def hidden(one, other):
    return other.knob in HIDES.get(one.name, ()) or other.name in HIDES.get(one.name, ())


def is_visible(pair):
    one, two = pair
    return not hidden(one, two) and not hidden(two, one)


PAIRS = [pair for pair in combined(2) if is_visible(pair)]


def test_most_pairs_can_be_told():
    assert len(PAIRS) > 0.75 * len(list(combined(2)))


@pytest.mark.parametrize(
    "pair",
    random.Random(0).sample(PAIRS, 240),
    ids=lambda pair: " + ".join(mistake.name for mistake in pair),
)
def test_two_mistakes_are_named(pair):
    report = named_by_diagnosis([mistake.name for mistake in pair])
    computed = [one.name for one in report.mistakes if one.knob != "edge"]
    assert computed == [mistake.name for mistake in pair]
    assert report.others == ()


@pytest.mark.parametrize("seed", range(8))
def test_three_mistakes_are_named(seed):
    scale, normaliser, mask, value = (
        random.Random(seed).choice(names)
        for names in (
            ["scale missing", "scale not rooted", "scale inverse"],
            ["softmax over queries", "softmax twice", "sigmoid"],
            ["mask inverted", "mask added"],
            ["keys used as values", "weights transposed"],
        )
    )
    names = [scale, normaliser, [mask, value][seed % 2]]
    report = named_by_diagnosis(names)
    assert {mistake.name for mistake in report.mistakes} == set(names)
