"""The report says what the tables say: numbers, marks, words and figures are read back from
summary.json and report.html."""

import base64
import html
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import blank_figures, read_csv, score, shell, toy_run

import cli
import figures
import neural_collapse
import ood_methods
import report
import utils
from artifacts import current, records, store
from reporting import pictures as reporting_pictures

ROOT = Path(__file__).resolve().parents[1]
SHA = "ab" * 32
AUROC = {
    "svhn": {"MSP": 0.8125, "Energy": 0.875, "ViM": 0.86},
    "<i>mine</i>": {"MSP": 0.3, "Energy": np.nan, "ViM": 0.95},
}


def ood_table():
    return pd.DataFrame(
        [
            {
                "checkpoint": "net_best_s0",
                "dataset": "cifar100",
                "ood": name,
                "method": method,
                "parameters": np.nan,
                "auroc": value,
                "auroc_low": value - 0.01,
                "auroc_high": value + 0.01,
                "fpr95": 1 - value**2,
                "fpr95_ood_positive": 0.4321,
                "aupr_in": 0.5,
                "aupr_out": 0.6,
                "id_share": 0.5,
                "detection_error": 0.1,
                "n_id": 1000,
                "n_ood": 1234,
                "ties": 0,
            }
            for name, row in AUROC.items()
            for method, value in row.items()
        ]
    )


def nc_table():
    values = [
        ("nc1", 0.391, "train"),
        ("nc1_rank", 9, "train"),
        ("nc2_means_norm_cv", 0.125, "train"),
        ("nc2_means_cosine_mean", -0.11, "train"),
        ("nc2_weights_norm_cv", 0.0625, "head"),
        ("nc2_means_gram_distance", np.nan, "train"),
        ("nc3_cosine_mean", 0.987, "train"),
        ("nc4_mismatch", 0.0, "train"),
        ("nc4_mismatch", 0.0421, "test"),
        ("nc5_centred", 0.03, "test"),
        ("nc5_centred", 0.2, "ood:svhn"),
        ("nc5_centred", 0.3, "ood:<i>mine</i>"),
        ("my_own_metric", 3.0, "train"),
    ]
    return pd.DataFrame(
        [
            {
                "checkpoint": "net_best_s0",
                "metric": metric,
                "value": value,
                "split": split,
                "centring": "mu_G",
                "source": "Papyan et al. 2020",
                "note": "rank 9 of 9" if metric == "nc1" else np.nan,
            }
            for metric, value, split in values
        ]
    )


def per_class_table():
    return pd.DataFrame(
        {
            "class": range(10),
            "class_name": ["<b>apple</b>", *"bcdefghij"],
            "images": 50,
            "within_class_variance": np.linspace(1, 2, 10),
            "cosine_weight_mean": np.linspace(0.9, 1, 10),
        }
    )


def curves_table():
    return pd.DataFrame(
        {
            "epoch": range(1, 6),
            "train_loss": [2, 1, 0.5, 0.2, 0.1],
            "train_acc": [0.2, 0.5, 0.9, 1, 1],
            "val_loss": [2, 1.5, 1.2, 1.1, 1.1],
            "val_acc": [0.2, 0.4, 0.6, 0.55, 0.5],
            "seconds": 60.0,
        }
    )


@pytest.fixture
def run(tmp_path):
    """A run's folder with every file that report.py reads."""
    folder = tmp_path / "net_best_s0"
    (folder / "figures").mkdir(parents=True)
    sidecar = {
        "command": "python ood_methods.py",
        "checkpoint_sha256": SHA,
        "git_commit": "0123456789abcdef",
        "seconds": 3.0,
    }
    store.write_table(folder / "ood_metrics.csv", ood_table(), sidecar | {"tpr": 0.95})
    store.write_table(folder / "nc_metrics.csv", nc_table(), sidecar)
    store.write_table(folder / "nc_per_class.csv", per_class_table(), sidecar)
    store.write_table(tmp_path / "net_curves_s0.csv", curves_table())
    utils.write_json(
        tmp_path / "net_best_s0.json",
        {
            "model": "net",
            "dataset": "cifar100",
            "mode": "best",
            "epoch": 3,
            "epochs": 5,
            "train_acc": 0.99996,
            "val_acc": 0.6,
            "test_acc": 0.61235,
            "checkpoint_sha256": SHA,
            "curves": "net_curves_s0.csv",
            "command": "python train.py",
            "seconds": 300,
        },
    )
    for name in (
        "auroc_bars",
        "scores_MSP",
        "scores_Energy",
        "scores_ViM",
        "class_mean_distances",
        "my_own",
    ):
        (folder / "figures" / f"{name}.png").write_bytes(b"\x89PNG " + name.encode())
    return folder


DRAWN = {}  # {curves as text: their figure}, {figure: its PNG}


@pytest.fixture(autouse=True)
def curves_are_drawn_once(monkeypatch):
    """The same curves are drawn once for all tests: drawing takes most of a report's time."""
    draw, save = figures.training_curves, reporting_pictures.drawing

    def training_curves(table):
        text = table.to_csv()
        if text not in DRAWN:
            DRAWN[text] = draw(table)
        return DRAWN[text]

    def drawing(figure):
        if figure not in DRAWN:
            DRAWN[figure] = save(figure)
        return DRAWN[figure]

    training_curves.captions = draw.captions
    monkeypatch.setattr(figures, "training_curves", training_curves)
    monkeypatch.setattr(reporting_pictures, "drawing", drawing)


def make(folder, *words):
    report.main(["--checkpoint", str(folder), *words])
    return json.loads((folder / "summary.json").read_text(encoding="utf-8")), (
        folder / "report.html"
    ).read_text(encoding="utf-8")


