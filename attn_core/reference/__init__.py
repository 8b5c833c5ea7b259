"""Attention in NumPy, written as the equations read, forward and backward.

Every function here has a twin of the same name in ``attn_core`` that does the same with PyTorch.
This one is for reading and for checking: it imports NumPy only, keeps float64 when it is given
float64, and shows every step.

Each differentiable function ``f`` has a neighbour ``f_backward``, and all of them are called the
same way::

    f_backward(grad_output, *inputs, **options)

``grad_output`` is the gradient of the loss with respect to what ``f`` returned, and has its shape;
``inputs`` and ``options`` are those of ``f``. What comes back is one gradient per array among the
inputs, in their order, each with the shape of its input: a tuple, or the gradient itself where
there is one input only. A whole model, ``bert``, has the way forward only; its blocks have both.
"""

from attn_core.reference.attend import (
    AttentionGradients,
    AttentionOutput,
    attention,
    attention_backward,
)
from attn_core.reference.block import (
    BlockGradients,
    transformer_block,
    transformer_block_backward,
)
from attn_core.reference.buckets import lsh, lsh_backward
from attn_core.reference.delta import (
    DeltaGradients,
    delta_rule,
    delta_rule_backward,
)
from attn_core.reference.graph import (
    graph_attention,
    graph_attention_backward,
    graph_attention_v2,
    graph_attention_v2_backward,
)
from attn_core.reference.hierarchy import (
    hierarchical,
    hierarchical_backward,
)
from attn_core.reference.interpret import alignment_error_rate, distance, entropy, rollout
from attn_core.reference.landmarks import nystrom, nystrom_backward
from attn_core.reference.latent_heads import (
    multi_head_latent,
    multi_head_latent_backward,
)
from attn_core.reference.learned_scores import (
    additive,
    additive_backward,
    bilinear,
    bilinear_backward,
    location,
    location_backward,
)
from attn_core.reference.linear import (
    LinearGradients,
    elu_plus_one,
    elu_plus_one_backward,
    linear_attention,
    linear_attention_backward,
)
from attn_core.reference.local_windows import (
    local_m,
    local_m_backward,
    local_p,
    local_p_backward,
)
from attn_core.reference.loops import attention_loops
from attn_core.reference.many_heads import (
    MultiHeadGradients,
    multi_head,
    multi_head_backward,
    multi_head_decoding,
)
from attn_core.reference.masks import (
    block_sparse,
    causal,
    dilated,
    document,
    global_tokens,
    padding,
    strided,
    window,
)
from attn_core.reference.normalizers import (
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    softmax_jacobian,
    softmax_with_sink,
    softmax_with_sink_backward,
)
from attn_core.reference.one_key import (
    gumbel_softmax,
    gumbel_softmax_backward,
    hard,
    hard_backward,
)
from attn_core.reference.online import online_attention, online_attention_backward
from attn_core.reference.packaged import minilm
from attn_core.reference.pointer import (
    coverage,
    coverage_backward,
    coverage_loss,
    coverage_loss_backward,
    pointer_mixture,
    pointer_mixture_backward,
)
from attn_core.reference.position_wise import (
    gelu,
    gelu_backward,
    layer_norm,
    layer_norm_backward,
    rms_norm,
    rms_norm_backward,
)
from attn_core.reference.positions import sinusoidal
from attn_core.reference.positions_fixed import (
    alibi,
    alibi_slopes,
    distances,
    restarting,
    t5_bucket,
)
from attn_core.reference.positions_learned import (
    segment,
    segment_backward,
    shaw,
    shaw_backward,
    shaw_values,
    shaw_values_backward,
    t5_bias,
    t5_bias_backward,
)
from attn_core.reference.positions_rotary import (
    LinearScaling,
    NTKScaling,
    Scaling,
    YaRNScaling,
    rotary,
    rotary_backward,
)
from attn_core.reference.positions_transformer_xl import (
    transformer_xl,
    transformer_xl_backward,
)
from attn_core.reference.projected import LinformerGradients, linformer, linformer_backward
from attn_core.reference.random_features import (
    favor,
    favor_backward,
    orthogonal_projection,
    positive_features,
    positive_features_backward,
)
from attn_core.reference.recurrence import RecurrentOutput
from attn_core.reference.rounding import (
    RoundedRows,
    load_rounded,
    restore_rows,
    round_rows,
    save_rounded,
)
from attn_core.reference.sampling import (
    HardAttentionOutput,
    hard_attention,
    hard_attention_backward,
    reinforce_loss,
    reinforce_loss_backward,
)
from attn_core.reference.scores import (
    cosine,
    cosine_backward,
    dot,
    dot_backward,
    gaussian,
    gaussian_backward,
    scaled_dot,
    scaled_dot_backward,
)
from attn_core.reference.sparse_normalizers import (
    entmax,
    entmax15,
    entmax15_backward,
    entmax_backward,
    entmax_bisect,
    entmax_bisect_backward,
    sparsemax,
    sparsemax_backward,
)
from attn_core.reference.text_encoder import BERTOutput, bert, sentence_vector
from attn_core.reference.wordpiece import word_pieces

