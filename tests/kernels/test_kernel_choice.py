"""Which kernel runs: the fastest that can, the one that is fixed, and never another one."""

import re
import threading
from functools import partial

import pytest
import torch
from allocations import peak

from attn_core import attention, kernels, masks, normalizers, positions, scores
from attn_core.kernels import banded, chunked, explicit, plain, sdpa

X = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("options", "kernel", "reason"),
    [
        ({}, "sdpa", None),
        ({"mask": masks.causal()}, "sdpa", None),
        ({"mask": masks.window(1, 1) & masks.dense(torch.ones(3, 3) > 0)}, "sdpa", None),
        ({"bias": torch.zeros(3, 3)}, "sdpa", None),
        ({"scale": 3.0, "dropout_p": 0.5}, "sdpa", None),
        ({"score": scores.dot}, "sdpa", None),
        ({"score": scores.scaled_dot}, "sdpa", None),
        ({"normalizer": normalizers.softmax}, "sdpa", None),
        ({"return_weights": True}, "sdpa", None),
        ({"score": scores.cosine}, "explicit", "score"),
        ({"score": lambda q, k: q @ k.mT}, "explicit", "score"),
        ({"normalizer": normalizers.sparsemax}, "explicit", "normalizer"),
        ({"normalizer": torch.softmax}, "explicit", "normalizer"),
        ({"softcap": 2.0}, "explicit", "softcap"),
    ],
)
def test_of_short_sequences_the_fused_kernel_runs_all_that_it_can(options, kernel, reason):
    choice = kernels.which(X, X, X, **options)
    assert choice.kernel == kernel
    assert f"{kernel} runs" in str(choice)
    if reason is None:
        assert "sdpa" not in choice.refused | choice.passed_over
    else:
        assert reason in choice.refused["sdpa"]
        assert reason in str(choice)


SINK = partial(normalizers.softmax_with_sink, sink=0.3)


@pytest.mark.parametrize(
    ("options", "kernel", "passed_over"),
    [
        ({}, "sdpa", []),
        ({"mask": masks.causal()}, "sdpa", []),
        ({"mask": masks.causal(), "q_offset": 0}, "sdpa", []),
        ({"mask": masks.window(100, 0)}, "banded", []),
        ({"mask": masks.window(50, 50) | masks.global_tokens(4)}, "banded", []),
        ({"mask": masks.window(100, 0) & masks.padding([900])}, "banded", []),
        ({"mask": masks.window(100, 0), "softcap": 2.0}, "banded", []),
        ({"mask": masks.window(100, 0), "normalizer": SINK}, "banded", []),
        ({"mask": masks.window(100, 0), "normalizer": normalizers.sparsemax}, "banded", []),
        ({"mask": masks.window(100, 0), "bias": positions.ALiBi(2)}, "banded", []),
        ({"mask": masks.window(800, 0)}, "sdpa", ["banded"]),
        ({"mask": masks.causal(), "bias": positions.ALiBi(2)}, "chunked", ["sdpa"]),
        ({"bias": torch.zeros(1000, 1000)}, "sdpa", []),
        ({"softcap": 2.0}, "chunked", []),
        ({"normalizer": SINK}, "chunked", []),
        ({"normalizer": partial(normalizers.softmax, temperature=2.0)}, "chunked", []),
        ({"mask": masks.window(800, 0), "softcap": 2.0}, "chunked", ["banded"]),
        ({"normalizer": normalizers.sparsemax}, "explicit", []),
        ({"score": scores.cosine}, "explicit", []),
    ],
)
def test_of_long_sequences_each_runs_what_it_is_made_for(options, kernel, passed_over):
    x = torch.ones(1, 2, 1000, 4)
    choice = kernels.which(x, x, x, **options)
    assert choice.kernel == kernel
    reluctant = [name for name in choice.passed_over if name != "flex"]
    assert reluctant == passed_over
    for name in passed_over:
        assert f"{name} could: {choice.passed_over[name]}" in str(choice)


def test_a_mask_that_would_be_a_huge_table_is_read_in_chunks():
    x = torch.ones(1, 1, 9000, 4)
    choice = kernels.which(x, x, x, mask=masks.causal() & masks.padding([8000]))
    assert choice.kernel == "chunked"
    assert "table of 81000000 pairs" in choice.passed_over["sdpa"]


