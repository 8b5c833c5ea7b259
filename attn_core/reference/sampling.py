"""Hard attention: one key for each query, and the gradient that learning from rewards takes."""

from typing import NamedTuple

import numpy as np

from attn_core.reference.normalizers import softmax, softmax_backward
from attn_core.reference.scores import scaled_dot, scaled_dot_backward
from attn_core.reference.shapes import (
    Array,
    check_broadcasts_to,
    check_float_arrays,
    check_integer_array,
    check_number,
    check_same_shape,
    transpose,
)


class HardAttentionOutput(NamedTuple):
    """What hard attention looked at, and what learning needs to know of it.

    Attributes:
        output: the values that were chosen, shape (..., L, Dv).
        log_prob: logarithm of the probability of each choice, shape (..., L).
        entropy: how undecided each query was, in nats, shape (..., L).
    """

    output: Array
    log_prob: Array
    entropy: Array


class _Steps(NamedTuple):
    """Keys that are not masked for all, masked scores, probabilities, the choice as 0 and 1."""

    key: Array
    scores: Array
    probabilities: Array
    one_hot: Array


def _compute(query: Array, key: Array, value: Array, choice: Array, mask: Array | None) -> _Steps:
    check_float_arrays(query=query, key=key, value=value)
    check_same_shape("value", value, (*key.shape[:-1], value.shape[-1]))
    scores = scaled_dot(query, key)
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            raise TypeError(
                "mask must be a boolean NumPy array, True = may attend, got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}"
            )
        check_broadcasts_to("mask", mask, scores.shape)
        scores = np.where(mask, scores, -np.inf)
        # What takes part nowhere becomes 0 here: further down 0 * nan would be nan.
        attended = np.any(np.broadcast_to(mask, scores.shape), axis=-2, keepdims=True)
        key = np.where(transpose(attended), key, 0)
    check_integer_array("choice", choice)
    check_same_shape("choice", choice, scores.shape[:-1])
    probabilities = softmax(scores)
    one_hot = (np.arange(scores.shape[-1]) == choice[..., None]).astype(scores.dtype)
    if not np.array_equal((one_hot * probabilities > 0).any(-1), probabilities.any(-1)):
        raise ValueError(f"choice has a key that may not be attended, got {choice.tolist()}")
    return _Steps(key, scores, probabilities, one_hot)


def _log(probabilities: Array) -> Array:
    """The logarithm, and 0 for what cannot happen: it never counts."""
    return np.log(np.where(probabilities > 0, probabilities, 1))


def hard_attention(
    query: Array, key: Array, value: Array, choice: Array, *, mask: Array | None = None
) -> HardAttentionOutput:
    r"""Look at one key for each query, and say how probable that choice was.

    .. math:: a_i = \operatorname{softmax}_j\Big(\frac{q_i \cdot k_j}{\sqrt D}\Big), \qquad
              o_i = v_{c_i}, \qquad \log p_i = \log a_{i c_i}, \qquad
              H_i = -\sum_j a_{ij} \log a_{ij}

    The choice is given: drawing it is not part of the equation.

    Args:
        query: queries, shape (..., L, D).
        key: keys, shape (..., S, D).
        value: values, shape (..., S, Dv).
        choice: c, which key each query looks at, integers of shape (..., L); −1 where a query may
            attend nothing.
        mask: boolean, True = may attend; broadcasts to (..., L, S).

    Returns:
        HardAttentionOutput(output, log_prob, entropy); zeros for a query without keys.

    Raises:
        TypeError: an array holds no floating-point numbers, choice no integers, mask no bools.
        ValueError: shapes do not fit, or a choice may not be attended.

    Source: Xu et al. 2015, section 4.1.

    Example:
        >>> query, key, value = np.zeros((1, 1)), np.zeros((4, 1)), np.array([[1.0], [2], [3], [4]])
        >>> seen = hard_attention(query, key, value, np.array([2]))
        >>> seen.output.tolist(), np.exp(seen.log_prob).round(4).tolist()
        ([[3.0]], [0.25])
    """
    steps = _compute(query, key, value, choice, mask)
    log_probabilities = _log(steps.probabilities)
    chosen = np.any(steps.one_hot, axis=-2, keepdims=True)
    value = np.where(transpose(chosen), value, 0)  # what nobody chose reaches nothing
    return HardAttentionOutput(
        steps.one_hot @ value,
        (steps.one_hot * log_probabilities).sum(axis=-1),
        -(steps.probabilities * log_probabilities).sum(axis=-1),
    )


