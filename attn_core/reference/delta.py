"""The delta rule in NumPy: one token at a time, as the recurrence reads."""

from typing import Literal, NamedTuple, overload

import numpy as np

from attn_core.reference.recurrence import (
    Inputs,
    RecurrentOutput,
    gradient_of,
    prepare,
    read,
    repeat_heads,
    times,
    write,
)
from attn_core.reference.shapes import (
    Array,
    check_broadcasts_to,
    check_flags,
    check_float_arrays,
    check_number,
    check_numbers_within,
    check_same_shape,
)


class DeltaGradients(NamedTuple):
    """The gradients of the delta rule's inputs, each with the shape of its input.

    Attributes:
        query: gradient of the queries.
        key: gradient of the keys.
        value: gradient of the values.
        beta: gradient of beta; None where none was given.
        decay: gradient of the decay; None where none was given.
        past_state: gradient of the past state; None where none was given.
    """

    query: Array
    key: Array
    value: Array
    beta: Array | None
    decay: Array | None
    past_state: Array | None


class _Tokens(NamedTuple):
    """The arguments of the delta rule, checked; beta and decay with every key's entry."""

    inputs: Inputs
    beta: Array | None
    decay: Array | None
    state: Array
    scale: float


def _prepare(
    query: Array,
    key: Array,
    value: Array,
    beta: Array | float | None,
    decay: Array | float | None,
    scale: float | None,
    mask: Array | None,
    past_state: Array | None,
) -> _Tokens:
    inputs = prepare(query, key, value, mask)
    if query.shape[-2] != key.shape[-2]:
        raise ValueError(
            "query and key must be equally many: each token writes and reads, got query "
            f"{query.shape}, key {key.shape}"
        )
    if scale is None:
        scale = 1 / float(np.sqrt(query.shape[-1]))
    check_number("scale", scale)
    key_shape = (*np.broadcast_shapes(query.shape[:-2], inputs.key.shape[:-2]), *key.shape[-2:])
    gates = [
        None if gate is None else _gate(name, gate, key_shape, width, key, inputs)
        for name, gate, width in (("beta", beta, 1), ("decay", decay, key.shape[-1]))
    ]
    check_numbers_within("beta", gates[0], least=0, most=2)
    check_numbers_within("decay", gates[1], most=0)
    # A gate may have a batch where key and value have none: then so has the memory.
    leading = np.broadcast_shapes(
        inputs.key.shape[:-2], *(gate.shape[:-2] for gate in gates if gate is not None)
    )
    inputs = inputs._replace(key=np.broadcast_to(inputs.key, (*leading, *key.shape[-2:])))
    state = inputs.first_state(past_state, key.shape[-1], value.shape[-1])
    return _Tokens(inputs, gates[0], gates[1], state, scale)


def _gate(
    name: str,
    gate: Array | float,
    key_shape: tuple[int, ...],
    width: int,
    key: Array,
    inputs: Inputs,
) -> Array:
    """Return beta or the decay, shape (..., Hq, T, 1 or D), 0 where there is padding."""
    if not isinstance(gate, np.ndarray):
        if gate != -np.inf:
            check_number(name, gate)
        gate = np.asarray(gate, key.dtype)
    check_float_arrays(min_dims=0, key=key, **{name: gate})
    if gate.ndim > 2 and gate.shape[-3] > 1:
        gate = repeat_heads(gate, inputs.group)
    check_broadcasts_to(name, gate, (*key_shape[:-1], width))
    return np.where(inputs.real, gate, np.zeros((), gate.dtype))


def _forget(decay: Array | None, t: int) -> Array | float:
    """Return what is kept of each row of the memory: exp(g_t), shape (..., D or 1, 1)."""
    return 1.0 if decay is None else np.exp(decay[..., t, :, None])


@overload
def delta_rule(
    query: Array,
    key: Array,
    value: Array,
    *,
    beta: Array | float | None = None,
    decay: Array | float | None = None,
    scale: float | None = None,
    mask: Array | None = None,
    past_state: Array | None = None,
    return_state: Literal[False] = False,
) -> Array: ...


