"""RNN, GRU and LSTM for ONNX's reference, step by step in the type of the input, as ONNX defines them.

onnxruntime has them in float32 only, and ONNX's reference knows neither directions nor sequence lengths. Their
derivatives are loops, for which the package has its own stand-ins.
"""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxgrad.runtime.loops import Loop, Scan


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "LeakyRelu": lambda x, a, b: np.where(x < 0, a * x, x),
    "ThresholdedRelu": lambda x, a, b: np.where(x > a, x, 0),
    "Sigmoid": lambda x, a, b: _sigmoid(x),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.log1p(np.exp(x)),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "Elu": lambda x, a, b: np.where(x > 0, x, a * np.expm1(x)),
    "Affine": lambda x, a, b: a * x + b,
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
}

#: The first parameter of those functions that have one; nan where there is no default, or onnxruntime has another.
ALPHAS = {"LeakyRelu": 0.01, "HardSigmoid": 0.2, "Elu": 1.0, "ThresholdedRelu": nan, "Affine": nan, "ScaledTanh": nan}


class _Recurrent(OpRun):
    op_domain = ""
    defaults: tuple[str, ...] = ()
    states = 1

    def _run(self, x, w, r, bias=None, lengths=None, h0=None, c0=None, p=None, **attrs):  # type: ignore[no-untyped-def]
        """``attrs`` come with ONNX's defaults filled in by the reference, None where there is none."""
        self.attrs = attrs
        if attrs.get("layout"):
            x = x.swapaxes(0, 1)
            h0, c0 = (None if s is None else s.swapaxes(0, 1) for s in (h0, c0))
        directions, hidden = r.shape[0], r.shape[-1]
        ys, last = [], []
        for d in range(directions):
            self.f = self._functions(d, directions)
            peepholes = np.zeros(3 * hidden) if p is None else p[d]
            biases = np.zeros((2, w.shape[1])) if bias is None else bias[d].reshape(2, -1)
            starts = [np.zeros((x.shape[1], hidden)) if s is None else s[d] for s in (h0, c0)][: self.states]
            y = np.zeros((len(x), x.shape[1], hidden))
            finals = [np.zeros((x.shape[1], hidden)) for _ in starts]
            for b in range(x.shape[1]):  # one sample after the other: nothing can mix
                n = len(x) if lengths is None else lengths[b]
                order = range(n) if not (d == 1 or self._text("direction") == "reverse") else range(n - 1, -1, -1)
                states = [s[b] for s in starts]
                for t in order:
                    states = self.step(x[t, b], states, w[d], r[d], biases, peepholes, hidden)
                    y[t, b] = states[0]
                for final, state in zip(finals, states, strict=True):
                    final[b] = state if n else 0  # as onnxruntime has it; ONNX does not say
            ys.append(y)
            last.append(finals)
        out = [np.stack(ys, axis=1), *(np.stack([s[k] for s in last]) for k in range(self.states))]
        if attrs.get("layout"):
            out = [out[0].transpose(2, 0, 1, 3), *(s.swapaxes(0, 1) for s in out[1:])]
        return tuple(o.astype(x.dtype) for o in out[: len(self.onnx_node.output)])

    def _text(self, name: str) -> str:
        value = self.attrs.get(name) or ""
        return value.decode() if isinstance(value, bytes) else value

    def _functions(self, d: int, directions: int) -> list[Any]:
        names = self.attrs.get("activations") or list(self.defaults) * directions
        alphas = iter(self.attrs.get("activation_alpha") or ())
        betas = iter(self.attrs.get("activation_beta") or ())
        found = []
        for name in names:
            a = next(alphas, ALPHAS[name]) if name in ALPHAS else 0.0
            b = next(betas, 0.5) if name in ("HardSigmoid", "Affine", "ScaledTanh") else 0.0
            found.append(lambda x, f=FUNCTIONS[name], a=a, b=b: f(x, a, b))
        n = len(self.defaults)
        return found[d * n : (d + 1) * n]

    def _clipped(self, x: np.ndarray) -> np.ndarray:
        bound = self.attrs.get("clip")
        return np.clip(x, -bound, bound) if bound else x


class RNN(_Recurrent):
    defaults = ("Tanh",)

    def step(self, x, states, w, r, b, p, n):  # type: ignore[no-untyped-def]
        return [self.f[0](self._clipped(w @ x + r @ states[0] + b[0] + b[1]))]


class GRU(_Recurrent):
    defaults = ("Sigmoid", "Tanh")

    def step(self, x, states, w, r, b, p, n):  # type: ignore[no-untyped-def]
        (h,) = states
        f, g = self.f
        z = f(self._clipped(w[:n] @ x + r[:n] @ h + b[0, :n] + b[1, :n]))
        reset = f(self._clipped(w[n : 2 * n] @ x + r[n : 2 * n] @ h + b[0, n : 2 * n] + b[1, n : 2 * n]))
        if self.attrs.get("linear_before_reset"):
            inner = reset * (r[2 * n :] @ h + b[1, 2 * n :])
        else:
            inner = r[2 * n :] @ (reset * h) + b[1, 2 * n :]
        return [(1 - z) * g(self._clipped(w[2 * n :] @ x + b[0, 2 * n :] + inner)) + z * h]


class LSTM(_Recurrent):
    defaults = ("Sigmoid", "Tanh", "Tanh")
    states = 2

    def step(self, x, states, w, r, b, p, n):  # type: ignore[no-untyped-def]
        h, c = states
        f, g, out = self.f
        s_i, s_o, s_f, s_c = (w @ x + r @ h + b[0] + b[1]).reshape(4, n)
        p_i, p_o, p_f = p.reshape(3, n)
        i = f(self._clipped(s_i + p_i * c))
        forget = 1 - i if self.attrs.get("input_forget") else f(self._clipped(s_f + p_f * c))
        c = forget * c + i * g(self._clipped(s_c))
        return [f(self._clipped(s_o + p_o * c)) * out(c), c]


OPERATORS = [RNN, GRU, LSTM, Scan, Loop]
