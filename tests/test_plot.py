"""Figures: what they show is what they were given, and what cannot be shown is refused."""

import re
import subprocess
import sys
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.patches import FancyArrowPatch

from attn_core import masks, plot

matplotlib.use("Agg")
WEIGHTS = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
QUERIES = ["it", "ran"]
KEYS = ["the", "dog", "ran"]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def luminance(color):
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_package_does_not_import_matplotlib():
    code = "import attn_core, sys; before = set(sys.modules); attn_core.plot; "
    code += "print('matplotlib' in before, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", plot.COLORS)
def test_every_colour_can_be_read_as_text_on_white(name):
    assert 1.05 / (luminance(plot.COLORS[name]) + 0.05) >= 4.5


# Machado, Oliveira and Fernandes (2009), severity 1.
COLOUR_BLIND = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


@pytest.mark.parametrize("eyes", COLOUR_BLIND)
@pytest.mark.parametrize(
    "pair", [*combinations(["query", "key", "value", "weights"], 2), ("good", "bad")], ids="-".join
)
def test_colours_stay_apart_for_the_colour_blind(eyes, pair):
    first, second = (np.array(COLOUR_BLIND[eyes]) @ to_rgb(plot.COLORS[name]) for name in pair)
    assert np.linalg.norm(first - second) > 0.2


def test_weight_zero_is_white_and_more_weight_is_darker():
    shades = [luminance(color) for color in plot.WEIGHTS_MAP(np.linspace(0, 1, 32))[:, :3]]
    assert to_hex(plot.WEIGHTS_MAP(0.0)) == "#ffffff"
    assert (np.diff(shades) < 0).all()


def test_signed_zero_is_white_and_signs_differ():
    assert luminance(plot.SIGNED_MAP(0.5)[:3]) > 0.98
    assert to_hex(plot.SIGNED_MAP(0.0)) != to_hex(plot.SIGNED_MAP(1.0))


@pytest.mark.parametrize("kind", ["numpy", "list", "torch", "bfloat16", "gradient"])
def test_weights_show_queries_as_rows_and_keys_as_columns(kind):
    table = {
        "numpy": lambda: WEIGHTS,
        "list": lambda: WEIGHTS.tolist(),
        "torch": lambda: torch.tensor(WEIGHTS),
        "bfloat16": lambda: torch.tensor(WEIGHTS, dtype=torch.bfloat16),
        "gradient": lambda: torch.tensor(WEIGHTS, requires_grad=True),
    }[kind]()
    ax = plot.weights(table, QUERIES, KEYS, title="It is the dog")
    assert [tick.get_text() for tick in ax.get_yticklabels()] == QUERIES
    assert [tick.get_text() for tick in ax.get_xticklabels()] == KEYS
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("query", "key")
    assert texts(ax) == ["0.90", "0.10", "0.00", "0.20", "0.30", "0.50"]
    np.testing.assert_allclose(ax.images[0].get_array(), WEIGHTS, atol=4e-3)
    assert ax.get_title(loc="left") == "It is the dog"


def test_weights_of_two_figures_have_the_same_scale():
    for table in (WEIGHTS, WEIGHTS / 10):
        assert plot.weights(table, title="Scale").images[0].get_clim() == (0.0, 1.0)


def test_numbers_appear_when_cells_are_few_or_when_asked_for():
    large = np.full((9, 9), 1 / 9)
    assert texts(plot.weights(large, title="Many")) == []
    assert len(texts(plot.weights(large, title="Many", values=True))) == 81
    assert texts(plot.weights(WEIGHTS, title="Few", values=False)) == []


def test_weights_draw_on_the_axes_they_are_given():
    _, ax = plt.subplots()
    assert plot.weights(WEIGHTS, title="Here", ax=ax) is ax


def test_nan_and_masked_scores_are_written_out():
    ax = plot.scores([[np.nan, -np.inf, -1.5, -0.001]], title="Broken")
    assert texts(ax) == ["NaN", "−∞", "−1.50", "0.00"]
    assert ax.images[0].get_clim() == (-1.5, 1.5)
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == 2


def test_all_scores_masked_can_be_drawn():
    assert plot.scores([[-np.inf]], title="Nothing").images[0].get_clim() == (-1.0, 1.0)


