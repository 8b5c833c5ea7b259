"""Every kernel × normaliser × mask: rows that attend nothing are 0, and what is masked is not read.

Exactly 0, in output, weights and gradient. NaN or infinity in a key or value that nobody attends,
and in a query that attends nobody, changes no bit of any result.
"""

import re
from functools import partial
from importlib import import_module

import pytest
import torch

from attn_core import attention, kernels, masks, normalizers, positions
from attn_core.arguments import check_arguments

BATCH, HEADS, KV_HEADS, QUERIES, KEYS, WIDTH = 2, 4, 2, 6, 9, 8
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
KERNELS = {
    name: import_module(f"attn_core.kernels.{name}")
    for name in ("explicit", "sdpa", "banded", "chunked", "flex")
}


def test_these_are_all_the_kernels():
    with pytest.raises(ValueError, match="one of") as caught, kernels.use("?"):
        pass
    assert set(KERNELS) == set(re.findall(r"'(\w+)'", str(caught.value)))


def scaled_softplus(scores, dim):
    """A normaliser of somebody else's: it knows nothing of −∞, and its rows do not sum to 1."""
    return torch.nn.functional.softplus(scores) / scores.shape[dim]


NORMALIZERS = {
    "softmax by default": None,
    "softmax": normalizers.softmax,
    "softmax, cold": partial(normalizers.softmax, temperature=0.3),
    "sink": normalizers.softmax_with_sink,
    "sink of a number": partial(normalizers.softmax_with_sink, sink=0.4),
    "sparsemax": normalizers.sparsemax,
    "entmax15": normalizers.entmax15,
    "entmax 1.3": partial(normalizers.entmax, alpha=1.3),
    "entmax 3": partial(normalizers.entmax, alpha=3.0),
    "entmax_bisect": normalizers.entmax_bisect,
    "sigmoid": normalizers.sigmoid,
    "hard": normalizers.hard,
    "gumbel": normalizers.gumbel_softmax,
    "torch.softmax": torch.softmax,
    "somebody else's": scaled_softplus,
}


def table(seed):
    """Random pairs, but for some queries and some keys that take part nowhere."""
    allowed = torch.rand(BATCH, HEADS, QUERIES, KEYS, generator=generator(seed)) < 0.6
    allowed[0, :, 2] = False
    allowed[1, 1:, 4] = False
    allowed[..., 3] = False
    allowed[1, :2, :, 6:] = False
    return allowed


def generator(seed):
    return torch.Generator().manual_seed(seed)


IDS = torch.tensor([[0, 0, 1, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 6, 6, 7, 7, 7]])
LAYOUT = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 0, 1]]).bool()
MASKS = {
    "table": lambda: {"mask": table(0)},
    "table for all heads": lambda: {"mask": table(1)[:, :1]},
    "table for all": lambda: {"mask": table(2)[0, 0]},
    "nothing at all": lambda: {"mask": torch.zeros(1, 1, dtype=torch.bool)},
    "dense": lambda: {"mask": masks.dense(table(3))},
    "padding": lambda: {"mask": masks.padding([5, 0])},
    "causal from before the keys": lambda: {"mask": masks.causal(), "q_offset": -2},
    "causal and padding": lambda: {
        "mask": masks.causal() & masks.padding([4, 1]),
        "q_offset": torch.tensor([0, -3]),
    },
    "window behind the keys": lambda: {"mask": masks.window(2, 0), "q_offset": 7},
    "window before the keys": lambda: {"mask": masks.window(1, 1), "q_offset": -4},
    "window and padding": lambda: {"mask": masks.window(1, 1) & masks.padding([9, 2])},
    "global tokens, window and padding": lambda: {
        "mask": (masks.window(1, 0) | masks.global_tokens(1)) & masks.padding([4, 0]),
        "q_offset": 2,
    },
    "documents": lambda: {"mask": masks.document(IDS) & masks.padding([7, 5]), "q_offset": 5},
    "dilated": lambda: {"mask": masks.dilated(1, 0, gap=1) & masks.padding([3, 9]), "q_offset": 0},
    "strided": lambda: {"mask": masks.strided(4) & masks.padding([2, 3]), "q_offset": 0},
    "blocks": lambda: {"mask": masks.block_sparse(LAYOUT, 3), "q_offset": 1},
    "bias": lambda: {"bias": bias(4).masked_fill(~table(4), -torch.inf)},
    "bias and table": lambda: {"bias": bias(5), "mask": table(5)},
    "ALiBi and causal from before the keys": lambda: {
        "bias": positions.ALiBi(HEADS),
        "mask": masks.causal(),
        "q_offset": -2,
    },
    "ALiBi in a window behind the keys": lambda: {
        "bias": positions.ALiBi(HEADS),
        "mask": masks.window(2, 0),
        "q_offset": 7,
    },
}


