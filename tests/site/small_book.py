"""A book of a few pages, built with this book's configuration and extensions."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from execute_notebooks import ROOT
from nbformat import NotebookNode


def write_book(folder: Path, pages: dict[str, str | NotebookNode], address: str = "") -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] = address
    (folder / "_config.yml").write_text(yaml.safe_dump(config))
    files = [{"file": Path(name).stem} for name in pages]
    contents = {"format": "jb-book", "root": "intro", "chapters": files}
    (folder / "_toc.yml").write_text(yaml.safe_dump(contents))
    (folder / "references.bib").write_text("")
    (folder / "intro.md").write_text("# The book\n")
    (folder / "_vendor").symlink_to(ROOT / "_vendor")
    for name in ("_ext", "_static"):
        shutil.copytree(ROOT / name, folder / name)
    for name, page in pages.items():
        if isinstance(page, str):
            (folder / name).write_text(page, encoding="utf-8")
        else:
            nbformat.write(page, folder / name)


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
    command += ["-n", "-W", "--keep-going", "--quiet"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def built(folder: Path) -> Path:
    """The folder of the built pages."""
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "_build" / "html"
