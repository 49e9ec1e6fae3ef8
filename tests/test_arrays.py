"""Arrays of every layout and dtype: the bits of a contiguous copy, or an error that says what is wrong."""

from __future__ import annotations

import array
import ctypes
import decimal
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from functions import FLOATS, FUNCTIONS, Array, Function, bits_of
from hypothesis import given, settings
from hypothesis import strategies as st

import quantrim as qt
from quantrim import checks

by_function = pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: f.name)
FLOAT_FUNCTIONS = [f for f in FUNCTIONS if f.kind == "floats"]
REFUSING = [f for f in FLOAT_FUNCTIONS if f.name not in ("sparsity", "quantize-saturate")]  # NaN and infinity


def misaligned(a: Array, shift: int) -> Array:
    memory = np.zeros(a.nbytes + shift, np.uint8)
    memory[shift:] = np.frombuffer(a.tobytes(), np.uint8)
    return memory[shift:].view(a.dtype).reshape(a.shape) if a.size else a


def field(a: Array) -> Array:
    """One field of a structured array with a stride of 72 bytes."""
    record = np.zeros(a.shape, {"names": ["x"], "formats": [a.dtype], "offsets": [20], "itemsize": 72})
    record["x"] = a
    return record["x"]


def spread(a: Array) -> Array:
    wide = np.zeros((*a.shape[:-1], a.shape[-1] * 3), a.dtype)
    wide[..., ::3] = a
    return wide[..., ::3]


def read_only(a: Array) -> Array:
    a.flags.writeable = False
    return a


def mapped(a: Array) -> Array:
    with tempfile.TemporaryFile() as file:
        m = np.memmap(file, a.dtype, "w+", shape=a.shape)
    m[...] = a
    return m


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "rows reversed": lambda a: a[::-1],
    "columns reversed": lambda a: a[:, ::-1],
    "both reversed": lambda a: a[::-1, ::-1],
    "Fortran order": np.asfortranarray,
    "transposed": lambda a: a.reshape(12, 8).T,
    "every third column": spread,
    "every second row": lambda a: a[::2],
    "field of a record": field,
    "overlapping windows": lambda a: np.lib.stride_tricks.sliding_window_view(a.reshape(-1), 8),
    "broadcast row": lambda a: np.broadcast_to(a[0], a.shape),
    "broadcast column": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "one value": lambda a: np.broadcast_to(a[0, 0], a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": read_only,
    "memory-mapped": mapped,
    "1-d": lambda a: a.reshape(-1),
    "1-d strided": lambda a: spread(a.reshape(-1)),
    "3-d": lambda a: a.reshape(2, -1, 4),
    "3-d, axes swapped": lambda a: a.reshape(4, -1, 8).swapaxes(0, 1),
    "many axes": lambda a: a.reshape((1,) * 30 + a.shape),
    "one element": lambda a: a[:1, :1],
    "no rows": lambda a: a[:0],
    "no columns": lambda a: a[:, :0],
    "nothing": lambda a: a[:0, :0],
    "1-d nothing": lambda a: a.reshape(-1)[:0],
    "3-d nothing": lambda a: np.zeros((3, 0, 4), a.dtype),
}


def check_layout(f: Function, a: Array) -> None:
    """The bits of the contiguous copy; a, and how often it is referred to, as before."""
    before, references = a.tobytes(), sys.getrefcount(a)
    copy = np.array(a, a.dtype.newbyteorder("="), order="C")
    assert bits_of(f.call(a)) == bits_of(f.call(copy))
    assert a.tobytes() == before
    assert sys.getrefcount(a) == references


@pytest.mark.promise("A19", "A23", "A24", "A25", "A27", "A28", "A31", "A35")
@pytest.mark.parametrize("layout", LAYOUTS)
@by_function
def test_layout(f: Function, layout: str) -> None:
    for dtype in f.dtypes:
        a = LAYOUTS[layout](f.values(1, (8, 12), dtype))
        if a.shape[-1] % f.multiple == 0:
            check_layout(f, a)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if re.search("reversed|Fortran|transposed|every", name)])