def test_one_panel_for_each_head_with_one_scale():
    panels = plot.heads(np.stack([WEIGHTS] * 5), QUERIES, KEYS, title="Five heads")
    assert [panel.get_title(loc="left") for panel in panels] == [f"head {i}" for i in range(5)]
    assert {panel.images[0].get_clim() for panel in panels} == {(0.0, 1.0)}


def test_encoding_shows_positions_downwards():
    table = np.arange(12.0).reshape(4, 3)
    ax = plot.encoding(table, title="Counting")
    np.testing.assert_array_equal(ax.images[0].get_array(), table)
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("position", "dimension")
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


@pytest.mark.parametrize(
    ("drawn", "lengths"),
    [
        (np.tri(4, dtype=bool), {}),
        (torch.tril(torch.ones(4, 4, dtype=torch.bool)), {"q_len": 4, "k_len": 4}),
        (masks.causal(), {"q_len": 4, "k_len": 4}),
    ],
)
def test_mask_crosses_out_what_is_forbidden(drawn, lengths):
    ax = plot.mask(drawn, **lengths, title="No future")
    crossed = set(zip(*(axis.astype(int) for axis in ax.lines[0].get_data()), strict=True))
    assert crossed == {(key, query) for query in range(4) for key in range(query + 1, 4)}


def test_mask_with_an_offset_is_that_of_the_last_queries():
    ax = plot.mask(masks.causal(), 2, 4, q_offset=2, title="The last two")
    assert list(zip(*ax.lines[0].get_data(), strict=True)) == [(3, 0)]


def test_mask_of_one_sequence_shows_its_padding():
    ax = plot.mask(masks.padding(torch.tensor([2])), 2, 3, title="One key is padding")
    assert list(zip(*ax.lines[0].get_data(), strict=True)) == [(2, 0), (2, 1)]


def test_flow_chart_draws_boxes_arrows_and_words():
    boxes = {
        "scores": plot.Box("scores", (0, 0)),
        "softmax": plot.Box("softmax", (0, 1), "weights", filled=True),
    }
    ax = plot.flow_chart(boxes, [("scores", "softmax", "(L, S)")], title="Normalise")
    assert texts(ax) == ["scores", "softmax", "(L, S)"]
    assert len(ax.patches) == 3


@pytest.mark.parametrize(
    ("start", "end", "straight"),
    [((0, 0), (0.4, 1), "x"), ((0, 0), (1, 0.2), "y"), ((0, 0), (2, 2), "")],
)
def test_arrow_is_straight_where_boxes_face_each_other(start, end, straight):
    ax = plot.flow_chart(
        {"a": plot.Box("a", start), "b": plot.Box("b", end)}, [("a", "b")], title="Arrow"
    )
    arrow = next(patch for patch in ax.patches if isinstance(patch, FancyArrowPatch))
    tail, tip = arrow.get_path().vertices[[0, 2]]
    same = np.isclose(tail, tip)
    assert "".join(axis for axis, equal in zip("xy", same, strict=True) if equal) == straight


@pytest.mark.parametrize(
    "draw",
    [
        lambda tokens: plot.weights(np.eye(3), tokens, tokens, title="Dollars"),
        lambda tokens: plot.scores(np.eye(3), tokens, tokens, title="Dollars"),
        lambda tokens: plot.mask(
            masks.causal(), 3, 3, queries=tokens, keys=tokens, title="Dollars"
        ),
        lambda tokens: plot.heads(np.eye(3)[None], tokens, tokens, title="Dollars").flat[0],
    ],
)
def test_a_dollar_in_a_token_is_a_dollar(draw):
    """Matplotlib would set "$x$" as mathematics, and raise at "$\\frac$"."""
    tokens = ["$x$", "$\\frac$", "US$5 or $6"]
    ax = draw(tokens)
    ax.figure.canvas.draw()
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == tokens
        assert not any(label.get_parse_math() for label in labels)


def test_tokens_in_another_script_use_the_font_they_are_given():
    path = findfont(FontProperties(family="DejaVu Serif"))
    ax = plot.weights([[1.0]], ["да"], ["да"], title="да", font=path)
    assert ax.get_xticklabels()[0].get_fontproperties().get_file() == path
    assert ax.title.get_text() == ""
    assert ax.get_title(loc="left") == "да"


def test_long_title_breaks_instead_of_widening_the_figure():
    plot.use_book_style()
    title = "A whole sentence that says what is to be seen in this small figure and why"
    ax = plot.weights(WEIGHTS, title=title)
    shown = ax.get_title(loc="left")
    assert shown.replace("\n", " ") == title
    ax.figure.canvas.draw()
    assert ax.figure.get_tightbbox().width <= 1.02 * ax.figure.get_size_inches()[0]


