import numpy as np
import pytest
import torch

from attn_core.data.catalogues import Pair
from attn_core.models.translator import ATTENTION, Translator

PAIRS = [
    Pair("open file", "打 开 文 件", ""),
    Pair("close the file", "关 闭 文 件", ""),
    Pair("open", "打 开", ""),
]
WIDTHS = {"embedding_dim": 6, "hidden_dim": 8, "min_count": 1}


@pytest.mark.parametrize("kind", ATTENTION)
def test_it_translates_each_sentence_as_it_would_by_itself(kind):
    translator = Translator(PAIRS, kind, **WIDTHS)
    sources = [pair.source for pair in PAIRS]
    assert translator(sources, 5) == [translator([source], 5)[0] for source in sources]


@pytest.mark.parametrize("kind", ATTENTION)
def test_the_seed_decides_the_first_weights(kind):
    same, again, other = (
        Translator(PAIRS, kind, seed=seed, **WIDTHS).loss(
            Translator(PAIRS, kind, **WIDTHS).batch(PAIRS)
        )
        for seed in (1, 1, 2)
    )
    assert same == again != other


@pytest.mark.parametrize("kind", ["Bahdanau", "Luong", "Luong, scaled"])
def test_weights_have_a_row_for_every_token_written(kind):
    written, read, weights = Translator(PAIRS, kind, **WIDTHS).align("open file", "打 开")
    assert (written, read) == (["打", "开", "<eos>"], ["open", "file", "<eos>"])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)


def test_the_scaled_score_is_the_same_score_divided_by_the_root_of_the_keys_width():
    plain, scaled = (Translator(PAIRS, kind, **WIDTHS) for kind in ("Luong", "Luong, scaled"))
    query, key = torch.randn(2, 3, 8), torch.randn(2, 4, 16)
    torch.testing.assert_close(
        plain.model.decoder.score(query, key), 4 * scaled.model.decoder.score(query, key)
    )


def test_an_epoch_has_every_pair_once_and_another_order_than_the_next():
    translator = Translator(PAIRS, "Luong", **WIDTHS)
    epoch = translator.epochs(PAIRS * 20, 4)

    def rows(number):
        return [tuple(row[row != 0].tolist()) for batch in epoch(number) for row in batch[0]]

    assert sorted(rows(0)) == sorted(
        tuple(translator.sources.encode(p.source.split(), eos=True)) for p in PAIRS * 20
    )
    assert rows(0) == rows(0) != rows(1)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be one of"):
        Translator(PAIRS, "luong")
