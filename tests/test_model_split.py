"""Checkpoints cut into files and put together again: the same bytes, whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from files_helpers import leftovers, nothing_written, snapshot
from held_tensors import normal
from model_helpers import Arrays, save, save_folder, small_model, sparse_checkpoint
from safetensors.numpy import load_file

import quantrim as qt
from quantrim.demo.digits import model_file
from quantrim.files import FormatError, open_checkpoint
from quantrim.files.disk.writer import FileWriter
from quantrim.model import merge_checkpoint, split_checkpoint
from quantrim.model.edit.layers import layer_of, layers_of, plan_shards
from quantrim.model.edit.split import layer_scores, shard_scores
from quantrim.model.encode import targets


def raw(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a checkpoint, byte for byte."""
    with open_checkpoint(path) as checkpoint:
        return {t.name: (t.dtype, t.shape, checkpoint.raw(t.name)) for t in checkpoint.tensors.values()}


def layered(layers: int = 5, extra: bool = True) -> Arrays:
    arrays: Arrays = {}
    for k in range(layers):
        arrays[f"model.layers.{k}.up.weight"] = normal(16, 8, seed=k) * np.float32(k + 1)
        arrays[f"model.layers.{k}.norm.weight"] = np.ones(8, np.float16)
    if extra:
        arrays |= {"model.embed.weight": normal(30, 8), "lm_head.weight": normal(30, 8).astype(ml_dtypes.bfloat16)}
        arrays["positions"] = np.arange(7)
    return arrays


# Layers


def test_layers_by_the_first_number_of_a_name() -> None:
    assert layer_of("model.layers.12.mlp.experts.3.up.weight") == ("model.layers", 12)
    assert layer_of("0.weight") == ("", 0) and layer_of("h.7.ln.1.bias") == ("h", 7)
    for name in ("lm_head.weight", "fc1.weight", "layers.3", "a.1b.c", "", "layers.9999999999.w", "layers.²."):
        assert layer_of(name) is None, name
    assert layers_of(["h.10.w", "h.2.w", "ln.w"]) == {"h.10.w": "h.10", "h.2.w": "h.2", "ln.w": None}
    assert layers_of(["0.weight", "2.weight"]) == {"0.weight": "0", "2.weight": "2"}
    assert layers_of(["a.w", "a.b", "bare"]) == {"a.w": "a", "a.b": "a", "bare": "bare"}


def test_parts_by_layers(tmp_path: Path) -> None:
    """Layers in the order of their numbers, N in a file, what belongs to none in a file of its own."""
    source = save(tmp_path / "m.safetensors", layered(12))
    with open_checkpoint(source) as checkpoint:
        parts = plan_shards(checkpoint, layers=5)
        assert [part.name for part in parts] == [f"model-{k:05}-of-00004.safetensors" for k in (1, 2, 3, 4)]
        assert {t.name for t in parts[0].tensors} == {"model.embed.weight", "lm_head.weight", "positions"}
        found = [{int(t.name.split(".")[2]) for t in part.tensors} for part in parts[1:]]
        assert found == [{0, 1, 2, 3, 4}, {5, 6, 7, 8, 9}, {10, 11}]
        (whole,) = plan_shards(checkpoint, max_size=10**9)
        assert whole.name == "model.safetensors" and whole.size == source.stat().st_size
    bare = save(tmp_path / "n.safetensors", layered(3, extra=False))
    with open_checkpoint(bare) as checkpoint:
        assert [len(shard.tensors) for shard in plan_shards(checkpoint, layers=1)] == [2, 2, 2]


