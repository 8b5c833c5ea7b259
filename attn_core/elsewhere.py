"""Where a name lives that somebody looks for at the top of the package."""

import re
from pathlib import Path


def homes_of(name: str) -> list[str]:
    """The modules of the package that give away this name.

    They are read, not imported: that would cost seconds, and need PyTorch.

    Args:
        name: of a class or a function.

    Returns:
        What to import it from; empty if the package has no such name.

    Source: the package's own files.

    Example:
        >>> homes_of("softmax")
        ['attn_core.normalizers', 'attn_core.reference']
        >>> homes_of("GPT")
        ['attn_core.models.gpt']
    """
    root = Path(__file__).parent
    listed = re.compile(rf'^__all__ = \[[^\]]*"{re.escape(name)}"', re.M)
    defined = re.compile(rf"^(?:class|def) {re.escape(name)}\b", re.M)
    lists_no_names = {root / "training.py", *root.glob("models/*.py"), *root.glob("data/*.py")}
    homes: list[str] = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text("utf-8")
        is_here = listed.search(text) or (path in lists_no_names and defined.search(text))
        home = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        home = home.removesuffix(".__init__")
        is_part = any(home.startswith(f"{outer}.") for outer in homes)
        if is_here and not is_part and not home.endswith("__main__"):
            homes.append(home)
    return homes
