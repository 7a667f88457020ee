"""Operators of onnxruntime's own domain in float16, where its kernels have it: the derivative against float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxgrad
from tests.expressions import without_outputs
from tests.harness import Case, Runner, close, make_model
from tests.rules import test_microsoft as general
from tests.rules import test_microsoft_attention as attention
from tests.rules import test_microsoft_layers as layers
from tests.rules import test_microsoft_quantized as quantized

WITH_KERNELS = """
    SkipLayerNormalization SkipSimplifiedLayerNormalization RotaryEmbedding MRotaryEmbedding GroupQueryAttention
    MatMulNBits GatherBlockQuantized BranchwiseRMSNorm GatedRMSNorm EngramGate HyperConnectionPreMix
    HyperConnectionPostMix GatedAdd ScaledSiLU LinearAttentionGate MoEGroupRouter GatedDeltaNet
    VarlenCausalConvWithState
""".split()
#: Inputs that are float32 whatever the others are.
FLOAT = {"LinearAttentionGate": (1, 2), "GatedDeltaNet": (6, 7, 8), "MoEGroupRouter": (1,)}
TABLES = [
    *(general.SIMPLE, attention.ROTATIONS, attention.GROUPED, layers.NORMS, layers.EXPERTS, layers.RAGGED),
    *(layers.NETS, quantized.PRODUCTS, quantized.TABLES),
]


def model_in(case: Case, dtype: type) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model, with what is fed to it."""
    model, exceptions = make_model(case, dtype), [f"x{i}" for i in FLOAT.get(case.op, ())]
    for value in model.graph.input:
        if value.name in exceptions:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    for tensor in model.graph.initializer:
        if tensor.name in exceptions:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    absent = general.ABSENT.get(case.op, (0,) if case.op == "MoEGroupRouter" and case.outputs == 3 else ())
    feeds: dict[str, Any] = {}
    for value in model.graph.input:
        array = case.inputs[int(value.name[1:])]
        assert array is not None
        feeds[value.name] = array.astype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    return without_outputs(model, absent), feeds


@pytest.mark.parametrize(
    "case", [c for table in TABLES for c in table if c.op in WITH_KERNELS], ids=lambda case: case.name
)
def test_float16(case: Case) -> None:
    results = []
    for dtype in (np.float32, np.float16):
        model, feeds = model_in(case, dtype)
        primal = Runner(model, only_runtime=True)(feeds)
        of = [y for y, value in primal.items() if value.dtype.kind == "f"]
        wrt = [x for x, value in feeds.items() if value.dtype.kind == "f"]
        cts = {f"adj_{y}": np.cos(np.arange(primal[y].size)).reshape(primal[y].shape) for y in of}
        seeds = {name: ct.astype(primal[name[4:]].dtype) for name, ct in cts.items()}
        found = Runner(onnxgrad.vjp(model, of, wrt), only_runtime=True)({**feeds, **seeds})
        results.append({x: found[f"adj_{x}"] for x in wrt})
        assert all(results[-1][x].dtype == feeds[x].dtype for x in wrt)
    for x, expected in results[0].items():  # inputs and each step are off by 5e-4 of their size
        close(results[1][x].astype(np.float32), expected, 3e-3, f"adj_{x}")
