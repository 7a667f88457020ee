"""Elements of small integer tensors, followed symbolically.

The result of `Shape`, and arithmetic on it, decides the shapes of `Reshape`, `Expand`, `Slice` and others.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxgrad.graph.dims import Dim, dim_add, dim_div, dim_floordiv, dim_mul, dim_sub, size_of
from onnxgrad.graph.operands import Attrs, Inputs, Type, elements_of, elements_or, shape_of
from onnxgrad.graph.tensor import SMALL

#: Types whose elements are followed.
FOLLOWED = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}

#: Operators that are followed where all that they take is known, by running them.
_COMPUTED = frozenset(
    """
    Abs ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Clip CumSum Expand Pow
    ReduceMax ReduceMin ReduceSum Sign Sum Tile Trilu Xor
    """.split()
)

Content = tuple[Dim, ...] | None
ContentFormula = Callable[[Attrs, Inputs], Content]


def infer_content(node: ir.Node, inputs: Inputs, attrs: Attrs, output: Type | None) -> tuple[Dim, ...] | None:
    """Return the elements of a node's small integer output where they follow from what is known of its inputs."""
    if node.domain or output is None or output[0] not in FOLLOWED or not inputs or inputs[0] is None:
        return None
    follow = CONTENTS.get(node.op_type)
    elements = _evaluated(node, inputs, output) if follow is None else follow(attrs, inputs)
    if node.op_type == "Cast" and output[0] == ir.DataType.BOOL and elements is not None:
        return None if any(isinstance(e, str) for e in elements) else tuple(int(e != 0) for e in elements)
    return elements


def _evaluated(node: ir.Node, inputs: Inputs, output: Type) -> Content:
    """Run a node of which all inputs are known integers, as exporters leave them behind, in ONNX's reference."""
    feeds = {}
    for i, tensor in enumerate(inputs):
        if tensor is None:
            continue
        known, data = tensor.ints, _array(inputs, i)
        if known is None or data is None:
            return None
        feeds[f"x{i}"] = data.astype(tensor.dtype.numpy())
    sizes_known = output[1] is not None and all(isinstance(d, int) for d in output[1])
    if node.op_type not in _COMPUTED or len(node.outputs) != 1 or not sizes_known:
        return None
    names = ["" if tensor is None else f"x{i}" for i, tensor in enumerate(inputs)]
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    proto = onnx.helper.make_node(node.op_type, names, ["y"], **attributes)
    types = [onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for array in feeds.values()]
    ports = [onnx.helper.make_tensor_value_info(n, t, a.shape) for (n, a), t in zip(feeds.items(), types, strict=True)]
    graph = onnx.helper.make_graph([proto], "node", ports, [onnx.ValueInfoProto(name="y")])
    (result,) = ReferenceEvaluator(onnx.helper.make_model(graph)).run(None, feeds)
    return tuple(int(element) for element in np.ravel(result))


def infer_contents(
    node: ir.Node, inputs: Inputs, attrs: Attrs, outputs: Sequence[Type | None]
) -> list[tuple[Dim, ...] | None]:
    """Return the elements of each of a node's small integer outputs."""
    if node.op_type == "Split" and node.domain == "":
        return _split_elements(attrs, inputs, len(outputs))
    return [infer_content(node, inputs, attrs, outputs[0] if outputs else None), *[None] * (len(outputs) - 1)]


