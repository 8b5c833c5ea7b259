"""Planting a mistake in the package while it is running, and watching a test fail.

The source of a module is changed in one place and compiled again, and every live function of that
module gets its code from there, wherever it is referred to, closures included. Afterwards all get
their own code back. No file is written.
"""

import gc
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent


class Mistake(NamedTuple):
    """Where a mistake is planted, and which test sees it.

    Attributes:
        number: of the kind of mistake, see ``test_planted_mistakes``.
        what: what is wrong.
        module: within the package.
        old: what stands there, once.
        new: what is planted.
        test: ``file::test``, as :func:`fails` takes it.
    """

    number: int
    what: str
    module: str
    old: str
    new: str
    test: str


class NotSeenError(Exception):
    """A test passes although the mistake is there."""


@contextmanager
def planted(module_name, old, new):
    """Run with ``new`` where ``old`` stands in the source of a module of the package."""
    module = importlib.import_module(f"attn_core.{module_name}")
    source = Path(module.__file__).read_text("utf-8")
    if source.count(old) != 1:
        raise ValueError(
            f"attn_core.{module_name} has changed where a mistake is planted: change the line in "
            f"tests/mistakes_in_*.py too; found {source.count(old)} times: {old}"
        )
    if old.count("\n") != new.count("\n"):
        raise ValueError("a mistake has as many lines as what it replaces, so that all else stays")
    code = compile(source.replace(old, new), module.__file__, "exec")
    changed_code = {(part.co_qualname, part.co_firstlineno): part for part in parts_of(code)}
    changed = []
    for function in functions_of(module.__file__):
        own = function.__code__
        other = changed_code.get((own.co_qualname, own.co_firstlineno))
        if other is not None and other != own:
            changed.append((function, own))
            function.__code__ = other
    if not changed:
        raise ValueError(f"no live function of {module_name} was changed by {new!r}")
    try:
        yield
    finally:
        for function, own in changed:
            function.__code__ = own


def parts_of(code):
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts_of(constant)


def functions_of(path):
    """The functions that were made from this file, and still live."""
    return [
        thing
        for thing in gc.get_objects()
        if type(thing) is FunctionType and thing.__code__.co_filename == path
    ]


@cache
def module_of(file):
    """The module of a test file, imported without pytest."""
    path = TESTS / file
    for folder in (TESTS, path.parent):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def calls_of(test):
    """The arguments of every case of a test: the product of its ``parametrize`` marks."""
    choices = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args[0], mark.args[1]
            if isinstance(names, str):
                names = [name.strip() for name in names.split(",")]
            choices.append([as_arguments(names, value) for value in values])
    for case in itertools.product(*choices):
        yield {name: value for part in case for name, value in part.items()}


def as_arguments(names, value):
    if isinstance(value, type(pytest.param())):
        value = value.values if len(names) > 1 else value.values[0]
    return dict(zip(names, value if len(names) > 1 else [value], strict=True))


def fails(test_id):
    """Run the cases of a test until one fails.

    Args:
        test_id: ``file::test``, a file below ``tests`` and a test in it, with fixtures that
            :func:`fixture_of` knows; or ``file::test[value]``, those of its cases
            that have this value among their arguments.

    Returns:
        What it raised.

    Raises:
        NotSeenError: all cases pass.
    """
    file, name, value = re.fullmatch(r"(.+)::(\w+)(?:\[(.+)\])?", test_id).groups()
    module = module_of(file)
    test = getattr(module, name)
    for arguments in calls_of(test):
        if value is not None and value not in map(str, arguments.values()):
            continue
        with ExitStack() as stack:
            for fixture in inspect.signature(test).parameters:
                if fixture not in arguments and not hasattr(test, "hypothesis"):
                    arguments[fixture] = fixture_of(module, fixture, stack)
            try:
                test(**arguments)
            except (AssertionError, pytest.fail.Exception, RuntimeError) as failure:
                return failure
            except ExceptionGroup as failures:  # hypothesis has found several
                return failures.exceptions[0]
    raise NotSeenError(f"{test_id} passes")


def fixture_of(module, name, stack):
    """What a test asks for: from pytest the two that need no session, or from its own module."""
    if name == "monkeypatch":
        return stack.enter_context(pytest.MonkeyPatch.context())
    if name == "tmp_path":
        return Path(stack.enter_context(TemporaryDirectory()))
    function = getattr(getattr(module, name), "__wrapped__", getattr(module, name))
    needed = inspect.signature(function).parameters
    fixture = function(**{other: fixture_of(module, other, stack) for other in needed})
    if inspect.isgenerator(fixture):
        return stack.enter_context(contextmanager(lambda: fixture)())
    return fixture


def run_all_cases(test_id):
    """Run the cases of a test, whatever becomes of them: that is for the test itself to report.

    One that asks for a fixture that :func:`fixture_of` does not know is left out.
    """
    file, name = test_id.split("::")
    module = module_of(file)
    test = getattr(module, name)
    for arguments in calls_of(test):
        with ExitStack() as stack, suppress(Exception, pytest.fail.Exception):
            for fixture in inspect.signature(test).parameters:
                if fixture not in arguments and not hasattr(test, "hypothesis"):
                    arguments[fixture] = fixture_of(module, fixture, stack)
            test(**arguments)
