"""The operator Erfc, which TensorFlow has in the exact GELU, for tf2onnx, which does not know it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tf2onnx.handler import tf_op
from tf2onnx.utils import make_name


@tf_op("Erfc")
class Erfc:
    """``erfc(x) = 1 - erf(x)``."""

    @classmethod
    def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
        dtype, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
        ctx.remove_node(node.name)
        one = ctx.make_const(make_name("one"), np.array(1, onnx.helper.tensor_dtype_to_np_dtype(dtype)))
        erf = ctx.make_node("Erf", node.input, dtypes=[dtype], shapes=[shape])
        ctx.make_node("Sub", [one.output[0], erf.output[0]], outputs=node.output, dtypes=[dtype], shapes=[shape])
