"""slurm/: the batch scripts run by bash itself, with stand-ins for srun, sbatch and their like that
write down how they are called.

slurm/README.md tells how to try them on a real Slurm.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import main
import run_networks
import train

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("train", "leave_out", "extract", "chain")
JOB = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "3"}

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or os.name == "nt", reason="needs bash"
)


@pytest.fixture
def cluster(tmp_path):
    """run(script, words, code, state, environment) -> (finished process, [[command, word, ...]] as
    the stand-ins were called).

    srun ends with `code`; the job is in `state` when squeue is asked; sbatch counts job numbers up
    from 101."""
    stands, called = tmp_path / "bin", tmp_path / "called"
    stands.mkdir()
    bodies = {
        "srun": 'exit "$CODE"',
        "scontrol": "exit 0",
        "squeue": 'echo "$STATE"',
        "scancel": "exit 0",
        "sbatch": (
            f'echo "chain=${{CHAIN_LAST:-}} job=${{SLURM_JOB_ID:-}}" >> {tmp_path / "seen"}\n'
            f'echo $((100 + $(grep -c "^sbatch" {called})))'
        ),
        "python": f'exec {shlex.quote(sys.executable)} "$@"',
    }
    for name, body in bodies.items():
        file = stands / name
        file.write_text(
            f'#!/bin/bash\nprintf "%q " {name} "$@" >> {called}; echo >> {called}\n{body}\n'
        )
        file.chmod(0o755)
    # without the environment that the scripts would activate: its python would hide the stand-in
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for path in ROOT.iterdir():
        if path.name != ".venv":
            (checkout / path.name).symlink_to(path)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "activate").write_text("")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "SRUN_", "OMP_", "VIRTUAL_ENV", "CONDA_"))
    }

    def run(script, *words, code=0, state="RUNNING", cwd=checkout, **environment):
        called.write_text("")
        done = subprocess.run(
            ["bash", str(ROOT / "slurm" / f"{script}.sbatch"), *words],
            cwd=cwd,
            text=True,
            capture_output=True,
            timeout=300,
            env={
                **kept,
                "PATH": f"{stands}:{kept['PATH']}",
                "CODE": str(code),
                "STATE": state,
                **environment,
            },
        )
        return done, [shlex.split(line) for line in called.read_text().splitlines()]

    run.seen, run.checkout, run.stands = tmp_path / "seen", checkout, stands
    return run


def call(calls, command):
    """The one call of this command."""
    found = [words for words in calls if words[0] == command]
    assert len(found) == 1, calls
    return found[0]


def after_script(words, script):
    return words[words.index(script) + 1 :]


# ---- all scripts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_sound_bash_and_stops_at_errors(script):
    path = ROOT / "slurm" / f"{script}.sbatch"
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\nset -euo pipefail\n" in path.read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_sbatch_sees_every_directive(script):
    """sbatch stops looking at the first line that is neither a comment nor empty, so `activate` in
    the block would end it."""
    lines = (ROOT / "slurm" / f"{script}.sbatch").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]
    given = {line.split()[1].partition("=")[0] for line in lines if line.startswith("#SBATCH")}
    assert {"--time", "--ntasks", "--requeue", "--open-mode", "--output"} <= given


@pytest.mark.parametrize("script", SCRIPTS)
def test_elsewhere_than_in_the_repository_a_script_says_so_and_starts_nothing(
    cluster, script, tmp_path
):
    done, calls = cluster(script, cwd=tmp_path, **JOB)
    assert done.returncode == 2 and "submit from the folder" in done.stderr and calls == []


@pytest.mark.parametrize("script", ["train", "extract", "chain"])
def test_a_missing_environment_is_said_and_nothing_starts(cluster, script):
    shutil.rmtree(cluster.checkout / ".venv")
    done, calls = cluster(script, "--dataset", "digits", **JOB)
    assert done.returncode == 2 and calls == []
    assert "no .venv in" in done.stderr and "make it with: make .venv/installed" in done.stderr


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_an_environment_that_was_active_at_submission_will_do(cluster, name):
    shutil.rmtree(cluster.checkout / ".venv")
    done, calls = cluster("extract", **JOB, **{name: "/somewhere"})
    assert done.returncode == 0 and call(calls, "srun")


@pytest.mark.parametrize("script", ["train", "extract"])
def test_threads_follow_the_cores_of_the_job_and_not_the_login_node(cluster, script):
    srun = cluster.stands / "srun"
    srun.write_text('#!/bin/bash\necho "threads $OMP_NUM_THREADS"\n')
    done, _ = cluster(script, **JOB, OMP_NUM_THREADS="1")
    assert "threads 3" in done.stdout


# ---- train ---------------------------------------------------------------------------------------


def test_train_gets_every_word_as_it_was_and_resumes(cluster):
    done, calls = cluster(
        "train", "--dataset", "mine=a folder/of $images", "--held-out", "8", "9", **JOB
    )
    assert done.returncode == 0, done.stderr
    words = after_script(call(calls, "srun"), "train.py")
    assert words == ["--dataset", "mine=a folder/of $images", "--held-out", "8", "9", "--resume"]
    train.make_parser().parse_args(words)
    assert not [words for words in calls if words[0] == "scontrol"]


def test_each_job_of_a_leave_out_array_trains_its_member(cluster):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done, calls = cluster("leave_out", "--dataset", "cifar10", "--folds", "4", **JOB, **array)
    assert done.returncode == 0, done.stderr
    words = after_script(call(calls, "srun"), "train.py")
    expected = "--mode leave-out --dataset cifar10 --folds 4 --fold 3 --resume"
    assert words == expected.split()
    train.parse_args(words)


def test_a_member_that_saved_its_state_goes_back_to_the_queue(cluster):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    done, calls = cluster("leave_out", "--dataset", "cifar10", code=75, **JOB, **array)
    assert done.returncode == 75
    assert call(calls, "scontrol") == ["scontrol", "requeue", "7_3"]


def test_a_task_of_an_array_trains_its_own_seed(cluster):
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4"}
    _, calls = cluster("train", "--dataset", "digits", **JOB, **array)
    assert after_script(call(calls, "srun"), "train.py") == [
        "--dataset",
        "digits",
        "--seed",
        "4",
        "--resume",
    ]


def test_a_saved_state_goes_back_to_the_queue(cluster):
    done, calls = cluster("train", code=75, **JOB)
    assert call(calls, "scontrol") == ["scontrol", "requeue", "7"]
    assert done.returncode == 75


def test_the_last_task_of_an_array_puts_back_itself_and_not_the_whole_array(cluster):
    """Its SLURM_JOB_ID is the array's."""
    _, calls = cluster("train", code=75, **JOB, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="4")
    assert call(calls, "scontrol") == ["scontrol", "requeue", "7_4"]
    assert "--jobs=7_4" in call(calls, "squeue")


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PENDING", ""])
def test_a_job_that_was_cancelled_or_is_put_back_already_is_let_be(cluster, state):
    done, calls = cluster("train", code=75, state=state, **JOB)
    assert done.returncode == 75 and not [words for words in calls if words[0] == "scontrol"]