@pytest.mark.parametrize("names", [lambda k: f"t{k}", lambda k: f"é\n{'x' * (k % 90)}{k}"], ids=["short", "long"])
@pytest.mark.parametrize("metadata", [{}, {"format": "pt", "note": "ü" * 300}], ids=["bare", "metadata"])
def test_no_file_is_larger_than_asked_for(
    tmp_path: Path, names: Callable[[int], str], metadata: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {names(k): np.zeros(int(rng.integers(0, 400)), np.uint8) for k in range(200)}
    source = save(tmp_path / "m.safetensors", arrays, metadata)
    for limit in (1500, 4000, 20_000):
        folder = tmp_path / str(limit)
        written = split_checkpoint(source, folder, max_size=limit)
        sizes = [p.stat().st_size for p in folder.glob("*.safetensors")]
        assert max(sizes) <= limit and sorted(sizes) == sorted(shard.size for shard in written.shards)
        if limit > 4000:
            assert min(sorted(sizes)[1:]) > limit * 0.7  # and few of them
        assert raw(folder) == raw(source)


@pytest.mark.promise("fault-D7")
def test_a_tensor_larger_than_asked_for_has_its_own_file(tmp_path: Path) -> None:
    """It is said, and no error."""
    arrays = {"a": normal(9), "b": normal(9), "big": normal(100, 20), "c": normal(9)}
    source = save(tmp_path / "m.safetensors", arrays)
    written = split_checkpoint(source, tmp_path / "parts", max_size=1000)
    assert [[t.name for t in shard.tensors] for shard in written.shards] == [["a", "b"], ["big"], ["c"]]
    size = max(shard.size for shard in written.shards)
    said = f"1 file of one tensor is larger than max_size 1,000, since tensors stay whole: {size:,} bytes with 'big'"
    assert written.notes == (said,)
    merge_checkpoint(tmp_path / "parts", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == source.read_bytes()


# There and back


def test_a_file_split_and_merged_is_the_same_file(tmp_path: Path) -> None:
    with model_file() as source:
        for k, options in enumerate(({"layers": 1}, {"layers": 2}, {"max_size": 140_000}, {"max_size": 10**9})):
            parts, whole = tmp_path / f"parts{k}", tmp_path / f"{k}.safetensors"
            split_checkpoint(source, parts, **options)  # type: ignore[arg-type]
            merge_checkpoint(parts, whole)
            assert whole.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_split_and_merged_has_the_same_tensors_and_files(tmp_path: Path, shards: int) -> None:
    arrays = {**small_model(), **layered(4)}
    source = save_folder(tmp_path / "source", arrays, shards)
    before = snapshot(source)
    for name, options in (("a", {"layers": 1}), ("b", {"max_size": 60_000})):
        parts, whole = tmp_path / name, tmp_path / f"{name} whole"
        written = split_checkpoint(source, parts, **options)  # type: ignore[arg-type]
        assert len(written.shards) > 1 and raw(parts) == raw(source)
        assert {p.name for p in parts.iterdir()} == {
            *(shard.name for shard in written.shards), "config.json", "tokenizer.json", "model.safetensors.index.json",
        }  # fmt: skip
        merge_checkpoint(parts, whole)
        assert {p.name for p in whole.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
        assert raw(whole) == raw(source)
        for folder in (parts, whole):
            for side in ("config.json", "tokenizer.json"):
                assert (folder / side).read_bytes() == (source / side).read_bytes()
    assert snapshot(source) == before


def test_what_the_library_reads_of_the_parts(tmp_path: Path) -> None:
    """The index names each tensor's file, and files hold what the library of the format reads."""
    source = save(tmp_path / "m.safetensors", layered())
    split_checkpoint(source, tmp_path / "parts", layers=2)
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": sum(len(data) for _, _, data in raw(source).values())}
    found = {}
    for name, file in index["weight_map"].items():
        found[name] = load_file(tmp_path / "parts" / file)[name]
    assert {name: a.tobytes() for name, a in found.items()} == {n: data for n, (_, _, data) in raw(source).items()}


def test_compressed_checkpoints(tmp_path: Path) -> None:
    arrays = {f"layers.{k}.weight": normal(64, 128, seed=k) for k in range(4)}
    source = save(tmp_path / "m.safetensors", arrays)
    small = tmp_path / "small.safetensors"
    qt.compress(source, small, bits=4, group_size=32)
    split_checkpoint(small, tmp_path / "parts", layers=1)
    assert raw(tmp_path / "parts") == raw(small)
    with open_checkpoint(small) as checkpoint:
        scores = layer_scores(checkpoint)
    assert [s.count for s in scores] == [64 * 128] * 4
    exact = [float(np.abs(a).sum(dtype=np.float64)) for a in arrays.values()]
    np.testing.assert_allclose([s.l1 for s in scores], exact, rtol=0.02)


def test_an_empty_checkpoint_and_empty_tensors(tmp_path: Path) -> None:
    for k, arrays in enumerate(({}, {"a": np.zeros((0, 4), np.float32), "b": np.zeros(0, np.int8)})):
        source = save(tmp_path / f"{k}.safetensors", arrays)  # type: ignore[arg-type]
        split_checkpoint(source, tmp_path / f"parts{k}", max_size=4096)
        merge_checkpoint(tmp_path / f"parts{k}", tmp_path / f"whole{k}.safetensors")
        assert (tmp_path / f"whole{k}.safetensors").read_bytes() == source.read_bytes()


@pytest.mark.promise("C57")
def test_names_of_any_kind(tmp_path: Path) -> None:
    arrays = {name: np.ones(3, np.float32) for name in ("", "a/b", "../c", "\x1b[31m", "é\u202e", "n" * 5000)}
    source = save(tmp_path / "m.safetensors", arrays)
    split_checkpoint(source, tmp_path / "parts", layers=1)
    assert raw(tmp_path / "parts") == raw(source)
    assert all(p.name.startswith("model") for p in (tmp_path / "parts").iterdir())


# Scores, and parts left out


def test_scores_of_parts_and_layers(tmp_path: Path) -> None:
    arrays = layered(4)
    source = save(tmp_path / "m.safetensors", arrays)
    with open_checkpoint(source) as checkpoint:
        parts = plan_shards(checkpoint, layers=1)
        of_parts, of_layers = shard_scores(checkpoint, parts), layer_scores(checkpoint)
    sums = []
    for k in range(4):
        w = np.concatenate([a.reshape(-1).astype(np.float64) for n, a in arrays.items() if f".{k}." in n])
        sums.append((w.size, np.abs(w).sum(), math.sqrt((w * w).mean())))
    assert [s.name for s in of_layers] == [f"model.layers.{k}" for k in range(4)]
    for found in (of_layers, of_parts[1:]):
        assert [s.count for s in found] == [n for n, _, _ in sums]
        np.testing.assert_allclose([s.l1 for s in found], [a for _, a, _ in sums], rtol=1e-6)
        np.testing.assert_allclose([s.rms for s in found], [b for _, _, b in sums], rtol=1e-6)
    assert sum(s.share for s in of_parts) == pytest.approx(1) == sum(s.share for s in of_layers)
    assert of_parts[0].count == 480  # integers are no weights


def test_the_lowest_layers_are_dropped(tmp_path: Path) -> None:
    """Layer k is scaled by k + 1; of equal ones the first go; the tensors of no layer stay."""
    source = save(tmp_path / "m.safetensors", layered(5))
    done = merge_checkpoint(source, tmp_path / "short.safetensors", drop_lowest=2)
    assert [s.name for s in done.lowest] == ["model.layers.0", "model.layers.1"]
    left = {name: t for name, t in raw(source).items() if ".layers.0." not in name and ".layers.1." not in name}
    assert raw(tmp_path / "short.safetensors") == left
    assert set(done.dropped) == set(raw(source)) - set(left)
    equal = {f"h.{k}.w": np.ones((4, 4), np.float32) for k in range(4)}
    save(tmp_path / "equal.safetensors", equal)
    merge_checkpoint(tmp_path / "equal.safetensors", tmp_path / "two.safetensors", drop_lowest=2)
    assert set(raw(tmp_path / "two.safetensors")) == {"h.2.w", "h.3.w"}


def test_tensors_are_dropped_by_name(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", layered(3), 2)
    done = merge_checkpoint(source, tmp_path / "out", drop=["lm_head.*", "*.norm.weight"], drop_lowest=1)
    left = set(raw(tmp_path / "out"))
    assert left == {"model.layers.1.up.weight", "model.layers.2.up.weight", "model.embed.weight", "positions"}
    assert len(done.dropped) == 5 and not left & set(done.dropped)
    one = merge_checkpoint(source, tmp_path / "one.safetensors", drop="positions")
    assert one.dropped == ("positions",)


# Refusals: nothing is written


@pytest.mark.promise("B48")
@pytest.mark.parametrize(
    "options,error,words",
    [
        ({}, ValueError, "give either max_size or layers, to say how large"),
        ({"max_size": 10**6, "layers": 1}, ValueError, "give either max_size or layers, not both"),
        ({"max_size": 0}, ValueError, "max_size must be an integer of 1"),
        ({"max_size": 1e6}, TypeError, "max_size must be an integer of 1"),
        ({"layers": 0}, ValueError, "layers must be an integer of 1"),
        ({"layers": "2"}, TypeError, "layers must be an integer of 1"),
        ({"layers": True}, TypeError, "layers must be an integer of 1"),
    ],
    ids=str,
)
def test_split_refuses(tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    with nothing_written(tmp_path / "out"), pytest.raises(error, match=words):
        split_checkpoint(source, tmp_path / "out", **options)


@pytest.mark.promise("B47")
@pytest.mark.parametrize(
    "options,error,words",
    [
        ({"drop": "x*"}, ValueError, r"drop 'x\*' matched 0 tensors"),
        ({"drop": ["*"]}, ValueError, "drop must leave a tensor, not none"),
        ({"drop": [3]}, TypeError, "drop must be a glob or a list of globs, not 3"),
        ({"drop_lowest": 2}, ValueError, r"drop_lowest must be an integer of 0\.\.1, not 2"),
        ({"drop_lowest": -1}, ValueError, r"drop_lowest must be an integer of 0\.\.1"),
        ({"drop_lowest": 1.0}, TypeError, r"drop_lowest must be an integer of 0\.\.1"),
    ],
    ids=str,
)
def test_merge_refuses(tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    for name in ("out", "out.safetensors"):
        with nothing_written(tmp_path / name), pytest.raises(error, match=words):
            merge_checkpoint(source, tmp_path / name, **options)


@pytest.mark.promise("A1")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16], ids=str)
def test_weights_that_cannot_be_scored(tmp_path: Path, dtype: Any) -> None:
    """They say where they are; without scores they are copied as they are."""
    arrays = layered(3)
    arrays["model.layers.1.up.weight"] = arrays["model.layers.1.up.weight"].astype(dtype)
    arrays["model.layers.1.up.weight"][3, 5] = np.nan
    source = save(tmp_path / "m.safetensors", arrays)
    with (
        nothing_written(tmp_path / "out"),
        pytest.raises(ValueError, match=r"model.layers.1.up.weight'.*(nan at flat index 29|finite)"),
    ):
        merge_checkpoint(source, tmp_path / "out", drop_lowest=1)
    split_checkpoint(source, tmp_path / "out", layers=1)
    assert raw(tmp_path / "out") == raw(source)


@pytest.mark.promise("C56")
def test_targets_that_are_the_source_or_in_the_way(tmp_path: Path) -> None:
    source = save_folder(tmp_path / "source", layered(3), 2)
    file = save(tmp_path / "m.safetensors", layered(3))
    (tmp_path / "link").symlink_to(source)
    before = snapshot(source), file.read_bytes()
    for target in (source, source / "parts", tmp_path / "link", tmp_path):
        with pytest.raises(ValueError, match="must not be"):
            split_checkpoint(source, target, layers=1, overwrite=True)
        with pytest.raises(ValueError, match="must not be"):
            merge_checkpoint(source, target, overwrite=True)
    shard = source / "model-00001-of-00002.safetensors"
    os.link(shard, tmp_path / "hard.safetensors")
    for target in (file, tmp_path / "hard.safetensors", shard):
        with pytest.raises(ValueError, match="must not be"):
            merge_checkpoint(file if target == file else source, target, overwrite=True)
    (tmp_path / "hard.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must be a folder, not a \.safetensors file"):
        split_checkpoint(file, tmp_path / "out.safetensors", layers=1)
    old = tmp_path / "old.safetensors"
    old.write_bytes(b"old")
    with nothing_written(old), pytest.raises(ValueError, match="must be absent unless overwrite=True"):
        merge_checkpoint(source, old)
    for function in (merge_checkpoint, lambda a, b: split_checkpoint(a, b, layers=1)):
        (tmp_path / "old").mkdir(exist_ok=True)
        (tmp_path / "old" / "mine.txt").write_text("mine")
        with pytest.raises(ValueError, match="must be absent or an empty folder unless overwrite=True"):
            function(file, tmp_path / "old")
        assert snapshot(tmp_path / "old") == {"mine.txt": b"mine"}
    assert (snapshot(source), file.read_bytes()) == before
    split_checkpoint(file, tmp_path / "old", layers=1, overwrite=True)
    assert raw(tmp_path / "old") == raw(file) and not (tmp_path / "old" / "mine.txt").exists()
    merge_checkpoint(file, tmp_path / "old.safetensors", overwrite=True)
    assert (tmp_path / "old.safetensors").read_bytes() == file.read_bytes()


@pytest.mark.promise("C50", "C51")
def test_sources_that_are_no_checkpoint(tmp_path: Path) -> None:
    file = save(tmp_path / "m.safetensors", layered(3))
    (tmp_path / "short.safetensors").write_bytes(file.read_bytes()[:-1])
    for function in (merge_checkpoint, lambda a, b: split_checkpoint(a, b, layers=1)):
        with nothing_written(tmp_path / "out"), pytest.raises(FileNotFoundError):
            function(tmp_path / "nowhere", tmp_path / "out")
        with nothing_written(tmp_path / "out"), pytest.raises(FormatError, match="file ends at byte"):
            function(tmp_path / "short.safetensors", tmp_path / "out")


@pytest.mark.promise("C55")
@pytest.mark.parametrize("kind", ["split", "merge", "merge to a file"])
def test_a_source_that_changes_leaves_nothing(tmp_path: Path, kind: str) -> None:
    source = save(tmp_path / "m.safetensors", layered(3))

    def progress(done: int, total: int, name: str) -> None:
        os.utime(source, ns=(1, 1))

    target = tmp_path / ("out.safetensors" if "file" in kind else "out")
    with nothing_written(target), pytest.raises(FormatError, match="file was changed while it was being read"):
        if kind == "split":
            split_checkpoint(source, target, layers=1, progress=progress)
        else:
            merge_checkpoint(source, target, progress=progress)


# Faults


@pytest.mark.promise("D95")
@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_full_disk_leaves_nothing(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = save_folder(tmp_path / "source", layered(3), 2), tmp_path / "out"
    real, calls = FileWriter.pwrite, 0

    def full(self: FileWriter, data: object, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self.path))
        real(self, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWriter, "pwrite", full)
    for run in (lambda: split_checkpoint(source, target, layers=1), lambda: merge_checkpoint(source, target)):
        calls = 0
        with nothing_written(target), pytest.raises(OSError, match="No space left"):
            run()


@pytest.mark.promise("D101")
def test_an_exception_of_the_callback_leaves_nothing(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", layered(3))
    seen: list[tuple[int, int, str]] = []

    def progress(done: int, total: int, name: str) -> None:
        seen.append((done, total, name))
        if len(seen) == 4:
            raise KeyboardInterrupt

    for target in (tmp_path / "out", tmp_path / "out.safetensors"):
        seen.clear()
        with nothing_written(target), pytest.raises(KeyboardInterrupt):
            merge_checkpoint(source, target, progress=progress)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)


KILLED = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from quantrim.model import merge_checkpoint, split_checkpoint

    def progress(done, total, name):
        print("running", flush=True)

    source, target, kind = sys.argv[1:]
    if kind == "split":
        split_checkpoint(source, target, layers=1, overwrite=True, progress=progress)
    else:
        merge_checkpoint(source, target, overwrite=True, progress=progress)
    """
)


@pytest.mark.promise("D98", "D101")
@pytest.mark.parametrize("kind", ["split", "merge", "merge.safetensors"])
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_midst(tmp_path: Path, kind: str, signum: signal.Signals) -> None:
    """The target is as it was; what a kill left, the next run removes."""
    source = sparse_checkpoint(
        tmp_path / "source.safetensors", [(f"layers.{k}.weight", "F32", [1024, 1024]) for k in range(40)]
    )
    target = tmp_path / kind.replace("merge", "out").replace("split", "out")
    if target.suffix:
        target.write_bytes(b"old")
    else:
        target.mkdir()
        (target / "mine.txt").write_bytes(b"mine")
    old = snapshot(target)
    command = [sys.executable, "-c", KILLED, str(source), str(target), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        for _ in range(5):
            assert run.stdout.readline() == "running\n"
        run.send_signal(signum)
        assert run.wait(20) in (-signum, 1)
    assert snapshot(target) == old
    assert bool(leftovers(tmp_path)) == (signum == signal.SIGKILL)
    if kind == "split":
        split_checkpoint(source, target, layers=1, overwrite=True)
    else:
        merge_checkpoint(source, target, overwrite=True)
    assert raw(target) == raw(source) and leftovers(tmp_path) == []


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """A tensor of 256 MiB passes through pieces of COPY_BYTES."""
    source = sparse_checkpoint(tmp_path / "m.safetensors", [("h.0.w", "F32", [8192, 8192]), ("h.1.w", "F32", [64, 64])])
    code = textwrap.dedent(
        """
        import resource, sys
        from quantrim.model import merge_checkpoint, split_checkpoint
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        split_checkpoint(sys.argv[1], sys.argv[2] + "/parts", layers=1)
        merge_checkpoint(sys.argv[2] + "/parts", sys.argv[2] + "/whole.safetensors", drop_lowest=1)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) * 1024 < 64 << 20
    shutil.rmtree(tmp_path / "parts")


@pytest.mark.promise("C60")
def test_many_tensors_in_linear_time(tmp_path: Path) -> None:
    entries = [(f"layers.{k}.weight", "F32", [1]) for k in range(20_000)]
    source = sparse_checkpoint(tmp_path / "m.safetensors", entries)
    begin = time.monotonic()
    split_checkpoint(source, tmp_path / "parts", max_size=10**6)
    merge_checkpoint(tmp_path / "parts", tmp_path / "whole.safetensors", drop="layers.17.*")
    assert time.monotonic() - begin < 100
    assert len(raw(tmp_path / "whole.safetensors")) == 19_999


def test_control_a_copy_that_loses_a_piece_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes too little is refused before the target appears."""
    source = save(tmp_path / "m.safetensors", layered(3))
    monkeypatch.setattr(targets, "COPY_BYTES", 64)
    real, calls = FileWriter.pwrite, 0

    def lossy(self: FileWriter, data: object, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls != 5:
            real(self, data, offset)  # type: ignore[arg-type]

    monkeypatch.setattr(FileWriter, "pwrite", lossy)
    with nothing_written(tmp_path / "out"), pytest.raises(ValueError, match="must be written whole"):
        merge_checkpoint(source, tmp_path / "out")
