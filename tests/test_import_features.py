"""import_features.py at the shell: what is written, what the scorers make of it, and what is
refused."""

import json
import shlex
import sys

import numpy as np
import polars as pl
import pytest
import torch
from helpers import blank_figures, read_csv, shell, toy_run
from safetensors.numpy import save_file

import import_features
import neural_collapse
import ood_methods
import report
from artifacts import records, store

CLASSES = ["cat", "dog", "bird", "frog"]
STEMS = {
    "train": "ID_toy_train",
    "val": "ID_toy_val",
    "test": "ID_toy_test",
    "far_noise": "OOD_far_noise_test",
    "near": "OOD_near_test",
}
OOD = ("far_noise", "near")


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A run as run_networks.py leaves it."""
    return toy_run(tmp_path_factory.mktemp("origin") / "results" / "net")


def arrays(origin):
    """{set: (features, labels, paths)} of a run."""
    found = {name: store.read_features(origin / f"{stem}.csv") for name, stem in STEMS.items()}
    return {name: (part.features, part.labels, part.paths) for name, part in found.items()}


def as_npz(path, x, y, paths):
    more = {"paths": np.array(paths)} if paths else {}
    np.savez(path, feat_list=x[:, :, None, None], label_list=y.astype(np.float64), **more)


def as_table(x, y, paths):
    columns = {f"f{place}": x[:, place] for place in range(x.shape[1])}
    return pl.DataFrame({**columns, "label": y, **({"path": paths} if paths else {})})


def as_pt(path, x, y, paths):
    torch.save({"features": torch.tensor(x), "y": torch.tensor(y), "paths": paths or []}, path)


DUMPS = {
    ".npz": as_npz,
    ".pt": as_pt,
    ".safetensors": lambda path, x, y, paths: save_file({"x": x, "labels": y}, path),
    ".csv": lambda path, *part: as_table(*part).write_csv(path),
    ".parquet": lambda path, *part: as_table(*part).write_parquet(path),
}


@pytest.fixture
def place(tmp_path, origin, monkeypatch):
    """A folder of dumps, train.npz and so on, which is the working folder; figures are blank."""
    monkeypatch.chdir(tmp_path)
    blank_figures(monkeypatch)
    for name, part in arrays(origin).items():
        as_npz(f"{name}.npz", *part)
    head = store.read_head(origin / "head.csv")
    np.savez("head.npz", weight=head.W, bias=head.b)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def words(ending=".npz", *more, **changed):
    """The words of an import of all sets; `changed` flags in place of the usual, None for none."""
    flags = {
        "train": f"train{ending}",
        "val": f"val{ending}",
        "test": f"test{ending}",
        "head": "head.npz",
        "class-names": "classes.txt",
        "name": "mine",
        "dataset": "toy",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    ood = flags.pop("ood", [f"{name}={name}{ending}" for name in OOD])
    listed = [word for name, value in flags.items() if value for word in (f"--{name}", value)]
    return [*listed, "--ood", *ood, *more]


def imported(*given):
    ended = shell(import_features.main, *given)
    assert ended.code == 0, ended.err
    return ended.out


def refused(*given):
    """What is said of a mistake, which has written nothing."""
    ended = shell(import_features.main, *given)
    assert ended.code == 2, ended.out
    return ended.err


# ---- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", DUMPS)
def test_scores_of_an_import_are_those_of_its_origin_to_the_bit(place, origin, ending):
    for name, part in arrays(origin).items():
        DUMPS[ending](place / f"{name}{ending}", *part)
    imported(*words(ending))
    for stem in ("head", *STEMS.values()):
        ours = pl.read_csv(place / f"results/mine/{stem}.csv")
        theirs = pl.read_csv(origin / f"{stem}.csv")
        columns = [name for name in ours.columns if name != "path"]
        if stem.startswith("OOD"):
            assert set(ours["label"]) == {-1}
            columns.remove("label")
        assert ours.select(columns).equals(theirs.select(columns))
    chosen = ["--methods", "MSP", "ViM", "KNN", "Mahalanobis", "NECO", "CTM"]
    tables = []
    for folder in (place / "results/mine", origin):
        ended = shell(ood_methods.main, "--checkpoint", folder, *chosen, "--replace")
        assert ended.code == 0, ended.err
        tables.append(read_csv(folder / "ood_metrics.csv").drop(columns=["checkpoint"]))
    assert tables[0].equals(tables[1])
    for stem in ("scores_ID_toy", "scores_OOD_far_noise"):
        ours, theirs = (
            pl.read_csv(folder / f"{stem}.csv", columns=chosen[1:])
            for folder in (place / "results/mine", origin)
        )
        assert ours.equals(theirs)


def test_all_three_scripts_take_an_import_as_one_of_their_own(place):
    out = imported(*words())
    assert "test accuracy by this head" in out and "ood_methods.py --checkpoint results/mine" in out
    for main in (ood_methods.main, neural_collapse.main, report.main):
        ended = shell(main, "--checkpoint", "results/mine")
        assert ended.code == 0, ended.err
        assert "warning" not in ended.err
    assert (place / "results/mine/report.html").is_file()


def test_a_sidecar_says_where_each_array_is_from(place, monkeypatch):
    given = words()
    monkeypatch.setattr(sys, "argv", ["import_features.py", *given])
    imported(*given)
    sidecar = records.read_sidecar(place / "results/mine/ID_toy_train.csv")
    assert sidecar["made_by"] == "import_features.py"
    assert shlex.split(sidecar["command"])[2:] == given
    features, labels = sidecar["sources"]["features"], sidecar["sources"]["labels"]
    assert features["file"] == "train.npz" and features["key"] == "feat_list"
    assert features["shape"] == [240, 12, 1, 1] and features["dtype"] == "float32"
    assert features["sha256"] == labels["sha256"] == records.sha256(place / "train.npz")
    assert labels["key"] == "label_list" and labels["dtype"] == "float64"
    head = records.read_sidecar(place / "results/mine/head.csv")
    assert head["sources"]["bias"]["key"] == "bias" and head["class_names"] == CLASSES
    assert sidecar["head_sha256"] == records.sha256(place / "results/mine/head.csv")


def test_parquet_is_written_on_demand(place):
    imported(*words(".npz", "--format", "parquet"))
    assert (place / "results/mine/ID_toy_train.parquet").is_file()
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "KNN", "MSP")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(place, origin, kind):
    x, y, _ = arrays(origin)["train"]
    np.savez("train.npz", feat=x.astype(kind), label=y)
    out = imported(*words())
    found = store.read_features(place / "results/mine/ID_toy_train.csv").features
    assert np.array_equal(found, x.astype(kind).astype(np.float32))
    assert ("is float64, and is rounded to float32" in out) == (kind is np.float64)


def test_labels_in_every_form_come_out_the_same(place, origin):
    x, y, _ = arrays(origin)["train"]
    forms = {
        "ints": y,
        "floats": y.astype(np.float64),
        "column": y[:, None],
        "one_hot": np.eye(4)[y],
        "names": np.array(CLASSES)[y],
        "digits": y.astype(str),
    }
    np.save("x.npy", x)
    np.savez("forms.npz", **forms)
    torch.save([CLASSES[label] for label in y], "names.pt")
    pl.DataFrame({"species": np.array(CLASSES)[y]}).write_csv("names.csv")
    for given in (*(f"forms.npz:{name}" for name in forms), "names.pt", "names.csv:species"):
        imported(*words(".npz", "--replace", train="x.npy", labels=given))
        found = store.read_features(place / "results/mine/ID_toy_train.csv").labels
        assert np.array_equal(found, y), given


def test_names_without_a_head_are_numbered_by_their_order(place, origin):
    for name in ("train", "test"):
        x, y, _ = arrays(origin)[name]
        np.savez(f"{name}.npz", x=x, label=np.array(CLASSES)[y])
    imported(*words(head=None, class_names=None, val=None))
    sidecar = records.read_sidecar(place / "results/mine/ID_toy_train.csv")
    assert sidecar["class_names"] == sorted(CLASSES)
    found = store.read_features(place / "results/mine/ID_toy_train.csv").labels
    y = arrays(origin)["train"][1]
    assert [sorted(CLASSES)[label] for label in found] == [CLASSES[label] for label in y]


@pytest.mark.parametrize("form", ["pt", "keras", "state", "csv", "unbiased", "convolution"])
def test_a_head_in_every_form(place, origin, form):
    head = store.read_head(origin / "head.csv")
    W, b = torch.tensor(head.W), torch.tensor(head.b)
    given, said = f"{form}.pt", ""
    if form == "pt":
        torch.save((W, b), given)
    elif form == "keras":
        torch.save({"kernel": W.T, "bias": b}, given)
        said = "is turned to (C, D)"
    elif form == "state":
        layers = {"conv.weight": torch.ones(12, 12), "fc.weight": W, "fc.bias": b}
        torch.save({"state_dict": layers}, given)
        given += ":state_dict.fc.weight"
    elif form == "csv":
        given = str(origin / "head.csv")
    elif form == "unbiased":
        torch.save(W, given)
        said = "holds no bias of 4 numbers: it is taken as 0"
    else:
        torch.save({"weight": W[:, :, None, None], "bias": b}, given)
    out = imported(*words(head=given))
    found = store.read_head(place / "results/mine/head.csv")
    assert np.array_equal(found.W, head.W)
    assert np.array_equal(found.b, 0 * head.b if form == "unbiased" else head.b)
    assert found.class_names == CLASSES and said in out


def test_logits_give_the_head_and_scorers_need_no_logits_files(place, origin):
    head = store.read_head(origin / "head.csv")
    np.save("logits.npy", head.logits(arrays(origin)["train"][0]))
    out = imported(*words(head=None, logits="logits.npy"))
    assert "recovered by least squares from 240 rows" in out
    found = store.read_head(place / "results/mine/head.csv")
    np.testing.assert_allclose(found.W, head.W, rtol=0, atol=1e-5)
    sidecar = records.read_sidecar(place / "results/mine/head.csv")["sources"]
    assert sidecar["residual"] < 1e-6 and sidecar["logits"]["file"] == "logits.npy"
    (place / "logits.npy").unlink()
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "ViM", "MSP")
    assert ended.code == 0, ended.err


# ---- without a head, without labels --------------------------------------------------------------


HEADLESS = {
    "Mahalanobis",
    "RelativeMahalanobis",
    "Mahalanobis++",
    "RelativeMahalanobis++",
    "WDiscOOD",
    "Residual",
    "CoP",
    "NECO",
    "Cosine",
    "KNN",
}


def test_without_a_head_those_that_need_none_run_and_the_others_say_what_they_lack(place):
    assert "scores that need logits are left out" in imported(*words(head=None))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine")
    assert ended.code == 0, ended.err
    assert set(read_csv(place / "results/mine/ood_metrics.csv")["method"]) == HEADLESS
    line = next(line for line in ended.out.splitlines() if "no head.csv" in line)
    assert "left out are the accuracy, MSP" in line
    command = line.rpartition("make it with: ")[2]
    assert command.startswith("python import_features.py --train train.npz")
    assert command.endswith("--replace --head FILE") and "run_networks" not in ended.out
    # the command works as it stands, with the file's name in it
    again = shlex.split(command.replace("--head FILE", "--head head.npz"))[2:]
    imported(*again)
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 0, ended.err


def test_the_report_of_images_without_labels_does_not_advise_collapse(place):
    for name in ("train", "test"):
        with np.load(f"{name}.npz") as file:
            np.savez(f"bare_{name}.npz", feat_list=file["feat_list"])
    bare = {"train": "bare_train.npz", "test": "bare_test.npz", "val": None, "head": None}
    imported(*words(**bare, class_names=None))
    assert shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "KNN").code == 0
    ended = shell(report.main, "--checkpoint", "results/mine")
    assert ended.code == 0, ended.err
    assert "neural_collapse.py" not in ended.out and "import them again with --labels" in ended.out


@pytest.mark.parametrize("method", ["MSP", "ViM", "ODIN"])
def test_a_score_that_was_named_says_what_it_lacks(place, method):
    imported(*words(head=None))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", method)
    assert ended.code == 2 and "has no head.csv" in ended.err
    assert "python import_features.py" in ended.err and "--head FILE" in ended.err


def test_residual_without_a_head_is_about_the_mean(place, origin):
    imported(*words(head=None))
    ended = shell(
        ood_methods.main, "--checkpoint", "results/mine", "--methods", "Residual", "--vim-dim", 5
    )
    assert ended.code == 0, ended.err
    train, test = (arrays(origin)[name][0].astype(float) for name in ("train", "test"))
    centred = train - train.mean(0)
    _, _, axes = np.linalg.svd(centred)
    expected = -np.linalg.norm((test - train.mean(0)) @ axes[5:].T, axis=1)
    found = read_csv(place / "results/mine/scores_ID_toy.csv")["Residual"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def without_labels(origin, *names):
    for name in names:
        np.savez(f"{name}.npz", x=arrays(origin)[name][0])


def test_without_training_labels_those_that_need_none_run(place, origin):
    without_labels(origin, "train")
    assert "no training labels" in imported(*words())
    ended = shell(ood_methods.main, "--checkpoint", "results/mine")
    assert ended.code == 0, ended.err
    found = read_csv(place / "results/mine/ood_metrics.csv")
    theirs = shell(ood_methods.main, "--checkpoint", origin, "--replace")
    assert theirs.code == 0, theirs.err
    whole = read_csv(origin / "ood_metrics.csv").set_index(["ood", "method"])["auroc"]
    lacking = set(whole.index.get_level_values(1)) - set(found["method"])
    assert {"Mahalanobis", "Cosine", "SHE"} <= lacking
    assert {"MSP", "ViM", "KNN", "NECO", "Residual"} <= set(found["method"])
    assert "give them with: python import_features.py" in ended.out
    # the labels change none of these scores; sums by class round otherwise, and swap close pairs
    for row in found.to_dict("records"):
        assert row["auroc"] == pytest.approx(whole[row["ood"], row["method"]], abs=5e-4)
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "Cosine")
    assert ended.code == 2 and "has no labels, without which there is no Cosine" in ended.err
    ended = shell(neural_collapse.main, "--checkpoint", "results/mine")
    assert ended.code == 2 and "--labels FILE" in ended.err


def test_without_test_labels_there_is_no_accuracy(place, origin):
    without_labels(origin, "test")
    imported(*words())
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP", "KNN")
    assert ended.code == 0, ended.err
    assert read_csv(place / "results/mine/ood_metrics.csv")["accuracy"].isna().all()
    ended = shell(neural_collapse.main, "--checkpoint", "results/mine")
    assert ended.code == 2 and "--test-labels FILE" in ended.err


# ---- what is there already -----------------------------------------------------------------------


def files_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_same_import_again_writes_nothing(place):
    imported(*words())
    before = files_of(place / "results/mine")
    out = imported(*words())
    assert out.count("kept as it is") == 6 and files_of(place / "results/mine") == before


def test_one_more_set_joins_and_the_head_stays(place, origin):
    imported(*words(ood=["near=near.npz"]))
    imported(*words(head=None, class_names=None, ood=["far=far_noise.npz"]))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 0, ended.err
    assert set(read_csv(place / "results/mine/ood_metrics.csv")["ood"]) == {"near", "far"}


def test_a_head_that_comes_later_serves_all_sets(place):
    imported(*words(head=None))
    imported(*words(ood=["near=near.npz"]))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 0, ended.err
    assert "warning" not in ended.err


def test_nothing_is_replaced_unasked(place, origin):
    imported(*words())
    before = files_of(place / "results/mine")
    np.savez("train.npz", x=arrays(origin)["train"][0] + 1, y=arrays(origin)["train"][1])
    said = refused(*words())
    assert "ID_toy_train.csv was made from other arrays" in said and "--replace" in said
    assert files_of(place / "results/mine") == before
    imported(*words(".npz", "--replace"))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 0, ended.err


def test_a_set_of_an_earlier_import_is_refused_with_the_command_that_mends_it(place, origin):
    imported(*words())
    np.savez("train.npz", x=arrays(origin)["train"][0] + 1, y=arrays(origin)["train"][1])
    imported(*words(".npz", "--replace", ood=["near=near.npz"]))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 2
    assert "OOD_far_noise_test.csv was made with other training features" in ended.err
    command = ended.err.rpartition("make it anew with: ")[2].partition(", or take it")[0]
    imported(*shlex.split(command)[2:])
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--methods", "MSP")
    assert ended.code == 0, ended.err


def test_an_edited_file_is_told_the_command_that_makes_it_anew(place):
    imported(*words())
    path = place / "results/mine/ID_toy_test.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    ended = shell(ood_methods.main, "--checkpoint", "results/mine")
    assert ended.code == 2 and "holds 99 rows, expected 100" in ended.err
    command = ended.err.rpartition("make it anew with: ")[2].partition(", or take it")[0]
    imported(*shlex.split(command)[2:])
    assert path.read_text().splitlines(keepends=True) == lines


def test_a_missing_file_is_told_the_command_that_makes_it(place):
    imported(*words())
    (place / "results/mine/OOD_near_test.csv").unlink()
    ended = shell(ood_methods.main, "--checkpoint", "results/mine", "--ood", "near")
    assert ended.code == 2
    command = ended.err.strip().rpartition("make it with: ")[2]
    assert command.startswith("python import_features.py") and "near=near.npz" not in command
    ended = shell(neural_collapse.main, "--checkpoint", "results/mine")
    assert ended.code == 0


def test_the_folder_of_another_script_is_not_taken(place, origin):
    (place / "results").mkdir()
    (place / "results/mine.pth").write_bytes(b"weights")
    assert "is a checkpoint" in refused(*words())
    (place / "results/mine.pth").unlink()
    toy_run(place / "results/mine")
    assert "was not made by import_features.py" in refused(*words())


# ---- what is refused -----------------------------------------------------------------------------


def changed(origin, name, change):
    """One set's features and labels, changed, in its .npz."""
    x, y, _ = arrays(origin)[name]
    np.savez(f"{name}.npz", **change(x.copy(), y.copy()))


