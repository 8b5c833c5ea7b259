"""Packages that may be missing: what needs them, and how they are installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

# What each is called, and the extra of attn-core that brings it; PyTorch comes without one.
_PACKAGES = {
    "torch": ("PyTorch", None),
    "matplotlib": ("Matplotlib", "plot"),
    "tqdm": ("tqdm", "training"),
    "tensorboard": ("TensorBoard", "training"),
    "babel": ("Babel", "data"),
    "tokenizers": ("tokenizers", "data"),
}


def is_installed(package: str) -> bool:
    """Whether a package could be imported; it is not."""
    try:
        return find_spec(package) is not None
    except ImportError:
        return False


def missing(what: str, package: str) -> str:
    """The message that something needs a package that is not installed."""
    name, extra = _PACKAGES[package]
    origin = f" (the extra attn-core[{extra}])" if extra else ""
    return (
        f"{what} needs {name}: pip install {package}{origin}. attn_core.reference needs NumPy only"
    )


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Import inside of it: an error then says what needs the package, and how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _PACKAGES:
            raise
        raise ImportError(missing(what, package), name=package) from error
