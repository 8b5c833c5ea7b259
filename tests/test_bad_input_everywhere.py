"""Every public call is seen to refuse bad input, somewhere in the tests.

The tests of bad input are run once more, and it is watched through which public functions, and
through the methods of which public classes, a TypeError or a ValueError comes.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path

import pytest
from planting import run_all_cases

import attn_core

# The tests that are run again warn where they run themselves.
pytestmark = pytest.mark.filterwarnings("ignore")
PACKAGE = Path(attn_core.__file__).parent
TESTS = Path(__file__).parent
REFUSALS = (TypeError, ValueError, ImportError, SyntaxError)


def public_calls():
    """What the package gives away and what takes arguments: functions and classes, by name."""
    found = {}
    for info in pkgutil.walk_packages([str(PACKAGE)], "attn_core."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", own_names(module)):
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and can_be_called_wrongly(
                thing
            ):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def own_names(module):
    """Models list no names: all that are defined there and say what their arguments are."""
    if not module.__name__.startswith("attn_core.models."):
        return []
    return [
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__
        and "Args:" in (thing.__doc__ or "")
    ]


def can_be_called_wrongly(thing):
    """Whether it says so: it takes something, and its docstring has a section ``Raises``."""
    if inspect.isclass(thing) and (issubclass(thing, tuple | Exception) or is_dataclass(thing)):
        return False
    if inspect.isfunction(thing) and not inspect.signature(thing).parameters:
        return False
    return "\nRaises:" in (inspect.getdoc(thing) or "")


CALLS = public_calls()


def codes_of(thing):
    """The code of a function, or of the methods that a class defines itself."""
    functions = vars(thing).values() if inspect.isclass(thing) else [thing]
    for function in functions:
        function = getattr(function, "__func__", getattr(function, "fget", function))
        if inspect.isfunction(function):
            yield inspect.unwrap(function).__code__


@contextmanager
def watched(codes, seen):
    """Add to ``seen`` every one of ``codes`` that one of the ``REFUSALS`` leaves or passes."""

    def of_call(frame, event, argument):
        if frame.f_code not in codes:
            return None
        frame.f_trace_lines = False
        return in_call

    def in_call(frame, event, argument):
        if event == "exception" and issubclass(argument[0], REFUSALS):
            seen.add(frame.f_code)
        return in_call

    before = sys.gettrace()
    sys.settrace(of_call)
    try:
        yield
    finally:
        sys.settrace(before)


def is_refusal(node):
    """``pytest.raises(…)`` or ``assert_refuses(…)``."""
    if not isinstance(node, ast.Call):
        return False
    return getattr(node.func, "attr", getattr(node.func, "id", "")) in ("raises", "assert_refuses")


def refusing_tests():
    """The tests in which something is refused."""
    for path in sorted(TESTS.rglob("test_*.py")):
        needs_a_browser = path.parent.name == "site" and not path.name.startswith("test_plot_live")
        if path.parent.name in ("book", "data") or needs_a_browser or path == Path(__file__):
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            is_test = isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            if is_test and any(is_refusal(part) for part in ast.walk(node)):
                yield f"{path.relative_to(TESTS)}::{node.name}"


@pytest.fixture(scope="module")
def refused():
    """The code of all public calls that were seen to refuse something."""
    codes = {code for thing in CALLS.values() for code in codes_of(thing)}
    seen = set()
    with watched(codes, seen):
        for test in refusing_tests():
            run_all_cases(test)
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_a_public_call_is_seen_to_refuse_bad_input(name, refused):
    is_refused = not refused.isdisjoint(codes_of(CALLS[name]))
    assert is_refused, f"no test gives bad input to {name}"


def picky(number):
    if number < 0:
        raise ValueError(number)
    return number


def trusting(number):
    return number


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (partial(picky, -1), {picky.__code__}),
        (partial(picky, 1), set()),
        (partial(trusting, -1), set()),
    ],
)
def test_a_call_counts_if_an_error_leaves_it(call, expected):
    seen = set()
    with watched({picky.__code__, trusting.__code__}, seen):
        try:
            call()
        except ValueError:
            assert expected
    assert seen == expected
