"""What a race is, and how it is timed: both sides in one process, by turns."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """Where races are run: on which device, and whether at full size or at a size for tests."""

    device: str = "cpu"
    tiny: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Single precision on a processor, bfloat16 on a GPU: what each is used with."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    def size(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def normal(self, *shape: int, seed: int = 0, learn: bool = False) -> Tensor:
        """Draw normal numbers, alike on every device."""
        numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return numbers.to(self.device, self.dtype).requires_grad_(learn)

    def synchronize(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Contest:
    """The same job done twice, ready to run.

    Attributes:
        ours: does it with this package, and returns the result.
        theirs: does it with the peer.
        tolerance: how far the results may be apart, as a share of the largest number in them;
            None where they are not meant to be equal, and the note then says why.
        note: what a reader should know of the comparison.
    """

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    tolerance: float | None = 1e-5
    note: str = ""

    def distance(self) -> float:
        """Run both sides once and refuse to race two that do not do the same job."""
        apart = distance(self.ours(), self.theirs())
        if self.tolerance is not None and not apart <= self.tolerance:
            raise ValueError(f"the results are {apart:.2g} apart: there is nothing to race")
        return apart


@dataclass(frozen=True)
class Race:
    """A contest that is still to be set up.

    Attributes:
        name: what is computed.
        setting: the sizes at which it is.
        peer: with whose code, as a reader knows it.
        goal: ours / theirs, at most.
        make: sets it up in a lab.
        package: the package that the peer is in; torch by default.
        devices: where it can be run.
        memory_goal: the same of the memory beside the inputs; None where it is not measured.
    """

    name: str
    setting: str
    peer: str
    goal: float
    make: Callable[[Lab], Contest]
    package: str = "torch"
    devices: tuple[str, ...] = ("cpu",)
    memory_goal: float | None = None

    @property
    def key(self) -> str:
        """The name of the function that sets it up: what `--only` takes."""
        return self.make.__name__

    def can_run(self, lab: Lab) -> bool:
        return lab.device in self.devices and find_spec(self.package) is not None


RACES: dict[str, Race] = {}


def race(**facts: Any) -> Callable[[Callable[[Lab], Contest]], Callable[[Lab], Contest]]:
    """Enter a function that sets up a contest into the list of races."""

    def enter(make: Callable[[Lab], Contest]) -> Callable[[Lab], Contest]:
        RACES[make.__name__] = Race(make=make, **facts)
        return make

    return enter


def distance(ours: Any, theirs: Any) -> float:
    """Tell how far apart two results are, as a share of the largest number in them."""
    if isinstance(ours, tuple):
        return max(distance(a, b) for a, b in zip(ours, theirs, strict=True))
    ours, theirs = (torch.as_tensor(x).detach().double().cpu() for x in (ours, theirs))
    if ours.shape != theirs.shape:
        raise ValueError(f"results have shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@dataclass(frozen=True)
class Timing:
    """Seconds of each call, by turns.

    Attributes:
        ours: of each round.
        theirs: of each round.
    """

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours / theirs, round by round: what slows the machine down slows both sides."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Between these two lies the middle half of the ratios."""
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high

    @property
    def milliseconds(self) -> tuple[float, float]:
        return 1e3 * statistics.median(self.ours), 1e3 * statistics.median(self.theirs)


def seconds_per_call(
    call: Callable[[], Any], calls: int, synchronize: Callable[[], None] = lambda: None
) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize()
    return (time.perf_counter() - start) / calls


def calls_that_last(seconds: float, call: Callable[[], Any], lab: Lab) -> int:
    """Count the calls that take this long, so that the clock's own grain does not matter."""
    return max(1, round(seconds / max(seconds_per_call(call, 1, lab.synchronize), 1e-9)))


def time_by_turns(contest: Contest, lab: Lab, *, rounds: int = 31, seconds: float = 20.0) -> Timing:
    """Time both sides by turns, in as many rounds as fit into some seconds, at least five."""
    sides = (contest.ours, contest.theirs)
    for side in sides:
        side()  # what is compiled, looked up or allocated once is not timed
    calls = [calls_that_last(0.01, side, lab) for side in sides]
    timing = Timing()
    start = time.perf_counter()
    for turn in range(rounds):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        spent = {i: seconds_per_call(sides[i], calls[i], lab.synchronize) for i in order}
        timing.ours.append(spent[0])
        timing.theirs.append(spent[1])
        if len(timing.ours) >= 5 and time.perf_counter() - start > seconds:
            break
    return timing


def forward(call: Callable[[], T]) -> Callable[[], T]:
    """Run a call as when predicting: no gradient is prepared."""

    def run() -> T:
        with torch.no_grad():
            return call()

    return run


def forward_and_backward(
    call: Callable[[], Tensor], inputs: tuple[Tensor, ...]
) -> Callable[[], tuple[Tensor, ...]]:
    """Run a call as when training, and return its output and its gradients."""

    def run() -> tuple[Tensor, ...]:
        output = call()
        return (output, *torch.autograd.grad(output, inputs, torch.ones_like(output)))

    return run
