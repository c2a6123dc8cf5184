"""The whole chain on the embedded images: every file, every column, numbers computed anew, and what
a second run redoes."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    blank_figures,
    class_folders,
    named,
    read_csv,
    score_columns,
    shell,
    write_blank,
)
from PIL import Image
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

import main
import utils
from artifacts import records
from networks import checkpoints
from scores import registry
from training import run as training_run

pytestmark = pytest.mark.slow  # each test runs stages of the chain, or batch scripts
ROOT = Path(__file__).resolve().parent.parent
STEM = "resnet_cifar_final_digits_s0"
SETS = {"held_out": 118, "photos": 456, "uniform": 1000, "gaussian": 1000}
FEATURES = [*(f"ct{d}" for d in range(64)), "label"]
STAGES = ["train", "extract", "ood", "collapse", "report"]
# The same chain in a second or two, for the tests of what is redone: fewer epochs, methods and
# sets, and images a quarter as large.
SHORT = [
    "--image-size",
    "8",
    "--epochs",
    "1",
    "--methods",
    "MSP",
    "Energy",
    "--ood",
    "held_out",
    "uniform",
    "--no-amp",
    "--device",
    "cpu",
]


def stages(text):
    return re.findall(r"^== (\w+): ", text, re.MULTILINE)


def snapshot(folder):
    """Every file with its time and content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def changed(before, after):
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


# ---- the whole chain, once, at a real shell ------------------------------------------------------


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """(results/, what was printed) of `python main.py --epochs 2 --latex --no-amp` in an empty
    folder; change nothing."""
    folder = tmp_path_factory.mktemp("chain")
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "--epochs", "2", "--latex", "--no-amp"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["results"], "embedded images need no folder of data"
    return folder / "results", done.stdout


def table(chain, name):
    return read_csv(chain[0] / STEM / f"{name}.csv")


def features_of(chain, stem):
    """(features, labels) in float64, from the CSV alone and by pandas alone."""
    found = table(chain, stem)
    return found[FEATURES[:-1]].to_numpy(np.float32).astype(float), found["label"].to_numpy()


def logits_of(chain, stem):
    head = table(chain, "head")
    W, b = (
        head.filter(regex=r"^w\d+$").to_numpy(np.float32).astype(float),
        head["bias"].to_numpy(np.float32).astype(float),
    )
    return features_of(chain, stem)[0] @ W.T + b


def test_every_stage_runs_in_its_order_and_the_chain_ends_with_the_report(chain):
    assert stages(chain[1]) == STAGES
    assert chain[1].rstrip().endswith(f"report: {Path('results') / STEM / 'report.html'}")
    assert re.search(
        r"train [\d.]+ s; extract [\d.]+ s; ood [\d.]+ s; collapse [\d.]+ s; report [\d.]+ s",
        chain[1],
    )


def test_every_file_is_there_and_no_other(chain):
    features = [
        "ID_digits_train",
        "ID_digits_val",
        "ID_digits_test",
        *(f"OOD_{name}_test" for name in SETS),
    ]
    tables = [
        "head",
        *features,
        "ood_metrics",
        "id_metrics",
        "ood_by_id_class",
        "conformal",
        "scores_ID_digits",
        "scores_val_digits",
        *(f"scores_OOD_{name}" for name in SETS),
        "accepted_ID_digits",
        *(f"accepted_OOD_{name}" for name in SETS),
        "nc_metrics",
        "nc_per_class",
        "nc5_per_class",
    ]
    drawn = [
        "auroc_bars",
        "principal_components",
        "principal_components_three",
        *(f"scores_{name}" for name in registry.CORE),
        "trust",
        "swallowed",
        "within_class_variance",
        "cosine_histogram",
        "weight_mean_alignment",
        "class_mean_distances",
        "nc5",
    ]
    stages = ["run_networks", "ood_methods", "neural_collapse", "report", "summary"]
    inside = [
        *(f"{name}{suffix}" for name in tables for suffix in (".csv", ".json")),
        "ood_metrics.md",
        "ood_metrics.tex",
        "detector.safetensors",
        *(f"{record}.json" for record in stages),
        "report.html",
    ]
    outside = [
        f"resnet_cifar_{kind}_digits_s0{suffix}"
        for kind in ("best", "final")
        for suffix in (".pth", ".json")
    ]
    outside += [f"resnet_cifar_curves_digits_s0{suffix}" for suffix in (".csv", ".json", ".png")]
    outside += ["resnet_cifar_log_digits_s0.txt", "resnet_cifar_training_history_digits_s0.json"]
    figures = {path.stem for path in (chain[0] / STEM / "figures").iterdir()}
    inside += [f"figures/{name}.png" for name in figures]
    assert set(snapshot(chain[0])) == {*outside, *(f"{STEM}/{name}" for name in inside)}
    assert figures >= set(drawn)


