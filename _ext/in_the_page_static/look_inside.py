"""What the panel of the chapter on a real model asks of Python: its tokens, weights, likeness."""

from functools import lru_cache

from attn_core import reference

MOST_TOKENS = 40  # a wider heat map cannot be read on a phone


@lru_cache(maxsize=8)
def _read(text: str) -> tuple:
    parameters, numbers = reference.minilm()
    tokens = reference.word_pieces(text, numbers)
    if len(tokens) > MOST_TOKENS:
        return tokens, None, None
    ids = [numbers[token] for token in tokens]
    states, weights = reference.bert(ids, parameters, heads=12)
    return tokens, weights, reference.sentence_vector(states)


def look(text: str, other: str) -> dict:
    """Tokens and weights (layers, heads, n, n) of a text; its similarity to another, if any."""
    tokens, weights, vector = _read(text)
    count, likeness = len(tokens), None
    if other.strip():
        others, _, beside = _read(other)
        count = max(count, len(others))
        if vector is not None and beside is not None:
            likeness = round(float(vector @ beside), 4)
    if count > MOST_TOKENS:
        return {"problem": f"{count} tokens are too many: the panel takes at most {MOST_TOKENS}."}
    return {"tokens": tokens, "weights": weights.round(4).tolist(), "similarity": likeness}
