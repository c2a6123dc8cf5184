"""The registry: fit once and score many, rows and settings, features without a head, mistakes."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from score_cases import CASES, CHEAP, OVERRIDES, Case, random_case
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from scores import bank, blocks, common, registry


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_score_all_equals_each_score_alone(case, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(bank, "SIMILARITIES", 2**14)
    states = registry.fit_all(case.train, registry.METHODS, OVERRIDES)
    together = registry.score_all(case.test, states, case.W, case.b)
    assert list(together) == list(registry.METHODS)
    for name, state in states.items():
        alone = registry.METHODS[name].score(case.test, case.logits, state)
        np.testing.assert_allclose(
            together[name], alone, rtol=2e-4, atol=1e-5 * np.abs(alone).mean(), err_msg=name
        )


def test_variants_are_rows_that_are_named_to_be_computed():
    variants = set(registry.METHODS) - set(registry.defaults(rest=True))
    assert variants == {
        "Energy-FullHead",
        "Mahalanobis-LW",
        "RelativeMahalanobis-LW",
        "NECO-NoScaler",
        "NECO-MaxLogit",
        "NECO-ViT",
        "NECO-DeiT",
        "NECO-ETF",
        "GMM",
        "GMM++",
        "CoRP",
        "ActSub",
        "WeiPer+KLD",
    }
    of_neco = {"NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"}
    assert set(registry.CORE) <= set(registry.DEFAULT)
    case = CASES["random"]
    states = registry.fit_all(
        case.train, ["NECO", *of_neco], {"NECO": {"scaler": False}, "NECO-MaxLogit": {"dim": 3}}
    )
    assert states["NECO-NoScaler"].parameters == states["NECO"].parameters
    assert states["NECO-ETF"].parameters == {"dim": 6, "scaler": True, "max_logit": False}
    assert states["NECO-MaxLogit"].parameters == {"dim": 3, "scaler": True, "max_logit": True}


def test_states_of_two_training_sets_may_be_scored_together():
    case, other = CASES["random"], random_case(seed=5)
    states = registry.fit_all(case.train, ["Mahalanobis"]) | registry.fit_all(other.train, ["ViM"])
    for name, values in registry.score_all(case.test, states, case.W, case.b).items():
        alone = registry.METHODS[name].score(case.test, case.logits, states[name])
        np.testing.assert_allclose(values, alone, rtol=2e-4, atol=1e-4)


def test_resolved_parameters_stand_in_the_state():
    case = CASES["random"]
    assert registry.METHODS["ViM"].parameters == {"dim": None}
    assert registry.METHODS["ViM"].fit(case.train).parameters == {"dim": 20}
    assert registry.METHODS["GEN"].fit(case.train).parameters == {"gamma": 0.1, "top": 7}
    neco = registry.METHODS["NECO"].fit(case.train).parameters
    shares = (
        PCA().fit(StandardScaler().fit_transform(case.features)).explained_variance_ratio_.cumsum()
    )
    assert shares[neco["dim"] - 1] >= 0.9 > shares[neco["dim"] - 2]
    states = registry.fit_all(case.train, ["Energy", "MSP"], {"Energy": {"temperature": 3}})
    assert {name: state.parameters for name, state in states.items()} == {
        "Energy": {"temperature": 3.0},
        "MSP": {},
    }


HEADLESS = {
    "Mahalanobis",
    "RelativeMahalanobis",
    "Mahalanobis++",
    "RelativeMahalanobis++",
    "Mahalanobis-LW",
    "RelativeMahalanobis-LW",
    "NECO",
    "NECO-NoScaler",
    "NECO-ETF",
    "CoP",
    "Cosine",
    "WDiscOOD",
    "KNN",
    "GMM",
    "GMM++",
    "CoRP",
}


def test_what_needs_no_head_has_the_same_scores_without_one(case):
    without = {name for name in registry.METHODS if not registry.needs_head(name)}
    assert without == HEADLESS | {"Residual"}  # which has another origin without one
    bare = registry.Training(case.features, case.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        given = {"KNN": {"k": 20}, "CoRP": CHEAP["CoRP"]}
        alone = registry.score_all(case.test, registry.fit_all(bare, HEADLESS, given))
        states = registry.fit_all(case.train, HEADLESS, given)
    for name, values in registry.score_all(case.test, states, case.W, case.b).items():
        np.testing.assert_allclose(
            alone[name], values, rtol=1e-4, atol=1e-5 * np.abs(values).mean(), err_msg=name
        )


def test_what_needs_no_labels_has_the_same_scores_without_them(case):
    bare = registry.Training(case.features, None, case.W, case.b)
    names = [name for name in registry.METHODS if not registry.needs_labels(name)]
    assert "KNN" in names and "ViM" in names and "Mahalanobis" not in names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        alone = registry.fit_all(bare, names, {"KNN": {"k": 20}})
        states = registry.fit_all(case.train, names, {"KNN": {"k": 20}})
    found = registry.score_all(case.test, alone, case.W, case.b)
    for name, values in registry.score_all(case.test, states, case.W, case.b).items():
        close = {"rtol": 1e-4, "atol": 5e-5 * np.nanmean(np.abs(values))}
        np.testing.assert_allclose(found[name], values, **close, err_msg=name)
    with pytest.raises(ValueError, match="Cosine needs the training images' labels"):
        registry.fit_all(bare, ["Cosine"])


def test_labels_alone_name_the_classes():
    case = CASES["random"]
    sparse = registry.Training(case.features, case.labels * 1_000_000_007)
    assert sparse.classes == 7 and sparse.class_means.shape == (7, 40)
    np.testing.assert_array_equal(
        sparse.class_means, registry.Training(case.features, case.labels).class_means
    )
    assert registry.METHODS["NECO-ETF"].fit(sparse).parameters["dim"] == 6
    with pytest.raises(ValueError, match="label -1 in row 2 is below 0"):
        registry.Training(case.features[:3], np.array([0, 1, -1]))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("MSP", {}), ("ViM", {}), ("NECO", {"max_logit": True}), ("NECO-MaxLogit", {})],
)
def test_what_needs_a_head_says_so(name, parameters):
    bare = registry.Training(CASES["random"].features, CASES["random"].labels)
    if name == "NECO-MaxLogit":
        assert registry.needs_head(name)
    with pytest.raises(ValueError, match=f"{name} needs the last layer"):
        registry.fit_all(bare, [name], {name: parameters})


def test_what_needs_the_other_rows_of_a_larger_head_says_so():
    case = CASES["random"]
    needing = {name for name in registry.METHODS if registry.needs_rest(name)}
    assert needing == {"EnergyMargin", "Energy-FullHead"}
    assert set(registry.defaults(rest=True)) - set(registry.DEFAULT) == {"EnergyMargin"}
    assert registry.defaults(rest=False) == list(registry.DEFAULT)
    alone = registry.Training(case.features, case.labels, case.W, case.b)
    with pytest.raises(ValueError, match="EnergyMargin needs the other rows of a larger head"):
        registry.fit_all(alone, ["EnergyMargin"])
    W, b = case.rest
    with pytest.raises(ValueError, match="has 39 weights per class; expected 40"):
        registry.Training(case.features, case.labels, case.W, case.b, rest=(W[:, 1:], b))


def edge(x=None, labels=None, W=None, b=None, test=None, n=60, width=6, classes=3) -> Case:
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    means = rng.normal(size=(classes, width)) * 2
    features = np.maximum(means[y] + rng.normal(size=(n, width)), 0).astype(np.float32)
    head, bias = (means / 3).astype(np.float32), rng.normal(size=classes).astype(np.float32)
    other = np.maximum(rng.normal(size=(30, width)), 0).astype(np.float32)

    def changed(change, value):
        return value if change is None else np.asarray(change(value), value.dtype)

    return Case(
        changed(x, features),
        changed(labels, y),
        changed(W, head),
        changed(b, bias),
        changed(test, other),
    )


NECOS = {"NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ViT", "NECO-DeiT", "NECO-ETF"}
CLASS_GAUSSIANS = {"GMM", "GMM++"}
SUBSPACES = {"ViM", "Residual", "CoP"} | NECOS


RELATIVE = {"RelativeMahalanobis", "RelativeMahalanobis++", "RelativeMahalanobis-LW"}


GAUSSIANS = {"Mahalanobis", "Mahalanobis++", "Mahalanobis-LW"} | RELATIVE


# of the direction of the features
DIRECTED = {
    "CoP",
    "Mahalanobis++",
    "RelativeMahalanobis++",
    "Cosine",
    "CTM",
    "pNML",
    "CORE",
    "KNN",
    "NNGuide",
    "Relation",
    "GMM++",
    "CoRP",
    "ActSub",
}


CONSTANT = SUBSPACES | GAUSSIANS | CLASS_GAUSSIANS | {"CORE", "WDiscOOD", "CoRP"}


EDGES = {  # what is undefined for every image
    "one feature": (
        edge(width=1),
        SUBSPACES | {"Mahalanobis++", "RelativeMahalanobis++", "CORE", "GMM++", "CoRP", "ActSub"},
    ),
    "two classes": (edge(classes=2), set()),
    "one image": (edge(test=lambda rows: rows[:1]), set()),
    "one training image": (edge(n=1, labels=lambda y: [0]), CONSTANT),
    "one image per class": (
        edge(n=3),
        GAUSSIANS | CLASS_GAUSSIANS | {"ViM", "Residual", "CORE", "WDiscOOD"},
    ),
    "fewer images than features": (edge(n=8, width=30), {"ViM", "Residual"}),
    "constant": (edge(x=lambda rows: rows * 0 + 0.1), CONSTANT | {"OptFS", "WeiPer+KLD"}),
    "constant, images too": (
        edge(x=lambda rows: rows * 0 + 0.1, test=lambda rows: rows * 0 + 0.1),
        CONSTANT | {"NCI", "fDBD", "ORA", "OptFS", "WeiPer+KLD", "ActSub"},
    ),
    "zeros": (edge(x=lambda rows: rows * 0), CONSTANT | DIRECTED | {"OptFS", "WeiPer+KLD"}),
    "one class": (
        edge(labels=lambda y: y * 0, test=lambda rows: rows[:3]),
        RELATIVE | {"WDiscOOD"},
    ),
    "no weights": (edge(W=lambda W: W * 0), {"fDBD", "ORA", "CORE", "OptFS"}),
    "full collapse": (
        edge(x=lambda rows: np.eye(6)[np.arange(60) % 3]),
        GAUSSIANS | CLASS_GAUSSIANS | {"ViM", "Residual", "WDiscOOD", "OptFS"},
    ),
    "large": (edge(x=lambda rows: rows * 1e14, test=lambda rows: rows * 1e14), set()),
    # of which the energy is that of the biases
    "small": (edge(x=lambda rows: rows * 1e-14, test=lambda rows: rows * 1e-14), {"CORE"}),
    "large images": (edge(test=lambda rows: rows * 1e14), {"WeiPer+KLD"}),
    "denormal images": (
        edge(test=lambda rows: rows * 1e-39),
        DIRECTED | {"NECO-NoScaler", "NECO-ViT", "NECO-DeiT"},
    ),
    "large head": (edge(W=lambda W: W * 1e14), set()),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_at_the_edge_every_score_is_a_number_or_undefined_for_a_reason(name):
    found, undefined = EDGES[name]
    states = registry.fit_all(found.train, registry.METHODS, CHEAP)
    together = registry.score_all(found.test, states, found.W, found.b)
    for method, values in together.items():
        assert not np.isinf(values).any(), method
        alone = registry.METHODS[method].score(found.test, found.logits, states[method])
        assert not np.isinf(alone).any() and np.isnan(alone).all() == np.isnan(values).all(), method
    empty = {method for method, values in together.items() if np.isnan(values).all()}
    assert empty - {"SHE"} == undefined  # SHE has no pattern where no training image is right
    for method in empty:
        assert (
            states[method].note or registry.METHODS[method].missing
        ) != "its score is not a finite number", method


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1e38, "features reach .*e\\+38, first in row"),
        (1e-40, "no training feature is above"),
        (1e300, "NaN or infinity, first in row"),
    ],
)
def test_features_that_float32_cannot_square_are_refused(factor, said):
    found = edge()
    rows = np.maximum(found.features.astype(np.float64), 0.1) * factor
    with pytest.raises(ValueError, match=said):
        registry.Training(rows, found.labels, found.W, found.b)
    if factor > 1:
        with pytest.raises(ValueError, match=said):
            registry.score_all(rows, registry.fit_all(found.train, ["MSP"]), found.W, found.b)


def test_a_head_whose_products_overflow_is_refused():
    found = edge()
    with pytest.raises(ValueError, match="the head's weights reach"):
        registry.Training(found.features, found.labels, found.W * np.float32(1e30), found.b)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ViM", {"dim": 40}, "ViM: the principal dimension is 40; expected 1 to 39"),
        ("Residual", {"dim": 0}, "Residual: the principal dimension"),
        ("NECO", {"dim": 41}, "NECO: the principal dimension"),
        ("Energy", {"temperature": 0}, "Energy: the temperature is 0"),
        ("Mahalanobis", {"ridge": -1}, "Mahalanobis: the ridge is -1"),
        ("NCI", {"alpha": -0.1}, "NCI: the weight alpha is -0.1; expected at least 0"),
        ("TempScaling", {"temperature": -2}, "TempScaling"),
        ("KNN", {"k": 0}, "KNN: the number of neighbours"),
        ("ReAct", {"percentile": 100}, "ReAct: the percentile"),
        ("ASH-S", {"percentile": -1}, "ASH-S: the percentile"),
        ("GEN", {"top": 0}, "GEN"),
        ("Energy", {"heat": 1}, "Energy has no parameter heat; it has temperature"),
        ("MSP", {"heat": 1}, "MSP has no parameter heat; it has none"),
        ("Vim", {}, "unknown method Vim; expected one of MSP"),
    ],
)
def test_parameter_mistakes_are_explained(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        registry.fit_all(CASES["random"].train, [name], {name: parameters})


def test_scoring_mistakes_are_explained():
    case = CASES["random"]
    states = registry.fit_all(case.train, ["MSP"])
    with pytest.raises(ValueError, match="expected \\(N, 40\\)"):
        registry.score_all(case.test[:, :-1], states, case.W, case.b)
    with pytest.raises(ValueError, match="first in row 1"):
        registry.score_all(
            np.vstack([case.test[:1], np.full((1, 40), np.inf)]), states, case.W, case.b
        )


def test_scoring_never_imports_torch():
    code = "import sys; from scores import registry; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(registry.__file__).parents[1], check=False
        ).returncode
        == 0
    )
    assert common.Fitted is registry.Fitted