def test_every_csv_has_its_columns_and_rows(chain):
    rows = {"ID_digits_train": 866, "ID_digits_val": 96, "ID_digits_test": 481}
    rows |= {f"OOD_{name}_test": count for name, count in SETS.items()}
    for name, count in rows.items():
        found = table(chain, name)
        assert list(found.columns) == FEATURES and len(found) == count, name
    methods = list(registry.DEFAULT)
    for name, count in {
        "ID_digits": 481,
        **{f"OOD_{name}": count for name, count in SETS.items()},
    }.items():
        found = table(chain, f"scores_{name}")
        assert list(found.columns) == score_columns(methods)
        assert len(found) == len(table(chain, f"accepted_{name}")) == count, name
    assert list(table(chain, "head").columns) == ["class", *(f"w{d}" for d in range(64)), "bias"]
    assert list(table(chain, "head")["class"].astype(str)) == list("01234567")
    assert list(table(chain, "ood_metrics").columns) == [
        "checkpoint",
        "dataset",
        "ood",
        "method",
        "parameters",
        "auroc",
        "auroc_low",
        "auroc_high",
        "fpr95",
        "fpr95_low",
        "fpr95_high",
        "fpr95_ood_positive",
        "fpr95_ood_positive_low",
        "fpr95_ood_positive_high",
        "aupr_in",
        "aupr_in_low",
        "aupr_in_high",
        "aupr_out",
        "aupr_out_low",
        "aupr_out_high",
        "id_share",
        "detection_error",
        "autc",
        "partial_auroc",
        "n_id",
        "n_ood",
        "ties",
        "accuracy",
        "accuracy_at_tpr",
        "best",
        "note",
    ]
    assert list(table(chain, "nc_metrics").columns) == [
        "checkpoint",
        "metric",
        "value",
        "split",
        "centring",
        "source",
        "note",
    ]
    assert list(table(chain, "nc_per_class").columns) == [
        "class",
        "class_name",
        "images",
        "within_class_variance",
        "mean_norm",
        "weight_norm",
        "cosine_weight_mean",
        "nearest_class_cosine",
        "nearest_class",
        "train_mismatch",
        "test_mismatch",
    ]
    curves = read_csv(chain[0] / "resnet_cifar_curves_digits_s0.csv")
    assert list(curves.columns) == [
        "epoch",
        "train_loss",
        "train_acc",
        "val_loss",
        "val_acc",
        "lr",
        "seconds",
        "images_per_second",
    ]
    assert list(curves["epoch"]) == [1, 2]


def test_labels_are_those_of_the_classes_that_were_trained_on(chain):
    for split in ("train", "test"):
        labels = features_of(chain, f"ID_digits_{split}")[1]
        assert set(labels) == set(range(8))
    for name in SETS:
        assert set(features_of(chain, f"OOD_{name}_test")[1]) == {-1}, (
            "no OOD image is of a class that the network knows"
        )
    images = table(chain, "nc_per_class")["images"]
    assert list(images) == list(np.bincount(features_of(chain, "ID_digits_train")[1]))


def test_the_checkpoint_tells_its_accuracy_and_the_features_show_it(chain):
    sidecar = json.loads((chain[0] / f"{STEM}.json").read_text())
    for split in ("train", "val", "test"):
        labels = features_of(chain, f"ID_digits_{split}")[1]
        share = (logits_of(chain, f"ID_digits_{split}").argmax(axis=1) == labels).mean()
        assert sidecar[f"{split}_acc"] == pytest.approx(share, abs=1.5 / len(labels))


@pytest.mark.parametrize("name", SETS)
def test_scores_and_auroc_equal_those_from_head_and_features_alone(chain, name):
    inside, outside = logits_of(chain, "ID_digits_test"), logits_of(chain, f"OOD_{name}_test")
    is_id = np.repeat([1, 0], [len(inside), len(outside)])
    measured = table(chain, "ood_metrics").set_index(["ood", "method"])
    logits = np.concatenate([inside, outside])
    expected = {
        "MSP": softmax(logits, axis=1).max(axis=1),
        "MaxLogit": logits.max(axis=1),
        "Energy": logsumexp(logits, axis=1),
    }
    for method, values in expected.items():
        written = np.concatenate(
            [table(chain, f"scores_{stem}")[method] for stem in ("ID_digits", f"OOD_{name}")]
        )
        np.testing.assert_allclose(written, values, rtol=1e-5, atol=1e-5)
        assert measured.loc[(name, method), "auroc"] == pytest.approx(
            roc_auc_score(is_id, values), abs=1e-4
        )
        assert measured.loc[(name, method), "auroc"] == pytest.approx(
            roc_auc_score(is_id, written), abs=1e-12
        )
        threshold = np.sort(written[:481])[24]  # 457 of 481 are at least 95%, 456 are not
        assert measured.loc[(name, method), "fpr95"] == pytest.approx(
            np.mean(written[481:] >= threshold), abs=1e-12
        )


def test_mahalanobis_equals_a_loop_over_classes(chain):
    (train, labels), (test, _) = (
        features_of(chain, "ID_digits_train"),
        features_of(chain, "ID_digits_test"),
    )
    means = np.array([train[labels == c].mean(axis=0) for c in range(8)])
    covariance = sum(
        np.outer(h - means[label], h - means[label]) for h, label in zip(train, labels, strict=True)
    ) / len(train)
    inverse = np.linalg.pinv(covariance, rcond=1e-6, hermitian=True)
    distance = [[(h - mean) @ inverse @ (h - mean) for mean in means] for h in test]
    np.testing.assert_allclose(
        table(chain, "scores_ID_digits")["Mahalanobis"], -np.min(distance, axis=1), rtol=1e-2
    )


def test_nc1_equals_a_loop_over_images(chain):
    features, labels = features_of(chain, "ID_digits_train")
    means = np.array([features[labels == c].mean(axis=0) for c in range(8)])
    within, between = np.zeros((64, 64)), np.zeros((64, 64))
    for h, label in zip(features, labels, strict=True):
        within += np.outer(h - means[label], h - means[label]) / len(features)
    for mean in means:
        between += np.outer(mean - means.mean(axis=0), mean - means.mean(axis=0)) / 8
    vectors, singular, _ = np.linalg.svd(between, hermitian=True)
    # rank C - 1
    inverse = sum(np.outer(vectors[:, k], vectors[:, k]) / singular[k] for k in range(7))
    found = table(chain, "nc_metrics").set_index(["metric", "split"])["value"]
    assert found["nc1", "train"] == pytest.approx(np.trace(within @ inverse) / 8, rel=1e-4)
    assert found["nc1_trace_ratio", "train"] == pytest.approx(
        np.trace(within) / np.trace(between), rel=1e-5
    )
    distances = ((features[:, None, :] - means) ** 2).sum(axis=2)
    mismatch = np.mean(
        distances.argmin(axis=1) != logits_of(chain, "ID_digits_train").argmax(axis=1)
    )
    assert found["nc4_mismatch", "train"] == pytest.approx(mismatch, abs=1.5 / len(features))


