"""Estimators as users have them: methods, frames, costs, weights, curvature, missing numbers; what is refused."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import scipy.sparse
import scipy.special
from sklearn.base import BaseEstimator, TransformerMixin, is_regressor
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor, make_column_selector
from sklearn.datasets import load_iris
from sklearn.decomposition import NMF
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ExpSineSquared, Matern
from sklearn.impute import IterativeImputer, KNNImputer
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, RidgeClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OutputCodeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    LabelEncoder,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR

import onnxgrad
from onnxgrad.errors import ModelReadError
from onnxgrad.importers.sklearn.functions import ELEMENTWISE
from tests.estimators.verdicts import differences

rng = np.random.default_rng(0)
X = rng.normal(size=(30, 3))
Y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 3
IRIS, KINDS = load_iris(return_X_y=True)


# --- what comes out -------------------------------------------------------------------------------


def test_names_and_shapes() -> None:
    f = onnxgrad.load(SVC().fit(IRIS, KINDS), sample=IRIS)
    assert [(port.name, port.shape) for port in f.outputs] == [("predict", ("N",)), ("decision_function", ("N", 3))]
    f = onnxgrad.load(SVC().fit(IRIS[:100], KINDS[:100]), sample=IRIS, method="decision_function")
    assert [(port.name, port.shape) for port in f.outputs] == [("decision_function", ("N", 1))]
    f = onnxgrad.load(Ridge().fit(X, np.stack([Y, -Y], 1)), sample=X)
    assert [(port.name, port.shape) for port in f.outputs] == [("predict", ("N", 2))]


@pytest.mark.parametrize("labels", [["setosa", "versicolor", "virginica"], [1.0, 2.0, 4.0], [-3, 0, 7]])
def test_labels_of_any_type(labels: list[Any]) -> None:
    classifier = LogisticRegression(max_iter=500).fit(IRIS, np.array(labels)[KINDS])
    f = onnxgrad.load(classifier, sample=IRIS)
    np.testing.assert_array_equal(np.asarray(f(IRIS)["predict"]), classifier.predict(IRIS))
    assert f.jacobian(IRIS).shape == (150, 3, 4)


def test_methods_share_what_they_are_computed_from() -> None:
    f = onnxgrad.load(make_pipeline(StandardScaler(), SVC()).fit(IRIS, KINDS), sample=IRIS)
    model = _proto(f)
    names = [tensor.name for tensor in model.graph.initializer]
    assert sum("points" in name for name in names) == 3
    assert sum(node.op_type == "Exp" for node in model.graph.node) == 1
    assert f.jacobian(IRIS[:5], of="decision_function", wrt="svc/dual_coef_").shape[:2] == (5, 3)


def test_several_methods() -> None:
    classifier = LogisticRegression(max_iter=500).fit(IRIS, KINDS)
    f = onnxgrad.load(classifier, sample=IRIS, method=["predict_log_proba", "decision_function"])
    found = f(IRIS)
    np.testing.assert_allclose(found["predict_log_proba"], classifier.predict_log_proba(IRIS), rtol=1e-12)
    np.testing.assert_allclose(found["decision_function"], classifier.decision_function(IRIS), rtol=1e-12, atol=1e-12)
    assert set(f.jacobian(IRIS)) == {"predict_log_proba", "decision_function"}


def test_float32() -> None:
    pipeline = make_pipeline(PolynomialFeatures(2), StandardScaler(), SVR()).fit(X, Y)
    f = onnxgrad.load(pipeline, sample=X.astype(np.float32))
    assert f.inputs[0].dtype == np.float32
    np.testing.assert_allclose(f(X)[:, 0], pipeline.predict(X), rtol=1e-5)
    exact = onnxgrad.load(pipeline, sample=X).jacobian(X)
    np.testing.assert_allclose(f.jacobian(X), exact, atol=1e-5 * np.abs(exact).max())


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_functions_by_name(name: str) -> None:
    function = getattr(np, name, None) or getattr(scipy.special, name)
    x = rng.uniform(0.2, 0.8, size=(20, 2))
    f = onnxgrad.load(FunctionTransformer(function).fit(x), sample=x)
    np.testing.assert_allclose(f(x), function(x), rtol=1e-13, atol=1e-15)
    expected, settled = differences(FunctionTransformer(function).transform, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)  # of steps
        found = f.jacobian(x)
    np.testing.assert_allclose(found[settled], expected[settled], rtol=1e-8, atol=1e-8)
    assert settled.sum() > 10


# --- frames ---------------------------------------------------------------------------------------

FRAME = pd.DataFrame(X, columns=["age", "bmi", "bp"]).assign(sex=["f", "m", "d"] * 10, ward=np.arange(30) % 4)


def test_a_frame_keeps_its_names() -> None:
    numbers = FRAME[["age", "bmi", "bp"]]
    f = onnxgrad.load(make_pipeline(StandardScaler(), SVR()).fit(numbers, Y), sample=numbers)
    np.testing.assert_array_equal(f.jacobian(FRAME[["bp", "age", "bmi", "ward"]]), f.jacobian(numbers))
    found = onnxgrad.sensitivity(f, numbers)
    assert found.features == ("age", "bmi", "bp")


@pytest.mark.parametrize("encoder", [OneHotEncoder(), OrdinalEncoder(), TargetEncoder(cv=2)])
def test_columns_of_several_kinds(encoder: Any) -> None:
    chooser = ColumnTransformer(
        [
            ("n", make_pipeline(StandardScaler(), PolynomialFeatures(2)), ["age", "bp"]),
            ("s", encoder, ["sex"]),
            ("w", encoder, ["ward"]),
        ],
        remainder="passthrough",
    )
    estimator = make_pipeline(chooser, Ridge()).fit(FRAME, Y)
    f = onnxgrad.load(estimator, sample=FRAME)
    assert [port.name for port in f.inputs] == list(FRAME.columns)
    np.testing.assert_allclose(f(FRAME)[:, 0], estimator.predict(FRAME), rtol=1e-7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", onnxgrad.DisconnectedWarning)  # of columns that were dropped
        found = f.jacobian(FRAME)
    for name in ("age", "bmi", "bp"):
        above, below = (estimator.predict(FRAME.assign(**{name: FRAME[name] + s})) for s in (1e-4, -1e-4))
        np.testing.assert_allclose(found[name][:, 0, 0], (above - below) / 2e-4, rtol=1e-6, atol=1e-7)


def test_columns_chosen_by_their_types_inside_of_a_search() -> None:
    chooser = ColumnTransformer(
        [
            ("n", StandardScaler(), make_column_selector(dtype_include=float)),
            ("w", OneHotEncoder(), make_column_selector(dtype_include=int)),
        ]
    )
    search = GridSearchCV(make_pipeline(chooser, Ridge()), {"ridge__alpha": [0.1, 1.0]}, cv=2)
    estimator = TransformedTargetRegressor(search, func=np.log, inverse_func=np.exp).fit(FRAME, Y)
    f = onnxgrad.load(estimator, sample=FRAME)
    assert f.inputs[4].dtype == np.int64
    np.testing.assert_allclose(f(FRAME)[:, 0], estimator.predict(FRAME), rtol=1e-12)
    assert set(f.jacobian(FRAME)) == {"age", "bmi", "bp"}


def test_several_models_of_skl2onnx_in_one() -> None:
    texts = FRAME.assign(kind=["u", "v"] * 15)[["sex", "kind", "age"]]
    encoders = [("s", OneHotEncoder(), ["sex"]), ("k", OneHotEncoder(), ["kind"]), ("o", OrdinalEncoder(), ["sex"])]
    chooser = ColumnTransformer(encoders, remainder="passthrough")
    estimator = make_pipeline(chooser, Ridge()).fit(texts, Y)
    f = onnxgrad.load(estimator, sample=texts)
    assert f.inputs[2].dtype == np.float64
    np.testing.assert_allclose(f(texts)[:, 0], estimator.predict(texts), rtol=1e-7)
    onnx.checker.check_model(_proto(f), full_check=True)


def test_columns_in_another_order() -> None:
    """Columns are found by name, as `fit` knew them."""
    chooser = ColumnTransformer([("n", StandardScaler(), ["age", "bp"])], remainder="drop")
    estimator = make_pipeline(chooser, Ridge()).fit(FRAME, Y)
    other = FRAME[["ward", "bp", "sex", "age", "bmi"]]
    f = onnxgrad.load(estimator, sample=other)
    np.testing.assert_allclose(f(FRAME), f(other), rtol=1e-15)
    np.testing.assert_allclose(f(FRAME)[:, 0], estimator.predict(FRAME), rtol=1e-12)


# --- derivatives a user asks for -------------------------------------------------------------------


def _proto(f: onnxgrad.Function) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        f.save(Path(folder) / "model.onnx")
        return onnx.load(Path(folder) / "model.onnx")


def test_the_gradient_of_a_cost_by_the_weights_vanishes_where_a_fit_ended() -> None:
    """A linear regression is where its squared error is least."""
    estimator = make_pipeline(PolynomialFeatures(2, include_bias=False), LinearRegression()).fit(X, Y)
    f = onnxgrad.load(estimator, sample=X)
    model = onnxgrad.gradient(_proto(f), cost="mse", wrt="weights")
    names = {output.name for output in model.graph.output}
    assert {"grad_cost_linearregression/coef_", "grad_cost_linearregression/intercept_"} <= names
    target = next(i.name for i in model.graph.input if i.name != "X")
    found = onnxgrad.load(model)({"X": X, target: Y[:, None]})
    assert np.abs(found["grad_cost_linearregression/coef_"]).max() < 1e-12
    moved = onnxgrad.load(model)({"X": X, target: Y[:, None] + 1})
    np.testing.assert_allclose(moved["grad_cost_linearregression/intercept_"], [-2.0], rtol=1e-10)


def test_the_gradient_by_the_weights_of_a_network_is_what_training_saw() -> None:
    """One step of gradient descent moves them by the rate times the gradient of half the mean squared error."""
    network = MLPRegressor(
        hidden_layer_sizes=(4,), activation="tanh", solver="sgd", learning_rate_init=1e-3, momentum=0, alpha=0,
        batch_size=30, max_iter=1, random_state=0, warm_start=True,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one step is no training
        network.fit(X, Y)
        f = onnxgrad.load(network, sample=X)
        before = [w.copy() for w in network.coefs_]
        network.fit(X, Y)
    model = onnxgrad.gradient(_proto(f), cost="mse", wrt=["coefs_0", "coefs_1"])
    target = next(i.name for i in model.graph.input if i.name != "X")
    found = onnxgrad.load(model)({"X": X, target: Y[:, None]})
    for i in range(2):
        step = network.coefs_[i] - before[i]
        np.testing.assert_allclose(step, -1e-3 / 2 * found[f"grad_cost_coefs_{i}"], rtol=1e-9, atol=1e-15)


CURVED = {
    "support vectors": make_pipeline(StandardScaler(), SVR()),
    "kernel ridge": KernelRidge(kernel="polynomial"),
    "naive Bayes": GaussianNB(),
    "quadratic discriminants": QuadraticDiscriminantAnalysis(),
    "mixture": GaussianMixture(2, random_state=0),
    "quantiles of the normal distribution": make_pipeline(
        QuantileTransformer(n_quantiles=10, output_distribution="normal"), MLPClassifier((4,), "tanh", max_iter=1)
    ),
    "process of classes": GaussianProcessClassifier(RBF(2.0), optimizer=None),
    "targets": TransformedTargetRegressor(
        make_pipeline(SplineTransformer(), Ridge()), transformer=PowerTransformer(), check_inverse=False
    ),
    "neighbors": KNeighborsRegressor(weights="distance"),
}


@pytest.mark.parametrize("name", CURVED)
def test_second_order(name: str) -> None:
    """Against differences of the Jacobian, at points where it has no kink nearby."""
    estimator = CURVED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one iteration is no training
        estimator.fit(X, Y if is_regressor(estimator) else np.median(Y) < Y)
    method = "score_samples" if name == "mixture" else None
    f = onnxgrad.load(estimator, sample=X, method=method)
    of = f.outputs[-1].name
    index = None if f.outputs[-1].shape[1] == 1 else 1
    at = X[:6] * 0.6 + 0.123
    expected, settled = differences(lambda x: np.reshape(f.jacobian(x, of=of)[:, index or 0], (len(x), 3)), at)
    found = f.hessian(at, of=of, **({} if index is None else {"index": index}))
    assert settled.sum() >= 3
    np.testing.assert_allclose(
        found.reshape(6, 3, 3)[settled], expected[settled], rtol=1e-7, atol=1e-8 * np.abs(expected).max()
    )


@pytest.mark.parametrize("kernel", [Matern(nu=1.5), Matern(nu=2.5), ExpSineSquared(1.0, 9.0)])
@pytest.mark.parametrize("width", [1, 3])
def test_smooth_kernels_have_their_curvature_at_training_points(kernel: Any, width: int) -> None:
    """Where the distance is zero, its own derivative does not exist, and that of the kernel does."""
    x = X[:, :width]
    process = GaussianProcessRegressor(kernel, alpha=1.0, optimizer=None).fit(x, Y)
    f = onnxgrad.load(process, sample=x)
    at = x[:4]
    expected, _ = differences(lambda x: process.predict(x)[:, None], at)
    np.testing.assert_allclose(f.jacobian(at), expected, atol=1e-6)  # kernels with ν = 1.5 have no third derivative
    h = 1e-3
    moved = [(f.jacobian(at + h * e)[:, 0] - f.jacobian(at - h * e)[:, 0]) / (2 * h) for e in np.eye(width)]
    np.testing.assert_allclose(f.hessian(at).reshape(4, width, width), np.stack(moved, -1), atol=2e-2)
    near = f.hessian(at + 1e-7).reshape(4, width, width)
    np.testing.assert_allclose(f.hessian(at).reshape(4, width, width), near, atol=1e-4)


def test_a_power_transform_is_smooth_at_zero() -> None:
    x = X.copy()
    f = onnxgrad.load(PowerTransformer(standardize=False).fit(x), sample=x)
    np.testing.assert_array_equal(f.jacobian(np.zeros((1, 3)))[0], np.eye(3))


def test_neighbors_at_a_point_of_the_data() -> None:
    """The value is that of the point, and the derivative is taken as zero."""
    f = onnxgrad.load(KNeighborsRegressor(weights="distance").fit(X, Y), sample=X)
    np.testing.assert_allclose(f(X)[:, 0], Y, rtol=1e-12)
    assert not f.jacobian(X).any()
    assert f.jacobian(X + 1e-3).any()


@pytest.mark.parametrize("extrapolation", ["constant", "linear", "continue", "periodic"])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_splines_beyond_their_knots(extrapolation: str, degree: int) -> None:
    splines = SplineTransformer(degree=degree, extrapolation=extrapolation).fit(X[:, :1])
    f = onnxgrad.load(splines, sample=X[:, :1])
    far = np.array([[-5.3], [-3.1], [2.9], [6.7]])
    np.testing.assert_allclose(f(far), splines.transform(far), rtol=1e-12, atol=1e-12)
    expected, _ = differences(splines.transform, far)
    np.testing.assert_allclose(f.jacobian(far), expected, rtol=1e-8, atol=1e-8)


# --- missing numbers ------------------------------------------------------------------------------

HOLES = np.where(rng.random(X.shape) < 0.2, np.nan, X)


@pytest.mark.parametrize("kind", [RandomForestRegressor, HistGradientBoostingRegressor])
def test_trees_send_missing_numbers_their_way(kind: Any) -> None:
    model = kind(random_state=0, **({"n_estimators": 5} if kind is RandomForestRegressor else {"max_iter": 3}))
    f = onnxgrad.load(model.fit(HOLES, Y), sample=HOLES)
    np.testing.assert_allclose(f(HOLES)[:, 0], model.predict(HOLES), rtol=1e-14)


def test_imputation_is_exact() -> None:
    for model in (KNNImputer(n_neighbors=2), KNNImputer(weights="distance", add_indicator=True)):
        f = onnxgrad.load(model.fit(HOLES), sample=HOLES)
        np.testing.assert_allclose(f(HOLES), model.transform(HOLES), rtol=1e-10)  # scikit-learn expands the squares


def test_boosting_that_starts_from_a_linear_model_has_its_slope() -> None:
    model = GradientBoostingRegressor(n_estimators=3, init=Ridge(), random_state=0).fit(X, Y)
    f = onnxgrad.load(model, sample=X)
    np.testing.assert_allclose(f.jacobian(X), np.broadcast_to(model.init_.coef_, (30, 1, 3)), rtol=1e-12)


def test_what_skl2onnx_was_told_is_used() -> None:
    import skl2onnx

    def shapes(operator: Any) -> None:
        operator.outputs[0].type.shape = operator.inputs[0].type.shape

    def write(scope: Any, operator: Any, container: Any) -> None:
        names = [v.full_name for v in (operator.inputs[0], operator.outputs[0])]
        container.add_node("Sin", names[0], names[1], name=scope.get_unique_operator_name("Sin"))

    skl2onnx.update_registered_converter(Waves, "TestWaves", shapes, write)
    try:
        f = onnxgrad.load(make_pipeline(StandardScaler(), Waves(), Ridge()).fit(X, Y), sample=X)
    finally:
        from skl2onnx._supported_operators import sklearn_operator_name_map

        del sklearn_operator_name_map[Waves]
    assert np.abs(f.jacobian(X)).max() > 0.1


class Waves(TransformerMixin, BaseEstimator):
    """A transformer of one's own."""

    def fit(self, x: Any, y: Any = None) -> Waves:
        self.n_features_in_ = x.shape[1]
        return self

    def transform(self, x: Any) -> Any:
        return np.sin(x)


