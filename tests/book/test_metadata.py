"""What a package index shows of the package: who, what for, and links that lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest
import yaml
from execute_notebooks import ROOT

BUILD = """
from setuptools.build_meta import prepare_metadata_for_build_wheel
print(prepare_metadata_for_build_wheel("."))
"""
ADDRESS = "https://github.com/someone/a-book"


def metadata(folder: Path, address: str) -> Message:
    """The package's metadata, as its wheel has them with this public address."""
    for name in ["pyproject.toml", "setup.py", "README.md", "LICENSE", "_config.yml"]:
        shutil.copy(ROOT / name, folder)
    package = folder / "attn_core"
    package.mkdir()
    (package / "__init__.py").write_text("")
    config = (folder / "_config.yml").read_text(encoding="utf-8")
    config = re.sub(r'^  url: ".*"$', f'  url: "{address}"', config, flags=re.M)
    (folder / "_config.yml").write_text(config, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    built = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert built.returncode == 0, built.stderr
    made = folder / built.stdout.split()[-1] / "METADATA"
    return message_from_string(made.read_text(encoding="utf-8"))


def test_the_package_says_who_made_it_and_for_whom(tmp_path: Path):
    made = metadata(tmp_path, "")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert made["Author"] == ", ".join(author["name"] for author in citation["authors"])
    assert made["Keywords"].split(",") == citation["keywords"]
    assert made["Version"] == citation["version"]
    assert made["License-Expression"] == citation["license"]
    classifiers = made.get_all("Classifier")
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert made["Requires-Python"] == ">=3.11"


@pytest.mark.parametrize("address", ["", ADDRESS], ids=["no address yet", "an address"])
def test_no_link_of_the_readme_is_relative(address: str, tmp_path: Path):
    made = metadata(tmp_path, address)
    text = str(made.get_payload())
    assert made["Description-Content-Type"] == "text/markdown"
    assert "The code, in `attn_core` and in the cells, is under the " in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links)
    own = [link.removeprefix(f"{address}/") for link in links if address and address in link]
    assert all((ROOT / link.split("/", 2)[2]).exists() for link in own)
    assert len(own) >= (8 if address else 0)
    addresses = made.get_all("Project-URL") or []
    assert addresses == ([f"Source, {address}", f"Issues, {address}/issues"] if address else [])


def test_what_an_installation_leaves_behind_is_ignored():
    for left in ["build/lib", "dist/attn_core.whl", "attn_core.egg-info/PKG-INFO", ".oldest/bin"]:
        assert not subprocess.run(["git", "check-ignore", "--quiet", left], cwd=ROOT).returncode


def test_the_oldest_pytorch_is_the_one_that_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = [need for need in project["dependencies"] if need.startswith("torch")]
    recipe = subprocess.run(
        ["make", "--dry-run", "oldest"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (command,) = re.findall(r"\$\((sed .*)\)$", recipe, flags=re.M)
    asked = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True).stdout
    assert asked.strip() == oldest.replace(">=", "==") + ".*"
