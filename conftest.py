"""How the notebooks run in a test session, and what the session says about them at its end."""

import os

import nbformat
import pytest

# As tools/execute_notebooks.py does: progress bars are for people, and two workers with two
# threads each would fight for two cores. The notebooks' kernels inherit both settings.
os.environ.update(TQDM_DISABLE="1", OMP_NUM_THREADS="1")


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
