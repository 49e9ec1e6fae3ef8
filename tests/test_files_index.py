"""The index of a sharded checkpoint: what it may name, what it must, and which links may be followed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files_helpers import floats, refused_checkpoint, two_shards, write_index, write_tensors

from quantrim.files import FormatError, encode_header, open_checkpoint
from quantrim.files.disk.errors import quote


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return two_shards(tmp_path / "model")


TRAVERSALS = [
    "../x-1.safetensors", "/etc/passwd", "./x-1.safetensors", "sub/x.safetensors", "..", ".", "", "/",
    "a/../b", "..\\x.safetensors", "C:\\x.safetensors", "C:x.safetensors", "\\\\host\\share\\x",
    "x-1.safetensors\0", "\0", "a\nb.safetensors", "\x1b[2J", "/proc/self/mem", "//etc/passwd", "~/x/y",
    "x/", "/dev/zero", "....//x", "..%2f/x",
]  # fmt: skip


@pytest.mark.promise("C90")
@pytest.mark.parametrize("shard", TRAVERSALS, ids=ascii)
def test_shard_names_stay_in_the_folder(folder: Path, shard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_index(folder, {"a": shard, "b": "x-1.safetensors"})
    opened: list[Path] = []
    real = os.open

    def record(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(Path(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", record)
    refused_checkpoint(folder, "bad shard name", quote(shard))
    assert opened, "the harness sees what is opened"
    assert all(path.parent == folder or path == Path("/proc/self/fd") for path in opened)


@pytest.mark.promise("C90")
@pytest.mark.parametrize("shard", ["%2e%2e", "~", "$HOME", "file:", "x-1.safetensors "])
def test_names_are_taken_as_they_are(folder: Path, shard: str) -> None:
    write_index(folder, {"a": shard})
    refused_checkpoint(folder, f"shard {shard!r} of the index is missing")


@pytest.mark.promise("C90")
@pytest.mark.parametrize("value", [1, None, ["x-1.safetensors"], {"a": 1}, True])
def test_shard_names_are_strings(folder: Path, value: Any) -> None:
    write_index(folder, {"a": value})
    refused_checkpoint(folder, "tensor 'a'", "must be a string")


@pytest.mark.promise("C90")
@pytest.mark.parametrize("weight_map", [None, [], "x", 1, {}])
def test_weight_map_is_an_object(folder: Path, weight_map: Any) -> None:
    write_index(folder, weight_map)
    refused_checkpoint(folder, "weight_map")


@pytest.mark.promise("C90")
@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff", b"GGUF", b"[" * 200_000])
def test_index_is_an_object(folder: Path, text: bytes) -> None:
    (folder / "model.safetensors.index.json").write_bytes(text)
    refused_checkpoint(folder, "the index")


@pytest.mark.promise("C90")
def test_duplicate_keys(folder: Path) -> None:
    text = '{"weight_map":{"a":"x-1.safetensors","a":"x-2.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(text)
    refused_checkpoint(folder, "'a' twice")


@pytest.mark.promise("C90")
def test_what_the_index_lists_must_be_somewhere(folder: Path) -> None:
    full = {"a": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors", "d": "x-2.safetensors"}
    write_index(folder, full | {"e": "x-3.safetensors"})
    refused_checkpoint(folder, "shard 'x-3.safetensors' of the index is missing")
    write_index(folder, full | {"e": "x-2.safetensors"})
    refused_checkpoint(folder, "tensor 'e'", "in shard 'x-2.safetensors': it is not there")
    for name in ("x-3.safetensors", "x-4.safetensors"):
        write_tensors(folder / name, {name: floats(1), "e": floats(6)})
    more = {name: name for name in ("x-3.safetensors", "x-4.safetensors")}
    write_index(folder, full | more | {"e": "x-2.safetensors"})
    refused_checkpoint(folder, "tensor 'e'", "it is not there, but in 'x-3.safetensors', 'x-4.safetensors'")


@pytest.mark.promise("fault-C5")
def test_tensors_that_the_index_does_not_list_are_not_read(folder: Path) -> None:
    """The index decides, and a warning counts what it leaves out."""
    write_index(folder, {"a": "x-1.safetensors", "c": "x-2.safetensors"})
    said = r"disagree: 2 tensors are not in it and not read \('b', 'd'\)$"
    with pytest.warns(UserWarning, match=said), open_checkpoint(folder) as ckpt:
        assert list(ckpt) == ["a", "c"] and ckpt.total_size == 4 * (2 + 4)


@pytest.mark.promise("C58", "fault-C5")
def test_a_tensor_in_two_shards_is_read_where_the_index_says(folder: Path) -> None:
    """An overlay shard holds newer tensors beside the old ones."""
    newer = floats(2) + 1
    write_tensors(folder / "overlay.safetensors", {"a": newer})
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    with pytest.warns(UserWarning, match=r"'overlay.safetensors' not in the checkpoint: not read"):
        np.testing.assert_array_equal(open_checkpoint(folder)["a"], floats(2))
    write_index(folder, index | {"a": "overlay.safetensors"})
    said = r"1 tensor is in another shard, too, and not read from there \('a'\)"
    with pytest.warns(UserWarning, match=said), open_checkpoint(folder) as ckpt:
        assert sorted(ckpt) == ["a", "b", "c", "d"] and ckpt.tensors["a"].path.name == "overlay.safetensors"
        np.testing.assert_array_equal(ckpt["a"], newer)
        assert list(ckpt.readers["x-1.safetensors"].tensors) == ["a", "b"]


@pytest.mark.promise("fault-C5")
def test_a_tensor_in_another_shard_than_the_index_says(folder: Path) -> None:
    """What the index lists is read where it is, if that is one place."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    write_index(folder, index | {"a": "x-2.safetensors"})
    with pytest.warns(UserWarning, match="1 tensor is not where it says"), open_checkpoint(folder) as ckpt:
        assert list(ckpt) == ["a", "b", "c", "d"]
        np.testing.assert_array_equal(ckpt["a"], floats(2))