def text_of(page):
    """What a reader sees: no scripts, no tags, single spaces."""
    body = re.sub("<script.*?</script>", " ", page.partition("<body>")[2], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", body)).split())


class Page(HTMLParser):
    """Collects tags with their attributes and fails on one that is not closed in order."""

    VOID = ("meta", "img", "br", "wbr", "input")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# ---- summary.json --------------------------------------------------------------------------------


def test_summary_holds_the_numbers_of_the_tables(run):
    summary, _ = make(run)
    assert summary["checkpoint"]["stem"] == "net_best_s0" and summary["checkpoint"]["sha256"] == SHA
    assert summary["accuracy"] == {"train": 0.99996, "val": 0.6, "test": 0.61235}
    assert summary["training"] == {
        "epochs": 5,
        "seconds": 300.0,
        "best_val_epoch": 3,
        "best_val_acc": 0.6,
        "first_epoch_all_training_images_right": 4,
    }
    assert len(summary["ood_metrics"]) == 6 and len(summary["neural_collapse"]) == 13
    for row in summary["ood_metrics"]:
        expected = AUROC[row["ood"]][row["method"]]
        assert row["auroc"] == (None if np.isnan(expected) else expected)
    assert (
        summary["best"]["svhn"]["method"] == "Energy" and summary["best"]["svhn"]["auroc"] == 0.875
    )
    assert summary["best"]["svhn"]["intervals_overlap_with"] == ["ViM"], (
        "0.865 .. 0.885 meets 0.85 .. 0.87, not 0.82"
    )
    assert (
        summary["best"]["<i>mine</i>"]["method"] == "ViM"
        and summary["best"]["<i>mine</i>"]["intervals_overlap_with"] == []
    )
    means = {row["method"]: row["auroc"] for row in summary["mean_over_sets"]}
    assert means == pytest.approx({"ViM": 0.905, "MSP": 0.55625}) and next(iter(means)) == "ViM", (
        "Energy is undefined on a set"
    )
    assert summary["neural_collapse"][5]["value"] is None
    assert summary["missing"] == []


def test_summary_names_its_inputs_by_hash_and_is_strict_json(run):
    summary, _ = make(run)
    inputs = summary["provenance"]["inputs"]
    assert inputs["ood_metrics.csv"] == records.sha256(run / "ood_metrics.csv")
    tables = [
        f"{name}{suffix}"
        for name in ("ood_metrics", "nc_metrics", "nc_per_class")
        for suffix in (".csv", ".json")
    ]
    assert set(inputs) == {
        "../net_best_s0.json",
        "../net_curves_s0.csv",
        *tables,
        *(f"figures/{path.name}" for path in (run / "figures").glob("*.png")),
    }

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((run / "summary.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_plain_turns_numpy_into_json_and_infinity_into_null():
    value = {
        "a": np.int64(3),
        4: [np.float32(0.5), np.nan, float("inf"), (np.bool_(True), None, "x")],
    }
    assert json.dumps(utils.plain(value)) == '{"a": 3, "4": [0.5, null, null, [true, null, "x"]]}'


# ---- report.html ---------------------------------------------------------------------------------


def test_page_is_well_formed_accessible_and_self_contained(run):
    _, page = make(run)
    parsed = Page(page)
    assert ("html", {"lang": "en"}) in parsed.tags
    addresses = [
        value
        for _, attributes in parsed.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "data")
    ]
    assert addresses and all(
        address.startswith(("data:image/png;base64,", "#")) for address in addresses
    )
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r'src="data:[^"]*"', "", page))
    assert not {tag for tag, _ in parsed.tags} & {"link", "iframe", "object"}
    policies = [attributes.get("content", "") for tag, attributes in parsed.tags if tag == "meta"]
    assert any("default-src 'none'" in policy for policy in policies), "no browser fetches anything"
    assert all(
        attributes.get("scope") in ("col", "row") for tag, attributes in parsed.tags if tag == "th"
    )
    assert all(len(attributes["alt"]) > 10 for tag, attributes in parsed.tags if tag == "img")
    sections = {attributes["id"] for tag, attributes in parsed.tags if tag == "section"}
    assert {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"} == sections


def test_every_figure_is_embedded_whole_and_the_curves_are_drawn(run):
    _, page = make(run)
    embedded = {
        base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    }
    files = {path.read_bytes() for path in (run / "figures").glob("*.png")}
    assert files <= embedded
    (drawn,) = embedded - files
    assert drawn == reporting_pictures.drawing(figures.training_curves(curves_table()))
    assert "2 more of these" in page, "of three histograms one is in sight"
    assert "Further figures" in page and "my own" in text_of(page)


def test_the_best_methods_histogram_stands_in_sight(run):
    _, page = make(run)
    before, _, _ = page.partition("2 more of these")
    assert 'aria-label="scores ViM"' in before and 'aria-label="scores MSP"' not in before


def test_figures_that_no_stage_recorded_are_left_out(run):
    current.write_record(run / "ood_methods.json", {}, [], [run / "figures" / "auroc_bars.png"])
    summary, page = make(run)
    assert page.count("<figure>") == 2, "the recorded one and the training curves"
    assert "figures/scores_MSP.png" not in summary["provenance"]["inputs"]


def test_cells_show_auroc_interval_and_fpr_and_mark_the_best(run):
    _, page = make(run)
    cells = re.sub(r' data-auroc="[^"]*" data-fpr="[^"]*"', "", page)
    assert '<td class="best"><b>★ 87.5</b> <i>86.5–88.5</i><small>FPR 23.4</small></td>' in cells
    assert '<td class="near">86.0 <i>85.0–87.0</i><small>FPR 26.0</small></td>' in cells
    assert '<td class="">81.2 <i>80.2–82.2</i><small>FPR 34.0</small></td>' in cells
    assert '<td class="best" data-auroc="0.875" data-fpr="0.234375">' in page, "what rows sort by"
    assert page.count("★") == 3, "two sets and the legend"
    assert (
        "–<sup>1</sup></td>" in page
        and "<sup>1</sup> undefined for some of these images, or for all" in page
    )
    assert "<small>1,234 images</small>" in page and "against the same 1,000 ID test images" in page
    assert "<td>0.4321</td>" in page, "the OOD-positive FPR, among every metric"


def test_methods_stand_by_their_mean_and_groups_beside_it(run):
    groups = pd.DataFrame(
        {
            "group": ["near"] * 2,
            "sets": "svhn <i>mine</i>",
            "method": ["MSP", "ViM"],
            "auroc": [0.611, 0.722],
            "fpr95": 0.5,
        }
    )
    store.write_table(run / "ood_groups.csv", groups, {})
    summary, page = make(run)
    assert summary["groups"] == [] and "near:" not in text_of(page), (
        "no record has it: an older run left it behind"
    )
    current.write_record(run / "ood_methods.json", {}, [], [run / "ood_groups.csv"])
    summary, page = make(run)
    assert len(summary["groups"]) == 2 and "ood_groups.csv" in summary["provenance"]["inputs"]
    text = text_of(page)
    assert (
        "mean over all sets; near: svhn and <i>mine</i>." in text
        and "Method Mean near svhn 1,234 images" in text
    )
    assert re.search(
        r"ViM 90\.5 FPR [\d.]+ 72\.2 FPR 50\.0 .* MSP 55\.6 FPR [\d.]+ 61\.1 FPR 50\.0 .*"
        r" Energy(?: – undefined on one of the sets){2} ★ 87\.5",
        text,
    )


def test_published_figures_stand_beside_with_their_protocol_where_there_are_any(run):
    text = text_of(make(run)[1])
    assert "Energy 87.5 79.77 ± 0.61 ViM 86.0 81.70 ± 0.62 MSP 81.2 77.76 ± 0.44" in text
    assert (
        "1 of 4 far sets were tested (svhn of mnist, svhn" in text and "OpenOOD's, of its" in text
    )
    store.write_table(run / "ood_metrics.csv", ood_table().assign(dataset="digits"), {})
    assert "Published figures" not in text_of(make(run)[1])


def test_variants_of_a_method_are_told_apart(run):
    table = pd.concat(
        [ood_table().assign(parameters="T=1"), ood_table().assign(parameters="T=2", auroc=0.5)]
    )
    store.write_table(run / "ood_metrics.csv", table, {})
    summary, page = make(run)
    assert summary["best"]["svhn"]["method"] == "Energy T=1"
    assert '<th scope="row">Energy T=1</th>' in page and page.count('class="near"') == 4, (
        "by name and by variant"
    )


def test_a_note_of_many_metrics_is_said_once(run):
    table = nc_table()
    table.loc[3:, "note"] = "no simplex <here>"
    store.write_table(run / "nc_metrics.csv", table, {})
    page = make(run)[1]
    assert (
        page.count("no simplex") == 1
        and "† no simplex &lt;here&gt;</p>" in page
        and "train, †" in page
    )


def test_files_of_one_command_stand_in_one_row(run):
    made = "nc_metrics (13 rows), nc_per_class (10 rows), ood_metrics (6 rows)"
    assert f"python ood_methods.py 0123456789 9.0 s {made}" in text_of(make(run)[1])


def test_collapse_table_gives_value_target_and_meaning(run):
    text = text_of(make(run)[1])
    assert "nc1 0.391 train, rank 9 of 9 0 mu_G spread within classes" in text
    assert "-0.11 train -1/(C-1) = -0.1111" in text
    assert "0 train 0.0421 test" in text, "nc4_mismatch, one line per split"
    assert "0.03 test 0.2 ood:svhn 0.3 ood:<i>mine</i>" in text
    assert "classifier's weight rows: how unequal the norms are" in text
    assert re.search(r"gram_ ?distance – train 0", text), "undefined, not 0 and not nan"
    assert "own_ metric 3 train" in text, (
        "a metric that the report does not know is shown all the same"
    )


def test_names_are_escaped_everywhere(run):
    _, page = make(run)
    assert "<b>apple" not in page and "<i>mine" not in page
    assert "&lt;b&gt;apple&lt;/b&gt;" in page and "&lt;i&gt;mine&lt;/i&gt;" in page


@pytest.mark.parametrize("name", ["<b>", "=1+1", "null", "{{ page }}", "{% raw %}", "&amp;", '"'])
def test_a_name_is_text_in_every_cell(run, name):
    table = ood_table().replace({"ood": {"svhn": name}, "method": {"Energy": name}})
    store.write_table(run / "ood_metrics.csv", table, {})
    classes = per_class_table().replace({"class_name": {"b": name}})
    store.write_table(run / "nc_per_class.csv", classes, {})
    summary, page = make(run)
    Page(page)
    cells = [html.unescape(cell) for cell in re.findall("<t[hd][^>]*>([^<]*)<", page)]
    assert cells.count(name) >= 3, "as a set, as a method and as a class"
    assert summary["best"][name]["method"] == name


def test_the_style_sheet_stands_in_the_page(run):
    style = (ROOT / "reporting" / "report.css").read_text(encoding="utf-8")
    assert f"<style>\n{style}" in make(run)[1]


def test_a_dollar_sign_in_a_name_is_not_a_placeholder(run):
    table = ood_table().replace({"ood": {"svhn": "$title ${x}"}})
    store.write_table(run / "ood_metrics.csv", table, {})
    assert "$title ${x} (Energy, AUROC 87.5%, interval 86.5–88.5)" in text_of(make(run)[1])


# ---- the reading ---------------------------------------------------------------------------------


def test_the_reading_is_computed_from_the_numbers(run):
    summary, page = make(run)
    said = " ".join(summary["reading"])
    assert said.startswith(
        "net, trained on cifar100 for 3 epochs, classifies 61.23% of the test images right, and"
        " >99.99% of the training images."
    ), "0.99996 must not read as all images"
    assert "Epoch 4 of 5 was the first with every training image right." in said
    assert (
        "Of 2 OOD sets, <i>mine</i> (ViM, AUROC 95.0%, interval 94.0–96.0) is the easiest" in said
    )
    assert "and svhn (Energy, AUROC 87.5%, interval 86.5–88.5) the hardest" in said
    assert (
        "keeps 95% of the ID test images, Energy still accepts 23.4% of svhn; on <i>mine</i>, ViM"
        " accepts 9.8%." in said
    )
    assert (
        "On svhn the best method is not significantly ahead of every other: the order is not"
        " settled." in said
    )
    assert "ViM has the highest AUROC, 90.5%, 34.9 points above MSP" in said
    assert (
        "Worse than chance, so trusting OOD images more than ID ones: MSP on <i>mine</i>." in said
    )
    assert (
        "NC1 is 0.391" in said
        and "0.00% of the training images and 4.21% of the test images" in said
    )
    assert (
        "that of <i>mine</i> (0.300), the least that of svhn (0.200); the ID test images, the null,"
        " have 0.030." in said
    )
    assert said in text_of(page)


def test_paired_tests_settle_what_intervals_leave_open(run):
    table = ood_table().assign(
        best=lambda rows: (rows["ood"] == "svhn") & (rows["method"] == "Energy")
    )
    store.write_table(run / "ood_metrics.csv", table, {})
    said = (
        "On <i>mine</i> the best method is not significantly ahead of every other: the order is not"
        " settled."
    )
    assert said in make(run)[0]["reading"]


def test_the_reading_does_not_name_one_winner_of_a_tie(run):
    table = ood_table().assign(auroc=1.0, auroc_low=1.0, auroc_high=1.0, fpr95=0.0)
    store.write_table(run / "ood_metrics.csv", table, {})
    summary, _ = make(run)
    assert summary["best"]["svhn"]["tied_with"] == ["Energy", "ViM"]
    said = " ".join(summary["reading"])
    assert (
        "MSP and 2 more, AUROC 100.0%" in said
        and "alone is best" not in said
        and "is best on all" not in said
    )


def test_the_reading_of_one_set_and_of_one_winner(run):
    table = ood_table()
    store.write_table(run / "ood_metrics.csv", table[table["ood"] == "svhn"], {})
    assert (
        "The best score on svhn is Energy, AUROC 87.5%, interval 86.5–88.5."
        in make(run)[0]["reading"]
    )
    store.write_table(run / "ood_metrics.csv", table[table["method"] == "ViM"], {})
    assert any("ViM is best on all 2." in sentence for sentence in make(run)[0]["reading"])


def test_no_defined_score_is_said_and_nothing_is_best(run):
    table = ood_table().assign(auroc=np.nan, auroc_low=np.nan, auroc_high=np.nan, fpr95=np.nan)
    store.write_table(run / "ood_metrics.csv", table, {})
    summary, page = make(run)
    assert "No OOD score is defined." in summary["reading"]
    assert summary["best"] == {"svhn": None, "<i>mine</i>": None} and "<b>★" not in page


def test_another_share_of_id_images_is_named(run):
    store.write_table(
        run / "ood_metrics.csv",
        ood_table(),
        {"tpr": 0.8, "command": "python ood_methods.py --tpr 0.8"},
    )
    summary, page = make(run)
    assert summary["tpr"] == 0.8
    assert "With the threshold that keeps 80% of the ID test images" in text_of(page)
    assert "mean FPR@80" in page and "keeps 95% of" not in page


@pytest.mark.parametrize(
    "tpr, said", [(0.955, "95.5"), (0.07, "7"), (0.9999, "99.99"), (1.0, "100"), (0.995, "99.5")]
)
def test_the_share_of_id_images_is_not_rounded(run, tpr, said):
    store.write_table(
        run / "ood_metrics.csv", ood_table(), {"tpr": tpr, "command": "python ood_methods.py"}
    )
    text = text_of(make(run)[1])
    for phrase in (
        f"that keeps {said}% of the ID test images",
        f"mean FPR@{said} ",
        f"keeping {said}% of ID",
        f"keeps {said}% of ID.",
        f"FPR@{said}, headline",
        f"FPR@{said}, OOD-positive",
        f"catches {said}% of OOD images",
    ):
        assert phrase in text, phrase


# ---- what is missing -----------------------------------------------------------------------------


def test_the_command_of_what_is_missing_names_the_folder_of_results(run, capsys):
    (run / "nc_metrics.csv").unlink()
    report.main(["--checkpoint", str(run), "--output-dir", "my results"])
    assert "--output-dir 'my results'\n" in capsys.readouterr().out


@pytest.mark.slow
def test_what_train_wrote_is_found_beside_a_checkpoint_elsewhere(
    own_digits_run, tmp_path, capsys, monkeypatch
):
    blank_figures(monkeypatch)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in own_digits_run.output_dir.iterdir():
        if file.is_file():
            file.rename(moved / file.name)
    checkpoint = str(moved / own_digits_run.checkpoint.name)
    words = ["--checkpoint", checkpoint, "--output-dir", str(own_digits_run.output_dir)]
    neural_collapse.main(words)
    report.main(words)
    assert "which train.py wrote beside the checkpoint" not in capsys.readouterr().out
    summary = json.loads((own_digits_run.folder / "summary.json").read_text())
    assert "curves" not in " ".join(row["what"] for row in summary["missing"])


@pytest.mark.parametrize(
    "missing, command, gone",
    [
        ("ood_metrics.csv", "ood_methods.py", "AUROC and FPR by method"),
        ("nc_metrics.csv", "neural_collapse.py", "Neural collapse metrics"),
        ("nc_per_class.csv", "neural_collapse.py", "Class by class"),
        ("../net_best_s0.json", None, "Recipe"),
        ("../net_curves_s0.csv", None, "Accuracy and loss by epoch"),
    ],
)
def test_a_missing_file_is_named_with_its_command(run, missing, command, gone, capsys):
    assert gone in make(run)[1]
    capsys.readouterr()
    (run / missing).unlink()
    summary, page = make(run)
    (entry,) = summary["missing"]
    printed = capsys.readouterr().out
    if command:
        assert command in entry["command"] and f"make it with: python {command}" in printed
    else:
        assert (
            entry["command"] is None
            and "which train.py wrote beside the checkpoint" in entry["what"]
        )
    assert (
        "Not in this report yet" in page
        and html.escape(entry["what"]) in page
        and entry["what"] in printed
    )
    assert gone not in page
    Page(page)


def test_a_checkpoint_of_an_epoch_has_the_runs_curves(run):
    (run.parent / "net_best_s0.json").unlink()
    folder = run.rename(run.parent / "net_epoch110_s0")
    assert make(folder)[0]["training"]["epochs"] == 5


def test_without_figures_their_commands_are_named(run):
    for path in (run / "figures").glob("*.png"):
        path.unlink()
    summary, _ = make(run)
    assert [row["what"] for row in summary["missing"]] == ["figures/*.png"]


def test_nothing_to_report_names_both_commands_and_writes_nothing(run):
    for name in ("ood_metrics.csv", "nc_metrics.csv"):
        (run / name).unlink()
    with pytest.raises(
        ValueError, match=r"nothing to report.*ood_methods\.py.*neural_collapse\.py"
    ):
        make(run)
    assert not list(run.glob("report*")) and not (run / "summary.json").exists()


def test_no_folder_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(ValueError, match=r"run_networks\.py"):
        report.main(["--checkpoint", "results/absent.pth", "--output-dir", str(tmp_path)])


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("", "cannot be read"),
        ("ood,method\nsvhn,MSP\n", "lacks auroc, auroc_low, auroc_high, fpr95"),
        ("ood,method,auroc,auroc_low,auroc_high,fpr95\n", "lacks rows"),
    ],
)
def test_a_broken_table_is_refused_and_the_old_report_stays(run, content, complaint):
    _, before = make(run)
    (run / "ood_metrics.csv").write_text(content)
    with pytest.raises(ValueError, match=f"ood_metrics.csv {complaint}.*ood_methods.py"):
        report.main(["--checkpoint", str(run)])
    assert (run / "report.html").read_text(encoding="utf-8") == before


