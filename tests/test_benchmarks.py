"""benchmarks/: the parts that a figure rests on, and one run of each kind at its smallest. No test
asserts a time."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import blank_figures, class_folders
from torch import nn

import data
import train
from artifacts import records, store
from networks import registry
from training import augment, winograd

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


@contextlib.contextmanager
def loaded(name):
    """A benchmark's module by a name of its own, lest it stand for a module at the top."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location(
            f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        # where the loader's processes find its classes
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def training():
    with loaded("training") as module:
        yield module


@pytest.fixture(scope="module")
def recipes():
    with loaded("recipes") as module:
        yield module


def small_images(training, count=40):
    return training.load(ROOT / "no such folder", count)


# ---- the data path: both sides do the same work --------------------------------------------------


def test_without_cifar100_the_images_are_random_ones_and_said_to_be(training):
    images, source = small_images(training)
    assert (
        source == "random images"
        and images.pixels.shape == (40, 3, 32, 32)
        and images.pixels.dtype == torch.uint8
    )


def test_a_pass_of_either_side_holds_every_image_once(training):
    images, _ = small_images(training)
    images.labels = torch.arange(40)
    for batches in (
        training.textbook(images, 16, 1, CPU),
        training.in_memory(images, 16, ("crop", "flip"), CPU, seed=0),
    ):
        for _ in range(2):
            found = list(batches())
            assert [tuple(pixels.shape) for pixels, _ in found] == [
                (16, 3, 32, 32),
                (16, 3, 32, 32),
                (8, 3, 32, 32),
            ]
            assert all(pixels.dtype == torch.float32 for pixels, _ in found)
            assert sorted(torch.cat([labels for _, labels in found]).tolist()) == list(range(40))
    one, two = (torch.cat([labels for _, labels in batches()]) for _ in range(2))
    assert not torch.equal(one, two)  # every pass is shuffled anew


def test_both_sides_normalise_alike(training):
    """An image of one colour is left as it is by a flip, and by a crop at its centre."""
    images, _ = small_images(training, 8)
    images.pixels[:] = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = (
        torch.tensor([10, 100, 200]) / 255 - torch.tensor(training.preprocessing().mean)
    ) / torch.tensor(training.preprocessing().std)
    for batches in (
        training.textbook(images, 8, 1, CPU),
        training.in_memory(images, 8, ("crop", "flip"), CPU, seed=0),
    ):
        pixels, _ = next(iter(batches()))
        torch.testing.assert_close(pixels[:, :, 16, 16], expected.expand(8, 3))


def test_the_data_part_times_every_augmentation_alone(training):
    images, _ = small_images(training)
    args = training.parse_args(["--batch-size", "16"])
    ways = training.data_part(images, CPU, args).ways
    # the first is what the ratios are to
    assert next(iter(ways)).startswith("DataLoader, 2 workers")
    assert {f"in memory: {name}" for name in (*augment.OF_PIXELS, *augment.OF_INPUTS)} < set(ways)


# ---- the compute path ----------------------------------------------------------------------------


