import re

import pytest

from attn_core.data import packages, plays


def test_a_play_has_27_letters_and_no_space_at_its_ends_or_twice():
    for title in ("hamlet", "macbeth"):
        text = plays.letters(title)
        assert set(text) == set(plays.ALPHABET)
        assert "  " not in text
        assert text == text.strip()


def test_nothing_but_letters_is_lost():
    (path,) = packages.files(packages.SHAKESPEARE.name, r"shksprdata/texts/othello_gut\.txt$")
    raw = path.read_text("latin-1").lower()
    for letter in "aeqz":
        assert plays.letters("othello").count(letter) == raw.count(letter)
    assert plays.letters("othello").split() == re.findall("[a-z]+", raw)


def test_every_title_can_be_read():
    titles = plays.titles()
    assert len(titles) == 42
    assert {"hamlet", "sonnets", "twelfth_night"} <= set(titles)
    assert all(len(plays.letters(title)) > 1000 for title in titles)


def test_an_unknown_title_is_named():
    with pytest.raises(ValueError, match="got 'Hamlet'"):
        plays.letters("Hamlet")
