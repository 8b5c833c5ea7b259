import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib import font_manager

from attn_core.data import catalogues, fonts, packages


@pytest.fixture(autouse=True)
def style():
    with matplotlib.rc_context():
        yield
    plt.close("all")


def test_the_font_is_the_packages_and_not_a_systems():
    family = fonts.use_chinese()
    used = Path(font_manager.findfont(family, fallback_to_default=False))
    assert used == fonts.chinese_path() == Path(fonts.chinese().get_file())
    assert used.is_relative_to(packages.data_folder())


def test_it_has_every_chinese_character_of_the_corpus():
    glyphs = font_manager.get_font(fonts.chinese_path()).get_charmap()
    corpus = {c for pair in catalogues.pairs("zh") for c in pair.target if catalogues.HAN.match(c)}
    assert len(corpus) > 1_000
    assert not {c for c in corpus if ord(c) not in glyphs}


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_a_figure_shows_chinese_beside_english_without_a_warning(weight, caplog):
    fonts.use_chinese()
    figure, axes = plt.subplots()
    axes.set_title("close document 关闭文档", fontweight=weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    assert not caplog.records


def test_calling_it_twice_adds_one_family():
    fonts.use_chinese()
    families = list(matplotlib.rcParams["font.family"])
    fonts.use_chinese()
    assert matplotlib.rcParams["font.family"] == families
