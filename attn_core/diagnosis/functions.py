"""Diagnosing a function of query, key and value."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attn_core.diagnosis.calling import (
    Budget,
    Caller,
    Convention,
    TroubleError,
    asked_signature,
)
from attn_core.diagnosis.candidates import Candidate, candidates
from attn_core.diagnosis.cases import sizes_to_try
from attn_core.diagnosis.edges import dropout_explanation, edge_mistakes, finite_number
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED, recipe_of
from attn_core.diagnosis.properties import Broken, broken_properties
from attn_core.diagnosis.recipe import Case, Recipe, Result, attend
from attn_core.diagnosis.report import Example, Report
from attn_core.diagnosis.search import Explanation, distance, explain, small_cases
from attn_core.extras import is_installed

# How many mistakes are tried, with how many times the usual tolerance: a cast to half precision
# leaves an error that is no rounding of ours.
_SEARCHES = ((0, 1.0), (1, 1.0), (0, 1e4), (1, 1e4), (2, 1.0), (3, 1.0))


def diagnose_function(
    function: Callable[..., Any],
    name: str,
    *,
    layout: str | None,
    backend: str | None,
    mask: str | None,
    mask_means: str,
    causal: bool,
    masked_rows: bool,
    heads: int | None,
    width: int | None,
    seconds: float,
) -> Report:
    """Compare a function with attention and with all that can go wrong in it."""
    budget = Budget(seconds)
    signature = asked_signature(function)
    how = Convention(
        input_names=signature.inputs,
        mask_argument=mask or signature.mask,
        mask_means=mask_means,
        causal_argument=None if causal else signature.causal,
        always_causal=causal,
    )
    layouts = ["joined"] if heads else ["BHLD", "BLHD", "BLD", "LD"]
    sizes = {one: sizes_to_try(one, heads or 4, width) for one in ([layout] if layout else layouts)}
    try:
        # Without PyTorch loaded, it is hardly written in PyTorch, which takes seconds to load.
        backends = ["torch", "numpy"] if "torch" in sys.modules else ["numpy", "torch"]
        if not is_installed("torch"):
            backends = ["numpy"]
        found = candidates(function, how, [backend] if backend else backends, sizes, budget)
        return _compared(name, found, masked_rows)
    except TroubleError as error:
        return Report(name, trouble=str(error))


@dataclass(frozen=True)
class _Reading:
    """A way to call the function, what it gave, and which mistakes explain that."""

    candidate: Candidate
    seen: list[tuple[Case, Result]]
    explanation: Explanation | None = None
    further: tuple[Mistake, ...] = ()

    @property
    def words(self) -> str:
        return self.candidate.caller.convention.words

    @property
    def named(self) -> tuple[Mistake, ...]:
        """The mistakes that explain it; none if it is right, or if nothing does."""
        return self.further + self.explanation.mistakes if self.explanation else ()

    @property
    def is_right(self) -> bool:
        return self.explanation is not None and not self.named

    def is_unexplained_from(self, dimensions: int) -> bool:
        return self.explanation is None and self.candidate.dimensions >= dimensions


def _differ(one: _Reading, other: _Reading) -> bool:
    """Whether one has to be told beside the other."""
    verdicts = [
        (x.explanation is None, {mistake.name for mistake in x.named}) for x in (one, other)
    ]
    return verdicts[0] != verdicts[1]


def _compared(name: str, found: list[Candidate], masked_rows: bool) -> Report:
    """Judge the function with inputs of every number of dimensions that it takes."""
    readings: dict[tuple[int, int], list[_Reading]] = {}
    for candidate in found:
        cases = candidate.cases(4, masked_rows)
        results = [candidate.caller(case) for case in cases]
        if distance(candidate.caller(cases[0]).output, results[0].output) > 1e-12:
            return _not_repeatable(name, candidate)
        reading = _Reading(candidate, list(zip(cases, results, strict=True)))
        group = candidate.caller.convention.group
        readings.setdefault((candidate.dimensions, group), []).append(reading)
    judged = _judged(list(readings.values()))
    # What is attention of heads, and of less something without a name, was not meant for less.
    meant = max((one.candidate.dimensions for one in judged if one.is_right), default=0)
    wrong = sorted(
        (one for one in judged if one.named or one.is_unexplained_from(meant)),
        key=lambda one: (one.explanation is None, -one.candidate.dimensions),
    )
    main = wrong[0] if wrong else next(one for one in judged if one.is_right)
    notes = tuple(_elsewhere(one) for one in judged if _differ(one, main))
    if main.explanation is None:
        report = _unexplained(name, main.candidate, masked_rows)
    else:
        report = _explained(name, main.candidate, main.explanation, masked_rows, main.further)
    return replace(report, notes=notes)


def _judged(readings: list[list[_Reading]]) -> list[_Reading]:
    """One reading for each number of dimensions: the one with the fewest mistakes.

    What explains the others takes at most one mistake more, or has no name.
    """
    judged: dict[int, _Reading] = {}
    most = _SEARCHES[-1][0]
    for count, coarse in _SEARCHES:
        if count > most:
            break
        for place, one in enumerate(readings):
            if place not in judged and (best := _explained_by(one, count, coarse)) is not None:
                judged[place] = best
                most = min(most, count + 1)
    return [judged.get(place, one[0]) for place, one in enumerate(readings)]


def _explained_by(readings: list[_Reading], count: int, coarse: float) -> _Reading | None:
    half = (NAMED["computed in half precision"],) if coarse > 1 else ()
    for one in readings:
        tolerance = min(one.candidate.tolerance * coarse, 2e-2)
        explanation = explain(one.seen, tolerance, count, applies=one.candidate.applies)
        if explanation is None:
            continue
        if coarse == 1 or _errs_like_rounding(one.candidate, recipe_of(explanation.mistakes)):
            return replace(one, explanation=explanation, further=half)
    return None


_HINT = "; name the layout= that it is meant for"


def _elsewhere(reading: _Reading) -> str:
    """What it makes of inputs of other dimensions.

    The softmax over axis 2 is right for a batch of sentences, and wrong when heads come before.
    """
    if reading.is_right:
        made = "is attention there"
    elif reading.explanation is None:
        made = "is no attention there, for no reason that has a name"
    else:
        made = "is no attention there: " + "; ".join(one.says for one in reading.named)
    hint = "" if reading.candidate.caller.convention.group > 1 else _HINT
    return f"it takes ({reading.words}) as well, and {made}{hint}"


def _errs_like_rounding(candidate: Candidate, recipe: Recipe) -> bool:
    """Whether a small step of the inputs makes another error; one in a formula hardly changes."""
    case = candidate.cases(1, masked_rows=False)[0]
    cases = [
        replace(case, query=x * case.query, key=x * case.key, value=x * case.value)
        for x in (1, 1.001)
    ]
    before, after = (
        np.nan_to_num(candidate.caller(one).output - attend(recipe, one).output) for one in cases
    )
    return bool(np.abs(after - before).max() > 0.3 * np.abs(before).max())


def _explained(
    name: str,
    candidate: Candidate,
    explanation: Explanation,
    masked_rows: bool,
    further: tuple[Mistake, ...],
) -> Report:
    recipe, caller = recipe_of(explanation.mistakes), candidate.caller
    cases = candidate.cases(64, masked_rows)
    seen = [caller(case) for case in cases]
    error = max(
        distance(result.output, attend(recipe, case).output)
        for case, result in zip(cases, seen, strict=True)
    )
    edges, untested = edge_mistakes(caller, recipe, cases, seen) if not further else ((), ())
    mistakes = tuple(_with_its_number(one, explanation, candidate) for one in explanation.mistakes)
    return Report(
        name,
        convention=caller.convention,
        mistakes=mistakes + further + edges,
        untested=(*candidate.untested, *untested),
        others=explanation.others,
        error=error,
        cases=len(cases),
        example=_smallest_example(caller, cases) if explanation.mistakes else None,
        needs_equal_lengths=not candidate.takes_other_lengths,
    )


def _with_its_number(mistake: Mistake, explanation: Explanation, candidate: Candidate) -> Mistake:
    """The mistake with the number that stands for −∞, where it is alone and another than −1e9."""
    if mistake.name != "mask finite":
        return mistake
    said = "a finite number"
    if explanation.mistakes == (mistake,):
        added = mistake.setting == "finite added"
        try:
            number = finite_number(candidate.caller, candidate.sizes, added=added)
        except TroubleError:
            number = np.nan
        if np.isneginf(number):
            said = "a finite number below −1e12"
        elif not np.isnan(number):
            said = f"{number:.0f}" if number > -1e5 else f"{number:.1e}".replace(".0e+0", "e")
            said = said.replace("-", "−")
    return replace(mistake, says=mistake.says.replace("−1e9", said))


def _not_repeatable(name: str, candidate: Candidate) -> Report:
    found = dropout_explanation(candidate.caller, candidate.sizes, candidate.tolerance)
    if found is None:
        return Report(name, trouble="two calls with the same inputs give different outputs")
    mistakes, share = found
    return Report(
        name,
        convention=candidate.caller.convention,
        mistakes=(NAMED["dropout always on"], *mistakes),
        notes=(f"about {share:.0%} of the weights are dropped",),
        untested=("anything else, since two calls differ",),
        cases=1,
    )


def _unexplained(name: str, candidate: Candidate, masked_rows: bool) -> Report:
    caller = candidate.caller
    cases = candidate.cases(4, masked_rows)
    return Report(
        name,
        convention=caller.convention,
        broken=_broken_groups(caller, cases[0]) or broken_properties(caller, cases),
        error=max(_difference(caller, case) for case in cases),
        untested=candidate.untested,
        example=_smallest_example(caller, cases),
        cases=len(cases),
        is_unexplained=True,
    )


def _broken_groups(caller: Caller, case: Case) -> tuple[Broken, ...]:
    """Whether heads of keys are repeated as a whole, and should be one by one."""
    group = caller.convention.group
    if group == 1:
        return ()
    key, value = (np.tile(x[:, ::group], (1, group, 1, 1)) for x in (case.key, case.value))
    expected = attend(Recipe(), replace(case, key=key, value=value)).output
    if distance(caller(case).output, expected) > 1e-3:
        return ()
    heads = case.query.shape[1]
    says = "heads of queries are paired with the wrong heads of keys and values"
    pairs = ", ".join(f"{h} with {h % (heads // group)}" for h in range(heads))
    right = ", ".join(f"{h} with {h // group}" for h in range(heads))
    return (Broken(says, f"{pairs}, where grouped-query attention pairs {right}"),)


def _smallest_example(caller: Caller, cases: list[Case]) -> Example | None:
    """The smallest inputs with which the function is wrong."""
    wrong = next((case for case in cases if _difference(caller, case) > 1e-3), None)
    if wrong is None:
        return None
    if caller.convention.group > 1:  # small cases have their own heads
        return Example(wrong, attend(Recipe(), wrong), caller(wrong))
    has_own_width = caller.convention.layout == "joined"
    for case in [*small_cases(wrong, keep_width=has_own_width), wrong]:
        try:
            if _difference(caller, case) > 1e-3:
                return Example(case, attend(Recipe(), case), caller(case))
        except TroubleError:
            continue
    return None


def _difference(caller: Caller, case: Case) -> float:
    with np.errstate(all="ignore"):
        return distance(caller(case).output, attend(Recipe(), case).output)
