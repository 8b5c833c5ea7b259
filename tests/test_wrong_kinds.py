"""Every argument of every public call refuses what is of the wrong kind, and is named."""

import re
from contextlib import AbstractContextManager

import matplotlib
import matplotlib.pyplot as plt
import pytest
from wrong_kinds import RIGHT, WRONG, is_right_after_all, parameters_of

matplotlib.use("Agg")
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
