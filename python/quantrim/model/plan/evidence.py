"""Evidence that a checkpoint is quantized already: its tensors say so first, then what is written about them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...files import Checkpoint, TensorInfo
from ...files.disk.errors import PATH_LIMIT, quote
from ...files.folder import read_json
from ..streaming.tensors import KEY
from .known_quantizations import DECOMPRESS, ELSEWHERE, ROWS, Row

SIDE_FILES = (
    "quantize_config.json",  # AutoGPTQ, GPTQModel
    "quantization_config.json",  # AutoRound
    "quant_config.json",  # AWQ
    "hf_quant_config.json",  # NVIDIA ModelOpt
    "quanto_qmap.json",  # optimum-quanto
)
_METADATA_KEYS = ("quantization_config", "_quantization_metadata")  # ours and SVDQuant's; ComfyUI's
_CONFIG_KEYS = ("quantization_config", "compression_config")
_SHARED_KEY = "quantization"  # MLX's and TensorRT-LLM's, but also the word of models with codebooks of their own
_METHODS = ("quant_method", "quant_algo", "quant_type")
_WORDS = (*_METHODS, "bits", "num_bits", "w_bit", "group_size")
_NO = (None, False, "", "none", "None", "null")


@dataclass(frozen=True)
class Evidence:
    """Evidence that a checkpoint is quantized: the method in words, what shows it, and the way to floats."""

    method: str
    found: str
    way_out: str


def refuse_quantized(checkpoint: Checkpoint) -> None:
    """Raise ValueError, with the evidence and the way out, for a checkpoint that is quantized already."""
    evidence = quantized_evidence(checkpoint)
    if evidence is not None:
        path = quote(checkpoint.path, PATH_LIMIT)
        raise ValueError(f"{path} is quantized already ({evidence.method}): {evidence.found}; {evidence.way_out}")


def quantized_evidence(checkpoint: Checkpoint) -> Evidence | None:
    """Return what shows that a checkpoint is quantized, or stored sparse; None for one of floats.

    Integers alone, 8-bit floats alone and floats with scales of their own show nothing: it takes codes and a companion
    in the same module, or a file or key that says so.

    >>> from quantrim.demo.digits import model_file
    >>> from quantrim.files import open_checkpoint
    >>> with model_file() as path, open_checkpoint(path) as model:
    ...     quantized_evidence(model) is None
    True
    """
    if KEY in checkpoint.metadata:
        return Evidence("quantrim's storage: codes, or no zeros", f"its metadata has {KEY}", DECOMPRESS)
    return _in_tensors(checkpoint.tensors) or _in_words(checkpoint)


# Tensors


def _in_tensors(tensors: Mapping[str, TensorInfo]) -> Evidence | None:
    rows = defaultdict(list)
    for row in ROWS:
        for dtype in row.dtypes:
            rows[dtype].append(row)
    dotted = {f".{name}": info for name, info in tensors.items()}
    endings = {dtype: tuple({row.ending for row in some}) for dtype, some in rows.items()}
    for name, info in dotted.items():
        if not name.endswith(endings.get(info.dtype, ())):
            continue  # most of a hundred thousand
        for row in rows[info.dtype]:
            companions = _companions(name, row, dotted)
            if companions is not None:
                beside = f" is beside {', '.join(map(_shown, companions))}" if companions else ""
                return Evidence(row.method, f"tensor {_shown(info)}{beside}", row.way_out)
    return None


def _companions(name: str, row: Row, tensors: Mapping[str, TensorInfo]) -> list[TensorInfo] | None:
    """Return the tensors beside this one that a row asks for; None where its name or one of them is another."""
    if not name.endswith(row.ending):
        return None
    stem, found = name.removesuffix(row.ending), []
    for ending in row.beside:
        other = tensors.get(stem + ending)
        if other is None:
            return None
        found.append(other)
    return found


def _shown(info: TensorInfo) -> str:
    return f"{quote(info.name)} ({info.dtype})"


# Words


def _in_words(checkpoint: Checkpoint) -> Evidence | None:
    """Return what config.json, the files beside it and the metadata say."""
    for path, value in _named(checkpoint.config or {}, (*_CONFIG_KEYS, _SHARED_KEY)):
        if _says_so(value, path.rpartition(".")[2]):
            return _of_words(f"config.json has a {path}", value, "that key")
    for name in SIDE_FILES:
        value = _read(checkpoint, name) if name in checkpoint.side_files else None
        if isinstance(value, dict) and _says_so(value.get(_SHARED_KEY, value), ""):
            return _of_words(f"the folder has a {name}", value, "that file")
    for key in _METADATA_KEYS:
        value = _parsed(checkpoint.metadata.get(key, ""))
        if _says_so(value, key):
            return _of_words(f"its metadata has a {key}", value, "that key")
    return None


def _of_words(found: str, value: Any, what: str) -> Evidence:
    methods = [value[key] for key in _METHODS if isinstance(value, dict) and isinstance(value.get(key), str)]
    method = quote(methods[0]) if methods else "by its description alone"
    return Evidence(
        method, found, f"no tensor shows it: remove {what} if the weights are floats; otherwise {ELSEWHERE}"
    )


def _named(config: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Return the values of these keys, wherever nested, by their path."""
    todo: list[tuple[str, Any]] = [("", config)]
    while todo:
        path, value = todo.pop()
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            where = f"{path}.{key}" if path else str(key)
            if key in keys:
                yield where, inner
            else:
                todo.append((where, inner))


def _says_so(value: Any, key: str) -> bool:
    """Tell whether this describes a quantization: not where it is empty, null, or its method is none."""
    if not isinstance(value, dict):
        return isinstance(value, str) and key != _SHARED_KEY and value.strip() not in _NO
    methods = [value[word] for word in _METHODS if word in value]
    if methods and all(method in _NO for method in methods):
        return False
    loads = [value[word] for word in ("load_in_4bit", "load_in_8bit") if word in value]
    if value.get("enabled") is False or (loads and not any(loads)):
        return False
    if key == _SHARED_KEY:
        return any(value.get(word) not in _NO for word in _WORDS)
    return any(inner not in _NO and inner not in ({}, []) for inner in value.values())


def _read(checkpoint: Checkpoint, name: str) -> Any:
    return _parsed(read_json(checkpoint.folder / name, name).decode("utf-8", "replace"))


def _parsed(text: str) -> Any:
    """Parse the JSON of a text; the text itself where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
