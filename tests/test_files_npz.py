"""numpy's files: what numpy and zipfile write is read, what is written they read, and nothing is unpickled."""

from __future__ import annotations

import io
import itertools
import json
import struct
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import floats, open_descriptors, refused_by

from quantrim.files import DTYPES, AtomicFile, FormatError, open_checkpoint, writer_for
from quantrim.files.disk import source_file
from quantrim.files.npz import reader, writer
from quantrim.files.npz.crc32 import Pieces, combined
from quantrim.files.tensor_info import WORDS

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.npz"


def write(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None, piece: int = 1 << 20) -> None:
    """Write arrays in pieces, the last piece first."""
    entries = [(name, WORDS[a.dtype], a.shape) for name, a in arrays.items()]
    made = writer_for(path)(entries, metadata or {})
    with AtomicFile(path, made.size) as out:
        made.attach(out)
        for name, a in arrays.items():
            raw = a.tobytes()
            for begin in reversed(range(0, len(raw), piece)):
                made.write(name, raw[begin : begin + piece], begin)
        made.finish()


def refused(path: Path, *words: str) -> None:
    """Opening, or reading all, is refused."""
    refused_by(read_checkpoint, path, *words)


def read_checkpoint(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint:
            checkpoint.read(name)


# Reading

RNG = np.random.default_rng(7)
KINDS: Arrays = {
    "matrix": floats(40, 30),
    "fortran": np.asfortranarray(floats(40, 30)),
    "fortran 3": np.asfortranarray(floats(5, 6, 7)),
    "fortran 4": np.asfortranarray(RNG.integers(0, 2**60, (3, 4, 1, 5))),
    "fortran vector": np.asfortranarray(floats(9)),
    "fortran half": np.asfortranarray(floats(17, 9).astype(np.float16)),
    "big": floats(40, 30).astype(">f4"),
    "big fortran": np.asfortranarray(floats(40, 30).astype(">f8")),
    "big complex": (floats(6) + 1j * floats(6)).astype(">c8"),
    "bool": np.array([[True, False, True]]),
    "big bytes": np.arange(5, dtype=">u1"),
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 4), np.float16),
    "empty fortran": np.asfortranarray(np.zeros((4, 0, 3), np.float16)),
    "bfloat16": floats(8, 3).astype(ml_dtypes.bfloat16),
    "float8": floats(8).astype(ml_dtypes.float8_e5m2),
    "sub/dir": np.arange(4, dtype=np.int8),
    "\u00e9": np.arange(4, dtype=np.uint64),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("strip", [64 << 20, 400])
def test_what_numpy_saves(path: Path, save: Any, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_STRIP", strip)
    save(path, **KINDS)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint) == list(KINDS) and not checkpoint.is_folder and not checkpoint.metadata
        for name, a in KINDS.items():
            expected = np.ascontiguousarray(a.astype(a.dtype.newbyteorder("="))).reshape(a.shape)
            found = checkpoint[name]
            assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, a.shape, expected.tobytes()), name
            label, nbytes = checkpoint.storage_of(name)
            assert label == WORDS[expected.dtype] + " deflated" * (save is np.savez_compressed)
            assert nbytes == a.nbytes or save is np.savez_compressed
            raw = expected.tobytes()
            for begin, end in RNG.integers(0, len(raw) + 1, (20, 2)):
                assert checkpoint.raw(name, begin, max(begin, end)) == raw[begin : max(begin, end)], name
        checkpoint.check_unchanged()
        path.touch()
        with pytest.raises(FormatError, match="changed while it was being read"):
            checkpoint.check_unchanged()


@pytest.mark.promise("C89")
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_versions_of_npy(tmp_path: Path, version: Any) -> None:
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, floats(3, 5), version=version)
    with open_checkpoint(path) as checkpoint:
        np.testing.assert_array_equal(checkpoint["array"], floats(3, 5))
        assert checkpoint.storage_of("array") == ("F32", 60)


def test_a_file_without_a_suffix_is_read_as_what_it_is(path: Path) -> None:
    np.savez(path, a=floats(3))
    np.save(path.with_suffix(".npy"), floats(3))
    for known in (path, path.with_suffix(".npy")):
        with open_checkpoint(known.rename(path.parent / "blob")) as checkpoint:
            np.testing.assert_array_equal(checkpoint[next(iter(checkpoint))], floats(3))
    np.savez(path, a=floats(3))
    refused(path.rename(path.with_suffix(".safetensors")), "looks like an .npz file", "give it the suffix .npz")


