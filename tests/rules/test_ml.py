"""Classical machine learning, ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxgrad
from onnxgrad.rules import REGISTRY
from tests.expressions import check_expression
from tests.harness import Case, Runner, make_model

rng = np.random.default_rng(5)
x = np.array([[1.2, -1.3, 0.4], [-2.1, -1.6, -0.7], [0.9, 0.2, -0.9]])
w = [float(v) for v in rng.normal(size=9)]
vectors = rng.normal(size=(5, 3))


def ml(op: str, inputs: list[np.ndarray | None], label: str = "", **attrs: Any) -> Case:
    options = {name: attrs.pop(name) for name in ("outputs", "fixed", "dynamic") if name in attrs}
    return Case(op, inputs, attrs, domain="ai.onnx.ml", label=label, **options)


def floats(array: np.ndarray) -> list[float]:
    return [float(v) for v in np.ravel(array)]


KERNEL = {"kernel_params": [0.3, 0.5, 3.0]}
REGRESSOR = {
    **KERNEL,
    "n_supports": 5,
    "support_vectors": floats(vectors),
    "coefficients": floats(rng.normal(size=5)),
    "rho": [0.25],
}
TWO = {
    **KERNEL,
    "kernel_type": "RBF",
    "vectors_per_class": [2, 3],
    "support_vectors": floats(vectors),
    "coefficients": floats(rng.normal(size=5)),
    "rho": [0.25],
    "classlabels_ints": [0, 1],
    "outputs": 2,
}
THREE = {
    **TWO,
    "vectors_per_class": [2, 1, 2],
    "coefficients": floats(rng.normal(size=10)),
    "rho": [0.25, -0.1, 0.3],
    "classlabels_ints": [0, 1, 2],
}
LINEAR = {
    **KERNEL,
    "kernel_type": "LINEAR",
    "coefficients": w,
    "rho": [0.25],
    "classlabels_ints": [0, 1, 2],
    "outputs": 2,
}
ALL = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")
# inside (0, 1), where "PROBIT" is defined, and at 1/2, where its textbook form has no derivative
probit = {"coefficients": [0.05, 0.1, 0.02, -0.03, 0.1, 0.2], "intercepts": [0.5, 0.45], "post_transform": "PROBIT"}

CASES = [
    ml("Scaler", [x], scale=[2.0, 3.0, -0.5], offset=[1.0, 0.0, 0.3]),
    ml("Scaler", [x], "one-number", scale=[2.0], offset=[0.3]),
    ml("Scaler", [x], "no-effect", scale=[1.0], offset=[0.0]),
    ml("Scaler", [x[0]], "vector", scale=[2.0, 3.0, -0.5], offset=[1.0, 0.0, 0.3]),
    *(ml("Normalizer", [3 * x], norm, norm=norm) for norm in ("MAX", "L1", "L2")),
    *(ml("Normalizer", [3 * x[0]], f"{norm}-vector", norm=norm) for norm in ("MAX", "L1", "L2")),
    ml("Imputer", [x], imputed_value_floats=[7.0, 8.0, 9.0], replaced_value_float=-99.0),
    ml("FeatureVectorizer", [x, x[:, :2] * 2], inputdimensions=[3, 2], dynamic=False),
    ml("FeatureVectorizer", [x, x[:, :2] * 2], "cut-and-filled", inputdimensions=[2, 4], dynamic=False),
    ml("FeatureVectorizer", [x[0], x[1, :2]], "vectors", inputdimensions=[3, 2], dynamic=False),
    ml("ArrayFeatureExtractor", [x, np.array([2, 0, 2])]),
    ml("ArrayFeatureExtractor", [x, np.array([[1]])], "one"),
    ml("ArrayFeatureExtractor", [x[0], np.array([2, 0])], "vector"),
    ml("ArrayFeatureExtractor", [x.reshape(1, 3, 3), np.array([2, 0])], "rank-3"),
    *(
        ml("LinearRegressor", [x], how, coefficients=w[:6], intercepts=[0.5, 0.25], targets=2, post_transform=how)
        for how in ALL
    ),
    ml("LinearRegressor", [x], "one-target", coefficients=w[:3], intercepts=[0.5]),
    ml("LinearRegressor", [x], "no-intercept", coefficients=w[:3]),
    ml("LinearRegressor", [x[0]], "vector", coefficients=w[:6], targets=2),
    ml("LinearRegressor", [x], "PROBIT", targets=2, **probit),
    *(
        ml(
            "LinearClassifier",
            [x],
            how,
            coefficients=w,
            intercepts=[0.5, 0.25, -0.3],
            classlabels_ints=[4, 5, 7],
            post_transform=how,
            outputs=2,
        )
        for how in ALL
    ),
    ml("LinearClassifier", [x], "PROBIT", classlabels_ints=[0, 1], outputs=2, **probit),
    *(
        ml(
            "LinearClassifier",
            [x],
            f"one-row-{how}",
            coefficients=w[:3],
            intercepts=[0.5],
            classlabels_strings=["a", "b"],
            post_transform=how,
            outputs=2,
        )
        for how in ("NONE", "LOGISTIC")
    ),
    ml("LinearClassifier", [x], "no-labels", coefficients=w[:3], intercepts=[0.5], outputs=2),
    *(
        ml("SVMRegressor", [x], kernel, kernel_type=kernel, **REGRESSOR)
        for kernel in ("LINEAR", "POLY", "RBF", "SIGMOID")
    ),
    ml("SVMRegressor", [x], "no-vectors", coefficients=w[:3], rho=[0.25], **KERNEL),
    ml("SVMRegressor", [x], "one-class", kernel_type="RBF", one_class=1, **REGRESSOR),
    *(ml("SVMClassifier", [x], how, post_transform=how, **LINEAR) for how in ALL),
    *(ml("SVMClassifier", [x], f"two-{how}", post_transform=how, **TWO) for how in ("NONE", "LOGISTIC")),
    *(ml("SVMClassifier", [x], f"three-{how}", post_transform=how, **THREE) for how in ALL),
    ml("SVMClassifier", [x], "three-POLY", **{**THREE, "kernel_type": "POLY"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expression(case: Case) -> None:
    check_expression(case, values=1e-5)


def points(op: str, at: np.ndarray, **attrs: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the outputs of an operator and of its Jacobian in float32."""
    model = make_model(ml(op, [at], **attrs), np.float32)
    plain = Runner(model, only_runtime=True)({"x0": at.astype(np.float32)})
    of = [name for name, value in plain.items() if value.dtype == np.float32]
    found = Runner(onnxgrad.jacobian(model, of=of), only_runtime=True)({"x0": at.astype(np.float32)})
    return plain, {name: found[f"jac_{name}_x0"] for name in of}


