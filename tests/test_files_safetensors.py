"""The safetensors header: read strictly, written byte for byte as the library does."""

from __future__ import annotations

import ast
import io
import json
import math
import os
import pickle
import socket
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files_helpers import SMALL, entry, open_descriptors, raw_file

from quantrim.files import DTYPES, FormatError, TensorInfo, encode_header, read_header
from quantrim.files.disk.errors import quote
from quantrim.files.safetensors.header import HEADER_LIMIT
from quantrim.files.tensor_info import DIMS_LIMIT

ONE = {"a": entry("F32", [2], 0, 8)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refused(path: Path, data: bytes | None, *words: str) -> str:
    """The message of the FormatError that reading gives; it holds all `words` and is safe to print."""
    if data is not None:
        path.write_bytes(data)
    before = open_descriptors()
    with pytest.raises(FormatError) as caught:
        read_header(path)
    assert open_descriptors() == before
    message = str(caught.value)
    assert quote(path) in message
    assert message.isprintable() and len(message) < 2000
    for word in words:
        assert word in message
    return message


def test_reads_what_is_there(path: Path) -> None:
    path.write_bytes(SMALL)
    tensors, metadata = read_header(path)
    begin = len(SMALL) - 14
    assert metadata == {"format": "pt"}
    assert list(tensors) == ["a", "b\u00e9"]
    a, b = tensors.values()
    assert (a.dtype, a.shape, a.offset, a.nbytes, a.path) == ("F32", (2, 1), begin, 8, path)
    assert (b.numpy_dtype.name, b.size, b.offset, b.bits) == ("bfloat16", 3, begin + 8, 16)
    with pytest.raises(AttributeError):
        a.offset = 0  # type: ignore[misc]


def test_order_is_that_of_offsets(path: Path) -> None:
    header = {"z": entry("U8", [2], 1, 3), "y": entry("U8", [0, 9], 1, 1), "a": entry("U8", [1], 0, 1)}
    path.write_bytes(raw_file(header, b"abc"))
    assert list(read_header(path)[0]) == ["a", "y", "z"]


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((3,), (1, 3)),
        ((2, 3), (2, 3)),
        ((2, 3, 4), (2, 12)),
        ((2, 3, 64), (6, 64)),
        ((2, 3, 4, 5), (2, 60)),
        ((0, 3), (0, 3)),
    ],
)
def test_matrix_shape(path: Path, shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    count = math.prod(shape)
    path.write_bytes(raw_file({"a": entry("U8", shape, 0, count)}, bytes(count)))
    assert read_header(path)[0]["a"].matrix_shape == matrix


# What cannot be a file


@pytest.mark.promise("C50")
@pytest.mark.parametrize("size", range(8))
def test_too_short_for_a_length(path: Path, size: int) -> None:
    refused(path, bytes([8] * size), f"ends at byte {size}")


@pytest.mark.promise("C50")
def test_not_a_regular_file(tmp_path: Path, path: Path) -> None:
    refused(tmp_path, None, "not a directory")
    refused(Path("/dev/zero"), None, "not a character device")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", None, "not a FIFO")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        refused(tmp_path / "socket", None, "not a socket")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="link"):
        read_header(tmp_path / "link")


@pytest.mark.promise("C50")
def test_replaced_by_a_fifo_between_check_and_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL)
    fifo = path.with_name("fifo")
    os.mkfifo(fifo)
    real = os.open
    monkeypatch.setattr(os, "open", lambda _, *args, **kwargs: real(fifo, *args, **kwargs))
    refused(path, None, "not a FIFO")


@pytest.mark.promise("C50")
@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(ValueError, match="must be a path"):
        read_header(path)


@pytest.mark.promise("C51")
def test_truncated_at_every_byte(path: Path) -> None:
    for size in range(len(SMALL)):
        refused(path, SMALL[:size], f"file ends at byte {size}")
    refused(path, SMALL[:-1], "tensor 'b\u00e9'", f"needs byte {len(SMALL)}")


