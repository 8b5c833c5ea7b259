"""The delta rule: a memory of fixed size that can forget, and can correct what it holds."""

import math
from typing import Literal, overload

import torch
from torch import Tensor

from attn_core.autocast import without_autocast
from attn_core.calls import checked_call
from attn_core.checks import check_floating_point, check_number, check_numbers_within
from attn_core.kernels.padded import check_padded
from attn_core.kernels.recurrence import (
    RecurrentOutput,
    Tokens,
    check_chunk_size,
    first_state,
    recur,
)
from attn_core.masks import Mask


@overload
def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    beta: Tensor | float | None = ...,
    decay: Tensor | float | None = ...,
    scale: float | None = ...,
    mask: Tensor | Mask | None = ...,
    past_state: Tensor | None = ...,
    return_state: Literal[False] = ...,
    chunk_size: int = ...,
) -> Tensor: ...


@overload
def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    beta: Tensor | float | None = ...,
    decay: Tensor | float | None = ...,
    scale: float | None = ...,
    mask: Tensor | Mask | None = ...,
    past_state: Tensor | None = ...,
    return_state: Literal[True],
    chunk_size: int = ...,
) -> RecurrentOutput: ...


@checked_call
def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    beta: Tensor | float | None = None,
    decay: Tensor | float | None = None,
    scale: float | None = None,
    mask: Tensor | Mask | None = None,
    past_state: Tensor | None = None,
    return_state: bool = False,
    chunk_size: int = 64,
) -> Tensor | RecurrentOutput:
    r"""Write each value to a memory under its key, and let each query read what is there.

    .. math::
        \tilde S_t &= e^{g_t} S_{t-1} && \text{forget} \\
        S_t &= \tilde S_t + \beta_t \, k_t \, (v_t - \tilde S_t^\top k_t)^\top
            && \text{correct} \\
        o_t &= \text{scale} \cdot S_t^\top q_t && \text{read}

    Which rule it is follows from what is given:

    ============  ==========  =========  ==========================================================
    rule          ``decay``   ``beta``   update
    ============  ==========  =========  ==========================================================
    linear        None        None       :math:`S_t = S_{t-1} + k_t v_t^\top`
    gated         given       None       :math:`S_t = e^{g_t} S_{t-1} + k_t v_t^\top`
    delta         None        given      the above with :math:`g_t = 0`
    gated delta   given       given      the above
    ============  ==========  =========  ==========================================================

    The linear rule adds: two values under one key become their sum. The delta rule overwrites:
    with β = 1 and a key of length 1 the memory afterwards holds the new value alone. It is the
    step of gradient descent, of size β, on the error :math:`\lVert S^\top k_t - v_t \rVert^2 / 2`.
    With longer keys it can overshoot: normalise them.

    It is causal, and goes through the sequence in chunks, with one triangular system for each. It
    is the ONNX operator ``LinearAttention`` (opset 27), with the heads as a dimension of their own
    and a mask for padding. Half precision is computed in float32.

    Args:
        query: ``(..., Hq, T, D)``, or ``(T, D)``.
        key: ``(..., Hkv, T, D)``, or ``(T, D)``; Hq is a multiple of Hkv.
        value: ``(..., Hkv, T, Dv)``, or ``(T, Dv)``.
        beta: β, how much of the old value is replaced, 0 to 1; up to 2, what was read turns into
            its opposite, as flash-linear-attention's ``allow_neg_eigval`` has it. Broadcast to
            ``(..., Hkv, T, 1)``, or one number.
        decay: g, the logarithm of what is kept, at most 0; −inf forgets everything: broadcast to
            ``(..., Hkv, T, D)``, one for each entry of a key, or one number.
        scale: multiplies what is read; by default :math:`1/\sqrt{D}`.
        mask: which tokens are real: ``masks.padding(lengths)``, or bool ``(..., 1, 1, T)``. The
            others leave the memory as it is.
        past_state: the state of an earlier call, whose tokens come before these:
            ``(..., Hkv, D, Dv)``.
        return_state: whether to return the state too.
        chunk_size: tokens in a chunk, a power of 2. It changes the speed, and the result by
            rounding only; 1 is the recurrence itself.

    Returns:
        The output ``(..., Hq, T, Dv)``; or :class:`RecurrentOutput` with the output and the state
        ``(..., Hkv, D, Dv)``.

    Raises:
        TypeError: if an argument has the wrong type or dtype.
        ValueError: if shapes, devices or ranges do not fit.

    Source: Yang, Wang, Shen, Panda and Kim (2024), section 4, gated; Schlag, Irie and Schmidhuber
    (2021), section 4.2, delta; Yang, Wang, Zhang, Shen and Kim (2024), section 3, in chunks; Yang,
    Kautz and Hatamizadeh (2025), section 3.1, gated delta; the ONNX operator ``LinearAttention``,
    opset 27.

    Example:
        >>> import torch
        >>> key = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> value = torch.tensor([[5.0], [7.0]])
        >>> delta_rule(key, key, value, scale=1.0)
        tensor([[ 5.],
                [12.]])
        >>> delta_rule(key, key, value, beta=1.0, scale=1.0)
        tensor([[5.],
                [7.]])
    """
    padded = check_padded(
        query, key, value, mask=mask, scale=scale, reason="all queries read one memory"
    )
    check_chunk_size(chunk_size)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "query and key must have the same length: each token writes and reads, got query "
            f"{tuple(query.shape)}, key {tuple(key.shape)}"
        )
    dtype = torch.promote_types(query.dtype, torch.float32)
    with without_autocast(query.device):
        queries = padded.query.to(dtype) * padded.scale
        keys, values = (x.to(dtype).squeeze(-3) for x in (padded.key, padded.value))
        real = None if padded.real is None else padded.real.squeeze(-3).mT
        leading = torch.broadcast_shapes(queries.shape[:-4], keys.shape[:-3], values.shape[:-3])
        shape = (*leading, *keys.shape[-3:])
        rates = _gate("beta", beta, (*shape[:-1], 1), queries, real)
        decays = _gate("decay", decay, shape, queries, real)
        check_numbers_within("beta", rates, least=0, most=2)
        check_numbers_within("decay", decays, most=0)
        written = [x.shape[:-2] for x in (keys, values, rates, decays) if x is not None]
        state_shape = (*torch.broadcast_shapes(*written), keys.shape[-1], values.shape[-1])
        state = first_state(past_state, queries, state_shape, padded.without_heads)
        tokens = Tokens(queries, keys, values, decays, rates)
        output, state = recur(tokens, state, chunk_size)
    output = padded.restore(output.to(query.dtype))
    if not return_state:
        return output
    return RecurrentOutput(output, state[0] if padded.without_heads else state)


