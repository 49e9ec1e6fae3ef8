"""PyTorch state dicts: what torch wrote is read to the byte, which dict it is, and what is said of it."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from files_helpers import array_of
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from torch_files import (
    FILES,
    GOLDEN,
    ONE,
    STORAGE,
    assert_same,
    dictionary,
    floats,
    legacy_file,
    number,
    read_all,
    refused,
    storage,
    tensor,
    text,
    zip_file,
)

from quantrim.files import FormatError
from quantrim.files.disk import strided
from quantrim.files.torch import TorchReader, values

# What torch wrote


@pytest.mark.parametrize("file", FILES)
def test_files_of_torch_are_read_to_the_byte(file: str) -> None:
    assert_same(read_all(GOLDEN / file), torch_files.expected(legacy=file == "legacy.pt"))


@pytest.mark.parametrize("file", FILES)
def test_any_bytes_of_a_tensor_can_be_read(file: str) -> None:
    model = TorchReader(GOLDEN / file)
    for name, info in model.tensors.items():
        whole = array_of(model, name).tobytes()
        for start in range(info.nbytes):
            for end in range(start, info.nbytes + 1):
                data = bytearray(end - start)
                model.read_into(info, memoryview(data), start)
                assert data == whole[start:end]
    model.close()


@pytest.mark.parametrize("file", FILES)
def test_notes_say_what_shares_bytes_and_what_is_gathered(file: str) -> None:
    model = TorchReader(GOLDEN / file)
    assert model.notes == (
        "tensors that share their bytes: 'head.weight' is 'embed.weight'",
        "strided views, gathered as they are read: 'transposed', 'sliced', 'expanded'",
    )
    assert model.storage_of("brain") == ("BF16", 8)
    assert model.storage_of("transposed") == ("F32, strides [1, 4]", 48)
    assert model.metadata == {"format": "pt"}
    data = (GOLDEN / file).read_bytes()
    info = model.tensors["row"]
    assert data[info.offset : info.offset + info.nbytes] == torch_files.expected()["row"].tobytes()
    model.close()


def test_a_training_checkpoint_gives_its_state_dict() -> None:
    path = GOLDEN / "training.ckpt"
    found = read_all(path)
    assert list(found)[:3] == ["0.weight", "0.bias", "1.weight"]
    np.testing.assert_array_equal(found["0.weight"], np.arange(6, dtype=np.float32).reshape(3, 2))
    assert found["1.num_batches_tracked"].shape == ()
    model = TorchReader(path)
    assert model.notes == (
        "the state dict is that under 'model_state_dict'",
        "left out what is no tensor of the state dict: "
        "'epoch', 'optimizer_state_dict' (12 tensors), 'loss' (1 tensor), 'args'",
    )
    model.close()


@pytest.mark.interop
@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_files_that_torch_writes_now(tmp_path: Path, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    legacy = "_use_new_zipfile_serialization" in options
    torch.save(torch_files.tensors(torch, legacy), tmp_path / "a.pt", **options)
    assert_same(read_all(tmp_path / "a.pt"), torch_files.expected(legacy))
    torch.save(torch_files.training(torch), tmp_path / "b.ckpt", **options)
    assert_same(read_all(tmp_path / "b.ckpt"), read_all(GOLDEN / "training.ckpt"))


@pytest.mark.interop
def test_all_dtypes_of_torch_that_have_a_name_here(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    bits = torch.arange(48, dtype=torch.uint8)
    words = [word for word, (name, _) in values.TORCH_DTYPES.items() if name not in (None, "BOOL")]
    torch.save({word: bits.view(getattr(torch, word)).clone() for word in words}, tmp_path / "a.pt")
    found = read_all(tmp_path / "a.pt")
    assert list(found) == words
    for array in found.values():
        assert array.tobytes() == bytes(range(48))


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_modules_and_quantized_tensors_of_torch_are_refused_by_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 3), tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "the global 'torch.nn.modules.linear.Linear' is refused", "save the state dict")
    torch.save({"a": torch.ones(2).to_sparse()}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "the global 'torch._utils._rebuild_sparse_tensor' is refused")
    torch.jit.script(torch.nn.Linear(2, 3)).save(tmp_path / "c.pt")
    refused(tmp_path / "c.pt", "a TorchScript archive, which holds a program", "torch.jit.load(path).state_dict()")
    torch.save({"a": torch.ones(2, dtype=torch.complex128)}, tmp_path / "d.pt")
    refused(tmp_path / "d.pt", "tensor 'a'", "unknown dtype (found 'complex128'; allowed BOOL")


# Which value is the state dict


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (dictionary(ONE), ""),
        (dictionary({"state_dict": dictionary(ONE), "epoch": number(3)}), "under 'state_dict'"),
        (dictionary({"model": dictionary({"module": dictionary(ONE)})}), "under 'model' / 'module'"),
        (dictionary({"x": dictionary(ONE), "optimizer": dictionary({"state": dictionary(ONE)})}), "under 'x'"),
        (dictionary({"model": dictionary(ONE), "state_dict": dictionary(ONE)}), "under 'state_dict'"),
        (dictionary({"loss": floats(2), "model": dictionary(ONE)}), "under 'model'"),
        (dictionary({**ONE, "model": dictionary({"lr": number(1)})}), "is no tensor of the state dict: 'model'"),
    ],
)
def test_which_dict_is_the_state_dict(tmp_path: Path, value: bytes, note: str) -> None:
    path = zip_file(tmp_path / "a.pt", value, STORAGE)
    assert_same(read_all(path), {"w": np.array([1, 2], np.float32)})
    model = TorchReader(path)
    assert note in "; ".join(model.notes) and bool(note) == bool(model.notes)
    model.close()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (floats(2), "must hold a dict of tensors, not a view"),
        (b"](" + floats(2) + b"e", "must hold a dict of tensors, not a list"),
        (b"N", "must hold a dict of tensors, not a nonetype"),
        (dictionary({}), "has no dict of tensors at its top or under one of state_dict, model_state_dict, "),
        (
            dictionary({"g": dictionary(ONE), "d": dictionary(ONE)}),
            "net; there are 'g' (1 tensor), 'd' (1 tensor): save the dict of tensors alone",
        ),
        (b"}(" + number(5) + floats(2) + b"u", "the name of a tensor must be a string (found 5)"),
    ],
)
def test_values_without_a_state_dict(tmp_path: Path, value: bytes, said: str) -> None:
    refused(zip_file(tmp_path / "a.pt", value, STORAGE), said)


def test_values_that_hold_themselves(tmp_path: Path) -> None:
    """A dict and a list inside themselves."""
    value = b"}q\x00(" + text("w") + floats(2) + text("self") + b"h\x00" + text("l") + b"]q\x01(h\x01eu"
    model = TorchReader(zip_file(tmp_path / "a.pt", value, STORAGE))
    assert list(model.tensors) == ["w"] and model.notes[-1].endswith("'self' (1 tensor), 'l'")
    model.close()


# Bytes


def test_entries_of_zip64(tmp_path: Path) -> None:
    """Sizes and offsets as a file of more than 4 GB has them."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("a/data.pkl", b"\x80\x02" + dictionary(ONE) + b"."), ("a/data/0", STORAGE["0"])):
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
    assert_same(read_all(path), {"w": np.array([1, 2], np.float32)})


