"""gguf-py: ggml's formats in numpy. Outputs are fresh each time; it has no other way."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import Any

from contestant import Contestant
from gguf import GGMLQuantizationType as Kind
from gguf import quants
from tasks import Array, Data


def versions() -> dict[str, str]:
    return {"gguf": metadata.version("gguf")}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    make = MAKERS.get(task)
    return make(data) if make else []


def _quantize(kind: Any) -> Callable[[Data], list[Contestant]]:
    def make(data: Data) -> list[Contestant]:
        last: list[Array] = []

        def call() -> None:
            last[:] = [quants.quantize(data.w, kind)]

        return [Contestant("quantize (fresh output)", call, lambda rows: quants.dequantize(last[0][rows], kind))]

    return make


def _dequantize(data: Data) -> list[Contestant]:
    blocks = quants.quantize(data.w, Kind.Q4_0)
    last: list[Array] = []

    def call() -> None:
        last[:] = [quants.dequantize(blocks, Kind.Q4_0)]

    return [Contestant("dequantize (fresh output)", call, lambda rows: last[0][rows])]


MAKERS: dict[str, Callable[[Data], list[Contestant]]] = {
    "int8 groups of 32": _quantize(Kind.Q8_0),
    "int4 groups of 32, packed": _quantize(Kind.Q4_0),
    "dequantize int4": _dequantize,
}
