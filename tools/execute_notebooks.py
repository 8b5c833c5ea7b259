"""Execute notebooks in place, each from a clean kernel, and drop what changes from run to run.

python tools/execute_notebooks.py                     every notebook of the book
python tools/execute_notebooks.py chapters/a/b.ipynb  these

With a public address in `_config.yml` (`repository: url:`) each notebook also gets a first code
cell that fetches the book and installs its package where that is missing, as on Colab.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
SECONDS_PER_CELL = 600
KEPT_CELL_METADATA = {"tags", "mystnb", "nbval_reason"}
NOTEBOOK_METADATA = {
    "kernelspec": {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    },
    "language_info": {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
SETUP_TAGS = ["setup", "remove-cell"]
SETUP_SOURCE = """\
# On Colab and Binder: fetch the book, install its package and data; go to where its chapters are.
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("attn_core") is None:
    clone = ["git", "clone", "--quiet", "--depth", "1", "{address}", "attention-book"]
    subprocess.run(clone, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "./attention-book[chapters]"], check=True)
    subprocess.run([sys.executable, "-m", "attn_core.data"], check=True)
    importlib.invalidate_caches()
if os.path.isdir("attention-book"):  # after a restart of the kernel, too
    os.chdir("attention-book/chapters/background")"""


def public_address() -> str:
    """The address of the repository in `_config.yml`, empty while it is not known."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"] or ""


def with_setup_cell(notebook: nbformat.NotebookNode, address: str) -> nbformat.NotebookNode:
    """The notebook with the set-up cell for this address, or with none for an empty address."""
    cells = [c for c in notebook.cells if "setup" not in c.metadata.get("tags", [])]
    if address:
        setup = nbformat.v4.new_code_cell(SETUP_SOURCE.format(address=address), id="setup")
        setup.metadata["tags"] = list(SETUP_TAGS)
        first_code = next(i for i, c in enumerate(cells) if c.cell_type == "code")
        cells.insert(first_code, setup)
    return nbformat.from_dict({**notebook, "cells": cells})


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Keep the metadata that says something about the page; drop what a machine or a run adds."""
    notebook.metadata = nbformat.from_dict(NOTEBOOK_METADATA)
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in cell.metadata if key in KEPT_CELL_METADATA}
        cell.metadata = nbformat.from_dict(kept)


def execute(path: Path, address: str) -> None:
    notebook = with_setup_cell(nbformat.read(path, as_version=4), address)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=SECONDS_PER_CELL,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    normalise(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


def trouble_with(path: Path) -> str:
    """Why a path is no notebook that can be executed; empty if it is one."""
    if path.is_dir():
        return "is a folder: name one of its notebooks"
    if not path.is_file():
        return "does not exist"
    return "" if path.suffix == ".ipynb" else "is no notebook (.ipynb)"


def main(arguments: list[str]) -> int:
    paths = [Path(a).resolve() for a in arguments] or sorted(ROOT.glob("chapters/**/*.ipynb"))
    for path in paths:
        if trouble := trouble_with(path):
            print(f"{path} {trouble}", file=sys.stderr)
            return 1
    # Progress bars are for people, and one thread rounds alike on every number of cores.
    os.environ.update(TQDM_DISABLE="1", OMP_NUM_THREADS="1")
    address = public_address()
    failed = []
    for path in paths:
        start = time.perf_counter()
        try:
            execute(path, address)
        except Exception as error:  # a cell's, a kernel that died, a time-out: the rest goes on
            failed.append(path)
            why = f"{type(error).__name__}: {error}"
            print(f"{path.name} failed and was left as it was:\n{why}", file=sys.stderr)
        else:
            print(f"{path.name}: executed in {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        names = ", ".join(path.name for path in failed)
        print(f"{len(failed)} of {len(paths)} notebooks failed: {names}", file=sys.stderr)
    return min(len(failed), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
