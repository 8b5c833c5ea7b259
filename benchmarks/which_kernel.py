"""Which kernel runs for which case, with what the races measured: a table for the book."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from attn_core import masks, positions


@dataclass(frozen=True)
class Case:
    """A case of a reader, as a race measures it.

    Attributes:
        race: the race's key.
        words: the case in words.
        query, key: shapes.
        arguments: the others of `attention`.
        other: what the peer is, in words.
    """

    race: str
    words: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    arguments: dict[str, Any]
    other: str

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, of zeros."""
        return torch.zeros(self.query), torch.zeros(self.key), torch.zeros(self.key)


CASES = [
    Case(
        "dense",
        "causal, 1,024 tokens, batch 4",
        (4, 8, 1024, 64),
        (4, 8, 1024, 64),
        {"mask": masks.causal()},
        "PyTorch's own call",
    ),
    Case(
        "window_dense_mask",
        "window of 128 keys, 8,192 tokens",
        (1, 8, 8192, 64),
        (1, 8, 8192, 64),
        {"mask": masks.window(128, 0)},
        "PyTorch, mask as a table",
    ),
    Case(
        "window_flex",
        "the same window",
        (1, 8, 8192, 64),
        (1, 8, 8192, 64),
        {"mask": masks.window(128, 0)},
        "FlexAttention, compiled",
    ),
    Case(
        "alibi",
        "causal with ALiBi, 4,096 tokens",
        (1, 8, 4096, 64),
        (1, 8, 4096, 64),
        {"mask": masks.causal(), "bias": positions.ALiBi(8)},
        "PyTorch, bias as a table",
    ),
    Case(
        "grouped_decode",
        "one new token, 4,096 keys, batch 8, 32 heads on 8",
        (8, 32, 1, 64),
        (8, 8, 4096, 64),
        {},
        "PyTorch, `enable_gqa`",
    ),
]


def days_of(results: dict[str, Any], races: Iterable[str]) -> list[str]:
    """The days on which these races, the growth and the overhead were measured."""
    records = [results["races"][race] for race in races]
    records += [record for record in (*results["growth"].values(), results["overhead"]) if record]
    return sorted({record["date"].split()[0] for record in records})


def kernel_table(results: dict[str, Any]) -> str:
    """Write the table, in Markdown, from what was measured."""
    from attn_core.kernels import which

    facts = results["machine"]
    shown = [case for case in CASES if case.race in results["races"]]
    days = days_of(results, [case.race for case in shown])
    lines = ["| Your case | Kernel, ms | Instead, ms |", "|---|---|---|"]
    for case in shown:
        record = results["races"][case.race]
        kernel = which(*case.inputs(), **case.arguments).kernel
        lines.append(
            f"| {case.words} | `{kernel}` {record['ours_ms']:,.0f} "
            f"| {case.other} {record['peer_ms']:,.0f} |"
        )
    growth = results["growth"]
    memory = {name: record["memory"].get("8192") for name, record in growth.items()}
    ours, dense = (memory.get(f"causal ALiBi, {name}") for name in ("ours", _DENSE))
    if ours and dense:
        lines.append(
            f"| memory of ALiBi, 8,192 tokens | `chunked` {ours:,.0f} MiB "
            f"| {CASES[3].other} {dense:,.0f} MiB |"
        )
    if results["overhead"]:
        record = results["overhead"]
        lines.append(
            f"| 8 tokens | `sdpa` {record['ours_us'] / 1000:.3f} "
            f"| {CASES[0].other} {record['peer_us'] / 1000:.3f} |"
        )
    measured = (
        f"Forward passes, measured on {facts['device']}, {facts['threads']} threads, "
        f"torch {facts['torch']}; {' and '.join(days)}."
    )
    return "\n".join([*lines, "", measured, ""])


_DENSE = "PyTorch with a dense bias"
