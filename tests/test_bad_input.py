"""Every mistake of a person ends with exit code 2 and one clear message, before long work, with
nothing overwritten."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import another_checkpoint, shell
from PIL import Image

import data
import main
import neural_collapse
import ood_methods
import report
import run_networks
import train
import utils
from artifacts import records, store

ROOT = Path(__file__).resolve().parent.parent
SCORERS = {"ood_methods": ood_methods, "neural_collapse": neural_collapse}
SHORT = ["--model", "resnet_cifar", "--epochs", "1", "--device", "cpu"]
TABLE = (
    "checkpoint,dataset,ood,method,parameters,auroc,auroc_low,auroc_high,fpr95,n_id,n_ood\n"
    "net,digits,svhn,MSP,,0.5,0.4,0.6,0.9,10,10\n"
)


def snapshot(folder):
    """Every file with its time and content; empty folders do not count."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in files
    }


def refuse(folder, script, *words, said):
    """The script ends with exit code 2 and one message that holds all of `said`, and every file
    under `folder` is as it was."""
    before = snapshot(folder)
    ended = shell(script.main, *words)
    assert ended.code == 2, (ended.out, ended.err)
    assert "Traceback" not in ended.err and ended.err.count("error: ") == 1, ended.err
    message = ended.err[ended.err.index("error: ") :]
    assert message.count("\n") == 1, message
    for part in said:
        assert part in message, message
    after = snapshot(folder)
    assert {name for name in {*before, *after} if before.get(name) != after.get(name)} == set()
    return message


def refuse_run(run, script, *words, said):
    """The same, given the checkpoint of a run and its folder."""
    refuse(
        run.output_dir,
        script,
        "--checkpoint",
        run.checkpoint,
        "--output-dir",
        run.output_dir,
        *words,
        said=said,
    )


@pytest.fixture
def at(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), 40 * number % 256, np.uint8)).save(
            folder / f"{number}.png"
        )


# ---- names that are not known --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        (
            train,
            ["--dataset", "nonsense"],
            ["unknown data set 'nonsense'", "cifar100", "digits", "NAME=FOLDER"],
        ),
        (
            main,
            ["--dataset", "nonsense"],
            ["unknown data set 'nonsense'", "cifar100", "digits", "NAME=FOLDER"],
        ),
        (run_networks, ["--fetch", "--dataset", "nonsense"], ["unknown data set 'nonsense'"]),
        (
            train,
            ["--dataset", "digits", "--model", "nonsense"],
            ["unknown model 'nonsense'", "resnet_cifar", "resnet18"],
        ),
        (main, ["--model", "nonsense"], ["unknown model 'nonsense'", "resnet_cifar", "resnet18"]),
        (
            train,
            ["--dataset", "digits", "--model", "missing.py:build"],
            ["there is no file missing.py"],
        ),
        (
            train,
            ["--dataset", "digits", "--mode", "nonsense"],
            ["--mode", "'nonsense'", "collapse"],
        ),
        (main, ["--mode", "nonsense"], ["--mode", "'nonsense'", "collapse"]),
        (
            main,
            ["--ood", "nonsense"],
            ["unknown OOD set 'nonsense'", "svhn", "held_out", "NAME=FOLDER"],
        ),
        (
            run_networks,
            ["--fetch", "--dataset", "digits", "--ood", "nonsense"],
            ["unknown OOD set 'nonsense'", "svhn", "NAME=FOLDER"],
        ),
        (main, ["--methods", "MSP", "nonsense"], ["unknown method 'nonsense'", "MSP", "ViM"]),
        (main, ["--force", "nonsense"], ["--force", "'nonsense'", "extract"]),
        (main, ["--no-such-flag", "3"], ["--no-such-flag 3"]),
        (main, ["nonsense"], ["nonsense"]),
        (main, ["--device", "toaster"], ["--device toaster", "expected auto, cpu"]),
        (train, ["--dataset", "digits", "--held-out", "11"], ["held-out class '11'", "0, 1, 2"]),
        (main, ["--held-out", "11"], ["held-out class '11'"]),
        (train, ["--dataset", "a/b"], ["'a/b'", "NAME=FOLDER"]),
    ],
)
def test_an_unknown_name_is_answered_with_those_that_are_known(at, script, words, said):
    refuse(at, script, *words, said=said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "cifar10", "--ood", "cifar10"], ["cifar10 is the in-distribution set"]),
        (["--ood", "uniform", "photos", "Uniform"], ["uniform is named twice"]),
        (["--held-out", *"0123456789"], ["leaves 0 classes"]),
        (["--held-out", *"012345678"], ["leaves 1 classes"]),
    ],
)
def test_sets_that_contradict_each_other_are_refused_before_training(at, words, said):
    refuse(at, main, *words, "--epochs", "1", said=said)


