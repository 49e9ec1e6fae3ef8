"""quantrim info: what computes here, and which files are known."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

from rich.console import Console

from .. import _core, backend
from .._version import __version__
from .terminal import console, print_json, print_pairs

READS = (
    "safetensors: a file, or a model folder with or without an index",
    "compressed-tensors in safetensors: pack-quantized, int-quantized",
    "byte planes in safetensors, as written by compress --lossless",
    "npz and npy of numpy, without objects",
    "PyTorch state dicts (.pt, .pth, .bin, .ckpt), of which nothing is run",
    "Keras models and weights (.keras, .h5), with h5py",
)
WRITES = (
    "compressed-tensors in safetensors, 2 to 8 bits, for vLLM and transformers",
    "byte planes in safetensors, every bit kept",
    "npz and npy, with anything that safetensors can have",
    "floats back into a copy of a Keras file",
    "reports in HTML, JSON and Markdown",
)


@dataclass(frozen=True)
class Info:
    """isas: built for; found: those that this processor has, best first; isa: the one in use."""

    version: str
    isas: list[str]
    found: list[str]
    isa: str
    threads: int
    processors: int
    python: str
    numpy: str
    ml_dtypes: str
    platform: str
    reads: list[str]
    writes: list[str]


def run(*, as_json: bool) -> None:
    if as_json:
        print_json(asdict(gather()))
    else:
        show(gather(), console())


def gather() -> Info:
    return Info(
        version=__version__,
        isas=list(_core.built_isas()),
        found=backend.isas(),
        isa=backend.current_isa(),
        threads=backend.current_threads(),
        processors=os.cpu_count() or 1,
        python=platform.python_version(),
        numpy=metadata.version("numpy"),
        ml_dtypes=metadata.version("ml_dtypes"),
        platform=f"{platform.system()} {platform.machine()}",
        reads=list(READS),
        writes=list(WRITES),
    )


def show(info: Info, out: Console) -> None:
    missing = [isa for isa in info.isas if isa not in info.found]
    rows = [
        ("quantrim", info.version),
        ("in use", f"{info.isa}, {info.threads} threads (of {info.processors} processors)"),
        ("instruction sets", ", ".join(info.found)),
        ("not on this machine", ", ".join(missing) or "none of those built"),
        ("python", f"{info.python} on {info.platform}, numpy {info.numpy}, ml_dtypes {info.ml_dtypes}"),
        *(("reads" if k == 0 else "", text) for k, text in enumerate(info.reads)),
        *(("writes" if k == 0 else "", text) for k, text in enumerate(info.writes)),
        ("environment", "QUANTRIM_ISA and QUANTRIM_THREADS choose; QUANTRIM_DEBUG=1 shows tracebacks"),
    ]
    print_pairs(out, rows)
