"""The tokenizer in plain Python cuts every text as the library tokenizers does."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attn_core.data import pretrained
from attn_core.reference import word_pieces

TOKENIZER = pretrained.minilm_tokenizer()
VOCABULARY = TOKENIZER.get_vocab()
TEXTS = [
    "",
    " \t\n\r\u00a0\u3000",
    "The bank was flooded.",
    "Unbelievably, TOKENIZATION isn't trivial!!",
    "naïve café, Ångström, İstanbul, ΟΔΟΣ, ß, ŒUVRE",
    "注意力 is all you need，请注意",
    "東京タワー 한국어 ไทย हिन्दी العربية עברית",
    "a\u200db \u200e c\x00d\ufffde\x7ff",
    "👩‍💻 and 👍🏽 and 🥺",
    "x" * 100 + " " + "x" * 101,
    "[CLS] typed [SEP] by [MASK] hand [mask] [UNK][PAD]",
    "$1,000.50 + 2^10 = <tag> `code` ~tilde| ©® ½ ²",
    "a\u0301\u0302 e\u0301 \u1e69\u0323",
    "\ufb01 \uff26\uff35\uff2c\uff2c \u2460",
]
# Letters, marks and signs of many scripts, ideographs, emoji; weighted towards the vocabulary's.
SIGNS = st.one_of(
    st.characters(max_codepoint=0x7F),
    st.characters(max_codepoint=0x5FF, exclude_categories=["Cs"]),
    st.sampled_from(
        "的注意力東京ひらがなカタカナ한국어ไทยहिन्दी，。！？ﬁⅣ½👩💻👍🏽\u200d\u2028\u3000"
    ),
)
TEXT = st.one_of(
    st.text(SIGNS, max_size=40),
    st.lists(st.sampled_from(sorted(VOCABULARY)), max_size=8).map(" ".join),
    st.lists(st.sampled_from(sorted(VOCABULARY)), max_size=5).map("".join),
)


def assert_cut_alike(text):
    assert word_pieces(text, VOCABULARY) == TOKENIZER.encode(text).tokens


@pytest.mark.parametrize("text", TEXTS)
def test_chosen_texts(text):
    assert_cut_alike(text)


@settings(max_examples=1000, deadline=None)
@given(TEXT)
def test_drawn_texts(text):
    assert_cut_alike(text)


def test_every_sign_but_some_that_are_newer_than_the_library_knows():
    """Its tables are of Unicode 8: to it later marks of rare scripts are letters."""
    signs = [chr(number) for number in range(0x20000) if not 0xD800 <= number < 0xE000]
    signs = [sign for sign in signs if unicodedata.category(sign) not in ("Cn", "Co", "Lo")]
    texts = [f"a{sign}b" for sign in signs]
    expected = TOKENIZER.encode_batch(texts)
    differ = [
        sign
        for sign, text, theirs in zip(signs, texts, expected, strict=True)
        if word_pieces(text, VOCABULARY) != theirs.tokens
    ]
    assert len(differ) < 0.05 * len(signs)
    assert min(differ, default="\u061d") >= "\u061d"
    assert {unicodedata.category(sign)[0] for sign in differ} <= set("MPCS")


def test_the_pieces_make_up_the_word():
    pieces = word_pieces("unbelievably", VOCABULARY)[1:-1]
    assert len(pieces) > 1
    assert "".join(piece.removeprefix("##") for piece in pieces) == "unbelievably"


def test_a_text_that_is_no_string():
    with pytest.raises(TypeError, match="text must be a string, got bytes"):
        word_pieces(b"text", VOCABULARY)