def test_flops_are_those_of_a_network_counted_by_hand(training, monkeypatch):
    """A convolution and a linear layer: forward once, backward once for the weights and, but at the
    input, for the input."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 100),
    )
    monkeypatch.setattr(registry, "build", lambda name, classes: network)
    convolution, linear = 2 * 32 * 32 * 3 * 8 * 9, 2 * 8 * 100
    assert training.training_flops("any") == 2 * convolution + 3 * linear


SETTINGS = {
    "textbook": {},
    "foreach": {"optimizer": "foreach"},
    "fused": {"optimizer": "fused", "channels_last": True},
    "winograd": {"optimizer": "fused", "channels_last": True, "winograd": True},
    "bfloat16": {"optimizer": "fused", "channels_last": True, "amp": True},
}


@pytest.fixture
def wide(monkeypatch):
    """A network with one convolution that Winograd's algorithm computes, under any name."""

    def build(name, classes):
        return nn.Sequential(
            nn.Conv2d(3, winograd.FEWEST_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(winograd.FEWEST_CHANNELS),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Conv2d(winograd.FEWEST_CHANNELS, 8, 3, padding=1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )

    monkeypatch.setattr(registry, "build", build)


def losses_of(training, settings, steps):
    images, _ = small_images(training, 16)
    inputs = training.preprocessing().normalise(images.pixels)
    step = training.make_step("any", CPU, training.Settings(**settings))
    return [step(inputs, images.labels).item() for _ in range(steps)]


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_step_learns_whatever_the_settings(training, wide, name, one_thread):
    losses = losses_of(training, SETTINGS[name], 8)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["foreach", "fused", "winograd"])
def test_float32_steps_agree_however_they_are_computed(training, wide, name, one_thread):
    textbook = losses_of(training, SETTINGS["textbook"], 3)
    np.testing.assert_allclose(losses_of(training, SETTINGS[name], 3), textbook, rtol=1e-4)


@pytest.mark.parametrize("native", [True, False])
def test_the_compute_path_has_each_change_alone_and_then_what_train_py_does(
    training, monkeypatch, native
):
    monkeypatch.setattr(training, "has_bfloat16", lambda device: native)
    found = training.settings_of_compute(CPU, compiles=True)
    assert next(iter(found.values())) == training.Settings()  # what the ratios are to
    assert {"foreach SGD", "channels_last", "compiled, max-autotune", "winograd"} < set(found)
    assert ("bfloat16, channels_last" in found) is native
    assert found["train.py"] == training.Settings(
        "fused", channels_last=True, amp=native, kept=True
    )
    assert not any(way.compiled for way in training.settings_of_compute(CPU, False).values())


# ---- timing --------------------------------------------------------------------------------------


def test_the_ways_take_turns_and_the_warm_up_does_not_count(training):
    calls, ticks = [], iter(range(1000))

    def slow():
        calls.append("b")
        next(ticks)
        next(ticks)

    ways = {"a": training.Way(lambda: calls.append("a")), "b": training.Way(slow)}
    found = training.take_turns(ways, CPU, 3, clock=lambda: float(next(ticks)))
    assert calls == ["a", "b"] * 4
    assert found == {"a": 1.0, "b": 3.0}


def test_memory_that_is_kept_is_there_before_the_clock_runs(training):
    calls = []
    keeps = training.Settings(kept=True)
    ways = {
        "a": training.Way(lambda: calls.append("a")),
        "b": training.Way(lambda: calls.append("b"), keeps),
        "c": training.Way(lambda: calls.append("c"), keeps),
    }
    training.take_turns(ways, CPU, 1)
    assert calls == ["a", "b", "b", "c"] * 2


def test_ratios_are_to_the_first_way_and_shares_of_the_product_in_its_precision(
    training, monkeypatch
):
    product = 2 * 1024**3 * 20  # operations of a turn of matrix products
    seconds = {
        "first": 2.0,
        "second": 0.5,
        "half": 0.25,
        training.FLOAT32: product / 120e9,
        training.BFLOAT16: product / 480e9,
    }
    monkeypatch.setattr(training, "take_turns", lambda *_: seconds)
    ways = {name: training.Way(print) for name in ("first", "second")}
    ways["half"] = training.Way(print, training.Settings(amp=True))
    products = {name: training.Way(print) for name in (training.FLOAT32, training.BFLOAT16)}
    part = training.Part("compute", 10, ways, "m", 3e9, products)
    table = pd.DataFrame(training.measure(part, CPU, 1, time.perf_counter)).set_index("way")
    assert table["ratio"].dropna().tolist() == [1.0, 4.0, 8.0]
    assert table["images_per_second"].dropna().tolist() == [5.0, 20.0, 40.0]
    assert table["tflops"].tolist() == pytest.approx([0.015, 0.06, 0.12, 0.12, 0.48])
    assert table["share"].tolist() == pytest.approx([0.125, 0.5, 0.25, 1, 1])


# ---- where the time goes -------------------------------------------------------------------------


def event(name, parent=None):
    return SimpleNamespace(name=name, cpu_parent=parent)


def test_an_operator_counts_as_the_outermost_kind_around_it(training):
    backward = event("autograd::engine::evaluate_function: ConvolutionBackward0")
    assert training.kind_of(event("aten::add_", backward)) == "convolution, backward"
    assert training.kind_of(event("aten::mm", event("Convolution"))) == "convolution, forward"
    step = event("Optimizer.step#SGD.step")
    assert training.kind_of(event("aten::mean", event("aten::x", step))) == "optimiser"
    assert training.kind_of(event("aten::cross_entropy_loss")) == training.OTHER
    assert training.kind_of(event("GeluBackward0")) == "activation"


@pytest.mark.parametrize("name", ["fused", "winograd"])
def test_a_profile_finds_every_kind_of_operator(training, wide, name, one_thread):
    images, _ = small_images(training, 16)
    batches = training.in_memory(images, 16, ("crop", "flip"), CPU, 0)
    step = training.make_step("any", CPU, training.Settings(**SETTINGS[name]))
    seconds = training.seconds_by_kind(step, batches, CPU)
    assert list(seconds) == [*training.KINDS, training.OTHER]
    assert min(seconds.values()) > 0


def test_quick_gives_way_to_what_is_said_outright(training):
    args = training.parse_args(["--quick", "--images", "7"])
    assert (args.images, args.steps, args.no_compile) == (7, 1, True)


# ---- a whole run ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_run_writes_what_it_prints(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "training.py"),
        "--quick",
        "--profile",
        "--images",
        "64",
        "--batch-size",
        "16",
        "--models",
        "resnet_cifar",
        "--device",
        "cpu",
        "--data-dir",
        str(tmp_path),
        "--output-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "benchmarks" / "training.csv"
    table, sidecar = store.read_table(path), records.read_sidecar(path)
    assert list(table["part"].unique()) == ["data", "compute", "both"]
    assert list(table.columns)[-1] == "ratio"
    assert (table.groupby("part", sort=False)["ratio"].first() == 1).all()
    timed = table[~table["way"].str.startswith("matrix product")]
    assert (timed[["seconds", "images_per_second", "ratio"]] > 0).all(axis=None)
    of_data = table["part"] == "data"
    assert table.loc[~of_data, "share"].gt(0).all() and table.loc[of_data, "tflops"].isna().all()
    assert sidecar["machine"]["images"] == "random images"
    shares = store.read_table(tmp_path / "benchmarks" / "training_profile.csv")
    np.testing.assert_allclose(shares.groupby("way")["share"].sum(), 1)
    assert sidecar["machine"]["processor"] and sidecar["rows"] == len(table)
    assert all(way in done.stdout for way in table["way"]) and "random images" in done.stdout


@pytest.mark.slow
def test_the_stages_of_the_whole_process_are_those_of_its_record_and_leave_the_start(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "process.py"),
        "--train-rows",
        "800",
        "--test-rows",
        "180",
        "--width",
        "24",
        "--classes",
        "8",
        "--repeats",
        "1",
        "--methods",
        "core",
        "--output-dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "benchmarks" / "process.csv")
    assert list(table["methods"]) == ["core"]
    stages = table[["start", "reading", "scoring", "detector", "tables", "figures"]]
    np.testing.assert_allclose(stages.sum(axis=1), table["seconds"], atol=0.005)
    assert (stages > 0).all(axis=None) and table["reading_share"].between(0, 1).all()


def test_each_choice_of_methods_is_a_row_of_medians_without_its_first_run(tmp_path, monkeypatch):
    seconds = iter((90, 2, 4, 9, 70, 1, 3, 8))
    asked = []

    def run(folder, methods):
        asked.append(methods)
        spent = next(seconds)
        return {"seconds": spent, "reading": spent / 2}

    words = [
        "--train-rows",
        "40",
        "--test-rows",
        "20",
        "--width",
        "6",
        "--classes",
        "4",
        "--repeats",
        "3",
    ]
    with loaded("process") as process:
        monkeypatch.setattr(process, "run", run)
        process.main([*words, "--methods", "core", "searchless", "--output-dir", str(tmp_path)])
        assert asked == [process.METHODS["core"]] * 4 + [process.METHODS["searchless"]] * 4
    table = pd.read_csv(tmp_path / "benchmarks" / "process.csv")
    assert table["methods"].tolist() == ["core", "searchless"]
    assert table["seconds"].tolist() == [4, 3] and table["reading_share"].tolist() == [0.5, 0.5]


def test_every_benchmark_that_times_names_the_machine_that_it_ran_on():
    texts = {
        path.name: path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py")
    }
    timed = [name for name, text in texts.items() if "perf_counter" in text]
    assert {"collapse.py", "process.py", "scoring.py", "training.py"} <= set(timed)
    assert not [name for name in timed if "machine.facts(" not in texts[name]]


# ---- recipes -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recipes_trains_extracts_and_scores_each_candidate_and_keeps_what_is_finished(
    recipes, tmp_path, monkeypatch
):
    def script(file, *words):  # six processes would import torch in most of the time
        assert not importlib.import_module(Path(file).stem).main(list(words))

    monkeypatch.setattr(recipes, "script", script)
    blank_figures(monkeypatch)
    words = [
        "--dataset",
        "digits",
        "--epochs",
        "1",
        "--ood",
        "uniform",
        "held_out",
        "--methods",
        "MSP",
        "KNN",
        "--device",
        "cpu",
        "--candidates",
        "baseline",
        "mine=--lr 0.02 --ema 0.5",
        "--output-dir",
        str(tmp_path),
    ]
    recipes.main(words)
    table = store.read_table(tmp_path / "benchmarks" / "recipes.csv")
    assert (
        table["candidate"].tolist() == ["baseline", "mine"]
        and table["flags"].tolist()[1] == "--lr 0.02 --ema 0.5"
    )
    for row in table.to_dict("records"):
        stem = f"resnet_cifar_best_{row['candidate']}_1_s0"
        folder = tmp_path / "benchmarks" / "recipes"
        summary = json.loads((folder / f"{stem}.json").read_text())
        assert (row["val_acc"], row["test_acc"]) == (summary["val_acc"], summary["test_acc"])
        assert summary["recipe"]["ema"] == (0.5 if row["candidate"] == "mine" else 0)
        scored = pd.read_csv(folder / stem / "ood_metrics.csv").groupby("method")["auroc"].mean()
        assert row["MSP"] == pytest.approx(scored["MSP"]) and row["KNN"] == pytest.approx(
            scored["KNN"]
        )
    assert table["test_gain"].tolist() == pytest.approx(
        [0, table["test_acc"][1] - table["test_acc"][0]]
    )
    times = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "benchmarks" / "recipes").glob("*.pth")
    }
    recipes.main(words)
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_a_script_that_fails_is_named_with_its_code(recipes, capfd):
    with pytest.raises(
        ValueError,
        match=r"^report\.py --checkpoint absent\.pth ended with code 2; the same command goes on",
    ):
        recipes.script("report.py", "--checkpoint", "absent.pth")
    assert "error: no features of absent.pth" in capfd.readouterr().err


