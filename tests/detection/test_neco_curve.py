"""NECO over its number of components: each point is the AUROC that the table would have."""

import numpy as np
import pytest
from helpers import score, shell, toy_run

import figures
import ood_methods
from detection import neco_curve
from scores import registry

ROWS = ("NECO", "NECO-NoScaler", "NECO-MaxLogit", "NECO-ViT", "NECO-DeiT")


@pytest.fixture
def seen(monkeypatch):
    """What is drawn: {method: (dims, areas, chosen)}."""
    drawn = {}
    plain = figures.neco_dimensions

    def noting(dims, areas, chosen, method):
        drawn[method] = (dims, areas, chosen)
        return plain(dims, areas, chosen, method)

    monkeypatch.setattr(figures, "neco_dimensions", noting)
    return drawn


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_point_is_the_auroc_of_the_table_with_that_number(folder, tmp_path, seen):
    before, _ = score(folder, "--methods", *ROWS)
    table, _ = score(folder, "--methods", *ROWS, "--neco-curve", "--replace")
    assert before.equals(table), "the curve chooses nothing"
    assert set(seen) == set(ROWS)
    for name in ROWS:
        assert (folder / "figures" / f"neco_dimensions_{name}.png").is_file()
    other = toy_run(tmp_path / "again" / "net_s0")
    fixed = score(other, "--methods", *ROWS, "--neco-dim", "3")[0].set_index(["method", "ood"])
    for name, (dims, areas, chosen) in seen.items():
        row = table[table["method"] == name].iloc[0]
        assert f'"dim": {chosen},' in row["parameters"]
        for ood, values in areas.items():
            expected = fixed["auroc"][name, ood]
            assert values[dims.index(3)] == pytest.approx(expected, abs=2e-4)


def test_the_numbers_reach_from_one_to_all_but_one():
    assert neco_curve.numbers(5, 3) == [1, 2, 3, 4]
    dims = neco_curve.numbers(1280, 77)
    assert dims[0] == 1 and dims[-1] == 1279 and 77 in dims and len(dims) <= 41
    assert (np.diff(dims) > 0).all()


def test_it_is_refused_where_no_such_method_is_computed(folder):
    ended = shell(ood_methods.main, "--checkpoint", folder, "--methods", "MSP", "--neco-curve")
    assert ended.code == 2 and "--neco-curve is of NECO, " in ended.err
    words = ("--checkpoint", folder, folder, "--ensemble", "--neco-curve")
    ended = shell(ood_methods.main, *words)
    assert ended.code == 2 and "leave it out with --ensemble" in ended.err


def test_the_family_has_rows_of_its_own():
    assert set(neco_curve.FAMILY) <= set(registry.METHODS)
