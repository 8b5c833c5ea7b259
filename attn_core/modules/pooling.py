"""Attention pooling: a sequence becomes one vector."""

import torch
from torch import Tensor, nn

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import check_batch, check_mask_dimensions, check_sizes
from attn_core.masks import Mask


@checked_call
class AttentionPooling(nn.Module):
    r"""Sum a sequence up in one vector, with a learned query that says what matters.

    .. math:: c = \sum_j a_j x_j, \qquad a = \operatorname{softmax}(x_1 \cdot q, \dots, x_S \cdot q)

    The vectors of the sequence are keys and values at once. D0's ``Attention`` is this with a bias
    added to every score, which softmax takes away again.

    Args:
        dim: width of the sequence.

    Attributes:
        query: :math:`q`, ``(dim,)``.

    Raises:
        ValueError: if ``dim`` is not positive, or ``x`` is not ``(batch, length, dim)``.
        TypeError: if a size is not an integer, or ``x`` not a tensor.

    Source: D0, section 4, class ``Attention``; Lin et al. (2017), section 2.1.

    Example:
        >>> import torch
        >>> from attn_core import masks
        >>> pooling = AttentionPooling(dim=4)
        >>> pooling(torch.ones(2, 3, 4), mask=masks.padding([3, 1])).shape
        torch.Size([2, 4])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_sizes(dim=dim)
        self.query = nn.Parameter(torch.empty(dim))
        nn.init.uniform_(self.query, -(dim**-0.5), dim**-0.5)

    def forward(
        self, x: Tensor, *, mask: Tensor | Mask | None = None, return_weights: bool = False
    ) -> Tensor | AttentionOutput:
        """Pool ``x`` ``(batch, length, dim)`` to ``(batch, dim)``.

        Args:
            x: ``(batch, length, dim)``.
            mask: :func:`attn_core.masks.padding`, or bool ``(batch, 1, 1, length)`` or
                ``(1, length)``, True = may be attended.
            return_weights: whether to return the weights ``(batch, length)`` too.

        Returns:
            The pooled vectors ``(batch, dim)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if ``x`` or ``mask`` has the wrong shape.
            TypeError: if ``x`` is not a tensor, or ``mask`` is not bool.
        """
        check_batch("x", x, self.query)
        check_mask_dimensions(mask)
        query = self.query.expand(len(x), 1, 1, -1)
        result = attention(
            query, x[:, None], x[:, None], mask=mask, scale=1.0, return_weights=return_weights
        )
        if isinstance(result, AttentionOutput):
            return AttentionOutput(result.output[:, 0, 0], result.weights[:, 0, 0])
        return result[:, 0, 0]

    def extra_repr(self) -> str:
        return f"dim={len(self.query)}"
