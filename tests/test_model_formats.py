"""Whole models from files of any format into files of any that quantrim writes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_files
import ml_dtypes
import numpy as np
import pytest
import torch_files
from cli_helpers import refused
from cli_helpers import run as run_cli
from files_helpers import nothing_written, open_descriptors
from model_helpers import Arrays, assert_same_arrays, save, small_model, sparse_checkpoint, stored_tensors, weights

from quantrim.files import FormatError, open_checkpoint
from quantrim.files.disk.writer import FileWriter
from quantrim.model import compress, decompress, logical_tensors, merge_checkpoint, plan, split_checkpoint
from quantrim.model.report.compare import compare
from quantrim.model.report.inspect import inspect
from quantrim.model.streaming import chunks

KINDS = {
    "float32": "torch.FloatStorage",
    "float64": "torch.DoubleStorage",
    "float16": "torch.HalfStorage",
    "bfloat16": "torch.BFloat16Storage",
    "int64": "torch.LongStorage",
}
SMALL: dict[str, Any] = {"min_elements": 0}


# A model in each format


def matrices() -> Arrays:
    return {
        "a.weight": weights(48, 64),
        "b.weight": weights(32, 64, dtype=ml_dtypes.bfloat16),
        "c.weight": weights(32, 32, dtype=np.float16),
        "d.weight": weights(16, 32, dtype=np.float64),
        "e.weight": weights(8, 4, 3, 3),
        "e.bias": weights(8),
        "positions": np.arange(7),
    }


def pickled(arrays: Arrays, legacy: bool = False) -> tuple[bytes, dict[str, bytes]]:
    """A state dict, and its storages. "tied" is "a.weight" once more, "turned" a view of it."""
    items, storages = {}, {}
    for key, (name, a) in enumerate(arrays.items()):
        stored = torch_files.storage(str(key), a.size, KINDS[a.dtype.name], legacy)
        items[name] = torch_files.tensor(stored, a.shape)
        storages[str(key)] = a.tobytes()
    first = torch_files.storage("0", arrays["a.weight"].size, KINDS["float32"], legacy)
    items["tied.weight"] = torch_files.tensor(first, (48, 64))
    items["turned.weight"] = torch_files.tensor(first, (64, 48), (1, 64))
    return torch_files.dictionary(items), storages


def torch_zip(folder: Path, name: str = "model.pt") -> Path:
    return torch_files.zip_file(folder / name, *pickled(matrices()))


def torch_legacy(folder: Path) -> Path:
    value, storages = pickled(matrices(), legacy=True)
    sized = {key: (a.size, storages[key]) for key, a in zip(storages, matrices().values(), strict=True)}
    (folder / "model.bin").write_bytes(torch_files.legacy_bytes(value, sized))
    return folder / "model.bin"


def npz(folder: Path, write: Callable[..., None] = np.savez) -> Path:
    arrays = {name: a for name, a in matrices().items() if a.dtype != ml_dtypes.bfloat16}
    write(folder / "model.npz", **arrays, **{"fortran.weight": np.asfortranarray(weights(32, 48))})
    return folder / "model.npz"


def npz_of_bfloat16(folder: Path) -> Path:
    np.savez(folder / "model.npz", **{"b.weight": matrices()["b.weight"]})
    return folder / "model.npz"


def npy(folder: Path) -> Path:
    np.save(folder / "weight.npy", weights(64, 48))
    return folder / "weight.npy"


def keras_file(name: str) -> Callable[[Path], Path]:
    def copied(folder: Path) -> Path:
        (folder / name).write_bytes((keras_files.GOLDEN / name).read_bytes())
        return folder / name

    return copied


SOURCES: dict[str, Callable[[Path], Path]] = {
    "torch": torch_zip,
    "torch legacy": torch_legacy,
    "npz": npz,
    "npz deflated": lambda folder: npz(folder, np.savez_compressed),
    "npz of bfloat16": npz_of_bfloat16,
    "npy": npy,
    **{name: keras_file(name) for name in keras_files.FILES},
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return SOURCES[request.param](tmp_path / "source")


def as_safetensors(source: Path, folder: Path) -> Path:
    """The same tensors, read whole, under the same names, with the same metadata."""
    with open_checkpoint(source) as checkpoint:
        arrays = {name: checkpoint.read(name) for name in checkpoint}
        return save(folder / "same.safetensors", arrays, checkpoint.metadata)


def contents(path: Path) -> tuple[Arrays, dict[str, str]]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}, checkpoint.metadata


def decoded(path: Path) -> Arrays:
    with open_checkpoint(path) as checkpoint:
        return {name: tensor.numpy() for name, tensor in logical_tensors(checkpoint).items()}


OPTIONS: dict[str, dict[str, Any]] = {
    "4 bits": {"bits": 4},
    "pruned, sparse": {"bits": 4, "prune": 0.7, "storage": "sparse"},
    "simulated": {"bits": 4, "simulate": True},
    "pruned": {"bits": None, "prune": 0.5},
    "recognized": {"bits": 3, "recognize": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_format_of_the_source_changes_nothing(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """Neither what is written nor its size: the order of files, and of names in the metadata, may be another."""
    same = as_safetensors(source, tmp_path)
    report = compress(source, tmp_path / "a.safetensors", **options, **SMALL)
    compress(same, tmp_path / "b.safetensors", **options, **SMALL)
    assert_same_arrays(stored_tensors(tmp_path / "a.safetensors"), stored_tensors(tmp_path / "b.safetensors"))
    assert (tmp_path / "a.safetensors").stat().st_size == (tmp_path / "b.safetensors").stat().st_size
    assert compare(tmp_path / "a.safetensors", tmp_path / "b.safetensors").equal
    assert any(t.bits or t.sparsity for t in report.tensors)
    assert report.source_bytes == source.stat().st_size


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_an_npz_holds_what_a_safetensors_file_would(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    """numpy.load opens it, and what comes of decompressing either is the same."""
    wish = plan(source, destination=tmp_path / "a.npz", **options, **SMALL)
    report = compress(source, tmp_path / "a.npz", **options, **SMALL)
    compress(source, tmp_path / "b.safetensors", **options, **SMALL)
    assert report.stored_bytes == (tmp_path / "a.npz").stat().st_size
    assert wish.at_most or "recognize" in options or wish.stored_bytes == report.stored_bytes
    arrays, metadata = contents(tmp_path / "a.npz")
    expected, metadata_beside = contents(tmp_path / "b.safetensors")
    assert_same_arrays(arrays, expected)
    assert metadata == metadata_beside
    with np.load(tmp_path / "a.npz") as loaded:
        assert sorted(loaded.files) == sorted([*expected, "__metadata__"])
        for name, array in expected.items():
            assert loaded[name].tobytes() == array.tobytes()
    assert compare(tmp_path / "a.npz", tmp_path / "b.safetensors").equal
    if options.get("simulate") or options["bits"] is None:
        return
    decompress(tmp_path / "a.npz", tmp_path / "c.safetensors")
    decompress(tmp_path / "b.safetensors", tmp_path / "d.safetensors")
    decompress(tmp_path / "b.safetensors", tmp_path / "e.npz")
    floats = stored_tensors(tmp_path / "d.safetensors")
    assert_same_arrays(stored_tensors(tmp_path / "c.safetensors"), floats)
    assert_same_arrays(stored_tensors(tmp_path / "e.npz"), floats)


def test_small_tensors_that_are_written_together(tmp_path: Path) -> None:
    """Runs of them are one write in a safetensors file, and single ones in an .npz."""
    arrays = {f"layers.{k}.weight": weights(8, 16, seed=k) for k in range(30)}
    path = save(tmp_path / "m.safetensors", arrays)
    for name in ("a.npz", "b.safetensors"):
        compress(path, tmp_path / name, bits=4, **SMALL)
    assert_same_arrays(stored_tensors(tmp_path / "a.npz"), stored_tensors(tmp_path / "b.safetensors"))


def test_tensors_that_share_their_storage_are_rounded_alike(tmp_path: Path) -> None:
    source = torch_zip(tmp_path)
    report = compress(source, tmp_path / "a.safetensors", bits=4, **SMALL)
    assert any(note.startswith("tensors that share their bytes: 'tied.weight' is 'a.weight'") for note in report.notes)
    found = decoded(tmp_path / "a.safetensors")
    assert found["tied.weight"].tobytes() == found["a.weight"].tobytes()
    assert not np.array_equal(found["a.weight"], matrices()["a.weight"])
    np.testing.assert_allclose(found["turned.weight"], matrices()["a.weight"].T, atol=0.35)


def test_an_npy_file_of_rounded_weights(tmp_path: Path) -> None:
    compress(npy(tmp_path), tmp_path / "rounded.npy", bits=4, simulate=True, **SMALL)
    compress(tmp_path / "weight.npy", tmp_path / "rounded.safetensors", bits=4, simulate=True, **SMALL)
    found = np.load(tmp_path / "rounded.npy")
    assert found.tobytes() == stored_tensors(tmp_path / "rounded.safetensors")["array"].tobytes()
    assert found.tobytes() != weights(64, 48).tobytes()
    with pytest.raises(ValueError, match=r"a \.npy file (must have one tensor|cannot hold the metadata)"):
        compress(tmp_path / "weight.npy", tmp_path / "codes.npy", bits=4, **SMALL)
    assert not (tmp_path / "codes.npy").exists()


# Copies of a Keras file with other values


@pytest.mark.parametrize("name", keras_files.FILES)
@pytest.mark.parametrize("options", [{"bits": 4, "simulate": True}, {"bits": None, "prune": 0.5}], ids=str)
def test_a_keras_file_with_other_values(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    source, target = keras_file(name)(tmp_path), tmp_path / f"new-{name}"
    before = open_descriptors()
    wish = plan(source, destination=target, **options, **SMALL)
    report = compress(source, target, **options, **SMALL)
    assert open_descriptors() == before
    assert report.stored_bytes == wish.stored_bytes == target.stat().st_size == source.stat().st_size
    compress(source, tmp_path / "same.safetensors", **options, **SMALL)
    assert_same_arrays(keras_files.read_all(target), stored_tensors(tmp_path / "same.safetensors"))
    assert target.read_bytes() != source.read_bytes()
    assert any(note.startswith("transposed from Keras' (inputs, outputs)") for note in report.notes)


@pytest.mark.parametrize("options", [{}, {"drop": "*/bias", "simulate": True}, {"simulate": True, "dtype": "float16"}])
def test_a_keras_file_holds_floats_of_the_source_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    source, target = keras_file("model.keras")(tmp_path), tmp_path / "new.keras"
    with nothing_written(target), pytest.raises(ValueError, match=r"give simulate=True .* that ends in \.safetensors"):
        compress(source, target, **options, **SMALL)
    message = refused(run_cli("compress", source, target, "--min-elements", 0))
    assert "give --simulate to write rounded weights as floats" in message and "'model.keras'" not in message


def test_a_keras_file_of_a_fifth_of_its_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of rows, which are columns in the file."""
    h5py = pytest.importorskip("h5py")
    path, target = tmp_path / "m.weights.h5", tmp_path / "n.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = weights(300, 200)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1 << 14)
    compress(path, target, bits=4, simulate=True)
    compress(path, tmp_path / "same.safetensors", bits=4, simulate=True)
    (expected,) = stored_tensors(tmp_path / "same.safetensors").values()
    with h5py.File(target) as file:
        assert file["layers/dense/vars/0"][...].tobytes() == np.ascontiguousarray(expected.T).tobytes()