def test_imputer_passes_what_it_does_not_replace() -> None:
    at = np.array([[1.0, np.nan], [np.nan, 2.0]])
    plain, jacobian = points("Imputer", at, imputed_value_floats=[7.0, 8.0], replaced_value_float=float("nan"))
    np.testing.assert_array_equal(plain["y0"], [[1, 8], [7, 2]])
    np.testing.assert_array_equal(jacobian["y0"].reshape(4, 4), np.diag([1, 0, 0, 1]))
    at = np.array([[1.0, -5.0]])
    plain, jacobian = points("Imputer", at, imputed_value_floats=[7.0], replaced_value_float=-5.0)
    np.testing.assert_array_equal(plain["y0"], [[1, 7]])
    np.testing.assert_array_equal(jacobian["y0"].reshape(2, 2), np.diag([1, 0]))


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer_leaves_zeros(norm: str) -> None:
    """Where the norm is 0 the output is the input."""
    plain, jacobian = points("Normalizer", np.zeros((1, 2)), norm=norm)
    np.testing.assert_array_equal(plain["y0"], np.zeros((1, 2)))
    np.testing.assert_array_equal(jacobian["y0"].reshape(2, 2), np.eye(2))


def test_softmax_zero_at_zero() -> None:
    """A score of 0 counts 0, not exp(0): ``y = (e^s, t) / (e^s + t)`` at t = 0, with derivative ``e^-s`` by t."""
    attrs = {"coefficients": [1.0, 0.0, 0.0, 1.0], "targets": 2, "post_transform": "SOFTMAX_ZERO"}
    plain, jacobian = points("LinearRegressor", np.array([[0.5, 0.0]]), **attrs)
    np.testing.assert_allclose(plain["y0"], [[1, 0]])
    np.testing.assert_allclose(jacobian["y0"].reshape(2, 2), np.exp(-0.5) * np.array([[0, -1], [0, 1]]), rtol=1e-6)


def test_probit_near_one_half() -> None:
    """Its textbook form is a root of 0 there; the derivative is ``√(2π)``, up to the approximation of the inverse."""
    attrs = {"coefficients": [1.0, 0.0], "intercepts": [0.0, 0.3], "targets": 2, "post_transform": "PROBIT"}
    values = np.array([[0.5], [0.5 + 1e-4], [0.5 - 0.049], [0.5 + 0.051]])
    _, jacobian = points("LinearRegressor", values, **attrs)
    slopes = jacobian["y0"][range(4), 0, range(4), 0]
    np.testing.assert_allclose(slopes[:2], np.sqrt(2 * np.pi), rtol=1e-3)
    step = 1e-3  # from onnxruntime itself only away from 1/2, where it cancels
    above, below = (points("LinearRegressor", values[2:] + d, **attrs)[0]["y0"][:, 0] for d in (step, -step))
    np.testing.assert_allclose(slopes[2:], (above - below) / (2 * step), rtol=2e-3)


