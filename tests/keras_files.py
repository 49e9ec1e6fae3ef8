"""Keras files for tests: what is in the golden ones.

Run as a script, with keras (KERAS_BACKEND=torch), it writes the golden files again."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import files_helpers
import h5py
import numpy as np

from quantrim.files.keras import KerasReader

GOLDEN = Path(__file__).parent / "golden" / "keras"
FILES = ("model.keras", "model.weights.h5", "model.h5")

Arrays = dict[str, np.ndarray[Any, Any]]

# name -> (shape in Keras, axes in the order in which they are here)
VARIABLES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "words/embeddings": ((6, 4), (0, 1)),
    "conv2d/kernel": ((2, 3, 1, 5), (3, 2, 0, 1)),
    "conv2d/bias": ((5,), (0,)),
    "depthwise_conv2d/kernel": ((2, 1, 5, 2), (2, 3, 0, 1)),
    "depthwise_conv2d/bias": ((10,), (0,)),
    "norm/gamma": ((10,), (0,)),
    "norm/moving_mean": ((10,), (0,)),
    "norm/moving_variance": ((10,), (0,)),
    "lstm/lstm_cell/kernel": ((20, 12), (1, 0)),
    "lstm/lstm_cell/recurrent_kernel": ((3, 12), (1, 0)),
    "lstm/lstm_cell/bias": ((12,), (0,)),
    "head/dense/kernel": ((3, 4), (1, 0)),
    "head/dense/bias": ((4,), (0,)),
    "out/kernel": ((4, 2), (1, 0)),
}


def values(name: str) -> np.ndarray[Any, Any]:
    """A variable as Keras has it."""
    shape, _ = VARIABLES[name]
    at = list(VARIABLES).index(name)
    return ((np.arange(np.prod(shape), dtype=np.float32) * 7 + at) % 19 / 16 - 0.5).reshape(shape) + (at == 7)


def expected(file: str = "model.keras") -> Arrays:
    """The tensors, as they are here. Without a config nobody knows which of gamma and beta a norm has."""
    arrays: Arrays = {name: values(name).transpose(axes) for name, (_, axes) in VARIABLES.items()}
    if file == "model.weights.h5":
        for at, name in enumerate(("gamma", "moving_mean", "moving_variance")):
            arrays[f"norm/vars/{at}"] = arrays.pop(f"norm/{name}")
    return arrays


def model(keras: Any) -> Any:
    """Embedding, convolutions, a norm without beta, an LSTM, and a Dense inside a model inside the model."""
    layers = keras.layers
    words = keras.Input((5,))
    x = layers.Embedding(6, 4, name="words")(words)
    x = layers.Reshape((5, 4, 1))(x)
    x = layers.Conv2D(5, (2, 3), activation="relu", name="conv2d")(x)
    x = layers.DepthwiseConv2D((2, 1), depth_multiplier=2, name="depthwise_conv2d")(x)
    x = layers.BatchNormalization(center=False, name="norm")(x)
    x = layers.Reshape((3, 20))(x)
    x = layers.LSTM(3, name="lstm")(x)
    head = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu", name="dense")], name="head")
    x = layers.Dense(2, use_bias=False, name="out")(head(x))
    made = keras.Model(words, x, name="net")
    assert len(made.weights) == len(VARIABLES), [weight.path for weight in made.weights]
    for weight, name in zip(made.weights, VARIABLES, strict=True):
        weight.assign(values(name))
    return made


def read_all(path: Path) -> Arrays:
    return files_helpers.read_all(KerasReader, path)


def refused(path: Path, *words: str) -> str:
    return files_helpers.refused_by(read_all, path, *words)


def hdf5(path: Path, arrays: dict[str, Any], **options: Any) -> Path:
    """A file of datasets. options: of create_dataset."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return path


def weights_of(arrays: dict[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **options)
    return buffer.getvalue()


def zipped(path: Path, config: bytes, weights: bytes, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)
    return path


def main() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    GOLDEN.mkdir(parents=True, exist_ok=True)
    made = model(keras)
    made.save(GOLDEN / "model.keras")
    made.save_weights(GOLDEN / "model.weights.h5")
    made.save(GOLDEN / "model.h5")


if __name__ == "__main__":
    main()
