"""A hundred thousand small tensors: what is done for each of them, and that together they become what each becomes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_helpers import Arrays, expected_parts, save, save_folder, stored_tensors, weights

from quantrim.files import FormatError, open_checkpoint
from quantrim.files.disk.writer import FileWriter
from quantrim.layouts.compressed_tensors_config import StatedBits
from quantrim.model import compress, decompress, plan
from quantrim.model.encode import stacks
from quantrim.model.plan.tensor_planner import TensorPlanner
from quantrim.model.plan.types import TensorPlan
from quantrim.model.recipe import Settings, settings_of
from quantrim.model.report.inspect import inspect
from quantrim.model.streaming import chunks
from quantrim.model.streaming.overlay import Overlay

TENSORS = 300
# Python functions for each tensor; what they were when each was planned alone: 480, 178, 240, 263, 97
LIMITS = {"compress": 200, "copied": 150, "plan": 115, "decompress": 240, "inspect": 90}


def calls_of(work: Callable[[], object]) -> int:
    """How many Python functions are called, in this thread and in those that it starts."""
    found: list[str] = []

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            found.append(event)

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return len(found)


def layers(count: int, *shape: int) -> Arrays:
    return {f"layers.{k}.up.weight": weights(*shape, seed=k) for k in range(count)} | {"head.weight": weights(64, 64)}


@pytest.mark.promise("fault-D23")
@pytest.mark.parametrize("what", LIMITS)
def test_few_functions_are_called_for_each_tensor(what: str, tmp_path: Path) -> None:
    counts = []
    for count in (TENSORS, 2 * TENSORS):
        path = save(tmp_path / f"{count}.safetensors", layers(count, 4, 16))
        small = tmp_path / f"small-{count}.safetensors"
        options: dict[str, Any] = {} if what == "copied" else {"min_elements": 0}
        if what in ("decompress", "inspect"):
            compress(path, small, bits=4, min_elements=0)
        work: dict[str, Callable[[], object]] = {
            "plan": lambda path=path, options=options: plan(path, bits=4, **options),  # type: ignore[misc]
            "decompress": lambda small=small: decompress(small, tmp_path / "out.safetensors", overwrite=True),  # type: ignore[misc]
            "inspect": lambda small=small: inspect(small, stats=False),  # type: ignore[misc]
        }
        writing = lambda path=path, small=small, options=options: compress(path, small, bits=4, **options)  # noqa: E731
        counts.append(calls_of(work.get(what, writing)))
    assert (counts[1] - counts[0]) / TENSORS < LIMITS[what]


@pytest.mark.promise("fault-D23")
def test_tensors_that_are_alike_are_planned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m.safetensors", layers(20, 8, 16) | {"norm.weight": weights(16), "bias": weights(16)})
    planned, settings = [], []
    real, with_codes = TensorPlanner._plan, Settings.with_codes
    monkeypatch.setattr(TensorPlanner, "_plan", lambda self, info: planned.append(info.name) or real(self, info))
    monkeypatch.setattr(Settings, "with_codes", lambda s, **more: settings.append(s) or with_codes(s, **more))
    found = {t.name: t for t in plan(path, bits=4, group_size=16, min_elements=0).tensors}
    assert sorted(planned) == ["bias", "head.weight", "layers.0.up.weight", "norm.weight"]
    assert len(settings) <= len(planned)
    for k in range(20):
        t = found[f"layers.{k}.up.weight"]
        assert t.arrays()["codes"].name == f"layers.{k}.up.weight_packed"
        assert (t.info.name, t.stored_bytes) == (t.name, 8 * 8 + 8 * 2 + 16)


@pytest.mark.promise("fault-D23")
def test_names_decide_where_they_mean_something(tmp_path: Path) -> None:
    """Alike in shape and settings, but no matrix `weight` of a module."""
    arrays = {name: weights(8, 16) for name in ("a.weight", "weight", "a.kernel", "b.weight")}
    path = save(tmp_path / "m.safetensors", arrays)
    recipe = {"bits": 4, "min_elements": 0, "rule": [{"match": "b.*", "bits": 8}]}
    found = {t.name: sorted(each.name for each in t.arrays().values()) for t in plan(path, recipe=recipe).tensors}
    assert found == {
        "a.weight": ["a.weight_packed", "a.weight_scale", "a.weight_shape"],
        "weight": ["weight.weight_codes", "weight.weight_scale"],
        "a.kernel": ["a.kernel.weight_codes", "a.kernel.weight_scale"],
        "b.weight": ["b.weight_packed", "b.weight_scale", "b.weight_shape"],
    }


# Stacks


def mixed(dtype: Any = np.float32) -> Arrays:
    """Layers of two shapes that take turns, as experts of a mixture do, with what is copied between them."""
    found: Arrays = {}
    for k in range(12):
        found[f"layers.{k}.down.weight"] = weights(24, 32, dtype=dtype, seed=k)
        found[f"layers.{k}.norm.weight"] = weights(32, dtype=dtype, seed=k)
        found[f"layers.{k}.up.weight"] = weights(5, 64, dtype=dtype, seed=k)
    found["layers.3.up.weight"][2] = 0  # a row of zeros has no scale
    return found


OPTIONS: list[dict[str, Any]] = [
    {"bits": 4, "group_size": 16},
    {"bits": 3, "group_size": "channel"},
    {"bits": 8},
    {"bits": 4, "scale": "mse", "group_size": 32, "scale_dtype": "float32"},
    {"bits": 2, "scale": 0.03, "group_size": 32},
    {"bits": 5, "rounding": "away", "group_size": 16},
    {"bits": 4, "rounding": "stochastic", "seed": 7, "group_size": 16},
    {"bits": 4, "symmetric": False, "group_size": 16},
]


@pytest.mark.promise("fault-D23")
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_together_they_become_what_each_becomes(
    options: dict[str, Any], dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = mixed(dtype)
    path = save(tmp_path / "m.safetensors", arrays)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 5 * 24 * 32 * 4)  # stacks of five, and of what is left over
    report = compress(path, tmp_path / "together.safetensors", min_elements=0, **options)
    found = stored_tensors(tmp_path / "together.safetensors")
    for name, w in arrays.items():
        if w.ndim == 2:
            x = w.astype(np.float32) if dtype == np.float64 else w
            for part, expected in expected_parts(x, settings_of(**options)).items():
                have = found[name.removesuffix("weight") + part]
                assert (have.dtype, have.tobytes()) == (expected.dtype, expected.tobytes()), (name, part)
    monkeypatch.setattr(stacks, "_stackable", lambda tensor: False)
    alone = compress(path, tmp_path / "alone.safetensors", min_elements=0, **options)
    assert (tmp_path / "alone.safetensors").read_bytes() == (tmp_path / "together.safetensors").read_bytes()
    assert alone.tensors == report.tensors  # errors to the last bit
    assert (alone.snr_db, alone.sparsity) == pytest.approx((report.snr_db, report.sparsity), abs=0)


@pytest.mark.promise("fault-D23")
def test_stacks_are_written_in_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 100
    path = save(tmp_path / "m.safetensors", {f"layers.{k:03}.up.weight": weights(8, 16, seed=k) for k in range(count)})
    written: list[int] = []
    real = FileWriter.pwrite

    def pwrite(self: FileWriter, data: Any, offset: int) -> None:
        written.append(offset)
        real(self, data, offset)

    monkeypatch.setattr(FileWriter, "pwrite", pwrite)
    compress(path, tmp_path / "out.safetensors", bits=4, min_elements=0)
    assert len(written) == 4  # header, codes, scales, shapes


@pytest.mark.promise("fault-D23")
def test_which_tensors_are_stacked(tmp_path: Path) -> None:
    path = save(tmp_path / "m.safetensors", mixed() | {"large.weight": weights(700, 700)})
    found: dict[str, tuple[TensorPlan, ...]] = {
        kind: plan(path, min_elements=0, **options).tensors
        for kind, options in {
            "plain": {"bits": 4},
            "pruned": {"bits": 4, "prune": "2:4"},
            "by chance": {"bits": 4, "rounding": "stochastic"},
            "zero points": {"bits": 4, "symmetric": False},
            "simulated": {"bits": 4, "simulate": True},
            "codebook": {"codebook": "nf4"},
        }.items()
    }
    for kind, tensors in found.items():
        together, others = stacks.stacks_of(tensors)
        assert sorted(t.name for t in [*others, *(t for stack in together for t in stack)]) == sorted(
            t.name for t in tensors
        )
        if kind == "plain":
            assert [len(stack) for stack in together] == [12, 12]
            assert [t.name for t in others if not t.copied] == ["large.weight"]
        else:
            assert not together, kind


@pytest.mark.promise("fault-D23")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_wrong_in_a_stack_is_said_of_its_tensor(bad: float, tmp_path: Path) -> None:
    arrays = mixed()
    arrays["layers.7.down.weight"][3, 4] = bad
    path = save(tmp_path / "m.safetensors", arrays)
    with pytest.raises(FormatError, match=rf"'layers.7.down.weight'.*not {bad} at flat index {3 * 32 + 4}"):
        compress(path, tmp_path / "out.safetensors", bits=4, min_elements=0)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.promise("fault-D23")
def test_groups_lost_in_a_stack_are_noted_of_their_tensor(tmp_path: Path) -> None:
    arrays = mixed()
    arrays["layers.7.up.weight"][1] = 1e-12  # whose scale is no float16
    path = save(tmp_path / "m.safetensors", arrays)
    report = compress(path, tmp_path / "out.safetensors", bits=4, group_size=64, min_elements=0)
    noted = [note for note in report.notes if "became zeros" in note]
    assert len(noted) == 1 and "'layers.7.up.weight': 1 group of weights" in noted[0]


# Reading many at once


@pytest.mark.promise("fault-D23")
def test_tensors_are_read_one_after_the_other(tmp_path: Path) -> None:
    arrays = {name: weights(3, 5, seed=k) for k, name in enumerate("abcde")}
    path = save(tmp_path / "m.safetensors", arrays)
    with open_checkpoint(path) as checkpoint:
        for names in ("abcde", "abde", "edc", "bb", ""):
            buffer = bytearray(60 * len(names))
            checkpoint.read_many_into(list(names), buffer)
            assert bytes(buffer) == b"".join(arrays[name].tobytes() for name in names)
        overlay = Overlay(checkpoint, {"b": np.ones((1, 5), np.float32)})
        buffer = bytearray(60 + 20 + 60)
        overlay.read_many_into(["a", "b", "c"], buffer)
        assert bytes(buffer) == arrays["a"].tobytes() + np.ones(5, np.float32).tobytes() + arrays["c"].tobytes()
        assert overlay.tensors["b"].shape == (1, 5) and checkpoint["b"].shape == (3, 5)
        assert (overlay.path, overlay.elements, checkpoint.elements) == (checkpoint.path, 65, 75)
        with pytest.raises(TypeError, match="array must be F32, as tensor 'b' is, not float16"):
            Overlay(checkpoint, {"b": np.ones((1, 5), np.float16)})
        with pytest.raises(ValueError, match="buffer must have 120 bytes, those of all tensors, not 79"):
            checkpoint.read_many_into(["a", "b"], bytearray(79))


@pytest.mark.promise("fault-D23")
def test_tensors_of_several_shards_are_read_together(tmp_path: Path) -> None:
    arrays = {name: weights(3, 5, seed=k) for k, name in enumerate("abcd")}
    with open_checkpoint(save_folder(tmp_path / "m", arrays, shards=2)) as checkpoint:
        buffer = bytearray(4 * 60)
        checkpoint.read_many_into(list("abcd"), buffer)
    assert bytes(buffer) == b"".join(a.tobytes() for a in arrays.values())


# Configs that list modules one by one


@pytest.mark.promise("fault-D23")
def test_modules_that_a_config_lists_are_looked_up(tmp_path: Path) -> None:
    """Of narrow matrices the config says the bits; in names without a pattern each was compared with each."""
    counts = []
    for count in (50, 100):
        path = save(tmp_path / f"{count}.safetensors", layers(count, 4, 16))
        small = tmp_path / f"small-{count}.safetensors"
        rules = [{"match": "*[13579].up.weight", "bits": 8}]
        compress(path, small, recipe={"bits": 4, "min_elements": 0, "rule": rules})
        counts.append(calls_of(lambda small=small: inspect(small, stats=False)))  # type: ignore[misc]
        found = {t.name: t.label for t in inspect(small, stats=False).tensors}
        assert [found[f"layers.{k}.up.weight"][:4] for k in range(4)] == ["int4", "int8", "int4", "int8"]
    assert (counts[1] - counts[0]) / 50 < 150


@pytest.mark.promise("fault-D23")
@pytest.mark.parametrize(
    ("target", "named", "others"),
    [
        ("a.b", ["a.b"], ["x.a.b", "a.b.c"]),
        (r"re:(.*\.)?a\.b$", ["a.b", "x.a.b", "x.y.a.b"], ["xa.b", "a.b.c", "axb"]),
        (r"re:a\.b\-c$", ["a.b-c"], ["x.a.b-c", "a.b\\-c"]),
        (r"re:(.*\.)?h\.\d+\.up$", ["h.3.up", "x.h.17.up"], ["h.x.up", "h.up"]),
        (r"re:(.*\.)?\w\.up$", ["a.up"], ["ab.up"]),
        (r"re:(a+)+$", [], ["a", "aa"]),  # no pattern of ours
    ],
)
def test_bits_are_those_of_the_groups_that_name_a_module(target: str, named: list[str], others: list[str]) -> None:
    of = StatedBits(
        {
            "config_groups": {
                "group_0": {"targets": [target, 3], "weights": {"num_bits": 4}},
                "group_1": {"targets": ["other"], "weights": {"num_bits": 8}},
            }
        }
    ).of
    assert [of(module) for module in named] == [{4}] * len(named)
    assert [of(module) for module in others] == [{4, 8}] * len(others)
    assert of("other") == {8}
