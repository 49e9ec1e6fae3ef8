"""What surrounds the tensors of a model folder comes along, and what cannot is said."""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files_helpers import nothing_written, raw_file, refused_checkpoint
from model_helpers import save, save_folder, small_model, weights
from safetensors import safe_open

from quantrim.files import FormatError, open_checkpoint, side_files
from quantrim.model import compress, compress_lossless, merge_checkpoint, plan, split_checkpoint
from quantrim.model.encode.index import HEADER

OTHERS = {  # of a folder of sentence-transformers, with what lies about in such folders
    ".gitattributes": b"*.bin filter=lfs\r\n",
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "2_Dense/config.json": b"{}",
    "2_Dense/model.safetensors": b"not even looked at",
    "3_Dense/pytorch_model.bin": b"the only weights of this module",
    "additional_chat_templates/tool.jinja": b"{{ x }}",
    "modules.json": b'[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Dense"}]',
    "onnx/config.json": b"{}",
    "a/b/c/deep.txt": b"deep",
}  # fmt: skip
LEFT = {
    "onnx/model.onnx": b"a graph", "onnx/model.onnx_data": b"x", "openvino/openvino_model.bin": b"x",
    "openvino/openvino_model.xml": b"<net/>", "pytorch_model.bin": b"pickle", "pytorch_model.bin.index.json": b"{}",
    "other.safetensors": b"", "original/consolidated.00.pth": b"x", "tf_model.h5": b"", "m.gguf": b"GGUF",
}  # fmt: skip
HIDDEN = {
    ".git/HEAD": b"ref",
    ".cache/huggingface/x": b"",
    "__pycache__/x.pyc": b"",
    ".DS_Store": b"",
    "sub/.git/x": b"",
}


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "model", small_model(), 2)


RUNS: dict[str, Callable[[Path, Path], Any]] = {
    "compress": lambda a, b: compress(a, b, bits=8),
    "split": lambda a, b: split_checkpoint(a, b, layers=1),
    "merge": merge_checkpoint,
}


# files beside the tensors


@pytest.mark.promise("fault-C1")
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.filterwarnings("ignore:.*not in the checkpoint")
def test_subfolders_and_hidden_files_come_along(folder: Path, run: str) -> None:
    """Byte for byte, with the weights of modules; other weights are named with their bytes."""
    put(folder, OTHERS | LEFT | HIDDEN)
    target = folder.with_name("out")
    done = RUNS[run](folder, target)
    found = files_of(target)
    expected = {**OTHERS, "tokenizer.json": (folder / "tokenizer.json").read_bytes()}
    assert {name: found.get(name) for name in expected} == expected
    weights_and_config = {name for name in found if name.startswith(("model", "config.json")) and "/" not in name}
    assert found.keys() - expected.keys() == weights_and_config - expected.keys()
    (left,) = [note for note in done.notes if note.startswith("not copied")]
    assert all(f"{name!r} ({len(data):,} bytes)" in left for name, data in LEFT.items())
    (kept,) = [note for note in done.notes if note.startswith("copied as they are")]
    assert "'2_Dense/model.safetensors' (18 bytes), '3_Dense/pytorch_model.bin' (31 bytes)" in kept
    if run == "compress":
        assert set(plan(folder, bits=8).notes) == set(done.notes)


def test_a_single_file_has_nothing_beside_it(tmp_path: Path) -> None:
    put(tmp_path / "in", {"config.json": b"no JSON", "x/y": b""})
    source = save(tmp_path / "in" / "m.safetensors", small_model())
    with open_checkpoint(source) as checkpoint:
        assert checkpoint.side_files == [] and checkpoint.config is None


@pytest.mark.parametrize("text", [b"{", b"{}", b'[1, {"path": 3}, {}]', b"\xff", b"[]"])
def test_a_modules_json_of_any_kind_is_a_file_like_others(folder: Path, text: bytes) -> None:
    put(folder, {"modules.json": text, "3_Dense/pytorch_model.bin": b"x"})
    with open_checkpoint(folder) as checkpoint:
        assert "modules.json" in checkpoint.side_files and "3_Dense/pytorch_model.bin" in checkpoint.beside.others