@pytest.mark.promise("C90", "fault-C5")
def test_a_shard_that_is_not_listed(tmp_path: Path) -> None:
    """It is named, whatever it is called."""
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        write_tensors(tmp_path / name, {f"t{i}": floats(2)})
    write_index(tmp_path, {"t0": names[0], "t1": names[1]})
    with pytest.warns(UserWarning, match=rf"{names[2]!r} not in the checkpoint: not read"):
        assert list(open_checkpoint(tmp_path)) == ["t0", "t1"]


@pytest.mark.promise("fault-C3")
def test_an_index_with_a_byte_order_mark(folder: Path) -> None:
    """As json and utf-8-sig read it; offsets in messages count it."""
    path = folder / "model.safetensors.index.json"
    text = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + text)
    assert list(open_checkpoint(folder)) == ["a", "b", "c", "d"]
    path.write_bytes(b"\xef\xbb\xbf{")
    refused_checkpoint(folder, "byte 4", "the index is not JSON")


@pytest.mark.promise("C90")
def test_a_shard_of_another_format(folder: Path) -> None:
    (folder / "x-2.safetensors").write_bytes(b"GGUF\3\0\0\0" + bytes(99))
    refused_checkpoint(folder, "x-2.safetensors", "looks like a GGUF file")
    (folder / "x-2.safetensors").rename(folder / "x-2.bin")
    write_index(folder, {"a": "x-1.safetensors", "b": "x-1.safetensors", "c": "x-2.bin"})
    refused_checkpoint(folder, "x-2.bin", "not a file of torch.save; it looks like a GGUF file")


@pytest.mark.promise("C91")
def test_an_index_that_names_itself(folder: Path) -> None:
    write_index(folder, {"a": "model.safetensors.index.json"})
    refused_words = ("model.safetensors.index.json", "looks like a JSON file")
    with pytest.warns(UserWarning, match="not in the checkpoint"):
        refused_checkpoint(folder, *refused_words)


@pytest.mark.promise("C91")
@pytest.mark.parametrize("total", [55, 57, 0, -1, "56", True, 1e300, []])
def test_a_wrong_total_size_is_a_warning(folder: Path, total: Any) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_index(folder, index["weight_map"], metadata={"total_size": total})
    with pytest.warns(UserWarning, match="total_size is .*, the tensors are 56 bytes"):
        assert len(open_checkpoint(folder)) == 4


@pytest.mark.promise("C91")
@pytest.mark.parametrize("fields", [{}, {"metadata": {}}, {"metadata": {"total_size": 56.0, "x": [1]}}, {"extra": 1}])
def test_metadata_may_be_missing(folder: Path, fields: dict[str, Any]) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    write_index(folder, index["weight_map"], **fields)
    assert len(open_checkpoint(folder)) == 4


@pytest.mark.promise("C91")
def test_metadata_is_an_object(folder: Path) -> None:
    write_index(folder, {"a": "x-1.safetensors"}, metadata=[])
    refused_checkpoint(folder, "metadata of the index must be an object")


