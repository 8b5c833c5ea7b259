"""How time and memory grow with the length of the sequence, and what a small call costs extra.

`python -m benchmarks.growth window ours 8192 cpu` measures the memory of one call in a process of
its own, because a process never tells how much less it needs the second time.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from attn_core import attention, masks, positions
from benchmarks.race import Lab, calls_that_last, forward, seconds_per_call

MIB = 2**20
LENGTHS = {"window": [8192, 16384, 32768, 65536], "alibi": [1024, 2048, 4096, 8192]}
# What is promised of the longest sequence against the shortest one, eight times as long.
MOST = {"window seconds": 9.0, "window memory": 9.0, "alibi memory": 9.0}


def growing_call(kind: str, side: str, length: int, lab: Lab) -> Callable[[], Any]:
    """Set up one call on a sequence of this length: 8 heads of width 64, causal."""
    query, key, value = (lab.normal(1, 8, length, 64, seed=i) for i in range(3))
    if (kind, side) == ("window", "ours"):
        return forward(lambda: attention(query, key, value, mask=masks.window(128, 0)))
    if (kind, side) == ("alibi", "ours"):
        bias = positions.ALiBi(8).to(lab.device)
        return forward(lambda: attention(query, key, value, mask=masks.causal(), bias=bias))
    if (kind, side) == ("alibi", "peer"):
        return forward(lambda: _with_dense_bias(query, key, value))
    raise ValueError(
        f"kind and side must be window ours, alibi ours or alibi peer, got {kind} {side}"
    )


def _with_dense_bias(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    at = torch.arange(query.shape[-2], device=query.device)
    distance = at - at[:, None]
    slopes = 0.5 ** torch.arange(1, 9, device=query.device, dtype=torch.float32)[:, None, None]
    table = (slopes * distance).to(query.dtype).masked_fill(distance > 0, -torch.inf)
    return scaled_dot_product_attention(query, key, value, attn_mask=table)


def seconds_by_length(kind: str, lab: Lab, *, rounds: int = 7) -> dict[int, float]:
    """Time our call at each length, by turns; the median of the rounds."""
    calls = {n: growing_call(kind, "ours", n, lab) for n in LENGTHS[kind]}
    for call in calls.values():
        call()
    repeats = {n: calls_that_last(0.01, call, lab) for n, call in calls.items()}
    spent: dict[int, list[float]] = {n: [] for n in calls}
    for _ in range(rounds):
        for n, call in calls.items():
            spent[n].append(seconds_per_call(call, repeats[n], lab.synchronize))
    return {n: statistics.median(times) for n, times in spent.items()}


def memory_by_length(kind: str, side: str, lab: Lab) -> dict[int, float]:
    """Measure what our call, or the peer's, needs beside its inputs, in MiB, at each length."""
    peaks = {}
    for n in LENGTHS[kind]:
        command = [sys.executable, "-m", "benchmarks.growth", kind, side, str(n), lab.device]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[n] = float(done.stdout)
    return peaks


def peak_memory(kind: str, side: str, length: int, lab: Lab) -> float:
    """Measure the memory of one call beside its inputs, in MiB, in a fresh process."""
    growing_call(kind, side, 256, lab)()  # what libraries allocate once is not counted
    return peak_of(growing_call(kind, side, length, lab), lab)


def peak_of(call: Callable[[], Any], lab: Lab) -> float:
    """Measure the most memory that a call takes at a time, in MiB."""
    if lab.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    # Linux keeps the greatest memory of a process, and forgets it when a 5 is written here.
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_of_process("VmRSS")
    call()
    return (_memory_of_process("VmHWM") - before) / MIB


def _memory_of_process(what: str) -> int:
    """Look up the memory in bytes: VmRSS is what there is now, VmHWM the most that there was."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status does not tell {what}: memory is measured on Linux only")


def overhead(lab: Lab, *, rounds: int = 201) -> tuple[float, float]:
    """Time a small call of attention and of the fused kernel, by turns: microseconds of each."""
    query, key, value = (lab.normal(1, 2, 8, 16, seed=i) for i in range(3))
    sides = (
        forward(lambda: attention(query, key, value)),
        forward(lambda: scaled_dot_product_attention(query, key, value)),
    )
    spent: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, times in zip(sides, spent, strict=True):
            seconds = seconds_per_call(side, 50, lab.synchronize)
            if turn:
                times.append(1e6 * seconds)
    return statistics.median(spent[0]), statistics.median(spent[1])


if __name__ == "__main__":
    kind, side, length, device = sys.argv[1:]
    torch.set_num_threads(2)
    print(peak_memory(kind, side, int(length), Lab(device=device)))
