"""The table and the figure of the races, one page for each device; the book shows a part of it."""

import json
import os
import platform
import subprocess
import textwrap
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from attn_core.plot import COLORS, use_book_style
from benchmarks.which_kernel import days_of, kernel_table

RESULTS = Path(__file__).parent / "results"
Records = dict[str, Any]


def machine(device: str) -> Records:
    """Say on what was measured."""
    facts = {
        "device": torch.cuda.get_device_name() if device != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return facts


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "processor unknown"


def peer_version(package: str) -> str:
    """Look up the version of an imported package, without what it was built for."""
    return version(package.replace("_", "-")).partition("+")[0]


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def load(device: str, facts: Records) -> Records:
    """Read what was measured earlier on this machine with these versions, to add to it."""
    path = RESULTS / f"{device}.json"
    if path.exists():
        earlier: Records = json.loads(path.read_text("utf-8"))
        if earlier["machine"] == facts:
            return earlier
    return {"machine": facts, "races": {}, "growth": {}, "overhead": {}}


def save(device: str, results: Records) -> None:
    """Write the numbers, the table and the figure."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (RESULTS / f"{device}.json").write_text(text + "\n", "utf-8")
    (RESULTS / f"{device}.md").write_text(page(device, results), "utf-8")
    (RESULTS / f"{device}_kernels.md").write_text(kernel_table(results), "utf-8")
    draw(device, results)


def page(device: str, results: Records) -> str:
    """Write the page that shows every race and its goal, in Markdown."""
    facts = results["machine"]
    days = days_of(results, results["races"])
    parts = [
        f"# Races on {facts['device']}",
        f"Measured on {facts['device']}, {facts['threads']} threads, {facts['system']}, "
        f"Python {facts['python']}, torch {facts['torch']}, NumPy {facts['numpy']}; "
        f"{' and '.join(days)}.",
        figure(device, results),
        race_table(results),
    ]
    if results["growth"]:
        parts.append(growth_table(results))
    if results["overhead"]:
        parts.append(overhead_sentence(results))
    return "\n\n".join(parts) + "\n"


def number(x: float) -> str:
    """Write a number with three digits, and a large one whole."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def won(record: Records) -> bool:
    """Whether time reaches its goal, and memory where it has one."""
    is_small = "memory_goal" not in record or _memory_ratio(record) <= record["memory_goal"]
    return bool(record["ratio"] <= record["goal"] and is_small)


def memory(record: Records) -> str:
    """Say what a race measured of memory."""
    ours, peer, goal = record["ours_mib"], record["peer_mib"], record["memory_goal"]
    missed = "" if _memory_ratio(record) <= goal else ", missed"
    return (
        f"{number(ours)} MiB beside the inputs against {number(peer)} MiB, "
        f"{_memory_ratio(record):.3g} times as much (goal: at most {goal:g}{missed})"
    )


def _memory_ratio(record: Records) -> float:
    ratio: float = record["ours_mib"] / record["peer_mib"]
    return ratio


def peer(record: Records) -> str:
    """Name the peer, with its version; that of torch stands above the table."""
    of_torch = record["peer"].startswith("PyTorch")
    return record["peer"] if of_torch else f"{record['peer']} {record['version']}"


def race_table(results: Records) -> str:
    lines = [
        "| Race | Ours, ms | Peer, ms | Ours / peer | Goal |",
        "|---|---|---|---|---|",
    ]
    settings = []
    for place, record in enumerate(results["races"].values(), 1):
        reached = "" if won(record) else ", missed"
        lines.append(
            f"| {place}. {record['name']}, against {peer(record)} "
            f"| {number(record['ours_ms'])} | {number(record['peer_ms'])} "
            f"| {record['ratio']:.3g} | ≤ {record['goal']:g}{reached} |"
        )
        note = f"; {record['note']}" if record["note"] else ""
        note += f"; {memory(record)}" if "memory_goal" in record else ""
        settings.append(f"{place}. {record['setting']}{note}")
    return "\n".join([*lines, "", "The settings, in the same order:", "", *settings])


def growth_table(results: Records) -> str:
    lines = [
        "| What grows | Length | Time, ms | Memory beside the inputs, MiB |",
        "|---|---|---|---|",
    ]
    for name, record in results["growth"].items():
        for length in record["memory"]:
            seconds = record["seconds"].get(length)
            spent = "not timed" if seconds is None else number(1e3 * seconds)
            memory = number(record["memory"][length])
            lines.append(f"| {name} | {int(length):,} | {spent} | {memory} |")
    sentences = []
    for name, record in results["growth"].items():
        for what, unit in (("seconds", "time"), ("memory", "memory")):
            values = [record[what][n] for n in sorted(record[what], key=int)]
            if len(values) > 1:
                goal = record["most"].get(what)
                promised = f" (goal: at most {goal:g})" if goal else ""
                sentences.append(
                    f"{name}: eight times as long takes {values[-1] / values[0]:.3g} times the "
                    f"{unit}{promised}."
                )
    return "\n".join(lines) + "\n\n" + " ".join(sentences)


def overhead_sentence(results: Records) -> str:
    record = results["overhead"]
    return (
        f"A call of `attention` on 8 tokens takes {record['ours_us']:.1f} µs, and of PyTorch's "
        f"`scaled_dot_product_attention` {record['peer_us']:.1f} µs: "
        f"{record['ours_us'] - record['peer_us']:.1f} µs more (goal: under 30)."
    )


def figure(device: str, results: Records) -> str:
    records = list(results["races"].values())
    faster = [record for record in records if record["ratio"] < 1]
    reached = sum(won(record) for record in records)
    best = min(records, key=lambda record: record["ratio"])
    alt = (
        f"One bar for each of {len(records)} races, from the time of this package to that of its "
        f"peer, on a logarithmic axis. In {len(faster)} of them this package is faster; in "
        f"{reached} it reaches its goal. The greatest difference is {best['name']} against "
        f"{best['peer']}, with a ratio of {best['ratio']:.2g}."
    )
    return (
        f"![{alt}]({device}.svg)\n\n"
        "Time of this package / time of the peer. Left of 1 this package is faster. The line is "
        "the middle half of the rounds, the diamond the goal."
    )


def draw(device: str, results: Records) -> None:
    """Draw one bar for each race, on a logarithmic axis."""
    use_book_style()
    records = sorted(results["races"].values(), key=lambda record: -record["ratio"])
    height = 0.9 + 0.52 * len(records)
    drawing, axes = plt.subplots(figsize=(6.0, height))
    for at, record in enumerate(records):
        low, high = record["quartiles"]
        color = COLORS["good"] if won(record) else COLORS["bad"]
        start, end = sorted((1.0, record["ratio"]))
        axes.barh(at, end - start, left=start, color=color, height=0.6)
        axes.plot([low, high], [at, at], color=COLORS["output"], linewidth=1.5)
        axes.plot(record["goal"], at, "D", color=COLORS["output"], markersize=4)
    axes.axvline(1.0, color=COLORS["muted"], linewidth=1)
    axes.set_xscale("log")
    ticks = [t for t in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)]
    lowest = min(min(r["ratio"], r["goal"]) for r in records) / 1.5
    highest = max(max(r["ratio"], r["goal"]) for r in records) * 1.5
    shown = [t for t in ticks if lowest <= t <= highest]
    axes.set_xticks(shown, [f"{t:g}" for t in shown])
    axes.minorticks_off()
    axes.set_xlim(lowest, highest)
    names = [textwrap.fill(f"{record['name']}, against {record['peer']}", 38) for record in records]
    axes.set_yticks(range(len(records)), names, fontsize=7.5)
    axes.set_xlabel("time of this package / time of the peer")
    reached = sum(won(record) for record in records)
    axes.set_title(f"{reached} of {len(records)} races reach their goal", loc="left")
    drawing.savefig(RESULTS / f"{device}.svg", metadata={"Date": None})
    plt.close(drawing)
