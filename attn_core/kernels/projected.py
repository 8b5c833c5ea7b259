"""Linformer: attend a few learned mixtures of the keys instead of all of them."""

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.calls import checked_call
from attn_core.checks import check_floating_point, check_same_kind
from attn_core.kernels.padded import Padded, broadcasts_to, check_padded
from attn_core.masks import Mask
from attn_core.scores import scaled_product

_REASON = "linformer mixes keys of all positions before a query sees any, so it cannot be causal"


@checked_call
def linformer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_projection: Tensor,
    value_projection: Tensor | None = None,
    causal: bool = False,
    mask: Tensor | Mask | None = None,
    scale: float | None = None,
) -> Tensor:
    r"""Approximate attention by attending r mixtures of the S keys.

    .. math:: \operatorname{softmax}\!\left(\frac{Q (E K)^\top}{\sqrt{D}}\right) F V

    It costs L × r scores instead of L × S. With the identity for E and F it is exact. The
    projections are meant to be learned; random ones give little more than the mean of the values
    (measure with :func:`approximation_error`).

    Padded keys and values are zeros in the mixtures, and a mixture that draws on no real key is
    left out. So the result is that of the real keys alone, with the columns of E and F that belong
    to them.

    Args:
        query: ``(..., Hq, L, D)``.
        key: ``(..., Hkv, S, D)``.
        value: ``(..., Hkv, S, Dv)``.
        key_projection: E, ``(r, S)``, or ``(..., Hkv, r, S)`` with one for each key-value head.
        value_projection: F, of the same kind; by default E.
        causal: only False. A mixture holds keys of all positions, so that a query cannot see some
            of them and not the others.
        mask: which keys are real: ``masks.padding(lengths)``, or bool that broadcasts to
            ``(..., 1, 1, S)``.
        scale: multiplies the scores; by default :math:`1/\sqrt{D}`.

    Returns:
        ``(..., Hq, L, Dv)``; zeros where no key is real.

    Raises:
        TypeError: if a tensor is not floating point, or dtypes differ.
        ValueError: if shapes do not fit, ``causal`` is True, or ``mask`` says more than which keys
            are real.

    Source: Wang et al. (2020), section 4; value_projection = key_projection is their key-value
    sharing.

    Example:
        >>> import torch
        >>> query, key, value = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8), torch.eye(6)
        >>> linformer(query, key, value.expand(2, 4, 6, 6), key_projection=torch.randn(3, 6)).shape
        torch.Size([2, 4, 5, 6])
    """
    if causal:
        raise ValueError(f"causal must be False, got {causal!r}: {_REASON}")
    given = check_padded(query, key, value, mask=mask, scale=scale, reason=_REASON)
    mix_keys = _grouped("key_projection", key_projection, given)
    mix_values = mix_keys
    if value_projection is not None:
        mix_values = _grouped("value_projection", value_projection, given)
        if mix_values.shape[-2] != mix_keys.shape[-2]:
            raise ValueError(
                "key_projection and value_projection must mix into equally many, got "
                f"key_projection {tuple(key_projection.shape)}, "
                f"value_projection {tuple(value_projection.shape)}"
            )
    mixed_key = mix_keys @ given.key  # (..., Hkv, 1, r, D)
    mixed_value = mix_values @ given.value  # (..., Hkv, 1, r, Dv)
    scores = scaled_product(given.query, mixed_key, given.scale)  # (..., Hkv, Hq / Hkv, L, r)
    if given.real is not None:
        draws_on_a_key = ((mix_keys != 0) & given.real).any(-1).unsqueeze(-2)
        scores = scores.masked_fill(~draws_on_a_key, -torch.inf)
    return given.restore(normalizers.softmax(scores) @ mixed_value)


def _grouped(name: str, projection: Tensor, given: Padded) -> Tensor:
    """Check a projection and give it the dimension for the groups: ``(..., Hkv, 1, r, S)``."""
    check_floating_point(name, projection)
    check_same_kind(name, projection, "query", given.query)
    *_, heads, _, k_len, _ = given.key.shape
    leading = torch.broadcast_shapes(given.query.shape[:-4], given.key.shape[:-4])
    if projection.ndim < 2 or projection.shape[-1] != k_len or projection.shape[-2] == 0:
        raise ValueError(f"{name} must be (..., r, {k_len}), got {tuple(projection.shape)}")
    if not broadcasts_to(projection.shape[:-2], (*leading, heads)):
        raise ValueError(
            f"{name} must broadcast to (..., key-value heads, r, keys) = "
            f"{(*leading, heads, projection.shape[-2], k_len)}, got {tuple(projection.shape)}"
        )
    return projection if projection.ndim == 2 else projection.unsqueeze(-3)
