"""Races of masks: padding, documents, blocks; and of a trained encoder on padded sentences."""

import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, masks
from attn_core.data import pretrained
from attn_core.models.bert import BERT
from benchmarks.race import Contest, Lab, forward, race

FLEX = "PyTorch's FlexAttention, compiled and warm"
EVERYWHERE = ("cpu", "cuda")


def _tolerance(lab: Lab) -> float:
    return 1e-5 if lab.dtype == torch.float32 else 2e-2


@race(
    name="padded batch, forward",
    setting="batch 16 of 1024 to 2048 tokens, 4 heads, width 64",
    peer="PyTorch's fused attention with one row of mask for each text",
    goal=1.05,
    memory_goal=1.1,
    devices=EVERYWHERE,
)
def padded(lab: Lab) -> Contest:
    tokens = lab.size(2048, 32)
    query, key, value = (lab.normal(16, 4, tokens, 64, seed=i) for i in range(3))
    lengths = torch.linspace(tokens // 2, tokens, 16, device=lab.device).long()
    table = (torch.arange(tokens, device=lab.device) < lengths[:, None])[:, None, None]
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.padding(lengths))),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, attn_mask=table)),
        tolerance=_tolerance(lab),
    )


@race(
    name="sentence encoder MiniLM, forward",
    setting="the trained weights, 256 sentences of 6 to 45 tokens, in batches of 32 by length",
    peer="transformers with sdpa",
    package="transformers",
    goal=1.0,
)
def minilm(lab: Lab) -> Contest:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    folder = pretrained.minilm_folder()
    config = BertConfig(**json.loads((folder / "config.json").read_text("utf-8")))
    config._attn_implementation = "sdpa"
    theirs = BertModel(config).eval()
    theirs.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    ours = BERT.from_safetensors(folder)
    batches = _sentences(lab.size(256, 4), lab.size(32, 2))

    def embed(states: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        means = []
        for ids, is_token in batches:
            kept = states(ids, is_token) * is_token[..., None]
            means.append(kept.sum(1) / is_token.sum(1, keepdim=True))
        return torch.cat(means)

    return Contest(
        ours=forward(lambda: embed(ours)),
        theirs=forward(
            lambda: embed(lambda ids, is_token: theirs(ids, is_token.long()).last_hidden_state)
        ),
        tolerance=1e-4,
        note="both read the same token numbers, and average the vectors of a sentence's tokens",
    )


def _sentences(number: int, size: int) -> list[tuple[Tensor, Tensor]]:
    """Sentences of drawn lengths, of drawn tokens, padded in batches: numbers, and what is real."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(6, 46, (number,), generator=generator).sort().values
    batches = []
    for some in lengths.split(size):
        is_token = torch.arange(int(some.max())) < some[:, None]
        ids = torch.randint(1000, 30000, is_token.shape, generator=generator)
        batches.append((ids.masked_fill(~is_token, 0), is_token))
    return batches


def _against_flex(
    lab: Lab, tokens: int, mask: masks.Mask, mask_mod: Callable[..., Tensor]
) -> Contest:
    """Our call, and FlexAttention with the same mask in the words of its own."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, key, value = (lab.normal(1, 8, tokens, 64, seed=i) for i in range(3))
    blocks = create_block_mask(mask_mod, None, None, tokens, tokens, device=lab.device)
    flex: Any = flex_attention if lab.tiny else torch.compile(flex_attention)
    start = time.perf_counter()
    with torch.no_grad():
        flex(query, key, value, block_mask=blocks)
    compiling = time.perf_counter() - start
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=mask)),
        theirs=forward(lambda: flex(query, key, value, block_mask=blocks)),
        tolerance=_tolerance(lab),
        note=f"making masks and block masks is not timed; the peer's first call compiles, "
        f"{compiling:.1f} s; ours compiles nothing",
    )


def _documents(lab: Lab, tokens: int) -> Tensor:
    """The document of each token, 16 of them, with drawn ends."""
    drawn = torch.randperm(tokens - 1, generator=torch.Generator().manual_seed(0))
    ends = drawn[:15].add(1).sort().values
    return torch.bucketize(torch.arange(tokens), ends, right=True).to(lab.device)


@race(
    name="documents in one sequence, forward",
    setting="16 documents of drawn lengths in 8192 tokens, 8 heads, width 64",
    peer=FLEX,
    goal=1.0,
    devices=EVERYWHERE,
)
def documents_flex(lab: Lab) -> Contest:
    tokens = lab.size(8192, 256)
    ids = _documents(lab, tokens)
    return _against_flex(lab, tokens, masks.document(ids), lambda b, h, i, j: ids[i] == ids[j])


@race(
    name="causal documents in one sequence, forward",
    setting="16 documents of drawn lengths in 8192 tokens, 8 heads, width 64",
    peer=FLEX,
    goal=1.0,
    devices=EVERYWHERE,
)
def causal_documents_flex(lab: Lab) -> Contest:
    tokens = lab.size(8192, 256)
    ids = _documents(lab, tokens)
    return _against_flex(
        lab,
        tokens,
        masks.causal() & masks.document(ids),
        lambda b, h, i, j: (ids[i] == ids[j]) & (j <= i),
    )


@race(
    name="BigBird, forward",
    setting="blocks of 64: 3 near, 1 global, 1 drawn; 8 heads, 16384 tokens, width 64",
    peer=FLEX,
    goal=1.0,
    devices=EVERYWHERE,
)
def bigbird_flex(lab: Lab) -> Contest:
    tokens, size = lab.size(16384, 256), lab.size(64, 32)
    mask = masks.bigbird(tokens, size)
    at = torch.arange(0, tokens, size, device=lab.device)
    layout = mask.pairs(at[:, None], at)

    def is_in_blocks(batch: Tensor, head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        return layout[query_at // size, key_at // size]

    return _against_flex(lab, tokens, mask, is_in_blocks)


@race(
    name="sparse transformer, forward",
    setting="causal, the last 128 keys and every 128th before, 8 heads, 8192 tokens, width 64",
    peer=FLEX,
    goal=1.0,
    devices=EVERYWHERE,
)
def strided_flex(lab: Lab) -> Contest:
    tokens, stride = lab.size(8192, 256), lab.size(128, 32)

    def is_near_or_in_step(b: Tensor, h: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        back = query_at - key_at
        return (back >= 0) & ((back < stride) | (back % stride == 0))

    return _against_flex(lab, tokens, masks.sparse_transformer(stride), is_near_or_in_step)