class Doubled(Ridge):
    """What derives from a class of scikit-learn may compute something else."""

    def predict(self, x: Any) -> Any:
        return 2 * super().predict(x)


LETTERS = np.array(["a", "b", "c"])[np.digitize(Y, np.quantile(Y, [0.3, 0.7]))]
CODES = rng.integers(0, 3, size=(30, 2)).astype(float)
FURTHER = {
    "imputer in turns": (IterativeImputer(skip_complete=True, max_iter=2, add_indicator=True), HOLES, None),
    "imputer from two": (IterativeImputer(n_nearest_features=2, max_iter=2, random_state=0, max_value=1), HOLES, None),
    "encoder of several classes": (TargetEncoder(cv=2), CODES, LETTERS),
    "discriminants by eigenvalues": (QuadraticDiscriminantAnalysis(solver="eigen", shrinkage=0.1), X, LETTERS),
    "no outliers": (RadiusNeighborsClassifier(3.0), X, LETTERS),
    "constant label": (DummyClassifier(strategy="constant", constant="b"), X, LETTERS),
    "fitted on a sparse matrix": (SVC(), scipy.sparse.csr_matrix(X), LETTERS),
    "stack of labels": (
        StackingClassifier([("a", SVC()), ("b", RidgeClassifier())], cv=2, stack_method="predict"), X, LETTERS
    ),
    "votes": (
        VotingClassifier([("a", SVC()), ("b", GaussianNB()), ("c", RidgeClassifier())], weights=[2, 1, 1.5]), X, LETTERS
    ),
    "codes": (OutputCodeClassifier(SVC(), random_state=0), X, LETTERS),
    "several trees": (RandomForestRegressor(3, random_state=0), X, X[:, :2]),
    "boosting from zero": (GradientBoostingClassifier(init="zero", n_estimators=3), X, LETTERS),
    "missing classes in bags": (
        BaggingClassifier(GaussianNB(), max_features=0.7, max_samples=0.2, n_estimators=4, random_state=0), X, LETTERS
    ),
    "missing numbers of splines": (SplineTransformer(handle_missing="zeros"), HOLES, None),
}  # fmt: skip


