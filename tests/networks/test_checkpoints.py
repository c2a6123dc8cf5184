"""checkpoints.py: no code from a file, the forms that people have, what a file may say, writing."""

import argparse
import builtins
import collections
import copy
import os
import pathlib
import random
import time
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
from helpers import ours, same, saved, tiny
from torch import nn

from networks import checkpoints, loading, messages, registry

pytestmark = pytest.mark.usefixtures("one_thread")


def read_quietly(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoints.read(path)


def refused(path, *words):
    """The message of the ValueError, which is one line without control characters and with all of "
    "`words`."""
    with pytest.raises(ValueError) as caught:
        read_quietly(path)
    text = str(caught.value)
    assert text.isprintable() and "weights_only=False" not in text
    assert all(word in text for word in (str(path), *words)), text
    return text


# ---- forms that people have ----------------------------------------------------------------------


def prefixed(state, prefix):
    return collections.OrderedDict((prefix + name, value) for name, value in state.items())


def without_counters(state):
    return {name: value for name, value in state.items() if "num_batches" not in name}


def others(state, fill=7.0):
    """Weights that must not be taken for the network's."""
    return {
        name: torch.full_like(value, fill) if value.is_floating_point() else value
        for name, value in state.items()
    }


FORMS = {
    "plain": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "network": lambda state: {"network": state},
    "a name of their own": lambda state: {"my_weights": state, "epoch": 3},
    "numbers among the weights": lambda state: {**state, "epoch": 3},
    "Lightning": lambda state: {
        "state_dict": prefixed(state, "model."),
        "epoch": 3,
        "global_step": 100,
    },
    "Lightning, with a loss's weight": lambda state: {
        "state_dict": {**prefixed(state, "net."), "loss.weight": torch.ones(4)}
    },
    "a deep prefix": lambda state: {"net": prefixed(state, "module.encoder.model.")},
    "an average beside": lambda state: {"state_dict": state, "state_dict_ema": others(state)},
    "an average among them": lambda state: {
        "state_dict": {**prefixed(others(state), "ema_model."), **prefixed(state, "model.")}
    },
    "an average behind": lambda state: {"state_dict": {**state, **prefixed(others(state), "ema.")}},
    "an average's steps": lambda state: {
        "n_averaged": torch.tensor(5),
        **prefixed(state, "module."),
    },
    "a teacher": lambda state: {
        **prefixed(others(state), "teacher."),
        **prefixed(state, "student."),
    },
    "parameters": lambda state: {
        name: nn.Parameter(value, requires_grad=False) for name, value in state.items()
    },
    "argparse.Namespace": lambda state: {
        "state_dict": state,
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("a/b")),
    },
    "SimpleNamespace": lambda state: {"state_dict": state, "args": types.SimpleNamespace(lr=0.1)},
    "NumPy": lambda state: {
        "state_dict": state,
        "best_acc": np.float64(97.5),
        "epoch": np.int64(3),
        "name": np.str_("x"),
        "done": np.bool_(True),
        "curve": np.arange(5.0),
        "single": np.float32(0.5),
    },
    "collections": lambda state: {
        "state_dict": state,
        "a": collections.defaultdict(list, b=[1]),
        "c": collections.deque([1], 3),
        "d": collections.Counter("aab"),
        "e": frozenset("ab"),
        "f": {1, 2},
    },
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("zipped", [True, False], ids=["", "before torch 1.6"])
def test_every_form_gives_the_same_network_as_the_plain_state_dict(tmp_path, form, zipped):
    state = tiny().state_dict()
    path = tmp_path / "network.pth"
    torch.save(FORMS[form](state), path, _use_new_zipfile_serialization=zipped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, classifier, checkpoint = loading.load(path, "resnet_cifar")
    assert same(network.state_dict(), state) and classifier is network.fc
    assert checkpoint["classes"] == 4 and checkpoint[
        "weights_sha256"
    ] == checkpoints.weights_sha256("resnet_cifar", {}, state)


def test_numpy_scalars_come_back_as_the_numbers_that_they_are(tmp_path):
    stored = {
        "a": np.float64(97.5),
        "b": np.int16(-3),
        "c": np.bool_(True),
        "d": np.str_("x"),
        "e": np.dtype(">f4").type(0.5),
        "best": torch.tensor(0.75),
    }
    found = checkpoints.read(saved(tmp_path, {"net": tiny().state_dict(), **stored}))
    assert {name: found[name] for name in stored} == {
        "a": 97.5,
        "b": -3,
        "c": True,
        "d": "x",
        "e": 0.5,
        "best": 0.75,
    }
    assert all(type(found[name]) in (int, float, bool, str) for name in stored)


@pytest.mark.parametrize("value", [np.complex64(1 + 2j), np.datetime64("2026-11-24")])
def test_a_numpy_scalar_of_another_kind_does_not_make_the_file_a_damaged_one(tmp_path, value):
    state = registry.build("resnet_cifar", 3).state_dict()
    torch.save({"state_dict": state, "odd": value}, tmp_path / "x.pth")
    assert set(checkpoints.read(tmp_path / "x.pth")["model_state_dict"]) == set(state)


@pytest.mark.parametrize("facts", [{"mode": 5, "epoch": "three"}, {"mode": "max", "epoch": -1}])
def test_a_recipe_or_an_epoch_of_another_project_is_not_written_on(tmp_path, facts):
    state = registry.build("resnet_cifar", 3).state_dict()
    torch.save({"state_dict": state, **facts}, tmp_path / "x.pth")
    assert not {"mode", "epoch"} & set(checkpoints.read(tmp_path / "x.pth"))


def test_a_file_from_before_torch_0_4_has_no_counters(tmp_path):
    wanted = tiny()
    network, _, _ = loading.load(
        saved(tmp_path, without_counters(wanted.state_dict())), "resnet_cifar"
    )
    assert same(without_counters(network.state_dict()), without_counters(wanted.state_dict()))


def test_what_is_left_out_is_said(tmp_path):
    state = tiny().state_dict()
    with pytest.warns(
        UserWarning, match="left out, since resnet_cifar has no such parameters: ema.conv1.weight"
    ):
        loading.load(saved(tmp_path, {**state, **prefixed(state, "ema.")}), "resnet_cifar")
    with pytest.warns(
        UserWarning,
        match="the weights are those of state_dict; state_dict_ema beside it is left out",
    ):
        loading.load(
            saved(tmp_path, {"state_dict": state, "state_dict_ema": state}), "resnet_cifar"
        )


def test_a_matrix_behind_the_head_is_named_and_the_head_is_not(tmp_path):
    with pytest.raises(
        ValueError, match=r"does not fit resnet_cifar: unexpected: prototypes\.weight$"
    ):
        loading.load(
            saved(
                tmp_path,
                {"state_dict": {**tiny().state_dict(), "prototypes.weight": torch.zeros(7, 64)}},
            ),
            "resnet_cifar",
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda state: {"one": state, "two": state},
            "several networks: one, two; save the one that is meant, such as: torch.save(",
        ),
        (
            lambda state: {**prefixed(state, "a."), **prefixed(state, "b.")},
            "the network several times, under a., b.",
        ),
    ],
)
def test_where_it_cannot_be_told_which_network_is_meant_it_is_not_guessed(tmp_path, content, said):
    with pytest.raises(ValueError) as caught:
        loading.load(saved(tmp_path, content(tiny().state_dict())), "resnet_cifar")
    assert said in str(caught.value)


