"""Extract penultimate-layer features of ID and OOD images, and the classifier's last layer, as CSV.

    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures cifar10
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood mine=path/to/photographs
    python run_networks.py --checkpoint old.pth --model resnet_cifar --dataset cifar100 --ood svhn   # trained elsewhere
    python run_networks.py --fetch --dataset cifar100 --ood svhn textures     # only download, where there is a network
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn --odin-epsilon 0.0014
    python run_networks.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth --ood svhn --layers

Writes into results/<stem>/: head.csv, ID_<dataset>_train.csv (the images that the network was trained on, held-out classes left
out), ID_<dataset>_val.csv (the validation images, where there are any), ID_<dataset>_test.csv, OOD_<name>_test.csv, each with a
.json that says how it was made. A file that is there already and would come out the same is kept; --force makes all anew. Every
image goes through the checkpoint's own preprocessing, in eval mode, in data-set order, without augmentation. --odin-epsilon
adds ODIN_ID_<dataset>_test.csv and ODIN_OOD_<name>_test.csv, the features of perturbed test images, for the score ODIN;
--layers adds layers/<file>_<stage>.csv, the output of every stage of the network.
"""
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
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
                  checkpoint={"nargs": "+", "help": "checkpoints that train.py wrote, or that were trained elsewhere"},
                  batch_size={"default": 500, "type": cli.positive})
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the feature files")
    parser.add_argument("--amp", action="store_true", help="bfloat16: 3 times as fast on a CPU, features off by about 2e-3")
    parser.add_argument("--odin-epsilon", type=float, metavar="E", help="extract the test sets a second time with each image moved "
                        "by E (pixels in [0, 1]) towards its predicted class, for ODIN; the authors' 0.0014 suits CIFAR")
    parser.add_argument("--temperature", type=float, default=1000.0, help="of ODIN's softmax; only with --odin-epsilon")
    parser.add_argument("--layers", action="store_true", help="save every stage's output too, averaged over positions: layers/")
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
    if args.fetch and args.ood is None:
        args.ood = default_ood(args.dataset)
    return args


def default_ood(dataset):
    """The OOD sets that an ID set is tested against when nobody says; none of a folder of one's own."""
    data.check_id(dataset)
    return [] if "=" in dataset else list(data.ID[utils.split_name(dataset)[0]].ood)


def main(argv=None):
    args = parse_args(argv)
    if args.fetch:
        return fetch(args)
    device = cli.device(args.device)
    for path in args.checkpoint:
        extract_all(path, args, device)


def extract_all(path, args, device):
    """One checkpoint -> its head and feature files, each only where it would come out differently from what is there."""
    network, classifier, checkpoint = networks.load(path, args.model)
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise ValueError(f"{path} holds NaN or infinity among its parameters: it has diverged; train it with a lower --lr")
    given = given_by(path, checkpoint, args)
    data.check_ood(given["ood"], given["dataset"], given["held_out"])
    folder = utils.writable_folder(Path(args.output_dir) / Path(path).stem)
    jobs = plan(path, args, given, checkpoint)
    network = network.to(device, memory_format=torch.channels_last)
    origin = {"checkpoint": Path(path).name, "checkpoint_sha256": utils.sha256(path), "class_names": given["class_names"],
              "preprocessing": given["preprocessing"].as_dict(), "precision": "bfloat16" if args.amp else "float32"}
    made = utils.read_json(folder / "run_networks.json").get("outputs", {})
    files = [write_head(folder, classifier, given, args, {**origin, "model": checkpoint["model"]}, checkpoint, made)]
    stages = networks.stages(network, checkpoint["model"]) if args.layers else {}
    print(f"{path}: {checkpoint['model']}, {classifier.in_features} features, {classifier.out_features} classes -> {folder}")
    for job in jobs:
        facts = utils.plain({**origin, "head_sha256": utils.sha256(files[0]), **job.facts})
        outputs = {"": folder / f"{job.stem}.{args.format}",
                   **{name: folder / "layers" / f"{job.stem}_{name}.{args.format}" for name in stages if not job.odin}}
        files += outputs.values()
        if not args.force and all(up_to_date(file, facts, len(job.images), made) for file in outputs.values()):
            print(f"  {outputs[''].name}: {len(job.images):,} images, kept as it is")
            continue
        start = time.perf_counter()
        watched = {name: stages[name] for name in outputs if name}
        found = extract(network, classifier, job, given["preprocessing"], device, args, watched)
        for depth, (name, file) in enumerate(outputs.items(), start=-1):
            file.parent.mkdir(exist_ok=True)
            utils.write_features(file, found[name], job.images.labels.numpy(), job.images.paths, {
                **utils.provenance(cli.material(args)), **facts, **({"layer": name, "depth": depth} if name else {}),
                "ood_class_names": job.images.class_names, "seconds": round(time.perf_counter() - start, 3)})
        print(f"  {outputs[''].name}: {len(job.images):,} images, {time.perf_counter() - start:.1f} s")
    utils.write_record(folder / "run_networks.json", cli.material(args), [path], files)


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