@pytest.mark.parametrize("name", FURTHER)
def test_further_choices(name: str) -> None:
    estimator, x, y = FURTHER[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that are not at their end
        estimator.fit(x, y)
        x = x.toarray() if scipy.sparse.issparse(x) else x
        method = "transform" if y is None or name.startswith("encoder") else "predict"
        f = onnxgrad.load(estimator, sample=x, method=method)
        expected = getattr(estimator, method)(x)
    if expected.dtype.kind == "U":
        np.testing.assert_array_equal(np.asarray(f(x)), expected)
    else:
        np.testing.assert_allclose(f(x), expected, rtol=1e-10, atol=1e-13)


# --- refusals -------------------------------------------------------------------------------------


def _old_boosting() -> Any:
    """As scikit-learn 1.5 made it."""
    model = AdaBoostClassifier(n_estimators=2, random_state=0).fit(IRIS, KINDS)
    model.algorithm = "SAMME.R"
    return model


def _damaged() -> Any:
    model = Ridge().fit(X, Y)
    del model.coef_
    return model


TEXTS = ["one two", "two three", "three four five"] * 10

REFUSED = {
    "class": (Ridge, X, None, "Ridge is a class of scikit-learn; give a fitted object of it"),
    "not fitted": (make_pipeline(StandardScaler(), Ridge()), X, None, "this Pipeline is not fitted"),
    "no sample": (Ridge().fit(X, Y), None, None, r"the input of this Ridge is not known; .*sample=X\[:10\]"),
    "one row": (Ridge().fit(X, Y), X[0], None, r"the sample has shape \[3\]; it must be rows of features"),
    "width": (Ridge().fit(X, Y), X[:, :2], None, "the sample has 2 features, and this Ridge was fitted on 3"),
    "sparse": (
        Ridge().fit(X, Y), scipy.sparse.csr_matrix(X), None, r"a sparse matrix, and ONNX has none; .*\.toarray\(\)"
    ),
    "texts": (
        make_pipeline(TfidfVectorizer(), Ridge()).fit(TEXTS, Y), TEXTS, None,
        "step 'tfidfvectorizer' of this Pipeline, a TfidfVectorizer, cannot be converted: it makes sparse counts of "
        "texts .*; convert the steps behind it",
    ),
    "texts alone": (CountVectorizer().fit(TEXTS), TEXTS, None, "this CountVectorizer cannot be converted: it makes"),
    "labels": (LabelEncoder().fit(KINDS), KINDS, None, "it takes labels, not features; leave it out of the model"),
    "step": (
        make_pipeline(PolynomialFeatures(2), NMF(2, max_iter=3, tol=1), Ridge()).fit(np.abs(X), Y), np.abs(X), None,
        "step 'nmf' of this Pipeline, a NMF, cannot be converted: its codes come from iterations .*; use PCA",
    ),
    "step in a union": (
        make_pipeline(FeatureUnion([("b", FunctionTransformer(lambda x: x))])).fit(X, Y), X, None,
        "step 'featureunion/b' of this Pipeline, a FunctionTransformer, cannot be converted: it applies '<lambda>'",
    ),
    "target": (
        TransformedTargetRegressor(Ridge(), func=np.cbrt, inverse_func=lambda y: y**3).fit(X, Y),
        X, None, "step 'transformer' of this TransformedTargetRegressor, .* it applies '<lambda>', which is not known",
    ),
    "own class": (
        make_pipeline(StandardScaler(), Waves(), Ridge()).fit(X, Y), X, None,
        "step 'waves' of this Pipeline, a Waves, cannot be converted: skl2onnx .* no converter for it; replace",
    ),
    "derived class": (Doubled().fit(X, Y), X, None, "this Doubled cannot be converted: skl2onnx cannot convert it"),
    "kernel": (SVR(kernel=lambda a, b: a @ b.T).fit(X, Y), X, None, "its kernel is a function; name one that scikit"),
    "metric": (
        KNeighborsRegressor(weights=lambda d: np.exp(-d)).fit(X, Y), X, None, "its weights are a function; use weights="
    ),
    "method": (Ridge().fit(X, Y), X, "predict_proba", "this Ridge has no method 'predict_proba' .*; it has predict$"),
    "no such method": (Ridge().fit(X, Y), X, "fit", "this Ridge has no method 'fit' to compute; it has predict$"),
    "frame": (
        make_pipeline(ColumnTransformer([("a", StandardScaler(), ["age"])]), Ridge()).fit(FRAME, Y), X, None,
        "the sample has 3 features, and this Pipeline was fitted on 5",
    ),
    "algorithm": (_old_boosting(), IRIS, None, "fitted with algorithm='SAMME.R', which is not known; fit it with alg"),
    "random labels": (
        DummyClassifier(strategy="uniform").fit(IRIS, KINDS), IRIS, None,
        "strategy='uniform' draws labels at random; ask for its predict_proba",
    ),
    "kernel parameters": (
        Nystroem(kernel_params={"gamma": 2.0}, n_components=5).fit(X), X, None, "its kernel has kernel_params; give",
    ),
    "missing category": (
        OrdinalEncoder().fit([[1.0], [np.nan]]), np.array([[1.0], [np.nan]]), None,
        "this OrdinalEncoder computes something else: on the sample it is no number where `tr",
    ),
    "damaged": (_damaged(), X, None, r"this Ridge cannot be converted: it is not as scikit-learn leaves it .*'coef_'"),
    "numbers wanted": (
        make_pipeline(ColumnTransformer([("a", "passthrough", ["sex"])]), FunctionTransformer()).fit(FRAME), FRAME,
        "transform", "it takes numbers, and is given texts; encode them first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    estimator, sample, method, words = REFUSED[name]
    with pytest.raises(ModelReadError, match=words):
        onnxgrad.load(estimator, sample=sample, method=method)


def test_a_method_is_of_use_with_estimators_only() -> None:
    with pytest.raises(ModelReadError, match=r"method='predict' is of use only with an estimator of scikit-learn, and"):
        onnxgrad.load("model.onnx", method="predict")


def test_dense_grids_of_steps_say_that_they_are_steps() -> None:
    f = onnxgrad.load(RandomForestRegressor(3, random_state=0).fit(X, Y), sample=X)
    with pytest.warns(onnxgrad.DisconnectedWarning, match="a tree is constant between its thresholds"):
        assert not f.jacobian(X).any()
