"""The scores, one row each: what flags, tables, tuning and the report say of a score.

A new score is a function, or two, in the file of its family and a row here. Nothing else names it.
"""

import inspect
import types
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from scores import (
    class_means,
    extremes,
    gaussians,
    geometry,
    logits,
    neighbours,
    sampled,
    shaping,
    subspaces,
)
from scores.common import (
    Fitted,
    LinearFinish,
    NeighbourFinish,
    Score,
    project,
    sound,
    unit_rows,
)
from scores.limits import LIMITS
from scores.training_set import Training

OWN = "a file of one's own"  # in place of the authors of a score that a person wrote
TRUE, FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


# ---- parameters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A parameter of a method: its name, type and default, read off the signature of `fit`.

    A default of None means that a rule on the ID data decides.
    """

    name: str
    kind: type
    default: Any

    @property
    def meaning(self) -> str:
        return LIMITS[self.name].meaning

    def parse(self, text: str) -> bool | int | float:
        """The value that a text gives; ValueError with what was expected."""
        if self.kind is bool:
            return parse_switch(text)
        value = self._parse_number(text)
        refusal = LIMITS[self.name].refusal(value)
        if refusal:
            raise ValueError(f"expected {refusal}, found {text}")
        return value

    def _parse_number(self, text: str) -> int | float:
        """A finite number of the parameter's kind."""
        wanted = "a whole number" if self.kind is int else "a number"
        try:
            value = self.kind(text)
        except ValueError:
            raise ValueError(f"expected {wanted}, found {text!r}") from None
        if not abs(value) < float("inf"):
            raise ValueError(f"expected {wanted}, found {text!r}")
        return value


def parse_switch(text: str) -> bool:
    """True of "true", "yes", "1" and "on", False of their opposites, whatever their case."""
    if text.lower() not in (*TRUE, *FALSE):
        raise ValueError(f"expected true or false, found {text!r}")
    return text.lower() in TRUE


