"""Losses against integer labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxgrad.graph.builder import Builder
from onnxgrad.graph.node import Node
from onnxgrad.graph.tensor import Tensor
from onnxgrad.rules import samples
from onnxgrad.rules.registry import composed
from onnxgrad.rules.samples import Samples


def _loss(op: Builder, node: Node, log_prob: Tensor) -> Tensor:
    """``l = -w[t] · log_prob[:, t]`` for the label t, 0 where it is ignored; in mean the divisor is the sum of w[t].

    Labels are compared, not used as indices: the derivative is a choice then, not a scatter, and a label that is to be
    ignored may be any number.
    """
    x, labels, weight, ignored = log_prob, node.input(1), node.input(2), node.attr("ignore_index")
    assert labels is not None
    labels = op.unsqueeze(op.cast(labels, ir.DataType.INT64), [1 - x.rank])
    classes = op.reshape(op.range(x.shape[1]), (x.shape[1], *[1] * (x.rank - 2)))
    hit = op.Equal(labels, classes, shape=x.shape)
    if ignored is not None:
        hit = op.And(hit, op.Not(op.Equal(labels, ignored)), shape=x.shape)
    column = op.constant(1, x.dtype) if weight is None else op.reshape(op.cast(weight, x.dtype), classes.shape)

    def picked(t: Tensor) -> Tensor:  # chosen before it is multiplied: what is not hit may be infinite
        return op.sum(op.Where(hit, t, 0), [1 - x.rank], keepdims=False)

    loss = -picked(x) if weight is None else -picked(x) * picked(column)
    if node.attr("reduction") == "none":
        return loss
    places = list(range(-loss.rank, 0))
    if node.attr("reduction") == "mean" and weight is None and ignored is None:
        return op.ReduceMean(loss, places, keepdims=0)
    total = op.sum(loss, places, keepdims=False)
    return total if node.attr("reduction") == "sum" else total / op.sum(picked(column), places, keepdims=False)


def _scores(op: Builder, node: Node) -> Tensor:
    """The first input in float32 at least: sums of half precision lose their digits, and a count may overflow."""
    return op.cast(node.x, ir.DataType.DOUBLE if node.x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT)


def _negative_log_likelihood(op: Builder, node: Node) -> Tensor:
    return _loss(op, node, _scores(op, node))


def _softmax_cross_entropy(op: Builder, node: Node) -> Sequence[Tensor]:
    """The loss, and the logarithms of the probabilities."""
    log_prob = op.LogSoftmax(_scores(op, node), axis=1)
    return _loss(op, node, log_prob), log_prob


def _follow(node: Node, inputs: Sequence[Samples | None]) -> Sequence[Samples | None]:
    """Samples, or places in them, stay apart but for the sums over classes and of the reduction."""
    place = inputs[0]
    if place is None or any(inputs[1:]):
        raise samples.Mixed("samples reach it through a weight, which all samples share")
    if place.axis == 1:
        raise samples.Mixed("it works along axis 1, on which the samples lie")
    if node.attr("reduction") != "none":
        raise samples.Mixed(f"it takes the {node.attr('reduction')} over all samples")
    return [replace(place, axis=max(place.axis - 1, 0)), place][: len(node.outputs)]


composed("NegativeLogLikelihoodLoss", _negative_log_likelihood, versions=(13, 22), follow=_follow)
composed("SoftmaxCrossEntropyLoss", _softmax_cross_entropy, versions=(13,), follow=_follow)
