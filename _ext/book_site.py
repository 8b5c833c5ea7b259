"""What the built pages need beyond the theme: no third party, accessible names, linked types."""

import re
from functools import partial
from pathlib import Path

from docutils import nodes
from docutils.nodes import Element, TextElement
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

PYTHON = "https://docs.python.org/3/library/"
NUMPY = "https://numpy.org/doc/stable/reference/"
TORCH = "https://docs.pytorch.org/docs/stable/"
MATPLOTLIB = "https://matplotlib.org/stable/api/"
TOKENIZERS = "https://huggingface.co/docs/tokenizers/api/"

# Where the types in our signatures are documented. A table instead of intersphinx, which would
# ask four sites for their inventories whenever the book is built.
DOCUMENTED_AT = {
    "bool": PYTHON + "functions.html#bool",
    "float": PYTHON + "functions.html#float",
    "int": PYTHON + "functions.html#int",
    "object": PYTHON + "functions.html#object",
    "dict": PYTHON + "stdtypes.html#dict",
    "list": PYTHON + "stdtypes.html#list",
    "set": PYTHON + "stdtypes.html#set",
    "str": PYTHON + "stdtypes.html#str",
    "tuple": PYTHON + "stdtypes.html#tuple",
    "None": PYTHON + "constants.html#None",
    "IndexError": PYTHON + "exceptions.html#IndexError",
    "FileNotFoundError": PYTHON + "exceptions.html#FileNotFoundError",
    "ImportError": PYTHON + "exceptions.html#ImportError",
    "KeyError": PYTHON + "exceptions.html#KeyError",
    "RuntimeError": PYTHON + "exceptions.html#RuntimeError",
    "TypeError": PYTHON + "exceptions.html#TypeError",
    "ValueError": PYTHON + "exceptions.html#ValueError",
    "Any": PYTHON + "typing.html#typing.Any",
    "Literal": PYTHON + "typing.html#typing.Literal",
    "NamedTuple": PYTHON + "typing.html#typing.NamedTuple",
    "Callable": PYTHON + "collections.abc.html#collections.abc.Callable",
    "Collection": PYTHON + "collections.abc.html#collections.abc.Collection",
    "Iterable": PYTHON + "collections.abc.html#collections.abc.Iterable",
    "Iterator": PYTHON + "collections.abc.html#collections.abc.Iterator",
    "Mapping": PYTHON + "collections.abc.html#collections.abc.Mapping",
    "Sequence": PYTHON + "collections.abc.html#collections.abc.Sequence",
    "Path": PYTHON + "pathlib.html#pathlib.Path",
    "date": PYTHON + "datetime.html#datetime.date",
    "PathLike": PYTHON + "os.html#os.PathLike",
    "ndarray": NUMPY + "generated/numpy.ndarray.html",
    "ArrayLike": NUMPY + "typing.html#numpy.typing.ArrayLike",
    "NDArray": NUMPY + "typing.html#numpy.typing.NDArray",
    "Tensor": TORCH + "tensors.html#torch.Tensor",
    "device": TORCH + "tensor_attributes.html#torch.device",
    "dtype": TORCH + "tensor_attributes.html#torch.dtype",
    "Module": TORCH + "generated/torch.nn.Module.html",
    "Optimizer": TORCH + "optim.html#torch.optim.Optimizer",
    "torch.nn.modules.transformer.TransformerEncoder": TORCH
    + "generated/torch.nn.TransformerEncoder.html",
    "torch.nn.modules.transformer.TransformerDecoder": TORCH
    + "generated/torch.nn.TransformerDecoder.html",
    "BlockMask": TORCH
    + "nn.attention.flex_attention.html#torch.nn.attention.flex_attention.BlockMask",
    "torch._C.Generator": TORCH + "generated/torch.Generator.html",
    "numpy.random._generator.Generator": NUMPY + "random/generator.html",
    "Axes": MATPLOTLIB + "_as_gen/matplotlib.axes.Axes.html",
    "Figure": MATPLOTLIB + "_as_gen/matplotlib.figure.Figure.html",
    "FontProperties": MATPLOTLIB + "font_manager_api.html#matplotlib.font_manager.FontProperties",
    "Tokenizer": TOKENIZERS + "tokenizer",
}


