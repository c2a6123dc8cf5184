"""Scores as operators of a graph, each the formula of the function of scores/ that it stands for.

    values = Values(builder, features, head)
    found = score("ViM", values, state)      # (n,) float64, higher = more in-distribution

As there, products are float32 and what follows a product is float64. A form belongs to the function
that finishes a score, so that variants of a method share it. The methods that search training
features, and a few others, have none."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from arrays import SMALLEST
from head import Head
from networks.onnx_building import Builder, Value
from scores import class_means, gaussians, geometry, logits, registry, shaping
from scores.common import Fitted
from scores.rows import LinearMethod, Method, PlainMethod

# (what an image's features give, the projection of a linear method or None, state) -> (n,)
Form = Callable[["Values", Any, Fitted], Value]


@dataclass(frozen=True, eq=False)
class Values:
    """What scores are made of, each made once: features (n, D), logits (n, C), and the like."""

    builder: Builder
    features: Value
    head: Head | None
    width: int
    projections: dict[str, Value] = field(default_factory=dict)

    @cached_property
    def logits(self) -> Value:
        """(n, C) float32, of the detector's classes."""
        assert self.head is not None, "a method that needs none asks for none"
        return self.features @ self.head.W.T + self.head.b

    @property
    def classes(self) -> int:
        assert self.head is not None
        return len(self.head.W)

    @cached_property
    def log_softmax(self) -> Value:
        """(n, C) float64."""
        return self.logits.double() - logsumexp(self.logits, self.classes).column()

    @cached_property
    def energy(self) -> Value:
        """(n,) float64."""
        return logsumexp(self.logits, self.classes)

    @cached_property
    def largest_logit(self) -> Value:
        """(n,) float64."""
        return self.logits.row_max().double()

    @cached_property
    def predicted(self) -> Value:
        """(n,) the number of the largest logit."""
        return self.logits.row_argmax()

    @cached_property
    def unit(self) -> Value:
        """(n, D) float32: the features at length 1; NaN where they are 0, or nearly so."""
        length = norm(self.features, self.width)
        direction = length.or_nan(length > SMALLEST)
        return self.features / self.single(direction).column()

    @cached_property
    def length(self) -> Value:
        """(n,) float64: the L1 norm of the features."""
        return self.features.abs().double().row_sum(self.width)

    def single(self, value: Value) -> Value:
        """The same numbers in float32."""
        single = self.builder.onnx.TensorProto.FLOAT
        return self.builder.apply("Cast", [value], np.float32, to=single)

    def projected(self, state: Fitted, unit: bool) -> Value:
        """(n, k) float32: the product of a linear method."""
        rows = self.unit if unit else self.features
        centred = rows - state.centre.astype(np.float32)
        return centred @ state.matrix + state.offset.astype(np.float32)


def norm(rows: Value, width: int) -> Value:
    """(n, width) float32 -> (n,) float64, Euclidean."""
    return (rows * rows).row_sum(width).sqrt().double()


def logsumexp(rows: Value, width: int) -> Value:
    """(n, width) -> (n,) float64, shifted by the maximum."""
    doubled = rows.double()
    top = doubled.row_max()
    shifted = (doubled - top.column()).exp()
    return top + shifted.row_sum(width).log()


# ---- of the logits -------------------------------------------------------------------------------


def msp(values: Values, _: Any, state: Fitted) -> Value:
    return (values.largest_logit - values.energy).exp()


def max_logit(values: Values, _: Any, state: Fitted) -> Value:
    return values.largest_logit


def energy(values: Values, _: Any, state: Fitted) -> Value:
    temperature = state.parameters["temperature"]
    divided = values.logits.double() / temperature
    return logsumexp(divided, values.classes) * temperature


def entropy(values: Values, _: Any, state: Fitted) -> Value:
    logarithms = values.log_softmax
    return (logarithms.exp() * logarithms).row_sum(values.classes)


def generalised_entropy(values: Values, _: Any, state: Fitted) -> Value:
    gamma, top = state.parameters["gamma"], state.parameters["top"]
    logarithms = values.log_softmax.largest(top)[0]
    probabilities = logarithms.exp()
    others = -(probabilities - 1)
    return -(probabilities * others).power(gamma).row_sum(top)


def temperature_scaled(values: Values, _: Any, state: Fitted) -> Value:
    divided = values.logits.double() / state.parameters["temperature"]
    return (divided.row_max() - logsumexp(divided, values.classes)).exp()


