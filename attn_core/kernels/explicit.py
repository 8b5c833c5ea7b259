"""The three steps, written out: score, normalise, aggregate. It can do everything."""

import torch
from torch import Tensor

from attn_core import normalizers
from attn_core.arguments import Arguments
from attn_core.checks import broadcast_shapes, broadcasts_to
from attn_core.scores import scaled_product


def refusal(arguments: Arguments) -> str | None:
    """Say why this kernel cannot do the job; it always can."""
    return None


def reluctance(arguments: Arguments) -> None:
    """Say why another kernel is better: none is left when this one is asked."""
    return None


def run(arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Compute output ``(..., Hq, L, Dv)`` and weights ``(..., Hq, L, S)``, before dropout."""
    table = arguments.table()
    query, key, value = arguments.without_masked(table)
    weights = _normalise(arguments, _masked_scores(arguments, query, key, table))
    share = arguments.dropout_p
    dropped = torch.dropout(weights, share, train=True) if share else weights
    return _aggregate(arguments, dropped, value), weights


def weights(arguments: Arguments) -> Tensor:
    """Compute the weights ``(..., Hq, L, S)`` alone, before dropout."""
    table = arguments.table()
    query, key, _ = arguments.without_masked(table)
    return _normalise(arguments, _masked_scores(arguments, query, key, table))


def _masked_scores(
    arguments: Arguments, query: Tensor, key: Tensor, table: Tensor | None
) -> Tensor:
    scores = _score(arguments, query, key)
    if arguments.softcap is not None:
        scores = arguments.softcap * torch.tanh(scores / arguments.softcap)
    bias = arguments.bias_table(query, key)
    if bias is not None:
        scores = scores + bias
    return scores if table is None else scores.masked_fill(~table, -torch.inf)


def _score(arguments: Arguments, query: Tensor, key: Tensor) -> Tensor:
    query, score = _stack_groups(query, arguments.group), arguments.score
    if score is None:
        scores = scaled_product(query, key, arguments.scale)
        return _unstack_groups(scores, arguments.group)
    scores = score(query, key)
    expected = (
        *broadcast_shapes(query.shape[:-2], key.shape[:-2]),
        query.shape[-2],
        key.shape[-2],
    )
    _check_is_tensor("score", scores)
    if scores.shape[-2:] != expected[-2:] or not broadcasts_to(scores.shape, expected):
        raise ValueError(
            f"score must return (..., queries, keys) = {expected}, got {tuple(scores.shape)}"
        )
    return _unstack_groups(scores.expand(expected), arguments.group) * arguments.scale


def _normalise(arguments: Arguments, scores: Tensor) -> Tensor:
    # A value may have a batch where query and key have none: then so have the weights.
    return _normalise_rows(arguments, scores).expand(*arguments.leading, *scores.shape[-3:])


def _normalise_rows(arguments: Arguments, scores: Tensor) -> Tensor:
    if arguments.normalizer is None:
        return normalizers.softmax(scores)
    # A normaliser from outside may not know what to do with a row of −inf, so it gets none.
    filled, empty = normalizers.without_empty_rows(scores, -1)
    weights = arguments.normalizer(filled, -1)
    _check_is_tensor("normalizer", weights)
    if weights.shape != scores.shape:
        raise ValueError(
            f"normalizer must keep the shape of the scores {tuple(scores.shape)}, got "
            f"{tuple(weights.shape)}"
        )
    return weights.masked_fill(empty, 0.0)


def _aggregate(arguments: Arguments, weights: Tensor, value: Tensor) -> Tensor:
    return _unstack_groups(_stack_groups(weights, arguments.group) @ value, arguments.group)


def _stack_groups(x: Tensor, group: int) -> Tensor:
    """(..., Hq, L, D) to (..., Hkv, group × L, D), so that a group reads its keys uncopied."""
    return x if group == 1 else x.unflatten(-3, (-1, group)).flatten(-3, -2)


def _unstack_groups(x: Tensor, group: int) -> Tensor:
    """(..., Hkv, group × L, D) back to (..., Hq, L, D)."""
    return x if group == 1 else x.unflatten(-2, (group, -1)).flatten(-4, -3)


def _check_is_tensor(name: str, result: object) -> None:
    if not isinstance(result, Tensor):
        raise TypeError(f"{name} must return a torch tensor, got {type(result).__name__}")
