"""Linear attention: keys and queries are compared by a product of features, so sums are enough."""

from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor

from attn_core.autocast import without_autocast
from attn_core.calls import checked_call
from attn_core.checks import check_floating_point
from attn_core.kernels.padded import check_padded
from attn_core.kernels.recurrence import (
    RecurrentOutput,
    Tokens,
    check_chunk_size,
    first_state,
    recur,
)
from attn_core.masks import Mask

FeatureMap = Callable[[Tensor], Tensor]


def elu_plus_one(x: Tensor) -> Tensor:
    r"""Turn a vector into positive features, one for each of its entries.

    .. math::
        \phi(x) = \operatorname{elu}(x) + 1
        = \begin{cases} x + 1 & x > 0 \\ e^x & x \le 0 \end{cases}

    Args:
        x: any shape, floating point.

    Returns:
        Features above 0, shaped like ``x``.

    Raises:
        TypeError: if ``x`` is not a floating point tensor.

    Source: Katharopoulos, Vyas, Pappas and Fleuret (2020), section 3.2.1.

    Example:
        >>> import torch
        >>> elu_plus_one(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0.3679, 1.0000, 3.0000])
    """
    check_floating_point("x", x)
    # max(x, 0) + e^min(x, 0). As elu(x) + 1 it would be 0 below −17 in float32: e^x − 1 rounds to
    # −1 there.
    return x.relu() + x.clamp(max=0).exp()


@overload
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: FeatureMap = ...,
    causal: bool = ...,
    mask: Tensor | Mask | None = ...,
    past_state: Tensor | None = ...,
    return_state: Literal[False] = ...,
    chunk_size: int = ...,
) -> Tensor: ...


@overload
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: FeatureMap = ...,
    causal: bool = ...,
    mask: Tensor | Mask | None = ...,
    past_state: Tensor | None = ...,
    return_state: Literal[True],
    chunk_size: int = ...,
) -> RecurrentOutput: ...


@checked_call
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    feature_map: FeatureMap = elu_plus_one,
    causal: bool = False,
    mask: Tensor | Mask | None = None,
    past_state: Tensor | None = None,
    return_state: bool = False,
    chunk_size: int = 64,
) -> Tensor | RecurrentOutput:
    r"""Attend with weights that are products of features, at a cost linear in the length.

    .. math::
        o_i = \frac{\sum_j \phi(q_i) \cdot \phi(k_j) \, v_j}{\sum_j \phi(q_i) \cdot \phi(k_j)}
        = \frac{\big( \sum_j \phi(k_j) v_j^\top \big)^{\!\top} \phi(q_i)}
               {\big( \sum_j \phi(k_j) \big) \cdot \phi(q_i)}

    The sums on the right do not depend on the query: they are computed once. With ``causal`` they
    run over :math:`j \le i`, and are carried along the sequence: a recurrence, computed in chunks.
    It is exact: not an approximation of softmax attention, but attention with another score.

    Half precision is computed in float32. A query with no key to attend gives output 0 and
    gradient 0. A padded key or value reaches nothing, whatever it holds.

    Args:
        query: ``(..., Hq, L, D)``, or ``(L, D)``.
        key: ``(..., Hkv, S, D)``, or ``(S, D)``; Hq is a multiple of Hkv.
        value: ``(..., Hkv, S, Dv)``, or ``(S, Dv)``.
        feature_map: φ, a callable that turns ``(..., D)`` into ``(..., F)``; it sees float32 where
            query and key are in half precision. Its products should be positive, as weights are:
            where their sum is 0 the output is 0.
        causal: whether query i attends keys 0 to i only; there must be as many queries as keys.
        mask: which keys are real: ``masks.padding(lengths)``, or bool ``(..., 1, 1, S)``.
        past_state: the state of an earlier call, whose keys come before these.
        return_state: whether to return the state too.
        chunk_size: tokens in a chunk where ``causal``, a power of 2. It changes the speed, and the
            result by rounding only: 1 is the recurrence, S the form without one, quadratic in S.

    Returns:
        The output ``(..., Hq, L, Dv)``; or :class:`RecurrentOutput` with the output and the state
        ``(..., Hkv, F, Dv + 1)``: the sum of :math:`\phi(k_j) \, [v_j; 1]^\top`.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if shapes, devices or ranges do not fit.

    Source: Katharopoulos, Vyas, Pappas and Fleuret (2020), sections 3.2 to 3.4.

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> linear_attention(x, x, x, causal=True)
        tensor([[1.0000, 0.0000, 0.0000],
                [0.4545, 0.5455, 0.0000],
                [0.3125, 0.3125, 0.3750]])
        >>> first, state = linear_attention(x[:2], x[:2], x[:2], causal=True, return_state=True)
        >>> linear_attention(x[2:], x[2:], x[2:], causal=True, past_state=state)
        tensor([[0.3125, 0.3125, 0.3750]])
    """
    padded = check_padded(
        query,
        key,
        value,
        mask=mask,
        scale=None,
        reason="all queries share one sum over the keys",
    )
    if not callable(feature_map):
        raise TypeError(f"feature_map must be a callable, got {feature_map!r}")
    check_chunk_size(chunk_size)
    if causal and query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "causal linear attention needs as many queries as keys, got query "
            f"{tuple(query.shape)}, key {tuple(key.shape)}; keys of earlier tokens are given as "
            "past_state"
        )
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        queries = _features("query", feature_map, padded.query.to(dtype))
        keys = _features("key", feature_map, padded.key.to(dtype)).squeeze(-3)
        values = padded.value.to(dtype).squeeze(-3)
        if padded.real is not None:
            keys = keys.masked_fill(~padded.real.squeeze(-3).mT, 0.0)
        # A value of 1 beside the others gathers the sum that they are divided by.
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        leading = torch.broadcast_shapes(keys.shape[:-2], values.shape[:-2])
        state_shape = (*leading, keys.shape[-1], values.shape[-1])
        state = first_state(past_state, values, state_shape, padded.without_heads)
        if causal:
            sums, state = recur(Tokens(queries, keys, values), state, chunk_size)
        else:
            state = state + keys.mT @ values
            sums = (queries.flatten(-3, -2) @ state).unflatten(-2, queries.shape[-3:-1])
        weighted, total = sums[..., :-1], sums[..., -1:]
        nothing = total == 0
        output = (weighted / total.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)
    output = padded.restore(output.to(query.dtype))
    if not return_state:
        return output
    return RecurrentOutput(output, state[0] if padded.without_heads else state)


def _features(name: str, feature_map: FeatureMap, x: Tensor) -> Tensor:
    features = feature_map(x)
    if not isinstance(features, Tensor):
        raise TypeError(f"feature_map must return a torch tensor, got {type(features).__name__}")
    if features.shape[:-1] != x.shape[:-1] or features.dtype != x.dtype:
        raise ValueError(
            f"feature_map must turn {name} {tuple(x.shape)} of {x.dtype} into "
            f"{(*x.shape[:-1], 'features')} of the same dtype, got {tuple(features.shape)} of "
            f"{features.dtype}"
        )
    return features
