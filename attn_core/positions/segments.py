"""Segments: stretches of a sequence that are told apart, or that count their positions anew."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_integers,
    check_one_per_vector,
    check_same_kind,
    check_sequence,
    check_sizes,
    has_numbers,
)


def restarting(segment_ids: Tensor) -> Tensor:
    r"""Count positions from 0 again in each segment.

    .. math:: p_t = \begin{cases} 0 & t = 0 \text{ or } s_t \ne s_{t-1} \\
                                  p_{t-1} + 1 & \text{otherwise} \end{cases}

    A segment is a stretch of equal ids. The positions can be given to
    :class:`SinusoidalEncoding`, :class:`LearnedEncoding`, :func:`rotary` and :class:`Rotary`.

    Tokens of two segments then share their positions: without something else that tells the
    segments apart, such as a :class:`SegmentEncoding` or ``masks.document(segment_ids)``,
    attention cannot know which is which.

    Args:
        segment_ids: integers ``(..., L)``.

    Returns:
        Positions, integers ``(..., L)``.

    Raises:
        TypeError: if ``segment_ids`` holds no integers.
        ValueError: if it has no dimension.

    Source: D4, section 2.3.3, whose k segments of equal length m are the ids ``t // m``.

    Example:
        >>> import torch
        >>> restarting(torch.tensor([7, 7, 7, 2, 2, 7]))
        tensor([0, 1, 2, 0, 1, 0])
    """
    check_integers("segment_ids", segment_ids)
    if segment_ids.ndim == 0:
        raise ValueError("segment_ids must be (..., length), got one number")
    here = torch.arange(segment_ids.shape[-1], device=segment_ids.device)
    if segment_ids.shape[-1] == 0:
        return here.expand(segment_ids.shape)
    starts = torch.zeros_like(segment_ids, dtype=torch.bool)
    starts[..., 1:] = segment_ids[..., 1:] != segment_ids[..., :-1]
    return here - torch.where(starts, here, 0).cummax(-1).values


@checked_call
class SegmentEncoding(nn.Module):
    r"""Add a learned vector per segment to each vector of a sequence.

    .. math:: y_t = x_t + E_{s_t}

    BERT tells the two sentences of its input apart by it, beside an encoding of positions.

    Args:
        segments: number of segments that are told apart.
        dim: width of the sequence.

    Attributes:
        weight: :math:`E`, ``(segments, dim)``.

    Raises:
        TypeError: if a size is not an integer, or ``segment_ids`` holds no integers.
        ValueError: if a size is not positive, ``x`` has another width, or ``segment_ids`` does not
            fit it or names a segment that there is not.

    Source: Devlin et al. (2019), section 3 and figure 2.

    Example:
        >>> import torch
        >>> layer = SegmentEncoding(segments=2, dim=4)
        >>> layer(torch.zeros(3, 5, 4), torch.tensor([0, 0, 0, 1, 1])).shape
        torch.Size([3, 5, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, segments: int, dim: int) -> None:
        super().__init__()
        check_sizes(segments=segments, dim=dim)
        self.weight = nn.Parameter(torch.empty(segments, dim))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor, segment_ids: Tensor) -> Tensor:
        """Encode ``x`` ``(..., L, dim)`` by integers that broadcast to ``(..., L)``."""
        segments, dim = self.weight.shape
        check_sequence("x", x, dim)
        check_same_kind("x", x, "the layer", self.weight)
        check_integers("segment_ids", segment_ids)
        check_one_per_vector("segment_ids", segment_ids, x)
        if has_numbers(segment_ids) and segment_ids.numel():
            first, last = (int(end) for end in segment_ids.aminmax())
            if first < 0 or last >= segments:
                raise ValueError(
                    f"segment_ids must be from 0 to {segments - 1}, got {first} to {last}"
                )
        return x + self.weight[segment_ids.long()]

    def extra_repr(self) -> str:
        segments, dim = self.weight.shape
        return f"segments={segments}, dim={dim}"