def plain_type(annotation: Any) -> type:
    """int of `int`, and of `int | None`."""
    if isinstance(annotation, types.UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation


@dataclass(frozen=True)
class Grid:
    """What --val-ood tries: the default and a few values around it.

    Published searches are wider, but for ASH and SCALE.
    """

    parameter: str
    values: tuple[float, ...]


# ---- kinds of methods ----------------------------------------------------------------------------


class Fit(Protocol):
    """fit(train, **parameters) -> Fitted; its keywords are the method's parameters."""

    def __call__(self, train: Training, *args: Any, **parameters: Any) -> Fitted: ...


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a person should know of a score.

    name      as it was published
    does      what it measures, in one line
    formula   in the words of docs/methods.md
    source    authors, venue, year
    link      where the paper can be read
    needs     "head" and "labels": what the fit or the score cannot do without; "rest": the other
              rows of a head with more classes than the data; "images": it scores features of
              perturbed images, which are files of their own
    missing   why a single image may have no score
    """

    name: str
    does: str
    formula: str
    source: str
    link: str
    needs: tuple[str, ...] = ("head",)
    missing: str = "its score is not a finite number"


@dataclass(frozen=True, kw_only=True)
class Method(Description, ABC):
    """A score that is fitted to the training features.

    fit       fit(train, **parameters) -> Fitted
    grid      what --val-ood tries
    variant   of another row: computed only where it is asked for by name
    bank      the fitted state holds the training features

    Its three kinds differ in what they can share: a PlainMethod nothing, a LinearMethod a product
    with the features, a NeighbourMethod the search among the training features.
    """

    fit: Fit
    grid: Grid | None = None
    variant: bool = False
    bank: bool = False

    @property
    def described(self) -> dict[str, Parameter]:
        """{name: Parameter}, from the signature of `fit`."""
        found = {}
        for argument in inspect.signature(self.fit).parameters.values():
            if argument.default is not argument.empty:
                kind = plain_type(argument.annotation)
                found[argument.name] = Parameter(argument.name, kind, argument.default)
        return found

    @property
    def parameters(self) -> dict[str, Any]:
        """The defaults, {name: value}."""
        return {name: parameter.default for name, parameter in self.described.items()}

    def score(self, features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        """(N, D), (N, C) -> (N,), with no other method; NaN for what is not a finite number, and
        for all images where the fit left it undefined."""
        if state.undefined:
            return np.full(len(features), np.nan)
        return self.score_alone(features, logits, state)

    @abstractmethod
    def score_alone(self, features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        """The same of a state that is not undefined."""


@dataclass(frozen=True, kw_only=True)
class PlainMethod(Method):
    """compute(features (N, D), logits (N, C), fitted) -> (N,)."""

    compute: Score

    def score_alone(self, features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        return sound(self.compute, features, logits, state)


@dataclass(frozen=True, kw_only=True)
class LinearMethod(Method):
    """finish(projected (N, k), features (N, D), logits (N, C), fitted) -> (N,), where projected is
    the product of `common.project`, which all linear methods share; with `unit`, it is that of
    features of length 1."""

    finish: LinearFinish
    unit: bool = False

    def score_alone(self, features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        rows = unit_rows(features) if self.unit else features
        projected = sound(project, rows, state)
        return self.score_projected(projected, features, logits, state)

    def score_projected(
        self, projected: np.ndarray, features: np.ndarray, logits: np.ndarray, state: Fitted
    ) -> np.ndarray:
        """The score (N,) of features whose product is there already."""
        return sound(self.finish, projected, features, logits, state)


@dataclass(frozen=True, kw_only=True)
class NeighbourMethod(Method):
    """finish(near (N, k), logits (N, C), fitted) -> (N,), where near holds the largest similarities
    of each image to the training images, or all of them."""

    finish: NeighbourFinish
    bank: bool = True

    def searcher(self, state: Fitted) -> neighbours.Searcher:
        """What takes part in a search that several methods share."""
        return neighbours.Searcher(partial(sound, self.finish), state)

    def score_alone(self, features: np.ndarray, logits: np.ndarray, state: Fitted) -> np.ndarray:
        (values,) = neighbours.score_neighbours(features, logits, [self.searcher(state)])
        return values


# ---- the rows ------------------------------------------------------------------------------------

AT_MEAN = "its features are the training mean"
NO_DIRECTION = "its features are all 0, and have no direction"
NOTHING_KEPT = "the activations that are kept sum to 0"
NO_MEAN = "no training image is predicted as its class, or its features are all 0"
NO_ENERGY = f"its energy is not above 0, {NO_MEAN}"
AT_CLASS_MEANS = "its features are the mean of the class means"
NO_RESIDUAL = "its features, or the mean of its class, have no part orthogonal to the weights"
NO_WEAK_PART = "its likeness is not defined: the weak part of its features is 0, or one of training"
NO_PATTERN = "no training image of the class that it is predicted as is classified right"

ALL: tuple[Method, ...] = (
    PlainMethod(
        name="MSP",
        does="the confidence of the predicted class; the baseline",
        formula="max p, as exp(max l - lse(l))",
        source="Hendrycks and Gimpel, ICLR 2017",
        link="https://arxiv.org/abs/1610.02136",
        fit=logits.no_fit,
        compute=logits.msp_score,
    ),
    PlainMethod(
        name="MaxLogit",
        does="the largest logit, which keeps the length that softmax removes",
        formula="max l",
        source="Hendrycks et al., ICML 2022",
        link="https://arxiv.org/abs/1911.11132",
        fit=logits.no_fit,
        compute=logits.max_logit_score,
    ),
    PlainMethod(
        name="Energy",
        does="how much evidence there is for all classes together",
        formula="T lse(l / T), T the temperature",
        source="Liu et al., NeurIPS 2020",
        link="https://arxiv.org/abs/2010.03759",
        fit=logits.energy_fit,
        compute=logits.energy_score,
        grid=Grid("temperature", (0.5, 1, 2, 5, 10)),
    ),
    PlainMethod(
        name="Entropy",
        does="how concentrated the softmax is",
        formula="sum_c p_c log p_c, in nats",
        source="Chan et al., ICCV 2021",
        link="https://arxiv.org/abs/2012.06575",
        fit=logits.no_fit,
        compute=logits.entropy_score,
    ),
    PlainMethod(
        name="GEN",
        does="an entropy that is sharp about small probabilities, over the largest classes",
        formula="- sum of p_c^gamma (1 - p_c)^gamma over the `top` largest p_c",
        source="Liu et al., CVPR 2023",
        link="https://openaccess.thecvf.com/content/CVPR2023/html/"
        "Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_"
        "CVPR_2023_paper.html",
        fit=logits.gen_fit,
        compute=logits.gen_score,
        grid=Grid("gamma", (0.01, 0.1, 0.5, 1)),
    ),
    PlainMethod(
        name="TempScaling",
        does="the confidence after calibration on ID images",
        formula="max softmax(l / T); T minimises the cross-entropy of ID validation images, of "
        "training images without any",
        source="Guo et al., ICML 2017",
        link="https://arxiv.org/abs/1706.04599",
        fit=logits.temperature_fit,
        compute=logits.temperature_score,
        needs=("head", "labels"),
    ),
    PlainMethod(
        name="KLMatching",
        does="how like the softmax is to that of some class's training images",
        formula="- min_k KL(p to d_k); d_k the mean softmax of the training images predicted as k",
        source="Hendrycks et al., ICML 2022",
        link="https://arxiv.org/abs/1911.11132",
        fit=logits.kl_matching_fit,
        compute=logits.kl_matching_score,
    ),
    PlainMethod(
        name="GradNorm",
        does="how far the gradient moves that would make the softmax uniform",
        formula="(sum_c abs(p_c - 1/C)) |h|_1: the L1 norm of the gradient by W of the "
        "cross-entropy from the uniform distribution to p",
        source="Huang et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2110.00218",
        fit=logits.no_fit,
        compute=logits.gradnorm_score,
    ),
    PlainMethod(
        name="LogitGap",
        does="how far the largest logit stands out from those that follow it",
        formula="max l less the mean of the next `top` logits; 20% of C",
        source="LogitGap, NeurIPS 2025",
        link="https://arxiv.org/abs/2510.20134",
        fit=logits.logit_gap_fit,
        compute=logits.logit_gap_score,
    ),
    LinearMethod(
        name="EnergyMargin",
        does="how much more evidence there is for the data's classes than for the head's others",
        formula="lse(l) - lse(l'), l' the logits of the head's other classes; its logistic is the "
        "share of the softmax over all that falls to the data's",
        source="Jiang et al., ICLR 2024",
        link="https://arxiv.org/abs/2403.20078",
        fit=logits.other_rows_fit,
        finish=logits.energy_margin_finish,
        needs=("head", "rest"),
    ),
    PlainMethod(
        name="OpenMax",
        does="the confidence where unlikely distances of the logits count for an unknown class",
        formula="max_c v_c - log(sum_c exp v_c + exp v_0); v_c = l_c (1 - o_c F_c(|l - m_c|)), v_0 "
        "= sum_c l_c - v_c; m_c the mean logits of the right training images of class c, F_c the "
        "Weibull distribution of their `tail` largest distances to it, o_c = (top + 1 - rank) / "
        "top for the `top` largest logits, else 0",
        source="Bendale and Boult, CVPR 2016",
        link="https://arxiv.org/abs/1511.06233",
        fit=extremes.openmax_fit,
        compute=extremes.openmax_score,
        needs=("head", "labels"),
    ),
    PlainMethod(
        name="ReAct",
        does="the energy with unusually large activations clipped",
        formula="lse(W min(h, t) + b); t the percentile of all training activations",
        source="Sun et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2111.12797",
        fit=shaping.react_fit,
        compute=shaping.react_score,
        grid=Grid("percentile", (85, 90, 95, 99)),
    ),
    PlainMethod(
        name="VRA",
        does="the energy with small activations removed and large ones clipped, by feature",
        formula="lse(W h' + b); h'_d = 0 where h_d is below the percentile `low` of feature d in "
        "training, else min(h_d, its percentile `high`)",
        source="Xu et al., NeurIPS 2023",
        link="https://arxiv.org/abs/2302.11716",
        fit=shaping.vra_fit,
        compute=shaping.vra_score,
        grid=Grid("low", (50, 60, 65, 70)),
    ),
    PlainMethod(
        name="OptFS",
        does="the predicted class's logit of activations weighted by what their size is worth",
        formula="sum_d w_yd theta(h_d) h_d; theta constant in each of 100 bins of activations, in "
        "proportion to the mean of sum_d w_yd h_d there over training images",
        source="Zhao et al., ICLR 2024",
        link="https://arxiv.org/abs/2402.00865",
        fit=shaping.optfs_fit,
        compute=shaping.optfs_score,
    ),
    PlainMethod(
        name="ASH-P",
        does="the energy with the smallest activations of an image removed",
        formula="lse(W h' + b)",
        source="Djurisic et al., ICLR 2023",
        link="https://arxiv.org/abs/2209.09858",
        fit=shaping.ash_p_fit,
        compute=shaping.ash_p_score,
        grid=Grid("percentile", (65, 70, 75, 80, 85, 90, 95)),
    ),
    PlainMethod(
        name="ASH-B",
        does="the energy with the largest activations of an image made equal",
        formula="the same, with each kept activation replaced by (sum h) / k",
        source="Djurisic et al., ICLR 2023",
        link="https://arxiv.org/abs/2209.09858",
        fit=shaping.ash_b_fit,
        compute=shaping.ash_b_score,
        grid=Grid("percentile", (65, 70, 75, 80, 85, 90, 95)),
    ),
    PlainMethod(
        name="ASH-S",
        does="the energy with the smallest activations removed and the rest scaled up",
        formula="lse(W h' exp(sum h / sum h') + b)",
        source="Djurisic et al., ICLR 2023",
        link="https://arxiv.org/abs/2209.09858",
        fit=shaping.ash_s_fit,
        compute=shaping.ash_s_score,
        missing=NOTHING_KEPT,
        grid=Grid("percentile", (65, 70, 75, 80, 85, 90, 95)),
    ),
    PlainMethod(
        name="SCALE",
        does="the energy with activations scaled by how much the largest ones hold",
        formula="lse(W h exp(sum h / sum h') + b): ASH-S without the pruning",
        source="Xu et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.00227",
        fit=shaping.scale_fit,
        compute=shaping.scale_score,
        missing=NOTHING_KEPT,
        grid=Grid("percentile", (65, 70, 75, 80, 85, 90, 95)),
    ),
    PlainMethod(
        name="LTS",
        does="the energy of logits scaled by how much the largest activations hold",
        formula="lse(l (sum h / sum h')^2), negative activations counted as 0",
        source="Djurisic et al., 2024",
        link="https://arxiv.org/abs/2409.01175",
        fit=shaping.lts_fit,
        compute=shaping.lts_score,
        missing=NOTHING_KEPT,
        grid=Grid("percentile", (65, 70, 75, 80, 85, 90, 95)),
    ),
    LinearMethod(
        name="DICE",
        does="the energy through the weights that contribute most on training images",
        formula="lse(W' h + b); W' keeps the weights whose contribution w_cd mu_d is above the "
        "percentile of all",
        source="Sun and Li, ECCV 2022",
        link="https://arxiv.org/abs/2111.09805",
        fit=shaping.dice_fit,
        finish=shaping.dice_finish,
        grid=Grid("percentile", (10, 30, 50, 70, 90)),
    ),
    LinearMethod(
        name="Mahalanobis",
        does="the distance to the nearest class mean, by the spread within classes",
        formula="- min_c (h - mu_c)' Sigma_W^+ (h - mu_c)",
        source="Lee et al., NeurIPS 2018",
        link="https://arxiv.org/abs/1807.03888",
        fit=gaussians.mahalanobis_fit,
        finish=gaussians.mahalanobis_finish,
        needs=("labels",),
    ),
    LinearMethod(
        name="RelativeMahalanobis",
        does="the same less the distance to the mean of all, which many images share",
        formula="(h - mu)' Sigma^+ (h - mu) - min_c (h - mu_c)' Sigma_W^+ (h - mu_c)",
        source="Ren et al., 2021",
        link="https://arxiv.org/abs/2106.09022",
        fit=gaussians.relative_mahalanobis_fit,
        finish=gaussians.relative_mahalanobis_finish,
        needs=("labels",),
    ),
    LinearMethod(
        name="Mahalanobis++",
        does="Mahalanobis by the direction of the features alone",
        formula="as `Mahalanobis`, of h / |h| in training and test",
        source="Mueller and Hein, ICML 2025",
        link="https://arxiv.org/abs/2505.18032",
        fit=gaussians.mahalanobis_unit_fit,
        finish=gaussians.mahalanobis_finish,
        unit=True,
        needs=("labels",),
        missing=NO_DIRECTION,
    ),
    LinearMethod(
        name="RelativeMahalanobis++",
        does="RelativeMahalanobis by the direction of the features alone",
        formula="as `RelativeMahalanobis`, of h / |h| in training and test",
        source="Mueller and Hein, ICML 2025",
        link="https://arxiv.org/abs/2505.18032",
        fit=gaussians.relative_mahalanobis_unit_fit,
        finish=gaussians.relative_mahalanobis_finish,
        unit=True,
        needs=("labels",),
        missing=NO_DIRECTION,
    ),
    LinearMethod(
        name="WDiscOOD",
        does="the distance to the nearest class where classes differ, and to the mean elsewhere",
        formula="- (min_c |G'(x - x_c)| + weight |(I - G G')(x - x_mu)|); x, x_c, x_mu the "
        "whitened h, mu_c, mu, G the `dim` directions in which the x_c differ most",
        source="Chen et al., ICCV 2023",
        link="https://arxiv.org/abs/2303.07543",
        fit=gaussians.wdiscood_fit,
        finish=gaussians.wdiscood_finish,
        needs=("labels",),
        grid=Grid("weight", (0, 1, 5, 10)),
    ),
    LinearMethod(
        name="ViM",
        does="the energy less the part of the features that training images do not have",
        formula="lse(l) - alpha |R'(h - u)|",
        source="Wang et al., CVPR 2022",
        link="https://arxiv.org/abs/2203.10807",
        fit=geometry.vim_fit,
        finish=geometry.vim_finish,
    ),
    LinearMethod(
        name="Residual",
        does="how little of the features lies outside the training images' main directions",
        formula="- |R'(h - u)|",
        source="Wang et al., CVPR 2022",
        link="https://arxiv.org/abs/2203.10807",
        fit=geometry.residual_fit,
        finish=geometry.residual_finish,
        needs=(),
    ),
    LinearMethod(
        name="CoP",
        does="how little of the direction lies outside the training images' main directions",
        formula="- |R'(u - mu_u)|, u = h / |h|; R all principal directions of u but those that "
        "hold `share` of the variance",
        source="Fang et al., NeurIPS 2024",
        link="https://arxiv.org/abs/2402.02949",
        fit=geometry.cop_fit,
        finish=geometry.residual_finish,
        unit=True,
        needs=(),
        missing=NO_DIRECTION,
        grid=Grid("share", (0.7, 0.8, 0.85, 0.9, 0.95, 0.99)),
    ),
    LinearMethod(
        name="NECO",
        does="how much of the features lies in the training images' main directions",
        formula="|P'z| / |z|, z = (h - mu) / std; with `max_logit`, times max l",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=geometry.neco_fit,
        finish=geometry.neco_finish,
        needs=(),
        missing=AT_MEAN,
    ),
    PlainMethod(
        name="NCI",
        does="how well the centred features point to the predicted class's weights",
        formula="w_y . (h - mu) / |h - mu| + alpha |h|_1",
        source="Liu and Qin, CVPR 2025",
        link="https://arxiv.org/abs/2311.01479",
        fit=geometry.nci_fit,
        compute=geometry.nci_score,
        missing=AT_MEAN,
        grid=Grid("alpha", (0, 0.0001, 0.001, 0.01)),
    ),
    PlainMethod(
        name="fDBD",
        does="the mean distance to the decision boundaries, by the distance from the mean",
        formula="mean over c other than y of (l_y - l_c) / |w_y - w_c|, over |h - mu|",
        source="Liu and Qin, ICML 2024",
        link="https://arxiv.org/abs/2312.11536",
        fit=geometry.fdbd_fit,
        compute=geometry.fdbd_score,
        missing=AT_MEAN,
    ),
    PlainMethod(
        name="SHE",
        does="the likeness to the mean of the predicted class's right training images",
        formula="h . S_y; S_c the mean feature of the training images of class c that are "
        "classified right",
        source="Zhang et al., ICLR 2023",
        link="https://openreview.net/forum?id=KkazG4lgKL",
        fit=geometry.she_fit,
        compute=geometry.she_score,
        needs=("head", "labels"),
        missing=NO_PATTERN,
    ),
    PlainMethod(
        name="CARef",
        does="the error against the mean of the training images predicted alike",
        formula="- |h - m_y|_1 / |h|_1; m_c the mean feature of the training images predicted as c",
        source="Ling et al., CVPR 2025",
        link="https://arxiv.org/abs/2503.00325",
        fit=class_means.caref_fit,
        compute=class_means.caref_score,
        missing=NO_MEAN,
    ),
    PlainMethod(
        name="CADRef",
        does="that error in two parts, of which the one along the class's weights counts less the "
        "more evidence there is",
        formula="- (|relu(e)|_1 / lse(l) + |relu(-e)|_1 / E) / |h|_1; e = (h - m_y) sign(w_y), E "
        "the mean of lse(l) over training images",
        source="Ling et al., CVPR 2025",
        link="https://arxiv.org/abs/2503.00325",
        fit=class_means.cadref_fit,
        compute=class_means.cadref_score,
        missing=NO_ENERGY,
    ),
    LinearMethod(
        name="Cosine",
        does="the likeness in direction to the nearest class mean",
        formula="max_c h . mu_c / (|h| |mu_c|)",
        source="Demirel et al., NeurIPS 2025, as a baseline",
        link="https://arxiv.org/abs/2410.04525",
        fit=class_means.cosine_fit,
        finish=class_means.cosine_finish,
        unit=True,
        needs=("labels",),
        missing=NO_DIRECTION,
    ),
    PlainMethod(
        name="CTM",
        does="the likeness in direction to the mean of the predicted class",
        formula="h . mu_y / (|h| |mu_y|)",
        source="Ngoc-Hieu et al., 2023",
        link="https://arxiv.org/abs/2306.14920",
        fit=class_means.ctm_fit,
        compute=class_means.ctm_score,
        needs=("head", "labels"),
        missing="the predicted class has no mean, or its features are all 0",
    ),
    PlainMethod(
        name="ORA",
        does="the largest angle to a decision boundary, seen from the mean of the classes",
        formula="max over c other than y of the angle at mu_G between h and its projection onto "
        "the boundary of y and c",
        source="Demirel et al., NeurIPS 2025",
        link="https://arxiv.org/abs/2410.04525",
        fit=class_means.ora_fit,
        compute=class_means.ora_score,
        needs=("head", "labels"),
        missing=AT_CLASS_MEANS,
    ),
    LinearMethod(
        name="pNML",
        does="how little could be learned about the class from the image itself",
        formula="- log sum_c p_c / (p_c + (1 - p_c) p_c^g), p = softmax(W u + b), u = h / |h|; g "
        "the leverage of (1, u) on the training images",
        source="Bibas et al., NeurIPS 2021",
        link="https://arxiv.org/abs/2110.09246",
        fit=geometry.pnml_fit,
        finish=geometry.pnml_finish,
        unit=True,
        missing=NO_DIRECTION,
    ),
    PlainMethod(
        name="CORE",
        does="the energy, and the likeness to the class of what its weights do not see",
        formula="lse(l) and cos(r, r_y), each standardised on training images, added; r = h less "
        "its part along w_y, r_c = mu_c less its part along w_c; with `span`, less their parts in "
        "the span of all rows of W",
        source="Yang et al., 2026",
        link="https://arxiv.org/abs/2603.18290",
        fit=class_means.core_fit,
        compute=class_means.core_score,
        needs=("head", "labels"),
        missing=NO_RESIDUAL,
    ),
    NeighbourMethod(
        name="KNN",
        does="the distance to the k-th nearest training image",
        formula="- sqrt(2 - 2 c), c the k-th largest cos_i: the distance between unit features to "
        "the k-th neighbour",
        source="Sun et al., ICML 2022",
        link="https://arxiv.org/abs/2204.06507",
        fit=neighbours.knn_fit,
        finish=neighbours.knn_finish,
        needs=(),
        missing=NO_DIRECTION,
        grid=Grid("k", (1, 10, 50, 100, 200)),
    ),
    NeighbourMethod(
        name="NNGuide",
        does="the energy, weighted by the likeness to the nearest training images",
        formula="lse(l) times the mean of the k largest cos_i lse(l_i)",
        source="Park et al., ICCV 2023",
        link="https://arxiv.org/abs/2309.14888",
        fit=neighbours.nnguide_fit,
        finish=neighbours.nnguide_finish,
        missing=NO_DIRECTION,
        grid=Grid("k", (1, 10, 50, 100)),
    ),
    NeighbourMethod(
        name="Relation",
        does="the likeness in features and in softmax to all training images",
        formula="sum over i of r_i^power where r_i = cos_i (p . p_i) is above the threshold",
        source="Kim et al., NeurIPS 2023",
        link="https://arxiv.org/abs/2301.12321",
        fit=neighbours.relation_fit,
        finish=neighbours.relation_finish,
        missing=NO_DIRECTION,
    ),
    LinearMethod(
        name="Energy-FullHead",
        does="how much evidence there is for all classes of a head that has more than the data",
        formula="log(exp lse(l) + exp lse(l'))",
        source="Liu et al., NeurIPS 2020",
        link="https://arxiv.org/abs/2010.03759",
        fit=logits.other_rows_fit,
        finish=logits.full_energy_finish,
        needs=("head", "rest"),
        variant=True,
    ),
    LinearMethod(
        name="Mahalanobis-LW",
        does="Mahalanobis with a covariance shrunk towards equal variances, for few images",
        formula="- min_c (h - mu_c)' S^-1 (h - mu_c); S = (1 - s) Sigma_W + s (tr Sigma_W / D) I, "
        "s the share of Ledoit and Wolf (2004)",
        source="Lee et al., NeurIPS 2018",
        link="https://arxiv.org/abs/1807.03888",
        fit=gaussians.mahalanobis_shrunk_fit,
        finish=gaussians.mahalanobis_finish,
        needs=("labels",),
        variant=True,
    ),
    LinearMethod(
        name="RelativeMahalanobis-LW",
        does="RelativeMahalanobis with the covariance within classes shrunk so",
        formula="as `RelativeMahalanobis` with S of `Mahalanobis-LW` for Sigma_W, and for Sigma "
        "S + Sigma - Sigma_W",
        source="Ren et al., 2021",
        link="https://arxiv.org/abs/2106.09022",
        fit=gaussians.relative_mahalanobis_shrunk_fit,
        finish=gaussians.relative_mahalanobis_finish,
        needs=("labels",),
        variant=True,
    ),
    LinearMethod(
        name="NECO-NoScaler",
        does="NECO without standardising the features",
        formula="as `NECO`",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=partial(geometry.neco_fit, scaler=False),
        finish=geometry.neco_finish,
        needs=(),
        missing=NO_DIRECTION,
        variant=True,
    ),
    LinearMethod(
        name="NECO-MaxLogit",
        does="NECO times the largest logit, as the authors use it for transformers",
        formula="as `NECO`",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=partial(geometry.neco_fit, max_logit=True),
        finish=geometry.neco_finish,
        missing=AT_MEAN,
        variant=True,
    ),
    LinearMethod(
        name="NECO-ViT",
        does="NECO as its authors run it on ViT: raw features, times the largest logit",
        formula="as `NECO`",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=partial(geometry.neco_fit, scaler=False, max_logit=True),
        finish=geometry.neco_finish,
        missing=NO_DIRECTION,
        variant=True,
    ),
    LinearMethod(
        name="NECO-DeiT",
        does="NECO as its authors run it on DeiT and Swin: standardised over raw",
        formula="|P'z| / |h|, z = (h - mu) / std; with `max_logit`, times max l",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=geometry.neco_raw_norm_fit,
        finish=geometry.neco_finish,
        missing=NO_DIRECTION,
        variant=True,
    ),
    LinearMethod(
        name="NECO-ETF",
        does="NECO in as many directions as the classes of a collapsed network span",
        formula="as `NECO`, `dim` = C - 1, at most D - 1",
        source="Ben Ammar et al., ICLR 2024",
        link="https://arxiv.org/abs/2310.06823",
        fit=geometry.neco_etf_fit,
        finish=geometry.neco_finish,
        needs=("labels",),
        missing=AT_MEAN,
        variant=True,
    ),
    PlainMethod(
        name="GMM",
        does="the log density by a Gaussian of its own for each class",
        formula="max_c log N(h; mu_c, Sigma_c + ridge v I); Sigma_c the covariance of class c, v "
        "the mean variance within classes",
        source="Mueller and Hein, ICML 2025",
        link="https://arxiv.org/abs/2505.18032",
        fit=gaussians.gmm_fit,
        compute=gaussians.gmm_score,
        needs=("labels",),
        variant=True,
    ),
    PlainMethod(
        name="GMM++",
        does="the same of the features' direction alone",
        formula="as `GMM`, of h / |h| in training and test",
        source="Mueller and Hein, ICML 2025",
        link="https://arxiv.org/abs/2505.18032",
        fit=gaussians.gmm_unit_fit,
        compute=gaussians.gmm_score,
        needs=("labels",),
        missing=NO_DIRECTION,
        variant=True,
    ),
    PlainMethod(
        name="CoRP",
        does="what the principal directions of random features of the directions leave",
        formula="- |R'(f(u) - mu_f)|, u = h / |h|; f(u) = sqrt(2 / M) cos(A u + t) of M random A "
        "and t, whose inner products are near exp(-kernel_gamma |u - v|^2); R all principal "
        "directions of f(u) but those that hold `share` of the variance",
        source="Fang et al., NeurIPS 2024",
        link="https://arxiv.org/abs/2402.02949",
        fit=sampled.corp_fit,
        compute=sampled.corp_score,
        needs=(),
        missing=NO_DIRECTION,
        variant=True,
    ),
    PlainMethod(
        name="ActSub",
        does="the energy of the part that decides the class, times the likeness of the rest",
        formula="lse(W d exp(sum d / sum d') + b) (- log(1 - s))^power; d the part of h along the "
        "`dim` strongest right singular vectors of W, d' its largest activations, s the mean of "
        "the k largest cosines of h - d with those of training images",
        source="Zöngür et al., ICCV 2025",
        link="https://arxiv.org/abs/2508.21695",
        fit=subspaces.actsub_fit,
        compute=subspaces.actsub_score,
        bank=True,
        missing=NO_WEAK_PART,
        variant=True,
    ),
    PlainMethod(
        name="WeiPer+KLD",
        does="how ordinary the histograms of features and of logits by perturbed weights are",
        formula="- K(h) - perturbed_weight K(l~) + msp_weight m(l~); l~ the logits by `repeats` "
        "copies of W, each w_c moved by `distance` |w_c| in a random direction, m their mean "
        "largest softmax, K the symmetric KL divergence of an image's smoothed histogram and that "
        "of all training images",
        source="Granz et al., NeurIPS 2024",
        link="https://arxiv.org/abs/2405.17164",
        fit=sampled.weiper_fit,
        compute=sampled.weiper_score,
        missing="none of its features, or of its logits, lies in the range of training",
        variant=True,
    ),
)

# Scored by detection.adascale: run_networks.py --adascale changes the images.
ADASCALE = tuple(
    Description(
        name=name,
        does=f"the energy with {what} scaled by how steady the largest activations are",
        formula=f"{energy}; s = sum h / sum h' of the largest (100 - q)% of activations, q from 85 "
        "down to 75 by the share of validation images with a smaller Q; Q = the sum over the "
        "largest 5% of h of relu(h~_d) + 10 times that over the largest 1% of |h_d - h~_d|, h~ the "
        "features of the image with its 5% least important values moved by 0.5",
        source="Regmi, 2025",
        link="https://arxiv.org/abs/2503.08023",
        needs=("head", "images"),
        missing="its changed image has no score, or its largest activations are 0",
    )
    for name, what, energy in (
        ("AdaSCALE-A", "activations", "lse(W h exp(s) + b)"),
        ("AdaSCALE-L", "logits", "lse(l s^2)"),
    )
)

# Scored by detection.odin: run_networks.py perturbs the images, and nothing is fitted.
ODIN = Description(
    name="ODIN",
    does="the confidence at a high temperature after a step towards the predicted class",
    formula="max softmax(l(x') / T) of the perturbed image x' = x - epsilon sign(-gradient by x of "
    "log max softmax(l(x) / T))",
    source="Liang et al., ICLR 2018",
    link="https://arxiv.org/abs/1706.02690",
    needs=("head", "images"),
    missing="its perturbed image has no score",
)
