"""The last layer from its logits: the right one, the one of least norm, and none."""

import numpy as np
import pytest

import head_from_logits


def pairs_of(features, logits, size=7):
    def pairs():
        for start in range(0, len(features), size):
            yield features[start : start + size], logits[start : start + size]

    return pairs


@pytest.fixture
def layer():
    generator = np.random.default_rng(0)
    features = (generator.normal(size=(60, 6)) + 5).astype(np.float32)
    W, b = generator.normal(size=(4, 6)).astype(np.float32), generator.normal(size=4)
    return features, W, b.astype(np.float32)


def test_the_layer_itself_is_found(layer):
    features, W, b = layer
    found = head_from_logits.solve(pairs_of(features, features @ W.T + b))
    np.testing.assert_allclose(found.W, W, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found.b, b, rtol=0, atol=2e-5)
    assert found.residual < 1e-6 and found.is_unique and found.rows == 60
    assert "least norm" not in found.words


def test_it_agrees_with_numpys_least_squares_where_logits_are_rounded(layer):
    features, W, b = layer
    logits = (features @ W.T + b).astype(np.float16).astype(np.float32)
    found = head_from_logits.solve(pairs_of(features, logits))
    design = np.hstack([features.astype(np.float64), np.ones((60, 1))])
    solution, *_ = np.linalg.lstsq(design, logits.astype(np.float64), rcond=None)
    np.testing.assert_allclose(found.W, solution[:-1].T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.b, solution[-1], rtol=0, atol=1e-4)
    expected = np.abs(features @ found.W.T + found.b - logits).max() / np.abs(logits).max()
    assert found.residual == pytest.approx(expected, rel=1e-3)


def test_features_that_span_less_give_the_solution_of_least_norm(layer):
    features, W, b = layer
    features = features.copy()
    features[:, 4] = 0  # a dead unit
    features[:, 5] = features[:, 0]  # and one twice
    logits = features @ W.T + b
    found = head_from_logits.solve(pairs_of(features, logits))
    assert found.rank == 4 and not found.is_unique and "4 of 6 dimensions" in found.words
    # by the pseudo-inverse of the centred features: the weight of a pair is shared between them
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    expected = np.linalg.pinv(centred, rcond=1e-6) @ (logits - logits.mean(0))
    np.testing.assert_allclose(found.W, expected.T, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.W[:, 0], (W[:, 0] + W[:, 5]) / 2, rtol=0, atol=1e-5)
    assert not found.W[:, 4].any()
    np.testing.assert_allclose(features @ found.W.T + found.b, logits, rtol=0, atol=2e-5)


def test_what_is_no_affine_function_is_refused_with_its_residual(layer):
    features, W, b = layer
    logits = features @ W.T + b
    for wrong in (np.exp(logits - logits.max()), logits[::-1], np.maximum(logits, 0)):
        with pytest.raises(ValueError, match=r"not an affine function.*differ from them by \d"):
            head_from_logits.solve(pairs_of(features, wrong))


def test_too_few_rows_prove_nothing(layer):
    features, _, _ = layer
    anything = np.random.default_rng(1).normal(size=(7, 4))
    with pytest.raises(ValueError, match=r"7 rows of logits are too few"):
        head_from_logits.solve(pairs_of(features[:7], anything))
    with pytest.raises(ValueError, match="no rows"):
        head_from_logits.solve(pairs_of(features[:0], anything[:0]))


def test_the_size_of_blocks_changes_nothing_that_counts(layer):
    features, W, b = layer
    logits = features @ W.T + b
    one, other = (head_from_logits.solve(pairs_of(features, logits, size)) for size in (60, 11))
    np.testing.assert_allclose(one.W, other.W, rtol=0, atol=1e-6)
