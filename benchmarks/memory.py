"""How much memory each side of a race needs beside its inputs.

`python -m benchmarks.memory padded ours cpu` measures one side in a process of its own, because a
process never tells how much less it needs the second time.
"""

import subprocess
import sys
from dataclasses import replace

import torch

from benchmarks import attention_races, mask_races, part_races, small_races
from benchmarks.growth import peak_of
from benchmarks.race import RACES, Lab

LISTS = [attention_races, mask_races, part_races, small_races]  # to import them enters their races


def memory_of_sides(key: str, lab: Lab) -> tuple[float, float]:
    """Measure ours and the peer's, in MiB, each in a fresh process."""
    ours, peer = (
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", key, side, lab.device],
            capture_output=True,
            text=True,
            check=True,
        )
        for side in ("ours", "theirs")
    )
    return float(ours.stdout), float(peer.stdout)


def peak_of_side(key: str, side: str, lab: Lab) -> float:
    """Measure one side, in MiB."""
    race = RACES[key]
    getattr(race.make(replace(lab, tiny=True)), side)()  # what is allocated once is not counted
    return peak_of(getattr(race.make(lab), side), lab)


if __name__ == "__main__":
    key, side, device = sys.argv[1:]
    torch.set_num_threads(2)
    print(peak_of_side(key, side, Lab(device=device)))
