"""Adapters of operators that compute: arithmetic, activations, normalization, reduction, pooling, recurrence."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxgrad.model.lifting import Site, adapts


@adapts(
    *("Abs", "Add", "Ceil", "Div", "Elu", "Exp", "Floor", "HardSigmoid", "LeakyRelu", "Log", "Max", "Mean", "Min"),
    *("Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh"),
    *("BatchNormalization", "Dropout", "InstanceNormalization"),
    to=6,
)
def drop_consumed_inputs(site: Site) -> None:
    """Drop what was a hint to reuse memory and never had a meaning for the result."""
    site.take("consumed_inputs")


@adapts("Selu", to=6)
def selu_defaults(site: Site) -> None:
    """Write out the old defaults, since the new ones have more digits."""
    site.take("consumed_inputs")
    site.put(alpha=site.take("alpha", 1.6732), gamma=site.take("gamma", 1.0507))


@adapts("Clip", to=6)
def clip_unbounded(site: Site) -> None:
    """Write out that a bound left out means none; from now on it means the largest finite number."""
    site.take("consumed_inputs")
    site.put(min=site.take("min", -math.inf), max=site.take("max", math.inf))


@adapts("Clip", to=11, typed=True)
def clip_bounds(site: Site) -> None:
    """Turn the bounds into inputs; left out, they go on meaning the largest number."""
    for index, name in enumerate(("min", "max"), start=1):
        bound = site.take(name)
        if bound is not None:
            site.set_input(index, site.scalar_like(bound, 0))


@adapts("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", to=7, typed=True)
def numpy_broadcasting(site: Site) -> None:
    """Lay B along the end of A, as numpy does; before, `axis` said from where on, or nothing for along the end."""
    axis = site.take("axis")
    if not site.take("broadcast", 0) or axis is None:
        return
    a, b = site.known(0).rank, site.known(1).rank
    if a is None or b is None:
        site.refuse("its operands are broadcast along an axis, and their ranks are not known")
    trailing = a - b - axis % a
    if trailing > 0:
        axes = site.ints(range(b, b + trailing))
        site.set_input(1, site.emit("Unsqueeze", site.input(1), axes))


@adapts("PRelu", to=7, typed=True)
def prelu_slope(site: Site) -> None:
    """Give a vector of slopes per channel an axis for each spatial one, since it is now broadcast along the end."""
    x, slope = site.known(0).rank, site.known(1).rank
    if x is None or slope is None:
        site.refuse("its slope may be one per channel, and the ranks of its inputs are not known")
    if slope == 1 and x > 2:
        site.set_input(1, site.emit("Unsqueeze", site.input(1), site.ints(range(1, x - 1))))


@adapts("Gemm", to=7)
def gemm_broadcasting(site: Site) -> None:
    """Drop the permission to broadcast C: it is always given."""
    site.take("broadcast")


@adapts("Softmax", "LogSoftmax", "Hardmax", to=13, typed=True)
def softmax_of_matrix(site: Site) -> None:
    """Flatten into rows from the axis on, as was meant; now the axis is a single one. The last is the same in both."""
    x, rank, axis = site.input(0), site.known(0).rank, site.take("axis", 1)
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        site.put(axis=-1)
        return
    rows = site.emit(site.node.op_type, site.emit("Flatten", x, axis=axis), axis=-1)
    site.become("Reshape", rows, site.emit("Shape", x))


@adapts("Dropout", to=7)
def dropout_mode(site: Site) -> None:
    """Take the node as one for inference, in which nothing is dropped: nobody differentiates random numbers."""
    site.take("is_test")


@adapts("Dropout", to=12)
def dropout_ratio(site: Site) -> None:
    """Drop the ratio, which only training looks at; refuse a mask, which in inference had no defined value before."""
    site.take("ratio")
    if any(mask.uses() or mask.is_graph_output() for mask in site.node.outputs[1:]):
        site.refuse("its mask is used, which this version leaves undefined in inference")


@adapts("BatchNormalization", to=7)
def batch_normalization_mode(site: Site) -> None:
    """Refuse training mode, which was the default of an attribute."""
    if not site.take("is_test", 0):
        site.refuse("it is in training mode (is_test is 0)")


@adapts("BatchNormalization", to=9)
def batch_normalization_per_element(site: Site) -> None:
    """Refuse statistics for each element; there are those for each channel only."""
    if not site.take("spatial", 1):
        site.refuse("it has statistics for each element instead of each channel (spatial is 0)")


@adapts("BatchNormalization", to=14)
def batch_normalization_outputs(site: Site) -> None:
    """Refuse training mode, which showed in further outputs."""
    if any(output.name for output in site.node.outputs[1:]):
        site.refuse("it is in training mode (it has more than one output)")


@adapts("ReduceSum", to=13)
@adapts("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", to=18)
@adapts("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", to=18)
def reduction_axes(site: Site) -> None:
    """Turn the axes into an input. An empty list meant all axes, as no input does."""
    axes = site.take("axes")
    if axes:
        site.set_input(1, site.ints(axes))


@adapts("LpPool", "GlobalLpPool", to=2)
def whole_p(site: Site) -> None:
    """Turn the power into an integer."""
    p = site.take("p", 2.0)
    if p != int(p):
        site.refuse(f"its p is {p}, and newer versions know whole numbers only")
    site.put(p=int(p))


@adapts("RNN", "GRU", "LSTM", to=7)
def drop_output_sequence(site: Site) -> None:
    """Drop an attribute; which outputs there are is told by their names alone."""
    site.take("output_sequence")


@adapts("Cast", to=6)
def cast_type(site: Site) -> None:
    """Turn the name of a type into its number."""
    site.put(to=int(ir.DataType[site.take("to")]))


@adapts("Scan", to=9)
def batched_scan(site: Site) -> None:
    """Opset 8 runs over a batch of sequences (axis 0), each along axis 1: a Scan over the batch of Scans since then."""
    if site.input(0) is not None:
        site.refuse("Scan of opset 8 takes the lengths of sequences, which newer versions do not")
    body: ir.Graph = site.take("body")
    count, directions = site.take("num_scan_inputs"), site.take("directions")
    inputs = list(site.node.inputs[1:])
    carried = len(inputs) - count
    each = [_of_one_sample(value, scanned=i >= carried) for i, value in enumerate(body.inputs)]
    along = {"scan_input_directions": directions} if directions else {}
    inner = ir.node(
        "Scan",
        each,
        {"body": body, "num_scan_inputs": count, **along},
        num_outputs=len(site.node.outputs),
        name=f"{site.node.name or 'Scan'}/sample",
    )
    for value, outer in zip(inner.outputs, site.node.outputs, strict=True):
        value.name = f"{outer.name}/sample"
    samples = ir.Graph(each, inner.outputs, nodes=[inner], name=f"{body.name}/samples")
    site.become("Scan", *inputs, body=samples, num_scan_inputs=len(inputs))


def _of_one_sample(value: ir.Value, scanned: bool) -> ir.Value:
    """Return an input for what one sample has of a state, or of a sequence of what the body takes."""
    shape = value.shape
    if scanned and shape is not None:
        shape = ir.Shape([None, *shape])
    return ir.Value(name=f"{value.name}/sample", type=value.type, shape=shape)
