"""Attention of this package inside any Hugging Face model.

``import attn_core.hugging_face`` registers :func:`attend` with ``transformers``, and :func:`hide`
for the masks. From then on a model that is loaded with ``attn_implementation="attn_core"``, or
switched by ``model.set_attn_implementation("attn_core")``, gives the logits that it gave before,
and runs on :func:`attn_core.attention`: :func:`attn_core.interpret.record` reads its weights,
:mod:`attn_core.plot` draws them, :mod:`attn_core.kernels` computes them.

    >>> import torch, transformers
    >>> import attn_core.hugging_face
    >>> from attn_core.interpret import record
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
    ...     num_attention_heads=4, num_key_value_heads=2, attn_implementation="attn_core")
    >>> model = transformers.LlamaForCausalLM(config).eval()
    >>> with torch.no_grad(), record(model) as layers:
    ...     output = model(torch.tensor([[3, 1, 4, 1, 5]]))
    >>> {name: [weights.shape for weights in calls] for name, calls in layers.items()}
    {'model.layers.0.self_attn': [torch.Size([1, 4, 5, 5])],
     'model.layers.1.self_attn': [torch.Size([1, 4, 5, 5])]}

It reaches the models whose layers ask ``transformers`` for their attention function. In version
4.57 these are the decoders of the last years (Llama, Mistral, Qwen, Gemma, gpt-oss and many more),
GPT-2, GPT-NeoX and OPT, BART and Whisper, and many encoders of images and sound. The others have
attention written into the layer: BERT and its relatives refuse the name by a ``KeyError``, T5 and
BLOOM go on as before, and :func:`~attn_core.interpret.record` then finds no layer that ran.
:mod:`attn_core.models` has a BERT that loads trained weights.

A query that may attend nothing, as in the padding on the left, gives 0 here, and the mean of all
values, padding too, with ``attn_implementation="eager"``. No real token sees the difference.
"""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from attn_core import masks
from attn_core.attend import attention
from attn_core.normalizers import softmax_with_sink

_NEEDS = 'attn_core.hugging_face needs transformers 4.57: pip install "attn-core[hugging_face]"'
try:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import causal_mask_function, sdpa_mask
except ImportError as error:
    raise ImportError(_NEEDS) from error
if "cache_position" not in inspect.signature(sdpa_mask).parameters:
    raise ImportError(_NEEDS)  # version 5 calls mask functions with other arguments

__all__ = ["attend", "hide"]


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    head_mask: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    r"""Compute attention as the layers of ``transformers`` call it.

    .. math:: \operatorname{softmax}\!\left(\text{scaling} \cdot Q K^\top + M\right) V

    Args:
        module: the layer that calls.
        query: ``(batch, Hq, L, D)``.
        key: ``(batch, Hkv, S, D)``.
        value: ``(batch, Hkv, S, Dv)``.
        attention_mask: what :func:`hide` gives; or bool, True = may attend; or numbers that are
            added to the scores, the lowest of their dtype where attending is forbidden; each
            broadcast to ``(batch, Hq, L, ≥ S)``. None where all may be attended: ``is_causal`` is
            not read, for a mask says it already.
        scaling: multiplies the scores; :math:`1/\sqrt{D}` by default.
        dropout: the share of weights set to 0.
        softcap: squeezes the scores into (−softcap, softcap).
        s_aux: ``(Hq,)``, the score of each head's sink.
        head_mask: a factor for what each head finds, ``(Hq,)`` or ``(1, Hq, 1, 1)``.
        **unused: what other implementations need, such as ``sliding_window``; the mask has it.

    Returns:
        The output ``(batch, L, Hq, Dv)``, and None where "eager" has the weights, which not every
        layer asks for when it should; :func:`attn_core.interpret.record` reads them.

    Raises:
        TypeError: as :func:`attn_core.attention`.
        ValueError: as :func:`attn_core.attention`; or if the layer scales its scores in a way that
            it does not hand on, or a mask does not tell keys apart.

    Source: ``AttentionInterface`` of transformers 4.57.

    Example:
        >>> x = torch.ones(1, 4, 3, 8)
        >>> output, _ = attend(torch.nn.Identity(), x, x[:, :2], x[:, :2], None)
        >>> output.shape
        torch.Size([1, 3, 4, 8])
    """
    _check_scaling(module)
    output = attention(
        query,
        key,
        value,
        **_mask_and_bias(attention_mask, query.dtype, key.shape[-2]),
        normalizer=None if s_aux is None else _with_sink(s_aux.to(query.dtype)),
        scale=scaling,
        softcap=softcap,
        dropout_p=dropout,
    )
    if head_mask is not None:
        output = output * head_mask.reshape(1, -1, 1, 1)
    return output.transpose(1, 2).contiguous(), None