def test_same_figure_is_drawn_twice_the_same(tmp_path):
    plot.use_book_style()
    for name in ("a.png", "b.png"):
        plot.weights(WEIGHTS, QUERIES, KEYS, title="Twice").figure.savefig(tmp_path / name)
        plt.close("all")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot.weights(np.zeros((2, 2, 3)), title=""), ValueError, r"weights.*\(2, 2, 3\)"),
        (lambda: plot.weights(np.zeros((0, 3)), title=""), ValueError, r"weights.*\(0, 3\)"),
        (lambda: plot.weights([["a"]], title=""), TypeError, "weights must hold numbers"),
        (lambda: plot.weights(None, title=""), TypeError, "weights must hold numbers"),
        (lambda: plot.weights(WEIGHTS, KEYS, KEYS, title=""), ValueError, "queries has 3 tokens"),
        (lambda: plot.weights(WEIGHTS, QUERIES, ["a"], title=""), ValueError, "keys has 1 tokens"),
        (lambda: plot.weights(WEIGHTS, "it", KEYS, title=""), TypeError, "queries must be a seq"),
        (lambda: plot.weights(WEIGHTS, title="", values="all"), ValueError, "values must be"),
        (lambda: plot.scores(np.zeros(3), title=""), ValueError, r"scores.*\(3,\)"),
        (lambda: plot.heads(WEIGHTS, title=""), ValueError, r"\(heads, queries, keys\)"),
        (lambda: plot.heads(WEIGHTS[None], title="", names=[]), ValueError, "names has 0 tokens"),
        (lambda: plot.encoding(np.zeros((1, 4, 4)), title=""), ValueError, "table must be one"),
        (lambda: plot.mask(masks.causal(), title=""), ValueError, "q_len and k_len must be given"),
        (lambda: plot.mask(WEIGHTS, title=""), TypeError, "mask must be bool"),
        (lambda: plot.mask(np.ones((2, 3, 3), bool), title=""), ValueError, "one batch entry"),
        (lambda: plot.mask(np.ones((3, 3), bool), 2, 3, title=""), ValueError, "q_len=2"),
        (lambda: plot.flow_chart({}, [], title=""), ValueError, "at least one box"),
        (
            lambda: plot.flow_chart({"a": plot.Box("a", (0, 0))}, [("a", "b")], title=""),
            ValueError,
            "the box 'b'",
        ),
        (
            lambda: plot.flow_chart({"a": plot.Box("a", (0, 0), "pink")}, [], title=""),
            ValueError,
            "color of box 'a'",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_mask_draws_itself_in_the_colour_of_weights():
    assert plot.COLORS["weights"] in masks.causal()._repr_html_()


@pytest.mark.parametrize(
    ("queries", "keys", "width", "message"),
    [
        (np.ones(4), np.ones((3, 4)), 4, r"queries must be one matrix.*\(4,\)"),
        (np.ones((2, 4)), np.ones((3, 5)), 4, r"one width, got the shapes \(2, 4\), \(3, 5\)"),
        (np.ones((2, 4)), np.full((3, 4), np.nan), 4, "must be finite"),
        (np.ones((2, 4)), np.ones((3, 4)), 3, r"width must be one of \[1, 2, 4\], got 3"),
        (np.ones((2, 4)), np.ones((3, 4)), 8, r"width must be one of \[1, 2, 4\], got 8"),
        (np.ones((99, 4)), np.ones((99, 4)), 4, "29,403 scores; the page carries at most 10,000"),
    ],
)
def test_live_scale_names_bad_input(queries, keys, width, message):
    with pytest.raises(ValueError, match=message):
        plot.live_scale(queries, keys, width=width)


def test_live_scale_refuses_words():
    with pytest.raises(TypeError, match="keys must hold numbers"):
        plot.live_scale(np.ones((1, 1)), [["a"]], width=1)


def test_still_live_scale_saturates_only_without_the_scale():
    queries, keys = np.random.default_rng(0).normal(size=(2, 16, 256))
    html = plot.live_scale(queries, keys, width=256).html
    spreads = [float(x) for x in re.search(r'data-spreads="\[(.*?)\]"', html)[1].split(",")]
    np.testing.assert_allclose(spreads, [16, 1], rtol=0.15)
