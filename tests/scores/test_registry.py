"""scores: hand-computed cases, a slow float64 restatement of every method, scikit-learn,
pytorch-ood, hazards, guards.

`python tests/test_scores.py <folder>` runs the comparison with pytorch-ood on a folder of real
features (head.csv, ID_*_train.csv and one more feature CSV) and prints the largest difference of
each method."""

import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scores import activation, blocks, geometry, neighbours, registry

OVERRIDES = {
    "KNN": {"k": 20},
    "TempScaling": {"temperature": 2.5},
    "ViM": {"dim": 12},
    "Residual": {"dim": 12},
}


@dataclass(frozen=True)
class Case:
    """Training features and labels, a head, and features to score."""

    features: np.ndarray
    labels: np.ndarray
    W: np.ndarray
    b: np.ndarray
    test: np.ndarray

    @property
    def train(self) -> registry.Training:
        return registry.Training(self.features, self.labels, self.W, self.b)

    @property
    def logits(self) -> np.ndarray:
        return registry.compute_logits(self.test, self.W, self.b)

    def score(self, name, **parameters) -> np.ndarray:
        return registry.METHODS[name].score(
            self.test, self.logits, registry.METHODS[name].fit(self.train, **parameters)
        )


def random_case(n=600, width=40, classes=7, seed=0, spread=1.0) -> Case:
    """ReLU features around class means, a least-squares head, and half ID, half unrelated images to
    score."""
    rng = np.random.default_rng(seed)
    means, labels = rng.normal(0.5, 1, (classes, width)), rng.integers(0, classes, n)
    mixing = rng.normal(0, spread, (width, width)) * np.geomspace(0.1, 0.5, width)
    features = np.maximum(means[labels] + rng.normal(size=(n, width)) @ mixing, 0).astype(
        np.float32
    )
    targets = 8 * np.eye(classes)[labels]
    solution = np.linalg.lstsq(np.column_stack([features, np.ones(n)]), targets, rcond=None)[
        0
    ].astype(np.float32)
    fresh = np.maximum(
        means[rng.integers(0, classes, 80)] + rng.normal(size=(80, width)) @ mixing, 0
    )
    other = np.maximum(rng.normal(0.3, 1.2, (70, width)), 0)
    test = np.vstack([fresh, other]).astype(np.float32)
    return Case(features, labels, solution[:-1].T.copy(), solution[-1].copy(), test)


def digits_case() -> Case:
    """Penultimate ReLU features of a small network on real digits, two of them held out as OOD;
    some units are dead."""
    images, labels = load_digits(return_X_y=True)
    known, images = labels < 8, images / 16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few epochs are enough
        network = MLPClassifier((48,), max_iter=25, random_state=0).fit(
            images[known][:1000], labels[known][:1000]
        )
    features = np.maximum(images @ network.coefs_[0] + network.intercepts_[0], 0).astype(np.float32)
    test = np.vstack([features[known][1000:1200], features[~known][:200]])
    W, b = network.coefs_[1].T.astype(np.float32), network.intercepts_[1].astype(np.float32)
    return Case(features[known][:1000], labels[known][:1000], W, b, test)


CASES = {"random": random_case(), "digits": digits_case()}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


# ---- slow restatements: float64, one image or class at a time, straight from the papers ----


def softmax64(logits):
    return special.softmax(logits.astype(np.float64), axis=1)


def slow_gen(case, x, logits):
    return [
        -sum(p**0.1 * (1 - p) ** 0.1 for p in np.sort(row)[::-1][:100]) for row in softmax64(logits)
    ]


def slow_kl_matching(case, x, logits):
    train = softmax64(case.features.astype(np.float64) @ case.W.T + case.b)
    predicted = train.argmax(axis=1)
    typical = [train[predicted == k].mean(axis=0) for k in np.unique(predicted)]
    return [-min(special.rel_entr(row, d).sum() for d in typical) for row in softmax64(logits)]


def slow_gradnorm(case, x, logits):
    gaps = softmax64(logits) - 1 / logits.shape[1]
    return [np.abs(np.outer(gap, row)).sum() for gap, row in zip(gaps, x, strict=True)]


def energy64(case, x):
    return special.logsumexp(x @ case.W.T.astype(np.float64) + case.b, axis=1)


def slow_shaped(case, x, kind, percentile):
    shaped = []
    for row in x:
        kept = len(row) - round(len(row) * percentile / 100)
        order = np.argsort(row)[::-1][:kept]
        pruned = np.zeros_like(row)
        pruned[order] = row[order]
        factor = np.exp(row.sum() / pruned.sum())
        binary = np.zeros_like(row)
        binary[order] = row.sum() / kept
        shaped.append({"P": pruned, "B": binary, "S": pruned * factor, "SCALE": row * factor}[kind])
    return energy64(case, np.array(shaped))


def slow_dice(case, x, logits):
    contribution = case.W * case.features.astype(np.float64).mean(axis=0)
    kept = contribution > np.quantile(contribution, 0.9)
    return special.logsumexp(x @ (case.W * kept).T + case.b, axis=1)


def squared_distances(x, mean, precision):
    return np.array([(row - mean) @ precision @ (row - mean) for row in x])


def class_gaussians(case):
    z = case.features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in np.unique(case.labels)])
    centred = z - means[np.searchsorted(np.unique(case.labels), case.labels)]
    return means, np.linalg.pinv(
        EmpiricalCovariance().fit(centred).covariance_, rcond=1e-6, hermitian=True
    )


def slow_mahalanobis(case, x, logits):
    means, precision = class_gaussians(case)
    return -np.min([squared_distances(x, mean, precision) for mean in means], axis=0)


def slow_relative_mahalanobis(case, x, logits):
    whole = EmpiricalCovariance().fit(case.features.astype(np.float64))
    precision = np.linalg.pinv(whole.covariance_, rcond=1e-6, hermitian=True)
    return slow_mahalanobis(case, x, logits) + squared_distances(x, whole.location_, precision)


def slow_residual(case, x, dim=12):
    u = -np.linalg.pinv(case.W.astype(np.float64), rcond=1e-6) @ case.b
    moments = EmpiricalCovariance(assume_centered=True).fit(case.features - u).covariance_
    values, vectors = np.linalg.eig(moments)
    null = vectors[:, np.argsort(values)[::-1][dim:]].real
    return np.linalg.norm((x - u) @ null, axis=1)


