"""Extract penultimate-layer features of ID and OOD images, and the classifier's last layer, as CSV.

    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures cifar10
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood mine=path/to/photographs
    python run_networks.py --checkpoint old.pth --model resnet_cifar --dataset cifar100 --ood svhn   # trained elsewhere
    python run_networks.py --fetch --dataset cifar100 --ood svhn textures     # only download, where there is a network
    python run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn --odin-epsilon 0.0014
    python run_networks.py --checkpoint results/resnet18_epoch*_cifar100_s0.pth --ood svhn --layers stream
    torchrun --nproc-per-node 2 run_networks.py --checkpoint results/resnet18_best_cifar100_s0.pth --ood svhn textures

Writes into results/<stem>/: head.csv, ID_<dataset>_train.csv (the images that the network was trained on, held-out classes left
out), ID_<dataset>_val.csv (the validation images, where there are any), ID_<dataset>_test.csv, OOD_<name>_test.csv, each with a
.json that says how it was made. A file that is there already and would come out the same is kept; --force makes all anew. Every
image goes through the checkpoint's own preprocessing, in eval mode, in data-set order, without augmentation. Files of a folder are
looked through first: all that cannot be read are named before anything is extracted. --odin-epsilon
adds ODIN_ID_<dataset>_test.csv and ODIN_OOD_<name>_test.csv, the features of perturbed test images, for the score ODIN;
--layers adds layers/<file>_<stage>.csv, the output of every stage of the network; `--layers stream` stores no such features but
moments/<file>_<stage>.csv, which is all that neural_collapse.py needs of them, at the price of a second pass over the training
images. Several processes (torchrun, srun) share the images by whole batches and write the files that one process writes, byte
for byte on like devices; moments agree to rounding, since sums come in another order. The first rank alone downloads, writes and
prints. Each rank loads the data set; a --batch-size that gives every rank several batches shares the work evenly.
"""
import shlex
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import artifacts
import cli
import data
import distributed
import image_files
import layers
import networks
import records
import utils
from extraction import Extractor, Job


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "checkpoint", "dataset", "ood", "model", "device", "batch-size", "data-dir", "output-dir", "max-pixels",
                  checkpoint={"nargs": "+", "help": "checkpoints that train.py wrote, or that were trained elsewhere"},
                  batch_size={"default": 500, "type": cli.positive},
                  max_pixels={"default": image_files.MAX_PIXELS, "type": cli.positive})
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of the feature files")
    parser.add_argument("--amp", action="store_true", help="bfloat16: 3 times as fast on a CPU, features off by about 2e-3")
    parser.add_argument("--odin-epsilon", type=float, metavar="E", help="extract the test sets a second time with each image moved "
                        "by E (pixels in [0, 1]) towards its predicted class, for ODIN; the authors' 0.0014 suits CIFAR")
    parser.add_argument("--temperature", type=float, default=1000.0, help="of ODIN's softmax; only with --odin-epsilon")
    parser.add_argument("--layers", nargs="?", choices=list(layers.FOLDERS), const="store", help="every stage's output too, "
                        "averaged over positions: its features (store: layers/), or what collapse needs of them (stream: moments/)")
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
    image_files.limit_pixels(args.max_pixels)
    with distributed.join("cpu" if args.fetch else cli.device(args.device)) as world:
        if args.fetch:
            with world.together():
                fetch(args) if world.first else None
            return
        with world.together():
            refuse_one_name(args)
        seen = set()
        for path in args.checkpoint:
            extract_all(path, args, world, seen)