def test_the_printed_tables_are_the_written_ones(chain):
    measured = table(chain, "ood_metrics").set_index(["method", "ood"])
    lines = {line.split()[0]: line.split()[1:] for line in chain[1].splitlines() if line.strip()}
    for method in registry.DEFAULT:
        rates = [
            100 * measured.loc[(method, name), column]
            for name in SETS
            for column in ("auroc", "fpr95")
        ]
        shown = [float(word) for word in lines[method]]
        if np.isfinite(rates).all():
            np.testing.assert_allclose(
                shown, [*rates, np.mean(rates[::2]), np.mean(rates[1::2])], atol=0.005 + 1e-9
            )
    collapse = table(chain, "nc_metrics").set_index(["metric", "split"])["value"]
    words = [line.split() for line in chain[1].splitlines()]
    assert ["NC1", "Tr(Sigma_W", "Sigma_B^+)/C", f"{collapse['nc1', 'train']:.4g}", "0"] in words
    for split in ("train", "test"):
        assert ["NC4", "mismatch,", split, f"{collapse['nc4_mismatch', split]:.4g}", "0"] in words


def test_the_summary_holds_the_tables_and_the_report_shows_them(chain):
    summary = json.loads((chain[0] / STEM / "summary.json").read_text())
    measured = table(chain, "ood_metrics")
    for column in ("ood", "method", "auroc", "fpr95", "n_ood"):
        written = [None if value != value else value for value in measured[column]]
        assert [row[column] for row in summary["ood_metrics"]] == written
    assert summary["checkpoint"]["stem"] == STEM and summary["missing"] == []
    page = (chain[0] / STEM / "report.html").read_text()
    assert (
        STEM in page
        and all(name in page for name in (*SETS, *registry.DEFAULT))
        and page.count("data:image/png;base64,") >= 15
    )


def test_the_sidecars_form_one_chain_from_weights_to_scores(chain):
    folder = chain[0] / STEM
    checkpoint, head = records.sha256(chain[0] / f"{STEM}.pth"), records.sha256(folder / "head.csv")
    assert json.loads((chain[0] / f"{STEM}.json").read_text())["checkpoint_sha256"] == checkpoint
    for path in folder.glob("*_t*.csv"):
        sidecar = records.read_sidecar(path)
        assert (sidecar["checkpoint_sha256"], sidecar["head_sha256"]) == (checkpoint, head), path
        assert (
            sidecar["preprocessing"]["size"] == 16
            and sidecar["width"] == 64
            and sidecar["class_names"] == list("01234567")
        )
        assert {
            "command",
            "arguments",
            "dataset",
            "split",
            "rows",
            "versions",
            "git_commit",
            "git_dirty",
            "seconds",
            "created",
        } <= set(sidecar)
    for name in ("ood_metrics", "scores_ID_digits", "nc_metrics"):
        assert records.read_sidecar(folder / f"{name}.csv")["checkpoint_sha256"] == checkpoint
    record = utils.read_json(folder / "ood_methods.json")
    assert record["inputs"]["ID_digits_train.csv"] == records.sha256(folder / "ID_digits_train.csv")


def test_no_temporary_file_is_left(chain):
    assert not [path for path in chain[0].rglob("*") if path.name.startswith(".")]


# ---- what a second run redoes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def short(tmp_path_factory, one_thread):
    """results/ of a SHORT chain, with blank figures; change nothing."""
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        blank_figures(patch)
        ended = shell(main.main, *SHORT)
    assert ended.code == 0 and stages(ended.out) == STAGES, ended.err
    return folder / "results"


@pytest.fixture
def again(short, tmp_path, monkeypatch):
    """Run the SHORT chain once more, with other words, in a folder with a copy of its results
    (times are kept)."""
    shutil.copytree(short, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)

    def run(*words, base=SHORT):
        ended = shell(main.main, *base, *words)
        assert ended.code == 0, ended.err
        return ended.out

    return run


def test_a_second_run_says_that_all_is_current_and_changes_nothing(again, tmp_path):
    before = snapshot(tmp_path)
    assert again() == f"\nall is current\nreport: {Path('results') / STEM / 'report.html'}\n"
    assert snapshot(tmp_path) == before and os.listdir(tmp_path) == ["results"]


def test_a_namesake_from_another_folder_is_not_current(digits_run, tmp_path, monkeypatch):
    blank_figures(monkeypatch)
    monkeypatch.chdir(tmp_path)
    for folder, name in (("s0", "final"), ("s1", "best")):
        Path(folder).mkdir()
        shutil.copy(
            digits_run.output_dir / f"resnet_cifar_{name}_digits_s0.pth", f"{folder}/net.pth"
        )
    content = torch.load("s1/net.pth", weights_only=True)
    content["model_state_dict"]["fc.bias"] += 1  # where the best epoch is the last, too
    torch.save(content, "s1/net.pth")
    words = ["--ood", "uniform", "--methods", "MSP", "--device", "cpu", "--checkpoint"]
    assert shell(main.main, *words, "s0/net.pth").code == 0
    assert "all is current" in shell(main.main, *words, "s0/net.pth").out
    ended = shell(main.main, *words, "s1/net.pth")
    assert ended.code == 2 and "holds the features of another network, s0/net.pth" in ended.err


