"""The classifier's last layer: what turns features into logits."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Head:
    """Weights W (C, D), biases b (C,) and the names of the C classes.

    Without names the classes are called by their numbers.
    """

    W: np.ndarray
    b: np.ndarray
    class_names: list[str] = field(default_factory=list)

    def __post_init__(self):
        if not self.class_names:
            object.__setattr__(self, "class_names", [str(c) for c in range(len(self.W))])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, C)."""
        return features @ self.W.T + self.b
