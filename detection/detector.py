"""A fitted detector: how in-distribution an image looks, without the training images.

    detector = Detector.fit(features, labels, W, b, validation=(held_features, held_labels))
    detector.score(others)               # {"MSP": (N,), "ViM": (N,), ...}
    detector.predict(others)             # (N,): 1 accepted, -1 rejected, as scikit-learn has it
    detector.save("detector.safetensors")
    detector = Detector.load("detector.safetensors")

Its scores are those of scores.registry, to the bit. Thresholds, percentiles and p-values go by the
scores of ID images that no fit has seen: its calibration images. Nothing here imports torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from arrays import scorable_features
from detection import conformal, packing, recommending
from head import Head
from scores import registry, rows
from scores.common import Fitted

KEEP = 0.95  # the chance that an ID image is kept, unless another is asked for
RATES = (0.9, 0.95, 0.99)  # whose thresholds a file shows
ACCEPTED, REJECTED, UNDEFINED = "accepted", "rejected", "undefined"
REMEDY = "python ood_methods.py --checkpoint <its checkpoint>"
BANK = "it needs all training features: --with-bank keeps them"
PERTURBED = "it scores perturbed images, which take the network and its gradient"
CODE = "a score of a person's own is code, and a file of a detector holds none"
COMBINED = "it combines scores of the table"
EARLIER = (
    "an earlier run computed it, and its detector is not as it was written: --replace computes all"
    " anew"
)
Given = Mapping[str, Mapping[str, Any]]  # {method: {parameter: value}}


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What one method says of N images.

    score       (N,) float64, NaN where it is undefined
    verdict     [N] accepted, rejected, or undefined
    percentile  (N,) the share, in percent, of calibration images that score no higher
    p_value     (N,) of the hypothesis that the image is ID, as detection.conformal has it
    classes     [N] the names of the predicted classes; None without a head
    """

    method: str
    score: np.ndarray
    verdict: list[str]
    percentile: np.ndarray
    p_value: np.ndarray
    classes: list[str] | None

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, eq=False)
class Detector:
    """The fitted states of all methods, and what turns a score into a verdict.

    states         {method: its fitted state}
    width          D
    head           the last layer; None without one: then no class is predicted
    calibration    {method: (n,) ascending scores of ID images that no fit has seen}; no entry where
                   a score is undefined for one of them
    calibrated_on  which images these are: "validation" or "test"; "" without any
    method         the recommended one, and `reason` why
    left_out       {method that was asked for and is not here: why}
    facts          the network and how images are prepared for it, versions, the commit
    """

    states: dict[str, Fitted]
    width: int
    head: Head | None = None
    calibration: dict[str, np.ndarray] = field(default_factory=dict)
    calibrated_on: str = ""
    method: str = ""
    reason: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    # -- making one

    @classmethod
    def fit(
        cls,
        features: ArrayLike,
        labels: ArrayLike | None,
        W: ArrayLike | None = None,
        b: ArrayLike | None = None,
        *,
        class_names: Sequence[str] = (),
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        test: ArrayLike | None = None,
        rest: tuple[ArrayLike, ArrayLike] | None = None,
        methods: Iterable[str] | None = None,
        parameters: Given | None = None,
        with_bank: bool = False,
        facts: Mapping[str, Any] | None = None,
    ) -> "Detector":
        """Fit methods to training features (N, D), labels (N,), and the last layer W (C, D), b
        (C,). Labels may be None, and the last layer left out, for methods that need neither.

        validation  features (n, D), labels (n,) of ID images that trained nothing: for thresholds
        test        features (n, D) of other ID images, which calibrate where there is no validation
        rest        W (R, D), b (R,) of the classes of a larger head that the data has not
        methods     their names; default: all that can be fitted, without variants
        parameters  {method: {parameter: value}} in place of the authors' defaults
        with_bank   keep all training features, for KNN, NNGuide and Relation

        ValueError for arrays that do not fit together, unknown methods and parameters, methods that
        need what is not there, and a score of a person's own.
        """
        held = None if validation is None else tuple(map(np.asarray, validation))
        others = None if rest is None else tuple(map(np.asarray, rest))
        train = registry.Training(features, labels, W, b, held, others)  # type: ignore[arg-type]
        head = None
        if train.W is not None:
            head = Head(*train.last_layer, [str(name) for name in class_names])
        names = asked(methods, train, with_bank)
        given = {name: dict(values) for name, values in (parameters or {}).items()}
        states = registry.fit_all(train, names, given)
        on, calibrating = "", None
        if train.validation is not None:
            on, calibrating = "validation", train.validation[0]
        elif test is not None:
            on, calibrating = "test", np.asarray(test)
        scores = {}
        if calibrating is not None:
            scores = registry.score_all(calibrating, states, train.W, train.b)
        return cls.of(states, train.width, head, scores, on, with_bank, dict(facts or {}))

    @classmethod
    def of(
        cls,
        states: Mapping[str, Fitted],
        width: int,
        head: Head | None,
        scores: Mapping[str, np.ndarray],
        calibrated_on: str,
        with_bank: bool,
        facts: dict[str, Any],
        others: Iterable[str] = (),
    ) -> "Detector":
        """A detector of fitted states, and of `scores` {method: (n,)} of the images that it is
        calibrated on. Methods without a state of their own, among them `others`, are left out."""
        reasons = {name: why_left_out(name, with_bank) for name in [*states, *others]}
        left_out = {name: why for name, why in reasons.items() if why}
        for name in others:
            if name not in states:
                left_out.setdefault(name, why_without_state(name))
        kept = {name: state for name, state in states.items() if name not in left_out}
        calibration = {
            name: np.sort(values)
            for name, values in scores.items()
            if name in kept and not np.isnan(values).any()
        }
        usable = [name for name in kept if name in calibration] if scores else list(kept)
        method, reason = recommending.recommend(usable)
        return cls(kept, width, head, calibration, calibrated_on, method, reason, left_out, facts)

    # -- scores

    def score(
        self, features: ArrayLike, methods: Iterable[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Features (N, D) -> {method: (N,)}, higher = more in-distribution; of all methods, or of
        those that are named.

        A few score beside the method whose centre the product of all has, so that they come out as
        among all: about another centre, they differed by 1e-6 of their value."""
        names = list(self.states) if methods is None else [self.named(name) for name in methods]
        wanted = {*names, self.centring()}
        states = {name: state for name, state in self.states.items() if name in wanted}
        W, b = (None, None) if self.head is None else (self.head.W, self.head.b)
        found = registry.score_all(scorable_features(features, self.width), states, W, b)
        return {name: found[name] for name in names}

    def centring(self) -> str | None:
        """The first of the linear methods, about whose centre registry.score_all makes the product
        of all; None without any."""
        for name, state in self.states.items():
            row = registry.METHODS[name]
            if isinstance(row, rows.LinearMethod) and not row.unit and not state.undefined:
                return name
        return None

    def score_samples(self, features: ArrayLike, method: str | None = None) -> np.ndarray:
        """Features (N, D) -> the scores (N,) of one method, the recommended one unless named."""
        name = self.named(method)
        return self.score(features, [name])[name]

    def decision_function(
        self, features: ArrayLike, keep: float = KEEP, method: str | None = None
    ) -> np.ndarray:
        """(N, D) -> (N,): the score less the threshold, negative where an image is rejected."""
        return self.score_samples(features, method) - self.threshold(keep, method)

    def predict(
        self, features: ArrayLike, keep: float = KEEP, method: str | None = None
    ) -> np.ndarray:
        """(N, D) -> (N,): 1 for an image that is accepted, -1 for one that is not."""
        scores = self.score_samples(features, method)
        return np.where(scores >= self.threshold(keep, method), 1, -1)

    def verdicts(
        self, features: ArrayLike, keep: float = KEEP, method: str | None = None
    ) -> Verdicts:
        """Features (N, D) -> what one method, the recommended one unless named, says of them."""
        return self.judge(self.score_samples(features, method), np.asarray(features), keep, method)

    def judge(
        self,
        scores: np.ndarray,
        features: np.ndarray | None,
        keep: float = KEEP,
        method: str | None = None,
    ) -> Verdicts:
        """Scores (N,) and features (N, D) of the same images -> Verdicts, without classes where
        there are no features."""
        name = self.named(method)
        threshold = self.threshold(keep, name)
        held = self.calibration[name]
        classes = None
        if self.head is not None and features is not None:
            names = self.head.class_names
            classes = [names[number] for number in self.head.classify("", features)]
        return Verdicts(
            name,
            scores,
            [verdict(score, threshold) for score in scores],
            percentiles(scores, held),
            conformal.p_values(scores, held),
            classes,
        )

    # -- methods and thresholds

    def named(self, method: str | None) -> str:
        """A method of this detector by its published name, whatever its case and hyphens; the
        recommended one for None. ValueError for another."""
        if method is None:
            method = self.method
        if not method:
            raise ValueError(f"the detector recommends no method: {self.reason}")
        known = {registry.plain_name(name): name for name in self.states}
        found = known.get(registry.plain_name(method))
        if found is None:
            why = self.left_out.get(method, f"it has {', '.join(self.states) or 'none'}")
            raise ValueError(f"the detector has no method {method!r}: {why}")
        return found

    def threshold(self, keep: float = KEEP, method: str | None = None) -> float:
        """The highest threshold that keeps a new ID image with at least the chance `keep`: the
        conformal one, so that an image is rejected where its p-value is at most 1 - keep. Minus
        infinity where too few images calibrate to reject any."""
        name = self.named(method)
        held = self.calibration.get(name)
        if held is None:
            raise ValueError(f"{name} has no threshold: {self.why_uncalibrated()}")
        return conformal.marginal_threshold(held, 1 - keep).value

    def why_uncalibrated(self) -> str:
        """Why a method has no threshold, in words."""
        if self.calibrated_on:
            return f"it is undefined for some ID {self.calibrated_on} image"
        return "no ID images were given that no fit has seen, validation=(features, labels)"

    # -- the file

    def save(self, path: str | Path) -> None:
        """Write the detector as one safetensors file, whole or not at all."""
        arrays: packing.Arrays = {}
        packer = packing.Packer(arrays)
        fields = {**vars(self), "head": self.head and vars(self.head)}
        content = {name: packer.pack(value, name) for name, value in fields.items()}
        content["thresholds"] = packer.pack(self.threshold_table(), "thresholds")
        packing.write(path, content, arrays)

    def threshold_table(self) -> dict[str, dict[str, float]]:
        """{chance that an ID image is kept: {method: threshold}}, for readers of the file."""
        return {
            f"{keep:g}": {name: self.threshold(keep, name) for name in self.calibration}
            for keep in RATES
        }

    @classmethod
    def load(cls, path: str | Path, remedy: str = REMEDY) -> "Detector":
        """Read a detector. ValueError, with the command that makes it anew, for a file that is
        none, was changed, or is of a newer format."""
        content, arrays = packing.read(path, remedy)
        unpacker = packing.Unpacker(arrays)
        try:
            fields = {name: unpacker.unpack(part) for name, part in content.items()}
            del fields["thresholds"]  # which follow from the calibration
            if fields["head"] is not None:
                fields["head"] = Head(**fields["head"])
            found = cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no detector that this version reads ({error!r}); make it anew with:"
                f" {remedy}"
            ) from None
        for name in set(found.states) - set(registry.METHODS):
            del found.states[name]
            found.left_out[name] = "it is no method of this version"
        return found


# ---- which methods -------------------------------------------------------------------------------


def asked(methods: Iterable[str] | None, train: registry.Training, with_bank: bool) -> list[str]:
    """The methods to fit; ValueError for those that a detector cannot hold."""
    if methods is None:
        lacking = {"head": train.W is None, "labels": not train.labelled}
        return [
            name
            for name in registry.defaults(rest=train.rest is not None)
            if not any(lacking.get(need) for need in registry.ROWS[name].needs)
            and not why_left_out(name, with_bank)
        ]
    known = {registry.plain_name(name): name for name in registry.ROWS}
    names = [known.get(registry.plain_name(name), name) for name in methods]
    for name in names:
        if why := why_left_out(name, with_bank):
            raise ValueError(f"{name} cannot be kept in a detector: {why}")
    return names


def why_without_state(name: str) -> str:
    """Why a method of a table has no fitted state here."""
    if name in registry.METHODS:
        return EARLIER
    return COMBINED if name.startswith("mean(") else CODE


def why_left_out(name: str, with_bank: bool) -> str:
    """Why a detector does not hold a method, in words; "" where it does, or may."""
    if ".py:" in name:
        return CODE
    if name in [of_images.name for of_images in registry.OF_IMAGES]:
        return PERTURBED
    row = registry.METHODS.get(name)
    if row is None:
        return ""
    if row.source == rows.OWN:
        return CODE
    if row.bank and not with_bank:
        return BANK
    return ""


# ---- numbers of one image ------------------------------------------------------------------------


def verdict(score: float, threshold: float) -> str:
    """What a score means; undefined where it, or the threshold, is no number."""
    if np.isnan(score) or np.isnan(threshold):
        return UNDEFINED
    return ACCEPTED if score >= threshold else REJECTED


def percentiles(scores: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Scores (N,) and ascending calibration scores (n,) -> (N,) the share of these, in percent,
    that is no higher; NaN for NaN."""
    found = 100 * np.searchsorted(held, scores, "right") / len(held)
    return np.where(np.isnan(scores), np.nan, found)
