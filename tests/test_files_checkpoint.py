"""Checkpoints: one file or a folder of shards, read lazily, believed only where index and shards agree."""

from __future__ import annotations

import json
import os
import resource
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from files_helpers import (
    entry,
    floats,
    open_descriptors,
    raw_file,
    refused_checkpoint,
    two_shards,
    write_index,
    write_tensors,
)

from quantrim.files import DTYPES, Checkpoint, FormatError, encode_header, open_checkpoint
from quantrim.files.disk import source_file
from quantrim.files.folder import JSON_LIMIT
from quantrim.files.tensor_info import from_little_endian


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path / "model")


# Reading


@pytest.mark.parametrize("name", [name for name, (_, dtype) in DTYPES.items() if dtype is not None])
def test_every_dtype(path: Path, name: str) -> None:
    dtype = DTYPES[name][1]
    assert dtype is not None
    raw = np.random.default_rng(1).integers(0, 2 if name == "BOOL" else 256, 12 * dtype.itemsize, np.uint8)
    path.write_bytes(raw_file({"a": entry(name, [3, 4], 0, raw.size)}, raw.tobytes()))
    with open_checkpoint(path) as ckpt:
        whole = ckpt.read("a")
        assert (whole.dtype, whole.shape, whole.tobytes()) == (dtype, (3, 4), raw.tobytes())
        assert whole.flags.writeable and whole.flags.aligned
        assert ckpt.rows("a", 1, 2).tobytes() == whole[1:].tobytes()
        assert ckpt["a"].tobytes() == ckpt.raw("a") == raw.tobytes()


@pytest.mark.parametrize(("name", "cols", "row_bytes"), [("F4", 6, 3), ("F6_E2M3", 4, 3), ("F6_E3M2", 8, 6)])
def test_packed_codes_are_bytes(path: Path, name: str, cols: int, row_bytes: int) -> None:
    raw = bytes(range(2 * row_bytes))
    path.write_bytes(raw_file({"a": entry(name, [2, cols], 0, len(raw))}, raw))
    with open_checkpoint(path) as ckpt:
        assert (ckpt.read("a").dtype.name, ckpt.read("a").tobytes()) == ("uint8", raw)
        assert ckpt.rows("a", 1, 1).tolist() == [list(raw[row_bytes:])]


def test_packed_rows_must_be_bytes(path: Path) -> None:
    path.write_bytes(raw_file({"a": entry("F4", [2, 3], 0, 3)}, bytes(3)))
    with open_checkpoint(path) as ckpt, pytest.raises(ValueError, match="whole bytes"):
        ckpt.rows("a", 0, 1)


@pytest.mark.promise("C69")
def test_unaligned_data(path: Path) -> None:
    data = floats(5)
    header = {"a": entry("U8", [1], 0, 1), "b": entry("F32", [5], 1, 21)}
    for pad in range(4):
        text = json.dumps(header).encode() + b" " * pad
        path.write_bytes(raw_file(text, b"\x07" + data.tobytes()))
        with open_checkpoint(path) as ckpt:
            np.testing.assert_array_equal(ckpt["b"], data)
            np.testing.assert_array_equal(ckpt.rows("b", 0, 1), data[None])


def test_shapes_of_rows(path: Path) -> None:
    tensors = {
        "one": floats(6),
        "two": floats(4, 6),
        "experts": floats(2, 3, 4),
        "convolution": floats(2, 3, 4, 5),
        "none": floats(0, 5),
        "thin": floats(5, 0),
    }
    write_tensors(path, tensors | {"scalar": np.array(1.5, np.float32)})
    with open_checkpoint(path) as ckpt:
        for name, shape in {
            "one": (1, 6),
            "two": (4, 6),
            "experts": (2, 12),
            "convolution": (2, 60),
            "none": (0, 5),
        }.items():
            np.testing.assert_array_equal(ckpt.rows(name, 0, shape[0]), tensors[name].reshape(shape))
        assert ckpt.rows("thin", 1, 3).shape == (3, 0)
        assert ckpt.rows("two", 4, 0).shape == (0, 6)
        assert ckpt["scalar"].shape == () and ckpt["scalar"] == 1.5
        for first, count in [(-1, 1), (0, 5), (4, 1), (5, 0), (0, -1), (2**62, 2**62)]:
            with pytest.raises(ValueError, match=r"'two' must have rows .*; it has 4"):
                ckpt.rows("two", first, count)
        with pytest.raises(ValueError, match="must have a dimension"):
            ckpt.rows("scalar", 0, 1)
        with pytest.raises(TypeError):
            ckpt.rows("two", 0.0, 1)  # type: ignore[arg-type]


