"""Extract penultimate-layer features of ID and OOD images, and the classifier's last layer, as CSV.

    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures cifar10
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood mine=path/to/photographs
    python run_networks.py --checkpoint old.pth --model resnet_cifar --dataset cifar100 --ood svhn   # trained elsewhere
    python run_networks.py --fetch --dataset cifar100 --ood svhn textures     # only download, where there is a network
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn --odin-epsilon 0.0014

Writes into results/<stem>/: head.csv, ID_<dataset>_train.csv (the images that the network was trained on, held-out classes left
out), ID_<dataset>_val.csv (the validation images, where there are any), ID_<dataset>_test.csv, OOD_<name>_test.csv, each with a
.json that says how it was made. A file that is there already and would come out the same is kept; --force makes all anew. Every
image goes through the checkpoint's own preprocessing, in eval mode, in data-set order, without augmentation. --odin-epsilon
adds ODIN_ID_<dataset>_test.csv and ODIN_OOD_<name>_test.csv, the features of perturbed test images, for the score ODIN.
"""
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch

import cli
import data
import leave_out
import networks
import utils


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "model", "device", "batch-size", "data-dir", "output-dir",
                  batch_size={"default": 500, "type": cli.positive})
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the feature files")
    parser.add_argument("--amp", action="store_true", help="bfloat16: 3 times as fast on a CPU, features off by about 2e-3")
    parser.add_argument("--odin-epsilon", type=float, metavar="E", help="extract the test sets a second time with each image moved "
                        "by E (pixels in [0, 1]) towards its predicted class, for ODIN; the authors' 0.0014 suits CIFAR")
    parser.add_argument("--temperature", type=float, default=1000.0, help="of ODIN's softmax; only with --odin-epsilon")
    parser.add_argument("--fetch", action="store_true", help="only see that all data is at hand, downloading what is not")
    parser.add_argument("--force", action="store_true", help="extract again what is there already")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if not args.fetch and not args.checkpoint:
        parser.error("--checkpoint is needed, such as results/resnet18_best_cifar100_s0.pth; train one with: python train.py")
    if args.fetch and not args.dataset:
        parser.error("--fetch needs --dataset")
    if args.odin_epsilon is None:
        args.temperature = None  # it then says nothing about the files
    elif args.odin_epsilon < 0 or not args.temperature > 0:
        parser.error("--odin-epsilon must be 0 or more, and --temperature above 0")
    if args.ood is None and args.dataset:
        args.ood = default_ood(args.dataset)
    return args


def default_ood(dataset):
    """The OOD sets that an ID set is tested against when nobody says."""
    return list(data.ID[name].ood) if (name := utils.split_name(dataset)[0]) in data.ID else []


def main(argv=None):
    args = parse_args(argv)
    if args.fetch:
        return fetch(args)
    network, classifier, checkpoint = networks.load(args.checkpoint, args.model)
    given = given_by(checkpoint, args)
    args.ood = default_ood(given["dataset"]) if args.ood is None else args.ood
    data.check_ood(args.ood, given["dataset"], given["held_out"])
    device = cli.device(args.device)
    folder = utils.writable_folder(Path(args.output_dir) / Path(args.checkpoint).stem)
    images = load_images(args, given, checkpoint)
    network = network.to(device, memory_format=torch.channels_last)
    origin = {"checkpoint": Path(args.checkpoint).name, "checkpoint_sha256": utils.sha256(args.checkpoint),
              "preprocessing": given["preprocessing"].as_dict(), "class_names": given["class_names"],
              "precision": "bfloat16" if args.amp else "float32"}
    head = write_head(folder, classifier, given, args, origin)
    print(f"{args.checkpoint}: {checkpoint['model']}, {classifier.in_features} features, {classifier.out_features} classes "
          f"-> {folder}")
    files = [head]
    for stem, found in images.items():
        files.append(folder / f"{stem}.{args.format}")
        odin = (args.odin_epsilon, args.temperature) if stem.startswith("ODIN") else (None, None)
        facts = utils.plain({**origin, "head_sha256": utils.sha256(head), "split": stem.rsplit("_", 1)[1], "source": found.source,
                             "dataset": stem.removeprefix("ODIN_").split("_", 1)[1].rsplit("_", 1)[0],
                             "odin_epsilon": odin[0], "temperature": odin[1]})
        if not args.force and up_to_date(files[-1], facts, len(found)):
            print(f"  {files[-1].name}: {len(found):,} images, kept as it is")
            continue
        start = time.perf_counter()
        move = partial(leave_out.perturb, network, epsilon=odin[0], temperature=odin[1],
                       std=given["preprocessing"].std) if odin[1] else None
        features = extract(network, classifier, found, given["preprocessing"], device, args.batch_size, args.amp, stem, move)
        utils.write_features(files[-1], features, found.labels.numpy(), found.paths, {
            **utils.provenance(cli.material(args)), **facts, "ood_class_names": found.class_names,
            "seconds": round(time.perf_counter() - start, 3)})
        print(f"  {files[-1].name}: {len(found):,} images, {time.perf_counter() - start:.1f} s")
    utils.write_record(folder / "run_networks.json", cli.material(args), [args.checkpoint], files)


def fetch(args):
    """See that every data set is at hand, so that a compute node without a network needs none."""
    name, dataset = data.id_set(args.dataset, args.data_dir)
    data.check_ood(args.ood, name, held_out=("any",))
    preprocessing = data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    for split in ("train", "test"):
        print(f"{name} ({split}): {len(data.load_id(dataset, split, preprocessing, args.data_dir)):,} images at hand")
    for text in args.ood:
        if utils.split_name(text)[0] != "held_out":
            print(f"{text}: {len(data.load_ood(text, dataset, preprocessing, args.data_dir)):,} images at hand")


