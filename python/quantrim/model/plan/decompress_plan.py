"""The plan of `decompress`: which tensors in which dtype, in which files, beside which config."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import words
from ...files import DTYPES, Checkpoint
from ...files.byteplanes.container import original_of
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.tensor_info import count_bytes
from ..streaming.tensors import KEY, LogicalTensor, logical_tensors, quantization_config
from .output_files import maker_of, names_of_files, plan_file
from .types import OutputFile
from .undecoded import refuse_undecoded

FLOATS: dict[str, str] = dict(zip(words.FLOATS, ("F32", "F16", "BF16"), strict=True))  # what may be asked for
_WORDS = {"float64": "F64", **FLOATS}  # in config.json
_NAMES = {dtype: word for word, dtype in _WORDS.items()}
_SMALL = ("F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")
# dtype -> dtypes all of whose values it has
_HOLDS = {"F64": ("F64", "F32", *_SMALL), "F32": ("F32", *_SMALL)}
_CONFIG_KEYS = ("quantization_config", "compression_config")
_DTYPE_KEYS = ("dtype", "torch_dtype")
# of a quantized module: how its inputs and outputs were rounded
_ACTIVATIONS = ("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point")
_CACHE = ("k_scale", "v_scale", "q_scale", "prob_scale", "k_zero_point", "v_zero_point")


def holds(wide: str, narrow: str) -> bool:
    """Tell whether a float dtype has all values of another."""
    return wide == narrow or narrow in _HOLDS.get(wide, ())


def source_dtype(tensor: LogicalTensor) -> str:
    """Return the dtype of a tensor, or what it decodes to, as safetensors has it."""
    return tensor.layout.decoded_dtype


@dataclass(frozen=True)
class Writing:
    """A tensor and the dtype that it is written in. source_bytes: all its arrays in the source."""

    tensor: LogicalTensor
    dtype: str
    source_bytes: int

    @property
    def source_dtype(self) -> str:
        """The dtype that it decodes to, or has."""
        return source_dtype(self.tensor)

    @property
    def copied(self) -> bool:
        """Whether its bytes are those of the source."""
        return not self.tensor.compressed and self.dtype == self.source_dtype

    @property
    def narrowed(self) -> bool:
        """Whether values may be rounded."""
        return not holds(self.dtype, self.source_dtype)

    @property
    def nbytes(self) -> int:
        return count_bytes(self.dtype, self.tensor.shape)


@dataclass(frozen=True)
class DecompressPlan:
    """The plan of `decompress`. source_bytes, nbytes: the files of weights. config: config.json, if it changes.
    left_out: tensors of the source that belong to no weight and mean nothing without the quantization."""

    source: str
    files: tuple[OutputFile[Writing], ...]
    config: dict[str, Any] | None
    left_out: tuple[str, ...]
    source_bytes: int
    notes: tuple[str, ...]

    @property
    def tensors(self) -> tuple[Writing, ...]:
        return tuple(writing for file in self.files for writing in file.tensors)

    @property
    def nbytes(self) -> int:
        return sum(file.size for file in self.files)


def plan_decompress(checkpoint: Checkpoint, dtype: str | None, target: Path | None = None) -> DecompressPlan:
    """Plan the decompression of an open checkpoint. dtype: a word of FLOATS, None for the model's own. target: whose
    suffix says the format.

    ValueError where a tensor is quantized in a way that is not read, and where there is nothing to do.
    """
    tensors = logical_tensors(checkpoint)
    left_out = _of_activations(checkpoint, tensors)
    for name in left_out:
        del tensors[name]
    refuse_undecoded(checkpoint, tensors)
    wish = None if dtype is None else FLOATS[dtype]
    own = _own_dtype(checkpoint.config or {})
    usual = own or _dtype_beside(tensors)
    writings = [Writing(tensor, _written(tensor, wish, usual), tensor.nbytes) for tensor in tensors.values()]
    if all(writing.copied for writing in writings):
        raise ValueError(
            f"{quote(checkpoint.path, PATH_LIMIT)}: nothing to decompress: {_why_nothing(checkpoint, wish)}"
        )
    decoded = _common([w.dtype for w in writings if w.tensor.compressed])
    config = _cleaned(checkpoint.config or {}, decoded, wish)
    return DecompressPlan(
        source=os.fspath(checkpoint.path),
        files=tuple(_files(checkpoint, writings, target)),
        config=None if config == checkpoint.config or checkpoint.config is None else config,
        left_out=tuple(left_out),
        source_bytes=sum((checkpoint.folder / shard).stat().st_size for shard in checkpoint.shards),
        notes=(*checkpoint.notes, *_notes(left_out, decoded, own, wish)),
    )


def _of_activations(checkpoint: Checkpoint, tensors: Mapping[str, LogicalTensor]) -> list[str]:
    """List tensors that say how activations of quantized modules, and caches of keys and values, were to be rounded."""
    modules = {name.rpartition(".")[0] for name, tensor in tensors.items() if tensor.compressed}
    cache = bool(quantization_config(checkpoint).get("kv_cache_scheme"))

    def gone(name: str) -> bool:
        module, _, last = name.rpartition(".")
        return (last in _ACTIVATIONS and module in modules) or (cache and last in _CACHE)

    return [name for name, tensor in tensors.items() if not tensor.compressed and gone(name)]


def _written(tensor: LogicalTensor, wish: str | None, own: str | None) -> str:
    found = source_dtype(tensor)
    if not (tensor.compressed or found in _HOLDS["F64"]):
        return found  # integers, booleans, complex numbers
    if wish is not None:
        return wish
    return own if tensor.compressed and own is not None and holds(own, found) else found


def _own_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the dtype that config.json names, that of the model itself before those of its submodels."""
    for key in _DTYPE_KEYS:
        word = config.get(key)
        if isinstance(word, str) and word.removeprefix("torch.") in _WORDS:
            return _WORDS[word.removeprefix("torch.")]
    inner = [_own_dtype(value) for value in config.values() if isinstance(value, dict)]
    return next((found for found in inner if found), None)


