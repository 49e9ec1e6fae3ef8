"""ggml, through the shared libraries inside the llama-cpp-python wheel."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

import numpy as np
from contestant import Contestant, in_rows
from machine import compiled
from tasks import GROUP, Array, Data

Q4_0, Q8_0 = 2, 8  # enum ggml_type
BLOCK_BYTES = {Q4_0: 18, Q8_0: 34}  # of 32 weights: a float16 scale and the codes
KNOWN = ("0.25",)  # releases of ggml whose structs are as written here
Convert = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class Traits(ctypes.Structure):
    """struct ggml_type_traits"""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float_ref", ctypes.c_void_p),
    )


class CpuTraits(ctypes.Structure):
    """struct ggml_type_traits_cpu"""

    _fields_ = (
        ("from_float", ctypes.c_void_p),
        ("vec_dot", ctypes.c_void_p),
        ("vec_dot_type", ctypes.c_int),
        ("nrows", ctypes.c_int64),
    )


class Library:
    """Both libraries, their struct layouts compared with what they must say of themselves."""

    def __init__(self) -> None:
        found = util.find_spec("llama_cpp")  # not imported: it would start a backend
        if found is None or found.origin is None:
            raise ImportError("no llama_cpp")
        folder = Path(found.origin).parent / "lib"
        self.base = ctypes.CDLL(str(folder / "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
        self.cpu = ctypes.CDLL(str(folder / "libggml-cpu.so"))
        self.base.ggml_version.restype = ctypes.c_char_p
        self.version = self.base.ggml_version().decode()
        if not self.version.startswith(KNOWN):
            raise ImportError(f"ggml {self.version}: compare ggml_type_traits in its headers, then add it to KNOWN")
        self.base.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        self.cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(CpuTraits)
        self.base.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.cpu.ggml_cpu_init()  # fills its tables of float16
        for kind, name in ((Q4_0, b"q4_0"), (Q8_0, b"q8_0")):
            traits = self.traits(kind)
            said = (traits.type_name, traits.blck_size, traits.type_size, traits.is_quantized)
            if said != (name, GROUP, BLOCK_BYTES[kind], True):
                raise ImportError(f"ggml_type_traits is laid out otherwise: {said}")
            if self.cpu_traits(kind).vec_dot_type != Q8_0:
                raise ImportError("ggml_type_traits_cpu is laid out otherwise")

    def traits(self, kind: int) -> Traits:
        traits: Traits = self.base.ggml_get_type_traits(kind).contents
        return traits

    def cpu_traits(self, kind: int) -> CpuTraits:
        traits: CpuTraits = self.cpu.ggml_get_type_traits_cpu(kind).contents
        return traits


@functools.cache
def library() -> Library:
    return Library()


def versions() -> dict[str, str]:
    return {"ggml": library().version, "llama-cpp-python": metadata.version("llama-cpp-python")}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    make = MAKERS.get(task)
    return make(data, threads) if make else []


def converter(
    function: int, source: Array, target: Array, sizes: tuple[int, int], threads: int
) -> Callable[[], object]:
    """Make what converts slices of blocks; sizes: bytes of a block of 32 at source and target."""
    run = compiled(Path(__file__).with_name("slices.c")).convert_slices
    blocks = ctypes.c_int64(source.nbytes // sizes[0])
    pointers = (
        ctypes.c_void_p(function),
        ctypes.c_void_p(source.ctypes.data),
        ctypes.c_void_p(target.ctypes.data),
    )

    def call() -> object:
        run(*pointers, blocks, ctypes.c_int64(GROUP), *map(ctypes.c_int64, sizes), threads)
        return source, target  # pointers keep no array alive

    return call


def decoded(kind: int, blocks: Array) -> Callable[[Array], Array]:
    """Decode blocks (rows, groups, bytes) to weights by the format's definition."""

    def answer(rows: Array) -> Array:
        some = blocks[rows]
        scales = some[..., :2].copy().view(np.float16).astype(np.float32)
        codes = some[..., 2:]
        if kind == Q8_0:
            values = codes.view(np.int8).astype(np.float32)
        else:  # the first half of a group in the low nibbles, the second in the high ones
            values = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.float32) - 8
        weights: Array = (values * scales).reshape(len(some), -1)
        return weights

    return answer


def _quantize(kind: int) -> Callable[[Data, int], list[Contestant]]:
    def make(data: Data, threads: int) -> list[Contestant]:
        lib = library()
        size = BLOCK_BYTES[kind]
        simd, plain = (data.like(np.uint8, (data.rows, data.cols // GROUP, size)) for _ in range(2))
        from_float = lib.cpu_traits(kind).from_float

        def chunk() -> None:
            pointers = (ctypes.c_void_p(data.w.ctypes.data), ctypes.c_void_p(plain.ctypes.data))
            numbers = (ctypes.c_int64(n) for n in (0, data.rows, data.cols))
            lib.base.ggml_quantize_chunk(kind, *pointers, *numbers, None)

        call = converter(from_float, data.w, simd, (4 * GROUP, size), threads)
        made = [Contestant("ggml-cpu from_float", call, decoded(kind, simd))]
        if threads == 1:
            made.append(Contestant("ggml_quantize_chunk", chunk, decoded(kind, plain)))
        return made

    return make


def _dequantize(data: Data, threads: int) -> list[Contestant]:
    lib = library()
    blocks = data.like(np.uint8, (data.rows, data.cols // GROUP, BLOCK_BYTES[Q4_0]))
    converter(lib.cpu_traits(Q4_0).from_float, data.w, blocks, (4 * GROUP, BLOCK_BYTES[Q4_0]), 1)()
    out = data.like()
    call = converter(lib.traits(Q4_0).to_float, blocks, out, (BLOCK_BYTES[Q4_0], 4 * GROUP), threads)
    return [Contestant("to_float", call, in_rows(out))]


MAKERS: dict[str, Callable[[Data, int], list[Contestant]]] = {
    "int8 groups of 32": _quantize(Q8_0),
    "int4 groups of 32, packed": _quantize(Q4_0),
    "dequantize int4": _dequantize,
}
