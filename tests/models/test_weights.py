import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from attn_core.data import pretrained
from attn_core.models.weights import load_weights, read_ctranslate2, read_safetensors

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
DTYPES += [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def test_safetensors_are_read_as_the_formats_own_library_reads_them(tmp_path):
    torch.manual_seed(0)
    tensors = {str(dtype): (torch.randn(3, 5) * 3).to(dtype) for dtype in DTYPES}
    tensors |= {"nothing": torch.empty(0, 4), "number": torch.tensor(7.5)}
    path = tmp_path / "all.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    expected = load_file(path)
    read = read_safetensors(path)
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_the_packaged_file_is_read_as_the_library_reads_it():
    path = pretrained.minilm_folder() / "model.safetensors"
    expected = load_file(path)
    read = read_safetensors(path)
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def with_header(header, rest=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "header"),
        (b"PK\x03\x04" + b"x" * 40, "header"),
        (with_header(b"{"), "header"),
        (with_header([1]), "header"),
        (with_header({"a": {"dtype": "F32"}}), "header"),
        (with_header({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}), "a as F4"),
        (
            with_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
            "4 bytes for a",
        ),
        (
            with_header({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"1" * 8),
            "8 bytes for a",
        ),
    ],
)
def test_what_is_no_safetensors_file_is_refused(content, says, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_safetensors(path)


def text(string):
    return struct.pack("<H", len(string) + 1) + string.encode() + b"\0"


def ctranslate2(variables, aliases=(), version=6):
    codes = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.float16: 4}
    parts = [struct.pack("<I", version), text("Kind"), struct.pack("<II", 3, len(variables))]
    for name, x in variables.items():
        numbers = x.numpy().tobytes()
        parts += [text(name), struct.pack(f"<B{x.ndim}I", x.ndim, *x.shape)]
        parts += [struct.pack("<BI", codes[x.dtype], len(numbers)), numbers]
    parts += [struct.pack("<I", len(aliases))]
    return b"".join(parts + [text(name) for pair in aliases for name in pair])


def test_ctranslate2_files_are_read_as_they_are_written(tmp_path):
    variables = {
        "encoder/weight": torch.randn(3, 5).half(),
        "encoder/heads": torch.tensor(6, dtype=torch.int16),
        "encoder/bias": torch.randn(7),
        "flag": torch.tensor(1, dtype=torch.int8),
        "ids": torch.arange(4, dtype=torch.int32),
    }
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2(variables, [("decoder/weight", "encoder/weight")]))
    read = read_ctranslate2(path)
    assert list(read) == [*variables, "decoder/weight"]
    for name, tensor in variables.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
    assert torch.equal(read["decoder/weight"], variables["encoder/weight"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no CTranslate2 file"),
        (ctranslate2({"a": torch.ones(3)}, version=5), "version 6, but of 5"),
        (ctranslate2({"a": torch.ones(3)})[:-8], "bytes for a"),
        (ctranslate2({"a": torch.ones(3)})[:-2], "no CTranslate2 file"),
        (ctranslate2({"a": torch.ones(3)}, [("b", "c")]), "no CTranslate2 file"),
    ],
)
def test_what_is_no_ctranslate2_file_is_refused(content, says, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_ctranslate2(path)


def test_weights_are_converted_to_the_models_dtype():
    layer = nn.Linear(2, 1)
    load_weights(layer, {"weight": torch.ones(1, 2).half(), "bias": torch.zeros(1).double()})
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(2)).item() == 2.0


def test_a_refused_load_leaves_the_model_as_it_was():
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    with pytest.raises(ValueError, match=r"missing \['bias'\], unexpected \['offset'\]"):
        load_weights(layer, {"weight": torch.ones(1, 2), "offset": torch.zeros(1)})
    assert torch.equal(layer.weight, before)
