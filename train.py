"""Train a classifier: one loop, recipes as rows of a table.

    python train.py --dataset cifar100 --model resnet18 --mode best --seed 0
    python train.py --dataset cifar100 --model resnet_cifar --mode sgd --epochs 30 --suffix quick
    python train.py --dataset digits --held-out 8 9 --mode collapse
    python train.py --dataset cifar100 --model resnet18 --mode collapse --save-every 25 --track-nc 5
    python train.py --dataset cifar100 --model resnet18 --resume        # go on where it was stopped, bit for bit on a CPU

Writes into --output-dir: <model>_best_<suffix>.pth (highest validation accuracy), <model>_final_<suffix>.pth (last epoch), each
with a .json that says how it was made; <model>_curves_<suffix>.csv and .png; <model>_log_<suffix>.txt; with --save-every
<model>_epoch<E>_<suffix>.pth, for the course of neural collapse. While it runs,
<model>_last_<suffix>.pth holds its newest complete state; SIGTERM, SIGUSR1 and Ctrl-C renew it and exit with code 75.
"""
import contextlib
import math
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

import augment
import cli
import collapse
import data
import figures
import networks
import utils

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: a batch script requeues on it
CHECK_EVERY = 20  # steps between looks at the loss; each look makes a GPU wait


@dataclass(frozen=True)
class Recipe:
    """How to train. `milestones` are shares of the epochs, so that --epochs stretches a schedule and keeps its shape."""

    epochs: int
    lr: float
    weight_decay: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False
    batch_size: int = 128
    milestones: tuple = ()  # none: cosine to zero, step by step
    gamma: float = 0.1
    augment: tuple = ("crop", "flip")
    dropout: float = 0.0
    patience: int = 0
    keep: str = "best"  # which checkpoint main.py goes on with


