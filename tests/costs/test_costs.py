"""What ``cost`` says is what PyTorch's counter counts and what is allocated."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from refusals import assert_refuses
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from attn_core import Cost, attention, cost, kernels, masks, scores
from attn_core.modules import KVCache, MultiHeadAttention, MultiHeadLatentAttention

ATEN = torch.ops.aten


def _of_matrix_and_vector(matrix, vector, *args, out_shape=None, **options):
    return 2 * matrix[0] * matrix[1]


def _of_matrices_in_place(total, left, right, *args, out_shape=None, **options):
    return 2 * torch.Size(left).numel() * right[-1]


def _of_triangular_system(matrix, right, *args, out_shape=None, **options):
    """Each of n right rows needs the rows before it: n (n − 1) / 2 of them."""
    *batch, size, width = out_shape
    return 2 * torch.Size(batch).numel() * size * (size - 1) // 2 * width


def _of_fused_attention(query, key, value, *args, out_shape=None, **options):
    return sdpa_flop_count(query, key, value)


# PyTorch's table has no entry for these.
UNCOUNTED = {
    ATEN.mv: _of_matrix_and_vector,
    ATEN.baddbmm_: _of_matrices_in_place,
    ATEN.linalg_solve_triangular: _of_triangular_system,
    ATEN._scaled_dot_product_flash_attention_for_cpu: _of_fused_attention,
}


def multiplications(call):
    """The counter counts a multiplication and its addition as two."""
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter, torch.no_grad():
        call()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def tensors(batch, heads, kv_heads, q_len, k_len, head_dim, value_dim, dtype=torch.float32):
    return (
        torch.ones(batch, heads, q_len, head_dim, dtype=dtype),
        torch.ones(batch, kv_heads, k_len, head_dim, dtype=dtype),
        torch.ones(batch, kv_heads, k_len, value_dim, dtype=dtype),
    )


def parameters_of(layer):
    parameters = list(layer.parameters())
    return sum(p.numel() for p in parameters), sum(p.nbytes for p in parameters)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_dot_product(kv_heads, dtype):
    sizes = {"batch": 2, "heads": 4, "kv_heads": kv_heads, "q_len": 5, "k_len": 7}
    query, key, value = tensors(**sizes, head_dim=6, value_dim=3, dtype=dtype)
    said = cost("dot_product", **sizes, head_dim=6, value_dim=3, dtype=dtype)
    with kernels.use("explicit"):
        assert said.multiplications == multiplications(lambda: attention(query, key, value))
        weights = attention(query, key, value, return_weights=True).weights
    cache = KVCache()
    cache.update(key, value)
    assert said.weight_bytes == weights.nbytes
    assert said.cache_bytes == cache.nbytes
    assert said.parameters == said.parameter_bytes == 0


@pytest.mark.parametrize(("left", "right"), [(16, 0), (40, 0), (9, 20), (0, 0), (500, 500)])
@pytest.mark.parametrize("length", [600, 1100])
def test_window(length, left, right):
    sizes = {"batch": 2, "heads": 4, "kv_heads": 2, "q_len": length, "head_dim": 6, "value_dim": 3}
    query, key, value = tensors(**sizes, k_len=length)
    said = cost("window", **sizes, left=left, right=right)
    with kernels.use("banded"):
        counted = multiplications(
            lambda: attention(query, key, value, mask=masks.window(left, right))
        )
    assert said.multiplications == counted
    needed = masks.window(left, right).dense(length, length).sum().item() * 2 * 4 * (6 + 3)
    assert said.multiplications >= needed
    assert said.weight_bytes * (6 + 3) == said.multiplications * 4


def test_a_window_costs_in_proportion_to_the_length():
    short, long = (
        cost("window", q_len=length, head_dim=64, left=128, right=0) for length in (8192, 65536)
    )
    assert long.multiplications < 8.2 * short.multiplications
    assert long.cache_bytes == short.cache_bytes == 128 * 2 * 64 * 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("q_len", "k_len"), [(300, 700), (700, 700)])
def test_chunked(causal, q_len, k_len):
    sizes = {"batch": 2, "heads": 4, "kv_heads": 2, "q_len": q_len, "k_len": k_len}
    query, key, value = tensors(**sizes, head_dim=6, value_dim=3)
    said = cost("chunked", **sizes, head_dim=6, value_dim=3, causal=causal)
    mask = masks.causal() if causal else None
    with kernels.use("chunked"):
        counted = multiplications(lambda: attention(query, key, value, mask=mask, q_offset=0))
    dense = cost("dot_product", **sizes, head_dim=6, value_dim=3)
    assert said.multiplications == counted
    assert said.multiplications <= dense.multiplications
    assert said.weight_bytes < dense.weight_bytes / 4
    assert said.cache_bytes == dense.cache_bytes


def test_the_blocks_of_chunked_stay_as_large_however_long_the_sequence():
    short, long = (cost("chunked", q_len=n, head_dim=64, heads=8) for n in (2048, 8192))
    assert long.weight_bytes == short.weight_bytes


def test_additive():
    score = scores.Additive(query_dim=6, key_dim=5, hidden_dim=8)
    query, key, value = torch.ones(2, 4, 6), torch.ones(2, 7, 5), torch.ones(2, 7, 3)
    said = cost(
        "additive", batch=2, q_len=4, k_len=7, query_dim=6, key_dim=5, hidden_dim=8, value_dim=3
    )
    result = attention(
        query[:, None], key[:, None], value[:, None], score=score, return_weights=True
    )
    counted = multiplications(
        lambda: attention(query[:, None], key[:, None], value[:, None], score=score)
    )
    assert said.multiplications == counted
    assert (said.parameters, said.parameter_bytes) == parameters_of(score)
    assert said.weight_bytes == result.weights.nbytes
    assert said.cache_bytes == score.key_proj(key).nbytes + value.nbytes


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("head_dim", [None, 5])
def test_multi_head(kv_heads, bias, head_dim):
    layer = MultiHeadAttention(16, 4, kv_heads=kv_heads, bias=bias, head_dim=head_dim)
    sizes = {"dim": 16, "heads": 4, "kv_heads": kv_heads, "bias": bias, "batch": 2}
    sizes |= {} if head_dim is None else {"head_dim": head_dim}
    x = torch.ones(2, 9, 16)
    with kernels.use("explicit"):
        said = cost("multi_head", q_len=9, **sizes)
        assert said.multiplications == multiplications(lambda: layer(x))
        assert (said.parameters, said.parameter_bytes) == parameters_of(layer)
        assert said.weight_bytes == layer(x, return_weights=True).weights.nbytes

        cache = KVCache()
        layer(x[:, :7], cache=cache)
        step = cost("multi_head", q_len=2, k_len=9, cached=7, **sizes)
        counted = multiplications(lambda: layer(x[:, 7:], mask=masks.causal(), cache=cache))
        assert step.multiplications == counted
        assert step.cache_bytes == said.cache_bytes == cache.key.nbytes + cache.value.nbytes


def test_cross_attention():
    layer = MultiHeadAttention(16, 4, key_dim=6, value_dim=5)
    query, key, value = torch.ones(1, 3, 16), torch.ones(1, 9, 6), torch.ones(1, 9, 5)
    said = cost("multi_head", q_len=3, k_len=9, dim=16, heads=4, key_dim=6, value_dim=5)
    with kernels.use("explicit"):
        assert said.multiplications == multiplications(lambda: layer(query, key, value))
    assert said.parameters == parameters_of(layer)[0]


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("query_rank", [None, 7])
@pytest.mark.parametrize("norm", [False, True])
def test_latent(absorbed, query_rank, norm):
    sizes = {"dim": 16, "heads": 4, "kv_rank": 6, "rotary_dim": 2, "value_dim": 5, "norm": norm}
    sizes |= {} if query_rank is None else {"query_rank": query_rank}
    layer, cache = MultiHeadLatentAttention(**sizes), KVCache()
    x = torch.ones(2, 9, 16)
    layer(x[:, :6], cache=cache)
    said = cost("latent", batch=2, q_len=3, k_len=9, absorbed=absorbed, **sizes)
    with kernels.use("explicit"):
        counted = multiplications(
            lambda: layer(x[:, 6:], mask=masks.causal(), cache=cache, absorbed=absorbed)
        )
        weights = layer(x, return_weights=True).weights
    assert said.multiplications == counted
    assert (said.parameters, said.parameter_bytes) == parameters_of(layer)
    assert said.cache_bytes == cache.key.nbytes + cache.value.nbytes
    assert 3 * said.weight_bytes == weights.nbytes


def test_the_default_of_latent_attention_is_the_cheaper_way():
    layer = MultiHeadLatentAttention(16, 4, kv_rank=6)
    for q_len, k_len in [(1, 40), (9, 9), (2, 9)]:
        cache = KVCache()
        x = torch.ones(1, k_len, 16)
        if k_len > q_len:
            layer(x[:, q_len:], cache=cache)
        sizes = {"q_len": q_len, "k_len": k_len, "dim": 16, "heads": 4, "kv_rank": 6}
        ways = [cost("latent", **sizes, absorbed=way).multiplications for way in (False, True)]
        with kernels.use("explicit"):
            counted = multiplications(
                lambda x=x[:, :q_len], cache=cache: layer(x, mask=masks.causal(), cache=cache)
            )
        assert counted == min(ways)


@pytest.mark.parametrize("chunk_size", [1, 8, 64])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention(causal, kv_heads, chunk_size):
    sizes = {"batch": 2, "heads": 4, "kv_heads": kv_heads, "q_len": 21, "head_dim": 6}
    query, key, value = tensors(**sizes, k_len=21, value_dim=3, dtype=torch.bfloat16)
    options = {"causal": causal, "chunk_size": chunk_size}
    said = cost("linear_attention", **sizes, value_dim=3, dtype="bfloat16", **options)
    counted = multiplications(lambda: kernels.linear_attention(query, key, value, **options))
    assert said.multiplications == counted
    _, state = kernels.linear_attention(query, key, value, return_state=True, **options)
    assert said.cache_bytes == state.nbytes


def test_linear_attention_with_more_features_than_entries():
    query, key, value = tensors(1, 1, 1, 5, 9, 4, 3)
    said = cost("linear_attention", q_len=5, k_len=9, head_dim=4, value_dim=3, features=8)
    counted = multiplications(
        lambda: kernels.linear_attention(
            query, key, value, feature_map=lambda x: torch.cat([x, -x], -1).exp()
        )
    )
    assert said.multiplications == counted


@pytest.mark.parametrize("chunk_size", [1, 8, 64])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("beta", "decay"), list(product([False, True], repeat=2)))
def test_delta_rule(beta, decay, kv_heads, chunk_size):
    sizes = {"batch": 2, "heads": 4, "kv_heads": kv_heads, "q_len": 21, "head_dim": 6}
    inputs = tensors(**sizes, k_len=21, value_dim=3)
    gates = {"beta": 0.5 if beta else None, "decay": -0.5 if decay else None}
    said = cost("delta_rule", **sizes, value_dim=3, beta=beta, decay=decay, chunk_size=chunk_size)
    counted = multiplications(lambda: kernels.delta_rule(*inputs, **gates, chunk_size=chunk_size))
    assert said.multiplications == counted
    _, state = kernels.delta_rule(*inputs, **gates, return_state=True)
    assert said.cache_bytes == state.nbytes


@pytest.mark.parametrize("length", [0, 1, 2, 3, 5, 8, 9, 20])
@pytest.mark.parametrize("limits", [{}, {"max_len": 20}, {"window": 4}, {"window": 0}])
def test_a_cache_takes_what_is_said(length, limits):
    cache = KVCache(**limits)
    key, value = torch.ones(2, 3, 1, 5), torch.ones(2, 3, 1, 4)
    with torch.no_grad():
        for _ in range(length):
            cache.update(key, value)
    said = cost("kv_cache", batch=2, kv_heads=3, length=length, head_dim=5, value_dim=4, **limits)
    assert said == Cost(cache_bytes=cache.nbytes)


def test_costs_add_up_and_print():
    layer = cost("multi_head", q_len=128, dim=64, heads=8)
    assert layer + layer == 2 * layer == layer * 2
    assert sum([layer] * 3, Cost()) == 3 * layer
    assert "multiplications" in str(layer)
    assert f"{layer.parameter_bytes:,} bytes" in str(layer)


def test_nothing_is_computed_and_torch_is_not_needed():
    code = (
        "import sys, attn_core\n"
        "for name, sizes in [('dot_product', {'head_dim': 8}), ('delta_rule', {'head_dim': 8}),"
        " ('multi_head', {'dim': 8, 'heads': 2})]:\n"
        "    attn_core.cost(name, q_len=10**9, **sizes)\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


DOT = {"q_len": 2, "head_dim": 4}
HEADS = {"q_len": 2, "dim": 8, "heads": 2}
BAD = {
    "unknown": ("sparse", {}, ValueError, ["mechanism", "'sparse'", "dot_product"]),
    "no name": (None, {}, ValueError, ["mechanism", "None"]),
    "a list": (["window"], {}, ValueError, ["mechanism", "['window']"]),
    "missing": ("dot_product", {"q_len": 2}, TypeError, ["dot_product", "head_dim"]),
    "not taken": ("dot_product", DOT | {"dim": 2}, TypeError, ["dot_product", "dim", "q_len"]),
    "float": ("dot_product", DOT | {"q_len": 2.5}, TypeError, ["q_len", "2.5"]),
    "bool": ("dot_product", DOT | {"heads": True}, TypeError, ["heads", "True"]),
    "none": ("dot_product", DOT | {"q_len": None}, TypeError, ["q_len", "None"]),
    "zero": ("dot_product", DOT | {"batch": 0}, ValueError, ["batch", "0"]),
    "negative": ("dot_product", DOT | {"k_len": -1}, ValueError, ["k_len", "-1"]),
    "heads": ("dot_product", DOT | {"heads": 3, "kv_heads": 2}, ValueError, ["heads", "3", "2"]),
    "dtype": ("dot_product", DOT | {"dtype": "int8"}, ValueError, ["dtype", "int8", "float32"]),
    "flag": ("multi_head", HEADS | {"bias": 1}, TypeError, ["bias", "1"]),
    "dim": ("multi_head", HEADS | {"dim": 9}, ValueError, ["dim", "9", "heads", "2"]),
    "cached": ("multi_head", HEADS | {"cached": 3}, ValueError, ["cached", "3", "k_len", "2"]),
    "window": ("window", DOT | {"left": -1, "right": 0}, ValueError, ["left", "-1"]),
    "more new": (
        "latent",
        HEADS | {"kv_rank": 2, "k_len": 1},
        ValueError,
        ["q_len", "2", "k_len", "1"],
    ),
    "causal": (
        "linear_attention",
        DOT | {"causal": True, "k_len": 3},
        ValueError,
        ["causal", "k_len", "3"],
    ),
    "chunk": ("delta_rule", DOT | {"chunk_size": 6}, ValueError, ["chunk_size", "6"]),
    "full": (
        "kv_cache",
        {"length": 9, "head_dim": 2, "max_len": 8},
        ValueError,
        ["length", "9", "max_len", "8"],
    ),
    "two limits": (
        "kv_cache",
        {"length": 1, "head_dim": 2, "max_len": 8, "window": 2},
        ValueError,
        ["max_len", "8", "window", "2"],
    ),
}


@pytest.mark.parametrize(("mechanism", "sizes", "raises", "says"), BAD.values(), ids=BAD.keys())
def test_bad_input(mechanism, sizes, raises, says):
    assert_refuses(lambda: cost(mechanism, **sizes), raises, says)


def test_a_cost_adds_up_with_costs_only():
    assert_refuses(lambda: Cost() + 1, TypeError, ["int"])
    assert_refuses(lambda: Cost() * 0.5, TypeError, ["0.5"])