def slow_vim(case, x, logits):
    z = case.features.astype(np.float64)
    alpha = (z @ case.W.T + case.b).max(axis=1).mean() / slow_residual(case, z).mean()
    return energy64(case, x) - alpha * slow_residual(case, x)


def slow_neco(case, x, logits, scaler=True, max_logit=False, dim=None):
    z = case.features.astype(np.float64)
    if scaler:
        standard = StandardScaler().fit(z)
        z, x = standard.transform(z), standard.transform(x)
    pca = PCA().fit(z)
    dim = dim or int(np.argmax(np.cumsum(pca.explained_variance_ratio_) >= 0.9)) + 1
    share = np.linalg.norm(pca.transform(x)[:, :dim], axis=1) / np.linalg.norm(x, axis=1)
    return share * logits.max(axis=1) if max_logit else share


def slow_nci(case, x, logits):
    mean = case.features.astype(np.float64).mean(axis=0)
    return [
        case.W[k] @ (row - mean) / np.linalg.norm(row - mean) + 1e-4 * np.abs(row).sum()
        for row, k in zip(x, logits.argmax(axis=1), strict=True)
    ]


def slow_fdbd(case, x, logits):
    mean, values = case.features.astype(np.float64).mean(axis=0), []
    for row, outputs in zip(x, x @ case.W.T + case.b, strict=True):
        k = outputs.argmax()
        others = [c for c in range(len(outputs)) if c != k]
        distances = [
            (outputs[k] - outputs[c]) / np.linalg.norm(case.W[k] - case.W[c]) for c in others
        ]
        values.append(np.mean(distances) / np.linalg.norm(row - mean))
    return values


def slow_she(case, x, logits):
    predicted = (case.features @ case.W.T + case.b).argmax(axis=1)
    right = predicted == case.labels
    return [
        row @ case.features[right & (case.labels == k)].astype(np.float64).mean(axis=0)
        for row, k in zip(x, logits.argmax(axis=1), strict=True)
    ]


def unit64(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def slow_knn(case, x, logits):
    return (
        -NearestNeighbors(n_neighbors=20).fit(unit64(case.features)).kneighbors(unit64(x))[0][:, -1]
    )


def slow_nnguide(case, x, logits):
    bank = unit64(case.features.astype(np.float64)) * energy64(case, case.features)[:, None]
    guidance = [np.sort(bank @ row)[-10:].mean() for row in unit64(x)]
    return np.array(guidance) * energy64(case, x)


def slow_relation(case, x, logits):
    bank, train = (
        unit64(case.features.astype(np.float64)),
        softmax64(case.features @ case.W.T + case.b),
    )
    values = []
    for row, p in zip(unit64(x), softmax64(logits), strict=True):
        edges = np.maximum(bank @ row, 0) * (train @ p)
        values.append(edges[edges > 0.03].sum())
    return values


SLOW = {
    "MSP": lambda case, x, logits: softmax64(logits).max(axis=1),
    "MaxLogit": lambda case, x, logits: (x @ case.W.T + case.b).max(axis=1),
    "Energy": lambda case, x, logits: energy64(case, x),
    "Entropy": lambda case, x, logits: -special.entr(softmax64(logits)).sum(axis=1),
    "GEN": slow_gen,
    "TempScaling": lambda case, x, logits: softmax64(logits / 2.5).max(axis=1),
    "KLMatching": slow_kl_matching,
    "GradNorm": slow_gradnorm,
    "ReAct": lambda case, x, logits: energy64(
        case, np.minimum(x, np.percentile(case.features, 90))
    ),
    "ASH-P": lambda case, x, logits: slow_shaped(case, x, "P", 65),
    "ASH-B": lambda case, x, logits: slow_shaped(case, x, "B", 65),
    "ASH-S": lambda case, x, logits: slow_shaped(case, x, "S", 90),
    "SCALE": lambda case, x, logits: slow_shaped(case, x, "SCALE", 85),
    "DICE": slow_dice,
    "Mahalanobis": slow_mahalanobis,
    "RelativeMahalanobis": slow_relative_mahalanobis,
    "ViM": slow_vim,
    "Residual": lambda case, x, logits: -slow_residual(case, x),
    "NECO": slow_neco,
    "NECO-NoScaler": lambda case, x, logits: slow_neco(case, x, logits, scaler=False),
    "NECO-MaxLogit": lambda case, x, logits: slow_neco(case, x, logits, max_logit=True),
    "NECO-ETF": lambda case, x, logits: slow_neco(case, x, logits, dim=len(case.W) - 1),
    "NCI": slow_nci,
    "fDBD": slow_fdbd,
    "SHE": slow_she,
    "KNN": slow_knn,
    "NNGuide": slow_nnguide,
    "Relation": slow_relation,
}


def test_every_method_has_a_slow_restatement():
    assert set(SLOW) == set(registry.METHODS)
    assert set(registry.CORE) <= set(registry.METHODS)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", SLOW)
def test_agrees_with_the_slow_restatement(case, name):
    found = case.score(name, **OVERRIDES.get(name, {}))
    expected = np.asarray(SLOW[name](case, case.test.astype(np.float64), case.logits))
    assert found.dtype == np.float64
    assert found.shape == (len(case.test),)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).mean())


@pytest.mark.parametrize("parameters", [{"scaler": False}, {"max_logit": True}, {"dim": 5}])
def test_neco_switches_agree_with_scikit_learn(parameters):
    case = CASES["random"]
    expected = slow_neco(case, case.test.astype(np.float64), case.logits, **parameters)
    np.testing.assert_allclose(case.score("NECO", **parameters), expected, rtol=1e-4)


# ---- pytorch-ood ----


