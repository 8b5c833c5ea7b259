"""nbval, called as `make test` calls it, refuses a notebook whose stored output is not true."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest


@pytest.mark.parametrize(("stored", "accepted"), [("3\n", True), ("4\n", False)])
def test_stored_output_must_be_what_the_cell_prints(tmp_path: Path, stored: str, accepted: bool):
    output = nbformat.v4.new_output("stream", text=stored)
    cell = nbformat.v4.new_code_cell("print(1 + 2)", outputs=[output], execution_count=1)
    path = tmp_path / "sum.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--nbval", "--nbval-current-env", path], cwd=tmp_path, capture_output=True
    )
    assert (done.returncode == 0) == accepted
