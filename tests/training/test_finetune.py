"""train.py --mode finetune: runs by steps, gradient accumulation, clipping, precisions, a frozen
backbone, how a classifier starts, and older spellings of its flags."""

import dataclasses
import math
import re
import signal

import pandas as pd
import pytest
import timm
import torch
from helpers import (
    assert_same_end,
    class_folders,
    equal,
    files_of,
    ours,
    read_checkpoint,
    saved,
    signalled,
    start_training,
    tiny,
)

import data
import neural_collapse
import run_networks
import train
from networks import loading, pretrained, wordnet
from training import batches, frozen, parts, precision, recipes, start
from training import run as training_run

pytestmark = pytest.mark.usefixtures("one_thread")

# 10 steps, evaluated after 4, 8 and 10
TINY = ("--mode", "finetune", "--from-scratch", "--steps", "10", "--eval-every", "4")
SHORT = (*TINY, "--warmup-steps", "2", "--precision", "fp32")
# no batch norm, whose statistics are of a part of the batch
PLAIN = ("--image-size", "16", "--augment", "--model", "toynet")

# ---- the schedule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 0.03 / 200),
        (100, 0.015),
        (200, 0.03),
        (400, 0.03 * (1 + math.sqrt(0.5)) / 2),
        (600, 0.015),
        (800, 0.03 * (1 - math.sqrt(0.5)) / 2),
        (1000, 0.0),
    ],
)
def test_rates_of_fine_tuning_by_hand(step, expected):
    recipe = recipes.check(recipes.RECIPES["finetune"])
    assert (recipe.steps, recipe.eval_every, recipe.epochs) == (1000, 90, 12)
    assert recipe.lr * parts.make_schedule(recipe)(step / 1000) == pytest.approx(
        expected, abs=1e-12
    )


def test_the_schedule_is_that_of_googles_and_necos_code():
    """Their WarmupCosineSchedule, restated: step / warmup, then half a cosine over the rest."""
    recipe = dataclasses.replace(recipes.RECIPES["finetune"], steps=50, warmup_steps=7)
    schedule = parts.make_schedule(recipe)
    for step in range(50):
        theirs = step / 7
        if step >= 7:
            theirs = max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * (step - 7) / (50 - 7))))
        assert schedule(step / 50) == pytest.approx(theirs, abs=1e-12)


def test_milestones_of_a_run_by_steps_are_steps():
    recipe = dataclasses.replace(
        recipes.RECIPES["finetune"], warmup_steps=0, milestones=(500, 0.75), gamma=0.1
    )
    schedule = parts.make_schedule(recipes.check(recipe))
    found = [schedule(step / 1000) for step in (499, 500, 749, 750)]
    assert found == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(("steps", "every", "expected"), [(1000, 90, 12), (90, 90, 1), (91, 90, 2)])
def test_a_run_by_steps_has_as_many_epochs_as_evaluations(steps, every, expected):
    recipe = recipes.overridden(
        recipes.RECIPES["finetune"], {"steps": steps, "eval_every": every, "warmup_steps": 0}
    )
    assert recipe.epochs == expected
    assert recipe.steps_before(expected) == steps and recipe.steps_before(1) == min(every, steps)


# ---- batches -------------------------------------------------------------------------------------


def test_steps_pass_over_all_images_again_and_again():
    drawn = batches.of_steps(10, 4, 3, 0, 10)
    assert [len(batch) for batch in drawn] == [4] * 10
    for rows in torch.cat(drawn).split(10):
        assert sorted(rows.tolist()) == list(range(10))
    first, second = torch.cat(drawn)[:10], torch.cat(drawn)[10:20]
    assert first.tolist() != second.tolist(), "each pass has an order of its own"


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 9])
def test_steps_are_the_same_wherever_a_run_begins_to_draw(cut):
    whole = batches.of_steps(7, 5, 11, 0, 10)
    pieces = [*batches.of_steps(7, 5, 11, 0, cut), *batches.of_steps(7, 5, 11, cut, 10)]
    assert equal(list(whole), pieces)
    other = batches.of_steps(7, 5, 12, 0, 10)
    assert not equal(list(whole), list(other)), "another seed"


