"""A Keras model or its weights, opened: kernels as (outputs, inputs), under the names of Keras' variables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..disk.archive import check_plain, read_entries
from ..disk.errors import FormatError, quote
from ..disk.source_file import SourceFile
from ..disk.strided import Strided, boxes
from ..sniff import looks_like
from ..tensor_info import TensorInfo, count_bytes
from . import layers
from .hdf5 import Dataset, find_datasets, linked, open_hdf5, text_attribute, translated
from .layers import Axes, Layer

WEIGHTS = "model.weights.h5"  # of the zip
CONFIG = "config.json"
CONFIG_LIMIT = 100_000_000  # bytes, as of a safetensors header
BYTES_LIMIT = 64 << 20  # that all tensors may have together, or BYTES_FACTOR times the file: chunks may be compressed
BYTES_FACTOR = 1000
NAMES_SAID = 5  # in a note
_MAGIC = b"\x89HDF\r\n\x1a\n"


class Place(NamedTuple):
    """Where a tensor is. axes: of the dataset, in the order in which the tensor has them."""

    dataset: Dataset
    axes: Axes

    @property
    def transposed(self) -> bool:
        return self.axes != tuple(sorted(self.axes))


class KerasReader:
    """A `.keras` file, a `.weights.h5` or an `.h5` of Keras 2 or 3. What `layers` knows is transposed.

    Tensors are named as Keras names variables, `<layers>/<variable>`, as far as the file tells: "encoder/dense/kernel".
    Where two names would be one, and where a variable has none, the path of the dataset is the name. The variables of
    the optimizer are left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, str] = {}
        self.file = SourceFile(path)
        self._hdf5: Any = None
        try:
            config, begin, size = self._open()
            self._hdf5 = open_hdf5(self.file, begin, size)
            with translated(path):
                self.places, self.notes = self._find(config, begin, size)
        except BaseException:
            self.close()
            raise
        self.tensors = {name: self._info(name, place) for name, place in self.places.items()}
        if all(place.dataset.begin is not None for place in self.places.values()):
            self._close_hdf5()
        self._check_sizes()

    def read_into(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        dataset, axes = self.places[tensor.name]
        if dataset.begin is None:
            self._read_chunked(tensor, view, start)
            return
        elements = permuted(dataset.begin, tensor.numpy_dtype.itemsize, dataset.shape, axes)
        if elements.is_contiguous:
            self.file.read_into(view, dataset.begin + start, tensor.name)
        else:
            elements.gather(lambda piece, offset: self.file.read_into(piece, offset, tensor.name), view, start)

    def _read_chunked(self, tensor: TensorInfo, view: memoryview, start: int) -> None:
        """The same through h5py, which lets one thread in at a time."""
        dataset, axes = self.places[tensor.name]
        width = tensor.numpy_dtype.itemsize
        first, skip = divmod(start, width)
        out = np.empty(-(-(skip + len(view)) // width), f"V{width}")
        done = 0
        for corner, shape in boxes(tensor.shape, first, first + out.size):
            spans = {axis: slice(at, at + dim) for axis, at, dim in zip(axes, corner, shape, strict=True)}
            with translated(self.path, tensor.name):
                data = dataset.kept[tuple(spans[axis] for axis in range(len(axes)))]
            data = np.ascontiguousarray(np.asarray(data).transpose(axes))
            data = data.astype(data.dtype.newbyteorder("<"), copy=False)
            out[done : done + data.size] = data.reshape(-1).view(out.dtype)
            done += data.size
        view[:] = out.view(np.uint8).data[skip : skip + len(view)]

    def storage_of(self, name: str) -> tuple[str, int]:
        dataset, axes = self.places[name]
        label = dataset.dtype if dataset.begin is not None else f"{dataset.dtype} in chunks"
        return f"{label}, axes {list(axes)}" if self.places[name].transposed else label, dataset.nbytes

    def check_unchanged(self) -> None:
        self.file.check_unchanged()

    def close(self) -> None:
        self._close_hdf5()
        self.file.close()

    def _close_hdf5(self) -> None:
        hdf5, self._hdf5 = self._hdf5, None
        if hdf5 is not None:
            hdf5.close()

    def _open(self) -> tuple[Any, int, int]:
        """The config of a zip or None, and where HDF5 is in the file: first byte and bytes."""
        file = self.file
        head = file.read(min(file.size, 8), 0)
        if head == _MAGIC:
            return None, 0, file.size
        if head[:4] != b"PK\x03\x04":
            problem = "not a Keras file" if file.size else "an empty file: file ends at byte 0"
            raise FormatError(problem + looks_like(file), path=self.path)
        entries = read_entries(file)
        if WEIGHTS not in entries:
            found = ", ".join(quote(name) for name in list(entries)[:NAMES_SAID])
            raise FormatError(f"a zip file of Keras must have {WEIGHTS!r}; it has {found}", path=self.path)
        for name in (WEIGHTS, CONFIG):
            if name in entries:
                check_plain(entries[name], name, self.path, "Keras")
        config = None
        if CONFIG in entries:
            entry = entries[CONFIG]
            if entry.size > CONFIG_LIMIT:
                raise FormatError(f"{CONFIG} must have at most {CONFIG_LIMIT} bytes, not {entry.size}", path=self.path)
            config = _parsed(file.read(entry.size, entry.offset), CONFIG, self.path)
        return config, entries[WEIGHTS].offset, entries[WEIGHTS].size

    def _find(self, config: Any, begin: int, size: int) -> tuple[dict[str, Place], tuple[str, ...]]:
        root = self._hdf5
        written = text_attribute(root, "model_config")
        if written is not None:
            config = _parsed(written, "model_config", self.path)
        left_out = [name for name in root if name in ("optimizer", "optimizer_weights")]
        legacy = linked(root, "model_weights", "model_weights", self.path) if "model_weights" in root else None
        if legacy is None and "layer_names" in root.attrs:
            legacy = root
        datasets = list(find_datasets(root if legacy is None else legacy, self.file, begin, size))
        datasets = [dataset for dataset in datasets if dataset.path[0] not in left_out]
        datasets.sort(key=lambda dataset: dataset.begin or 0)
        if legacy is None:
            rows = _Names(root, datasets, config).places()
        else:
            known = layers.layers_by_name(config)
            rows = [_legacy_place(dataset, known) for dataset in datasets]
        names = Counter(name for name, _, _ in rows)
        places: dict[str, Place] = {}
        unknown = []
        for dataset, (name, layer, axes) in zip(datasets, rows, strict=True):
            unique = name if names[name] == 1 else "/".join(dataset.path)
            if unique in places:
                raise FormatError("is there twice", path=self.path, tensor=unique)
            places[unique] = Place(dataset, axes or tuple(range(len(dataset.shape))))
            if len(dataset.shape) > 1 and (layer is None or layer.kind not in layers.KNOWN):
                unknown.append(unique)
        return places, _notes(places, unknown, left_out)

    def _info(self, name: str, place: Place) -> TensorInfo:
        shape = tuple(place.dataset.shape[axis] for axis in place.axes)
        try:
            nbytes = count_bytes(place.dataset.dtype, shape)
        except ValueError as error:
            raise FormatError(str(error), path=self.path, tensor=name) from None
        return TensorInfo(name, place.dataset.dtype, shape, place.dataset.begin or 0, nbytes, self.path)

    def _check_sizes(self) -> None:
        total = sum(tensor.nbytes for tensor in self.tensors.values())
        limit = max(BYTES_LIMIT, BYTES_FACTOR * self.file.size)
        if total > limit:
            self.close()
            problem = f"the tensors must have at most {limit} bytes, since the file has {self.file.size}, not {total}"
            raise FormatError(problem, path=self.path)


def permuted(begin: int, itemsize: int, shape: tuple[int, ...], axes: Axes) -> Strided:
    """The elements of a C-ordered array from byte `begin` on, with its axes in another order."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return Strided(begin, itemsize, tuple(shape[axis] for axis in axes), tuple(strides[axis] for axis in axes))


def _parsed(text: Any, what: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {quote(str(error))}", path=path) from None


def _notes(places: Mapping[str, Place], unknown: list[str], left_out: list[str]) -> tuple[str, ...]:
    notes = []
    turned = [name for name, place in places.items() if place.transposed]
    if turned:
        notes.append(f"transposed from Keras' (inputs, outputs) to (outputs, inputs): {_listed(turned)}")
    if unknown:
        notes.append(f"left with the axes that they have, since their layers are not known: {_listed(unknown)}")
    if left_out:
        notes.append(f"left out the variables of the optimizer: {_listed(left_out)}")
    return tuple(notes)


def _listed(names: list[str]) -> str:
    more = len(names) - NAMES_SAID
    return ", ".join(map(quote, names[:NAMES_SAID])) + (f" and {more} more" if more > 0 else "")


# Names

Row = tuple[str, Layer | None, Axes | None]  # of a dataset: its tensor's name, its layer, the order of its axes


def _legacy_place(dataset: Dataset, known: Mapping[str, Layer]) -> Row:
    """Keras 2 and .h5: <layer>/<name of the variable>, and the name is a path too, with ":0" in TensorFlow."""
    *parents, variable = [word.split(":")[0] for word in (dataset.path[1:] or dataset.path)]
    name = "/".join([*parents, variable])
    layer = None
    for depth in range(len(parents) - 1, -1, -1):
        if parents[depth] in known:
            layer = known[parents[depth]]
            inner = layers.inner_layer(layer, parents[depth + 1]) if depth + 1 < len(parents) else None
            layer = inner or layer
            break
        kind = layers.without_number(parents[depth])
        if known and kind.endswith("_cell") and kind in layers.KNOWN:
            layer = Layer(kind)
            break
    return name, layer, None if layer is None else layers.axes_of(layer, variable, len(dataset.shape))


class _Names:
    """Names and layers of the datasets of Keras 3: layers/dense_1/vars/0 is variable 0 of the second Dense."""

    def __init__(self, root: Any, datasets: list[Dataset], config: Any) -> None:
        self._root, self._datasets = root, datasets
        self._by_path = layers.layers_by_path(config)
        self._by_name = layers.layers_by_name(config)
        self._counts: dict[tuple[str, ...], int] = {}
        for dataset in datasets:
            self._counts[dataset.path[:-1]] = self._counts.get(dataset.path[:-1], 0) + 1
        self._known: dict[tuple[str, ...], tuple[str, Layer | None]] = {(): ("", None)}

    def places(self) -> list[Row]:
        return [self._row(dataset) for dataset in self._datasets]

    def _row(self, dataset: Dataset) -> Row:
        *owner, group, index = dataset.path if len(dataset.path) > 1 else ("", *dataset.path)
        if group != "vars" or not index.isdecimal() or not owner:
            return "/".join(dataset.path), None, None
        name, layer = self._owner(tuple(owner))
        variable = None
        if layer is not None:
            variable = layers.variable_name(layer, int(index), self._counts[dataset.path[:-1]])
        if variable is None or layer is None:
            return f"{name}/vars/{index}", layer, None
        return f"{name}/{variable}", layer, layers.axes_of(layer, variable, len(dataset.shape))

    def _owner(self, path: tuple[str, ...]) -> tuple[str, Layer | None]:
        """The name of what is at a path, with those around it, and its layer."""
        if path not in self._known:
            outer, around = self._owner(path[:-1])
            said = self._attribute(path)
            name, layer = self._by_path.get(path, (None, None))
            if layer is None:
                layer = self._guess(path, said, around)
            word = said or name or path[-1]
            skipped = path[-1] == "layers" and said is None
            self._known[path] = (outer if skipped else f"{outer}/{word}".lstrip("/")), layer
        return self._known[path]

    def _attribute(self, path: tuple[str, ...]) -> str | None:
        """The name that newer Keras writes beside the variables."""
        place = "/".join(path) + "/vars"
        return (text_attribute(self._root[place], "name") or None) if place in self._root else None

    def _guess(self, path: tuple[str, ...], said: str | None, around: Layer | None) -> Layer | None:
        """The layer of a group that the config does not list: in a list it is named for its class, inside another layer
        for what it does."""
        inner = layers.inner_layer(around, path[-1]) if around is not None else None
        if inner is not None:
            return inner
        if len(path) > 1 and path[-2] == "layers":
            return Layer(layers.without_number(path[-1]))
        if said in self._by_name:
            return self._by_name[said]
        words = [layers.without_number(word) for word in (path[-1], said or "")]
        return next((Layer(word) for word in words if word in layers.KNOWN), None)