def given_by(path, checkpoint, args):
    """What the features depend on, from the checkpoint; from --dataset where the file was written elsewhere."""
    own = checkpoint.get("dataset")
    if own is None and args.dataset is None:
        raise ValueError(f"{path} does not say which data it was trained on; name it with --dataset")
    if own and args.dataset and utils.split_name(own)[0] != utils.split_name(args.dataset)[0]:
        raise ValueError(f"{path} was trained on {own}, not on {args.dataset}; to see {args.dataset} as unknown images, give it as "
                         f"--ood {args.dataset}")
    name, dataset = data.id_set(args.dataset or own, args.data_dir)
    kept = checkpoint.get("preprocessing")
    preprocessing = data.Preprocessing(**kept) if kept else data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    return {"dataset": name, "set": dataset, "preprocessing": preprocessing, "held_out": checkpoint.get("held_out", []),
            "class_names": checkpoint.get("class_names"), "val_size": checkpoint.get("val_size", 0),
            "ood": default_sets(name, checkpoint) if args.ood is None else args.ood}


def default_sets(dataset, checkpoint):
    """The default OOD sets that this checkpoint has: held_out only where classes were held out."""
    if dataset not in data.ID:
        return []
    return [name for name in default_ood(dataset) if name != "held_out" or checkpoint.get("held_out")]


@dataclass(frozen=True)
class Job:
    """One feature file: the images, and for ODIN by how much and at which temperature each is moved first."""

    stem: str
    dataset: str
    images: object
    odin: dict = field(default_factory=dict)

    @property
    def facts(self):
        """What its sidecar says of it."""
        return {"dataset": self.dataset, "split": self.stem.rsplit("_", 1)[1], "source": self.images.source, "odin_epsilon": None,
                "temperature": None, **self.odin}


def plan(path, args, given, checkpoint):
    """The files that are to be there. Images are opened here: what is missing or unreadable shows before the long work."""
    arguments = (given["set"], given["preprocessing"], args.data_dir, given["held_out"])
    name, jobs = given["dataset"], []
    for split in ("train", "test"):
        images = data.load_id(given["set"], split, *arguments[1:])
        if given["class_names"] is None:
            given["class_names"] = images.class_names
        if len(images.class_names) == len(given["class_names"]) and list(images.class_names) != list(given["class_names"]):
            raise ValueError(f"{path} was trained on the classes {', '.join(given['class_names'][:5])} and {name} has "
                             f"{', '.join(images.class_names[:5])}: it was trained on other data")
        if len(images.class_names) != len(given["class_names"]) or int(images.labels.max()) >= classes_of(checkpoint):
            raise ValueError(f"{path} tells {classes_of(checkpoint)} classes apart and {name} has {len(images.class_names)}: it "
                             "was trained on other data")
        if split == "train":
            rows, val_rows = (rows.sort().values for rows in data.split_validation(len(images), given["val_size"]))
            if len(val_rows):
                jobs.append(Job(f"ID_{name}_val", name, images.take(val_rows)))
            images = images.take(rows)
        jobs.append(Job(f"ID_{name}_{split}", name, images))
    for text in given["ood"]:
        ood = utils.split_name(text)[0]
        jobs.append(Job(f"OOD_{ood}_test", ood, data.load_ood(text, *arguments)))
    if args.odin_epsilon is not None:
        odin = {"odin_epsilon": args.odin_epsilon, "temperature": args.temperature}
        jobs += [replace(job, stem=f"ODIN_{job.stem}", odin=odin) for job in jobs if job.stem.endswith("_test")]
    return jobs


