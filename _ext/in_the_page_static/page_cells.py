"""Which cells of a chapter run in the page, and which ones a cell needs.

The build asks `verdicts`, to know where a control stands. The page asks `needed`, with the
reader's own code.
"""

import ast
import builtins
import json
import re
from pathlib import Path

from cell_names import HARMLESS, SETTING, names_of

# What a browser lacks, and what a reader is told. The build adds absent.json: the names of
# attn_core that need one of these.
ABSENT = {
    "torch": "PyTorch",
    "keras": "Keras",
    "tensorflow": "TensorFlow",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "sacrebleu": "sacreBLEU",
    "jieba": "jieba",
    "onnx": "ONNX",
    "babel": "Babel",
    "tqdm": "tqdm",
    "IPython": "a notebook",
    "experiments": "the book's experiments",
    "subprocess": "another process",
    "multiprocessing": "another process",
    "attn_core.data": "the book's data packages",
}
_of_the_package = Path(__file__).with_name("absent.json")
if _of_the_package.exists():
    ABSENT |= json.loads(_of_the_package.read_text())

CHINESE = re.compile("[\u2e80-\u9fff\uff00-\uffef]")  # its font is a data package
PROVIDED = {*dir(builtins), "__name__"}


def missing(name: str) -> str | None:
    """What a dotted name needs that the page lacks, in words; None if it lacks nothing."""
    parts = name.split(".")
    homes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((ABSENT[home] for home in homes if home in ABSENT), None)


def verdicts(sources: list[str]) -> list[str | None]:
    """Why each cell cannot run in the page, in a sentence for its reader; None if it can."""
    imports: dict[str, str] = {}  # by the bound name, the dotted name
    lost: dict[str, str] = {}  # names that only cells outside the page give, and what they need
    known: set[str] = set()
    random: set[str] = set()
    found: list[str | None] = []
    for source in sources:
        names = names_of(source)
        bound = names.binds | names.may_bind
        imports |= names.imports
        used = {imports[name] for name in names.loads & imports.keys()}
        for dotted in names.dotted - HARMLESS:
            root, _, rest = dotted.partition(".")
            used |= {f"{imports[root]}.{rest}"} if root in imports else set()
        needs = sorted(need for need in map(missing, used) if need)
        if names.tensors - imports.keys():
            needs.append(ABSENT["torch"])
        if CHINESE.search(source) and names.loads & {"plt", "plot"}:
            needs.append(ABSENT["attn_core.data"])
        leans = sorted(lost[name] for name in names.reads & lost.keys())
        unknown = sorted(names.reads - known - PROVIDED)
        if needs:
            found.append(f"This cell needs {needs[0]}.")
        elif leans:
            found.append(f"This cell builds on one that needs {leans[0]}.")
        elif unknown:
            found.append(f"This cell needs {unknown[0]}.")
        else:
            found.append(None)
        random = _random(random, source)
        for name in bound:
            lost.pop(name, None)
            if name not in names.imports:
                imports.pop(name, None)
        if found[-1]:  # its imports are had: preamble
            touched = (bound | names.changes | (names.reads & random)) - names.imports.keys()
            lost |= dict.fromkeys(touched, next(iter(needs or leans or unknown)))
        known |= bound
    return found


def preamble(source: str) -> str:
    """What the page can take from a cell that it cannot run: its imports and settings."""
    kept = []
    for node in ast.parse(source).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in SETTING
        ):
            kept.append(ast.unparse(node))
    return "\n".join(kept)


def needed(sources: list[str | None], target: int) -> list[int]:
    """The cells above the target that have to run before it, in order.

    Of a cell that cannot run stands its preamble here, or None.
    """
    above = sources[:target]
    bodies: dict[str, set[str]] = {}
    random: set[str] = set()
    for source in above:
        bodies |= names_of(source or "").bodies
        random = _random(random, source or "")
    wanted = _with_bodies(names_of(sources[target] or "").reads, bodies)
    first = next((i for i, source in enumerate(above) if source), None)
    chosen: list[int] = []
    for index in reversed(range(target)):
        if not above[index]:
            continue
        names = names_of(above[index])
        gives = names.binds | names.may_bind | names.changes | (names.reads & random)
        touched = wanted | random if wanted & random else wanted
        if index == first or names.sets or gives & touched:
            chosen.append(index)
            wanted = _with_bodies((wanted - names.binds) | names.reads, bodies)
    return chosen[::-1]


def _random(random: set[str], source: str) -> set[str]:
    """The random generators after a cell, and the functions that draw from one."""
    names = names_of(source)
    random = (random - names.binds) | names.generators
    for name, read in names.bodies.items():
        random |= {name} if read & random else set()
    return random


def _with_bodies(wanted: set[str], bodies: dict[str, set[str]]) -> set[str]:
    """The names, and what the functions among them read when they are called."""
    found, new = set(wanted), set(wanted)
    while new:
        new = set().union(*(bodies.get(name, set()) for name in new)) - found
        found |= new
    return found
