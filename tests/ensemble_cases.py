"""Folders of features such as run_networks.py leaves of the members of an ensemble."""

import hashlib

import numpy as np

from artifacts import records, store

CLASSES = ["cat", "dog", "bird", "frog"]
FOLDS = {1: ["cat"], 2: ["dog"], 3: ["bird"], 4: ["frog"]}
WIDTH = 8
CENTRES = 2 * np.random.default_rng(0).normal(size=(len(CLASSES), WIDTH))


def member(folder, number, left_out=None, folds=4, pairs=(), test=80, model_seed=0, names=CLASSES):
    """The features of one network: an ordinary one, or the member `number` of a leave-out ensemble
    that does not know the classes `left_out`.

    pairs: names of folders of perturbed images, of which every set is written."""
    folder.mkdir(parents=True)
    known = [place for place, name in enumerate(CLASSES) if name not in (left_out or [])]
    generator = np.random.default_rng(100 * model_seed + number)
    W = CENTRES[known] / 4 + generator.normal(size=(len(known), WIDTH)) / 10
    b = generator.normal(size=len(known)) / 10
    network = f"{model_seed}-{number}".encode()
    facts = {"checkpoint_sha256": hashlib.sha256(network).hexdigest()}
    if left_out is not None:
        facts["leave_out"] = {
            "fold": number,
            "folds": folds,
            "classes": CLASSES,
            "left_out": left_out,
        }
    store.write_head(folder / "head.csv", W, b, [names[place] for place in known], facts)
    sidecar = {**facts, "head_sha256": records.sha256(folder / "head.csv")}

    def write(path, labels, images, kept=None):
        """Features of images that all members share, seen with this member's own noise."""
        path.parent.mkdir(parents=True, exist_ok=True)
        features = np.maximum(images + generator.normal(size=images.shape) / 5, 0.01)
        if kept is not None:
            features = features[kept]
        store.write_features(path, features, labels, None, sidecar)

    def all_of(split, count):
        labels = np.arange(count) % len(CLASSES)
        shared = np.random.default_rng(count)
        return labels, CENTRES[labels] + shared.normal(size=(count, WIDTH))

    for split, count in (("train", 200), ("val", 40), ("test", test)):
        labels, images = all_of(split, count)
        kept = np.flatnonzero(np.isin(labels, known))
        own_labels = np.searchsorted(known, labels[kept])
        write(folder / f"ID_toy_{split}.csv", own_labels, images, kept)
        if left_out is not None and split != "train":
            write(folder / "all" / f"ID_toy_{split}.csv", labels, images)
            for pair in pairs:
                write(folder / "perturbed" / pair / f"ID_toy_{split}.csv", labels, images)
    for place, name in enumerate(("far", "near")):
        images = 1.5 * np.random.default_rng(50 + place).normal(size=(60, WIDTH))
        images += 0.5 * place * CENTRES[np.arange(60) % len(CLASSES)]
        labels = np.full(60, -1)
        write(folder / f"OOD_{name}_test.csv", labels, images)
        for pair in pairs if left_out is not None else ():
            write(folder / "perturbed" / pair / f"OOD_{name}_test.csv", labels, images)
    return folder


def deep(root, count=3, **more):
    """The folders of a deep ensemble: seeds of one recipe."""
    names = [root / f"net_best_toy_s{seed}" for seed in range(count)]
    return [member(folder, 1 + number, **more) for number, folder in enumerate(names)]


def leave_out(root, pairs=(), folds=FOLDS, **more):
    """The folders of a leave-out ensemble of four folds of one class."""
    return [
        member(
            root / f"net_final_toy_s0_fold{number}of{len(folds)}",
            number,
            left_out,
            len(folds),
            pairs,
            **more,
        )
        for number, left_out in folds.items()
    ]
