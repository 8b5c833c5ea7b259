"""Races of attention itself: dense, in a window, with a bias, in groups, as a layer."""

import time

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, masks, modules, positions
from benchmarks.race import Contest, Lab, forward, forward_and_backward, race

EVERYWHERE = ("cpu", "cuda")
DENSE = "causal, batch 4, 8 heads, 1024 tokens, width 64"
WINDOW = "causal, 128 keys before each query, 8 heads, 8192 tokens, width 64"


def _query_key_value(lab: Lab, *shape: int, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (lab.normal(*shape, seed=i, learn=learn) for i in range(3))
    return query, key, value


def _tolerance(lab: Lab) -> float:
    return 1e-5 if lab.dtype == torch.float32 else 2e-2


SDPA = "PyTorch's fused attention"


@race(name="dense attention, forward", setting=DENSE, peer=SDPA, goal=1.05, devices=EVERYWHERE)
def dense(lab: Lab) -> Contest:
    query, key, value = _query_key_value(lab, 4, 8, lab.size(1024, 32), 64)
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.causal())),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, is_causal=True)),
        tolerance=_tolerance(lab),
    )


@race(
    name="dense attention, forward and backward",
    setting=DENSE,
    peer=SDPA,
    goal=1.05,
    devices=EVERYWHERE,
)
def dense_backward(lab: Lab) -> Contest:
    inputs = _query_key_value(lab, 4, 8, lab.size(1024, 32), 64, learn=True)
    return Contest(
        ours=forward_and_backward(lambda: attention(*inputs, mask=masks.causal()), inputs),
        theirs=forward_and_backward(
            lambda: scaled_dot_product_attention(*inputs, is_causal=True), inputs
        ),
        tolerance=_tolerance(lab),
    )


def _local_attention(width: int) -> nn.Module:
    from local_attention import LocalAttention

    return LocalAttention(
        window_size=width, causal=True, exact_windowsize=True, use_rotary_pos_emb=False
    )


@race(
    name="window, forward",
    setting=WINDOW,
    peer="local-attention",
    package="local_attention",
    goal=0.33,
    devices=EVERYWHERE,
)
def window(lab: Lab) -> Contest:
    width = lab.size(128, 16)
    query, key, value = _query_key_value(lab, 1, 8, lab.size(8192, 64), 64)
    theirs = _local_attention(width)
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.window(width, 0))),
        theirs=forward(lambda: theirs(query, key, value)),
        tolerance=_tolerance(lab),
    )


@race(
    name="window, forward and backward",
    setting=WINDOW,
    peer="local-attention",
    package="local_attention",
    goal=0.5,
    devices=EVERYWHERE,
)
def window_backward(lab: Lab) -> Contest:
    width = lab.size(128, 16)
    inputs = _query_key_value(lab, 1, 8, lab.size(8192, 64), 64, learn=True)
    theirs = _local_attention(width)
    return Contest(
        ours=forward_and_backward(lambda: attention(*inputs, mask=masks.window(width, 0)), inputs),
        theirs=forward_and_backward(lambda: theirs(*inputs), inputs),
        tolerance=_tolerance(lab),
    )


@race(
    name="window, forward",
    setting=WINDOW,
    peer=f"{SDPA} with a dense mask",
    goal=0.05,
    devices=EVERYWHERE,
)
def window_dense_mask(lab: Lab) -> Contest:
    width = lab.size(128, 16)
    query, key, value = _query_key_value(lab, 1, 8, lab.size(8192, 64), 64)
    at = torch.arange(query.shape[-2], device=lab.device)
    table = (at <= at[:, None]) & (at[:, None] - at <= width)
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.window(width, 0))),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, attn_mask=table)),
        tolerance=_tolerance(lab),
    )


@race(
    name="window, forward",
    setting=WINDOW,
    peer="PyTorch's FlexAttention, compiled and warm",
    goal=1.0,
    devices=EVERYWHERE,
)
def window_flex(lab: Lab) -> Contest:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    width, tokens = lab.size(128, 16), lab.size(8192, 256)
    query, key, value = _query_key_value(lab, 1, 8, tokens, 64)

    def near(batch: Tensor, head: Tensor, query_at: Tensor, key_at: Tensor) -> Tensor:
        return (key_at <= query_at) & (query_at - key_at <= width)

    blocks = create_block_mask(near, None, None, tokens, tokens, device=lab.device)
    flex = flex_attention if lab.tiny else torch.compile(flex_attention)
    start = time.perf_counter()
    with torch.no_grad():
        flex(query, key, value, block_mask=blocks)
    compiling = time.perf_counter() - start
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.window(width, 0))),
        theirs=forward(lambda: flex(query, key, value, block_mask=blocks)),
        tolerance=_tolerance(lab),
        note=f"the peer's first call compiles, {compiling:.1f} s; ours compiles nothing",
    )