@pytest.mark.parametrize(
    "words",
    [
        ["--dataset", "digits"],
        ["--model", "resnet_cifar", "--mode", "collapse"],
        ["--device", "auto"],
        ["--data-dir", "elsewhere"],
        ["--use", "final"],
    ],
)
def test_saying_a_default_or_what_changes_no_result_redoes_nothing(again, tmp_path, words):
    before = snapshot(tmp_path)
    assert "all is current" in again(*words)
    assert snapshot(tmp_path) == before


def test_naming_the_output_folder_otherwise_redoes_nothing(again, tmp_path):
    before = snapshot(tmp_path)
    assert "all is current" in again("--output-dir", str(tmp_path / "results"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "redone", "untouched"),
    [
        (
            ["--force", "ood"],
            ["ood", "report"],
            ["ID_", "OOD_", "head", "nc_", "run_networks", "neural_collapse", "../"],
        ),
        (
            ["--force", "report"],
            ["report"],
            [
                *("ID_", "OOD_", "head", "nc_", "ood_", "scores_", "accepted_", "detector"),
                *("figures", "../"),
            ],
        ),
        (
            ["--force", "collapse"],
            ["collapse", "report"],
            ["ID_", "OOD_", "head", "ood_", "scores_", "accepted_", "detector", "../"],
        ),
        (["--force", "extract"], ["extract", "ood", "collapse", "report"], ["../"]),
        (["--force", "train"], STAGES, []),
        (
            ["--force", "collapse", "ood"],
            ["ood", "collapse", "report"],
            ["ID_", "OOD_", "head", "../"],
        ),
    ],
)
def test_force_redoes_a_stage_and_what_follows_from_it(again, tmp_path, words, redone, untouched):
    before = snapshot(tmp_path / "results")
    assert stages(again(*words)) == redone
    after = snapshot(tmp_path / "results")
    renewed = {
        name.removeprefix(f"{STEM}/") if name.startswith(f"{STEM}/") else f"../{name}"
        for name in changed(before, after)
    }
    assert renewed and not [name for name in renewed if name.startswith(tuple(untouched))]
    kept = {
        "train": f"{STEM}.json",
        **{name: f"{STEM}/{stage.record}" for name, stage in main.STAGES.items() if stage.record},
    }
    assert {name for name, record in kept.items() if before[record] != after[record]} == set(redone)
    assert "all is current" in again()


def test_the_temperature_redoes_the_scores_and_the_report_only(again, tmp_path):
    folder = tmp_path / "results" / STEM
    before, files = read_csv(folder / "scores_OOD_uniform.csv"), snapshot(tmp_path / "results")
    out = again("--temperature", "5")
    assert stages(out) == ["ood", "report"]
    assert "\n   (--temperature is 5.0, and was not given)\n" in out, "it says why it scores anew"
    after = read_csv(folder / "scores_OOD_uniform.csv")
    assert (
        list(before["MSP"]) == list(after["MSP"])
        and not (before["Energy"] == after["Energy"]).any()
    )
    renewed = changed(files, snapshot(tmp_path / "results"))
    assert not [name for name in renewed if re.search(r"/(ID_|OOD_|head|nc_|neural)|\.pth$", name)]
    assert "all is current" in again("--temperature", "5")
    assert stages(again()) == ["ood", "report"], "and back"


def test_exact_arithmetic_redoes_the_collapse_and_the_report_only(again):
    assert stages(again("--exact"))[:1] == ["collapse"] and "all is current" in again("--exact")


def test_more_epochs_redo_everything(again, tmp_path):
    base = [*SHORT]
    base[base.index("--epochs") + 1] = "2"
    before = snapshot(tmp_path / "results")
    assert stages(again(base=base)) == STAGES
    after = snapshot(tmp_path / "results")
    expected = {
        f"{STEM}/{name}.csv" for name in ("head", "ID_digits_train", "ood_metrics", "nc_metrics")
    }
    assert {f"{STEM}.pth", *expected} <= {
        name for name in before if before[name][1] != after[name][1]
    }
    assert checkpoints.read(tmp_path / "results" / f"{STEM}.pth")["epoch"] == 2
    assert "all is current" in again(base=base)


def test_files_of_an_earlier_training_do_not_stand_in_the_way(again, tmp_path):
    """Validation images and ODIN's features are read where they are; those of weights that are no
    more are not."""
    folder = tmp_path / "results" / STEM
    base = [*SHORT]
    base.insert(base.index("MSP") + 1, "ODIN")
    assert stages(again("--odin-epsilon", "0.0014", base=base)) == ["extract", "ood", "report"]
    assert set(read_csv(folder / "ood_metrics.csv")["method"]) == {"MSP", "ODIN", "Energy"}
    assert stages(again("--val-size", "0")) == STAGES
    assert set(read_csv(folder / "ood_metrics.csv")["method"]) == {"MSP", "Energy"}
    assert len(read_csv(folder / "ID_digits_train.csv")) == 962


def test_another_set_is_added_and_the_others_are_kept(again, tmp_path):
    base = [word for word in SHORT if word != "uniform"]
    base.insert(base.index("held_out") + 1, "gaussian")
    before = snapshot(tmp_path / "results")
    assert stages(again(base=base)) == ["extract", "ood", "collapse", "report"]
    after = snapshot(tmp_path / "results")
    for name in ("head.csv", "ID_digits_train.csv", "ID_digits_test.csv", "OOD_held_out_test.csv"):
        assert before[f"{STEM}/{name}"] == after[f"{STEM}/{name}"]
    sets = dict.fromkeys(read_csv(tmp_path / "results" / STEM / "ood_metrics.csv")["ood"])
    assert list(sets) == ["held_out", "gaussian", "uniform"], "the earlier set stays in the table"


