"""The catalogue: every mistake that can be named, and what several of them make together."""

from collections.abc import Iterable, Iterator
from itertools import combinations

from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes_of_layers import EDGES, GENERATORS, MODULES
from attn_core.diagnosis.mistakes_of_masks import CAUSAL, MASKS
from attn_core.diagnosis.mistakes_of_scores import PRODUCTS, SCALES
from attn_core.diagnosis.mistakes_of_weights import AGGREGATES, HEADS, NORMALISERS, OUTPUTS
from attn_core.diagnosis.recipe import Recipe

# Those that a recipe computes, the likelier of two that look the same first.
MISTAKES = (*SCALES, *PRODUCTS, *NORMALISERS, *MASKS, *CAUSAL, *AGGREGATES, *HEADS, *OUTPUTS)

CATALOGUE: tuple[Mistake, ...] = (*MISTAKES, *EDGES, *MODULES, *GENERATORS)

# Named as well, since a function may be that; wrong only where it was not meant.
CHOICES = frozenset({"cosine score", "distance score", "sigmoid"})

NAMED = {mistake.name: mistake for mistake in CATALOGUE}


def combined(count: int, mistakes: Iterable[Mistake] = MISTAKES) -> Iterator[tuple[Mistake, ...]]:
    """Every choice of so many of the mistakes that change different steps."""
    for chosen in combinations(mistakes, count):
        if len({mistake.knob for mistake in chosen}) == count:
            yield chosen


def recipe_of(mistakes: tuple[Mistake, ...]) -> Recipe:
    """Attention with these mistakes, which change different steps."""
    return Recipe(**{mistake.knob: mistake.setting for mistake in mistakes})
