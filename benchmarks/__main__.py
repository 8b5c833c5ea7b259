"""Run the races and write their table and figure; `make bench RACES="window alibi"` runs some."""

import argparse
import sys

import torch

from benchmarks import growth, report
from benchmarks.memory import memory_of_sides
from benchmarks.race import RACES, Contest, Lab, Race, time_by_turns

EXTRA = ["growth", "overhead"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="which to run; all by default")
    parser.add_argument("--list", action="store_true", help="name the races and stop")
    parser.add_argument("--table", action="store_true", help="write table and figure again")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, for each race")
    options = parser.parse_args()
    if options.list:
        for key, race in RACES.items():
            print(f"{key:20} {race.name}, against {race.peer}: at most {race.goal}")
        return
    unknown = set(options.names) - {*RACES, *EXTRA}
    if unknown:
        sys.exit(f"no such race: {', '.join(sorted(unknown))}; --list names them")
    torch.set_num_threads(options.threads)
    lab = Lab(device=options.device)
    facts = report.machine(lab.device)
    results = report.load(lab.device, facts)
    if options.table:
        report.save(lab.device, in_order(results))
        return
    for key, race in RACES.items():
        if options.names and key not in options.names:
            continue
        if not race.can_run(lab):
            print(f"{race.name}: not run; {race.package} is missing, or not for {lab.device}")
            continue
        results["races"][key] = run(race, lab, options.seconds)
        report.save(lab.device, in_order(results))
    if not options.names or "growth" in options.names:
        results["growth"] = measure_growth(lab)
    if not options.names or "overhead" in options.names:
        ours, peer = growth.overhead(lab)
        results["overhead"] = {"ours_us": ours, "peer_us": peer, "date": report.now()}
        print(f"overhead: {ours:.1f} µs against {peer:.1f} µs")
    report.save(lab.device, in_order(results))
    print(f"written: {report.RESULTS}/{lab.device}.md, .json and .svg")


def run(race: Race, lab: Lab, seconds: float) -> report.Records:
    """Run one race: first see that both sides give the same result, then time them."""
    torch.manual_seed(0)
    contest: Contest = race.make(lab)
    apart = contest.distance()
    timing = time_by_turns(contest, lab, seconds=seconds)
    ours, peer = timing.milliseconds
    record = {
        "name": race.name,
        "setting": race.setting,
        "peer": race.peer,
        "version": report.peer_version(race.package),
        "goal": race.goal,
        "ratio": timing.ratio,
        "quartiles": timing.quartiles,
        "ours_ms": ours,
        "peer_ms": peer,
        "rounds": len(timing.ours),
        "apart": apart,
        "note": contest.note,
        "date": report.now(),
        "commit": report.commit(),
    }
    if race.memory_goal is not None:
        ours_mib, peer_mib = memory_of_sides(race.key, lab)
        record |= {"memory_goal": race.memory_goal, "ours_mib": ours_mib, "peer_mib": peer_mib}
        print(f"memory: {report.memory(record)}", flush=True)
    verdict = "reached" if report.won(record) else "NOT reached"
    print(
        f"{race.name}, against {race.peer}: {ours:.2f} ms / {peer:.2f} ms = {timing.ratio:.3f}, "
        f"goal {race.goal} {verdict}",
        flush=True,
    )
    return record


def measure_growth(lab: Lab) -> report.Records:
    """Measure time and memory at growing lengths."""
    titles = {
        ("window", "ours"): "window of 128 keys, ours",
        ("alibi", "ours"): "causal ALiBi, ours",
        ("alibi", "peer"): "causal ALiBi, PyTorch with a dense bias",
    }
    records = {}
    for (kind, side), title in titles.items():
        seconds = growth.seconds_by_length(kind, lab) if kind == "window" else {}
        memory = growth.memory_by_length(kind, side, lab)
        most = {
            what: growth.MOST[f"{kind} {what}"]
            for what in ("seconds", "memory")
            if side == "ours" and f"{kind} {what}" in growth.MOST
        }
        records[title] = {
            "seconds": {str(n): value for n, value in seconds.items()},
            "memory": {str(n): value for n, value in memory.items()},
            "most": most,
            "date": report.now(),
        }
        print(f"{title}: {records[title]}", flush=True)
    return records


def in_order(results: report.Records) -> report.Records:
    """Put the races into the order of the list, whichever was run last, under their names."""
    races = {
        key: results["races"][key]
        | {"name": race.name, "setting": race.setting, "peer": race.peer, "goal": race.goal}
        for key, race in RACES.items()
        if key in results["races"]
    }
    return results | {"races": races}


if __name__ == "__main__":
    main()
