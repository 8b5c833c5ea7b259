"""How somebody's function can be called: layouts, masks and sizes, tried out."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, Literal

from attn_core.diagnosis.calling import Budget, Caller, Convention, TroubleError
from attn_core.diagnosis.cases import Sizes, drawn_case
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.recipe import Case

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


_HEADS = ("BHLD", "BLHD")


class Candidate:
    """One way to call the function that works, and the sizes that it takes."""

    def __init__(
        self, caller: Caller, sizes: Sizes, *, needs_mask: bool, layout_is_guessed: bool
    ) -> None:
        self.caller = caller
        self.sizes = sizes
        self.needs_mask = needs_mask
        self.layout_is_guessed = layout_is_guessed
        self.untested: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        return _TOLERANCE[self.caller.convention.dtype]

    @property
    def takes_other_lengths(self) -> bool:
        return self.sizes.q_len != self.sizes.k_len

    @property
    def dimensions(self) -> int:
        """How many each input has."""
        return {"LD": 2, "BHLD": 4, "BLHD": 4}.get(self.caller.convention.layout, 3)

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
        if mistake.name == "heads attend heads":  # read in another layout, that is right
            return not self.layout_is_guessed
        if mistake.name == "heads split by view":
            return how.layout == "joined"
        if mistake.name == "heads joined by view":
            return how.output_layout == "joined"
        return True


def candidates(
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
        found: list[Candidate] = []
        for layout, tried in sizes.items():
            for group in (1, 2, 4) if layout in _HEADS else (1,):
                grouped = [replace(one, group=group) for one in tried if one.heads % group == 0]
                one = replace(how, backend=backend, layout=layout, group=group)
                candidate = _first_candidate(function, one, grouped, budget, len(sizes) > 1)
                if isinstance(candidate, Candidate):
                    found.append(candidate)
                    break
                trouble = trouble or candidate
        if found:
            found = _telling(found)
            return found + [pair for one in found if (pair := _in_pairs(one)) is not None]
    assert trouble is not None
    raise trouble


def _first_candidate(
    function: Callable[..., Any],
    how: Convention,
    sizes: list[Sizes],
    budget: Budget,
    layout_is_guessed: bool,
) -> Candidate | TroubleError:
    """With the first sizes that work, and with a mask if that works at all.

    A mask that it cannot take at any size is no mask: FlexAttention's, for example.
    """
    ways = [how] if how.mask_argument is None else [how, replace(how, mask_argument=None)]
    refusal: TroubleError | None = None
    for way, size in product(ways, sizes):
        candidate = _candidate(function, way, size, budget, layout_is_guessed=layout_is_guessed)
        if isinstance(candidate, Candidate):
            if way is not how:
                candidate.untested = (f"its mask, the argument {how.mask_argument}: {refusal}",)
            return candidate
        refusal = refusal or candidate
    return refusal or TroubleError("it takes no such heads")


def _in_pairs(one: Candidate) -> Candidate | None:
    """The same with half as many heads of keys and values, if it takes them.

    Where the layout is guessed, and lengths are equal, heads may be lengths.
    """
    is_sure = one.takes_other_lengths or not one.layout_is_guessed
    how = one.caller.convention
    if how.layout not in _HEADS or how.group > 1 or one.sizes.heads % 2 or not is_sure:
        return None
    pair = Candidate(
        one.caller.like(group=2),
        replace(one.sizes, group=2),
        needs_mask=one.needs_mask,
        layout_is_guessed=one.layout_is_guessed,
    )
    return pair if _works(pair.caller, pair.cases(1, masked_rows=False)[0]) is True else None


def _telling(found: list[Candidate]) -> list[Candidate]:
    """Without those that only seem to work: the mask or other lengths do not work with them.

    An attention of heads (B, H, L, D) takes (B, L, H, D) too, where L = S, and attends heads.
    """
    masked = {one.dimensions for one in found if one.caller.convention.mask_argument}
    found = [
        one for one in found if one.caller.convention.mask_argument or one.dimensions not in masked
    ]
    return [one for one in found if one.takes_other_lengths] or found


def _candidate(
    function: Callable[..., Any],
    how: Convention,
    sizes: Sizes,
    budget: Budget,
    *,
    layout_is_guessed: bool,
) -> Candidate | TroubleError:
    trouble: TroubleError | None = None
    for dtype, output in product(("float64", "float32"), _OUTPUTS[how.layout]):
        plain = Caller(function, replace(how, dtype=dtype, output_layout=output), budget)
        works_unmasked = _works(plain, drawn_case(sizes, 0))
        if how.mask_argument is None and works_unmasked is True:
            return Candidate(plain, sizes, needs_mask=False, layout_is_guessed=layout_is_guessed)
        for shape in _MASK_SHAPES[how.layout] if how.mask_argument else ():
            caller = plain.like(mask_shape=shape)
            case = drawn_case(sizes, 0, masked="some", shared_mask=shape == "LS")
            if (works := _works(caller, case)) is True:
                return Candidate(
                    caller,
                    sizes,
                    needs_mask=works_unmasked is not True,
                    layout_is_guessed=layout_is_guessed,
                )
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
