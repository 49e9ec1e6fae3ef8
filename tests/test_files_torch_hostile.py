"""PyTorch files that are wrong: nothing of a pickle is run, no view leaves its storage, and what is wrong is said."""

from __future__ import annotations

import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch_files import (
    FILES,
    GOLDEN,
    ONE,
    STORAGE,
    call,
    dictionary,
    floats,
    group,
    legacy_bytes,
    legacy_file,
    named,
    number,
    read_all,
    refused,
    storage,
    tensor,
    text,
    zip_file,
)

from quantrim.files import FormatError
from quantrim.files.torch import reader, unpickler, values

# Nothing is run


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def getattr_chain(marker: Path) -> bytes:
    """eval, come by through getattr."""
    getter = named("builtins.getattr") + group([named("builtins.__import__"), text("__self__")]) + b"R"
    return named("builtins.getattr") + group([getter, text("eval")]) + b"R" + group([text("1")]) + b"R"


PROGRAMS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.mkdir": (lambda marker: pickle.dumps(Runs(marker), 2)[2:-1], "the global 'posix.mkdir' is refused"),
    "protocol 4": (lambda marker: pickle.dumps(Runs(marker), 4)[2:-1], "the global 'posix.mkdir' is refused"),
    "os.system": (lambda marker: call("os.system", text(f"mkdir {marker}")), "the global 'os.system' is refused"),
    "getattr": (getattr_chain, "the global 'builtins.getattr' is refused"),
    "eval": (lambda _: call("__builtin__.eval", text("1")), "the global '__builtin__.eval' is refused"),
    "dotted": (lambda _: text("torch") + text("os.system") + b"\x93", "the global 'torch.os.system' is refused"),
    "not text": (lambda _: number(1) + number(2) + b"\x93", "the global '1.2' is refused"),
    "escape": (lambda _: named("os.\x1b[2Jsystem"), r"'os.\x1b[2Jsystem' is refused"),
    "rebuild": (
        lambda _: call("torch._utils._rebuild_tensor_v2", *[named("torch.Size")] * 6),
        "a tensor must be built on a storage",
    ),
    "few arguments": (lambda _: call("torch._utils._rebuild_tensor"), "must not be called with 0 arguments"),
    "not a tuple": (lambda _: named("torch.Size") + b"]R", "the arguments of a call must be a tuple"),
    "no function": (lambda _: text("os.system") + b")R", "'a value' must not be called"),
    "a class": (lambda _: named("torch.Tensor") + b")R", "'torch.Tensor' must not be called"),
    "build global": (
        lambda _: named("torch.Size") + dictionary({"__setstate__": named("torch.Size")}) + b"b",
        "attributes must be those of an OrderedDict",
    ),
    "build tensor": (lambda _: floats(2) + dictionary({"x": b"N"}) + b"b", "must be those of an OrderedDict"),
    "newobj": (lambda _: named("torch.Size") + b")\x81", r"opcode b'\x81' is none that torch writes"),
    "inst": (lambda _: b"(ios\nsystem\n", "opcode b'i' is none that torch writes"),
    "obj": (lambda _: b"(" + named("torch.Size") + b"o", "opcode b'o' is none that torch writes"),
    "extension": (lambda _: b"\x82\x01", r"opcode b'\x82' is none that torch writes"),
    "text id": (lambda _: b"Pos.system\n", "opcode b'P' is none that torch writes"),
    "module id": (
        lambda _: group([text("module"), text("a"), text("b"), text("c"), text("d")]) + b"Q",
        "a persistent id must be that of a storage",
    ),
    "from_type": (
        lambda _: call("torch._tensor._rebuild_from_type_v2", named("torch.Size"), named("torch.Tensor"), b")", b"N"),
        "a tensor must be built by a function that builds tensors",
    ),
}


def test_what_a_file_may_call_is_written_here() -> None:
    """Whatever is in the table: nothing of Python's own, of the system's, or of torch's."""
    assert {function.__module__ for function in values._CALLS.values()} == {values.__name__}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("legacy", [False, True])
