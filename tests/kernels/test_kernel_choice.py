"""Which kernel runs: the fastest that can, the one that is fixed, and never another one."""

import re
import threading

import pytest
import torch

from attn_core import attention, kernels, masks, normalizers, scores

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
def test_the_fastest_kernel_that_can_runs_and_which_says_why(options, kernel, reason):
    choice = kernels.which(X, X, X, **options)
    assert choice.kernel == kernel
    assert f"{kernel} runs" in str(choice)
    if reason is None:
        assert choice.refused == {}
    else:
        assert reason in choice.refused["sdpa"]
        assert reason in str(choice)


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
    message = rf"kernel must be one of .*explicit.*sdpa.*got {re.escape(repr(kernel))}"
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


def test_the_kernel_that_which_names_is_the_one_that_runs(monkeypatch):
    ran = []
    for name in ("explicit", "sdpa"):
        module = getattr(kernels, name)
        run = module.run
        monkeypatch.setattr(
            module, "run", lambda call, name=name, run=run: (ran.append(name), run(call))[1]
        )
    for options in ({}, {"softcap": 2.0}, {"return_weights": True}):
        ran.clear()
        attention(X, X, X, **options)
        assert ran == [kernels.which(X, X, X, **options).kernel]
    with kernels.use("explicit"):
        ran.clear()
        attention(X, X, X)
        assert ran == ["explicit"]


def test_keys_and_values_of_grouped_heads_are_not_copied():
    """Eight query heads share one key: the memory that is asked for holds no eighth copy of it."""
    query, key = torch.ones(1, 8, 1, 64), torch.ones(1, 1, 5000, 64)
    with kernels.use("explicit"), torch.profiler.profile(profile_memory=True) as profile:
        attention(query, key, key)
    largest = max(event.self_cpu_memory_usage for event in profile.key_averages())
    assert largest < key.nbytes