@pytest.mark.parametrize("words", [["--held-out"], ["--held-out", "--ood", "held_out"]])
def test_held_out_images_of_nothing_are_refused_before_training(at, words):
    """With no class held out there is no such OOD set, and that is known at once."""
    refuse(at, main, *words, "--epochs", "1", said=["held_out", "--held-out"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "MSP", "--vim-dim", "5"], ["--vim-dim is of ViM"]),
        (["--temperature", "0"], ["--temperature", "above 0"]),
        (["--tpr", "95"], ["--tpr", "at most 1"]),
        (["--epochs", "0"], ["--epochs", "at least 1"]),
        (["--checkpoint", "mine.pth"], ["--epochs", "trains nothing"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--batch-size", "5000"], ["5000", "866 images"]),
        (["--val-size", "962"], ["--val-size 962", "962"]),
        (["--val-size", "-1"], ["--val-size -1"]),
        (["--format", "xml"], ["--format", "'xml'", "parquet"]),
        (["--lr", "-1"], ["-1"]),
        (["--momentum", "-1"], ["-1"]),
    ],
)
def test_a_number_out_of_range_is_refused_before_training(at, words, said):
    refuse(at, main, *([] if "--epochs" in words else ["--epochs", "1"]), *words, said=said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ood", "nonsense"], ["unknown OOD set"]),
        (["--methods", "nonsense"], ["unknown method"]),
        (["--ood", "mine=missing"], ["missing is not a folder"]),
    ],
)
def test_a_mistake_leaves_a_finished_run_as_it_is(own_digits_run, words, said):
    refuse(
        own_digits_run.output_dir,
        main,
        "--epochs",
        "4",
        "--output-dir",
        own_digits_run.output_dir,
        *words,
        said=said,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--ood", "nonsense"],
        ["--ood", "uniform", "uniform"],
        ["--ood", "mine=missing"],
        ["--model", "resnet18"],
        ["--dataset", "cifar10"],
        ["--device", "toaster"],
        ["--batch-size", "0"],
    ],
)
def test_extraction_refuses_before_it_begins(digits_run, words):
    refuse_run(digits_run, run_networks, *words, said=[words[1].partition("=")[2] or words[1]])


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--ood", "nonsense"],
            ["lacks OOD_nonsense_test.csv", "python run_networks.py --checkpoint"],
        ),
        (["--dataset", "cifar10"], ["lacks ID_cifar10_train.csv", "python run_networks.py"]),
    ],
)
def test_the_scorers_name_what_was_not_extracted(digits_run, script, words, said):
    refuse_run(digits_run, SCORERS[script], *words, said=said)


# ---- files that are missing, or are something else -----------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (run_networks, ["there is no checkpoint results/nowhere.pth", "python train.py"]),
        (
            ood_methods,
            [
                "no features of results/nowhere.pth",
                "python run_networks.py --checkpoint results/nowhere.pth",
            ],
        ),
        (
            neural_collapse,
            [
                "no features of results/nowhere.pth",
                "python run_networks.py --checkpoint results/nowhere.pth",
            ],
        ),
        (
            report,
            ["results/nowhere.pth", "python run_networks.py --checkpoint results/nowhere.pth"],
        ),
    ],
)
def test_a_missing_checkpoint_is_named_with_the_command_that_makes_it(at, script, said):
    refuse(at, script, "--checkpoint", "results/nowhere.pth", said=said)


@pytest.mark.parametrize("script", [run_networks, ood_methods, neural_collapse, report])
def test_a_checkpoint_must_be_given(at, script):
    refuse(at, script, said=["--checkpoint"])


@pytest.mark.parametrize(
    "content", ["text", "empty", "no parameters", "a tensor", "code", "cut short"]
)
def test_a_file_that_is_no_checkpoint_is_refused_by_name(at, digits_run, content):
    import torch

    file = at / "strange.pth"
    if content == "text":
        file.write_text("these are no weights")
    elif content == "cut short":
        file.write_bytes(digits_run.checkpoint.read_bytes()[:5000])
    elif content == "empty":
        file.write_bytes(b"")
    else:
        objects = {
            "no parameters": {"epoch": 3},
            "a tensor": torch.ones(3),
            "code": {"net": Path("of a class that is not loaded")},
        }
        torch.save(objects[content], file)
    refuse(
        at,
        run_networks,
        "--checkpoint",
        "strange.pth",
        "--dataset",
        "digits",
        "--model",
        "resnet_cifar",
        said=["strange.pth"],
    )


