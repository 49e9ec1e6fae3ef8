"""An open checkpoint as a mapping of arrays: what is read is what a reader computes, and no more than was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_helpers import Arrays, save, small_model, weights

from quantrim.files import Checkpoint
from quantrim.model import compress, open_checkpoint

SHAPES = [(8, 64), (3, 8, 64), (4, 3, 5, 5), (16, 8, 3), (64,), (), (0, 4), (2, 0)]
INDICES: list[Any] = [
    slice(None), slice(1, 3), slice(-2, None), slice(None, None, -1), slice(3, 0, -2), slice(5, 2), 0, -1, np.int64(1),
    (slice(0, 2), 1), (0, slice(None)), ..., (..., 0), [0, 1],
]  # fmt: skip


@pytest.fixture
def arrays() -> Arrays:
    return {f"t{k}.weight": weights(*shape) if shape else np.float32(3) * np.ones(()) for k, shape in enumerate(SHAPES)}


def indexed(x: Any, index: Any) -> Any:
    """What indexing gives: values, or the kind of error."""
    try:
        found = np.asarray(x[index])
    except IndexError:
        return IndexError
    return found.shape, found.dtype, found.tobytes()


def test_indexing_is_numpys(tmp_path: Path, arrays: Arrays) -> None:
    with open_checkpoint(save(tmp_path / "m.safetensors", arrays)) as model:
        for name, a in arrays.items():
            assert (model[name].shape, model[name].dtype, model[name].ndim, model[name].size) == (
                a.shape, a.dtype, a.ndim, a.size,
            )  # fmt: skip
            assert model[name].numpy().tobytes() == np.asarray(model[name]).tobytes() == a.tobytes()
            for index in INDICES:
                assert indexed(model[name], index) == indexed(a, index), (name, index)


@pytest.mark.parametrize("options", [{"bits": 4}, {"codebook": "nf4"}, {"bits": 3, "storage": "sparse"}], ids=str)
def test_compressed_weights_are_indexed_decoded(tmp_path: Path, arrays: Arrays, options: dict[str, Any]) -> None:
    compress(save(tmp_path / "m.safetensors", arrays), tmp_path / "t.safetensors", min_elements=0, **options)
    with open_checkpoint(tmp_path / "t.safetensors") as model:
        assert set(model) == set(arrays) and model["t0.weight"].compressed
        for name, a in arrays.items():
            whole = model[name].numpy()
            assert whole.shape == a.shape
            for index in INDICES:
                assert indexed(model[name], index) == indexed(whole, index), (name, index)


def test_a_slice_reads_its_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "m.safetensors", {"a.weight": weights(1000, 64)})
    read, real = [], Checkpoint.rows
    monkeypatch.setattr(Checkpoint, "rows", lambda self, *a: read.append(a) or real(self, *a))  # type: ignore[func-returns-value]
    with open_checkpoint(source) as model:
        assert model["a.weight"][10:20].shape == (10, 64)
    assert read == [("a.weight", 10, 10)]


def test_as_a_mapping(tmp_path: Path) -> None:
    source = save(tmp_path / "m.safetensors", small_model())
    with open_checkpoint(source) as model:
        assert list(model.keys()) == [name for name, _ in model.items()] and len(model) == len(small_model())
        with pytest.raises(KeyError, match="no tensor 'missing' in"):
            model["missing"]
        assert "missing" not in model and model.get("missing") is None
        assert repr(model).startswith("Model('") and "0 compressed" in repr(model) and "\n" not in repr(model)
        name = next(iter(model))
        assert name in repr(model[name])
        with pytest.raises(ValueError, match="copy=False"):
            np.asarray(model[name], copy=False) if np.__version__ >= "2" else model[name].__array__(copy=False)
    with pytest.raises(ValueError, match="must be open, not closed"):
        model[name].numpy()
