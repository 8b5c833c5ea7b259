"""Attention on graphs: a node gathers from its neighbours, and the edges are the mask."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import (
    check_flags,
    check_floating_point,
    check_number,
    check_same_kind,
    check_share,
    check_sizes,
)

__all__ = ["GAT", "GraphAttention"]

Version = Literal[1, 2]


@checked_call
class GraphAttention(nn.Module):
    r"""Let every node of a graph gather from its neighbours, several heads side by side.

    .. math::
        \text{version 1:} \quad s_{ij} &= \operatorname{LeakyReLU}(
            a_q \cdot W h_i + a_k \cdot W h_j) \\
        \text{version 2:} \quad s_{ij} &= a \cdot \operatorname{LeakyReLU}(
            W_q h_i + W_k h_j) \\
        h'_i &= \sum_{j \in \mathcal{N}_i}
            \operatorname{softmax}_{j \in \mathcal{N}_i}(s_{ij}) \, W_k h_j

    This is :func:`attn_core.attention` with another score and with the edges as its mask. In
    version 1, where :math:`W_q = W_k = W`, the order of the neighbours by score is the same for
    every node that asks; version 2 mends that, and holds N × N × ``head_dim`` numbers per head for
    it.

    Args:
        in_dim: width of a node.
        head_dim: width of a head's output.
        heads: number of heads.
        version: 1, Veličković's score; 2, Brody's.
        concat: whether the heads' outputs stand side by side, ``heads × head_dim`` wide; if not,
            they are averaged, ``head_dim`` wide.
        self_loops: whether a node is its own neighbour whatever the edges say, as in the papers. If
            not, a node without neighbours gets zeros.
        negative_slope: slope of LeakyReLU below 0.
        dropout: share of weights dropped, while training only.

    Attributes:
        key_proj: :math:`W` or :math:`W_k`, a linear layer without bias.
        query_proj: :math:`W_q`; in version 1 the same layer as ``key_proj``.
        score_vector: :math:`a`, ``(heads, head_dim)``, version 2.
        query_vector: :math:`a_q`, ``(heads, head_dim)``, version 1.
        key_vector: :math:`a_k`, ``(heads, head_dim)``, version 1.

    Raises:
        ValueError: if a size is not positive, ``version`` is neither 1 nor 2, ``dropout`` is not in
            [0, 1), or an input has the wrong shape.
        TypeError: if a size is no integer, ``x`` is not floating point, or ``adjacency`` not bool.

    Source: Veličković et al. (2018), equations 1 to 6; Brody, Alon and Yahav (2022), equation 7.

    Example:
        >>> import torch
        >>> layer = GraphAttention(in_dim=3, head_dim=4, heads=2)
        >>> path = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).bool()
        >>> output, weights = layer(torch.ones(3, 3), path, return_weights=True)
        >>> output.shape, weights[0, 0].tolist()
        (torch.Size([3, 8]), [0.5, 0.5, 0.0])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(
        self,
        in_dim: int,
        head_dim: int,
        heads: int = 1,
        *,
        version: Version = 1,
        concat: bool = True,
        self_loops: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(in_dim=in_dim, head_dim=head_dim, heads=heads)
        if not isinstance(version, int) or version not in (1, 2) or isinstance(version, bool):
            raise ValueError(f"version must be 1 or 2, got {version!r}")
        check_number("negative_slope", negative_slope)
        check_flags(concat=concat, self_loops=self_loops)
        check_share("dropout", dropout)
        self.heads = heads
        self.version = version
        self.concat = concat
        self.self_loops = self_loops
        self.negative_slope = negative_slope
        self.dropout = dropout
        self.key_proj = nn.Linear(in_dim, heads * head_dim, bias=False)
        if version == 1:
            self.query_proj = self.key_proj
            self.query_vector = _vectors(heads, head_dim)
            self.key_vector = _vectors(heads, head_dim)
        else:
            self.query_proj = nn.Linear(in_dim, heads * head_dim, bias=False)
            self.score_vector = _vectors(heads, head_dim)

    def forward(
        self, x: Tensor, adjacency: Tensor, *, return_weights: bool = False
    ) -> Tensor | AttentionOutput:
        """Gather along the edges.

        Args:
            x: the nodes, ``(..., N, in_dim)``.
            adjacency: bool ``(N, N)``, or ``(..., N, N)`` where every graph has edges of its own;
                **True at [i, j] = node i gathers from node j**.
            return_weights: whether to return the weights ``(..., heads, N, N)`` too.

        Returns:
            ``(..., N, heads × head_dim)``, or ``(..., N, head_dim)`` without ``concat``; or
            :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if ``x`` or ``adjacency`` has the wrong shape.
            TypeError: if ``x`` is not floating point, or ``adjacency`` not bool.
        """
        check_flags(return_weights=return_weights)
        _check_graph(x, adjacency, self.key_proj)
        if self.self_loops:
            adjacency = adjacency | torch.eye(x.shape[-2], dtype=torch.bool, device=x.device)
        key = self._split(self.key_proj(x))
        query = key if self.version == 1 else self._split(self.query_proj(x))
        output, weights = attention(
            query,
            key,
            key,
            mask=adjacency if adjacency.ndim == 2 else adjacency.unsqueeze(-3),
            score=self.score,
            dropout_p=self.dropout if self.training else 0.0,
            return_weights=True,
        )
        # (..., heads, N, head_dim) to (..., N, heads × head_dim) or (..., N, head_dim)
        output = output.transpose(-3, -2).flatten(-2) if self.concat else output.mean(-3)
        return AttentionOutput(output, weights) if return_weights else output

    def score(self, query: Tensor, key: Tensor) -> Tensor:
        """Compare projected nodes ``(..., heads, N, head_dim)``: ``(..., heads, N, N)``."""
        if self.version == 1:
            of_query = (query * self.query_vector.unsqueeze(-2)).sum(-1)  # (..., heads, N)
            of_key = (key * self.key_vector.unsqueeze(-2)).sum(-1)
            return self._leaky(of_query.unsqueeze(-1) + of_key.unsqueeze(-2))
        pairs = self._leaky(query.unsqueeze(-2) + key.unsqueeze(-3))  # (..., heads, N, N, head_dim)
        return (pairs @ self.score_vector[:, None, :, None]).squeeze(-1)

    def _leaky(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.negative_slope)

    def _split(self, x: Tensor) -> Tensor:
        """(..., N, heads × head_dim) to (..., heads, N, head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, version={self.version}, self_loops={self.self_loops}"


@checked_call
class GAT(nn.Module):
    r"""Classify the nodes of a graph by two layers of graph attention.

    .. math::
        Z = \operatorname{GraphAttention}_2\big(
            \operatorname{ELU}(\operatorname{GraphAttention}_1(X, E)), E\big)

    The first layer's heads stand side by side, the second's are averaged.

    Args:
        in_dim: width of a node.
        hidden_dim: width of each of the first layer's heads.
        classes: number of classes.
        heads: heads of the first layer.
        out_heads: heads of the second layer.
        version: 1 or 2, as in :class:`GraphAttention`.
        self_loops: as in :class:`GraphAttention`.
        dropout: share of both layers' inputs and weights dropped, while training only.

    Attributes:
        hidden: the first layer.
        output: the second layer.

    Raises:
        ValueError: if a size is not positive, ``version`` is neither 1 nor 2, ``dropout`` is not in
            [0, 1), or an input has the wrong shape.
        TypeError: if a size is no integer, ``x`` is not floating point, or ``adjacency`` not bool.

    Source: Veličković et al. (2018), section 3.3; Brody, Alon and Yahav (2022).

    Example:
        >>> import torch
        >>> model = GAT(in_dim=3, hidden_dim=8, classes=2, heads=4)
        >>> model(torch.ones(5, 3), torch.eye(5).bool()).shape
        torch.Size([5, 2])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        classes: int,
        *,
        heads: int = 8,
        out_heads: int = 1,
        version: Version = 1,
        self_loops: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(
            in_dim=in_dim, hidden_dim=hidden_dim, classes=classes, heads=heads, out_heads=out_heads
        )
        self.hidden = GraphAttention(
            in_dim, hidden_dim, heads, version=version, self_loops=self_loops, dropout=dropout
        )
        self.output = GraphAttention(
            heads * hidden_dim,
            classes,
            out_heads,
            version=version,
            concat=False,
            self_loops=self_loops,
            dropout=dropout,
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Score every class for every node.

        Args:
            x: the nodes, ``(..., N, in_dim)``.
            adjacency: bool ``(N, N)`` or ``(..., N, N)``, True at [i, j] = node i gathers from j.

        Returns:
            logits ``(..., N, classes)``.

        Raises:
            ValueError: if ``x`` or ``adjacency`` has the wrong shape.
            TypeError: if ``x`` is not floating point, or ``adjacency`` not bool.
        """
        check_floating_point("x", x)
        hidden = F.elu(self.hidden(self.drop(x), adjacency))
        return self.output(self.drop(hidden), adjacency)


def _vectors(heads: int, head_dim: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, head_dim)))


def _check_graph(x: Tensor, adjacency: Tensor, projection: nn.Linear) -> None:
    check_floating_point("x", x)
    if x.ndim < 2 or x.shape[-1] != projection.in_features:
        raise ValueError(f"x must be (..., nodes, {projection.in_features}), got {tuple(x.shape)}")
    check_same_kind("x", x, "the layer", projection.weight)
    if not isinstance(adjacency, Tensor):
        raise TypeError(f"adjacency must be a bool tensor, got {type(adjacency).__name__}")
    if adjacency.dtype != torch.bool:
        raise TypeError(
            f"adjacency must be bool, True = the row gathers from the column, got {adjacency.dtype}"
        )
    if adjacency.device != x.device:
        raise ValueError(f"adjacency is on {adjacency.device}, but x is on {x.device}")
    nodes = x.shape[-2]
    if adjacency.shape[-2:] != (nodes, nodes) or adjacency.shape[:-2] not in ((), x.shape[:-2]):
        raise ValueError(
            f"adjacency must be {(nodes, nodes)} or {(*x.shape[:-1], nodes)}, "
            f"got {tuple(adjacency.shape)}"
        )