@pytest.mark.parametrize("code", [0, 1, 2, 137])
def test_other_exit_codes_are_handed_on_and_nothing_is_put_back(cluster, code):
    done, calls = cluster("train", code=code, **JOB)
    assert done.returncode == code and not [words for words in calls if words[0] == "scontrol"]


def test_force_starts_over_once_only(cluster):
    _, calls = cluster("train", "--force", "--seed", "1", **JOB)
    assert after_script(call(calls, "srun"), "train.py") == ["--force", "--seed", "1", "--resume"]
    _, calls = cluster("train", "--force", "--seed", "1", **JOB, SLURM_RESTART_COUNT="1")
    assert after_script(call(calls, "srun"), "train.py") == ["--seed", "1", "--resume"]


def test_the_batch_shell_outlives_the_signal_that_its_step_answers_to(cluster, tmp_path):
    """A pre-emption's SIGTERM reaches the shell too; it still waits, and sees the 75 of a step that
    takes its time to save."""
    srun = tmp_path / "bin" / "srun"
    srun.write_text(srun.read_text().replace("exit", "kill -TERM $PPID\nsleep 0.5\nexit"))
    done, calls = cluster("train", code=75, **JOB)
    assert done.returncode == 75
    assert call(calls, "scontrol") == ["scontrol", "requeue", "7"]


def test_the_exit_code_is_that_of_train():
    text = (ROOT / "slurm" / "train.sbatch").read_text()
    code = re.search(r"^RESUME_ME=(\d+)", text, re.M).group(1)
    assert int(code) == 75 and "code 75" in train.__doc__
    assert re.search(r"#SBATCH --signal=USR1@\d+", text)


# ---- extract -------------------------------------------------------------------------------------


def test_extract_gets_every_word_and_hands_on_the_exit_code(cluster):
    words = ["--checkpoint", "results/a b.pth", "--ood", "photos", "mine=some folder"]
    done, calls = cluster("extract", *words, code=2, **JOB)
    assert done.returncode == 2
    assert after_script(call(calls, "srun"), "run_networks.py") == words


# ---- chain ---------------------------------------------------------------------------------------

CHAIN = [
    "--dataset",
    "digits",
    "--held-out",
    "8",
    "9",
    "--epochs",
    "3",
    "--ood",
    "held_out",
    "photos",
    "--suffix",
    "a b",
    "--methods",
    "MSP",
    "Energy",
]


