"""The figures of one checkpoint's scores."""

import numpy as np
from helpers import (
    CLASSES,
    WIDTH,
)
from sklearn.decomposition import PCA

from detection import drawing
from scores import registry


def test_figures_are_pngs(done):
    for path in (done[0] / "figures").iterdir():
        assert (
            path.suffix == ".png"
            and path.read_bytes().startswith(b"\x89PNG\r\n")
            and path.stat().st_size > 5000
        )


def test_the_components_drawn_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    features = (
        generator.normal(size=(500, WIDTH)) @ generator.normal(size=(WIDTH, WIDTH)) + 3
    ).astype(np.float32)
    fitted = registry.Training(
        features, np.arange(500) % CLASSES, np.ones((CLASSES, WIDTH)), np.zeros(CLASSES)
    )
    centre, axes, explained = drawing.leading_components(fitted)
    pca = PCA(3).fit(features.astype(float))
    np.testing.assert_allclose(centre, pca.mean_, atol=1e-5)
    np.testing.assert_allclose(explained, pca.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(axes.T * pca.components_, axis=1)), 1, atol=1e-5)