def test_ranges_of_a_tensor(path: Path) -> None:
    data = floats(4, 6)
    raw = data.tobytes()
    write_tensors(path, {"first": floats(1), "a": data})
    with open_checkpoint(path) as ckpt:
        for begin, end in [(0, 96), (0, 0), (96, 96), (5, 17), (95, 96)]:
            assert ckpt.raw("a", begin, end) == raw[begin:end]
        target = np.zeros((2, 6), ml_dtypes.bfloat16)
        ckpt.read_into("a", target, 3)
        assert target.tobytes() == raw[3:27]
        small = bytearray(5)
        ckpt.read_into("a", memoryview(small)[1:4], 90)
        assert small == b"\0" + raw[90:93] + b"\0"
        for begin, end in [(-1, 3), (90, 97), (97, 97), (2**70, 2**70 + 1)]:
            wanted = f"'a' must have bytes {begin} to {end} to read them; it has 96"
            with pytest.raises(ValueError, match=wanted):
                ckpt.raw("a", begin, end)
        with pytest.raises(ValueError, match="must be writable"):
            ckpt.read_into("a", b"1234")
        with pytest.raises(ValueError, match="C-contiguous"):
            ckpt.read_into("a", np.zeros((4, 4), np.uint8)[:, ::2])
        with pytest.raises(ValueError, match="C-contiguous"):
            ckpt.read_into("a", memoryview(bytearray(8))[::2])


def test_it_is_like_a_dict(folder: Path) -> None:
    with open_checkpoint(folder) as ckpt:
        assert list(ckpt) == list(ckpt.tensors) == ["a", "b", "c", "d"]
        assert len(ckpt) == 4 and "a" in ckpt and "z" not in ckpt
        assert "4 tensors, 56 bytes" in repr(ckpt)
        with pytest.raises(KeyError, match="no tensor 'z'"):
            ckpt["z"]
        with pytest.raises(ValueError, match="no tensor 'z'"):
            ckpt.read("z")


def test_closed(folder: Path) -> None:
    before = open_descriptors()
    with open_checkpoint(folder) as ckpt:
        assert open_descriptors() == before + 2
    assert ckpt.closed and open_descriptors() == before
    ckpt.close()
    for use in (lambda: ckpt.read("a"), ckpt.check_unchanged, lambda: ckpt.rows("a", 0, 1)):
        with pytest.raises(ValueError, match="must be open, not closed"):
            use()
    forgotten = open_checkpoint(folder)
    del forgotten
    assert open_descriptors() == before


@pytest.mark.promise("E109")
def test_threads_read_at_once(path: Path) -> None:
    tensors = {f"t{i}": floats(50 + i, 64) for i in range(8)}
    write_tensors(path, tensors)
    wrong: list[str] = []
    with open_checkpoint(path) as ckpt:

        def read(seed: int) -> None:
            for name in np.random.default_rng(seed).permutation(list(tensors)).repeat(20):
                if not np.array_equal(ckpt.read(str(name)), tensors[str(name)]):
                    wrong.append(str(name))

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.promise("C66")
def test_bool_bytes_are_0_or_1(path: Path) -> None:
    path.write_bytes(raw_file({"m": entry("BOOL", [2, 3], 0, 6)}, b"\0\1\0\1\2\1"))
    with open_checkpoint(path) as ckpt:
        assert ckpt.rows("m", 0, 1).tolist() == [[False, True, False]]
        reads: list[Callable[[], object]] = [lambda: ckpt.read("m"), lambda: ckpt.rows("m", 1, 1)]
        for read in reads:
            with pytest.raises(FormatError, match=f"'m', byte {ckpt.tensors['m'].offset + 4}: .* not 2"):
                read()


@pytest.mark.promise("C94")
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "c8", "f8"])
def test_big_endian_machines_swap(dtype: str) -> None:
    """The bytes of a little-endian file, taken apart on a machine of the other order."""
    native = np.dtype(dtype)
    values = np.arange(1, 9).astype(native)
    file = np.frombuffer(values.astype(native.newbyteorder("<")).tobytes(), np.uint8)
    swapped = from_little_endian(file, native.newbyteorder(">"), "big")
    np.testing.assert_array_equal(swapped.astype(native), values)
    np.testing.assert_array_equal(from_little_endian(file, native.newbyteorder("<"), "little"), values)