def _gate(
    name: str,
    gate: Tensor | float | None,
    full: tuple[int, ...],
    like: Tensor,
    real: Tensor | None,
) -> Tensor | None:
    """Check a β or a decay, and set it to 0 for padding: nothing written, nothing forgotten.

    Args:
        name: the name of the argument.
        gate: what was given.
        full: the shape that it must broadcast to, ``(..., Hkv, T, 1)`` or ``(..., Hkv, T, D)``.
        like: a tensor with the dtype and device of the memory.
        real: bool, broadcasts to ``(..., Hkv, T, 1)``; or None.

    Returns:
        ``(..., T, 1)`` or ``(..., T, D)``; or None.
    """
    if gate is None:
        return None
    if isinstance(gate, int | float):
        if gate != -math.inf:
            check_number(name, gate)
        gate = like.new_full((), float(gate))
    check_floating_point(name, gate)
    if gate.device != like.device:
        raise ValueError(f"{name} is on {gate.device}, but query is on {like.device}")
    try:
        fits = torch.broadcast_shapes(gate.shape, full) == full
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to (..., key heads, length, {full[-1]}) = {full}, got "
            f"{name} {tuple(gate.shape)}"
        )
    # With a dimension for the tokens, even where it is the same for all.
    gate = gate.to(like.dtype).expand(torch.broadcast_shapes(gate.shape, (full[-2], 1)))
    return gate if real is None else gate.masked_fill(~real, 0.0)
