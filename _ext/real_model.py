"""The panel that runs a trained model in the page: its script, and the weights that it loads."""

import hashlib
import shutil
from pathlib import Path

from in_the_page import SITE
from sphinx.application import Sphinx

MODEL = Path(__file__).resolve().parents[1] / "_vendor" / "model" / "minilm.npz"
MARK = 'class="real-model"'  # a page with this element gets the panel


def folder_of_model() -> str:
    return f"{SITE}/model-{hashlib.sha256(MODEL.read_bytes()).hexdigest()[:8]}"


def bring_panel(app: Sphinx, page: str, _: str, context: dict, doctree: object) -> None:
    """Some kilobytes of script and style; the weights wait for the reader."""
    if MARK not in context.get("body", "") or not app.page_pyodide:
        return

    def address(of: str) -> str:
        return context["pathto"](of, resource=True)

    about = 'data-model="" data-bytes="0"'
    if MODEL.exists():
        file = address(f"{folder_of_model()}/{MODEL.name}")
        about = f'data-model="{file}" data-bytes="{MODEL.stat().st_size}"'
        app.has_panel = True
    folder = address(f"{SITE}/{app.page_folder}")
    head = [f'<link rel="stylesheet" href="{folder}/model.css">']
    head.append(f'<script defer src="{folder}/model.js" {about}></script>')
    context["metatags"] = "\n".join([context.get("metatags") or "", *head])


def bring_weights(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and getattr(app, "has_panel", False):
        target = Path(app.outdir) / folder_of_model()
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODEL, target)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("html-page-context", bring_panel, priority=600)  # after in_the_page
    app.connect("build-finished", bring_weights, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
