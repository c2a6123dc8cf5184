"""Fixtures of the tests of detection/: runs to score, and one that is scored."""

import pytest
from helpers import shell, toy_run, write_blank

import ood_methods
import utils
from artifacts import records, store


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """(folder, what was printed) of a run with every method and a LaTeX table; read it, change
    nothing."""
    folder = toy_run(tmp_path_factory.mktemp("scored") / "net_s0")
    ended = shell(
        ood_methods.main,
        "--checkpoint",
        folder,
        "--latex",
        "--caption",
        r"$50\%$ of it",
        "--label",
        "tab:x",
    )
    assert ended.code == 0, ended.err
    return folder, ended.out


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run to score, with blank figures; those of `done` are drawn."""
    monkeypatch.setattr(utils, "write_figure", write_blank)
    return toy_run(tmp_path / "net_s0")


@pytest.fixture
def with_odin(folder):
    """A run whose test sets were extracted a second time, perturbed."""
    for stem in ("ID_toy_test", "OOD_far_noise_test", "OOD_near_test"):
        found, sidecar = (
            store.read_features(folder / f"{stem}.csv"),
            records.read_sidecar(folder / f"{stem}.csv"),
        )
        store.write_features(
            folder / f"ODIN_{stem}.csv",
            found.features * 1.1,
            found.labels,
            found.paths,
            {**sidecar, "odin_epsilon": 0.002, "temperature": 1000.0},
        )
    return folder
