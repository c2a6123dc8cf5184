"""The files of one checkpoint: found under any of their names, told apart from another
checkpoint's, and how they are made anew."""

import json
import shlex
import warnings

import numpy as np
import pytest
from helpers import change_json, named, random_run

import feature_files
import utils
from artifacts import records, store


@pytest.mark.parametrize("name", ["mine", "Mine", "dtd", "MY-set"])
def test_a_set_extracted_as_name_and_folder_is_found_by_its_name_alone(tmp_path, name):
    folder = random_run(tmp_path / "net", ood=[named(f"{name}=photos").name])
    assert len(feature_files.open_run(folder, ood=[named(name)]).ood) == 1


@pytest.fixture
def run_folder(tmp_path):
    """results/net_s0.pth and the features made from it."""
    checkpoint = tmp_path / "results" / "net_s0.pth"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"weights")
    return random_run(
        tmp_path / "results" / "net_s0",
        checkpoint_sha256=records.sha256(checkpoint),
        ood=("svhn", "textures"),
    )


@pytest.fixture(params=["checkpoint", "folder"])
def opened(request, run_folder):
    """Open the run by its checkpoint, and by its folder."""
    given = run_folder.with_suffix(".pth") if request.param == "checkpoint" else run_folder

    def run(dataset=None, ood=None):
        return feature_files.open_run(
            str(given),
            run_folder.parent,
            dataset=dataset and named(dataset),
            ood=None if ood is None else list(map(named, ood)),
        )

    return run


@pytest.mark.filterwarnings("error")
def test_a_run_opens_by_its_checkpoint_and_by_its_folder(opened, run_folder):
    run = opened()
    assert (run.folder, run.dataset) == (run_folder, "toy")
    assert run.head == run_folder / "head.csv"
    assert (run.train, run.test) == (
        run_folder / "ID_toy_train.csv",
        run_folder / "ID_toy_test.csv",
    )
    assert run.ood == {name: run_folder / f"OOD_{name}_test.csv" for name in ("svhn", "textures")}
    assert run.files == [run.head, run.train, run.test, *run.ood.values()]


def test_the_asked_sets_come_in_the_asked_order_under_any_of_their_names(opened):
    assert list(opened(ood=["dtd", "SVHN"]).ood) == ["textures", "svhn"]
    assert list(opened(ood=["svhn=anywhere"], dataset="toy").ood) == ["svhn"]
    assert opened(ood=[]).ood == {}


def test_a_checkpoint_without_features_is_told_how_to_make_them(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no features of r/net\.pth: .*python run_networks\.py --checkpoint r/net\.pth",
    ):
        feature_files.open_run("r/net.pth", tmp_path)


