r"""A memory that keys write and queries read: what linear attention and the delta rule compute.

.. math::
    \tilde S_t = e^{g_t} S_{t-1}, \qquad
    u_t = \beta_t \, (v_t - \tilde S_t^\top k_t) \;\text{ or }\; v_t, \qquad
    S_t = \tilde S_t + k_t u_t^\top, \qquad
    o_t = S_t^\top q_t

One token at a time that is slow. Here it goes in chunks: inside a chunk everything is a matrix
product, and only the memory is carried on from chunk to chunk.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from attn_core.checks import check_floating_point, check_sizes


class RecurrentOutput(NamedTuple):
    """What a kernel with a memory returns when it is asked for its state.

    Attributes:
        output: ``(..., Hq, T, Dv)``.
        state: the memory after the last token: all that later tokens need to know of these. In
            float32 where the output is in half precision.

    Source: the ONNX operator ``LinearAttention``, opset 27, calls the state ``present_state``.

    Example:
        >>> import torch
        >>> RecurrentOutput(torch.zeros(3, 2), torch.zeros(4, 2)).state.shape
        torch.Size([4, 2])
    """

    output: Tensor
    state: Tensor


class Tokens(NamedTuple):
    """What is written to the memory, and what reads it, in the dtype of the memory.

    Attributes:
        query: ``(..., Hkv, Hq / Hkv, T, D)``.
        key: ``(..., Hkv, T, D)``.
        value: ``(..., Hkv, T, Dv)``.
        decay: g, ``(..., Hkv, T, 1)`` or ``(..., Hkv, T, D)``; None: nothing is forgotten.
        beta: β, ``(..., Hkv, T, 1)``; None: a value is written as it is, over nothing.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    decay: Tensor | None = None
    beta: Tensor | None = None


