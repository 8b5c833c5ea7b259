"""What the public address of the repository turns on: canonical addresses, and link previews.

The pages are published at GitHub Pages by `.github/workflows/book.yml`, so their address follows
from the repository's; `html: baseurl:` in _config.yml names another one. While both are empty,
nothing here appears on a page.
"""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

PICTURE = "_static/screenshot.png"
PICTURE_SHOWS = "A page of the book: text, a formula, and attention weights as a heat map"
LENGTH = 200  # of a description, in signs


def published_at(repository: str) -> str:
    """Where GitHub Pages publishes a repository of GitHub.

    Example:
        >>> published_at("https://github.com/Someone/a-book")
        'https://someone.github.io/a-book/'
        >>> published_at("https://github.com/someone/someone.github.io/")
        'https://someone.github.io/'
        >>> published_at("https://elsewhere.org/someone/a-book")
        ''
    """
    found = re.fullmatch(r"https://github\.com/([\w-]+)/([\w.-]+?)(?:\.git)?/?", repository)
    if found is None:
        return ""
    home = f"{found[1].lower()}.github.io"
    return f"https://{home}/" if found[2].lower() == home else f"https://{home}/{found[2]}/"


def set_base_address(app: Sphinx, config: Config) -> None:
    if not config["html_baseurl"]:
        repository = config["html_theme_options"].get("repository_url", "")
        config["html_baseurl"] = published_at(repository)


def description(doctree: nodes.document) -> str:
    """The first paragraph in whole words, without formulas."""
    for paragraph in doctree.findall(nodes.paragraph):
        inside_table = isinstance(paragraph.parent, nodes.entry)
        text = " ".join(paragraph.astext().split())
        if not inside_table and len(text) > 40 and not any(paragraph.findall(nodes.math)):
            return text if len(text) <= LENGTH else text[:LENGTH].rpartition(" ")[0] + " …"
    return ""


def add_preview(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """The Open Graph tags, which say how a link to the page looks where it is shared."""
    base = app.config.html_baseurl
    if not base or doctree is None:
        return
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title or app.config.project,
        "og:title": re.sub(r"<[^>]*>", "", context["title"]),
        "og:description": escape(description(doctree)),
        "og:url": context["pageurl"],
        "og:image": base.rstrip("/") + "/" + PICTURE,
        "og:image:alt": PICTURE_SHOWS,
    }
    lines = [f'<meta property="{name}" content="{text}" />' for name, text in tags.items() if text]
    lines.append('<meta name="twitter:card" content="summary_large_image" />')
    if tags["og:description"]:
        lines.append(f'<meta name="description" content="{tags["og:description"]}" />')
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", set_base_address)
    app.connect("html-page-context", add_preview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
