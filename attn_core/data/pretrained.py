"""Trained weights from data packages, and the tokenizers that belong to them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from attn_core.data import packages
from attn_core.extras import needed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2, for `attn_core.models.bert.BERT.from_safetensors`.

    Returns:
        Its path; `model.safetensors`, `config.json` and `tokenizer.json` are in it.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> sorted(path.name for path in minilm_folder().iterdir())
        ['config.json', 'model.safetensors', 'tokenizer.json']
    """
    return packages.files(packages.MINILM.name, r"/model\.safetensors$")[0].parent


def minilm_tokenizer() -> Tokenizer:
    """The tokenizer of all-MiniLM-L6-v2: lower-case pieces of words, `[CLS]` before, `[SEP]` after.

    It cuts nothing off and pads nothing; `tokenizers.Tokenizer` says how to make it do both.

    Returns:
        A tokenizer of the library `tokenizers`.

    Raises:
        MissingDataError: the package is not installed.
        ImportError: the library tokenizers is not installed.

    Example:
        >>> minilm_tokenizer().encode("Attention!").tokens
        ['[CLS]', 'attention', '!', '[SEP]']
    """
    tokenizer = _tokenizer(minilm_folder())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def minilm_arrays(folder: Path | None = None) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """The weights of all-MiniLM-L6-v2 as NumPy arrays, for `attn_core.reference.bert`.

    The pooler, which the sentence's vector does not use, is left out.

    Args:
        folder: where `model.safetensors`, `config.json` and `tokenizer.json` lie; by default in
            the data package.

    Returns:
        The arrays by the names of `attn_core.models.bert.BERT`, and the tokens in the order of
        their numbers.

    Raises:
        MissingDataError: no folder is given, and the package is not installed.

    Example:
        >>> arrays, tokens = minilm_arrays()
        >>> arrays["token_embedding.weight"].shape, tokens[101]
        ((30522, 384), '[CLS]')
    """
    from attn_core.models.bert import BERT

    folder = folder or minilm_folder()
    model = BERT.from_safetensors(folder)
    arrays = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    arrays = {name: array for name, array in arrays.items() if not name.startswith("pooler.")}
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    numbers: dict[str, int] = described["model"]["vocab"]
    return arrays, sorted(numbers, key=numbers.__getitem__)


def minilm_rounded() -> Path:
    """The file of all-MiniLM-L6-v2 with its matrices rounded to 8 bits, made the first time.

    It is the file that the book's page loads; `attn_core.reference.load_rounded` reads it.

    Returns:
        Its path, beside the data packages.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> minilm_rounded().stat().st_size < 25_000_000
        True
    """
    from attn_core.reference import rounding

    code = Path(rounding.__file__).read_bytes() + Path(__file__).read_bytes()
    version = hashlib.sha256(packages.REQUIREMENTS.read_bytes() + code).hexdigest()[:12]
    path = packages.data_folder() / "cache" / f"minilm-{version}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False, suffix=".part") as part:
            rounding.save_rounded(part.name, *minilm_arrays())
        os.replace(part.name, path)
        for stale in set(path.parent.glob("minilm-*.npz")) - {path}:
            with contextlib.suppress(OSError):
                stale.unlink()
    return path


def whisper_folder() -> Path:
    """The folder of Whisper tiny.en, for `attn_core.models.whisper.Whisper.from_ctranslate2`.

    Returns:
        Its path; `model.bin`, `config.json` and `tokenizer.json` are in it.

    Raises:
        MissingDataError: the package is not installed.

    Example:
        >>> sorted(path.name for path in whisper_folder().iterdir())
        ['config.json', 'model.bin', 'tokenizer.json']
    """
    return packages.files(packages.WHISPER.name, r"/model\.bin$")[0].parent


def whisper_tokenizer() -> Tokenizer:
    """The tokenizer of Whisper tiny.en, for its numbers and back.

    Returns:
        A tokenizer of the library `tokenizers`; `decode` leaves the special tokens out.

    Raises:
        MissingDataError: the package is not installed.
        ImportError: the library tokenizers is not installed.

    Example:
        >>> tokenizer = whisper_tokenizer()
        >>> tokenizer.decode(tokenizer.encode(" Attention, please.").ids)
        ' Attention, please.'
        >>> tokenizer.token_to_id("<|startoftranscript|>")
        50257
    """
    return _tokenizer(whisper_folder())


def _tokenizer(folder: Path) -> Tokenizer:
    with needed("text to tokens"):
        from tokenizers import Tokenizer
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