def hard_attention_backward(
    grad_output: HardAttentionOutput,
    query: Array,
    key: Array,
    value: Array,
    choice: Array,
    *,
    mask: Array | None = None,
) -> tuple[Array, Array, Array]:
    r"""Carry gradients of the output, of its log-probability and of the entropy back.

    The output teaches the value that was chosen and nothing else. The log-probability teaches query
    and key; a step along its gradient makes the choice more probable.

    .. math:: \frac{\partial \log p_i}{\partial s_{ij}} = [\, j = c_i \,] - a_{ij}, \qquad
              \frac{\partial H_i}{\partial s_{ij}} = -a_{ij} (\log a_{ij} + H_i)

    Args:
        grad_output: gradients of the loss with respect to output, log_prob and entropy.
        query: as in hard_attention.
        key: as in hard_attention.
        value: as in hard_attention.
        choice: as in hard_attention.
        mask: as in hard_attention.

    Returns:
        The gradients of query, key and value.

    Raises:
        TypeError: as hard_attention.
        ValueError: as hard_attention, or a gradient does not have the shape of its output.

    Source: Williams 1992, section 4.

    Example:
        >>> query, key, value = np.ones((1, 1)), np.zeros((2, 1)), np.zeros((2, 1))
        >>> grads = HardAttentionOutput(np.ones((1, 1)), np.ones(1), np.zeros(1))
        >>> hard_attention_backward(grads, query, key, value, np.array([0]))[1].tolist()
        [[0.5], [-0.5]]
    """
    key, scores, probabilities, one_hot = _compute(query, key, value, choice, mask)
    grad_values, grad_log_prob, grad_entropy = grad_output
    check_same_shape("grad_output.output", grad_values, (*choice.shape, value.shape[-1]))
    check_same_shape("grad_output.log_prob", grad_log_prob, choice.shape)
    check_same_shape("grad_output.entropy", grad_entropy, choice.shape)
    grad_scores = grad_log_prob[..., None] * (one_hot - probabilities)
    grad_scores += softmax_backward(-grad_entropy[..., None] * (_log(probabilities) + 1), scores)
    grad_query, grad_key = scaled_dot_backward(grad_scores, query, key)
    return grad_query, grad_key, transpose(one_hot) @ grad_values


def reinforce_loss(
    reward: Array,
    log_prob: Array,
    *,
    baseline: Array | float = 0.0,
    entropy: Array | None = None,
    entropy_weight: float = 0.0,
) -> Array:
    r"""Give a loss whose gradient makes choices more probable that were better than expected.

    .. math:: \mathcal{L} = -\operatorname{mean}\big[ (r - b) \, \log p \big]
                            - \lambda \operatorname{mean}[ H ]

    Args:
        reward: r, shape (B, L) or (B, 1).
        log_prob: logarithm of the probability of each choice, shape (B, L).
        baseline: b, the reward that was to be expected: a number, or shaped as reward.
        entropy: H, shape (B, L); needed where entropy_weight is not 0.
        entropy_weight: how much being undecided is worth.

    Returns:
        A scalar.

    Raises:
        TypeError: an array holds no floating-point numbers, or a number is none.
        ValueError: shapes do not fit, or entropy is needed and missing.

    Source: Williams 1992, theorem 1; Xu et al. 2015, section 4.1.

    Example:
        >>> reward, log_prob = np.array([[3.0]]), np.log(np.array([[0.5, 0.25]]))
        >>> float(reinforce_loss(reward, log_prob, baseline=1.0).round(4))
        2.0794
    """
    _check_reward(reward, log_prob, baseline, entropy, entropy_weight)
    loss: Array = -((reward - baseline) * log_prob).mean()
    return loss if entropy is None else loss - entropy_weight * entropy.mean()


def reinforce_loss_backward(
    grad_output: Array | float,
    reward: Array,
    log_prob: Array,
    *,
    baseline: Array | float = 0.0,
    entropy: Array | None = None,
    entropy_weight: float = 0.0,
) -> tuple[Array, Array, Array | None]:
    r"""Give the gradient of the loss: how much better than expected each choice was.

    .. math:: \frac{\partial \mathcal{L}}{\partial \log p_i} = -\frac{r_i - b_i}{N}, \qquad
              \frac{\partial \mathcal{L}}{\partial H_i} = -\frac{\lambda}{N}

    A reward is what came of a choice. It is not differentiated: its gradient is 0.

    Args:
        grad_output: gradient with respect to the loss, a scalar.
        reward: as in reinforce_loss.
        log_prob: as in reinforce_loss.
        baseline: as in reinforce_loss.
        entropy: as in reinforce_loss.
        entropy_weight: as in reinforce_loss.

    Returns:
        The gradients of reward (zeros), log_prob and entropy (None where it was not given).

    Raises:
        TypeError: as reinforce_loss.
        ValueError: as reinforce_loss.

    Source: Williams 1992, theorem 1.

    Example:
        >>> reward, log_prob = np.array([[3.0]]), np.log(np.array([[0.5, 0.25]]))
        >>> reinforce_loss_backward(1.0, reward, log_prob, baseline=1.0)[1].tolist()
        [[-1.0, -1.0]]
    """
    _check_reward(reward, log_prob, baseline, entropy, entropy_weight)
    advantage = np.broadcast_to(reward - baseline, log_prob.shape)
    grad_entropy = None
    if entropy is not None:
        grad_entropy = np.full_like(entropy, -grad_output * entropy_weight / entropy.size)
    return np.zeros_like(reward), -grad_output * advantage / log_prob.size, grad_entropy


def _check_reward(
    reward: Array,
    log_prob: Array,
    baseline: Array | float,
    entropy: Array | None,
    entropy_weight: float,
) -> None:
    check_float_arrays(min_dims=0, reward=reward, log_prob=log_prob)
    check_number("entropy_weight", entropy_weight)
    named = {"reward": reward}
    if isinstance(baseline, np.ndarray):
        named["baseline"] = baseline
    else:
        check_number("baseline", baseline)
    for name, array in named.items():
        if array.ndim not in (0, log_prob.ndim) or any(
            size not in (1, whole)
            for size, whole in zip(array.shape, log_prob.shape, strict=array.ndim > 0)
        ):
            raise ValueError(
                f"{name} must have the shape of log_prob {log_prob.shape}, with 1 for what is the "
                f"same for all, got {name} {array.shape}"
            )
    if entropy is not None:
        check_float_arrays(min_dims=0, log_prob=log_prob, entropy=entropy)
        check_same_shape("entropy", entropy, log_prob.shape)
    elif entropy_weight != 0:
        raise ValueError(f"entropy is needed where entropy_weight is {entropy_weight}, got None")
