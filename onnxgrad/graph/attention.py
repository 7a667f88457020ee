"""Types of the outputs of attention and its kin, of which ONNX's inference takes sizes that it does not know for 0, or
leaves them open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxgrad.graph.dims import Dim, Shape, dim_add, dim_floordiv, dim_mul, dim_sub
from onnxgrad.graph.operands import Attrs, Inputs, Type, shape_of
from onnxgrad.graph.tensor import Tensor


def one_of(*dims: Dim) -> Dim:
    """Return one of several sizes that an operator demands to be equal: a number, if there is one."""
    return next((d for d in dims if isinstance(d, int)), dims[0])


def _apart(shape: Shape, heads: int | None) -> Shape:
    """Take (batch, length, heads · size) to (batch, heads, length, size); others stay as they are."""
    if len(shape) != 3 or not heads:
        return shape
    batch, length, width = shape
    return (batch, heads, length, dim_floordiv(width, heads))


def _type(x: Tensor | None, shape: Shape) -> Type | None:
    return None if x is None else (x.dtype, shape)


def _attention(attrs: Attrs, inputs: Inputs) -> list[Type | None]:
    """Y like Q with the size of V, present keys and values, and scores (batch, q heads, q length, total length)."""
    q = _apart(shape_of(inputs, 0), attrs.get("q_num_heads"))
    k, v = (_apart(shape_of(inputs, i), attrs.get("kv_num_heads")) for i in (1, 2))
    if {len(q), len(k), len(v)} != {4}:
        return []
    batch, heads = one_of(q[0], k[0], v[0]), one_of(k[1], v[1])
    length, size = one_of(k[2], v[2]), one_of(q[3], k[3])
    past = inputs[4] if len(inputs) > 4 else None
    total = length if past is None else dim_add(past.shape[2], length)
    y = (batch, *q[1:3], v[3]) if len(shape_of(inputs, 0)) == 4 else (batch, q[2], dim_mul(q[1], v[3]))
    return [
        _type(inputs[0], y),
        _type(inputs[0], (batch, heads, total, size)),
        _type(inputs[2], (batch, heads, total, v[3])),
        _type(inputs[0], (batch, *q[1:3], total)),
    ]


def _linear_attention(attrs: Attrs, inputs: Inputs) -> list[Type | None]:
    """One value per query head, and the state (batch, heads, key size, value size)."""
    q = _apart(shape_of(inputs, 0), attrs.get("q_num_heads"))
    k, v = (_apart(shape_of(inputs, i), attrs.get("kv_num_heads")) for i in (1, 2))
    if {len(q), len(k), len(v)} != {4}:
        return []
    batch, length = one_of(q[0], k[0], v[0]), one_of(q[2], k[2], v[2])
    past = inputs[3] if len(inputs) > 3 else None
    return [
        _type(inputs[0], (batch, length, dim_mul(q[1], v[3]))),
        _type(inputs[0] if past is None else past, (batch, k[1], one_of(q[3], k[3]), v[3])),
    ]


def _causal_convolution(_: Attrs, inputs: Inputs) -> list[Type | None]:
    """The output is like the input; the state holds one position less than the kernel."""
    x, weight = shape_of(inputs, 0), shape_of(inputs, 1)
    if len(x) != 3 or len(weight) != 3:
        return []
    batch, channels, length = x
    channels = one_of(channels, weight[0])
    return [
        _type(inputs[0], (batch, channels, length)),
        _type(inputs[0], (batch, channels, dim_sub(weight[2], 1))),
    ]


#: Formulas by ``domain::Op``.
TYPES: dict[str, Callable[[Attrs, Inputs], Sequence[Type | None]]] = {
    "::Attention": _attention,
    "::LinearAttention": _linear_attention,
    "::CausalConvWithState": _causal_convolution,
}
