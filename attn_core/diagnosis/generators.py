"""Diagnosing a generator of sequences: cached decoding against the full pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attn_core.diagnosis.calling import Budget, TroubleError
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED
from attn_core.diagnosis.properties import Broken
from attn_core.diagnosis.report import Report

Full = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


def diagnose_generator(
    full: Full, step: Step, name: str, *, inputs: Tensor, seconds: float
) -> Report:
    """Compare what a generator gives one token at a time with what it gives for a whole sequence.

    Args:
        full: gives ``(batch, length, ...)`` for a sequence ``(batch, length, ...)``.
        step: takes the next piece of a sequence and a state, None at first; gives what belongs to
            the piece, and the next state.
        name: what it is called.
        inputs: a sequence ``(batch, length, ...)`` of at least three tokens.
        seconds: the time that it gets.

    Returns:
        The report.
    """
    budget = Budget(seconds)
    try:
        with torch.no_grad():
            found = _findings(_Guarded(full, budget), _Guarded(step, budget), inputs)
    except TroubleError as error:
        return Report(name, trouble=str(error), is_module=True)
    return Report(
        name,
        mistakes=tuple(mistake for mistake, _ in found),
        broken=tuple(Broken(mistake.says, example) for mistake, example in found),
        is_module=True,
    )


def steps_of(model: nn.Module) -> Step:
    """The step of a model that has ``new_cache()`` and takes ``cache=``."""

    def step(piece: Tensor, cache: Any) -> tuple[Tensor, Any]:
        cache = model.new_cache() if cache is None else cache  # type: ignore[operator]
        return model(piece, cache=cache), cache

    return step


class _Guarded:
    """A call that takes no longer than it may, and whose errors are told in words."""

    def __init__(self, call: Callable[..., Any], budget: Budget) -> None:
        self.call = call
        self.budget = budget

    def __call__(self, *inputs: Any) -> Any:
        with self.budget.running():
            return self.call(*inputs)

    def output(self, sequence: Tensor) -> Tensor:
        """What it gives for a sequence: something for every token."""
        output = _tensor(self(sequence))
        if output.shape[:2] != sequence.shape[:2]:
            raise TroubleError(
                f"for a sequence {tuple(sequence.shape)} it gives {tuple(output.shape)}, and not "
                "something for every token"
            )
        if not output.isfinite().all():
            raise TroubleError("it gives NaN or infinity for ordinary inputs")
        return output


def _tensor(x: Any) -> Tensor:
    if isinstance(x, np.ndarray) and x.dtype.kind in "fiub":
        x = torch.from_numpy(x)
    if not isinstance(x, Tensor) or x.is_complex() or x.layout != torch.strided:
        raise TroubleError(f"it returns {type(x).__name__}, and no tensor of real numbers")
    return x


def _findings(full: _Guarded, step: _Guarded, inputs: Tensor) -> list[tuple[Mistake, str]]:
    whole = full.output(inputs)
    found = []
    future = _future(full, inputs, whole)
    if future is not None:
        found.append((NAMED["full pass sees the future"], future))
    length = inputs.shape[1]
    splits = {
        "one token at a time": [1] * length,
        "a prompt, then one token at a time": [length // 2, *[1] * (length - length // 2)],
        "two pieces": [length // 2, length - length // 2],
    }
    for words, lengths in splits.items():
        outputs, state = [], None
        for piece in inputs.split(lengths, dim=1):
            returned = step(piece, state)
            if not isinstance(returned, tuple | list) or len(returned) != 2:
                said = type(returned).__name__
                raise TroubleError(f"its step returns {said}, and not an output and a state")
            output, state = returned
            outputs.append(_tensor(output))
        try:
            pieces = torch.cat(outputs, 1)
        except (RuntimeError, IndexError) as error:
            raise TroubleError(f"its pieces do not make a sequence: {error}") from error
        if pieces.shape != whole.shape:
            example = f"{words}: {tuple(pieces.shape)} for {tuple(whole.shape)}"
            found.append((NAMED["cache differs"], example))
            break
        difference = _per_token(pieces - whole)
        if not difference.isfinite().all() or difference.max() > 1e-4 * whole.abs().max():
            is_near = difference <= 1e-4 * whole.abs().max()  # not so where it is NaN
            position = int((~is_near).nonzero()[0])
            example = (
                f"{words}: from position {position} on the output differs, by up to "
                f"{difference.max():.2g}"
            )
            found.append((NAMED[_kind(full, inputs, pieces)], example))
            break
    return found


def _kind(full: _Guarded, inputs: Tensor, pieces: Tensor) -> str:
    """Whether each token was read as if it were the first."""
    alone = torch.cat([full.output(inputs[:, t : t + 1]) for t in range(inputs.shape[1])], 1)
    same = (pieces - alone).abs().max() <= 1e-4 * alone.abs().max()
    return "cache forgets" if same else "cache differs"


def _per_token(difference: Tensor) -> Tensor:
    """The largest at each position of ``(batch, length, ...)``."""
    return difference.abs().reshape(*difference.shape[:2], -1).amax((0, 2))


def _future(full: _Guarded, inputs: Tensor, whole: Tensor) -> str | None:
    for token in range(inputs.shape[1] - 1, 0, -1):
        shorter = full.output(inputs[:, :token])
        difference = (shorter - whole[:, :token]).abs().max()
        if difference > 1e-4 * whole.abs().max():
            return f"without token {token} the outputs before it differ by {difference:.2g}"
    return None
