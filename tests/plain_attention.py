"""Attention written a second time, a row at a time, to compare the package with.

A query looks only at the keys that it may attend: the others are left out, not pushed to −inf.
So nothing that is masked can reach a result or a gradient here.
"""

import math

import torch


def plain_attention(
    query,
    key,
    value,
    allowed,
    *,
    bias=None,
    score=None,
    normalizer=None,
    scale=None,
    softcap=None,
):
    """Output and weights.

    Args:
        query: ``(*batch, Hq, L, D)``.
        key: ``(*batch, Hkv, S, D)``.
        value: ``(*batch, Hkv, S, Dv)``.
        allowed: bool, broadcasts to ``(*batch, Hq, L, S)``.
        bias: broadcasts as ``allowed`` does.
        score: ``"dot"``, ``"scaled_dot"`` or ``"cosine"``.
        normalizer: ``"softmax"``, ``"sparsemax"`` or ``"hard"``.
        scale: multiplies the scores.
        softcap: squeezes them.
    """
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    heads, q_len, width = query.shape[-3:]
    kv_heads, k_len = key.shape[-3:-1]
    query = query.expand(*batch, *query.shape[-3:])
    key = key.expand(*batch, *key.shape[-3:])
    value = value.expand(*batch, *value.shape[-3:])
    full = (*batch, heads, q_len, k_len)
    allowed = allowed.expand(full)
    bias = None if bias is None else bias.expand(full)
    if scale is None:
        scale = 1 / math.sqrt(width) if score is None else 1.0

    outputs, weights = [], []
    for at in torch.cartesian_prod(*(torch.arange(n) for n in full[:-1])).tolist():
        *entry, head, row = at
        shared = (*entry, head // (heads // kv_heads))
        keep = allowed[(*entry, head, row)]
        if bias is not None:
            keep = keep & (bias[(*entry, head, row)] != -torch.inf)
        scores = scale * _scores(score, query[(*entry, head, row)], key[shared][keep])
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias[(*entry, head, row)][keep]
        row_weights = _normalise(normalizer, scores)
        outputs.append(torch.einsum("s,sd->d", row_weights, value[shared][keep]))
        weights.append(query.new_zeros(k_len).index_put((keep,), row_weights))
    return (
        torch.stack(outputs).reshape(*full[:-1], value.shape[-1]),
        torch.stack(weights).reshape(full),
    )


def _scores(score, one_query, keys):
    products = torch.einsum("d,sd->s", one_query, keys)
    if score == "scaled_dot":
        return products / math.sqrt(len(one_query))
    if score == "cosine":
        lengths = one_query.square().sum().sqrt() * keys.square().sum(1).sqrt()
        return products / lengths
    return products


def _normalise(normalizer, scores):
    if len(scores) == 0:
        return scores
    if normalizer == "sparsemax":
        return torch.relu(scores - _sparsemax_threshold(scores))
    if normalizer == "hard":
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).to(scores)
    powers = torch.exp(scores - scores.max().detach())
    return powers / powers.sum()


def _sparsemax_threshold(scores):
    """Find by bisection which scores are above the threshold; they then give it exactly."""
    low, high = scores.max().item() - 1, scores.max().item()
    for _ in range(80):
        middle = (low + high) / 2
        too_low = sum(max(score - middle, 0.0) for score in scores.tolist()) > 1
        low, high = (middle, high) if too_low else (low, middle)
    above = scores > high
    return (scores[above].sum() - 1) / above.sum()
