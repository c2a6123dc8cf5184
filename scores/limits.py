"""The parameters of the scores: what each means, and which values it takes.

The shell (`--set`) and Python (`fit`) refuse the same values, since both ask here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a parameter means in every method that has it, and which values it takes.

    called    the parameter in a message of Python's
    wanted    what such a message says was expected; by default the limits themselves
    """

    meaning: str
    least: float | None = None
    below: float | None = None
    above: float | None = None
    called: str = ""
    wanted: str = ""

    def allows(self, value: float) -> bool:
        """True if the value is within the limits; never for NaN, where there are any."""
        if self.above is not None and not value > self.above:
            return False
        if self.least is not None and not value >= self.least:
            return False
        return self.below is None or value < self.below

    def refusal(self, value: float) -> str:
        """What was expected, in words; empty where the value is fine."""
        if self.allows(value):
            return ""
        if self.above is not None:
            return f"a number above {self.above:g}"
        if self.below is not None:
            return f"{self.least:g} to below {self.below:g}"
        return f"at least {self.least:g}"


LIMITS = {
    "temperature": Limits("what logits are divided by", above=0, called="temperature"),
    "gamma": Limits("the exponent of probabilities", above=0, called="exponent gamma"),
    "top": Limits(
        "how many of the largest probabilities, or logits, count",
        least=1,
        called="number of probabilities",
    ),
    "percentile": Limits(
        "the share of activations or weights that is cut, in percent",
        least=0,
        below=100,
        called="percentile",
        wanted="a number from 0 to below 100, such as 90",
    ),
    "low": Limits(
        "the percentile of a feature below which an activation becomes 0",
        least=0,
        below=100,
        called="lower percentile",
    ),
    "high": Limits(
        "the percentile of a feature at which an activation is clipped",
        least=0,
        below=100,
        called="upper percentile",
    ),
    "ridge": Limits(
        "share of the mean variance that is added to the covariance",
        least=0,
        called="ridge",
        wanted="0 or a share of the mean variance, such as 1e-4",
    ),
    "dim": Limits("number of principal directions", least=1, called="number of directions"),
    "share": Limits(
        "share of the variance that principal directions hold", least=0, below=1, called="share"
    ),
    "weight": Limits(
        "weight of the distance where classes do not differ", least=0, called="weight"
    ),
    "scaler": Limits("whether the features are standardised first"),
    "max_logit": Limits("whether the score is multiplied by the largest logit"),
    "span": Limits("whether the residual is orthogonal to all weights, not the predicted class's"),
    "alpha": Limits("weight of the features' L1 norm", least=0, called="weight alpha"),
    "k": Limits("number of neighbours", least=1, called="number of neighbours"),
    "tail": Limits(
        "how many of a class's largest distances a Weibull distribution is fitted to",
        least=2,
        called="number of distances",
    ),
    "kernel_gamma": Limits(
        "gamma of the Gaussian kernel exp(-gamma |u - v|^2)", above=0, called="gamma of the kernel"
    ),
    "random_features": Limits(
        "how many random features stand for the kernel", least=2, called="number of random features"
    ),
    "distance": Limits(
        "how far a row of weights is moved, over its length", above=0, called="distance"
    ),
    "repeats": Limits(
        "how many copies of the weights are moved", least=1, called="number of copies"
    ),
    "bins": Limits("number of bins of a histogram", least=2, called="number of bins"),
    "smooth": Limits("bins that are averaged", least=1, called="number of bins to average"),
    "smooth_perturbed": Limits(
        "bins that are averaged of perturbed logits", least=1, called="number of bins to average"
    ),
    "perturbed_weight": Limits(
        "weight of the divergence of perturbed logits", least=0, called="weight of the logits"
    ),
    "msp_weight": Limits(
        "weight of the largest softmax by moved weights", least=0, called="weight of the softmax"
    ),
    "power": Limits("the exponent of a likeness"),
    "threshold": Limits("the least likeness that counts"),
}


def check(method: str, parameter: str, value: float) -> None:
    """ValueError in the name of the method where the parameter does not take the value."""
    limits = LIMITS[parameter]
    refusal = limits.refusal(value)
    if refusal:
        expected = limits.wanted or refusal
        raise ValueError(f"{method}: the {limits.called} is {value}; expected {expected}")