# Folders


def torch_folder(folder: Path, shards: int) -> Path:
    """A folder as transformers wrote it before safetensors."""
    folder.mkdir()
    arrays = {**small_model(), "lm_head.weight": weights(200, 64, seed=5)}
    arrays = {name: a for name, a in arrays.items() if a.dtype.name in KINDS and a.ndim}
    names = [f"pytorch_model-{k + 1:05}-of-{shards:05}.bin" for k in range(shards)]
    names = names if shards > 1 else ["pytorch_model.bin"]
    for k, name in enumerate(names):
        some = dict(list(arrays.items())[k::shards])
        stored = {n: torch_files.storage(n, a.size, KINDS[a.dtype.name]) for n, a in some.items()}
        items = {n: torch_files.tensor(stored[n], a.shape) for n, a in some.items()}
        data = {n: a.tobytes() for n, a in some.items()}
        torch_files.zip_file(folder / name, torch_files.dictionary(items), data)
    if shards > 1:
        weight_map = {name: names[k % shards] for k, name in enumerate(arrays)}
        total = sum(a.nbytes for a in arrays.values())
        index = {"metadata": {"total_size": total, "kept": "yes"}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "made-up", "torch_dtype": "float32"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "training_args.bin").write_bytes(b"\x80\x02N.")
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_a_folder_of_torch_becomes_one_of_safetensors(tmp_path: Path, shards: int) -> None:
    source = torch_folder(tmp_path / "source", shards)
    report = compress(source, tmp_path / "small", bits=4, reader="any", **SMALL)
    weights_of = {"model.safetensors"}
    if shards > 1:
        weights_of = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
    beside = {"config.json", "tokenizer.json"} | ({"model.safetensors.index.json"} if shards > 1 else set())
    assert {path.name for path in (tmp_path / "small").iterdir()} == weights_of | beside
    assert any("'training_args.bin'" in note and note.startswith("not copied") for note in report.notes)
    if shards > 1:
        index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == weights_of and index["metadata"]["kept"] == "yes"
    floats = decompress(tmp_path / "small", tmp_path / "floats")
    assert floats.decoded and json.loads((tmp_path / "floats" / "config.json").read_text())["torch_dtype"] == "float32"
    difference = compare(source, tmp_path / "floats")
    assert difference.matching and 15 < difference.snr < 60
    with open_checkpoint(source) as before, open_checkpoint(tmp_path / "floats") as after:
        assert after["model.positions"].tobytes() == before["model.positions"].tobytes()
        assert after.format == "safetensors" and before.format == "torch"