# ---- whose file it is ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "ResNet14"),
        ("model", 5),
        ("dataset", "optdigits"),
        ("preprocessing", "standard"),
        ("preprocessing", {}),
        ("val_size", 0.1),
        ("held_out", None),
        ("class_names", 5),
    ],
)
def test_our_words_in_anothers_file_are_left_out_and_that_is_said(tmp_path, name, value):
    path = saved(tmp_path, {"state_dict": tiny().state_dict(), name: value, "epoch": 3})
    with pytest.warns(
        UserWarning,
        match=f"was not written by train.py: its own {name} is ignored; --model and --dataset say",
    ):
        _, _, checkpoint = loading.load(path, "resnet_cifar")
    assert checkpoint["model"] == "resnet_cifar" and checkpoint["epoch"] == 3
    assert name == "model" or name not in checkpoint


def test_a_file_of_ours_is_believed_without_a_word(tmp_path, recwarn):
    _, _, checkpoint = loading.load(
        saved(tmp_path, ours(tiny(), trained_state_dict=tiny().state_dict()))
    )
    assert (
        checkpoint["dataset"] == "digits"
        and checkpoint["class_names"] == list("0123")
        and checkpoint["model_file_sha256"] is None
    )
    assert not recwarn.list


def test_the_first_versions_files_are_still_ours(tmp_path):
    """What the first commit's train.py wrote: no images, no source, no warm-up."""
    old = ours(
        tiny(),
        epoch=3,
        mode="sgd",
        train_acc=0.5,
        val_acc=None,
        test_acc=None,
        arguments={},
        command="x",
        git_commit=None,
        scheduler={"milestones": (), "gamma": 0.1},
        history=[{"epoch": 1}],
        optimizer_state_dict={},
        seconds=1.0,
    )
    assert loading.load(saved(tmp_path, old))[2]["class_names"] == list("0123")


