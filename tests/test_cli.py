"""The shell's shared vocabulary: flags, exit codes, what a person sees of a mistake, printed
tables."""

import importlib
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import Ended, shell

import cli
import console
import processes

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "run_networks", "ood_methods", "neural_collapse", "report", "main")


def raising(error):
    def main():
        raise error

    return main


# ---- how a script ends ---------------------------------------------------------------------------


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (75, 75)])
def test_what_main_returns_is_the_exit_code(returned, code):
    assert shell(lambda: returned) == Ended(code, "", "")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the width is 3, expected 4"),
        FileNotFoundError(2, "No such file", "x.csv"),
        PermissionError(13, "Permission denied", "x.csv"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_persons_mistake_is_one_line_and_exit_code_2(error):
    assert shell(raising(error)) == Ended(2, "", f"error: {error}\n")


@pytest.mark.parametrize("error", [ValueError("the width is 3"), OSError("disk full")])
def test_debug_shows_the_traceback(error):
    with pytest.raises(type(error)) as caught:
        shell(raising(error), "--debug")
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [AssertionError("shape"), TypeError("bug"), KeyError("bug"), RuntimeError("bug")]
)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        shell(raising(error))


def test_ctrl_c_exits_with_130_and_says_that_what_was_finished_is_kept():
    advised = shell(raising(KeyboardInterrupt("read this")))
    assert advised == Ended(130, "", "interrupted: what was finished is kept; read this\n")
    assert shell(raising(KeyboardInterrupt())) == Ended(
        130, "", "interrupted: what was finished is kept; run the same command again to go on\n"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_ends_every_script_with_130(script, monkeypatch):
    """Not within the epochs of train.py, which saves its state and exits with 75."""
    module = importlib.import_module(script)

    def stop(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "parse_args", stop)
    assert shell(module.main).code == 130


def test_ctrl_c_at_a_real_shell_is_130_without_a_traceback():
    # In the background of a script, as where tests run overnight, SIGINT is ignored unless one asks
    # for it.
    code = (
        "import cli, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n    print('on', flush=True)\n    time.sleep(60)\ncli.run(main)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as script:
        assert script.stdout.readline() == "on\n"
        script.send_signal(signal.SIGINT)
        assert script.stderr.read().startswith("interrupted: ")
    assert script.returncode == 130


TORCH_WORDS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    " tried to allocate 400000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
NO_MEMORY = [
    (MemoryError(), "the system gave no more"),
    (RuntimeError(TORCH_WORDS), "400000000000000 bytes could not be allocated at once"),
    (
        RuntimeError(
            "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79"
        ),
        "20.00 MiB could not be allocated at once",
    ),
]


@pytest.mark.parametrize(("error", "words"), NO_MEMORY)
def test_too_little_memory_is_one_line_and_exit_code_2(error, words):
    ended = shell(raising(error))
    assert ended.code == 2 and ended.out == "" and ended.err.count("\n") == 1
    assert ended.err.startswith(f"error: out of memory: {words}; ") and "--batch-size" in ended.err


def test_the_allocators_themselves_are_understood():
    import torch

    for allocate in (
        lambda: np.empty(10**16),
        lambda: torch.empty(10**16),
        lambda: bytearray(10**17),
    ):
        ended = shell(allocate)
        assert ended.code == 2 and ended.err.startswith("error: out of memory: ")
        with pytest.raises((MemoryError, RuntimeError)):
            shell(allocate, "--debug")


def test_a_full_disk_in_the_words_of_polars_is_one_line():
    import polars as pl

    error = pl.exceptions.ComputeError(
        "parquet: underlying IO error: No space left on device (os error 28)"
    )
    assert shell(raising(error)) == Ended(2, "", f"error: {error}\n")
    with pytest.raises(pl.exceptions.ComputeError):
        shell(raising(pl.exceptions.ComputeError("a bug")))


def test_control_characters_of_a_file_name_do_not_reach_the_terminal():
    assert (
        shell(raising(ValueError("no file \x1b[31mred\a.csv"))).err
        == "error: no file \\x1b[31mred\\x07.csv\n"
    )

    def main():
        warnings.warn("left out: \x1b[2Jx.csv", stacklevel=2)

    assert shell(main).err == "warning: left out: \\x1b[2Jx.csv\n"


def test_a_warning_is_one_line_on_stderr():
    def main():
        warnings.warn("rank 99 of 64", UserWarning, stacklevel=2)

    assert shell(main) == Ended(0, "", "warning: rank 99 of 64\n")


@pytest.mark.slow
def test_at_a_real_shell_a_mistake_is_one_line_and_debug_its_traceback(tmp_path):
    command = [
        sys.executable,
        ROOT / "ood_methods.py",
        "--checkpoint",
        "nowhere.pth",
        "--output-dir",
        tmp_path,
    ]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert plain.returncode == 2 and plain.stdout == "" and "Traceback" not in plain.stderr
    assert (
        plain.stderr.startswith("error: no features of nowhere.pth")
        and plain.stderr.count("\n") == 1
    )
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=60)
    assert (
        debug.returncode == 1
        and "Traceback" in debug.stderr
        and "ValueError: no features of nowhere.pth" in debug.stderr
    )


def test_a_reader_that_closes_the_pipe_early_sees_no_traceback(tmp_path):
    code = (
        "import cli, sys\ndef main():\n    for n in range(10**6):\n        print(n)\ncli.run(main)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as writer:
        assert writer.stdout.readline() == "0\n"
        writer.stdout.close()
        assert "Traceback" not in writer.stderr.read()
    assert writer.returncode == 1


# ---- flags ---------------------------------------------------------------------------------------


def parser():
    made = cli.Parser("Does it.\n\n    python it.py --seed 1")
    cli.add_flags(
        made,
        "ood",
        "suffix",
        "seed",
        "batch-size",
        "epochs",
        "data-dir",
        "output-dir",
        epochs={"type": cli.positive},
        batch_size={"default": 500},
    )
    return made


@pytest.mark.parametrize(
    "words", [["--batch-size", "7"], ["--batch_size", "7"], ["--batch-size=7"], ["--batch_size=7"]]
)
def test_the_underscore_form_of_a_flag_is_taken(words):
    assert parser().parse_args(words).batch_size == 7


def test_underscores_in_values_stay():
    args = parser().parse_args(
        ["--suffix", "my_run", "--data_dir=my_data", "--ood", "held_out", "my_set=my_folder"]
    )
    assert (args.suffix, args.data_dir, list(map(str, args.ood))) == (
        "my_run",
        "my_data",
        ["held_out", "my_set=my_folder"],
    )


def test_the_defaults_hold_unless_a_script_changes_them():
    args = parser().parse_args([])
    assert (args.seed, args.batch_size, args.epochs, args.data_dir, args.output_dir) == (
        0,
        500,
        None,
        "datasets",
        "results",
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--epo", "3"],
        ["--epochs", "3", "more"],
        ["--no-such-flag"],
        ["--seed", "x"],
        ["--seed"],
        ["--epochs", "0"],
        ["--epochs", "-1"],
        ["--epochs", "1.5"],
        ["--epochs", "x"],
    ],
)
def test_abbreviated_unknown_and_wrong_arguments_end_with_exit_code_2(words):
    ended = shell(lambda: parser().parse_args() and None, *words)
    assert ended.code == 2 and "error:" in ended.err and "Traceback" not in ended.err


def test_a_number_below_1_is_refused_with_what_was_expected():
    assert cli.positive("1") == 1
    with pytest.raises(cli.ArgumentTypeError, match="at least 1, found 0"):
        cli.positive("0")


def test_the_help_keeps_the_docstrings_lines_and_shows_the_defaults():
    text = parser().format_help()
    words = " ".join(text.split())  # long lines are wrapped
    assert "\n    python it.py --seed 1\n" in text
    assert "images per step (default: 500)" in words and "augmentation (default: 0)" in words
    assert "default: None" not in words and "default: False" not in words


def test_a_parser_knows_its_own_flags():
    assert (
        parser().knows("--batch-size")
        and parser().knows("--debug")
        and not parser().knows("--temperature")
    )


def test_what_changes_only_how_a_run_goes_is_no_material_argument():
    args = parser().parse_args(["--data-dir", "elsewhere", "--output-dir", "there", "--seed", "3"])
    assert cli.material(args) == {
        "ood": None,
        "suffix": None,
        "seed": 3,
        "batch_size": 500,
        "epochs": None,
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_explains_itself(script):
    module = importlib.import_module(script)
    ended = shell(module.main, "--help")
    assert ended.code == 0 and ended.err == ""
    assert module.__doc__.strip().splitlines()[0] in ended.out and "--output-dir" in ended.out


@pytest.mark.parametrize("script", SCRIPTS[:-1])
def test_every_flag_is_typed_and_shared_flags_mean_the_same_everywhere(script):
    made = importlib.import_module(script).make_parser()
    takes_value = [action for action in made._actions if action.nargs != 0]
    untyped = [
        action.option_strings
        for action in takes_value
        if action.type is None and action.choices is None
    ]
    assert not untyped, f"{script}: {untyped} have neither type nor choices"
    for action in takes_value:
        assert action.option_strings, (
            f"{script} takes the positional argument {action.dest}; the vocabulary is flags"
        )
        assert all("_" not in flag for flag in action.option_strings)
        if (name := action.option_strings[0].removeprefix("--")) in cli.FLAGS:
            assert action.dest == name.replace("-", "_") and (action.nargs == "+") >= (
                "nargs" in cli.FLAGS[name]
            )


# ---- device, seed, progress ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpux", "cuda:99", "toaster", ""])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"--device {name} is not available here .*expected auto, cpu, cuda"
    ):
        cli.device(name)


def test_a_device_by_name_and_by_itself():
    import torch

    assert cli.device("cpu") == torch.device("cpu")
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    assert cli.device("auto").type == next(name for name, available in there.items() if available)


def test_one_seed_draws_the_same_and_another_does_not():
    import random

    import torch

    def draw(seed):
        cli.seed_everything(seed)
        of_numpy = np.random.rand()  # noqa: NPY002 (the global state is what is seeded)
        return random.random(), of_numpy, torch.rand(1).item()

    first, again, other = draw(3), draw(3), draw(4)
    assert first == again and all(a != b for a, b in zip(first, other, strict=True))
    assert draw(-1) == draw(-1)


def test_progress_is_silent_where_stderr_is_a_file(capsys):
    assert list(console.progress(range(3), desc="epochs")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


# ---- printed tables ------------------------------------------------------------------------------


def test_text_stands_left_numbers_right_and_missing_values_are_empty(capsys):
    console.print_table(
        pd.DataFrame(
            {"Method": ["MSP", "Mahalanobis"], "AUROC": [9.5, 100.25], "FPR": [np.nan, 3.0]}
        ),
        "A title",
    )
    assert (
        capsys.readouterr().out
        == "\nA title\nMethod       AUROC  FPR\nMSP           9.50     \nMahalanobis 100.25  3.0\n"
    )


def test_printing_a_table_leaves_it_as_it_was(capsys):
    frame = pd.DataFrame({"Method": ["MSP", "ViM"], "FPR": [np.nan, 3.0]})
    before = frame.copy()
    console.print_table(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert capsys.readouterr().out.startswith("Method")  # without a title, no empty line


def test_a_table_of_many_columns_is_not_cut(capsys):
    frame = pd.DataFrame([range(40)], columns=[f"column {n}" for n in range(40)])
    console.print_table(frame)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "column 39" in lines[0] and "..." not in lines[0]


# ---- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False])
def test_where_processes_worked_together_a_script_exits_at_once(monkeypatch, joined):
    left = []
    monkeypatch.setattr(processes, "joined", joined)
    monkeypatch.setattr(cli.os, "_exit", lambda code: left.append(code))
    with pytest.raises(SystemExit) as stopped:
        cli.leave(75)
    assert stopped.value.code == 75 and left == ([75] if joined else [])


# ---- the terminal --------------------------------------------------------------------------------


def at_a_terminal(code, columns=80):
    """What a program shows at a terminal of so many columns, standard output and error in one."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unset = ("COLUMNS", "LINES")
    environment = {name: text for name, text in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment | {"TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the program has gone
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait() == 0, shown
    return shown.decode()


WIDE = (
    "import pandas as pd, console\n"
    "frame = pd.DataFrame({'method': ['MSP', '[red]ViM'],"
    " **{f'set_{n} AUROC': [n + 0.25, None] for n in range(8)}})\n"
    "console.print_table(frame, 'AUROC [by] method')\n"
)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_table_that_is_wider_than_the_terminal_comes_in_parts():
    shown = re.sub(r"\x1b\[[0-9;]*m", "", at_a_terminal(WIDE))
    rows = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, rows)) <= 80
    assert sum("[red]ViM" in row for row in rows) == 2  # each part is led by the names
    assert "AUROC [by] method" in shown and "7.25" in shown and "nan" not in shown.lower()


def test_in_a_pipe_a_row_is_a_line():
    done = subprocess.run(
        [sys.executable, "-c", WIDE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = done.stdout.splitlines()
    assert len([row for row in rows if "MSP" in row]) == 1 and "\x1b" not in done.stdout
    assert rows[-2].split() == ["MSP", *(f"{n}.25" for n in range(8))]


def test_what_takes_long_is_said_at_a_terminal_alone():
    code = (
        "import time, console\n"
        "console.PATIENCE, console.TICK = 0.1, 0.1\n"
        "with console.working('figures'):\n    time.sleep(0.6)\n"
        "with console.working('short'):\n    pass\n"
    )
    shown = at_a_terminal(code)
    assert "figures 00:0" in shown and "short" not in shown
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == done.stderr == ""


def test_quiet_leaves_the_last_line_and_errors():
    script = (
        "import cli, warnings\n"
        "def main():\n"
        "    cli.Parser('x').parse_args()\n"
        "    print('one')\n"
        "    warnings.warn('careful')\n"
        "    print('results: here')\n"
        "    print()\n"
        "cli.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "results: here\n" and done.stderr == "warning: careful\n"
    failing = script.replace("print('results: here')", "raise ValueError('wrong')")
    done = subprocess.run(
        [sys.executable, "-c", failing, "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "error: wrong" in done.stderr