@race(
    name="ALiBi, forward",
    setting="causal, 8 heads, 4096 tokens, width 64",
    peer=f"{SDPA} with a dense bias",
    goal=0.5,
    devices=EVERYWHERE,
)
def alibi(lab: Lab) -> Contest:
    tokens = lab.size(4096, 64)
    query, key, value = _query_key_value(lab, 1, 8, tokens, 64)
    bias = positions.ALiBi(8).to(lab.device)
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=lab.device).triu(1)
    slopes = 0.5 ** torch.arange(1, 9, device=lab.device, dtype=torch.float32)[:, None, None]
    at = torch.arange(tokens, device=lab.device)
    table = (slopes * (at - at[:, None])).to(lab.dtype).masked_fill(future, -torch.inf)
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.causal(), bias=bias)),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, attn_mask=table)),
        tolerance=_tolerance(lab),
        note="building the peer's table is not timed",
    )


DECODE = "batch 8, 32 query heads on 8 key-value heads, 4096 keys, width 64"


def _decoding(lab: Lab) -> tuple[Tensor, Tensor, Tensor]:
    batch, keys = lab.size(8, 2), lab.size(4096, 64)
    key, value = (lab.normal(batch, 8, keys, 64, seed=i) for i in (1, 2))
    return lab.normal(batch, 32, 1, 64), key, value


@race(
    name="decoding one token, grouped queries",
    setting=DECODE,
    peer=f"{SDPA} with enable_gqa",
    goal=1.1,
    devices=EVERYWHERE,
)
def grouped_decode(lab: Lab) -> Contest:
    query, key, value = _decoding(lab)
    return Contest(
        ours=forward(lambda: attention(query, key, value)),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, enable_gqa=True)),
        tolerance=_tolerance(lab),
    )


@race(
    name="decoding one token with a causal mask, grouped queries",
    setting=DECODE,
    peer=f"{SDPA} with enable_gqa",
    goal=1.1,
    devices=EVERYWHERE,
)
def grouped_decode_causal(lab: Lab) -> Contest:
    query, key, value = _decoding(lab)
    last = key.shape[-2] - 1
    return Contest(
        ours=forward(lambda: attention(query, key, value, mask=masks.causal(), q_offset=last)),
        theirs=forward(lambda: scaled_dot_product_attention(query, key, value, enable_gqa=True)),
        tolerance=_tolerance(lab),
        note="the peer is told that nothing is masked; ours finds it out",
    )


def _layers(
    lab: Lab,
) -> tuple[modules.MultiHeadAttention, nn.MultiheadAttention, Tensor, Tensor]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(512, 8, batch_first=True).to(lab.device, lab.dtype).eval()
    ours = modules.MultiHeadAttention.from_torch(theirs).eval()
    x = lab.normal(2, lab.size(1024, 16), 512, learn=True)
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=lab.device).triu(1)
    return ours, theirs, x, future


LAYER = "causal, batch 2, 1024 tokens, width 512, 8 heads"


@race(
    name="multi-head layer, forward",
    setting=LAYER,
    peer="PyTorch's nn.MultiheadAttention",
    goal=1.0,
    devices=EVERYWHERE,
)
def layer(lab: Lab) -> Contest:
    ours, theirs, x, future = _layers(lab)
    return Contest(
        ours=forward(lambda: ours(x, mask=masks.causal())),
        theirs=forward(
            lambda: theirs(x, x, x, attn_mask=future, is_causal=True, need_weights=False)[0]
        ),
        tolerance=_tolerance(lab),
    )


@race(
    name="multi-head layer, forward and backward",
    setting=LAYER,
    peer="PyTorch's nn.MultiheadAttention",
    goal=1.0,
    devices=EVERYWHERE,
)
def layer_backward(lab: Lab) -> Contest:
    ours, theirs, x, future = _layers(lab)
    return Contest(
        ours=forward_and_backward(lambda: ours(x, mask=masks.causal()), (x, ours.out_proj.weight)),
        theirs=forward_and_backward(
            lambda: theirs(x, x, x, attn_mask=future, is_causal=True, need_weights=False)[0],
            (x, theirs.out_proj.weight),
        ),
        tolerance=_tolerance(lab),
    )
