"""Python for the pages: the files of Pyodide that runnable cells load, into _vendor/pyodide.

They are pinned in tools/pyodide.txt and checked by their hashes, whoever they come from: from the
folder of an official distribution that the variable PYODIDE names, or else from a wheel of the
Python package index, of which nothing but these files is taken.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pinned_wheel

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tools" / "pyodide.txt"
VENDOR = ROOT / "_vendor" / "pyodide"
VERSION = "0.27.7"
NOTICE = f"""\
Pyodide {VERSION}, under the Mozilla Public License 2.0 (https://www.mozilla.org/MPL/2.0/).
Its source: https://github.com/pyodide/pyodide/tree/{VERSION}
It contains CPython 3.12, under the licence of the Python Software Foundation
(https://docs.python.org/3.12/license.html). Each package (.whl) carries its own licence.
"""
WITHOUT = (
    "The book is built without the controls that run cells in the page: {why}\n"
    "To have them, set PYODIDE to the folder of an unpacked Pyodide {version} distribution."
)


def pins() -> tuple[str, dict[str, tuple[str, int]]]:
    """The pinned wheel, as pip reads it, and each file's SHA-256 and size in bytes."""
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    files = {}
    for line in lines[1:]:
        name, digest, size, *_ = line.split()
        files[name] = (digest.removeprefix("sha256:"), int(size))
    return lines[0], files


def lock(files: dict[str, tuple[str, int]]) -> dict:
    """What Pyodide asks about its packages, written from the pins, not taken from the wheel."""
    packages = {}
    for file, (digest, _) in files.items():
        if file.endswith(".whl"):
            package, version, *_ = file.split("-")
            name = package.replace("_", "-")
            packages[name] = {
                "name": name,
                "version": version,
                "file_name": file,
                "sha256": digest,
                "install_dir": "site",
                "package_type": "package",
                "imports": [],
                "depends": [],  # the worker names every package that it needs
                "unvendored_tests": False,
            }
    info = {"arch": "wasm32", "platform": "emscripten_3_1_58", "abi_version": "2024_0"}
    return {"info": {**info, "version": VERSION, "python": "3.12.7"}, "packages": packages}


def write(target: Path, read: dict[str, bytes]) -> None:
    """The checked files, what Pyodide and the worker ask about them, and a notice."""
    _, files = pins()
    for name, (digest, _) in files.items():
        if hashlib.sha256(read[name]).hexdigest() != digest:
            raise ValueError(f"{name} is not the file of Pyodide {VERSION} that {PINS.name} pins")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in files:
        (target / name).write_bytes(read[name])
    (target / "pyodide-lock.json").write_text(json.dumps(lock(files), indent=1))
    (target / "files.json").write_text(
        json.dumps({name: size for name, (_, size) in files.items()})
    )
    (target / "NOTICE.txt").write_text(NOTICE)
    (target / "pins.txt").write_text(PINS.read_text())


def from_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in pins()[1]}


def from_registry() -> dict[str, bytes]:
    pin, files = pins()
    with pinned_wheel.fetched(pin) as archive:
        inside = {Path(name).name: name for name in archive.namelist() if "/pyodide/" in name}
        return {name: archive.read(inside[name]) for name in files}


def is_there() -> bool:
    done = VENDOR / "pins.txt"
    return done.exists() and done.read_text() == PINS.read_text()


def fetch() -> None:
    """Bring the files, or say why the book is built without them."""
    if is_there():
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    folder = os.environ.get("PYODIDE")
    try:
        write(VENDOR, from_folder(Path(folder)) if folder else from_registry())
    except (OSError, KeyError, ValueError, subprocess.CalledProcessError) as error:
        print(WITHOUT.format(why=f"{error}.", version=VERSION), file=sys.stderr)
