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