def test_a_checkpoint_of_other_data_is_refused(own_digits_run):
    import torch

    content = torch.load(own_digits_run.checkpoint, weights_only=True)
    torch.save({**content, "held_out": []}, own_digits_run.checkpoint)  # 8 outputs, 10 classes
    refuse_run(own_digits_run, run_networks, "--ood", "uniform", said=["8 classes", "10"])


def test_weights_that_diverged_are_refused_before_anything_is_replaced(own_digits_run):
    import torch

    content = torch.load(own_digits_run.checkpoint, weights_only=True)
    content["model_state_dict"]["conv1.weight"].fill_(float("nan"))
    torch.save(content, own_digits_run.checkpoint)
    refuse_run(own_digits_run, run_networks, said=["NaN", "diverged"])


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", ["ID_digits_train", "ID_digits_test", "OOD_photos_test"])
def test_a_missing_csv_is_named_with_the_command_that_makes_it(own_digits_run, script, name):
    (own_digits_run.folder / f"{name}.csv").unlink()
    command = (
        f"python run_networks.py --checkpoint {own_digits_run.checkpoint} --output-dir"
        f" {own_digits_run.output_dir} --dataset digits --ood held_out photos"
    )
    refuse_run(
        own_digits_run,
        SCORERS[script],
        "--dataset",
        "digits",
        "--ood",
        "held_out",
        "photos",
        said=[f"lacks {name}.csv", command],
    )


def test_a_report_of_nothing_names_the_commands_that_come_before_it(digits_run):
    commands = ["python ood_methods.py --checkpoint", "python neural_collapse.py --checkpoint"]
    refuse_run(digits_run, report, said=["nothing to report", *commands])


# ---- files that do not belong together, or hold what cannot be -----------------------------------


def change(own_digits_run, name, edit):
    """Rewrite a feature file by edit(features, labels) -> the two, under its old sidecar."""
    path = own_digits_run.folder / f"{name}.csv"
    found, sidecar = store.read_features(path), records.read_sidecar(path)
    store.write_features(path, *edit(found.features.copy(), found.labels.copy()), sidecar=sidecar)


def refuse_features(own_digits_run, script, *said):
    refuse_run(own_digits_run, SCORERS[script], said=said)


FILES = ["ID_digits_train", "ID_digits_test", "OOD_uniform_test"]


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", FILES)
def test_features_of_another_width_are_refused(own_digits_run, script, name):
    change(own_digits_run, name, lambda features, labels: (features[:, :63], labels))
    refuse_features(
        own_digits_run,
        script,
        f"{name}.csv is 63 features wide",
        "has 64",
        "python run_networks.py --checkpoint",
    )


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", [*FILES, "head"])
def test_features_of_another_checkpoint_are_refused(own_digits_run, script, name):
    sidecar = own_digits_run.folder / f"{name}.json"
    other = {"checkpoint_sha256": "f" * 64, "weights_sha256": "f" * 64}
    utils.write_json(sidecar, {**utils.read_json(sidecar), **other})
    refuse_features(
        own_digits_run,
        script,
        f"{name}.csv was made from another checkpoint",
        "ffffffffffff",
        "python run_networks.py --checkpoint",
    )


@pytest.mark.parametrize("script", SCORERS)
def test_features_are_refused_once_the_checkpoint_was_trained_anew(own_digits_run, script):
    another_checkpoint(own_digits_run).replace(own_digits_run.checkpoint)
    refuse_features(
        own_digits_run,
        script,
        "was made from another checkpoint",
        "python run_networks.py --checkpoint",
    )


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", FILES)
def test_features_of_another_head_are_refused(own_digits_run, script, name):
    sidecar = own_digits_run.folder / f"{name}.json"
    utils.write_json(sidecar, {**utils.read_json(sidecar), "head_sha256": "0" * 64})
    refuse_features(
        own_digits_run,
        script,
        f"{name}.csv was made with another head",
        "python run_networks.py --checkpoint",
    )


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_among_features_is_named_with_its_row(
    own_digits_run, script, name, value
):
    def spoil(features, labels):
        features[41, 7] = value
        return features, labels

    change(own_digits_run, name, spoil)
    refuse_features(
        own_digits_run,
        script,
        f"{name}.csv, line 43, column ct",
        "expected a finite number",
        "run_networks.py",
    )


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize("name", ["ID_digits_train", "ID_digits_test"])
@pytest.mark.parametrize("label", [8, -1])
def test_a_label_outside_the_classes_is_named_with_its_row(own_digits_run, script, name, label):
    def spoil(features, labels):
        labels[[41, 50]] = label
        return features, labels

    change(own_digits_run, name, spoil)
    refuse_features(
        own_digits_run,
        script,
        f"{name}.csv, line 43, column label: found label {label}",
        "classes 0 to 7",
    )


