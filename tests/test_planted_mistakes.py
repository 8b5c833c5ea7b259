"""The mistakes that most code makes are planted, one at a time, and a test of ours is seen to fail.

A test that passes proves nothing unless it can fail. The numbers are those of the list:

 1. a fully masked row gives NaN, or uniform weights
 2. queries and keys of different lengths are aligned wrongly
 3. the future leaks in
 4. a mask has the wrong polarity, or is combined with the wrong operator
 5. a window is off by one, or a block pattern; padding takes part
 6. a finite stand-in for minus infinity overflows, or swallows real scores
 7. dropout is active in evaluation; weights are those after dropout
 8. asking for weights changes the output; a layer forgets the mask
 9. rotary pairs, positions and angles are wrong
10. ALiBi's slopes for a number of heads that is no power of two
11. half precision is summed in half precision
12. an approximation is shown without an honest error
13. heads are split and joined without a transposition
14. a test compares without asserting
"""

import ast
from pathlib import Path

import mistakes_in_attention
import mistakes_in_parts
import pytest
from planting import NotSeenError, fails, planted

TESTS = Path(__file__).parent


MISTAKES = [*mistakes_in_attention.MISTAKES, *mistakes_in_parts.MISTAKES]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.number} {m.what}")
def test_a_planted_mistake_is_seen(mistake):
    with planted(mistake.module, mistake.old, mistake.new):
        assert fails(mistake.test)


def test_what_is_planted_is_taken_away_again():
    mistake = MISTAKES[0]
    with planted(mistake.module, mistake.old, mistake.new):
        assert fails(mistake.test)
    with pytest.raises(NotSeenError):
        fails(mistake.test)


def test_every_mistake_of_the_list_is_planted():
    assert {mistake.number for mistake in MISTAKES} == set(range(1, 14))  # 14 is the next test


def asserts_something(function):
    """Whether a test can fail: by ``assert``, by ``raises``, or by a call that asserts.

    Playwright asserts by ``expect(…).to_…()``; ``expect(…)`` by itself asserts nothing.
    """
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name.startswith(("assert", "raises", "fail")) or name == "warns":
                return True
            what = getattr(node.func, "value", None)
            if isinstance(what, ast.Call) and getattr(what.func, "id", "") == "expect":
                return True
            if any(keyword.arg == "check" for keyword in node.keywords):  # of subprocess.run
                return True
    return False


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_every_test_asserts_something(path):
    """14. A test that compares without asserting."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [test.name for test in tests if not asserts_something(test)] == []
