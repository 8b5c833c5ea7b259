"""Cells that run in the page: which ones, and the files that they need.

A code cell says in the page whether it can run and, if not, why. What Python needs there, Pyodide
(tools/page_python.py) and the book's own package, becomes two folders of the site. Each carries a
hash of its files in its name, so that the files of two builds do not mix in a browser's cache, and
a reader keeps Pyodide when the book changes.
"""

import ast
import hashlib
import json
import shutil
import sys
import zipfile
from functools import lru_cache
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
SHARE = "in_the_page.json"  # beside the built pages: how many cells of each chapter run, of all
MANUAL = ("chapters/intro", "#three-ways-to-use-it")  # how to run the notebooks
UNSEEN = {"remove-cell", "remove_cell", "remove-input", "remove_input"}
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


PRESENT, ABSENT = halves()
page_cells.ABSENT |= ABSENT


def write_archive(path: Path) -> None:
    """The NumPy half of the package, the recorded results, and what runs a cell, as one zip."""
    every = modules()
    files = {str(every[name].relative_to(PACKAGE.parent)): every[name] for name in PRESENT}
    files |= {f"experiments/results/{file.name}": file for file in RESULTS.glob("*.json")}
    files |= {file.name: file for file in STATIC.glob("*.py")}
    contents = {name: file.read_bytes() for name, file in files.items()}
    contents["absent.json"] = json.dumps(ABSENT).encode()
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
    """Lay out this book's own files, so that the pages can name them."""
    work = Path(app.doctreedir) / "in_the_page"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_archive(work / "book.zip")
    for file in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        shutil.copy(file, work)
    app.page_folder = hash_of(sorted(work.iterdir()))
    pinned = [PYODIDE / "pins.txt", PYODIDE / "pyodide-lock.json"]
    is_there = all(file.exists() for file in pinned)
    app.page_pyodide = f"pyodide-{hash_of(pinned)}" if is_there else ""
    target = Path(app.outdir) / SITE / app.page_folder
    shutil.rmtree(target.parent, ignore_errors=True)
    shutil.copytree(work, target)


@lru_cache
def cells_of(notebook: Path) -> list[dict]:
    """A notebook's code cells: their place among all cells, their code, why they cannot run."""
    cells = nbformat.read(notebook, as_version=4).cells
    code = [(place, cell) for place, cell in enumerate(cells) if cell.cell_type == "code"]
    why = page_cells.verdicts([cell.source for _, cell in code])
    return [
        {
            "place": place,
            "code": cell.source,
            "why": reason,
            "preamble": page_cells.preamble(cell.source) if reason else None,
            "is_shown": not UNSEEN & set(cell.metadata.get("tags", [])),
        }
        for (place, cell), reason in zip(code, why, strict=True)
    ]


def notebook_of(app: Sphinx, page: str) -> Path | None:
    path = Path(app.env.doc2path(page)) if page in app.env.found_docs else None
    return path if path and path.suffix == ".ipynb" else None


def number_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Each cell of the page carries its number among the notebook's code cells as a class."""
    notebook = notebook_of(app, app.env.docname)
    if notebook is None:
        return
    numbers = {cell["place"]: number for number, cell in enumerate(cells_of(notebook))}
    for node in doctree.findall(nodes.container):
        if node.get("nb_element") == "cell_code":
            node["classes"].append(f"in-page-{numbers[node['cell_index']]}")


def bring_scripts(app: Sphinx, page: str, _: str, context: dict, doctree: object) -> None:
    """The page's scripts, and what they ask: some kilobytes; the rest waits for the reader."""
    notebook = notebook_of(app, page)
    cells = cells_of(notebook) if notebook and app.page_pyodide else []
    body = context.get("body", "")
    if not cells and "bookPython" not in body:
        return

    def address(of: str) -> str:
        return context["pathto"](of, resource=True)

    folder = address(f"{SITE}/{app.page_folder}")
    python = f'src="{folder}/python.js" data-pyodide="{app.page_pyodide}"'
    head = [f"<script defer {python}></script>"]
    if cells:
        head.append(f'<script defer src="{folder}/cells.js"></script>')
        head.append(f'<link rel="stylesheet" href="{folder}/cells.css">')
        told = [
            {
                "why": cell["why"],
                "preamble": cell["preamble"],
                "code": None if cell["is_shown"] else cell["code"],
            }
            for cell in cells
        ]
        manual, heading = MANUAL
        manual = context["pathto"](manual) + heading if manual in app.env.found_docs else ""
        about = {"folder": str(Path(page).parent), "manual": manual, "cells": told}
        text = json.dumps(about).replace("<", "\\u003c")
        context["body"] = (
            f'{body}<script type="application/json" class="page-cells">{text}</script>'
        )
    context["metatags"] = "\n".join([context.get("metatags") or "", *head])


def bring_pyodide(app: Sphinx, exception: Exception | None) -> None:
    """Pyodide's files, after what looks through the scripts of the site; and which cells run."""
    if exception is not None or app.builder.format != "html":
        return
    share = {}
    for page in sorted(app.env.found_docs):
        notebook = notebook_of(app, page)
        if notebook:
            cells = cells_of(notebook)
            share[page] = sum(not cell["why"] for cell in cells), len(cells)
    out = Path(app.outdir)
    (out.parent / SHARE).write_text(json.dumps(share))
    if app.page_pyodide:
        shutil.copytree(PYODIDE, out / SITE / app.page_pyodide)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", prepare)
    app.connect("doctree-read", number_cells)
    app.connect("html-page-context", bring_scripts)
    app.connect("build-finished", bring_pyodide, priority=950)  # after lighter_pages
    return {"parallel_read_safe": True, "parallel_write_safe": True}
