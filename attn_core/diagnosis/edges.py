"""Mistakes that the usual inputs do not show."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from attn_core.diagnosis.calling import Caller, TroubleError
from attn_core.diagnosis.cases import Sizes, drawn_case
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED
from attn_core.diagnosis.recipe import Case, Recipe, Result, attend
from attn_core.diagnosis.search import distance, explain


def edge_mistakes(
    caller: Caller, recipe: Recipe, cases: Sequence[Case], seen: Sequence[Result]
) -> tuple[tuple[Mistake, ...], tuple[str, ...]]:
    """Look at the edges of a function that is otherwise explained by the recipe.

    Returns:
        The mistakes, and what could not be tested.
    """
    untested: list[str] = []
    names = [
        _overflow(caller, recipe, cases[0]),
        _half_precision(caller, recipe, cases, untested),
        _gradient(caller, recipe, cases[0], untested),
        _returned_weights(caller, recipe, cases, seen),
    ]
    return tuple(NAMED[name] for name in names if name), tuple(untested)


def _overflow(caller: Caller, recipe: Recipe, case: Case) -> str | None:
    large = replace(case, query=case.query * 400)
    expected = attend(recipe, large).output
    if not np.isfinite(expected).all():
        return None
    try:
        overflows = not np.isfinite(caller(large).output).all()
    except TroubleError as error:
        overflows = "overflow" in str(error).lower()
    return "softmax overflows" if overflows else None


def _half_precision(
    caller: Caller, recipe: Recipe, cases: Sequence[Case], untested: list[str]
) -> str | None:
    if recipe.mask == "finite":
        return None  # −1e9 overflows there, and has been named
    in_half = caller.like(dtype="float16")
    for case in cases[:4]:
        if not np.isfinite(attend(recipe, case).output).all():
            continue
        try:
            result = in_half(case)
        except TroubleError as error:
            if "overflow" in str(error):
                return "half precision overflows"
            untested.append(f"half precision: {error}")
            return None  # which it need not take
        if not np.isfinite(result.output).all():
            return "half precision overflows"
    return None


def _gradient(caller: Caller, recipe: Recipe, case: Case, untested: list[str]) -> str | None:
    """Compare its gradients with differences of the recipe, in a random direction."""
    if caller.convention.backend != "torch" or recipe.normaliser == "hard":
        return None
    import torch

    inputs = [x.requires_grad_() for x in caller.inputs(case)]
    try:
        with torch.enable_grad():
            output = caller.first_of(caller.returned(inputs, case))
    except TroubleError as error:
        untested.append(f"its gradient: with inputs that need one {error}")
        return None
    if not isinstance(output, torch.Tensor):
        untested.append(f"its gradient: it returns {type(output).__name__}, which has none")
        return None
    if not output.requires_grad:
        return "gradient cut"
    random = np.random.default_rng(1)
    towards = random.normal(size=tuple(output.shape))
    try:
        with caller.budget.running():
            along = torch.from_numpy(towards).to(output.device, output.dtype)
            gradients = torch.autograd.grad(output, inputs, along, allow_unused=True)
    except TroubleError as error:
        if "too long" in str(error):
            untested.append(f"its gradient: {error}")
            return None
        return "gradient cut"  # none arrives: a step in place, for example
    step = 1e-5
    for name, given, gradient in zip(("query", "key", "value"), inputs, gradients, strict=True):
        array = getattr(case, name)
        direction = random.normal(size=array.shape)
        if name != "query":  # the heads of a group move together
            group = caller.convention.group
            direction = direction[:, ::group].repeat(group, axis=1)
        moved = [
            attend(recipe, replace(case, **{name: array + sign * step * direction})).output
            for sign in (1, -1)
        ]
        slope = (moved[0] - moved[1]) / (2 * step)
        expected = float((_as_returned(caller, slope, case, output.shape) * towards).sum())
        flat = caller.given(name, direction)
        seen = 0.0 if gradient is None else float((gradient * flat).sum())
        if abs(seen - expected) > 1e-3 * max(1.0, abs(expected), float(given.detach().abs().max())):
            return "gradient cut"
    return None


def _as_returned(caller: Caller, x: np.ndarray, case: Case, shape: tuple[int, ...]) -> np.ndarray:
    """In the layout in which the function returns its output."""
    layout = caller.convention.output_layout
    turned: np.ndarray = caller.like(layout=layout)._laid_out(x)
    return turned.reshape(shape)


def _returned_weights(
    caller: Caller, recipe: Recipe, cases: Sequence[Case], seen: Sequence[Result]
) -> str | None:
    for case, result in zip(cases[:8], seen[:8], strict=True):
        if result.weights is None:
            continue
        expected = attend(recipe, case).weights
        if expected is None or expected.shape != result.weights.shape:
            continue
        if distance(result.weights, expected) <= 1e-3:
            continue
        is_square = expected.shape[-1] == expected.shape[-2]
        if is_square and distance(result.weights, expected.swapaxes(-1, -2)) <= 1e-3:
            return "returned weights transposed"
        return "returned weights differ"
    return None


def dropout_explanation(
    caller: Caller, sizes: Sizes, tolerance: float, calls: int = 40
) -> tuple[tuple[Mistake, ...], float] | None:
    """Whether it is attention, or attention with a mistake, whose weights are dropped.

    With the identity for values the output is the weights. A weight is dropped or divided by
    1 − p, so what it is when it is kept tells the weights.

    Returns:
        The other mistakes, and the share p; None if it is something else.
    """
    case = drawn_case(replace(sizes, value_width=sizes.k_len), 0)
    case = replace(case, value=np.broadcast_to(np.eye(sizes.k_len), case.value.shape).copy())
    try:
        outputs = np.stack([caller(case).output for _ in range(calls)])
    except TroubleError:
        return None
    dropped = outputs == 0
    share = float(dropped.mean())
    kept = np.where(dropped, -np.inf, outputs).max(0)
    lowest = np.where(dropped, np.inf, outputs).min(0)
    if not 0 < share < 1 or not np.isfinite(kept).all() or np.abs(kept - lowest).max() > 1e-6:
        return None
    for p in sorted(np.arange(1, 100) / 100, key=lambda p: abs(p - share))[:8]:
        result = Result(kept * (1 - p), None)
        for count in range(2):
            explanation = explain([(case, result)], tolerance, count)
            if explanation is not None:
                return explanation.mistakes, float(p)
    return None


def finite_number(caller: Caller, sizes: Sizes, *, added: bool) -> float:
    """The number that stands for −∞, by the scores with which hidden keys have half the weight.

    Returns:
        The number; −∞ if it is lower than −10¹².
    """
    shape = (sizes.batch, sizes.heads)
    hidden = sizes.k_len - 1
    mask = np.zeros((sizes.batch, 1, sizes.q_len, sizes.k_len), bool)
    mask[..., 0] = True
    key = np.zeros((*shape, sizes.k_len, sizes.width))
    key[..., 0] = -(sizes.width**0.5)
    if added:  # what is added to a score of 0
        key[..., 1:, 0] = 0.0
    value = np.ones((*shape, sizes.k_len, sizes.value_width))
    value[..., 0, :] = 0.0

    def share(size: float) -> float:
        """The weight of all hidden keys, where the other one has the score −size."""
        query = np.zeros((*shape, sizes.q_len, sizes.width))
        query[..., 0] = size
        return float(caller(Case(query, key, value, mask)).output[0, 0, 0, 0])

    low, high = 0.0, 12.0  # powers of ten
    if not share(10**high) > 0.5:
        return -np.inf
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if share(10**middle) > 0.5 else (middle, high)
    return float(-(10**high) - np.log(hidden))