__all__ = [
    "AttentionGradients",
    "AttentionOutput",
    "BERTOutput",
    "BlockGradients",
    "DeltaGradients",
    "HardAttentionOutput",
    "LinearGradients",
    "LinearScaling",
    "LinformerGradients",
    "MultiHeadGradients",
    "NTKScaling",
    "RecurrentOutput",
    "RoundedRows",
    "Scaling",
    "YaRNScaling",
    "additive",
    "additive_backward",
    "alibi",
    "alibi_slopes",
    "alignment_error_rate",
    "attention",
    "attention_backward",
    "attention_loops",
    "bert",
    "bilinear",
    "bilinear_backward",
    "block_sparse",
    "causal",
    "cosine",
    "cosine_backward",
    "coverage",
    "coverage_backward",
    "coverage_loss",
    "coverage_loss_backward",
    "delta_rule",
    "delta_rule_backward",
    "dilated",
    "distance",
    "distances",
    "document",
    "dot",
    "dot_backward",
    "elu_plus_one",
    "elu_plus_one_backward",
    "entmax",
    "entmax15",
    "entmax15_backward",
    "entmax_backward",
    "entmax_bisect",
    "entmax_bisect_backward",
    "entropy",
    "favor",
    "favor_backward",
    "gaussian",
    "gaussian_backward",
    "gelu",
    "gelu_backward",
    "global_tokens",
    "graph_attention",
    "graph_attention_backward",
    "graph_attention_v2",
    "graph_attention_v2_backward",
    "gumbel_softmax",
    "gumbel_softmax_backward",
    "hard",
    "hard_attention",
    "hard_attention_backward",
    "hard_backward",
    "hierarchical",
    "hierarchical_backward",
    "layer_norm",
    "layer_norm_backward",
    "linear_attention",
    "linear_attention_backward",
    "linformer",
    "linformer_backward",
    "load_rounded",
    "local_m",
    "local_m_backward",
    "local_p",
    "local_p_backward",
    "location",
    "location_backward",
    "lsh",
    "lsh_backward",
    "minilm",
    "multi_head",
    "multi_head_backward",
    "multi_head_decoding",
    "multi_head_latent",
    "multi_head_latent_backward",
    "nystrom",
    "nystrom_backward",
    "online_attention",
    "online_attention_backward",
    "orthogonal_projection",
    "padding",
    "pointer_mixture",
    "pointer_mixture_backward",
    "positive_features",
    "positive_features_backward",
    "reinforce_loss",
    "reinforce_loss_backward",
    "restarting",
    "restore_rows",
    "rms_norm",
    "rms_norm_backward",
    "rollout",
    "rotary",
    "rotary_backward",
    "round_rows",
    "save_rounded",
    "scaled_dot",
    "scaled_dot_backward",
    "segment",
    "segment_backward",
    "sentence_vector",
    "shaw",
    "shaw_backward",
    "shaw_values",
    "shaw_values_backward",
    "sigmoid",
    "sigmoid_backward",
    "sinusoidal",
    "softmax",
    "softmax_backward",
    "softmax_jacobian",
    "softmax_with_sink",
    "softmax_with_sink_backward",
    "sparsemax",
    "sparsemax_backward",
    "strided",
    "t5_bias",
    "t5_bias_backward",
    "t5_bucket",
    "transformer_block",
    "transformer_block_backward",
    "transformer_xl",
    "transformer_xl_backward",
    "window",
    "word_pieces",
]