def test_many_other_weights_are_one_short_note(folder: Path) -> None:
    put(folder, {f"w{k:02}.onnx": b"x" * k for k in range(30)})
    (note,) = [n for n in plan(folder, bits=8).notes if n.startswith("not copied")]
    assert "'w09.onnx' (9 bytes) and 20 more, 435 bytes in all" in note and "w10" not in note


@pytest.mark.promise("fault-C6")
def test_links_in_subfolders_are_followed(folder: Path, tmp_path: Path) -> None:
    """To files and to folders, into a cache or anywhere; what leads nowhere or in circles is named."""
    put(tmp_path / "cache", {"blob": b"{}", "pooling/config.json": b"pool", "pooling/x": b"x"})
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").symlink_to("../../cache/blob")
    (folder / "1_Pooling").symlink_to(tmp_path / "cache" / "pooling")
    (folder / "loop").symlink_to(".")
    (folder / "2_Dense" / "up").symlink_to("../..")
    (folder / "2_Dense" / "gone").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    report = compress(folder, tmp_path / "out", bits=8)
    found = files_of(tmp_path / "out")
    assert found["2_Dense/config.json"] == b"{}" and found["1_Pooling/x"] == b"x"
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    (note,) = [n for n in report.notes if n.startswith("not copied")]
    for said in (
        "'loop' (a link to a folder that it is in)", "'2_Dense/up' (a link to a folder that it is in)",
        "'2_Dense/gone' (a link that leads nowhere", "'itself' (a link that leads nowhere",
    ):  # fmt: skip
        assert said in note
    for target in (tmp_path / "cache", tmp_path / "cache" / "pooling"):  # it would replace what is being read
        with pytest.raises(ValueError, match=r"must not be (the folder that holds|a link to) the source"):
            compress(folder, target, bits=8, overwrite=True)


@pytest.mark.promise("fault-C6")
def test_folders_that_lead_to_each_other_without_end(folder: Path, tmp_path: Path) -> None:
    """Twelve folders, each with links to all others, have more ways than can be gone."""
    names = [f"f{k}" for k in range(12)]
    for name in names:
        (tmp_path / "many" / name).mkdir(parents=True)
        for other in names:
            (tmp_path / "many" / name / other).symlink_to(tmp_path / "many" / other)
    (folder / "many").symlink_to(tmp_path / "many")
    with (
        nothing_written(tmp_path / "out"),
        pytest.raises(FormatError, match=f"more than {side_files.LINKS_LIMIT} links to folders"),
    ):
        compress(folder, tmp_path / "out", bits=8)


@pytest.mark.promise("fault-D22")
@pytest.mark.parametrize("kind", ["FIFO", "directory", "link", "device"])
def test_a_config_that_is_no_file(folder: Path, kind: str) -> None:
    """The model would be written without it."""
    config = folder / "config.json"
    config.unlink()
    if kind == "FIFO":
        os.mkfifo(config)
    elif kind == "directory":
        config.mkdir()
    else:
        config.symlink_to("/dev/null" if kind == "device" else "nowhere")
    if kind == "link":
        with nothing_written(folder.with_name("out")), pytest.raises(FileNotFoundError, match=r"config\.json"):
            compress(folder, folder.with_name("out"))
    else:
        refused_checkpoint(folder, "config.json", "must be a regular file, not a")


@pytest.mark.promise("fault-C1", "fault-D22")
def test_other_special_files_are_named(folder: Path) -> None:
    """They are no part of a model, and nobody waits for what comes out of them."""
    (folder / "sub").mkdir()
    os.mkfifo(folder / "sub" / "tokenizer.json")
    (folder / "zero").symlink_to("/dev/zero")
    for run, act in RUNS.items():
        done = act(folder, folder.with_name(run))
        assert "not copied: 'sub/tokenizer.json' (a FIFO), 'zero' (a character device)" in done.notes
    report = compress_lossless(folder, folder.with_name("planes"))
    assert report.notes == ("left out: 'sub/tokenizer.json' (a FIFO), 'zero' (a character device)",)


# metadata


def metadata_of(path: Path) -> Any:
    with safe_open(path, "numpy") as file:
        return file.metadata()


