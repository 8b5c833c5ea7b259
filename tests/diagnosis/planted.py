"""Attention in PyTorch with mistakes planted in it, written apart from the package's recipes.

A plant is named as the catalogue names it. Each step of attention is a function of its own, and
each mistake replaces a step.
"""

import torch
from torch import einsum


def planted(*names):
    """A function (query, key, value, mask=None, causal=False) with these mistakes."""
    wrong = set(names)
    unknown = wrong - KNOWN
    assert not unknown, unknown

    def attention(query, key, value, mask=None, causal=False):
        return attend(wrong, query, key, value, mask, causal)

    if wrong & {"heads attend heads", "batch attends batch", "elementwise product"}:

        def attention(query, key, value):
            return attend(wrong, query, key, value, None, False)

    attention.__name__ = " and ".join(names) or "right"
    return attention


def planted_in_heads(*names, heads):
    """The same, of joined inputs (batch, length, heads × width) that it splits itself."""
    wrong = set(names)

    def attention(query, key, value):
        query, key, value = (split(x, heads, wrong) for x in (query, key, value))
        return join(attend(wrong, query, key, value, None, False), wrong)

    return attention


def split(x, heads, wrong):
    batch, length, width = x.shape
    if "heads split by view" in wrong:
        return x.reshape(batch, heads, length, width // heads)
    return x.reshape(batch, length, heads, width // heads).permute(0, 2, 1, 3)


def join(x, wrong):
    batch, heads, length, width = x.shape
    if "heads joined by view" in wrong:
        return x.reshape(batch, length, heads * width)
    return torch.cat([x[:, head] for head in range(heads)], dim=-1)


def attend(wrong, query, key, value, mask, causal):
    if "heads attend heads" in wrong:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if "batch attends batch" in wrong:
        query, key, value = (x.transpose(0, -2) for x in (query, key, value))
    if "elementwise product" in wrong:
        scores = query * key * factor(wrong, query, key, value)
        return weigh(wrong, scores) * value + (query if "query added" in wrong else 0)
    scores = products(wrong, query, key, value) * factor(wrong, query, key, value)
    weights = masked_weights(wrong, scores, allowed_pairs(wrong, scores, mask, causal))
    if "scale after softmax" in wrong:
        weights = weights / query.shape[-1] ** 0.5
    output = aggregate(wrong, weights, query, key, value)
    if "query added" in wrong:
        output = query + output
    if "heads attend heads" in wrong:
        output = output.transpose(1, 2)
    if "batch attends batch" in wrong:
        output = output.transpose(0, -2)
    return output


def products(wrong, query, key, value):
    if "cosine score" in wrong:
        query, key = (torch.nn.functional.normalize(x, dim=-1) for x in (query, key))
    if "distance score" in wrong:
        return -(query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1).sqrt()
    left, right = query, key
    if "query and key swapped" in wrong:
        left, right = key, query
    if "queries compared with queries" in wrong:
        right = query
    if "keys compared with keys" in wrong:
        left = key
    if "values used as keys" in wrong:
        right = value
    return einsum("...id,...jd->...ij", left, right)


def factor(wrong, query, key, value):
    width = query.shape[-1]
    factors = {
        "scale missing": 1,
        "scale not rooted": 1 / width,
        "scale inverse": width**0.5,
        "scale squared": 1 / width**2,
        "scale after softmax": 1,
        "scale by length": key.shape[-2] ** -0.5,
        "scale by model width": (width * (query.shape[1] if query.ndim == 4 else 1)) ** -0.5,
        "scale by value width": value.shape[-1] ** -0.5,
    }
    chosen = wrong & set(factors)
    return factors[chosen.pop()] if chosen else width**-0.5


def allowed_pairs(wrong, scores, mask, causal):
    length, k_len = scores.shape[-2:]
    allowed = None
    if mask is not None and "mask ignored" not in wrong:
        allowed = mask
        if "mask inverted" in wrong:
            allowed = mask.logical_not()
        if "mask transposed" in wrong:
            allowed = mask.transpose(-1, -2)
    if "causal unasked" in wrong or (causal and "causal ignored" not in wrong):
        ones = torch.ones(length, k_len, dtype=torch.bool)
        past = ones.tril()
        if "causal excludes own key" in wrong:
            past = ones.tril(-1)
        if "causal sees one ahead" in wrong:
            past = ones.tril(1)
        if "causal backwards" in wrong:
            past = ones.triu()
        if "causal at the wrong corner" in wrong:
            past = ones.tril(k_len - length)
        allowed = past if allowed is None else allowed & past
    return allowed


def masked_weights(wrong, scores, allowed):
    if allowed is None:
        return weigh(wrong, scores)
    if "mask added" in wrong:
        return weigh(wrong, scores + allowed.to(scores.dtype))
    if "mask makes zeros" in wrong:
        return weigh(wrong, scores * allowed)
    if "mask after softmax" in wrong:
        return weigh(wrong, scores) * allowed
    if "mask finite" in wrong:
        return weigh(wrong, scores.masked_fill(~allowed, -1e9))
    weights = weigh(wrong, scores.masked_fill(~allowed, -torch.inf))
    if "mask leaves NaN" in wrong:
        return weights
    return torch.where(torch.isnan(weights), 0.0, weights)


def weigh(wrong, scores):
    if "softmax over queries" in wrong:
        return torch.softmax(scores, -2)
    if "softmax over everything" in wrong:
        return torch.softmax(scores.flatten(-2), -1).unflatten(-1, scores.shape[-2:])
    if "softmax over heads" in wrong:
        return torch.softmax(scores, 1)
    if "softmax over batch" in wrong:
        return torch.softmax(scores, 0)
    if "softmax missing" in wrong:
        return scores.masked_fill(scores == -torch.inf, 0.0)
    if "softmax twice" in wrong:
        return torch.softmax(torch.softmax(scores, -1).nan_to_num(), -1)
    if "logarithm of softmax" in wrong:
        return torch.log_softmax(scores, -1)
    if "sigmoid" in wrong:
        return torch.sigmoid(scores)
    if "exponential without sum" in wrong:
        return torch.exp(scores)
    if "scores divided by their sum" in wrong:
        scores = scores.masked_fill(scores == -torch.inf, 0.0)
        return scores / scores.sum(-1, keepdim=True)
    if "powers of two" in wrong:
        powers = torch.exp2(scores - scores.amax(-1, keepdim=True))
        return powers / powers.sum(-1, keepdim=True)
    if "arg max" in wrong:
        one_hot = torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1])
        return one_hot * (scores.amax(-1, keepdim=True) > -torch.inf).to(scores.dtype)
    return torch.softmax(scores, -1)


