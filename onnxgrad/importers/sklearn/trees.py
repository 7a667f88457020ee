"""Trees, and sums of them: steps, whose derivative is zero wherever it exists, with values to the last digit.

ONNX's trees give float32. So they are asked which leaf a sample ends in, and the values of leaves are looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxgrad.graph.tensor import Tensor
from onnxgrad.importers.sklearn.emitter import INT64, Emitter, Given, formula, refuse
from onnxgrad.importers.sklearn.linear import softmax, two_classes
from onnxgrad.lowering import working_form
from onnxgrad.model.opsets import WORKING_OPSET
from onnxgrad.model.read import read

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tree:
    """A tree: at each node, ``x[feature] <= threshold`` goes to the left.

    Attributes:
        feature, threshold, left, right: of each node; of leaves they say nothing.
        is_leaf: which nodes are leaves.
        missing_left: where a missing number goes to the left.
        values: what a leaf says, ``(nodes, k)``.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    is_leaf: Array
    missing_left: Array
    values: Array


def tree_of(tree: Any, values: Array, features: Array | None = None) -> Tree:
    """Return a tree of `sklearn.tree`, fitted on some of the features."""
    feature = np.maximum(tree.feature, 0)
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(feature)))
    return Tree(
        feature if features is None else np.asarray(features)[feature],
        tree.threshold, tree.children_left, tree.children_right, tree.children_left < 0, missing.astype(bool), values,
    )  # fmt: skip


def summed(g: Emitter, x: Tensor, trees: Sequence[Tree], rounded: bool = True) -> Tensor:
    """Sum what the trees say, ``(N, k)``; `rounded` compares x in float32, as `sklearn.tree` does."""
    op = g.op
    if rounded:
        x = op.cast(op.cast(x, ir.DataType.FLOAT), g.dtype)
    place = op.cast(_leaves(g, x, trees), INT64)
    table = g.weight("leaves", np.concatenate([tree.values[tree.is_leaf] for tree in trees]))
    return op.sum(op.Gather(table, place, axis=0), [1], False)


def _leaves(g: Emitter, x: Tensor, trees: Sequence[Tree]) -> Tensor:
    """Return the position of the leaf in each tree, among the leaves of all, ``(N, trees)``."""
    refuse(sum(int(t.is_leaf.sum()) for t in trees) >= 2**24, "it has more than 16 million leaves", "use fewer trees")
    sizes = [len(t.feature) for t in trees]
    which = np.repeat(np.arange(len(trees)), sizes)
    leaf = np.concatenate([t.is_leaf for t in trees])
    node = np.concatenate([np.arange(n) for n in sizes])

    def all_of(name: str) -> Array:
        return np.where(leaf, 0, np.concatenate([getattr(t, name) for t in trees]))

    numbers = g.dtype.numpy()
    attributes = {
        "nodes_treeids": which, "nodes_nodeids": node, "nodes_featureids": all_of("feature"),
        "nodes_truenodeids": all_of("left"), "nodes_falsenodeids": all_of("right"),
        "nodes_missing_value_tracks_true": all_of("missing_left"),
        "target_treeids": which[leaf], "target_nodeids": node[leaf], "target_ids": which[leaf],
    }  # fmt: skip
    suffix = "_as_tensor" if g.dtype == ir.DataType.DOUBLE else ""
    for name, values in (("nodes_values", all_of("threshold")), ("target_weights", np.arange(leaf.sum()))):
        values = values.astype(numbers)
        attributes[name + suffix] = onnx.numpy_helper.from_array(values) if suffix else values.tolist()
    made = onnx.helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["leaf"], domain="ai.onnx.ml", n_targets=len(trees),
        nodes_modes=["LEAF" if is_leaf else "BRANCH_LEQ" for is_leaf in leaf],
        **{k: v.astype(int).tolist() if isinstance(v, np.ndarray) else v for k, v in attributes.items()},
    )  # fmt: skip
    return put_in(g, made, x, len(trees))


