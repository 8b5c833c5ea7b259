"""The races are fair: both sides give the same result, and ratios are what their names say.

Nothing here is timed but a stand-in whose clock is ours. The peers are in `.bench/` after
`make bench`; those that are not installed are skipped.
"""

import json
import re
from itertools import pairwise

import pytest
import torch

from benchmarks import memory, report, which_kernel
from benchmarks import race as races
from benchmarks.race import RACES, Contest, Lab, Race, Timing, distance

LAB = Lab(tiny=True)
# Peers raise warnings of their own, and FlexAttention one that it was not compiled.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("entry", RACES.values(), ids=RACES.keys())
def test_both_sides_give_the_same_result(entry):
    if not entry.can_run(LAB):
        pytest.skip(f"{entry.package} is not installed")
    contest = entry.make(LAB)
    apart = contest.distance()
    if contest.tolerance is None:
        assert entry.key == "linear_attention"  # the only one, and it says why
        assert "not the same numbers" in contest.note
    else:
        assert apart <= contest.tolerance <= 1e-3


@pytest.mark.parametrize("entry", RACES.values(), ids=RACES.keys())
def test_a_race_says_what_it_is(entry):
    assert entry.name
    assert entry.setting
    assert entry.peer
    assert entry.goal > 0
    assert entry.key in RACES


def test_every_race_of_the_plan_is_there():
    goals = {entry.key: entry.goal for entry in RACES.values()}
    planned = {
        "dense": 1.05,
        "window": 0.33,
        "window_backward": 0.5,
        "window_dense_mask": 0.05,
        "window_flex": 1.0,
        "alibi": 0.5,
        "entmax15": 0.2,
        "sparsemax": 0.5,
        "grouped_decode": 1.1,
        "rotary": 0.3,
        "linear_attention": 0.05,
        "numpy_causal": 0.8,
        "layer": 1.0,
        "one_token": 1.0,
        "one_token_by_hand": 1.0,
        "decoding": 1.0,
        "decoding_rotary": 1.0,
        "padded": 1.05,
        "minilm": 1.0,
        "documents_flex": 1.0,
        "causal_documents_flex": 1.0,
        "bigbird_flex": 1.0,
        "strided_flex": 1.0,
    }
    assert {key: goals[key] for key in planned} == planned
    assert RACES["padded"].memory_goal == 1.1


