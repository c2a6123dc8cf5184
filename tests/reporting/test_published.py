"""Published figures beside those of a run, and none where nothing can stand beside them."""

import pandas as pd
import pytest

from artifacts import csv_files
from reporting.found import Found
from reporting.leaderboard import PUBLISHED
from reporting.published import published

NEAR, FAR = ("cifar10", "tin"), ("mnist", "svhn", "textures", "places365")


def run_of(folder, methods, sets=(*NEAR, *FAR), dataset="cifar100"):
    """A folder with AUROCs of 0.80, 0.81 ... on these sets, and what report.py finds of it."""
    folder.mkdir()
    rows = [
        (dataset, ood, method, 0.8 + 0.01 * place, 0.5, 0.7, 10_000)
        for method in methods
        for place, ood in enumerate(sets)
    ]
    columns = ["dataset", "ood", "method", "auroc", "fpr95", "accuracy", "n_id"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(folder / "ood_metrics.csv", index=False)
    empty = dict.fromkeys(Found.__dataclass_fields__)
    return published(Found(**{**empty, "ood": table}), folder)


def test_each_method_stands_beside_its_published_means(tmp_path):
    found = run_of(tmp_path / "net", ("MaxLogit", "Energy", "mine"))
    rows = {row[0]: row[1:] for row in found.table.rows}
    assert set(rows) == {"MaxLogit", "Energy"}, "a method that nobody published is left out"
    network, near, near_published, far, far_published = rows["MaxLogit"]
    assert (network, near, far) == ("ResNet18", "80.5", "83.5")  # 80.5 of 80 and 81, 83.5 of 82-85
    source = csv_files.read_table(PUBLISHED / "cifar100.csv")
    row = source[(source["method"] == "MLS") & (source["training"] == "CrossEntropy")].iloc[0]
    assert near_published == f"{row['near_auroc']:.2f} ± {row['near_std']:.2f}"
    assert far_published == f"{row['far_auroc']:.2f} ± {row['far_std']:.2f}"
    assert found.notes[0].startswith(
        "Test accuracy: 70.00% here; published are 77.25% for ResNet18"
    )
    assert "search" in found.notes[-1], "the protocol"


def test_an_empty_cell_says_why(tmp_path):
    found = run_of(tmp_path / "net", ("Energy",), NEAR)
    assert found.table.rows[0][4] == "no set tested"
    assert any(note.startswith("net: 0 of 4 far sets were tested") for note in found.notes)


@pytest.mark.parametrize("sets, dataset", [(("own",), "cifar100"), ((*NEAR, *FAR), "digits")])
def test_nothing_stands_alone(tmp_path, sets, dataset):
    assert run_of(tmp_path / "net", ("Energy",), sets, dataset) is None
