"""Links, anchors and ids of a folder of built pages, read from the files."""

from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


def pages(folder: Path) -> list[Path]:
    """The built pages; the theme keeps templates of its own below _static."""
    found = sorted(folder.rglob("*.html"))
    return [path for path in found if "_static" not in path.relative_to(folder).parts]


def broken(folder: Path) -> list[str]:
    """Every link to a missing file or anchor, every id used twice, every script from elsewhere."""
    soups = {path: BeautifulSoup(path.read_text("utf-8"), "lxml") for path in pages(folder)}
    anchors = {
        path: [tag["id"] for tag in soup.select("[id]")]
        + [a["name"] for a in soup.select("a[name]")]
        for path, soup in soups.items()
    }
    found = []
    for path, soup in soups.items():
        ids = Counter(tag["id"] for tag in soup.select("[id]"))
        found += [f"{path.name}: the id {name} is used twice" for name in ids if ids[name] > 1]
        for tag in soup.select("[href], [src]"):
            address = tag.get("href") or tag.get("src")
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if tag.name != "a" and parts.scheme != "data":
                    found.append(f"{path.name}: <{tag.name}> loads {address}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{path.name}: {address} does not exist")
            elif parts.fragment and unquote(parts.fragment) not in anchors.get(target, []):
                found.append(f"{path.name}: {address} has no such anchor")
    return found
