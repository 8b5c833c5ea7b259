"""Layers: attention with the parameters that make its queries, keys and values."""

from attn_core.modules.cache import KVCache
from attn_core.modules.hard import (
    HardAttention,
    HardAttentionOutput,
    MovingAverage,
    reinforce_loss,
)
from attn_core.modules.hierarchical import HierarchicalAttention, HierarchicalOutput
from attn_core.modules.latent import MultiHeadLatentAttention
from attn_core.modules.local import LocalMonotonic, LocalPredictive
from attn_core.modules.multi_head import MultiHeadAttention
from attn_core.modules.pooling import AttentionPooling
from attn_core.modules.single_head import SelfAttention

__all__ = [
    "AttentionPooling",
    "HardAttention",
    "HardAttentionOutput",
    "HierarchicalAttention",
    "HierarchicalOutput",
    "KVCache",
    "LocalMonotonic",
    "LocalPredictive",
    "MovingAverage",
    "MultiHeadAttention",
    "MultiHeadLatentAttention",
    "SelfAttention",
    "reinforce_loss",
]
