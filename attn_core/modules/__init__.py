"""Layers: attention with the parameters that make its queries, keys and values."""

from attn_core.modules.cache import KVCache
from attn_core.modules.multi_head import MultiHeadAttention
from attn_core.modules.pooling import AttentionPooling
from attn_core.modules.single_head import SelfAttention

__all__ = ["AttentionPooling", "KVCache", "MultiHeadAttention", "SelfAttention"]
