"""Checkpoints as byte planes and back: every byte, every reader, any number of threads."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from children import printed
from files_helpers import (
    SMALL,
    entry,
    floats,
    nothing_written,
    raw_file,
    snapshot,
    two_shards,
    write_index,
    write_tensors,
)
from model_helpers import save, save_folder, small_model, sparse_checkpoint, weights
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

import quantrim as qt
from quantrim.cli import app
from quantrim.files import open_checkpoint
from quantrim.model import compress, compress_lossless, plan, restore
from quantrim.model.edit import lossless
from quantrim.model.edit import split as split_module
from quantrim.model.report.compare import compare
from quantrim.model.report.inspect import inspect

GOLDEN = Path(__file__).parent / "golden" / "lossless-1.safetensors"
GOLDEN_ORIGINAL = "e1df28ac0aa9a3730882e5e88e0e8ab60c9979bb8529b41f5debaffca9031338"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossless, "CHUNK_BYTES", 1 << 12)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="quantrim")


def there_and_back(source: Path, folder: Path) -> Path:
    """The planes of a source, from which every byte came back."""
    suffix = source.suffix
    planes, again = folder / f"planes{suffix}", folder / f"again{suffix}"
    compress_lossless(source, planes)
    restore(planes, again)
    assert snapshot(again) == snapshot(source)
    return planes


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_byte_comes_back_from_a_smaller_file(tmp_path: Path, dtype: Any) -> None:
    source = save(tmp_path / "source.safetensors", small_model(dtype))
    planes = there_and_back(source, tmp_path)
    assert planes.stat().st_size < source.stat().st_size
    stored = load_file(planes) if dtype is not ml_dtypes.bfloat16 else stored_names(planes)
    assert {"quantrim.header", "quantrim.chunks", "model.layers.0.up.weight.byte_planes"} <= set(stored)


def stored_names(path: Path) -> list[str]:
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return list(json.loads(path.read_bytes()[8 : 8 + length]))


def test_every_dtype_and_every_bit_pattern(tmp_path: Path) -> None:
    from quantrim.files import DTYPES, encode_header

    entries = [(name, name, [8192]) for name in DTYPES]
    head, places = encode_header(entries, {"format": "pt"})
    data = np.random.default_rng(0).integers(0, 4, max(end for _, end in places.values()), np.uint8)
    (tmp_path / "all.safetensors").write_bytes(head + data.tobytes())
    there_and_back(tmp_path / "all.safetensors", tmp_path)


def test_headers_are_kept_as_they_were_written(tmp_path: Path) -> None:
    """Spaces, order, escapes and fields of no meaning, which no writer of ours would write."""
    tensors = {"z": entry("F32", [2, 1], 6, 14), "a\u00e9": entry("BF16", [3], 0, 6) | {"extra": 1}}
    text = json.dumps({"z": tensors["z"], "__metadata__": {"b": "2", "a": "1"}, **tensors}, indent=3).encode() + b"   "
    files = [raw_file(text, bytes(range(14))), SMALL, raw_file({}), raw_file({"__metadata__": {}})]
    files.append(raw_file({"empty": entry("F32", [0, 5], 0, 0), "scalar": entry("F64", [], 0, 8)}, bytes(8)))
    for number, content in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "odd.safetensors").write_bytes(content)
        there_and_back(folder / "odd.safetensors", folder)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_folders_come_back_whole(tmp_path: Path, shards: int) -> None:
    source = save_folder(tmp_path / "model", small_model(), shards)
    planes = there_and_back(source, tmp_path)
    assert sorted(p.name for p in planes.iterdir()) == sorted([*(p.name for p in source.iterdir()), lossless.LISTING])
    with open_checkpoint(source) as a, open_checkpoint(planes) as b:
        assert a.tensors.keys() == b.tensors.keys() and a.config == b.config and a.metadata == b.metadata


@pytest.mark.promise("fault-C1")
def test_all_files_come_back_and_what_does_not_is_named(tmp_path: Path) -> None:
    """What cannot be packed is carried as it is, also in subfolders and in other formats."""
    source = save_folder(tmp_path / "model", small_model(), 1)
    others = {
        ".gitattributes": b"*", "1_Pooling/config.json": b"{}", "a/b/c.txt": b"deep", "onnx/model.onnx": b"graph",
        "pytorch_model.bin": b"x", "x.safetensors": b"unread",
    }  # fmt: skip
    for name, data in others.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "link.json").symlink_to("config.json")
    before = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    (source / ".git").mkdir()
    (source / ".git" / "HEAD").write_bytes(b"ref")
    os.mkfifo(source / "fifo")
    with pytest.warns(UserWarning, match=r"'x.safetensors' not in the checkpoint"):
        report = compress_lossless(source, tmp_path / "planes")
        done = restore(tmp_path / "planes", tmp_path / "again")
    again = tmp_path / "again"
    assert {str(p.relative_to(again)): p.read_bytes() for p in again.rglob("*") if p.is_file()} == before
    assert set(done.files) == set(before)
    assert report.notes == (
        "copied as they are: 'onnx/model.onnx' (5 bytes), 'pytorch_model.bin' (1 bytes), 'x.safetensors' (6 bytes)",
        "left out: '.git', 'fifo' (a FIFO)",
    )


@pytest.mark.promise("fault-C1")
def test_files_whose_names_the_list_cannot_hold(tmp_path: Path) -> None:
    """Else restore could not read the list."""
    source = save_folder(tmp_path / "model", small_model(), 1)
    (source / os.fsdecode(b"\xff.txt")).write_bytes(b"x")
    with nothing_written(tmp_path / "planes"), pytest.raises(ValueError, match="names of files must be UTF-8"):
        compress_lossless(source, tmp_path / "planes")


@pytest.mark.promise("fault-C5")
def test_shards_that_the_index_does_not_wholly_list(tmp_path: Path) -> None:
    """The files come back whole, unlisted tensors and second copies too."""
    source = two_shards(tmp_path / "model")
    write_tensors(source / "x-3.safetensors", {"a": floats(2) + 1, "e": floats(40)})
    write_index(source, {"a": "x-3.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"})
    with pytest.warns(UserWarning, match="disagree"):
        compress_lossless(source, tmp_path / "planes")
        restore(tmp_path / "planes", tmp_path / "again")
    assert snapshot(tmp_path / "again") == snapshot(source)


def test_the_bytes_do_not_depend_on_threads(tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    found = set()
    for count in (1, 2, 5):
        with qt.use_threads(count):
            compress_lossless(source, tmp_path / f"{count}.safetensors")
            restore(tmp_path / f"{count}.safetensors", tmp_path / f"again{count}.safetensors")
        found.add((tmp_path / f"{count}.safetensors").read_bytes())
        assert (tmp_path / f"again{count}.safetensors").read_bytes() == source.read_bytes()
    assert len(found) == 1


def test_what_does_not_shrink_stays_as_it_was(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    source = save(tmp_path / "source.safetensors", {"noise": noise, "w": weights(64, 64)})
    report = compress_lossless(source, tmp_path / "planes.safetensors")
    by_name = {t.name: t for t in report.tensors}
    assert (by_name["noise"].label, by_name["noise"].reason) == ("U8", "does not shrink")
    assert by_name["w"].label == "F32 as byte planes" and by_name["w"].stored_bytes < by_name["w"].source_bytes
    np.testing.assert_array_equal(load_file(tmp_path / "planes.safetensors")["noise"], noise)
    assert report.source_bytes == source.stat().st_size
    assert report.stored_bytes == (tmp_path / "planes.safetensors").stat().st_size
    assert report.ratio == report.source_bytes / report.stored_bytes


def test_progress_counts_every_byte(tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    said: list[tuple[int, int, str]] = []
    compress_lossless(source, tmp_path / "planes.safetensors", progress=lambda *step: said.append(step))
    with open_checkpoint(source) as model:
        assert said[-1][:2] == (model.total_size, model.total_size)
    first, said = said, []
    restore(tmp_path / "planes.safetensors", tmp_path / "again.safetensors", progress=lambda *step: said.append(step))
    assert said == first


def test_any_rows_are_read_without_the_rest(tmp_path: Path) -> None:
    w = weights(777, 13)
    source = save(tmp_path / "source.safetensors", {"w": w})
    planes = there_and_back(source, tmp_path)
    with open_checkpoint(planes) as model:
        rng = np.random.default_rng(0)
        for first, last in np.sort(rng.integers(0, 778, (50, 2))):
            np.testing.assert_array_equal(model.rows("w", first, last - first), w[first:last])
            assert model.raw("w", int(first) * 7, int(last) * 7) == w.tobytes()[first * 7 : last * 7]


def test_other_commands_read_planes_like_the_original(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "model", small_model(ml_dtypes.bfloat16))
    planes = there_and_back(source, tmp_path)
    comparison = compare(source, planes)
    assert comparison.equal and comparison.matching and comparison.nbytes[1] < comparison.nbytes[0]
    a, b = inspect(source), inspect(planes)
    assert [t.statistics for t in a.tensors] == [t.statistics for t in b.tensors]
    assert {"BF16 as byte planes"} <= {t.label for t in b.tensors} and b.nbytes < a.nbytes
    for number, path in enumerate((source, planes)):
        split_module.split_checkpoint(path, tmp_path / f"split-{number}", layers=1)
        split_module.merge_checkpoint(path, tmp_path / f"merged-{number}.safetensors")
    one, two = (snapshot(tmp_path / f"split-{k}") for k in range(2))
    assert one == two
    assert snapshot(tmp_path / "merged-0.safetensors") == snapshot(tmp_path / "merged-1.safetensors")


@pytest.mark.parametrize("shards", [0, 3])
def test_compress_makes_the_same_of_planes(tmp_path: Path, shards: int) -> None:
    if shards:
        source = save_folder(tmp_path / "model", small_model(), shards)
    else:
        source = save(tmp_path / "model.safetensors", small_model(), {"format": "pt"})
    planes = there_and_back(source, tmp_path)
    one, two = ([(t.name, t.label, t.stored_bytes) for t in plan(path).tensors] for path in (source, planes))
    assert one == two
    for number, path in enumerate((source, planes)):
        compress(path, tmp_path / f"small-{number}{source.suffix}", group_size=32)
    assert snapshot(tmp_path / f"small-0{source.suffix}") == snapshot(tmp_path / f"small-1{source.suffix}")
    with open_checkpoint(source) as before, open_checkpoint(tmp_path / f"small-1{source.suffix}") as after:
        assert before.metadata.items() <= after.metadata.items()


def test_packed_codes_have_no_statistics(tmp_path: Path) -> None:
    (tmp_path / "f4.safetensors").write_bytes(raw_file({"w": entry("F4", [64, 128], 0, 4096)}, bytes(4096)))
    compress_lossless(tmp_path / "f4.safetensors", tmp_path / "planes.safetensors")
    (tensor,) = inspect(tmp_path / "planes.safetensors").tensors
    assert tensor.label == "F4 as byte planes" and tensor.statistics is None


@pytest.mark.promise("C93")
def test_files_of_the_first_version_are_read_for_ever(tmp_path: Path) -> None:
    restored = restore(GOLDEN, tmp_path / "again.safetensors")
    found = (tmp_path / "again.safetensors").read_bytes()
    assert hashlib.sha256(found).hexdigest() == GOLDEN_ORIGINAL == restored.files[GOLDEN.name]


# Refusals


def test_planes_are_not_made_of_planes(tmp_path: Path) -> None:
    planes = there_and_back(save(tmp_path / "source.safetensors", small_model()), tmp_path)
    target = tmp_path / "x.safetensors"
    with nothing_written(target), pytest.raises(ValueError, match="is byte planes already"):
        compress_lossless(planes, target)


@pytest.mark.parametrize("name", ["quantrim.header", "quantrim.chunks", "w.byte_planes"])
def test_names_of_our_own_are_refused(tmp_path: Path, name: str) -> None:
    source = save(tmp_path / "source.safetensors", {name: weights(4, 4)})
    with nothing_written(tmp_path / "x.safetensors"), pytest.raises(ValueError, match="a tensor name must not be"):
        compress_lossless(source, tmp_path / "x.safetensors")


def test_without_zstandard_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    planes = there_and_back(source, tmp_path)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    said = r"pip install 'quantrim\[lossless\]'"
    with nothing_written(tmp_path / "x.safetensors"):
        with pytest.raises(ValueError, match=said):
            compress_lossless(source, tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=said):
            restore(planes, tmp_path / "x.safetensors")
    with open_checkpoint(source) as model:  # which has no planes
        assert model.read("scalar") == 3.5


@pytest.mark.promise("C56")
def test_targets_that_are_in_the_way(tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    planes = there_and_back(source, tmp_path)
    for call, path in ((compress_lossless, source), (restore, planes)):
        with pytest.raises(ValueError, match="must not be the source"):
            call(path, path, overwrite=True)
        with pytest.raises(ValueError, match="unless overwrite=True"):
            call(path, tmp_path / "again.safetensors")
        with pytest.raises(ValueError, match=r"a \.safetensors file, as the source is"):
            call(path, tmp_path / "folder")


@pytest.mark.promise("C55")
def test_a_source_that_changes_leaves_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    planes = there_and_back(source, tmp_path)

    def touch(path: Path) -> Any:
        return lambda *_: os.utime(path, ns=(1, 1))

    for call, path in ((compress_lossless, source), (restore, planes)):
        with nothing_written(tmp_path / "x.safetensors"), pytest.raises(ValueError, match="changed while"):
            call(path, tmp_path / "x.safetensors", progress=touch(path))


# The command line


def test_commands_there_and_back(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "model", small_model())
    done = run("compress", source, tmp_path / "planes", "--lossless", "--report", tmp_path / "r.json", "--threads", 2)
    assert done.exit_code == 0 and "every bit kept" in done.stdout and "as byte planes" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["ratio"] > 1
    back = run("restore", tmp_path / "planes", tmp_path / "again", "--json")
    assert back.exit_code == 0 and len(json.loads(back.stdout)["files"]) == 5
    assert snapshot(tmp_path / "again") == snapshot(source)
    assert run("restore", tmp_path / "planes", tmp_path / "again").exit_code == 2
    shown = run("restore", tmp_path / "planes", tmp_path / "again", "--overwrite")
    assert shown.exit_code == 0 and "5 files, SHA-256 as recorded" in shown.stdout
    assert run("compare", source, tmp_path / "planes").exit_code == 0


@pytest.mark.promise("B48")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bits", "4", "--prune", "0.5"], "--lossless must be given without --bits, --prune: it changes no weight"),
        (["--dry-run"], "--lossless must be given without --dry-run: only compressing tells the size"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, options: list[str], said: str) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    with nothing_written(tmp_path / "x.safetensors"):
        done = run("compress", source, tmp_path / "x.safetensors", "--lossless", *options)
        assert done.exit_code == 2 and said in done.stderr


@pytest.mark.promise("D101")
def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "source.safetensors", small_model())
    target = tmp_path / "x.safetensors"
    with nothing_written(target):
        plain = run("restore", source, target)
        assert plain.exit_code == 2 and "must be a file that compress_lossless wrote" in plain.stderr
        assert run("restore", tmp_path / "absent.safetensors", target).exit_code == 3
        monkeypatch.setattr(lossless, "_encode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("compress", source, target, "--lossless").exit_code == 130


# Memory

PEAK = """
from pathlib import Path
import quantrim as qt
from quantrim.model import compress_lossless, restore
with qt.use_threads(2):
    compress_lossless({0!r}, {1!r})
    restore({1!r}, {2!r})
status = Path("/proc/self/status").read_text()
print(1024 * int(status.split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.promise("G12")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, to see the peak of a process")
    source = sparse_checkpoint(tmp_path / "m.safetensors", [("w", "F32", [16384, 4096]), ("b", "BF16", [1 << 25])])
    found = int(printed(PEAK.format(*map(str, (source, tmp_path / "p.safetensors", tmp_path / "a.safetensors")))))
    assert found < 150 << 20, f"{found >> 20} MiB"