def test_far_from_the_origin() -> None:
    """Distances to support vectors are taken without cancellation."""
    attrs = {**REGRESSOR, "kernel_type": "RBF"}
    shifted = {**attrs, "support_vectors": floats(vectors + 1000)}
    _, near = points("SVMRegressor", x, **attrs)
    _, far = points("SVMRegressor", x + 1000, **shifted)
    np.testing.assert_allclose(far["y0"], near["y0"], atol=1e-3)


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("Binarizer", {"threshold": 0.1}),
        ("OneHotEncoder", {"cats_int64s": [1, 2]}),
        ("LabelEncoder", {"keys_floats": [1.0], "values_floats": [2.0]}),
        (
            "TreeEnsembleRegressor",
            {
                "nodes_treeids": [0, 0, 0],
                "nodes_nodeids": [0, 1, 2],
                "nodes_featureids": [0, 0, 0],
                "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
                "nodes_values": [0.5, 0.0, 0.0],
                "nodes_truenodeids": [1, 0, 0],
                "nodes_falsenodeids": [2, 0, 0],
                "target_treeids": [0, 0],
                "target_nodeids": [1, 2],
                "target_ids": [0, 0],
                "target_weights": [1.0, 2.0],
                "n_targets": 1,
            },
        ),
    ],
)
def test_zero(op: str, attrs: dict[str, Any]) -> None:
    with pytest.warns(onnxgrad.DisconnectedWarning, match=op):
        _, jacobian = points(op, x, **attrs)
    assert not jacobian["y0"].any()


HOW = "runtimes differ in what post_transform"
SINGLE = {"coefficients": w[:3], "intercepts": [0.5]}


@pytest.mark.parametrize(
    ("case", "match"),
    [
        *((ml("LinearRegressor", [x], post_transform=how, **SINGLE), HOW) for how in ALL[1:]),
        *(
            (ml("LinearClassifier", [x], post_transform=how, outputs=2, classlabels_ints=[0, 1], **SINGLE), HOW)
            for how in ("SOFTMAX", "SOFTMAX_ZERO", "PROBIT")
        ),
        (ml("LinearClassifier", [x], post_transform="LOGISTIC", outputs=2, **SINGLE), HOW),
        (ml("SVMRegressor", [x], post_transform="LOGISTIC", **REGRESSOR), HOW),
        *((ml("SVMClassifier", [x], post_transform=how, **TWO), HOW) for how in ("SOFTMAX", "SOFTMAX_ZERO", "PROBIT")),
        (ml("SVMClassifier", [x], prob_a=[-1.0], prob_b=[0.1], **TWO), "stops early"),
        (ml("Scaler", [x.reshape(1, 3, 3)], scale=[1.0, 2.0, 3.0], offset=[0.0, 0.0, 0.0]), "rank 3"),
        (ml("Normalizer", [x.reshape(1, 3, 3)], norm="L1"), "rank 3"),
        (ml("LinearRegressor", [x.reshape(1, 3, 3)], **SINGLE), "rank 3"),
    ],
    ids=lambda value: value.op + "-" + value.attrs.get("post_transform", "") if isinstance(value, Case) else "",
)
def test_refusal(case: Case, match: str) -> None:
    with pytest.raises(onnxgrad.NotDifferentiableError, match=match):
        onnxgrad.vjp(make_model(case, np.float32), of=f"y{case.outputs - 1}", wrt="x0")


DOUBLE = ("Scaler", "Normalizer", "ArrayFeatureExtractor", "FeatureVectorizer", "LinearClassifier", "SVMClassifier")


@pytest.mark.parametrize("case", [c for c in CASES if c.op in DOUBLE], ids=lambda case: case.name)
def test_inputs_in_double(case: Case) -> None:
    """The kernels that take float64 compute in float32 all the same; the derivative is float64 as its input is."""
    of, results = f"y{case.outputs - 1}", []
    for dtype in (np.float32, np.float64):
        model = onnxgrad.vjp(make_model(case, dtype), of, "x0", keep_outputs=of)
        session = Runner(model, only_runtime=True)
        feeds = {f"x{i}": a.astype(dtype) for i, a in enumerate(case.inputs) if a is not None and a.dtype == np.float64}
        (seed,) = [v for v in model.graph.input if v.name == f"adj_{of}"]
        shape = [d.dim_value for d in seed.type.tensor_type.shape.dim]
        ct = np.cos(np.arange(np.prod(shape))).reshape(shape)
        kind = np.float64 if seed.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE else np.float32
        results.append(session({**feeds, f"adj_{of}": ct.astype(kind)}))
    np.testing.assert_allclose(results[1][of], results[0][of], atol=1e-6)
    assert results[1]["adj_x0"].dtype == np.float64
    np.testing.assert_allclose(results[1]["adj_x0"], results[0]["adj_x0"], atol=1e-5)