def aggregate(wrong, weights, query, key, value):
    if "no aggregation" in wrong:
        return weights
    if "weights transposed" in wrong:
        return einsum("...ij,...id->...jd", weights, value)
    if "mean of values" in wrong:
        return value.mean(-2, keepdim=True).expand(*weights.shape[:-1], -1).clone()
    if "keys used as values" in wrong:
        value = key
    if "queries used as values" in wrong:
        value = query
    return einsum("...ij,...jd->...id", weights, value)


KNOWN = {
    "arg max",
    "batch attends batch",
    "causal at the wrong corner",
    "causal backwards",
    "causal excludes own key",
    "causal ignored",
    "causal sees one ahead",
    "causal unasked",
    "cosine score",
    "distance score",
    "elementwise product",
    "exponential without sum",
    "heads attend heads",
    "heads joined by view",
    "heads split by view",
    "keys compared with keys",
    "keys used as values",
    "logarithm of softmax",
    "mask added",
    "mask after softmax",
    "mask finite",
    "mask ignored",
    "mask inverted",
    "mask leaves NaN",
    "mask makes zeros",
    "mask transposed",
    "mean of values",
    "no aggregation",
    "powers of two",
    "queries compared with queries",
    "queries used as values",
    "query added",
    "query and key swapped",
    "scale after softmax",
    "scale by length",
    "scale by model width",
    "scale by value width",
    "scale inverse",
    "scale missing",
    "scale not rooted",
    "scale squared",
    "scores divided by their sum",
    "sigmoid",
    "softmax missing",
    "softmax over batch",
    "softmax over everything",
    "softmax over heads",
    "softmax over queries",
    "softmax twice",
    "values used as keys",
    "weights transposed",
}
