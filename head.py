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

    def others(self, whole: "Head") -> tuple[np.ndarray, np.ndarray]:
        """W (R, D) and b (R,) of those classes of a larger head of the same classifier, `whole`,
        that this one has not.

        ValueError where it lacks one of these classes, or has other weights for it, or no more."""
        place = {name: row for row, name in enumerate(whole.class_names)}
        unknown = [name for name in self.class_names if name not in place]
        if unknown:
            raise ValueError(f"it has no row for the class {unknown[0]}")
        rows = [place[name] for name in self.class_names]
        same = np.array_equal(whole.W[rows], self.W) and np.array_equal(whole.b[rows], self.b)
        if not same:
            raise ValueError("its weights for the same classes are others: another classifier's")
        left = np.setdiff1d(np.arange(len(whole.W)), rows)
        if not len(left):
            raise ValueError(f"it has the same {len(rows)} classes and no more")
        return whole.W[left], whole.b[left]

    def classify(self, set_name: str, features: np.ndarray) -> np.ndarray:
        """Features (N, D) of any set of images -> the number (N,) of the largest logit."""
        return self.logits(features).argmax(1)
