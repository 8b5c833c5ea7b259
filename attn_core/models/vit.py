"""A Transformer that sees: an image is a sentence of patches."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_classes,
    check_floating_point,
    check_same_kind,
    check_share,
    check_sizes,
)
from attn_core.models.transformer import TransformerEncoder
from attn_core.positions import LearnedEncoding

__all__ = ["ViT"]


@checked_call
class ViT(nn.Module):
    r"""Classify an image from the patches that it is cut into.

    .. math::
        x = [c;\, p_1 E;\, \dots;\, p_N E] + P, \qquad
        \text{logits} = \operatorname{Encoder}(x)_0 \, W + b

    Patches :math:`p_n` stand row by row. What is summed up is the class token :math:`c`, or without
    one the mean of all patches.

    Args:
        image_size: height and width of an image, in pixels.
        patch_size: height and width of a patch, a divisor of ``image_size``.
        channels: colours of a pixel.
        classes: number of classes.
        dim: width of a patch's vector.
        heads: number of heads.
        layers: number of blocks.
        pool: ``"class"`` for a class token in front of the patches, ``"mean"`` for their mean.
        dropout: share of the embeddings dropped, and as in :class:`attn_core.models.block.Block`;
            while training only.
        **block: the other arguments of :class:`attn_core.models.block.Block`.

    Raises:
        ValueError: if a size is not positive, ``image_size`` is no multiple of ``patch_size``,
            ``pool`` is unknown, or images have another shape.
        TypeError: if a size is not an integer, or images are not floating point.

    Source: Dosovitskiy et al. (2021), section 3.1, whose smallest is 224, 16, 3, 1000, 768, 12, 12.

    Example:
        >>> import torch
        >>> model = ViT(8, patch_size=2, channels=1, classes=10, dim=16, heads=2, layers=2)
        >>> model(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        channels: int,
        classes: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        pool: Literal["class", "mean"] = "class",
        dropout: float = 0.0,
        **block: Any,
    ) -> None:
        super().__init__()
        check_sizes(image_size=image_size, patch_size=patch_size, channels=channels)
        check_sizes(classes=classes, dim=dim)
        check_share("dropout", dropout)
        if image_size % patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size, got {image_size} and {patch_size}"
            )
        if pool not in ("class", "mean"):
            raise ValueError(f"pool must be 'class' or 'mean', got {pool!r}")
        self.image_shape = (channels, image_size, image_size)
        self.patch_size = patch_size
        self.embedding = nn.Linear(channels * patch_size**2, dim)
        self.class_token = nn.Parameter(torch.zeros(dim)) if pool == "class" else None
        tokens = (image_size // patch_size) ** 2 + (pool == "class")
        self.position = LearnedEncoding(tokens, dim)
        self.encoder = TransformerEncoder(dim, heads, layers, dropout=dropout, **block)
        self.output = nn.Linear(dim, classes)
        self.dropout = nn.Dropout(dropout)

    def patches(self, images: Tensor) -> Tensor:
        """Cut images ``(batch, channels, height, width)`` into patches, row by row.

        Returns:
            ``(batch, patches, channels × patch_size × patch_size)``.
        """
        check_floating_point("images", images)
        if images.ndim != 4 or images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must be (batch, {expected}), got {tuple(images.shape)}")
        check_same_kind("images", images, "the model", self.embedding.weight)
        return F.pixel_unshuffle(images, self.patch_size).flatten(2).mT

    def states(self, images: Tensor) -> Tensor:
        """Give a vector for every patch, which knows the whole image.

        Args:
            images: ``(batch, channels, image_size, image_size)``.

        Returns:
            ``(batch, patches, dim)``, and the class token's vector in front if there is one.
        """
        x = self.embedding(self.patches(images))
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        return self.encoder(self.dropout(self.position(x)))

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        states = self.states(images)
        summary = states.mean(dim=1) if self.class_token is None else states[:, 0]
        return self.output(summary)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy.

        Args:
            images: ``(batch, channels, image_size, image_size)``.
            labels: the number of every image's class, ``(batch,)``.

        Returns:
            A scalar, in nats per image.

        Raises:
            ValueError: if ``images`` or ``labels`` has another shape, or a label is no class.
            TypeError: if ``images`` is not floating point, or ``labels`` not int64.
        """
        logits = self(images)
        check_classes("labels", labels, tuple(logits.shape[:1]), self.output.out_features)
        return F.cross_entropy(logits, labels)
