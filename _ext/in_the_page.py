"""Cells that run in the page: which ones, and the files that they need.

A code cell says in the page whether it can run and, if not, why. What Python needs there, Pyodide
(tools/page_python.py) and the book's own package, becomes two folders of the site. Each carries a
hash of its files in its name, so that the files of two builds do not mix in a browser's cache, and
a reader keeps Pyodide when the book changes.
"""

import ast
import hashlib
import json
import re
import shutil
import sys
import zipfile
from html import escape
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

import attn_core

ROOT = Path(__file__).resolve().parents[1]
PYODIDE = ROOT / "_vendor" / "pyodide"
STATIC = Path(__file__).with_name("in_the_page_static")
SITE = "_static/in_the_page"
PACKAGE = Path(attn_core.__file__).parent
RESULTS = PACKAGE.parent / "experiments" / "results"
SHARE = "in_the_page.json"  # beside the built pages: which cells of each chapter run
CLOCK = (1980, 1, 1, 0, 0, 0)  # the same archive on every build

sys.path.insert(0, str(STATIC))
import page_cells  # noqa: E402


# --- the package -----------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module of attn_core, by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported_at_once(source: str) -> set[str]:
    """What a module imports when it is imported itself: not in functions, not for types."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.If | ast.Try):
            waiting += [*node.body, *node.orelse]
    return found


def halves() -> tuple[list[str], dict[str, str]]:
    """The modules that the page has; and what each other name of attn_core needs, in words."""
    every = modules()
    imports = {name: imported_at_once(path.read_text("utf-8")) for name, path in every.items()}
    absent: dict[str, str] = {}
    while True:
        found = {}
        for name in every.keys() - absent.keys():
            # a package is imported before what lies in it
            parents = {name.rpartition(".")[0]} - {""}
            needs = (absent.get(i) or page_cells.missing(i) for i in (imports[name] | parents))
            what = page_cells.missing(name) or next(filter(None, sorted(filter(None, needs))), None)
            if what:
                found[name] = what
        if not found:
            break
        absent |= found
    present = sorted(every.keys() - absent.keys())
    for name, home in attn_core._HOMES.items():
        if f"attn_core.{home}" in absent:
            absent[f"attn_core.{name}"] = absent[f"attn_core.{home}"]
    return present, dict(sorted(absent.items()))


def write_archive(path: Path, present: list[str], absent: dict[str, str]) -> None:
    """The NumPy half of the package, the recorded results, and what runs a cell, as one zip."""
    every = modules()
    files = {str(every[name].relative_to(PACKAGE.parent)): every[name] for name in present}
    files |= {f"experiments/results/{file.name}": file for file in RESULTS.glob("*.json")}
    files |= {file.name: file for file in STATIC.glob("*.py")}
    contents = {name: file.read_bytes() for name, file in files.items()}
    contents["absent.json"] = json.dumps(absent).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(contents.items()):
            info = zipfile.ZipInfo(name, CLOCK)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


# --- the site --------------------------------------------------------------------------------


def hash_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def prepare(app: Sphinx) -> None:
    """Read the package; lay out this book's own files, so that the pages can name them."""
    present, absent = halves()
    page_cells.ABSENT |= absent
    app.page_folder = app.page_pyodide = ""
    if not (PYODIDE / "pins.txt").exists():
        return
    work = Path(app.doctreedir) / "in_the_page"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_archive(work / "book.zip", present, absent)
    for file in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        shutil.copy(file, work)
    app.page_folder = hash_of(sorted(work.iterdir()))
    app.page_pyodide = f"pyodide-{hash_of([PYODIDE / 'pins.txt', PYODIDE / 'pyodide-lock.json'])}"
    target = Path(app.outdir) / SITE / app.page_folder
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(work, target)
