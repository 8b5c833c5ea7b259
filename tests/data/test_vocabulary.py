import pytest
import torch

from attn_core.data.vocabulary import BOS, EOS, PAD, UNKNOWN, Vocabulary


def test_the_special_tokens_have_fixed_places():
    vocabulary = Vocabulary(["a"])
    assert [vocabulary.tokens[i] for i in (PAD, BOS, EOS, UNKNOWN)] == [
        "<pad>",
        "<bos>",
        "<eos>",
        "<unk>",
    ]
    assert len(vocabulary) == 5


@pytest.mark.parametrize("sentence", ["hello", ["open", "the", "file"], []])
def test_decode_undoes_encode(sentence):
    vocabulary = Vocabulary.of([sentence])
    ids = vocabulary.encode(sentence, bos=True, eos=True)
    assert ids[0] == BOS
    assert ids[-1] == EOS
    assert vocabulary.decode(ids) == list(sentence)


def test_decode_reads_tensors_and_stops_at_the_end():
    vocabulary = Vocabulary("ab")
    assert vocabulary.decode(torch.tensor([BOS, 4, PAD, 5, EOS, 4])) == ["a", "b"]


def test_unknown_tokens_are_marked():
    vocabulary = Vocabulary("ab")
    assert vocabulary.encode("abz") == [4, 5, UNKNOWN]
    assert "a" in vocabulary
    assert "z" not in vocabulary


def test_rare_tokens_are_left_out():
    corpus = [["b", "a"], ["b", "c"], ["b", "a"]]
    assert Vocabulary.of(corpus, min_count=2).tokens[4:] == ["a", "b"]
    assert Vocabulary.of(corpus, max_size=1).tokens[4:] == ["b"]
    assert Vocabulary.of(corpus).tokens[4:] == ["a", "b", "c"]


def test_pad_fills_up_at_the_end():
    ids, lengths = Vocabulary("ab").pad(["b", "ab", ""], bos=True, eos=True)
    assert ids.tolist() == [[BOS, 5, EOS, PAD], [BOS, 4, 5, EOS], [BOS, EOS, PAD, PAD]]
    assert lengths.tolist() == [3, 4, 2]
    assert ids.dtype == torch.int64


def test_an_empty_sentence_is_all_padding():
    ids, lengths = Vocabulary("ab").pad(["", "a"])
    assert ids.tolist() == [[PAD], [4]]
    assert ids.dtype == torch.int64
    assert lengths.tolist() == [0, 1]


def test_repeated_tokens_are_refused():
    with pytest.raises(ValueError, match=r"\['a'\]"):
        Vocabulary("aba")
    with pytest.raises(ValueError, match="<pad>"):
        Vocabulary(["<pad>"])


def test_padding_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one sentence"):
        Vocabulary("ab").pad([])