def test_a_folder_of_torch_in_another_dtype_and_in_other_files(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "source", 2)
    decompress(source, tmp_path / "halves", dtype="float16")
    names = {path.name for path in (tmp_path / "halves").iterdir()}
    assert {"model.safetensors.index.json", "model-00001-of-00002.safetensors"} <= names
    assert not any(name.endswith(".bin") or "pytorch" in name for name in names)
    with open_checkpoint(tmp_path / "halves") as checkpoint:
        assert {t.dtype for t in checkpoint.tensors.values()} == {"F16", "I64"}
    split_checkpoint(source, tmp_path / "parts", max_size=30_000)
    merge_checkpoint(tmp_path / "parts", tmp_path / "whole.safetensors")
    assert_same_arrays(stored_tensors(tmp_path / "whole.safetensors"), stored_tensors(source))
    compress(source, tmp_path / "capped", bits=8, max_shard_size=20_000, reader="any", **SMALL)
    assert len(list((tmp_path / "capped").glob("*.safetensors"))) > 2


def test_a_file_of_torch_as_safetensors(tmp_path: Path) -> None:
    """merge copies, and says what the reader said."""
    done = merge_checkpoint(torch_zip(tmp_path), tmp_path / "same.safetensors")
    assert_same_arrays(stored_tensors(tmp_path / "same.safetensors"), stored_tensors(tmp_path / "model.pt"))
    assert any("share their bytes" in note for note in done.notes)


