"""FAVOR+: the softmax by random features, in time and memory linear in the length."""

import math

import torch
from torch import Tensor

from attn_core.autocast import without_autocast
from attn_core.calls import checked_call
from attn_core.checks import check_floating_point, check_same_kind, check_sequence, check_sizes
from attn_core.kernels.padded import check_padded
from attn_core.kernels.recurrence import Tokens, recur
from attn_core.masks import Mask

_REASON = "for the causal form there is causal=True"
_CHUNK = 64  # Tokens of a chunk of the causal form.
_TOO_LITTLE = 1e-20  # A sum of weights so small may lack terms that single precision cannot hold.


@checked_call
def orthogonal_projection(
    features: int,
    dim: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Draw random directions for :func:`favor`, orthogonal in blocks of ``dim``.

    .. math:: \omega_r \sim \mathcal N(0, I), \qquad \omega_r \cdot \omega_s = 0

    for r and s of one block. Each row alone is normally distributed, so that estimates stay
    unbiased; being orthogonal, the rows repeat each other less.

    Args:
        features: number of rows.
        dim: their width, that of a query.
        generator: of the draw; by default PyTorch's own.
        dtype: by default PyTorch's default.
        device: where the projection is wanted; it is drawn where the generator is.

    Returns:
        ``(features, dim)``.

    Raises:
        TypeError: if a size is no integer.
        ValueError: if a size is not positive.

    Source: Choromanski et al. (2021), section 2, orthogonal random features.

    Example:
        >>> rows = orthogonal_projection(6, 4, generator=torch.Generator().manual_seed(0))
        >>> products = rows[:4] @ rows[:4].T
        >>> torch.allclose(products, products.diag().diag(), atol=1e-5)
        True
    """
    check_sizes(features=features, dim=dim)
    where = "cpu" if generator is None else generator.device
    blocks = -(-features // dim)
    # In float64, so that the rows are orthogonal in whatever dtype is wanted.
    normal = torch.randn(blocks, dim, dim, generator=generator, dtype=torch.float64, device=where)
    lengths = torch.linalg.vector_norm(
        torch.randn(blocks, dim, dim, generator=generator, dtype=torch.float64, device=where),
        dim=-1,
        keepdim=True,
    )
    directions, triangle = torch.linalg.qr(normal)
    # The signs make the directions uniform: a QR decomposition alone prefers some.
    directions = directions * triangle.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    rows = (lengths * directions.mT).flatten(0, 1)[:features]
    return rows.to(device=device, dtype=torch.get_default_dtype() if dtype is None else dtype)


def positive_features(x: Tensor, projection: Tensor) -> Tensor:
    r"""Turn vectors into positive random features, whose dot product estimates an exponential.

    .. math::
        \varphi(x)_r = \frac{1}{\sqrt m} \exp\!\left(\omega_r \cdot x - \frac{\lVert x \rVert^2}{2}
        \right), \qquad \mathbb E[\varphi(x) \cdot \varphi(y)] = e^{x \cdot y}

    Args:
        x: ``(..., L, D)``.
        projection: :math:`\omega`, ``(m, D)``, rows from the normal distribution.

    Returns:
        ``(..., L, m)``, all positive.

    Raises:
        TypeError: if an argument is not a floating point tensor, or dtypes differ.
        ValueError: if the widths differ.

    Source: Choromanski et al. (2021), lemma 1.

    Example:
        >>> x = torch.tensor([[0.3, 0.1]])
        >>> many = orthogonal_projection(4000, 2, generator=torch.Generator().manual_seed(0))
        >>> features = positive_features(x, many)
        >>> features @ features.T - (x @ x.T).exp() < 0.02
        tensor([[True]])
    """
    _check_projection(projection)
    check_sequence("x", x, projection.shape[-1])
    check_same_kind("x", x, "projection", projection)
    return _exponents(x, projection).exp() / math.sqrt(len(projection))


@checked_call
def favor(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    features: int | None = None,
    projection: Tensor | None = None,
    generator: torch.Generator | None = None,
    causal: bool = False,
    mask: Tensor | Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    r"""Approximate attention by positive orthogonal random features: FAVOR+, the Performer.

    .. math::
        o_i = \frac{\sum_j \varphi(q'_i) \cdot \varphi(k'_j) \; v_j}
                   {\sum_j \varphi(q'_i) \cdot \varphi(k'_j)},
        \qquad q' = \frac{q}{D^{1/4}}, \quad k' = \frac{k}{D^{1/4}}

    with the features :math:`\varphi` of :func:`positive_features`. Each product estimates
    :math:`\exp(q_i \cdot k_j / \sqrt D)` without bias, with an error that falls as
    :math:`1/\sqrt m` and grows exponentially with the length of :math:`q' + k'`; the quotient is
    biased a little. It costs (L + S) × m × (D + Dv) multiplications instead of L × S × (D + Dv).

    So that nothing over- or underflows, the features of the keys are divided by their largest
    value, which cancels out. In the causal form that is the largest value *so far*: a maximum over
    all keys would let a later key change an earlier output. Here it leaves them as they are, bit
    for bit.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        features: m, the number of random features; by default 256.
        projection: the random directions ``(m, D)``, instead of ``features``; by default every
            call draws new ones with :func:`orthogonal_projection`.
        generator: of the draw; by default PyTorch's own.
        causal: whether a query attends no key after its own; it needs L = S.
        mask: which keys are real: ``masks.padding(lengths)``, or bool that broadcasts to
            ``(..., 1, 1, S)``.
        scale: multiplies the scores; by default :math:`1/\sqrt{D}`.

    Returns:
        ``(..., Hq, L, Dv)``; zeros for a query that has no real key.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, ``causal`` is asked for with L ≠ S, ``mask`` says more
            than which keys are real, or ``projection`` is given beside what draws one.

    Source: Choromanski et al. (2021), section 2.

    Example:
        >>> import attn_core
        >>> generator = torch.Generator().manual_seed(0)
        >>> query, key, value = torch.randn(3, 2, 50, 8, generator=generator) / 2
        >>> exact = attn_core.attention(query, key, value)
        >>> estimate = favor(query, key, value, features=1000, generator=generator)
        >>> (estimate - exact).norm() / exact.norm() < 0.15
        tensor(True)
    """
    given = check_padded(query, key, value, mask=mask, scale=scale, reason=_REASON)
    q_len, k_len = given.query.shape[-2], given.key.shape[-2]
    if causal and q_len != k_len:
        raise ValueError(
            f"causal=True needs as many queries as keys, got {q_len} queries, {k_len} keys"
        )
    projection = _projection(features, projection, generator, query)

    # Exponentials need the range of single precision.
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        projection = projection.to(dtype)
        root = math.sqrt(abs(given.scale))
        rows = given.query.to(dtype) * math.copysign(root, given.scale)
        keys = given.key.to(dtype) * root
        # (..., Hkv, Hq / Hkv, L, m) and (..., Hkv, 1, S, m). What a query's own length adds is the
        # same in all its features, and cancels out.
        row_exponents = rows @ projection.mT
        key_exponents = _exponents(keys, projection)
        if given.real is not None:
            key_exponents = key_exponents.masked_fill(~given.real.mT, -torch.inf)
        # A value of 1 beside the others gathers the sum that they are divided by.
        values = given.value.to(dtype)
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        sums = (_causal_sums if causal else _sums)(row_exponents, key_exponents, values)
        weighted, total = sums[..., :-1], sums[..., -1:]
        nothing = total == 0
        output = (weighted / total.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)
    return given.restore(output.to(query.dtype))


def _exponents(x: Tensor, projection: Tensor) -> Tensor:
    return x @ projection.mT - x.square().sum(-1, keepdim=True) / 2


def _sums(rows: Tensor, keys: Tensor, value: Tensor) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j over all keys, up to a factor of each query."""
    largest = _finite(keys.detach().amax(-2, keepdim=True)) if keys.shape[-2] else 0.0
    memory = (keys - largest).exp().mT @ value  # (..., Hkv, 1, m, Dv + 1)
    reading = _largest_is_one(rows + largest)
    group = reading.shape[-3]
    return (reading.flatten(-3, -2).unsqueeze(-3) @ memory).unflatten(-2, (group, -1)).squeeze(-4)


def _causal_sums(rows: Tensor, keys: Tensor, value: Tensor) -> Tensor:
    """Σ_j φ(q_i)·φ(k_j) v_j over the keys up to the query's own, up to a factor of each query."""
    fixed = keys.detach()
    largest = fixed.amax(-1, keepdim=True).cummax(-2).values  # of all features, of the keys so far
    sums = _carried_sums(rows, keys, value, largest)
    # Where a query reads features that are far below the largest, nothing is left of them. Those
    # queries need the largest value of each feature by itself, at three times the cost.
    lost = (sums[..., -1:] < _TOO_LITTLE) & ~largest.isneginf()
    if lost.any():
        sums = torch.where(lost, _carried_sums(rows, keys, value, fixed.cummax(-2).values), sums)
    return sums


def _carried_sums(rows: Tensor, keys: Tensor, value: Tensor, largest: Tensor) -> Tensor:
    """Carry the sums along the sequence, divided by the largest value so far.

    Whenever that grows, all that was summed before shrinks: it is a memory that fades.

    Args:
        rows: exponents of the queries, ``(..., Hkv, Hq / Hkv, L, m)``.
        keys: exponents of the keys, ``(..., Hkv, 1, L, m)``.
        value: ``(..., Hkv, 1, L, Dv + 1)``.
        largest: the largest exponents so far, ``(..., Hkv, 1, L, m)`` or ``(..., Hkv, 1, L, 1)``.
    """
    no_key_before = largest[..., :-1, :].isneginf()  # where nothing can fade
    largest = _finite(largest)
    fades = (largest[..., :-1, :] - largest[..., 1:, :]).masked_fill(no_key_before, 0.0)
    fades = torch.cat([torch.zeros_like(largest[..., :1, :]), fades], -2)
    leading = torch.broadcast_shapes(rows.shape[:-4], keys.shape[:-4], value.shape[:-4])
    kv_heads = keys.shape[-4]

    def without_groups(x: Tensor) -> Tensor:
        return x.squeeze(-3).expand(*leading, kv_heads, -1, -1)

    reading = _largest_is_one(rows + largest)
    tokens = Tokens(
        query=reading.expand(*leading, *reading.shape[-4:]),
        key=without_groups((keys - largest).exp()),
        value=without_groups(value),
        decay=without_groups(fades),
    )
    memory = value.new_zeros(*leading, kv_heads, keys.shape[-1], value.shape[-1])
    return recur(tokens, memory, _CHUNK)[0]


def _largest_is_one(exponents: Tensor) -> Tensor:
    return (exponents - exponents.detach().amax(-1, keepdim=True)).exp()


def _finite(largest: Tensor) -> Tensor:
    """Where there was no key at all, any number does."""
    return largest.masked_fill(largest.isneginf(), 0.0)


def _projection(
    features: int | None,
    projection: Tensor | None,
    generator: torch.Generator | None,
    query: Tensor,
) -> Tensor:
    width = query.shape[-1]
    if projection is None:
        features = 256 if features is None else features
        check_sizes(features=features)
        dtype = torch.promote_types(query.dtype, torch.float32)
        return orthogonal_projection(
            features, width, generator=generator, dtype=dtype, device=query.device
        )
    if features is not None or generator is not None:
        raise ValueError("projection is given, and features or generator too, which draw one")
    _check_projection(projection)
    check_same_kind("projection", projection, "query", query)
    if projection.shape[-1] != width:
        raise ValueError(f"projection must be (m, {width}), got {tuple(projection.shape)}")
    return projection


def _check_projection(projection: Tensor) -> None:
    check_floating_point("projection", projection)
    if projection.ndim != 2 or 0 in projection.shape:
        raise ValueError(f"projection must be (m, width), got {tuple(projection.shape)}")