# ---- a run ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_line_for_each_evaluation_and_a_checkpoint_where_they_are_asked_for(tmp_path):
    start_training(tmp_path, *SHORT, "--save-every-eval")
    curves = pd.read_csv(files_of(tmp_path).curves)
    assert curves["step"].tolist() == [4, 8, 10] and curves["epoch"].tolist() == [1, 2, 3]
    # the rates of steps 3, 7 and 9, counted from 0: 2 of warm-up, 8 of cosine
    expected = [0.03 * (1 + math.cos(math.pi * (step - 2) / 8)) / 2 for step in (3, 7, 9)]
    assert curves["lr"].tolist() == pytest.approx(expected)
    log = files_of(tmp_path).log.read_text()
    assert len(re.findall(r"^epoch \d  step \d+  train_loss", log, re.MULTILINE)) == 3
    assert "finetune, 10 steps of 64 images on cpu, augmentation: crop" in log
    names = sorted(path.name for path in tmp_path.glob("*_step*.pth"))
    assert names == [f"resnet_cifar_step{step}_run.pth" for step in (10, 4, 8)]
    for step in (4, 8, 10):
        content = torch.load(tmp_path / f"resnet_cifar_step{step}_run.pth", weights_only=True)
        assert content["step"] == step
    assert read_checkpoint(tmp_path)["step"] == 10
    best = read_checkpoint(tmp_path, "best")
    assert best["step"] == curves["step"][curves["val_acc"].idxmax()]
    start_training(tmp_path, *SHORT, "--force")
    assert not list(tmp_path.glob("*_step*")), "--force removes them too"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [SHORT, (*SHORT, "--grad-accumulation", "3"), (*TINY, "--warmup-steps", "2", "--amp")],
    ids=["fp32", "in parts", "bf16"],
)
def test_a_run_by_steps_resumes_bit_for_bit(tmp_path, monkeypatch, words):
    start_training(tmp_path / "whole", *words)
    signalled(monkeypatch, signal.SIGTERM, {3, 6})  # within the first stretch and the second
    codes = [start_training(tmp_path / "cut", *words, "--resume") for _ in range(3)]
    assert codes == [75, 75, None]
    log = files_of(tmp_path / "cut").log.read_text()
    assert "stopped in step 4; go on with --resume" in log
    assert "resumed after step 4, step 1 of the next evaluation" in log
    for folder in ("cut", "whole"):
        files_of(tmp_path / folder).log.unlink()
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
def test_collapse_is_followed_by_steps(tmp_path, capsys):
    start_training(tmp_path, *SHORT, *PLAIN, "--save-every-eval", "True")
    paths = [str(tmp_path / f"toynet_step{step}_run.pth") for step in (10, 4, 8)]
    words = ["--output-dir", str(tmp_path), "--checkpoint", *paths]
    run_networks.main([*words, "--ood", "uniform", "--device", "cpu"])
    neural_collapse.main(words)
    table = pd.read_csv(tmp_path / "toynet_step10_run" / "nc_epochs.csv")
    assert table["step"].drop_duplicates().tolist() == [4, 8, 10]
    assert table["epoch"].drop_duplicates().tolist() == [1, 2, 3]
    assert dict(zip(table["checkpoint"], table["step"], strict=True)) == {
        f"toynet_step{step}_run": step for step in (4, 8, 10)
    }
    printed = capsys.readouterr().out
    assert re.search(r"^ +step ", printed, re.MULTILINE), "the printed table runs along steps"


# ---- gradients -----------------------------------------------------------------------------------


def end_of(folder, *words):
    """The trained weights of a run of toynet, of seven classes."""
    start_training(folder, *words, *PLAIN)
    path = folder / "toynet_final_run.pth"
    return torch.load(path, weights_only=True)["model_state_dict"]


