"""Floats back into a copy of a Keras file: nothing else changes, and Keras loads it."""

from __future__ import annotations

import io
import random
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import keras_files
import numpy as np
import pytest
from files_helpers import nothing_written, open_descriptors
from keras_files import FILES, GOLDEN, Arrays, expected, hdf5, read_all, weights_of
from model_helpers import assert_same_arrays as assert_same

from quantrim.files import AtomicFile
from quantrim.files.keras import KerasReader, KerasWriter, writer


def written(source: Path, target: Path, arrays: Arrays, chunk: int = 1 << 20) -> None:
    """A copy with these tensors, from threads, in pieces that end anywhere."""
    model = KerasReader(source)
    entries = [(name, info.dtype, info.shape) for name, info in model.tensors.items()]
    model.close()
    made = KerasWriter(entries, {}, source)
    pieces = [(n, a.tobytes(), begin) for n, a in arrays.items() for begin in range(0, a.nbytes, chunk)]
    random.Random(1).shuffle(pieces)
    with closing(made), AtomicFile(target, made.size) as out:
        made.attach(out)

        def write(k: int) -> None:
            for name, data, begin in pieces[k::4]:
                made.write(name, data[begin : begin + chunk], begin)

        threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        made.finish()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("chunk", [13, 1 << 20])
def test_a_copy_has_the_new_numbers_and_nothing_else_changes(
    tmp_path: Path, file: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK_BYTES", 50 if chunk == 13 else writer.CHUNK_BYTES)
    source, target = GOLDEN / file, tmp_path / file
    rounded = {name: (np.round(array * 2) / 2).astype(array.dtype) for name, array in read_all(source).items()}
    written(source, target, rounded, chunk)
    assert_same(read_all(target), rounded)
    before, after = np.frombuffer(source.read_bytes(), np.uint8), np.frombuffer(target.read_bytes(), np.uint8)
    assert before.size == after.size
    free = np.ones(before.size, bool)
    model = KerasReader(source)
    for place in model.places.values():
        assert place.dataset.begin is not None
        free[place.dataset.begin : place.dataset.begin + place.dataset.nbytes] = False
    model.close()
    changed = np.flatnonzero((before != after) & free)
    assert changed.size <= (8 if file.endswith(".keras") else 0)  # two checksums
    if file.endswith(".keras"):
        with zipfile.ZipFile(target) as archive, zipfile.ZipFile(source) as original:
            assert archive.testzip() is None
            for name in ("config.json", "metadata.json"):
                assert archive.read(name) == original.read(name)
    open_before = open_descriptors()
    written(source, target, read_all(source), chunk)
    assert target.read_bytes() == source.read_bytes()
    assert open_descriptors() == open_before


def test_checksums_behind_the_entry_too(tmp_path: Path) -> None:
    """As a zip is written that cannot be gone back in."""

    class Pipe(io.RawIOBase):
        def __init__(self, file: Any) -> None:
            self.file = file

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return int(self.file.write(data))

    source, target = tmp_path / "a.keras", tmp_path / "b.keras"
    with source.open("wb") as file, zipfile.ZipFile(Pipe(file), "w") as archive:  # type: ignore[arg-type]
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights_of({"layers/dense/vars/0": np.ones((2, 3), np.float32)}))
    zeros = {"dense/kernel": np.zeros((3, 2), np.float32)}
    written(source, target, zeros)
    assert_same(read_all(target), zeros)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
    data = target.read_bytes()
    assert data.count(int(archive.getinfo("model.weights.h5").CRC).to_bytes(4, "little")) >= 2