def forget_thebe(app: Sphinx, _: Config) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book always loads: it names a CDN on every page."""
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            if listener.handler.__module__.split(".")[0] == "sphinx_thebe":
                app.disconnect(listener.id)
    app.registry.css_files[:] = [c for c in app.registry.css_files if c[0] != "sphinx-thebe.css"]


def hide_dead_buttons(app: Sphinx, config: Config) -> None:
    """Without a public address there is nothing that Colab, Binder or a repository button opens."""
    options = config["html_theme_options"]
    if not options.get("repository_url"):
        options["launch_buttons"] = {}
        options["use_repository_button"] = False


def show_one_signature(app: Sphinx) -> None:
    """Autodoc prints every overload of a function; they differ in one argument."""
    for module in ("attn_core.attend", "attn_core.reference.attend"):
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        analyzer.overloads.clear()


def shorten_array_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returned: str
) -> tuple[str, str]:
    """`NDArray` is an alias, and autodoc prints what it stands for."""
    array = r"~numpy\.ndarray\[tuple\[~typing\.Any, \.\.\.\], ~numpy\.dtype\[~typing\.Any\]\]"
    shorten = partial(re.sub, array, "~numpy.typing.NDArray")
    return shorten(signature or ""), shorten(returned or "")


def link_to_documentation(
    app: Sphinx, env: BuildEnvironment, node: Element, content: TextElement
) -> nodes.reference | None:
    """A link to the documentation of a type of Python, NumPy, PyTorch or matplotlib."""
    target = node.get("reftarget", "")
    address = DOCUMENTED_AT.get(target) or DOCUMENTED_AT.get(target.rpartition(".")[2])
    if address is None and target.startswith(("torch.", "numpy.")):
        address = (TORCH if target.startswith("torch.") else NUMPY) + f"generated/{target}.html"
    if node.get("refdomain") != "py" or address is None:
        return None
    return nodes.reference("", "", content, internal=False, refuri=address)


# What axe-core finds in the theme's pages, each with its remedy.
REMEDIES = [
    # in the list of modules, a list of submodules stands in a list, not in one of its items
    (r"</li>\n<ul><li>", "</li>\n<li><ul><li>"),
    (r"</ul><li>", "</ul></li><li>"),
    # a control's name must contain the text that it shows
    (r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1"),
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    # everything on a page belongs to a landmark
    (
        r'<div class="sidebar-primary-item">(\s*<a class="navbar-brand logo")',
        r'<div class="sidebar-primary-item" role="navigation" aria-label="Home">\1',
    ),
    # the control that unfolds the pages below a page shows an icon alone
    (r'<summary>(<span class="toctree-toggle")', r'<summary aria-label="Pages below">\1'),
    # Markdown has no table without a header row, and no empty corner
    (r'<thead>\s*<tr class="row-odd">(?:<th class="head"><p></p></th>\s*)+</tr>\s*</thead>', ""),
    (r'<th class="head"><p></p></th>', '<td class="head"></td>'),
    # roles of the bibliography that have become obsolete
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r' role="doc-biblioentry"', ""),
]


def mend_pages(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = page = path.read_text(encoding="utf-8")
        for pattern, replacement in REMEDIES:
            page = re.sub(pattern, replacement, page)
        if page != before:
            path.write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", hide_dead_buttons)
    app.connect("config-inited", forget_thebe)
    app.connect("builder-inited", show_one_signature)
    app.connect("autodoc-process-signature", shorten_array_types)
    app.connect("missing-reference", link_to_documentation)
    app.connect("build-finished", mend_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
