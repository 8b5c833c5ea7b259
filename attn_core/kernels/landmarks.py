"""Nyströmformer: attention by way of a few landmarks, the means of segments of the sequence."""

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.autocast import without_autocast
from attn_core.calls import checked_call
from attn_core.checks import check_sizes
from attn_core.kernels.padded import Padded, broadcasts_to, check_padded, real_keys
from attn_core.masks import Mask

_REASON = (
    "the landmarks of nystrom are means over all positions, before and after a query, so it "
    "cannot be causal"
)


@checked_call
def nystrom(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    landmarks: int,
    iterations: int | None = 6,
    causal: bool = False,
    mask: Tensor | Mask | None = None,
    query_mask: Tensor | Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    r"""Approximate attention by way of landmarks, after Nyström's method.

    .. math::
        \operatorname{softmax}\!\left(\tfrac{Q \tilde K^\top}{\sqrt D}\right)
        \operatorname{softmax}\!\left(\tfrac{\tilde Q \tilde K^\top}{\sqrt D}\right)^{+}
        \operatorname{softmax}\!\left(\tfrac{\tilde Q K^\top}{\sqrt D}\right) V

    The landmarks :math:`\tilde Q` and :math:`\tilde K` are the means of ``landmarks`` segments of
    the queries and of the keys, whose lengths differ by one at most. It costs
    (L + S) × landmarks scores instead of L × S. With as many landmarks as queries and keys, and
    the exact pseudo-inverse, it is exact. Its weights can be negative.

    Padding takes no part in the means: the result is that of the real queries and keys alone.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        landmarks: number of segments, at most L and at most S.
        iterations: steps of the paper's iterative pseudo-inverse; None for the exact one,
            from a singular value decomposition. Few steps are a further approximation where the
            middle matrix is nearly singular.
        causal: only False: a landmark is a mean of positions before and after a query.
        mask: which keys are real: ``masks.padding(lengths)``, or bool that broadcasts to
            ``(..., 1, 1, S)``.
        query_mask: which queries are real, in the same form; by default the same as ``mask`` where
            there are as many queries as keys, and all of them otherwise. The others take no part
            in the landmarks, but each still gets its row.
        scale: multiplies the scores; by default :math:`1/\sqrt{D}`.

    Returns:
        ``(..., Hq, L, Dv)``; zeros where no key is real.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, there are more landmarks than queries or keys, ``causal``
            is True, or a mask says more than what is real.

    Source: Xiong et al. (2021), without the convolution that they add beside it.

    Example:
        >>> import torch, attn_core
        >>> x = torch.randn(2, 7, 4)
        >>> exact = attn_core.attention(x, x, x)
        >>> torch.allclose(nystrom(x, x, x, landmarks=7, iterations=None), exact, atol=1e-3)
        True
    """
    if causal:
        raise ValueError(f"causal must be False, got {causal!r}: {_REASON}")
    given = check_padded(query, key, value, mask=mask, scale=scale, reason=_REASON)
    q_len, k_len = given.query.shape[-2], given.key.shape[-2]
    check_sizes(landmarks=landmarks)
    if iterations is not None:
        check_sizes(least=0, iterations=iterations)
    if landmarks > min(q_len, k_len):
        raise ValueError(
            f"landmarks must be at most the number of queries and of keys, got landmarks "
            f"{landmarks}, {q_len} queries, {k_len} keys"
        )
    real_query = _real_queries(query_mask, given, k_len)

    # A pseudo-inverse enlarges rounding: half precision is computed in single.
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        rows, keys, values = (x.to(dtype) for x in (given.query, given.key, given.value))
        rows = rows * given.scale
        real_rows = rows if real_query is None else rows.masked_fill(~real_query.mT, 0.0)
        row_landmarks, has_row = _segment_means(real_rows, real_query, landmarks)
        key_landmarks, has_key = _segment_means(keys, given.real, landmarks)

        to_landmarks = _weights(rows @ key_landmarks.mT, has_key)  # (..., L, landmarks)
        among_landmarks = _weights(row_landmarks @ key_landmarks.mT, has_key)
        from_landmarks = _weights(row_landmarks @ keys.mT, given.real)  # (..., landmarks, S)
        if has_row is not None:
            among_landmarks = among_landmarks.masked_fill(~has_row.mT, 0.0)
        if iterations is None:
            inverse = torch.linalg.pinv(among_landmarks)
        else:
            inverse = _iterative_pinv(among_landmarks, iterations)
        output = to_landmarks @ (inverse @ (from_landmarks @ values))
    return given.restore(output.to(query.dtype))


def _real_queries(query_mask: Tensor | Mask | None, given: Padded, k_len: int) -> Tensor | None:
    """Which queries are real: bool ``(..., 1, 1, 1, L)``, or None for all of them."""
    *leading, _, _, q_len, _ = given.query.shape
    if query_mask is None:
        return given.real if q_len == k_len else None
    if not isinstance(query_mask, Mask) and getattr(query_mask, "dtype", None) != torch.bool:
        seen = getattr(query_mask, "dtype", type(query_mask).__name__)
        raise TypeError(
            f"query_mask must be a bool tensor or a mask of attn_core.masks, got {seen}"
        )
    if isinstance(query_mask, Mask):
        query_mask.check_fit(q_len, q_len, device=given.query.device)
    real = real_keys("query_mask", query_mask, q_len, given.query.device, _REASON)
    assert real is not None
    expected = (*leading, 1, 1, q_len)
    if real.shape[-1] != q_len or not broadcasts_to(real.shape, expected):
        raise ValueError(
            f"query_mask must broadcast to (..., 1, 1, queries) = {expected}, "
            f"got query_mask {tuple(real.shape)}"
        )
    return real[..., None, :, :]


def _segment_means(x: Tensor, real: Tensor | None, segments: int) -> tuple[Tensor, Tensor | None]:
    """Means of the segments of the real positions, and which segments have any.

    The real position number i of n belongs to segment ⌊i · segments / n⌋.
    """
    length = x.shape[-2]
    if real is None:
        rank = torch.arange(length, device=x.device)
        segment = rank * segments // length
        member = segment == torch.arange(segments, device=x.device)[:, None]  # (segments, length)
        return _mean(member, x), None
    rank = real.cumsum(-1) - 1  # (..., 1, length)
    segment = rank * segments // real.sum(-1, keepdim=True).clamp(min=1)
    member = (segment == torch.arange(segments, device=x.device)[:, None]) & real
    return _mean(member, x), member.any(-1).unsqueeze(-2)


def _mean(member: Tensor, x: Tensor) -> Tensor:
    share = member.to(x.dtype) / member.sum(-1, keepdim=True).clamp(min=1)
    return share @ x


def _weights(scores: Tensor, attended: Tensor | None) -> Tensor:
    if attended is not None:
        scores = scores.masked_fill(~attended, -torch.inf)
    return normalizers.softmax(scores)


def _iterative_pinv(matrix: Tensor, iterations: int) -> Tensor:
    """Approach the pseudo-inverse by matrix products alone.

    The first step is scaled for each matrix by itself: one scale for all of them, as is usual,
    would let the entries of a batch change each other's results.
    """
    size = matrix.sum(-2).amax(-1)  # times the largest sum of a row, which is 1
    size = size.masked_fill(size == 0, 1.0)[..., None, None]
    inverse = matrix.mT / size
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        product = matrix @ inverse
        inner = 7 * identity - product
        inner = 15 * identity - product @ inner
        inverse = inverse @ (13 * identity - product @ inner) / 4
    return inverse
