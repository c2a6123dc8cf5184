"""Files are written whole or not at all: full disks, killed writers, hidden files, odd names."""

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from helpers import shell
from matplotlib.figure import Figure

import cli
import report
import train
import utils
from artifacts import records, store

ROOT = Path(__file__).resolve().parents[2]
GONE = 2**22 + 1  # above the largest process number of Linux


def names_in(folder):
    return sorted(os.listdir(folder))


def temporary_name(host, process, stem="table", suffix=".csv"):
    return f".{stem}~{host}~{process}-0{suffix}"


def left_over(folder, name, age=0):
    """A half-written file, `age` seconds old."""
    path = folder / name
    path.write_text("half of th")
    os.utime(path, (time.time() - age,) * 2)
    return path


# ---- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 256 kB; the test is skipped where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=10).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


def large_figure():
    figure = Figure(figsize=(6, 6))
    noise = np.random.default_rng(0).random((900, 900))
    figure.add_subplot().imshow(noise, interpolation="nearest")
    return figure


LARGE = np.random.default_rng(0).random((5000, 16))
WRITERS = {
    "x.txt": lambda path: utils.write_text(path, "a" * 2**20),
    "x.json": lambda path: utils.write_json(path, {"text": "a" * 2**20}),
    "x.csv": lambda path: store.write_features(path, LARGE, np.zeros(5000)),
    "x.parquet": lambda path: store.write_features(path, LARGE, np.zeros(5000)),
    "head.csv": lambda path: store.write_head(path, LARGE, np.zeros(5000), range(5000)),
    "table.csv": lambda path: store.write_table(path, pandas_table()),
    "figure.png": lambda path: utils.write_figure(path, large_figure()),
    "log.txt": lambda path: utils.append_text(path, "a" * 2**20),
}


def pandas_table():
    import pandas as pd

    return pd.DataFrame(LARGE)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_file_and_keeps_the_old_one(tiny_disk, name):
    path = tiny_disk / name
    path.write_text("old")
    ended = shell(lambda: WRITERS[name](path))
    assert ended.code == 2 and ended.err.count("\n") == 1 and "~" not in ended.err
    assert ended.err.startswith(
        f"error: cannot write {path} (No space left on device); the file that was there is unch"
    )
    assert f"make room first (df -h {tiny_disk} shows it)" in ended.err
    assert names_in(tiny_disk) == [name]
    assert path.read_text().startswith("old")


def test_a_full_disk_under_a_checkpoint_is_one_line(tiny_disk):
    import torch

    from networks import checkpoints

    path = tiny_disk / "x.pth"
    path.write_text("old")
    ended = shell(lambda: checkpoints.write(path, {"weights": torch.rand(100_000)}))
    assert ended.code == 2 and ended.err.count("\n") == 1 and ended.err.count(str(path)) == 1
    assert names_in(tiny_disk) == ["x.pth"] and path.read_text() == "old"


def test_a_full_disk_is_seen_before_the_work(tiny_disk):
    (tiny_disk / "ballast").write_bytes(bytes(250 * 1024))
    with pytest.raises(
        ValueError, match=r"cannot write into .*No space left on device.*--output-dir"
    ):
        utils.writable_folder(tiny_disk)


def failing(error):
    def write(*_, **__):
        raise error

    return write


def test_polars_words_of_a_full_disk_become_the_files(tmp_path, monkeypatch):
    words = "parquet: File out of specification: underlying IO error: No space left (os error 28)"
    monkeypatch.setattr(pl.DataFrame, "write_parquet", failing(pl.exceptions.ComputeError(words)))
    with pytest.raises(utils.WriteError, match="No space left on device") as caught:
        store.write_features(tmp_path / "x.parquet", np.ones((2, 2)), [0, 1])
    assert f"cannot write {tmp_path / 'x.parquet'} (No space" in str(caught.value)
    assert "nothing was left there" in str(caught.value) and names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room first"),
        (errno.EDQUOT, "make room first"),
        (errno.EROFS, "--output-dir"),
        (errno.EACCES, "--output-dir"),
        (errno.EIO, "run the same command"),
    ],
)
def test_what_the_system_says_and_what_helps(tmp_path, number, advice):
    path = tmp_path / "x.csv"
    path.write_text("old")
    with pytest.raises(utils.WriteError) as caught, utils.replacing(path):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(
        f"cannot write {path} ({os.strerror(number)}); the file that was there is unch"
    )
    assert advice in str(caught.value) and path.read_text() == "old"