RECIPES = {
    # He et al. 2016, section 4.2: 64,000 steps of 128 on 45,000 images, lr / 10 after 32,000 and 48,000.
    "sgd": Recipe(epochs=182, lr=0.1, weight_decay=1e-4, milestones=(0.5, 0.75)),
    "best": Recipe(epochs=200, lr=0.1, weight_decay=5e-4),
    "adamw": Recipe(epochs=200, lr=1e-3, weight_decay=1e-2, optimizer="adamw"),
    # Papyan et al. 2020: no augmentation, lr / 10 at 1/3 and 2/3, far past 100% training accuracy; its end is what counts.
    "collapse": Recipe(epochs=350, lr=0.05, weight_decay=5e-4, milestones=(1 / 3, 2 / 3), augment=(), keep="final"),
    "regularised": Recipe(epochs=200, lr=0.1, weight_decay=5e-4, milestones=(0.3, 0.6, 0.8), gamma=0.2, dropout=0.5,
                          augment=("crop", "flip", "rotation", "colour_jitter", "erasing")),
}
OVERRIDES = ("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "patience")


def make_parser():
    parser = cli.Parser(__doc__)
    cli.add_flags(parser, "dataset", "model", "mode", "suffix", "seed", "device", "epochs", "batch-size", "data-dir", "output-dir",
                  dataset={"default": "cifar100"}, model={"default": "resnet18"}, epochs={"type": cli.positive},
                  mode={"default": "best", "choices": list(RECIPES)}, batch_size={"type": cli.positive})
    parser.add_argument("--best-optim", dest="mode", action="store_const", const="adamw", help="old spelling of --mode adamw")
    parser.add_argument("--lr", type=float, help="override the recipe's learning rate")
    parser.add_argument("--momentum", type=float, help="override the recipe's momentum")
    parser.add_argument("--nesterov", action="store_true", default=None, help="Nesterov's momentum, whatever the recipe says")
    parser.add_argument("--weight-decay", type=float, help="override the recipe's weight decay")
    parser.add_argument("--patience", type=int, help="stop after this many epochs without a better validation accuracy; 0: never")
    parser.add_argument("--no-stop", dest="patience", action="store_const", const=0, help="old spelling of --patience 0")
    parser.add_argument("--val-size", type=int, help="training images kept for validation; default: the data set's own; 0: none")
    parser.add_argument("--held-out", type=str, nargs="*", metavar="CLASS",
                        help="classes left out of training, an OOD set of their own; default: the data set's own")
    parser.add_argument("--image-size", type=cli.positive, help="side of the network's input; default: the data set's own")
    parser.add_argument("--no-amp", action="store_true", help="float32 throughout, where bfloat16 autocast would be used")
    parser.add_argument("--save-every", type=cli.positive, metavar="N", help="keep the checkpoint of every Nth epoch")
    parser.add_argument("--track-nc", type=cli.positive, metavar="N", help="write NC1 to NC4 of clean training features into the "
                        "curves every Nth epoch")
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest state; start where there is none")
    parser.add_argument("--force", action="store_true", help="start over and replace the run's files")
    return parser


def parse_args(argv=None):
    args = make_parser().parse_args(argv)
    name, folder = data.check_id(args.dataset)
    args.dataset = args.dataset if folder else name
    args.suffix = args.suffix or f"{name}_s{args.seed}"
    if args.held_out is None:
        args.held_out = [] if folder else list(data.ID[name].held_out)
    return args


def main(argv=None):
    args = parse_args(argv)
    networks.check_model(args.model)
    folder = utils.writable_folder(args.output_dir)
    files = run_files(folder, args.model, args.suffix)
    if refuse_or_skip(args, files):
        return
    device = cli.device(args.device)
    name, dataset = data.id_set(args.dataset, args.data_dir, args.image_size)
    recipe = resolve(args, dataset)
    preprocessing = data.Preprocessing(dataset.size, dataset.mean, dataset.std)
    images = in_memory(data.load_id(dataset, "train", preprocessing, args.data_dir, args.held_out))
    test = in_memory(data.load_id(dataset, "test", preprocessing, args.data_dir, args.held_out))
    rows, val_rows = data.split_validation(len(images), dataset.val_size if args.val_size is None else args.val_size)
    if recipe.batch_size > len(rows):
        raise ValueError(f"--batch-size {recipe.batch_size} is larger than the training set of {len(rows)} images")
    cli.seed_everything(args.seed)
    facts = {"model": args.model, "model_args": {"dropout": recipe.dropout}, "dataset": args.dataset, "mode": args.mode,
             "held_out": args.held_out, "val_size": len(val_rows), "class_names": images.class_names,
             "preprocessing": preprocessing.as_dict(), "recipe": asdict(recipe), **utils.provenance(cli.material(args))}
    run = Run(files, facts, recipe, preprocessing, device, args)
    if args.resume and files["last"].exists():
        run.resume(cli.material(args))
    run.log(f"{name}: {len(rows)} training, {len(val_rows)} validation, {len(test)} test images, "
            f"{len(images.class_names)} classes; {args.model}, {run.parameters:,} parameters, {args.mode}, "
            f"{recipe.epochs} epochs on {device}{' in bfloat16' if run.amp else ''}")
    if not run.fit(images.take(rows), images.take(val_rows)):
        return RESUME_ME
    run.finish(images.take(rows), test)
    utils.write_figure(files["figure"], figures.training_curves(pd.DataFrame(run.history)))
    files["last"].unlink(missing_ok=True)  # the last thing to go: as long as it is there, --resume goes on


def run_files(folder, model, suffix):
    """{part: path} of a run; "epoch" is what stands before and after the epoch's number in a file name."""
    def path(part, ending):
        return Path(folder) / f"{networks.short_name(model)}_{part}_{suffix}.{ending}"
    files = {part: path(part, "pth") for part in ("best", "final", "last")}
    files |= {"curves": path("curves", "csv"), "figure": path("curves", "png"), "log": path("log", "txt")}
    return {**files, "epoch": (f"{networks.short_name(model)}_epoch", f"_{suffix}.pth")}


def refuse_or_skip(args, files):
    """True where --resume finds the run finished; ValueError rather than replace another run, or this one unasked."""
    if args.force:
        start, end = files["epoch"]
        epochs = [path for path in Path(args.output_dir).glob("*.pth") if path.name.startswith(start) and path.name.endswith(end)
                  and path.name[len(start):-len(end)].isdecimal()]
        for path in (files["last"], files["final"], files["best"], *epochs):
            path.unlink(missing_ok=True)
            utils.sidecar_path(path).unlink(missing_ok=True)
        return False
    if files["last"].exists():
        if not args.resume:
            raise ValueError(f"{files['last']} is an interrupted run; go on with --resume, or start over with --force")
        return False
    if files["final"].exists():
        same = utils.read_sidecar(files["final"]).get("arguments") == utils.plain(cli.material(args))
        if args.resume and same:
            print(f"{files['final']} is finished; nothing to resume")
            return True
        raise ValueError(f"{files['final']} is there already, {'finished with these arguments' if same else 'from another run'}; "
                         "give this run another --suffix, or replace that one with --force")
    return False


def resolve(args, dataset):
    """The mode's recipe with the overrides of the command line, and no mirrored images where they change the class."""
    recipe = RECIPES[args.mode]
    given = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    augment = tuple(name for name in recipe.augment if dataset.flip or name != "flip")
    return replace(recipe, augment=augment, **given)


def in_memory(images):
    return images.in_memory() if isinstance(images, data.ImageFiles) else images


def scale(recipe, progress):
    """Share of the base learning rate at `progress` in [0, 1] of the run: cosine, or steps at the milestones."""
    if not recipe.milestones:
        return 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.gamma ** sum(progress >= milestone for milestone in recipe.milestones)


class Run:
    """A run's state: network, optimiser, history, and where in the epochs it stands.

    Batches and augmentation are drawn by generators seeded with (seed, epoch, step), so that a resumed run needs no more
    than its epoch and step to draw what the uninterrupted one would have drawn.
    """

    def __init__(self, files, facts, recipe, preprocessing, device, args):
        self.files, self.facts, self.recipe, self.preprocessing = files, facts, recipe, preprocessing
        self.device, self.seed, self.amp = device, args.seed, not args.no_amp and has_bfloat16(device)
        self.save_every, self.track_nc = args.save_every, args.track_nc
        network = networks.build(facts["model"], len(facts["class_names"]), **facts["model_args"])
        self.network = network.to(device, memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.optimizer = make_optimizer(recipe, self.network)
        self.generator = torch.Generator(device)
        self.history, self.best, self.epoch, self.partial = [], {"val_acc": -1.0, "epoch": 0}, 0, None
        self.stop = False

    # -- the loop

    def fit(self, train, val):
        """Train to the last epoch, or to the patience's end. False where a signal asked to stop first."""
        train.pixels, train.labels = train.pixels.to(self.device), train.labels.to(self.device)
        bar = cli.progress(total=self.recipe.epochs, initial=self.epoch, desc="epochs", unit="epoch")
        with signals(self.ask_to_stop), bar:
            while self.epoch < self.recipe.epochs and not self.out_of_patience():
                start = time.perf_counter() - (self.partial or {}).get("seconds", 0.0)
                result = self.train_epoch(train)
                if result is None:
                    self.partial["seconds"] = time.perf_counter() - start
                    self.save(self.files["last"])
                    self.log(f"stopped in epoch {self.epoch + 1}; go on with --resume")
                    return False
                seconds = time.perf_counter() - start
                self.end_epoch(result, self.evaluate(val), train, seconds)
                bar.set_postfix({name: f"{self.history[-1][name]:.3g}" for name in ("train_loss", "train_acc", "val_acc")
                                 if self.history[-1][name] is not None})
                bar.update()
        return True

    def train_epoch(self, train):
        """One pass -> (mean loss, accuracy) as the steps saw them; None where a signal came, the pass kept in `partial`."""
        self.network.train()
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch))
        batches = order.to(self.device).tensor_split(math.ceil(len(train) / self.recipe.batch_size))
        state = self.partial or {"step": 0, "losses": torch.zeros(len(batches), device=self.device),
                                 "correct": torch.zeros((), dtype=torch.int64, device=self.device)}
        losses, correct = state["losses"].to(self.device), state["correct"].to(self.device)
        for step in range(state["step"], len(batches)):
            if self.stop:
                self.check_finite(losses[:step])
                self.partial = {"step": step, "losses": losses, "correct": correct}
                return None
            losses[step], hits = self.step(train, batches[step], step, len(batches))
            correct += hits
            if step % CHECK_EVERY == 0 or step == len(batches) - 1:
                self.check_finite(losses[:step + 1])
        self.partial = None
        sizes = torch.tensor([len(batch) for batch in batches], device=self.device)
        return (losses * sizes).sum().item() / len(train), correct.item() / len(train)

    def step(self, train, rows, step, steps):
        """One optimiser step -> (mean loss of the batch, number of right answers), both still on the device."""
        self.generator.manual_seed((self.seed * 1_000_003 + self.epoch) * 1_000_003 + step)
        lr = self.recipe.lr * scale(self.recipe, (self.epoch + step / steps) / self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        images = augment.apply(train.pixels[rows], self.recipe.augment, self.generator, self.preprocessing)
        labels = train.labels[rows]
        with self.autocast():
            logits = self.network(images)
            loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), (logits.argmax(1) == labels).sum()

    @torch.inference_mode()
    def evaluate(self, images, exact=False):
        """Clean pass in eval mode -> (mean loss, accuracy), (None, None) of no images; `exact` keeps float32."""
        if not len(images):
            return None, None
        self.network.eval()
        loss = correct = 0.0
        for pixels, labels in zip(images.pixels.split(500), images.labels.split(500), strict=True):
            labels = labels.to(self.device)
            with contextlib.nullcontext() if exact else self.autocast():
                logits = self.network(self.preprocessing.normalise(pixels.to(self.device))).float()
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
        return loss / len(images), correct / len(images)

    @torch.inference_mode()
    def measure_collapse(self, train):
        """NC1 to NC4 of clean training features in float32 (docs/neural_collapse.md says what each is)."""
        self.network.eval()
        caught, rows = [], []
        layer = networks.classifier(self.network, self.facts["model"])
        with layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0])):
            for pixels in train.pixels.split(500):
                self.network(self.preprocessing.normalise(pixels))
                rows.append(caught.pop().float().cpu().numpy())
        features, labels = np.concatenate(rows), train.labels.cpu().numpy()
        W = layer.weight.detach().float().cpu().numpy()
        b = np.zeros(len(W)) if layer.bias is None else layer.bias.detach().float().cpu().numpy()
        moments = collapse.Accumulator(*W.shape).update(features, labels).finish()
        means = collapse.nc2(moments.centred)
        return {"nc1": collapse.nc1(moments)["nc1"], "nc2_norm_cv": means["norm_cv"], "nc2_cosine_std": means["cosine_std"],
                "nc3_self_duality": collapse.nc3(moments, W)["nc3_self_duality"],
                "nc4_mismatch": collapse.nc4(features, labels, W, b, moments.means)["mismatch"]}

    def end_epoch(self, result, validation, train, seconds):
        if not math.isfinite(validation[0] or 0.0):
            raise ValueError(f"validation loss is {validation[0]} after epoch {self.epoch + 1}; {self.last_good()}")
        if not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            raise ValueError(f"the parameters are NaN or infinite after epoch {self.epoch + 1}; {self.last_good()}")
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "train_loss": result[0], "train_acc": result[1], "val_loss": validation[0],
                             "val_acc": validation[1], "lr": self.optimizer.param_groups[0]["lr"], "seconds": seconds,
                             "images_per_second": len(train) / seconds})
        if self.track_nc:
            due = self.epoch % self.track_nc == 0 or self.epoch == self.recipe.epochs
            self.history[-1] |= self.measure_collapse(train) if due else {}
        utils.write_table(self.files["curves"], pd.DataFrame(self.history), self.facts)
        # Without validation images the last epoch is the best: test labels select nothing.
        if validation[1] is None or validation[1] > self.best["val_acc"]:
            self.best = {"val_acc": -1.0 if validation[1] is None else validation[1], "epoch": self.epoch}
            self.save(self.files["best"])
        if self.save_every and self.epoch % self.save_every == 0:
            path = self.files["last"].with_name(str(self.epoch).join(self.files["epoch"]))
            self.save(path)
            utils.write_json(utils.sidecar_path(path), {**self.facts, **self.history[-1], "checkpoint_sha256": utils.sha256(path)})
        self.save(self.files["last"])
        self.log("  ".join(f"{name} {value:.4g}" for name, value in self.history[-1].items() if value is not None), quiet=True)

    def out_of_patience(self):
        return 0 < self.recipe.patience <= self.epoch - self.best["epoch"]

    def check_finite(self, losses):
        finite = losses.isfinite()
        if not finite.all():
            step = int((~finite).nonzero()[0])
            raise ValueError(f"the loss is {losses[step].item()} in epoch {self.epoch + 1}, step {step + 1}; {self.last_good()}")

    def last_good(self):
        kept = f"the state after epoch {self.epoch} is kept in {self.files['last']}" if self.epoch else "no epoch was finished"
        return f"{kept}; train with a lower --lr (now {self.recipe.lr:g}), or --no-amp"

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def ask_to_stop(self, *_):
        self.stop = True

    # -- what is kept

    def save(self, path, **more):
        """Write the whole state: what rebuilds the network, and all that a resumed run needs."""
        last = self.history[-1] if self.history else {"train_acc": None, "val_acc": None}
        torch_rng = {"cpu": torch.get_rng_state(),
                     "cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []}
        state = {"epoch": self.epoch, "model_state_dict": self.network.state_dict(),
                 "optimizer_state_dict": self.optimizer.state_dict(), "train_acc": last["train_acc"], "val_acc": last["val_acc"],
                 "test_acc": None, **self.facts, "scheduler": {"milestones": self.recipe.milestones, "gamma": self.recipe.gamma},
                 "rng": torch_rng, "history": self.history, "best": self.best, "partial": self.partial, **more}
        with utils.replacing(path) as temporary:
            torch.save(state, temporary)

    def resume(self, arguments):
        state = networks.read_checkpoint(self.files["last"])
        before, now = state["arguments"], utils.plain(arguments)
        if before != now:
            different = [f"{name} {before.get(name)} then, {now.get(name)} now" for name in now if before.get(name) != now[name]]
            raise ValueError(f"{self.files['last']} was started with other arguments: {'; '.join(different)}. Repeat those, or "
                             "start over with --force")
        self.network.load_state_dict(state["model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        self.epoch, self.history, self.best, self.partial = (state[key] for key in ("epoch", "history", "best", "partial"))
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and state["rng"]["cuda"]:
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.log(f"resumed after epoch {self.epoch}" + (f", step {self.partial['step']}" if self.partial else ""))

    def finish(self, train, test):
        """Measure the final and the best network once, on clean training and test images, and write both checkpoints."""
        for kind in ("final", "best"):
            if kind == "best":
                state = networks.read_checkpoint(self.files["best"])
                self.network.load_state_dict(state["model_state_dict"])
                self.optimizer.load_state_dict(state["optimizer_state_dict"])
                self.epoch, whole = state["epoch"], self.history
                self.history = self.history[:self.epoch]
            accuracy = {"train_acc": self.evaluate(train, exact=True)[1], "test_acc": self.evaluate(test, exact=True)[1]}
            self.save(self.files[kind], **accuracy)
            val_acc = self.history[-1]["val_acc"]
            utils.write_json(utils.sidecar_path(self.files[kind]), {
                **self.facts, "epoch": self.epoch, "epochs": self.recipe.epochs, **accuracy, "val_acc": val_acc,
                "checkpoint_sha256": utils.sha256(self.files[kind]), "curves": self.files["curves"].name, "inputs": {},
                "outputs": utils.fingerprints([self.files[kind]], self.files[kind].parent),
                "seconds": round(sum(row["seconds"] for row in self.history), 3)})
            self.log(f"{kind}: epoch {self.epoch}, train {accuracy['train_acc']:.2%}, "
                     + (f"validation {val_acc:.2%}, " if val_acc is not None else "")
                     + f"test {accuracy['test_acc']:.2%} -> {self.files[kind]}")
        self.history = whole
        fitted = next((row["epoch"] for row in self.history if row["train_acc"] == 1), None)
        if fitted:
            self.log(f"every training image right since epoch {fitted}: {len(self.history) - fitted} epochs of terminal phase")
        elif self.facts["mode"] == "collapse":
            self.log(f"training accuracy ended at {self.history[-1]['train_acc']:.2%}: the terminal phase was not reached; "
                     "train for more --epochs")

    def log(self, text, quiet=False):
        """Print, unless a progress bar shows it already, and keep in the log file."""
        if not quiet or not sys.stderr.isatty():
            print(text, flush=True)
        with open(self.files["log"], "a", encoding="utf-8") as file:
            file.write(text + "\n")


def has_bfloat16(device):
    """Whether the device multiplies bfloat16 matrices natively, so that autocast gains."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()


def make_optimizer(recipe, network):
    """SGD with momentum, or AdamW; fused where the device has it."""
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(network.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
                           nesterov=recipe.nesterov, fused=fused)


@contextlib.contextmanager
def signals(handler):
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C call `handler`; afterwards they do what they did before."""
    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


if __name__ == "__main__":
    cli.run(main)
