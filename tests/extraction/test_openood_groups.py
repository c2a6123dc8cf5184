"""--ood openood and --groups openood through run_networks.py and ood_methods.py."""

import pytest
from helpers import extract, read_csv, shell
from image_cases import noise, write

import ood_methods
import run_networks
from artifacts import current, records
from images import openood

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """A benchmark for digits, of which tin and sun are there, and ninco is not."""
    groups = openood.Benchmark(near=("tin",), far=("ninco", "sun"))
    monkeypatch.setitem(openood.BENCHMARKS, "digits", groups)
    for name in ("tin", "SUN"):
        fill(tmp_path / "data" / name)
    return tmp_path / "data"


def fill(folder):
    for number in range(5):
        write(folder / f"{number}.png", noise(9, 9, 3, seed=number + len(folder.name)))


def test_what_is_there_is_extracted_and_what_comes_later_is_noticed(own_digits_run, data_dir):
    words = ["--checkpoint", own_digits_run.checkpoint, "--device", "cpu"]
    words += ["--output-dir", own_digits_run.output_dir, "--data-dir", data_dir]
    ended = shell(run_networks.main, *words, "--ood", "openood")
    assert ended.code == 0, ended.err
    assert "missing of OpenOOD's sets: ninco." in ended.out
    assert f"put its images into {data_dir}/ninco" in ended.out
    folder = own_digits_run.folder
    place = records.read_sidecar(folder / "OOD_tin_test.csv")["place"]
    assert place == f"tin={data_dir}/tin"
    record = current.Record.read(folder / "run_networks.json")
    assert record.changed_file() == ""
    fill(data_dir / "ninco")
    assert record.changed_file().endswith("ninco came since")
    assert "missing" not in shell(run_networks.main, *words, "--ood", "openood").out
    assert len(read_csv(folder / "OOD_ninco_test.csv")) == 5


def test_groups_are_means_of_the_members_that_were_extracted(own_digits_run, data_dir):
    extract(own_digits_run, "--ood", "openood", "uniform", "--data-dir", data_dir)
    words = ["--checkpoint", own_digits_run.folder, "--methods", "MSP", "Energy", "--replace"]
    words += ["--output-dir", own_digits_run.output_dir, "--ood", "openood", "uniform"]
    ended = shell(ood_methods.main, *words, "--groups", "openood", "other=uniform,sun")
    assert ended.code == 0, ended.err
    assert "--groups openood: ninco of OpenOOD's sets for digits are not among" in ended.out
    table = read_csv(own_digits_run.folder / "ood_metrics.csv")
    auroc = table.set_index(["method", "ood"])["auroc"]
    assert set(table["ood"]) == {"tin", "sun", "uniform"}
    for row in read_csv(own_digits_run.folder / "ood_groups.csv").itertuples():
        expected = {"near": ["tin"], "far (1 of 2)": ["sun"], "other": ["uniform", "sun"]}
        members = expected[row.group]
        assert row.sets.split() == members
        mean = sum(auroc[row.method, name] for name in members) / len(members)
        assert row.auroc == pytest.approx(mean, abs=1e-12)
