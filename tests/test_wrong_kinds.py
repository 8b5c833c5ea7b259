"""Every argument of every public call refuses what is of the wrong kind, and is named."""

import inspect
import re
from contextlib import AbstractContextManager
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from wrong_kinds import NOT_WALKED, WRONG, is_right_after_all, parameters_of
from wrong_kinds import RIGHT as PARTS
from wrong_kinds_of_models import RIGHT as MODELS

from attn_core import reference

matplotlib.use("Agg")
RIGHT = PARTS | MODELS
CASES = [
    pytest.param(name, parameter, id=f"{name} {parameter}")
    for name, (call, _) in RIGHT.items()
    for parameter in parameters_of(call)
]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def outcome(call, arguments):
    result = call(**arguments)
    if isinstance(result, AbstractContextManager):
        with result:
            pass


def error_of(call, arguments):
    try:
        outcome(call, arguments)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("name", RIGHT)
def test_the_right_call_is_right(name):
    call, right = RIGHT[name]
    assert error_of(call, right) is None


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_a_wrong_kind_is_refused_and_the_argument_named(name, parameter):
    call, right = RIGHT[name]
    for kind, value in WRONG.items():
        if is_right_after_all(name, parameter, kind):
            continue
        with pytest.raises((TypeError, ValueError)) as caught:
            outcome(call, right | {parameter: value})
        assert re.search(rf"\b{parameter}\b", str(caught.value)), (kind, str(caught.value))


def in_float64(right):
    """Each tensor of float32 in turn in float64."""
    for name, value in right.items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            yield name, right | {name: value.detach().double()}


@pytest.mark.parametrize("name", RIGHT)
def test_an_argument_of_another_dtype_is_taken_or_an_argument_is_named(name):
    call, right = RIGHT[name]
    for parameter, arguments in in_float64(right):
        error = error_of(call, arguments)
        if error is not None:
            assert isinstance(error, TypeError | ValueError), (parameter, error)
            names = "|".join(parameters_of(call))
            assert re.search(rf"\b({names})\b", str(error)), (parameter, error)


PAGES = sorted(Path(__file__).parents[1].glob("chapters/appendix/api_*.md"))
DIRECTIVE = re.compile(r"^\.\. auto(?:function|class):: (attn_core\.\S+)$", re.MULTILINE)


def documented():
    """What the API pages name, by how the walk calls it."""
    for page in PAGES:
        for path in DIRECTIVE.findall(page.read_text("utf-8")):
            module, name = path.rsplit(".", 1)
            thing = getattr(import_module(module), name)
            yield (f"plot.{name}" if module == "attn_core.plot" else name), module, thing


def is_record(thing):
    return inspect.isclass(thing) and (issubclass(thing, tuple | Exception) or is_dataclass(thing))


def calls_of(name, thing):
    """A function itself; of a class its making, its ``forward`` and its methods."""
    if not inspect.isclass(thing):
        yield name, thing
        return
    for method, function in vars(thing).items():
        function = getattr(function, "__func__", function)
        if not inspect.isfunction(function):
            continue
        if method == "__init__":
            yield name, thing
        elif method in ("forward", "__call__"):
            yield f"{name}()", getattr(thing, method)
        elif not method.startswith("_") and method != "extra_repr":
            yield f"{name}.{method}", getattr(thing, method)


CALLS = {
    call: function
    for name, module, thing in documented()
    if module != "attn_core.reference" and not is_record(thing)
    for call, function in calls_of(name, thing)
    if [one for one in parameters_of(function) if one != "self"]
}


@pytest.mark.parametrize("call", CALLS)
def test_every_public_call_is_walked_or_it_is_said_why_not(call):
    assert (call in RIGHT) != (call in NOT_WALKED)


def test_nothing_is_excused_that_is_not_there():
    assert set(NOT_WALKED) <= set(CALLS)


FLAGS = {
    f"{call} {name}": parameter
    for call, function in CALLS.items()
    for name, parameter in inspect.signature(function).parameters.items()
    if isinstance(parameter.default, bool) or parameter.annotation in (bool, "bool")
}


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_given_by_name(flag):
    assert FLAGS[flag].kind is inspect.Parameter.KEYWORD_ONLY


def needed(function):
    parameters = inspect.signature(function).parameters.values()
    return {one.name: None for one in parameters if one.default is one.empty}


FLAGS_OF_TWINS = [
    pytest.param(getattr(reference, name), flag, id=f"{name} {flag}")
    for name in reference.__all__
    if inspect.isfunction(getattr(reference, name))
    for flag, parameter in inspect.signature(getattr(reference, name)).parameters.items()
    if isinstance(parameter.default, bool)
]


@pytest.mark.parametrize(("twin", "flag"), FLAGS_OF_TWINS)
def test_a_twin_looks_at_its_flags_first(twin, flag):
    assert inspect.signature(twin).parameters[flag].kind is inspect.Parameter.KEYWORD_ONLY
    for value in ("no", 1, None):
        with pytest.raises(TypeError, match=f"^{flag} must be True or False, got {value!r}$"):
            twin(**needed(twin), **{flag: value})
