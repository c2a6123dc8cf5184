"""The classifier's last layer, which maps features to logits."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Head:
    """Weights W (C, D), biases b (C,) and the names of the C classes.

    Without names, each class is called by its number.
    """

    W: np.ndarray
    b: np.ndarray
    class_names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.class_names:
            numbers = [str(c) for c in range(len(self.W))]
            object.__setattr__(self, "class_names", numbers)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Features (N, D) -> logits (N, C)."""
        return features @ self.W.T + self.b

    def classify(self, set_name: str, features: np.ndarray) -> np.ndarray:
        """Features (N, D) of any set of images -> the number (N,) of the largest logit."""
        return self.logits(features).argmax(1)