def test_the_best_checkpoint_gets_a_folder_of_its_own_without_training(again, tmp_path):
    before = snapshot(tmp_path / "results")
    assert stages(again("--use", "best")) == ["extract", "ood", "collapse", "report"]
    after = snapshot(tmp_path / "results")
    assert all(
        name.startswith(STEM.replace("final", "best") + "/") for name in changed(before, after)
    )
    assert (tmp_path / "results" / STEM.replace("final", "best") / "report.html").is_file()


@pytest.mark.parametrize("name", ["nc_metrics.csv", "figures/nc5.png"])
@pytest.mark.parametrize(
    "spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-4])]
)
def test_an_output_that_is_gone_or_was_edited_is_made_again(again, tmp_path, name, spoil):
    path = tmp_path / "results" / STEM / name
    before = path.read_bytes()
    spoil(path)
    what = "changed" if path.exists() else "is gone"
    out = again()
    assert stages(out)[0] == "collapse" and f"\n   ({name} {what})\n" in out
    assert path.read_bytes() == before
    assert "all is current" in again()


@pytest.mark.parametrize("name", ["ID_digits_test.csv", "OOD_uniform_test.csv", "head.csv"])
def test_features_that_were_edited_are_extracted_again(again, tmp_path, name):
    path = tmp_path / "results" / STEM / name
    before = path.read_text()
    header, first, rest = before.split("\n", 2)
    path.write_text("\n".join([header, first.replace("1", "2"), rest]))
    assert path.read_text() != before
    assert "extract" in stages(again())
    assert path.read_text() == before


def test_a_missing_report_is_written_again_alone(again, tmp_path):
    (tmp_path / "results" / STEM / "report.html").unlink()
    assert stages(again()) == ["report"]
    assert (tmp_path / "results" / STEM / "report.html").is_file()


def test_parquet_features_give_the_same_table(again, tmp_path):
    before = read_csv(tmp_path / "results" / STEM / "ood_metrics.csv")
    assert stages(again("--format", "parquet"))[0] == "extract"
    folder = tmp_path / "results" / STEM
    assert {path.suffix for path in folder.glob("*D_*_t*")} == {".parquet", ".json"}
    assert before.equals(read_csv(folder / "ood_metrics.csv"))
    assert "all is current" in again("--format", "parquet")


def test_latex_is_one_more_file(again, tmp_path):
    assert not (tmp_path / "results" / STEM / "ood_metrics.tex").exists()
    assert stages(again("--latex", "--caption", "Digits", "--label", "tab:digits"))[0] == "ood"
    text = (tmp_path / "results" / STEM / "ood_metrics.tex").read_text()
    assert (
        r"\caption{Digits}" in text
        and r"\label{tab:digits}" in text
        and r"held\_out" in text
        and "MSP &" in text
    )


# ---- one's own photographs -----------------------------------------------------------------------