def test_tables_of_another_checkpoint_are_refused(run):
    (run.parent / "net_best_s0.pth").write_bytes(b"trained anew")
    with pytest.raises(
        ValueError,
        match=r"ood_metrics\.csv was made from another checkpoint \(abababababab.*ood_methods\.py",
    ):
        report.main(
            ["--checkpoint", str(run.parent / "net_best_s0.pth"), "--output-dir", str(run.parent)]
        )


def test_files_of_the_same_weights_are_of_one_network(run):
    """A training that is repeated ends in the same weights, and in another file, since it took
    another time."""
    for name, table in (
        ("ood_metrics", ood_table()),
        ("nc_metrics", nc_table()),
        ("nc_per_class", per_class_table()),
    ):
        store.write_table(
            run / f"{name}.csv",
            table,
            {"checkpoint_sha256": "cd" * 32, "weights_sha256": "ef" * 32},
        )
    checkpoint = run.parent / "net_best_s0.pth"
    checkpoint.write_bytes(b"trained anew")
    known = utils.read_json(run.parent / "net_best_s0.json")
    own = {"checkpoint_sha256": records.sha256(checkpoint), "weights_sha256": "ef" * 32}
    utils.write_json(run.parent / "net_best_s0.json", known | own)
    assert make(run)[0]["checkpoint"]["sha256"] == own["checkpoint_sha256"]
    utils.write_json(run.parent / "net_best_s0.json", known | own | {"weights_sha256": "00" * 32})
    with pytest.raises(ValueError, match="was made from another checkpoint"):
        make(run)