def pytorch_ood_scores(case: Case, k: int, dim: int) -> dict[str, np.ndarray]:
    """Scores of pytorch-ood 0.4, brought to our sign and scale: {name: (N,)}."""
    torch = pytest.importorskip("torch")
    detector = pytest.importorskip("pytorch_ood.detector")
    head = torch.nn.Linear(*case.W.shape[::-1])
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(case.W))
        head.bias.copy_(torch.from_numpy(case.b))
    z, y, x = (
        torch.from_numpy(case.features),
        torch.from_numpy(case.labels).long(),
        torch.from_numpy(case.test),
    )
    with torch.no_grad():
        logits, train_logits = head(x), head(z)
    W, b, n, classes = head.weight.detach(), head.bias.detach(), len(z), len(case.W)

    def flat_head(maps):
        return head(maps.flatten(1))

    def maps(rows):
        return rows[:, :, None, None]

    def fitted(method, *arguments):
        return method.fit_features(*arguments).predict_features(x)

    react = detector.ReAct(None, flat_head).fit_feature_maps(maps(z), y)
    shaped = {
        "ReAct": react,
        "ASH-P": detector.ASH(None, flat_head, "ash-p", 0.65),
        "ASH-B": detector.ASH(None, flat_head, "ash-b", 0.65),
        "ASH-S": detector.ASH(None, flat_head, "ash-s", 0.9),
        "SCALE": detector.SCALE(None, flat_head, 0.85),
    }
    found = {name: method.predict_feature_maps(maps(x)) for name, method in shaped.items()}
    found |= {
        "MSP": detector.MaxSoftmax(None).predict_logits(logits),
        "MaxLogit": detector.MaxLogit(None).predict_logits(logits),
        "Energy": detector.EnergyBased(None).predict_logits(logits),
        "Entropy": detector.Entropy(None).predict_logits(logits),
        "GEN": (
            detector.GEN(None, M=100).predict_logits(logits) * min(classes, 100)
        ),  # it averages, we sum
        "KLMatching": detector.KLMatching(None).fit_logits(train_logits).predict_logits(logits),
        "GradNorm": detector.GradNorm(head, param_filter=lambda name: name == "weight").predict(x),
        "DICE": fitted(detector.DICE(None, W, b, p=0.9), z, y),
        "Mahalanobis": (
            fitted(detector.Mahalanobis(None), z, y) * 2 * n
        ),  # it halves, and sums the covariance
        "RelativeMahalanobis": fitted(detector.RMD(None), z, y) * n,
        "ViM": fitted(detector.ViM(None, dim, W, b), z, y),
        "NCI": fitted(detector.NCI(None, head, alpha=1e-4), z),
        "fDBD": fitted(detector.fDBD(None, head), z),
        "SHE": fitted(detector.SHE(None, head), z, y),
        "KNN": fitted(detector.KNN(None, k=k), z, y),
        "NNGuide": fitted(detector.NNGuide(None, head, k=10), z, y),
    }
    return {name: -values.detach().double().numpy() for name, values in found.items()}


def compare_with_pytorch_ood(case: Case, k=20, dim=12) -> dict[str, tuple[float, float]]:
    """{name: (largest difference over the spread of the scores, rank correlation)} on any
    features."""
    theirs_by_name, compared = pytorch_ood_scores(case, k, dim), {}
    states = registry.fit_all(case.train, theirs_by_name, {"KNN": {"k": k}, "ViM": {"dim": dim}})
    ours = registry.score_all(case.test, states, case.W, case.b)
    for name, theirs in theirs_by_name.items():
        ranks = np.corrcoef(np.argsort(np.argsort(ours[name])), np.argsort(np.argsort(theirs)))[
            0, 1
        ]
        compared[name] = (float(np.abs(ours[name] - theirs).max() / np.std(theirs)), float(ranks))
    return compared


@pytest.mark.filterwarnings("ignore")
def test_agrees_with_pytorch_ood(case):
    compared = compare_with_pytorch_ood(case)
    assert len(compared) == 21
    if (
        case is CASES["digits"]
    ):  # dead units: its ridge of 1e-6 lets them rule, our pseudo-inverse leaves them out
        compared = {name: pair for name, pair in compared.items() if "Mahalanobis" not in name}
    loose = {
        "Mahalanobis": 2e-3,
        "RelativeMahalanobis": 2e-3,
        "GEN": 5e-3,
    }  # its float32 inverse, its clipping
    for name, (difference, ranks) in compared.items():
        assert difference < loose.get(name, 2e-4), name
        assert ranks > 0.9999, name


# ---- hand-computed ----


def tiny(features, labels, W, b=None) -> registry.Training:
    return registry.Training(features, np.asarray(labels), W, np.zeros(len(W)) if b is None else b)


def score_one(name, train, x, **parameters):
    x = np.asarray([x], dtype=np.float32)
    method = registry.METHODS[name]
    return method.score(
        x, registry.compute_logits(x, train.W, train.b), method.fit(train, **parameters)
    )[0]


def test_softmax_family_by_hand():
    train = tiny([[0, 0]], [0], np.eye(2))
    logits = [0, np.log(3)]
    assert score_one("MSP", train, logits) == pytest.approx(0.75)
    assert score_one("MaxLogit", train, logits) == pytest.approx(np.log(3))
    assert score_one("Energy", train, logits) == pytest.approx(np.log(4))
    assert score_one("Energy", train, logits, temperature=2) == pytest.approx(
        2 * np.log(1 + np.sqrt(3))
    )
    assert score_one("Entropy", train, logits) == pytest.approx(
        0.25 * np.log(0.25) + 0.75 * np.log(0.75)
    )
    assert score_one("GEN", train, logits, gamma=0.5) == pytest.approx(-2 * np.sqrt(0.1875))
    assert score_one("GEN", train, logits, gamma=0.5, top=1) == pytest.approx(-np.sqrt(0.1875))
    assert score_one("TempScaling", train, logits, temperature=0.5) == pytest.approx(0.9)
    assert score_one("GradNorm", train, logits) == pytest.approx(0.5 * np.log(3))


def test_exactly_k_activations_stay_where_several_tie_for_the_last_place():
    """As half-precision features have them. Which of them stays is arbitrary: here their weights
    are alike."""
    train = tiny([[5, 1, 1, 1, 0]], [0], [[1, 2, 2, 2, 1], [0, 1, 1, 1, 0]])
    x, everything, kept = np.array([5, 1, 1, 1, 0]), 8, 6  # two of five stay at the 60th percentile
    logits = np.array([5 + 2, 1])  # of 5 and one 1
    assert score_one("ASH-P", train, x, percentile=60) == pytest.approx(special.logsumexp(logits))
    assert score_one("ASH-S", train, x, percentile=60) == pytest.approx(
        special.logsumexp(logits * np.exp(everything / kept))
    )
    assert score_one("ASH-B", train, x, percentile=60) == pytest.approx(
        special.logsumexp([4 * 3, 4])
    )
    scaled = np.array([11, 3]) * np.exp(everything / kept)
    assert score_one("SCALE", train, x, percentile=60) == pytest.approx(special.logsumexp(scaled))


