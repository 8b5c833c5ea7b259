"""What diagnose() found: true or false, as text, as HTML, as data."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from attn_core.diagnosis.calling import Convention
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.properties import Broken
from attn_core.diagnosis.recipe import Case, Result
from attn_core.reference.shapes import Array


@dataclass(frozen=True)
class Example:
    """A case with which a function is wrong.

    Attributes:
        case: the inputs.
        expected: what is right.
        seen: what the function gave.
    """

    case: Case
    expected: Result
    seen: Result

    def __str__(self) -> str:
        case = self.case
        if case.query.size + case.key.size + case.value.size > 60:
            shapes = ", ".join(str(x.shape) for x in (case.query, case.key, case.value))
            return f"random inputs of the shapes {shapes}"
        inputs = {"query": case.query, "key": case.key, "value": case.value, "mask": case.mask}
        given = ", ".join(f"{name} {short(x)}" for name, x in inputs.items() if x is not None)
        causal = ", causal" if case.causal else ""
        return (
            f"{given}{causal}: expected {short(self.expected.output)}, got "
            f"{short(self.seen.output)}"
        )


@dataclass(frozen=True)
class Report:
    """What is wrong with somebody's attention; true if nothing is.

    Attributes:
        name: of the function or module.
        convention: how it was called.
        mistakes: the named mistakes that explain what it returns.
        others: other mistakes that explain it as well: they cannot be told apart from outside.
        error: the largest difference from attention with the mistakes made on purpose, relative to
            the largest output.
        cases: how many random cases were compared.
        example: the smallest inputs found with which it is wrong.
        broken: properties of attention that it has not, where no mistake explains it.
        trouble: why it could not be compared at all.
        notes: what is worth knowing and no mistake.
        untested: what may be right or wrong: it was not tested, or cannot be told.
        needs_equal_lengths: whether it only takes as many keys as queries.
        is_unexplained: whether no mistakes explain it.
        is_module: whether it was judged from outside, as modules and generators are.
    """

    name: str
    convention: Convention | None = None
    mistakes: tuple[Mistake, ...] = ()
    others: tuple[tuple[Mistake, ...], ...] = ()
    error: float = 0.0
    cases: int = 0
    example: Example | None = None
    broken: tuple[Broken, ...] = ()
    trouble: str | None = None
    notes: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    needs_equal_lengths: bool = False
    is_unexplained: bool = False
    is_module: bool = False

    def with_mistake(self, mistake: Mistake, example: str) -> "Report":
        """This report with a mistake more."""
        return replace(
            self,
            mistakes=(*self.mistakes, mistake),
            broken=(*self.broken, Broken(mistake.says, example)),
        )

    def __bool__(self) -> bool:
        return not (self.mistakes or self.broken or self.trouble or self.is_unexplained)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The report, line by line."""
        if self.trouble is not None:
            return [f"{self.name} could not be compared with attention: {self.trouble}."]
        if self.is_module and self and self.untested:
            lines = [f"{self.name}: nothing wrong was seen, but not all can be told from outside."]
        elif self.is_module and self:
            lines = [f"{self.name}: nothing wrong that can be seen from outside."]
        elif self.is_module:
            lines = [f"{self.name}: wrong, as can be seen from outside:", *self._mistakes()]
        elif self:
            lines = [
                f"{self.name} is scaled dot-product attention.",
                f"It equals it, to {self.error:.0e} on {self.cases} random cases.",
            ]
        elif self.mistakes:
            lines = [
                f"{self.name} is not scaled dot-product attention.",
                f"It equals it, to {self.error:.0e} on {self.cases} random cases, with "
                + ("this mistake:" if len(self.mistakes) == 1 else "these mistakes:"),
                *self._mistakes(),
            ]
            for other in self.others:
                said = "; ".join(one.says for one in other)
                lines.append(f"From outside this looks the same: {said}.")
        else:
            lines = [
                f"{self.name} is not scaled dot-product attention, and no mistakes that have a "
                "name explain it."
            ]
            lines += [f"  - {each.says}: {each.example}" for each in self.broken]
            lines.append(
                f"It differs from it by up to {self.error:.1g} of the largest output, on "
                f"{self.cases} random cases."
                if np.isfinite(self.error)
                else "It gives NaN, infinity or another shape where attention does not."
            )
        if self.example is not None:
            lines.append(f"Smallest example: {self.example}")
        lines += [f"Not tested: {one}." for one in self.untested]
        lines += [f"Note: {note}." for note in self._notes()]
        return lines

    def _mistakes(self) -> list[str]:
        examples = {one.says: f": {one.example}" for one in self.broken}
        return [
            f"  {number}. {one.says}{examples.get(one.says, '')}"
            for number, one in enumerate(self.mistakes, 1)
        ]

    def _notes(self) -> list[str]:
        notes = list(self.notes)
        if self.convention is not None:
            notes.append(f"its inputs were read as ({self.convention.words})")
            if self.convention.input_names is not None:
                names = ", ".join(self.convention.input_names)
                notes.append(f"query, key and value were given as {names}")
        if self.needs_equal_lengths:
            notes.append("it takes only as many keys as queries")
        return notes

    def _repr_html_(self) -> str:
        """The report in a notebook, with the wrong weights drawn beside the right ones."""
        from attn_core.diagnosis.picture import report_as_html

        return report_as_html(self)

    def as_data(self) -> dict[str, Any]:
        """The report as dictionaries, lists, strings and numbers, for JSON."""
        return {
            "name": self.name,
            "ok": bool(self),
            "mistakes": [one.name for one in self.mistakes],
            "others": [[one.name for one in other] for other in self.others],
            "error": self.error,
            "cases": self.cases,
            "example": None if self.example is None else str(self.example),
            "broken": [asdict(one) for one in self.broken],
            "trouble": self.trouble,
            "notes": self._notes(),
            "untested": list(self.untested),
        }


def short(x: Array) -> str:
    """Numbers, without the dimensions in front that are 1."""
    while x.ndim > 2 and len(x) == 1:
        x = x[0]
    return str((np.round(x.astype(float), 4) + 0.0).tolist())