@pytest.mark.parametrize("script", SCORERS)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("head", "class,w0,bias\nonly,1,2\n"),
        ("head", "a,b\n1,2\n"),
        ("head", ""),
        ("ID_digits_train", "a,b\n1,2\n"),
        ("ID_digits_train", ""),
        ("OOD_uniform_test", "\x00\x01binary\xff"),
    ],
)
def test_a_csv_of_something_else_is_refused_by_name(own_digits_run, script, name, text):
    (own_digits_run.folder / f"{name}.csv").write_text(text, encoding="latin-1")
    refuse_features(own_digits_run, script, f"{name}.csv")


@pytest.mark.parametrize("script", SCORERS)
def test_a_csv_without_images_is_refused(own_digits_run, script):
    change(own_digits_run, "OOD_photos_test", lambda features, labels: (features[:0], labels[:0]))
    refuse_features(own_digits_run, script, "OOD_photos_test.csv holds no rows")


@pytest.mark.parametrize("script", [*SCORERS, "report"])
def test_a_broken_sidecar_is_refused_by_name(own_digits_run, script):
    (own_digits_run.folder / "ood_metrics.csv").write_text(TABLE)
    for name in ("ID_digits_train", "ood_metrics"):
        (own_digits_run.folder / f"{name}.json").write_text("{half")
    refuse_run(own_digits_run, {**SCORERS, "report": report}[script], said=[".json is not JSON"])


# ---- folders of images ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["nothing", "a text", "hidden"])
def test_a_folder_without_images_is_refused_before_training(at, content):
    (at / "empty").mkdir()
    if content != "nothing":
        (at / "empty" / {"a text": "notes.txt", "hidden": ".thumb.png"}[content]).write_text(
            "no image"
        )
    refuse(
        at,
        main,
        "--epochs",
        "1",
        "--ood",
        "uniform",
        "mine=empty",
        said=["empty holds no images", ".png"],
    )


def test_a_folder_that_is_not_there_is_refused_before_training(at):
    refuse(
        at, main, "--epochs", "1", "--ood", "mine=missing", said=["missing is not a folder", "mine"]
    )


def test_an_empty_folder_is_refused_before_anything_is_extracted(own_digits_run, at):
    (at / "empty").mkdir()
    refuse_run(
        own_digits_run,
        run_networks,
        "--ood",
        "mine=empty",
        "--force",
        said=["empty holds no images"],
    )


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], ["mine/train is not a folder"]),
        (["train"], ["mine/train must hold one folder of images per class", "found 0"]),
        (["train/cat"], ["at least two", "found 1"]),
        (
            ["train/cat", "train/dog", "train"],
            ["beside its class folders", "mv -n mine/train/0.png"],
        ),
        (
            ["train/cat", "train/dog", "test/cat", "test"],
            ["beside its class folders", "mv -n mine/test/0.png"],
        ),
        (["train/cat", "train/dog"], ["mine/test is not a folder"]),
        (["train/cat", "train/dog", "test/bird"], ["'bird'", "training images do not have"]),
    ],
)
@pytest.mark.parametrize("script", [train, main])
def test_a_folder_of_training_images_of_another_form_is_refused(at, script, folders, said):
    for name in folders:
        write_images(at / "mine" / name)
    refuse(
        at,
        script,
        "--dataset",
        "mine=mine",
        *SHORT,
        *(["--ood", "uniform"] if script is main else []),
        said=said,
    )


def test_a_data_set_without_ood_sets_of_its_own_needs_some_to_be_named(at):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_images(at / "mine" / split / name)
    refuse(at, main, "--dataset", "mine=mine", *SHORT, said=["mine", "--ood"])


def test_a_file_that_is_no_image_is_refused_by_name(own_digits_run, at):
    write_images(at / "photographs", 3)
    (at / "photographs" / "1.png").write_bytes((at / "photographs" / "1.png").read_bytes()[:40])
    ended = shell(
        run_networks.main,
        "--checkpoint",
        own_digits_run.checkpoint,
        "--output-dir",
        own_digits_run.output_dir,
        "--ood",
        "mine=photographs",
    )
    assert ended.code == 2 and ended.err.count("error: ") == 1 and "Traceback" not in ended.err
    assert (
        "photographs/1.png cannot be read as an image" in ended.err
        and "mend or remove it" in ended.err
    )
    assert not (own_digits_run.folder / "OOD_mine_test.csv").exists()


