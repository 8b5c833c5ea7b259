import pytest

from attn_core.data.catalogues import Pair
from attn_core.data.translations import (
    Glossary,
    TranslationMemory,
    as_written,
    reference_streams,
    references,
)

TRAIN = [
    Pair("open file", "打 开 文 件", "a"),
    Pair("close file", "关 闭 文 件", "a"),
    Pair("open folder", "打 开 文 件 夹", "b"),
    Pair("close folder", "关 闭 文 件 夹", "b"),
    Pair("open", "打 开", "b"),
    Pair("close", "关 闭", "b"),
]


@pytest.mark.parametrize(
    ("tokens", "written"),
    [("打 开 文 件", "打开文件"), ("python 3 文 件", "python 3文件"), ("{} 个", "{}个")],
)
def test_only_latin_words_and_numbers_keep_their_spaces(tokens, written):
    assert as_written(tokens) == written


def test_every_source_has_all_its_translations_once_and_in_order():
    found = references([Pair("b", "1", ""), Pair("a", "2", ""), Pair("b", "3", "")])
    assert list(found.items()) == [("b", ["1", "3"]), ("a", ["2"])]
    assert reference_streams(list(found.values())) == [["1", "2"], ["3", None]]


def test_a_memory_gives_the_translation_of_the_most_similar_message():
    memory = TranslationMemory(TRAIN)
    assert memory("open the file") == "打 开 文 件"
    assert memory.similarity("open the file") == pytest.approx(2 / 3)
    assert memory.similarity("open file") == 1
    assert memory.similarity("unheard of") == 0


def test_a_glossary_takes_the_piece_that_comes_with_the_word_and_not_without():
    glossary = Glossary(TRAIN)
    assert glossary.best["open"] == (1.0, "打 开")
    assert glossary.best["folder"] == (1.0, "文 件 夹")
    assert glossary("close old folder") == "关 闭 文 件 夹"


def test_links_are_words_and_pieces_that_occur_once():
    glossary = Glossary(TRAIN)
    assert glossary.links(Pair("folder open", "打 开 文 件 夹", "")) == [(0, 2, 3), (1, 0, 2)]
    assert glossary.links(Pair("open open", "打 开", "")) == []
    assert glossary.links(Pair("open", "打 开 打 开", "")) == []
    assert glossary.links(Pair("file", "文 件", "")) == []  # 文件 is in folders too: 0.67
    assert len(glossary.links(Pair("file", "文 件", ""), at_least=0.6)) == 1
