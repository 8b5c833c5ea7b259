"""What a test session says at its end about the notebooks."""

import nbformat
import pytest


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print how many cells of the notebooks nbval runs without comparing their output."""
    if not config.getoption("nbval"):
        return
    compared, exempt = 0, []
    for path in sorted(config.rootpath.glob("chapters/**/*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code":
                continue
            if "nbval-ignore-output" in cell.metadata.get("tags", []):
                exempt.append(f"{path.name}: {cell.metadata.get('nbval_reason')}")
            else:
                compared += 1
    cells = compared + len(exempt)
    terminalreporter.section("notebooks")
    share = len(exempt) / cells
    terminalreporter.line(
        f"{len(exempt)} of {cells} cells ({share:.1%}) are run without comparing their output"
    )
    for reason in exempt:
        terminalreporter.line(f"  {reason}")