def test_distances_by_hand():
    # two classes at (-2, 0) and (2, 0), each with within-class variances 1 and 4
    offsets, mean = np.array([[1, 2], [1, -2], [-1, 2], [-1, -2]]), np.array([2, 0])
    train = tiny(
        np.vstack([offsets - mean, offsets + mean]),
        [0] * 4 + [1] * 4,
        [[-1, 0], [1, 0]],
        [1e-9, 1e-9],
    )
    assert score_one("Mahalanobis", train, [2, 4]) == pytest.approx(-4)  # 16 / 4
    assert score_one("Mahalanobis", train, [5, 0]) == pytest.approx(-9)
    assert score_one("Mahalanobis", train, [5, 0], ridge=0.2) == pytest.approx(
        -9 / 1.5
    )  # 0.2 of the mean variance 2.5
    assert score_one("RelativeMahalanobis", train, [5, 4]) == pytest.approx(
        25 / 5 + 16 / 4 - (9 + 16 / 4)
    )
    assert score_one("fDBD", train, [2, 0]) == pytest.approx(1)  # 4 / |w1 - w2| = 2, over |h| = 2
    assert score_one("NCI", train, [3, 4]) == pytest.approx(3 / 5 + 7e-4)
    assert score_one("SHE", train, [3, 4]) == pytest.approx(6)
    assert score_one("NECO", train, [2, 2], dim=1, scaler=False) == pytest.approx(np.sqrt(0.5))
    assert score_one("Residual", train, [3, 1.5], dim=1) == pytest.approx(-1.5)


def test_neighbours_by_hand():
    train = tiny([[1, 0], [0, 2], [0, -3]], [0, 1, 1], np.eye(2))
    assert score_one("KNN", train, [5, 0], k=1) == pytest.approx(0, abs=1e-3)
    assert score_one("KNN", train, [5, 0], k=2) == pytest.approx(-np.sqrt(2))
    assert score_one("KNN", train, [0, 7], k=3) == pytest.approx(-2)
    assert score_one("NNGuide", train, [2, 0], k=1) == pytest.approx(
        np.log(1 + np.e) * np.log(1 + np.exp(2)), rel=1e-6
    )
    p = 1 / (1 + np.exp(-1))
    q = 1 / (1 + np.exp(-2))
    assert score_one("Relation", train, [2, 0]) == pytest.approx(
        p * q + (1 - p) * (1 - q), rel=1e-6
    )


# ---- one state, one product, any order, any block ----


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_score_all_equals_each_score_alone(case, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(neighbours, "SIMILARITIES", 2**14)
    states = registry.fit_all(case.train, registry.METHODS, OVERRIDES)
    together = registry.score_all(case.test, states, case.W, case.b)
    assert list(together) == list(registry.METHODS)
    for name, state in states.items():
        alone = registry.METHODS[name].score(case.test, case.logits, state)
        np.testing.assert_allclose(
            together[name], alone, rtol=2e-4, atol=1e-5 * np.abs(alone).mean(), err_msg=name
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_order_and_blocks_of_the_training_rows_change_nothing(case, monkeypatch):
    plain = registry.score_all(
        case.test, registry.fit_all(case.train, registry.METHODS, OVERRIDES), case.W, case.b
    )
    order = np.random.default_rng(3).permutation(len(case.labels))
    monkeypatch.setattr(blocks, "BLOCK", 37)
    train = registry.Training(case.features[order], case.labels[order], case.W, case.b)
    shuffled = registry.score_all(
        case.test[::-1], registry.fit_all(train, registry.METHODS, OVERRIDES), case.W, case.b
    )
    for name, values in plain.items():
        np.testing.assert_allclose(
            shuffled[name][::-1], values, rtol=2e-4, atol=2e-5 * np.abs(values).mean(), err_msg=name
        )


def test_variants_are_rows_that_are_named_to_be_computed():
    variants = set(registry.METHODS) - set(registry.DEFAULT)
    assert variants == {"NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"} and set(registry.CORE) <= set(
        registry.DEFAULT
    )
    case = CASES["random"]
    states = registry.fit_all(
        case.train, ["NECO", *variants], {"NECO": {"scaler": False}, "NECO-MaxLogit": {"dim": 3}}
    )
    assert states["NECO-NoScaler"].parameters == states["NECO"].parameters
    assert states["NECO-ETF"].parameters == {"dim": 6, "scaler": True, "max_logit": False}
    assert states["NECO-MaxLogit"].parameters == {"dim": 3, "scaler": True, "max_logit": True}


def test_no_statistic_is_computed_twice_by_all_methods_together(monkeypatch):
    """Every shared statistic once, and no eigenvectors of one matrix twice: three D x D matrices
    have them, and W's."""
    computed = []
    for name, cached in vars(registry.Training).items():
        if hasattr(cached, "func"):
            monkeypatch.setattr(
                cached,
                "func",
                lambda self, name=name, func=cached.func: computed.append(name) or func(self),
            )
    eigh, decomposed = np.linalg.eigh, []
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: decomposed.append(matrix) or eigh(matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        registry.fit_all(CASES["random"].train, registry.METHODS, OVERRIDES)
    assert sorted(computed) == sorted(set(computed)) and {
        "class_means",
        "covariance_within",
        "whitener",
        "bank",
    } <= set(computed)
    again = [
        i
        for i, one in enumerate(decomposed)
        if any(np.array_equal(one, other) for other in decomposed[:i])
    ]
    assert not again, "eigenvectors of the same matrix were computed again"


def test_shared_statistics_are_computed_once(monkeypatch):
    train, products = CASES["random"].train, []
    one_pass = registry.Training.covariance_within.func
    monkeypatch.setattr(
        registry.Training.covariance_within,
        "func",
        lambda self: products.append(1) or one_pass(self),
    )
    registry.fit_all(train, ["Mahalanobis", "RelativeMahalanobis", "ViM", "Residual", "NECO"])
    registry.fit_all(train, ["Mahalanobis", "NECO"], {"NECO": {"dim": 3}})
    assert len(products) == 1


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


@pytest.mark.parametrize(("width", "expected"), [(64, 32), (767, 383), (768, 512), (2048, 1000)])
def test_vim_dimension_rule(width, expected):
    rng = np.random.default_rng(0)
    features, W = (
        rng.normal(size=(30, width)).astype(np.float32),
        rng.normal(size=(3, width)).astype(np.float32),
    )
    train = registry.Training(features, np.arange(30) % 3, W, np.ones(3))
    train.__dict__["vim_axes"] = np.eye(width)  # the rule needs no eigenvectors
    assert registry.METHODS["Residual"].fit(train).parameters["dim"] == expected


# ---- numerical hazards ----


def test_msp_keeps_the_order_where_float32_saturates():
    logits = np.zeros((4, 10), np.float32)
    logits[:, 0] = [20, 24, 28, 32]
    assert (np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1) == 1).all()  # in float32 all four tie
    values = registry.METHODS["MSP"].score(None, logits, None)
    assert (np.diff(values) > 0).all()
    with pytest.warns(UserWarning, match="MSP"):
        values = registry.METHODS["MSP"].score(None, logits * 10, None)
    assert (values == 1).all()


def test_logit_scores_survive_huge_logits():
    logits = np.array([[1e5, 0, -1e5], [3e4, 3e4, 0]], np.float32)
    for name in ("Energy", "Entropy", "GEN", "GradNorm", "KLMatching"):
        state = registry.METHODS[name].fit(tiny(logits, [0, 1], np.eye(3)))
        assert np.isfinite(registry.METHODS[name].score(logits, logits, state)).all(), name


def test_vim_origin_of_a_head_whose_rows_sum_to_zero():
    case = CASES["random"]
    W = case.W - case.W.mean(axis=0)  # rank C - 1, up to rounding, as collapse makes it
    b = case.b + 1
    u = geometry.vim_origin(W, b)
    default = np.linalg.pinv(W.astype(np.float64)) @ b
    assert np.linalg.norm(u) < 10 < 1e4 < np.linalg.norm(default)
    np.testing.assert_allclose(
        W @ u + b, b.mean(), atol=1e-5
    )  # all logits equal, as near to 0 as such a head gets
    state = registry.METHODS["ViM"].fit(registry.Training(case.features, case.labels, W, b), dim=12)
    slow = slow_residual(
        Case(case.features, case.labels, W, b, case.test), case.features.astype(np.float64)
    ).mean()
    assert state.alpha == pytest.approx(
        (case.features @ W.T + b).max(axis=1).mean() / slow, rel=1e-4
    )


def test_statistics_are_those_of_float64_under_a_large_offset():
    case = random_case(2000, 30, 5, seed=4)
    features = case.features + np.float32(300)
    train, z = registry.Training(features, case.labels, case.W, case.b), features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in range(5)])
    within = np.cov((z - means[case.labels]).T, bias=True)
    np.testing.assert_allclose(train.class_means, means, rtol=1e-12)
    np.testing.assert_allclose(train.covariance_within, within, atol=1e-6 * within.max())
    np.testing.assert_allclose(train.covariance, np.cov(z.T, bias=True), atol=1e-6 * within.max())