@pytest.mark.promise("C52")
@pytest.mark.parametrize("tail", [b"\0", b"PK\3\4", bytes(1000)])
def test_bytes_after_the_data(path: Path, tail: bytes) -> None:
    refused(path, SMALL + tail, f"{len(tail)} bytes follow", f"byte {len(SMALL)}")


def _zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, b"0" * 10_000)
    return file.getvalue()


OTHERS = {
    "GGUF": b"GGUF\3\0\0\0" + bytes(50),
    ".npz": _zip("arr_0.npy"),
    "a zip file": _zip("readme"),
    ".npy": b"\x93NUMPY\1\0" + bytes(100),
    "ONNX": b"\x08\x0a\x12\x07pytorch" + bytes(100),
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "web page": b"<!DOCTYPE html><html>404",
    "JSON": b'{"weight_map": {}}',
    "TFLite": b"\x1c\0\0\0TFL3" + bytes(40),
    "gzip": b"\x1f\x8b\x08\0" + bytes(20),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "zeros": bytes(64),
    "old ggml": b"lmgg" + bytes(64),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "a Keras file": _zip("config.json", "model.weights.h5"),
}


@pytest.mark.promise("C53", "fault-D9")
@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_named(path: Path, name: str) -> None:
    """As what they are; none of them is said to hold code."""
    message = refused(path, OTHERS[name], "looks like", name)
    assert "pickle" not in message and "(found" not in message


PICKLES = {
    "a pickle": pickle.dumps({"weight": [1.5] * 99}),
    "an old pickle": pickle.dumps({"weight": [1.5] * 99}, protocol=2),
    "a small pickle": pickle.dumps(1),
    "PyTorch": _zip("archive/data.pkl", "archive/data/0"),
}


@pytest.mark.promise("C54")
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_by_content(path: Path, name: str) -> None:
    refused(path, PICKLES[name], "looks like", "give it the suffix .pt or .pth")


@pytest.mark.promise("C54")
@pytest.mark.parametrize("suffix", [".pkl", ".PICKLE"])
def test_pickles_by_suffix(path: Path, suffix: str) -> None:
    refused(path.with_suffix(suffix), SMALL, "never opened")


@pytest.mark.promise("C54")
def test_a_header_length_that_begins_like_a_pickle(path: Path) -> None:
    header = json.dumps(ONE).encode().ljust(0x480)  # the file begins with 80 04
    path.write_bytes(raw_file(header, bytes(8)))
    assert list(read_header(path)[0]) == ["a"]


@pytest.mark.promise("C54")
def test_no_pickle_is_ever_imported() -> None:
    folder = Path(read_header.__code__.co_filename).parent
    modules: set[str] = set()
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(str(node.module).partition(".")[0])
    assert "json" in modules
    assert not modules & {"pickle", "marshal", "shelve", "mmap", "torch", "safetensors"}


# Names

NAMES = [
    "", ".", "..", "a/b", "../../x", "a\nb", "\x1b[31mred", "a\0b", "\u202egnp", "\ud7ff\U0001f600",
    "__metadata", " ", "x" * 1_000_000, "'", '"\\',
]  # fmt: skip


@pytest.mark.promise("C57")
@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_names_are_kept_and_escaped(path: Path, name: str) -> None:
    path.write_bytes(raw_file({name: entry("U8", [1], 0, 1)}, b"1"))
    assert list(read_header(path)[0]) == [name]
    refused(path, raw_file({name: entry("U8", [2], 0, 1)}, b"1"), quote(name))


@pytest.mark.promise("C58")
def test_the_same_name_twice(path: Path) -> None:
    one = json.dumps(entry("U8", [1], 0, 1))
    refused(path, raw_file(f'{{"q":{one},"q":{one}}}'.encode(), b"1"), "'q' twice")


