"""Data sets: a registry of ID and OOD sets, preprocessing and splits.

Every set becomes uint8 images (N, 3, S, S) in data-set order: what is small lives in memory, what
lies in files is decoded batch by batch (images/sets.py). A new set is a function here and a row
in ID or OOD."""

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from images import corruptions, lists, noise, odin_sets, openood
from images.corruptions import Corruption
from images.downloads import Published, fetched
from images.folders import absence, first_folder, listing, listing_hash, quoted
from images.places import image_set, labelled_list, without_broken
from images.preprocessing import Preprocessing
from images.sets import ImageFiles, Images, image_folder
from utils import SPLIT, SetName

STRAY_SHOWN = 10  # images outside every class folder that an error names
STATISTICS_BATCH = 64  # images that are in memory at once while their mean is measured
# classes of DTD that ImageNet has too
IN_IMAGENET = ("bubbly", "cobwebbed", "honeycombed", "spiralled")
VAL_SEED = 42  # the validation images are the same in every run, whatever its own seed


# ---- the registry's functions --------------------------------------------------------------------


def from_arrays(
    arrays: np.ndarray,
    labels: Any,
    class_names: Iterable[str],
    source: str,
    preprocessing: Preprocessing,
) -> Images:
    """uint8 (N, H, W, 3) or (N, H, W) arrays, labels (N,) -> Images at the preprocessing's size."""
    given = torch.from_numpy(np.ascontiguousarray(arrays))
    if given.ndim == 4:
        channels_first = given.permute(0, 3, 1, 2)
    else:
        channels_first = given.unsqueeze(1).expand(-1, 3, -1, -1)
    pixels = torch.cat([preprocessing.resize(part) for part in channels_first.split(2000)])
    return Images(
        pixels.contiguous(),
        torch.as_tensor(np.asarray(labels), dtype=torch.int64),
        list(class_names),
        source,
    )


def torchvision_set(name: str) -> Any:
    """The class of a data set; the package takes seconds to import, and folders do without."""
    from torchvision import datasets

    return getattr(datasets, name)


