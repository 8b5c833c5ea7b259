"""Build the book into _build/html: warnings are errors, and no notebook is executed.

The outputs come from the committed notebooks. Nothing is done when no source has changed since
the last build that succeeded. Otherwise `_build` is removed first: Sphinx reads only the pages
that changed, so a second build would pass over the warnings of the first.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
INDEX = BUILD / "html" / "index.html"
FINGERPRINT = BUILD / "fingerprint"
MATHJAX = ROOT / "_vendor" / "mathjax"
MATHJAX_PIN = ROOT / "tools" / "mathjax.txt"
MATHJAX_FILES = ("LICENSE", "es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2/")
SOURCES = ["*.yml", "*.bib", "requirements.txt", "tools/*", "_ext/**/*", "_static/**/*"]
SOURCES += ["chapters/**/*", "attn_core/**/*.py"]


def fetch_mathjax() -> None:
    """MathJax's scripts and fonts from PyPI, pinned and hash-checked, into _vendor/mathjax."""
    pin = MATHJAX / "pin.txt"
    if pin.exists() and pin.read_text() == MATHJAX_PIN.read_text():
        return
    shutil.rmtree(MATHJAX, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", MATHJAX_PIN, "-d", folder], check=True)
        (wheel,) = Path(folder).iterdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                inside = name.removeprefix("mathjax/static/mathjax/")
                if inside != name and inside.startswith(MATHJAX_FILES) and not name.endswith("/"):
                    target = MATHJAX / inside.removeprefix("es5/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(name))
    pin.write_text(MATHJAX_PIN.read_text())


def fingerprint() -> str:
    digest = hashlib.sha256()
    files = {path for pattern in SOURCES for path in ROOT.glob(pattern) if path.is_file()}
    for path in sorted(files):
        if "__pycache__" not in path.parts and ".ipynb_checkpoints" not in path.parts:
            digest.update(str(path.relative_to(ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    return FINGERPRINT.exists() and FINGERPRINT.read_text() == fingerprint()


def main() -> int:
    fetch_mathjax()
    if not is_current():
        current = fingerprint()
        shutil.rmtree(BUILD, ignore_errors=True)
        command = [Path(sys.executable).with_name("jupyter-book"), "build", "."]
        command += ["-n", "-W", "--keep-going", "--quiet"]
        print("Building the book into _build/html …", flush=True)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)  # warnings: stderr
        if done.returncode:
            return done.returncode
        FINGERPRINT.write_text(current)
    print(f"The book is ready. Open {INDEX.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
