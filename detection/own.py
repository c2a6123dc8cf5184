"""A score of a person's own: --methods FILE.py:NAME, NAME a class with `fit` and `score`.

    class Toy:
        def fit(self, train):                   # a scores.training_set.Training: features (N, D),
            self.mean = train.mean              # labels (N,), W (C, D), b (C,), class_means ...

        def score(self, features, logits):      # (n, D), (n, C) -> (n,), higher: more ID
            return -((features - self.mean) ** 2).sum(axis=1)

Such a file is code, and runs with all rights of whoever starts the script: it is run only where the
person names it. `score` sees an image among others, block by block and from several threads, so it
changes nothing of the object, and the others change nothing of an image's score."""

import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from artifacts import records
from scores import registry
from scores.common import Fitted
from scores.rows import OWN, PlainMethod
from scores.training_set import Training

SMALL = 60  # random training images that a score is tried on, and as many others that it scores
CLASSES, WIDTH = 3, 8  # of them


def is_own(text: str) -> bool:
    """True if a method is named as FILE.py:NAME."""
    file, colon, name = text.rpartition(":")
    return bool(colon and name) and file.endswith(".py")


def parts(text: str) -> tuple[Path, str]:
    """ "my_score.py:Toy" -> the file's path, and "Toy", by which tables and figures call it."""
    file, _, name = text.rpartition(":")
    return Path(file), name


def register(text: str) -> str:
    """Run the file, try its score on a small set, and make it a method -> its name.

    ValueError for a file that is not there or fails, a name that another method has, an object
    without `fit` or `score`, and a score that is not one finite number per image.
    """
    file, name = parts(text)
    known = {registry.plain_name(method) for method in registry.ROWS if not _of_own(method)}
    if registry.plain_name(name) in known:
        raise ValueError(
            f"{text}: {name} is the name of a method that is there; give yours another"
        )
    if not name.isidentifier():
        raise ValueError(f"{text}: expected FILE.py:NAME with the name of a class, found {name!r}")
    maker = _maker(file, name, text)
    _try_small(maker, text)
    method = _as_method(maker, file, name, text)
    registry.METHODS[name] = registry.ROWS[name] = method
    return name


def names(methods: Iterable[str]) -> list[str]:
    """Those of the methods that are of a person's own file."""
    return [name for name in methods if _of_own(name)]


def _of_own(name: str) -> bool:
    return registry.ROWS[name].source == OWN


def _maker(file: Path, name: str, text: str) -> Callable[[], Any]:
    """The class; ValueError where there is none with `fit` and `score`."""
    if not file.is_file():
        raise ValueError(f"{text}: there is no file {file}")
    try:
        found = runpy.run_path(str(file)).get(name)
    except Exception as error:
        raise ValueError(f"{text}: {file} fails: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"{text}: {file} defines no class {name}")
    lacking = [part for part in ("fit", "score") if not callable(getattr(found, part, None))]
    if lacking:
        raise ValueError(
            f"{text}: {name} has no {' and no '.join(lacking)}; expected fit(train) and"
            " score(features, logits)"
        )
    return found


def _try_small(maker: Callable[[], Any], text: str) -> None:
    """Fit and score a small random set; ValueError for what a score must not do."""
    generator = np.random.default_rng(0)
    labels = np.arange(SMALL) % CLASSES
    centres = generator.normal(size=(CLASSES, WIDTH))
    features = np.maximum(centres[labels] + generator.normal(size=(SMALL, WIDTH)), 0)
    train = Training(features, labels, centres, np.zeros(CLASSES))
    other = generator.random((SMALL, WIDTH)).astype(np.float32)
    try:
        state = _fit(maker, train, {})
        together = _checked(state, other, train.logits(other), text)
        half = slice(0, SMALL // 2)
        apart = _checked(state, other[half], train.logits(other[half]), text)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{text}: fails on {SMALL} images of {WIDTH} features and {CLASSES} classes:"
            f" {type(error).__name__}: {error}"
        ) from error
    if not np.isfinite(together).all():
        raise ValueError(
            f"{text}: score is NaN or infinite for {np.count_nonzero(~np.isfinite(together))} of"
            f" {SMALL} plain images; expected a finite number for each"
        )
    if not np.allclose(together[half], apart, rtol=1e-3):
        raise ValueError(
            f"{text}: score changes with the images beside an image; expected each to be scored by"
            " itself, as by what fit keeps"
        )


def _fit(maker: Callable[[], Any], train: Training, parameters: dict[str, Any]) -> Fitted:
    scorer = maker()
    scorer.fit(train)
    return Fitted(parameters=parameters, scorer=scorer)


def _checked(state: Fitted, features: np.ndarray, logits: np.ndarray, text: str) -> np.ndarray:
    """The score as (n,) float64; ValueError for another shape."""
    values = np.asarray(state.scorer.score(features, logits), np.float64)
    if values.shape != (len(features),):
        raise ValueError(
            f"{text}: score gave shape {values.shape} for {len(features)} images; expected"
            f" ({len(features)},)"
        )
    return values


def _as_method(maker: Callable[[], Any], file: Path, name: str, text: str) -> PlainMethod:
    """The row of a score: what every table and figure goes by."""
    parameters = {"file": text, "sha256": records.sha256(file)}

    def fit(train: Training) -> Fitted:
        return _fit(maker, train, parameters)

    def compute(features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        return _checked(state, features, logits, text)

    return PlainMethod(
        name=name,
        does=f"the score of {text}",
        formula=text,
        source=OWN,
        link="",
        needs=(),
        fit=fit,
        compute=compute,
        variant=True,
    )