@pytest.mark.promise("fault-C2")
def test_a_format_where_the_source_has_none(tmp_path: Path) -> None:
    """transformers opens files without metadata, and refuses those whose metadata have no format."""
    bare = tmp_path / "bare"
    bare.mkdir()
    put(bare, {"config.json": b"{}"})
    ways: list[dict[str, Any]] = [
        {"bits": 8},
        {"codebook": "nf4"},
        {"codebook": "mxint8"},
        {"bits": None, "prune": 0.5},
    ]
    for metadata in (None, {"note": "x"}, {"format": "mlx"}):
        for source in (bare / "model.safetensors", tmp_path / "m.safetensors"):
            save(source, {"a.weight": weights(96, 64)}, metadata or {})
            if metadata is None:
                text = source.read_bytes()
                (length,) = struct.unpack("<Q", text[:8])
                header = json.loads(text[8 : 8 + length])
                del header["__metadata__"]
                source.write_bytes(raw_file(header, text[8 + length :]))
        wanted = (metadata or {}).get("format", "pt")
        for k, options in enumerate(ways):
            compress(bare, tmp_path / "out", overwrite=True, **options)
            assert metadata_of(tmp_path / "out" / "model.safetensors")["format"] == wanted
            compress(bare, tmp_path / "out", overwrite=True, max_shard_size="1GB", **options)
            assert metadata_of(tmp_path / "out" / "model.safetensors")["format"] == wanted
            compress(tmp_path / "m.safetensors", tmp_path / "o.safetensors", overwrite=True, **options)
            own = k == 2  # only quantrim reads it
            found = metadata_of(tmp_path / "o.safetensors")
            assert found.get("format") == (None if own and wanted == "pt" else wanted) and "quantrim_version" in found


# the index