@pytest.mark.parametrize("name", ["head", "ID_toy_train", "ID_toy_test", "OOD_svhn_test"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(opened, run_folder, name):
    (run_folder / f"{name}.csv").unlink()
    with pytest.raises(
        ValueError,
        match=(
            rf"lacks {name}\.csv; make it with: python run_networks\.py --checkpoint"
            r" \S*net_s0\.pth "
            r"--output-dir \S+ --dataset toy --ood svhn textures"
        ),
    ):
        opened(dataset="toy", ood=["svhn", "textures"])


def test_a_folder_typed_with_a_slash_at_its_end_is_told_a_command_that_runs(run_folder):
    (run_folder / "head.csv").unlink()
    with pytest.raises(ValueError, match=r"--checkpoint \S*net_s0\.pth "):
        feature_files.open_run(f"{run_folder}/", dataset=named("toy"))


def test_where_no_features_are_the_command_is_quoted_and_names_the_output_folder(tmp_path):
    checkpoint, folder = tmp_path / "my net.pth", tmp_path / "my runs"
    wanted = [
        "python",
        "run_networks.py",
        "--checkpoint",
        str(checkpoint),
        "--output-dir",
        str(folder),
    ]
    with pytest.raises(ValueError, match="no features of") as caught:
        feature_files.locate(checkpoint, folder)
    assert shlex.split(str(caught.value).rpartition("make it with: ")[2]) == wanted
    (folder / "my net").mkdir(parents=True)
    with pytest.raises(ValueError, match="0 ID data sets") as caught:
        feature_files.locate(checkpoint, folder)
    assert shlex.split(str(caught.value).rpartition("make it with: ")[2]) == wanted


def test_a_name_with_a_dot_is_not_cut_short(tmp_path):
    folder = random_run(tmp_path / "results" / "net_lr0.1")
    (tmp_path / "results" / "net_lr0.1.pth").write_bytes(b"weights")
    for given in (folder, tmp_path / "results" / "net_lr0.1.pth"):
        assert utils.results_folder(given, tmp_path / "results") == folder
    (folder / "head.csv").unlink()
    with pytest.raises(ValueError, match=r"--checkpoint \S*/net_lr0\.1\.pth "):
        feature_files.open_run(folder, dataset=named("toy"))


def test_a_file_of_a_name_that_is_no_sets_is_named(opened, run_folder):
    (run_folder / "OOD_=1+1_test.csv").write_text("ct0,label\n0,-1\n")
    with pytest.raises(ValueError, match=r"OOD_=1\+1_test\.csv is named after no data set: '=1"):
        opened()
    (run_folder / "OOD_=1+1_test.csv").rename(run_folder / "OOD_a=b_test.csv")
    with pytest.raises(ValueError, match=r"OOD_a=b_test\.csv is named after no data set"):
        opened()


def test_the_command_that_extracts_anew_repeats_how_many_pixels_are_let_in(run_folder):
    change_json(run_folder / "head.json", lambda facts: facts.update(max_pixels=123))
    command = feature_files.remedy("net.pth", "toy", made=run_folder / "head.csv")
    assert " --max-pixels 123 " in command


def test_two_id_sets_need_a_name_and_none_needs_a_command(opened, run_folder):
    for split in ("train", "test"):
        (run_folder / f"ID_other_{split}.csv").write_bytes(
            (run_folder / f"ID_toy_{split}.csv").read_bytes()
        )
    with pytest.raises(ValueError, match=r"2 ID data sets \(other, toy\).*--dataset"):
        opened()
    assert opened(dataset="toy").dataset == "toy"
    for path in run_folder.glob("ID_*"):
        path.unlink()
    with pytest.raises(ValueError, match=r"0 ID data sets \(none\).*python run_networks\.py"):
        opened()


@pytest.mark.parametrize("name", ["ID_toy_train", "ID_toy_test", "OOD_svhn_test"])
def test_features_of_another_width_are_refused(opened, run_folder, name):
    sidecar = json.loads((run_folder / f"{name}.json").read_text())
    store.write_features(run_folder / f"{name}.csv", np.ones((3, 5)), np.zeros(3), sidecar=sidecar)
    with pytest.raises(
        ValueError,
        match=rf"{name}\.csv is 5 features wide where \S*head\.csv has 4.*python run_networks\.py",
    ):
        opened()


@pytest.mark.parametrize("name", ["head", "ID_toy_train", "OOD_svhn_test"])
def test_features_of_another_checkpoint_are_refused(run_folder, name):
    change_json(
        run_folder / f"{name}.json", lambda sidecar: sidecar.update(checkpoint_sha256="f" * 64)
    )
    expected = records.sha256(run_folder.with_suffix(".pth"))[:12]
    with pytest.raises(
        ValueError,
        match=rf"{name}\.csv was made from another checkpoint \(ffffffffffff, expected {expected}\)"
        r".*python run_networks\.py",
    ):
        feature_files.open_run(run_folder.with_suffix(".pth"), run_folder.parent)


def test_features_are_refused_once_the_checkpoint_was_trained_anew(run_folder):
    run_folder.with_suffix(".pth").write_bytes(b"other weights")
    with pytest.raises(ValueError, match="was made from another checkpoint"):
        feature_files.open_run(run_folder.with_suffix(".pth"), run_folder.parent)


def test_a_folder_alone_vouches_by_its_head(run_folder):
    change_json(
        run_folder / "OOD_svhn_test.json",
        lambda sidecar: sidecar.update(checkpoint_sha256="f" * 64),
    )
    with pytest.raises(ValueError, match=r"OOD_svhn_test\.csv was made from another checkpoint"):
        feature_files.open_run(run_folder)


@pytest.mark.parametrize("name", ["ID_toy_test", "OOD_textures_test"])
def test_features_of_another_head_are_refused(opened, run_folder, name):
    change_json(run_folder / f"{name}.json", lambda sidecar: sidecar.update(head_sha256="0" * 64))
    with pytest.raises(
        ValueError,
        match=rf"{name}\.csv was made with another head than \S*head\.csv.*python run_networks\.py",
    ):
        opened()


def test_an_edited_head_is_refused(opened, run_folder):
    text = (run_folder / "head.csv").read_text()
    (run_folder / "head.csv").write_text(text + text.splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match="made with another head"):
        opened()


@pytest.mark.parametrize("name", ["head", "ID_toy_train", "OOD_svhn_test"])
def test_a_file_without_sidecar_is_taken_on_trust_and_says_so(run_folder, name):
    (run_folder / f"{name}.json").unlink()
    with pytest.warns(UserWarning, match=rf"{name}\.csv has no sidecar") as caught:
        feature_files.open_run(run_folder.with_suffix(".pth"), run_folder.parent)
    assert len(caught) == 1


def test_parquet_features_open_as_csv_ones_do(tmp_path):
    folder = random_run(tmp_path / "net", suffix=".parquet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = feature_files.open_run(folder)
    assert [path.name for path in run.files] == [
        "head.csv",
        "ID_toy_train.parquet",
        "ID_toy_test.parquet",
        "OOD_svhn_test.parquet",
    ]
    assert store.read_features(run.train).features.shape == (6, 4)


# ---- sets by name and folder, and files that can be done without ---------------------------------


def test_a_set_named_twice_is_refused(opened):
    with pytest.raises(ValueError, match="--ood names textures more than once"):
        opened(ood=["dtd", "svhn", "textures"])


def extracted_from(run_folder, *words):
    for path in run_folder.glob("OOD_*.json"):
        change_json(path, lambda sidecar: sidecar.update(arguments={"ood": list(words)}))


def test_the_command_that_makes_features_anew_names_the_folders_of_their_images(opened, run_folder):
    extracted_from(run_folder, "SVHN", "textures=my photos/2024")
    command = shlex.split(opened().command)
    assert command[-5:] == ["--dataset", "toy", "--ood", "SVHN", "textures=my photos/2024"]
    assert command[command.index("--output-dir") + 1] == str(run_folder.parent)
    (run_folder / "ID_toy_test.csv").unlink()
    with pytest.raises(ValueError, match="'textures=my photos/2024'"):
        opened()


def test_the_command_repeats_what_a_network_from_elsewhere_expects(opened, run_folder):
    arguments = {
        "model": "resnet18",
        "dataset": "toy=photos",
        "mean": [0.0],
        "std": [1.0],
        "image_size": 64,
        "format": "csv",
        "interpolation": None,
        "ood": ["svhn"],
    }
    change_json(run_folder / "head.json", lambda sidecar: sidecar.update(arguments=arguments))
    command = opened().command
    assert "--model resnet18 --image-size 64 --mean 0.0 --std 1.0" in command
    assert "--dataset toy=photos --ood svhn" in command
    assert "--format" not in command and "None" not in command


@pytest.mark.parametrize("amp", [True, False])
def test_the_command_says_bfloat16_where_the_features_were_made_in_it(opened, run_folder, amp):
    change_json(run_folder / "head.json", lambda sidecar: sidecar.update(arguments={"amp": amp}))
    command = shlex.split(opened().command)
    assert ("--amp" in command) == amp
    assert "True" not in command and "False" not in command


def test_another_folder_than_the_one_extracted_is_refused(opened, run_folder, monkeypatch):
    extracted_from(run_folder, "svhn=photos/2024")
    monkeypatch.chdir(run_folder.parent)
    assert (
        list(opened(ood=["svhn=./photos/2024"]).ood) == list(opened(ood=["svhn"]).ood) == ["svhn"]
    )
    with pytest.raises(
        ValueError,
        match=r"holds the images of photos/2024, not of photos/2025; .* --ood svhn2=photos/2025",
    ):
        opened(ood=["svhn=photos/2025"])
    with pytest.raises(ValueError, match=r"--ood 'svhn2=my photos'$"):
        opened(ood=["svhn=my photos"])


@pytest.fixture
def optional(run_folder):
    """The run with ID validation images and perturbed images of all but one set."""
    for name in ("ID_toy_val", "ODIN_ID_toy_test", "ODIN_OOD_svhn_test"):
        for suffix in (".csv", ".json"):
            (run_folder / f"{name}{suffix}").write_bytes(
                (run_folder / f"OOD_svhn_test{suffix}").read_bytes()
            )
    return run_folder


@pytest.mark.filterwarnings("error")
def test_validation_and_odin_files_are_found_where_they_are(optional):
    run = feature_files.open_run(optional)
    assert run.val.name == "ID_toy_val.csv"
    assert run.odin_test.name == "ODIN_ID_toy_test.csv" and list(run.odin_ood) == ["svhn"]
    (optional / "ODIN_ID_toy_test.csv").unlink()
    run = feature_files.open_run(optional)
    assert run.odin_test is None and run.odin_ood == {}, (
        "without ID there is nothing to compare with"
    )


@pytest.mark.parametrize("name", ["ID_toy_val", "ODIN_ID_toy_test", "ODIN_OOD_svhn_test"])
def test_what_another_checkpoint_left_behind_is_named_and_left_out(optional, name):
    change_json(
        optional / f"{name}.json", lambda sidecar: sidecar.update(checkpoint_sha256="f" * 64)
    )
    with pytest.warns(
        UserWarning, match=rf"{name}\.csv was made from another checkpoint and is left out"
    ):
        run = feature_files.open_run(optional)
    assert f"{name}.csv" not in [path.name for path in run.files]


# ---- features alone, edited files, other forms of one head ---------------------------------------


def remove_sidecars(folder):
    for path in folder.glob("*.json"):
        path.unlink()


def test_files_without_sidecars_are_named_in_one_line(run_folder):
    remove_sidecars(run_folder)
    with pytest.warns(UserWarning) as caught:
        feature_files.open_run(run_folder)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1 and "taken on trust" in said[0]
    for name in (
        "head.csv",
        "ID_toy_train.csv",
        "ID_toy_test.csv",
        "OOD_svhn_test.csv",
        "OOD_textures_test.csv",
    ):
        assert name in said[0]


@pytest.mark.parametrize("sidecars", [True, False])
@pytest.mark.filterwarnings("ignore:.*no sidecars")
def test_a_folder_of_features_alone_opens_where_no_head_is_needed(run_folder, sidecars):
    if not sidecars:
        remove_sidecars(run_folder)
    (run_folder / "head.csv").unlink()
    run = feature_files.open_run(run_folder, needs_head=False)
    assert (
        run.head is None
        and list(run.ood) == ["svhn", "textures"]
        and run_folder / "head.csv" in run.optional
    )
    assert None not in run.files
    with pytest.raises(ValueError, match=r"lacks head\.csv"):
        feature_files.open_run(run_folder)


@pytest.mark.filterwarnings("ignore:.*no sidecars")
def test_features_alone_are_of_one_width(run_folder):
    (run_folder / "head.csv").unlink()
    sidecar = records.read_sidecar(run_folder / "OOD_svhn_test.csv")
    store.write_features(
        run_folder / "OOD_svhn_test.csv", np.ones((3, 5)), np.zeros(3), sidecar=sidecar
    )
    with pytest.raises(
        ValueError, match=r"OOD_svhn_test\.csv is 5 features wide where \S*ID_toy_train\.csv has 4"
    ):
        feature_files.open_run(run_folder, needs_head=False)


def test_the_same_weights_under_another_checkpoint_hash_are_the_same_network(run_folder):
    """What is trained again with the same arguments differs in its times alone."""
    for path in run_folder.glob("*.json"):
        change_json(path, lambda sidecar: sidecar.update(weights_sha256="e" * 64))
    checkpoint = run_folder.with_suffix(".pth")
    checkpoint.write_bytes(b"the same weights, and other times")
    said = {"checkpoint_sha256": records.sha256(checkpoint), "weights_sha256": "e" * 64}
    utils.write_json(records.sidecar_path(checkpoint), said)
    assert len(feature_files.open_run(checkpoint, run_folder.parent).files) == 5
    utils.write_json(records.sidecar_path(checkpoint), {**said, "weights_sha256": "d" * 64})
    with pytest.raises(ValueError, match="was made from another checkpoint"):
        feature_files.open_run(checkpoint, run_folder.parent)


def test_a_head_that_a_spreadsheet_saved_is_the_same_head(run_folder):
    head = run_folder / "head.csv"
    head.write_bytes(head.read_bytes().replace(b"\n", b"\r\n"))
    assert feature_files.open_run(run_folder).head == head


def test_stale_files_pass_where_they_are_allowed_and_are_noted(run_folder):
    for path in run_folder.glob("OOD_*.json"):
        change_json(path, lambda sidecar: sidecar.update(checkpoint_sha256="f" * 64))
    with pytest.raises(ValueError, match="--allow-stale"):
        feature_files.open_run(run_folder)
    stale = records.Stale(allowed=True)
    with pytest.warns(UserWarning, match="taken all the same"):
        feature_files.open_run(run_folder, stale=stale)
    assert len(stale.reasons) == 1
    assert "OOD_svhn_test.csv" in stale.reasons[0] and "OOD_textures_test.csv" in stale.reasons[0]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/net.pth", "a/net.pth"),
        ("a/best.ckpt", "a/best.ckpt"),
        ("a/net_lr0.1", "a/net_lr0.1.pth"),
        ("a/net/", "a/net.pth"),
    ],
)
def test_the_command_names_the_checkpoint_as_it_was_given(given, expected):
    assert shlex.split(feature_files.remedy(given))[-1] == expected