# ---- a network from elsewhere --------------------------------------------------------------------


def make_foreign(run):
    """The run of a network that was not trained here: no sidecar of a training, no curves, no
    recipe."""
    (run.parent / "net_best_s0.json").unlink()
    for suffix in (".csv", ".json"):
        (run.parent / f"net_curves_s0{suffix}").unlink()
    utils.write_json(
        run / "head.json",
        {"command": "python run_networks.py", "model": "timm_net", "checkpoint_sha256": SHA},
    )
    store.write_table(
        run / "ood_metrics.csv", ood_table().assign(accuracy=0.5125), {"checkpoint_sha256": SHA}
    )
    return run


def test_a_network_from_elsewhere_lacks_no_training_and_has_its_measured_accuracy(run, capsys):
    summary, page = make(make_foreign(run))
    assert "train.py" not in capsys.readouterr().out
    assert "Not in this report yet" not in page
    assert summary["missing"] == [] and summary["accuracy"] == {
        "train": None,
        "val": None,
        "test": 0.5125,
    }
    assert (
        summary["reading"][0]
        == "timm_net, trained elsewhere, on cifar100, classifies 51.25% of the test images right."
    )
    assert "Test accuracy 51.25%" in text_of(page) and "timm_net on cifar100" in page
    assert "trained on cifar100" not in page and "train it" not in page


