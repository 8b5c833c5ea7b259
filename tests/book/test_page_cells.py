"""Which cells run in the page, and which ones a cell needs, is read from the code."""

import sys

import pytest
from execute_notebooks import ROOT

sys.path.insert(0, str(ROOT / "_ext"))
import in_the_page
from page_cells import missing, needed, preamble, verdicts

IMPORTS = "import numpy as np\nimport torch\nfrom torch import nn\ntorch.manual_seed(0)"


def runs(*cells: str) -> list[bool]:
    return [why is None for why in verdicts(list(cells))]


def test_a_first_cell_may_import_and_seed_pytorch():
    assert runs(IMPORTS, "x = np.ones(3)", "x + 1") == [True, True, True]


@pytest.mark.parametrize(
    "cell",
    [
        "torch.ones(3)",
        "layer = nn.Linear(2, 3)",
        "def f(x):\n    return torch.softmax(x, 0)",
        "f = lambda x: nn.Linear(x)",
        "class A(nn.Module):\n    pass",
        "import keras",
        "[torch.ones(i) for i in range(3)]",
        "from attn_core import attention\nattention(1, 2, 3)",
        "import attn_core\nattn_core.attention(1, 2, 3)",
        "import attn_core.kernels as k\nk.linear_attention()",
        "weights = scores.softmax(-1)",
        "print(nowhere)",
    ],
)
def test_a_cell_that_uses_what_the_page_lacks_does_not_run(cell: str):
    cells = [IMPORTS, "scores = 1", cell]
    expected = [True, True, cell == "import keras"]  # importing alone does no harm
    assert runs(*cells) == expected


def test_the_reason_says_what_is_needed_and_whether_here_or_above():
    found = verdicts([IMPORTS, "x = torch.ones(3)", "y = x + 1", "z = y", "x = 1", "print(x)"])
    assert found[1] == "This cell needs PyTorch."
    assert found[2] == found[3] == "This cell builds on one that needs PyTorch."
    assert found[4:] == [None, None]


def test_what_a_torch_cell_changes_is_lost():
    assert runs("log = []", "import torch\nlog.append(torch.ones(1))", "print(log)")[2] is False
    assert runs("x = [1]", "import torch\nx[0] = torch.ones(1)", "print(x)")[2] is False


def test_a_torch_cell_that_draws_spoils_the_random_numbers_below():
    cells = ["import torch, numpy as np\nrng = np.random.default_rng(0)", "rng.normal()"]
    assert runs(*cells) == [True, True]
    cells.insert(1, "torch.tensor(rng.normal())")
    assert runs(*cells) == [True, False, False]


def test_the_words_of_a_function_are_its_own():
    assert runs("import torch", "def f(torch, n=2):\n    return torch.shape * n", "f(1)")[1:] == [
        True,
        True,
    ]


def test_a_cell_needs_those_that_bind_what_it_reads():
    cells = ["import numpy as np", "a = 1", "b = 2", "c = a + 1", "print(c)"]
    assert needed(cells, 4) == [0, 1, 3]
    assert needed(cells, 2) == [0]
    assert needed(cells, 0) == []


def test_the_latest_binding_counts():
    assert needed(["import math", "a = 1", "a = 2", "a"], 3) == [0, 2]
    assert needed(["import math", "a = 1", "a = a + 1", "a"], 3) == [0, 1, 2]
    assert needed(["import math", "a = 1", "if a:\n    a = 2", "a"], 3) == [0, 1, 2]
    assert needed(["import math", "a = [1]", "a[0] = 2", "b = 1", "a"], 4) == [0, 1, 2]


def test_a_function_brings_what_it_reads_when_it_is_called():
    cells = [
        "import math",
        "k = 1",
        "def f():\n    return g() + k",
        "def g():\n    return 2",
        "f()",
    ]
    assert needed(cells, 4) == [0, 1, 2, 3]


def test_random_numbers_come_in_the_order_of_the_page():
    cells = [
        "import numpy as np",
        "rng = np.random.default_rng(0)",
        "a = rng.normal()",
        "def draw():\n    return rng.normal()",
        "b = draw()",
        "c = 1",
        "rng.normal()",
    ]
    assert needed(cells, 6) == [0, 1, 2, 3, 4]


def test_random_numbers_may_be_drawn_by_a_function_in_a_dictionary():
    cells = [
        "import numpy as np\nrng = np.random.default_rng(0)",
        "def draw(n):\n    return rng.normal(size=n)",
        "ways = {'one': draw, 'two': lambda: draw(2)}",
        "print(ways['one'](1))",
        "print(ways['two']())",
    ]
    assert needed(cells, 4) == [0, 1, 2, 3]


def test_a_setting_reaches_every_cell_below():
    assert needed(["import numpy as np", "np.set_printoptions(precision=2)", "1 / 3"], 2) == [0, 1]


def test_a_cell_that_python_cannot_read_is_run_so_that_its_error_is_seen():
    assert needed(["import math", "a = (", "print(1)"], 2) == [0, 1]


def test_of_a_torch_cell_the_page_takes_imports_and_settings():
    cell = "import torch\nimport attn_core\nplot.use_book_style()\nx = torch.ones(1)\nprint(x)"
    assert preamble(cell) == "import torch\nimport attn_core\nplot.use_book_style()"
    assert needed(["", preamble(cell), "attn_core.diagnose"], 2) == [1]


def test_the_half_of_the_package_that_needs_no_pytorch_is_found():
    present, absent = in_the_page.halves()
    assert {"attn_core", "attn_core.reference", "attn_core.plot", "attn_core.diagnosis"} <= set(
        present
    )
    assert absent["attn_core.attend"] == absent["attn_core.attention"] == "PyTorch"
    assert "attn_core.diagnose" not in absent
    assert not set(present) & set(absent)
    assert missing("attn_core.data.fonts") == "the book's data packages"