def test_control_a_function_that_ignores_strides_is_found(layout: str) -> None:
    """What a kernel would see that takes every array for a contiguous one."""

    def careless(a: Array) -> Array:
        owner = a if a.base is None else np.asarray(a.base)
        return np.frombuffer(owner.tobytes("A"), a.dtype, a.size).reshape(a.shape)

    f = Function("careless", careless)
    with pytest.raises(AssertionError):
        check_layout(f, LAYOUTS[layout](f.values(1, (8, 12), np.float32)))


@pytest.mark.promise("A26")
@by_function
def test_misaligned(f: Function) -> None:
    for dtype in f.dtypes:
        a = f.values(2, (3, 36), dtype)
        for shift in range(1, 64):
            check_layout(f, misaligned(a, shift))


Drawn = tuple[int, tuple[int, ...], list[int], list[int], bool, int]


@st.composite
def any_layout(draw: st.DrawFn) -> Drawn:
    """Seed, shape, a step per axis, an order of the axes, whether big-endian, and a shift of the data."""
    shape = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    steps = draw(st.lists(st.sampled_from([1, -1, 2, -3]), min_size=len(shape), max_size=len(shape)))
    order = draw(st.permutations(range(len(shape))))
    return (
        draw(st.integers(0, 99)),
        tuple(shape),
        steps,
        list(order),
        draw(st.booleans()),
        draw(st.integers(0, 3)),
    )


@pytest.mark.promise("A23", "A24", "A25", "A26", "A27", "A28")
@by_function
@settings(max_examples=40)
@given(drawn=any_layout())
def test_any_layout(f: Function, drawn: Drawn) -> None:
    seed, shape, steps, order, swapped, shift = drawn
    sizes = [n * abs(step) for n, step in zip(shape, steps, strict=True)]
    for dtype in f.dtypes:
        a = f.values(seed, tuple(sizes[k] for k in order), dtype)
        a = misaligned(a.astype(a.dtype.newbyteorder(">")) if swapped else a, shift)
        a = a.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
        if a.shape[-1] % f.multiple == 0:
            check_layout(f, a)


def test_every_public_function_is_in_the_table() -> None:
    """A new public function belongs in tests/functions.py, or here with the reason why not."""
    without_arrays = {"isas", "use_isa", "use_threads", "importance.random", "cubic_sparsity"}
    models = {"compare", "compress", "decompress", "inspect", "open_checkpoint", "plan", "tune"}
    elsewhere = {  # in tests of their own
        "QuantizedTensor", "dequantize", "importance.ActivationHistogram", "SparseTensor", "sparse.to_dense",
        "sparse.smallest_layout", "split", "merge", "remove_units",
    }  # fmt: skip
    plain = [qt, qt.pruning, qt.splitting, qt.distillation]
    modules = [*(("", m) for m in plain), ("importance.", qt.importance), ("sparse.", qt.sparse)]
    public = {p + n for p, m in modules for n in m.__all__ if callable(getattr(m, n))}
    assert public - without_arrays - models - elsewhere == {f.function for f in FUNCTIONS}


# Wrong dtypes and classes


def wrong_dtypes() -> Iterator[Array]:
    for kind in (
        "int8",
        "uint16",
        "int32",
        "int64",
        "bool",
        "complex64",
        "complex128",
        "longdouble",
        "float32",
    ):
        yield np.ones((4, 8), kind)
    yield np.full((4, 8), decimal.Decimal(1), object)
    yield np.full((4, 8), "1.0")
    yield np.full((4, 8), b"1.0")
    yield np.full((4, 8), np.datetime64("2020-01-01"))
    yield np.zeros((4, 8), np.dtype([("x", np.float32)]))


@pytest.mark.promise("A29")
@by_function
def test_wrong_dtype_is_named(f: Function) -> None:
    integers = [np.int8, np.uint16, np.int32, np.int64]
    accepted: dict[str, list[Any]] = {
        "floats": [np.float32, *integers],
        "uint8": [],
        "bool": [np.bool_],
        "labels": integers,
    }
    for a in wrong_dtypes():
        if a.dtype not in accepted[f.kind]:
            with pytest.raises(TypeError, match="must be") as caught:
                f.call(a)
            assert str(a.dtype) in str(caught.value)


