"""Run a chapter's experiment and record it: `make experiments C=why_attention`."""

import argparse
import importlib
import pkgutil
import sys

import experiments
from experiments.record import record


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("chapter", help="the name of the chapter's notebook")
    parser.add_argument(
        "--resume", action="store_true", help="keep the runs that the results file already has"
    )
    arguments = parser.parse_args()
    names = {found.name for found in pkgutil.iter_modules(experiments.__path__)}
    names -= {"__main__", "record"}
    if arguments.chapter not in names:
        sys.exit(f"no experiment {arguments.chapter!r}; there are {', '.join(sorted(names))}")
    module = importlib.import_module(f"experiments.{arguments.chapter}")
    record(arguments.chapter, module, resume=arguments.resume)


if __name__ == "__main__":
    main()