def bias(seed):
    shape = (BATCH, HEADS, QUERIES, KEYS)
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def inputs():
    shapes = [(HEADS, QUERIES), (KV_HEADS, KEYS), (KV_HEADS, KEYS)]
    return [
        torch.randn(BATCH, *shape, WIDTH, generator=generator(seed), dtype=torch.float64)
        for seed, shape in enumerate(shapes)
    ]


def who_takes_part(options):
    """Which queries attend something ``(batch, heads, L)``, which keys are attended."""
    allowed = options.get("mask", torch.tensor(True))
    if isinstance(allowed, masks.Mask):
        allowed = allowed.dense(QUERIES, KEYS, options.get("q_offset", 0))
    if isinstance(options.get("bias"), torch.Tensor):
        allowed = allowed & (options["bias"] > -torch.inf)
    allowed = allowed.expand(BATCH, HEADS, QUERIES, KEYS)
    by_group = allowed.unflatten(1, (KV_HEADS, -1))
    return allowed.any(-1), by_group.any(-2).any(2)


def results(query, key, value, kernel, normalizer, options):
    """Output, weights, and the gradients of query, key, value and a bias that is a table."""
    learns = kernel != "flex"  # which has no backward on the CPU
    tensors = [x.clone().requires_grad_(learns) for x in (query, key, value)]
    options = {"q_offset": 0, **options}
    if isinstance(options.get("bias"), torch.Tensor):
        options["bias"] = options["bias"].clone().requires_grad_(learns)
        tensors.append(options["bias"])
    torch.manual_seed(0)
    with kernels.use(kernel):
        output, weights = attention(
            *tensors[:3], normalizer=normalizer, return_weights=True, **options
        )
    if not learns:
        return [output, weights]
    grad_output = torch.randn(output.shape, generator=generator(9), dtype=output.dtype)
    return [output, weights, *torch.autograd.grad(output, tensors, grad_output)]


def can(kernel, normalizer, mask):
    options = {"q_offset": 0, **MASKS[mask]()}
    arguments = check_arguments(*inputs(), normalizer=NORMALIZERS[normalizer], **options)
    return KERNELS[kernel].refusal(arguments) is None


CASES = [
    (kernel, normalizer, mask)
    for kernel in KERNELS
    for normalizer in NORMALIZERS
    for mask in MASKS
    if can(kernel, normalizer, mask)
    and not (kernel == "flex" and normalizer == "softmax")  # it is slow, and this is its default
]


def test_every_kernel_and_every_normaliser_and_every_mask_is_in_the_table():
    seen = [set(kind) for kind in zip(*CASES, strict=True)]
    assert seen == [set(KERNELS), set(NORMALIZERS), set(MASKS)]
    assert sum(kernel == "explicit" for kernel, _, _ in CASES) == len(NORMALIZERS) * len(MASKS)


@pytest.mark.parametrize("mask", MASKS)
def test_every_mask_of_the_table_leaves_somebody_out(mask):
    attends, attended = who_takes_part({"q_offset": 0, **MASKS[mask]()})
    assert not attends.all()
    assert not attended.all()


@pytest.mark.parametrize(("kernel", "normalizer", "mask"), CASES)
def test_who_attends_nothing_is_zero_and_who_is_not_attended_is_not_read(kernel, normalizer, mask):
    options, normalizer = MASKS[mask](), NORMALIZERS[normalizer]
    query, key, value = inputs()
    attends, attended = who_takes_part({"q_offset": 0, **options})
    clean = results(query, key, value, kernel, normalizer, options)
    assert all(torch.isfinite(x).all() for x in clean)
    for of_queries in clean[:3]:  # output, weights, gradient of query
        assert (of_queries[~attends] == 0).all()
    for of_keys in clean[3:5]:
        assert (of_keys[~attended] == 0).all()
    if mask == "bias":
        return  # −∞ in a bias is added to the scores; it is not searched for what it masks
    for poison in (torch.nan, torch.inf):
        query[~attends], key[~attended], value[~attended] = poison, poison, poison
        poisoned = results(query, key, value, kernel, normalizer, options)
        assert all(torch.equal(x, y) for x, y in zip(poisoned, clean, strict=True))