def test_programs_are_refused_by_name_and_not_run(tmp_path: Path, name: str, legacy: bool) -> None:
    program, said = PROGRAMS[name]
    marker, path = tmp_path / "marker", tmp_path / "a.pt"
    value = dictionary({"w": floats(2), "x": program(marker)})
    if legacy:
        path.write_bytes(legacy_bytes(value, {"0": (2, STORAGE["0"])}))
    else:
        zip_file(path, value, STORAGE)
    refused(path, said)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.mkdir", "protocol 4", "os.system"])
def test_pickle_itself_runs_those_programs(tmp_path: Path, name: str) -> None:
    """That the files of the test above would do harm."""
    marker = tmp_path / "marker"
    pickle.loads(b"\x80\x04" + PROGRAMS[name][0](marker) + b".")
    assert marker.exists()


# Limits


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\x8d" + struct.pack("<Q", 2**62), f"a string must have at most {2**20} bytes, not {2**62}"),
        (b"X" + struct.pack("<I", 2**31), "a string must have at most"),
        (b"T" + struct.pack("<i", -5), "a string must have at most"),
        (b"X" + struct.pack("<I", 99) + b"a", "ends inside a pickle"),
        (b"X" + struct.pack("<I", 1) + b"\xff", "a string must be UTF-8"),
        (b"cos\nsystem", "ends inside a name"),
        (b"(" * 1001, "containers must nest at most 1000 deep"),
        (b"0", "a pickle takes more values than it has"),
        (b"t", "a pickle takes more values than it has"),
        (b"N\x86", "a pickle takes more values than it has"),
        (b"h\x07", "value 7 must be kept before it is used"),
        (b"N" + b"N" + b"a", "items must be added to a list"),
        (b"N(NNu", "pairs must be added to a dict"),
        (b"}(Nu", "pairs must be added to a dict"),
        (call("collections.OrderedDict", b"](NNe"), "an OrderedDict must be built of pairs"),
    ],
)
def test_pickles_that_are_wrong(tmp_path: Path, value: bytes, said: str) -> None:
    refused(zip_file(tmp_path / "a.pt", value, {}), said)


def test_pickles_take_bounded_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickler, "OPCODE_LIMIT", 1000)
    refused(zip_file(tmp_path / "a.pt", b"N" * 1001, {}), "a pickle must have at most 1000 opcodes")
    sizes = b"(" + b"K\x01" * 100 + b"tq\x00"
    again = named("torch.Size") + b"h\x00\x85R"
    refused(zip_file(tmp_path / "b.pt", sizes + again * 20, {}), "a pickle must have at most 1000 opcodes")
    monkeypatch.setattr(reader, "PICKLE_LIMIT", 1000)
    refused(zip_file(tmp_path / "c.pt", b"N" * 1001, {}), "data.pkl must have at most 1000 bytes, not 1004")


def test_a_memo_of_any_index_and_depth_of_any_degree(tmp_path: Path) -> None:
    """Neither costs memory or stack."""
    deep = b")" + b"\x85" * 100_000
    value = b"}(" + text("w") + floats(2) + b"r\xff\xff\xff\xff" + text("x") + deep + deep + b"Nu"
    assert list(read_all(zip_file(tmp_path / "a.pt", value, STORAGE))) == ["w"]


# Views and storages

