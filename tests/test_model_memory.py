"""The memory of compress does not depend on the size of the model. Sources are sparse files of zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
from children import printed
from model_helpers import sparse_checkpoint

from quantrim.model.streaming.chunks import CHUNK_BYTES

MIB = 1 << 20
LIMIT = 300 * MIB

RUN = """
import sys
from pathlib import Path
import quantrim as qt
with qt.use_threads(2):
    qt.compress({source!r}, {target!r}, **{options!r})
status = Path("/proc/self/status").read_text()
print(1024 * int(status.split("VmHWM:")[1].split()[0]))  # ru_maxrss may be that of the parent
"""


def peak(source: Path, **options: object) -> int:
    """Peak resident bytes of a process that compresses the source."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc/self/status, to see the peak of a process")
    target = source.with_name("target.safetensors")
    found = int(printed(RUN.format(source=str(source), target=str(target), options=options), limit=600))
    target.unlink()
    return found


def some(total: int) -> list[tuple[str, str, list[int]]]:
    """Tensors of `total` bytes together: half of them in one, of several dtypes, one in few long rows."""
    return [
        ("big.weight", "F32", [total // 2 // 4 // 4096, 4096]),
        ("long.weight", "F32", [4, total // 4 // 4 // 4]),
        ("half.weight", "F16", [total // 8 // 2 // 1024, 1024]),
        ("copied", "BF16", [total // 8 // 2]),
    ]


@pytest.mark.promise("G12")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prune": 0.5, "bits": 8, "group_size": 128, "storage": "dense"},
        {"prune": 0.5, "bits": None},
        {"prune": 0.7},
        {"codebook": "nf4"},
    ],
    ids=str,
)
def test_memory_for_half_a_gigabyte(tmp_path: Path, options: dict[str, object]) -> None:
    found = peak(sparse_checkpoint(tmp_path / "m.safetensors", some(512 * MIB)), **options)
    assert found < 200 * MIB, f"{found / MIB:.0f} MiB"


@pytest.mark.promise("G12", "fault-D23")
def test_a_row_with_one_scale(tmp_path: Path) -> None:
    """Five times the limit, were it read whole."""
    source = sparse_checkpoint(tmp_path / "m.safetensors", [("long.weight", "F16", [1, 128 * MIB])])
    found = peak(source, bits=8)
    assert found < 200 * MIB, f"{found / MIB:.0f} MiB"


@pytest.mark.promise("G12")
def test_the_measure_sees_a_tensor_that_is_read_whole(tmp_path: Path) -> None:
    """The positive control: one chunk for everything."""
    larger = f"from quantrim.model.streaming import chunks\nchunks.CHUNK_BYTES = {256 * CHUNK_BYTES}\nwith qt"
    code = RUN.replace("with qt", larger)
    source = sparse_checkpoint(tmp_path / "m.safetensors", [("big.weight", "F32", [16384, 4096])])
    found = int(printed(code.format(source=str(source), target=str(tmp_path / "t.safetensors"), options={})))
    assert found > LIMIT


@pytest.mark.promise("D104", "G12")
@pytest.mark.slow
def test_memory_for_eight_gigabytes(tmp_path: Path) -> None:
    found = peak(sparse_checkpoint(tmp_path / "m.safetensors", some(8192 * MIB)))
    assert found < LIMIT, f"{found / MIB:.0f} MiB"


@pytest.mark.promise("D104", "G12")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": False},
        {"prune": 0.5, "symmetric": False},
        {"prune": 0.5, "bits": None},
        {"prune": 0.5, "prune_score": "random", "prune_scope": "global"},
        {"prune": 0.7},
        {"prune": 0.7, "bits": None, "storage": "sparse"},
        {"codebook": "nf4"},
    ],
    ids=str,
)
def test_memory_for_a_gigabyte(tmp_path: Path, options: dict[str, object]) -> None:
    found = peak(sparse_checkpoint(tmp_path / "m.safetensors", some(1024 * MIB)), **options)
    assert found < LIMIT, f"{found / MIB:.0f} MiB"


@pytest.mark.promise("D104", "G12")
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"prune_pattern": (4, 8)}, {"prune_pattern": "row"}, {"prune_pattern": "column", "prune_scope": "global"}],
    ids=str,
)
def test_patterns_hold_some_rows(tmp_path: Path, options: dict[str, object]) -> None:
    """Those of a block, or the sixteen that column sums are added up in; here rows are as long as in large models."""
    tensors = [("big.weight", "F32", [1 << 14, 1 << 14])]
    found = peak(sparse_checkpoint(tmp_path / "m.safetensors", tensors), prune=0.5, **options)
    assert found < LIMIT, f"{found / MIB:.0f} MiB"
