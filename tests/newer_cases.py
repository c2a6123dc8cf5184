"""Slow float64 restatements of OpenMax, GMM, ActSub, CoRP and WeiPer+KLD, one image at a time."""

import numpy as np
from scipy import special, stats
from score_cases import class_means64, energy64, unit64
from sklearn.decomposition import PCA


def slow_openmax(case, x, logits, tail=20, top=3):
    train = case.features.astype(np.float64) @ case.W.T + case.b
    right = train.argmax(axis=1) == case.labels
    means, least, laws = {}, {}, {}
    for c in range(len(case.W)):
        of_class = train[right & (case.labels == c)]
        means[c] = of_class.mean(axis=0)
        distances = np.sort([np.linalg.norm(row - means[c]) for row in of_class])[-tail:]
        least[c] = distances[0]
        shape, _, scale = stats.weibull_min.fit(distances - distances[0] + 1, floc=0)
        laws[c] = stats.weibull_min(shape, scale=scale)
    values = []
    for outputs in x @ case.W.T.astype(np.float64) + case.b:
        revised = outputs.copy()
        for rank, c in enumerate(np.argsort(-outputs)[:top], start=1):
            moved = np.linalg.norm(outputs - means[c]) - least[c] + 1
            revised[c] *= 1 - (top + 1 - rank) / top * laws[c].cdf(moved)
        unknown = (outputs - revised).sum()
        values.append(np.log(special.softmax([*revised, unknown])[:-1].max()))
    return values


def slow_gmm(case, x, logits, ridge=0.1):
    z, means = case.features.astype(np.float64), class_means64(case)
    variance = np.mean((z - means[case.labels]) ** 2)
    densities = [
        stats.multivariate_normal(
            means[c],
            np.cov(z[case.labels == c].T, bias=True) + ridge * variance * np.eye(z.shape[1]),
        ).logpdf(x)
        for c in range(len(case.W))
    ]
    return np.max(densities, axis=0)


def slow_corp(case, x, logits, share=0.8, gamma=2.0, count=256):
    generator, width = np.random.default_rng(0), case.features.shape[1]
    directions = generator.normal(0, np.sqrt(2 * gamma), (width, count))
    phases = generator.uniform(0, 2 * np.pi, count)

    def mapped(rows):
        return np.sqrt(2 / count) * np.cos(unit64(rows.astype(np.float64)) @ directions + phases)

    pca = PCA(share, svd_solver="full").fit(mapped(case.features))
    rebuilt = pca.inverse_transform(pca.transform(mapped(x)))
    return -np.linalg.norm(mapped(x) - rebuilt, axis=1)


def split_directions(case):
    """Right singular vectors of W, then what W does not see, by the training features."""
    W, z = case.W.astype(np.float64), case.features.astype(np.float64)
    seen = np.linalg.svd(W, full_matrices=False)[2][: np.linalg.matrix_rank(W, rtol=1e-6)]
    outside = z - z @ seen.T @ seen
    _, vectors = np.linalg.eigh(outside.T @ outside)
    return np.vstack([seen, vectors[:, ::-1].T[: W.shape[1] - len(seen)]])


def slow_actsub(case, x, logits, percentile=90, power=2, k=10):
    z, rows = case.features.astype(np.float64), split_directions(case)
    width = len(rows)

    def gap(dim):
        parts = np.linalg.norm(z @ rows[:dim].T, axis=1), np.linalg.norm(z @ rows[dim:].T, axis=1)
        return abs(parts[0].mean() - parts[1].mean())

    dim = min(range(1, width), key=gap)
    strong, weak = rows[:dim], rows[dim:]
    bank = unit64(z @ weak.T)
    kept, values = width - round(width * percentile / 100), []
    for row in x:
        part = strong.T @ strong @ row
        factor = np.exp(part.sum() / np.sort(part)[::-1][:kept].sum())
        energy = energy64(case, part[None] * factor)[0]
        near = np.sort(bank @ (weak @ row) / np.linalg.norm(weak @ row))[-k:]
        values.append(energy * (-np.log(1 - near.mean())) ** power)
    return values


def slow_weiper(case, x, logits, repeats=10):
    generator, W = np.random.default_rng(0), case.W.astype(np.float64)
    copies = []
    for _ in range(repeats):
        noise = generator.standard_normal(W.shape)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        copies.append(W + 2.4 * np.linalg.norm(W, axis=1, keepdims=True) * noise)

    def perturbed(rows):
        return np.stack([rows @ copy.T + case.b for copy in copies], axis=1)

    def shares(values, edges):
        counts = np.histogram(values, bins=100, range=edges)[0]
        return counts / counts.sum()

    def smoothed(row, size):
        left = (size - 1) // 2
        beyond = np.pad(row, (left, size - 1 - left), mode="edge")
        return np.convolve(beyond, np.full(size, 1 / size), mode="valid")

    def divergence(values, typical, edges, size, floor):
        p = typical + floor
        q = smoothed(shares(values, edges), size) + floor
        p, q = p / p.sum(), q / q.sum()
        return special.rel_entr(p, q).sum() + special.rel_entr(q, p).sum()

    z = case.features.astype(np.float64)
    train = perturbed(z)
    ends, train_ends = (z.min(), z.max()), (train.min(), train.max())
    found = []
    for row, outputs in zip(x, perturbed(x), strict=True):
        confidence = special.softmax(outputs, axis=1).max(axis=1).mean()
        plain = divergence(row, shares(z, ends), ends, 4, 0.01)
        moved = divergence(outputs, shares(train, train_ends), train_ends, 40, 0.025)
        found.append(confidence - plain - 0.1 * moved)
    return found