def kl_matching(values: Values, _: Any, state: Fitted) -> Value:
    logarithms = values.log_softmax
    probabilities = logarithms.exp()
    likeness = probabilities @ state.log_typical.T
    return likeness.row_max() - (probabilities * logarithms).row_sum(values.classes)


def gradnorm(values: Values, _: Any, state: Fitted) -> Value:
    gaps = (values.log_softmax.exp() - 1 / values.classes).abs()
    return gaps.row_sum(values.classes) * values.length


def logit_gap(values: Values, _: Any, state: Fitted) -> Value:
    top = state.parameters["top"]
    largest = values.logits.largest(top + 1)[0].double()
    maxima = largest.row_max()
    others = largest.row_sum(top + 1) - maxima
    return maxima - others / top


def energy_margin(values: Values, others: Value, state: Fitted) -> Value:
    return values.energy - logsumexp(others, state.matrix.shape[1])


def full_energy(values: Values, others: Value, state: Fitted) -> Value:
    energy_of_others = logsumexp(others, state.matrix.shape[1])
    gap = (values.energy - energy_of_others).abs()
    larger = (values.energy + energy_of_others + gap) * 0.5
    return larger + ((-gap).exp() + 1).log()


# ---- of shaped activations -----------------------------------------------------------------------


def react(values: Values, _: Any, state: Fitted) -> Value:
    threshold = values.builder.constant(state.threshold, np.float32)
    clipped = values.builder.apply("Min", [values.features, threshold], np.float32)
    return logsumexp(clipped @ state.W.T + state.b, values.classes)


def scale(values: Values, _: Any, state: Fitted) -> Value:
    kept = shaping.kept_of(values.width, state)
    sum_of_all = values.features.double().row_sum(values.width)
    sum_of_kept = values.features.largest(kept)[0].double().row_sum(kept)
    factor = (sum_of_all / sum_of_kept).exp().column()
    scaled = (values.logits - state.b).double() * factor
    return logsumexp(scaled + state.b, values.classes)


def lts(values: Values, _: Any, state: Fitted) -> Value:
    kept = shaping.kept_of(values.width, state)
    zero = values.builder.constant(0, np.float32)
    activations = values.builder.apply("Max", [values.features, zero], np.float32)
    sum_of_all = activations.double().row_sum(values.width)
    factor = sum_of_all / activations.largest(kept)[0].double().row_sum(kept)
    scaled = values.logits.double() * (factor * factor).column()
    return logsumexp(scaled, values.classes)


def dice(values: Values, sparse_logits: Value, state: Fitted) -> Value:
    return logsumexp(sparse_logits, values.classes)


# ---- of distances --------------------------------------------------------------------------------


def nearest_square(whitened: Value, means: np.ndarray) -> Value:
    """(n, r) -> (n,) the squared distance to the nearest of means (C, r)."""
    halves = 0.5 * np.einsum("cr,cr->c", means, means)
    nearest = (whitened @ means.T - halves).row_argmax().picks(means)
    return square(whitened - nearest, means.shape[1])


def square(rows: Value, width: int) -> Value:
    """(n, width) float32 -> (n,) float64, the squared length."""
    length = norm(rows, width)
    return length * length


def mahalanobis(values: Values, whitened: Value, state: Fitted) -> Value:
    return -nearest_square(whitened, state.means)


def relative_mahalanobis(values: Values, whitened: Value, state: Fitted) -> Value:
    rank, columns = state.means.shape[1], state.matrix.shape[1]
    if columns > rank:
        to_mean = square(whitened.columns(rank, columns), columns - rank)
    else:
        to_mean = square(whitened * np.sqrt(state.precisions), rank)
    return to_mean - nearest_square(whitened.columns(0, rank), state.means)


def wdiscood(values: Values, whitened: Value, state: Fitted) -> Value:
    dim, columns = state.parameters["dim"], state.matrix.shape[1]
    to_class = nearest_square(whitened.columns(0, dim), state.means).sqrt()
    if dim == columns:
        return -to_class
    rest = norm(whitened.columns(dim, columns), columns - dim)
    return -to_class - rest * state.parameters["weight"]


def residual(values: Values, rest: Value, state: Fitted) -> Value:
    return -norm(rest, state.matrix.shape[1])


def vim(values: Values, rest: Value, state: Fitted) -> Value:
    return values.energy - norm(rest, state.matrix.shape[1]) * state.alpha


