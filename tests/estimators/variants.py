"""The choices that change a formula, one line each: what is made, fitted on what, and the method to look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.gaussian_process import kernels

from tests.estimators.cases import KINDS, Case

#: Estimator; then in any order data (`cases.LABELED`), target (`Case.target`), and method, each after its letter.
LINES = """
AdaBoostRegressor(Ridge(), n_estimators=3, random_state=0)
AdaBoostClassifier(LogisticRegression(), n_estimators=3, random_state=0) t:two m:decision_function
ARDRegression() m:predict_std
AdditiveChi2Sampler(sample_steps=3) d:positive
BaggingClassifier(SVC(), n_estimators=3, random_state=0)
BaggingClassifier(SVC(), n_estimators=3, random_state=0) m:decision_function
BaggingRegressor(MLPRegressor(hidden_layer_sizes=(3,), max_iter=3), n_estimators=2, max_features=2, random_state=0)
BayesianGaussianMixture(n_components=2, covariance_type="diag", random_state=0) m:score_samples
BayesianRidge() m:predict_std
CCA(n_components=1) t:several m:transform
CalibratedClassifierCV(LogisticRegression(), cv=2, method="isotonic")
CalibratedClassifierCV(LogisticRegression(), cv=2, method="temperature")
CalibratedClassifierCV(GaussianNB(), cv=2, method="temperature")
CalibratedClassifierCV(SVC(), cv=2, ensemble=False) t:two
CalibratedClassifierCV(RidgeClassifier(), cv=2, method="isotonic") t:two
ClassifierChain(LogisticRegression(), order=[1, 0]) t:labels m:decision_function
ColumnTransformer([("a", MinMaxScaler(), [0]), ("b", "drop", [1])], remainder="passthrough")
ColumnTransformer([("a", StandardScaler(), [2])], transformer_weights={"a": 2.0})
DictionaryLearning(max_iter=3, random_state=0)
DummyClassifier(strategy="uniform")
DummyClassifier(strategy="stratified")
EllipticEnvelope(random_state=0) m:score_samples
FactorAnalysis(2) m:score_samples
FastICA(whiten=False, random_state=0)
FeatureAgglomeration(2, pooling_func=np.max)
FeatureAgglomeration(2, pooling_func=np.median)
FunctionTransformer(np.exp, inverse_func=np.log) d:positive m:inverse_transform
FunctionTransformer(lambda x: x)
GaussianMixture(2, covariance_type="tied", random_state=0) m:score_samples
GaussianMixture(2, covariance_type="diag", random_state=0)
GaussianMixture(2, covariance_type="spherical", random_state=0) m:score_samples
GaussianNB() m:predict_log_proba
GaussianNB() m:predict_joint_log_proba
GaussianProcessClassifier(Matern(nu=1.5)) t:two
GaussianProcessRegressor(RBF([1, 2, 3]), alpha=0.1, normalize_y=True)
GaussianProcessRegressor(RBF(), alpha=0.1, normalize_y=True) m:predict_std
GaussianProcessRegressor(RBF(), alpha=0.1, normalize_y=True) t:several
GaussianProcessRegressor(Matern(nu=0.5), alpha=0.1)
GaussianProcessRegressor(Matern(nu=1.5), alpha=0.1)
GaussianProcessRegressor(Matern(nu=2.5), alpha=0.1) m:predict_std
GaussianProcessRegressor(Matern(nu=np.inf), alpha=0.1)
GaussianProcessRegressor(Matern(nu=2.1), alpha=0.1, optimizer=None)
GaussianProcessRegressor(RationalQuadratic(), alpha=0.1)
GaussianProcessRegressor(ExpSineSquared(2, 9), alpha=1.0, optimizer=None)
GaussianProcessRegressor(ExpSineSquared(1, 3), alpha=0.1) d:line
GaussianProcessRegressor(DotProduct() ** 2 + WhiteKernel(), alpha=0.1) m:predict_std
GaussianProcessRegressor(2.0 * RBF() + WhiteKernel(), alpha=0.1) m:predict_std
GaussianProcessRegressor(PairwiseKernel(metric="laplacian"), alpha=0.1)
GaussianProcessRegressor(PairwiseKernel(metric="linear"), alpha=0.1, optimizer=None) m:predict_std
GaussianProcessRegressor(PairwiseKernel(metric="polynomial"), alpha=0.1, optimizer=None)
GaussianProcessRegressor(PairwiseKernel(metric="chi2"), alpha=0.1, optimizer=None) d:positive m:predict_std
GaussianProcessRegressor(PairwiseKernel(metric="cosine"), alpha=0.1, optimizer=None)
GradientBoostingClassifier(n_estimators=3, loss="exponential", random_state=0) t:two
GridSearchCV(SVC(), {"C": [1.0, 2.0]}, cv=2)
HistGradientBoostingRegressor(loss="poisson", max_iter=3)
HistGradientBoostingClassifier(max_iter=3) t:two m:decision_function
IncrementalPCA(2, whiten=True)
IsotonicRegression(out_of_bounds="nan") d:line
KBinsDiscretizer(3, encode="ordinal", quantile_method="averaged_inverted_cdf")
KBinsDiscretizer(3, encode="onehot", quantile_method="averaged_inverted_cdf")
KNNImputer(n_neighbors=3, weights="distance") d:holes
KNeighborsClassifier()
KNeighborsRegressor(weights="distance", metric="manhattan")
KNeighborsRegressor(weights="distance", metric="chebyshev")
KNeighborsRegressor(weights="distance", p=3) t:several
KNeighborsRegressor()
KNeighborsRegressor(weights="distance", metric="cosine", algorithm="brute")
KNeighborsRegressor(weights="distance", metric="canberra")
KernelDensity(kernel="exponential")
KernelDensity(bandwidth=2.0, kernel="tophat")
KernelDensity(bandwidth=2.0, kernel="epanechnikov")
KernelDensity(bandwidth=2.0, kernel="linear")
KernelDensity(bandwidth=2.0, kernel="cosine")
KernelPCA(2, kernel="cosine")
KernelPCA(2, kernel="poly", gamma=0.5)
KernelRidge(kernel="rbf", gamma=0.5) t:several
KernelRidge(kernel="polynomial")
KernelRidge(kernel="laplacian")
KernelRidge(kernel="chi2", gamma=0.5) d:positive
KernelRidge(kernel="additive_chi2") d:positive
KernelRidge(kernel="sigmoid", gamma=0.1)
KernelRidge(kernel="cosine")
LabelSpreading(kernel="knn")
LinearDiscriminantAnalysis() m:transform
LinearDiscriminantAnalysis(solver="eigen") m:transform
LinearDiscriminantAnalysis(solver="lsqr") t:two
LinearSVC() t:two
LocalOutlierFactor(novelty=True, metric="manhattan") m:score_samples
LogisticRegression() t:two
LogisticRegression() m:predict_log_proba
LogisticRegression(solver="liblinear") t:two
MLPClassifier((4,), max_iter=3, random_state=0) t:two
MLPClassifier((4,), activation="logistic", max_iter=3, random_state=0) t:labels
MLPRegressor(hidden_layer_sizes=(4, 3), activation="logistic", max_iter=3, random_state=0) t:several
MLPRegressor(hidden_layer_sizes=(4,), activation="relu", max_iter=3, random_state=0)
MaxAbsScaler() m:inverse_transform
MinMaxScaler(clip=True)
MinMaxScaler((-1, 1)) m:inverse_transform
MultiOutputRegressor(Pipeline([("a", StandardScaler()), ("b", Ridge())])) t:several
NearestCentroid() t:two m:decision_function
NearestCentroid(metric="manhattan")
NearestCentroid() m:predict_log_proba
Normalizer("l1")
Normalizer("max")
NuSVC(kernel="sigmoid", nu=0.3) t:two
Nystroem(kernel="laplacian", n_components=5, random_state=0)
OneClassSVM(kernel="poly") m:score_samples
OneHotEncoder(drop="if_binary", handle_unknown="ignore", sparse_output=False) d:codes
OneVsOneClassifier(LinearSVC()) t:two
OneVsOneClassifier(GaussianNB())
OneVsRestClassifier(SVC()) m:decision_function
OneVsRestClassifier(LogisticRegression()) t:labels
PCA(2, whiten=True)
PCA(2) m:score_samples
PCA(3, whiten=True) m:inverse_transform
PLSRegression() m:transform t:several
PLSCanonical() m:transform t:several
Pipeline([("a", PolynomialFeatures(2)), ("b", NMF(2, max_iter=3)), ("c", Ridge())]) d:positive
Pipeline([("a", StandardScaler()), ("b", "passthrough"), ("c", SVC())])
PolynomialCountSketch(degree=3, coef0=1, n_components=6, random_state=0)
PolynomialFeatures(3, interaction_only=True, include_bias=False)
PolynomialFeatures((2, 3))
PowerTransformer("box-cox", standardize=False) d:positive
PowerTransformer() m:inverse_transform
PowerTransformer("box-cox") d:positive m:inverse_transform
QuadraticDiscriminantAnalysis() t:two m:decision_function
QuadraticDiscriminantAnalysis() m:predict_log_proba
QuantileTransformer(n_quantiles=20, output_distribution="normal")
QuantileTransformer(n_quantiles=20, output_distribution="normal") m:inverse_transform
RFE(SVC(kernel="linear"), n_features_to_select=2) m:decision_function
RadiusNeighborsClassifier(2.0, outlier_label=0)
RandomForestClassifier(3, random_state=0) t:labels
RegressorChain(Ridge(), order=[1, 0]) t:several
RidgeClassifier() t:two
RobustScaler(with_centering=False) m:inverse_transform
SGDClassifier(loss="log_loss", random_state=0)
SGDClassifier(loss="modified_huber", alpha=1.0, random_state=0)
SGDClassifier(loss="modified_huber", alpha=1.0, random_state=0) t:two
SVC() t:two
SVC(kernel="linear", decision_function_shape="ovo")
SVC(kernel="poly", break_ties=True)
SVC(probability=True, random_state=0) m:predict_proba
SVR(kernel="poly", degree=2)
SVR(kernel="sigmoid")
SVR(kernel="linear")
SimpleImputer(strategy="median", add_indicator=True) d:holes
SparseCoder(np.eye(3)[:2], transform_algorithm="threshold", split_sign=True)
SplineTransformer(degree=2, extrapolation="linear", include_bias=False)
SplineTransformer(extrapolation="periodic")
SplineTransformer(extrapolation="continue")
SplineTransformer(degree=1, extrapolation="linear", knots="quantile")
SplineTransformer(degree=1, extrapolation="linear", knots="quantile") d:line
SplineTransformer(degree=1, knots="quantile")
SplineTransformer(extrapolation="error")
StackingClassifier([("a", SVC()), ("b", KNeighborsClassifier(weights="distance"))], cv=2)
StackingClassifier([("a", GaussianNB())], cv=2, stack_method="predict_proba") t:two
StandardScaler() m:inverse_transform
TransformedTargetRegressor(SVR(), transformer=PowerTransformer())
TransformedTargetRegressor(KernelRidge(), transformer=QuantileTransformer(n_quantiles=20, output_distribution="normal"))
TransformedTargetRegressor(Ridge(), transformer=MinMaxScaler())
TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=np.square)
TransformedTargetRegressor(Ridge(), func=np.sqrt, inverse_func=lambda y: y**2, check_inverse=False)
TweedieRegressor(power=1.5)
TweedieRegressor(power=0, link="identity")
VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())])
VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft") m:transform
VotingRegressor([("a", SVR()), ("b", "drop")]) m:transform
"""


_NOTES = {"two": ", two classes", "several": ", several targets", "labels": ", several labels", "line": ", one feature"}


def variants() -> Iterator[Case]:
    """Yield a case for each line."""
    names = {**KINDS, **{k: v for k, v in vars(kernels).items() if k[0].isupper()}, "np": np}
    for line in LINES.strip().splitlines():
        text = line.split(" ")
        options = dict(word.split(":", 1) for word in text if word[:2] in ("d:", "t:", "m:"))
        code = " ".join(word for word in text if word[:2] not in ("d:", "t:", "m:"))
        kind, _, arguments = code.partition("(")
        note = _NOTES.get(options.get("t", ""), "") + _NOTES.get(options.get("d", ""), "")
        yield Case(
            kind, arguments.rpartition(")")[0], lambda code=code: eval(code, names), options.get("d", "X"),
            options.get("t", ""), options.get("m"), note,
        )  # fmt: skip
