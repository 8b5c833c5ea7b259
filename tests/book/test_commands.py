"""The commands say what is wrong in a sentence, and one failure does not end the rest."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import execute_notebooks
import nbformat
import pytest
import serve_book
from execute_notebooks import ROOT, main

from experiments.__main__ import main as run_experiment


def notebook(path: Path, source: str) -> Path:
    cell = nbformat.v4.new_code_cell(source, id="only")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def test_a_notebook_that_fails_is_named_and_the_rest_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(execute_notebooks, "SECONDS_PER_CELL", 10)
    sources = {
        "dies.ipynb": "import os; os._exit(1)",
        "sleeps.ipynb": "import time; time.sleep(300)",
        "raises.ipynb": "1 / 0",
        "works.ipynb": "print(6 * 7)",
    }
    paths = [notebook(tmp_path / name, source) for name, source in sources.items()]
    (tmp_path / "broken.ipynb").write_text("no notebook")
    before = [path.read_bytes() for path in paths[:3]]
    assert main([str(tmp_path / "broken.ipynb"), *map(str, paths)]) == 1
    printed = capsys.readouterr()
    for name in ["dies", "sleeps", "raises", "broken"]:
        assert f"{name}.ipynb failed and was left as it was" in printed.err
    assert "4 of 5 notebooks failed: broken.ipynb, dies.ipynb, sleeps" in printed.err
    assert "works.ipynb: executed" in printed.out
    assert nbformat.read(paths[3], as_version=4).cells[0].outputs[0].text == "42\n"
    assert [path.read_bytes() for path in paths[:3]] == before


@pytest.mark.parametrize(
    ("name", "says"),
    [("missing.ipynb", "does not exist"), (".", "is a folder"), ("notes.txt", "is no notebook")],
)
def test_what_is_no_notebook_is_named(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "notes.txt").write_text("")
    assert main([str(tmp_path / name)]) == 1
    assert f"{(tmp_path / name).resolve()} {says}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["chapter", "experiments"])
def test_a_name_with_a_space_is_one_name(command: str):
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", command, "C=a folder/name"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert recipe.rstrip().splitlines()[-1].endswith(' "a folder/name"')


def test_an_experiment_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["experiments", "why_not"])
    with pytest.raises(SystemExit, match=r"no experiment 'why_not'; there are .*why_attention"):
        run_experiment()


@pytest.mark.parametrize("port", ["", "eighty", "-1", "65536"])
def test_a_port_that_is_none_is_named(port: str, capsys: pytest.CaptureFixture[str]):
    assert serve_book.main(port) == 1
    assert f"PORT must be a number up to 65535, got {port}" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = str(other.getsockname()[1])
        assert serve_book.main(port) == 1
    assert f"Port {port} cannot be had" in capsys.readouterr().err


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "data"
    done = subprocess.run(
        [sys.executable, "-m", "attn_core.data"],
        env={**os.environ, "ATTN_CORE_DATA": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
