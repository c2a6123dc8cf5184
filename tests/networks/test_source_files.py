"""networks/source_files.py, and what the scripts do with a network from a person's own file."""

import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import saved
from torch import nn

import data
import main
import run_networks
import train
from artifacts import store
from networks import classifiers, loading, registry, source_files

# Most tests train or extract a small network.
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

IMPORTS = "import torch\nfrom torch import nn\n"
BODY = "nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)"
PLAIN = (
    f"{IMPORTS}\ndef build(num_classes):\n"
    f"    return nn.Sequential({BODY}, nn.Flatten(), nn.Linear(8, num_classes))\n"
)


def written(folder, text, name="net.py"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return f"{folder / name}:build"


def module(forward, layers, classifier=""):
    """A file with one class: `layers` are made in order, `forward` makes h from x and returns."""
    made = "\n".join(f"        self.{line}" for line in layers)
    lines = "\n".join(f"        {line}" for line in forward)
    return (
        f"{IMPORTS}{classifier}\nclass build(nn.Module):\n    def __init__(self, num_classes):\n   "
        "     super().__init__()\n"
        f"        self.body = nn.Sequential({BODY})\n{made}\n\n    def forward(self, x):\n        "
        f"h = self.body(x)\n{lines}\n"
    )


def trained(model, folder, *words):
    train.main(
        [
            "--dataset",
            "digits",
            "--held-out",
            *"3456789",
            "--image-size",
            "8",
            "--model",
            model,
            "--device",
            "cpu",
            "--no-amp",
            "--mode",
            "collapse",
            "--epochs",
            "1",
            "--output-dir",
            str(folder),
            "--suffix",
            "run",
            *words,
        ]
    )
    return folder / f"{registry.short_name(model)}_final_run.pth"


def extracted(checkpoint, *words):
    run_networks.main(
        [
            "--checkpoint",
            str(checkpoint),
            "--device",
            "cpu",
            "--output-dir",
            str(checkpoint.parent),
            "--ood",
            "uniform",
            *map(str, words),
        ]
    )
    return checkpoint.parent / checkpoint.stem


# ---- a checkpoint never chooses code -------------------------------------------------------------


@pytest.fixture
def tells(tmp_path):
    """A network file that leaves a trace when it is run, and a checkpoint of train.py's that "
    "names it."""
    model = written(
        tmp_path / "theirs",
        f"from pathlib import Path\nPath({str(tmp_path / 'trace')!r}).write_text('')\n{PLAIN}",
    )
    path = trained(model, tmp_path / "results")
    (tmp_path / "trace").unlink()
    return path, model, tmp_path / "trace"


def test_a_checkpoint_that_names_a_file_runs_it_only_where_the_person_does(tells):
    path, model, trace = tells
    with pytest.raises(
        ValueError, match="a checkpoint never chooses code to run; where you trust the file, add: "
    ) as caught:
        extracted(path)
    assert not trace.exists() and str(caught.value).endswith(f"--model {model}")
    # the remedy as it stands
    folder = extracted(path, *str(caught.value).split("add: ")[1].split())
    assert trace.exists() and (folder / "ID_digits_test.csv").exists()


def test_another_file_than_the_checkpoints_is_not_taken_for_it_and_a_moved_one_is(tells, tmp_path):
    path, model, trace = tells
    other = written(tmp_path / "mine", PLAIN, "other.py")
    with pytest.raises(
        ValueError, match=r"holds a .*net\.py:build, not a .*other\.py:build"
    ) as caught:
        loading.load(path, other)
    assert str(caught.value).endswith(f"--model {model}")
    with pytest.raises(ValueError, match=r"holds a .*net\.py:build, not a resnet18"):
        loading.load(path, "resnet18")
    assert not trace.exists()
    moved = shutil.move(model.removesuffix(":build"), tmp_path / "mine")
    assert loading.load(path, f"{moved}:build")[2]["weights_sha256"]


def test_a_foreign_file_that_names_code_does_not_even_suggest_it(tmp_path):
    model = written(tmp_path, PLAIN)
    path = saved(
        tmp_path, {"state_dict": registry.build(model, 3).state_dict(), "model": "evil.py:build"}
    )
    with (
        pytest.warns(UserWarning, match="its own model is ignored"),
        pytest.raises(ValueError, match=r"name it with --model$"),
    ):
        loading.load(path)


def test_main_repeats_a_persons_file_to_the_extraction_and_no_name_of_the_registry():
    assert "--model net.py:build" in " ".join(
        main.parse_args(["--model", "net.py:build"])[1]["extract"]
    )
    assert "--model" not in main.parse_args(["--model", "resnet18"])[1]["extract"]


# ---- files that people write ---------------------------------------------------------------------

DATACLASS = f"""from __future__ import annotations
from dataclasses import dataclass
{IMPORTS}

@dataclass
class Config:
    width: int = 8

def build(num_classes):
    body = nn.Sequential(nn.Conv2d(3, Config().width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Linear(8, num_classes))
"""
NEIGHBOUR = PLAIN.replace("def build", "from {} import width\n\ndef build").replace(
    "Linear(8", "Linear(width"
)
LAZY = PLAIN.replace("    return", "    from {} import width\n    return").replace(
    "Linear(8", "Linear(width"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [DATACLASS, NEIGHBOUR.format("blocks"), NEIGHBOUR.format("data"), LAZY.format("utils")],
    ids=["dataclass", "neighbour", "a neighbour called data", "a neighbour called utils, late"],
)
def test_a_file_trains_and_extracts(tmp_path, text):
    for name in ("blocks", "data", "utils"):
        written(tmp_path / "nets", "width = 8\n", f"{name}.py")
    model = written(tmp_path / "nets", text)
    ours, path = (
        {name: sys.modules[name] for name in ("data", "networks.registry", "artifacts.records")},
        list(sys.path),
    )
    folder = extracted(trained(model, tmp_path / "results"), "--model", model)
    assert store.read_features(folder / "ID_digits_test.csv").features.shape == (179, 8)
    assert (
        {name: sys.modules[name] for name in ours} == ours
        and sys.path == path
        and "blocks" not in sys.modules
    )


def test_two_files_each_import_their_own_neighbour(tmp_path):
    for name, width in (("a", 4), ("b", 6)):
        written(tmp_path / name, f"width = {width}\n", "blocks.py")
        written(
            tmp_path / name,
            f"{IMPORTS}from blocks import width\n\ndef build(c):\n    return nn.Linear(width, c)\n",
        )
    assert [
        registry.build(f"{tmp_path / name / 'net.py'}:build", 2).in_features for name in "aba"
    ] == [4, 6, 4]


@pytest.mark.parametrize("marked", [True, False])
def test_a_folder_beside_a_file_may_be_called_like_one_of_ours(tmp_path, marked):
    ours = {name: module for name, module in sys.modules.items() if name.startswith("images")}
    for name, width in (("a", 4), ("b", 6)):
        written(tmp_path / name / "images", f"width = {width}\n", "reading.py")
        if marked:
            written(tmp_path / name / "images", "", "__init__.py")
        written(
            tmp_path / name,
            f"{IMPORTS}from images.reading import width\n\n"
            "def build(c):\n    return nn.Linear(width, c)\n",
        )
    widths = [registry.build(f"{tmp_path / name / 'net.py'}:build", 2).in_features for name in "ab"]
    assert widths == [4, 6]
    now = {name: module for name, module in sys.modules.items() if name.startswith("images")}
    assert ours and now == ours, "ours are back as they were"


def test_the_digest_of_a_file_changes_with_what_it_imports_from_beside_it(tmp_path):
    model = written(tmp_path, NEIGHBOUR.format("blocks"))
    written(tmp_path, "width = 8\n", "blocks.py")
    first = source_files.sha256(model)
    written(tmp_path, "anything else\n", "unrelated.py")
    assert source_files.sha256(model) == first
    written(tmp_path, "width = 9\n", "blocks.py")
    second = source_files.sha256(model)
    written(tmp_path, NEIGHBOUR.format("blocks") + "\n# more\n")
    assert len({first, second, source_files.sha256(model)}) == 3


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import torch\n\nx = 1 / 0\n", 3, "ZeroDivisionError: division by zero"),
        ("def build(num_classes)\n    pass\n", 1, "SyntaxError: "),
        ("import no_such_package\n", 1, "ModuleNotFoundError: No module named 'no_such_package'"),
        (
            "def build(num_classes):\n    return undefined\n",
            2,
            "NameError: name 'undefined' is not defined",
        ),
        ("def build(num_classes):\n    raise ValueError('never')\n", 2, "ValueError: never"),
        ("def build(num_classes):\n    open('/no/such/file')\n", 2, "FileNotFoundError: "),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        (PLAIN.replace("    return", "    nn.Linear('a', 2)\n    return"), 5, "Error: "),
    ],
)
def test_an_error_in_the_file_is_one_line_with_its_place(tmp_path, text, line, said):
    model = written(tmp_path, text)
    with pytest.raises(ValueError) as caught:
        registry.build(model, 3)
    message = str(caught.value)
    assert (
        f"--model {model} failed at " in message
        and f"net.py, line {line}: " in message
        and said in message
    )
    assert message.isprintable() and caught.value.__cause__ is not None  # what --debug shows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def build():\n    pass\n", "the function must take the number of classes"),
        ("def build(num_classes):\n    return 5\n", "build returned a int; expected an nn.Module"),
        ("def other(num_classes):\n    pass\n", "defines no build"),
        ("build = 5\n", "defines no build"),
    ],
)
def test_a_function_that_is_none_is_named(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        registry.build(written(tmp_path, text), 3)


# ---- the classifier ------------------------------------------------------------------------------

FLAT = "h = h.flatten(1)"
KINDS = {
    "another name": (
        module([FLAT, "return self.readout(h)"], ["readout = nn.Linear(8, num_classes)"]),
        "readout",
    ),
    "no bias": (
        module([FLAT, "return self.fc(h)"], ["fc = nn.Linear(8, num_classes, bias=False)"]),
        "fc",
    ),
    "1x1, pooled before": (
        module(["return self.fc(h).flatten(1)"], ["fc = nn.Conv2d(8, num_classes, 1)"]),
        "fc",
    ),
    "1x1, no bias": (
        module(["return self.fc(h).flatten(1)"], ["fc = nn.Conv2d(8, num_classes, 1, bias=False)"]),
        "fc",
    ),
    "1x1, pooled after": (
        module(
            ["return self.fc(self.body[0](x)).mean((2, 3))"], ["fc = nn.Conv2d(8, num_classes, 1)"]
        ),
        "fc",
    ),
    "a head of 4 behind": (
        module(
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(8, num_classes)", "turned = nn.Linear(8, 4)"],
        ),
        "fc",
    ),
    "the file says which": (
        module(
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(8, num_classes)", "two = nn.Linear(8, num_classes)"],
            'classifier = "fc"\n',
        ),
        "fc",
    ),
    "the network says which": (
        module(
            [FLAT, "return self.fc(h)"],
            [
                "fc = nn.Linear(8, num_classes)",
                "two = nn.Linear(8, num_classes)",
                'classifier = "fc"',
            ],
        ),
        "fc",
    ),
    "a layer called classifier": (
        module(
            [FLAT, "return self.classifier(h)"],
            ["classifier = nn.Linear(8, num_classes)", "two = nn.Linear(8, num_classes)"],
            'classifier = "classifier"\n',
        ),
        "classifier",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_classifier_of_every_kind_is_trained_extracted_and_found_in_a_bare_state_dict(
    tmp_path, kind
):
    text, place = KINDS[kind]
    model = written(tmp_path, text)
    checkpoint = trained(model, tmp_path / "results", "--track-nc", "1")
    folder = extracted(checkpoint, "--model", model)
    network, layer, content = loading.load(checkpoint, model)
    assert layer is network.get_submodule(place) and content["classes"] == 3
    head = store.read_head(folder / "head.csv")
    W, b, names = head.W, head.b, head.class_names
    found = store.read_features(folder / "ID_digits_test.csv")
    preprocessing = data.Preprocessing(**content["preprocessing"])
    images = data.load_id(data.ID["digits"], "test", preprocessing, None, tuple("3456789"))
    with torch.inference_mode():
        logits = network(preprocessing.normalise(images.pixels)).numpy()
    assert names == list("012") and W.shape == (3, 8)
    assert np.abs(found.features @ W.T + b - logits).max() < 1e-4
    bare = loading.load(saved(tmp_path, network.state_dict()), model)
    assert (
        bare[1] is bare[0].get_submodule(place)
        and bare[2]["weights_sha256"] == content["weights_sha256"]
    )


@pytest.mark.parametrize(
    ("forward", "layers", "said"),
    [
        (
            [FLAT, "return self.fc(h), h"],
            ["fc = nn.Linear(8, num_classes)"],
            "the network returns a tuple; expected logits",
        ),
        (
            [FLAT, "return self.fc(h).softmax(1)"],
            ["fc = nn.Linear(8, num_classes)"],
            "nothing may stand behind the classifier",
        ),
        (
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(8, num_classes)", "two = nn.Linear(8, num_classes)"],
            r"two does not make the network\'s output, fc does; add this line to .*net.py: "
            r'classifier = "fc"',
        ),
        (
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(8, 5)"],
            "makes 5 outputs, and the data has 3 classes",
        ),
        (
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(9, num_classes)"],
            r"failed on images of 8 x 8 pixels at .*net.py, line 13: Runtime",
        ),
        (["return h.flatten(1)"], [""], "has no linear layer; the classifier must be"),
        (
            [FLAT, "return self.fc(h)"],
            ["fc = nn.Linear(8, num_classes)", 'classifier = "head"'],
            "says classifier = 'head', .* one of: fc",
        ),
    ],
    ids=["tuple", "softmax", "two", "five", "width", "none", "wrong word"],
)
def test_what_extraction_would_refuse_is_refused_before_the_first_epoch(
    tmp_path, forward, layers, said
):
    layers = layers if layers != [""] else ["nothing = None"]
    model = written(tmp_path, module(forward, layers))
    with pytest.raises(ValueError, match=said):
        trained(model, tmp_path / "results")
    assert not list((tmp_path / "results").glob("*.pth"))


def test_a_layer_that_the_rehearsal_names_is_the_one_to_name(tmp_path):
    text = module(
        [FLAT, "return self.fc(h)"],
        ["fc = nn.Linear(8, num_classes)", "two = nn.Linear(8, num_classes)"],
    )
    with pytest.raises(ValueError, match="add this line") as caught:
        trained(written(tmp_path, text), tmp_path / "results")
    model = written(tmp_path, text + str(caught.value).rpartition(": ")[2] + "\n")
    assert trained(model, tmp_path / "results").exists()


def test_images_that_do_not_pass_through_a_network_are_one_clear_line(tmp_path):
    model = written(
        tmp_path,
        f"{IMPORTS}\ndef build(c):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, "
        "c))\n",
    )
    path = saved(tmp_path, registry.build(model, 10).state_dict())
    with pytest.raises(ValueError, match="the network fails on images of 16 x 16 pixels"):
        extracted(path, "--model", model, "--dataset", "digits")


def test_a_1x1_convolution_and_the_mean_over_positions_commute():
    layer, inputs = (
        nn.Conv2d(5, 3, 1),
        torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    W, b = classifiers.head(layer)
    with torch.no_grad():
        assert (
            np.abs(
                layer(inputs).mean((2, 3)).numpy() - (classifiers.vectors(inputs).numpy() @ W.T + b)
            ).max()
            < 1e-6
        )


# ---- two checkpoints of one name -----------------------------------------------------------------


def test_two_checkpoints_of_one_name_are_refused_up_front_with_a_command_that_keeps_them_apart(
    tmp_path,
):
    for seed in (0, 1):
        torch.manual_seed(seed)
        (tmp_path / f"s{seed}").mkdir()
        torch.save(
            registry.build("resnet_cifar", 10).state_dict(), tmp_path / f"s{seed}" / "best.ckpt"
        )
    words = [
        "--checkpoint",
        *(str(tmp_path / name / "best.ckpt") for name in ("s0", "s1")),
        "--model",
        "resnet_cifar",
        "--dataset",
        "digits",
        "--ood",
        "uniform",
        "--output-dir",
        str(tmp_path / "results"),
    ]
    with pytest.raises(ValueError, match=r"would all be written into .*results/best") as caught:
        run_networks.main(words)
    assert not (tmp_path / "results").exists()
    commands = str(caught.value).split("with: ")[1].split(" && ")
    assert len(commands) == 2
    for command in commands:
        run_networks.main(shlex.split(command)[2:])
    for folder in ("s0", "s1"):
        assert (tmp_path / "results" / folder / "best" / "head.csv").exists()
