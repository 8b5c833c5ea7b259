"""Pages that are quick to load: no rule, icon or script that no page of the book uses.

The theme brings the style rules of a whole framework, 2,000 icons, and on every page the search
index, which only the search page reads. What is left out is decided by looking at the built pages.
"""

import re
from io import BytesIO
from logging import getLogger
from pathlib import Path

import tinycss2
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from PIL import Image
from sphinx.application import Sphinx

ONLY_ON_SEARCH = r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js"></script>'
# 1.5 MB of script for icons that the style sheets draw as well
NOWHERE = r'\s*<script defer src="[^"]*_static/scripts/fontawesome\.js[^"]*"></script>'
SKIP = {"skip_comments": True, "skip_whitespace": True}
# Scripts put these names together from parts.
COMPOSED = ("bs-", "tooltip", "popover")


def words_of(out: Path) -> set[str]:
    """Every class of the pages, and every word of their scripts, which may add it as a class."""
    words: set[str] = set()
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        for names in set(re.findall(r'\bclass="([^"]*)"', page)):
            words.update(names.split())
        for script in set(re.findall(r"<script\b[^>]*>(.*?)</script>", page, flags=re.S)):
            words.update(re.findall(r"[\w-]+", script))
    for path in (out / "_static").rglob("*.js"):
        if "locales" not in path.parts:
            words.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    return words


def may_match(selector: str, words: set[str]) -> bool:
    """False if the selector needs a class that nothing has. What stands in brackets is ignored."""
    outside = re.sub(r"\([^()]*\)|\[[^]]*\]", "", re.sub(r"\([^()]*\)", "", selector))
    classes = [name.replace("\\", "") for name in re.findall(r"\.((?:[\w-]|\\.)+)", outside)]
    return all(name in words or name.startswith(COMPOSED) for name in classes)


def selectors(prelude: list) -> list[str]:
    parts: list[list] = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return [tinycss2.serialize(part).strip() for part in parts]


def used_rules(rules: list, words: set[str]) -> str:
    kept = []
    for rule in rules:
        if rule.type == "qualified-rule":
            matching = [s for s in selectors(rule.prelude) if may_match(s, words)]
            if matching:
                kept.append(f"{','.join(matching)}{{{tinycss2.serialize(rule.content).strip()}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inside = tinycss2.parse_rule_list(
                rule.content, skip_comments=True, skip_whitespace=True
            )
            body = used_rules(inside, words)
            if body:
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{body}}}")
        elif rule.type == "at-rule":
            kept.append(rule.serialize())
        else:
            raise ValueError(f"a style sheet with a mistake: {rule.serialize()[:80]}")
    return "\n".join(kept)


def keep_used_rules(out: Path) -> None:
    words = words_of(out)
    for path in (out / "_static").rglob("*.css"):
        sheet = tinycss2.parse_stylesheet(path.read_text(encoding="utf-8"), **SKIP)
        rules = used_rules(sheet, words)  # an icon's number has become the sign itself
        path.write_text(f'@charset "utf-8";\n{rules}\n', encoding="utf-8")


def keep_used_icons(out: Path) -> None:
    """Cut the icon fonts down to the signs that a style sheet still names."""
    sheets = [path.read_text(encoding="utf-8") for path in (out / "_static").rglob("*.css")]
    signs = {ord(sign) for sheet in sheets for sign in re.findall("[\ue000-\uf8ff]", sheet)}
    for path in (out / "_static" / "vendor" / "fontawesome").rglob("*.woff2"):
        path.write_bytes(subset(path.read_bytes(), signs))


getLogger("fontTools").setLevel("WARNING")


def subset(font: bytes, characters: set[int]) -> bytes:
    """A font with these characters only, as woff2."""
    options = Options(flavor="woff2", notdef_outline=True)
    cutter = Subsetter(options)
    cutter.populate(unicodes=characters)
    cut = TTFont(BytesIO(font))
    cutter.subset(cut)
    cut.flavor = "woff2"
    written = BytesIO()
    cut.save(written)
    return written.getvalue()


def idle_marks(sheet: str) -> set[str]:
    """The classes of code that are coloured like all code, light and dark: names, brackets, ..."""
    idle = []
    for theme in ("light", "dark"):
        code = rf'data-theme="{theme}"\] \.highlight'
        colour = re.search(rf"{code}\{{[^}}]*\bcolor: (#\w+)", sheet)
        rules = re.findall(rf"{code} \.(\w+)\{{([^}}]*)\}}", sheet)
        idle.append({name for name, rule in rules if colour and rule == f"color: {colour[1]}"})
    return idle[0] & idle[1]


def without_idle_marks(page: str, idle: set[str]) -> str:
    def unmark(block: re.Match) -> str:
        return re.sub(rf'<span class="(?:{"|".join(idle)})">([^<]*)</span>', r"\1", block[0])

    page = re.sub(r"<pre>.*?</pre>", unmark, page, flags=re.S) if idle else page
    return page.replace('<math xmlns="http://www.w3.org/1998/Math/MathML"', "<math")


def load_when_seen(page: str, folder: Path) -> str:
    """Fetch a picture when it comes into view, into a place that is kept for it."""

    def with_size(tag: re.Match) -> str:
        picture = folder / tag["src"]
        if " width=" in tag[0] or " style=" in tag[0] or not picture.is_file():
            return tag[0]
        with Image.open(picture) as opened:
            width, height = opened.size
        return f'<img loading="lazy" width="{width}" height="{height}"{tag[0].removeprefix("<img")}'

    return re.sub(r'<img [^>]*src="(?P<src>[^":]+\.png)"[^>]*>', with_size, page)


def pack_pictures(folder: Path) -> None:
    """Write each picture anew with the same pixels in fewer bytes."""
    for path in folder.glob("*.png"):
        with Image.open(path) as opened:
            opaque = opened.mode == "RGBA" and opened.getextrema()[3] == (255, 255)
            picture = opened.convert("RGB") if opaque else opened.copy()
        packed = BytesIO()
        picture.save(packed, "PNG", optimize=True)
        if packed.tell() < path.stat().st_size:
            path.write_bytes(packed.getvalue())


def lighten(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pack_pictures(out / "_images")
    for path in out.rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        page = re.sub(NOWHERE, "", before)
        if path != out / "search.html":
            page = re.sub(ONLY_ON_SEARCH, "", page)
        page = load_when_seen(page, path.parent)
        if page != before:
            path.write_text(page, encoding="utf-8")
    (out / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    keep_used_rules(out)
    keep_used_icons(out)
    idle = idle_marks((out / "_static" / "pygments.css").read_text(encoding="utf-8"))
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        path.write_text(without_idle_marks(page, idle), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", lighten, priority=900)  # after all that writes pages
    return {"parallel_read_safe": True, "parallel_write_safe": True}
