"""The worker's Python side: runs a cell and says what it shows; calls a function of the book.

A run has a namespace of its own. The cells that it needs run in it first, and their output is
dropped: so a cell always shows what the code on the page gives, whatever was run before it.
"""

import ast
import base64
import builtins
import io
import json
import linecache
import logging
import os
import sys
import time
import traceback
import warnings
from copy import copy
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from cell_names import HARMLESS
from page_cells import missing

HOME = Path(__file__).parent
PRINT_OPTIONS = np.get_printoptions()
FILTERS = warnings.filters[:]

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # "building the font cache"


class NotInThePageError(ImportError):
    """A line needs a package that a browser does not have."""


class Absent:
    """Stands for a package that the page lacks: to import it is harmless, to use it says so."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __call__(self, *_: object, **__: object) -> None:
        if self._name not in HARMLESS:
            raise NotInThePageError(
                f"{self._name} needs {missing(self._name)}, which is not in the page"
            )


class Printed(io.TextIOBase):
    """Standard output or standard error of a run: neighbouring pieces become one."""

    def __init__(self, name: str, outputs: list) -> None:
        self.name, self.outputs = name, outputs

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        last = self.outputs[-1] if self.outputs else {}
        if last.get("type") == self.name:
            last["text"] += text
        elif text:
            self.outputs.append({"type": self.name, "text": text})
        return len(text)


outputs: list[dict[str, str]] = []


def show_figures() -> None:
    """Every open figure as a PNG, as in a notebook; then they are closed."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    for number in pyplot.get_fignums() if pyplot else ():
        data = io.BytesIO()
        figure = pyplot.figure(number)
        figure.savefig(data, format="png", dpi="figure", bbox_inches="tight")
        outputs.append({"type": "png", "data": base64.b64encode(data.getvalue()).decode()})
        pyplot.close(number)


def show_value(value: object) -> None:
    """What a notebook shows of the value of a cell's last line."""
    drawn = None if isinstance(value, type) else getattr(value, "_repr_html_", None)
    html = drawn() if callable(drawn) else None
    if html is not None:
        outputs.append({"type": "html", "html": html})
    elif value is not None:
        outputs.append({"type": "text", "text": repr(value)})


def _clean() -> None:
    """What one run set for good in NumPy, Matplotlib or Python does not reach the next."""
    outputs.clear()
    np.set_printoptions(**PRINT_OPTIONS)
    warnings.filters[:] = FILTERS
    if matplotlib := sys.modules.get("matplotlib"):
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")
        backend = matplotlib.rcParams["backend"]
        matplotlib.rcdefaults()
        matplotlib.rcParams["backend"] = backend


def _import(node: ast.Import | ast.ImportFrom, name: str, space: dict) -> None:
    """Import what the page has; what it lacks gets a stand-in."""
    origin = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        top = alias.name.partition(".")[0]
        if missing(origin + alias.name) is None:
            one = copy(node)
            one.names = [alias]
            exec(compile(ast.Module([one], []), name, "exec"), space)
        elif alias.asname or origin or missing(top):
            space[alias.asname or top] = Absent(origin + (alias.name if alias.asname else top))
        else:  # import attn_core.kernels: the package is there
            space[top] = import_module(top)


def _execute(source: str, name: str, space: dict) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    tree = ast.parse(source, name)
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            _import(node, name, space)
        elif node is tree.body[-1] and isinstance(node, ast.Expr):
            value = eval(compile(ast.Expression(node.value), name, "eval"), space)
            if not source.rstrip().endswith(";"):
                show_value(value)
        else:
            exec(compile(ast.Module([node], []), name, "exec"), space)
    show_figures()


def _own_part(error: BaseException, names: list[str]) -> str:
    """The traceback from the reader's own code on: the machinery above it helps nobody."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename not in names:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def run(code: str, options: str) -> str:
    """What a cell shows, after the cells before it have run in the same new namespace.

    `options` is JSON: `before`, the sources of those cells; `names`, what a traceback calls each
    of them, the cell's own name last; `folder`, where the notebook lies; `goesOn`, whether the
    namespace is that of the run before.
    """
    given = json.loads(options)
    sources = [*given["before"], code]
    names = given["names"] or [f"cell {i} above" for i in range(1, len(sources))] + ["this cell"]
    folder = HOME / given["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not given["goesOn"]:
        _clean()
        sys.modules["__main__"] = ModuleType("__main__")
        vars(sys.modules["__main__"])["__builtins__"] = builtins
    space = vars(sys.modules["__main__"])
    sys.stdout, sys.stderr = Printed("stdout", outputs), Printed("stderr", outputs)
    error, began = None, time.perf_counter()
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        outputs.clear()
        try:
            _execute(source, name, space)
        except BaseException as raised:
            error = {
                "name": type(raised).__name__,
                "message": str(raised),
                "traceback": _own_part(raised, names),
                "cell": index if index < len(sources) - 1 else None,  # None: the cell itself
            }
            break
    seconds = time.perf_counter() - began
    return json.dumps({"outputs": outputs, "error": error, "seconds": seconds})


def call(module: str, name: str, values: str) -> str:
    """What a function of the book returns for these values, or how it failed, all as JSON."""
    try:
        result = getattr(import_module(module), name)(*json.loads(values))
        return json.dumps({"result": result}, default=lambda array: array.tolist())
    except Exception as error:
        return json.dumps({"failed": "".join(traceback.format_exception(error))})