def refuse_one_name(args):
    """ValueError where two checkpoints, such as s0/best.pth and s1/best.pth, would be written into one folder."""
    first = {}
    for path in args.checkpoint:
        other = first.setdefault(Path(path).stem, path)
        if Path(other) == Path(path):
            continue
        apart = Path(args.output_dir) / (Path(path).resolve().parent.name or "other")
        words = ["python", "run_networks.py", "--checkpoint", path, "--output-dir", str(apart)]
        for flag in ("model", "dataset", "ood"):
            value = getattr(args, flag) or []
            words += [f"--{flag}", *([value] if isinstance(value, str) else value)] if value else []
        folder = Path(args.output_dir) / Path(path).stem
        raise ValueError(f"{other} and {path} would both be written into {folder}; extract the one without the other, and that "
                         f"into a folder of its own: {shlex.join(words)}")


def extract_all(path, args, world, seen):
    """One checkpoint -> its head and feature files, each only where it would come out differently from what is there.

    `seen` holds what was said, and which files were read through, for the checkpoints before it.
    """
    with world.together(first_ahead=True):  # which downloads what the others then find
        work = prepare(path, args, world)
        if world.first:
            check_files(work, seen)
    with world.together():
        if world.first:
            work.files.append(write_head(work, args))
    classes, width = work.extractor.classifier.weight.shape[:2]
    print(f"{path}: {work.checkpoint['model']}, {width} features, {classes} classes -> {work.folder}")
    say_left_out(work, seen)
    probes = {}
    for job in work.jobs:
        with world.together():
            kept = world.first and not args.force and work.keeps(job)
        if world.share(kept):
            print(f"  {job.stem}.{args.format}: {len(job.images):,} images, kept as it is")
        else:
            start = time.perf_counter()
            found, summaries = extract(work, job, args, probes, world)
            with world.together():
                if world.first:
                    write(work, job, args, found, summaries, start)
        work.files.extend(work.outputs(job).values())
    with world.together():
        if world.first:
            records.write_record(work.folder / "run_networks.json", cli.material(args), [path], work.files)


@dataclass(frozen=True, eq=False)
class Work:
    """One checkpoint: what is to be made of it, and how each file comes out."""

    folder: Path
    extractor: Extractor
    jobs: list
    given: dict
    checkpoint: dict
    origin: dict  # what every sidecar says
    made: dict  # {file name: SHA-256} of the last record
    format: str
    way: str  # of --layers: None, store or stream
    files: list  # written or kept so far; the head first

    @property
    def training(self):
        return next(job for job in self.jobs if job.in_distribution and job.split == "train")

    def outputs(self, job):
        """{"": feature file, stage: its file}."""
        stages = {} if job.odin or (self.way == "stream" and job.split == "val") else self.extractor.stages
        ending, folder = ("csv" if self.way == "stream" else self.format), self.folder / layers.FOLDERS.get(self.way, "")
        return {"": self.folder / f"{job.stem}.{self.format}", **{name: folder / f"{job.stem}_{name}.{ending}" for name in stages}}

    def facts(self, job, name):
        """What the sidecar of an output says, and by which it is known to be current."""
        facts = {**self.origin, "head_sha256": records.sha256(self.files[0]), **job.facts}
        if name and self.way == "stream":  # NC4 of the test images depends on the training images too
            facts |= {"images": len(job.images), "moments_of": [self.training.images.source, len(self.training.images)]}
        return utils.plain(facts)

    def keeps(self, job):
        return all(up_to_date(file, self.facts(job, name), None if name and self.way == "stream" else len(job.images), self.made)
                   for name, file in self.outputs(job).items())


def prepare(path, args, world):
    """Load the checkpoint and open all images: what is missing or unreadable shows before the long work."""
    network, classifier, checkpoint = networks.load(path, args.model)
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise ValueError(f"{path} holds NaN or infinity among its parameters: it has diverged; train it with a lower --lr")
    given = given_by(path, checkpoint, args)
    folder = utils.writable_folder(Path(args.output_dir) / Path(path).stem)
    jobs = plan(path, args, given, checkpoint)
    stages = networks.stages(network, checkpoint["model"]) if args.layers else {}
    extractor = Extractor(network.to(world.device, memory_format=torch.channels_last), classifier, given["preprocessing"], world,
                          args.batch_size, args.amp, stages, **({"progress": cli.progress} if world.first else {}))
    origin = {"checkpoint": Path(path).name, "checkpoint_sha256": records.sha256(path), "class_names": given["class_names"],
              "preprocessing": given["preprocessing"].as_dict(), "precision": "bfloat16" if args.amp else "float32"}
    made = utils.read_json(folder / "run_networks.json").get("outputs", {})
    return Work(folder, extractor, jobs, given, checkpoint, origin, made, args.format, args.layers, [])


