"""--match-format: every image is given the ID images' size and encoding first, so that scores
cannot tell sets apart by their files."""

from dataclasses import replace
from pathlib import Path

from artifacts import records
from extraction.expected_inputs import Choice
from extraction.plan import Given
from images import file_facts, folders
from images.file_facts import Matched


def match_of(given: Given, folder: Path) -> Matched:
    """The size and encoding of the ID training images; where these are gone, what the features in
    the folder were matched to.

    ValueError for an ID set that does not lie in files."""
    place = given.id_set.split("train").folder
    if place is None:
        raise ValueError(
            f"--match-format: {given.id_set} is pixels without files, so that there is no size and"
            " encoding to give to other images; leave it out"
        )
    if folders.listing_hash(place) is None:
        said = records.read_sidecar(folder / "head.csv").get("preprocessing") or {}
        if said.get("match"):
            return Matched(**said["match"])
    found = folders.listing(place)
    missing = set(found.missing)
    present = [path for path in found.paths if path not in missing]
    facts = file_facts.measure(found.root, present)
    if facts is None:
        raise ValueError(f"--match-format: no image of {place} has a header that can be read")
    return Matched.of(facts)


def matched(given: Given, choice: Choice, match: Matched) -> tuple[Given, Choice]:
    """The same with a preprocessing that matches images first."""
    preprocessing = replace(given.preprocessing, match=match)
    return replace(given, preprocessing=preprocessing), replace(choice, preprocessing=preprocessing)
