"""What of the metadata follows from the public address in _config.yml: links, and the README's.

A package index shows the README without the files beside it. Its links lead to the repository once
the address is known; until then they are plain text.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")


def public_address() -> tuple[str, str]:
    """`repository: url:` and `branch:`, empty while the address is not known."""
    config = (ROOT / "_config.yml").read_text(encoding="utf-8")
    found = re.search(r'^repository:\n  url: "(.*)"\n  branch: (\S+)$', config, re.M)
    if found is None:
        raise ValueError("_config.yml must hold repository: url: and branch:")
    return found[1].rstrip("/"), found[2]


def readme(address: str, branch: str) -> str:
    """README.md with links that work anywhere; without an address their text, and no pictures."""

    def replaced(link: re.Match[str]) -> str:
        picture, text, path = link.groups()
        if address:
            return f"{picture}[{text}]({address}/{'raw' if picture else 'blob'}/{branch}/{path})"
        return "" if picture else text

    return LINK.sub(replaced, (ROOT / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    address, branch = public_address()
    setup(
        long_description=readme(address, branch),
        long_description_content_type="text/markdown",
        project_urls={"Source": address, "Issues": f"{address}/issues"} if address else {},
    )
