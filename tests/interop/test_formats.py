"""Files of torch and Keras compressed, and what comes of them in the hands of torch, Keras, transformers and numpy."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cli_helpers import refused, run
from model_helpers import stored_tensors
from numpy.typing import NDArray

from quantrim.files import FormatError
from quantrim.model import compress, decompress
from quantrim.model.report.compare import compare

pytestmark = pytest.mark.interop
torch: Any = pytest.importorskip("torch", reason="needs torch: pip install quantrim[interop]")
SMALL: dict[str, Any] = {"min_elements": 0}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, about themselves
        yield


def floats(tensor: Any) -> NDArray[Any]:
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(tensor.numpy())


# PyTorch


class Net(torch.nn.Module):  # type: ignore[misc]
    """An embedding whose matrix is that of the head, a convolution, and layers between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = torch.nn.Embedding(40, 32)
        self.conv = torch.nn.Conv1d(32, 24, 3)
        self.norm = torch.nn.BatchNorm1d(24)
        self.up = torch.nn.Linear(24, 32)
        self.head = torch.nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Any) -> Any:
        x = self.norm(self.conv(self.embed(x).transpose(1, 2)).relu())
        return self.head(self.up(x.transpose(1, 2)))


WORDS = torch.arange(30).reshape(3, 10)
SAVED = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "protocol 5": {"pickle_protocol": 5},
}


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_state_dict_comes_back_rounded(tmp_path: Path, options: dict[str, Any], dtype: str, suffix: str) -> None:
    """Simulated, and compressed and decompressed, it is the same model, and torch computes what its weights say."""
    net = Net().eval().to(getattr(torch, dtype))
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, tmp_path / "net.pt", **options)
    for name, more in (("simulated", {"simulate": True}), ("small", {})):
        report = compress(tmp_path / "net.pt", tmp_path / f"{name}{suffix}", bits=4, **more, **SMALL)
        assert any(note.startswith("tensors that share their bytes: 'head.weight' is") for note in report.notes)
        assert any("left out what is no tensor of the state dict: 'epoch'" in note for note in report.notes)
    decompress(
        tmp_path / f"small{suffix}", tmp_path / f"floats{suffix}", dtype="float32" if dtype == "float64" else dtype
    )
    results = []
    for name in ("simulated", "floats"):
        rounded = Net().eval().to(getattr(torch, dtype))
        found = stored_tensors(tmp_path / f"{name}{suffix}")
        assert set(found) == set(net.state_dict())
        assert found["embed.weight"].tobytes() == found["head.weight"].tobytes()
        assert len(np.unique(found["up.weight"][0].astype(np.float32))) <= 16 < 24
        rounded.load_state_dict({key: as_torch(array) for key, array in found.items()})
        with torch.no_grad():
            results.append(rounded(WORDS).float())
    with torch.no_grad():
        expected = net(WORDS).float()
    assert torch.equal(*results)
    error = float((results[0] - expected).norm() / expected.norm())
    assert 0.005 < error < 0.2


def as_torch(array: NDArray[Any]) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def test_numpy_computes_with_what_numpy_loads(tmp_path: Path) -> None:
    net = Net().eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    compress(tmp_path / "net.pth", tmp_path / "rounded.npz", bits=8, simulate=True, **SMALL)
    with np.load(tmp_path / "rounded.npz") as loaded:
        x = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
        found = x @ loaded["up.weight"].T + loaded["up.bias"]
    np.testing.assert_allclose(found, net.up(torch.from_numpy(x)).detach().numpy(), atol=0.02)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("options", SAVED.values(), ids=SAVED)