def test_without_scores_the_accuracy_is_that_of_the_collapse_table(run):
    make_foreign(run)
    (run / "ood_metrics.csv").unlink()
    more = pd.DataFrame(
        [
            {"metric": "nc4_head_accuracy", "value": value, "split": split, "centring": "none"}
            for split, value in (("train", 0.75), ("test", 0.625))
        ]
    )
    store.write_table(
        run / "nc_metrics.csv", pd.concat([nc_table(), more]), {"checkpoint_sha256": SHA}
    )
    summary = make(run)[0]
    assert summary["accuracy"] == {"train": 0.75, "val": None, "test": 0.625}
    assert (
        summary["reading"][0]
        == "timm_net classifies 62.50% of the test images right, and 75.00% of the training images."
    )


# ---- cells without a number ----------------------------------------------------------------------


def test_an_undefined_cell_says_why_and_a_noted_one_is_marked(run):
    table = ood_table().assign(note="")
    energy, vim = (
        (table["method"] == name) & (table["ood"] != "svhn") for name in ("Energy", "ViM")
    )
    table.loc[energy, "note"] = "every validation image is right, so that no <T> is best"
    table.loc[vim, "note"] = "T stands at its bound"
    store.write_table(run / "ood_metrics.csv", table, {})
    summary, page = make(run)
    assert (
        '<td title="every validation image is right, so that no &lt;T&gt; is'
        ' best">–<sup>2</sup></td>' in page
    )
    assert (
        '<p class="note"><sup>2</sup> every validation image is right, so that no &lt;T&gt; is'
        " best</p>" in page
    )
    assert "<b>★ 95.0</b><sup>1</sup>" in page and "<sup>1</sup> T stands at its bound</p>" in page
    assert {row["note"] for row in summary["ood_metrics"]} >= {"T stands at its bound"}
    Page(page)