@pytest.mark.slow
@pytest.mark.parametrize("count", ["2", "5"])
def test_a_batch_in_parts_makes_the_step_of_the_whole(tmp_path, count):
    whole = end_of(tmp_path / "whole", *SHORT)
    in_parts = end_of(tmp_path / "parts", *SHORT, "--grad-accumulation", count)
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_parts_of_mixed_and_augmented_batches_too(tmp_path):
    words = (*SHORT, "--mixup", "0.4", "--label-smoothing", "0.1")
    augmented = ("--augment", "crop", "rotation")  # behind PLAIN's, so that these count
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder, more in zip(folders, ((), ("--grad-accumulation", "4")), strict=True):
        start_training(folder, *words, *PLAIN, *augmented, *more)
    one, two = (
        torch.load(folder / "toynet_final_run.pth", weights_only=True) for folder in folders
    )
    for name, value in one["model_state_dict"].items():
        torch.testing.assert_close(two["model_state_dict"][name], value, rtol=0, atol=1e-6)
    assert two["history"][0]["train_acc"] == one["history"][0]["train_acc"]


@pytest.mark.slow
def test_a_step_is_no_longer_than_the_clipped_gradient(tmp_path):
    """One step of SGD without momentum moves by the rate times the gradient."""
    words = ("--mode", "finetune", "--from-scratch", "--steps", "1", "--warmup-steps", "0")
    words = (*words, "--momentum", "0", "--lr", "1", "--precision", "fp32")
    start_norm = end_of(tmp_path / "start", *words, "--clip", "1e-9")

    def moved(folder, clip):
        end = end_of(folder, *words, "--clip", clip)
        squares = [((end[name] - value).double() ** 2).sum() for name, value in start_norm.items()]
        return math.sqrt(sum(squares))

    free = moved(tmp_path / "free", "0")
    assert free > 0.01
    assert moved(tmp_path / "clipped", "0.01") == pytest.approx(0.01, rel=1e-3)
    assert moved(tmp_path / "loose", "100") == pytest.approx(free)


# ---- precision -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_float16_scales_the_loss_and_resumes_with_the_same_factor(tmp_path, monkeypatch):
    words = (*TINY, *PLAIN, "--warmup-steps", "2", "--fp16", "True")
    for folder in ("whole", "cut"):
        if folder == "cut":
            signalled(monkeypatch, signal.SIGTERM, {6})
            assert start_training(tmp_path / folder, *words) == 75
        assert start_training(tmp_path / folder, *words, "--resume") is None
    whole, cut = (
        torch.load(tmp_path / folder / "toynet_final_run.pth", weights_only=True)
        for folder in ("whole", "cut")
    )
    assert whole["arguments"]["precision"] == "fp16"
    assert whole["scaler_state_dict"]["scale"] > 1
    for key in ("model_state_dict", "scaler_state_dict", "optimizer_state_dict"):
        assert equal(whole[key], cut[key]), key
    exact = end_of(tmp_path / "exact", *SHORT)
    for name, value in exact.items():
        torch.testing.assert_close(whole["model_state_dict"][name], value, rtol=0, atol=0.02)
    assert " in float16, " in (tmp_path / "whole" / "toynet_log_run.txt").read_text()


def test_the_scaler_divides_before_gradients_are_clipped():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = precision.scaler("fp16", torch.device("cpu"))
    scaler.scale((weight * torch.tensor([3.0, 0.0, 4.0])).sum()).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    scaler.step(optimizer)
    torch.testing.assert_close(weight.detach(), torch.tensor([0.4, 1.0, 0.2]), rtol=1e-5, atol=0)
    assert not precision.scaler("bf16", torch.device("cpu")).is_enabled()


# ---- a frozen backbone ---------------------------------------------------------------------------

HEAD = ("--mode", "finetune", "--freeze", "--num_steps", "60", "--warmup_steps", "10")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, one_thread):
    """A network that has learned three classes a little."""
    folder = tmp_path_factory.mktemp("backbone")
    start_training(folder, "--mode", "collapse", "--epochs", "3", "--no-amp")
    return files_of(folder).final