def test_the_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_the_medians():
    timing = Timing(ours=[1.0, 2.0, 9.0, 4.0, 5.0], theirs=[2.0, 2.0, 3.0, 1.0, 10.0])
    assert timing.ratios == [0.5, 1.0, 3.0, 4.0, 0.5]
    assert timing.ratio == 1.0
    assert timing.quartiles == (0.5, 3.0)
    assert timing.milliseconds == (4000.0, 2000.0)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on only when a side is called, and who was called when."""
    clock = {"now": 0.0, "calls": []}
    monkeypatch.setattr(races.time, "perf_counter", lambda: clock["now"])
    return clock


def contest_of(clock, seconds):
    def side(name):
        def call():
            clock["now"] += seconds[name]
            clock["calls"].append(name)

        return call

    return Contest(ours=side("ours"), theirs=side("theirs"))


@pytest.mark.parametrize("seconds", [{"ours": 0.5, "theirs": 2.0}, {"ours": 1e-3, "theirs": 4e-4}])
def test_time_is_divided_by_the_calls_that_it_holds(clock, seconds):
    timing = races.time_by_turns(contest_of(clock, seconds), LAB, rounds=7, seconds=1e9)
    assert len(timing.ours) == len(timing.theirs) == 7
    assert timing.ratio == pytest.approx(seconds["ours"] / seconds["theirs"])
    assert timing.milliseconds == pytest.approx((1e3 * seconds["ours"], 1e3 * seconds["theirs"]))


def test_the_sides_take_turns_and_neither_always_begins(clock):
    races.time_by_turns(contest_of(clock, {"ours": 1.0, "theirs": 1.0}), LAB, rounds=6, seconds=1e9)
    timed = clock["calls"][4:]  # after one warm-up and one to count the calls, of each side
    rounds = [timed[i : i + 2] for i in range(0, len(timed), 2)]
    assert len(rounds) == 6
    assert all(set(pair) == {"ours", "theirs"} for pair in rounds)
    assert all(before[0] != after[0] for before, after in pairwise(rounds))


def test_a_race_ends_in_time_but_not_before_five_rounds(clock):
    timing = races.time_by_turns(
        contest_of(clock, {"ours": 100.0, "theirs": 100.0}), LAB, seconds=1.0
    )
    assert len(timing.ours) == 5


def test_distance_sees_the_worst_of_all_results():
    one, other = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -5.0])
    assert distance(one, one) == 0
    assert distance(one, other) == pytest.approx(0.2)
    assert distance((one, one), (one, other)) == pytest.approx(0.2)
    assert distance(one.numpy(), other) == pytest.approx(0.2)
    assert not distance(torch.tensor([torch.nan]), one[:1]) <= 1
    with pytest.raises(ValueError, match="shapes"):
        distance(one, one[None])
    with pytest.raises(ValueError, match="zip"):
        distance((one, one), (one,))


def test_sides_that_do_not_agree_are_not_raced():
    one, other = torch.ones(3), torch.tensor([1.0, 1.0, 1.1])
    assert Contest(ours=lambda: one, theirs=lambda: one).distance() == 0
    for wrong in (other, torch.full((3,), torch.nan)):
        with pytest.raises(ValueError, match="nothing to race"):
            Contest(ours=lambda wrong=wrong: wrong, theirs=lambda: one).distance()
    apart = Contest(ours=lambda: one, theirs=lambda: other, tolerance=None).distance()
    assert apart == pytest.approx(0.1 / 1.1)


def record(name, ratio, goal, note=""):
    return {
        "name": name,
        "setting": "4 tokens",
        "peer": "another package",
        "version": "1.0",
        "goal": goal,
        "ratio": ratio,
        "quartiles": (ratio * 0.9, ratio * 1.1),
        "ours_ms": 10 * ratio,
        "peer_ms": 10.0,
        "rounds": 5,
        "apart": 0.0,
        "note": note,
        "date": "2026-11-21 12:00 UTC",
        "commit": "abc",
    }


def test_the_report_says_who_won_and_who_did_not(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    facts = report.machine("cpu")
    results = report.load("cpu", facts)
    results["races"] = {
        "fast": record("fast one", 0.25, 0.5, note="a remark"),
        "slow": record("slow one", 2.0, 1.0),
    }
    results["growth"] = {
        "window": {
            "seconds": {"8": 0.1, "64": 0.9},
            "memory": {"8": 1.0, "64": 8.0},
            "most": {},
            "date": "2026-11-22 12:00 UTC",
        }
    }
    results["overhead"] = {"ours_us": 30.0, "peer_us": 10.0, "date": "2026-11-23 12:00 UTC"}
    report.save("cpu", results)
    page = (tmp_path / "cpu.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert any("fast one" in row and "| 0.25 | ≤ 0.5 |" in row for row in rows)
    assert any("slow one" in row and "| 2 | ≤ 1, missed |" in row for row in rows)
    assert re.search(r"^1\. .*; a remark$", page, flags=re.M)
    assert "2026-11-21 and 2026-11-22 and 2026-11-23" in page
    assert "2026-11-22 and 2026-11-23" in (tmp_path / "cpu_kernels.md").read_text("utf-8")
    assert "9 times the time" in page
    assert "8 times the memory" in page
    assert "20.0 µs more" in page
    alt = next(line for line in page.splitlines() if line.startswith("!["))
    assert "2 races" in alt
    assert "in 1 it reaches its goal" in alt
    assert "<svg" in (tmp_path / "cpu.svg").read_text("utf-8")
    # What was measured on this machine is added to; another machine starts anew.
    assert report.load("cpu", facts)["races"] == json.loads(json.dumps(results["races"]))
    assert report.load("cpu", facts | {"cores": 10**6})["races"] == {}


@pytest.mark.parametrize(("ours", "verdict"), [(11.0, ""), (11.2, ", missed")])
def test_a_race_with_a_goal_for_memory_has_to_reach_both(ours, verdict):
    slow, fast = record("slow", 2.0, 1.0), record("fast", 0.5, 1.0)
    sizes = {"memory_goal": 1.1, "ours_mib": ours, "peer_mib": 10.0}
    assert not report.won(slow | sizes)
    assert report.won(fast | sizes) == (verdict == "")
    table = report.race_table({"races": {"fast": fast | sizes}})
    assert f"(goal: at most 1.1{verdict})" in table


def test_the_memory_of_a_side_is_that_of_its_call_at_full_size(monkeypatch):
    made = []

    def make(lab):
        made.append(lab.tiny)
        return Contest(ours=lambda: ("ours", lab.tiny), theirs=lambda: ("theirs", lab.tiny))

    monkeypatch.setitem(RACES, "made", Race("a", "b", "c", 1.0, make=make))
    monkeypatch.setattr(memory, "peak_of", lambda call, lab: call())
    assert memory.peak_of_side("made", "theirs", Lab()) == ("theirs", False)
    assert made == [True, False]


def test_committed_results_are_those_of_their_tables():
    """The table and the alt text are made from the numbers, not typed."""
    paths = sorted(report.RESULTS.glob("*.json"))
    assert paths
    for path in paths:
        results = json.loads(path.read_text("utf-8"))
        assert path.with_suffix(".md").read_text("utf-8") == report.page(path.stem, results)
        kernels = path.with_name(f"{path.stem}_kernels.md").read_text("utf-8")
        assert kernels == which_kernel.kernel_table(results)
        assert path.with_suffix(".svg").exists()
        assert set(results["races"]) <= set(RACES)


def test_the_cases_of_the_book_are_races():
    for case in which_kernel.CASES:
        setting = RACES[case.race].setting
        assert ("window" in case.words) == ("keys before each query" in setting)


def test_a_race_of_a_missing_package_is_not_run():
    missing = Race("a", "b", "c", 1.0, make=lambda lab: None, package="no_such_package_here")
    assert not missing.can_run(LAB)
    assert not Race("a", "b", "c", 1.0, make=lambda lab: None).can_run(Lab(device="cuda"))
