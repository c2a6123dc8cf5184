"""What is unchanged, what is current: by bytes, by content, with what was absent, and never outside
the folder."""

import json

import numpy as np
import pandas as pd
import pytest

import utils
from artifacts import current, records, store


@pytest.fixture
def features(tmp_path):
    """A small feature CSV with its sidecar."""
    path = tmp_path / "ID_toy_test.csv"
    store.write_features(
        path, np.arange(8, dtype=np.float32).reshape(4, 2) / 3, np.array([0, 1, 2, 11])
    )
    return path


def digest(path):
    return records.sha256(path), records.content_sha256(path)


# ---- one file ------------------------------------------------------------------------------------


def test_a_sidecar_holds_the_hash_of_the_bytes_and_of_what_they_say(features):
    sidecar = records.read_sidecar(features)
    assert sidecar["sha256"] == records.sha256(features) and len(sidecar["content_sha256"]) == 64
    assert sidecar["sha256"] != sidecar["content_sha256"]


REWRITINGS = {
    "line ends": lambda text: text.replace("\n", "\r\n"),
    "quotes": lambda text: text.replace("ct0", '"ct0"').replace(",11\n", ',"11"\n'),
    "column order": (
        lambda text: (
            "\n".join(
                ",".join(line.split(",")[i] for i in (1, 0, 2)) for line in text.split("\n") if line
            )
            + "\n"
        )
    ),
}


@pytest.mark.parametrize("rewrite", REWRITINGS.values(), ids=list(REWRITINGS))
def test_other_bytes_that_say_the_same_count_as_unchanged(features, rewrite):
    before = digest(features)
    text = rewrite(features.read_text())
    assert text != features.read_text()
    features.write_text(text, newline="")
    assert records.sha256(features) != before[0]
    assert current.SeenFile(*before).unchanged(features)
    store.read_features(features)


@pytest.mark.parametrize(
    ("old", "new"), [("0.33333334", "0.33333337"), (",11\n", ",10\n"), ("0.0,", "0.5,")]
)
def test_an_edited_cell_is_refused_with_the_command_that_mends_it(features, old, new):
    before = digest(features)
    text = features.read_text()
    assert old in text
    features.write_text(text.replace(old, new))
    assert not current.SeenFile(*before).unchanged(features)
    with pytest.raises(
        ValueError,
        match=(
            r"ID_toy_test\.csv was changed after it was written: .*; make it anew with: the"
            r" command, "
            "or take it as it is with --allow-stale"
        ),
    ):
        store.read_features(features, remedy="the command")


def test_a_stale_file_is_taken_where_a_person_allows_it_and_that_is_kept(features):
    features.write_text(features.read_text().replace(",11\n", ",10\n"))
    stale = records.Stale(allowed=True)
    with pytest.warns(UserWarning, match="was changed after it was written"):
        found = store.read_features(features, stale)
    assert list(found.labels) == [0, 1, 2, 10]
    assert len(stale.reasons) == 1
    assert records.provenance({}, stale)["allowed_stale"] == stale.reasons
    assert "allowed_stale" not in records.provenance({}, records.Stale(allowed=True))


def test_an_edited_table_is_refused(tmp_path):
    path = tmp_path / "ood_metrics.csv"
    store.write_table(path, pd.DataFrame({"method": ["MSP", "Energy"], "auroc": [0.91, np.nan]}))
    store.read_table(path)
    path.write_text(path.read_text().replace("0.91", "0.99"))
    with pytest.raises(ValueError, match="was changed after it was written"):
        store.read_table(path)


def test_a_file_of_an_older_version_is_taken_on_trust(features):
    sidecar = records.read_sidecar(features)
    utils.write_json(
        records.sidecar_path(features),
        {key: value for key, value in sidecar.items() if "sha256" not in key},
    )
    features.write_text(features.read_text().replace(",11\n", ",10\n"))
    assert list(store.read_features(features).labels) == [0, 1, 2, 10]


# ---- networks ------------------------------------------------------------------------------------


def test_files_of_the_same_weights_are_the_same_network():
    first = {"checkpoint_sha256": "a", "weights_sha256": "w"}
    assert records.same_network(first, {"checkpoint_sha256": "b", "weights_sha256": "w"})
    assert records.same_network(first, {"checkpoint_sha256": "a"})
    assert not records.same_network(first, {"checkpoint_sha256": "a", "weights_sha256": "v"}), (
        "read with another --model"
    )
    assert not records.same_network(first, {"checkpoint_sha256": "b", "weights_sha256": "v"})
    assert not records.same_network(first, {"checkpoint_sha256": "b"})
    assert not records.same_network({}, {}), (
        "two files that say nothing are not known to be of one network"
    )


def test_a_sidecar_vouches_for_weights_only_of_the_very_file(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    utils.write_json(
        tmp_path / "net.json",
        {"checkpoint_sha256": records.sha256(path), "weights_sha256": "w" * 64},
    )
    assert records.network_of(path)["weights_sha256"] == "w" * 64
    path.write_bytes(b"other weights")
    assert records.network_of(path) == {"checkpoint_sha256": records.sha256(path)}


# ---- what comes from elsewhere -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../victim", "figures/../../victim", "/etc/passwd"])
def test_a_record_that_names_files_outside_its_folder_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    record = tmp_path / "run" / "stage.json"
    record.write_text(json.dumps({"arguments": {}, "inputs": {}, "outputs": {name: "0" * 64}}))
    with pytest.raises(ValueError, match="lies outside that folder"):
        current.is_current(record, {})


def test_a_link_that_leads_outside_is_outside(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="lies outside that folder"):
        records.inside(tmp_path / "run", "figures/victim.png")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "5",
        '"text"',
        "null",
        "[" * 100_000,
        "{",
        '{"inputs": []}',
        '{"rows": "many"}',
        '{"outputs": {"x": 5}}',
        '{"arguments": 3}',
        '{"class_names": "abc"}',
        '{"epoch": true}',
        '{"listings": {"a": "b"}}',
        '{"folders": {"a": "b"}}',
    ],
)
def test_json_of_another_shape_is_refused_by_name(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json (is not JSON|holds a|has .* expected)"):
        records.read_sidecar(tmp_path / "x.csv")


@pytest.mark.parametrize("content", [{"model": {"depth": 18}}, {"epoch": "last", "dataset": 5}])
def test_another_projects_json_beside_its_checkpoint_says_nothing_here(tmp_path, content):
    (tmp_path / "net.pth").write_bytes(b"weights")
    (tmp_path / "net.json").write_text(json.dumps(content))
    assert records.checkpoint_sidecar(tmp_path / "net.pth") == {}
    assert records.network_of(tmp_path / "net.pth") == {
        "checkpoint_sha256": records.sha256(tmp_path / "net.pth")
    }
