"""Small training sets and heads that the tests of scores share."""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import special
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from scores import registry

# of scores that sample, so that tests are quick
CHEAP = {"CoRP": {"random_features": 256}, "WeiPer+KLD": {"repeats": 10}}
OVERRIDES = {
    "KNN": {"k": 20},
    "TempScaling": {"temperature": 2.5},
    "ViM": {"dim": 12},
    "Residual": {"dim": 12},
    **CHEAP,
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
    def rest(self) -> tuple[np.ndarray, np.ndarray]:
        """Five more rows of the head, W (5, D) and b (5,), of classes that the data has not."""
        rng = np.random.default_rng(1)
        width = self.features.shape[1]
        return rng.normal(size=(5, width)).astype(np.float32), np.arange(5, dtype=np.float32)

    @property
    def train(self) -> registry.Training:
        return registry.Training(self.features, self.labels, self.W, self.b, rest=self.rest)

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


def slow_share(case, x, logits):
    """The share of the softmax over all 5 + C classes that falls to the C of the data, (N,)."""
    W, b = case.rest
    whole = np.hstack([logits.astype(np.float64), x @ W.T.astype(np.float64) + b])
    return special.softmax(whole, axis=1)[:, : logits.shape[1]].sum(axis=1)


def slow_full_energy(case, x, logits):
    W, b = case.rest
    whole = np.hstack([logits.astype(np.float64), x @ W.T.astype(np.float64) + b])
    return special.logsumexp(whole, axis=1)


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


def slow_shrunk(case, x, logits):
    """By scikit-learn's estimate of the features about their class means."""
    z = case.features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in range(len(case.W))])
    precision = LedoitWolf(assume_centered=True).fit(z - means[case.labels]).precision_
    return -np.min([squared_distances(x, mean, precision) for mean in means], axis=0)


def slow_relative_shrunk(case, x, logits):
    z = case.features.astype(np.float64)
    means = np.array([z[case.labels == c].mean(axis=0) for c in range(len(case.W))])[case.labels]
    within = LedoitWolf(assume_centered=True).fit(z - means).covariance_
    between = EmpiricalCovariance().fit(means).covariance_
    away = squared_distances(x, z.mean(axis=0), np.linalg.inv(within + between))
    return slow_shrunk(case, x, logits) + away


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


def slow_neco_of_deit(case, x, logits):
    """Components of standardised features over the length of raw ones, by scikit-learn."""
    standard = StandardScaler().fit(case.features.astype(np.float64))
    z = standard.transform(case.features.astype(np.float64))
    pca = PCA().fit(z)
    dim = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) >= 0.9)) + 1
    components = pca.transform(standard.transform(x))[:, :dim]
    lengths = np.linalg.norm(components, axis=1) / np.linalg.norm(x, axis=1)
    return lengths * logits.max(axis=1)


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


def slow_logit_gap(case, x, logits):
    count = max(1, round(0.2 * logits.shape[1]))
    ordered = np.sort(x @ case.W.T.astype(np.float64) + case.b, axis=1)[:, ::-1]
    return ordered[:, 0] - ordered[:, 1 : count + 1].mean(axis=1)


def slow_vra(case, x, logits):
    low = np.percentile(case.features, 60, axis=0)
    high = np.percentile(case.features, 95, axis=0)
    shaped = [
        [0 if h < a else min(h, t) for h, a, t in zip(row, low, high, strict=True)] for row in x
    ]
    return energy64(case, np.array(shaped))


def slow_lts(case, x, logits):
    values = []
    for row, outputs in zip(x, x @ case.W.T + case.b, strict=True):
        ordered = np.sort(np.maximum(row, 0))[::-1]
        kept = len(row) - round(len(row) * 95 / 100)
        values.append(special.logsumexp(outputs * (ordered.sum() / ordered[:kept].sum()) ** 2))
    return values


def directions_of(case, x):
    """The case with training features of length 1, and such features to score."""
    unit = unit64(case.features.astype(np.float64))
    return Case(unit, case.labels, case.W, case.b, case.test), unit64(x)


def slow_mahalanobis_unit(case, x, logits):
    return slow_mahalanobis(*directions_of(case, x), logits)


def slow_relative_mahalanobis_unit(case, x, logits):
    return slow_relative_mahalanobis(*directions_of(case, x), logits)


def means_by_prediction(case):
    z = case.features.astype(np.float64)
    predicted = (z @ case.W.T + case.b).argmax(axis=1)
    return {c: z[predicted == c].mean(axis=0) for c in np.unique(predicted)}


def slow_caref(case, x, logits):
    means = means_by_prediction(case)
    return [
        -np.abs(row - means[y]).sum() / np.abs(row).sum()
        for row, y in zip(x, logits.argmax(axis=1), strict=True)
    ]