HUGE = 2**40
VIEWS = {
    "too long": (tensor(storage("0", 2), (3,)), "needs 12 bytes of storage '0', which has 8"),
    "offset": (tensor(storage("0", 2), (1,), offset=2), "needs 12 bytes of storage '0', which has 8"),
    "strided": (tensor(storage("0", 2), (2, 2), (1, 1)), "needs 12 bytes of storage '0', which has 8"),
    "negative offset": (tensor(storage("0", 2), (1,), offset=-1), "the offset of a tensor must be integers"),
    "negative stride": (tensor(storage("0", 2), (2,), (-1,), offset=1), "the strides of a tensor must be integers"),
    "negative size": (tensor(storage("0", 2), (-2,)), "the shape of a tensor must be integers, 0 to 2^63-1, not (-2,)"),
    "strides": (tensor(storage("0", 2), (2,), (1, 1)), "must have as many strides as dimensions, not 2 and 1"),
    "overflow": (tensor(storage("0", 2), (2**62, 2**62), (0, 0)), "has more than 2^63-1 bits"),
    "repeated": (tensor(storage("0", 2), (HUGE,), (0,)), f"must have at most {64 << 20} bytes, since the file has"),
    "dimensions": (tensor(storage("0", 2), (1,) * 33), "must have at most 32 dimensions, not 33"),
    "conjugate": (tensor(storage("0", 2), (2,), metadata=dictionary({"conj": b"\x88"})), "without a conjugate"),
    "storage size": (tensor(storage("0", 3), (2,)), "storage '0' must have 12 bytes, not 8"),
    "huge storage": (tensor(storage("0", 2**62), (2,)), f"storage '0' must have {2**64} bytes, not 8"),
    "no storage": (tensor(storage("../data.pkl", 2), (2,)), "the file has no storage '../data.pkl'"),
    "no type": (tensor(storage("0", 8, "torch.storage.UntypedStorage"), (2,)), "must name its dtype"),
    "two types": (
        b"(" + storage("0", 2) + storage("0", 2, "torch.IntStorage") + b"t",
        "storage '0' must be the same wherever it is named",
    ),
    "wrong type": (storage("0", 2, "torch.Tensor"), "a storage must have a type of torch and a key"),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_that_do_not_fit_their_storage(tmp_path: Path, name: str) -> None:
    value, said = VIEWS[name]
    refused(zip_file(tmp_path / "a.pt", dictionary({"w": value}), STORAGE), said)


def test_views_of_no_elements_need_no_bytes(tmp_path: Path) -> None:
    value = dictionary({"w": tensor(storage("0", 2), (0, 5), offset=77)})
    found = read_all(zip_file(tmp_path / "a.pt", value, STORAGE))
    assert found["w"].shape == (0, 5)


# The zip file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "entry 'archive/data.pkl' must be neither compressed nor encrypted"),
        ({"root": "a/b"}, "must have one entry '<name>/data.pkl', not 0"),
        ({"root": ""}, "must have one entry '<name>/data.pkl', not 0"),
        ({"more": {"other/data.pkl": b"N."}}, "must have one entry '<name>/data.pkl', not 2"),
        ({"more": {"../../etc/passwd": b"x"}}, "entry '../../etc/passwd' must be in 'archive/' as all others"),
        ({"more": {"archive/byteorder": b"middle"}}, "byteorder must be 'little' or 'big' (found b'middle')"),
        ({"more": {"archive/constants.pkl": b"N."}}, "a TorchScript archive, which holds a program"),
        ({"more": {"archive/code/__torch__.py": b""}}, "a TorchScript archive, which holds a program"),
    ],
)
def test_other_zip_files(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    refused(zip_file(tmp_path / "a.pt", dictionary(ONE), STORAGE, **arguments), said)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_come_twice(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.pt", dictionary(ONE), STORAGE, more={"archive/data/0": bytes(8)})
    refused(path, "entry 'archive/data/0' is there twice")


def edited(path: Path, old: bytes, new: bytes, which: int = 0) -> Path:
    """The file with the n-th `old` replaced."""
    data = path.read_bytes()
    pieces = data.split(old)
    assert len(pieces) > which + 1
    path.write_bytes(old.join(pieces[: which + 1]) + new + old.join(pieces[which + 1 :]))
    return path


def test_directories_that_contradict_the_headers(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.pt", dictionary(ONE), STORAGE)
    before = path.read_bytes()
    refused(edited(path, b"archive/data/0", b"archive/data/1"), "the header of entry 'archive/data/0' contradicts")
    path.write_bytes(before)
    refused(edited(path, b"archive/data/0", b"archive/data/1", which=1), "'archive/data/1' contradicts")
    path.write_bytes(before)
    row = before.rindex(b"PK\x01\x02")
    for size, words in ((4096, "overlaps another one or the directory"), (7, "storage '0' must have 8 bytes, not 7")):
        path.write_bytes(before[: row + 20] + struct.pack("<II", size, size) + before[row + 28 :])
        refused(path, words)
    begin = struct.unpack("<I", before[row + 42 : row + 46])[0]
    assert begin
    path.write_bytes(before[: row + 42] + struct.pack("<I", 0) + before[row + 46 :])
    refused(path, "contradicts the zip's directory")


def test_entries_that_overlap(tmp_path: Path) -> None:
    """The directory has an entry whose bytes hold the next one whole."""
    inner = zip_file(tmp_path / "inner", dictionary(ONE), STORAGE).read_bytes()
    path = zip_file(tmp_path / "a.pt", dictionary(ONE), {"0": inner})
    data = path.read_bytes()
    shift = data.index(inner)
    row = inner.rindex(b"PK\x01\x02")
    end = inner.rindex(b"PK\x05\x06")
    copied = bytearray(inner[row:end].replace(b"data/0", b"data/1"))
    header = inner.rindex(b"PK\x03\x04")
    copied[42:46] = struct.pack("<I", shift + header)
    where = data.rindex(b"PK\x05\x06")
    tail = bytearray(data[where:])
    tail[8:12] = struct.pack("<HH", 3, 3)
    tail[12:16] = struct.pack("<I", struct.unpack("<I", tail[12:16])[0] + len(copied))
    renamed = bytearray(data[:where] + copied + tail)
    renamed[shift + header :] = renamed[shift + header :].replace(b"data/0", b"data/1", 1)
    path.write_bytes(renamed)
    refused(path, "overlaps another one or the directory")


def test_checksums_are_looked_at(tmp_path: Path) -> None:
    path = zip_file(tmp_path / "a.pt", dictionary(ONE), STORAGE)
    before = path.read_bytes()
    refused(edited(path, STORAGE["0"], bytes(8)), "tensor 'w'", "the CRC-32 is ")
    path.write_bytes(before)
    refused(edited(path, b"X\x01\0\0\0w", b"X\x01\0\0\0v"), "the CRC-32 is ")
    row = before.rindex(b"PK\x01\x02")
    path.write_bytes(before[: row + 16] + bytes(4) + before[row + 20 :])  # torch was told to leave it out
    assert list(read_all(path)) == ["w"]


# Files of before torch 1.6


def test_legacy_files_that_are_wrong(tmp_path: Path) -> None:
    path = legacy_file(tmp_path / "a.pt")
    assert list(read_all(path)) == ["w"]
    before = path.read_bytes()
    path.write_bytes(before + b"x")
    refused(path, "1 bytes follow the last storage")
    refused(legacy_file(path, count=3), "storage '0' must have 2 elements, not 3")
    refused(legacy_file(path, data=bytes(7)), f"storage '0' needs byte {len(before)}")
    refused(legacy_file(path, dictionary({"w": floats(2, key="1")})), "the keys of the storages must be those")
    path.write_bytes(pickle.dumps({"w": 1}, 2))
    refused(path, "a pickle, but not of torch.save: its magic number must be", "(found {'w': 1})")
    path.write_bytes(before.replace(number(1001), number(1002)))
    refused(path, "its protocol version must be 1001")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file: file ends at byte 0"),
        (b"hello", "not a file of torch.save"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(99), "not a zip file"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(data)
    refused(path, said)


# Any bytes


@pytest.mark.parametrize("file", (*FILES, "training.ckpt"))
def test_files_that_end_early(tmp_path: Path, file: str) -> None:
    data = (GOLDEN / file).read_bytes()
    path = tmp_path / "a.pt"
    for length in (*range(0, len(data) - 200, 7), *range(len(data) - 200, len(data))):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            read_all(path)


@pytest.mark.parametrize("file", FILES)
def test_files_with_a_byte_changed(tmp_path: Path, file: str) -> None:
    """An error, or tensors: those of before wherever a checksum holds for them."""
    whole = (GOLDEN / file).read_bytes()
    expected = read_all(GOLDEN / file)
    rng = random.Random(20261201)
    path = tmp_path / "a.pt"
    errors = 0
    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << rng.randrange(8) if place % 2 else rng.randrange(1, 256)
        path.write_bytes(data)
        try:
            found = read_all(path)
        except FormatError as error:
            assert str(error).isprintable()
            errors += 1
            continue
        if file == "state_dict.pt":
            assert list(found) == list(expected)
            for name in ("embed.weight", "head.weight", "brain", "float8", "words", "complex", "flags"):
                assert found[name].tobytes() == expected[name].tobytes()
    assert errors > len(whole) // 9
