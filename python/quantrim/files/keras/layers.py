"""What Keras' layers call their variables, and which axes of a kernel are its outputs.

    layer                              variable                       Keras                   here
    Dense                              kernel                         (in, out)               (out, in)
    EinsumDense, attention             kernel                         by its equation         (out..., in...)
    Conv1D, Conv2D, Conv3D             kernel                         (k..., in, out)         (out, in, k...)
    SeparableConv1D, 2D                pointwise_kernel               (1..., in, out)         (out, in, 1...)
    Conv1DTranspose, 2D, 3D            kernel                         (k..., out, in)         (out, in, k...)
    DepthwiseConv1D, 2D, separable     kernel, depthwise_kernel       (k..., in, multiplier)  (in, multiplier, k...)
    LSTM, GRU, SimpleRNN               kernel, recurrent_kernel       (in, gates)             (gates, in)

Everything else stays as it is: embeddings (rows are words already), norms, biases, and layers not in this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Axes = tuple[int, ...]  # the axes of Keras' array in the order in which they are here


class Layer(NamedTuple):
    """What is known of a layer. kind: its class in snake case, as Keras names it in files."""

    kind: str
    config: Mapping[str, Any] = {}


def _matrix(rank: int) -> Axes | None:
    return (1, 0) if rank == 2 else None


def _convolution(rank: int) -> Axes | None:
    return (rank - 1, rank - 2, *range(rank - 2)) if rank > 2 else None


def _depthwise(rank: int) -> Axes | None:
    return (rank - 2, rank - 1, *range(rank - 2)) if rank > 2 else None


_Rules = dict[str, Callable[[int], Axes | None]]
_RECURRENT: _Rules = {"kernel": _matrix, "recurrent_kernel": _matrix}
_KERNELS: dict[str, _Rules] = {
    "dense": {"kernel": _matrix},
    **{f"conv{n}d": {"kernel": _convolution} for n in (1, 2, 3)},
    **{f"conv{n}d_transpose": {"kernel": _depthwise} for n in (1, 2, 3)},
    **{f"depthwise_conv{n}d": {"kernel": _depthwise, "depthwise_kernel": _depthwise} for n in (1, 2)},
    **{f"separable_conv{n}d": {"depthwise_kernel": _depthwise, "pointwise_kernel": _convolution} for n in (1, 2)},
    **{f"{word}{cell}": _RECURRENT for word in ("lstm", "gru", "simple_rnn") for cell in ("", "_cell")},
}
_NORMS = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "layer_normalization": ("gamma", "beta"),
    "group_normalization": ("gamma", "beta"),
}
_VARIABLES: dict[str, tuple[str, ...]] = {
    "dense": ("kernel", "bias"),
    "einsum_dense": ("kernel", "bias"),
    "embedding": ("embeddings",),
    "seed_generator": ("seed_generator_state",),
    **{f"conv{n}d{more}": ("kernel", "bias") for n in (1, 2, 3) for more in ("", "_transpose")},
    **{f"depthwise_conv{n}d": ("kernel", "bias") for n in (1, 2)},
    **{f"separable_conv{n}d": ("depthwise_kernel", "pointwise_kernel", "bias") for n in (1, 2)},
    **{f"{word}_cell": ("kernel", "recurrent_kernel", "bias") for word in ("lstm", "gru", "simple_rnn")},
    **_NORMS,
}
_ATTENTION = ("multi_head_attention", "grouped_query_attention")
_PROJECTIONS = {  # of attention, by its attribute in Keras 3 and by the layer's name
    **dict.fromkeys(("query_dense", "query", "key_dense", "key", "value_dense", "value"), "ab,bcd->acd"),
    **dict.fromkeys(("output_dense", "attention_output"), "abc,bcd->ad"),
}
KNOWN = {*_KERNELS, *_VARIABLES}


def snake_case(name: str) -> str:
    """The name of a class as Keras writes it in files: Conv2DTranspose is conv2d_transpose."""
    name = re.sub(r"\W+", "", name.rpartition(">")[2])
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def without_number(name: str) -> str:
    """dense_1 is the second of dense."""
    return re.sub(r"_\d+$", "", name)


def inner_layer(outer: Layer, name: str) -> Layer | None:
    """A projection of an attention layer, by its name; None for anything else."""
    if outer.kind in _ATTENTION and name.lstrip("_") in _PROJECTIONS:
        return Layer("einsum_dense", {"equation": _PROJECTIONS[name.lstrip("_")]})
    return None


def variable_name(layer: Layer, index: int, count: int) -> str | None:
    """What Keras calls variable `index` of the `count` that a layer has; None where that cannot be told."""
    names: tuple[str, ...] = _VARIABLES.get(layer.kind, ())
    if layer.kind in _NORMS:  # which may lack any of the first two
        left_out = [word for word, key in (("gamma", "scale"), ("beta", "center")) if layer.config.get(key) is False]
        names = tuple(name for name in names if name not in left_out)
        return names[index] if index < count == len(names) else None
    return names[index] if index < count <= len(names) else None


def axes_of(layer: Layer, variable: str, rank: int) -> Axes | None:
    """The axes of a variable in the order (outputs, inputs); None where they are left as they are."""
    if layer.kind == "einsum_dense" and variable == "kernel":
        return _einsum_axes(layer.config.get("equation"), rank)
    rule = _KERNELS.get(layer.kind, {}).get(variable)
    return None if rule is None else rule(rank)


def _einsum_axes(equation: object, rank: int) -> Axes | None:
    """Outputs first: the axes of the kernel that the result has; None where an axis is no matrix's (of a batch)."""
    match = re.fullmatch(r"(?:\.\.\.)?(\w*),(\w+)->(?:\.\.\.)?(\w*)", str(equation).replace(" ", ""))
    if match is None or len(match[2]) != rank or len(set(match[2])) != rank:
        return None
    inputs, kernel, result = match.groups()
    if any((letter in inputs) == (letter in result) for letter in kernel):
        return None
    return tuple(sorted(range(rank), key=lambda axis: kernel[axis] in inputs))


