"""Self-attention with a single head."""

from torch import Tensor, nn

from attn_core.attend import AttentionOutput, attention
from attn_core.calls import TensorOrWeights, checked_call
from attn_core.checks import check_mask_dimensions, check_sizes, check_vectors, projected
from attn_core.masks import Mask


@checked_call
class SelfAttention(nn.Module):
    r"""Let every vector of a sequence gather from all the others.

    .. math::
        \operatorname{SelfAttention}(X)
        = \operatorname{softmax}\!\left(\frac{X W_Q (X W_K)^\top}{\sqrt{D}}\right) X W_V

    Query and key have projections of their own. With a shared one, as in D0's ``SelfAttention``,
    the scores are symmetric: i can attend j only as much as j attends i.

    Args:
        dim: width of the sequence.
        head_dim: width :math:`D` of queries, keys and values; by default ``dim``.
        bias: whether the projections have a bias.

    Attributes:
        query_proj: :math:`W_Q`.
        key_proj: :math:`W_K`.
        value_proj: :math:`W_V`.

    Raises:
        ValueError: if a size is not positive, or ``x`` is not ``(batch, length, dim)``.
        TypeError: if a size is not an integer, or ``x`` not a tensor.

    Source: Vaswani et al. (2017), section 3.2; D0, section 4; D2, section 5; D3, section 5.2.

    Example:
        >>> import torch
        >>> SelfAttention(dim=6, head_dim=4)(torch.ones(2, 3, 6)).shape
        torch.Size([2, 3, 4])
    """

    __call__: TensorOrWeights[AttentionOutput]

    def __init__(self, dim: int, head_dim: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        head_dim = dim if head_dim is None else head_dim
        check_sizes(dim=dim, head_dim=head_dim)
        self.dim = dim
        self.query_proj = nn.Linear(dim, head_dim, bias=bias)
        self.key_proj = nn.Linear(dim, head_dim, bias=bias)
        self.value_proj = nn.Linear(dim, head_dim, bias=bias)

    def forward(
        self, x: Tensor, *, mask: Tensor | Mask | None = None, return_weights: bool = False
    ) -> Tensor | AttentionOutput:
        """Attend within ``x`` ``(batch, length, dim)``.

        Args:
            x: ``(batch, length, dim)``.
            mask: a mask, or bool ``(length, length)`` or ``(batch, 1, length, length)``, True = may
                attend.
            return_weights: whether to return the weights ``(batch, length, length)`` too.

        Returns:
            ``(batch, length, head_dim)``, or :class:`attn_core.AttentionOutput`.

        Raises:
            ValueError: if ``x`` or ``mask`` has the wrong shape.
            TypeError: if ``x`` is not a tensor, or ``mask`` is not bool.
        """
        check_vectors("x", x, self.dim)
        check_mask_dimensions(mask)
        query, key, value = (
            projected("x", x, project)[:, None]
            for project in (self.query_proj, self.key_proj, self.value_proj)
        )
        result = attention(query, key, value, mask=mask, return_weights=return_weights)
        if isinstance(result, AttentionOutput):
            return AttentionOutput(result.output[:, 0], result.weights[:, 0])
        return result[:, 0]