def make_photographs(folder, count=20):
    """PNGs of several sizes and modes in two subfolders and at the top."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("", "cats", "my dogs")[number % 3] / f"photo {number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(("RGB", "L", "RGBA", "P")[number % 4]).save(path)


def test_a_folder_of_photographs_is_scored_like_the_rest_with_its_paths(again, tmp_path):
    make_photographs(tmp_path / "photographs")
    base = [*SHORT]
    base.insert(base.index("uniform") + 1, "mine=photographs")
    assert stages(again(base=base)) == ["extract", "ood", "collapse", "report"]
    folder = tmp_path / "results" / STEM
    scored, features = (
        read_csv(folder / "scores_OOD_mine.csv"),
        read_csv(folder / "OOD_mine_test.csv"),
    )
    paths = sorted(
        path.relative_to(tmp_path / "photographs")
        for path in (tmp_path / "photographs").rglob("*.png")
    )
    assert list(features.columns) == [*FEATURES, "path"]
    lead = ["path", "verdict", "predicted_class", "percentile", "p_value", "Energy", "label"]
    assert list(scored.columns)[:7] == lead
    assert (
        list(scored["path"]) == list(features["path"]) == [path.as_posix() for path in paths]
        and len(paths) == 20
    )
    expected = [-1] * len(paths)  # of no class that the network knows; `path` says whose each is
    assert list(scored["label"]) == list(features["label"]) == expected
    measured = read_csv(folder / "ood_metrics.csv")
    assert list(dict.fromkeys(measured["ood"])) == ["held_out", "uniform", "mine"] and set(
        measured["n_ood"]
    ) == {118, 1000, 20}
    assert "mine" in (folder / "report.html").read_text()

    before = snapshot(folder)
    assert set(stages(again(base=base))) <= {"extract"}, (
        "the folder is looked at, and found the same"
    )
    assert changed(before, snapshot(folder)) <= {"run_networks.json"}

    (tmp_path / "photographs" / "photo 00.png").unlink()
    assert stages(again(base=base)) == ["extract", "ood", "collapse", "report"]
    left = [path.as_posix() for path in paths if path.name != "photo 00.png"]
    assert list(read_csv(folder / "scores_OOD_mine.csv")["path"]) == left and len(left) == 19
    kept = [
        name for name in before if name.startswith(("ID_", "OOD_uniform", "OOD_held_out", "head"))
    ]
    after = snapshot(folder)
    assert kept and all(before[name] == after[name] for name in kept)


# ---- interruption --------------------------------------------------------------------------------


def test_training_that_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch, one_thread):
    words = [*SHORT]
    words[words.index("--epochs") + 1] = "3"
    real = training_run.Run.end_epoch

    def end_epoch(self, *arguments):
        real(self, *arguments)
        if self.state.epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(training_run.Run, "end_epoch", end_epoch)
        ended = shell(main.main, *words)
    assert ended.code == 75 and stages(ended.out) == ["train"] and "go on with" in ended.out
    results = tmp_path / "results"
    assert (results / "resnet_cifar_last_digits_s0.pth").is_file() and not (
        results / f"{STEM}.pth"
    ).exists()
    assert not (results / STEM).exists(), "no later stage works on half a training"

    ended = shell(main.main, *words)
    assert ended.code == 0 and stages(ended.out) == STAGES and "resumed after epoch 1" in ended.out
    assert list(read_csv(results / "resnet_cifar_curves_digits_s0.csv")["epoch"]) == [1, 2, 3]
    assert (
        not (results / "resnet_cifar_last_digits_s0.pth").exists()
        and (results / STEM / "report.html").is_file()
    )
    assert "all is current" in shell(main.main, *words).out


# ---- words ---------------------------------------------------------------------------------------


def test_every_flag_is_handed_to_the_stages_that_know_it():
    args, words = main.parse_args(
        [
            "--epochs=3",
            "--lr",
            "0.1",
            "--methods",
            "MSP",
            "ViM",
            "--vim_dim",
            "3",
            "--batch-size",
            "50",
            "--exact",
            "--ood",
            "svhn",
            "mine=folder",
            "--dataset",
            "cifar100",
            "--model",
            "resnet18",
        ]
    )
    assert args.dataset == named("cifar100")
    sets = [named("svhn"), named("mine=folder")]
    assert args.ood == sets
    parsed = {
        name: stage.script.parse_args(
            words[name] + ([] if name == "train" else ["--checkpoint", "x.pth"])
        )
        for name, stage in main.STAGES.items()
    }
    training, extraction = parsed["train"], parsed["extract"]
    assert (training.epochs, training.lr, training.batch_size, training.model) == (
        3,
        0.1,
        50,
        "resnet18",
    )
    assert (extraction.batch_size, extraction.ood, extraction.model) == (
        50,
        sets,
        None,
    )
    assert (parsed["ood"].methods, parsed["ood"].vim_dim, parsed["ood"].ood) == (
        ["MSP", "ViM"],
        3,
        sets,
    )
    assert parsed["collapse"].exact and {part.dataset for part in list(parsed.values())[:4]} == {
        args.dataset
    }


def test_without_arguments_the_digits_are_trained_into_the_terminal_phase():
    _, words = main.parse_args([])
    parsed = main.STAGES["train"].script.parse_args(words["train"])
    assert (str(parsed.dataset), parsed.model, parsed.mode, parsed.suffix) == (
        "digits",
        "resnet_cifar",
        "collapse",
        "digits_s0",
    )
    assert 50 <= parsed.epochs <= 350
    extraction = main.run_networks.parse_args(["--checkpoint", "x.pth", *words["extract"]])
    assert extraction.ood == list(map(named, SETS))


def test_other_data_sets_take_the_defaults_of_train():
    _, words = main.parse_args(["--dataset", "cifar100"])
    parsed = main.STAGES["train"].script.parse_args(words["train"])
    assert (parsed.model, parsed.mode, parsed.epochs) == ("resnet18", "best", None)


# ---- what is current, by content -----------------------------------------------------------------


def test_a_training_that_ends_in_the_same_weights_changes_nothing_behind_it(again, tmp_path):
    """Recorded times differ, and so does the checkpoint's hash: the weights are what counts."""
    results = tmp_path / "results"
    before = snapshot(results)
    train_words = main.parse_args(SHORT)[1]["train"]
    shell(main.train.main, *train_words, "--force")
    assert (
        records.sha256(results / f"{STEM}.pth")
        != hashlib.sha256(before[f"{STEM}.pth"][1]).hexdigest()
    )
    out = again()
    assert set(stages(out)) <= {"report"}, "the report shows when the training was made"
    after = snapshot(results)
    assert all(
        before[name] == after[name]
        for name in before
        if re.match(rf"{STEM}/(ID_|OOD_|head|ood_|nc|scores_)", name)
    )
    assert "all is current" in again()


@pytest.mark.parametrize(
    "left", ["resnet_cifar_best_digits_s0.json", "resnet_cifar_curves_digits_s0.png"]
)
def test_a_training_killed_before_its_very_end_is_finished_by_the_next_run(
    tmp_path, monkeypatch, one_thread, left
):
    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)
    words = main.parse_args(SHORT)[1]["train"]
    results = tmp_path / "results"

    class Killed(BaseException):
        pass

    real = os.replace

    def replace(source, target):
        if Path(target).name == left:
            raise Killed
        return real(source, target)

    def blank(path, figure):
        write_blank(path, figure)
        if Path(path).name == left:
            Path(path).unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(utils, "write_figure", blank)
        with pytest.raises(Killed):
            main.train.main(words)
    assert (results / f"{STEM}.json").exists() and not (results / left).exists(), (
        "final is there, one file is not"
    )
    ended = shell(main.main, *SHORT)
    assert ended.code == 0 and stages(ended.out) == STAGES, ended.err
    best = json.loads((results / "resnet_cifar_best_digits_s0.json").read_text())
    assert 0 < best["test_acc"] <= 1 and (results / left).exists()
    assert not (results / "resnet_cifar_last_digits_s0.pth").exists()
    assert "all is current" in shell(main.main, *SHORT).out


def make_classes(folder, seed=0):
    """train/ and test/ with two classes of 8 x 8 pixels, dark and light."""
    generator = np.random.default_rng(seed)
    for split, count in (("train", 24), ("test", 6)):
        for number, name in enumerate(("dark", "light")):
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(
                    128 * number, 128 * number + 127, (8, 8, 3), dtype=np.uint8
                )
                Image.fromarray(pixels).save(place / f"{index:02}.png")


