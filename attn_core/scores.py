r"""Step 1, score: one number for each pair of a query and a key.

A score is a callable ``score(query, key)``: query ``(..., L, Dq)`` and key ``(..., S, Dk)`` give
scores ``(..., L, S)``. :func:`attn_core.attention` takes any of them, or one of your own.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.checks import (
    check_floating_point,
    check_number,
    check_same_kind,
    check_sequence,
    check_sizes,
)
from attn_core.squared_distance import squared_distance

__all__ = ["Additive", "Bilinear", "Location", "cosine", "dot", "gaussian", "scaled_dot"]


def dot(query: Tensor, key: Tensor) -> Tensor:
    r"""Score by the dot product.

    .. math:: s_{ij} = q_i \cdot k_j

    Args:
        query: ``(..., L, D)``.
        key: ``(..., S, D)``.

    Returns:
        Scores ``(..., L, S)``, in the unit of query times key.

    Raises:
        TypeError: if query or key is not a floating point tensor, or their dtypes differ.
        ValueError: if query and key differ in width, do not broadcast, or are no matrices.

    Source: Luong, Pham and Manning (2015), section 3.1, *dot*.

    Example:
        >>> import torch
        >>> dot(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        tensor([[3., 8.]])
    """
    _check_width(query, key)
    return query @ key.transpose(-2, -1)


def scaled_dot(query: Tensor, key: Tensor) -> Tensor:
    r"""Score by the dot product, divided by the root of the width.

    .. math:: s_{ij} = \frac{q_i \cdot k_j}{\sqrt{D}}

    With independent entries of variance 1 the dot product has variance :math:`D`; the division
    brings it back to 1, for any width.

    Args:
        query: ``(..., L, D)``.
        key: ``(..., S, D)``.

    Returns:
        Scores ``(..., L, S)``.

    Raises:
        TypeError: as :func:`dot`.
        ValueError: as :func:`dot`, or if the width is 0.

    Source: Vaswani et al. (2017), equation 1.

    Example:
        >>> import torch
        >>> scaled_dot(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), torch.ones(1, 4))
        tensor([[2.5000]])
    """
    _check_width(query, key, least=1)
    return scaled_product(query, key, 1 / math.sqrt(query.shape[-1]))


def scaled_product(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """``scale · q · k``, scaled beforehand as far as that is exact and keeps q · k in range.

    In float16 a product above 65,504 is infinite, though the score that it would be scaled to is
    not. Times a power of two a number keeps its digits, so that this part of the scale comes first.
    """
    if query.dtype == torch.float16 and 0 < abs(scale) < 1:
        # Below 2⁻⁸, the scale of width 65,536, digits of the query would go after all.
        power = 2.0 ** max(math.frexp(scale)[1] - 1, -8)
        query, scale = query * power, scale / power
    return query @ key.transpose(-2, -1) * scale


def cosine(query: Tensor, key: Tensor) -> Tensor:
    r"""Score by the cosine of the angle between query and key.

    .. math:: s_{ij} = \frac{q_i \cdot k_j}{\lVert q_i \rVert \, \lVert k_j \rVert}

    A vector of zeros has no direction; its cosine with anything is 0 here.

    Args:
        query: ``(..., L, D)``.
        key: ``(..., S, D)``.

    Returns:
        Scores ``(..., L, S)``, between −1 and 1.

    Raises:
        TypeError: as :func:`dot`.
        ValueError: as :func:`dot`, or if the width is 0.

    Source: Graves, Wayne and Danihelka (2014), section 3.3.1.

    Example:
        >>> import torch
        >>> cosine(torch.tensor([[3.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]]))
        tensor([[1., 0.]])
    """
    _check_width(query, key, least=1)
    return dot(_direction(query), _direction(key))


def gaussian(query: Tensor, key: Tensor, *, bandwidth: float = 1.0) -> Tensor:
    r"""Score by how near a query and a key are: softmax of it is Nadaraya–Watson regression.

    .. math:: s_{ij} = -\frac{\lVert q_i - k_j \rVert^2}{2 h^2}

    The distance is added up from differences, so that it is exact for points that are near each
    other and far from 0, where :math:`\lVert q \rVert^2 - 2 q \cdot k + \lVert k \rVert^2` has no
    digit left. It holds ``L × S`` numbers at a time, forward and backward.

    Args:
        query: ``(..., L, D)``.
        key: ``(..., S, D)``.
        bandwidth: :math:`h`, above 0, in the unit of query and key: what counts as near.

    Returns:
        Scores ``(..., L, S)``, at most 0.

    Raises:
        TypeError: as :func:`dot`, or if ``bandwidth`` is no number.
        ValueError: as :func:`dot`, or if ``bandwidth`` is not positive.

    Source: Nadaraya (1964); Watson (1964).

    Example:
        >>> import torch
        >>> gaussian(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0], [3.0, 4.0]]))
        tensor([[ -1.0000, -12.5000]])
        >>> gaussian(torch.tensor([[1000.0]]), torch.tensor([[1000.125]]), bandwidth=0.125)
        tensor([[-0.5000]])
    """
    _check_width(query, key)
    check_number("bandwidth", bandwidth)
    if bandwidth <= 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    return (-squared_distance(query, key) / (2 * bandwidth**2)).to(query.dtype)


class Bilinear(nn.Module):
    r"""Score by a learned bilinear form: Luong's *general*.

    .. math:: s_{ij} = q_i^\top W k_j

    Args:
        query_dim: width of a query, :math:`D_q`.
        key_dim: width of a key, :math:`D_k`; the two may differ.

    Attributes:
        weight: :math:`W`, ``(query_dim, key_dim)``.

    Raises:
        ValueError: if a width is not positive, or query or key has another width.
        TypeError: if a width is not an integer.

    Source: Luong, Pham and Manning (2015), section 3.1, *general*.

    Example:
        >>> import torch
        >>> score = Bilinear(query_dim=3, key_dim=5)
        >>> score(torch.ones(2, 3), torch.ones(4, 5)).shape
        torch.Size([2, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()
        check_sizes(query_dim=query_dim, key_dim=key_dim)
        self.weight = nn.Parameter(torch.empty(query_dim, key_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score query ``(..., L, query_dim)`` and key ``(..., S, key_dim)``: ``(..., L, S)``."""
        check_sequence("query", query, self.weight.shape[0])
        check_sequence("key", key, self.weight.shape[1])
        _check_pair(query, key)
        check_same_kind("query", query, "the layer", self.weight)
        return query @ self.weight @ key.transpose(-2, -1)

    def extra_repr(self) -> str:
        return f"query_dim={self.weight.shape[0]}, key_dim={self.weight.shape[1]}"


class Additive(nn.Module):
    r"""Score by a network with one hidden layer: Bahdanau's attention, Luong's *concat*.

    .. math:: s_{ij} = v^\top \tanh(W_q q_i + W_k k_j)

    It holds ``L × S × hidden_dim`` numbers at a time, where the dot product holds ``L × S``.

    Args:
        query_dim: width of a query, :math:`D_q`.
        key_dim: width of a key, :math:`D_k`; the two may differ.
        hidden_dim: width of the hidden layer.

    Attributes:
        query_proj: :math:`W_q`, a linear layer without bias.
        key_proj: :math:`W_k`, a linear layer without bias.
        score_vector: :math:`v`, ``(hidden_dim,)``.

    Raises:
        ValueError: if a width is not positive, or query or key has another width.
        TypeError: if a width is not an integer.

    Source: Bahdanau, Cho and Bengio (2015), section A.1.2.

    Example:
        >>> import torch
        >>> score = Additive(query_dim=3, key_dim=5, hidden_dim=8)
        >>> score(torch.ones(2, 3), torch.ones(4, 5)).shape
        torch.Size([2, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, query_dim: int, key_dim: int, hidden_dim: int) -> None:
        super().__init__()
        check_sizes(query_dim=query_dim, key_dim=key_dim, hidden_dim=hidden_dim)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.query_proj = nn.Linear(query_dim, hidden_dim, bias=False)
        self.key_proj = nn.Linear(key_dim, hidden_dim, bias=False)
        self.score_vector = nn.Parameter(torch.empty(hidden_dim))
        nn.init.uniform_(self.score_vector, -(hidden_dim**-0.5), hidden_dim**-0.5)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score query ``(..., L, query_dim)`` and key ``(..., S, key_dim)``: ``(..., L, S)``."""
        check_sequence("query", query, self.query_dim)
        check_sequence("key", key, self.key_dim)
        _check_pair(query, key)
        check_same_kind("query", query, "the layer", self.score_vector)
        return self.from_projections(self.query_proj(query), self.key_proj(key))

    def from_projections(self, query: Tensor, key: Tensor) -> Tensor:
        """Score what is projected already: a decoder projects its keys once, not at each step."""
        check_floating_point("query", query)
        check_floating_point("key", key)
        check_same_kind("query", query, "the layer", self.score_vector)
        check_same_kind("key", key, "the layer", self.score_vector)
        rows = query.unsqueeze(-2)  # (..., L, 1, hidden_dim)
        columns = key.unsqueeze(-3)  # (..., 1, S, hidden_dim)
        return torch.tanh(rows + columns) @ self.score_vector


class Location(nn.Module):
    r"""Score each place by the query alone, whatever key stands there: Luong's *location*.

    .. math:: s_{ij} = (W q_i)_j

    Row j of :math:`W` stands for place j, so there is a longest sequence.

    Args:
        query_dim: width of a query, :math:`D_q`.
        max_len: number of places, the greatest number of keys.

    Attributes:
        weight: :math:`W`, ``(max_len, query_dim)``.

    Raises:
        ValueError: if a size is not positive, query has another width, or there are more keys
            than places.
        TypeError: if a size is not an integer.

    Source: Luong, Pham and Manning (2015), equation 8.

    Example:
        >>> import torch
        >>> score = Location(query_dim=3, max_len=10)
        >>> score(torch.ones(2, 3), torch.ones(4, 5)).shape
        torch.Size([2, 4])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, query_dim: int, max_len: int) -> None:
        super().__init__()
        check_sizes(query_dim=query_dim, max_len=max_len)
        self.weight = nn.Parameter(torch.empty(max_len, query_dim))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Score query ``(..., L, query_dim)`` and key ``(..., S, any width)``: ``(..., L, S)``."""
        check_sequence("query", query, self.weight.shape[1])
        _check_pair(query, key)
        check_same_kind("query", query, "the layer", self.weight)
        keys, places = key.shape[-2], len(self.weight)
        if keys > places:
            raise ValueError(f"key has {keys} places, but max_len is {places}")
        leading = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        return (query @ self.weight[:keys].T).expand(*leading, -1, -1)

    def extra_repr(self) -> str:
        return f"query_dim={self.weight.shape[1]}, max_len={self.weight.shape[0]}"


def _check_pair(query: Tensor, key: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key)):
        check_floating_point(name, tensor)
        if tensor.ndim < 2:
            raise ValueError(
                f"{name} must be (..., length, width), got {name} {tuple(tensor.shape)}"
            )
    check_same_kind("key", key, "query", query)
    seen = f"got query {tuple(query.shape)}, key {tuple(key.shape)}"
    try:
        torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    except RuntimeError:
        raise ValueError(f"query and key must broadcast before the length, {seen}") from None


def _check_width(query: Tensor, key: Tensor, *, least: int = 0) -> None:
    _check_pair(query, key)
    seen = f"got query {tuple(query.shape)}, key {tuple(key.shape)}"
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(f"query and key must have the same width for this score, {seen}")
    if query.shape[-1] < least:
        raise ValueError(f"query and key must have at least width {least}, {seen}")


def _direction(x: Tensor) -> Tensor:
    """Vectors of length 1; a vector of zeros stays one, and its gradient is 0."""
    is_zero = (x == 0).all(-1, keepdim=True)
    x = x.masked_fill(is_zero, 1.0)
    x = x / x.abs().amax(-1, keepdim=True).detach()  # so that no square over- or underflows
    return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)).masked_fill(is_zero, 0.0)
