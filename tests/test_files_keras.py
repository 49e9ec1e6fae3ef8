"""Keras files: variables under Keras' names, kernels as (outputs, inputs), and what is refused."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras_files
import ml_dtypes
import numpy as np
import pytest
from keras_files import FILES, GOLDEN, Arrays, expected, hdf5, read_all, refused, weights_of, zipped
from model_helpers import assert_same_arrays as assert_same

from quantrim.files import FormatError
from quantrim.files.keras import KerasReader, layers, reader
from quantrim.files.keras.layers import Layer


@pytest.mark.parametrize("file", FILES)
def test_files_of_keras_are_read_to_the_byte(file: str) -> None:
    assert_same(read_all(GOLDEN / file), expected(file))


@pytest.mark.parametrize("file", FILES)
def test_notes_and_storage_say_what_is_transposed(file: str) -> None:
    model = KerasReader(GOLDEN / file)
    assert len(model.notes) == 1
    assert model.notes[0].startswith("transposed from Keras' (inputs, outputs) to (outputs, inputs): ")
    assert model.notes[0].endswith(" and 1 more") and "'conv2d/kernel'" in model.notes[0]
    assert model.storage_of("conv2d/kernel") == ("F32, axes [3, 2, 0, 1]", 120)
    assert model.storage_of("words/embeddings") == ("F32", 96)
    info = model.tensors["words/embeddings"]
    data = (GOLDEN / file).read_bytes()
    assert data[info.offset : info.offset + info.nbytes] == keras_files.expected()["words/embeddings"].tobytes()
    model.close()


@pytest.mark.parametrize("options", [{}, {"chunks": (2, 2, 1, 1), "compression": "gzip"}])
def test_any_bytes_of_a_tensor_can_be_read(tmp_path: Path, options: dict[str, Any]) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    path = hdf5(tmp_path / "a.weights.h5", {"layers/conv2d/vars/0": array}, **options)
    model = KerasReader(path)
    info = model.tensors["conv2d/kernel"]
    whole = array.transpose(3, 2, 0, 1).tobytes()
    for start in range(len(whole)):
        for end in range(start + 1, len(whole) + 1, 5):
            data = bytearray(end - start)
            model.read_into(info, memoryview(data), start)
            assert data == whole[start:end]
    model.close()


def test_dtypes_and_byte_orders(tmp_path: Path) -> None:
    arrays: Arrays = {
        "f2": np.array([1, -2], np.float16),
        "f8": np.array([[1.5]]),
        "i1": np.array([-1], np.int8),
        "u4": np.array([7], np.uint32),
        "flag": np.array([True, False]),
        "complex": np.array([1 + 2j], np.complex64),
        "scalar": np.array(3.5, np.float32),
        "empty": np.empty((0, 3), np.float32),
    }
    path = hdf5(tmp_path / "a.h5", {**arrays, "big": np.array([[1, 2]], ">f4")})
    assert_same(read_all(path), {**arrays, "big": np.array([[1, 2]], np.float32)})
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=np.array([[1, 2]], ml_dtypes.bfloat16).view("V2"))
        file["layers/dense/vars/0"].attrs["dtype"] = "bfloat16"
    assert_same(read_all(path), {"dense/kernel": np.array([[1], [2]], ml_dtypes.bfloat16)})


def test_threads_read_at_once(tmp_path: Path) -> None:
    array = np.arange(60_000, dtype=np.float32).reshape(200, 300)
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=array, chunks=(20, 30), compression="gzip")
        file.create_dataset("layers/dense_1/vars/0", data=array)
    model = KerasReader(path)
    found = {name: np.empty(array.nbytes, np.uint8) for name in ("dense/kernel", "dense_1/kernel")}
    step = array.nbytes // 8

    def read(name: str, start: int) -> None:
        model.read_into(model.tensors[name], found[name][start : start + step].data, start)

    threads = [threading.Thread(target=read, args=(n, k * step)) for n in found for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for data in found.values():
        assert data.tobytes() == array.T.tobytes()
    model.close()


def test_closed_and_changed_files(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", {"a": np.ones((4, 4))})
    model = KerasReader(path)
    model.check_unchanged()
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FormatError, match="changed while it was being read"):
        model.check_unchanged()
    model.close()
    with pytest.raises(FormatError, match="changed while it was being read"):  # once more opened to be read
        model.read_into(model.tensors["a"], memoryview(bytearray(8)), 0)


def test_h5py_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "h5py":
            raise ImportError("No module named 'h5py'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"need h5py \(No module named 'h5py'\): pip install 'quantrim\[keras\]'"):
        KerasReader(GOLDEN / "model.keras")


# Names and axes


@pytest.mark.parametrize(
    ("layer", "variable", "shape", "axes"),
    [
        (Layer("dense"), "kernel", (2, 3), (1, 0)),
        (Layer("dense"), "bias", (3,), None),
        (Layer("dense"), "kernel", (2, 3, 4), None),
        (Layer("conv1d"), "kernel", (5, 2, 3), (2, 1, 0)),
        (Layer("conv2d"), "kernel", (5, 6, 2, 3), (3, 2, 0, 1)),
        (Layer("conv3d"), "kernel", (5, 6, 7, 2, 3), (4, 3, 0, 1, 2)),
        (Layer("conv2d_transpose"), "kernel", (5, 6, 3, 2), (2, 3, 0, 1)),
        (Layer("depthwise_conv2d"), "kernel", (5, 6, 2, 1), (2, 3, 0, 1)),
        (Layer("depthwise_conv2d"), "depthwise_kernel", (5, 6, 2, 1), (2, 3, 0, 1)),
        (Layer("separable_conv2d"), "depthwise_kernel", (5, 6, 2, 1), (2, 3, 0, 1)),
        (Layer("separable_conv2d"), "pointwise_kernel", (1, 1, 2, 3), (3, 2, 0, 1)),
        (Layer("lstm"), "recurrent_kernel", (3, 12), (1, 0)),
        (Layer("gru_cell"), "kernel", (3, 9), (1, 0)),
        (Layer("gru_cell"), "bias", (2, 9), None),
        (Layer("embedding"), "embeddings", (9, 4), None),
        (Layer("my_dense"), "kernel", (2, 3), None),
        (Layer("einsum_dense", {"equation": "abc,cd->abd"}), "kernel", (2, 3), (1, 0)),
        (Layer("einsum_dense", {"equation": "...x,xy->...y"}), "kernel", (2, 3), (1, 0)),
        (Layer("einsum_dense", {"equation": "abc,cde->abde"}), "kernel", (2, 3, 4), (1, 2, 0)),
        (Layer("einsum_dense", {"equation": "abcd,cde->abe"}), "kernel", (2, 3, 4), (2, 0, 1)),
        (Layer("einsum_dense", {"equation": "abc,bcd->abd"}), "kernel", (2, 3, 4), None),
        (Layer("einsum_dense", {"equation": 5}), "kernel", (2, 3), None),
        (Layer("einsum_dense"), "kernel", (2, 3), None),
    ],
)
def test_axes_of_kernels(layer: Layer, variable: str, shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    assert layers.axes_of(layer, variable, len(shape)) == axes


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("Dense", "dense"),
        ("Conv2DTranspose", "conv2d_transpose"),
        ("LSTMCell", "lstm_cell"),
        ("SimpleRNN", "simple_rnn"),
        ("GRU", "gru"),
        ("SeparableConv1D", "separable_conv1d"),
        ("Package>MultiHeadAttention", "multi_head_attention"),
    ],
)
def test_names_of_classes_in_files(name: str, snake: str) -> None:
    assert layers.snake_case(name) == snake


@pytest.mark.parametrize(
    ("path", "name", "axes"),
    [
        ("layers/dense/vars/0", "dense/kernel", (1, 0)),
        ("layers/dense_1/vars/0", "dense_1/kernel", (1, 0)),
        ("layers/sequential/layers/dense/vars/0", "sequential/dense/kernel", (1, 0)),
        ("layers/multi_head_attention/query_dense/vars/0", "multi_head_attention/query_dense/kernel", None),
        ("layers/bidirectional/forward_layer/cell/vars/0", "bidirectional/forward_layer/cell/vars/0", None),
        ("layers/my_layer/vars/0", "my_layer/vars/0", None),
        ("encoder/dense/vars/0", "encoder/dense/kernel", (1, 0)),
        ("vars/0", "vars/0", None),
        ("weights", "weights", None),
        ("layers/dense/vars/kernel", "layers/dense/vars/kernel", None),
    ],
)
def test_names_without_a_config(tmp_path: Path, path: str, name: str, axes: tuple[int, ...] | None) -> None:
    """As the first Keras 3 wrote weights: without names, but in groups that are named for classes."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = read_all(hdf5(tmp_path / "a.weights.h5", {path: array}))
    assert_same(found, {name: array if axes is None else array.transpose(axes)})


