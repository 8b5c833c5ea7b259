"""Attention with a knob for every mistake: what a function is compared with."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from attn_core.reference.shapes import Array


@dataclass(frozen=True, eq=False)
class Case:
    """One call: query ``(B, H, L, D)``, key ``(B, H, S, D)``, value ``(B, H, S, Dv)``.

    Attributes:
        query: what asks.
        key: what is compared.
        value: what is handed out.
        mask: bool ``(B, 1, L, S)``, True where attending is allowed; None if none is given.
        causal: whether the function is asked to be causal.
    """

    query: Array
    key: Array
    value: Array
    mask: Array | None = None
    causal: bool = False

    @property
    def lengths(self) -> tuple[int, int]:
        return self.query.shape[-2], self.key.shape[-2]


class Result(NamedTuple):
    """What attention gave.

    Attributes:
        output: ``(B, H, L, Dv)``.
        weights: ``(B, H, L, S)``; None if it gave none.
    """

    output: Array
    weights: Array | None


@dataclass(frozen=True)
class Recipe:
    """How attention is computed; the defaults are right.

    Attributes:
        heads: how heads and batch entries are told apart.
        product: how a query meets a key.
        scale: what the scores are multiplied by.
        mask: what is done with what may not be attended.
        causal: which keys a causal query may attend.
        normaliser: how scores become weights, and over what.
        aggregate: what is summed up by the weights.
        output: what is done at the end.
    """

    heads: str = "apart"
    product: str = "dot"
    scale: str = "root"
    mask: str = "right"
    causal: str = "right"
    normaliser: str = "keys"
    aggregate: str = "values"
    output: str = "plain"


class DoesNotApplyError(Exception):
    """This mistake cannot be made with a case of these shapes."""


def attend(recipe: Recipe, case: Case) -> Result:
    """Compute attention as the recipe says.

    Raises:
        DoesNotApplyError: if the shapes do not allow it.
    """
    with np.errstate(all="ignore"):
        output, weights = _with_heads(recipe, case)
        if recipe.output == "query added":
            _need(output.shape == case.query.shape)
            output = output + case.query
        if recipe.output == "joined by view":
            output = _joined_by_view(output)
        return Result(output, weights)


def _need(condition: bool) -> None:
    if not condition:
        raise DoesNotApplyError


def _with_heads(recipe: Recipe, case: Case) -> Result:
    if recipe.heads == "apart":
        return _attend(recipe, case)
    if recipe.heads == "split by view":
        return _attend(recipe, _each(case, _split_by_view))
    # Another dimension is taken for the length: heads, or the batch.
    axis = 1 if recipe.heads == "heads attend heads" else 0
    _need(case.mask is None and not case.causal and case.query.shape[axis] > 1)
    _need(case.lengths[0] == case.lengths[1])
    turned = _attend(recipe, _each(case, lambda x: x.swapaxes(axis, 2)))
    return Result(turned.output.swapaxes(axis, 2), None)


def _attend(recipe: Recipe, case: Case) -> Result:
    weights = _weights(recipe, case, _scores(recipe, case))
    return Result(_aggregate(recipe, case, weights), weights)


def _scores(recipe: Recipe, case: Case) -> Array:
    query, key, value = case.query, case.key, case.value
    is_square = case.lengths[0] == case.lengths[1]
    width = query.shape[-1]
    if recipe.product == "cosine":
        query, key = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, key))
    elif recipe.product == "swapped":
        _need(is_square)
        query, key = key, query
    elif recipe.product == "queries":
        _need(is_square)
        key = query
    elif recipe.product == "keys":
        _need(is_square)
        query = key
    elif recipe.product == "values":
        _need(value.shape[-1] == width)
        key = value
    if recipe.product == "elementwise":
        _need(value.shape == key.shape == query.shape and _allowed(recipe, case) is None)
        scores = query * key
    elif recipe.product == "distance":
        scores = -np.sqrt(((query[..., :, None, :] - key[..., None, :, :]) ** 2).sum(-1))
    else:
        scores = query @ key.swapaxes(-1, -2)
    factors = {
        "root": width**-0.5,
        "missing": 1.0,
        "inverse": width**0.5,
        "not rooted": width**-1.0,
        "squared": width**-2.0,
        "after the softmax": 1.0,
        "length": case.lengths[1] ** -0.5,
        "all heads": (width * query.shape[1]) ** -0.5,
        "value width": value.shape[-1] ** -0.5,
    }
    return scores * factors[recipe.scale]


def _allowed(recipe: Recipe, case: Case) -> Array | None:
    """The pairs that are allowed, by the mask that was given and the causal one."""
    length, k_len = case.lengths
    allowed = case.mask if recipe.mask != "ignored" else None
    if allowed is not None and recipe.mask == "inverted":
        allowed = ~allowed
    if allowed is not None and recipe.mask == "transposed":
        _need(length == k_len)
        allowed = allowed.swapaxes(-1, -2)
    is_causal = recipe.causal == "always" or (case.causal and recipe.causal != "ignored")
    if not is_causal:
        return allowed
    distance = np.arange(k_len) - np.arange(length)[:, None]
    past: Array = {
        "right": distance <= 0,
        "always": distance <= 0,
        "lower right": distance <= k_len - length,
        "strict": distance < 0,
        "one ahead": distance <= 1,
        "backwards": distance >= 0,
    }[recipe.causal]
    return past if allowed is None else allowed & past


def _weights(recipe: Recipe, case: Case, scores: Array) -> Array:
    allowed = _allowed(recipe, case)
    if allowed is None:
        weights = _normalise(recipe, scores)
    elif recipe.mask == "added":
        weights = _normalise(recipe, scores + allowed)
    elif recipe.mask == "zero":
        weights = _normalise(recipe, scores * allowed)
    elif recipe.mask == "finite":
        weights = _normalise(recipe, np.where(allowed, scores, -1e9))
    elif recipe.mask == "finite added":  # to all scores of a query alike, it changes nothing
        hidden = ~allowed & allowed.any(-1, keepdims=True)
        weights = _normalise(recipe, np.where(hidden, -1e9, scores))
    elif recipe.mask == "after":
        weights = _normalise(recipe, scores) * allowed
    else:
        weights = _normalise(recipe, np.where(allowed, scores, -np.inf))
    if recipe.scale == "after the softmax":
        weights = weights * case.query.shape[-1] ** -0.5
    return weights


def _normalise(recipe: Recipe, scores: Array) -> Array:
    def softmax(scores: Array, axis: int | tuple[int, ...] = -1) -> Array:
        peak = scores.max(axis, keepdims=True)
        if recipe.mask != "NaN":  # then what may attend nothing gets 0
            peak = np.where(np.isneginf(peak), 0.0, peak)
        powers = np.exp(scores - peak)
        total = powers.sum(axis, keepdims=True)
        return powers / (total if recipe.mask == "NaN" else np.where(total == 0, 1.0, total))

    hidden = np.isneginf(scores)
    shown = np.where(hidden, 0.0, scores)
    how = recipe.normaliser
    if how == "divided by the sum":
        total = shown.sum(-1, keepdims=True)
        return shown / np.where(hidden.all(-1, keepdims=True), 1.0, total)
    if how == "hard":
        first = np.arange(scores.shape[-1]) == scores.argmax(-1)[..., None]
        return (first & ~hidden).astype(float)
    simple = {
        "keys": lambda: softmax(scores),
        "queries": lambda: softmax(scores, -2),
        "everything": lambda: softmax(scores, (-1, -2)),
        "heads": lambda: softmax(scores, 1),
        "batch": lambda: softmax(scores, 0),
        "twice": lambda: softmax(softmax(scores)),
        "log": lambda: np.where(
            hidden.all(-1, keepdims=True) & (recipe.mask != "NaN"), 0.0, np.log(softmax(scores))
        ),
        "base two": lambda: softmax(scores * np.log(2)),
        "sigmoid": lambda: 1 / (1 + np.exp(-scores)),
        "exponential": lambda: np.exp(scores),
        "missing": lambda: shown,
    }
    return simple[how]()


def _aggregate(recipe: Recipe, case: Case, weights: Array) -> Array:
    value = case.value
    is_square = case.lengths[0] == case.lengths[1]
    if recipe.product == "elementwise":
        _need(recipe.aggregate == "values")
        return weights * value
    if recipe.aggregate == "transposed":
        _need(is_square)
        return weights.swapaxes(-1, -2) @ value
    if recipe.aggregate == "keys":
        return weights @ case.key
    if recipe.aggregate == "queries":
        _need(is_square)
        return weights @ case.query
    if recipe.aggregate == "weights":
        return weights
    if recipe.aggregate == "mean":
        weights = np.full_like(weights, 1 / weights.shape[-1])
    return weights @ value


def _each(case: Case, turn: Callable[[Array], Array]) -> Case:
    """The same rearrangement of query, key and value."""
    query, key, value = (turn(x) for x in (case.query, case.key, case.value))
    return replace(case, query=query, key=key, value=value)


def _split_by_view(x: Array) -> Array:
    """Take (B, L, H · D) for (B, H, L, D) without a transpose."""
    batch, heads, length, width = x.shape
    return x.swapaxes(1, 2).reshape(batch, heads, length, width)


def _joined_by_view(x: Array) -> Array:
    """Take (B, H, L, D) for (B, L, H · D), and that apart again as it should be."""
    batch, heads, length, width = x.shape
    return x.reshape(batch, length, heads, width).swapaxes(1, 2)
