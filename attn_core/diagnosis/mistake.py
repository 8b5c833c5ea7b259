"""What a mistake is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    r"""One way to get attention wrong, as the catalogue names it.

    Attributes:
        name: a short name, which stays the same.
        says: what is wrong, as a report words it.
        formula: the wrong formula, in LaTeX.
        shows: how it shows.
        seen: where it was seen, or how it comes about.
        knob: the step of attention that it changes; ``"edge"``, ``"module"`` or ``"generator"`` for
            those that are not computed but found in another way.
        setting: what the step becomes.

    Source: this package; mutation analysis, DeMillo, Lipton and Sayward (1978).

    Example:
        >>> from attn_core.diagnosis import CATALOGUE
        >>> next(mistake for mistake in CATALOGUE if mistake.name == "scale missing").says
        'scores are not divided by √d'
    """

    name: str
    says: str
    formula: str
    shows: str
    seen: str
    knob: str
    setting: str
