"""What other libraries call the arguments of this package, so that an error can say it.

The names are those of PyTorch, transformers, flash-attn and xFormers.
"""

from collections.abc import Iterable

# By the name here: other names of the same argument.
_SAME = {
    "query": "q queries",
    "key": "k keys",
    "value": "v values",
    "mask": "attn_mask attention_mask",
    "bias": "attn_bias position_bias qkv_bias use_bias add_bias",
    "scale": "softmax_scale sm_scale scaling",
    "softcap": "logits_soft_cap logit_softcap attn_logit_softcapping",
    "dropout_p": "dropout attn_dropout",
    "dropout": "dropout_p attn_dropout attn_drop attn_pdrop attention_dropout",
    "return_weights": "need_weights output_attentions return_attn_probs return_attention_scores",
    "dim": "embed_dim d_model hidden_size n_embd dims model_dim embedding_dim",
    "heads": "num_heads n_head n_heads nhead num_attention_heads nheads",
    "kv_heads": "num_kv_heads num_key_value_heads n_kv_heads nheads_kv num_query_groups",
    "head_dim": "head_size d_k d_head head_width",
    "key_dim": "kdim",
    "value_dim": "vdim v_head_dim",
    "kv_rank": "kv_lora_rank",
    "query_rank": "q_lora_rank",
    "rotary_dim": "qk_rope_head_dim",
    "hidden_dim": "dim_feedforward intermediate_size d_ff ffn_dim n_inner",
    "layers": "num_layers n_layer n_layers num_hidden_layers depth",
    "vocab_size": "vocabulary_size num_embeddings",
    "max_len": "max_length max_seq_len max_position_embeddings n_positions max_cache_len",
    "eps": "layer_norm_eps layer_norm_epsilon rms_norm_eps norm_eps",
    "is_token": "attention_mask",
    "ids": "input_ids idx tokens",
    "cache": "kv_cache past_key_value past_key_values layer_past",
    "window": "sliding_window",
    "positions": "position_ids input_pos offsets",
    "base": "rope_theta theta rotary_base max_wavelength",
    "scaling": "rope_scaling",
    "slopes": "alibi_slopes",
    "buckets": "num_buckets relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "features": "nb_features num_features",
    "landmarks": "num_landmarks",
    "rounds": "n_hashes num_hashes",
    "causal": "is_causal is_decoder",
}
# By an argument that a call has: names of others that it stands for in another form, or not at all.
_OTHERWISE = {
    "mask": {
        "is_causal": "for is_causal write mask=masks.causal()",
        "causal": "for causal write mask=masks.causal()",
        "key_padding_mask": "for key_padding_mask write mask=masks.padding(lengths), or a mask in "
        "which True means: may attend",
        "window_size": "for window_size write mask=masks.window(left, right)",
        "sliding_window": "for sliding_window write mask=masks.window(left, right)",
        "average_attn_weights": "weights come head by head: take their mean yourself",
    },
    "bias": {"alibi_slopes": "for alibi_slopes write bias=positions.ALiBi(heads)"},
    "value": {"enable_gqa": "fewer heads of key and value are shared unasked"},
    "heads": {"batch_first": "the batch always comes first here"},
}


def hints(other: str, own: Iterable[str]) -> list[str]:
    """What a name of others is here, in a call with these arguments: at most one sentence."""
    same = [name for name in own if other in _SAME.get(name, "").split()]
    if same:
        return [f"{other} is called {same[0]} here"]
    return [_OTHERWISE[name][other] for name in own if other in _OTHERWISE.get(name, {})][:1]