@pytest.mark.promise("fault-C4")
def test_what_an_index_says_is_kept(folder: Path) -> None:
    """total_size is that of the new tensors, total_parameters loses what is gone, all else stays."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    count = sum(a.size for a in small_model().values())
    more = {"total_parameters": count, "note": ["x", {"y": 1}]}
    path.write_text(json.dumps({**index, "metadata": {**index["metadata"], **more}, "version": 3}))

    def index_of(target: Path) -> dict[str, Any]:
        found = json.loads((target / path.name).read_text())
        with open_checkpoint(target) as checkpoint:
            assert found["metadata"]["total_size"] == checkpoint.total_size
            assert found["weight_map"].keys() == checkpoint.tensors.keys()
        assert found.keys() == {"metadata", "weight_map", "version"} and found["version"] == 3
        assert found["metadata"].keys() == {"total_size", "total_parameters", "note"}
        assert found["metadata"]["note"] == more["note"]
        return found

    for name in ("compress", "split"):
        RUNS[name](folder, folder.with_name(name))
        assert index_of(folder.with_name(name))["metadata"]["total_parameters"] == count
    compress(folder, folder.with_name("dropped"), bits=8, drop="*.up.*")
    gone = sum(a.size for name, a in small_model().items() if ".up." in name)
    assert index_of(folder.with_name("dropped"))["metadata"]["total_parameters"] == count - gone


@pytest.mark.promise("fault-C4")
def test_parameters_follow_units_that_are_removed(tmp_path: Path) -> None:
    arrays = {"fc1.weight": weights(64, 32), "fc1.bias": weights(64), "fc2.weight": weights(16, 64)}
    source = save_folder(tmp_path / "model", arrays, 2)
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["metadata"]["total_parameters"] = 10_000 + sum(a.size for a in arrays.values())
    path.write_text(json.dumps(index))
    recipe = {"bits": "none", "remove_units": [{"layers": ["fc1", "fc2"], "sparsity": 0.5}]}
    compress(source, tmp_path / "out", recipe=recipe)
    found = json.loads((tmp_path / "out" / path.name).read_text())["metadata"]["total_parameters"]
    assert found == 10_000 + 32 * 32 + 32 + 16 * 32


# the same bytes


def unusual_files() -> dict[str, bytes]:
    """Files that the library accepts and would write otherwise."""
    a, b = np.arange(64, dtype=np.float32), np.arange(60, dtype=np.float16)
    data = b.tobytes() + a.tobytes()
    entries: dict[str, Any] = {
        "l.1.a": {"dtype": "F32", "shape": [64], "data_offsets": [120, 376]},
        "l.0.b": {"dtype": "F16", "shape": [60], "data_offsets": [0, 120]},
    }
    compact = json.dumps(entries, separators=(",", ":")).encode()
    return {
        "other order, spaces": raw_file(entries, data),
        "no padding": raw_file(compact + b" " * (1 - len(compact) % 2), data),
        "much padding": raw_file(compact.ljust(9000), data),
        "metadata last": raw_file({**entries, "__metadata__": {"b": "1", "a": "2"}}, data),
        "empty metadata": raw_file({"__metadata__": {}, **entries}, data),
        "null metadata": raw_file({"__metadata__": None, **entries}, data),
        "extra field": raw_file({**entries, "l.0.b": {**entries["l.0.b"], "extra": 1}}, data),
    }


@pytest.mark.promise("fault-C3", "fault-C7")
@pytest.mark.parametrize("kind", unusual_files())
def test_a_file_of_any_header_split_and_merged_is_the_same_file(tmp_path: Path, kind: str) -> None:
    """Also out of a folder, through two splits, and out of byte planes."""
    source = tmp_path / "in" / "model.safetensors"
    put(source.parent, {source.name: unusual_files()[kind], "config.json": b"{}"})
    split_checkpoint(source, tmp_path / "parts", layers=1)
    split_checkpoint(tmp_path / "parts", tmp_path / "again", max_size=300)
    compress_lossless(source, tmp_path / "planes.safetensors")
    split_checkpoint(tmp_path / "planes.safetensors", tmp_path / "unpacked", layers=1)
    split_checkpoint(source, tmp_path / "one", max_size=10**6)
    for k, parts in enumerate(("parts", "again", "unpacked", "one", "in", "planes.safetensors")):
        merge_checkpoint(tmp_path / parts, tmp_path / f"{k}.safetensors")
        assert (tmp_path / f"{k}.safetensors").read_bytes() == source.read_bytes(), parts
    merge_checkpoint(tmp_path / "parts", tmp_path / "folder")
    assert (tmp_path / "folder" / "model.safetensors").read_bytes() == source.read_bytes()


@pytest.mark.promise("fault-C7")
def test_a_header_that_is_kept_is_used_for_its_own_tensors_only(tmp_path: Path) -> None:
    """Not where tensors are dropped or changed, and not where somebody has written nonsense."""
    source = tmp_path / "m.safetensors"
    source.write_bytes(unusual_files()["much padding"])
    split_checkpoint(source, tmp_path / "parts", layers=1)
    index = tmp_path / "parts" / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    assert HEADER in document["metadata"]
    merge_checkpoint(tmp_path / "parts", tmp_path / "less.safetensors", drop="l.0.b")
    with open_checkpoint(tmp_path / "less.safetensors") as checkpoint:
        assert list(checkpoint) == ["l.1.a"]
    compress(tmp_path / "parts", tmp_path / "small", bits=None, prune=0.5, min_elements=1, drop="l.0.b")
    assert not [p for p in (tmp_path / "small").glob("*.index.json") if HEADER in p.read_text()]
    merge_checkpoint(tmp_path / "parts", tmp_path / "whole.safetensors")
    other = raw_file({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})

    for k, text in enumerate(("", "!", "AAAA", 7, None, base64.b64encode(zlib.compress(other)).decode())):
        document["metadata"][HEADER] = text
        index.write_text(json.dumps(document))
        merge_checkpoint(tmp_path / "parts", tmp_path / f"{k}.safetensors")
        with open_checkpoint(tmp_path / f"{k}.safetensors") as found, open_checkpoint(source) as was:
            assert {n: found.raw(n) for n in found} == {n: was.raw(n) for n in was}
        assert (tmp_path / f"{k}.safetensors").stat().st_size < source.stat().st_size


def test_splits_as_the_library_writes_keep_no_header(folder: Path, tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    for k, each in enumerate((folder, source)):
        split_checkpoint(each, tmp_path / f"{k}", layers=1)
        assert HEADER not in (tmp_path / f"{k}" / "model.safetensors.index.json").read_text()