def test_the_error_of_another_file_within_the_block_is_not_the_writers(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"absent\.csv"),
        utils.replacing(tmp_path / "x.csv"),
    ):
        (tmp_path / "absent.csv").read_text()
    with pytest.raises(KeyError), utils.replacing(tmp_path / "x.csv"):
        raise KeyError("a bug")


def test_an_error_that_names_the_file_already_is_not_said_twice(tmp_path):
    words = f"{tmp_path / 'x.pth'} could not be written: the disk went away"
    with pytest.raises(OSError) as caught, utils.replacing(tmp_path / "x.pth"):
        raise OSError(words)
    assert str(caught.value) == words


def test_a_folder_in_the_way_and_a_folder_that_is_gone_are_said(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(utils.WriteError, match=r"cannot write .*x\.csv \(Is a directory\)"):
        utils.write_text(tmp_path / "x.csv", "text")
    with pytest.raises(utils.WriteError, match=r"cannot write .*absent/x\.csv \(No such file"):
        utils.write_text(tmp_path / "absent" / "x.csv", "text")
    assert names_in(tmp_path) == ["x.csv"]


def test_a_full_disk_behind_the_output_is_one_line():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code = "import cli\ncli.run(lambda: print('a line'))"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=full,
            timeout=60,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2 and ended.stderr == "error: [Errno 28] No space left on device\n"


# ---- temporary files -----------------------------------------------------------------------------


def test_a_temporary_name_holds_host_and_process_and_is_never_used_twice(tmp_path):
    made = [utils.temporary_beside(tmp_path / "table.csv") for _ in range(3)]
    assert len(set(made)) == 3
    for path in made:
        found = utils.TEMPORARY.fullmatch(path.name)
        assert path.parent == tmp_path and path.name.startswith(".table~") and path.suffix == ".csv"
        assert found["host"] == utils.this_host() and int(found["process"]) == os.getpid()
        assert re.fullmatch(r"[A-Za-z0-9-]+", utils.this_host())


@pytest.mark.parametrize(
    "stem", ["a" * 251, "ü" * 125, "a~b~1-2", "lr[1]*?", "-x", ".x", "new\nline"]
)
def test_any_file_name_can_be_written(tmp_path, stem):
    path = tmp_path / f"{stem}.csv"
    with utils.replacing(path) as temporary:
        temporary.write_text("whole")
        assert utils.TEMPORARY.fullmatch(temporary.name)["host"] == utils.this_host()
    assert path.read_text() == "whole" and names_in(tmp_path) == [path.name]


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path):
    code = (
        "import sys, os, signal, utils\n"
        "with utils.replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "table.csv")], cwd=ROOT, timeout=60)
    assert len(names_in(tmp_path)) == 1 and names_in(tmp_path)[0].startswith(".table~")
    utils.write_text(tmp_path / "other.txt", "text")
    assert names_in(tmp_path) == ["other.txt"]


def test_only_what_is_surely_left_over_is_swept(tmp_path):
    here, week = utils.this_host(), utils.WEEK
    gone = [
        left_over(tmp_path, temporary_name(here, GONE)),
        left_over(tmp_path, temporary_name("elsewhere-123abc", 1), age=week + 3600),
    ]
    kept = [
        left_over(tmp_path, temporary_name(here, os.getpid()), age=2 * week),
        left_over(tmp_path, temporary_name(here, 1), age=2 * week),  # it lives, and is not ours
        left_over(tmp_path, temporary_name("elsewhere-123abc", GONE), age=week - 3600),
        left_over(tmp_path, f"table~{here}~{GONE}-0.csv"),
        left_over(tmp_path, f".table~{here}~{GONE}.csv"),
        left_over(tmp_path, f".table~{here}~{GONE}-0.csv.bak"),
        left_over(tmp_path, ".table.4194305.csv", age=2 * week),
        left_over(tmp_path, ".hidden", age=2 * week),
    ]
    folder = tmp_path / temporary_name(here, GONE, "folder")
    folder.mkdir()
    link = tmp_path / temporary_name(here, GONE, "link")
    link.symlink_to(kept[0])
    utils.write_text(tmp_path / "new.txt", "text")
    expected = [path.name for path in (*kept, folder, link, tmp_path / "new.txt")]
    assert names_in(tmp_path) == sorted(expected) and not any(path.exists() for path in gone)


def test_hidden_files_are_not_listed(tmp_path):
    for name in ("a.json", ".b.json", temporary_name("elsewhere-1", 1, "c", ".json")):
        (tmp_path / name).write_text("{}")
    assert records.listing(tmp_path, "*.json") == ["a.json"]


def test_half_written_files_of_others_do_not_count_as_results(tmp_path):
    folder = tmp_path / "net"
    (folder / "figures").mkdir(parents=True)
    for stem in ("ood_methods", "neural_collapse", "ood_metrics"):
        (folder / temporary_name("elsewhere-1", 1, stem, ".json")).write_text('{"command": "pyth')
        (folder / f".{stem}.4711.json").write_text('{"command": "pyth')
    (folder / "figures" / temporary_name("elsewhere-1", 1, "auroc_bars", ".png")).write_text("x")
    assert report.read_records(folder) == {} and report.figure_files(folder, {}) == []


# ---- values of flags that become names of files --------------------------------------------------


@pytest.mark.parametrize(
    "suffix", ["", " ", "../../x", "a/b", "/x", "a\\b", "new\nline", "a\tb", "nul\0", "bell\a"]
)
def test_a_suffix_that_is_no_part_of_a_file_name_is_refused(tmp_path, suffix):
    ended = shell(
        lambda: train.main(
            ["--dataset", "digits", f"--suffix={suffix}", "--output-dir", str(tmp_path / "results")]
        )
    )
    assert ended.code == 2 and "error: argument --suffix: " in ended.err
    assert "Traceback" not in ended.err and names_in(tmp_path) == []


@pytest.mark.parametrize(
    "suffix", ["-x", ".x", "..", "lr[1]", "a b", "v1.5", "ünï", "*", "~", "$HOME", "x" * 200]
)
def test_any_other_suffix_names_files_in_the_folder(tmp_path, suffix):
    args = train.parse_args(
        [
            "--dataset",
            "digits",
            "--model",
            "resnet_cifar",
            f"--suffix={suffix}",
            "--output-dir",
            str(tmp_path),
        ]
    )
    assert args.suffix == suffix
    files = train.run_files(tmp_path, args.model, args.suffix)
    for path in (*files.all, files.epoch(12)):
        assert path.parent == tmp_path
        utils.write_text(path, "text")


@pytest.mark.parametrize("suffix", ["x" * 300, "ü" * 120])
def test_a_suffix_too_long_for_a_file_name_is_refused_at_once(tmp_path, suffix):
    ended = shell(
        lambda: train.main(
            ["--dataset", "digits", "--suffix", suffix, "--output-dir", str(tmp_path / "results")]
        )
    )
    assert ended.code == 2 and names_in(tmp_path) == []
    shorter = int(re.search(r"give a --suffix that is (\d+) bytes shorter", ended.err)[1])
    assert train.parse_args(
        ["--dataset", "digits", "--suffix", suffix.encode()[:-shorter].decode()]
    )


@pytest.mark.parametrize("flag", ["--output-dir", "--data-dir", "--checkpoint"])
@pytest.mark.parametrize(("value", "words"), [("", "empty"), ("a\0b", "NUL")])
def test_a_path_that_nothing_can_have_is_refused_by_its_flag(flag, value, words):
    parser = cli.Parser("Does it.")
    cli.add_flags(parser, "output-dir", "data-dir", "checkpoint")
    ended = shell(lambda: parser.parse_args([f"{flag}={value}"]))
    assert ended.code == 2 and re.search(f"error: argument {flag}: .*{words}", ended.err)


def test_a_path_that_begins_with_a_dash_can_be_handed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.path("-out") == str(tmp_path / "-out")
    assert cli.path("./out") == "./out"


@pytest.mark.parametrize(
    ("text", "words"),
    [("-x=folder", "neither a name"), ("x=a\0b", "NUL"), ("x" * 101 + "=folder", "101 bytes long")],
)
def test_a_data_set_whose_name_makes_no_file_name_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        utils.SetName.parse(text)
