"""What a user of the package meets: names that load lazily, and docstrings that tell everything."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import attn_core

ROOT = Path(attn_core.__file__).parent
HEAVY = [
    "numpy",
    "torch",
    "matplotlib",
    "babel",
    "tqdm",
    "tensorboard",
    "jieba",
    "keras",
    "sacrebleu",
    "tokenizers",
    "transformers",
]
MODULES = [
    info.name
    for info in pkgutil.walk_packages([str(ROOT)], "attn_core.")
    if not info.name.endswith("__main__")
]


def public_objects():
    """Every function and class that a module of the package gives away by ``__all__``."""
    found = {}
    for name in ["attn_core", *MODULES]:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []):
            thing = getattr(module, public)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


OBJECTS = public_objects()


def imported_by(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize(
    ("statement", "needed"),
    [
        ("import attn_core", []),
        ("import attn_core; dir(attn_core)", []),
        ("import attn_core.reference", ["numpy"]),
        ("import attn_core; attn_core.reference.softmax", ["numpy"]),
        ("from attn_core import attention, masks, modules", ["torch", "numpy", "tqdm"]),
    ],
)
def test_only_what_is_needed_is_imported(statement, needed):
    imported = imported_by(statement)
    assert not (set(HEAVY) - set(needed)) & set(imported)


def test_attention_by_itself_loads_no_other_part_and_no_compiler():
    imported = set(imported_by("from attn_core import attention"))
    assert {"attn_core.attend", "torch"} <= imported
    parts = "modules models plot data interpret diagnosis training costs reference hugging_face"
    assert not imported & {f"attn_core.{part}" for part in parts.split()}
    compilers = {"torch._dynamo", "torch._inductor", "torch.nn.attention.flex_attention"}
    # PyTorch itself loads tqdm.
    assert not imported & (compilers | (set(HEAVY) - {"torch", "numpy", "tqdm"}))


HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""  # the sternest way to hide a package: even to ask for it is an error


def run_without(packages, code):
    """What code prints where these packages are not installed."""
    code = HIDE.format(packages=packages) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


NO_FIGURES, NO_TORCH = ["matplotlib"], ["torch", "matplotlib", "tqdm", "babel", "tokenizers"]


@pytest.mark.parametrize("packages", [NO_FIGURES, NO_TORCH], ids=["no Matplotlib", "NumPy only"])
def test_looking_around_never_raises(packages):
    found = run_without(
        packages,
        """
        import pydoc
        import attn_core

        names = dir(attn_core)
        there = [name for name in [*names, "plot", "attention", "GPT"] if hasattr(attn_core, name)]
        assert "attn_core" in pydoc.render_doc(attn_core)
        from attn_core import *
        assert set(attn_core.__all__) <= set(globals())
        print(*there)
        """,
    ).split()
    assert {"reference", "diagnose", "testing"} <= set(found)
    assert "plot" not in found
    assert ("attention" in found) == ("torch" not in packages)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("attn_core.plot.weights", ["attn_core.plot needs Matplotlib", "attn-core[plot]"]),
        ("from attn_core import plot", ["attn_core.plot needs Matplotlib", "attn-core[plot]"]),
        ("import attn_core.plot", ["attn_core.plot needs Matplotlib", "pip install matplotlib"]),
        ("from attn_core.plot import heads", ["attn_core.plot needs Matplotlib"]),
        ("attn_core.attention", ["attn_core.attention needs PyTorch", "pip install torch"]),
        ("from attn_core import attention", ["attn_core.attention needs PyTorch"]),
        ("from attn_core import masks", ["attn_core.masks needs PyTorch"]),
        (
            "from attn_core.data import dates; dates.write_dates([1], 'de')",
            ["needs Babel", "pip install babel", "attn-core[data]"],
        ),
    ],
)
def test_a_package_that_is_missing_is_named(statement, says):
    message = run_without(
        NO_TORCH,
        f"""
        import attn_core
        try:
            {statement}
        except (ImportError, AttributeError) as error:
            print(error)
        """,
    )
    for part in [*says, "attn_core.reference needs NumPy only"]:
        assert part in message


def test_what_needs_no_extra_works_without():
    printed = run_without(
        NO_TORCH,
        """
        import numpy as np
        from attn_core import cost, diagnose, reference
        from attn_core.testing import check_attention

        def attend(query, key, value):
            scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
            return reference.softmax(scores) @ value

        check_attention(attend)
        assert diagnose(attend)
        print(cost("multi_head", q_len=2, dim=4, heads=1).multiplications)
        """,
    )
    assert int(printed) > 0


def test_a_name_that_lives_elsewhere_is_pointed_to():
    with pytest.raises(ImportError, match=r"MultiHeadAttention.* from attn_core\.modules$"):
        from attn_core import MultiHeadAttention  # noqa: F401
    with pytest.raises(AttributeError, match=r"attn_core\.normalizers or attn_core\.reference$"):
        _ = attn_core.softmax
    assert not hasattr(attn_core, "MultiHeadAttention")


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")), ids=lambda path: path.stem)
def test_every_module_can_be_imported_from_the_package(path):
    if path.stem != "__init__":
        assert inspect.ismodule(getattr(__import__("attn_core", fromlist=[path.stem]), path.stem))


def test_every_public_name_can_be_had_and_no_other():
    for name in attn_core.__all__:
        assert getattr(attn_core, name) is not None
        assert name in dir(attn_core)
    with pytest.raises(AttributeError, match="no attribute 'attend_to_this'"):
        _ = attn_core.attend_to_this


def test_no_module_bears_the_name_of_a_public_function():
    """A submodule that is imported hides a lazily imported function of the same name."""
    for name in ["attn_core", *MODULES]:
        functions = {
            public
            for public in getattr(importlib.import_module(name), "__all__", [])
            if not inspect.ismodule(getattr(importlib.import_module(name), public))
        }
        assert not {f"{name}.{public}" for public in functions} & set(MODULES)
    importlib.import_module("attn_core.attend")
    assert inspect.isfunction(attn_core.attention)


def test_every_public_name_is_in_the_module_that_gives_it_away():
    for name in ["attn_core", *MODULES]:
        module = importlib.import_module(name)
        assert all(hasattr(module, public) for public in getattr(module, "__all__", []))


def raises_by_itself(thing):
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def is_record(thing):
    """Whether it only holds named values, which it may call arguments or attributes."""
    return inspect.isclass(thing) and (issubclass(thing, tuple) or is_dataclass(thing))


def parameters_of(thing):
    if inspect.isclass(thing) and not is_record(thing) and "__init__" not in vars(thing):
        return []
    return [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]


def returns_something(thing):
    if inspect.isclass(thing):
        return False
    returned = inspect.signature(thing).return_annotation
    is_context = hasattr(thing, "__wrapped__") and inspect.isgeneratorfunction(thing.__wrapped__)
    return returned not in (None, "None") and not is_context


def section(documentation, name):
    found = re.search(rf"^{name}:(.*?)(?=^\S|\Z)", documentation, re.MULTILINE | re.DOTALL)
    return found.group(1) if found else None


@pytest.mark.parametrize("name", OBJECTS)
def test_every_public_docstring_tells_what_a_user_needs(name):
    thing = OBJECTS[name]
    documentation = inspect.getdoc(thing)
    assert documentation
    first = documentation.splitlines()[0]
    assert first.endswith("."), first
    arguments = section(documentation, "Args") or ""
    if is_record(thing):
        arguments += section(documentation, "Attributes") or ""
    for parameter in parameters_of(thing):
        assert re.search(rf"^ +\*{{0,2}}{parameter}:", arguments, re.MULTILINE), parameter
    if not is_record(thing):
        assert ">>>" in (section(documentation, "Example") or "")
        assert section(documentation, "Source") or ".plot." in name
    if returns_something(thing):
        assert section(documentation, "Returns")
    if raises_by_itself(thing):
        assert section(documentation, "Raises")


@pytest.mark.parametrize("name", OBJECTS)
def test_sections_stand_in_one_order(name):
    documentation = inspect.getdoc(OBJECTS[name])
    order = ["Args", "Attributes", "Returns", "Yields", "Raises", "Source", "Example"]
    there = re.findall(rf"^({'|'.join(order)}):", documentation, re.MULTILINE)
    assert there == sorted(there, key=order.index)


def public_methods():
    for name, thing in OBJECTS.items():
        for method in vars(thing) if inspect.isclass(thing) else []:
            is_public = not method.startswith("_") and method != "extra_repr"
            if is_public and callable(getattr(thing, method)):
                yield pytest.param(getattr(thing, method), id=f"{name}.{method}")


@pytest.mark.parametrize("method", list(public_methods()))
def test_every_public_method_has_a_docstring(method):
    assert inspect.getdoc(method)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_go(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 420
    assert not re.search(r"\bTODO\b|\bFIXME\b|\bXXX\b|NotImplementedError", text)
    assert path.stem not in ("utils", "helpers", "common", "misc")


def test_the_package_is_typed():
    assert (ROOT / "py.typed").exists()
    for thing in OBJECTS.values():
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            kinds = [parameter.annotation for parameter in signature.parameters.values()]
            assert inspect.Signature.empty not in [*kinds, signature.return_annotation]