NOT_OURS_TO_SAY = {
    "model": [5, None, "", ["resnet_cifar"], {}, torch.zeros(3)],
    "model_args": [
        5,
        None,
        [],
        {"dropout": 5},
        {"dropout": "x"},
        {"dropout": None},
        {"width": 10**9},
        {"num_classes": 3},
        {5: 1},
    ],
    "dataset": [5, None, [], ""],
    "class_names": [5, None, "0123", [], ["a"], [1, 2, 3, 4], {"a": 1}, [None] * 4],
    "held_out": [None, 5, "8", [8], {"a": 1}],
    "val_size": [None, -1, 0.1, "96", True, [], 10**30],
    "leave_out": [
        None,
        5,
        {},
        {"fold": 1, "folds": 2, "classes": ["0", "1", "2", "3"]},
        {"fold": 3, "folds": 2, "classes": ["0", "1", "2", "3"], "left_out": ["3"]},
        {"fold": "1", "folds": 2, "classes": ["0", "1", "2", "3"], "left_out": ["3"]},
        {"fold": 1, "folds": 2, "classes": ["0", "1", "2", "3"], "left_out": ["4"]},
    ],
    "preprocessing": [None, 5, {}, [], "standard", {"size": 16}],
    "recipe": [None, 5, []],
    "versions": [None, "2.0"],
    "arguments": [5, []],
    "epoch": [-1, None, "x", 0.5],
    "history": [5, {}, [5]],
    "best": [5, {}, {"val_acc": "x", "epoch": 1}],
    "partial": [5],
    "test_acc": ["x", -1, 101, float("nan"), [], True],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in NOT_OURS_TO_SAY.items() for value in values],
)
def test_an_entry_of_ours_of_a_wrong_shape_is_refused_by_its_name(tmp_path, name, value):
    refused(saved(tmp_path, ours(tiny(), **{name: value})), f"its entry {name} is ", "expected ")


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 10**6},
        {"size": -1},
        {"size": 16.5},
        {"size": "16"},
        {"size": None},
        {"mean": 0.5},
        {"mean": (0.5,)},
        {"mean": (float("nan"),) * 3},
        {"std": (0.0,) * 3},
        {"std": (-1,) * 3},
        {"std": "abc"},
        {"std": (1e30,) * 3},
        {"interpolation": "wavelets"},
        {"interpolation": None},
        {"interpolation": 3},
        {"interpolation": []},
        {"colour": 1},
    ],
)
def test_a_preprocessing_that_no_image_could_go_through_is_refused(tmp_path, change):
    content = ours(tiny())
    content["preprocessing"] = {**content["preprocessing"], **change}
    refused(
        saved(tmp_path, content),
        "its entry preprocessing is ",
        "size (1 to 4096)",
        "nearest-exact, bilinear, bicubic",
    )


def test_class_names_must_be_as_many_as_the_outputs(tmp_path):
    with pytest.raises(ValueError, match=r"other shapes: fc\.weight \(4, 64\) for \(3, 64\)"):
        loading.load(saved(tmp_path, ours(tiny(), class_names=["a", "b", "c"])))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            torch.zeros(1).expand(10**9, 64),
            "has the shape (1000000000, 64) and the file holds fewer values than that",
        ),
        (torch.zeros(4, 64, dtype=torch.complex64), "holds complex numbers"),
        (torch.zeros(4, 64).to_sparse(), "is not an ordinary tensor"),
        (torch.zeros(4, 64, device="meta"), "has a shape but no values"),
    ],
)
def test_weights_that_are_none_are_refused_before_anything_is_allocated(tmp_path, value, said):
    for content in (ours(tiny()), {"state_dict": tiny().state_dict()}, tiny().state_dict()):
        state = content.get("model_state_dict", content.get("state_dict", content))
        state["fc.weight"] = value
        refused(saved(tmp_path, content), "fc.weight", said)