@pytest.mark.parametrize(
    "mask",
    [
        masks.causal() & masks.document(torch.arange(4096) // 2048),
        masks.bigbird(4096, 64),
        masks.sparse_transformer(64),
    ],
    ids=repr,
)
def test_a_mask_with_much_to_skip_is_read_in_chunks(mask):
    x = torch.ones(1, 1, 4096, 4)
    assert kernels.which(x, x, x, mask=mask).kernel == "chunked"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dropout_p": 0.1}, "no dropout"),
        ({"bias": torch.zeros(1000, 1000, requires_grad=True)}, "no gradient of a bias"),
    ],
    ids=["dropout", "bias"],
)
def test_where_pytorch_would_hold_all_weights_chunked_runs(options, says):
    x = torch.ones(1, 2, 1000, 4)
    choice = kernels.which(x, x, x, **options)
    assert choice.kernel == "chunked"
    assert says in choice.passed_over["sdpa"]
    assert "all 2000000 weights" in choice.passed_over["sdpa"]
    with torch.no_grad():
        assert kernels.which(x[:, :, :9], x, x, dropout_p=0.1).kernel == "sdpa"


def test_values_wider_than_keys_hold_no_weights():
    x, value = torch.ones(1, 2, 1000, 4), torch.ones(1, 2, 1000, 5)
    choice = kernels.which(x, x, value)
    assert choice.kernel == "chunked"
    assert "values as wide as keys" in choice.passed_over["sdpa"]
    assert peak(lambda: attention(x, x, value)) < 4 * 2 * 1000 * 1000 / 2


def test_padding_is_no_table_at_any_length():
    x = torch.ones(2, 1, 9000, 4)
    assert kernels.which(x, x, x, mask=masks.padding([8000, 9000])).kernel == "sdpa"


def test_flex_never_runs_unasked_and_says_so():
    x = torch.ones(1, 2, 1000, 4)
    for options in ({"normalizer": normalizers.sparsemax}, {"score": scores.cosine}):
        assert kernels.which(x, x, x, **options).kernel != "flex"
    reasons = kernels.which(X, X, X, softcap=2.0).passed_over
    assert "behind your back" in reasons["flex"]
    with kernels.use("flex"):
        assert kernels.which(X, X, X, softcap=2.0).kernel == "flex"


LONG = {
    "banded": ({"mask": masks.window(100, 0)}, 1000),
    "chunked": ({"softcap": 2.0}, 1000),
    "sdpa": ({}, 10),
    "explicit": ({"softcap": 2.0}, 10),
}


@pytest.mark.parametrize("kernel", LONG)
def test_asking_for_weights_changes_neither_kernel_nor_output(kernel):
    options, length = LONG[kernel]
    x = torch.randn(1, 2, length, 4)
    assert kernels.which(x, x, x, **options, return_weights=True).kernel == kernel
    output, weights = attention(x, x, x, **options, return_weights=True)
    assert torch.equal(output, attention(x, x, x, **options))
    torch.testing.assert_close(weights @ x, output, rtol=1e-4, atol=1e-5)


def test_without_keys_the_explicit_kernel_runs():
    choice = kernels.which(X, X[:, :0], X[:, :0])
    assert choice.kernel == "explicit"
    assert "no keys" in choice.refused["sdpa"]


@pytest.mark.parametrize(
    "options",
    [{"softcap": 2.0}, {"score": scores.cosine}, {"normalizer": normalizers.hard}],
    ids=["softcap", "score", "normalizer"],
)
def test_a_fixed_kernel_that_cannot_is_an_error_and_never_a_fallback(options):
    (name,) = options
    with kernels.use("sdpa"):
        for call in (attention, kernels.which):
            with pytest.raises(ValueError, match=rf"kernel 'sdpa'.*{name}"):
                call(X, X, X, **options)
        assert kernels.which(X, X, X).kernel == "sdpa"
    assert kernels.which(X, X, X, **options).kernel == "explicit"


def test_use_fixes_the_kernel_inside_its_block_and_blocks_nest():
    assert kernels.which(X, X, X).kernel == "sdpa"
    with kernels.use("explicit"):
        assert kernels.which(X, X, X).kernel == "explicit"
        with kernels.use("sdpa"):
            assert kernels.which(X, X, X).kernel == "sdpa"
        assert kernels.which(X, X, X).kernel == "explicit"
    assert kernels.which(X, X, X).kernel == "sdpa"


def test_an_exception_inside_the_block_frees_the_kernel():
    with pytest.raises(KeyError), kernels.use("explicit"):
        raise KeyError
    assert kernels.which(X, X, X).kernel == "sdpa"


@pytest.mark.parametrize("kernel", ["flash", "", None, ["sdpa"]])
def test_an_unknown_kernel_is_an_error_that_lists_the_known_ones(kernel):
    names = ".*".join(["banded", "chunked", "explicit", "flex", "sdpa"])
    message = rf"kernel must be one of .*{names}.*got {re.escape(repr(kernel))}"
    with pytest.raises(ValueError, match=message), kernels.use(kernel):
        pass
    assert kernels.which(X, X, X).kernel == "sdpa"