@pytest.mark.promise("G12")
def test_a_row_of_a_huge_file_needs_the_memory_of_a_row(path: Path) -> None:
    rows = 1 << 20
    head, _ = encode_header([("a", "F32", (rows, 4096))])
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + rows * 4096 * 4)  # 16 GiB of holes
    with open_checkpoint(path) as ckpt:
        tracemalloc.start()
        try:
            assert not ckpt.rows("a", rows - 2, 2).any()
            assert tracemalloc.get_traced_memory()[1] < 2 * 4096 * 4 + 100_000
        finally:
            tracemalloc.stop()


# Which files


def test_one_file(path: Path) -> None:
    write_tensors(path, {"a": floats(2)}, {"k": "v"})
    (path.parent / "config.json").write_text("not JSON")
    with open_checkpoint(str(path)) as ckpt:
        assert not ckpt.is_folder and ckpt.path == path
        assert (ckpt.shards, ckpt.side_files, ckpt.config) == (["model.safetensors"], [], None)
        assert (ckpt.metadata, ckpt.total_size) == ({"k": "v"}, 8)


def test_a_folder_with_an_index(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 8, "limit": Infinity}')
    with open_checkpoint(folder) as ckpt:
        assert ckpt.is_folder and ckpt.shards == ["x-1.safetensors", "x-2.safetensors"]
        assert ckpt.config == {"hidden_size": 8, "limit": float("inf")}
        assert ckpt.metadata == {"format": "pt", "only": "1"}
        assert ckpt.total_size == 56
        np.testing.assert_array_equal(ckpt["d"], floats(5))


def test_an_index_by_its_own_path(folder: Path) -> None:
    other = folder / "fp16.safetensors.index.json"
    (folder / "model.safetensors.index.json").rename(other)
    (folder / "bf16.safetensors.index.json").write_text("{}")
    refused_checkpoint(folder, "2 index files", "'bf16.safetensors.index.json', 'fp16.safetensors.index.json'")
    with open_checkpoint(other) as ckpt:
        assert ckpt.is_folder and len(ckpt) == 4


def test_a_folder_with_one_file(tmp_path: Path, path: Path) -> None:
    refused_checkpoint(tmp_path, "must hold a .safetensors file; it holds nothing")
    write_tensors(tmp_path / "weights.safetensors", {"a": floats(2)})
    with open_checkpoint(tmp_path) as ckpt:
        assert ckpt.shards == ["weights.safetensors"] and ckpt.is_folder
    write_tensors(tmp_path / "more.safetensors", {"a": floats(2)})
    refused_checkpoint(tmp_path, "2 .safetensors files and no index", "'more.safetensors', 'weights.safetensors'")
    write_tensors(path, {"m": floats(2)})
    with pytest.warns(UserWarning, match=r"'more\.safetensors', 'weights\.safetensors' not in the checkpoint"):
        assert list(open_checkpoint(tmp_path)) == ["m"]


def test_side_files(folder: Path) -> None:
    copied = [".gitattributes", "LICENSE", "config.json", "merges.txt", "tokenizer.json", "tokenizer.model"]
    others = [
        "a.PT", "a.pth", "flax.msgpack", "m.gguf", "model.onnx", "model.onnx_data", "optimizer.pkl",
        "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5",
    ]  # fmt: skip
    for name in copied + others:
        (folder / name).write_text("{}")
    (folder / "original").mkdir()
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    with open_checkpoint(folder) as ckpt:
        assert ckpt.side_files == copied and ckpt.beside.others == dict.fromkeys(others, 2)
        assert ckpt.beside.odd == {"fifo": "a FIFO", "gone": "a link that leads nowhere: No such file or directory"}