def test_unreadable_photographs_are_refused_before_training(at):
    write_images(at / "photographs", 15)
    for number in range(12):
        (at / "photographs" / f"{number}.png").write_bytes(b"no image")
    message = refuse(
        at,
        main,
        "--epochs",
        "1",
        "--ood",
        "uniform",
        "mine=photographs",
        said=[
            "12 files cannot be read as images",
            "photographs/0.png",
            "and 2 more",
            "mend or remove them",
        ],
    )
    assert message.count(".png (") == 10


def test_photographs_of_kinds_that_cannot_be_read_are_refused_before_training(at):
    (at / "photographs").mkdir()
    (at / "photographs" / "1.HEIC").write_text("x")
    refuse(
        at,
        main,
        "--epochs",
        "1",
        "--ood",
        "mine=photographs",
        said=["holds no images", "1 other file (.heic)", "magick"],
    )


@pytest.mark.parametrize("script", ["main", "run_networks"])
def test_a_file_name_that_is_not_utf8_is_refused_before_long_work(at, digits_run, script):
    write_images(at / "photographs", 1)
    try:
        (at / "photographs" / "0.png").rename(at / "photographs" / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    said = [r"caf\xe9.png", "not UTF-8", "convmv"]
    if script == "main":
        refuse(at, main, "--epochs", "1", "--ood", "mine=photographs", said=said)
    else:
        refuse_run(digits_run, run_networks, "--ood", "mine=photographs", "--force", said=said)


def test_a_missing_folder_is_refused_before_any_other_is_looked_at(at, digits_run, monkeypatch):
    write_images(at / "photographs", 1)
    for name in ("id_set", "load_id", "load_ood"):
        monkeypatch.setattr(data, name, None)
    refuse_run(
        digits_run,
        run_networks,
        "--ood",
        "mine=photographs",
        "other=missing",
        said=["missing is not a folder", "other"],
    )


# ---- no write permission -------------------------------------------------------------------------


@pytest.mark.parametrize("script", [train, main])
def test_an_output_folder_that_is_a_file_is_refused(at, script):
    (at / "results").write_text("a file")
    refuse(
        at,
        script,
        *SHORT,
        "--dataset",
        "digits",
        said=["cannot write into results", "--output-dir"],
    )


def test_extraction_into_a_file_is_refused(digits_run, at):
    (at / "results").write_text("a file")
    said = ["cannot write into results", "--output-dir"]
    refuse(at, run_networks, "--checkpoint", digits_run.checkpoint, "--ood", "uniform", said=said)


@contextlib.contextmanager
def unprivileged():
    """As a user who may not write everywhere: root asks no permission."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked(digits_run):
    """results/ that everyone may read and nobody write, where tables and figures are already."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        output_dir = Path(folder) / "results"
        shutil.copytree(digits_run.output_dir, output_dir)
        (output_dir / digits_run.folder.name / "figures").mkdir()
        for name in ("ood_metrics.csv", "report.html", "figures/nc5.png"):
            (output_dir / digits_run.folder.name / name).write_text(TABLE)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield output_dir
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (train, ["--dataset", "digits", *SHORT, "--suffix", "new"]),
        (train, ["--dataset", "digits", *SHORT, "--force"]),
        (run_networks, ["--ood", "uniform", "--force"]),
        (ood_methods, []),
        (neural_collapse, []),
        (report, []),
    ],
)
def test_a_folder_without_write_permission_is_refused(locked, digits_run, script, words):
    given = [] if script is train else ["--checkpoint", locked / digits_run.checkpoint.name]
    with unprivileged():
        if os.access(locked, os.W_OK, effective_ids=True):
            pytest.skip("this user may write everywhere")
        message = refuse(
            locked, script, *given, "--output-dir", locked, *words, said=["ermission denied"]
        )
    assert "cannot write into" in message and "--output-dir" in message


# ---- at a real shell -----------------------------------------------------------------------------


@pytest.mark.slow
def test_at_a_real_shell_the_chain_refuses_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "--ood", "uniform", "nonsense"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (
        done.returncode == 2
        and "Traceback" not in done.stderr
        and "unknown OOD set 'nonsense'" in done.stderr
    )
    assert done.stderr.count("\n") == 1 and not list(tmp_path.rglob("*.*"))