def test_images_that_change_redo_the_training_and_touched_ones_do_not(
    tmp_path, monkeypatch, one_thread
):
    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)
    make_classes(tmp_path / "mine")
    words = [
        "--dataset",
        "shades=mine",
        "--model",
        "resnet_cifar",
        "--image-size",
        "8",
        "--mode",
        "collapse",
        "--epochs",
        "1",
        "--batch-size",
        "16",
        "--val-size",
        "8",
        "--no-amp",
        "--device",
        "cpu",
        "--ood",
        "uniform",
        "--methods",
        "MSP",
        "Energy",
    ]
    assert stages(shell(main.main, *words).out) == STAGES
    assert "all is current" in shell(main.main, *words).out
    image = tmp_path / "mine" / "train" / "dark" / "03.png"
    os.utime(image, (1, 1))
    ended = shell(main.main, *words)
    assert "train" not in stages(ended.out), "the same by content"
    before = snapshot(tmp_path / "results")
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(image)
    assert stages(shell(main.main, *words).out) == STAGES
    after = snapshot(tmp_path / "results")
    final = "resnet_cifar_final_shades_s0.pth"
    assert before[final][1] != after[final][1]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(
        tmp_path / "mine" / "test" / "dark" / "99.png"
    )
    assert stages(shell(main.main, *words).out) == STAGES, (
        "one more test image changes the accuracies on record"
    )
    assert "all is current" in shell(main.main, *words).out


def test_a_report_made_before_a_table_gets_it_in_the_end(again, tmp_path):
    """report.py on its own, while ood_metrics.csv was not there, recorded only what was there."""
    folder = tmp_path / "results" / STEM
    for path in [*folder.glob("ood_*"), *folder.glob("scores_*")]:
        path.unlink()
    shell(main.report.main, "--checkpoint", str(tmp_path / "results" / f"{STEM}.pth"))
    assert "OOD scores have not been measured" in (folder / "report.html").read_text()
    assert stages(again()) == ["ood", "report"]
    assert "OOD scores have not been measured" not in (folder / "report.html").read_text()
    assert "all is current" in again()


# ---- a checkpoint that is there ------------------------------------------------------------------

ANALYSIS = STAGES[1:]


def test_the_whole_analysis_of_a_checkpoint_is_one_command(own_digits_run, tmp_path, monkeypatch):
    blank_figures(monkeypatch)
    output = tmp_path / "analysis"
    words = [
        "--checkpoint",
        str(own_digits_run.checkpoint),
        "--output-dir",
        str(output),
        "--methods",
        "MSP",
        "Energy",
        "--ood",
        "uniform",
        "--device",
        "cpu",
    ]
    ended = shell(main.main, *words)
    assert ended.code == 0 and stages(ended.out) == ANALYSIS, ended.err
    folder = output / STEM
    found = read_csv(folder / "ood_metrics.csv")
    assert list(found["method"]) == ["MSP", "Energy"] and (folder / "report.html").is_file()
    assert (output / STEM / "ID_digits_test.csv").read_bytes() == (
        own_digits_run.folder / "ID_digits_test.csv"
    ).read_bytes()
    assert "all is current" in shell(main.main, *words).out
    assert stages(shell(main.main, *words, "--force", "collapse").out) == ["collapse", "report"]


def test_a_checkpoint_without_ood_sets_named_takes_those_of_its_data_set():
    _, words = main.parse_args(["--checkpoint", "x.pth"])
    assert (
        set(words) == set(ANALYSIS)
        and "--ood" not in words["extract"]
        and "--dataset" not in words["extract"]
    )


def test_a_foreign_checkpoint_is_analysed_with_its_network_named():
    _, words = main.parse_args(
        [
            "--checkpoint",
            "x.pth",
            "--model",
            "resnet18",
            "--dataset",
            "cifar100",
            "--batch-size",
            "50",
        ]
    )
    extraction = main.run_networks.parse_args([*words["extract"], "--checkpoint", "x.pth"])
    assert (extraction.model, str(extraction.dataset), extraction.batch_size) == (
        "resnet18",
        "cifar100",
        50,
    )
    assert "--model" not in words["ood"]


@pytest.mark.parametrize(
    "words",
    [["--mode", "best"], ["--use", "final"], ["--epochs", "3"], ["--lr=0.1"], ["--force", "train"]],
)
def test_flags_of_training_are_refused_beside_a_checkpoint(words):
    ended = shell(main.main, "--checkpoint", "x.pth", *words)
    assert ended.code == 2 and "trains nothing" in ended.err


@pytest.mark.parametrize("words", [[], ["--checkpoint", "x.pth", "--dataset", "digits"]])
def test_openoods_groups_of_another_set_are_refused_before_anything_runs(words, tmp_path):
    words = [*words, "--groups", "openood", "--plan", "--output-dir", str(tmp_path)]
    ended = shell(main.main, *words)
    assert ended.code == 2 and ended.out == ""
    assert "--groups openood" in ended.err and "the ID set here is digits" in ended.err
    words[words.index("openood")] = "openood=photos"  # a group that is only called so
    assert shell(main.main, *words, "--ood", "photos").code == 0


def test_a_groups_member_that_no_stage_knows_is_refused_before_training(tmp_path):
    words = ["--plan", "--output-dir", str(tmp_path), "--ood", "photos", "uniform"]
    ended = shell(main.main, *words, "--groups", "far=photos,unifrom")
    assert ended.code == 2 and ended.out == ""
    assert "unifrom is not among the OOD sets photos, uniform" in ended.err
    assert shell(main.main, *words, "--groups", "far=photos,uniform").code == 0
    folder = tmp_path / "resnet_cifar_final_digits_s0"
    folder.mkdir()
    (folder / "OOD_earlier_test.csv").write_text("ct0,label\n")  # of an earlier run
    assert shell(main.main, *words, "--groups", "far=photos,earlier").code == 0