def test_what_cannot_be_written_back(tmp_path: Path) -> None:
    source = GOLDEN / "model.h5"
    model = KerasReader(source)
    entries = [(name, info.dtype, info.shape) for name, info in model.tensors.items()]
    model.close()
    before = open_descriptors()
    with pytest.raises(ValueError, match=r"must have the tensors .* no others: 'extra' is none of them"):
        KerasWriter([*entries, ("extra", "F32", (1,))], {}, source)
    with pytest.raises(ValueError, match=r"'out/kernel' of a Keras file must be F32 \[2, 4\], as in .*, not BF16"):
        KerasWriter([(n, "BF16" if n == "out/kernel" else d, s) for n, d, s in entries], {}, source)
    path = tmp_path / "a.weights.h5"
    hdf5(path, {"a": np.ones((4, 4), np.float32)}, chunks=(2, 2))
    with pytest.raises(ValueError, match="tensor 'a' must be in one piece and little-endian in the source"):
        KerasWriter([("a", "F32", (4, 4))], {}, path)
    with h5py.File(path, "w") as file:
        file["a"] = np.ones(4, np.float32)
        file["b"] = file["a"]
    with pytest.raises(ValueError, match="tensors 'a' and 'b' must not share bytes"):
        KerasWriter([("a", "F32", (4,)), ("b", "F32", (4,))], {}, path)
    assert open_descriptors() == before


def test_nothing_is_written_where_bytes_are_missing(tmp_path: Path) -> None:
    source, target = GOLDEN / "model.h5", tmp_path / "a.h5"
    arrays = read_all(source)
    short = {name: array.reshape(-1)[:-1] if name == "out/kernel" else array for name, array in arrays.items()}
    with nothing_written(target), pytest.raises(ValueError, match="'out/kernel' must be written whole, not all but 4"):
        written(source, target, short)


# Keras itself


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file", FILES)
def test_keras_loads_what_comes_back_and_predicts_as_the_numbers_say(tmp_path: Path, keras: Any, file: str) -> None:
    made = keras_files.model(keras)
    source, target = tmp_path / file, tmp_path / f"new-{file}"
    made.save_weights(source) if "weights" in file else made.save(source)
    assert_same(read_all(source), expected(file))
    rounded = {name: (np.round(array * 4) / 4).astype(array.dtype) for name, array in read_all(source).items()}
    written(source, target, rounded)
    if "weights" in file:
        loaded = keras_files.model(keras)
        loaded.load_weights(target)
    else:
        loaded = keras.models.load_model(target)
    for weight in made.weights:
        weight.assign(np.round(np.asarray(weight) * 4) / 4)
    words = np.arange(20).reshape(4, 5) % 6
    np.testing.assert_array_equal(loaded.predict(words, verbose=0), made.predict(words, verbose=0))
    assert np.any(made.predict(words, verbose=0) != keras_files.model(keras).predict(words, verbose=0))


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_keras(tmp_path: Path, keras: Any) -> None:
    """Layers within layers, and attention."""
    inputs = keras.Input((6, 8))
    x = keras.layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs)
    x = keras.layers.GroupQueryAttention(4, 4, 2, name="gqa")(x, x)
    x = keras.layers.EinsumDense("abc,cd->abd", output_shape=(None, 5), name="ein")(x)
    x = keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True), name="both")(x)
    x = keras.layers.TimeDistributed(keras.layers.Dense(4), name="each")(x)
    x = keras.layers.SeparableConv1D(5, 2, name="apart")(x)
    x = keras.layers.LayerNormalization(center=False, name="norm")(x)
    x = keras.layers.Conv1DTranspose(3, 2, name="up")(x)
    made = keras.Model(inputs, x)
    for weight in made.weights:
        weight.assign(np.random.default_rng(0).standard_normal(weight.shape))
    for file in ("a.keras", "a.h5"):
        made.save(tmp_path / file)
        found = read_all(tmp_path / file)
        weights = {weight.path: np.asarray(weight) for weight in made.weights}
        assert set(found) == set(weights), file
        for name, array in weights.items():
            assert sorted(found[name].shape) == sorted(array.shape)
            if name.endswith("kernel"):
                assert found[name].tobytes() != array.tobytes(), name
            else:
                assert found[name].tobytes() == array.tobytes(), name
        kernel = found["mha/query/kernel"]
        np.testing.assert_array_equal(kernel.reshape(-1, 8), weights["mha/query/kernel"].reshape(8, -1).T)
        kernel = found["mha/attention_output/kernel"]
        np.testing.assert_array_equal(kernel.reshape(8, -1), weights["mha/attention_output/kernel"].reshape(-1, 8).T)