CONFIG = {
    "class_name": "Functional",
    "config": {
        "layers": [
            {"class_name": "InputLayer", "config": {"name": "in"}},
            {"class_name": "Dense", "config": {"name": "first"}},
            {"class_name": "Mine>Dense2", "config": {"name": "own"}},
            {"class_name": "Dense", "config": {"name": "second"}},
            {"class_name": "Sequential", "config": {"layers": [{"class_name": "Dense", "config": {"name": "in"}}]}},
        ]
    },
}


def test_names_that_only_the_config_has(tmp_path: Path) -> None:
    """The n-th layer of a class is the n-th group of its name."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    groups = ("dense", "dense_1", "dense2", "sequential/layers/dense")
    path = zipped(
        tmp_path / "a.keras", json.dumps(CONFIG).encode(), weights_of({f"layers/{g}/vars/0": array for g in groups})
    )
    turned = dict.fromkeys(("first/kernel", "second/kernel", "sequential/in/kernel"), array.T)
    assert_same(read_all(path), {**turned, "own/vars/0": array})
    model = KerasReader(path)
    assert model.notes[1] == "left with the axes that they have, since their layers are not known: 'own/vars/0'"
    model.close()


def test_names_of_keras_2(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG)
        file["model_weights/first/first/kernel:0"] = array
        file["model_weights/own/own/kernel:0"] = array
        file["optimizer_weights/Adam/first/kernel/m:0"] = array
    assert_same(read_all(path), {"first/kernel": array.T, "own/kernel": array})
    model = KerasReader(path)
    assert model.notes[2] == "left out the variables of the optimizer: 'optimizer_weights'"
    model.close()
    with h5py.File(path, "w") as file:  # weights alone
        file.attrs["layer_names"] = [b"dense"]
        file["dense/dense/kernel:0"] = array
    assert_same(read_all(path), {"dense/kernel": array})


def test_names_that_come_twice_are_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        for group in ("dense", "dense_1"):
            file[f"layers/{group}/vars/0"] = np.ones((2, 3))
            file[f"layers/{group}/vars"].attrs["name"] = "same"
    assert sorted(read_all(path)) == ["layers/dense/vars/0", "layers/dense_1/vars/0"]


# What is refused


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("a", h5py.SoftLink("/b"), "'a' must be in the file, not a link to another place"),
        ("layers", h5py.ExternalLink("/etc/passwd", "/"), "'layers' must be in the file, not a link"),
        ("model_weights", h5py.ExternalLink("/etc/passwd", "/"), "'model_weights' must be in the file, not a link"),
        ("a", ["text"], "must be an array of numbers (found 'object'"),
        ("a", h5py.Empty("f4"), "must be an array of numbers (found 'nothing'"),
        ("a", np.dtype("f4"), "'a' must be a group or a dataset, not a type"),
    ],
)
def test_values_that_are_no_arrays(tmp_path: Path, name: str, value: Any, said: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file[name] = value
    refused(path, said)


def external_bytes(file: Any) -> None:
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,))
    file.create_virtual_dataset("a", layout)


def within_itself(file: Any) -> None:
    file["a/b/x"] = 1.0
    file["a/b/c"] = file["a"]


def huge(file: Any) -> None:
    file.create_dataset("a", (2**20, 2**20), "f4", chunks=(64, 64))


def not_allocated(file: Any) -> None:
    file.create_dataset("a", (2**20, 2**20), "f4")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (external_bytes, "must have its bytes in the file, not in another one"),
        (virtual, "must have its bytes in the file, not in another one"),
        (within_itself, "'a/b/c' is within itself, or too deep"),
        (huge, f"must have at most {64 << 20} bytes"),
        (not_allocated, f"must have at most {64 << 20} bytes"),
    ],
)
def test_arrays_that_are_refused(tmp_path: Path, make: Callable[[Any], None], said: str) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        make(file)
    refused(path, said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file: file ends at byte 0"),
        (b"hello", "not a Keras file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 cannot read it"),
        (b"PK\x03\x04" + bytes(99), "not a zip file"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.keras"
    path.write_bytes(data)
    refused(path, said)


def test_zip_files_that_are_not_of_keras(tmp_path: Path) -> None:
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused(path, "a zip file of Keras must have 'model.weights.h5'; it has 'config.json'")
    weights = weights_of({"a": np.ones(2)})
    refused(zipped(path, b"{}", weights, compression=zipfile.ZIP_DEFLATED), "must be neither compressed nor encrypted")
    refused(zipped(path, b"{", weights), "config.json is not JSON")
    refused(zipped(path, b"[" * 200_000, weights), "config.json is not JSON")
    assert list(read_all(zipped(path, b'[{"config": 3}, {"class_name": 1}]', weights))) == ["a"]


def test_the_config_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "CONFIG_LIMIT", 9)
    refused(GOLDEN / "model.keras", "config.json must have at most 9 bytes, not ")


FUZZ = """
import random, sys
from pathlib import Path
from quantrim.files import FormatError
from quantrim.files.keras import KerasReader
source, target, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
whole, rng, errors = source.read_bytes(), random.Random(seed), 0
for turn in range(120):
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 3))):
        data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    target.write_bytes(data)
    try:
        model = KerasReader(target)
    except FormatError as error:
        assert str(error).isprintable()
        errors += 1
        continue
    for info in model.tensors.values():
        try:
            model.read_into(info, memoryview(bytearray(info.nbytes)), 0)
        except FormatError:
            errors += 1
    model.close()
print(errors)
"""


@pytest.mark.parametrize("file", FILES)
def test_files_with_bytes_changed_or_cut(tmp_path: Path, file: str) -> None:
    """An error or tensors, never another exception. In a process of its own, which HDF5, being C, may end by a signal:
    once in some thousand files."""
    command = [sys.executable, "-c", FUZZ, str(GOLDEN / file), str(tmp_path / "a"), "20261201"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode < 0 or int(done.stdout) >= 10


@pytest.mark.parametrize("file", FILES)
def test_files_that_end_early(tmp_path: Path, file: str) -> None:
    data = (GOLDEN / file).read_bytes()
    for length in (*range(0, 100, 9), *range(100, len(data), len(data) // 40), len(data) - 1):
        (tmp_path / "a").write_bytes(data[:length])
        with pytest.raises(FormatError):
            read_all(tmp_path / "a")