@pytest.mark.slow
def test_only_the_classifier_learns_and_the_checkpoint_is_an_ordinary_one(tmp_path, backbone):
    start_training(tmp_path, *HEAD, "--weights", str(backbone), "--head", "zeros")
    before = torch.load(backbone, weights_only=True)["model_state_dict"]
    network, _, content = loading.load(files_of(tmp_path).final)
    after = content["model_state_dict"]
    for name, value in after.items():
        assert torch.equal(value, before[name]) == (not name.startswith("fc.")), name
    rows = pd.read_csv(files_of(tmp_path).curves)
    assert rows["train_loss"].iloc[-1] < math.log(3) / 2, "zeros start at log 3"
    assert rows["train_acc"].iloc[-1] > 0.9
    # what the checkpoint states is what the whole network does
    preprocessing = data.Preprocessing(**content["preprocessing"])
    test = data.load_id(data.ID["digits"], "test", preprocessing, None, content["held_out"])
    with torch.no_grad():
        logits = network(preprocessing.normalise(test.pixels))
    right = (logits.argmax(1) == test.labels).float().mean().item()
    assert content["test_acc"] == pytest.approx(right)
    assert content["recipe"]["freeze"] is True and content["recipe"]["augment"] == ()


@pytest.mark.slow
def test_features_are_those_of_the_network_and_are_computed_once(tmp_path, backbone, monkeypatch):
    start_training(tmp_path, *HEAD, "--weights", str(backbone))
    (path,) = tmp_path.glob("features_*.pt")
    network, layer, content = loading.load(backbone)
    preprocessing = data.Preprocessing(**content["preprocessing"])
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, content["held_out"])
    chosen, _ = data.split_validation(len(images), content["val_size"])
    caught = []
    layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        network(preprocessing.normalise(images.take(chosen).pixels))
    kept = torch.load(path, weights_only=True)["features"]
    torch.testing.assert_close(kept[0], caught[0], rtol=1e-5, atol=1e-6)
    # another run from the same weights finds them; one on other images does not
    monkeypatch.setattr(frozen, "made", lambda *given: pytest.fail("computed again"))
    start_training(tmp_path, *HEAD, "--weights", str(backbone), "--lr", "0.1", "--force")
    assert f"read from {path}" in files_of(tmp_path).log.read_text()
    with pytest.raises(pytest.fail.Exception, match="computed again"):
        start_training(tmp_path, *HEAD, "--weights", str(backbone), "--val-size", "40", "--force")


@pytest.mark.slow
def test_a_run_on_features_resumes_bit_for_bit(tmp_path, backbone, monkeypatch):
    words = (*HEAD, "--weights", str(backbone), "--eval-every", "25")
    start_training(tmp_path / "whole", *words)
    signalled(monkeypatch, signal.SIGTERM, {12, 40})
    codes = [start_training(tmp_path / "cut", *words, "--resume") for _ in range(3)]
    assert codes == [75, 75, None]
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_while_features_are_made_stops_the_run(tmp_path, backbone, monkeypatch):
    words = (*HEAD, "--weights", str(backbone))
    real = frozen.made
    with monkeypatch.context() as patch:

        def stopped(run, images):
            run.stop.received = True
            return real(run, images)

        patch.setattr(frozen, "made", stopped)
        assert start_training(tmp_path, *words) == 75
    assert "stopped while the features were made" in files_of(tmp_path).log.read_text()
    assert not list(tmp_path.glob("features_*")) and files_of(tmp_path).last.exists()
    assert start_training(tmp_path, *words, "--resume") is None


@pytest.mark.slow
def test_collapse_of_a_frozen_network_is_that_of_the_whole(tmp_path, backbone):
    start_training(tmp_path, *HEAD, "--weights", str(backbone), "--track-nc", "1", "--lr", "1e-9")
    found = pd.read_csv(files_of(tmp_path).curves)["nc1"].iloc[-1]
    network, layer, content = loading.load(backbone)
    preprocessing = data.Preprocessing(**content["preprocessing"])
    images = data.load_id(data.ID["digits"], "train", preprocessing, None, content["held_out"])
    chosen, _ = data.split_validation(len(images), content["val_size"])
    train_images = images.take(chosen)
    caught = []
    layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        network(preprocessing.normalise(train_images.pixels))
    features, labels = caught[0].double(), train_images.labels
    means = torch.stack([features[labels == c].mean(0) for c in range(3)])
    within = features - means[labels]
    sigma_w = within.T @ within / len(features)
    centred = means - means.mean(0)
    sigma_b = centred.T @ centred / 3
    # rank 2 of 64: the pseudo-inverse by its two largest eigenvalues
    values, vectors = torch.linalg.eigh(sigma_b)
    inverse = vectors[:, -2:] @ torch.diag(1 / values[-2:]) @ vectors[:, -2:].T
    assert found == pytest.approx(float(torch.trace(sigma_w @ inverse) / 3), rel=1e-3)


