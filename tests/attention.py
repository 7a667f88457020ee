"""Attention and its kin for ONNX's reference.

It computes `LinearAttention` and the activation of `CausalConvWithState` in float32 whatever the input, and gives the
capped scores of `Attention` where the raw ones are asked for (``qk_matmul_output_mode=0``); its body in ONNX, and
onnxruntime, give the raw ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_attention import _compute_attention

Array = np.ndarray[Any, Any]


class Attention(OpRun):
    """ONNX's own, but for the raw scores."""

    op_domain = ""

    def _run(self, q: Array, k: Array, v: Array, *others: Array | None, **attributes: Any) -> tuple[Array, ...]:
        outputs = list(_compute_attention(q, k, v, *others, **attributes))  # type: ignore[no-untyped-call]
        if not attributes.get("qk_matmul_output_mode") and attributes.get("softcap"):
            raw = _compute_attention(q, k, v, *others, **{**attributes, "softcap": None})  # type: ignore[no-untyped-call]
            outputs[3] = raw[3]
        return tuple(outputs)


class LinearAttention(OpRun):
    """Token by token, in the type of the input."""

    op_domain = ""

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        past: Array | None = None,
        decay: Array | None = None,
        beta: Array | None = None,
        chunk_size: int = 64,
        kv_num_heads: int = 1,
        q_num_heads: int = 1,
        scale: float = 0.0,
        update_rule: str = "gated_delta",
    ) -> tuple[Array, Array]:
        batch, length, _ = query.shape
        size, group = query.shape[2] // q_num_heads, q_num_heads // kv_num_heads
        q = query.reshape(batch, length, q_num_heads, size)
        k, v = (x.reshape(batch, length, kv_num_heads, x.shape[2] // kv_num_heads) for x in (key, value))
        state = np.zeros((batch, kv_num_heads, size, v.shape[3]), query.dtype) if past is None else past.copy()
        output = np.zeros((batch, length, q_num_heads, v.shape[3]), query.dtype)
        for b, t, h in np.ndindex(batch, length, kv_num_heads):
            s = state[b, h]
            if decay is not None:
                s *= np.exp(decay.reshape(batch, length, kv_num_heads, -1)[b, t, h])[:, None]
            w = v[b, t, h]
            if beta is not None:
                w = beta[b, t, h % beta.shape[2]] * (w - k[b, t, h] @ s)
            s += np.outer(k[b, t, h], w)
            for g in range(h * group, (h + 1) * group):
                output[b, t, g] = (scale or size**-0.5) * q[b, t, g] @ s
        return output.reshape(batch, length, q_num_heads * v.shape[3]), state


class CausalConvWithState(OpRun):
    """Tap by tap, in the type of the input."""

    op_domain = ""

    def _run(
        self, x: Array, weight: Array, bias: Array | None = None, past: Array | None = None, activation: str = "none"
    ) -> tuple[Array, Array]:
        length, taps = x.shape[2], weight.shape[2]
        past = np.zeros((*x.shape[:2], taps - 1), x.dtype) if past is None else past
        whole = np.concatenate([past, x], axis=2)
        y = sum(whole[:, :, j : j + length] * weight[:, :, j].T[..., None] for j in range(taps))
        y = y if bias is None else y + bias[:, None]
        if activation != "none":
            y = y / (1 + np.exp(-y))
        return np.asarray(y), whole[:, :, length:]


OPERATORS = [Attention, LinearAttention, CausalConvWithState]