@pytest.mark.slow
def test_chain_submits_three_jobs_each_after_the_one_before(cluster, tmp_path):
    """From within a job as well: none of that job's own environment goes to those that it
    submits."""
    words = [*CHAIN, "--output-dir", str(tmp_path / "results")]
    done, calls = cluster("chain", *words, **JOB, TRAIN_OPTIONS="--gpus-per-task=1 --ntasks=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "train 101 -> extract 102 -> report 103"
    assert [words[1:3] for words in calls if words[0] == "python"] == [
        ["main.py", "--plan"],
        ["run_networks.py", "--fetch"],
    ]
    first, second, third = (words for words in calls if words[0] == "sbatch")
    trained, extracted = (
        after_script(first, "slurm/train.sbatch"),
        after_script(second, "slurm/extract.sbatch"),
    )
    assert first[:5] == [
        "sbatch",
        "--parsable",
        "--gpus-per-task=1",
        "--ntasks=4",
        "slurm/train.sbatch",
    ]
    assert "--dependency=afterok:101" in second and "--dependency=afterok:102" in third
    assert (train.parse_args(trained).suffix, train.parse_args(trained).epochs) == ("a b", 3)
    extracted = run_networks.parse_args(extracted)
    assert extracted.checkpoint == [str(tmp_path / "results" / "resnet_cifar_final_a b.pth")]
    assert list(map(str, extracted.ood)) == ["held_out", "photos"]
    assert after_script(third, "slurm/chain.sbatch") == words
    assert cluster.seen.read_text().splitlines() == ["chain= job=", "chain= job=", "chain=yes job="]


@pytest.mark.slow
@pytest.mark.parametrize(("failing", "cancelled"), [(2, ["101"]), (3, ["101", "102"]), (1, [])])
def test_a_chain_that_cannot_be_submitted_as_a_whole_leaves_no_job(
    cluster, tmp_path, failing, cancelled
):
    sbatch = cluster.stands / "sbatch"
    text = sbatch.read_text()
    counting = f'[ "$(grep -c "^sbatch" {tmp_path / "called"})" -eq {failing} ] && exit 1\n'
    head, _, body = text.partition('echo "chain=')
    sbatch.write_text(f'{head}{counting}echo "chain={body}')
    done, calls = cluster("chain", *CHAIN, "--output-dir", str(tmp_path / "results"))
    assert done.returncode == 1
    found = [words[1:] for words in calls if words[0] == "scancel"]
    assert found == ([cancelled] if cancelled else [])
    assert "the chain could not be submitted as a whole" in done.stderr


def test_the_log_of_an_arrays_task_carries_the_tasks_number(cluster):
    log = cluster.checkout / "slurm-train-9.out"
    log.write_text("")
    array = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "4", "SLURM_JOB_NAME": "train"}
    cluster("train", "--dataset", "digits", **{**JOB, **array, "SLURM_JOB_ID": "9"})
    assert (cluster.checkout / "slurm-train-7_4.out").resolve() == log


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--methods", "NoSuch"], ["--ood", "nonsense"]])
def test_chain_submits_nothing_where_any_stage_would_refuse(cluster, tmp_path, words):
    done, calls = cluster("chain", "--output-dir", str(tmp_path), *words)
    assert done.returncode == 2 and done.stderr
    assert not [words for words in calls if words[0] == "sbatch"]


def test_a_plan_has_no_force():
    """It would start over in the chain's last job, which is main.py with the same words, on a
    machine without a GPU."""
    with pytest.raises(SystemExit) as left:
        main.parse_args(["--plan", "--force", "train"])
    assert left.value.code == 2


def test_the_last_job_of_the_chain_is_main_with_the_same_words(cluster, tmp_path):
    (tmp_path / "bin" / "python").write_text(
        f'#!/bin/bash\nprintf "%q " "$@" > {tmp_path / "python"}\n'
    )
    done, calls = cluster("chain", *CHAIN, CHAIN_LAST="yes", **JOB)
    assert done.returncode == 0, done.stderr
    assert calls == [] and shlex.split((tmp_path / "python").read_text()) == [
        "-u",
        "main.py",
        *CHAIN,
    ]


def test_a_plan_runs_nothing_and_every_line_is_a_command_that_its_script_takes(tmp_path, capsys):
    main.main(["--plan", *CHAIN, "--output-dir", str(tmp_path)])
    fetch, *lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert run_networks.parse_args(fetch[2:]).fetch
    assert [line[:2] for line in lines] == [
        ["python", f"{stage.script.__name__}.py"] for stage in main.STAGES.values()
    ]
    for stage, line in zip(main.STAGES.values(), lines, strict=True):
        stage.script.parse_args(line[2:])
    assert list(tmp_path.iterdir()) == []


# ---- README --------------------------------------------------------------------------------------


def test_the_readme_shows_commands_that_the_scripts_take():
    text = (ROOT / "slurm" / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    shown = re.findall(
        r"^ {4}[^\n#]*?\b(?:sbatch|bash)(?: [^\n#]*?)? slurm/(\w+)\.sbatch ([^\n#;]*)", text, re.M
    )
    assert {script for script, _ in shown} == set(SCRIPTS) and len(shown) >= 10
    parsers = {
        "train": train.parse_args,
        "leave_out": lambda words: train.parse_args(["--mode", "leave-out", "--fold", "1", *words]),
        "extract": run_networks.parse_args,
        "chain": main.parse_args,
    }
    for script, words in shown:
        parsers[script](shlex.split(words.replace("$seed", "0")))
