"""Seeds of a Jacobian: all rows, or columns, of the identity at once."""

from __future__ import annotations

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.dims import Dim, Shape, size_of
from onnxgrad.graph.tensor import Tensor


def identity_seeds(op: Builder, x: Tensor, batched: bool) -> tuple[Tensor, Dim | None]:
    """Return seeds for all elements of `x` (of one sample of it, if batched), shape ``(S, *x.shape)``, and S.

    With a single element there is no axis of seeds (S is None), and the seeds are ones.
    """
    inner = x.shape[1:] if batched else x.shape
    count = size_of(inner)
    if count == 1:
        return op.full(x.shape, 1, x.dtype), None
    if isinstance(count, int):
        eye = op.eye(count, x.dtype)
    else:
        side = op.size(count)
        eye = op.EyeLike(op.ConstantOfShape(op.Concat(side, side, axis=0)), dtype=x.dtype, shape=(count, count))
    one: Shape = (1,) if batched else ()
    return op.spread(op.reshape(eye, (count, *one, *inner)), (count, *x.shape)), count