# ---- how the classifier starts -------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """test_resnet with ImageNet's 1,000 rows -> (its network, its file)."""
    torch.manual_seed(6)
    network = timm.create_model("test_resnet").eval()
    return network, str(saved(tmp_path, network.state_dict(), "published.pth"))


MODEL = "timm/test_resnet"
NAMES = ["n01440764", "n02979186", "n03000684"]


def started(published, asked, otherwise, names=NAMES, classes=3):
    network = timm.create_model("test_resnet", num_classes=classes)
    network.own_classifier, network.own_classes = "fc", classes
    before = network.fc.weight.clone()
    said = start.from_weights(published[1], network, MODEL, names, asked, otherwise)
    assert torch.equal(network.layer1[0].conv1.weight, published[0].layer1[0].conv1.weight)
    return network.fc, before, said


def test_a_classifier_of_other_classes_starts_from_zeros(published):
    layer, _, said = started(published, None, "zeros")
    assert not layer.weight.any() and not layer.bias.any()
    assert said == "its classifier replaced by one of 3 classes that starts from zeros"


def test_or_from_the_rows_of_its_wordnet_ids(published):
    layer, _, said = started(published, "rows", "zeros")
    rows = [wordnet.ids(1000).index(name) for name in NAMES]
    assert torch.equal(layer.weight, published[0].fc.weight[rows])
    assert torch.equal(layer.bias, published[0].fc.bias[rows])
    assert said.startswith(
        "its classifier's rows of n01440764 (tench), n02979186 (cassette player)"
    )


def test_or_at_random_and_other_modes_leave_it_as_the_network_drew_it(published):
    layer, before, said = started(published, "drawn", "zeros")
    assert layer.weight.any() and not torch.equal(layer.weight, before)
    assert "random weights" in said
    layer, before, said = started(published, None, None)
    assert torch.equal(layer.weight, before) and said == "its classifier drawn anew"


def test_rows_of_classes_that_the_file_does_not_name_are_refused(published):
    with pytest.raises(ValueError, match=r"has no row that is named sparrow; name the folders"):
        started(published, "rows", None, ["n01440764", "sparrow", "n03000684"])


def test_a_classifier_of_the_same_classes_stays_unless_another_start_is_asked_for(tmp_path):
    network = tiny(3)
    path = str(saved(tmp_path, ours(network)))

    def start_of(names, asked=None):
        other = tiny(3, seed=1)
        said = start.from_weights(path, other, "resnet_cifar", names, asked, "zeros")
        return other.fc.weight, said

    weight, said = start_of(["0", "1", "2"])
    assert torch.equal(weight, network.fc.weight) and "the same classes" in said
    weight, _ = start_of(["0", "1", "2"], "zeros")
    assert not weight.any()
    weight, _ = start_of(["a", "b", "c"])
    assert not weight.any(), "as many classes, and others"


@pytest.mark.slow
def test_a_pretrained_head_is_replaced_for_a_folders_classes_and_the_log_says_so(
    published, tmp_path
):
    class_folders(tmp_path / "birds", ["a", "b", "c"], 4, (40, 36))
    words = ["--dataset", f"birds={tmp_path / 'birds'}", "--model", MODEL, "--weights"]
    words += [published[1], "--mode", "finetune", "--steps", "2", "--warmup-steps", "0"]
    words += ["--batch-size", "4", "--val-size", "0", "--image-size", "32", "--device", "cpu"]
    train.main([*words, "--suffix", "run", "--output-dir", str(tmp_path / "results")])
    log = (tmp_path / "results" / "timm_test_resnet_log_run.txt").read_text()
    replaced = "its classifier replaced by one of 3 classes that starts from zeros"
    assert f"starts from {published[1]}, {replaced}; images: 32 px in the centre of 34" in log
    assert "2 steps of 4 images" in log


