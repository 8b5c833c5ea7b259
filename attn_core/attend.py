"""Attention: score, normalise, aggregate."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Literal, NamedTuple, overload

from torch import Tensor

from attn_core.arguments import check_arguments
from attn_core.calls import checked_call
from attn_core.kernels import choosing, explicit, plain
from attn_core.masks import Mask
from attn_core.positions import Bias

__all__ = ["AttentionOutput", "attention"]

# What is told of the weights of every call, while attn_core.interpret.record reads a model.
watcher: ContextVar[Callable[[Tensor], None] | None] = ContextVar("watcher", default=None)
# All of them, in any thread: torch.compile can look at a list, and not at a ContextVar.
watchers: list[Callable[[Tensor], None]] = []


class AttentionOutput(NamedTuple):
    """What attention returns when it is asked for its weights.

    Attributes:
        output: ``(..., Hq, L, Dv)``, the weighted sums of the values.
        weights: ``(..., Hq, L, S)``, before dropout: a row sums to 1, or to 0 where a query may
            attend nothing.

    Example:
        >>> import torch, attn_core
        >>> x = torch.eye(2)
        >>> attn_core.attention(x, x, x, scale=0.0, return_weights=True).weights
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    output: Tensor
    weights: Tensor


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = ...,
    bias: Tensor | Bias | None = ...,
    score: Callable[[Tensor, Tensor], Tensor] | None = ...,
    normalizer: Callable[[Tensor, int], Tensor] | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    dropout_p: float = ...,
    q_offset: int | Tensor | None = ...,
    return_weights: Literal[False] = ...,
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = ...,
    bias: Tensor | Bias | None = ...,
    score: Callable[[Tensor, Tensor], Tensor] | None = ...,
    normalizer: Callable[[Tensor, int], Tensor] | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    dropout_p: float = ...,
    q_offset: int | Tensor | None = ...,
    return_weights: Literal[True],
) -> AttentionOutput: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = ...,
    bias: Tensor | Bias | None = ...,
    score: Callable[[Tensor, Tensor], Tensor] | None = ...,
    normalizer: Callable[[Tensor, int], Tensor] | None = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    dropout_p: float = ...,
    q_offset: int | Tensor | None = ...,
    return_weights: bool,
) -> Tensor | AttentionOutput: ...


@checked_call
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | Mask | None = None,
    bias: Tensor | Bias | None = None,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
    normalizer: Callable[[Tensor, int], Tensor] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    dropout_p: float = 0.0,
    q_offset: int | Tensor | None = None,
    return_weights: bool = False,
) -> Tensor | AttentionOutput:
    r"""Let each query gather a weighted sum of the values.

    .. math::
        \operatorname{Attention}(Q, K, V)
        = \operatorname{normalise}\big(\text{scale} \cdot \operatorname{score}(Q, K)\big) \, V

    By default that is

    .. math:: \operatorname{softmax}\!\left(\frac{Q K^\top}{\sqrt{D}}\right) V

    The order of operations is that of the ONNX ``Attention`` operator: score × scale → softcap →
    + bias → mask → normalise → dropout → aggregate.

    Dimensions before the heads broadcast. Plain matrices ``(L, D)`` work too. A number of query
    heads ``Hq`` that is a multiple of the key-value heads ``Hkv`` is grouped-query attention; keys
    and values are not copied for it.

    A query that may attend nothing gives output 0, weights 0 and gradient 0. NaN or infinity in a
    key or value that is masked out for every query reaches neither output nor gradient.

    Args:
        query: ``(..., Hq, L, D)``: L vectors that ask.
        key: ``(..., Hkv, S, D)``: S vectors that are compared with the queries.
        value: ``(..., Hkv, S, Dv)``: S vectors that are handed out.
        mask: bool, **True = may attend**, broadcast to ``(..., Hq, L, S)``; or a mask from
            :mod:`attn_core.masks`. Two dimensions are always ``(L, S)``: a table ``(batch, S)`` of
            padding, as tokenizers give it, is :func:`masks.padding(table)
            <attn_core.masks.padding>`.
        bias: floating point, broadcast to ``(..., Hq, L, S)``, added to the scores; or a bias from
            :mod:`attn_core.positions`.
        score: a callable ``(query, key) -> (..., L, S)``, see :mod:`attn_core.scores`. With grouped
            heads it sees the queries of a group one below the other.
        normalizer: a callable ``(scores, dim)``, see :mod:`attn_core.normalizers`; by default
            softmax.
        scale: multiplies the scores: by default :math:`1/\sqrt{D}` if no score is given, and 1 if
            one is.
        softcap: squeezes the scores into (−softcap, softcap) by softcap · tanh(scores / softcap).
        dropout_p: the share of weights set to 0, the others divided by 1 − dropout_p. It drops
            whenever it is above 0: pass 0 when evaluating.
        q_offset: the position of query 0 among the keys, for masks and biases that compare
            positions: an int, or one integer per batch entry ``(batch,)``. Needed only when L and S
            differ.
        return_weights: whether to return the weights too. Asking for them does not change the
            output.

    Returns:
        The output ``(..., Hq, L, Dv)``; or :class:`AttentionOutput` with the output and the weights
        ``(..., Hq, L, S)`` before dropout.

    Raises:
        TypeError: if an argument has the wrong type or dtype, a float ``mask`` for example.
        ValueError: if shapes, devices or ranges do not fit, or ``q_offset`` is needed and missing.

    Source: Vaswani et al. (2017), equation 1; D1, section 3.1; D2, section 4.2.

    Example:
        >>> import torch
        >>> from attn_core import attention, masks
        >>> x = torch.eye(3)
        >>> output, weights = attention(x, x, x, mask=masks.causal(), return_weights=True)
        >>> weights[0]
        tensor([1., 0., 0.])
        >>> x = torch.ones(2, 2, 7, 16)
        >>> attention(torch.ones(2, 8, 5, 16), x, x).shape
        torch.Size([2, 8, 5, 16])
    """
    if bias is score is normalizer is softcap is None and not (return_weights or watchers):
        result = plain.run(query, key, value, mask, scale, dropout_p, q_offset)
        if result is not None:
            return result
    arguments = check_arguments(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        score=score,
        normalizer=normalizer,
        scale=scale,
        softcap=softcap,
        dropout_p=dropout_p,
        q_offset=q_offset,
    )
    output, weights = choosing.run(arguments)
    watch = watcher.get() if watchers else None
    if weights is None and (return_weights or watch is not None):
        # The kernel that gave the output keeps no weights: compute them beside it, so that asking
        # for them leaves the output as it is, bit for bit.
        weights = explicit.weights(arguments)
    if watch is not None:
        assert weights is not None
        watch(weights)
    if arguments.without_heads:
        output = output[0]
        weights = None if weights is None else weights[0]
    if not return_weights:
        return output
    assert weights is not None
    return AttentionOutput(output, weights)