# What is said


def test_notes_and_formats_are_said(tmp_path: Path) -> None:
    source = torch_zip(tmp_path)
    summary = inspect(source)
    assert summary.format == "torch" and any("share their bytes" in note for note in summary.notes)
    for words in (
        ("inspect", source),
        ("compress", source, tmp_path / "a.npz", "--min-elements", 0, "--dry-run"),
        ("compress", source, tmp_path / "a.npz", "--min-elements", 0),
    ):
        said = run_cli(*words)
        assert said.exit_code == 0, said.output
        assert "note: tensors that share their bytes" in said.stdout
    assert json.loads(run_cli("inspect", tmp_path / "a.npz", "--json").stdout)["format"] == "npz"
    said = run_cli("inspect", tmp_path / "a.npz")
    assert said.exit_code == 0 and said.stdout.splitlines()[-1].endswith(", npz")
    said = run_cli("decompress", tmp_path / "a.npz", tmp_path / "b.npz", "--dry-run")
    assert said.exit_code == 0 and not (tmp_path / "b.npz").exists()


def test_a_dry_run_has_the_size_of_the_format(tmp_path: Path) -> None:
    source = npz(tmp_path)
    words = ("--min-elements", 0, "--json")
    for name in ("a.npz", "a.safetensors"):
        said = json.loads(run_cli("compress", source, tmp_path / name, *words, "--dry-run").stdout)
        done = json.loads(run_cli("compress", source, tmp_path / name, *words).stdout)
        assert said["stored_bytes"] == done["stored_bytes"] == (tmp_path / name).stat().st_size