@pytest.mark.promise("G12")
def test_compressed_arrays_need_little_memory(path: Path) -> None:
    """Of 48 MB, in any order; each read goes on at a place near it."""
    data = np.arange(12 << 20, dtype=np.uint32) // 5
    np.savez_compressed(path, a=data, b=data[:100], c=np.asfortranarray(data[: 1 << 20].reshape(1024, 1024)))
    raw = data.tobytes()
    with open_checkpoint(path) as checkpoint:
        tracemalloc.start()
        try:
            for begin in [*range(0, len(raw), 4 << 20), *RNG.integers(0, len(raw) - 1000, 20)]:
                assert checkpoint.raw("a", begin, begin + 1000) == raw[begin : begin + 1000]
                checkpoint.raw("b", 8, 16)
            assert tracemalloc.get_traced_memory()[1] < 6 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.promise("E109")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_threads_read_at_once(path: Path, save: Any) -> None:
    arrays = {f"t{k}": floats(300, 100 + k) for k in range(6)}
    save(path, **arrays)
    wrong: list[str] = []
    with open_checkpoint(path) as checkpoint:

        def read(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for name in rng.permutation([*arrays] * 10):
                first = int(rng.integers(300))
                if checkpoint.rows(name, first, 300 - first).tobytes() != arrays[name][first:].tobytes():
                    wrong.append(name)

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_many_files_are_read_without_keeping_them_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_file, "KEPT_OPEN", threading.Semaphore(0))
    np.savez_compressed(path, a=floats(3))
    before = open_descriptors()
    with open_checkpoint(path) as checkpoint:
        assert open_descriptors() == before
        np.testing.assert_array_equal(checkpoint["a"], floats(3))


# What is refused


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


REFUSED_ARRAYS: dict[str, Any] = {
    "holds Python objects, which are a pickle": np.array([Evil()], object),
    "not of records with fields": np.zeros(3, [("a", "f4")]),
    "must be an array of numbers (found '<U3')": np.array(["abc"]),
    "must be an array of numbers (found '<M8[s]')": np.zeros(3, "M8[s]"),
    "of a dtype that quantrim has (found '<c16')": np.zeros(3, complex),
    "of 1 bytes each, it does not say of what (found '<V1')": np.zeros(3, ml_dtypes.float8_e4m3fn),
    "of 3 bytes each, it does not say of what (found '|V3')": np.zeros(3, "V3"),
}


@pytest.mark.promise("C54", "C87")
@pytest.mark.parametrize("said", REFUSED_ARRAYS)
def test_arrays_of_other_things(path: Path, said: str) -> None:
    np.savez(path, fine=floats(3), bad=REFUSED_ARRAYS[said])
    refused(path, "'bad'", said)
    np.save(path.with_suffix(".npy"), REFUSED_ARRAYS[said])
    refused(path.with_suffix(".npy"), "'array'", said)