def test_a_method_that_was_not_scored_on_a_set_has_an_empty_cell_that_says_so(run):
    table = ood_table()
    ragged = table[~((table["method"] == "MSP") & (table["ood"] == "svhn"))]
    store.write_table(run / "ood_metrics.csv", ragged, {})
    summary, page = make(run)
    assert page.count("<td>not scored</td>") == 1 and len(summary["ood_metrics"]) == 5
    assert [row["method"] for row in summary["mean_over_sets"]] == ["ViM"], (
        "no mean without all sets"
    )
    Page(page)


def one_photograph():
    table = ood_table().assign(auroc=0.731, auroc_low=np.nan, auroc_high=np.nan, n_ood=1)
    return table[table["ood"] == "svhn"].assign(ood="photo")


def test_the_auroc_of_one_photograph_is_not_shown_without_an_interval(run):
    store.write_table(run / "ood_metrics.csv", pd.concat([ood_table(), one_photograph()]), {})
    summary, page = make(run)
    assert summary["best"]["photo"] is None
    assert (
        "photo has one image: an AUROC of it has no interval and is not shown."
        in summary["reading"]
    )
    assert "73.1" not in page and "0.731" not in page
    assert page.count("one image only: its AUROC has no interval and is not shown") == 4
    text = text_of(page)
    assert (
        "photo 1 image " in text
        and "their mean over all sets but photo." in text
        and "ViM, best over 2 sets" in text
    )
    assert {row["method"]: row["auroc"] for row in summary["mean_over_sets"]} == pytest.approx(
        {"ViM": 0.905, "MSP": 0.55625}
    )
    store.write_table(run / "ood_metrics.csv", one_photograph(), {})
    summary, page = make(run)
    assert summary["reading"][2:4] == [
        "No OOD score is defined.",
        "photo has one image: an AUROC of it has no interval and is not shown.",
    ]
    assert summary["mean_over_sets"] == [] and "73.1" not in page


def test_a_method_that_is_undefined_on_one_photograph_costs_no_mean(run):
    photograph = one_photograph()
    photograph.loc[photograph["method"] == "MSP", "auroc"] = np.nan
    store.write_table(run / "ood_metrics.csv", pd.concat([ood_table(), photograph]), {})
    summary, page = make(run)
    assert summary["averaged_sets"] == list(dict.fromkeys(ood_table()["ood"]))
    assert {row["method"]: row["auroc"] for row in summary["mean_over_sets"]} == pytest.approx(
        {"ViM": 0.905, "MSP": 0.55625}
    )
    assert "their mean over all sets but photo." in text_of(page)


def test_what_is_missing_or_changed_is_made_by_a_command_that_finds_the_run(run, capsys):
    """The checkpoint file, in a folder that is not results: the command needs --output-dir, quoted
    for a shell."""
    folder = run.parent / "my runs"
    folder.mkdir()
    run = run.rename(folder / run.name)
    (run / "nc_metrics.csv").unlink()
    report.main(["--checkpoint", str(folder / "net_best_s0.pth"), "--output-dir", str(folder)])
    printed = capsys.readouterr().out
    command = re.search(r"missing: nc_metrics.csv; make it with: (.*)", printed)[1]
    assert shlex.split(command) == [
        "python",
        "neural_collapse.py",
        "--checkpoint",
        str(folder / "net_best_s0.pth"),
        "--output-dir",
        str(folder),
    ]


def test_of_one_set_the_first_numbers_are_its_own_with_their_interval(run):
    table = ood_table()
    store.write_table(run / "ood_metrics.csv", table[table["ood"] == "svhn"], {})
    text = text_of(make(run)[1])
    assert (
        "AUROC 87.5% Energy, interval 86.5–88.5 FPR@95 23.4% Energy, keeping 95% of ID" in text
        and "mean AUROC" not in text
    )


# ---- files that were changed ---------------------------------------------------------------------

