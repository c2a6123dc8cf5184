"""Which score answers where nobody names one: by a rule that looks at no OOD set of the network.

docs/detector.md has the regret of each candidate, how far its AUROC lies below the best method's of
the same network and set, by which the order was made."""

from collections.abc import Collection

# The first has the least regret on the network where it is worst; the others follow by their mean,
# one of a family. Cosine and Mahalanobis++ need no head.
ORDER = ("Cosine", "CADRef", "SCALE", "Mahalanobis++", "Energy", "MSP")


def recommend(methods: Collection[str]) -> tuple[str, str]:
    """The recommended one of some methods, and why, in words; ("", why not) where there are
    none."""
    for place, name in enumerate(ORDER):
        if name in methods:
            return name, reason(place)
    for name in methods:
        return name, f"none of {', '.join(ORDER)} is there"
    return "", "it holds no method"


def reason(place: int) -> str:
    """Why the method at a place of ORDER is recommended."""
    least = "the least regret in the worst case, over the networks of docs/detector.md"
    if not place:
        return least
    return f"{least}, where there is no {', '.join(ORDER[:place])}"