# Those that keep float64 are in tests/test_doubles.py.
DOUBLES = ("threshold", "prune", "prune_model", "apply_mask", "shrink", "sparsity")
BY_SCORES = ("prune-scores", "prune_model-scores")
NARROWING = [f for f in FLOAT_FUNCTIONS if f.function not in DOUBLES or f.name in BY_SCORES]
RANKING = [f for f in FLOAT_FUNCTIONS if f.function in ("prune", "prune_model") and f not in NARROWING]


@pytest.mark.promise("A29")
@pytest.mark.parametrize("f", NARROWING, ids=lambda f: f.name)
def test_float64_is_narrowed(f: Function) -> None:
    a = f.values(3, (4, 12), np.float32)
    assert bits_of(f.call(a.astype(np.float64))) == bits_of(f.call(a))
    assert bits_of(f.call(a.astype(">f8").T.copy().T)) == bits_of(f.call(a))


@pytest.mark.promise("A29")
@pytest.mark.parametrize("f", [*NARROWING, *RANKING], ids=lambda f: f.name)
def test_float64_beyond_float32_is_refused(f: Function) -> None:
    a = np.zeros((4, 8))
    a[2, 3] = 1e40
    with pytest.raises(ValueError, match=r"must fit float32, not .*1e\+40.* at flat index 19"):
        f.call(a)


@pytest.mark.promise("A30")
@by_function
def test_masked_arrays_and_matrices_are_refused(f: Function) -> None:
    a = f.values(4, (4, 8), f.dtypes[0])
    for hidden in (np.ma.masked_array(a, a > 0), np.ma.masked_array(a), a.view(np.matrix)):
        with pytest.raises(TypeError, match=r"plain array, not (MaskedArray|matrix)"):
            f.call(hidden)


@pytest.mark.promise("A30")
@by_function
def test_other_subclasses_are_seen_as_arrays(f: Function) -> None:
    class Tagged(np.ndarray):
        def __array_finalize__(self, source: Any) -> None:
            self.tag = getattr(source, "tag", None)

    a = f.values(4, (4, 8), f.dtypes[0])
    assert bits_of(f.call(a.view(Tagged))) == bits_of(f.call(a))


@pytest.mark.promise("A30")
def test_lists_and_array_protocols() -> None:
    class Wrapped:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return np.array([[1.0, -2.0]], np.float32)

    for a in (Wrapped(), [[1.0, -2.0]], ((1.0, -2.0),)):
        assert qt.importance.magnitude(a).tolist() == [[1.0, 2.0]]
    assert qt.importance.magnitude(array.array("f", [1.0, -2.0])).tolist() == [1.0, 2.0]


class Capsule:
    """Memory that is offered through DLPack and in no other way."""

    def __init__(self, a: Array, device: int = 1) -> None:
        self._a, self._device = a, device

    def __dlpack__(self, **how: Any) -> Any:
        if self._device != 1:  # not a CPU
            raise BufferError("memory of another device")
        return self._a.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0


@pytest.mark.promise("A30")
def test_dlpack_alone() -> None:
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
    before = w.copy()
    for a in (w, w.T, w[:, ::2], w.astype(np.float16), w.astype(np.float64)):
        assert bits_of(qt.quantize(Capsule(a), 4)) == bits_of(qt.quantize(a, 4))
        assert bits_of(qt.prune(Capsule(a), 0.5, scores=Capsule(a))) == bits_of(qt.prune(a, 0.5, scores=a))
    assert bits_of(qt.apply_mask(Capsule(w), Capsule(w > 0))) == bits_of(qt.apply_mask(w, w > 0))
    codes = (w > 0).view(np.uint8)
    assert bits_of(qt.pack(Capsule(codes), 1)) == bits_of(qt.pack(codes, 1))
    assert w.tobytes() == before.tobytes()