@pytest.mark.parametrize(("order", "dtype"), [(b"little", "<f4"), (b"big", ">f4")])
def test_byte_order(tmp_path: Path, order: bytes, dtype: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = dictionary({"w": floats(2, 3), "t": tensor(storage("0", 6), (3, 2), (1, 3))})
    path = zip_file(tmp_path / "a.pt", value, {"0": array.astype(dtype).tobytes()}, more={"archive/byteorder": order})
    assert_same(read_all(path), {"w": array, "t": array.T})
    model = TorchReader(path)
    data = bytearray(9)
    model.read_into(model.tensors["t"], memoryview(data), 5)
    assert data == array.T.tobytes()[5:14]
    model.close()


def test_big_complex_numbers_are_swapped_half_by_half(tmp_path: Path) -> None:
    value = dictionary({"w": tensor(storage("0", 1, "torch.ComplexFloatStorage"), (1,))})
    more = {"archive/byteorder": b"big"}
    path = zip_file(tmp_path / "a.pt", value, {"0": np.array([1 + 2j], ">c8").tobytes()}, more=more)
    assert_same(read_all(path), {"w": np.array([1 + 2j], np.complex64)})


@given(st.data())
def test_gathered_elements_are_those_of_numpy(data: st.DataObject) -> None:
    """Any shape, strides and bytes, whatever is read at once."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=4)))
    strides = tuple(data.draw(st.lists(st.integers(0, 40), min_size=len(shape), max_size=len(shape))))
    itemsize = data.draw(st.sampled_from([1, 2, 4, 8]))
    elements = strided.Strided(3, itemsize, shape, tuple(stride * itemsize for stride in strides))
    content = np.random.default_rng(0).integers(0, 256, 3 + elements.span, np.uint8)
    typed = np.ascontiguousarray(content[3:]).view(f"V{itemsize}")
    whole = as_strided(typed, shape, elements.strides).tobytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    out = bytearray(data.draw(st.integers(1, len(whole) - start)))
    largest = 0

    def read(view: memoryview, offset: int) -> None:
        nonlocal largest
        largest = max(largest, len(view))
        assert offset + len(view) <= content.size
        view[:] = content[offset : offset + len(view)].data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strided, "READ_BYTES", data.draw(st.sampled_from([8, 64, 4096])))
        patch.setattr(strided, "GAP_BYTES", data.draw(st.sampled_from([0, 16, 4096])))
        elements.gather(read, memoryview(out), start)
        assert largest <= strided.READ_BYTES
    assert bytes(out) == whole[start : start + len(out)]


def test_threads_read_at_once(tmp_path: Path) -> None:
    array = np.arange(300_000, dtype=np.float32).reshape(600, 500)
    value = dictionary({"w": floats(600, 500), "t": tensor(storage("0", 300_000), (500, 600), (1, 500))})
    model = TorchReader(zip_file(tmp_path / "a.pt", value, {"0": array.tobytes()}))
    found = {name: np.empty(array.nbytes, np.uint8) for name in "wt"}
    step = array.nbytes // 8

    def read(name: str, start: int) -> None:
        model.read_into(model.tensors[name], found[name][start : start + step].data, start)

    threads = [threading.Thread(target=read, args=(n, k * step)) for n in "wt" for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["w"].tobytes() == array.tobytes() and found["t"].tobytes() == array.T.tobytes()
    model.close()


def test_closed_and_changed_files(tmp_path: Path) -> None:
    path = legacy_file(tmp_path / "a.pt")
    model = TorchReader(path)
    model.check_unchanged()
    info = model.tensors["w"]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FormatError, match="changed while it was being read: size in bytes"):
        model.check_unchanged()
    with pytest.raises(FormatError, match=r"tensor 'w', byte \d+: file ends at byte"):
        model.read_into(info, memoryview(bytearray(8)), 0)
    path.unlink()
    with pytest.raises(FormatError, match="file was removed"):
        model.check_unchanged()
    model.close()
    with pytest.raises(FileNotFoundError):  # once more opened to be read
        model.read_into(info, memoryview(bytearray(8)), 0)
