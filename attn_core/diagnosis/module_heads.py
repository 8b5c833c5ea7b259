"""Whether a module splits and joins its heads as it should: equal tokens tell it from outside."""

import torch
from torch import Tensor

from attn_core.diagnosis.calling import TroubleError
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED
from attn_core.diagnosis.runner import Runner

HEADS_ATTRIBUTES = ("num_heads", "n_heads", "n_head", "heads", "nhead", "h")
_SUBJECT = "whether heads, if it has several, are split and joined as they should be"


def heads_mixed(runner: Runner) -> tuple[tuple[Mistake, str] | None, tuple[str, ...]]:
    r"""The mistake, if there is one; and what cannot be told.

    Equal tokens have equal values, and whatever the weights are, their sum is 1: each output is
    that of the token alone, with any mask and with any position that acts on scores. Where heads
    are split or joined by a view, a head gets pieces of several kinds, in a pattern that repeats
    with the number of heads. What positions added to the tokens do looks like neither, and hides
    the rest.
    """
    try:
        alone = _outputs(runner, 1)
        if alone.ndim == 2:
            is_right = _near(_outputs(runner, 6), alone)
            return None, () if is_right else (f"{_SUBJECT}: there is one output for all tokens",)
        if all(_near(_outputs(runner, length), alone) for length in (6, 4)):
            return None, ()
        for heads in _numbers_of_heads(runner):
            mistake = _mistake(runner, alone, heads)
            if mistake is not None:
                return (NAMED[mistake], f"{heads} heads, as equal tokens show"), ()
    except (TroubleError, RuntimeError, IndexError) as error:
        return None, (f"{_SUBJECT}: {str(error).splitlines()[0]}",)
    return None, (
        f"{_SUBJECT}; that cannot be told from outside, since equal tokens do not get what one of "
        "them gets alone, as where positions are added to them",
    )


def _outputs(runner: Runner, length: int) -> Tensor:
    """What it gives for so many times the same token."""
    tokens = (x[:, :1].expand(-1, length, *x.shape[2:]).clone() for x in runner.inputs)
    return runner.output(*tokens)


def _near(output: Tensor, other: Tensor) -> bool:
    return bool((output - other).abs().max() <= 1e-5 * max(1e-3, float(other.abs().max())))


def _numbers_of_heads(runner: Runner) -> list[int]:
    width = runner.inputs[0].shape[-1] if runner.inputs[0].is_floating_point() else 0
    named = [getattr(runner.module, name, None) for name in HEADS_ATTRIBUTES]
    known = [x for x in named if isinstance(x, int) and x > 1]
    return known or [heads for heads in range(2, 17) if width % heads == 0] or [2, 3, 4, 8]


def _mistake(runner: Runner, alone: Tensor, heads: int) -> str | None:
    """Which mistake makes this pattern, of two or three times as many tokens as heads."""
    twice, thrice = _outputs(runner, 2 * heads), _outputs(runner, 3 * heads)
    if _near(twice, twice[:, :1]):
        # Sums that grow with the number of tokens are no weights, and no question of heads.
        return "heads split by view" if _near(thrice[:, : 2 * heads], twice) else None
    if _near(twice, twice[:, :heads].repeat(1, 2, 1)) and _near(
        thrice, thrice[:, :heads].repeat(1, 3, 1)
    ):
        return "heads split by view"
    if all(
        _near(output, torch.repeat_interleave(output[:, ::run], run, 1))
        for output, run in ((twice, 2), (thrice, 3))
    ):
        return "heads joined by view"
    return None
