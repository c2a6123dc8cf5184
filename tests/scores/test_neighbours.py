"""Neighbour scores: the bounded search finds exactly what an exhaustive one finds."""

from dataclasses import replace

import numpy as np
import pytest
from score_cases import Case, random_case, score_one, tiny, unit64

from scores import bank


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


@pytest.mark.parametrize(("columns", "k"), [(40, 3), (1000, 1), (1003, 20), (1600, 60), (5000, 50)])
def test_largest_values_of_each_row(columns, k):
    # with ties
    values = np.random.default_rng(columns).integers(0, 500, (6, columns)).astype(np.float32)
    found = np.sort(bank.largest(values, k), axis=1)
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
        monkeypatch.setattr(bank, name, value)
    levels, prune = [], bank.Search.prune

    def spied(self, queries, level):
        found, share = prune(self, queries, level)
        levels.append((level, share))
        return found, share

    monkeypatch.setattr(bank.Search, "prune", spied)
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
    # never gives up
    found, levels = searched(case, k, monkeypatch, START=start, TOO_MANY=1, similarities=2**16)
    assert any(share < 1 for _, share in levels), "the bound answered some block"
    np.testing.assert_allclose(found, np.sort(all_cosines(case), axis=1)[:, -k:], atol=2e-6)


def test_a_bound_that_was_broken_would_lose_neighbours(monkeypatch):
    """The lengths of what follows are what makes it exact: were they shorter, the search would be
    quick and wrong."""
    turn, case = bank.Bank.turn, shapeless_case()

    def shortened(self, features):
        rows, tails = turn(self, features)
        return rows, tails / 2

    monkeypatch.setattr(bank.Bank, "turn", shortened)
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
    asked, prune = [], bank.Search.prune
    monkeypatch.setattr(
        bank.Search,
        "prune",
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
        monkeypatch.setattr(bank, name, value)
    own_bank = case.train.bank
    found = own_bank.search(
        case.test, case.logits.argmax(axis=1), 12, weights[own_bank.order].astype(np.float32)
    )
    expected = np.sort(all_cosines(case) * weights, axis=1)[:, -12:]
    np.testing.assert_allclose(np.sort(found, axis=1), expected, atol=2e-5)


def test_the_bank_has_the_cosines_of_the_features_and_any_width_will_do():
    for width in (1, 2, 3, 17):
        case = random_case(300, width, 3)
        # no zero row
        case.features[:], case.test[:] = (
            np.maximum(case.features, 0.01),
            np.maximum(case.test, 0.01),
        )
        bank = case.train.bank
        for rows, cosines in bank.cosines(bank.turn(case.test)[0]):
            np.testing.assert_allclose(cosines, all_cosines(case)[rows][:, bank.order], atol=2e-6)
        assert bank.search(case.test, case.logits.argmax(axis=1), 3).shape == (150, 3)
