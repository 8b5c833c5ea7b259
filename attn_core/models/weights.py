"""Files of trained weights, read with nothing but PyTorch, and put into a model without a rest."""

import json
import math
import struct
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from attn_core.checks import check_path

__all__ = ["load_weights", "read_ctranslate2", "read_safetensors"]

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CTRANSLATE2_DTYPES = {
    0: torch.float32,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.float16,
    5: torch.bfloat16,
}


def read_safetensors(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file.

    The file is the length of a header (8 bytes, little-endian), the header, which is JSON with the
    dtype, the shape and the place of every tensor, and then the numbers. No code is run.

    Args:
        path: the file.

    Returns:
        The tensors by name.

    Raises:
        ValueError: if the file is no such file, is cut off, or has a dtype that PyTorch has not.
        FileNotFoundError: if it is not there.
        TypeError: if ``path`` is no path.

    Source: the format's description in the library safetensors.

    Example:
        >>> from attn_core.data.pretrained import minilm_folder
        >>> tensors = read_safetensors(minilm_folder() / "model.safetensors")
        >>> tensors["pooler.dense.weight"].shape
        torch.Size([384, 384])
    """
    check_path("path", path)
    data = bytearray(Path(path).read_bytes())
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        places = {name: (e["dtype"], e["shape"], *e["data_offsets"]) for name, e in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} is no safetensors file: its header cannot be read") from None
    tensors = {}
    for name, (dtype, shape, first, end) in places.items():
        if dtype not in _SAFETENSORS_DTYPES:
            raise ValueError(f"{path} holds {name} as {dtype}, which cannot be read")
        numbers = memoryview(data)[8 + size + first : 8 + size + end]
        tensors[name] = _tensor(path, name, numbers, _SAFETENSORS_DTYPES[dtype], shape, end - first)
    return tensors


def read_ctranslate2(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the variables of a ``model.bin`` file of CTranslate2.

    After a version, the name of the model's kind and its revision, it holds every variable as its
    name, its shape, a number that stands for the dtype, and its bytes, all little-endian; then
    other names under which a variable is known too.

    Args:
        path: the file.

    Returns:
        The variables by name; settings such as ``decoder/num_heads`` are tensors without
        dimensions.

    Raises:
        ValueError: if the file is no such file, or is cut off.
        FileNotFoundError: if it is not there.
        TypeError: if ``path`` is no path.

    Source: the C++ and Python code of CTranslate2 that reads and writes it, version 6.

    Example:
        >>> from attn_core.data.pretrained import whisper_folder
        >>> variables = read_ctranslate2(whisper_folder() / "model.bin")
        >>> int(variables["decoder/num_heads"]), variables["encoder/conv1/weight"].shape
        (6, torch.Size([384, 80, 3]))
    """
    check_path("path", path)
    data = bytearray(Path(path).read_bytes())
    position = 0

    def take(code: str) -> tuple[int, ...]:
        nonlocal position
        numbers = struct.unpack_from(f"<{code}", data, position)
        position += struct.calcsize(f"<{code}")
        return numbers

    def take_text() -> str:
        nonlocal position
        (length,) = take("H")
        text = data[position : position + length].rstrip(b"\0").decode()
        position += length
        return text

    try:
        (version,) = take("I")
        if version != 6:
            raise ValueError(f"{path} is no CTranslate2 file of version 6, but of {version}")
        take_text(), take("I")  # the kind of model, and its revision
        tensors = {}
        for _ in range(*take("I")):
            name = take_text()
            shape = take(f"{take('B')[0]}I")
            dtype, size = take("B")[0], take("I")[0]
            numbers = memoryview(data)[position : position + size]
            tensors[name] = _tensor(path, name, numbers, _CTRANSLATE2_DTYPES[dtype], shape, size)
            position += size
        for _ in range(*take("I")):
            other_name, name = take_text(), take_text()
            tensors[other_name] = tensors[name]
    except (struct.error, UnicodeDecodeError, KeyError):
        raise ValueError(f"{path} is no CTranslate2 file, or is cut off") from None
    return tensors


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters of a model: all of them, into all of them.

    Args:
        model: whose parameters, and buffers, are overwritten.
        tensors: one for each, by the same name; they are converted to the model's dtype.

    Raises:
        ValueError: if one is missing or too many, or has another shape; the message names them.
        TypeError: if ``model`` is no module, or ``tensors`` no dict of tensors.

    Source: :meth:`torch.nn.Module.load_state_dict`, which does the copying.

    Example:
        >>> from torch import nn
        >>> load_weights(nn.Linear(1, 1), {"weight": torch.ones(1, 1)})
        Traceback (most recent call last):
        ValueError: the weights do not fit Linear: missing ['bias'], unexpected [], other shapes []
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got {type(model).__name__}")
    if not isinstance(tensors, Mapping):
        raise TypeError(f"tensors must be a dict of tensors, got {type(tensors).__name__}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(tensor).__name__}")
    expected = model.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.keys())
        if tensors[name].shape != expected[name].shape
    ]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"the weights do not fit {type(model).__name__}: missing {missing}, "
            f"unexpected {unexpected}, other shapes {reshaped}"
        )
    model.load_state_dict(tensors)


def _tensor(
    path: str | PathLike[str],
    name: str,
    numbers: memoryview,
    dtype: torch.dtype,
    shape: tuple[int, ...] | list[int],
    size: int,
) -> Tensor:
    if len(numbers) != size or size != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{path} holds {len(numbers)} bytes for {name}, which is {dtype} {tuple(shape)}"
        )
    if not size:
        return torch.empty(tuple(shape), dtype=dtype)
    # A copy, because the numbers of a file may begin anywhere and a tensor's may not.
    return torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(tuple(shape))