@pytest.mark.promise("A30")
def test_dlpack_that_numpy_cannot_read() -> None:
    with pytest.raises(TypeError, match=r"w must be an array that numpy can read, not Capsule: memory of another"):
        qt.quantize(Capsule(np.ones((2, 8), np.float32), device=2))
    with pytest.raises(TypeError, match="w must be float32, float16, bfloat16 or float64, or integers, not bool"):
        qt.quantize(Capsule(np.ones((2, 8), np.bool_)))
    with pytest.raises(TypeError, match="w must be an array that numpy can read, not Capsule"):
        qt.quantize(Capsule(np.ones((2, 8), FLOATS["bfloat16"])))
    with pytest.raises(TypeError, match=r"w must be an array that numpy can read, not list: .*inhomogeneous"):
        qt.quantize([[1.0], [1.0, 2.0]])


class DlTensor(ctypes.Structure):
    """A tensor of DLPack, in the structure that owns it: DLManagedTensor, or DLManagedTensorVersioned."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("kind", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64),
    )  # fmt: skip


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
OWNER = [("context", ctypes.c_void_p), ("deleter", DELETER)]


class Managed(ctypes.Structure):
    _fields_ = (("tensor", DlTensor), *OWNER)


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), *OWNER,
        ("flags", ctypes.c_uint64), ("tensor", DlTensor),
    )  # fmt: skip


class BrainFloats:
    """An array of bfloat16 that speaks DLPack alone, as torch's tensors do of that dtype; `deleted` counts."""

    def __init__(self, a: Array, versioned: bool, device: int = 1) -> None:
        self.a, self.versioned, self.device, self.deleted = a, versioned, device, 0

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, **how: Any) -> Any:
        if how and not self.versioned:
            raise TypeError("no such argument")
        a, many = self.a, ctypes.c_int64 * self.a.ndim
        self.shape, self.strides = many(*a.shape), many(*(s // 2 for s in a.strides))
        strides = 0 if a.flags.c_contiguous else ctypes.addressof(self.strides)
        before = a.ctypes.data - 6  # what the offset makes up for
        tensor = DlTensor(before, self.device, 0, a.ndim, 4, 16, 1, ctypes.addressof(self.shape), strides, 6)
        self.managed = (ManagedVersioned if self.versioned else Managed)(tensor=tensor, deleter=DELETER(self._delete))
        if self.versioned:
            self.managed.major = 1
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        self.name = b"dltensor_versioned" if self.versioned else b"dltensor"
        return new(ctypes.addressof(self.managed), self.name, None)

    def _delete(self, _: int) -> None:
        self.deleted += 1


@pytest.mark.promise("fault-D17")
@pytest.mark.parametrize("versioned", [False, True])
def test_bfloat16_by_dlpack(versioned: bool) -> None:
    """Read where it lies, in any layout, and given back."""
    w = np.random.default_rng(0).standard_normal((6, 8)).astype(FLOATS["bfloat16"])
    for a in (w, w.T, w[:, ::2], w[::-1], w[:0], w[0]):
        given = BrainFloats(a, versioned)
        assert bits_of(qt.prune(given, 0.5)) == bits_of(qt.prune(a, 0.5))
        assert given.deleted == 1
    given = BrainFloats(w, versioned)
    view = checks.array("w", given)
    assert view.dtype == w.dtype and view.ctypes.data == w.ctypes.data and not view.flags.writeable
    assert given.deleted == 0
    with pytest.raises(TypeError, match="w must be an array that numpy can read, not BrainFloats"):
        qt.prune(BrainFloats(w, versioned, device=2), 0.5)
    del view
    assert given.deleted == 1


# Integers


@pytest.mark.promise("fault-D18")
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"])
@pytest.mark.parametrize("f", FLOAT_FUNCTIONS, ids=lambda f: f.name)
def test_integers_that_float32_holds(f: Function, dtype: str) -> None:
    a = np.random.default_rng(3).integers(1, 100, (4, 12)).astype(dtype)
    assert bits_of(f.call(a)) == bits_of(f.call(a.astype(np.float32)))


@pytest.mark.promise("fault-D18")
@pytest.mark.parametrize("value", [2**24 + 1, -(2**24) - 1, 2**31 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1, -(2**63) + 1])
def test_integers_that_float32_does_not_hold_are_named(value: int) -> None:
    with pytest.raises(ValueError, match=f"w must be integers that float32 holds, not {value} at flat index 4"):
        qt.prune(np.array([[1, 2, 3], [4, value, 5]], np.int64 if value < 2**63 else np.uint64), 0.5)


@pytest.mark.promise("fault-D18")
def test_where_integers_come_from() -> None:
    """Lists, arange, a scale, a threshold, a multiplier; powers of two and their multiples far beyond 2**24."""
    assert qt.prune([1, -2, 3, 0], 0.5).tolist() == [0, -2, 3, 0]
    assert qt.prune(np.arange(6), 0.5).tolist() == [0, 0, 0, 3, 4, 5]
    for scale in (1, 2, np.int64(2), [2], np.uint8(3)):
        want = qt.quantize(np.eye(4), 4, scales=float(np.ravel(scale)[0]))
        assert bits_of(qt.quantize(np.eye(4), 4, scales=scale)) == bits_of(want)
    assert qt.threshold([1, 2, 3], 2).tolist() == [0, 2, 3]
    assert qt.threshold([1, 2, 3], np.int8(2)).tolist() == [0, 2, 3]
    assert qt.importance.wanda([[1, 2]], [3, 4]).tolist() == [[3, 8]]
    for held in (2**24, -(2**24), 2**24 + 2, -(2**63), 2**62 + 2**40, 2**63 - 2**39):
        assert qt.importance.magnitude([held]).tolist() == [abs(held)]
    for refused in ([True, False], np.bool_(1)):
        with pytest.raises(TypeError, match=r"scales must be .* or integers, not bool"):
            qt.quantize(np.eye(2), scales=refused)


@pytest.mark.promise("A20")
@by_function
def test_no_axes(f: Function) -> None:
    a = f.values(5, (1,), f.dtypes[0]).reshape(())
    with pytest.raises(ValueError, match=r"at least one axis, not shape \(\)|must have shape|the shape of w"):
        f.call(a)


# logits of -inf mask a class
NOT_FINITE = [(f, bad) for f in REFUSING for bad in (np.nan, np.inf, -np.inf)]
NOT_FINITE = [(f, bad) for f, bad in NOT_FINITE if not (bad == -np.inf and f.name.startswith("distillation_loss"))]


@pytest.mark.promise("A1", "A2")
@pytest.mark.parametrize("f,bad", NOT_FINITE, ids=lambda each: each.name if isinstance(each, Function) else str(each))
def test_not_finite(f: Function, bad: float) -> None:
    """The error counts them and says where the first is, in flat order of the array as the caller sees it."""
    for dtype in FLOATS.values():
        a = f.values(6, (12, 8), dtype).T
        flat = np.arange(96).reshape(8, 12)
        a[5, 3] = a[7, 0] = bad
        found = f"has 2 NaN or infinite of 96 values, the first {bad} at flat index {flat[5, 3]}"
        with pytest.raises(ValueError, match=found):
            f.call(a)


# Memory that others hold


@pytest.mark.promise("A36")
def test_buffers_are_held_during_a_call_and_released_after() -> None:
    memory = bytearray(64 << 20)
    started = threading.Event()
    sums: list[float] = []

    def work() -> None:
        view = np.frombuffer(memory, np.float32)
        started.set()
        sums.extend(float(qt.importance.l1(view)) for _ in range(5))

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    with pytest.raises(BufferError):
        memory.extend(b"more")
    worker.join()
    assert sums == [0.0] * 5
    memory.extend(b"more")


@pytest.mark.promise("A37")
def test_input_changed_during_a_call() -> None:
    """The codes may be those of either content; each is one that some weight of the group can have."""
    w = np.ones((256, 1024), np.float32)
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            w[:] = -w

    worker = threading.Thread(target=disturb)
    worker.start()
    try:
        for _ in range(30):
            assert np.isin(qt.quantize(w, 4).codes(), (-7, 7)).all()
    finally:
        stop.set()
        worker.join()