def test_mahalanobis_under_strong_collapse():
    case = random_case(1500, 20, 5, seed=2, spread=1e-3)  # class means a thousand deviations apart
    z = np.random.default_rng(1).permutation(case.features)[:200]
    collapsed = Case(case.features, case.labels, case.W, case.b, z)
    found = collapsed.score("Mahalanobis")
    np.testing.assert_allclose(
        found, slow_mahalanobis(collapsed, z.astype(np.float64), None), rtol=5e-3
    )


def test_linearly_dependent_features_do_not_count_twice():
    case = random_case(width=20)
    mixed = np.random.default_rng(0).normal(size=(20, 25)).astype(np.float32)
    wide = Case(
        case.features @ mixed,
        case.labels,
        case.W @ np.linalg.pinv(mixed).T,
        case.b,
        case.test @ mixed,
    )
    for name in ("Mahalanobis", "RelativeMahalanobis"):
        with pytest.warns(UserWarning, match=f"{name}: the covariance has rank 20, 0 of 25"):
            np.testing.assert_allclose(wide.score(name), case.score(name), rtol=1e-3, atol=1e-3)


def dead(case, units=3) -> Case:
    """The case with a few units that are constant in training; the OOD rows are ID rows with those
    units stirred."""
    constant = np.full((len(case.features), units), 0.3, np.float32)
    rows = np.column_stack([case.features[:100], np.full((100, units), 0.3, np.float32)])
    stirred = rows.copy()
    stirred[:, -units:] += 0.1
    W = np.column_stack([case.W, np.zeros((len(case.W), units), np.float32)])
    return Case(
        np.column_stack([case.features, constant]),
        case.labels,
        W,
        case.b,
        np.vstack([rows, stirred]),
    )


def test_dead_units_are_left_out_and_reported():
    case = dead(CASES["random"])
    assert case.train.dead_units == 3
    is_id = np.arange(200) < 100
    with pytest.warns(UserWarning, match="Mahalanobis.*rank 40, 3 of 43 features"):
        found = case.score("Mahalanobis")
    assert roc_auc_score(is_id, found) == pytest.approx(0.5, abs=0.01)
    with pytest.warns(UserWarning, match="Mahalanobis: 3 of 43 .* ridge"):
        found = case.score("Mahalanobis", ridge=1e-5)
    assert roc_auc_score(is_id, found) == 1  # out of a change in units that mean nothing
    with pytest.warns(UserWarning, match="NECO: 3 features"):
        assert np.isfinite(case.score("NECO")).all()


def test_a_class_without_training_rows():
    case = CASES["random"]
    rows = case.labels != 3
    reduced = Case(case.features[rows], case.labels[rows], case.W, case.b, case.test)
    assert np.isnan(reduced.train.class_means[3]).all()
    with pytest.warns(UserWarning, match="SHE: 1 classes"):
        values = reduced.score("SHE")
    np.testing.assert_array_equal(np.isnan(values), case.logits.argmax(axis=1) == 3)
    for name in set(registry.METHODS) - {"SHE", "Mahalanobis", "RelativeMahalanobis"}:
        assert np.isfinite(reduced.score(name, **OVERRIDES.get(name, {}))).all(), name
    for name in ("RelativeMahalanobis", "Mahalanobis"):
        with pytest.warns(UserWarning, match=f"{name}: 1 of 7 classes have no training image"):
            values = reduced.score(name)
    np.testing.assert_allclose(
        values, slow_mahalanobis(reduced, case.test.astype(np.float64), None), rtol=1e-3
    )