def with_value(row, value):
    def change(x, y):
        x[row, 2] = value
        return {"x": x, "y": y}

    return change


BAD = {
    "nan": ("train", with_value(7, np.nan), "train.npz:x, data row 8: found nan"),
    "infinity": ("near", with_value(59, np.inf), "near.npz:x, data row 60: found inf"),
    "overflow": (
        "test",
        lambda x, y: {"x": np.where(x == x[3, 3], 1e300, x.astype(float)), "y": y},
        "found 1e+300, expected a finite number of float32",
    ),
    "width": (
        "near",
        lambda x, y: {"x": x[:, :5]},
        "near.npz:x is 5 features wide, and --train train.npz:feat_list 12",
    ),
    "labels": (
        "test",
        lambda x, y: {"x": x, "y": y + 1},
        "found label 4, and the head's classes are 0 to 3",
    ),
    "ood among id": (
        "test",
        lambda x, y: {"x": x, "y": np.where(np.arange(len(y)) < 5, -1, y)},
        "found label -1 in 5 of 100 rows; negative labels mark OOD images",
    ),
    "all ood": (
        "test",
        lambda x, y: {"x": x, "y": 0 * y - 1},
        "found label -1 in all rows; negative labels mark OOD images",
    ),
    "fraction": (
        "train",
        lambda x, y: {"x": x, "label": y + 0.5},
        "train.npz:label, data row 1: found 0.5, expected a whole number",
    ),
    "not one hot": (
        "train",
        lambda x, y: {"x": x, "label": np.eye(4)[y][:, :2]},
        "holds 2 two-dimensional arrays",
    ),
    "pickled": (
        "train",
        lambda x, y: {"x": np.array([*x, None], object)[:-1]},
        "no two-dimensional array of numbers; what is pickled would run code",
    ),
    "several": (
        "train",
        lambda x, y: {"a": x, "b": x, "y": y},
        "a (240, 12) float32; b (240, 12) float32; y (240) int64; name it as FILE:KEY, such as"
        " --train train.npz:a",
    ),
    "several labels": (
        "train",
        lambda x, y: {"x": x, "coarse": y, "fine": y},
        "holds 2 arrays that could be its labels",
    ),
    "maps": (
        "train",
        lambda x, y: {"x": x.reshape(240, 3, 2, 2), "y": y},
        "no two-dimensional array of numbers; it holds x (240, 3, 2, 2)",
    ),
    "no rows": ("near", lambda x, y: {"x": x[:0]}, "holds no rows"),
    "val without labels": ("val", lambda x, y: {"x": x}, "--val val.npz:x has no labels"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_nothing_is_written(place, origin, case):
    name, change, said = BAD[case]
    changed(origin, name, change)
    assert said in refused(*words())
    assert not (place / "results").exists()


FLAGS = {
    "labels of another count": (
        {"labels": "test.npz:label_list"},
        "test.npz:label_list holds 100 labels, and train.npz:feat_list 240 rows",
    ),
    "no such key": ({"train": "train.npz:no"}, "has no 'no'; it holds feat_list"),
    "both": ({"test": "train.npz"}, "is given as --train and as --test"),
    "both id and ood": ({"ood": ["near=test.npz"]}, "is given as --test and as --ood near"),
    "twice": ({"ood": ["near=near.npz", "near=test.npz"]}, "--ood names near more than once"),
    "no such file": ({"val": "no.npz"}, "--val no.npz: no.npz is not there"),
    "head of another width": ({"head": "val.npz:label_list"}, "has shape (40,) of float64"),
    "names of another count": ({"class_names": "two.txt"}, "names 2 classes, and the head has 4"),
    "a name twice": ({"class_names": "twice.txt"}, "found 'a' twice"),
    "logits of other images": (
        {"head": None, "logits": "logits.npy"},
        "--logits logits.npy holds 100 rows, and --train train.npz:feat_list 240",
    ),
    "logits that are none": (
        {"head": None, "logits": "noise.npy"},
        "the logits are not an affine function of the features",
    ),
    "head and logits": ({"logits": "noise.npy"}, "give one of them"),
    "a set without a file": ({"ood": ["svhn"]}, "expected NAME=FILE, such as svhn=svhn.npz"),
    "a name that leads elsewhere": ({"name": ".."}, "begins with a letter"),
}


@pytest.mark.parametrize("case", FLAGS)
def test_flags_that_do_not_fit_are_named(place, origin, case):
    changes, said = FLAGS[case]
    (place / "two.txt").write_text("a\nb\n")
    (place / "twice.txt").write_text("a\na\nb\nc\n")
    np.save("logits.npy", np.ones((100, 4)))
    np.save("noise.npy", np.random.default_rng(0).normal(size=(240, 4)))
    assert said in refused(*words(**changes))
    assert not (place / "results").exists()


def test_names_that_a_head_does_not_order_are_refused(place, origin):
    x, y, _ = arrays(origin)["train"]
    np.savez("train.npz", x=x, label=np.array(CLASSES)[y])
    said = refused(*words(class_names=None))
    assert "nothing says which row of the head is which" in said and "--class-names FILE" in said


def test_a_class_that_training_never_saw_is_ood(place, origin):
    for name, names in (("train", CLASSES), ("test", ["cat", "dog", "bird", "cow"])):
        x, y, _ = arrays(origin)[name]
        np.savez(f"{name}.npz", x=x, label=np.array(names)[y])
    said = refused(*words(head=None, class_names=None, val=None))
    assert "'cow' is not among the 4 classes" in said and "--ood NAME=FILE" in said


def test_a_csv_with_a_broken_cell_is_refused_by_line_and_column(place, origin):
    table = as_table(*arrays(origin)["train"])
    table.write_csv("train.csv")
    lines = (place / "train.csv").read_text().splitlines()
    cells = lines[4].split(",")
    lines[4] = ",".join([*cells[:3], "nan", *cells[4:]])
    (place / "train.csv").write_text("\n".join(lines) + "\n")
    said = refused(*words(train="train.csv"))
    assert "train.csv, line 5, column f3" in said and "expected a finite number" in said


def test_a_stem_moved_to_another_folder_is_still_whole(place):
    imported(*words())
    (place / "elsewhere").mkdir()
    (place / "results/mine").rename(place / "elsewhere/mine")
    ended = shell(ood_methods.main, "--checkpoint", "elsewhere/mine", "--methods", "MSP")
    assert ended.code == 0 and "warning" not in ended.err
    assert json.loads((place / "elsewhere/mine/ID_toy_train.json").read_text())["labelled"] is True