def check_files(work, seen):
    """ValueError that names every image file, of all sets together, which cannot be read.

    What was extracted once was readable then: where the sidecar names the same files, of the same sizes and times, they are not
    read through again. ODIN's images are those of the test sets.
    """
    failures = []
    for job in work.jobs:
        known = records.read_sidecar(work.outputs(job)[""]).get("source") == job.images.source
        if not job.odin and not known and (job.stem, job.images.source) not in seen:
            failures += job.images.unreadable(cli.progress)
            seen.add((job.stem, job.images.source))
    image_files.refuse(failures)


def say_left_out(work, seen):
    """What lies in a folder beside its images, such as "mine: 19 images; 3 other files left out (.heic, .txt, no ending)"."""
    for job in work.jobs:
        if job.images.left_out and job.split != "val" and job.images.root not in seen:  # val lies where the training images lie
            print(f"  {job.dataset}{f' ({job.split})' if job.in_distribution else ''}: {count(job.images)}")
            seen.add(job.images.root)


def count(images, where=""):
    return f"{len(images):,} images{where}{f'; {images.left_out}' if images.left_out else ''}"


def extract(work, job, args, probes, world):
    """-> ({name: features} on the first rank, {stage: Summary}); `probes` of the training images serve the test images."""
    extractor, stages = work.extractor, [name for name in work.outputs(job) if name]
    if args.layers != "stream" or not stages:
        kept = ["", *stages]
        with world.together():
            found, summaries = extractor.run(job, kept), {}
    else:
        kept, classes = [""], len(extractor.classifier.weight)
        if job.in_distribution and job.split == "test" and not probes:  # those of the training images were kept as they are
            with world.together():
                files = work.outputs(work.training) if world.first else {}
                read = {name: layers.probe(layers.read_summary(file).moments) for name, file in files.items() if name}
            probes |= world.share(read)
        found, summaries = extractor.tally(job, classes, probes)
        if job.in_distribution and job.split == "train":
            probes |= {name: layers.probe(summary.moments) for name, summary in summaries.items()}
    return extractor.gather(found, kept), summaries


def write(work, job, args, found, summaries, start):
    """The files of one job, and away with the same layers written the other way: one of them would grow old unseen."""
    for depth, (name, file) in enumerate(work.outputs(job).items(), start=-1):
        file.parent.mkdir(exist_ok=True)
        sidecar = {**records.provenance(cli.material(args)), **work.facts(job, name), "ood_class_names": job.images.class_names,
                   **({"layer": name, "depth": depth} if name else {}), "seconds": round(time.perf_counter() - start, 3)}
        if name in summaries:
            layers.write_summary(file, summaries[name], sidecar)
        else:
            artifacts.write_features(file, found[name], job.images.labels.numpy(), job.images.paths, sidecar)
        for folder in layers.FOLDERS.values() if name else ():
            for ending in (".json", *artifacts.SUFFIXES) if folder != file.parent.name else ():
                (work.folder / folder / file.name).with_suffix(ending).unlink(missing_ok=True)
    print(f"  {job.stem}.{args.format}: {len(job.images):,} images, {time.perf_counter() - start:.1f} s")