@overload
def delta_rule(
    query: Array,
    key: Array,
    value: Array,
    *,
    beta: Array | float | None = None,
    decay: Array | float | None = None,
    scale: float | None = None,
    mask: Array | None = None,
    past_state: Array | None = None,
    return_state: Literal[True],
) -> RecurrentOutput: ...


def delta_rule(
    query: Array,
    key: Array,
    value: Array,
    *,
    beta: Array | float | None = None,
    decay: Array | float | None = None,
    scale: float | None = None,
    mask: Array | None = None,
    past_state: Array | None = None,
    return_state: bool = False,
) -> Array | RecurrentOutput:
    r"""Write each value to a memory under its key, and let each query read what is there.

    .. math::
        \tilde S_t &= e^{g_t} S_{t-1} && \text{forget} \\
        u_t &= \beta_t \, (v_t - \tilde S_t^\top k_t) && \text{correct} \\
        S_t &= \tilde S_t + k_t u_t^\top && \text{write} \\
        o_t &= \text{scale} \cdot S_t^\top q_t && \text{read}

    Without a decay nothing is forgotten: g = 0. Without a beta nothing is corrected: u = v.

    Args:
        query: shape (..., Hq, T, D), or (T, D).
        key: shape (..., Hkv, T, D), or (T, D); Hq is a multiple of Hkv.
        value: shape (..., Hkv, T, Dv), or (T, Dv).
        beta: how much of the old value is replaced, 0 to 1; up to 2, what was read turns into its
            opposite. A number, or an array that broadcasts to (..., Hkv, T, 1).
        decay: logarithm of what is kept, at most 0; a number, or an array that broadcasts to
            (..., Hkv, T, D).
        scale: multiplies what is read; None is 1 / sqrt(D).
        mask: boolean, True = a real token; broadcasts to (..., 1, 1, T). The others leave the
            memory as it is.
        past_state: the memory before the first token, shape (..., Hkv, D, Dv); None is zeros.
        return_state: whether to return the memory after the last token too.

    Returns:
        The output, shape (..., Hq, T, Dv), or RecurrentOutput(output, state).

    Raises:
        TypeError: an array holds no floating-point numbers, dtypes differ, or mask is not boolean.
        ValueError: shapes do not fit, or beta or decay is out of range; the message names the
            argument.

    Source: Schlag et al. 2021, section 4.2; Yang et al. 2025, section 3.1; ONNX LinearAttention.

    Example:
        >>> key = np.array([[1.0, 0.0], [1.0, 0.0]])
        >>> value = np.array([[5.0], [7.0]])
        >>> delta_rule(key, key, value, beta=1.0, scale=1.0).tolist()
        [[5.0], [7.0]]
    """
    check_flags(return_state=return_state)
    inputs, beta, decay, state, scale = _prepare(
        query, key, value, beta, decay, scale, mask, past_state
    )
    leading = np.broadcast_shapes(query.shape[:-2], state.shape[:-2])
    output = np.zeros((*leading, query.shape[-2], value.shape[-1]), query.dtype)
    for t in range(key.shape[-2]):
        q, k, v = inputs.query[..., t, :], inputs.key[..., t, :], inputs.value[..., t, :]
        state = _forget(decay, t) * state
        update = v if beta is None else beta[..., t, :] * (v - read(state, k))
        state = state + write(k, update)
        output[..., t, :] = scale * read(state, q)
    return RecurrentOutput(output, inputs.once_each(state)) if return_state else output