def test_a_candidate_is_a_name_of_the_table_or_flags(recipes):
    plain, fast = recipes.CANDIDATES["best"], recipes.CANDIDATES["fast"]
    assert recipes.candidate("ema", plain) == ("ema", "--ema 0.999")
    assert recipes.candidate("no Muon", fast) == ("no Muon", "--optimizer sgd")
    assert recipes.candidate("a=--lr 1 --ema 0.5", plain) == ("a", "--lr 1 --ema 0.5")
    with pytest.raises(ValueError, match="unknown candidate 'emu'; expected one of baseline"):
        recipes.candidate("emu", plain)


def test_every_candidate_of_a_mode_is_a_recipe_that_differs_from_the_mode(recipes):
    for mode, table in recipes.CANDIDATES.items():
        made = []
        for flags in table.values():
            args = train.parse_args(["--mode", mode, *flags.split()])
            made.append(train.resolve(args, data.ID["cifar100"]))
        assert made[0] == train.resolve(train.parse_args(["--mode", mode]), data.ID["cifar100"])
        assert len({str(recipe) for recipe in made}) == len(made)


# ---- beside --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beside():
    with loaded("beside") as module:
        yield module


def test_a_way_is_variables_of_the_environment(beside):
    assert beside.variables("") == {}
    assert beside.variables("A=1 B='2 3=4'") == {"A": "1", "B": "2 3=4"}
    with pytest.raises(ValueError, match="--ways 'A=1 B': expected NAME=VALUE, found 'B'"):
        beside.variables("A=1 B")