@pytest.mark.promise("C54")
def test_a_folder_of_pickles(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04K\1.")
    refused_checkpoint(tmp_path, "pytorch_model.bin", "a pickle, but not of torch.save: its magic number must be")


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000, '{"a":' + "9" * 5000 + "}"])
def test_bad_config(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused_checkpoint(folder, "config.json")


@pytest.mark.promise("G20")
def test_a_config_of_gigabytes_is_not_read(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    os.truncate(folder / "config.json", JSON_LIMIT + 1)
    tracemalloc.start()
    try:
        refused_checkpoint(folder, f"config.json must be at most {JSON_LIMIT} bytes, not {JSON_LIMIT + 1}")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_missing() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_checkpoint("nowhere/model.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_checkpoint("nowhere")
    with pytest.raises(TypeError, match="path must be a str or a path, not int"):
        open_checkpoint(3)  # type: ignore[arg-type]


# Files that change under the reader


def _shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 8)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1")


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def _rewritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(path.read_bytes())
    os.utime(path, ns=(0, 0))  # a clock that stands at the beginning


def _removed(path: Path) -> None:
    path.unlink()


CHANGES: dict[Callable[[Path], None], str] = {
    _shrink: "size in bytes",
    _grow: "size in bytes",
    _replaced: "inode",
    _rewritten: "time of change",
    _removed: "was removed",
}


@pytest.mark.promise("C55")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("open_limit", [0, 256])
def test_a_file_changes_while_it_is_read(
    path: Path, change: Callable[[Path], None], open_limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_file, "KEPT_OPEN", threading.Semaphore(open_limit))
    write_tensors(path, {"a": floats(8), "b": floats(8)})
    with open_checkpoint(path) as ckpt:
        ckpt.check_unchanged()
        ckpt.read("b")
        change(path)
        with pytest.raises(FormatError, match=CHANGES[change]) as caught:
            ckpt.check_unchanged()
        assert caught.value.path == str(path)


@pytest.mark.promise("C55")
def test_reading_past_the_end_of_a_shrunk_file(path: Path) -> None:
    write_tensors(path, {"a": floats(8), "b": floats(8)})
    with open_checkpoint(path) as ckpt:
        _shrink(path)
        ckpt.read("a")
        end = path.stat().st_size
        for read in (lambda: ckpt.read("b"), lambda: ckpt.rows("b", 0, 1), lambda: ckpt.raw("b", 30, 31)):
            with pytest.raises(FormatError, match=f"'b', byte [0-9]+: file ends at byte {end} now") as caught:
                read()
            assert (caught.value.path, caught.value.tensor) == (str(path), "b")
        assert len(ckpt.raw("b", 0, 24)) == 24


def test_many_shards_do_not_use_up_the_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_file, "KEPT_OPEN", threading.Semaphore(3))
    names = [f"s{i:03d}.safetensors" for i in range(40)]
    for i, name in enumerate(names):
        write_tensors(tmp_path / name, {f"t{i}": floats(i)})
    write_index(tmp_path, {f"t{i}": name for i, name in enumerate(names)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before + 10, 64), hard))
    try:
        with open_checkpoint(tmp_path) as ckpt:
            assert open_descriptors() == before + 3
            for i in range(40):
                np.testing.assert_array_equal(ckpt[f"t{i}"], floats(i))
            write_tensors(tmp_path / names[30], {"t30": floats(30) * 2})
            os.utime(tmp_path / names[30], ns=(1, 1))
            with pytest.raises(FormatError, match=r"'t30', .*changed while it was being read"):
                ckpt.read("t30")
            (tmp_path / names[31]).unlink()
            with pytest.raises(FileNotFoundError, match=names[31]):
                ckpt.read("t31")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before


@pytest.mark.promise("C51")
def test_a_shard_cut_at_every_byte(folder: Path) -> None:
    shard = folder / "x-2.safetensors"
    data = shard.read_bytes()
    for size in range(len(data)):
        shard.write_bytes(data[:size])
        refused_checkpoint(folder, "x-2.safetensors", f"file ends at byte {size}")


def test_opening_is_lazy(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the header is read before a tensor is asked for, and then no more than was asked for."""
    write_tensors(path, {"a": floats(1000), "b": floats(1000)})
    ends: list[int] = []
    real = os.preadv

    def record(fd: int, views: list[memoryview], offset: int) -> int:
        ends.append(offset + sum(map(len, views)))
        return real(fd, views, offset)

    monkeypatch.setattr(os, "preadv", record)
    with open_checkpoint(path) as ckpt:
        assert max(ends) == ckpt.tensors["a"].offset
        ends.clear()
        ckpt.raw("a", 8, 16)
        assert ends == [ckpt.tensors["a"].offset + 16]


def test_reading_runs_in_bounded_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_file, "CHUNK", 7)
    write_tensors(path, {"a": floats(100)})
    with open_checkpoint(path) as ckpt:
        np.testing.assert_array_equal(ckpt["a"], floats(100))


@pytest.mark.promise("D96")
def test_a_read_error_says_where(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tensors(path, {"a": floats(100)})
    real = os.preadv

    def fail(fd: int, views: list[memoryview], offset: int) -> int:
        if offset > tensor.offset:
            raise OSError(5, "Input/output error")
        return real(fd, [views[0][:100]], offset)

    with open_checkpoint(path) as ckpt:
        tensor = ckpt.tensors["a"]
        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(OSError, match=f"reading byte {tensor.offset + 100}") as caught:
            ckpt.read("a")
        assert caught.value.filename == str(path)


def test_the_class_is_public(path: Path) -> None:
    write_tensors(path, {"a": floats(1)})
    assert isinstance(open_checkpoint(path), Checkpoint)