def cifar(
    split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike, name: str
) -> Images:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009)."""
    kind = torchvision_set({"cifar10": "CIFAR10", "cifar100": "CIFAR100"}[name])
    data_dir, base = absolute(data_dir), kind.base_folder
    files = {f"{base}/{file}": md5 for file, md5 in [*kind.train_list, *kind.test_list]}
    files[f"{base}/{kind.meta['filename']}"] = kind.meta["md5"]
    published = Published(
        name,
        name,
        data_dir,
        files,
        {kind.filename: kind.tgz_md5},
        f"{kind.filename} ({kind.url})",
        data_dir,
    )
    found = fetched(published, partial(kind, data_dir, train=split == "train"))
    return from_arrays(found.data, found.targets, found.classes, name, preprocessing)


def svhn(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    kind, data_dir = torchvision_set("SVHN"), absolute(data_dir)
    url, file, md5 = kind.split_list[split]
    published = Published(
        "svhn", "svhn", data_dir, {f"svhn/{file}": md5}, {}, f"{file} ({url})", data_dir / "svhn"
    )
    found = fetched(published, partial(kind, data_dir / "svhn", split=split))
    return from_arrays(
        found.data.transpose(0, 2, 3, 1), found.labels, map(str, range(10)), "svhn", preprocessing
    )


def mnist(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    kind, data_dir = torchvision_set("MNIST"), absolute(data_dir)
    archives = {f"MNIST/raw/{file}": md5 for file, md5 in kind.resources}
    files = dict.fromkeys(path.removesuffix(".gz") for path in archives)
    wanted = ", ".join(file for file, _ in kind.resources)
    published = Published(
        "mnist",
        "mnist",
        data_dir,
        files,
        archives,
        f"{wanted} ({kind.mirrors[0]})",
        data_dir / "MNIST" / "raw",
    )
    found = fetched(published, partial(kind, data_dir, train=split == "train"))
    return from_arrays(
        found.data.numpy(), found.targets, map(str, range(10)), "mnist", preprocessing
    )


def textures(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> ImageFiles:
    """All 5,640 images of DTD (Cimpoi et al. 2014), as OpenOOD takes them; none of them trains
    anything here."""
    kind, data_dir = torchvision_set("DTD"), absolute(data_dir)
    lists = dict.fromkeys(f"dtd/dtd/labels/{part}1.txt" for part in ("train", "val", "test"))
    archive = Path(kind._URL).name
    published = Published(
        "textures",
        "textures (DTD)",
        data_dir,
        lists,
        {f"dtd/{archive}": kind._MD5},
        f"{archive} ({kind._URL}), unpacked,",
        data_dir / "dtd",
    )
    if not dtd_images(data_dir).parent.is_dir():  # torchvision looks no further than this folder
        fetched(published, partial(kind, data_dir))
    check_listed(published)
    return image_folder(dtd_images(data_dir), preprocessing)


def textures_without(
    split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike
) -> ImageFiles:
    """The 5,160 images of DTD in the 43 classes that ImageNet does not have (Wang et al. 2022,
    ViM)."""
    images = textures(split, preprocessing, data_dir)
    kept = [row for row, path in enumerate(images.paths) if first_folder(path) not in IN_IMAGENET]
    names = [name for name in images.class_names if name not in IN_IMAGENET]
    return replace(images.take(kept), class_names=names)


def check_listed(published: Published) -> None:
    """ValueError if one of DTD's lists, or an image in a list, is missing: it was unpacked in
    part."""
    images = dtd_images(published.data_dir)
    lists = [published.data_dir / path for path in published.files]
    refuse_missing(published, lists, "lists")
    names = [name for file in lists for name in file.read_text(encoding="utf-8").split()]
    refuse_missing(published, [images / name for name in names], "images")


def refuse_missing(published: Published, expected: Sequence[Path], what: str) -> None:
    """ValueError if any of the expected files is missing."""
    missing = [path for path in expected if not path.is_file()]
    if not missing:
        return
    folder = quoted(dtd_images(published.data_dir).parent)
    raise ValueError(
        f"{published.title} is cut short: {len(missing):,} of its {len(expected):,} {what} are "
        f"missing, first {missing[0]}. Remove it with: rm -r {folder}; then get it anew with: "
        f"{published.command}, or {published.by_hand}"
    )


def dtd_images(data_dir: str | os.PathLike) -> Path:
    return absolute(data_dir) / "dtd" / "dtd" / "images"


def absolute(data_dir: str | os.PathLike) -> Path:
    """--data-dir as an absolute path: torchvision takes a folder named ~ for the home folder."""
    return Path(data_dir).absolute()


def digits(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels; a fixed, stratified third of them is
    the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found = load_digits()
    train, test = train_test_split(
        np.arange(len(found.target)), test_size=1 / 3, random_state=0, stratify=found.target
    )
    rows = np.sort(train if split == "train" else test)
    pixels = np.round(found.images[rows] * (255 / 16)).astype(np.uint8)
    return from_arrays(pixels, found.target[rows], map(str, range(10)), "digits", preprocessing)


def photos(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    """Patches of 64x64 pixels, every 32, of scikit-learn's two sample photographs; label 0 or 1 is
    the photograph."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    patches = [patches_of(image) for image in found.images]
    labels = np.repeat(np.arange(len(patches)), [len(part) for part in patches])
    names = [Path(name).stem for name in found.filenames]
    return from_arrays(
        np.concatenate(patches).transpose(0, 2, 3, 1), labels, names, "photos", preprocessing
    )


def patches_of(photo: np.ndarray) -> np.ndarray:
    """A photograph (H, W, 3) -> patches (n, 3, 64, 64), one every 32 pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(photo, (64, 64), (0, 1))
    return windows[::32, ::32].reshape(-1, 3, 64, 64)


def uniform(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    """1,000 images of independent uniform noise."""
    shape = (1000, preprocessing.size, preprocessing.size, noise.CHANNELS)
    return from_noise(noise.uniform(np.random.default_rng(0), shape), "uniform")


def gaussian(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> Images:
    """1,000 images of independent Gaussian noise around mid-grey, standard deviation 0.25, clipped
    to [0, 1]."""
    shape = (1000, preprocessing.size, preprocessing.size, noise.CHANNELS)
    return from_noise(noise.gaussian(np.random.default_rng(1), shape), "gaussian")


def noise10k(
    split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike, kind: str
) -> Images:
    """The 10,000 images that noise_ood_datasets_generator.py writes in this size by default."""
    drawn, side = noise.kinds()[kind], preprocessing.size
    pixels = np.empty((noise.COUNT, side, side, noise.CHANNELS), np.uint8)
    for index in range(noise.COUNT):
        pixels[index] = drawn.image(index, side)
    return from_noise(pixels, f"{kind}10k")


def from_noise(pixels: np.ndarray, source: str) -> Images:
    """uint8 noise (N, S, S, 3), drawn in the size of the network's input -> Images.

    Unlike a photograph it is never resized: that would make it smoother."""
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Images(channels_first, torch.full((len(pixels),), -1), [], source)


def odin_set(
    split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike, name: str
) -> ImageFiles:
    """A set that ODIN's authors published (Liang et al. 2018)."""
    return odin_sets.load(name, preprocessing, data_dir)