def test_a_pickle_that_runs_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(64, 64), "more": Evil()}, "net.pt", **options)
    with pytest.raises(FormatError, match=r"the global '(posix|nt)\.system' is refused, and nothing was run"):
        compress("net.pt", "small.safetensors")
    for words in (("compress", "net.pt", "a.npz"), ("inspect", "net.pt"), ("merge", "net.pt", "a.safetensors")):
        assert "nothing was run" in refused(run(*words))
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
    torch.load("net.pt", weights_only=False)  # the control
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("shards", [1, 3])
def test_transformers_opens_a_folder_of_pytorch_model_bin(tmp_path: Path, shards: int) -> None:
    """Written as transformers wrote it; tied embeddings are in it twice."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    source = tmp_path / "source"
    config.save_pretrained(source)
    (source / "config.json").write_text(json.dumps(config.to_dict() | {"architectures": ["LlamaForCausalLM"]}))
    state = model.state_dict()
    names = [f"pytorch_model-{k + 1:05}-of-{shards:05}.bin" for k in range(shards)]
    names = names if shards > 1 else ["pytorch_model.bin"]
    place = {key: names[k % shards] for k, key in enumerate(sorted(state))}
    for name in names:
        torch.save({key: state[key] for key in state if place[key] == name}, source / name)
    if shards > 1:
        index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": place}
        (source / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    words = torch.arange(12)[None]
    for name, options in (("small", {"bits": 8}), ("simulated", {"bits": 8, "simulate": True})):
        compress(source, tmp_path / name, **options, **SMALL)
    decompress(tmp_path / "small", tmp_path / "floats")
    assert compare(source, tmp_path / "floats").matching
    results = []
    for name in ("small", "floats", "simulated"):
        opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            results.append(opened(words).logits)
    with torch.no_grad():
        expected = model(words).logits
    assert torch.equal(results[1], results[0]) or torch.allclose(results[1], results[0], atol=1e-5)
    for found in results:
        assert 0 < float((found - expected).abs().max()) < 0.05


# Keras


@pytest.fixture
def keras(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="needs keras: pip install quantrim[interop]")


def keras_model(keras: Any) -> Any:
    """Embedding, Conv2D, Dense."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    words = keras.Input((6,))
    x = layers.Embedding(30, 8)(words)
    x = layers.Reshape((6, 8, 1))(x)
    x = layers.Conv2D(12, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(40, activation="relu")(x)
    return keras.Model(words, layers.Dense(5)(x))


KERAS_FILES = ("net.keras", "net.weights.h5", "net.h5")
IN = np.arange(24).reshape(4, 6)


def save(model: Any, path: Path) -> Path:
    model.save_weights(path) if "weights" in path.name else model.save(path)
    return path


def load(keras: Any, path: Path) -> Any:
    if "weights" not in path.name:
        return keras.models.load_model(path)
    model = keras_model(keras)
    model.load_weights(path)
    return model


@pytest.mark.parametrize("name", KERAS_FILES)
@pytest.mark.parametrize(
    "options",
    [{"bits": 4, "simulate": True}, {"bits": None, "prune": 0.6}, {"bits": 4, "prune": 0.5, "simulate": True}],
    ids=str,
)
def test_keras_predicts_as_the_rounded_weights_say(
    tmp_path: Path, keras: Any, name: str, options: dict[str, Any]
) -> None:
    made = keras_model(keras)
    source, target = save(made, tmp_path / name), tmp_path / f"new-{name}"
    compress(source, target, **options, **SMALL)
    loaded = load(keras, target)
    original = made.predict(IN, verbose=0)
    # the same weights by way of a safetensors file, turned back by hand
    compress(source, tmp_path / "same.safetensors", **options, **SMALL)
    rounded = stored_tensors(tmp_path / "same.safetensors")
    back = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    names = {weight.path: weight for weight in made.weights}
    assert set(names) == set(rounded)
    for path, weight in names.items():
        array = rounded[path]
        axes = back[array.ndim] if path.endswith("kernel") else tuple(range(array.ndim))
        weight.assign(array.transpose(axes))
    found = loaded.predict(IN, verbose=0)
    np.testing.assert_array_equal(found, made.predict(IN, verbose=0))
    assert 1e-4 < np.abs(found - original).max() < 1


@pytest.mark.parametrize("name", KERAS_FILES)
def test_codes_of_a_keras_model_decode_to_what_was_simulated(tmp_path: Path, keras: Any, name: str) -> None:
    source = save(keras_model(keras), tmp_path / name)
    for suffix in (".npz", ".safetensors"):
        compress(source, tmp_path / f"small{suffix}", bits=4, **SMALL)
        decompress(tmp_path / f"small{suffix}", tmp_path / f"floats{suffix}", dtype="float32")
        compress(source, tmp_path / f"new-{name}", bits=4, simulate=True, overwrite=True, **SMALL)
        assert compare(tmp_path / f"floats{suffix}", tmp_path / f"new-{name}").equal
    assert (tmp_path / "small.safetensors").stat().st_size < source.stat().st_size / 3