@pytest.mark.promise("C59")
def test_names_that_look_equal_are_distinct(path: Path) -> None:
    names = ["\u00e9", "e\u0301", "A", "a"]
    header = {name: entry("U8", [1], at, at + 1) for at, name in enumerate(names)}
    path.write_bytes(raw_file(header, b"1234"))
    assert list(read_header(path)[0]) == names


Reader = Callable[[Path], tuple[dict[str, TensorInfo], dict[str, str]]]


def _seconds_to_read(path: Path, count: int, read: Reader) -> float:
    entries = (
        f'"model.layers.{i}.mlp.weight":{{"dtype":"F32","shape":[1,2],"data_offsets":[{8 * i},{8 * i + 8}]}}'
        for i in range(count)
    )
    head = f"{{{','.join(entries)}}}".encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + 8 * count)
    begin = time.process_time()
    assert len(read(path)[0]) == count
    return time.process_time() - begin


def _assert_linear(path: Path, count: int, read: Reader = read_header) -> None:
    """Ten times the tensors take some ten times as long, not a hundred times."""
    few = min(_seconds_to_read(path, count // 10, read) for _ in range(3))
    assert _seconds_to_read(path, count, read) < 30 * few


@pytest.mark.promise("C60")
def test_a_hundred_thousand_tensors_in_linear_time(path: Path) -> None:
    _assert_linear(path, 100_000)


@pytest.mark.promise("C60")
@pytest.mark.slow
def test_a_million_tensors_in_linear_time(path: Path) -> None:
    """2 s to read, where nothing else is at work."""
    _assert_linear(path, 1_000_000)


@pytest.mark.promise("C60")
def test_a_reader_that_compares_all_names_is_found(path: Path) -> None:
    def careless(source: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
        tensors, metadata = read_header(source)
        seen: list[str] = []
        for name in tensors:
            if name not in seen:
                seen.append(name)
        return tensors, metadata

    with pytest.raises(AssertionError):
        _assert_linear(path, 10_000, careless)


# The header


@pytest.mark.promise("C61")
@pytest.mark.parametrize("length", [0, 1, HEADER_LIMIT + 1, 2**31, 2**63, 2**63 - 8, 2**64 - 1, 2**64 - 8])
def test_header_length_out_of_range(path: Path, length: int) -> None:
    refused(path, raw_file(b"{}", length=length), "header's length", str(length))


@pytest.mark.promise("C61")
@pytest.mark.parametrize("length", [3, 10, HEADER_LIMIT])
def test_header_longer_than_the_file(path: Path, length: int) -> None:
    refused(path, raw_file(b"{}", length=length), "file ends at byte 10", str(8 + length))


@pytest.mark.promise("C61")
def test_refused_before_memory_is_taken(path: Path) -> None:
    path.write_bytes(raw_file(b"{}", length=HEADER_LIMIT + 1))
    os.truncate(path, 4 * HEADER_LIMIT)
    tracemalloc.start()
    try:
        refused(path, None, "header's length")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


BAD_JSON = {
    "not UTF-8": b'{"a\xff":1}',
    "not JSON": b"{a:1}",
    "must begin with": b"[]",
    "must begin with '{'": b' {"a":1}',
    "not JSON: Extra data": b"{}{}",
    "not JSON: Expecting": b"{" * 100,
    "lone surrogate": b'{"\\ud800":{}}',
    "lone surrogate in": b'{"__metadata__":{"a":"\\udc00\\ud800"}}',
    "NaN": b'{"a":NaN}',
    "-Infinity": b'{"a":[-Infinity]}',
    "1e400": b'{"a":1e400}',
    "500 digits": b'{"a":' + b"9" * 500 + b"}",
    "nested too deeply": b'{"a":' + b"[" * 1_000_000,
    "nested too deeply ": b'{"a":' * 1_000_000,
    "control character": b'{"a\n":1}',
    "must be an object": b'{"a":1}',
    "a tensor must be an object": b'{"a":["F32",[1],[0,4]]}',
    "data_offsets is missing": b'{"a":{"dtype":"F32","shape":[1]}}',
    "dtype is missing": b'{"a":{}}',
    "__metadata__ must be an object": b'{"__metadata__":[]}',
    "__metadata__ 'n' must be a string": b'{"__metadata__":{"n":1}}',
    "__metadata__ 'o' must be a string": b'{"__metadata__":{"o":null}}',
}


@pytest.mark.promise("C62")
@pytest.mark.parametrize("words", BAD_JSON)
def test_bad_json(path: Path, words: str) -> None:
    refused(path, raw_file(BAD_JSON[words]), words.rstrip())


@pytest.mark.promise("C62")
def test_unknown_fields_are_ignored_unless_they_nest(path: Path) -> None:
    path.write_bytes(raw_file({"a": ONE["a"] | {"note": "x", "n": -1.5}}, bytes(8)))
    assert list(read_header(path)[0]) == ["a"]
    refused(path, raw_file({"a": ONE["a"] | {"note": [[]]}}, bytes(8)), "'note' must not nest")


@pytest.mark.promise("C63")
@pytest.mark.parametrize(
    "header",
    [
        b'{"__metadata__":{"a":"1","a":"2"}}',
        b'{"__metadata__":{},"__metadata__":{}}',
        b'{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":1,"x":1}}',
    ],
)
def test_duplicate_keys(path: Path, header: bytes) -> None:
    refused(path, raw_file(header), "twice in one object")


BAD_OFFSETS = [
    "[8,0]", "[-8,0]", "[0,8.0]", '["0","8"]', "[0,8,8]", "[0]", "[]", "null", "{}", "8", "[true,8]",
    "[0,1e1]", "[-0,8]", "[0,18446744073709551616]", "[9223372036854775808,9223372036854775816]",
]  # fmt: skip


@pytest.mark.promise("C64")
@pytest.mark.parametrize("offsets", BAD_OFFSETS)
def test_bad_offsets(path: Path, offsets: str) -> None:
    text = f'{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}}}'
    refused(path, raw_file(text.encode(), bytes(8)), "tensor 'a'", "bad data_offsets", "allowed [begin, end]")


@pytest.mark.promise("C65")
def test_overlaps_and_holes(path: Path) -> None:
    cases = [(0, "overlaps tensor 'b'"), (4, "overlaps tensor 'a'"), (7, "overlaps"), (9, "a hole")]
    for begin, words in cases:
        header = ONE | {"b": entry("U8", [4], begin, begin + 4)}
        refused(path, raw_file(header, bytes(max(begin + 4, 8))), words)
    refused(path, raw_file({"a": entry("U8", [4], 1, 5)}, bytes(5)), "a hole")
    refused(path, raw_file(ONE | {"b": entry("U8", [0], 9, 9)}, bytes(9)), "a hole")
    refused(path, raw_file(ONE | {"b": entry("U8", [0], 9, 9)}, bytes(8)), "file ends")
    refused(path, raw_file(ONE | {"b": entry("U8", [0], 4, 4)}, bytes(8)), "overlaps")


@pytest.mark.promise("C66")
@pytest.mark.parametrize("dtype", ["I4", "f32", "", "F32 ", "BOOL\0", 1, None, ["F32"], {"a": 1}, True])
def test_unknown_dtype(path: Path, dtype: object) -> None:
    header = {"a": {"dtype": dtype, "shape": [2**62], "data_offsets": [0, 2**62]}}
    refused(path, raw_file(header, bytes(8)), "unknown dtype", "tensor 'a'", "BF16")


@pytest.mark.promise("C67")
@pytest.mark.parametrize("shape", [[2**32, 2**32], [2**62, 2], [0, 2**62, 4], [2**62, 4, 0], [2**61, 8], [2**31] * 8])
@pytest.mark.parametrize("dtype", ["U8", "F32", "F4"])
def test_shape_product_out_of_range(path: Path, shape: list[int], dtype: str) -> None:
    refused(path, raw_file({"a": entry(dtype, shape, 0, 0)}), "2^63-1 bits", "tensor 'a'")


@pytest.mark.promise("C67")
@pytest.mark.parametrize(
    "shape", ["[-1]", "[2.0]", '["2"]', "2", "null", "[true]", "[9223372036854775808]", "[[2]]", "[-0]"]
)
def test_bad_shape(path: Path, shape: str) -> None:
    text = f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}'
    refused(path, raw_file(text.encode(), bytes(8)), "tensor 'a'", "bad shape")


@pytest.mark.promise("C67")
def test_too_many_dimensions(path: Path) -> None:
    path.write_bytes(raw_file({"a": entry("U8", [1] * DIMS_LIMIT, 0, 1)}, b"1"))
    assert read_header(path)[0]["a"].size == 1
    refused(path, raw_file({"a": entry("U8", [1] * (DIMS_LIMIT + 1), 0, 1)}, b"1"), "bad shape")


@pytest.mark.promise("C68")
@pytest.mark.parametrize(("dtype", "shape"), [("F32", [3]), ("F32", [1]), ("U8", []), ("F16", [2, 2, 2]), ("U8", [0])])
def test_shape_and_range_disagree(path: Path, dtype: str, shape: list[int]) -> None:
    refused(path, raw_file({"a": entry(dtype, shape, 0, 8)}, bytes(8)), "data_offsets give 8", "tensor 'a'")


@pytest.mark.promise("C70")
@pytest.mark.parametrize(
    ("dtype", "count", "nbytes"), [("F4", 3, 1), ("F4", 3, 2), ("F6_E2M3", 2, 2), ("F6_E3M2", 5, 4)]
)
def test_packed_codes_that_end_inside_a_byte(path: Path, dtype: str, count: int, nbytes: int) -> None:
    refused(path, raw_file({"a": entry(dtype, [count], 0, nbytes)}, bytes(nbytes)), "not whole bytes")


@pytest.mark.promise("C70")
@pytest.mark.parametrize(("dtype", "shape", "nbytes"), [("F4", [2, 3], 3), ("F6_E2M3", [4], 3), ("F6_E3M2", [8], 6)])
def test_packed_codes_are_bytes(path: Path, dtype: str, shape: list[int], nbytes: int) -> None:
    path.write_bytes(raw_file({"a": entry(dtype, shape, 0, nbytes)}, bytes(nbytes)))
    tensor = read_header(path)[0]["a"]
    assert (tensor.nbytes, tensor.numpy_dtype.name, tensor.packed) == (nbytes, "uint8", True)


# Reading under faults


@pytest.mark.promise("D97")
def test_short_reads_and_interruptions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL)
    expected = read_header(path)
    real = os.preadv
    calls = 0

    def stutter(fd: int, views: list[memoryview], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise InterruptedError
        return real(fd, [views[0][:3]], offset)

    monkeypatch.setattr(os, "preadv", stutter)
    assert read_header(path) == expected
    assert calls > len(SMALL) / 3


@pytest.mark.promise("D96")
def test_a_read_error_names_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL)

    def fail(fd: int, views: list[memoryview], offset: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match="reading byte 0") as caught:
        read_header(path)
    assert (caught.value.errno, caught.value.filename) == (5, str(path))


@pytest.mark.promise("C55")
def test_file_shrinks_while_the_header_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(SMALL)
    real = os.preadv

    def shrink(fd: int, views: list[memoryview], offset: int) -> int:
        os.truncate(path, 20)
        return real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", shrink)
    refused(path, None, "byte 20: file ends at byte 20 now")


# Messages


@pytest.mark.promise("G21")
def test_errors_quote_what_they_are_about() -> None:
    error = FormatError("bad", path="a\nb", tensor="x\x1b" * 500, offset=7, found="\u202e", allowed="less")
    assert str(error).isprintable() and len(str(error)) < 400
    assert str(error).startswith("'a\\nb', tensor 'x\\x1b")
    assert str(error).endswith("byte 7: bad (found '\\u202e'; allowed less)")
    assert (error.path, error.offset) == ("a\nb", 7)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.offset) == (str(error), 7)
    assert str(FormatError("bad")) == "bad"