def neco(values: Values, components: Value, state: Fitted) -> Value:
    whole = norm((values.features - state.shift) / state.scale, values.width)
    share = norm(components, state.matrix.shape[1]) / whole
    return share * values.largest_logit if state.parameters["max_logit"] else share


def nci(values: Values, _: Any, state: Fitted) -> Value:
    inner_product = values.largest_logit - values.predicted.picks(state.base).double()
    proximity = inner_product / norm(values.features - state.mean, values.width)
    return proximity + values.length * state.parameters["alpha"]


def fdbd(values: Values, _: Any, state: Fitted) -> Value:
    margins = -(values.logits - values.logits.row_max().column()).double()
    distances = (margins / values.predicted.picks(state.gaps)).row_sum(values.classes)
    return distances / (values.classes - 1) / norm(values.features - state.mean, values.width)


# ---- of class means ------------------------------------------------------------------------------


def she(values: Values, _: Any, state: Fitted) -> Value:
    products = values.features * values.predicted.picks(state.patterns)
    return products.row_sum(values.width).double()


def caref(values: Values, _: Any, state: Fitted) -> Value:
    errors = values.features - values.predicted.picks(state.means)
    return -errors.abs().double().row_sum(values.width) / values.length


def cadref(values: Values, _: Any, state: Fitted) -> Value:
    errors = values.features - values.predicted.picks(state.means)
    errors = errors * values.predicted.picks(state.signs.astype(np.float32))
    signed = errors.double().row_sum(values.width)
    whole = errors.abs().double().row_sum(values.width)
    along, against = (whole + signed) * 0.5, (whole - signed) * 0.5
    evidence = values.energy.or_nan(values.energy > 0)
    return -(along / evidence + against / state.mean_energy) / values.length


def cosine(values: Values, cosines: Value, state: Fitted) -> Value:
    return cosines.row_max().double()


def ctm(values: Values, _: Any, state: Fitted) -> Value:
    products = values.unit * values.predicted.picks(state.directions)
    return products.row_sum(values.width).double()


FORMS: dict[Any, Form] = {
    logits.msp_score: msp,
    logits.max_logit_score: max_logit,
    logits.energy_score: energy,
    logits.entropy_score: entropy,
    logits.gen_score: generalised_entropy,
    logits.temperature_score: temperature_scaled,
    logits.kl_matching_score: kl_matching,
    logits.gradnorm_score: gradnorm,
    logits.logit_gap_score: logit_gap,
    logits.energy_margin_finish: energy_margin,
    logits.full_energy_finish: full_energy,
    shaping.react_score: react,
    shaping.scale_score: scale,
    shaping.lts_score: lts,
    shaping.dice_finish: dice,
    gaussians.mahalanobis_finish: mahalanobis,
    gaussians.relative_mahalanobis_finish: relative_mahalanobis,
    gaussians.wdiscood_finish: wdiscood,
    geometry.residual_finish: residual,
    geometry.vim_finish: vim,
    geometry.neco_finish: neco,
    geometry.nci_score: nci,
    geometry.fdbd_score: fdbd,
    geometry.she_score: she,
    class_means.caref_score: caref,
    class_means.cadref_score: cadref,
    class_means.cosine_finish: cosine,
    class_means.ctm_score: ctm,
}


def finishing(method: Method) -> Any:
    """The function that ends a score, which its form stands for."""
    if isinstance(method, LinearMethod):
        return method.finish
    return method.compute if isinstance(method, PlainMethod) else None


def known() -> list[str]:
    """The methods that have a form."""
    return [name for name, method in registry.METHODS.items() if finishing(method) in FORMS]


def check(name: str) -> None:
    """ValueError for a method that has no form."""
    if name not in known():
        raise ValueError(
            f"{name} cannot be written as ONNX; --method names one that can: {', '.join(known())}"
        )


def score(name: str, values: Values, state: Fitted) -> Value:
    """The score (n,) of a fitted method. ValueError for one that has no form."""
    check(name)
    method = registry.METHODS[name]
    form = FORMS[finishing(method)]
    projected = None
    if isinstance(method, LinearMethod):
        projected = values.projected(state, method.unit)
    return finite(form(values, projected, state))


def finite(values: Value) -> Value:
    """The numbers, with NaN for infinity, as scores.common.sound has it."""
    return values + (values - values)