@dataclass(frozen=True)
class Dataset:
    """A row of the ID registry. mean and std are those of the training images, in [0, 1]."""

    load: Callable[..., Images | ImageFiles]  # (split, preprocessing, data_dir)
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_size: int
    held_out: tuple[str, ...] = ()
    ood: tuple[str, ...] = ()  # the OOD sets when none are named
    flip: bool = True  # whether a mirrored image is still of its class


ID = {
    "digits": Dataset(
        digits,
        16,
        (0.3054, 0.3054, 0.3054),
        (0.3186, 0.3186, 0.3186),
        val_size=96,
        held_out=("8", "9"),
        ood=("held_out", "photos", "uniform", "gaussian"),
        flip=False,
    ),
    "cifar10": Dataset(
        partial(cifar, name="cifar10"),
        32,
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        val_size=5000,
        ood=("cifar100", "svhn", "textures"),
    ),
    "cifar100": Dataset(
        partial(cifar, name="cifar100"),
        32,
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        val_size=5000,
        ood=("cifar10", "svhn", "textures"),
    ),
}
# and held_out: classes of the ID set itself; images/openood.py has those that lie in places below
# --data-dir, which `placed` finds
OOD: dict[str, Callable[..., Images | ImageFiles]] = {
    "svhn": svhn,
    "textures": textures,
    "textures43": textures_without,
    "cifar10": ID["cifar10"].load,
    "cifar100": ID["cifar100"].load,
    "mnist": mnist,
    "photos": photos,
    "uniform": uniform,
    "gaussian": gaussian,
    "uniform10k": partial(noise10k, kind="uniform"),
    "gaussian10k": partial(noise10k, kind="gaussian"),
    **{name: partial(odin_set, name=name) for name in odin_sets.SETS},
}


# ---- asking for a set ----------------------------------------------------------------------------


def check_id(asked: SetName) -> None:
    """ValueError for an ID set that is neither in the registry, nor a folder, nor lists."""
    if asked.folder is None and asked.name not in ID:
        raise ValueError(
            f"unknown data set {asked.text!r}; expected one of"
            f" {', '.join([*ID, *openood.ID_PLACES])}, or NAME=FOLDER with"
            " train/<class>/ and test/<class>/ in it, or NAME={split}.txt@ROOT, lists of images"
        )
    if asked.folder is not None and lists.parts(asked.folder) and not SPLIT.search(asked.folder):
        raise ValueError(
            f"{asked.folder} is one list, and an ID set has one of its training images and one of"
            " its test images: write {split} where their names differ, as in"
            f" {asked.name}={{split}}.txt@ROOT for train.txt and test.txt ({{split:val}}: val.txt"
            " holds the test images)"
        )