@pytest.mark.slow
def test_pretrained_weights_of_a_library_are_saved_first(published, tmp_path, monkeypatch):
    class_folders(tmp_path / "birds", ["a", "b", "c"], 4, (40, 36))
    monkeypatch.setattr(pretrained, "source", lambda name: "https://weights")
    monkeypatch.setattr(pretrained, "cached", lambda name: published[1])
    words = ["--dataset", f"birds={tmp_path / 'birds'}", "--model", MODEL, "--pretrained"]
    words += ["--mode", "finetune", "--steps", "2", "--warmup-steps", "0", "--freeze", "True"]
    words += ["--batch-size", "4", "--val-size", "0", "--image-size", "32", "--device", "cpu"]
    results = tmp_path / "results"
    train.main([*words, "--suffix", "run", "--output-dir", str(results)])
    assert (results / "timm_test_resnet_pretrained.pth").is_file()
    content = torch.load(results / "timm_test_resnet_final_run.pth", weights_only=True)
    state, expected = content["model_state_dict"], published[0].state_dict()
    assert torch.equal(state["layer1.0.conv1.weight"], expected["layer1.0.conv1.weight"])
    assert content["arguments"]["pretrained"] is True and content["class_names"] == ["a", "b", "c"]


# ---- older spellings and booleans ----------------------------------------------------------------

FINETUNE = ("--mode", "finetune", "--from-scratch")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--num_steps", "70", "--warmup_steps", "5"), ("--steps", "70", "--warmup-steps", "5")),
        (("--test_NC",), ("--save-every-eval",)),
        (("--test_NC", "True"), ("--save-every-eval",)),
        (("--test_NC", "False"), ()),
        (("--img_size", "64"), ("--image-size", "64")),
        (("--fp16",), ("--precision", "fp16")),
        (("--fp16", "False"), ()),
        (("--amp",), ("--precision", "bf16")),
        (("--amp", "true"), ("--precision", "bf16")),
        (("--name", "mine"), ("--suffix", "mine")),
        (("--no-amp", "False"), ()),
        (("--no_amp=True",), ("--no-amp",)),
        (("--resume", "False"), ()),
        (("--nesterov", "True"), ("--nesterov",)),
        (("--nesterov", "False"), ("--no-nesterov",)),
        (("--no-nesterov", "False"), ("--nesterov",)),
        (("--decay_norm", "False"), ("--no-decay-norm",)),
        (("--compile", "False", "--winograd", "False", "--tensorboard", "False"), ()),
    ],
)
def test_older_spellings_and_booleans_mean_what_they_say(old, new):
    one, two = (train.parse_args([*FINETUNE, *words]) for words in (old, new))
    assert vars(one) == vars(two)


def test_the_older_spelling_of_weights(tmp_path):
    words = ("--mode", "finetune", "--freeze", "False")
    one = train.parse_args([*words, "--pretrained_dir", "vit.npz"])
    assert one.weights == "vit.npz" and one.freeze is False


def test_shuffle_is_accepted_and_said_to_do_nothing():
    with pytest.warns(UserWarning, match="--SHUFFLE has no effect"):
        args = train.parse_args([*FINETUNE, "--SHUFFLE", "True"])
    assert vars(args) == vars(train.parse_args(FINETUNE))


def test_another_word_behind_a_boolean_is_a_usage_error(capsys):
    for words in (["--freeze", "maybe"], ["--test_NC", "1"]):
        with pytest.raises(SystemExit):
            train.parse_args([*FINETUNE, *words])
        assert f"expected True, False, or nothing, found '{words[1]}'" in capsys.readouterr().err


# ---- what does not go together -------------------------------------------------------------------