def _dtype_beside(tensors: Mapping[str, LogicalTensor]) -> str | None:
    """Return the dtype that holds all floats beside the codes, where no config tells the model's own."""
    return _common([source_dtype(t) for t in tensors.values() if not t.compressed and source_dtype(t) in _HOLDS["F64"]])


def _common(dtypes: list[str]) -> str | None:
    """Return the narrowest dtype that holds all of these; None of none."""
    both = sorted(set(dtypes))
    return next((dtype for dtype in ("F16", "BF16", "F32", "F64") if all(holds(dtype, d) for d in both)), None)


def _why_nothing(checkpoint: Checkpoint, wish: str | None) -> str:
    if wish is not None:
        return f"no tensor is compressed, and all floats are {_NAMES[wish]} already"
    if any(map(original_of, checkpoint.readers.values())):
        return "it is byte planes, which `restore` undoes"
    return "no tensor is compressed; dtype (--dtype) would write its floats in another dtype"


def _cleaned(config: dict[str, Any], decoded: str | None, wish: str | None) -> dict[str, Any]:
    """Return config.json without its quantization, at any depth, and with the dtype that is written."""
    found = _clean(copy.deepcopy(config), decoded, wish)
    if wish is not None and not any(key in found for key in _DTYPE_KEYS):
        found["torch_dtype"] = _NAMES[wish]  # which old readers know too
    return found


def _clean(config: dict[str, Any], decoded: str | None, wish: str | None) -> dict[str, Any]:
    for key in _CONFIG_KEYS:
        config.pop(key, None)
    for key, value in config.items():
        if isinstance(value, dict):
            _clean(value, decoded, wish)
        elif key in _DTYPE_KEYS and isinstance(value, str) and value.removeprefix("torch.") in _WORDS:
            said = _WORDS[value.removeprefix("torch.")]
            if wish is not None and said != wish:
                config[key] = _NAMES[wish]
            elif wish is None and decoded is not None and not holds(said, decoded):
                config[key] = _NAMES[decoded]
    return config


def _notes(left_out: list[str], decoded: str | None, own: str | None, wish: str | None) -> Iterator[str]:
    if left_out:
        tensors = "1 tensor that says" if len(left_out) == 1 else f"{len(left_out)} tensors that say"
        last = ", ".join(sorted({name.rpartition(".")[2] for name in left_out}))
        yield f"{tensors} how activations were rounded ({last}): left out"
    if wish is None and own is not None and decoded is not None and not holds(own, decoded):
        narrow = (
            f"; dtype={_NAMES[own]!r} (--dtype {_NAMES[own]}) rounds them to that" if own in FLOATS.values() else ""
        )
        yield f"weights decode to {_NAMES[decoded]}, where config.json said {_NAMES[own]}{narrow}"


def _files(checkpoint: Checkpoint, writings: list[Writing], target: Path | None) -> Iterator[OutputFile[Writing]]:
    """Plan the files of the source, without those that nothing is left of."""
    order = {checkpoint.folder / shard: k for k, shard in enumerate(checkpoint.shards)}
    by_file = defaultdict(list)
    for writing in writings:  # to the file of its first array
        by_file[min((info.path for info in writing.tensor.arrays.values()), key=order.__getitem__)].append(writing)
    make = maker_of(checkpoint, target)
    paths = {shard: checkpoint.folder / shard for shard in checkpoint.shards if by_file[checkpoint.folder / shard]}
    for shard, name in names_of_files(checkpoint, list(paths)).items():
        metadata = _metadata(checkpoint.readers[shard].metadata)
        group = by_file[paths[shard]]
        entries = ((w.tensor.name, w.dtype, w.tensor.shape) for w in group)
        yield plan_file(name, group, entries, metadata, make, paths[shard])


def _metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    kept = {key: value for key, value in metadata.items() if key not in (KEY, *_CONFIG_KEYS)}
    return {"format": "pt", **kept}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a float dtype of safetensors."""
    dtype = DTYPES[name][1]
    assert dtype is not None
    return dtype