def id_set(
    asked: SetName,
    data_dir: str | os.PathLike,
    size: int | None = None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    skip_broken: bool = False,
) -> Dataset:
    """An ID set by its name, by a folder with train/<class>/ and test/<class>/ in it, or by lists.

    A folder's mean and std are measured on its training images, which decodes them all, unless
    `statistics` (mean, std) gives them. With `skip_broken` images that cannot be read are left out.
    Raises ValueError for an unknown name."""
    check_id(asked)
    if asked.folder is None:
        known = ID[asked.name]
        return replace(known, size=size or known.size)
    size, zeros = size or 32, (0.0, 0.0, 0.0)
    neutral_size = Preprocessing(size, zeros, zeros)
    train = own_images(asked, "train", neutral_size, skip_broken)

    def load(split: str, preprocessing: Preprocessing, data_dir: str | os.PathLike) -> ImageFiles:
        classes = None if split == "train" else train.class_names
        images = own_images(asked, split, preprocessing, skip_broken, classes)
        if images.source == train.source:  # what was decoded for the mean was hashed then
            images.hashes.update(train.hashes)
        return images

    load("test", neutral_size, data_dir)  # its faults show before any image is decoded
    mean, std = statistics or channel_statistics(train)
    return Dataset(load, size, mean, std, val_size=len(train) // 10)


def refuse_few_classes(place: str, count: int) -> None:
    """ValueError for training images, in a folder or list, of fewer than two classes."""
    if count >= 2:
        return
    if lists.parts(place):
        raise ValueError(f"{place} has images of {count} class; expected labels of at least two")
    raise ValueError(
        f"{place} must hold one folder of images per class, at least two; found {count} class"
        " folders"
    )


def own_images(
    asked: SetName,
    split: str,
    preprocessing: Preprocessing,
    skip_broken: bool,
    classes: Sequence[str] | None = None,
) -> ImageFiles:
    """The "train" or "test" images of an ID set that lies in folders or lists. `classes` are those
    of the training images, None for these themselves."""
    place, train = str(asked.split(split).folder), str(asked.split("train").folder)
    if lists.parts(place):
        names = None if split == "train" else lists.classes(lists.read(train))
        images = labelled_list(place, preprocessing, names, skip_broken)
        refuse_few_classes(train, len(images.class_names))
        return images
    check_split(asked, split)
    images = image_folder(place, preprocessing, classes)
    refuse_few_classes(train, len(images.class_names))
    refuse_strays(images)
    return without_broken(images) if skip_broken else images


def check_split(asked: SetName, split: str) -> None:
    """ValueError if there is no FOLDER/train, or no FOLDER/test and no FOLDER/val in its place."""
    place = Path(str(asked.split(split).folder))
    if place.is_dir():
        return
    folder = asked.folder
    raise ValueError(
        f"{place} {absence(place)}; expected {folder}/train and {folder}/test (or, as ImageNet has"
        f" it, {folder}/val) with one folder of images per class"
    )


def refuse_strays(images: ImageFiles) -> None:
    """ValueError if images of an ID set lie beside its class folders: they have no class."""
    stray = [path for path in images.paths if "/" not in path]
    if not stray:
        return
    files = " ".join(quoted(images.root / path) for path in stray[:STRAY_SHOWN])
    more = f" and {len(stray) - 1:,} more" if len(stray) > 1 else ""
    raise ValueError(
        f"{images.root} holds {stray[0]}{more} beside its class folders, and an image there has"
        f" no class; move it into one, or out of {images.root.name} with: mv -n {files}"
        f" {quoted(images.root.parent)}"
    )


def channel_statistics(
    images: Images | ImageFiles,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels, in [0, 1], exact: from the
    histogram of uint8."""
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for batch in images.batches(STATISTICS_BATCH):
        channels = [batch[:, channel].flatten() for channel in range(3)]
        counts += torch.stack([torch.bincount(values, minlength=256) for values in channels])
    values = torch.arange(256) / 255.0
    share = counts / counts.sum(1, keepdim=True)
    mean = (share * values).sum(1)
    mean_square = (share * values**2).sum(1)
    std = (mean_square - mean**2).sqrt()
    # A channel that never changes is only centred.
    means = tuple(round(x, 4) for x in mean.tolist())
    deviations = tuple(round(x, 4) or 1.0 for x in std.tolist())
    return means, deviations


def load_id(
    dataset: Dataset,
    split: str,
    preprocessing: Preprocessing,
    data_dir: str | os.PathLike,
    held_out: Collection[str] = (),
) -> Images | ImageFiles:
    """The train or test images of an ID set without its held-out classes.

    The remaining classes are numbered without gaps. ValueError for an unknown held-out class, and
    if fewer than two classes remain."""
    images = dataset.load(split, preprocessing, data_dir)
    unknown = set(held_out) - set(images.class_names)
    if unknown:
        raise ValueError(
            f"held-out class {sorted(unknown)[0]!r} is not among the classes:"
            f" {', '.join(images.class_names)}"
        )
    if not held_out:
        return images
    kept = [index for index, name in enumerate(images.class_names) if name not in held_out]
    if len(kept) < 2:
        raise ValueError(
            f"holding out {', '.join(held_out)} leaves {len(kept)} classes to train on; at least 2"
            " are needed"
        )
    number = torch.full((len(images.class_names),), -1)
    number[kept] = torch.arange(len(kept))
    images = images.take(torch.isin(images.labels, torch.tensor(kept)).nonzero()[:, 0])
    return replace(
        images,
        labels=number[images.labels],
        class_names=[images.class_names[index] for index in kept],
    )


def load_corrupted(
    dataset: Dataset,
    corruption: Corruption,
    preprocessing: Preprocessing,
    data_dir: str | os.PathLike,
    held_out: Collection[str] = (),
) -> Images | ImageFiles:
    """The test images of an ID set, corrupted, with their classes."""
    changed = replace(preprocessing, corruption=corruption)
    return load_id(dataset, "test", changed, data_dir, held_out)


def load_labelled(
    asked: SetName,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    skip_broken: bool = False,
) -> ImageFiles:
    """Images of the classes that a network knows, in one folder per class or in a list, whose
    labels number these names.

    ValueError for images beside the class folders, and for other classes."""
    place = str(asked.folder)
    if lists.parts(place):
        names = dict(enumerate(class_names))
        return labelled_list(place, preprocessing, names, skip_broken)
    unknown = [name for name in class_folders(place) if name not in class_names]
    if unknown:
        raise ValueError(
            f"{place} has the class folder {unknown[0]!r}{and_more(unknown)}, which the network"
            f" does not know: expected some of {', '.join(class_names[:5])} ..., for images under"
            f" {asked.name} count as in-distribution; those of other classes are an OOD set:"
            f" --ood {asked}"
        )
    images = image_folder(place, preprocessing, class_names)
    refuse_strays(images)
    return without_broken(images) if skip_broken else images


def class_folders(place: str) -> list[str]:
    """The first level of folders with images below a place."""
    return sorted(set(map(first_folder, listing(place).paths)) - {""})


def and_more(names: Sequence[str]) -> str:
    """ " and 2 more" of those behind the first."""
    return f" and {len(names) - 1:,} more" if len(names) > 1 else ""


def check_csid(sets: Sequence[SetName], others: Sequence[SetName]) -> None:
    """ValueError, before any long work, for sets under covariate shift that are neither a
    corruption nor in a place that is there, or whose name another set has."""
    names = [asked.name for asked in (*sets, *others)]
    for asked in sets:
        if names.count(asked.name) > 1:
            raise ValueError(
                f"--csid {asked}: {asked.name} names two sets; give each a name of its own"
            )
        if asked.folder is None and corruptions.parse(asked.name) is None:
            raise ValueError(
                f"--csid {asked}: expected NAME=FOLDER with one folder of images per class, or a"
                f" corruption of the ID test images: {corruptions.known()}"
            )
        if asked.folder is not None:
            check_place(asked, f"--csid {asked}")


def check_place(asked: SetName, flag: str) -> None:
    """ValueError where the folder or list of a set is not there."""
    folder = str(asked.folder)
    if lists.exists(folder):
        return
    if found := lists.parts(folder):
        lists.check_place(*found)
    raise ValueError(f"{flag}: {folder} {absence(folder)}; expected one folder of images per class")


def load_ood(
    asked: SetName,
    dataset: Dataset | None,  # None will do, but for held_out
    preprocessing: Preprocessing,
    data_dir: str | os.PathLike,
    held_out: Sequence[str] = (),
    skip_broken: bool = False,
) -> Images | ImageFiles:
    """An OOD set's test images, of the registry, of a folder or of a list.

    held_out is the test images of the classes left out of training. Every label is -1: none of
    these images is of a class that the network knows. `class_names` names the set's own classes,
    for information; of images in files, the first folder in `path` says which class each belongs
    to."""
    images: Images | ImageFiles
    if asked.folder is not None:
        images = image_set(asked.folder, preprocessing, skip_broken)
    elif asked.is_held_out:
        assert dataset is not None
        images = held_out_images(dataset, preprocessing, data_dir, held_out)
    else:
        images = OOD[asked.name]("test", preprocessing, data_dir)
        if skip_broken and isinstance(images, ImageFiles):
            images = without_broken(images)
    return replace(images, labels=torch.full_like(images.labels, -1))


def held_out_images(
    dataset: Dataset,
    preprocessing: Preprocessing,
    data_dir: str | os.PathLike,
    held_out: Sequence[str],
) -> Images | ImageFiles:
    """The test images of the classes that were left out of training."""
    images = dataset.load("test", preprocessing, data_dir)
    left_out = torch.tensor([images.class_names.index(name) for name in held_out])
    rows = torch.isin(images.labels, left_out).nonzero()[:, 0]
    return replace(images.take(rows), class_names=list(held_out))


def source_of(place: SetName, data_dir: str | os.PathLike) -> str | None:
    """The `source` of a set, without loading its pixels; None where its files are gone.

    The images of an ID set in a folder lie in two places, NAME=FOLDER/train and NAME=FOLDER/test.
    held_out has the source of the ID set's test images.
    """
    folder = folder_of(place, data_dir)
    return place.name if folder is None else listing_hash(folder)


def folder_of(place: SetName, data_dir: str | os.PathLike) -> str | Path | None:
    """Where the images of a set lie, a folder or LIST.txt@ROOT; None where no files are read."""
    if place.folder is not None:
        return place.folder
    if place.name in ("textures", "textures43"):
        return dtd_images(data_dir)
    if place.name in odin_sets.SETS:
        return odin_sets.folder_of(place.name, data_dir)
    return None


@dataclass(frozen=True)
class Placed:
    """OOD sets as they lie: what was asked for, with the place of each that has one."""

    sets: list[SetName]
    said: list[str]  # what a person should know of it
    absent: list[Path]  # where members of a group were looked for and are not


def placed(
    sets: Sequence[SetName],
    id_name: str,
    data_dir: str | os.PathLike,
    made: dict[str, SetName] | None = None,
) -> Placed:
    """OOD sets as a person names them -> the sets that they stand for: openood becomes its members,
    and a known name the folder or list where its images lie.

    `made` {name: the set} are those whose features are at hand, so that their images may be gone.
    ValueError that says of all names that lead to no images where to get and where to put them."""
    made, found = made or {}, Placed([], [], [])
    lost = []
    for asked in sets:
        is_own = asked.folder is not None
        if not is_own and asked.name == openood.GROUP:
            group = openood.members(id_name, data_dir, made)
            found.sets.extend(group.sets)
            found.said.extend(group.said)
            found.absent.extend(group.absent)
        elif is_own or asked.name not in openood.SETS:
            found.sets.append(asked)
        elif place := openood.find(asked.name, id_name, data_dir):
            found.sets.append(SetName(f"{asked.name}={place}", asked.name, place))
        elif asked.name in made:
            found.sets.append(made[asked.name])
        else:
            lost.append(asked.name)
    if lost:
        raise ValueError(openood.remedy(lost, id_name, data_dir))
    for asked in found.sets:
        if asked not in sets and asked.folder:
            found.said.append(f"{asked.name}: {asked.folder}")
    return found


def check_ood(
    sets: Sequence[SetName],
    dataset_name: str,
    data_dir: str | os.PathLike,
    held_out: Collection[str] = (),
    kept: Collection[SetName] = (),
) -> None:
    """Refuse, before any long work, OOD sets that are unknown, repeated, or the ID set itself, and
    those that no download brings and that are not there.

    The folders of `kept` ones, whose features are at hand, may be gone.
    """
    names = [asked.name for asked in sets]
    for asked in sets:
        name, folder = asked.name, asked.folder
        if folder is None:
            check_known(asked)
        if name == dataset_name:
            raise ValueError(
                f"{name} is the in-distribution set of this checkpoint; it cannot be its own"
                " OOD set"
            )
        if asked.is_held_out and not held_out:
            raise ValueError(
                "held_out needs classes that were left out of training; train with --held-out"
                " CLASS ..."
            )
        if names.count(name) > 1:
            raise ValueError(f"the OOD set {name} is named twice")
        if folder is None or asked in kept or lists.exists(folder):
            continue
        if found := lists.parts(folder):
            lists.check_place(*found)
        else:
            raise ValueError(
                f"{folder} {absence(folder)}; expected the folder of images of the OOD set "
                f"{name}, or one image"
            )
    wanted = [asked.name for asked in sets if asked.folder is None and asked not in kept]
    odin_sets.refuse_absent([name for name in wanted if name in odin_sets.SETS], data_dir)


def check_known(asked: SetName) -> None:
    """ValueError for an OOD set that is not in the registry."""
    known = [*OOD, *openood.SETS, openood.GROUP, "held_out"]
    if asked.name in known:
        return
    meant = odin_sets.named_by_folder(asked.name)
    hint = f"; ODIN's {asked.text} is called {meant} here: --ood {meant}" if meant else ""
    raise ValueError(
        f"unknown OOD set {asked.text!r}; expected one of {', '.join(known)}, or NAME=FOLDER{hint}"
    )


def split_validation(count: int, val_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(training indices, validation indices) of `count` images, as random_split draws them under
    seed 42."""
    if not 0 <= val_size < count:
        raise ValueError(
            f"--val-size {val_size} leaves no image to train on: the training set has {count}"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(VAL_SEED))
    return order[: count - val_size], order[count - val_size :]
