"""Networks with derivatives by hand, for models that are written operator by operator: their authors have no others.

Each has its value and its Jacobian written down in numpy, for one sample and for complex numbers, too. The Hessian is
the complex step of the Jacobian (Squire and Trapp 1998), exact to rounding, since nothing is subtracted. So is the
complex step of the value, which the Jacobian by hand is held against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from tests.frameworks.comparing import DType

SAMPLES, STEP = 3, 1e-30
Array = np.ndarray[Any, Any]


def weights(*shape: int, seed: int) -> Array:
    """Return weights that neither saturate nor vanish."""
    return np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])


class Network(ABC):
    """A network from one sample, of `shape`, to two numbers; its weights are attributes."""

    shape: tuple[int, ...]

    @abstractmethod
    def value(self, x: Array) -> Array:
        """Return the output, of shape ``(2,)``."""

    @abstractmethod
    def jacobian(self, x: Array) -> Array:
        """Return the Jacobian, of shape ``(2, *shape)``."""

    def batch(self) -> Array:
        return np.random.default_rng(9).normal(size=(SAMPLES, *self.shape))

    def own(self, dtype: DType) -> dict[str, Array]:
        """Return value, Jacobian, gradient and Hessian at the batch as it is in a type, computed in float64."""
        x = self.batch().astype(dtype).astype(np.float64)
        jacobian = np.stack([self.jacobian(one) for one in x])
        stepped = np.stack([_complex_step(self.value, one) for one in x])
        np.testing.assert_allclose(jacobian, stepped, rtol=0, atol=1e-15 * np.max(np.abs(stepped)))
        found = {
            "value": np.stack([self.value(one) for one in x]),
            "jacobian": jacobian,
            "gradient": jacobian[:, 0],
            "hessian": np.stack([_complex_step(lambda z: self.jacobian(z)[0], one) for one in x]),
        }
        return {name: array.astype(dtype) for name, array in found.items()}


def _complex_step(function: Any, x: Array) -> Array:
    """Return the derivative of a function at x, the axes of x last."""
    columns = []
    for index in np.ndindex(*x.shape):
        moved = x.astype(np.complex128)
        moved[index] += 1j * STEP
        columns.append(np.imag(function(moved)) / STEP)
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


class MLP(Network):
    """``y = tanh(tanh(x A + a) B + b) C``."""

    shape = (4,)
    A, B, C = weights(4, 8, seed=0), weights(8, 6, seed=1), weights(6, 2, seed=2)
    a, b = weights(1, 8, seed=3)[0], weights(1, 6, seed=4)[0]

    def value(self, x: Array) -> Array:
        return np.tanh(np.tanh(x @ self.A + self.a) @ self.B + self.b) @ self.C

    def jacobian(self, x: Array) -> Array:
        h = np.tanh(x @ self.A + self.a)
        k = np.tanh(h @ self.B + self.b)
        return (self.C.T * (1 - k**2)) @ (self.B.T * (1 - h**2)) @ self.A.T


class Convolution(Network):
    """A convolution along a sequence with padding, tanh, the mean over the sequence, and a product: ``(2, 6)`` in."""

    shape = (2, 6)
    #: Of the filters: 3 outputs, 2 inputs, 3 wide; as ONNX has them.
    W, C = weights(3, 2, 3, seed=5), weights(3, 2, seed=6)

    def hidden(self, x: Array) -> Array:
        padded = np.pad(x, [(0, 0), (1, 1)])
        return np.tanh(sum(self.W[:, :, k] @ padded[:, k : k + 6] for k in range(3)))

    def value(self, x: Array) -> Array:
        return self.hidden(x).mean(axis=1) @ self.C

    def jacobian(self, x: Array) -> Array:
        """``y_o = 1/6 Σ_t Σ_c C_co h_ct``, and ``∂h_ct/∂x_i(t+k-1) = (1 - h_ct²) W_cik``."""
        slopes = 1 - self.hidden(x) ** 2
        result = np.zeros((2, *x.shape), x.dtype)
        for t in range(6):
            for k in range(3):
                if 0 <= t + k - 1 < 6:
                    result[:, :, t + k - 1] += (self.C.T * slopes[:, t]) @ self.W[:, :, k] / 6
        return result


class Recurrent(Network):
    """``h_t = tanh(x_t W + h_{t-1} R)`` from ``h_0 = 0``, and ``y = h_5 C``."""

    shape = (5, 3)
    W, R, C = weights(3, 4, seed=7), weights(4, 4, seed=8), weights(4, 2, seed=9)

    def value(self, x: Array) -> Array:
        h: Any = np.zeros(4)
        for row in x:
            h = np.tanh(row @ self.W + h @ self.R)
        return h @ self.C

    def jacobian(self, x: Array) -> Array:
        h: Any = np.zeros(4)
        slope = np.zeros((4, *x.shape), x.dtype)
        for t, row in enumerate(x):
            h = np.tanh(row @ self.W + h @ self.R)
            slope = np.tensordot(self.R.T, slope, 1)
            slope[:, t] += self.W.T
            slope *= (1 - h**2)[:, None, None]
        return np.tensordot(self.C.T, slope, 1)


class Attention(Network):
    """Attention pooling: ``p = softmax(x w)`` over the sequence, and ``y = p x C``."""

    shape = (4, 3)
    w, C = weights(3, 1, seed=10), weights(3, 2, seed=11)

    def shares(self, x: Array) -> Array:
        e = np.exp(x @ self.w[:, 0])
        return e / e.sum()

    def value(self, x: Array) -> Array:
        return self.shares(x) @ x @ self.C

    def jacobian(self, x: Array) -> Array:
        """``∂y_o/∂x_ti = p_t C_io + p_t w_i (x_t - p x) C_o``."""
        p = self.shares(x)
        away = (x - p @ x) @ self.C
        return p[:, None] * (self.C.T[:, None, :] + away.T[:, :, None] * self.w[:, 0])