def npy(text: str | bytes, data: bytes = b"", version: bytes = b"\1\0", length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    count = len(raw) if length is None else length
    return b"\x93NUMPY" + version + count.to_bytes(2 if version == b"\1\0" else 4, "little") + raw + data


def header(descr: str = "'<f4'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def npy_of_json(value: Any) -> bytes:
    raw = json.dumps(value).encode()
    return npy(header("'|u1'", shape=f"({len(raw)},)"), raw)


BAD_NPY = {
    "be a dictionary": npy(header("__import__('os').system('false')"), bytes(8)),
    "be a dictionary ": npy("[1]", bytes(8)),
    "be a dictionary  ": npy("{'descr': '<f4', 'fortran_order': False, 'fortran_order': False}", bytes(8)),
    "be a dictionary   ": npy(header()[:-1] + "'shape': (2,)}", bytes(8)),
    "be a dictionary    ": npy(header() + ";" + header(), bytes(8)),
    "be a dictionary     ": npy("(" * 9000, bytes(8)),
    "be a dictionary      ": npy(b"{'descr': '\xff'", bytes(8), b"\3\0"),
    "be a dictionary       ": npy(header(shape="(2L,)"), bytes(8)),
    "shape must be a tuple": npy(header(shape="(-1,)"), bytes(8)),
    "shape must be a tuple ": npy(header(shape="(2.0,)"), bytes(8)),
    "shape must be a tuple  ": npy(header(shape="(True,)"), bytes(8)),
    "shape must be a tuple   ": npy(header(shape="2"), bytes(8)),
    "shape must be a tuple    ": npy(header(shape=f"({'1,' * 33})"), bytes(4)),
    "shape must be a tuple     ": npy(header(shape=f"({2**63},)"), bytes(8)),
    "more than 2^63-1 bits": npy(header(shape=f"({2**32},{2**32},0)")),
    "more than 2^63-1 bits ": npy(header(shape="(1000000, 1000000, 1000000)")),
    "is 4000000000000 bytes, 8 follow the header": npy(header(shape="(1000000, 1000000)"), bytes(8)),
    "is 8 bytes, 9 follow the header": npy(header(), bytes(9)),
    "is 8 bytes, 7 follow the header": npy(header(), bytes(7)),
    "fortran_order must be True or False": npy(header(order="1"), bytes(8)),
    "must be an array of numbers": npy(header("'f4'"), bytes(8)),
    "must be an array of numbers ": npy(header("4"), bytes(8)),
    "of a dtype that quantrim has": npy(header("'<f16'"), bytes(32)),
    "at most 10000 bytes, and all there": npy(header() + " " * 10_001, bytes(8)),
    "at most 10000 bytes, and all there ": npy(header(), length=9999),
    "version 1, 2 or 3": npy(header(), bytes(8), b"\4\0"),
    "version 1, 2 or 3 ": b"\x93NUMPY",
    "not a .npy file": b"hello",
    "not a .npy file; it looks like a GGUF file": b"GGUF" + bytes(99),
    "not a .npy file; it looks like zeros": b"",
}


@pytest.mark.promise("C86", "C87")
@pytest.mark.parametrize("said", BAD_NPY)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_bad_headers_of_arrays(tmp_path: Path, said: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(BAD_NPY[said])
    refused(path, said.rstrip())
    if not said.startswith("not a"):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(path.with_suffix(".npz"), "w", method) as archive:
                archive.writestr("x.npy", BAD_NPY[said])
            refused(path.with_suffix(".npz"), "'x'", said.rstrip())


ARRAY = npy(header(shape="(64,)"), bytes(range(256)))


def edited(at: Callable[[bytes], int], value: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    data = bytearray(zip_of(("x.npy", ARRAY), ("y.npy", ARRAY), method=method))
    place = at(bytes(data))
    data[place : place + len(value)] = value
    return bytes(data)


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def central(offset: int) -> Callable[[bytes], int]:
    return lambda data: data.index(b"PK\1\2") + offset


DEFLATED = zipfile.ZIP_DEFLATED
BAD_ZIPS = {
    "CRC-32 mismatch": edited(lambda data: data.index(bytes(range(256))) + 100, b"\0"),
    "CRC-32 mismatch ": edited(central(16), b"1234"),
    "CRC-32 mismatch  ": edited(central(16), b"1234", DEFLATED),
    "must not be encrypted": edited(central(8), b"\1\0"),
    "must be stored or deflated": zip_of(("x.npy", ARRAY), method=zipfile.ZIP_BZIP2),
    "must be stored or deflated ": edited(central(10), b"\x63\0"),
    "bytes must be all": edited(central(24), struct.pack("<I", 999)),
    "its compressed bytes end after": edited(central(24), struct.pack("<I", 9999), DEFLATED),
    "can be inflated to": edited(central(24), struct.pack("<I", 2**32 - 9), DEFLATED),
    "must end at byte": edited(central(20), struct.pack("<II", 9999, 9999)),
    "its local header is not where": edited(central(42), struct.pack("<I", 10)),
    "the same name in the directory": edited(lambda data: 30, b"z"),
    "zip directory cannot be read": edited(lambda data: data.index(b"PK\1\2"), b"XX"),
    "zip directory cannot be read ": zip_of(("x.npy", ARRAY))[:-30],
    "cannot be inflated": edited(lambda data: 30 + 5, b"\xff\xff\xff", DEFLATED),
    "member 'x' must be a .npy file": zip_of(("x", ARRAY)),
    "not an .npz file; it looks like a JSON file": b"{}",
    "not an .npz file; it looks like a .npy file: give it the suffix .npy": ARRAY,
    "must be U8 of one dimension, JSON": zip_of(("__metadata__.npy", ARRAY)),
    "must be an object of strings": zip_of(("__metadata__.npy", npy_of_json([]))),
    "quantrim.dtypes must name dtypes": zip_of(("__metadata__.npy", npy_of_json({"quantrim.dtypes": '{"a": ["I8"]}'}))),
    "quantrim.dtypes must name dtypes ": zip_of(("__metadata__.npy", npy_of_json({"quantrim.dtypes": "[]"}))),
    "__metadata__ is not JSON": zip_of(("__metadata__.npy", npy(header("'|u1'", shape="(2,)"), b"{]"))),
}


@pytest.mark.promise("C88")
@pytest.mark.parametrize("said", BAD_ZIPS)
def test_bad_zips(path: Path, said: str) -> None:
    path.write_bytes(BAD_ZIPS[said])
    refused(path, said.rstrip())


@pytest.mark.promise("C88")
def test_names_of_members(path: Path) -> None:
    """Those that lead elsewhere are names like others, as nothing is unpacked; none is there twice."""
    names = ["../x", "/etc/x", "a\\b", "A", "a", "a.npy", ".", ""]
    path.write_bytes(zip_of(*((f"{name}.npy", ARRAY) for name in names)))
    assert list(open_checkpoint(path)) == names
    with pytest.warns(UserWarning, match="Duplicate name"):
        path.write_bytes(zip_of(("x.npy", ARRAY), ("x.npy", ARRAY)))
    refused(path, "'x'", "occurs twice")
    data = bytearray(zip_of(("x.npy", ARRAY), ("y.npy", ARRAY)))
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)  # where the first begins
    path.write_bytes(data)
    refused(path, "'y'", "must have the same name")


@pytest.mark.promise("C51", "G2")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, DEFLATED])
def test_truncated_and_with_flipped_bits(path: Path, method: int) -> None:
    """What is read is what was there, or it is refused: all bytes of arrays are under a checksum."""
    whole = zip_of(("x.npy", ARRAY), ("y.npy", ARRAY), method=method)
    for size in range(0, len(whole), 3):
        path.write_bytes(whole[:size])
        refused(path)
    accepted = 0
    for bit in range(0, 8 * len(whole), 7):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            with open_checkpoint(path) as checkpoint:
                assert [checkpoint.raw(name) for name in checkpoint] == [ARRAY[-256:]] * len(checkpoint)
                assert len(checkpoint) == 2 or bit // 8 > whole.index(b"PK\1\2")
                accepted += 1
        except FormatError:
            pass
    assert 0 < accepted < 8 * len(whole) // 21  # times, versions, attributes


# Writing


def test_every_dtype_as_numpy_and_zipfile_read_it(path: Path) -> None:
    arrays = {
        word: RNG.integers(0, 2 if word == "BOOL" else 256, (3, 5 * dtype.itemsize), np.uint8).view(dtype)
        for word, (_, dtype) in DTYPES.items()
        if dtype is not None
    } | {"scalar": np.float32(2).reshape(()), "empty": np.zeros((0, 3), np.int8), "a/\u00e9 b": floats(1000)}
    write(path, arrays, {"format": "pt", "\u00e9": "\U0001f600"}, piece=7)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    assert [info.filename for info in infos] == ["__metadata__.npy", *(f"{name}.npy" for name in arrays)]
    data = path.read_bytes()
    for info in infos:
        begin = info.header_offset + 30 + sum(struct.unpack_from("<HH", data, info.header_offset + 26))
        assert begin % 64 == 0 and data[begin : begin + 6] == b"\x93NUMPY"
        assert (info.date_time, info.compress_type) == ((1980, 1, 1, 0, 0, 0), zipfile.ZIP_STORED)
    with np.load(path) as found:
        said = json.loads(bytes(found["__metadata__"]))
        assert said.pop("quantrim.dtypes") and said == {"format": "pt", "\u00e9": "\U0001f600"}
        for name, a in arrays.items():
            assert found[name].view(a.dtype).tobytes() == a.tobytes() and found[name].shape == a.shape, name
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "\u00e9": "\U0001f600"}
        for name, a in arrays.items():
            found = checkpoint[name]
            assert (found.dtype, found.shape, found.tobytes()) == (a.dtype, a.shape, a.tobytes()), name
    again = path.with_name("again.npz")
    write(again, arrays, {"\u00e9": "\U0001f600", "format": "pt"})
    assert again.read_bytes() == data


