"""Whether weights are better left as they are for a single row.

For each product with a weight, onnxruntime keeps a copy in the order in which its kernel reads it: one for the product
itself, another one for that with the transpose, which leads back. A single row is read against them once, so what
counts is how fast they come, and two copies do not fit the cache where one does. On a processor with 2 MB of
second-level cache, value and gradient of a network with 1.4 MB of weights take 58 µs without such copies, 129 with
them. With more rows, the copies pay: each product would make them anew.
"""

from __future__ import annotations

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import dim_mul, elements
from onnxgrad.runtime.rows import Split

#: Below so many bytes of weights, two copies fit.
_LEAST_BYTES = 2**20
#: Constants with fewer elements are no weights that anybody would copy.
_FEW = 4096


def multiplies_rows(op: Builder, split: Split | None) -> bool:
    """Whether all that a model does with large weights is to multiply a row with them, when it is run on one sample.

    Args:
        op: the builder of the model, which is finished.
        split: where its samples lie, if they are kept apart.
    """
    graph = op.model.graph
    arrays = [v.const_value for v in graph.initializers.values() if v.const_value is not None]
    if sum(array.nbytes for array in arrays if array.size >= _FEW) < _LEAST_BYTES:
        return False
    single = {1} if split is None else {1, split.size}
    for node in graph:
        y = op.tensor(node.outputs[0])
        if y is not None and op.is_fixed(y):
            continue
        tensors = [t for v in node.inputs if v is not None and (t := op.tensor(v)) is not None]
        if not any(elements(t.shape) >= _FEW and op.is_fixed(t) for t in tensors):
            continue
        product = y is not None and node.op_type in ("MatMul", "Gemm") and not node.domain
        if not product or y is None or dim_mul(*y.shape[:-1]) not in single:
            return False
    return True