@pytest.mark.promise("G21")
def test_quote_cuts() -> None:
    assert quote("abc") == "'abc'"
    assert quote(Path("a b")) == "'a b'"
    assert quote("a" * 200) == f"'{'a' * 200}'"
    assert quote("a" * 201) == f"'{'a' * 200}...'"
    assert len(quote("\n" * 1000)) < 210
    assert len(quote([list(range(1000))] * 1000)) < 210


# The writer


def test_what_is_written_is_read(path: Path) -> None:
    entries = [(f"t{i}", dtype, (i, 4)) for i, dtype in enumerate(DTYPES)]
    head, offsets = encode_header(entries, {"k": "v"})
    end = max(end for _, end in offsets.values())
    path.write_bytes(head + bytes(end))
    tensors, metadata = read_header(path)
    assert metadata == {"k": "v"}
    assert {t.name: (t.dtype, t.shape) for t in tensors.values()} == {n: (d, s) for n, d, s in entries}
    assert {n: (t.offset - len(head), t.offset - len(head) + t.nbytes) for n, t in tensors.items()} == offsets
    assert all(t.offset * 8 % t.bits == 0 for t in tensors.values() if not t.packed), "tensors are aligned"


@pytest.mark.parametrize(
    ("entries", "metadata", "words"),
    [
        ([("a", "F32", [1]), ("a", "F16", [1])], None, "used once"),
        ([("__metadata__", "F32", [1])], {"a": "b"}, "not be '__metadata__'"),
        ([("__metadata__", "F32", [1])], None, "not be '__metadata__'"),
        ([("a", "I4", [1])], None, "must be one of BOOL"),
        ([("a", "F4", [3])], None, "not whole bytes"),
        ([("a", "F32", [-1])], None, "must be at most"),
        ([("a", "F32", [2**62, 4])], None, "2\\^63-1 bits"),
        ([("a", "F32", [1] * 33)], None, "must be at most"),
        ([("\ud800", "F32", [1])], None, "UTF-8"),
        ([], {"a": 1}, "must be a string"),
        ([("a" * HEADER_LIMIT, "U8", [1])], None, "use shards"),
    ],
)
def test_refuses_to_write_what_no_reader_accepts(entries: Any, metadata: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        encode_header(entries, metadata)


def test_types_of_entries() -> None:
    with pytest.raises(TypeError, match="must be a str, not int"):
        encode_header([(1, "F32", [1])])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        encode_header([("a", "F32", [1.0])])  # type: ignore[list-item]
    head, _ = encode_header([("a", "F32", np.array([2, 3]))])  # type: ignore[list-item]
    assert b'"shape":[2,3]' in head
    assert encode_header([("a", "F32", [1] * DIMS_LIMIT)])[1] == {"a": (0, 4)}


@pytest.mark.promise("fault-D23")
def test_a_shape_that_equals_another_is_checked_itself() -> None:
    """Shapes that tensors have in common are checked once; 1.0 is equal to 1 and no size."""
    one = (1,)
    assert len(encode_header([("a", "F32", one), ("b", "F16", one), ("c", "F32", (1,))])[1]) == 3
    with pytest.raises(TypeError, match="float"):
        encode_header([("a", "F32", one), ("b", "F32", (1.0,))])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="dtype of tensor 'b' must be one of"):
        encode_header([("a", "F32", one), ("b", "F99", one)])
    with pytest.raises(TypeError, match="must be a str, not int"):
        encode_header([("a", "F32", one), (1, "F32", one)])  # type: ignore[list-item]