@pytest.mark.slow
def test_seeded_changes_of_a_good_file_end_in_a_network_or_in_one_line(tmp_path):
    draw, good = (
        random.Random(0),
        ours(tiny(), history=[], best={"val_acc": 0.5, "epoch": 1}, epoch=1),
    )
    odd = [
        None,
        5,
        -1,
        10**18,
        0.5,
        float("nan"),
        True,
        "",
        "\x1b[31m",
        "a:b",
        "/etc/passwd:x",
        [],
        {},
        (),
        ["a", "b"],
        {1: 2},
        b"x",
        torch.zeros(3),
        torch.zeros(()),
        torch.zeros(1).expand(10**9),
        np.float32(3),
        np.zeros(3),
        pathlib.Path("x"),
        1j,
        {"a"},
        argparse.Namespace(a=1),
        collections.defaultdict(list),
        torch.float32,
        [[[]]],
        "x" * 10_000,
    ]
    outcomes = collections.Counter()
    for _ in range(120):
        content = copy.copy(good)
        for _ in range(draw.randint(1, 2)):
            name = draw.choice([*good, "state_dict", "net", "\x1b", 3])
            if draw.random() < 0.15:
                content.pop(name, None)
            elif (
                isinstance(good.get(name), dict)
                and name != "model_state_dict"
                and good[name]
                and draw.random() < 0.5
            ):
                content[name] = {**good[name], draw.choice(list(good[name])): draw.choice(odd)}
            else:
                content[name] = draw.choice(odd)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loading.load(saved(tmp_path, content), draw.choice([None, "resnet_cifar"]))
            outcomes["loaded"] += 1
        except ValueError as error:
            assert str(error).isprintable() and len(str(error)) < 900
            outcomes["refused"] += 1
    assert min(outcomes["loaded"], outcomes["refused"]) > 10


# ---- code ----------------------------------------------------------------------------------------


class Settings:
    """A class of somebody's own, beside the weights."""


class Danger:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (
            lambda folder: {"state_dict": tiny().state_dict(), "args": Settings()},
            "tests.test_checkpoints.Settings",
        ),
        (lambda folder: {"state_dict": tiny().state_dict(), "x": Danger(folder)}, "posix.mkdir"),
        (lambda folder: {"state_dict": tiny().state_dict(), "x": eval}, "eval"),
        (
            lambda folder: {"state_dict": tiny().state_dict(), "x": collections.defaultdict(print)},
            "print",
        ),
        (lambda folder: tiny(), "resnet.ResNet_CIFAR"),
        (lambda folder: {"model": tiny()}, "resnet.ResNet_CIFAR"),
    ],
    ids=["settings", "mkdir", "eval", "print", "network", "model"],
)
def test_code_is_refused_in_one_whole_line_that_names_it_and_says_how_to_save_the_weights(
    tmp_path, content, name
):
    text = refused(
        saved(tmp_path, content(tmp_path / "made")),
        "it holds ",
        f"{name.rpartition('.')[2]}, which is code",
        "code from a file is not run",
        'torch.save(model.state_dict(), "weights.pth")',
    )
    assert (
        text.endswith('torch.save(model.state_dict(), "weights.pth")')
        and not (tmp_path / "made").exists()
    )


def test_the_stand_ins_import_nothing_and_call_nothing_of_the_file(tmp_path):
    """A Namespace with a setter, a default factory, a path: none of their own classes is made."""
    content = {
        "state_dict": tiny().state_dict(),
        "args": argparse.Namespace(a=argparse.Namespace()),
        "p": pathlib.Path("/a/b"),
    }
    found = checkpoints.read(saved(tmp_path, content))
    assert found["p"] == "/a/b" and "args" not in found


def test_what_others_allow_to_be_loaded_is_not_allowed_here_and_stays_as_it_was(tmp_path):
    path = saved(
        tmp_path, {"state_dict": tiny().state_dict(), "args": Settings(), "error": OSError}
    )
    with torch.serialization.safe_globals([Settings]):
        before = set(torch.serialization.get_safe_globals())
        refused(path, "Settings, which is code")
        assert set(torch.serialization.get_safe_globals()) == before