WEIGHTS = ("--mode", "finetune", "--weights", "some.pth")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mode", "finetune"), r"starts from weights; name them with --weights FILE"),
        (("--mode", "best", "--from-scratch"), r"--from-scratch is of --mode finetune"),
        ((*WEIGHTS, "--from-scratch"), r"--weights and --from-scratch both say what to start from"),
        ((*WEIGHTS, "--pretrained"), r"--weights and --pretrained both say"),
        ((*FINETUNE, "--freeze"), r"--freeze .* features of random weights are of no use"),
        (("--mode", "best", "--freeze"), r"--freeze .*--weights FILE, or give --pretrained"),
        (("--mode", "finetune", "--pretrained"), r"needs a network of timm .* found resnet18"),
        (("--mode", "best", "--steps", "5"), r"--steps is of modes that count steps \(finetune\),"),
        (("--mode", "sgd", "--eval-every", "5"), r"--eval-every .* give --save-every"),
        (("--mode", "sgd", "--warmup-steps", "5"), r"--warmup-steps .* give --warmup, or"),
        ((*FINETUNE, "--epochs", "3"), r"--epochs is of modes that count epochs .* give --steps"),
        ((*FINETUNE, "--warmup", "3"), r"--warmup is of modes .* give --warmup-steps"),
        ((*FINETUNE, "--steps", "0"), r"--steps is 0; expected at least 1"),
        ((*FINETUNE, "--eval-every", "0"), r"--eval-every is 0; expected at least 1"),
        (("--mode", "best", "--save-every-eval"), r"counts epochs; give --save-every N"),
        ((*FINETUNE, "--save-every-eval", "--save-every", "2"), r"give one of the two"),
        ((*FINETUNE, "--amp", "--no-amp"), r"two precisions, bf16 and fp32; give one"),
        ((*FINETUNE, "--fp16", "--precision", "bf16"), r"two precisions, bf16 and fp16"),
        ((*FINETUNE, "--head", "zeros"), r"--head is of runs from --weights or --pretrained"),
    ],
)
def test_flags_that_contradict_each_other_are_refused_before_any_work(words, message):
    with pytest.raises(ValueError, match=message):
        train.parse_args(words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 60}, r"--warmup-steps is 200; expected below 60, .* --warmup-steps 12"),
        ({"warmup_share": 0.1}, r"--warmup-steps is 200 and --warmup-share 0\.1"),
        ({"grad_accumulation": 0}, r"--grad-accumulation is 0; expected at least 1"),
        ({"milestones": (1000,)}, r"--milestones has 1000; expected steps above 0 and below 1000"),
    ],
)
def test_values_that_no_run_by_steps_could_use_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipes.check(dataclasses.replace(recipes.RECIPES["finetune"], **changes))


@pytest.mark.parametrize(
    "given",
    [
        {"augment": ["crop"]},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"start_size": 0.5},
        {"dropout": 0.1},
        {"ema": 0.9},
        {"compile": True},
        {"winograd": True},
        {"tta": "flip"},
    ],
)
def test_what_a_frozen_backbone_makes_nothing_of_is_refused(given):
    recipe = recipes.overridden(recipes.RECIPES["finetune"], {**given, "freeze": True})
    flag = f"--{next(iter(given)).replace('_', '-')}"
    with pytest.raises(
        ValueError, match=f"--freeze trains the classifier alone.*{flag} does nothi"
    ):
        frozen.check(recipe, given)
    frozen.check(dataclasses.replace(recipe, freeze=False), given)


def test_parts_of_less_than_an_image_are_refused():
    recipe = dataclasses.replace(recipes.RECIPES["best"], batch_size=8, grad_accumulation=5)
    train.check_batch_size(recipe, 100, 1)
    with pytest.raises(ValueError, match=r"--grad-accumulation 5 divides the 4 images that a proc"):
        train.check_batch_size(recipe, 100, 2)


def test_a_frozen_backbone_is_for_one_process():
    recipe = dataclasses.replace(recipes.RECIPES["finetune"], freeze=True)
    with pytest.raises(ValueError, match="one process is enough; start it without torchrun"):
        train.check_batch_size(recipe, 1000, 2)


def test_memory_that_runs_out_names_the_parts_that_keep_the_batch():
    run = training_run.Run.__new__(training_run.Run)
    run.recipe = dataclasses.replace(recipes.RECIPES["finetune"], grad_accumulation=2)
    run.world = train.World(0, 1, torch.device("cpu"))
    assert "--batch-size 128 fits a step" in run.advice(64, 256)
    assert run.advice(64, 256).endswith("or the same batch with --grad-accumulation 8")
    assert run.advice(0, 256) == "not even one image fits"


def test_members_of_a_leave_out_ensemble_do_not_come_in_parts():
    recipe = dataclasses.replace(recipes.RECIPES["leave-out"], grad_accumulation=2)
    with pytest.raises(ValueError, match="entropies of a whole batch"):
        recipes.check(recipe)