def put_in(g: Emitter, node: onnx.NodeProto, x: Tensor, width: int) -> Tensor:
    """Emit one node of ai.onnx.ml, of one input and one output of float32."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(x.dtype.numpy()))
    graph = onnx.helper.make_graph(
        [node], "node",
        [onnx.helper.make_tensor_value_info(node.input[0], kind, ["N", x.shape[1]])],
        [onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, ["N", width])],
    )  # fmt: skip
    imports = [onnx.helper.make_opsetid("", WORKING_OPSET), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = working_form(read(onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)))
    (found,) = g.graft(model, x)
    assert found is not None
    g.op.retype(found, (x.shape[0], width))
    return found


# --- trees and forests --------------------------------------------------------------------------------------


def _numbers(model: Any) -> Tree:
    return tree_of(model.tree_, model.tree_.value[:, :, 0])


def _shares(model: Any, output: int = 0) -> Tree:
    n = model.n_classes_ if model.n_outputs_ == 1 else model.n_classes_[output]
    counts = model.tree_.value[:, output, : int(n)]
    total = counts.sum(1, keepdims=True)
    return tree_of(model.tree_, counts / np.where(total == 0, 1, total))


@formula("DecisionTreeRegressor ExtraTreeRegressor", "predict")
def tree(g: Emitter, model: Any, x: Given) -> Tensor:
    """What its leaf says."""
    return summed(g, g.numbers(x), [_numbers(model)])


@formula("DecisionTreeClassifier ExtraTreeClassifier", "predict_proba")
def tree_classes(g: Emitter, model: Any, x: Given) -> Any:
    """The shares of the classes in its leaf."""
    found = [summed(g, g.numbers(x), [_shares(model, k)]) for k in range(model.n_outputs_)]
    return found[0] if len(found) == 1 else found


@formula("RandomForestRegressor ExtraTreesRegressor", "predict")
def forest(g: Emitter, model: Any, x: Given) -> Tensor:
    """The mean of the trees."""
    return summed(g, g.numbers(x), [_numbers(e) for e in model.estimators_]) * (1 / len(model.estimators_))


@formula("RandomForestClassifier ExtraTreesClassifier", "predict_proba")
def forest_classes(g: Emitter, model: Any, x: Given) -> Any:
    """The mean of the trees."""
    found = [
        summed(g, g.numbers(x), [_shares(e, k) for e in model.estimators_]) * (1 / len(model.estimators_))
        for k in range(model.n_outputs_)
    ]
    return found[0] if len(found) == 1 else found


@formula("RandomTreesEmbedding", "transform")
def leaves(g: Emitter, model: Any, x: Given) -> Tensor:
    """Which leaf of each tree it is."""
    categories = model.one_hot_encoder_.categories_
    width, offset, found = sum(map(len, categories)), 0, []
    for estimator, nodes in zip(model.estimators_, categories, strict=True):
        values = np.zeros((estimator.tree_.node_count, width))
        values[np.asarray(nodes, int), offset + np.arange(len(nodes))] = 1
        offset += len(nodes)
        found.append(tree_of(estimator.tree_, values))
    return summed(g, g.numbers(x), found)


# --- gradient boosting ---------------------------------------------------------------------------------------


def _of_raw(g: Emitter, raw: Tensor, loss: Any) -> Tensor:
    """Probabilities of the scores of boosting."""
    name = type(loss).__name__
    if name == "ExponentialLoss":
        return two_classes(g, g.op.Sigmoid(2 * raw))
    known = ("HalfBinomialLoss", "HalfMultinomialLoss")
    refuse(name not in known, f"its loss is a {name}, which is not known", "use the logarithmic loss")
    return softmax(g, raw)


@formula("GradientBoostingClassifier", "decision_function")
@formula("GradientBoostingRegressor", "predict")
def boosting(g: Emitter, model: Any, x: Given) -> Tensor:
    """``start + rate · Σ trees``."""
    x = g.numbers(x)
    of_class = [
        summed(g, x, [tree_of(e.tree_, e.tree_.value[:, :, 0]) for e in column]) for column in model.estimators_.T
    ]
    total = g.join(of_class) * float(model.learning_rate)
    if isinstance(model.init_, str):
        return total
    if not type(model.init_).__name__.startswith("Dummy"):
        refuse(hasattr(model, "classes_"), "it starts from another classifier", "leave init at its default")
        start: Tensor = g.call(model.init_, "predict", x, "init")
        return total + start
    width = int(x.shape[1])
    return total + g.weight("init_", model._raw_predict_init(np.zeros((1, width), np.float32)))


@formula("GradientBoostingClassifier", "predict_proba")
def boosting_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """A sigmoid or softmax of the scores."""
    return _of_raw(g, boosting(g, model, x), model._loss)


def _histogram_tree(predictor: Any) -> Tree:
    nodes = predictor.nodes
    refuse(nodes["is_categorical"].any(), "its trees split by categories", "encode the categories before it")
    return Tree(
        nodes["feature_idx"], nodes["num_threshold"], nodes["left"], nodes["right"], nodes["is_leaf"].astype(bool),
        nodes["missing_go_to_left"], nodes["value"][:, None],
    )  # fmt: skip


@formula("HistGradientBoostingClassifier", "decision_function")
def histogram_boosting(g: Emitter, model: Any, x: Given) -> Tensor:
    """``start + Σ trees``."""
    refuse(getattr(model, "_preprocessor", None) is not None, "it encodes categories", "encode them before it")
    x = g.numbers(x)
    of_class = [
        summed(g, x, [_histogram_tree(p) for p in column], rounded=False)
        for column in zip(*model._predictors, strict=True)
    ]
    return g.join(of_class) + g.weight("_baseline_prediction", np.reshape(model._baseline_prediction, (1, -1)))


@formula("HistGradientBoostingClassifier", "predict_proba")
def histogram_classes(g: Emitter, model: Any, x: Given) -> Tensor:
    """A sigmoid or softmax of the scores."""
    return _of_raw(g, histogram_boosting(g, model, x), model._loss)


@formula("HistGradientBoostingRegressor", "predict")
def histogram_numbers(g: Emitter, model: Any, x: Given) -> Tensor:
    """The sum, or its exponential."""
    raw = histogram_boosting(g, model, x)
    return g.op.Exp(raw) if type(model._loss.link).__name__ == "LogLink" else raw


# --- isolation ------------------------------------------------------------------------------------------------


@formula("IsolationForest", "score_samples")
def isolation(g: Emitter, model: Any, x: Given) -> Tensor:
    """``-2^(-d / c)``, with d the sum of the depths of leaves, as if they were split to the end: Liu et al. (2008)."""
    trees = [
        tree_of(e.tree_, (np.asarray(paths) + np.asarray(rest) - 1)[:, None].astype(np.float64), features)
        for e, features, paths, rest in zip(
            model.estimators_, model.estimators_features_, model._decision_path_lengths,
            model._average_path_length_per_tree, strict=True,
        )
    ]  # fmt: skip
    usual = len(trees) * float(_average_path(model))
    return -g.op.Exp(summed(g, g.numbers(x), trees) * (-np.log(2) / usual))


def _average_path(model: Any) -> Any:
    from sklearn.ensemble._iforest import _average_path_length

    return _average_path_length([model._max_samples])[0]


@formula("IsolationForest", "decision_function")
def isolation_decision(g: Emitter, model: Any, x: Given) -> Tensor:
    """The same against an offset."""
    return isolation(g, model, x) - g.weight("offset_", model.offset_)
