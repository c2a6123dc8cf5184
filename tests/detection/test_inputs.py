"""Features as people have them: edited, in Parquet, out of range."""

import numpy as np
import pandas as pd
import pytest
from helpers import (
    score,
    shell,
    toy_run,
)

import ood_methods
import utils
from artifacts import records, store

CORE = ("MSP", "MaxLogit", "Energy")


def edited(folder, name, kind):
    """Another digit, or label, in the last row of a feature CSV or the head."""
    path = folder / f"{name}.csv"
    lines = path.read_text().splitlines()
    cells = lines[-1].split(",")
    place = 1 if kind == "digit" else lines[0].split(",").index("label")
    cells[place] = "0.125" if kind == "digit" else "2" if cells[place] != "2" else "1"
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")


def test_parquet_features_give_the_table_of_csv_features(tmp_path, folder):
    tables = [
        score(
            toy_run(tmp_path / f"{suffix[1:]}" / "net_s0", suffix=suffix),
            "--methods",
            *CORE,
            "Mahalanobis",
        )[0]
        for suffix in store.SUFFIXES
    ]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("head", "digit"),
        *(
            (f"ID_toy_{split}", kind)
            for split in ("train", "val", "test")
            for kind in ("digit", "label")
        ),
        ("OOD_near_test", "digit"),
        ("OOD_near_test", "label"),
        ("ODIN_ID_toy_test", "digit"),
        ("ODIN_OOD_near_test", "digit"),
    ],
)
def test_an_edited_digit_or_label_is_refused_unless_it_is_allowed(with_odin, name, kind):
    edited(with_odin, name, kind)
    ended = shell(ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN")
    assert (
        ended.code == 2
        and f"{name}.csv" in ended.err
        and "--allow-stale" in ended.err
        and "Traceback" not in ended.err
    )
    assert not (with_odin / "ood_metrics.csv").exists()
    ended = shell(
        ood_methods.main, "--checkpoint", with_odin, "--methods", "MSP", "ODIN", "--allow-stale"
    )
    assert ended.code == 0, ended.err
    for stem in ("ood_methods.json", "ood_metrics.json", "scores_OOD_near.json"):
        assert any(
            f"{name}.csv" in reason for reason in utils.read_json(with_odin / stem)["allowed_stale"]
        ), stem


@pytest.mark.parametrize(
    "change", [lambda data: data.replace(b"\n", b"\r\n"), lambda data: b"\xef\xbb\xbf" + data]
)
def test_other_bytes_that_say_the_same_are_the_same_features(folder, change):
    before = score(folder, "--methods", "MSP", "KNN")[0]
    for name in ("ID_toy_train", "OOD_near_test"):
        path = folder / f"{name}.csv"
        path.write_bytes(change(path.read_bytes()))
    pd.testing.assert_frame_equal(score(folder, "--methods", "MSP", "KNN", "--replace")[0], before)


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        ("ID_toy_train", 1e38, "features reach"),
        ("OOD_near_test", 1e37, "features reach"),
        ("ID_toy_train", 1e-40, "no training feature is above"),
    ],
)
def test_features_beyond_float32_are_refused_by_name(folder, name, factor, said):
    path = folder / f"{name}.csv"
    found = store.read_features(path)
    scaled = np.minimum(found.features, 3) * np.float64(factor)
    store.write_features(path, scaled, found.labels, None, records.read_sidecar(path))
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 2 and f"{name}.csv: {said}" in ended.err and "Traceback" not in ended.err
    assert not (folder / "ood_metrics.csv").exists()
