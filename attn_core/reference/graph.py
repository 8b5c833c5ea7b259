"""Attention on a graph: every node gathers from its neighbours, and from nobody else."""

import numpy as np

from attn_core.reference.normalizers import softmax, softmax_backward
from attn_core.reference.shapes import (
    Array,
    check_float_arrays,
    check_number,
    check_same_shape,
    sum_to_shape,
    transpose,
)


def _check_graph(x: Array, adjacency: Array, weight: Array, negative_slope: float) -> None:
    check_float_arrays(x=x, weight=weight)
    check_float_arrays(min_dims=3, weight=weight)
    check_number("negative_slope", negative_slope)
    if not isinstance(adjacency, np.ndarray) or adjacency.dtype != bool:
        raise TypeError(
            "adjacency must be a boolean NumPy array, True = the row gathers from the column, got "
            f"{getattr(adjacency, 'dtype', type(adjacency).__name__)}"
        )
    nodes, width = x.shape[-2:]
    if adjacency.shape not in ((nodes, nodes), (*x.shape[:-1], nodes)):
        raise ValueError(
            f"adjacency must be {(nodes, nodes)} or {(*x.shape[:-1], nodes)}, got {adjacency.shape}"
        )
    check_same_shape("weight", weight, (*weight.shape[:2], width))


def _project(x: Array, weight: Array) -> Array:
    """Turn nodes (..., N, F) into heads (..., H, N, D) by one matrix (D, F) for each head."""
    projected: Array = x[..., None, :, :] @ transpose(weight)
    return projected