@pytest.mark.promise("C60")
def test_a_large_index_in_linear_time(tmp_path: Path) -> None:
    count = 100_000
    names = [f"model.layers.{i}.w" for i in range(count)]
    for shard in range(4):
        head, _ = encode_header([(name, "U8", (1,)) for name in names[shard::4]])
        (tmp_path / f"m-{shard}.safetensors").write_bytes(head + bytes(count // 4))
    write_index(tmp_path, {name: f"m-{i % 4}.safetensors" for i, name in enumerate(names)})
    begin = time.process_time()
    with open_checkpoint(tmp_path) as ckpt:
        assert len(ckpt) == count
    assert time.process_time() - begin < 30  # a second; minutes where it is not linear


@pytest.mark.promise("C90")
@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_more_shards_than_a_folder_can_hold(folder: Path, count: int) -> None:
    write_index(folder, {f"t{i}": f"s{i}.safetensors" for i in range(count)})
    before = time.process_time()
    refused_checkpoint(folder, "shard 's0.safetensors' of the index is missing")
    assert time.process_time() - before < count * 100e-6  # 5e-6 each


# Links


def hub_cache(tmp_path: Path) -> Path:
    """A snapshot as the hub's cache keeps it; returns its folder."""
    repository = tmp_path / "hub" / "models--a--b"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_tensors(repository / "blobs" / "d1", {"a": floats(2)})
    write_tensors(repository / "blobs" / "d2", {"b": floats(3)})
    (repository / "blobs" / "d3").write_text('{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}')
    (repository / "blobs" / "d4").write_text('{"hidden_size": 8}')
    links = {
        "x-1.safetensors": "d1",
        "x-2.safetensors": "d2",
        "model.safetensors.index.json": "d3",
        "config.json": "d4",
    }
    for name, digest in links.items():
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return snapshot


@pytest.mark.promise("C90")
def test_the_cache_of_the_hub_works(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    linked = tmp_path / "linked"
    linked.symlink_to(snapshot)
    for path in (snapshot, linked, snapshot / "model.safetensors.index.json"):
        with open_checkpoint(path) as ckpt:
            assert list(ckpt) == ["a", "b"] and ckpt.config == {"hidden_size": 8}
            np.testing.assert_array_equal(ckpt["b"], floats(3))
    with open_checkpoint(snapshot / "x-1.safetensors") as ckpt:
        assert list(ckpt) == ["a"]


@pytest.mark.promise("C90")
def test_a_sub_folder_of_a_snapshot_works(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (snapshot / "unet").mkdir()
    (snapshot / "unet" / "model.safetensors").symlink_to("../../../blobs/d1")
    assert list(open_checkpoint(snapshot / "unet")) == ["a"]


def _outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_tensors(outside / "d1", {"a": floats(2)})
    return outside / "d1"


def _replace(path: Path, target: Path | str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _absolute(snapshot: Path, outside: Path) -> None:
    _replace(snapshot / "x-1.safetensors", outside)


def _relative(snapshot: Path, outside: Path) -> None:
    _replace(snapshot / "x-1.safetensors", os.path.relpath(outside, snapshot))


def _other_repository(snapshot: Path, outside: Path) -> None:
    blobs = snapshot.parents[2] / "models--c--d" / "blobs"
    blobs.mkdir(parents=True)
    outside.rename(blobs / "d1")
    _replace(snapshot / "x-1.safetensors", "../../../models--c--d/blobs/d1")


def _blob_is_a_link(snapshot: Path, outside: Path) -> None:
    _replace(snapshot.parents[1] / "blobs" / "d1", outside)


def _index_is_a_link(snapshot: Path, outside: Path) -> None:
    (snapshot.parents[1] / "blobs" / "d3").rename(outside.parent / "d3")
    _replace(snapshot / "model.safetensors.index.json", outside.parent / "d3")


@pytest.mark.promise("fault-C6")
@pytest.mark.parametrize("plant", [_absolute, _relative, _other_repository, _blob_is_a_link, _index_is_a_link])
def test_links_to_files_are_read_wherever_they_lead(tmp_path: Path, plant: Callable[[Path, Path], None]) -> None:
    """Who made the folder made its links; what a stranger writes are the names in an index."""
    snapshot = hub_cache(tmp_path)
    plant(snapshot, _outside(tmp_path))
    with open_checkpoint(snapshot) as ckpt:
        assert list(ckpt) == ["a", "b"]
        np.testing.assert_array_equal(ckpt["a"], floats(2))


@pytest.mark.promise("C50", "fault-C6")
@pytest.mark.parametrize("target", ["nowhere", "x-1.safetensors", "/dev/zero", "."])
def test_links_to_what_is_no_file(tmp_path: Path, target: str) -> None:
    """A shard or a config that leads nowhere, to itself, to a device or to a folder."""
    for name in ("x-1.safetensors", "config.json"):
        snapshot = hub_cache(tmp_path / name)
        _replace(snapshot / name, name if target == "x-1.safetensors" else target)
        with pytest.raises((FormatError, OSError), match=name):
            open_checkpoint(snapshot)


@pytest.mark.promise("C90")
def test_links_inside_the_folder_work(folder: Path) -> None:
    (folder / "x-2.safetensors").rename(folder / "data")
    (folder / "x-2.safetensors").symlink_to("data")
    with open_checkpoint(folder) as ckpt:
        assert len(ckpt) == 4 and ckpt.side_files == ["data"]


@pytest.mark.promise("C50")
def test_a_fifo_as_a_shard(folder: Path) -> None:
    (folder / "x-2.safetensors").unlink()
    os.mkfifo(folder / "x-2.safetensors")
    refused_checkpoint(folder, "not a FIFO")