def test_threads_write_at_once(path: Path) -> None:
    data = RNG.integers(0, 256, 1 << 20, np.uint8)
    made = writer_for(path)([("a", "U8", data.shape)], {})
    with AtomicFile(path, made.size) as out:
        made.attach(out)
        step = 4321
        places = RNG.permutation(range(0, data.size, step))
        jobs = [
            threading.Thread(target=lambda mine: [made.write("a", data[k : k + step], k) for k in mine], args=(mine,))
            for mine in np.array_split(places, 8)
        ]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        made.finish()
    np.testing.assert_array_equal(np.load(path)["a"], data)


@pytest.mark.parametrize("limit", ["_LIMIT_32", pytest.param("_LIMIT_16", marks=pytest.mark.slow)])
def test_zip64(path: Path, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, places and numbers beyond what the fields of the first zip hold; here, of a little less."""
    if limit == "_LIMIT_32":
        monkeypatch.setattr(writer, "_SMALL_32", 2000)
        arrays = {f"t{k}": floats(k, 100) for k in range(9)}
    else:
        arrays = {f"t{k}": np.array([k], np.int32) for k in range(66_000)}
    write(path, arrays)
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == len(arrays)
        if limit == "_LIMIT_32":
            assert archive.testzip() is None
    with np.load(path) as found, open_checkpoint(path) as checkpoint:
        for name in list(arrays)[:: max(len(arrays) // 50, 1)]:
            np.testing.assert_array_equal(found[name], arrays[name])
            np.testing.assert_array_equal(checkpoint[name], arrays[name])


def test_what_cannot_be_written(path: Path) -> None:
    for entries, said in (
        ([("a", "F4", (4,))], "whole bytes to be in a .npy file, not F4"),
        ([("a", "F32", (4,)), ("a.npy", "F32", (4,))], "must not differ in '.npy' alone"),
        ([("a\0", "F32", (4,))], "without NUL in an .npz file"),
        ([("\ud800", "F32", (4,))], "UTF-8 of at most"),
        ([("x" * 65_532, "F32", (4,))], "at most 65531 bytes"),
        ([("__metadata__", "U8", (4,))], "used once and not be '__metadata__'"),
        ([("a", "F32", (4,)), ("a", "F32", (4,))], "used once"),
        ([("a", "X", (4,))], "dtype of tensor 'a' must be one of"),
        ([("a", "F32", (-4,))], "shape of tensor 'a' must be"),
    ):
        with pytest.raises(ValueError, match=said):
            writer_for(path)(entries, {})
    made = writer_for(path)([("a", "U8", (4,))], {})
    with AtomicFile(path) as out:
        made.attach(out)
        for data, at in ((b"123", 2), (b"1", -1), (b"", 5)):
            with pytest.raises(ValueError, match="'a' must have bytes"):
                made.write("a", data, at)
        made.write("a", b"12", 0)
        made.write("a", b"23", 1)
        with pytest.raises(ValueError, match="'a' must be written whole, every byte once"):
            made.finish()


def test_one_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    scalar, bfloats = np.float32(2).reshape(()), floats(4).astype(ml_dtypes.bfloat16)
    for a in (floats(30, 20), np.zeros((0, 2), np.int8), scalar, bfloats):
        write(path, {"w": a}, {"format": "pt"}, piece=77)
        found = np.load(path)
        assert (found.view(a.dtype).tobytes(), found.shape) == (a.tobytes(), a.shape)
        with open_checkpoint(path) as checkpoint:
            assert checkpoint["array"].dtype == a.dtype
    for entries, metadata, said in (
        ([], {}, "must have one tensor, not 0"),
        ([("a", "F32", ()), ("b", "F32", ())], {}, "must have one tensor, not 2; write an .npz file"),
        ([("a", "F32", ())], {"quantrim.entries": "{}"}, "cannot hold the metadata 'quantrim.entries'"),
        ([("a", "F8_E4M3", ())], {}, "cannot hold F8_E4M3"),
    ):
        with pytest.raises(ValueError, match=said):
            writer_for(path)(entries, metadata)


def test_writers_by_suffix(tmp_path: Path) -> None:
    write(tmp_path / "a.SafeTensors", {"a": floats(3, 4), "b": floats(2)}, piece=5)
    with open_checkpoint(tmp_path / "a.SafeTensors") as checkpoint:
        assert [checkpoint[name].tobytes() for name in "ab"] == [floats(3, 4).tobytes(), floats(2).tobytes()]
    for name in ("a", "a.bin", "a.txt"):
        with pytest.raises(ValueError, match=r"destination must end in \.safetensors, \.npz or \.npy, not"):
            writer_for(tmp_path / name)


# Checksums


def test_checksums_of_pieces() -> None:
    data = RNG.integers(0, 256, 10_000, np.uint8).tobytes()
    whole = zlib.crc32(data)
    for cut in (0, 1, 2, 255, 4096, 9999, 10_000):
        assert combined(zlib.crc32(data[:cut]), zlib.crc32(data[cut:]), len(data) - cut) == whole
    for _ in range(20):
        cuts = sorted({0, len(data), *map(int, RNG.integers(0, len(data), 30))})
        spans = list(itertools.pairwise(cuts))
        pieces = Pieces(len(data))
        for k in RNG.permutation(len(spans)):
            assert pieces.value is None
            a, b = spans[k]
            pieces.add(memoryview(data)[a:b], a)
        assert pieces.value == whole
    assert Pieces(0).value == 0
