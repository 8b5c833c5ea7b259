"""The nearest mutant: which mistakes explain what a function returns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import MISTAKES, combined, recipe_of
from attn_core.diagnosis.mistakes_of_masks import FORMS
from attn_core.diagnosis.recipe import Case, DoesNotApplyError, Result, attend
from attn_core.reference.shapes import Array

Observations = Sequence[tuple[Case, Result]]


@dataclass(frozen=True)
class Explanation:
    """Mistakes with which the reference gives what the function gives.

    Attributes:
        mistakes: the mistakes, none if the function is right.
        others: others that explain every observation as well.
    """

    mistakes: tuple[Mistake, ...]
    others: tuple[tuple[Mistake, ...], ...] = ()


def explain(
    observed: Observations,
    tolerance: float,
    count: int,
    *,
    applies: Callable[[Mistake], bool] = lambda mistake: True,
) -> Explanation | None:
    """Find so many mistakes that explain every observation.

    Args:
        observed: cases, and what the function gave.
        tolerance: what counts as rounding, relative to the largest output.
        count: how many mistakes are combined.
        applies: which mistakes can be made at all.

    Returns:
        The explanation; None if there is none.
    """
    if not any(np.isfinite(result.output).any() for _, result in observed):
        return None  # NaN alone is what many mistakes give, and shows none of them
    shown = _shown([case for case, _ in observed])
    found = [
        mistakes
        for mistakes in combined(count, filter(applies, (*MISTAKES, *FORMS)))
        if _showing(mistakes, shown) == mistakes and _explains(mistakes, observed, tolerance)
    ]
    if not found:
        return None
    names = [{one.name for one in mistakes} for mistakes in found]
    others = [one for one, named in zip(found, names, strict=True) if named != names[0]]
    return Explanation(found[0], tuple(others))


def _explains(mistakes: tuple[Mistake, ...], observed: Observations, tolerance: float) -> bool:
    (first_case, first_result), *others = observed
    first = _mutant(_showing(mistakes, _shown([first_case])), first_case)
    if first is None or distance(first_result.output, first) > tolerance:
        return False
    recipe = recipe_of(mistakes)
    try:
        return all(
            distance(result.output, attend(recipe, case).output) <= tolerance
            for case, result in others
        )
    except DoesNotApplyError:
        return False


def _shown(cases: Sequence[Case]) -> frozenset[str]:
    """What is there in these cases to make mistakes with."""
    masked = {"mask" for case in cases if case.mask is not None}
    return frozenset(masked | {"causal" for case in cases if case.causal})


def _showing(mistakes: tuple[Mistake, ...], shown: frozenset[str]) -> tuple[Mistake, ...]:
    """Those that can change anything: a mask that is not there cannot be ignored."""
    if any(one.name == "causal unasked" for one in mistakes):
        shown = shown | {"causal"}
    return tuple(
        one
        for one in mistakes
        if (one.knob != "mask" or shown) and (one.knob != "causal" or "causal" in shown)
    )


@lru_cache(maxsize=20_000)
def _mutant(mistakes: tuple[Mistake, ...], case: Case) -> Array | None:
    """What these mistakes give; most are asked about the first case only, by every diagnosis."""
    try:
        return attend(recipe_of(mistakes), case).output
    except DoesNotApplyError:
        return None


def distance(seen: Array, expected: Array) -> float:
    """The largest difference, relative to the largest number; infinite where shapes differ.

    NaN and infinity have to stand at the same places.
    """
    if seen.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(seen)):
        return np.inf
    if not np.array_equal(np.isnan(expected), np.isnan(seen)):
        return np.inf
    if not finite.any():
        return 0.0
    size = max(np.abs(expected[finite]).max(), 1e-3)
    return float(np.abs(seen[finite] - expected[finite]).max() / size)


def small_cases(like: Case, *, keep_width: bool = False) -> Iterator[Case]:
    """Cases of few and small integers, the smallest first, with what ``like`` has.

    Args:
        like: whether there is a batch, heads, a mask; whether lengths and widths are equal.
        keep_width: whether heads and widths have to be those of ``like``.
    """
    batch, heads, length, width = like.query.shape
    k_len, value_width = like.value.shape[-2:]
    lengths = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3)]
    if length == k_len:
        lengths = [(n, m) for n, m in lengths if n == m]
    widths = [(1, 1), (2, 1), (2, 2)] if width != value_width else [(1, 1), (2, 2)]
    batches, counts = ([1] if n == 1 else [1, 2] for n in (batch, heads))
    if keep_width:
        widths, counts = [(width, value_width)], [heads]
    random = np.random.default_rng(0)
    for b, h, (n, m), (d, dv) in product(batches, counts, lengths, widths):
        for largest in (1, 1, 1, 2, 2, 3):
            query, key, value = (
                random.integers(0, largest, size=(b, h, *shape), endpoint=True).astype(float)
                for shape in ((n, d), (m, d), (m, dv))
            )
            mask = None if like.mask is None else random.random((b, 1, n, m)) < 0.6
            yield Case(query, key, value, mask, like.causal)
