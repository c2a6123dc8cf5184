"""detect.py: verdicts on images and features, and what becomes of mistakes."""

import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, change_json, ours, read_csv, saved, shell, tiny, write_blank
from PIL import Image
from sklearn.datasets import load_digits

import detect
import ood_methods
import run_networks
import utils
from artifacts import records, shards, store
from detection.detector import Detector
from extraction import streaming
from networks import onnx_sessions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*the test accuracy is"),
]
COUNT = 40  # images: a batch of fewer than 37 may differ in its last digits


@dataclass(frozen=True)
class Kept:
    """A network's file, a folder of photographs, and the folder of its features and detector."""

    weights: Path
    photos: Path
    folder: Path

    def ask(self, *words, standard_input=None):
        """detect.py with this detector."""
        if standard_input is not None:
            sys.stdin = standard_input
        try:
            words = ("--detector", self.folder, "--device", "cpu", *words)
            return shell(detect.main, *words)
        finally:
            sys.stdin = sys.__stdin__


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Digits through an untrained network, and 40 images in files, half of them digits."""
    root = tmp_path_factory.mktemp("kept")
    weights = saved(root, ours(tiny(classes=10)), "net.pth")
    photos = root / "photos"
    (photos / "deep").mkdir(parents=True)
    generator = np.random.default_rng(0)
    digits = np.round(load_digits().images * (255 / 16)).astype(np.uint8)
    for number in range(COUNT):
        pixels = generator.integers(0, 64 + 4 * number, (20, 24, 3), dtype=np.uint8)
        if number % 2:
            pixels = digits[number]
        place = photos / "deep" if number % 3 == 0 else photos
        Image.fromarray(pixels).save(place / f"{number:02}.png")
    words = ["--checkpoint", str(weights), "--output-dir", str(root)]
    run_networks.main([*words, "--device", "cpu", "--ood", f"mine={photos}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "write_figure", write_blank)
        assert shell(ood_methods.main, *words).code == 0
    return Kept(weights, photos, root / "net")


@pytest.fixture
def own(kept, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(kept.weights.parent, tmp_path / "own")
    return Kept(tmp_path / "own/net.pth", tmp_path / "own/photos", tmp_path / "own/net")


def lines(ended):
    return [json.loads(line) for line in ended.out.splitlines()]


# ---- the same as the chain -----------------------------------------------------------------------


def test_features_are_those_of_run_networks_to_the_bit(kept):
    found = store.read_features(kept.folder / "OOD_mine_test.csv")
    facts = Detector.load(kept.folder / "detector.safetensors").facts
    network = streaming.opened(str(kept.weights), facts, None, "cpu")
    made = network.features([str(kept.photos / path) for path in found.paths])
    assert made.broken == {} and len(made.paths) == COUNT
    np.testing.assert_array_equal(made.features, found.features)


def test_the_columns_are_those_that_the_files_of_scores_begin_with(kept):
    ended = kept.ask(kept.photos, "--format", "csv")
    table = read_csv(io.StringIO(ended.out))
    scored = read_csv(kept.folder / "scores_OOD_mine.csv")
    assert list(table.columns) == list(scored.columns[: len(table.columns)])
    assert list(table["path"]) == [f"{kept.photos}/{path}" for path in scored["path"]]
    assert list(table["verdict"]) == list(scored["verdict"])
    assert list(table["predicted_class"]) == list(scored["predicted_class"])
    for name in table.columns[3:]:
        np.testing.assert_allclose(table[name], scored[name], rtol=1e-5)
    accepted = set(table["verdict"]) == {"accepted"}
    assert ended.code == (0 if accepted else 3)


def test_features_score_as_their_images_do(kept):
    by_images = lines(kept.ask(kept.photos, "--format", "jsonl", "--method", "vim"))
    by_table = lines(
        kept.ask(kept.folder / "OOD_mine_test.csv", "--format", "jsonl", "--method", "vim")
    )
    for one, other in zip(by_images, by_table, strict=True):
        assert one["method"] == "ViM" and one["path"].endswith(other["path"])
        assert one["score"] == pytest.approx(other["score"], rel=1e-6)
        assert one["verdict"] == other["verdict"]


@pytest.mark.parametrize("size", [1, 7])
def test_the_size_of_a_batch_changes_no_verdict(kept, size):
    whole = lines(kept.ask(kept.photos, "--format", "jsonl"))
    parts = lines(kept.ask(kept.photos, "--format", "jsonl", "--batch-size", size))
    assert [one["path"] for one in whole] == [one["path"] for one in parts]
    assert [one["verdict"] for one in whole] == [one["verdict"] for one in parts]


def test_the_table_has_a_line_an_image(kept):
    ended = kept.ask(kept.photos / "01.png", kept.photos / "02.png")
    first, second = ended.out.splitlines()
    verdict, predicted, percentile, p, p_value, path = first.split()
    assert verdict in ("accepted", "rejected", "undefined") and predicted in "0123456789"
    assert percentile.endswith("%") and p == "p" and 0 < float(p_value) <= 1
    assert path == str(kept.photos / "01.png") and second.endswith("02.png")
    assert "recommended by the least regret" in ended.err and "2 images: " in ended.err


def test_what_is_kept_follows_the_flag(kept):
    rows = lines(kept.ask(kept.photos, "--format", "jsonl", "--method", "MSP", "--keep", "0.5"))
    assert {one["verdict"] for one in rows} == {"accepted", "rejected"}
    for one in rows:
        assert (one["verdict"] == "accepted") == (one["p_value"] > 0.5)


# ---- standard input and output -------------------------------------------------------------------


def test_lines_of_standard_input_are_images_and_folders(kept):
    text = f"{kept.photos}/01.png\n\n{kept.photos}/deep\n"
    ended = kept.ask("-", "--format", "jsonl", standard_input=io.StringIO(text))
    deep = sorted((kept.photos / "deep").iterdir())
    assert [one["path"] for one in lines(ended)] == [f"{kept.photos}/01.png", *map(str, deep)]


@pytest.mark.parametrize("standard_input", [io.StringIO(""), "closed"])
def test_standard_input_that_ends_at_once_is_a_mistake(kept, standard_input, monkeypatch):
    if standard_input == "closed":
        monkeypatch.setattr(sys, "__stdin__", None)
        monkeypatch.setattr(sys, "stdin", None)
        standard_input = None
    ended = kept.ask("-", standard_input=standard_input)
    assert ended.code == 2 and "ended without naming an image" in ended.err


def test_a_reader_that_leaves_early_sees_no_traceback(kept, tmp_path):
    np.savez(tmp_path / "many.npz", features=np.ones((20_000, 64), np.float32))
    words = [sys.executable, "detect.py", "--detector", kept.folder, tmp_path / "many.npz"]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1 and "Traceback" not in said and "Broken" not in said


def test_a_batch_is_answered_before_the_next_image_is_named(kept):
    """So a stream of any length takes the memory of one batch."""
    asked = []

    def endless():
        for number in range(10**9):
            asked.append(number)
            yield f"{kept.photos}/01.png\n"

    args = detect.parse_args(["--detector", str(kept.folder), "-", "--batch-size", "3"])
    args.device = "cpu"
    detector = Detector.load(kept.folder / "detector.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", endless())
        found = detect.batches(args, detector, kept.folder / "detector.safetensors")
        for taken in (3, 6):
            assert len(next(found).paths) == 3 and len(asked) == taken


SLOW = ("torch", "torchvision", "scipy", "pandas", "matplotlib", "sklearn")


@pytest.mark.parametrize(
    ("name", "absent"), [("mine.npz", (*SLOW, "polars")), ("OOD_mine_test.csv", SLOW)]
)
def test_features_are_scored_without_what_is_slow_to_import(kept, tmp_path, name, absent):
    values = store.read_features(kept.folder / "OOD_mine_test.csv")
    place = kept.folder / name
    if name.endswith(".npz"):
        place = tmp_path / name
        np.savez(place, features=values.features, paths=np.array(values.paths))
    code = (
        "import sys\n"
        f"for name in {absent}:\n"
        "    sys.modules[name] = None\n"
        "import detect\n"
        "sys.exit(detect.main(sys.argv[1:]))\n"
    )
    words = ["--detector", kept.folder, place, "--format", "jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 3), done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    scored = read_csv(kept.folder / "scores_OOD_mine.csv")
    assert [one["path"] for one in found] == list(scored["path"])
    assert [one["verdict"] for one in found] == list(scored["verdict"])


# ---- copies and pages ----------------------------------------------------------------------------


def test_a_folder_of_shards_is_features(kept, tmp_path):
    found = store.read_features(kept.folder / "OOD_mine_test.csv")
    folder = tmp_path / "OOD_mine_test.parquet"
    folder.mkdir()
    entries = []
    for number, cut in enumerate((slice(0, 30), slice(30, None))):
        part = shards.shard_path(folder, number)
        store.write_features(part, found.features[cut], found.labels[cut], found.paths[cut], {})
        entries.append(shards.of_sidecar(part))
    shards.finish(folder, {"width": found.features.shape[1]}, entries)
    asked = [kept.ask("--format", "jsonl", place) for place in (found.file, folder)]
    assert len(lines(asked[1])) == COUNT
    assert lines(asked[1]) == lines(asked[0])


def test_rejected_images_are_copied_and_nothing_is_overwritten(kept, tmp_path):
    words = (kept.photos, "--keep", "0.5", "--method", "MSP", "--format", "jsonl")
    (tmp_path / "rejected").mkdir()
    ended = kept.ask(*words)
    rejected = [Path(one["path"]) for one in lines(ended) if one["verdict"] == "rejected"]
    there = tmp_path / "rejected" / rejected[0].name
    there.write_text("mine")
    for _ in range(2):
        kept.ask(*words, "--copy-rejected", tmp_path / "rejected")
    assert there.read_text() == "mine"
    copies = {path.read_bytes() for path in (tmp_path / "rejected").iterdir()} - {b"mine"}
    assert copies == {path.read_bytes() for path in rejected}
    assert len(list((tmp_path / "rejected").iterdir())) == len(rejected) + 1


def test_the_gallery_shows_every_image_with_its_verdict(kept, tmp_path):
    words = (kept.photos, "--keep", "0.5", "--method", "MSP", "--format", "jsonl")
    ended = kept.ask(*words, "--gallery", tmp_path / "page.html")
    rejected, accepted = (tmp_path / "page.html").read_text().split("<h2>")[1:]
    for part, verdict in ((rejected, "rejected"), (accepted, "accepted")):
        rows = [one for one in lines(ended) if one["verdict"] == verdict]
        assert part.count("data:image/webp;base64,") == len(rows) > 0
        in_order = [one["path"] for one in sorted(rows, key=lambda one: one["score"])]
        places = [part.index(path) for path in in_order]
        assert places == sorted(places)


def test_quiet_leaves_the_answers_alone(kept):
    words = ["--detector", kept.folder, "--device", "cpu", kept.photos, "--format", "jsonl"]
    loud, quiet = (
        subprocess.run(
            [sys.executable, ROOT / "detect.py", *words, *more], capture_output=True, text=True
        )
        for more in ([], ["--quiet"])
    )
    assert quiet.stdout == loud.stdout and len(quiet.stdout.splitlines()) == COUNT
    assert "recommended by" in loud.stderr and quiet.stderr == ""


def test_a_watch_that_is_ended_by_a_signal_writes_its_page(own, tmp_path):
    """As a service is ended."""
    page = tmp_path / "page.html"
    words = ["--detector", own.folder, "--device", "cpu", "--poll", "0.1", "--gallery", page]
    words += ["--format", "jsonl", "--watch", own.photos]
    running = subprocess.Popen(
        [sys.executable, ROOT / "detect.py", *words], stdout=subprocess.PIPE, text=True
    )
    assert running.stdout.readline()  # the first image that was there
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode in (0, 3)
    assert "data:image/webp;base64," in page.read_text()


def test_a_watched_folder_is_scored_as_images_come(own, monkeypatch):
    """One is there, one comes and is whole at the second look, and Ctrl-C ends it."""
    inbox = own.photos.parent / "inbox"
    inbox.mkdir()
    shutil.copy(own.photos / "01.png", inbox / "there.png")
    content = (own.photos / "02.png").read_bytes()
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            (inbox / "comes.png").write_bytes(content[:50])
        if len(looks) == 2:
            (inbox / "comes.png").write_bytes(content)
        if len(looks) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    ended = own.ask("--watch", inbox, "--poll", "0.5", "--format", "jsonl")
    assert [Path(one["path"]).name for one in lines(ended)] == ["there.png", "comes.png"]
    assert ended.code in (0, 3) and "2 images" in ended.err and set(looks) == {0.5}


# ---- mistakes ------------------------------------------------------------------------------------


def test_broken_images_are_named_and_the_others_are_scored(own):
    (own.photos / "text.png").write_text("no image")
    (own.photos / "cut.png").write_bytes((own.photos / "02.png").read_bytes()[:200])
    ended = own.ask(own.photos, own.photos / "none.png", "--format", "jsonl")
    assert ended.code == 2 and len(lines(ended)) == COUNT
    for name in ("text.png", "cut.png", "none.png"):
        assert f"{own.photos}/{name}: " in ended.err
    assert "3 could not be scored" in ended.err


def test_an_empty_folder_is_a_mistake(own):
    (own.photos / "empty").mkdir()
    ended = own.ask(own.photos / "empty", own.photos / "01.png")
    assert ended.code == 2 and "holds no images" in ended.err
    assert len(ended.out.splitlines()) == 1


def test_weights_of_another_network_are_refused(own):
    saved(own.weights.parent, ours(tiny(classes=10, seed=1)), "net.pth")
    ended = own.ask(own.photos / "01.png")
    assert ended.code == 2 and "holds another network than the detector" in ended.err


# ---- networks and detectors as ONNX --------------------------------------------------------------


@pytest.fixture(scope="module")
def graph(kept, tmp_path_factory):
    """The network as run_networks.py exports it."""
    pytest.importorskip("onnxruntime", reason="needs requirements-onnx.txt")
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    words = ("--checkpoint", kept.weights, "--output-dir", path.parent, "--device", "cpu")
    assert shell(run_networks.main, *words, "--export-onnx", path).code == 0
    assert not (path.parent / "net").exists()  # there are no features to keep
    return path


def test_an_exported_network_judges_as_the_checkpoint_does(kept, graph):
    words = (kept.photos, "--format", "jsonl", "--method", "Energy")
    ours, theirs = kept.ask(*words), kept.ask(*words, "--checkpoint", graph)
    assert ours.code == theirs.code
    for one, other in zip(lines(ours), lines(theirs), strict=True):
        assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-5)
        assert one == other


def test_an_onnx_network_needs_no_torch(kept, graph):
    code = (
        "import sys, detect\n"
        "code = detect.main(sys.argv[1:])\n"
        "loaded = {'torch', 'torchvision', 'scipy', 'pandas'} & set(sys.modules)\n"
        "sys.exit(', '.join(loaded) or (0 if code in (0, 3) else f'exit code {code}'))"
    )
    words = ["--detector", kept.folder, "--checkpoint", graph, kept.photos / "01.png"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr


def test_onnxruntime_reports_nothing(kept, graph, tmp_path):
    """It keeps what it would send below the home folder."""
    words = ["--detector", kept.folder, "--checkpoint", graph, kept.photos / "01.png"]
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    unset = ("ORT_DISABLE_TELEMETRY", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | own
    ended = subprocess.run(
        [sys.executable, ROOT / "detect.py", *words], env=environment, capture_output=True
    )
    assert ended.returncode in (0, 3), ended.stderr
    assert list(tmp_path.rglob("*")) == []


def changed(graph, target, change):
    """A copy of a graph that `change` was done to."""
    import onnx

    model = onnx.load(graph)
    change(model)
    onnx.save(model, target)
    return target


def test_a_graph_of_another_checkpoint_is_refused(kept, graph, tmp_path):
    def rename(model):
        for entry in model.metadata_props:
            if entry.key == "checkpoint_sha256":
                entry.value = "0" * 64

    other = changed(graph, tmp_path / "other.onnx", rename)
    ended = kept.ask(kept.photos / "01.png", "--checkpoint", other)
    assert ended.code == 2 and "holds another network than the detector" in ended.err


def test_a_graph_whose_last_layer_was_changed_is_refused(kept, graph, tmp_path):
    """Its texts still name the checkpoint."""
    import onnx

    def move(model):
        for each in model.graph.initializer:
            values = onnx.numpy_helper.to_array(each)
            if values.shape == (10,):
                each.CopyFrom(onnx.numpy_helper.from_array(values + 1, each.name))

    other = changed(graph, tmp_path / "other.onnx", move)
    ended = kept.ask(kept.photos / "01.png", "--checkpoint", other)
    assert ended.code == 2 and "holds another network than the detector" in ended.err


def test_what_is_no_graph_is_said(own):
    (own.weights.parent / "net.onnx").write_bytes(b"graph")
    ended = own.ask(own.photos / "01.png", "--checkpoint", own.weights.parent / "net.onnx")
    assert ended.code == 2 and "is not an ONNX file that can be read" in ended.err


@pytest.mark.parametrize("source", ["checkpoint", "graph"])
def test_network_and_detector_are_one_file(kept, graph, tmp_path, source):
    """On the images that were named, or on noise."""
    target = tmp_path / "whole.onnx"
    more = ("--checkpoint", graph) if source == "graph" else (kept.photos,)
    ended = kept.ask("--export-onnx", target, *more)
    assert ended.code == 0, ended.err
    said = records.read_sidecar(target)
    assert said["method"] == Detector.load(kept.folder / detect.FILE).method
    assert said["verdicts_differ"] == 0 and said["score_differs"] <= 1e-5
    assert said["images"] == (64 if source == "graph" else COUNT)
    assert ("noise" in said["compared_on"]) == (source == "graph")
    assert said["sha256"] == records.sha256(target)
    names = [each.name for each in onnx_sessions.runtime().InferenceSession(target).get_outputs()]
    assert names == ["features", "logits", "score", "accepted"]


def test_an_export_does_not_replace(kept, tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "whole.onnx").touch()
    ended = kept.ask("--export-onnx", tmp_path / "whole.onnx")
    assert ended.code == 2 and "is there already" in ended.err


def test_features_have_no_network_to_export(kept, tmp_path):
    ended = kept.ask("--export-onnx", tmp_path / "whole.onnx", "features.npz")
    assert ended.code == 2 and "--export-onnx is of images" in ended.err


# ---- the checkpoint's file -----------------------------------------------------------------------


def test_the_same_weights_in_another_file_are_the_same_network(own):
    saved(own.weights.parent, ours(tiny(classes=10), epoch=3), "net.pth")
    assert own.ask(own.photos / "01.png").code in (0, 3)


def test_weights_that_are_not_there_are_asked_for(own):
    moved = own.weights.rename(own.weights.parent / "elsewhere.pth")
    ended = own.ask(own.photos / "01.png")
    assert ended.code == 2 and "net.pth, the weights that" in ended.err
    assert "--checkpoint" in ended.err
    assert own.ask(own.photos / "01.png", "--checkpoint", moved).code in (0, 3)


def test_images_are_refused_where_the_network_is_not_known(own, tmp_path):
    detector = Detector.load(own.folder / "detector.safetensors")
    for key in ("checkpoint", "checkpoint_sha256", "weights_sha256"):
        detector.facts.pop(key, None)
    detector.save(tmp_path / "imported.safetensors")
    words = ["--detector", tmp_path / "imported.safetensors", own.photos / "01.png"]
    ended = shell(detect.main, *words, "--checkpoint", own.weights)
    assert ended.code == 2 and "give features of the same network" in ended.err


def test_features_of_another_network_are_refused(own):
    path = own.folder / "OOD_mine_test.csv"

    def change(content):
        content.update(checkpoint_sha256="b" * 64, weights_sha256="c" * 64)

    change_json(records.sidecar_path(path), change)
    ended = own.ask(path)
    assert ended.code == 2 and "made by another network" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name images, folders"),
        (["a.png", "--watch", "b"], "--watch scores one folder"),
        (["--watch", "nowhere"], "there is no such folder"),
        (["a.npz", "--gallery", "p.html"], "--gallery is of images"),
        (["here", "--copy-rejected", "here/rejected"], "the copies would be scored too"),
        (["--watch", "here", "--copy-rejected", "here"], "the copies would be scored too"),
        (["a.png", "--method", "KNN"], "--with-bank keeps them"),
        (["a.png", "--method", "nothing"], "no method 'nothing'"),
        (["a.png", "--keep", "1.5"], "at most 1"),
    ],
)
def test_mistakes_come_before_the_network_is_opened(kept, words, said):
    ended = kept.ask(*words)
    assert ended.code == 2 and said in ended.err and not ended.out


def test_no_detector_comes_with_the_command(kept):
    ended = shell(detect.main, "--detector", kept.photos, "a.png")
    assert ended.code == 2 and "python ood_methods.py" in ended.err