# What config.json says


def layers_by_path(config: Any) -> dict[tuple[str, ...], tuple[str | None, Layer]]:
    """Name and layer by path of groups in Keras 3's files: (layers, dense_1) is the second Dense of the model."""
    found: dict[tuple[str, ...], tuple[str | None, Layer]] = {}
    waiting: list[tuple[tuple[str, ...], Any]] = [((), config)]
    while waiting:
        path, model = waiting.pop()
        used: dict[str, int] = {}
        for kind, name, inner in _layers_in(model):
            count = used[kind] = used.get(kind, -1) + 1
            place = (*path, "layers", f"{kind}_{count}" if count else kind)
            found[place] = name, Layer(kind, inner)
            waiting.append((place, {"config": inner}))
    return found


def _layers_in(model: Any) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """(kind, name, config) of the layers that a model's config lists."""
    config = model.get("config") if isinstance(model, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config  # a list in files of Keras 1
    for item in layers if isinstance(layers, list) else ():
        if isinstance(item, dict) and isinstance(item.get("class_name"), str):
            inner = item.get("config")
            inner = inner if isinstance(inner, dict) else {}
            name = inner.get("name")
            yield snake_case(item["class_name"]), name if isinstance(name, str) else None, inner


def layers_by_name(config: Any) -> dict[str, Layer]:
    """Every layer that a config names, those inside wrappers too."""
    found: dict[str, Layer] = {}
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            inner = item.get("config")
            inner = inner if isinstance(inner, dict) else {}
            name = inner.get("name")
            if isinstance(name, str) and isinstance(item.get("class_name"), str):
                found.setdefault(name, Layer(snake_case(item["class_name"]), inner))
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return found