@pytest.mark.parametrize("turn", [False, True])
@pytest.mark.parametrize("name", ["ViM", "Residual"])
def test_features_without_residual_leave_it_undefined(name, turn):
    rng = np.random.default_rng(0)
    features = np.zeros((50, 8), np.float32)
    features[:, :2] = rng.normal(size=(50, 2))
    axes = (
        np.linalg.qr(rng.normal(size=(8, 8)))[0] if turn else np.eye(8)
    )  # turned, rounding leaves a residual
    W = np.linalg.pinv(features.astype(np.float64) @ axes)[:, :2].T.astype(
        np.float32
    )  # in the span, so that u is
    features = (features @ axes).astype(np.float32)
    case = Case(features, np.arange(50) % 2, W, np.ones(2, np.float32), features)
    with pytest.warns(UserWarning, match=f"{name}: the training features leave no residual"):
        assert np.isnan(case.score(name, dim=4)).all()
    states = registry.fit_all(case.train, ["MSP", name], {name: {"dim": 4}})
    together = registry.score_all(features, states, case.W, case.b)
    assert np.isnan(together[name]).all() and np.isfinite(together["MSP"]).all()


def test_a_unit_that_stirs_by_rounding_alone_counts_as_dead():
    case = CASES["random"]
    features, test = case.features.copy(), case.test.copy()
    features[:, 5], test[:, 5] = 0, 0
    dead = Case(features, case.labels, case.W, case.b, test)
    with pytest.warns(UserWarning, match="NECO: 1 features are constant"):
        expected = dead.score("NECO")
    features[3, 5] = 1e-7 * features.std()
    with pytest.warns(UserWarning, match="NECO: 1 features are constant"):
        np.testing.assert_allclose(
            Case(features, case.labels, case.W, case.b, test).score("NECO"), expected, rtol=1e-5
        )


def test_a_small_ridge_is_added_and_leaves_nothing_out():
    case = CASES["random"]
    features = case.features.copy()
    features[:, 5] = features[:, 4]
    singular = Case(features, case.labels, case.W, case.b, case.test)
    with pytest.warns(UserWarning, match="Mahalanobis: the covariance has rank"):
        plain = singular.score("Mahalanobis")
    found, width = singular.score("Mahalanobis", ridge=1e-7), case.W.shape[1]
    state = registry.METHODS["Mahalanobis"].fit(singular.train, ridge=1e-7)
    assert state.matrix.shape == (width, width) and np.median(found / plain) > 10, (
        "the test images leave that plane"
    )


def test_guards_warn_by_name():
    case = CASES["random"]
    headless = Case(case.features, case.labels, case.W, np.zeros_like(case.b), case.test)
    with pytest.warns(UserWarning, match="ViM: the head has no bias"):
        assert np.isfinite(headless.score("ViM")).all()
    negative = Case(case.features - 1, case.labels, case.W, case.b, case.test)
    for name in ("ReAct", "ASH-P", "ASH-B", "ASH-S", "SCALE"):
        with pytest.warns(UserWarning, match=f"{name}: some features are negative"):
            negative.score(name)
    with pytest.warns(UserWarning, match="KNN: 1000 neighbours were asked of 600"):
        assert registry.METHODS["KNN"].fit(case.train, k=1000).parameters["k"] == 600


def test_temperature_minimises_the_likelihood_loss():
    case = CASES["random"]
    labels = np.where(
        np.arange(600) % 5 == 0, (case.labels + 1) % 7, case.labels
    )  # a fifth mislabelled
    train = registry.Training(case.features, labels, case.W, case.b)
    logits = (case.features @ case.W.T + case.b).astype(np.float64)

    def loss(temperature):
        return -special.log_softmax(logits / temperature, axis=1)[np.arange(600), labels].mean()

    best = optimize.minimize_scalar(
        loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}
    ).x
    assert registry.METHODS["TempScaling"].fit(train).parameters["temperature"] == pytest.approx(
        best, rel=1e-4
    )


@pytest.mark.parametrize(("labels", "bound"), [("right", 0.05), ("wrong", 20.0)])
def test_a_temperature_without_optimum_stays_at_its_bound_and_says_so(labels, bound):
    case = CASES["random"]
    logits = case.features @ case.W.T + case.b
    found = logits.argmax(axis=1) if labels == "right" else logits.argmin(axis=1)
    with pytest.warns(
        registry.Noted,
        match=f"TempScaling: the loss of 600 ID training images falls all the way to T = {bound:g}",
    ):
        state = registry.METHODS["TempScaling"].fit(
            registry.Training(case.features, found, case.W, case.b)
        )
    assert (
        state.parameters == {"temperature": bound, "at_bound": True}
        and f"T = {bound:g}" in state.note
    )
    expected = special.softmax(case.logits.astype(np.float64) / bound, axis=1).max(axis=1)
    np.testing.assert_allclose(
        registry.METHODS["TempScaling"].score(case.test, case.logits, state), expected, rtol=1e-6
    )


def test_a_loss_that_no_temperature_changes_has_none():
    case = CASES["random"]
    train = registry.Training(case.features, case.labels, case.W * 0, case.b * 0)
    with pytest.warns(registry.Noted, match="TempScaling: .* is the same at every temperature"):
        state = registry.METHODS["TempScaling"].fit(train)
    assert np.isnan(registry.METHODS["TempScaling"].score(case.test, case.logits, state)).all()


# ---- features alone ----


HEADLESS = {"Mahalanobis", "RelativeMahalanobis", "NECO", "NECO-NoScaler", "NECO-ETF", "KNN"}