EDITED = {
    "ood_metrics.csv": ("0.8125", "0.9125"),
    "nc_metrics.csv": ("0.391", "0.191"),
    "nc_per_class.csv": ("1.0,0.9", "1.5,0.9"),
    "../net_curves_s0.csv": ("1.5", "1.25"),
}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize("name", EDITED)
def test_an_edited_table_is_refused_with_the_command_that_makes_it_anew(run, name):
    edit(run / name, *EDITED[name])
    with pytest.raises(
        ValueError,
        match=r"was changed after it was written.*make it anew with: python \w+\.py.*--allow-stale",
    ):
        make(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("name", EDITED)
def test_allow_stale_takes_an_edited_table_and_says_so(run, name):
    edit(run / name, *EDITED[name])
    with pytest.warns(UserWarning, match="taken all the same"):
        summary, page = make(run, "--allow-stale")
    (reason,) = summary["stale"]
    assert Path(name).name in reason and "was changed after it was written" in reason
    assert summary["provenance"]["allowed_stale"] == [reason]
    assert utils.read_json(run / "report.json")["allowed_stale"] == [reason]
    assert "as --allow-stale asked" in page and html.escape(reason) in page


def test_a_table_made_from_a_changed_file_says_so_in_the_report_too(run):
    store.write_table(
        run / "nc_metrics.csv",
        nc_table(),
        {"command": "python x.py", "allowed_stale": ["a.csv was changed"]},
    )
    summary, page = make(run)
    assert (
        summary["stale"] == ["nc_metrics was made with --allow-stale: a.csv was changed"]
        and "a.csv was changed" in page
    )


def test_allow_stale_takes_tables_of_another_network_too(run):
    (run.parent / "net_best_s0.pth").write_bytes(b"trained anew")
    with pytest.warns(UserWarning, match="was made from another checkpoint"):
        summary, page = make(run, "--allow-stale")
    assert len(summary["stale"]) == 3 and "nc_metrics.csv was made from another checkpoint" in page


def test_the_same_content_in_other_bytes_is_no_change(run):
    text = (run / "ood_metrics.csv").read_bytes()
    (run / "ood_metrics.csv").write_bytes(text.replace(b"\n", b"\r\n"))
    assert make(run)[0]["stale"] == []


def test_a_text_among_the_numbers_is_refused_by_row_and_column(run):
    (run / "nc_metrics.json").unlink()
    edit(run / "nc_metrics.csv", "0.125", "much")
    with pytest.raises(
        ValueError, match=r"nc_metrics\.csv, line 4, column value: found 'much', expected a number"
    ):
        make(run)


# ---- JSON that is not ours -----------------------------------------------------------------------

OURS = [
    "../net_best_s0.json",
    "ood_metrics.json",
    "nc_metrics.json",
    "nc_per_class.json",
    "../net_curves_s0.json",
    "head.json",
    "ood_methods.json",
    "neural_collapse.json",
    "run_networks.json",
]
SHAPES = [
    "[1]",
    "5",
    '"text"',
    "null",
    "true",
    "[" * 3000,
    "{",
    "",
    '{"command": 5}',
    '{"rows": [1]}',
    '{"outputs": ["a"]}',
    '{"seconds": {"a": "b"}}',
    '{"tpr": "high"}',
    '{"curves": 5}',
    '{"checkpoint_sha256": {}}',
    '{"held_out": {"a": 1}}',
    '{"allowed_stale": "x"}',
    '{"train_acc": "all"}',
    '{"inputs": 3}',
    '{"git_commit": 7, "command": "x"}',
    '{"class_names": 5}',
]


@pytest.mark.parametrize("name", OURS)
def test_json_of_any_wrong_shape_is_refused_by_name(run, name, monkeypatch):
    monkeypatch.setattr(reporting_pictures, "drawing", lambda figure: b"")
    for text in SHAPES:
        if name == "../net_best_s0.json" and text.startswith("{"):  # else it is another project's
            text = text.replace("{", '{"recipe": {}, ', 1)
        (run / name).write_text(text)
        with pytest.raises(ValueError, match=f"{Path(name).name} (is not JSON|holds a|has)"):
            make(run)


@pytest.mark.parametrize("victim", ["../../victim.csv", "/etc/passwd"])
def test_a_path_that_leads_out_of_its_folder_is_refused(run, victim):
    known = utils.read_json(run.parent / "net_best_s0.json")
    utils.write_json(run.parent / "net_best_s0.json", known | {"curves": victim})
    with pytest.raises(ValueError, match="lies outside that folder"):
        make(run)
    utils.write_json(run.parent / "net_best_s0.json", known)
    for name in (victim, "figures/../../victim"):
        utils.write_json(run / "ood_methods.json", {"command": "x", "outputs": {name: "0"}})
        with pytest.raises(ValueError, match="lies outside that folder"):
            make(run)


def test_a_figure_that_links_out_of_the_folder_is_refused(run, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"private")
    (run / "figures" / "leak.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match=r"leak\.png, which lies outside that folder"):
        make(run)


def test_hidden_files_and_json_of_others_are_passed_over(run):
    before = make(run)[0]
    for name in (
        ".ood_methods.4711.json",
        ".ood_metrics.4711.csv",
        ".ood_metrics.4711.json",
        "figures/.auroc_bars.4711.png",
    ):
        (run / name).write_text('{"half a fi')
    (run / "notes.json").write_text("[1, 2]")
    after = make(run)[0]
    assert (
        after["provenance"]["inputs"] == before["provenance"]["inputs"]
        and after["reading"] == before["reading"]
    )


# ---- the script ----------------------------------------------------------------------------------


def test_record_is_current_until_a_table_changes(run):
    words = ["--checkpoint", str(run)]
    report.main(words)
    arguments = cli.material(report.parse_args(words))
    assert current.is_current(run / "report.json", arguments)
    nc_table().assign(value=1.0).to_csv(run / "nc_metrics.csv", index=False)
    assert not current.is_current(run / "report.json", arguments)


@pytest.mark.parametrize(
    "later",
    [
        "nc_metrics.csv",
        "nc_per_class.csv",
        "ood_metrics.csv",
        "../net_curves_s0.csv",
        "../net_best_s0.json",
        "figures/my_own.png",
        "ood_groups.csv",
    ],
)
def test_a_report_is_made_anew_when_something_comes_that_it_would_have_read(run, later):
    """Run before a table existed, the report lacked it for ever, since its record listed only what
    was there."""
    if later == "ood_groups.csv":
        (run / later).write_text("group,sets,method,auroc,fpr95\nnear,svhn,MSP,0.5,0.5\n")
    content = (run / later).read_bytes()
    (run / later).unlink()
    words = ["--checkpoint", str(run)]
    arguments = cli.material(report.parse_args(words))
    report.main(words)
    assert current.is_current(run / "report.json", arguments)
    (run / later).write_bytes(content)
    assert not current.is_current(run / "report.json", arguments)
    report.main(words)
    assert current.is_current(run / "report.json", arguments)


def test_a_mistake_ends_with_code_2_and_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "report.py", "--checkpoint", "absent.pth", "--output-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr


def captions_of_all_figures():
    """What the figure functions say of their figures."""
    drawn = [getattr(figures, name) for name in figures.__all__]
    return {caption for function in drawn for caption in getattr(function, "captions", ())}


@pytest.mark.slow
def test_report_of_a_real_run_agrees_with_its_tables(own_digits_run):
    import neural_collapse
    import ood_methods

    words = [
        "--checkpoint",
        str(own_digits_run.checkpoint),
        "--output-dir",
        str(own_digits_run.output_dir),
    ]
    ood_methods.main([*words, "--methods", "MSP", "KNN"])
    neural_collapse.main(words)
    report.main(words)
    folder = own_digits_run.folder
    summary, page = (
        json.loads((folder / "summary.json").read_text()),
        (folder / "report.html").read_text(encoding="utf-8"),
    )
    table = pd.read_csv(folder / "ood_metrics.csv")
    assert [row["auroc"] for row in summary["ood_metrics"]] == pytest.approx(
        table["auroc"].to_list(), nan_ok=True
    )
    assert summary["missing"] == [] and summary["accuracy"]["test"] > 0.5
    for name, rows in table.groupby("ood"):
        assert summary["best"][name]["auroc"] == rows["auroc"].max()
    assert page.count("data:image/png") == len(list((folder / "figures").glob("*.png"))) + 1, (
        "and the training curves"
    )
    assert len(page) < 10e6
    assert "Further figures" not in page, "every figure of the chain has its caption and section"
    captions = map(html.unescape, re.findall("<figcaption>(.*)</figcaption>", page))
    assert set(captions) <= captions_of_all_figures()
    Page(page)


@pytest.mark.parametrize(("old", "new"), [("near", "nearer"), ("MSP", "MPS"), ("MSP", "ViM")])
def test_the_command_for_an_edited_table_repeats_the_flags_that_made_it(
    tmp_path, monkeypatch, old, new
):
    blank_figures(monkeypatch)
    folder = toy_run(tmp_path / "net s0")
    flags = ["--tpr", "0.9", "--groups", "both=near,far_noise"]
    score(folder, "--methods", "MSP", *flags)
    # joins MSP
    before, _ = score(folder, "--methods", "Energy", "--set", "Energy.temperature=2", *flags)
    table = folder / "ood_metrics.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    refused = shell(report.main, "--checkpoint", folder)
    assert refused.code == 2
    command = re.search(r"with: (python ood_methods\.py .*), or take it", refused.err)
    _, _, *words = shlex.split(command.group(1))
    assert shell(ood_methods.main, *words).code == 0
    pd.testing.assert_frame_equal(read_csv(folder / "ood_metrics.csv"), before)
    assert shell(report.main, "--checkpoint", folder).code == 0


@pytest.mark.parametrize(
    "name, old, new", [("nc_metrics.csv", "train", "test"), ("nc_per_class.csv", "cat", "cow")]
)
def test_the_command_for_an_edited_collapse_table_repeats_the_flags_that_made_it(
    tmp_path, monkeypatch, name, old, new
):
    blank_figures(monkeypatch)
    folder = toy_run(tmp_path / "net s0")
    flags = ["--ood", "near", "--bootstrap", "3", "--exact"]
    assert shell(neural_collapse.main, "--checkpoint", folder, *flags).code == 0
    table = folder / name
    before = read_csv(table)
    edit(table, old, new)
    refused = shell(report.main, "--checkpoint", folder)
    assert refused.code == 2 and f"{table} was changed after it was written" in refused.err
    command = re.search(r"with: (python neural_collapse\.py .*), or take it", refused.err)
    _, _, *words = shlex.split(command.group(1))
    assert words == ["--checkpoint", str(folder), *words[2:]] and set(flags) <= set(words)
    assert shell(neural_collapse.main, *words).code == 0
    pd.testing.assert_frame_equal(read_csv(table), before)
    assert shell(report.main, "--checkpoint", folder).code == 0


@pytest.mark.parametrize(
    "flags",
    [
        ["--tpr", "0.8", "0.95", "0.99", "--groups", "both=cifar100,svhn"],
        ["--tpr", "0.9", "0.8", "--groups", "openood"],
    ],
)
def test_the_command_for_an_edited_table_names_every_share_and_openoods_groups(
    tmp_path, monkeypatch, flags
):
    blank_figures(monkeypatch)
    folder = toy_run(tmp_path / "net s0", ood=("cifar100", "svhn"))
    for file in sorted(folder.glob("ID_toy_*")):
        file.rename(folder / file.name.replace("toy", "cifar10"))
    before, _ = score(folder, "--methods", "MSP", *flags)
    groups = read_csv(folder / "ood_groups.csv")
    edit(folder / "ood_metrics.csv", "svhn", "svnh")
    refused = shell(report.main, "--checkpoint", folder)
    command = re.search(r"with: (python ood_methods\.py .*), or take it", refused.err)
    _, _, *words = shlex.split(command.group(1))
    assert shell(ood_methods.main, *words, "--replace").code == 0
    pd.testing.assert_frame_equal(read_csv(folder / "ood_metrics.csv"), before)
    pd.testing.assert_frame_equal(read_csv(folder / "ood_groups.csv"), groups)


def test_the_report_of_matched_images_finds_the_training_and_keeps_their_preprocessing(run, capsys):
    folder = run.rename(run.with_name("net_best_s0_matched"))
    (folder.parent / "net_best_s0.pth").write_bytes(b"weights")
    match = {"width": 96, "height": 96, "quality": 75, "subsampling": "4:2:0"}
    said = {
        "checkpoint_at": "../net_best_s0.pth",
        "mode": "best",
        "preprocessing": {"size": 32, "match": match},
    }
    utils.write_json(folder / "head.json", said)
    trained = folder.parent / "net_best_s0.json"
    sidecar = json.loads(trained.read_text()) | {"preprocessing": {"size": 32}}
    utils.write_json(trained, sidecar)
    report.main(["--checkpoint", str(folder), "--allow-stale"])
    assert "which train.py wrote" not in capsys.readouterr().out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy"]["test"] == 0.61235 and summary["training"]["epochs"] == 5
    assert summary["checkpoint"]["preprocessing"]["match"] == match
    assert summary["checkpoint"]["stem"] == "net_best_s0_matched"
