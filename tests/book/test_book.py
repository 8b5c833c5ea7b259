"""The files around the chapters agree with each other: commands, contents, citations."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import transformers
import yaml
from execute_notebooks import ROOT

from attn_core.data import packages

PAGES = sorted(
    path
    for path in ROOT.glob("chapters/**/*")
    if path.suffix in (".md", ".ipynb") and ".ipynb_checkpoints" not in path.parts
)
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


def text_of(path: Path) -> str:
    """The markdown of a page."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def make_targets() -> set[str]:
    rules = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    return set(rules)


def test_plain_make_lists_every_command():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z]+)", listed, flags=re.M)) == make_targets() - {"help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_named_commands_exist(path: Path):
    commands = re.findall(r"(?:`|^ {4}|^)make ([a-z]+)\b", text_of(path), flags=re.M)
    assert set(commands) <= make_targets()


def test_readme_gives_the_two_commands():
    assert {"make book", "make test"} <= set(text_of(ROOT / "README.md").split("\n"))


def test_readme_examples_run_and_print_what_they_say(capsys: pytest.CaptureFixture[str]):
    readme = text_of(ROOT / "README.md")
    attend, mark, _ = re.findall(r"^```python\n(.*?)^```", readme, flags=re.M | re.S)
    names: dict[str, object] = {}
    exec(attend, names)
    assert names["result"].weights.shape == (2, 4, 10, 10)
    exec(mark, {})
    (printed,) = re.findall(r"^```text\n(.*?)^```", readme, flags=re.M | re.S)
    rounding = re.compile(r"to \de-\d\d")  # is another machine's
    assert rounding.sub("", capsys.readouterr().out) == rounding.sub("", printed)


def test_the_readmes_look_into_a_hugging_face_model_runs(monkeypatch: pytest.MonkeyPatch):
    """With a small random model in place of the one that it downloads."""
    readme = text_of(ROOT / "README.md")
    (look,) = [
        example
        for example in re.findall(r"^```python\n(.*?)^```", readme, flags=re.M | re.S)
        if "hugging_face" in example
    ]
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    config = transformers.Qwen3Config(**sizes, num_key_value_heads=1, num_hidden_layers=1)

    class Words:
        def __call__(self, text: str, return_tensors: str) -> transformers.BatchEncoding:
            numbers = [list(range(len(text.split())))]
            return transformers.BatchEncoding({"input_ids": numbers}, tensor_type=return_tensors)

        def decode(self, token: object) -> str:
            return f"word {token}"

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: Words())
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM,
        "from_pretrained",
        lambda name, **options: transformers.AutoModelForCausalLM.from_config(config, **options),
    )
    names: dict[str, object] = {}
    exec(look, names)
    assert names["layers"]["model.layers.0.self_attn"][0].shape == (1, 2, 10, 10)
    plt.close("all")


def test_readme_names_every_data_package_with_its_licence():
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \|", text_of(ROOT / "README.md"), flags=re.M)
    assert {(package.name, package.licence) for package in packages.PACKAGES} <= set(rows)


def contents() -> list[str]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())

    def files(entry: dict) -> list[str]:
        below = [*entry.get("chapters", []), *entry.get("sections", [])]
        return [entry["file"], *(file for child in below for file in files(child))]

    return [toc["root"], *(f for part in toc["parts"] for c in part["chapters"] for f in files(c))]


def test_table_of_contents_lists_every_page_once():
    pages = [str(path.relative_to(ROOT).with_suffix("")) for path in PAGES]
    assert sorted(contents()) == sorted(pages)


def bibliography() -> list[str]:
    return re.findall(r"^@\w+\{([^,\s]+),", (ROOT / "references.bib").read_text(), flags=re.M)


def test_bibliography_has_no_key_twice():
    keys = bibliography()
    assert sorted(set(keys)) == sorted(keys)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_cited_entries_exist(path: Path):
    cited = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text_of(path))
    keys = {key.strip() for group in cited for key in group.split(",")}
    assert keys <= set(bibliography())


def test_built_files_are_not_committed():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files", "_build", "_vendor", ".venv"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert listed == ""
