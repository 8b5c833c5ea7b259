import pytest

from attn_core.data import catalogues, packages
from attn_core.data.catalogues import Pair


@pytest.fixture(scope="module", params=["zh", "fr"])
def found(request):
    return catalogues.pairs(request.param)


@pytest.fixture(scope="module")
def parts(found):
    return catalogues.split(found)


def test_there_is_a_corpus_and_no_pair_stands_in_it_twice(found):
    assert len(found) > 10_000
    assert len({(pair.source, pair.target) for pair in found}) == len(found)


def test_both_sides_have_the_same_placeholders_and_no_markup(found):
    for pair in found:
        assert pair.source.count("{}") == pair.target.count("{}")
        assert not set("<>\n\\") & set(pair.source + pair.target), pair


def test_reading_the_files_gives_what_the_cache_gives(found, tmp_path, monkeypatch):
    language = "zh" if any("中" in pair.target for pair in found) else "fr"
    monkeypatch.setattr(packages, "cached", lambda name, code, make: make())
    assert catalogues.pairs(language) == found


def test_the_split_is_a_partition_and_the_same_every_time(found, parts):
    assert sorted(parts.train + parts.validation + parts.test) == sorted(found)
    assert catalogues.split(found) == parts
    assert catalogues.split(found, seed=1).test != parts.test
    assert len(parts.test) >= 600
    assert len(parts.validation) >= 600


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_no_sentence_and_no_near_duplicate_crosses_the_split(parts, side, held_out):
    def keys(part):
        return {catalogues.key(getattr(pair, side)) for pair in part}

    others = [part for name, part in parts._asdict().items() if name != held_out]
    assert not any(keys(part) & keys(getattr(parts, held_out)) for part in others)


def test_overlap_finds_a_leak_that_is_put_there():
    train = [Pair("delete the file", "删 除 文 件", "a")]
    assert catalogues.overlap(train, train)["source"] == 1
    near = catalogues.overlap(train, [Pair("delete files !", "删 除 所 有 文 件", "b")])
    assert (near["source"], near["near source"], near["near target"]) == (0, 1, 0)
    other = catalogues.overlap(train, [Pair("delete the folder", "删 除 文 件 夹", "b")])
    assert (other["near source"], other["one word"]) == (0, 1)


def test_pairs_that_share_a_source_or_a_target_are_one_group_through_chains():
    chain = [Pair("close", "关 闭", "a"), Pair("shut", "关 闭", "a"), Pair("shut", "关 掉", "b")]
    alone = Pair("open", "打 开", "a")
    assert sorted(map(len, catalogues.groups([*chain, alone]))) == [1, 3]


@pytest.mark.parametrize(
    ("message", "translation", "language", "cleaned"),
    [
        ("&Save As…", "另存为(&A)…", "zh", ("save as", "另 存 为")),
        (
            "%(n)s files in “{name}”",
            "“{name}”中的 %(n)s 个文件",
            "zh",
            ("{} files in {}", "{} 中 的 {} 个 文 件"),
        ),
        (
            "Don't delete",
            "Ne supprimez pas l’image",
            "fr",
            ("don't delete", "ne supprimez pas l' image"),
        ),
        ("Save %s", "保存", "zh", None),
        ("<b>Save</b>", "<b>保存</b>", "zh", None),
        ("JupyterLab", "JupyterLab", "zh", None),
        ("Python editor", "Python editor", "fr", None),
        ("...", "…", "fr", None),
        ("word " * 17, "mot", "fr", None),
    ],
)
def test_cleaning(message, translation, language, cleaned):
    assert catalogues._clean(message, translation, language) == cleaned


def test_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="language must be one of"):
        catalogues.pairs("xx")