def _split_elements(attrs: Attrs, inputs: Inputs, count: int) -> list[tuple[Dim, ...] | None]:
    """Follow the parts of a list."""
    elements = elements_of(inputs, 0)
    if elements is None or len(shape_of(inputs)) != 1:
        return [None] * count
    each = -(-len(elements) // count)
    sizes = elements_or(inputs, 1, [each] * (count - 1) + [len(elements) - each * (count - 1)])
    if sizes is None or not all(isinstance(size, int) for size in sizes):
        return [None] * count
    ends = list(itertools.accumulate(int(size) for size in sizes))
    return [elements[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _shape_elements(attrs: Attrs, inputs: Inputs) -> Content:
    return shape_of(inputs)[attrs.get("start", 0) : attrs.get("end")]


def _same_elements(_: Attrs, inputs: Inputs) -> Content:
    return elements_of(inputs, 0)


def _gathered(attrs: Attrs, inputs: Inputs) -> Content:
    elements, index = elements_of(inputs, 0), elements_of(inputs, 1)
    if elements is None or index is None or len(shape_of(inputs)) != 1:
        return None
    return tuple(elements[i] for i in index if isinstance(i, int))


def _array(inputs: Inputs, index: int = 0) -> np.ndarray | None:
    """Return the elements of an input in their shape."""
    elements, shape = elements_of(inputs, index), shape_of(inputs, index)
    if elements is None or not all(isinstance(d, int) for d in shape):
        return None
    return np.array(elements, dtype=object).reshape(shape)  # type: ignore[arg-type]


def _sliced_elements(_: Attrs, inputs: Inputs) -> Content:
    data, start, end = _array(inputs), elements_of(inputs, 1), elements_of(inputs, 2)
    if data is None or start is None or end is None:
        return None
    axes, steps = elements_or(inputs, 3, range(len(start))), elements_or(inputs, 4, [1] * len(start))
    if axes is None or steps is None or not all(isinstance(d, int) for d in (*start, *end, *axes, *steps)):
        return None
    cut = [slice(None)] * data.ndim
    for axis, a, b, step in zip(axes, start, end, steps, strict=True):
        size = data.shape[int(axis)]
        cut[int(axis)] = slice(int(a), None if int(step) < 0 and int(b) < -size else int(b), int(step))
    return tuple(data[tuple(cut)].flat)


def _transposed_elements(attrs: Attrs, inputs: Inputs) -> Content:
    data = _array(inputs)
    return None if data is None else tuple(data.transpose(attrs.get("perm")).flat)


def _joined(_: Attrs, inputs: Inputs) -> Content:
    parts = [elements_of(inputs, i) for i in range(len(inputs))]
    if any(p is None for p in parts) or len(shape_of(inputs)) != 1:
        return None
    return tuple(d for part in parts if part for d in part)


def _pointwise(function: Callable[..., Dim | None]) -> ContentFormula:
    def apply(_: Attrs, inputs: Inputs) -> Content:
        parts = [elements_of(inputs, i) for i in range(len(inputs))]
        if any(p is None or len(shape_of(inputs, i)) > 1 for i, p in enumerate(parts)):
            return None
        known = [p for p in parts if p is not None]
        length = max(map(len, known)) if all(known) else 0
        if any(len(p) not in (1, length) for p in known):
            return None
        results = [function(*(p[i % len(p)] for p in known)) for i in range(length)]
        return None if None in results else tuple(r for r in results if r is not None)

    return apply


def _divided(a: Dim, b: Dim) -> Dim | None:
    exact = dim_div(a, b)
    if exact is not None or not isinstance(b, int) or b <= 0:
        return exact
    return None if isinstance(a, int) and a < 0 else dim_floordiv(a, b)


def _remainders(attrs: Attrs, inputs: Inputs) -> Content:
    """The remainder has the sign of the divisor, or with `fmod` that of the dividend."""

    def of_numbers(a: Dim, b: Dim) -> Dim | None:
        if not (isinstance(a, int) and isinstance(b, int) and b):
            return None
        return a % b if not attrs.get("fmod", 0) else abs(a) % abs(b) * (1 if a > 0 else -1)

    return _pointwise(of_numbers)(attrs, inputs)


def _equal(a: Dim, b: Dim) -> Dim | None:
    if a == b:
        return 1
    sizes_never_negative = any(isinstance(d, int) and d < 0 for d in (a, b))
    both_known = isinstance(a, int) and isinstance(b, int)
    return 0 if both_known or sizes_never_negative else None


def _chosen(condition: Dim, a: Dim, b: Dim) -> Dim | None:
    return (a if condition else b) if isinstance(condition, int) else None


def _among_numbers(choose: Callable[[list[int]], int]) -> Callable[..., Dim | None]:
    def apply(*dims: Dim) -> Dim | None:
        numbers = [d for d in dims if isinstance(d, int)]
        return int(choose(numbers)) if len(numbers) == len(dims) else None

    return apply


def _extreme(choose: Callable[[list[int]], int]) -> Callable[..., Dim | None]:
    """Choose among numbers; where all are the same open size, as where TensorFlow broadcasts by hand, it is that."""
    among = _among_numbers(choose)
    return lambda *dims: dims[0] if len(set(dims)) == 1 else among(*dims)


def _filled(attrs: Attrs, inputs: Inputs) -> Content:
    shape, value = elements_of(inputs, 0), attrs.get("value")
    if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > SMALL:
        return None
    return (0 if value is None else int(value.numpy().item()),) * shape[0]


def _ranged(_: Attrs, inputs: Inputs) -> Content:
    bounds = [elements_of(inputs, i) for i in range(3)]
    known = [int(b[0]) for b in bounds if b and isinstance(b[0], int)]
    if len(known) != 3 or not known[2] or len(range(*known)) > SMALL:
        return None
    return tuple(range(*known))


CONTENTS: dict[str, ContentFormula] = {
    "Shape": _shape_elements,
    "Size": lambda attrs, inputs: (size_of(shape_of(inputs)),),
    "Identity": _same_elements,
    "Cast": _same_elements,
    "Reshape": _same_elements,
    "Squeeze": _same_elements,
    "Unsqueeze": _same_elements,
    "Flatten": _same_elements,
    "Gather": _gathered,
    "Slice": _sliced_elements,
    "Transpose": _transposed_elements,
    "Concat": _joined,
    "Add": _pointwise(dim_add),
    "Sub": _pointwise(dim_sub),
    "Mul": _pointwise(dim_mul),
    "Div": _pointwise(_divided),
    "Mod": _remainders,
    "Neg": _pointwise(lambda a: dim_mul(-1, a)),
    "Equal": _pointwise(_equal),
    "Where": _pointwise(_chosen),
    "Min": _pointwise(_extreme(min)),
    "Max": _pointwise(_extreme(max)),
    "ReduceProd": lambda attrs, inputs: None if (e := elements_of(inputs, 0)) is None else (size_of(e),),
    "ConstantOfShape": _filled,
    "Range": _ranged,
    "Not": _pointwise(lambda a: dim_sub(1, a)),
    "And": _pointwise(_among_numbers(all)),
    "Or": _pointwise(_among_numbers(any)),
    "Greater": _pointwise(_among_numbers(lambda pair: pair[0] > pair[1])),
    "GreaterOrEqual": _pointwise(_among_numbers(lambda pair: pair[0] >= pair[1])),
    "Less": _pointwise(_among_numbers(lambda pair: pair[0] < pair[1])),
    "LessOrEqual": _pointwise(_among_numbers(lambda pair: pair[0] <= pair[1])),
}
