"""The script: which methods, sets and parameters its flags choose, what is refused, and features
without a head. What it computes and writes is tested in tests/detection/."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers import (
    WIDTH,
    logits_of,
    printed_rows,
    read_csv,
    score,
    score_columns,
    shell,
    toy_run,
    write_blank,
)
from scipy.special import logsumexp

import ood_methods
import utils
from artifacts import current
from scores import registry

CORE = ("MSP", "MaxLogit", "Energy")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run to score, with blank figures."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    return toy_run(tmp_path / "net_s0")


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KL-Matching", "klmatching", "KL_matching"])
def test_hyphens_and_underscores_in_a_methods_name_are_read_over(folder, name):
    assert set(score(folder, "--methods", name, "ash_s")[0]["method"]) == {"KLMatching", "ASH-S"}


def test_methods_come_in_the_asked_order_whatever_their_case(folder):
    table, printed = score(folder, "--methods", "vim", "msp")
    assert list(table["method"]) == ["ViM", "MSP"] * 2 and list(printed_rows(printed)) == [
        "ViM",
        "MSP",
    ]
    assert list(read_csv(folder / "scores_OOD_near.csv").columns) == score_columns(["ViM", "MSP"])
    accepted = read_csv(folder / "accepted_OOD_near.csv")
    assert list(accepted.columns) == ["label", "ViM_accepted", "MSP_accepted"]


def test_only_the_asked_sets_are_scored_in_their_order(folder):
    table, _ = score(folder, "--methods", "MSP", "--ood", "near", "far_noise=anywhere")
    assert list(table["ood"]) == ["near", "far_noise"]
    table, _ = score(folder, "--methods", "MSP", "--ood", "near", "--replace")
    assert list(table["ood"]) == ["near"]


def test_the_temperature_is_energys_and_stands_in_the_table(folder):
    table, _ = score(folder, "--methods", "Energy", "MSP", "--temperature", "10")
    assert {
        method: json.loads(text)
        for method, text in zip(table["method"], table["parameters"].fillna("{}"), strict=True)
    } == {"Energy": {"temperature": 10.0}, "MSP": {}}
    logits = logits_of(folder, "OOD_near_test")[1]
    np.testing.assert_allclose(
        read_csv(folder / "scores_OOD_near.csv")["Energy"],
        10 * logsumexp(logits / 10, axis=1),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("words", "method", "expected"),
    [
        (["--vim-dim", "3"], "ViM", {"dim": 3}),
        (["--neco_dim", "2"], "NECO", {"dim": 2}),
        (["--ridge", "0.5"], "Mahalanobis", {"ridge": 0.5}),
        (["--no-neco-scaler"], "NECO", {"scaler": False}),
        (["--neco-max-logit"], "NECO", {"max_logit": True}),
        ([], "ViM", {"dim": WIDTH // 2}),
    ],
)
def test_each_parameter_reaches_its_method_and_stands_in_the_table(folder, words, method, expected):
    before = score(folder, "--methods", method)[0]
    table, _ = score(folder, "--methods", method, *words)
    for text in table["parameters"]:
        assert expected.items() <= json.loads(text).items()
    assert (not words) == (
        list(before["auroc"]) == list(table["auroc"])
        and list(before["ties"]) == list(table["ties"])
        and list(before["aupr_out"]) == list(table["aupr_out"])
    )


def test_another_share_moves_the_thresholds_and_the_false_positives(folder):
    table, printed = score(folder, "--methods", "MSP", "--tpr", "0.8")
    inside, outside = (read_csv(folder / f"scores_{stem}.csv") for stem in ("ID_toy", "OOD_near"))
    threshold = np.sort(inside["MSP"])[20]
    accepted = read_csv(folder / "accepted_ID_toy.csv")
    assert accepted["MSP_accepted"].sum() == 80 and "80% TPR" in printed
    assert table.set_index("ood").loc["near", "fpr95"] == pytest.approx(
        (outside["MSP"] >= threshold).mean()
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "Nonsense"], "unknown method 'Nonsense'; expected one of MSP"),
        (["--temperature", "0"], "above 0"),
        (["--temperature", "nan"], "above 0"),
        (["--temperature", "hot"], "invalid"),
        (["--temperature", "inf"], "above 0"),
        (["--ood", "near", "near"], "--ood names near more than once"),
        (["--val-ood", "=x"], "neither a name nor NAME=FOLDER"),
        (["--tpr", "0"], "above 0 and at most 1"),
        (["--tpr", "95"], "above 0 and at most 1"),
        (["--vim-dim", "0"], "at least 1"),
        (["--ridge", "much"], "invalid"),
        (
            ["--methods", "MSP", "--vim-dim", "3"],
            "--vim-dim is of ViM, Residual, which --methods leaves out",
        ),
        (
            ["--methods", "MSP", "--no-neco-scaler"],
            "--no-neco-scaler is of NECO, NECO-MaxLogit, NECO-ETF, which",
        ),
        (
            ["--vim-dim", str(WIDTH)],
            f"--vim-dim is {WIDTH}; expected 1 to {WIDTH - 1} for {WIDTH} features",
        ),
        (["--ridge", "-1"], "ridge"),
        (["--neco-dim", "1000"], "--neco-dim is 1000; expected 1 to 11"),
        (["--ood", "svhn"], "lacks OOD_svhn_test.csv"),
        (["--dataset", "other"], "lacks ID_other_train.csv"),
    ],
)
def test_a_wrong_argument_ends_with_one_message_and_nothing_written(folder, words, said):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2 and said in ended.err and "Traceback" not in ended.err and ended.out == ""
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_without_ood_features_the_command_that_makes_them_is_told(tmp_path):
    ended = shell(ood_methods.main, "--checkpoint", toy_run(tmp_path / "net_s0", ood=()))
    assert (
        ended.code == 2
        and "holds no OOD features" in ended.err
        and "python run_networks.py --checkpoint" in ended.err
    )


# ---- sets that are refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--groups", "near"], "GROUP=NAME,NAME"),
        (
            ["--groups", "near=svhn"],
            "--groups near=svhn: near is the name of another group or of an OOD set",
        ),
        (["--groups", "all=svhn"], "svhn is not among the tested OOD sets, far_noise, near;"),
        (["--groups", "a=near", "a=far_noise"], "a is the name of another group"),
        (["--groups", "a=near, near"], "near stands there more than once"),
        (["--groups", "a=near,/"], "'/' is neither a name nor NAME=FOLDER"),
        (
            ["--groups", "a=near,far_noise", "--val-ood", "near"],
            "near is not among the tested OOD sets, far_noise;",
        ),
        (["--val-ood", "svhn"], "svhn is not among the OOD sets far_noise, near;"),
        (["--ood", "near", "--val-ood", "near"], "near is the only OOD set"),
        (["--methods", "ODIN"], "--odin-epsilon"),
    ],
)
def test_a_group_or_validation_set_that_was_not_extracted_is_refused(folder, words, said):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2 and said in ended.err and "Traceback" not in ended.err and ended.out == ""
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_checkpoints_that_cannot_be_averaged_are_refused(tmp_path, folder):
    results = tmp_path / "results"
    one, other = toy_run(results / "net_s0"), toy_run(results / "net_s1", ood=("near",), seed=1)
    for given, said in [
        ((one, f"{one}/"), "more than once"),
        ((one, other), "name those to average over with --ood"),
    ]:
        ended = shell(ood_methods.main, "--checkpoint", *given, "--output-dir", results)
        assert ended.code == 2 and said in ended.err and not (one / "ood_metrics.csv").exists()
    words = ["--output-dir", results, "--ood", "near", "--methods", "MSP"]
    assert shell(ood_methods.main, "--checkpoint", one, other, *words).code == 0


# ---- invariants ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_run_writes_the_same_bytes(tmp_path):
    folder = toy_run(tmp_path / "net_s0")
    score(folder, "--methods", *CORE, "ViM", "KNN")
    files = [path for path in folder.rglob("*") if path.suffix in (".csv", ".md", ".png")]
    before = {path: path.read_bytes() for path in files}
    score(folder, "--methods", *CORE, "ViM", "KNN")
    assert len(files) > 8 and {path: path.read_bytes() for path in files} == before


# ---- features without a head ---------------------------------------------------------------------

HEADLESS = [
    "Mahalanobis",
    "RelativeMahalanobis",
    "Mahalanobis++",
    "RelativeMahalanobis++",
    "WDiscOOD",
    "Residual",  # about the training mean, where the head would give another point
    "CoP",
    "NECO",
    "Cosine",
    "KNN",
]


@pytest.mark.parametrize("sidecars", [True, False])
def test_bare_features_are_scored_by_what_needs_no_head(folder, tmp_path, sidecars):
    whole = score(toy_run(tmp_path / "other" / "net_s0"), "--methods", *HEADLESS)[0].set_index(
        ["ood", "method"]
    )
    (folder / "head.csv").unlink()
    for path in [] if sidecars else folder.glob("*.json"):
        path.unlink()
    ended = shell(ood_methods.main, "--checkpoint", folder)
    assert ended.code == 0, ended.err
    assert ended.err.count("warning: ") == (0 if sidecars else 1)
    assert (
        ended.out.count("no head.csv in") == 1
        and "left out are the accuracy, MSP, MaxLogit" in ended.out
    )
    assert ("make it with: python run_networks.py" in ended.out) == sidecars, (
        "where it is known that it had one"
    )
    table = read_csv(folder / "ood_metrics.csv").set_index(["ood", "method"])
    assert list(table.loc["near"].index) == HEADLESS
    for name in ("auroc", "fpr95", "aupr_out"):
        same = [cell for cell in table.index if cell[1] != "Residual"]
        np.testing.assert_allclose(table.loc[same, name], whole.loc[same, name], atol=1e-3)
    assert (
        table["accuracy"].isna().all()
        and table["accuracy_at_tpr"].isna().all()
        and "classified right" not in ended.out
    )
    columns = list(read_csv(folder / "scores_OOD_near.csv").columns)
    assert columns == score_columns(HEADLESS, led_by="Cosine", held_out=False, head=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "MSP", "KNN"], "no head.csv, without which there is no MSP"),
        (["--methods", "NECO", "--neco-max-logit"], "no head.csv, without which there is no NECO"),
        (["--neco-max-logit"], "no head.csv, without which there is no MSP"),
        (["--val-ood", "near"], "has no head.csv"),
    ],
)
def test_what_needs_a_head_is_refused_where_it_was_named(folder, words, said):
    (folder / "head.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert (
        ended.code == 2
        and said in ended.err
        and "python run_networks.py" in ended.err
        and ended.out == ""
    )


def test_a_head_that_comes_brings_its_methods(folder):
    head, sidecar = (folder / "head.csv").read_bytes(), (folder / "head.json").read_bytes()
    (folder / "head.csv").unlink()
    score(folder)
    (folder / "head.csv").write_bytes(head)
    (folder / "head.json").write_bytes(sidecar)
    record = folder / "ood_methods.json"
    assert not current.is_current(record, utils.read_json(record)["arguments"])
    assert set(score(folder)[0]["method"]) == set(registry.DEFAULT)


# ---- --set ---------------------------------------------------------------------------------------


def test_a_setting_reaches_the_table_and_its_scores(folder):
    table, _ = score(
        folder, "--methods", "KNN", "Energy", "--set", "KNN.k=3", "energy.temperature=2"
    )
    recorded = table.drop_duplicates("method").set_index("method")["parameters"].map(json.loads)
    assert recorded["KNN"] == {"k": 3} and recorded["Energy"] == {"temperature": 2.0}
    _, logits = logits_of(folder, "OOD_near_test")
    expected = 2 * logsumexp(logits / 2, axis=1)
    found = read_csv(folder / "scores_OOD_near.csv")["Energy"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_short_flag_and_a_setting_are_one_thing(folder):
    short, _ = score(folder, "--methods", "ViM", "--vim-dim", "3")
    once = (folder / "scores_OOD_near.csv").read_bytes()
    long, _ = score(folder, "--methods", "ViM", "--set", "ViM.dim=3", "--replace")
    assert (folder / "scores_OOD_near.csv").read_bytes() == once
    pd.testing.assert_frame_equal(short, long)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "KNN.n=3"], "KNN has no parameter 'n'; it has k"),
        (["--set", "Mahalanobs.ridge=1"], "did you mean Mahalanobis"),
        (["--set", "KNN.k=3", "--methods", "MSP"], "add it with --methods KNN"),
        (["--set", "Energy.temperature=2", "--temperature", "3"], "Energy.temperature is given"),
        (["--set", f"ViM.dim={WIDTH}"], f"--set ViM.dim={WIDTH}: expected at most {WIDTH - 1}"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_is_computed(folder, words, said):
    ended = shell(ood_methods.main, "--checkpoint", folder, *words)
    assert ended.code == 2 and said in ended.err
    assert not (folder / "ood_metrics.csv").exists()
