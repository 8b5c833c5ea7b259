"""Diagnose from the command line: ``python -m attn_core.diagnosis module:function``.

The exit status is 0 if nothing is wrong, 1 if something is, 2 if it could not be run.
"""

import argparse
import importlib
import io
import sys
from pathlib import Path
from typing import Any

from attn_core.diagnosis import diagnose
from attn_core.diagnosis.calling import LAYOUTS


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m attn_core.diagnosis", description="Say what is wrong with an attention."
    )
    parser.add_argument("target", help="module:function, for example my_package.layers:attention")
    parser.add_argument("--layout", choices=list(LAYOUTS), help="of query, key and value")
    parser.add_argument("--heads", type=int, help="of a function that splits heads itself")
    parser.add_argument(
        "--mask-means", choices=["allowed", "hidden", "additive"], default="allowed"
    )
    parser.add_argument("--causal", action="store_true", help="it is meant to be causal")
    for stream in (sys.stdout, sys.stderr):  # a code page of Windows has no √
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8")
    given = parser.parse_args(arguments)
    try:
        function = _found(given.target)
    except Exception as error:
        print(
            f"{given.target} could not be loaded: {type(error).__name__}: {error}", file=sys.stderr
        )
        return 2
    report = diagnose(
        function,
        layout=given.layout,
        heads=given.heads,
        mask_means=given.mask_means,
        causal=given.causal,
    )
    print(report)
    return 2 if report.trouble is not None else 0 if report else 1


def _found(target: str) -> Any:
    module, separator, name = target.partition(":")
    if not separator or not name:
        raise ValueError("write module:function")
    sys.path.insert(0, str(Path.cwd()))
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    sys.exit(main())
