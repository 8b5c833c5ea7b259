"""Layers of somebody else, composed of those of the package; mypy checks this file strictly."""

from torch import Tensor, nn

import attn_core
from attn_core import attention, kernels, masks, positions
from attn_core.models.block import Block, BlockOutput
from attn_core.models.gpt import GPT
from attn_core.models.transformer import StackOutput, TransformerEncoder
from attn_core.modules import AttentionPooling, KVCache, MultiHeadAttention, SelfAttention


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.rotary = positions.Rotary()
        self.attention = MultiHeadAttention(dim, heads, rotary=self.rotary)
        self.plain = SelfAttention(dim)
        self.block = Block(dim, heads)
        self.pool = AttentionPooling(dim)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        return self.attention(x, mask=masks.causal(), cache=cache)

    def heads(self, x: Tensor) -> Tensor:
        return self.attention(x, return_weights=True).weights

    def either(self, x: Tensor, return_weights: bool) -> Tensor | attn_core.AttentionOutput:
        return self.plain(x, return_weights=return_weights)

    def pooled(self, x: Tensor) -> Tensor:
        return self.pool(self.block(x))

    def looked_at(self, x: Tensor) -> BlockOutput:
        return self.block(x, return_weights=True)


def stack(x: Tensor) -> StackOutput:
    return TransformerEncoder(8, 2, 1)(x, return_weights=True)


def logits(ids: Tensor) -> Tensor:
    return GPT(9, 8, 2, 1, max_len=4)(ids)


def bias(x: Tensor) -> Tensor:
    with kernels.use("explicit"):
        return attention(x, x, x, bias=positions.ALiBi(2))


def runs(x: Tensor) -> bool:
    choice = kernels.which(x, x, x, mask=masks.causal(), return_weights=True)
    return choice.kernel == "sdpa"


def multiplications() -> int:
    return attn_core.cost("multi_head", q_len=2, dim=4, heads=2).multiplications


def mistakes(x: Tensor) -> Tensor:
    """Each of these lines is an error to mypy, or it would call the comment unused."""
    attn_core.cost("recurrent", q_len=2)  # type: ignore[arg-type]
    kernels.use("flash")  # type: ignore[arg-type]
    kernels.which(x, x, x, attn_mask=None)  # type: ignore[call-arg]
    assert kernels.which(x, x, x).kernel != "math"  # type: ignore[comparison-overlap]
    return SelfAttention(8)(x, return_weights=True)  # type: ignore[return-value]