def classes_of(checkpoint):
    return networks.classes_of(checkpoint["model_state_dict"], "checkpoint")


def write_head(folder, classifier, given, args, origin, checkpoint, made):
    """head.csv; kept as it is where it would come out the same, so that the features that name it stay valid."""
    path = folder / "head.csv"
    W = classifier.weight.detach().float().cpu().numpy()
    b = np.zeros(len(W), np.float32) if classifier.bias is None else classifier.bias.detach().float().cpu().numpy()
    if len(W) != len(given["class_names"]):
        raise ValueError(f"{origin['checkpoint']} has {len(W)} classes and {given['dataset']} has {len(given['class_names'])}")
    facts = {name: checkpoint.get(name) for name in ("mode", "epoch", "train_acc", "val_acc", "test_acc")}
    if args.force or not up_to_date(path, utils.plain({**origin, **facts}), len(W), made):
        utils.write_head(path, W, b, given["class_names"], {**utils.provenance(cli.material(args)), **origin, **facts,
                                                            "has_bias": classifier.bias is not None})
    return path


def up_to_date(path, facts, rows, made=None):
    """Whether the file's sidecar says that it was made from just this, and the last record does not say that it was edited since.

    `made`: {file name: SHA-256} of the record, or None to ask the sidecar alone.
    """
    sidecar = utils.read_sidecar(path)
    if not path.exists() or sidecar.get("rows") != rows or any(sidecar.get(key) != value for key, value in facts.items()):
        return False
    digest = (made or {}).get(path.name if path.parent.name != "layers" else f"layers/{path.name}")
    return digest in (None, utils.sha256(path))


@torch.no_grad()  # not inference_mode: ODIN's step needs a gradient
def extract(network, classifier, job, preprocessing, device, args, stages):
    """Images -> {"": features (N, D) float32, what enters the classifier; stage: its output, averaged over positions}.

    Raises ValueError where the hooked layer does not make the network's output, since logits = W h + b would not hold then.
    """
    caught, found, done = {}, {}, 0
    hooks = [classifier.register_forward_pre_hook(lambda module, inputs: caught.update({"": inputs[0]}))]
    hooks += [module.register_forward_hook(lambda module, inputs, output, name=name: caught.update({name: output}))
              for name, module in stages.items()]
    try:
        with cli.progress(total=len(job.images), desc=job.stem, unit="image") as bar:
            for batch in job.images.batches(args.batch_size):
                batch = preprocessing.normalise(batch.to(device))
                if job.odin:
                    batch = leave_out.perturb(network, batch, *job.odin.values(), preprocessing.std)
                with torch.autocast(device.type, torch.bfloat16) if args.amp else nullcontext():
                    logits = network(batch)
                if done == 0:
                    check_hook(caught.get(""), logits, classifier, args.amp)
                for name, values in caught.items():
                    values = values.float().flatten(2).mean(2) if values.ndim == 4 else values.float()
                    rows = found.setdefault(name, np.empty((len(job.images), values.shape[1]), np.float32))
                    rows[done:done + len(values)] = values.cpu().numpy()
                done += len(batch)
                bar.update(len(batch))
    finally:
        for hook in hooks:
            hook.remove()
    finite = np.isfinite(found[""]).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"{job.stem}: the network's features are NaN or infinite, first in image {row}: it has "
                         "diverged; train it with a lower learning rate")
    return found


def check_hook(features, logits, classifier, amp):
    """The classifier was run, once, on one vector an image, and what it made is what the network returns."""
    if features is None or not isinstance(logits, torch.Tensor):
        raise ValueError("the hooked layer does not make the network's output: a network must return logits (N, C) alone, and its "
                         "last linear layer must make them")
    features, logits = features.float(), logits.float()
    if features.ndim != 2:
        raise ValueError(f"the classifier's input has shape {tuple(features.shape)}; expected (N, D), one vector an image")
    expected = torch.nn.functional.linear(features, classifier.weight.float(), classifier.bias)
    error, largest = (expected - logits).abs().max().item(), logits.abs().max().item()
    if not error <= (0.05 if amp else 1e-3) * max(largest, 1.0):
        raise ValueError(f"the hooked layer does not make the network's output (they differ by {error:.3g}): the last linear layer "
                         "must be the classifier, with nothing behind it")


if __name__ == "__main__":
    cli.run(main)
