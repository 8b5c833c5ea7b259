"""Trained weights from data packages, and the tokenizers that belong to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attn_core.data import packages

if TYPE_CHECKING:
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
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError("text to tokens needs tokenizers: pip install tokenizers") from error
    return Tokenizer.from_file(str(folder / "tokenizer.json"))
