"""AdaSCALE: a slow restatement on files of changed images, and which images are changed how."""

import numpy as np
import pytest
import torch
from helpers import logits_of, read_csv, shell
from scipy.special import logsumexp

import ood_methods
from artifacts import records, store
from extraction import perturbation

NAMES = ["AdaSCALE-A", "AdaSCALE-L"]


@pytest.fixture
def with_changed(folder):
    """A run whose validation, test and OOD images were extracted a second time, changed."""
    rng = np.random.default_rng(1)
    for stem in ("ID_toy_val", "ID_toy_test", "OOD_far_noise_test", "OOD_near_test"):
        found = store.read_features(folder / f"{stem}.csv")
        sidecar = records.read_sidecar(folder / f"{stem}.csv")
        changed = found.features + rng.normal(0, 0.3, found.features.shape).astype(np.float32)
        path = folder / f"ADASCALE_{stem}.csv"
        store.write_features(path, changed, found.labels, found.paths, sidecar)
    return folder


def moves(rows, changed):
    found = []
    for h, other in zip(rows, changed, strict=True):
        order = sorted(range(len(h)), key=lambda place: -h[place])
        first = order[: max(1, int(len(h) * 0.05))]
        second = order[: max(1, int(len(h) * 0.01))]
        kept = sum(max(other[place], 0) for place in first)
        found.append(kept + 10 * sum(abs(h[place] - other[place]) for place in second))
    return np.array(found)


def slow(folder, stem):
    """The two scores, image by image."""
    usual = moves(*(logits_of(folder, f"{kind}ID_toy_val")[0] for kind in ("", "ADASCALE_")))
    rows, logits = logits_of(folder, stem)
    b = read_csv(folder / "head.csv")["bias"].to_numpy()
    of_images = moves(rows, logits_of(folder, f"ADASCALE_{stem}")[0])
    activations, scaled = [], []
    for h, outputs, move in zip(rows, logits, of_images, strict=True):
        percentile = 75 + 10 * (1 - np.mean(usual <= move))
        kept = len(h) - round(len(h) * percentile / 100)
        positive = np.sort(np.maximum(h, 0))[::-1]
        scale = positive.sum() / positive[:kept].sum()
        activations.append(logsumexp((outputs - b) * np.exp(scale) + b))
        scaled.append(logsumexp(outputs * scale**2))
    return activations, scaled


def run(folder, *words):
    return shell(ood_methods.main, "--checkpoint", folder, *words)


def test_agrees_with_a_slow_restatement(with_changed):
    ended = run(with_changed, "--methods", "SCALE", *NAMES)
    assert ended.code == 0, ended.err
    for stem in ("ID_toy", "OOD_near", "OOD_far_noise"):
        table = read_csv(with_changed / f"scores_{stem}.csv")
        expected = slow(with_changed, f"{stem}_test")
        for name, values in zip(NAMES, expected, strict=True):
            np.testing.assert_allclose(table[name], values, rtol=1e-4)
        assert table["AdaSCALE-A_p"].between(0, 1).all()


def test_it_is_among_all_methods_where_its_images_are(with_changed):
    (with_changed / "ADASCALE_OOD_near_test.csv").unlink()
    ended = run(with_changed, "--methods", "MSP", *NAMES)
    assert ended.code == 0, ended.err
    notes = read_csv(with_changed / "ood_metrics.csv").set_index(["ood", "method"])["note"]
    assert "no changed images of near; make them with:" in notes["near", "AdaSCALE-A"]
    (with_changed / "ADASCALE_ID_toy_val.csv").unlink()
    ended = run(with_changed, "--methods", *NAMES)
    assert ended.code and "of ID validation images among them" in ended.err
    assert "--adascale" in ended.err or "the program that wrote these features" in ended.err


def test_the_values_that_matter_least_move_up_the_gradient():
    """A linear network, whose gradient is its weights."""
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.normal(size=(2, 3 * 4 * 5)).astype(np.float32))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(60, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(weights)
    images = torch.from_numpy(rng.normal(size=(4, 3, 4, 5)).astype(np.float32))
    changed = perturbation.change_least(network, images, perturbation.ADASCALE_STEP.epsilon)
    for image, other in zip(images, changed, strict=True):
        gradient = weights[int(network(image[None]).argmax())].numpy()
        least = np.argsort(np.abs(gradient))[:3]  # 5% of 60
        expected = image.flatten().numpy().copy()
        expected[least] += 0.5 * np.sign(gradient[least])
        np.testing.assert_allclose(other.flatten().numpy(), expected, rtol=1e-6)