def given_by(checkpoint, args):
    """What the features depend on, from the checkpoint; from --dataset where the file was written elsewhere."""
    own = checkpoint.get("dataset")
    if own is None and args.dataset is None:
        raise ValueError(f"{args.checkpoint} does not say which data it was trained on; name it with --dataset")
    if own and args.dataset and utils.split_name(own)[0] != utils.split_name(args.dataset)[0]:
        raise ValueError(f"{args.checkpoint} was trained on {own}, not on {args.dataset}; to see {args.dataset} as unknown images, "
                         f"give it as --ood {args.dataset}")
    name, dataset = data.id_set(args.dataset or own, args.data_dir)
    own_preprocessing = checkpoint.get("preprocessing")
    preprocessing = (data.Preprocessing(**own_preprocessing) if own_preprocessing
                     else data.Preprocessing(dataset.size, dataset.mean, dataset.std))
    return {"dataset": name, "set": dataset, "preprocessing": preprocessing, "held_out": checkpoint.get("held_out", []),
            "class_names": checkpoint.get("class_names"), "val_size": checkpoint.get("val_size", 0)}


def load_images(args, given, checkpoint):
    """{file stem: images} of all that is to be extracted: what is missing or unreadable shows now, before the long work."""
    arguments = (given["set"], given["preprocessing"], args.data_dir, given["held_out"])
    sets = {}
    for split in ("train", "test"):
        images = data.load_id(given["set"], split, *arguments[1:])
        if given["class_names"] is None:
            given["class_names"] = images.class_names
        if len(images.class_names) != len(given["class_names"]) or int(images.labels.max()) >= classes_of(checkpoint):
            raise ValueError(f"{args.checkpoint} tells {classes_of(checkpoint)} classes apart and {given['dataset']} has "
                             f"{len(images.class_names)}: it was trained on other data")
        if split == "train":
            rows, val_rows = (rows.sort().values for rows in data.split_validation(len(images), given["val_size"]))
            if len(val_rows):
                sets[f"ID_{given['dataset']}_val"] = images.take(val_rows)
            images = images.take(rows)
        sets[f"ID_{given['dataset']}_{split}"] = images
    for text in args.ood:
        sets[f"OOD_{utils.split_name(text)[0]}_test"] = data.load_ood(text, *arguments)
    if args.odin_epsilon is not None:
        sets |= {f"ODIN_{stem}": images for stem, images in sets.items() if stem.endswith("_test")}
    return sets


def classes_of(checkpoint):
    return networks.classes_of(checkpoint["model_state_dict"], "checkpoint")


def write_head(folder, classifier, given, args, origin):
    """head.csv; kept as it is where it would come out the same, so that the features that name it stay valid."""
    path = folder / "head.csv"
    W = classifier.weight.detach().float().cpu().numpy()
    b = np.zeros(len(W), np.float32) if classifier.bias is None else classifier.bias.detach().float().cpu().numpy()
    if len(W) != len(given["class_names"]):
        raise ValueError(f"{args.checkpoint} has {len(W)} classes and {given['dataset']} has {len(given['class_names'])}")
    if args.force or not up_to_date(path, origin, len(W)):
        utils.write_head(path, W, b, given["class_names"], {**utils.provenance(cli.material(args)), **origin,
                                                            "has_bias": classifier.bias is not None})
    return path


def up_to_date(path, facts, rows):
    """Whether the file's sidecar says that it was made from just this."""
    sidecar = utils.read_sidecar(path)
    return path.exists() and sidecar.get("rows") == rows and all(sidecar.get(key) == value for key, value in facts.items())


@torch.no_grad()  # not inference_mode: ODIN's step needs a gradient
def extract(network, classifier, images, preprocessing, device, batch_size, amp, title, move=None):
    """Images -> features (N, D) float32: what enters the classifier, caught by a hook. `move` changes a normalised batch first.

    Raises ValueError where the hooked layer does not make the network's output, since logits = W h + b would not hold then.
    """
    caught = []
    hook = classifier.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    features = np.empty((len(images), classifier.in_features), np.float32)
    done = 0
    try:
        with cli.progress(total=len(images), desc=title, unit="image") as bar:
            for batch in images.batches(batch_size):
                batch = preprocessing.normalise(batch.to(device))
                with torch.autocast(device.type, torch.bfloat16) if amp else nullcontext():
                    logits = network(batch if move is None else move(batch))
                h = caught[-1].float()
                caught.clear()  # the step of ODIN runs the network, and so the hook, too
                if done == 0:
                    check_hook(h, logits.float(), classifier, amp)
                features[done:done + len(h)] = h.cpu().numpy()
                done += len(h)
                bar.update(len(h))
    finally:
        hook.remove()
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise ValueError(f"{title}: the network's features are NaN or infinite, first in image {row}: it has diverged; train it "
                         "with a lower learning rate")
    return features


def check_hook(features, logits, classifier, amp):
    if features.ndim != 2:
        raise ValueError(f"the classifier's input has shape {tuple(features.shape)}; expected (N, D), one vector an image")
    expected = torch.nn.functional.linear(features, classifier.weight.float(), classifier.bias)
    error, largest = (expected - logits).abs().max().item(), logits.abs().max().item()
    if not error <= (0.05 if amp else 1e-3) * max(largest, 1.0):
        raise ValueError(f"the hooked layer does not make the network's output (they differ by {error:.3g}): the last linear layer "
                         "must be the classifier, with nothing behind it")


if __name__ == "__main__":
    cli.run(main)
