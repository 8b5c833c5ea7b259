"""Every range that the package checks is checked at its ends, each end by itself.

The ends stand in ``limits.py`` and ``limits_of_twins.py``. That none is missing is found out by
machine: every comparison of a guard, an ``if`` that raises, has its limit moved by one, and a row
must notice. A new guard needs a row.
"""

import ast
import gc
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import limits
import limits_of_twins
import pytest
from limits import Row
from planting import parts_of

import attn_core

# A limit that is moved lets through what divides by zero.
pytestmark = pytest.mark.filterwarnings("ignore")
PACKAGE = Path(attn_core.__file__).parent
TABLES = limits.TABLES | limits_of_twins.TABLES
ROWS = [row for rows in TABLES.values() for row in rows]
MOVED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}

# Where no row can notice: file, comparison, and why.
WITHOUT_ROW = {
    (
        "hugging_face.py",
        "attention_mask.shape[-1] < k_len",
    ): "in test_hugging_face: the import of transformers takes seconds",
    (
        "diagnosis/calling.py",
        "time.process_time() - begin > self.left",
    ): "two times that are measured are never equal",
    (
        "diagnosis/calling.py",
        "time.monotonic() - wall > self.wall_left",
    ): "two times that are measured are never equal",
}


class Spot(NamedTuple):
    """One ordering comparison in the test of a guard; in a chain, which of its signs."""

    file: str
    number: int
    comparison: str
    sign: int


def guards(tree):
    """The ordering comparisons, with the number of their sign, in the order of the file."""
    comparisons = [
        part
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and any(isinstance(part, ast.Raise) for part in node.body)
        for part in ast.walk(node.test)
        if isinstance(part, ast.Compare)
    ]
    for comparison in sorted(comparisons, key=lambda part: (part.lineno, part.col_offset)):
        for sign, operator in enumerate(comparison.ops):
            if type(operator) in MOVED:
                yield comparison, sign


def spots_of(source, file):
    return [
        Spot(file, number, ast.unparse(comparison), sign)
        for number, (comparison, sign) in enumerate(guards(ast.parse(source)))
    ]


def with_limit_moved(source, number):
    """The module with one sign changed, on the same lines."""
    tree = ast.parse(source)
    comparison, sign = list(guards(tree))[number]
    comparison.ops[sign] = MOVED[type(comparison.ops[sign])]()
    return tree


SPOTS = [
    spot
    for path in sorted(PACKAGE.rglob("*.py"))
    for spot in spots_of(path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix())
]
SEEN_BY_A_ROW = [spot for spot in SPOTS if (spot.file, spot.comparison) not in WITHOUT_ROW]


def name_of(spot):
    return f"{spot.file} {spot.comparison} {spot.sign}"


@pytest.mark.parametrize("table", TABLES)
def test_the_last_value_is_accepted_and_the_first_beyond_refused(table):
    wrong = [row.says for row in TABLES[table] if not row.is_right()]
    assert not wrong


class Functions(NamedTuple):
    """The functions of the package that live, by file, and the rows that run through each."""

    of_file: dict[str, list[FunctionType]]
    rows: dict[CodeType, list[Row]]


@pytest.fixture(scope="module")
def functions():
    of_file, rows = defaultdict(list), defaultdict(list)
    for row in ROWS:
        for code in codes_run_by(row.is_right):
            rows[code].append(row)
    for thing in gc.get_objects():
        if type(thing) is FunctionType:
            of_file[thing.__code__.co_filename].append(thing)
    return Functions(of_file, rows)


def codes_run_by(call):
    codes = set()

    def of_call(frame, event, argument):
        codes.add(frame.f_code)

    before = sys.gettrace()
    sys.settrace(of_call)
    try:
        call()
    finally:
        sys.settrace(before)
    return codes


@contextmanager
def limit_moved(functions, path, number):
    """Run with the limit moved; gives the code that was there before."""
    source = path.read_text("utf-8")
    own = compile(source, str(path), "exec")
    moved = compile(with_limit_moved(source, number), str(path), "exec")
    pairs = zip(parts_of(own), parts_of(moved), strict=True)
    other = {before: after for before, after in pairs if before != after}
    changed = [
        (function, function.__code__)
        for function in functions.of_file[str(path)]
        if function.__code__ in other
    ]
    for function, code in changed:
        function.__code__ = other[code]
    try:
        yield {code for _, code in changed}
    finally:
        for function, code in changed:
            function.__code__ = code


@pytest.mark.parametrize("spot", SEEN_BY_A_ROW, ids=name_of)
def test_a_limit_that_is_moved_by_one_is_noticed(spot, functions):
    with limit_moved(functions, PACKAGE / spot.file, spot.number) as changed:
        rows = [row for code in changed for row in functions.rows[code]]
        assert any(not row.is_right() for row in rows), (
            f"moving the limit in attn_core/{spot.file}, {spot.comparison!r}, is seen by none of "
            f"{len(rows)} rows: add its ends to tests/limits.py"
        )


def test_what_has_no_row_is_there():
    known = {(spot.file, spot.comparison) for spot in SPOTS}
    assert set(WITHOUT_ROW) <= known


def test_every_sign_of_a_guard_is_a_spot():
    source = "if not 0 <= x < 1 or y > 2 or z == 3:\n    raise ValueError\nif x < 0:\n    pass\n"
    assert [(spot.comparison, spot.sign) for spot in spots_of(source, "")] == [
        ("0 <= x < 1", 0),
        ("0 <= x < 1", 1),
        ("y > 2", 0),
    ]
    assert ast.unparse(with_limit_moved(source, 1)).startswith("if not 0 <= x <= 1 or y > 2")