def test_linear_scores_of_many_classes_sum_as_they_should() -> None:
    """Probabilities sum to 1, so the rows of their Jacobian sum to 0."""
    attrs = {"coefficients": w, "intercepts": [0.5, 0.25, -0.3], "classlabels_ints": [4, 5, 7]}
    _, jacobian = points("LinearClassifier", x, outputs=2, post_transform="SOFTMAX", **attrs)
    np.testing.assert_allclose(jacobian["y1"].sum(axis=-3), 0, atol=1e-6)


TREE = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [0, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
}
TREES = [
    ml("TreeEnsembleRegressor", [x], **TREE, nodes_values=[0.5, 0.0, 0.0], target_treeids=[0, 0],
       target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[1.0, 2.0], n_targets=1),
    ml("TreeEnsembleClassifier", [x], **TREE, nodes_values=[0.5, 0.0, 0.0], class_treeids=[0, 0], class_nodeids=[1, 2],
       class_ids=[0, 1], class_weights=[1.0, 2.0], classlabels_int64s=[0, 1], post_transform="LOGISTIC", outputs=2),
]  # fmt: skip


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("case", TREES, ids=lambda case: case.op)
def test_trees_in_every_version(case: Case, version: int) -> None:
    """A tree is constant between its thresholds, also behind a smooth post-transform; and that is said."""
    model = make_model(case, np.float32)
    model.opset_import[1].version = version
    with pytest.warns(onnxgrad.DisconnectedWarning, match="constant between its thresholds"):
        jacobian = onnxgrad.jacobian(model, of=f"y{case.outputs - 1}", wrt="x0")
    found = Runner(jacobian, only_runtime=True)({"x0": x.astype(np.float32)})
    assert not found[f"jac_y{case.outputs - 1}_x0"].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tree_of_version_5(dtype: type) -> None:
    """The operator that took the place of both, in the type of its input."""
    tree = {
        "tree_roots": [0],
        "n_targets": 1,
        "nodes_splits": onnx.numpy_helper.from_array(np.array([0.5], dtype)),
        "nodes_featureids": [0],
        "nodes_modes": onnx.numpy_helper.from_array(np.zeros(1, np.uint8)),
        "nodes_truenodeids": [0],
        "nodes_falsenodeids": [1],
        "nodes_trueleafs": [1],
        "nodes_falseleafs": [1],
        "leaf_targetids": [0, 0],
        "leaf_weights": onnx.numpy_helper.from_array(np.array([1.0, 2.0], dtype)),
    }
    model = make_model(ml("TreeEnsemble", [x], **tree), dtype)
    model.opset_import[1].version = 5
    with pytest.warns(onnxgrad.DisconnectedWarning, match="constant between its thresholds"):
        jacobian = onnxgrad.jacobian(model, of="y0", wrt="x0")
    found = Runner(jacobian, only_runtime=True)({"x0": x.astype(dtype)})
    np.testing.assert_array_equal(found["y0"], np.where(x[:, :1] <= 0.5, 1, 2))
    assert found["jac_y0_x0"].dtype == dtype
    assert not found["jac_y0_x0"].any()


def test_every_version_was_reviewed() -> None:
    """Rules name all versions of an operator; one that nobody read is refused."""
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "ai.onnx.ml":
            rule = REGISTRY.get(f"ai.onnx.ml::{schema.name}")
            assert rule is not None, schema.name
            assert schema.since_version in rule.versions or schema.deprecated, schema.name


def test_unknown_number_of_features() -> None:
    case = ml("FeatureVectorizer", [x, x], inputdimensions=[3, 2])
    with pytest.raises(onnxgrad.NotDifferentiableError, match="number of columns"):
        onnxgrad.vjp(make_model(case, np.float32, dynamic=True))


def test_a_vector_is_one_sample() -> None:
    model = make_model(ml("LinearRegressor", [x[0]], **SINGLE), np.float32, dynamic=True)
    with pytest.raises(onnxgrad.MixedSamplesError, match="single sample"):
        onnxgrad.jacobian(model, batched=True)
