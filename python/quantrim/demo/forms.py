"""The forms that the demo's network takes: each is made with public functions, stored, and decoded from that."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import importance
from ..files import encode_header, open_checkpoint
from ..model import compress, logical_tensors
from ..pruning import prune_mask
from ..splitting import remove_units
from .digits import LAYERS, decoded, held_out, recovered_file
from .smallest import smallest

Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Stored:
    """weights: decoded from what is stored. nbytes: of the file, header and all; or, where path is None and nothing
    writes the form to a file, of its arrays: weights and biases."""

    weights: Weights
    nbytes: int
    path: Path | None = None


Maker = Callable[[Path, Path], Stored]  # (the float32 network, the file to write, if any) -> what is stored


def in_file(**options: Any) -> Maker:
    """As `compress` writes it."""

    def make(source: Path, target: Path) -> Stored:
        write(source, target, options)
        return of_file(target)

    return make


def half_of_the_neurons(source: Path, target: Path) -> Stored:
    """A smaller float32 network of the hidden units whose outgoing weights, and so effect on the next layer, are large.

    A unit that goes leaves what it puts out with no input, relu(bias), in the next bias.
    """
    weights = decoded(source)
    layers = [(weights[f"{layer}.weight"], weights[f"{layer}.bias"]) for layer in LAYERS]
    keep = [prune_mask(importance.l2(following, axis=0), 0.5) for following, _ in layers[1:]]
    small: Weights = {}
    for layer, (weight, bias) in zip(LAYERS, remove_units(layers, keep, relu), strict=True):
        assert bias is not None
        small |= {f"{layer}.weight": weight, f"{layer}.bias": bias}
    return Stored(small, total(small))


def relu(x: NDArray[Any]) -> NDArray[Any]:
    y: NDArray[Any] = np.maximum(x, 0)
    return y


def recovered(source: Path, target: Path) -> Stored:
    """The file that ships: pruned, rounded and taught again (see `recover`)."""
    with recovered_file() as path:
        target.write_bytes(path.read_bytes())
    return of_file(target)


def recovered_sparse(source: Path, target: Path) -> Stored:
    """The same network without its zeros. Codes say exactly which floats they are of: those are compressed again."""
    with recovered_file() as path, open_checkpoint(path) as checkpoint, tempfile.TemporaryDirectory() as folder:
        tensors = logical_tensors(checkpoint).items()
        exact = {
            name: t.quantized_rows(0, t.shape[0]).dequantize() if t.coded else checkpoint.read(name)
            for name, t in tensors
        }
        head, places = encode_header([(name, "F32", w.shape) for name, w in exact.items()])
        floats = Path(folder, "floats.safetensors")
        floats.write_bytes(head + b"".join(exact[name].astype("<f4").tobytes() for name in places))
        write(floats, target, {**INT4, "storage": "sparse"})
    return of_file(target)


def chosen_by_validation(source: Path, target: Path) -> Stored:
    """Bits and sparsity of each layer as `tune` found them with half of the images: see `smallest`."""
    compress(source, target, recipe=smallest(source, *held_out()).recipe)
    return of_file(target)


def write(source: Path, target: Path, options: Mapping[str, Any]) -> None:
    """The model in one of its forms; small matrices too, which compress leaves alone by itself."""
    compress(source, target, min_elements=0, **options)


def of_file(path: Path) -> Stored:
    return Stored(decoded(path), path.stat().st_size, path)


def total(parts: Mapping[str, Any]) -> int:
    """Bytes of arrays."""
    return sum(int(part.nbytes) for part in parts.values())


INT4: dict[str, Any] = {"bits": 4, "group_size": 32}

# name -> how it is made
FORMS: dict[str, Maker] = {
    "pruned 50 %": in_file(bits=None, prune=0.5),
    "pruned 2:4": in_file(bits=None, prune="2:4"),
    "half of the neurons": half_of_the_neurons,
    "int8": in_file(bits=8),
    "int4": in_file(**INT4),
    "NF4": in_file(codebook="nf4"),
    "16 shared values": in_file(clusters=16),
    "int2": in_file(bits=2, group_size=32, scale="mse"),
    "ternary": in_file(codebook="ternary"),
    "binary": in_file(codebook="binary"),
    "pruned 50 % + int4": in_file(**INT4, prune=0.5),
    "pruned 50 % + int4, sparse": in_file(**INT4, prune=0.5, storage="sparse"),
    "pruned 80 % + int4": in_file(**INT4, prune=0.8, storage="dense"),
    "pruned 80 % + int4, recovered": recovered,
    "recovered, sparse": recovered_sparse,
    "chosen by validation": chosen_by_validation,
}
