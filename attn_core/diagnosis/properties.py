"""Properties of attention: what is left to say of a function where no mistake explains it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attn_core.diagnosis.calling import Caller, TroubleError
from attn_core.diagnosis.recipe import Case
from attn_core.diagnosis.search import distance, small_cases
from attn_core.reference.shapes import Array


@dataclass(frozen=True)
class Broken:
    """A property of attention that a function has not, with the smallest example found.

    Attributes:
        says: what is not so.
        example: the inputs, and what the function gave.
    """

    says: str
    example: str


Check = Callable[[Caller, Case], str | None]


def broken_properties(caller: Caller, cases: Sequence[Case]) -> tuple[Broken, ...]:
    """Check every property, and show the smallest inputs that break it.

    Only what an example shows is said. That an input does not matter, small cases cannot show:
    where all values are equal, no query matters.
    """
    found = []
    small = list(small_cases(cases[0]))
    for says, check in PROPERTIES.items():
        random = cases if says in MASKED else cases[:1]
        large = _first_example(check, caller, random)
        if says in READING or says in MASKED:
            example = large
        else:  # what random inputs do not break, few small ones do
            tried = small if large is not None else small[:_FEW]
            example = _first_example(check, caller, tried) or large
        if example is not None:
            found.append(Broken(says, example))
    return tuple(found)


def _first_example(check: Check, caller: Caller, cases: Sequence[Case]) -> str | None:
    examples = (_example(check, caller, case) for case in cases)
    return next((example for example in examples if example is not None), None)


def _example(check: Check, caller: Caller, case: Case) -> str | None:
    """What breaks the property; None where the function crashes or its output is not finite."""
    try:
        if check is not _mask_gives_nan and not np.isfinite(caller(case).output).all():
            return None
        return check(caller, case)
    except TroubleError:
        return None


def _sums_to_one(caller: Caller, case: Case) -> str | None:
    if case.mask is not None:
        return None
    ones = replace(case, value=np.ones_like(case.value))
    output = caller(ones).output
    if np.abs(output - 1).max() <= 1e-3:
        return None
    return f"every value is 1, and the output is {_short(output)}"


def _within_values(caller: Caller, case: Case) -> str | None:
    if case.mask is not None:
        return None
    output = caller(case).output
    if output.shape[-1] != case.value.shape[-1]:
        return None
    low, high = case.value.min(-2, keepdims=True), case.value.max(-2, keepdims=True)
    if ((output >= low - 1e-3) & (output <= high + 1e-3)).all():
        return None
    return f"values {_short(case.value)} give {_short(output)}"


def _keys_in_any_order(caller: Caller, case: Case) -> str | None:
    turned = replace(case, key=case.key[..., ::-1, :], value=case.value[..., ::-1, :])
    if case.mask is not None:
        turned = replace(turned, mask=case.mask[..., ::-1])
    if case.causal:
        return None
    return _unequal(caller, case, turned, "keys and values turned round together")


def _queries_alone(caller: Caller, case: Case) -> str | None:
    if case.lengths[0] < 2:
        return None
    changed = case.query.copy()
    changed[..., 0, :] += 1
    before, after = caller(case).output, caller(replace(case, query=changed)).output
    if distance(after[..., 1:, :], before[..., 1:, :]) <= 1e-3:
        return None
    return (
        f"query {_short(case.query)} with its first row changed: the other rows of the output go "
        f"from {_short(before[..., 1:, :])} to {_short(after[..., 1:, :])}"
    )


def _shift_of_keys(caller: Caller, case: Case) -> str | None:
    shifted = replace(case, key=case.key + 1.0)
    return _unequal(caller, case, shifted, "1 added to every number of every key")


def _batch_apart(caller: Caller, case: Case) -> str | None:
    if len(case.query) < 2:
        return None
    changed = {name: getattr(case, name).copy() for name in ("query", "key", "value")}
    for x in changed.values():
        x[0] += 1
    before, after = caller(case).output, caller(replace(case, **changed)).output
    if distance(after[1:], before[1:]) <= 1e-3:
        return None
    return "the first batch entry changed: the others change too"


def _linear_in_values(caller: Caller, case: Case) -> str | None:
    once, twice = caller(case).output, caller(replace(case, value=2 * case.value)).output
    if distance(twice, 2 * once) <= 1e-3:
        return None
    return f"values doubled: the output goes from {_short(once)} to {_short(twice)}"


def _reads(name: str) -> Check:
    def check(caller: Caller, case: Case) -> str | None:
        if case.lengths[1] < 3 or case.mask is not None:
            return None
        before = caller(case).output
        for seed in range(5, 5 + _DRAWS):
            random = np.random.default_rng(seed)
            other = replace(case, **{name: random.normal(size=getattr(case, name).shape)})
            if not distance(caller(other).output, before) <= 1e-9:
                return None
        return f"with {_DRAWS} random ones the output stays the same"

    return check


def _mask_gives_nan(caller: Caller, case: Case) -> str | None:
    if case.mask is None or not case.mask.any(-1).all():
        return None
    if not np.isnan(caller(case).output).any():
        return None
    return f"mask {_short(case.mask[:1])} gives NaN"


def _mask_hides(caller: Caller, case: Case) -> str | None:
    if case.mask is None or case.lengths[1] < 2:
        return None
    mask = case.mask.copy()
    mask[..., -1] = False
    mask[..., 0] = True
    hidden = replace(case, mask=mask)
    key, value = case.key.copy(), case.value.copy()
    key[..., -1, :] += 1
    value[..., -1, :] += 1
    before = caller(hidden).output
    after = caller(replace(hidden, key=key, value=value)).output
    if not np.isfinite(before).all() or distance(after, before) <= 1e-3:
        return None
    return f"the last key and value changed: the output changes by up to {_size(after - before)}"


_DRAWS, _FEW = 5, 30
MASKED: dict[str, Check] = {
    "a mask gives NaN where every query may attend a key": _mask_gives_nan,
    "a key that the mask hides changes the output": _mask_hides,
}
READING = {f"the {name} does not matter": _reads(name) for name in ("query", "key", "value")}
PROPERTIES: dict[str, Check] = {
    "the weights of a query do not sum to 1": _sums_to_one,
    "an output lies outside the values that it should be a mean of": _within_values,
    "the order of keys and values matters": _keys_in_any_order,
    "a query changes the output of another query": _queries_alone,
    "adding the same vector to all keys changes the output": _shift_of_keys,
    "batch entries influence each other": _batch_apart,
    "the output is not linear in the values": _linear_in_values,
    **READING,
    **MASKED,
}


def _unequal(caller: Caller, case: Case, other: Case, change: str) -> str | None:
    before, after = caller(case).output, caller(other).output
    if distance(after, before) <= 1e-3:
        return None
    if max(case.query.size, case.key.size, case.value.size) > _MOST_NUMBERS:
        return (
            f"query {_short(case.query)}, key {_short(case.key)}, value {_short(case.value)}: "
            f"{change} changes the output by up to {_size(after - before)}"
        )
    return (
        f"query {_short(case.query)}, key {_short(case.key)}, value {_short(case.value)} give "
        f"{_short(before)}, and with {change} {_short(after)}"
    )


def _size(difference: Array) -> str:
    return f"{np.abs(difference).max():.2g}"


_MOST_NUMBERS = 40


def _short(x: Array) -> str:
    """The numbers; where they are many, their shape."""
    if x.size > _MOST_NUMBERS:
        return f"of {' × '.join(map(str, x.shape))} random numbers"
    while x.ndim > 2 and len(x) == 1:
        x = x[0]
    return str((np.round(x.astype(float), 3) + 0.0).tolist())