def test_the_ratio_is_that_of_the_medians(beside):
    seconds = {0: [1.0, 2.0, 9.0], 1: [3.0, 50.0, 1.0]}
    runs = pd.DataFrame(
        {"command": "c", "way": "", "beside": kind, "seconds": value, "processor": 0.5, "others": 0}
        for kind, values in seconds.items()
        for value in values
    )
    (row,) = beside.summary(runs).to_dict("records")
    assert (row["way"], row["quiet_seconds"], row["beside_seconds"]) == ("as it is", 2.0, 3.0)
    assert row["ratio"] == 1.5 and list(row)[-1] == "ratio"


@pytest.mark.slow
def test_beside_runs_each_command_by_each_way_quiet_and_beside(beside, tmp_path, capsys):
    code = "import os, sys; open(sys.argv[1], 'a').write(os.environ.get('WAY', '-') + ' ')"
    command = f'python -c "{code}" {tmp_path}/ran'
    words = ["--ways", "", "WAY=1", "--repeats", "2", "--output-dir", str(tmp_path), command]
    beside.main(words)
    assert (tmp_path / "ran").read_text().split() == ["-", *["-", "-", "1", "1"] * 2]
    table = store.read_table(tmp_path / "benchmarks" / "beside.csv")
    assert table["way"].tolist() == ["as it is", "WAY=1"] and table["ratio"].gt(0).all()
    with pytest.raises(ValueError, match=r"ended with code 3: no\.$"):
        beside.run("python -c \"import sys; print('no.', file=sys.stderr); sys.exit(3)\"", {})