def _project_backward(grad_projected: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    grad_x = (grad_projected @ weight).sum(axis=-3)
    grad_weight = transpose(grad_projected) @ x[..., None, :, :]
    return grad_x, sum_to_shape(grad_weight, weight.shape)


def _leaky_relu(x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, x, negative_slope * x)


def _leaky_relu_slope(x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, np.ones_like(x), negative_slope)


def _only_edges(scores: Array, adjacency: Array) -> Array:
    """Minus infinity where there is no edge; the same edges for every head."""
    return np.where(adjacency[..., None, :, :], scores, -np.inf)


def _join(heads: Array) -> Array:
    """Turn (..., H, N, D) into (..., N, H × D)."""
    side_by_side = np.swapaxes(heads, -3, -2)
    return side_by_side.reshape(*side_by_side.shape[:-2], -1)


def _split(joined: Array, heads: int) -> Array:
    """Turn (..., N, H × D) into (..., H, N, D)."""
    return np.swapaxes(joined.reshape(*joined.shape[:-1], heads, -1), -3, -2)


def graph_attention(
    x: Array,
    adjacency: Array,
    weight: Array,
    query_vector: Array,
    key_vector: Array,
    *,
    negative_slope: float = 0.2,
) -> Array:
    r"""Let every node gather from its neighbours, weighted by a score of the two.

    .. math:: s_{ij} = \operatorname{LeakyReLU}(a_q \cdot W h_i + a_k \cdot W h_j), \qquad
              h'_i = \sum_{j \in \mathcal{N}_i}
              \operatorname{softmax}_{j \in \mathcal{N}_i}(s_{ij}) \, W h_j

    Args:
        x: the nodes, shape (..., N, F).
        adjacency: boolean, shape (N, N) or (..., N, N); True at [i, j]: node i gathers from j.
        weight: one matrix W for each head, shape (H, D, F).
        query_vector: one vector a_q for each head, shape (H, D).
        key_vector: one vector a_k for each head, shape (H, D).
        negative_slope: slope of LeakyReLU below 0.

    Returns:
        The heads side by side, shape (..., N, H × D); zeros for a node without neighbours.

    Raises:
        TypeError: an array holds no floating-point numbers, or adjacency is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Veličković et al. (2018), equations 1 to 5.

    Example:
        >>> edges = np.array([[True, True], [False, False]])
        >>> zeros = np.zeros((1, 1))
        >>> graph_attention(np.array([[1.0], [3.0]]), edges, np.ones((1, 1, 1)), zeros, zeros)
        array([[2.],
               [0.]])
    """
    _check_graph(x, adjacency, weight, negative_slope)
    check_float_arrays(x=x, query_vector=query_vector, key_vector=key_vector)
    check_same_shape("query_vector", query_vector, weight.shape[:2])
    check_same_shape("key_vector", key_vector, weight.shape[:2])
    nodes = _project(x, weight)
    of_query = (nodes * query_vector[:, None]).sum(axis=-1)
    of_key = (nodes * key_vector[:, None]).sum(axis=-1)
    scores = _leaky_relu(of_query[..., :, None] + of_key[..., None, :], negative_slope)
    return _join(softmax(_only_edges(scores, adjacency)) @ nodes)


def graph_attention_backward(
    grad_output: Array,
    x: Array,
    adjacency: Array,
    weight: Array,
    query_vector: Array,
    key_vector: Array,
    *,
    negative_slope: float = 0.2,
) -> tuple[Array, Array, Array, Array]:
    r"""Carry a gradient from the output of graph attention back to nodes and parameters.

    With :math:`g_i = W h_i`, :math:`u_{ij} = a_q \cdot g_i + a_k \cdot g_j`,
    :math:`A = \operatorname{softmax}(S)`, and :math:`\bar u_{ij}` = :math:`\bar s_{ij}` times the
    slope of LeakyReLU at :math:`u_{ij}`

    .. math:: \bar a_q = \sum_{ij} \bar u_{ij} g_i, \qquad
              \bar a_k = \sum_{ij} \bar u_{ij} g_j, \qquad
              \bar g_n = \sum_i A_{in} \bar h'_i + a_q \sum_j \bar u_{nj} + a_k \sum_i \bar u_{in}

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., N, H × D).
        x: as in graph_attention.
        adjacency: as there.
        weight: as there.
        query_vector: as there.
        key_vector: as there.
        negative_slope: as there.

    Returns:
        The gradients of x, weight, query_vector and key_vector, each with the shape of its input.

    Raises:
        TypeError: as graph_attention.
        ValueError: as graph_attention, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> edges, one = np.ones((2, 2), dtype=bool), np.ones((1, 1))
        >>> grads = graph_attention_backward(
        ...     np.ones((2, 1)), np.array([[1.0], [3.0]]), edges, np.ones((1, 1, 1)), 0 * one, one)
        >>> [grad.round(4).tolist() for grad in grads[1:]]
        [[[[6.3631]]], [[0.0]], [[0.8399]]]
    """
    output = graph_attention(
        x, adjacency, weight, query_vector, key_vector, negative_slope=negative_slope
    )
    check_same_shape("grad_output", grad_output, output.shape)
    grad_heads = _split(grad_output, len(weight))
    nodes = _project(x, weight)
    of_query = (nodes * query_vector[:, None]).sum(axis=-1)
    of_key = (nodes * key_vector[:, None]).sum(axis=-1)
    before_relu = of_query[..., :, None] + of_key[..., None, :]
    scores = _only_edges(_leaky_relu(before_relu, negative_slope), adjacency)

    grad_scores = softmax_backward(grad_heads @ transpose(nodes), scores)
    grad_before_relu = grad_scores * _leaky_relu_slope(before_relu, negative_slope)
    grad_of_query = grad_before_relu.sum(axis=-1)[..., None]
    grad_of_key = grad_before_relu.sum(axis=-2)[..., None]
    grad_nodes = transpose(softmax(scores)) @ grad_heads
    grad_nodes = grad_nodes + grad_of_query * query_vector[:, None]
    grad_nodes = grad_nodes + grad_of_key * key_vector[:, None]
    grad_x, grad_weight = _project_backward(grad_nodes, x, weight)
    return (
        grad_x,
        grad_weight,
        sum_to_shape((grad_of_query * nodes).sum(axis=-2), query_vector.shape),
        sum_to_shape((grad_of_key * nodes).sum(axis=-2), key_vector.shape),
    )


def graph_attention_v2(
    x: Array,
    adjacency: Array,
    query_weight: Array,
    key_weight: Array,
    score_vector: Array,
    *,
    negative_slope: float = 0.2,
) -> Array:
    r"""Let every node gather from its neighbours, whose order by score it decides itself.

    .. math:: s_{ij} = a \cdot \operatorname{LeakyReLU}(W_q h_i + W_k h_j), \qquad
              h'_i = \sum_{j \in \mathcal{N}_i}
              \operatorname{softmax}_{j \in \mathcal{N}_i}(s_{ij}) \, W_k h_j

    Args:
        x: the nodes, shape (..., N, F).
        adjacency: boolean, shape (N, N) or (..., N, N); True at [i, j]: node i gathers from j.
        query_weight: one matrix W_q for each head, shape (H, D, F).
        key_weight: one matrix W_k for each head, shape (H, D, F).
        score_vector: one vector a for each head, shape (H, D).
        negative_slope: slope of LeakyReLU below 0.

    Returns:
        The heads side by side, shape (..., N, H × D); zeros for a node without neighbours.

    Raises:
        TypeError: an array holds no floating-point numbers, or adjacency is not boolean.
        ValueError: shapes do not fit; the message names the argument.

    Source: Brody, Alon and Yahav (2022), equation 7.

    Example:
        >>> edges = np.array([[True, True], [False, False]])
        >>> one = np.ones((1, 1, 1))
        >>> graph_attention_v2(np.array([[1.0], [3.0]]), edges, one, one, np.zeros((1, 1)))
        array([[2.],
               [0.]])
    """
    _check_graph(x, adjacency, query_weight, negative_slope)
    check_float_arrays(x=x, key_weight=key_weight, score_vector=score_vector)
    check_same_shape("key_weight", key_weight, query_weight.shape)
    check_same_shape("score_vector", score_vector, query_weight.shape[:2])
    query, key = _project(x, query_weight), _project(x, key_weight)
    pairs = _leaky_relu(query[..., :, None, :] + key[..., None, :, :], negative_slope)
    scores = (pairs * score_vector[:, None, None]).sum(axis=-1)
    return _join(softmax(_only_edges(scores, adjacency)) @ key)


def graph_attention_v2_backward(
    grad_output: Array,
    x: Array,
    adjacency: Array,
    query_weight: Array,
    key_weight: Array,
    score_vector: Array,
    *,
    negative_slope: float = 0.2,
) -> tuple[Array, Array, Array, Array]:
    r"""Carry a gradient from the output of graph attention back to nodes and parameters.

    With :math:`q_i = W_q h_i`, :math:`k_j = W_k h_j` and
    :math:`\bar u_{ij} = \bar s_{ij} \, a \odot \operatorname{LeakyReLU}'(q_i + k_j)`

    .. math:: \bar a = \sum_{ij} \bar s_{ij} \operatorname{LeakyReLU}(q_i + k_j), \qquad
              \bar q_i = \sum_j \bar u_{ij}, \qquad
              \bar k_j = \sum_i \bar u_{ij} + \sum_i A_{ij} \bar h'_i

    Args:
        grad_output: gradient of the loss with respect to the output, shape (..., N, H × D).
        x: as in graph_attention_v2.
        adjacency: as there.
        query_weight: as there.
        key_weight: as there.
        score_vector: as there.
        negative_slope: as there.

    Returns:
        The gradients of x, query_weight, key_weight and score_vector, each with the shape of its
        input.

    Raises:
        TypeError: as graph_attention_v2.
        ValueError: as graph_attention_v2, or grad_output does not have the shape of the output.

    Source: The chain rule.

    Example:
        >>> edges, one = np.ones((2, 2), dtype=bool), np.ones((1, 1))
        >>> grads = graph_attention_v2_backward(
        ...     np.ones((2, 1)), np.array([[1.0], [3.0]]), edges, 0 * one[None], one[None], one)
        >>> [grad.round(4).tolist() for grad in grads[1:]]
        [[[[0.0]]], [[[6.3631]]], [[0.8399]]]
    """
    output = graph_attention_v2(
        x, adjacency, query_weight, key_weight, score_vector, negative_slope=negative_slope
    )
    check_same_shape("grad_output", grad_output, output.shape)
    grad_heads = _split(grad_output, len(query_weight))
    query, key = _project(x, query_weight), _project(x, key_weight)
    before_relu = query[..., :, None, :] + key[..., None, :, :]
    pairs = _leaky_relu(before_relu, negative_slope)
    scores = _only_edges((pairs * score_vector[:, None, None]).sum(axis=-1), adjacency)

    grad_scores = softmax_backward(grad_heads @ transpose(key), scores)[..., None]
    grad_before_relu = grad_scores * score_vector[:, None, None]
    grad_before_relu = grad_before_relu * _leaky_relu_slope(before_relu, negative_slope)
    grad_query = grad_before_relu.sum(axis=-2)
    grad_key = grad_before_relu.sum(axis=-3) + transpose(softmax(scores)) @ grad_heads
    grad_x_by_query, grad_query_weight = _project_backward(grad_query, x, query_weight)
    grad_x_by_key, grad_key_weight = _project_backward(grad_key, x, key_weight)
    return (
        grad_x_by_query + grad_x_by_key,
        grad_query_weight,
        grad_key_weight,
        sum_to_shape((grad_scores * pairs).sum(axis=(-3, -2)), score_vector.shape),
    )
