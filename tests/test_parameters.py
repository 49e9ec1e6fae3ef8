"""Parameters out of range or of the wrong type: an error that names the parameter and its range."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from functions import Array, bits_of

import quantrim as qt

NUMPY_FOUR: Any = np.int16(4)


def weights(seed: int, rows: int = 7, cols: int = 96) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


@pytest.mark.promise("B40")
@pytest.mark.parametrize("bits", [True, 4.0, "4", None, np.float32(4), [4]], ids=repr)
def test_bits_of_wrong_type(bits: Any) -> None:
    for call in (lambda: qt.quantize(weights(0), bits), lambda: qt.round_to_int(weights(0), 1, bits=bits)):
        with pytest.raises(TypeError, match="bits must be an integer of"):
            call()


@pytest.mark.promise("B40")
def test_bits_out_of_range() -> None:
    for bits in (-1, 0, 1, 9, 2**70):
        with pytest.raises(ValueError, match=rf"bits must be an integer of 2\.\.8, not {bits}"):
            qt.quantize(weights(0), bits)
    for bits in (0, 9):
        with pytest.raises(ValueError, match=rf"bits must be an integer of 1\.\.8, not {bits}"):
            qt.round_to_int(weights(0), 1, bits=bits)
    assert bits_of(qt.quantize(weights(0), NUMPY_FOUR)) == bits_of(qt.quantize(weights(0), 4))


@pytest.mark.promise("B41")
@pytest.mark.parametrize("group_size", [0, -1, -32, 2**31, 2**63, "row", "", 2.0, True, None], ids=repr)
def test_group_size_out_of_range(group_size: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="group_size must be"):
        qt.quantize(weights(0), 4, group_size=group_size)


@pytest.mark.promise("B48")
@pytest.mark.parametrize(
    "options",
    [
        {"rounding": "nearest"}, {"rounding": None}, {"nonfinite": "ignore"}, {"scale_dtype": "float64"},
        {"scale_dtype": np.float16}, {"symmetric": 1}, {"symmetric": "yes"},
        {"seed": -1}, {"seed": 2**64}, {"seed": 1.5},
    ],
    ids=str,
)  # fmt: skip
def test_unknown_words_and_wrong_types(options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(options))} must be"):
        qt.quantize(weights(0), **options)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 10**400, "2", None, True, 1j], ids=repr)
def test_multiplier_out_of_range(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="multiplier must be a number of"):
        qt.round_to_int(weights(0), value)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("value", [65537, -65537, 0.5, True], ids=repr)
def test_offset_out_of_range(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="offset must be an integer of"):
        qt.round_to_int(weights(0), 1, offset=value)


@pytest.mark.promise("B42")
@pytest.mark.parametrize("sparsity", [math.nan, math.inf, -0.1, 1.0000001, -math.inf, 50], ids=repr)
def test_sparsity_out_of_range(sparsity: float) -> None:
    for prune in (qt.prune, qt.prune_mask):
        with pytest.raises(ValueError, match=r"sparsity must be a number of 0\.0\.\.1\.0, not"):
            prune(weights(0), sparsity)


@pytest.mark.promise("B42")
@pytest.mark.parametrize("sparsity", [True, "0.5", [0.1, 0.2], 1j], ids=repr)
def test_sparsity_of_wrong_type(sparsity: Any) -> None:
    for prune in (qt.prune, qt.prune_mask):
        with pytest.raises(TypeError, match="sparsity must be a number"):
            prune(weights(0), sparsity)


@pytest.mark.promise("B42")
@pytest.mark.parametrize(
    "pattern",
    [
        "0:4",
        "4:4",
        "5:4",
        "2:0",
        "0:0",
        "-1:4",
        "16:33",
        "2:4 ",
        "2/4",
        "2:4:8",
        "",
        "two:four",
        24,
        b"2:4",
    ],
    ids=repr,
)
def test_unknown_patterns(pattern: Any) -> None:
    for prune in (qt.prune, qt.prune_mask):
        with pytest.raises(ValueError, match=r'pattern must be .* or "n:m" with 1 <= n < m <= 32, not'):
            prune(weights(0), pattern=pattern)


@pytest.mark.promise("B42")
def test_pattern_must_divide_the_last_axis() -> None:
    with pytest.raises(ValueError, match="last axis must be a multiple of 7 for pattern '3:7', not 96"):
        qt.prune(weights(0), pattern="3:7")


@pytest.mark.promise("fault-D25")
def test_a_pattern_that_is_none_is_refused_as_such() -> None:
    for prune in (qt.prune, qt.prune_mask):
        for sparsity in (None, 0.5):
            with pytest.raises(ValueError, match=r"pattern must be .*, not 'rows'; did you mean 'row'"):
                prune(weights(0), sparsity, pattern="rows")


@pytest.mark.promise("B42")
def test_sparsity_or_pattern() -> None:
    for prune in (qt.prune, qt.prune_mask):
        with pytest.raises(ValueError, match="give either sparsity or pattern"):
            prune(weights(0))
        with pytest.raises(ValueError, match="give either sparsity or pattern"):
            prune(weights(0), 0.5, pattern="2:4")
        with pytest.raises(ValueError, match="axis must be None with a pattern"):
            prune(weights(0), pattern="2:4", axis=0)


@pytest.mark.promise("B44")
@pytest.mark.parametrize("t", [math.nan, math.inf, 1e39, -1.0, "1", None, True], ids=repr)
def test_threshold_out_of_range(t: Any) -> None:
    for mode in ("magnitude", "soft"):
        with pytest.raises((ValueError, TypeError), match="t must be a number of 0"):
            qt.threshold(weights(0), t, mode=mode)


@pytest.mark.promise("B48")
def test_threshold_mode() -> None:
    with pytest.raises(ValueError, match="mode must be one of 'magnitude', 'signed', 'soft', not 'hard'"):
        qt.threshold(weights(0), 1, mode="hard")


@pytest.mark.promise("B45")
@pytest.mark.parametrize("axis", [2, -3, 2**40, 1.0, "0", True], ids=repr)
def test_axis_out_of_range(axis: Any) -> None:
    calls = (
        lambda: qt.importance.l1(weights(0), axis),
        lambda: qt.importance.l2(weights(0), axis),
        lambda: qt.prune(weights(0), 0.5, axis=axis),
        lambda: qt.prune_mask(weights(0), 0.5, axis=axis),
    )
    for call in calls:
        with pytest.raises((ValueError, TypeError), match=r"axis must be an integer of -2\.\.1, not"):
            call()


@pytest.mark.promise("B45")
def test_negative_axes_count_from_the_end() -> None:
    w = weights(1)
    for axis in (0, 1):
        assert bits_of(qt.importance.l1(w, axis)) == bits_of(qt.importance.l1(w, axis - 2))
        assert bits_of(qt.prune(w, 0.5, axis=axis)) == bits_of(qt.prune(w, 0.5, axis=axis - 2))


@pytest.mark.promise("B46")
def test_importance_of_wrong_shape_or_content() -> None:
    w = weights(2)
    with pytest.raises(ValueError, match=r"grad must have shape \(7, 96\), not \(96, 7\)"):
        qt.importance.taylor(w, w.T)
    with pytest.raises(ValueError, match=r"scores must have shape \(7, 96\), not \(7, 95\)"):
        qt.prune(w, 0.5, scores=w[:, :95])
    with pytest.raises(ValueError, match=r"mask must have the shape of w, \(7, 96\), not \(96,\)"):
        qt.apply_mask(w, w[0] > 0)
    with pytest.raises(ValueError, match=r"input_norm must have shape \(96,\), not \(7,\)"):
        qt.importance.wanda(w, w[:, 0])
    for bad in (-1.0, math.nan, math.inf):
        norm = np.ones(96, np.float32)
        norm[40] = bad
        with pytest.raises(ValueError, match=r"input_norm must be finite and not negative, not .* at index 40"):
            qt.importance.wanda(w, norm)
    with pytest.raises(ValueError, match="input_norm must have a norm above 0, not zeros alone"):
        qt.importance.wanda(w, np.zeros(96, np.float32))


@pytest.mark.promise("B46")
def test_scores_all_zero_or_negative_are_scores() -> None:
    """The lower index goes first among equals; -1 is below 0."""
    w = np.ones(6, np.float32)
    assert qt.prune(w, 0.5, scores=np.zeros(6, np.float32)).tolist() == [0, 0, 0, 1, 1, 1]
    assert qt.prune(w, 0.5, scores=np.array([0, -1, 0, -2, 0, -3], np.float32)).tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.promise("A35")
@pytest.mark.parametrize(
    "shape", [-1, 2.0, "3", None, True, (2, -1), (2, 1.5), 2**63, (1,) * 65], ids=lambda s: repr(s)[:20]
)
def test_shape_of_random(shape: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        qt.importance.random(shape, 0)


@pytest.mark.promise("B48")
@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "1", None, True], ids=repr)
def test_seed_of_random(seed: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="seed must be an integer of"):
        qt.importance.random(3, seed)


@pytest.mark.promise("B40")
@pytest.mark.parametrize("bits", [0, 9, -1, True, 4.0, "4"], ids=repr)
def test_bits_of_packing(bits: Any) -> None:
    codes = np.zeros((2, 8), np.uint8)
    with pytest.raises((ValueError, TypeError), match=r"bits must be an integer of 1\.\.8, not"):
        qt.pack(codes, bits)
    with pytest.raises((ValueError, TypeError), match=r"bits must be an integer of 1\.\.8, not"):
        qt.unpack(codes, bits, 8)


@pytest.mark.promise("B40")
@pytest.mark.parametrize("count", [-1, 1.0, "8", True, 2**63], ids=repr)
def test_count_of_unpack(count: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="count must be an integer of 0"):
        qt.unpack(np.zeros((2, 8), np.uint8), 8, count)


@pytest.mark.promise("B42")
@pytest.mark.parametrize("pattern", [(0, 4), (4, -1), (2.0, 4), ("2", "4"), (4,), (2, 2, 2), (True, 2)], ids=repr)
def test_pattern_of_blocks(pattern: Any) -> None:
    for prune in (qt.prune, qt.prune_mask):
        with pytest.raises((ValueError, TypeError), match=r"pattern must be (an integer of 1|\(rows, cols\))"):
            prune(weights(0), 0.5, pattern=pattern)


@pytest.mark.promise("B42")
def test_patterns_of_blocks_need_a_sparsity_and_no_axis() -> None:
    for pattern in ("row", "column", (7, 2)):
        for prune in (qt.prune, qt.prune_mask):
            with pytest.raises(ValueError, match="sparsity must be given with pattern"):
                prune(weights(0), pattern=pattern)
            with pytest.raises(ValueError, match="axis must be None with a pattern, not 0"):
                prune(weights(0), 0.5, pattern=pattern, axis=0)
            for sparsity in (math.nan, -0.1, 1.1):
                with pytest.raises(ValueError, match=r"sparsity must be a number of 0\.0\.\.1\.0, not"):
                    prune(weights(0), sparsity, pattern=pattern)
    with pytest.raises(
        ValueError, match=r"w must have last two axes that are multiples of \(4, 4\), not shape \(7, 96\)"
    ):
        qt.prune(weights(0), 0.5, pattern=(4, 4))


@pytest.mark.promise("B44")
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 1e39, "1", None, True], ids=repr)
def test_penalties_out_of_range(value: Any) -> None:
    for penalty in ("l1", "l2"):
        with pytest.raises((ValueError, TypeError), match=rf"{penalty} must be a number of 0\.0\.\."):
            qt.pruning.shrink(weights(0), **{penalty: value})


@pytest.mark.promise("B45")
@pytest.mark.parametrize("axis", [2, -3, 1.0, "0", True], ids=repr)
def test_axis_of_shrink(axis: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"axis must be an integer of -2\.\.1, not"):
        qt.pruning.shrink(weights(0), l1=1, axis=axis)


@pytest.mark.promise("B42")
@pytest.mark.parametrize(
    "arguments,words",
    [
        ((-1, 0, 10, 0.5), "step must be an integer of 0"),
        ((1.5, 0, 10, 0.5), "step must be an integer of 0"),
        ((1, -1, 10, 0.5), "begin must be an integer of 0"),
        ((1, 10, 10, 0.5), "end must be an integer of 11"),
        ((1, 10, 5, 0.5), "end must be an integer of 11"),
        ((1, 0, 10, 1.5), "final must be a number of"),
        ((1, 0, 10, math.nan), "final must be a number of"),
        ((1, 0, 10, 0.5, -0.1), "initial must be a number of"),
        ((1, 0, 10, "0.5"), "final must be a number of"),
    ],
    ids=str,
)
def test_schedules_out_of_range(arguments: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        qt.pruning.cubic_sparsity(*arguments)