def test_torchscript_is_refused_with_the_line_that_saves_its_weights(tmp_path):
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(str(path))
        torch.save(torch.jit.load(str(path)).state_dict(), tmp_path / "weights.pth")  # the remedy
    refused(
        path, "TorchScript", f'torch.save(torch.jit.load("{path}").state_dict(), "weights.pth")'
    )
    assert set(checkpoints.read(tmp_path / "weights.pth")["model_state_dict"]) == {"weight", "bias"}


def test_another_pickle_protocol_is_refused_with_what_can_be_read(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "four.pth", pickle_protocol=4)
    refused(
        tmp_path / "four.pth", "was not written by torch.save in its default form", messages.SAVE
    )


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(100_000)})
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in archive.namelist():
            bomb.writestr(name, archive.read(name))
    refused(tmp_path / "bomb.pth", "compressed records")


def test_a_small_file_whose_words_would_fill_the_memory_is_refused_in_one_line(tmp_path):
    names = ["lol"] * 10
    for _ in range(8):  # a billion words, in a file of a few hundred bytes
        names = [names] * 10
    content = {name: {} for name in checkpoints.SIGNATURE}
    content |= {"model": "resnet_cifar", "dataset": "digits", "class_names": names}
    content["model_state_dict"] = registry.build("resnet_cifar", 3).state_dict()
    torch.save(content, tmp_path / "x.pth")
    start = time.perf_counter()
    assert len(refused(tmp_path / "x.pth", "its entry class_names is [[")) < 600
    assert time.perf_counter() - start < 10


def test_control_characters_of_a_file_are_never_printed(tmp_path):
    path = saved(tmp_path, {"\x1b[2Jconv": torch.zeros(2, 2), "\x1b[31m\r\nx": torch.zeros(3)})
    with pytest.raises(ValueError) as caught:
        loading.load(path, "resnet_cifar")
    assert str(caught.value).isprintable() and "?[2Jconv" in str(caught.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def deny(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    path = saved(tmp_path, tiny().state_dict())
    monkeypatch.setattr(builtins, "open", deny)
    with pytest.raises(PermissionError, match=r"network\.pth"):
        checkpoints.read(path)


# ---- the digest of weights -----------------------------------------------------------------------


def test_the_digest_knows_weights_names_and_arguments_and_nothing_else():
    state, digest = tiny().state_dict(), checkpoints.weights_sha256
    wanted = digest("resnet_cifar", {"dropout": 0.0}, state)
    assert (
        wanted
        == digest("resnet_cifar", {}, dict(reversed(state.items())))
        == digest("resnet_cifar", None, copy.deepcopy(state))
    )
    assert digest("a/b/net.py:build", {}, state) == digest("net.py:build", {}, state)
    changed = copy.deepcopy(state)
    changed["fc.bias"][0] += 1e-6
    renamed = {name.replace("fc", "head"): value for name, value in state.items()}
    reshaped = {**state, "fc.weight": state["fc.weight"].reshape(64, 4)}
    half = {**state, "fc.bias": state["fc.bias"].bfloat16()}
    other = [digest("resnet_cifar", {}, one) for one in (changed, renamed, reshaped, half)]
    other += [
        digest("resnet18", {}, state),
        digest("resnet_cifar", {"dropout": 0.5}, state),
        digest("net.py:other", {}, state),
    ]
    assert len({wanted, *other}) == 8


def test_the_digest_is_the_same_on_every_machine():
    state = {
        "b": torch.tensor([1.0, -2.5]),
        "a": torch.tensor(3),
        "c": torch.zeros(0, 2, dtype=torch.bool),
    }
    assert checkpoints.weights_sha256("net", {}, state) == DIGEST


DIGEST = "ab51e0393f5447f96af9b2c2791c61998184a7d5627cd60d9116de895a39b786"


# ---- writing -------------------------------------------------------------------------------------


def test_a_disk_that_is_full_is_one_clear_error_and_leaves_the_old_file(tmp_path):
    resource = pytest.importorskip("resource")  # a limit on files' sizes fails as a full disk does
    path = saved(tmp_path, tiny().state_dict())
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{path} could not be written .*make room") as caught:
            checkpoints.write(path, {"net": tiny(seed=1).state_dict()})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).isprintable()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
