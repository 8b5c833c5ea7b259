"""T5's bias: a learned number per head for each range of distances."""

import torch
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import check_integers, check_same_kind, check_sizes
from attn_core.positions.bias import Bias


@checked_call
def t5_bucket(
    distance: Tensor, *, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
) -> Tensor:
    r"""Sort distances into buckets: near ones each into its own, far ones ever more together.

    With :math:`n` buckets for one direction, of which :math:`e = \lfloor n / 2 \rfloor` hold one
    distance each:

    .. math::
        \operatorname{bucket}(d) = \begin{cases} |d| & |d| < e \\
        \min\!\left(n - 1, \; e + \left\lfloor (n - e) \,
        \frac{\ln(|d| / e)}{\ln(\text{max\_distance} / e)} \right\rfloor\right) & |d| \ge e
        \end{cases}

    With ``bidirectional``, half of the buckets are for keys before the query or at it, and the
    other half, n further on, for keys after it. Without, a key after the query is in bucket 0.

    The borders between buckets are found with integers, so no logarithm is rounded.

    Args:
        distance: integers of any shape, key position − query position.
        buckets: how many there are, for both directions together.
        max_distance: from this distance on, all are in the last bucket.
        bidirectional: whether keys after the query are told apart.

    Returns:
        Integers from 0 to buckets − 1, shaped like ``distance``.

    Raises:
        TypeError: if ``distance`` holds no integers, or a size is not an integer.
        ValueError: if there are fewer than 2 buckets for a direction, an odd number for two, or
            ``max_distance`` leaves no room for the far ones.

    Source: Raffel et al. (2020), section 2.1, and their released code.

    Example:
        >>> import torch
        >>> t5_bucket(torch.tensor([-200, -20, -2, -1, 0, 1, 2, 20, 200]))
        tensor([15, 10,  2,  1,  0, 17, 18, 26, 31])
    """
    check_integers("distance", distance)
    distance = distance.long()
    per_direction = _buckets_per_direction(buckets, max_distance, bidirectional)
    starts = torch.tensor(_starts(per_direction, max_distance), device=distance.device)
    if not bidirectional:
        return torch.bucketize((-distance).clamp(min=0), starts, right=True)
    nearness = torch.bucketize(distance.abs(), starts, right=True)
    return nearness + per_direction * (distance > 0)


@checked_call
class T5Bias(Bias):
    r"""Add a learned number per head that depends on the bucket of the distance.

    .. math:: s_{ij} \leftarrow s_{ij} + w_{\operatorname{bucket}(d_{ij}), h}

    T5 does not scale its scores: use ``scale=1.0`` for what it computes. It shares one bias among
    all its layers.

    Args:
        heads: number of query heads.
        buckets: as in :func:`t5_bucket`, and so are the others.
        max_distance: as there.
        bidirectional: as there; an encoder's is, a decoder's is not.

    Attributes:
        weight: :math:`w`, ``(buckets, heads)``, as T5's ``relative_attention_bias.weight``.

    Raises:
        TypeError: if a size is not an integer, or ``query`` has another dtype than the layer.
        ValueError: as :func:`t5_bucket`.

    Source: Raffel et al. (2020), section 2.1.

    Example:
        >>> bias = T5Bias(heads=2, buckets=4, max_distance=3)
        >>> _ = torch.nn.init.constant_(bias.weight[:2], 1.0)  # not after the query
        >>> _ = torch.nn.init.constant_(bias.weight[2:], 0.0)  # after it
        >>> bias.dense(2, 2)[0].detach()
        tensor([[1., 0.],
                [1., 1.]])
    """

    def __init__(
        self,
        heads: int,
        *,
        buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool = True,
    ) -> None:
        super().__init__(heads)
        per_direction = _buckets_per_direction(buckets, max_distance, bidirectional)
        self.buckets = buckets
        self.max_distance = max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.weight, std=0.02)
        # Every distance from the last bucket's start on is like that start.
        self._furthest = _starts(per_direction, max_distance)[-1]
        near = torch.arange(-self._furthest, self._furthest + 1, device="cpu")
        # Numbers and no tensor, which would be lost where a layer starts on the meta device.
        self._bucket_of: list[int] = t5_bucket(
            near, buckets=buckets, max_distance=max_distance, bidirectional=bidirectional
        ).tolist()

    def forward(self, query: Tensor, key: Tensor, distance: Tensor) -> Tensor:
        """Give the bias of a block, ``(heads, L, S)`` or ``(batch, heads, L, S)``."""
        check_same_kind("query", query, "the layer", self.weight)
        bucket_of = torch.tensor(self._bucket_of, device=distance.device)
        by_distance = self.weight[bucket_of].to(query.dtype).T  # (heads, 2 · furthest + 1)
        index = distance.clamp(-self._furthest, self._furthest) + self._furthest
        bias = by_distance.index_select(1, index.flatten()).unflatten(1, index.shape)
        return bias if distance.ndim == 2 else bias.squeeze(2).movedim(0, 1)

    def extra_repr(self) -> str:
        return (
            f"heads={self.heads}, buckets={self.buckets}, max_distance={self.max_distance}, "
            f"bidirectional={self.bidirectional}"
        )


def _buckets_per_direction(buckets: int, max_distance: int, bidirectional: bool) -> int:
    check_sizes(buckets=buckets, max_distance=max_distance)
    if not isinstance(bidirectional, bool):
        raise TypeError(f"bidirectional must be True or False, got {bidirectional!r}")
    if bidirectional and (buckets % 2 or buckets < 4):
        raise ValueError(f"buckets must be even and at least 4 for two directions, got {buckets}")
    if buckets < 2:
        raise ValueError(f"buckets must be at least 2, got {buckets}")
    per_direction = buckets // 2 if bidirectional else buckets
    if max_distance <= per_direction // 2:
        raise ValueError(
            f"max_distance must be above {per_direction // 2}, the number of buckets that hold one "
            f"distance each, got {max_distance}"
        )
    return per_direction


def _starts(per_direction: int, max_distance: int) -> list[int]:
    """The least distance in each bucket but the first, whose least distance is 0."""
    exact = per_direction // 2
    far = per_direction - exact
    starts = list(range(1, exact + 1))
    distance = exact
    for bucket in range(1, far):
        # A rounded number to begin with, and the first integer d from there on with
        # far · ln(d / exact) / ln(max_distance / exact) ≥ bucket, without logarithms.
        distance = max(distance, int(exact * (max_distance / exact) ** (bucket / far)) - 1)
        while distance**far < max_distance**bucket * exact ** (far - bucket):
            distance += 1
        starts.append(distance)
    return starts