def hide(
    batch_size: int,
    cache_position: Tensor,
    kv_length: int,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: Tensor | None = None,
    *,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    config: Any = None,
    **options: Any,
) -> Tensor:
    """Say which keys may be attended: by a rule where the kernels gain by it, else by a table.

    A rule is :func:`attn_core.masks.causal` or :func:`attn_core.masks.window`, where nothing is
    padded. It looks like a bool tensor, and becomes one if a model reads or changes it.

    Args:
        batch_size: number of sequences.
        cache_position: ``(L,)`` integers, the positions of the queries.
        kv_length: number of keys, S.
        kv_offset: the position of the first key.
        mask_function: says whether a pair may attend, ``(batch, head, query, key)``.
        attention_mask: bool ``(batch, ≥ S)``, which positions are real.
        local_size: how many keys a window or a chunk has, if the mask has one.
        allow_is_causal_skip: whether ``mask_function`` is what ``local_size`` and ``config`` say,
            and what gets the mask is not compiled by itself. Else the mask is a table.
        config: of the model.
        **options: the others that ``transformers`` gives its own functions.

    Returns:
        A bool tensor ``(batch, 1, L, S)``, or what stands for it.

    Source: ``AttentionMaskInterface`` of transformers 4.57.

    Example:
        >>> hide(1, torch.arange(2, 4), kv_length=4)[0, 0]
        tensor([[ True,  True,  True, False],
                [ True,  True,  True,  True]])
    """
    near = None
    if allow_is_causal_skip:
        near = _near(mask_function, local_size, config, kv_length)
    if near is not None and _is_unpadded(attention_mask, kv_length, kv_offset):
        first, last = cache_position[[0, -1]].tolist()
        if last - first == len(cache_position) - 1:
            shape = (batch_size, 1, len(cache_position), kv_length)
            return _Rule(near, first - kv_offset, shape, cache_position.device)
    table = sdpa_mask(
        batch_size=batch_size,
        cache_position=cache_position,
        kv_length=kv_length,
        kv_offset=kv_offset,
        mask_function=mask_function,
        attention_mask=attention_mask,
        allow_is_causal_skip=False,
    )
    assert table is not None
    return table


class _Rule(Tensor):
    """A mask that stands for its table ``(batch, 1, L, S)`` until somebody looks."""

    mask: masks.Mask
    q_offset: int
    table: Tensor | None

    @staticmethod
    def __new__(
        cls, mask: masks.Mask, q_offset: int, shape: tuple[int, ...], device: torch.device
    ) -> "_Rule":
        rule: _Rule = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        rule.mask, rule.q_offset, rule.table = mask, q_offset, None
        return rule

    def written_out(self) -> Tensor:
        """The table; from now on it counts, for it may be changed."""
        if self.table is None:
            *_, q_len, k_len = self.shape
            table = self.mask.dense(q_len, k_len, self.q_offset, device=self.device)
            self.table = table.expand(self.shape).clone()
        written: Tensor = self.table
        return written

    # So what is computed from a rule is a tensor, and not a rule.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, kinds: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        inputs, options = tree_map_only(_Rule, _Rule.written_out, (inputs, options or {}))
        return function(*inputs, **options)


def _near(
    mask_function: Any, local_size: int | None, config: Any, kv_length: int
) -> masks.Mask | None:
    """The rule that says the same, if it is known: chunks give their size as windows do."""
    if mask_function is causal_mask_function:
        return masks.causal()
    is_chunk = getattr(config, "attention_chunk_size", None) is not None
    is_window = local_size == getattr(config, "sliding_window", None)
    if local_size is None or is_chunk or not is_window:
        return None
    return masks.causal() if local_size >= kv_length else masks.window(local_size - 1, 0)


def _is_unpadded(attention_mask: Tensor | None, kv_length: int, kv_offset: int) -> bool:
    """Whether it is seen that every key is real; what is traced cannot be looked at."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if attention_mask is None:
        return True
    real = attention_mask[:, kv_offset : kv_offset + kv_length]
    return real.shape[-1] == kv_length and bool(real.all())


def _mask_and_bias(attention_mask: Tensor | None, dtype: torch.dtype, k_len: int) -> dict[str, Any]:
    """The same as arguments of attention."""
    if isinstance(attention_mask, _Rule):
        if attention_mask.table is None and attention_mask.shape[-1] == k_len:
            return {"mask": attention_mask.mask, "q_offset": attention_mask.q_offset}
        attention_mask = attention_mask.written_out()
    if attention_mask is None:
        return {}
    if attention_mask.shape[-1] < k_len:
        raise ValueError(
            f"attention_mask must tell {k_len} keys apart, got {tuple(attention_mask.shape)}; a "
            'head_mask that a layer hands on as mask needs attn_implementation="eager"'
        )
    attention_mask = attention_mask[..., :k_len]
    if not attention_mask.is_floating_point():
        return {"mask": attention_mask}
    allowed = attention_mask > torch.finfo(attention_mask.dtype).min
    return {"mask": allowed, "bias": attention_mask.masked_fill(~allowed, 0.0).to(dtype)}


def _with_sink(sinks: Tensor) -> Any:
    return partial(softmax_with_sink, sink=sinks[:, None, None])


def _check_scaling(module: nn.Module) -> None:
    """GPT-2 has two switches that its own function for "eager" reads, and no other is told."""
    by_layer = getattr(module, "scale_attn_by_inverse_layer_idx", False)
    if by_layer or not getattr(module, "scale_attn_weights", True):
        raise ValueError(
            f"{type(module).__name__} with scale_attn_by_inverse_layer_idx=True or "
            'scale_attn_weights=False needs attn_implementation="eager": it does not hand on how '
            "it scales"
        )


AttentionInterface.register("attn_core", attend)
AttentionMaskInterface.register("attn_core", hide)