def slow_cadref(case, x, logits):
    means, values = means_by_prediction(case), []
    mean_energy = energy64(case, case.features.astype(np.float64)).mean()
    for row, y, energy in zip(x, logits.argmax(axis=1), energy64(case, x), strict=True):
        error = (row - means[y]) * np.sign(case.W[y])
        along, against = error[error > 0].sum(), -error[error < 0].sum()
        values.append(-(along / energy + against / mean_energy) / np.abs(row).sum())
    return values


def class_means64(case):
    z = case.features.astype(np.float64)
    return np.array([z[case.labels == c].mean(axis=0) for c in range(len(case.W))])


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def slow_cosine(case, x, logits):
    return [max(cosine(row, mean) for mean in class_means64(case)) for row in x]


def slow_ctm(case, x, logits):
    means = class_means64(case)
    return [cosine(row, means[y]) for row, y in zip(x, logits.argmax(axis=1), strict=True)]


def slow_ora(case, x, logits):
    W, b = case.W.astype(np.float64), case.b.astype(np.float64)
    centre, values = class_means64(case).mean(axis=0), []
    for row in x:
        outputs = W @ row + b
        y, angles = outputs.argmax(), []
        for c in set(range(len(W))) - {y}:
            normal = W[y] - W[c]
            projection = row - (outputs[y] - outputs[c]) / (normal @ normal) * normal
            angles.append(np.arccos(np.clip(cosine(row - centre, projection - centre), -1, 1)))
        values.append(max(angles))
    return values


def slow_pnml(case, x, logits):
    def with_one(rows):
        return np.column_stack([np.ones(len(rows)), unit64(rows.astype(np.float64))])

    train, W = with_one(case.features), np.column_stack([case.b, case.W]).astype(np.float64)
    inverse = np.linalg.pinv(train.T @ train, rcond=1e-6, hermitian=True)
    outside = np.eye(len(inverse)) - inverse @ (train.T @ train)
    values = []
    for row in with_one(x):
        p = special.softmax(W @ row)
        within = row @ inverse @ row
        g = max(row @ outside @ row, within / (1 + within))
        values.append(-np.log((p / (p + (1 - p) * p**g)).sum()))
    return values


def slow_core(case, x, logits, span=False):
    W, means = case.W.astype(np.float64), class_means64(case)

    def residual(row, c):
        rows = W if span else W[[c]]
        return row - np.linalg.pinv(rows, rcond=1e-6) @ (rows @ row)

    def signals(rows):
        energies = energy64(case, rows)
        predicted = (rows @ W.T + case.b).argmax(axis=1)
        cosines = [
            cosine(residual(row, y), residual(means[y], y))
            for row, y in zip(rows, predicted, strict=True)
        ]
        return np.column_stack([energies, cosines])

    train = signals(case.features.astype(np.float64))
    return ((signals(x) - train.mean(axis=0)) / train.std(axis=0)).sum(axis=1)


def slow_optfs(case, x, logits):
    low, high = np.quantile(case.features, [0.001, 0.999]).astype(np.float32)
    width = (high - low) / np.float32(100)

    def bins(rows):
        return np.floor((rows.astype(np.float32) - low) / width)

    z = case.features.astype(np.float64)
    contributions = case.W[(z @ case.W.T + case.b).argmax(axis=1)] * z
    worth = np.array([contributions[bins(z) == place].sum() for place in range(100)])
    worth /= np.linalg.norm(worth)
    values = []
    for row, places, y in zip(x, bins(x), logits.argmax(axis=1), strict=True):
        theta = [worth[int(place)] if 0 <= place < 100 else 0 for place in places]
        values.append(sum(case.W[y] * theta * row))
    return values


def slow_cop(case, x, logits):
    pca = PCA(0.85, svd_solver="full").fit(unit64(case.features.astype(np.float64)))
    rebuilt = pca.inverse_transform(pca.transform(unit64(x)))
    return -np.linalg.norm(unit64(x) - rebuilt, axis=1)


def slow_wdiscood(case, x, logits):
    means, precision = class_gaussians(case)
    values, vectors = np.linalg.eigh(precision)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    mean = case.features.astype(np.float64).mean(axis=0)
    between = (means - mean) @ root
    order = np.argsort(np.linalg.eigh(between.T @ between)[0])[::-1][: len(means) - 1]
    G = np.linalg.eigh(between.T @ between)[1][:, order]
    found = []
    for row in (x - mean) @ root:
        nearest = min(np.linalg.norm(G.T @ (row - centre)) for centre in between)
        found.append(-nearest - 5 * np.linalg.norm(row - G @ (G.T @ row)))
    return found


def tiny(features, labels, W, b=None) -> registry.Training:
    return registry.Training(features, np.asarray(labels), W, np.zeros(len(W)) if b is None else b)


def score_one(name, train, x, **parameters):
    x = np.asarray([x], dtype=np.float32)
    method = registry.METHODS[name]
    return method.score(
        x, registry.compute_logits(x, train.W, train.b), method.fit(train, **parameters)
    )[0]


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
