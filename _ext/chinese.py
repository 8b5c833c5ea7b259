"""Chinese text is shown with a font of the site's own, cut down to the characters of each page.

The font is Noto Sans SC (OFL-1.1), from the same data package as in the figures. A page without
Chinese text neither names nor loads it; the search page, which quotes every page, has them all.
"""

import hashlib
import re
import shutil
from pathlib import Path

from fontTools.ttLib import TTFont
from lighter_pages import subset
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

ROOT = Path(__file__).resolve().parents[1]
FONT = ROOT / "_vendor" / "chinese" / "NotoSansSC-Regular.otf"
# ideographs, their punctuation, full-width signs
CHINESE = re.compile(
    "[\u2e80-\u303f\u31c0-\u31ef\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef]"
)
RANGE = "U+2E80-303F,U+31C0-31EF,U+3400-4DBF,U+4E00-9FFF,U+F900-FAFF,U+FF00-FFEF"

logger = getLogger(__name__)


def font_face(folder: str, name: str) -> str:
    """The family that book.css asks for; a browser loads it once it has to show such a sign."""
    return (
        f'<style>@font-face{{font-family:"Chinese of this book";font-display:swap;'
        f'src:url("{folder}{name}") format("woff2");unicode-range:{RANGE}}}</style>'
    )


def bring_font(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(out.rglob("*.html"))}
    used = {path: set(CHINESE.findall(page)) for path, page in pages.items()}
    everything = set().union(*used.values())
    if not everything:
        return
    used[out / "search.html"] = everything
    font = FONT.read_bytes()
    known = TTFont(FONT).getBestCmap()
    target = out / "_static" / "fonts"
    target.mkdir()
    shutil.copy(FONT.with_name("LICENSE"), target / "LICENSE-NotoSansSC")
    for path, characters in used.items():
        missing = sorted(sign for sign in characters if ord(sign) not in known)
        if missing:
            where = path.relative_to(out).with_suffix("").as_posix()
            logger.warning("the Chinese font lacks %s", "".join(missing), location=where)
        if not characters:
            continue
        signs = "".join(sorted(characters))
        name = f"chinese-{hashlib.sha256(signs.encode()).hexdigest()[:8]}.woff2"
        if not (target / name).exists():
            (target / name).write_bytes(subset(font, {ord(sign) for sign in signs}))
        folder = "../" * (len(path.relative_to(out).parts) - 1) + "_static/fonts/"
        page = pages[path].replace("</head>", f"  {font_face(folder, name)}\n</head>", 1)
        path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", bring_font, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
