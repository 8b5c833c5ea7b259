"""An argument under another library's name is refused with its name here."""

import inspect

import pytest
import torch
from refusals import assert_refuses
from test_bad_input_everywhere import CALLS

from attn_core import attention, kernels
from attn_core.models import gpt
from attn_core.modules import MultiHeadAttention
from attn_core.other_names import _OTHERWISE, _SAME
from attn_core.positions import rotary

X = torch.ones(2, 3, 4)
IDS = torch.ones(1, 3, dtype=torch.long)
layer = MultiHeadAttention(4, 2)
FOREIGN = {
    "attn_mask": (lambda: attention(X, X, X, attn_mask=None), ["attn_mask is called mask here"]),
    "is_causal": (lambda: attention(X, X, X, is_causal=True), ["mask=masks.causal()"]),
    "which is_causal": (lambda: kernels.which(X, X, X, is_causal=True), ["mask=masks.causal()"]),
    "attention_mask of a tokenizer": (
        lambda: gpt.GPT(9, 4, 2, 1, max_len=4)(IDS, attention_mask=IDS),
        ["attention_mask is called is_token here"],
    ),
    "dropout": (lambda: attention(X, X, X, dropout=0.1), [" is called dropout_p here"]),
    "key_padding_mask": (
        lambda: layer(X, key_padding_mask=X),
        ["mask=masks.padding(lengths)", "True means: may attend"],
    ),
    "need_weights": (lambda: layer(X, need_weights=True), [" is called return_weights here"]),
    "embed_dim": (lambda: MultiHeadAttention(embed_dim=4, heads=2), [" is called dim here"]),
    "num_heads": (lambda: MultiHeadAttention(4, num_heads=2), [" is called heads here"]),
    "batch_first": (
        lambda: MultiHeadAttention(4, 2, batch_first=True),
        ["the batch always"],
    ),
    "dropout_p": (lambda: MultiHeadAttention(4, 2, dropout_p=0.1), [" is called dropout here"]),
    "two names at once": (
        lambda: MultiHeadAttention(embed_dim=4, num_heads=2),
        ["embed_dim is called dim here", "num_heads is called heads here"],
    ),
    "rope_theta": (lambda: rotary(X, rope_theta=1e6), [" is called base here"]),
}


@pytest.mark.parametrize(("call", "says"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_name_of_the_field_is_translated(call, says):
    assert_refuses(call, TypeError, ["unexpected keyword argument", *says])


# Of the kinds of calls that other libraries have too.
PARTS = ("attend.", "kernels.", "modules.", "models.", "positions.")
PARAMETERS = {
    (name, parameter)
    for name, thing in CALLS.items()
    if name.removeprefix("attn_core.").startswith(PARTS)
    for parameter in inspect.signature(thing).parameters
    if parameter in _SAME
}


def test_every_call_knows_the_other_names_of_its_arguments():
    for name, parameter in sorted(PARAMETERS):
        own = inspect.signature(CALLS[name]).parameters
        for other in set(_SAME[parameter].split()) - set(own):
            with pytest.raises(TypeError) as caught:
                CALLS[name](**{other: 1})
            assert f"{other} is called" in str(caught.value), (name, other)


def test_only_names_of_ours_are_given():
    ours = {
        parameter
        for thing in CALLS.values()
        for call in (thing, getattr(thing, "forward", thing))
        for parameter in inspect.signature(call).parameters
    }
    assert {*_SAME, *_OTHERWISE} <= ours


def test_an_error_from_inside_of_a_call_stays_as_it_is():
    def score(query, key, **others):
        return attention(query, key, key, attn_mask=None, **others)

    def wrong(query, key):
        return score(query, key, num_heads=1) if query is None else len(query, attn_mask=1)

    with pytest.raises(TypeError) as caught:
        attention(X, X, X, score=wrong)
    assert " is called " not in str(caught.value)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'masks'$"):
        attention(X, X, X, masks=None)