# What is refused


@pytest.mark.parametrize("name", ["out", "out.bin", "out.pt", "out.keras", "out.h5", "out.gguf", "out.txt"])
def test_suffixes_that_are_not_written(tmp_path: Path, name: str) -> None:
    source = npz(tmp_path)
    for words in (("compress",), ("compress", "--dry-run"), ("decompress", "--dtype", "float16")):
        message = refused(run_cli(words[0], source, tmp_path / name, *words[1:]))
        assert f"destination must end in .safetensors, .npz or .npy, not {str(tmp_path / name)!r}" in message
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["out.h5", "out.hdf5", "out"])
def test_a_keras_file_becomes_one_of_the_same_kind(tmp_path: Path, name: str) -> None:
    source = keras_file("model.keras")(tmp_path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors, \.npz, \.npy or \.keras as the source, not"):
        compress(source, tmp_path / name, simulate=True, **SMALL)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".bin", ".keras", ".safetensors"])
def test_a_folder_does_not_become_a_file(tmp_path: Path, suffix: str) -> None:
    source = torch_folder(tmp_path / "source", 1)
    for act in (compress, decompress):
        with pytest.raises(ValueError, match=f"must be a folder, since the source is one, not a {suffix} file"):
            act(source, tmp_path / f"out{suffix}")
    with pytest.raises(ValueError, match=f"must be a folder, not a {suffix} file"):
        split_checkpoint(source, tmp_path / f"out{suffix}", layers=1)


def test_a_target_that_is_the_source(source: Path) -> None:
    for target in (source, source.parent / "sub" / ".." / source.name):
        with pytest.raises(ValueError, match="must not be"):
            compress(source, target, overwrite=True, simulate=True, **SMALL)
    link = source.with_name(f"link{source.suffix}")
    link.hardlink_to(source)
    with nothing_written(source), pytest.raises(ValueError, match="must not be a link to the source"):
        compress(source, link, overwrite=True, simulate=True, **SMALL)


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_a_program_is_refused(tmp_path: Path, legacy: bool) -> None:
    import pickle

    ran, source = tmp_path / "ran", tmp_path / "model.pt"
    evil = pickle.dumps(_Evil(ran), 2)[2:-1]
    value = torch_files.dictionary({"w": torch_files.floats(2), "x": evil})
    if legacy:
        torch_files.legacy_file(source, value)
    else:
        torch_files.zip_file(source, value, torch_files.STORAGE)
    for words in (("compress", source, tmp_path / "a.safetensors"), ("inspect", source), ("compare", source, source)):
        message = refused(run_cli(*words))
        assert "system' is refused, and nothing was run" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt"]
    pickle.loads(pickle.dumps(_Evil(ran)))  # the control
    assert ran.exists()