def delta_rule_backward(
    grad_output: Array,
    query: Array,
    key: Array,
    value: Array,
    *,
    beta: Array | float | None = None,
    decay: Array | float | None = None,
    scale: float | None = None,
    mask: Array | None = None,
    past_state: Array | None = None,
) -> DeltaGradients:
    r"""Carry a gradient from the output of the delta rule back to its inputs.

    The gradient :math:`\bar S` of the memory runs backwards through the tokens:

    .. math::
        \bar q_t &= \text{scale} \cdot S_t \bar o_t, \qquad
        \bar S \leftarrow \bar S + \text{scale} \cdot q_t \bar o_t^\top \\
        \bar u_t &= \bar S^\top k_t, \qquad \bar k_t = \bar S u_t \\
        \bar v_t &= \beta_t \bar u_t, \qquad
        \bar\beta_t = \bar u_t \cdot (v_t - \tilde S_t^\top k_t), \qquad
        \bar k_t \leftarrow \bar k_t - \tilde S_t \bar v_t, \qquad
        \bar S \leftarrow \bar S - k_t \bar v_t^\top \\
        \bar g_t &= \operatorname{rowsum}(\bar S \odot \tilde S_t), \qquad
        \bar S \leftarrow e^{g_t} \bar S

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., Hq, T, Dv).
        query: as in delta_rule.
        key: as in delta_rule.
        value: as in delta_rule.
        beta: as in delta_rule.
        decay: as in delta_rule.
        scale: as in delta_rule.
        mask: as in delta_rule.
        past_state: as in delta_rule.

    Returns:
        The gradients of query, key, value, beta, decay and past_state, each with the shape of its
        input, and None for what was not given. A number has the shape ().

    Raises:
        TypeError: as delta_rule.
        ValueError: as delta_rule, or grad_output does not have the shape of the output.

    Source: The chain rule, one token at a time, from the last to the first.

    Example:
        >>> key, value = np.array([[1.0, 0.0]]), np.array([[5.0]])
        >>> grads = delta_rule_backward(np.ones((1, 1)), key, key, value, beta=0.5, scale=1.0)
        >>> grads.value.tolist(), grads.beta.tolist()
        ([[0.5]], 5.0)
    """
    given_beta, given_decay = beta, decay
    inputs, beta, decay, state, scale = _prepare(
        query, key, value, beta, decay, scale, mask, past_state
    )
    length, faded_states, states, updates = key.shape[-2], [], [], []
    for t in range(length):
        k, v = inputs.key[..., t, :], inputs.value[..., t, :]
        faded_states.append(_forget(decay, t) * state)
        error = v if beta is None else v - read(faded_states[t], k)
        updates.append(error if beta is None else beta[..., t, :] * error)
        state = faded_states[t] + write(k, updates[t])
        states.append(state)
    leading = np.broadcast_shapes(query.shape[:-2], state.shape[:-2])
    check_same_shape("grad_output", grad_output, (*leading, length, value.shape[-1]))

    grad_query, grad_key, grad_value = (
        np.zeros((*leading, length, array.shape[-1]), key.dtype) for array in (query, key, value)
    )
    grad_beta = np.zeros((*leading, length, 1), key.dtype)
    grad_decay = np.zeros((*leading, length, key.shape[-1]), key.dtype)
    grad_state = np.zeros((*leading, *state.shape[-2:]), key.dtype)
    for t in reversed(range(length)):
        q, k, v = inputs.query[..., t, :], inputs.key[..., t, :], inputs.value[..., t, :]
        grad_found = scale * grad_output[..., t, :]
        grad_query[..., t, :] = times(states[t], grad_found)
        grad_state = grad_state + write(q, grad_found)
        grad_update = read(grad_state, k)
        grad_key[..., t, :] = times(grad_state, updates[t])
        grad_value[..., t, :] = grad_update
        if beta is not None:
            error = v - read(faded_states[t], k)
            grad_error = beta[..., t, :] * grad_update
            grad_beta[..., t, 0] = (grad_update * error).sum(axis=-1)
            grad_value[..., t, :] = grad_error
            grad_key[..., t, :] -= times(faded_states[t], grad_error)
            grad_state = grad_state - write(k, grad_error)
        grad_decay[..., t, :] = (grad_state * faded_states[t]).sum(axis=-1)
        grad_state = _forget(decay, t) * grad_state

    zero = np.zeros((), key.dtype)
    return DeltaGradients(
        gradient_of(grad_query, query, 1),
        gradient_of(np.where(inputs.real, grad_key, zero), key, inputs.group),
        gradient_of(np.where(inputs.real, grad_value, zero), value, inputs.group),
        _gate_gradient(grad_beta, given_beta, inputs),
        _gate_gradient(grad_decay, given_decay, inputs),
        None if past_state is None else gradient_of(grad_state, past_state, inputs.group),
    )


def _gate_gradient(repeated: Array, gate: Array | float | None, inputs: Inputs) -> Array | None:
    if gate is None:
        return None
    real = np.where(inputs.real, repeated, np.zeros((), repeated.dtype))
    return gradient_of(real, np.asarray(gate), inputs.group)
