"""Diagnosing a function of query, key and value."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, Literal

import numpy as np

from attn_core.diagnosis.calling import (
    LAYOUTS,
    Budget,
    Caller,
    Convention,
    TroubleError,
    asked_signature,
)
from attn_core.diagnosis.cases import Sizes, drawn_case, sizes_to_try
from attn_core.diagnosis.edges import dropout_explanation, edge_mistakes
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED, recipe_of
from attn_core.diagnosis.properties import broken_properties
from attn_core.diagnosis.recipe import Case, Recipe, Result, attend
from attn_core.diagnosis.report import Example, Report
from attn_core.diagnosis.search import Explanation, distance, explain, small_cases
from attn_core.extras import is_installed

_OUTPUTS = {
    "BHLD": ("BHLD", "BLHD", "joined"),
    "BLHD": ("BLHD", "BHLD", "joined"),
    "BLD": ("BLD",),
    "LBD": ("LBD",),
    "LD": ("LD",),
    "joined": ("joined", "BHLD", "BLHD"),
}
_MASK_SHAPES = {
    "BHLD": ("BHLS", "LS"),
    "BLHD": ("BHLS", "LS"),
    "BLD": ("BLS", "LS", "BHLS"),
    "LBD": ("BLS", "LS", "BHLS"),
    "LD": ("LS",),
    "joined": ("BHLS", "BLS", "LS"),
}
# What counts as rounding, relative to the largest output: a softmax in single precision is usual.
_TOLERANCE = {"float64": 5e-6, "float32": 2e-4}
_MOST_MISTAKES = 3


class Candidate:
    """One way to call the function that works, and the sizes that it takes."""

    def __init__(self, caller: Caller, sizes: Sizes, needs_mask: bool) -> None:
        self.caller = caller
        self.sizes = sizes
        self.needs_mask = needs_mask

    @property
    def tolerance(self) -> float:
        return _TOLERANCE[self.caller.convention.dtype]

    def cases(self, count: int, masked_rows: bool) -> list[Case]:
        """Cases of every kind that the function takes, in turn."""
        how = self.caller.convention
        kinds: list[dict[str, Any]] = [] if self.needs_mask else [{}]
        if how.mask_argument:
            shared = {"shared_mask": how.mask_shape == "LS"}
            kinds.append({"masked": "some", **shared})
            if masked_rows:
                kinds.append({"masked": "rows", **shared})
        if how.causal_argument and not self.needs_mask:
            kinds.append({"causal": True})
        if how.always_causal:
            kinds = [{**kind, "causal": True} for kind in kinds]
        return [drawn_case(self.sizes, seed, **kinds[seed % len(kinds)]) for seed in range(count)]

    def applies(self, mistake: Mistake) -> bool:
        """Whether a function that is called like this can make the mistake."""
        how = self.caller.convention
        if mistake.name == "heads split by view":
            return how.layout == "joined"
        if mistake.name == "heads joined by view":
            return how.output_layout == "joined"
        return True


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
    mask_argument, causal_argument = asked_signature(function)
    how = Convention(
        mask_argument=mask or mask_argument,
        mask_means=mask_means,
        causal_argument=None if causal else causal_argument,
        always_causal=causal,
    )
    layouts = ["joined"] if heads else ["BHLD", "BLHD", "BLD", "LD"]
    sizes = {one: sizes_to_try(one, heads or 4, width) for one in ([layout] if layout else layouts)}
    try:
        backends = ["torch", "numpy"] if is_installed("torch") else ["numpy"]
        found = _candidates(function, how, [backend] if backend else backends, sizes, budget)
        return _compared(name, found, masked_rows)
    except TroubleError as error:
        return Report(name, trouble=str(error))


def _candidates(
    function: Callable[..., Any],
    how: Convention,
    backends: list[str],
    sizes: dict[str, list[Sizes]],
    budget: Budget,
) -> list[Candidate]:
    """The ways to call the function that give something of the right shape.

    Raises:
        TroubleError: if there are none; it says what went wrong first.
    """
    trouble: TroubleError | None = None
    for backend in backends:
        found = []
        for layout, tried in sizes.items():
            one = replace(how, backend=backend, layout=layout)
            # A mask that it cannot take at any size is no mask: FlexAttention's, for example.
            ways = [one] if one.mask_argument is None else [one, replace(one, mask_argument=None)]
            for way, size in product(ways, tried):
                candidate = _candidate(function, way, size, budget)
                if isinstance(candidate, Candidate):
                    found.append(candidate)
                    break
                trouble = trouble or candidate
        if found:
            return found
    assert trouble is not None
    raise trouble


def _candidate(
    function: Callable[..., Any], how: Convention, sizes: Sizes, budget: Budget
) -> Candidate | TroubleError:
    trouble: TroubleError | None = None
    for dtype, output in product(("float64", "float32"), _OUTPUTS[how.layout]):
        plain = Caller(function, replace(how, dtype=dtype, output_layout=output), budget)
        works_unmasked = _works(plain, drawn_case(sizes, 0))
        if how.mask_argument is None and works_unmasked is True:
            return Candidate(plain, sizes, needs_mask=False)
        for shape in _MASK_SHAPES[how.layout] if how.mask_argument else ():
            caller = plain.like(mask_shape=shape)
            case = drawn_case(sizes, 0, masked="some", shared_mask=shape == "LS")
            if (works := _works(caller, case)) is True:
                return Candidate(caller, sizes, needs_mask=works_unmasked is not True)
            trouble = trouble or works
        if works_unmasked is not True:
            trouble = trouble or works_unmasked
    assert trouble is not None
    return trouble


def _works(caller: Caller, case: Case) -> TroubleError | Literal[True]:
    try:
        caller(case)
    except TroubleError as error:
        return error
    return True


def _compared(name: str, found: list[Candidate], masked_rows: bool) -> Report:
    observed = []
    for candidate in found:
        cases = candidate.cases(4, masked_rows)
        results = [candidate.caller(case) for case in cases]
        if distance(candidate.caller(cases[0]).output, results[0].output) > 1e-12:
            return _not_repeatable(name, candidate)
        observed.append(list(zip(cases, results, strict=True)))
    # A cast to half precision leaves an error that is no rounding of ours.
    for coarse in (1.0, 1e4):
        if coarse > 1.0 and not all(map(_rounds_coarsely, found)):
            break
        for count in range(_MOST_MISTAKES + 1 if coarse == 1.0 else 2):
            for candidate, seen in zip(found, observed, strict=True):
                tolerance = min(candidate.tolerance * coarse, 2e-2)
                explanation = explain(seen, tolerance, count, applies=candidate.applies)
                if explanation is not None:
                    half = (NAMED["computed in half precision"],) if coarse > 1 else ()
                    report = _explained(name, candidate, explanation, masked_rows, half)
                    notes = _wrong_elsewhere(candidate, found, observed) if report else ()
                    return replace(report, notes=notes)
    return _unexplained(name, found[0], masked_rows)


def _wrong_elsewhere(
    right: Candidate, found: list[Candidate], observed: list[list[tuple[Case, Result]]]
) -> tuple[str, ...]:
    """Inputs of other dimensions that it takes as well, and of which it makes no attention.

    The softmax over axis 2 is right for a batch of sentences, and wrong when heads come before.
    """
    layouts = {
        dimensions: [
            (candidate, seen)
            for candidate, seen in zip(found, observed, strict=True)
            if _dimensions(candidate) == dimensions
        ]
        for dimensions in sorted({_dimensions(one) for one in found} - {_dimensions(right)})
    }
    notes = []
    for readings in layouts.values():
        if any(explain(seen, one.tolerance, 0, applies=one.applies) for one, seen in readings):
            continue
        first, seen = readings[0]
        cause = explain(seen, first.tolerance, 1, applies=first.applies)
        said = f": {cause.mistakes[0].says}" if cause is not None else ""
        notes.append(
            f"it takes ({LAYOUTS[first.caller.convention.layout]}) as well, and is no attention "
            f"there{said}; name the layout= that it is meant for"
        )
    return tuple(notes)


def _dimensions(candidate: Candidate) -> int:
    return {"LD": 2, "BHLD": 4, "BLHD": 4}.get(candidate.caller.convention.layout, 3)


def _rounds_coarsely(candidate: Candidate) -> bool:
    """Whether two equal small steps of the inputs change the output unequally, as rounding does."""
    case = candidate.cases(1, masked_rows=False)[0]
    start, one, two = (
        np.nan_to_num(
            candidate.caller(
                replace(case, query=x * case.query, key=x * case.key, value=x * case.value)
            ).output
        )
        for x in (1, 1 + 1e-4, 1 + 2e-4)
    )
    return bool(np.abs(two - 2 * one + start).max() > 0.1 * np.abs(one - start).max())


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
    edges = edge_mistakes(caller, recipe, cases, seen) if not further else ()
    return Report(
        name,
        convention=caller.convention,
        mistakes=explanation.mistakes + further + edges,
        others=explanation.others,
        error=error,
        cases=len(cases),
        example=_smallest_example(caller, cases) if explanation.mistakes else None,
        needs_equal_lengths=candidate.sizes.q_len == candidate.sizes.k_len,
    )


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
        cases=1,
    )


def _unexplained(name: str, candidate: Candidate, masked_rows: bool) -> Report:
    caller = candidate.caller
    cases = candidate.cases(4, masked_rows)
    return Report(
        name,
        convention=caller.convention,
        broken=broken_properties(caller, cases[0]),
        example=_smallest_example(caller, cases),
        cases=len(cases),
        is_unexplained=True,
    )


def _smallest_example(caller: Caller, cases: list[Case]) -> Example | None:
    """The smallest inputs with which the function is wrong."""
    wrong = next((case for case in cases if _difference(caller, case) > 1e-3), None)
    if wrong is None:
        return None
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