# A draw of random numbers depends on how the scores lie in memory.
COMPARED = [case for case in CASES if case[0] != "explicit" and case[1] != "gumbel"]


@pytest.mark.parametrize(("kernel", "normalizer", "mask"), COMPARED)
def test_every_kernel_gives_what_the_explicit_one_gives(kernel, normalizer, mask):
    for seen, expected in zip(
        results(*inputs(), kernel, NORMALIZERS[normalizer], MASKS[mask]()),
        results(*inputs(), "explicit", NORMALIZERS[normalizer], MASKS[mask]()),
        strict=kernel != "flex",
    ):
        torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


LONG = 300  # several blocks of every kernel
LONG_MASKS = {
    "window": lambda: {"mask": masks.window(20, 3)},
    "window, offset": lambda: {"mask": masks.window(40, 0), "q_offset": -50},
    "window and padding": lambda: {"mask": masks.window(20, 0) & masks.padding([LONG, 130])},
    "window and documents": lambda: {
        "mask": masks.window(30, 30) & masks.document(torch.arange(LONG) // 70),
        "q_offset": 33,
    },
    "global tokens and window": lambda: {
        "mask": (masks.window(16, 0) | masks.global_tokens(3)) & masks.padding([200, 90])
    },
    "dilated": lambda: {"mask": masks.dilated(6, 2, gap=4), "q_offset": -9},
    "causal": lambda: {"mask": masks.causal(), "q_offset": torch.tensor([0, -40])},
    "ALiBi in a window": lambda: {
        "mask": masks.window(20, 0) & masks.padding([LONG, 130]),
        "bias": positions.ALiBi(HEADS),
    },
    "Shaw in a window": lambda: {
        "mask": masks.window(20, 4),
        "bias": positions.ShawBias(WIDTH, max_distance=7).double(),
        "q_offset": 5,
    },
    "cold, in a window": lambda: {"mask": masks.window(9, 9), "softcap": 0.5, "scale": 3.0},
}


def long_inputs():
    return [
        torch.randn(BATCH, heads, LONG, WIDTH, generator=generator(seed), dtype=torch.float64)
        for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))
    ]


def long_cases():
    for kernel in ("sdpa", "banded", "chunked"):
        for mask, options in LONG_MASKS.items():
            torch.manual_seed(0)
            arguments = check_arguments(*long_inputs(), **{"q_offset": 0, **options()})
            if KERNELS[kernel].refusal(arguments) is None:
                yield kernel, mask


LONG_CASES = list(long_cases())


@pytest.mark.parametrize(("kernel", "mask"), LONG_CASES)
def test_over_many_blocks_every_kernel_gives_what_the_explicit_one_gives(kernel, mask):
    torch.manual_seed(0)
    options = LONG_MASKS[mask]()
    query, key, value = long_inputs()
    expected = results(query, key, value, "explicit", None, options)
    seen = results(query, key, value, kernel, None, options)
    for one, two in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    allowed = options["mask"].dense(LONG, LONG, options.get("q_offset", 0))
    allowed = allowed.expand(BATCH, 1, LONG, LONG)[:, 0]
    nobody, nothing = ~allowed.any(-2), ~allowed.any(-1)
    for x, unused in ((query, nothing), (key, nobody), (value, nobody)):
        x.masked_fill_(unused[:, None, :, None], torch.nan)
    poisoned = results(query, key, value, kernel, None, options)
    assert all(torch.equal(one, two) for one, two in zip(poisoned, seen, strict=True))


def test_the_long_table_has_every_mask_that_a_kernel_of_blocks_can_do():
    assert {mask for kernel, mask in LONG_CASES if kernel == "chunked"} == set(LONG_MASKS)
    assert {mask for kernel, mask in LONG_CASES if kernel == "banded"} >= {
        name for name in LONG_MASKS if "window" in name
    }