# ---- extraction ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extraction():
    with loaded("extraction") as module:
        yield module


def test_the_ratio_is_to_the_textbooks_best_batch(extraction):
    runs = {
        "decoded": [(1.0, 10), (1.0, 10)],
        "extractor": [(2.0, 30), (4.0, 50)],
        "textbook, batches of 1": [(8.0, 20), (8.0, 20)],
        "textbook, batches of 2": [(6.0, 20), (6.0, 20)],
    }
    table = extraction.summary(runs, 12)
    assert table["images_per_second"].tolist() == [12.0, 4.0, 1.5, 2.0]
    assert table["peak_mb"].tolist() == [10, 40, 20, 20]
    assert table["ratio"].tolist() == [6.0, 2.0, 0.75, 1.0]


def test_ways_with_other_features_are_no_comparison(extraction):
    features = np.array([[1.0, 2.0], [3.0, 4.0]])
    extraction.check_same(features, features + 1e-4, "a way")
    extraction.check_same(features, None, "a way")
    with pytest.raises(ValueError, match="a way makes other features"):
        extraction.check_same(features, features[::-1], "a way")


@pytest.mark.slow
def test_extraction_runs_each_way_on_the_same_images(extraction, tmp_path):
    class_folders(tmp_path / "set", ["a", "b"], 3, (40, 44))
    words = ["--image-size", "32", "--images", "5", "--batches", "2", "--repeats", "1"]
    place = ["--output-dir", str(tmp_path / "out")]
    extraction.main([str(tmp_path / "set" / "train"), *words, *place])
    table = store.read_table(tmp_path / "out" / "benchmarks" / "extraction.csv")
    assert table["way"].tolist() == ["decoded", "extractor", "textbook, batches of 2"]
    assert table["images_per_second"].gt(0).all() and list(table)[-1] == "ratio"
