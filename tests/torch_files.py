"""PyTorch files for tests: what is in the golden ones, and pickles of any kind, right or wrong, put together by hand.

Run as a script, with torch, it writes the golden files again."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import files_helpers
import ml_dtypes
import numpy as np
from model_helpers import assert_same_arrays

from quantrim.files.torch import TorchReader

GOLDEN = Path(__file__).parent / "golden" / "torch"
FILES = ("state_dict.pt", "legacy.pt")
Arrays = dict[str, np.ndarray[Any, Any]]


def expected(legacy: bool = False) -> Arrays:
    """The tensors of state_dict.pt and legacy.pt."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    arrays = {
        "embed.weight": base,
        "head.weight": base,
        "transposed": base.T,
        "sliced": base[:, 1:3],
        "row": base[1],
        "expanded": np.broadcast_to(np.array([7, -7], np.int64), (3, 2)),
        "scalar": np.array(2.5),
        "empty": np.empty((0, 3), np.float32),
        "half": np.array([1, -2, 0.5], np.float16),
        "brain": np.array([1, -2, 0.5, 3], ml_dtypes.bfloat16),
        "flags": np.array([True, False, True]),
        "bytes": np.arange(5, dtype=np.uint8),
        "complex": np.array([1 + 2j, -3j], np.complex64),
    }
    if not legacy:
        arrays["float8"] = np.array([1, -0.5, 448], ml_dtypes.float8_e4m3fn)
        arrays["words"] = np.array([1, 65535], np.uint16)
    return arrays


def tensors(torch: Any, legacy: bool = False) -> dict[str, Any]:
    """The same, made by torch: with one storage behind five names."""
    made: dict[str, Any] = {}
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) - 5
    made["embed.weight"] = torch.nn.Parameter(base)
    made |= {"head.weight": base, "transposed": base.T, "sliced": base[:, 1:3], "row": base[1]}
    made["expanded"] = torch.tensor([7, -7]).expand(3, 2)
    made["scalar"] = torch.tensor(2.5, dtype=torch.float64)
    made["empty"] = torch.empty(0, 3)
    made["half"] = torch.tensor([1, -2, 0.5], dtype=torch.float16)
    made["brain"] = torch.tensor([1, -2, 0.5, 3], dtype=torch.bfloat16)
    made["flags"] = torch.tensor([True, False, True])
    made["bytes"] = torch.arange(5, dtype=torch.uint8)
    made["complex"] = torch.tensor([1 + 2j, -3j], dtype=torch.complex64)
    if not legacy:
        made["float8"] = torch.tensor([1, -0.5, 448]).to(torch.float8_e4m3fn)
        made["words"] = torch.tensor([1, 65535]).to(torch.uint16)
    return made


def training(torch: Any) -> dict[str, Any]:
    """A checkpoint as training scripts save it."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    for name in ("0.weight", "0.bias"):
        state[name] = torch.arange(state[name].numel(), dtype=torch.float32).reshape(state[name].shape)
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_state_dict": optimizer.state_dict(),
        "loss": torch.tensor(0.25),
        "args": {"lr": 1e-3, "betas": (0.9, 0.999), "name": "run"},
    }


# Reading


def read_all(path: Path) -> Arrays:
    return files_helpers.read_all(TorchReader, path)


def assert_same(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    assert_same_arrays(found, expected)


def refused(path: Path, *words: str) -> str:
    return files_helpers.refused_by(read_all, path, *words)


# Pickles by hand


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def group(items: Sequence[bytes]) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(name: str, *args: bytes) -> bytes:
    return named(name) + group(args) + b"R"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str, count: int, kind: str = "torch.FloatStorage", legacy: bool = False) -> bytes:
    said = [text("storage"), named(kind), text(key), text("cpu"), number(count)]
    return group([*said, b"N"] if legacy else said) + b"Q"


def tensor(
    of: bytes, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0, metadata: bytes = b""
) -> bytes:
    steps = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))] if strides is None else strides
    sizes = [group([number(item) for item in items]) for items in (shape, steps)]
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", of, number(offset), *sizes, b"\x89", hooks, metadata)


def floats(*shape: int, key: str = "0") -> bytes:
    count = int(np.prod(shape))
    return tensor(storage(key, count), shape)


def zip_file(
    path: Path,
    pickled: bytes,
    storages: Mapping[str, bytes],
    root: str = "archive",
    more: Mapping[str, bytes] | None = None,
    **options: Any,
) -> Path:
    """A file of torch.save with this value. options: of zipfile.ZipFile."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr(f"{root}/data.pkl", b"\x80\x02" + pickled + b".")
        for key, data in storages.items():
            archive.writestr(f"{root}/data/{key}", data)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return path


def legacy_bytes(pickled: bytes, storages: Mapping[str, tuple[int, bytes]]) -> bytes:
    """The same of before torch 1.6. storages: key -> (elements, bytes)."""
    keys = b"](" + b"".join(text(key) for key in storages) + b"e"
    values = (number(0x1950A86A20F9469CFC6C), number(1001), b"}", pickled, keys)
    out = io.BytesIO()
    for value in values:
        out.write(b"\x80\x02" + value + b".")
    for count, data in storages.values():
        out.write(struct.pack("<q", count) + data)
    return out.getvalue()


ONE = {"w": floats(2)}
STORAGE = {"0": np.array([1, 2], np.float32).tobytes()}


def legacy_file(path: Path, value: bytes = dictionary(ONE), count: int = 2, data: bytes = STORAGE["0"]) -> Path:
    path.write_bytes(legacy_bytes(value, {"0": (count, data)}))
    return path


def main() -> None:
    import torch

    GOLDEN.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(torch), GOLDEN / "state_dict.pt")
    torch.save(tensors(torch, legacy=True), GOLDEN / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(training(torch), GOLDEN / "training.ckpt", pickle_protocol=4)


if __name__ == "__main__":
    main()
