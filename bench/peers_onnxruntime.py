"""ONNX Runtime: models of the one or few operators of a task, with inputs and outputs bound once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from contestant import Contestant, in_rows, scaled, scaled_nibbles, whole
from onnx import TensorProto, helper
from onnxruntime.capi import _pybind_state as native
from tasks import GROUP, SCALE, THRESHOLD, Array, Data

OPSET = 21  # the first with int4 and blocks
TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


def versions() -> dict[str, str]:
    return {"onnxruntime": ort.__version__, "onnx": onnx.__version__}


def contestants(task: str, data: Data, threads: int) -> list[Contestant]:
    make = MAKERS.get(task)
    return make(data, threads) if make else []


def bound(
    nodes: Sequence[Any],
    inputs: dict[str, Array],
    outputs: dict[str, Array],
    threads: int,
    constants: Sequence[Any] = (),
    optimized: bool = True,
) -> Callable[[], object]:
    """Bind a session of these nodes that reads and writes these arrays at each call."""

    def infos(arrays: dict[str, Array]) -> list[Any]:
        return [helper.make_tensor_value_info(n, TYPES[a.dtype.name], a.shape) for n, a in arrays.items()]

    graph = helper.make_graph(list(nodes), "task", infos(inputs), infos(outputs), initializer=list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimized:  # so that constants are not computed with in advance
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, a in inputs.items():
        binding.bind_input(name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
    for name, a in outputs.items():
        binding.bind_output(name, "cpu", 0, a.dtype, a.shape, a.ctypes.data)

    def call() -> object:
        return session.run_with_iobinding(binding), inputs, outputs  # the binding itself keeps no array alive

    return call


def constant(name: str, value: Any, dtype: Any = np.float32) -> Any:
    return onnx.numpy_helper.from_array(np.asarray(value, dtype), name)


def _threshold(data: Data, threads: int) -> list[Contestant]:
    out = data.like()
    node = helper.make_node("Shrink", ["w"], ["y"], lambd=THRESHOLD, bias=0.0)
    return [Contestant("Shrink", bound([node], {"w": data.w}, {"y": out}, threads), in_rows(out))]


def _norm(operator: str, axes: Sequence[int]) -> Callable[[Data, int], list[Contestant]]:
    def make(data: Data, threads: int) -> list[Contestant]:
        out = data.like(shape=tuple(n for k, n in enumerate(data.w.shape) if k not in axes))
        node = helper.make_node(operator, ["w", "axes"], ["y"], keepdims=0)
        call = bound([node], {"w": data.w}, {"y": out}, threads, [constant("axes", axes, np.int64)])
        return [Contestant(operator, call, in_rows(out) if tuple(axes) == (1,) else whole(out))]

    return make


def _wanda_score(data: Data, threads: int) -> list[Contestant]:
    out = data.like()
    nodes = [helper.make_node("Abs", ["w"], ["a"]), helper.make_node("Mul", ["a", "n"], ["y"])]
    return [Contestant("Abs, Mul", bound(nodes, {"w": data.w, "n": data.norm}, {"y": out}, threads), in_rows(out))]


def _given(data: Data, threads: int) -> list[Contestant]:
    out = data.like(np.int8)
    node = helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["y"])
    constants = [constant("scale", SCALE), constant("zero", 0, np.int8)]
    return [Contestant("QuantizeLinear", bound([node], {"w": data.w}, {"y": out}, threads, constants), in_rows(out))]


def _int8_tensor(data: Data, threads: int) -> list[Contestant]:
    codes, scale, zero = data.like(np.uint8), np.zeros((), np.float32), np.zeros((), np.uint8)
    node = helper.make_node("DynamicQuantizeLinear", ["w"], ["y", "scale", "zero"])
    call = bound([node], {"w": data.w}, {"y": codes, "scale": scale, "zero": zero}, threads)

    def answer(rows: Array) -> Array:
        weights: Array = (codes[rows].astype(np.float32) - np.float32(zero)) * scale
        return weights

    return [Contestant("DynamicQuantizeLinear", call, answer)]


def _int8_channel(data: Data, threads: int) -> list[Contestant]:
    codes, scales = data.like(np.int8), data.like(shape=(data.rows,))
    nodes = [
        helper.make_node("Abs", ["w"], ["a"]),
        helper.make_node("ReduceMax", ["a", "axes"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "fraction"], ["scales"]),
        helper.make_node("QuantizeLinear", ["w", "scales"], ["y"], axis=0, output_dtype=TensorProto.INT8),
    ]
    constants = [constant("axes", [1], np.int64), constant("fraction", 1 / 127)]
    call = bound(nodes, {"w": data.w}, {"y": codes, "scales": scales}, threads, constants)
    return [Contestant("Abs, ReduceMax, QuantizeLinear", call, scaled(codes, scales[:, None]))]


def _int4(data: Data, threads: int) -> list[Contestant]:
    """Run the quantizer of MatMulNBits models; it takes the matrix transposed, and picks its own threads."""
    transposed = np.ascontiguousarray(data.w.T)
    packed = data.like(np.uint8, (data.rows, data.cols // GROUP, GROUP // 2))
    scales = data.like(shape=(data.rows * data.cols // GROUP,))
    zeros = data.like(np.uint8, (data.rows * (data.cols // GROUP + 1) // 2,))

    def call() -> None:
        native.quantize_matmul_4bits(packed, transposed, scales, zeros, GROUP, data.rows, data.cols, True)

    answer = scaled_nibbles(packed.reshape(data.rows, -1), scales.reshape(data.rows, -1))
    return [Contestant("quantize_matmul_4bits", call, answer)]


def _dequantize(data: Data, threads: int) -> list[Contestant]:
    packed, scales = data.grid()
    out = data.like()
    signed = (packed ^ np.uint8(0x88)).tobytes()  # codes 0..15 around 8 as two's complement
    codes = helper.make_tensor("codes", TensorProto.INT4, [data.rows, data.cols], signed, raw=True)
    node = helper.make_node("DequantizeLinear", ["codes", "scales"], ["y"], axis=1, block_size=GROUP)
    call = bound([node], {"scales": scales}, {"y": out}, threads, [codes], optimized=False)
    return [Contestant("DequantizeLinear", call, in_rows(out))]


MAKERS: dict[str, Callable[[Data, int], list[Contestant]]] = {
    "threshold": _threshold,
    "l1 total": _norm("ReduceL1", (0, 1)),
    "l1 per row": _norm("ReduceL1", (1,)),
    "l2 per row": _norm("ReduceL2", (1,)),
    "l2 per column": _norm("ReduceL2", (0,)),
    "wanda score": _wanda_score,
    "int8, scale given": _given,
    "int8 per tensor": _int8_tensor,
    "int8 per channel": _int8_channel,
    "int4 groups of 32, packed": _int4,
    "dequantize int4": _dequantize,
}