def test_a_kernel_fixed_in_one_thread_is_free_in_another():
    fixed, asked = threading.Event(), threading.Event()
    seen = {}

    def fix_and_wait():
        with kernels.use("explicit"):
            fixed.set()
            asked.wait(10)
            seen["inside"] = kernels.which(X, X, X).kernel

    thread = threading.Thread(target=fix_and_wait)
    thread.start()
    assert fixed.wait(10)
    seen["outside"] = kernels.which(X, X, X).kernel
    asked.set()
    thread.join()
    assert seen == {"inside": "explicit", "outside": "sdpa"}


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({}, "chunked"),
        ({"normalizer": normalizers.entmax15}, "banded"),  # which chunked cannot do
        ({"bias": positions.ALiBi(1)}, "banded"),  # which PyTorch's kernel has not
        ({"dropout_p": 0.1}, "banded"),
    ],
    ids=["plain", "normalizer", "bias", "dropout"],
)
def test_wide_documents_go_where_pytorch_computes_the_keys_that_are_left(options, kernel):
    x, mask = torch.ones(1, 1, 4000, 1), masks.causal() & masks.document(torch.arange(4000) // 600)
    assert kernels.which(x, x, x, mask=mask, **options).kernel == kernel
    trained = torch.ones(1, 1, 4000, 1, requires_grad=True)
    assert kernels.which(trained, x, x, mask=mask, **options).kernel == "banded"


def test_the_kernel_that_which_names_is_the_one_that_runs(monkeypatch):
    ran = []

    def watched(name, run):
        return lambda *call, **options: (ran.append(name), run(*call, **options))[1]

    for module in (explicit, sdpa, chunked, banded):
        monkeypatch.setattr(module, "run", watched(module.__name__.split(".")[-1], module.run))
    monkeypatch.setattr(plain, "fused", watched("sdpa", plain.fused))  # the short way to it
    for options, length in [*LONG.values(), ({"return_weights": True}, 10)]:
        x = torch.ones(1, 2, length, 4)
        ran.clear()
        attention(x, x, x, **options)
        assert ran[0] == kernels.which(x, x, x, **options).kernel
    with kernels.use("explicit"):
        ran.clear()
        attention(X, X, X)
        assert ran == ["explicit"]


@pytest.mark.parametrize("kernel", ["explicit", "sdpa", "chunked", "banded"])
def test_keys_and_values_of_grouped_heads_are_not_copied(kernel):
    """Eight query heads share one key: the memory that is asked for holds no copy of it."""
    query, key = torch.ones(1, 8, 1, 64), torch.ones(1, 1, 5000, 64)
    mask = masks.window(4999, 0) if kernel == "banded" else None
    with kernels.use(kernel):
        assert peak(lambda: attention(query, key, key, mask=mask, q_offset=4999)) < key.nbytes


@pytest.mark.parametrize(
    "options",
    [{}, {"mask": masks.causal()}, {"mask": masks.window(2, 0)}, {"softcap": 2.0}],
    ids=["plain", "causal", "window", "softcap"],
)
def test_torch_compile_traces_attention_as_one_graph(options):
    """Also where a kernel would run in a loop that cannot be traced."""
    x = torch.randn(1, 2, 800, 4)
    compiled = torch.compile(
        lambda x: attention(x, x, x, **options), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), attention(x, x, x, **options), rtol=1e-4, atol=1e-5)


def test_torch_compile_takes_numbers_and_lengths_that_change():
    """With ``dynamic=True`` numbers are traced too; a check must not read one."""
    compiled = torch.compile(
        lambda x, p: attention(x, x, x, scale=p) + attention(x, x, x, softcap=p + 1.0),
        backend="eager",
        fullgraph=True,
        dynamic=True,
    )
    for length in (7, 9):
        x = torch.randn(1, 2, length, 4)
        expected = attention(x, x, x, scale=0.3) + attention(x, x, x, softcap=1.3)
        torch.testing.assert_close(compiled(x, 0.3), expected)


def test_a_sparse_normalizer_compiles_in_several_graphs_and_not_as_one():
    torch.compiler.reset()  # what was compiled before in this process
    options = {"backend": "eager", "dynamic": False}
    x = torch.randn(1, 2, 5, 4)
    whole = torch.compile(normalizers.sparsemax, fullgraph=True, **options)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        whole(x)
    broken = torch.compile(normalizers.sparsemax, **options)
    torch.testing.assert_close(broken(x), normalizers.sparsemax(x))
    assert "fullgraph" in normalizers.sparsemax.__doc__


def test_torch_compile_notices_that_a_kernel_is_fixed():
    seen = []

    def backend(graph, inputs):
        seen.append(any("scaled_dot_product" in str(node.target) for node in graph.graph.nodes))
        return graph

    compiled = torch.compile(lambda x: attention(x, x, x), backend=backend, fullgraph=True)
    compiled(X)
    with kernels.use("explicit"):
        compiled(X)
    assert seen == [True, False]