def recur(tokens: Tokens, state: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Give the outputs ``(..., Hkv, Hq / Hkv, T, Dv)`` and the memory after the last token.

    Every chunk size gives the same result up to rounding. 1 is the recurrence itself; with one
    chunk for all there is no memory in between, and the cost is quadratic in T.

    Args:
        tokens: T of them.
        state: the memory before the first token, ``(..., Hkv, D, Dv)``, leading dimensions in full.
        chunk_size: tokens in a chunk, a power of 2.
    """
    length = tokens.key.shape[-2]
    while chunk_size > 1 and chunk_size >= 2 * length:
        chunk_size //= 2
    # (..., Hkv, N, C, ·), with the queries of a group side by side: (..., Hkv, N, C, G, D).
    query = _in_chunks(tokens.query.transpose(-3, -2), -3, chunk_size)
    key = _in_chunks(tokens.key, -2, chunk_size)
    value = _in_chunks(tokens.value, -2, chunk_size)
    decay = None if tokens.decay is None else _in_chunks(tokens.decay, -2, chunk_size)
    beta = None if tokens.beta is None else _in_chunks(tokens.beta, -2, chunk_size)

    # What the memory of the chunk's start has faded to at each token, and what each token has
    # faded to at the chunk's end.
    since_start = None if decay is None else decay.cumsum(-2).exp()
    until_end = None if decay is None else _sums_of_later(decay).exp()
    faded = None if since_start is None else since_start[..., -1:, :].mT

    written, erased = value, None
    if beta is not None:
        written, erased = _corrections(key, value, decay, beta, since_start)

    starts, updates = [], []
    key_at_end = _times(key, until_end)
    chunks = zip(
        *(
            [None] * key.shape[-3] if x is None else x.unbind(-3)
            for x in (key_at_end, written, erased, faded)
        ),
        strict=True,
    )
    for key_n, written_n, erased_n, faded_n in chunks:
        update = written_n if erased_n is None else written_n - erased_n @ state
        starts.append(state)
        updates.append(update)
        state = _times(state, faded_n) + key_n.mT @ update

    # Each query reads the memory of its chunk's start, and the tokens of its chunk up to itself.
    query_of_start = query if since_start is None else query * since_start.unsqueeze(-2)
    from_start = query_of_start.flatten(-3, -2) @ torch.stack(starts, -3)
    from_chunk = _faded_products(query, key, decay).flatten(-3, -2) @ torch.stack(updates, -3)
    output = (from_start + from_chunk).unflatten(-2, query.shape[-3:-1])
    output = output.flatten(-4, -3)[..., :length, :, :]
    return output.transpose(-3, -2), state


def _corrections(
    key: Tensor, value: Tensor, decay: Tensor | None, beta: Tensor, since_start: Tensor | None
) -> tuple[Tensor, Tensor]:
    r"""What the delta rule writes: ``written − erased @ (memory of the chunk's start)``.

    Within a chunk each update asks for those before it,

    .. math::
        u_t + \beta_t \sum_{j < t} (k_t \cdot k_j \text{, faded}) \, u_j
        = \beta_t v_t - \beta_t (k_t \text{, faded})^\top S_\text{start}

    which is a triangular system. Both terms on the right are solved for at once.

    Source: Yang, Wang, Zhang, Shen and Kim (2024), section 3.2: the WY form.
    """
    among_keys = _faded_products(key.unsqueeze(-2), key, decay).squeeze(-2)
    value, key = beta * value, beta * _times(key, since_start)
    leading = torch.broadcast_shapes(value.shape[:-1], key.shape[:-1])
    both = torch.cat([value.expand(*leading, -1), key.expand(*leading, -1)], -1)
    # unitriangular: the diagonal counts as 1, and what is above it is not read.
    solved = torch.linalg.solve_triangular(beta * among_keys, both, upper=False, unitriangular=True)
    written, erased = solved.split([value.shape[-1], key.shape[-1]], -1)
    return written, erased


def _faded_products(query: Tensor, key: Tensor, decay: Tensor | None) -> Tensor:
    r"""How much each query finds of each key up to its own position; 0 for the keys after it.

    .. math:: \sum_d q_{id} \, k_{jd} \exp(g_{j+1, d} + \dots + g_{id}), \qquad j \le i

    Taking the decay apart as :math:`e^{G_i} e^{-G_j}` would overflow where it is strong. So the
    keys of the first half meet the queries of the second in the middle, where both exponents are
    sums of decays; and each half does the same within itself.

    Args:
        query: ``(..., C, G, D)``.
        key: ``(..., C, D)``.
        decay: ``(..., C, 1)`` or ``(..., C, D)``, or None.

    Returns:
        ``(..., C, G, C)``.
    """
    size, group = query.shape[-3:-1]
    if decay is None or size == 1:
        products = query.flatten(-3, -2) @ key.mT
        products = products.unflatten(-2, (size, group))
        later = torch.ones(size, size, dtype=torch.bool, device=key.device).triu(1)
        return products.masked_fill(later.unsqueeze(-2), 0.0)
    half = size // 2
    query, key, decay = (
        x.unflatten(dim, (2, half)) for x, dim in ((query, -3), (key, -2), (decay, -2))
    )
    within = _faded_products(query, key, decay)
    (_, query), (key, _) = query.unbind(-4), key.unbind(-3)
    to_middle, from_middle = decay.unbind(-3)
    query = query * from_middle.cumsum(-2).exp().unsqueeze(-2)
    key = key * _sums_of_later(to_middle).exp()
    across = (query.flatten(-3, -2) @ key.mT).unflatten(-2, (half, group))
    first, second = within.unbind(-4)
    shape = torch.broadcast_shapes(first.shape, across.shape)
    first, second, across = (x.expand(shape) for x in (first, second, across))
    return torch.cat(
        [torch.cat([first, torch.zeros_like(first)], -1), torch.cat([across, second], -1)], -3
    )


def _sums_of_later(decay: Tensor) -> Tensor:
    """For each token the sum over the tokens after it. By adding only: −inf − (−inf) is NaN."""
    later = torch.cat([decay[..., 1:, :], torch.zeros_like(decay[..., :1, :])], -2)
    return later.flip(-2).cumsum(-2).flip(-2)


def _times(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else x * factor


def _in_chunks(x: Tensor, dim: int, size: int) -> Tensor:
    """Split dimension ``dim`` into (chunks, size), with zeros at the end if that is needed.

    A token of zeros changes nothing: it writes 0 and forgets nothing, since exp(0) = 1.
    """
    count = max(1, -(-x.shape[dim] // size))
    missing = count * size - x.shape[dim]
    if missing:
        padding = list(x.shape)
        padding[dim] = missing
        x = torch.cat([x, x.new_zeros(padding)], dim)
    return x.unflatten(dim, (count, size))


def check_chunk_size(chunk_size: int) -> None:
    """Refuse what is no power of 2."""
    check_sizes(chunk_size=chunk_size)
    if chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size must be a power of 2, got {chunk_size}")


def first_state(
    past: Tensor | None, like: Tensor, shape: tuple[int, ...], without_heads: bool
) -> Tensor:
    """Give the memory before the first token: what an earlier call left, or zeros.

    Args:
        past: the argument ``past_state``.
        like: a tensor with the dtype and the device of the memory.
        shape: ``(..., Hkv, D, Dv)``, the shape of the memory.
        without_heads: whether the caller gave plain matrices.

    Raises:
        TypeError: if ``past_state`` is not a floating point tensor.
        ValueError: if it has another shape, or is on another device.
    """
    if past is None:
        return like.new_zeros(shape)
    check_floating_point("past_state", past)
    if past.device != like.device:
        raise ValueError(f"past_state is on {past.device}, but query is on {like.device}")
    expected = shape[1:] if without_heads else shape
    if past.shape != expected:
        raise ValueError(
            f"past_state must have the shape of the state, {expected}, got past_state "
            f"{tuple(past.shape)}"
        )
    return past.to(like.dtype).reshape(shape)