def fetch(args):
    """See that every data set is at hand and readable, so that a compute node without a network needs none."""
    data.check_ood(args.ood, data.check_id(args.dataset)[0], held_out=("any",))
    name, dataset = data.id_set(args.dataset, args.data_dir, statistics=((0.0,) * 3, (1.0,) * 3))  # nothing is normalised here
    preprocessing = data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    wanted = {f"{name} ({split})": partial(data.load_id, dataset, split) for split in ("train", "test")}
    wanted |= {text: partial(data.load_ood, text, dataset) for text in args.ood if utils.split_name(text)[0] != "held_out"}
    failures = []
    for name, load in wanted.items():
        images = load(preprocessing, args.data_dir)
        failures += images.unreadable(cli.progress)
        print(f"{name}: {count(images, ' at hand')}")
    image_files.refuse(failures)


def given_by(path, checkpoint, args):
    """What the features depend on, from the checkpoint; from --dataset where the file was written elsewhere."""
    own = checkpoint.get("dataset")
    if own is None and args.dataset is None:
        raise ValueError(f"{path} does not say which data it was trained on; name it with --dataset")
    if own and args.dataset and utils.split_name(own)[0] != utils.split_name(args.dataset)[0]:
        raise ValueError(f"{path} was trained on {own}, not on {args.dataset}; to see {args.dataset} as unknown images, give it as "
                         f"--ood {args.dataset}")
    name, held_out = data.check_id(args.dataset or own)[0], checkpoint.get("held_out", [])
    ood = default_sets(name, checkpoint) if args.ood is None else args.ood
    data.check_ood(ood, name, held_out)  # first: where the checkpoint keeps no preprocessing, a folder is now measured for it
    kept = checkpoint.get("preprocessing")
    _, dataset = data.id_set(args.dataset or own, args.data_dir, statistics=kept and (kept["mean"], kept["std"]))
    preprocessing = data.Preprocessing(**kept) if kept else data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    return {"dataset": name, "set": dataset, "preprocessing": preprocessing, "held_out": held_out, "ood": ood,
            "class_names": checkpoint.get("class_names"), "val_size": checkpoint.get("val_size", 0)}


def default_sets(dataset, checkpoint):
    """The default OOD sets that this checkpoint has: held_out only where classes were held out."""
    if dataset not in data.ID:
        return []
    return [name for name in default_ood(dataset) if name != "held_out" or checkpoint.get("held_out")]


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
    return checkpoint["classes"]


def write_head(work, args):
    """head.csv; kept as it is where it would come out the same, so that the features that name it stay valid."""
    path, classifier, names = work.folder / "head.csv", work.extractor.classifier, work.given["class_names"]
    W, b = networks.head(classifier)
    if len(W) != len(names):
        raise ValueError(f"{work.origin['checkpoint']} has {len(W)} classes and {work.given['dataset']} has {len(names)}")
    facts = {**work.origin, **{name: work.checkpoint.get(name) for name in ("mode", "epoch", "train_acc", "val_acc", "test_acc")}}
    own = {**facts, "model": work.checkpoint["model"]}
    if args.force or not up_to_date(path, utils.plain(own), len(W), work.made):
        artifacts.write_head(path, W, b, names, {**records.provenance(cli.material(args)), **own,
                                             "has_bias": classifier.bias is not None})
    return path


def up_to_date(path, facts, rows, made=None):
    """Whether the file's sidecar says that it was made from just this, and the last record does not say that it was edited since.

    `made`: {file name: SHA-256} of the record, or None to ask the sidecar alone. `rows` None: the facts say how many.
    """
    sidecar = records.read_sidecar(path)
    same = rows in (None, sidecar.get("rows")) and all(sidecar.get(key) == value for key, value in facts.items())
    if not path.exists() or not same:
        return False
    inside = path.parent.name in layers.FOLDERS.values()
    digest = (made or {}).get(f"{path.parent.name}/{path.name}" if inside else path.name)
    return digest in (None, records.sha256(path))


if __name__ == "__main__":
    cli.run(main)
