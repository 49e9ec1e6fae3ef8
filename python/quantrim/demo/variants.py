"""The demo's network compressed in many ways: each is made with public functions, saved, and decoded from that."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import importance
from ..files import encode_header, open_checkpoint
from ..model import compress, logical_tensors
from .digits import LAYERS, decoded, held_out, recovered_file
from .smallest import smallest

Weights = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Saved:
    """weights: decoded from the file. nbytes: of the file, header and all."""

    weights: Weights
    nbytes: int
    path: Path


Maker = Callable[[Path, Path], Saved]  # (the float32 network, the file to write) -> what is saved


def in_file(**options: Any) -> Maker:
    """Measure the model as `compress` writes it."""

    def make(source: Path, target: Path) -> Saved:
        write(source, target, options)
        return of_file(target)

    return make


HALF = """bits = "none"

[[remove_units]]
layers = ["fc1", "fc2", "fc3"]
sparsity = 0.5
score = "given"
data = "scores.safetensors"
activation = "relu"
"""


def half_of_the_neurons(source: Path, target: Path) -> Saved:
    """Make a smaller float32 network of the hidden units whose outgoing weights, and so effect, are large.

    A unit that goes leaves what it puts out with no input, relu(bias), in the next bias.
    """
    weights = decoded(source)
    outgoing = {
        f"{layer}.weight": importance.l2(weights[f"{following}.weight"], axis=0)
        for layer, following in itertools.pairwise(LAYERS)
    }
    with tempfile.TemporaryDirectory() as folder:
        save(outgoing, Path(folder, "scores.safetensors"))
        recipe = Path(folder, "recipe.toml")
        recipe.write_text(HALF)
        compress(source, target, recipe=recipe)
    return of_file(target)


def recovered(source: Path, target: Path) -> Saved:
    """Copy the file that ships: pruned, rounded and taught again (see `recover`)."""
    with recovered_file() as path:
        target.write_bytes(path.read_bytes())
    return of_file(target)


def recovered_sparse(source: Path, target: Path) -> Saved:
    """Store the same network sparse. Codes say exactly which floats they are of: those are compressed again."""
    with recovered_file() as path, open_checkpoint(path) as checkpoint, tempfile.TemporaryDirectory() as folder:
        tensors = logical_tensors(checkpoint).items()
        exact = {
            name: t.quantized_rows(0, t.shape[0]).dequantize() if t.layout.has_codes else checkpoint.read(name)
            for name, t in tensors
        }
        floats = Path(folder, "floats.safetensors")
        save(exact, floats)
        write(floats, target, {**INT4, "scale": "absmax", "storage": "sparse"})
    return of_file(target)


def chosen_by_validation(source: Path, target: Path) -> Saved:
    """Use bits and sparsity of each layer as `tune` found them with half of the images: see `smallest`."""
    compress(source, target, recipe=smallest(source, *held_out()).recipe)
    return of_file(target)


def write(source: Path, target: Path, options: Mapping[str, Any]) -> None:
    """Write the model in one of its variants; small matrices too, which compress leaves alone by itself."""
    compress(source, target, min_elements=0, **options)


def of_file(path: Path) -> Saved:
    return Saved(decoded(path), path.stat().st_size, path)


def save(arrays: Weights, path: Path) -> None:
    """Save arrays as float32 in a file."""
    head, places = encode_header([(name, "F32", a.shape) for name, a in arrays.items()])
    path.write_bytes(head + b"".join(arrays[name].astype("<f4").tobytes() for name in places))


INT4: dict[str, Any] = {"bits": 4, "group_size": 32}

# name -> how it is made
VARIANTS: dict[str, Maker] = {
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