def test_what_needs_no_head_has_the_same_scores_without_one(case):
    assert {name for name in registry.METHODS if not registry.needs_head(name)} == HEADLESS
    bare = registry.Training(case.features, case.labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        alone = registry.score_all(case.test, registry.fit_all(bare, HEADLESS, {"KNN": {"k": 20}}))
        states = registry.fit_all(case.train, HEADLESS, {"KNN": {"k": 20}})
    for name, values in registry.score_all(case.test, states, case.W, case.b).items():
        np.testing.assert_allclose(
            alone[name], values, rtol=1e-4, atol=1e-5 * np.abs(values).mean(), err_msg=name
        )


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


# ---- numbers at the edge: no infinity, no warning of the arithmetic, a reason for each NaN ----


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


SUBSPACES = {"ViM", "Residual", "NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ETF"}
GAUSSIANS = {"Mahalanobis", "RelativeMahalanobis"}
CONSTANT = SUBSPACES | GAUSSIANS
EDGES = {  # what is undefined for every image
    "one feature": (edge(width=1), SUBSPACES),
    "two classes": (edge(classes=2), set()),
    "one image": (edge(test=lambda rows: rows[:1]), set()),
    "one training image": (edge(n=1, labels=lambda y: [0]), CONSTANT),
    "one image per class": (edge(n=3), GAUSSIANS | {"ViM", "Residual"}),
    "fewer images than features": (edge(n=8, width=30), {"ViM", "Residual"}),
    "constant": (edge(x=lambda rows: rows * 0 + 0.1), CONSTANT),
    "constant, images too": (
        edge(x=lambda rows: rows * 0 + 0.1, test=lambda rows: rows * 0 + 0.1),
        CONSTANT | {"NCI", "fDBD"},
    ),
    "zeros": (edge(x=lambda rows: rows * 0), CONSTANT | {"KNN", "NNGuide", "Relation"}),
    "one class": (
        edge(labels=lambda y: y * 0, test=lambda rows: rows[:3]),
        {"RelativeMahalanobis"},
    ),
    "no weights": (edge(W=lambda W: W * 0), {"fDBD"}),
    "full collapse": (
        edge(x=lambda rows: np.eye(6)[np.arange(60) % 3]),
        GAUSSIANS | {"ViM", "Residual"},
    ),
    "large": (edge(x=lambda rows: rows * 1e14, test=lambda rows: rows * 1e14), set()),
    "small": (edge(x=lambda rows: rows * 1e-14, test=lambda rows: rows * 1e-14), set()),
    "large images": (edge(test=lambda rows: rows * 1e14), set()),
    "denormal images": (
        edge(test=lambda rows: rows * 1e-39),
        {"KNN", "NNGuide", "Relation", "NECO-NoScaler"},
    ),
    "large head": (edge(W=lambda W: W * 1e14), set()),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_at_the_edge_every_score_is_a_number_or_undefined_for_a_reason(name):
    found, undefined = EDGES[name]
    states = registry.fit_all(found.train, registry.METHODS)
    together = registry.score_all(found.test, states, found.W, found.b)
    for method, values in together.items():
        assert not np.isinf(values).any(), method
        alone = registry.METHODS[method].score(found.test, found.logits, states[method])
        assert not np.isinf(alone).any() and np.isnan(alone).all() == np.isnan(values).all(), method
    empty = {method for method, values in together.items() if np.isnan(values).all()}
    assert empty - {"SHE"} == undefined  # SHE has no pattern where no training image is right
    for method in empty:
        assert (
            getattr(states[method], "note", registry.METHODS[method].missing)
            != "its score is not a finite number"
        ), method


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


def test_zero_features_have_no_direction():
    case = CASES["random"]
    test = np.vstack([case.test[:5], np.zeros((1, 40), np.float32)])
    states = registry.fit_all(case.train, ["KNN", "NNGuide", "Relation", "ASH-S", "SCALE"])
    for name, values in registry.score_all(test, states, case.W, case.b).items():
        assert np.isnan(values[5]), name
        assert np.isfinite(values[:5]).all(), name
    zeros = np.vstack([case.features, np.zeros((1, 40), np.float32)])
    train = registry.Training(zeros, np.append(case.labels, 0), case.W, case.b)
    assert np.isfinite(
        registry.score_all(case.test, registry.fit_all(train, ["KNN"]), case.W, case.b)["KNN"]
    ).all()


def test_coinciding_rows_of_the_head_have_no_boundary():
    case = CASES["random"]
    W, b = case.W.copy(), case.b.copy()
    W[1], b[1] = W[0], b[0]
    assert np.isfinite(Case(case.features, case.labels, W, b, case.test).score("fDBD")).all()


@pytest.mark.parametrize(("columns", "k"), [(40, 3), (1000, 1), (1003, 20), (1600, 60), (5000, 50)])
def test_largest_values_of_each_row(columns, k):
    values = (
        np.random.default_rng(columns).integers(0, 500, (6, columns)).astype(np.float32)
    )  # with ties
    found = np.sort(neighbours.largest(values, k), axis=1)
    np.testing.assert_array_equal(found, np.sort(values, axis=1)[:, -k:])


# Tiles, bins and blocks so small that a few hundred rows fill many of each.
SMALL_SEARCH = {
    "SMALL": 0,
    "GROUP": 4,
    "SIMILARITIES": 2**16,
    "QUERIES": 24,
    "TILE": 100,
    "WIDE": 0,
    "BIN": 60,
}


def searched(case, k, monkeypatch, small=0, similarities=2**14, **values):
    """The k largest cosines by the bounded search, and whether each block's bound served: their
    levels in turn."""
    for name, value in {
        **SMALL_SEARCH,
        "SMALL": small,
        "SIMILARITIES": similarities,
        **values,
    }.items():
        monkeypatch.setattr(neighbours, name, value)
    levels, prune = [], neighbours.Bank._prune

    def spied(self, queries, tails, classes, least, level, *rest):
        found, share = prune(self, queries, tails, classes, least, level, *rest)
        levels.append((level, share))
        return found, share

    monkeypatch.setattr(neighbours.Bank, "_prune", spied)
    return np.sort(case.train.bank.search(case.test, case.logits.argmax(axis=1), k), axis=1), levels


def shapeless_case() -> Case:
    """White noise: no axis is stronger than another, no bound helps."""
    rng = np.random.default_rng(0)
    draws = [rng.normal(size=(n, 32)).astype(np.float32) for n in (900, 3, 200)]
    return Case(draws[0], np.arange(900) % 3, draws[1], np.zeros(3, np.float32), draws[2])


def all_cosines(case) -> np.ndarray:
    return unit64(case.test.astype(np.float64)) @ unit64(case.features.astype(np.float64)).T


@pytest.mark.parametrize("start", [0, 4, 11])
@pytest.mark.parametrize("k", [1, 20, 60])
def test_the_bounded_search_finds_what_an_exhaustive_one_finds(case, k, start, monkeypatch):
    found, levels = searched(
        case, k, monkeypatch, START=start, TOO_MANY=1, similarities=2**16
    )  # never gives up
    assert any(share < 1 for _, share in levels), "the bound answered some block"
    np.testing.assert_allclose(found, np.sort(all_cosines(case), axis=1)[:, -k:], atol=2e-6)


def test_a_bound_that_was_broken_would_lose_neighbours(monkeypatch):
    """The lengths of what follows are what makes it exact: were they shorter, the search would be
    quick and wrong."""
    turn, case = neighbours.Bank.turn, shapeless_case()

    def shortened(self, features):
        rows, tails = turn(self, features)
        return rows, tails / 2

    monkeypatch.setattr(neighbours.Bank, "turn", shortened)
    found, _ = searched(case, 5, monkeypatch, START=7, TOO_MANY=1, similarities=2**16)
    assert not np.allclose(found, np.sort(all_cosines(case), axis=1)[:, -5:], atol=2e-6)


def test_features_without_structure_end_the_bound_and_stay_exact(monkeypatch):
    case = shapeless_case()
    found, levels = searched(case, 5, monkeypatch)
    assert len(levels) < 5, "after a few blocks no bound is tried"
    np.testing.assert_allclose(found, np.sort(all_cosines(case), axis=1)[:, -5:], atol=2e-6)


def test_collapsed_features_need_few_axes(monkeypatch):
    case = random_case(2000, 64, 5, seed=2, spread=1e-2)
    near = Case(case.features, case.labels, case.W, case.b, case.features[:600] * np.float32(1.5))
    found, levels = searched(near, 10, monkeypatch, similarities=2**16)
    assert levels[-1][0] < levels[0][0]
    np.testing.assert_allclose(found, np.sort(all_cosines(near), axis=1)[:, -10:], atol=2e-6)


def test_knn_of_many_wide_features_is_exact_as_it_stands(monkeypatch):
    """No constant changed, one class without training images, and one of the queries without a
    direction."""
    case = random_case(5000, 128, 10, seed=3, spread=0.3)
    kept = case.labels != 9
    case = Case(
        case.features[kept],
        case.labels[kept],
        case.W,
        case.b,
        np.vstack([case.test, np.zeros((1, 128), np.float32)]),
    )
    asked, prune = [], neighbours.Bank._prune
    monkeypatch.setattr(
        neighbours.Bank,
        "_prune",
        lambda self, *given: asked.append(1) or prune(self, *given),
    )
    found, nearest = (
        case.score("KNN", k=50),
        np.sort(all_cosines(replace(case, test=case.test[:-1])), axis=1)[:, -50],
    )
    assert asked and np.isnan(found[-1])
    np.testing.assert_allclose(found[:-1], -np.sqrt(2 - 2 * nearest), atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_weights_of_any_sign_are_searched_exactly(case, sign, monkeypatch):
    rng = np.random.default_rng(0)
    weights = sign * 5 + rng.normal(size=len(case.features)).astype(np.float32)
    for name, value in {**SMALL_SEARCH, "TOO_MANY": 1}.items():
        monkeypatch.setattr(neighbours, name, value)
    bank = case.train.bank
    found = bank.search(
        case.test, case.logits.argmax(axis=1), 12, weights[bank.order].astype(np.float32)
    )
    expected = np.sort(all_cosines(case) * weights, axis=1)[:, -12:]
    np.testing.assert_allclose(np.sort(found, axis=1), expected, atol=2e-5)


def test_the_bank_has_the_cosines_of_the_features_and_any_width_will_do():
    for width in (1, 2, 3, 17):
        case = random_case(300, width, 3)
        case.features[:], case.test[:] = (
            np.maximum(case.features, 0.01),
            np.maximum(case.test, 0.01),
        )  # no zero row
        bank = case.train.bank
        for rows, cosines in bank.cosines(bank.turn(case.test)[0]):
            np.testing.assert_allclose(cosines, all_cosines(case)[rows][:, bank.order], atol=2e-6)
        assert bank.search(case.test, case.logits.argmax(axis=1), 3).shape == (150, 3)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.ones((5, 3))}, "features have shape"),
        ({"features": np.ones(5)}, "features have shape"),
        ({"features": np.full((4, 2), np.nan)}, "NaN or infinity, first in row 0"),
        ({"labels": np.array([0, 1, 0, 2])}, "label 2 in row 3 is outside"),
        ({"labels": np.array([0, -1, 0, 1])}, "label -1 in row 1 is outside"),
        ({"labels": np.array([0.0, 1.0, 0.0, 1.0])}, "whole numbers"),
        ({"labels": np.array([0, 1])}, "expected 4 whole numbers"),
        ({"W": np.ones(2)}, "the head has weights"),
        ({"b": np.ones(3)}, "the head has weights"),
        ({"W": np.full((2, 2), np.inf)}, "the head holds NaN"),
    ],
)
def test_training_set_mistakes_are_explained(change, message):
    arguments = {
        "features": np.ones((4, 2)),
        "labels": np.array([0, 1, 0, 1]),
        "W": np.eye(2),
        "b": np.ones(2),
    }
    with pytest.raises(ValueError, match=message):
        registry.Training(**(arguments | change))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("ViM", {"dim": 40}, "ViM: the principal dimension is 40; expected 1 to 39"),
        ("Residual", {"dim": 0}, "Residual: the principal dimension"),
        ("NECO", {"dim": 41}, "NECO: the principal dimension"),
        ("Energy", {"temperature": 0}, "Energy: the temperature is 0"),
        ("Mahalanobis", {"ridge": -1}, "Mahalanobis: the ridge is -1"),
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
    assert activation.State is registry.State


def load_case(folder: Path) -> Case:
    """Real features from the CSVs of run_networks.py, the first 20,000 training rows and 5,000 test
    rows."""
    import pandas as pd

    head = pd.read_csv(folder / "head.csv")
    weights = [column for column in head if column.startswith("w")]
    train = pd.read_csv(next(folder.glob("ID_*_train.csv")), nrows=20_000)
    test = pd.read_csv(next(folder.glob("ID_*_test.csv")), nrows=5_000)
    columns = [column for column in train if column.startswith("ct")]
    parts = [train[columns], head[weights], head["bias"], test[columns]]
    features, W, b, rows = (np.array(part, dtype=np.float32, order="C") for part in parts)
    return Case(features, np.array(train["label"]), W, b, rows)


if __name__ == "__main__":
    for name, (difference, ranks) in compare_with_pytorch_ood(
        load_case(Path(sys.argv[1])), k=50, dim=32
    ).items():
        print(
            f"{name:20s} largest difference / spread {difference:.2e}   rank correlation"
            f" {ranks:.7f}"
        )