# Faults


def test_a_source_that_is_cut_while_it_is_read(source: Path, tmp_path: Path) -> None:
    target = tmp_path / ("out.safetensors" if source.suffix != ".npz" else "out.npz")
    data = source.read_bytes()

    def cut(*_: object) -> None:
        source.write_bytes(data[: len(data) // 2])

    with nothing_written(target), pytest.raises(FormatError, match=r"changed|ends at byte|ends inside"):
        compress(source, target, bits=4, progress=cut, **SMALL)
    source.write_bytes(data)


@pytest.mark.parametrize("name", ["source.npz", "model.keras"])
@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_full_disk(tmp_path: Path, name: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "source.npz":
        source, target = npz(tmp_path), tmp_path / "out.npz"
    else:
        source, target = keras_file(name)(tmp_path), tmp_path / "out.keras"
    real, calls = os.pwrite, 0

    def full(fd: int, data: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with nothing_written(target), pytest.raises(OSError, match="No space left") as caught:
        compress(source, target, bits=4, simulate=True, **SMALL)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(target)


@pytest.mark.parametrize("at", [1, 5, 10])
def test_an_interrupt_leaves_nothing(tmp_path: Path, at: int) -> None:
    source, target, calls = keras_file("model.keras")(tmp_path), tmp_path / "out.keras", 0

    def stop(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt

    with nothing_written(target), pytest.raises(KeyboardInterrupt):
        compress(source, target, bits=4, simulate=True, progress=stop, **SMALL)


def test_a_tensor_that_is_not_whole_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: a piece that is not written."""
    from quantrim.files.npz.writer import NpzWriter

    source, target = npz(tmp_path), tmp_path / "out.npz"
    real = NpzWriter.write
    monkeypatch.setattr(NpzWriter, "write", lambda self, name, *rest: name != "e.bias" and real(self, name, *rest))
    with nothing_written(target), pytest.raises(ValueError, match=r"tensor 'e\.bias' must be written whole"):
        compress(source, target, bits=4, **SMALL)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Not with tensors that are views, deflated or turned either: their pieces are."""
    import tracemalloc

    big = np.zeros((4096, 4096), np.float32)
    np.savez_compressed(tmp_path / "a.npz", w=big)
    np.savez(tmp_path / "b.npz", w=np.asfortranarray(big))
    stored = torch_files.storage("0", big.size)
    value = torch_files.dictionary({"w": torch_files.tensor(stored, big.shape, (1, 4096))})
    torch_files.zip_file(tmp_path / "c.pt", value, {"0": big.tobytes()})
    sparse_checkpoint(tmp_path / "d.safetensors", [("w", "F32", [4096, 4096])])
    for name, most in (("a.npz", 48), ("b.npz", 200), ("c.pt", 48), ("d.safetensors", 40)):
        tracemalloc.start()
        try:
            compress(tmp_path / name, tmp_path / f"{name}.out.npz", bits=4)
            assert tracemalloc.get_traced_memory()[1] < most << 20, name
        finally:
            tracemalloc.stop()


def test_writes_are_not_more_than_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors that follow each other in a safetensors file are one write."""
    path = save(tmp_path / "m.safetensors", {f"layers.{k:02}.weight": weights(8, 16, seed=k) for k in range(40)})
    real, calls = FileWriter.pwrite, []
    monkeypatch.setattr(FileWriter, "pwrite", lambda self, data, at: calls.append(at) or real(self, data, at))
    compress(path, tmp_path / "a.safetensors", bits=4, **SMALL)
    assert len(calls) < 12