def test_a_cache_that_does_nothing_is_refused_in_the_plan_too(tmp_path):
    words = ["--plan", "--output-dir", str(tmp_path)]
    ended = shell(main.main, *words, "--dataset", "digits", "--cache", "none")
    assert ended.code == 2 and ended.out == ""
    assert "--cache none is of images in files, and digits is read into memory" in ended.err
    assert shell(main.main, *words, "--dataset", "digits", "--cache", "memory").code == 0
    class_folders(tmp_path / "set", ("a", "b"), 2, (8, 8))
    own = ["--dataset", f"x={tmp_path}/set", "--ood", "uniform", "--cache", "none"]
    assert shell(main.main, *words, *own).code == 0


# ---- an ensemble ---------------------------------------------------------------------------------

MEMBERS = ["a_best_s0.pth", "a_best_s1.pth"]
ENSEMBLE = ["--ensemble", "--checkpoint", *MEMBERS]
SMALL_ENSEMBLE = [
    *SHORT,
    "--mode",
    "leave-out",
    "--folds",
    "2",
    "--odin-epsilon",
    "0.002",
    "--temperature",
    "100",
]


@pytest.mark.parametrize(
    "words, of_extraction, of_scoring",
    [
        ([], None, None),
        (["--temperature", "10"], None, 10.0),
        (["--odin-epsilon", "0.001"], [1000.0], None),
        (["--odin-epsilon=0.001", "--temperature", "10"], [10.0], None),
    ],
)
def test_the_temperature_is_of_energy_or_beside_an_epsilon_of_the_perturbation(
    words, of_extraction, of_scoring
):
    _, given = main.parse_args(["--checkpoint", "x.pth", *words])
    given = {name: [*own, "--checkpoint", "x.pth"] for name, own in given.items()}
    assert main.run_networks.parse_args(given["extract"]).temperature == of_extraction
    assert main.ood_methods.parse_args(given["ood"]).temperature == of_scoring


def test_the_set_that_parameters_are_chosen_on_is_of_scoring_alone():
    _, words = main.parse_args(["--checkpoint", "x.pth", "--val-ood", "uniform"])
    assert words["ood"][-2:] == ["--val-ood", "uniform"]
    assert main.run_networks.parse_args([*words["extract"], "--checkpoint", "x"]).val_ood is None


def test_an_ensemble_is_extracted_scored_together_and_reported():
    chain = main.prepare(ENSEMBLE)
    assert list(chain.words) == ["extract", "ood", "report"]
    assert chain.folder == Path("results/a_ensemble_s0-s1")
    extraction = main.run_networks.parse_args(chain.words["extract"])
    scoring = main.ood_methods.parse_args(chain.words["ood"])
    assert extraction.checkpoint == scoring.checkpoint == MEMBERS
    assert scoring.ensemble and scoring.perturbed is None
    assert main.report.parse_args(chain.words["report"]).checkpoint == str(chain.folder)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_only_a_mode_that_leaves_classes_out_trains_several(count):
    words = ["--mode", "leave-out", "--folds", str(count)] if count > 1 else []
    chain = main.prepare(words)
    assert len(chain.trainings) == len(chain.checkpoints) == count
    assert chain.args.ensemble == (count > 1)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--checkpoint", *MEMBERS], "all as one classifier with --ensemble"),
        (["--ensemble", "--checkpoint", "x.pth"], "two or more networks, found only x.pth"),
        (["--ensemble"], "and this trains one"),
        ([*ENSEMBLE, "--exact"], "--exact is of neural collapse"),
        ([*ENSEMBLE, "--force", "collapse"], "an ensemble has no such stage"),
        ([*ENSEMBLE, "--odin-epsilon", "0", "0.1"], "a grid, of which a pair is chosen first"),
        (["--mode", "leave-out", "--fold", "1"], "trains one member"),
    ],
)
def test_what_an_ensemble_cannot_be_is_refused_before_anything_runs(words, said, tmp_path):
    ended = shell(main.main, *words, "--output-dir", str(tmp_path / "results"))
    assert ended.code == 2 and said in ended.err
    assert not (tmp_path / "results").exists()


def test_the_chain_of_an_ensemble_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    """All members are trained; a second run does nothing; a member that is gone is trained alone,
    and what follows from it is made again."""
    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)
    ended = shell(main.main, *SMALL_ENSEMBLE)
    assert ended.code == 0, ended.err
    assert stages(ended.out) == ["train", "extract", "ood", "report"]
    folder = Path("results/resnet_cifar_ensemble_digits_s0")
    table = read_csv(folder / "ood_metrics.csv")
    parameters = json.loads(table.loc[table["method"] == "LeaveOut", "parameters"].iloc[0])
    assert (parameters["temperature"], parameters["odin_epsilon"]) == (100.0, 0.002)
    assert utils.read_json(folder / "summary.json")["ensemble"]["kind"] == "leave-out"

    before = snapshot(Path("results"))
    assert "all is current" in shell(main.main, *SMALL_ENSEMBLE).out
    assert snapshot(Path("results")) == before

    first, second = (f"resnet_cifar_final_digits_s0_fold{fold}of2" for fold in (1, 2))
    for path in Path("results").glob("resnet_cifar_*_fold2of2.*"):
        path.unlink()
    ended = shell(main.main, *SMALL_ENSEMBLE)
    assert ended.code == 0, ended.err
    assert stages(ended.out)[0] == "train"
    assert f"{first}.pth is finished" in ended.out
    changed_files = changed(before, snapshot(Path("results")))
    assert f"{second}.pth" in changed_files and f"{first}.pth" not in changed_files

    alone = shell(main.main, "--checkpoint", f"results/{first}.pth")
    assert alone.code == 2
    command = f"main.py --ensemble --checkpoint results/{first}.pth results/{second}.pth"
    assert command in alone.err
