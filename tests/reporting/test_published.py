"""Published figures beside a run's own: whose number stands where, and what is said of it."""

import pandas as pd
import pytest

from reporting import published

NEAR, FAR = ("cifar10", "tin"), ("mnist", "svhn", "textures", "places365")


def metrics(values, dataset="cifar100", accuracy=0.7123):
    """ood_metrics.csv of {method: {set: AUROC}}."""
    rows = [
        {"dataset": dataset, "ood": ood, "method": method, "auroc": value, "accuracy": accuracy}
        for method, aurocs in values.items()
        for ood, value in aurocs.items()
    ]
    return pd.DataFrame(rows)


def flat(value, sets=(*NEAR, *FAR)):
    return dict.fromkeys(sets, value)


def test_each_mean_stands_next_to_the_published_one_of_the_same_method():
    """The figures are those of docs/published/cifar100.csv: MLS is MaxLogit here."""
    ours = {"MSP": flat(0.75), "MaxLogit": {"cifar10": 0.7, "tin": 0.9, **flat(0.6, FAR)}}
    found = published.published(metrics(ours))
    assert found.table.columns == [
        "method",
        "near, ours",
        "near, ResNet18",
        "far, ours",
        "far, ResNet18",
    ]
    assert found.table.rows == [
        ["MaxLogit", "80.0", "81.05 ± 0.07", "60.0", "79.67 ± 0.57"],
        ["MSP", "75.0", "80.27 ± 0.11", "75.0", "77.76 ± 0.44"],
    ]
    assert found.notes[0] == "Test accuracy: 71.2% of ours, 77.25 ± 0.10% of ResNet18."
    assert len(found.notes) == 2 and "Published figures are OpenOOD's" in found.notes[1]


def test_a_group_that_was_tested_in_part_is_named_and_one_that_was_not_is_left_out():
    found = published.published(metrics({"MSP": flat(0.8, ("svhn", "mnist"))}))
    assert found.table.columns == ["method", "far, ours", "far, ResNet18"]
    said = " ".join(found.notes)
    assert "Ours: 0 of 2 near sets were tested (none of cifar10, tin)" in said
    assert "Ours: 2 of 4 far sets were tested (mnist, svhn of mnist, svhn, textures" in said


def test_a_method_that_lacks_a_set_has_no_mean_of_its_group():
    ours = {"KNN": flat(0.9, ("cifar10", *FAR)), "MSP": flat(0.8)}
    rows = published.published(metrics(ours)).table.rows
    assert [row[:2] for row in rows] == [["MSP", "80.0"], ["KNN", "–"]]


def test_networks_of_several_architectures_have_a_column_each():
    sets = ("ssb_hard", "ninco", "inaturalist", "textures", "openimage_o")
    table = published.published(metrics({"MSP": flat(0.8, sets)}, dataset="imagenet1k")).table
    networks = [name.removeprefix("near, ") for name in table.columns[2:] if "near" in name]
    assert "ResNet50" in networks and len(networks) > 1
    assert table.rows[0][1 + 1 + networks.index("ResNet50")] == "76.02", "one network, no deviation"
    assert len(table.rows[0]) == len(table.columns) == 1 + 2 * (1 + len(networks))


@pytest.mark.parametrize(
    "ood",
    [
        None,
        metrics({"MSP": flat(0.8)}, dataset="digits"),  # an ID set without published figures
        metrics({"MSP": flat(0.8, ("photos",))}),  # an OOD set of no group
        metrics({"my_score": flat(0.8)}),  # a method that nobody published
        metrics({"MSP": flat(0.8)}).drop(columns="dataset"),
    ],
)
def test_without_anything_to_set_beside_there_is_nothing(ood):
    assert published.published(ood) is None


def test_an_accuracy_that_is_not_known_is_not_compared():
    found = published.published(metrics({"MSP": flat(0.8)}, accuracy=float("nan")))
    assert len(found.notes) == 1


def test_a_deviation_of_zero_is_one_that_nobody_gave():
    assert published.figure({"near_auroc": 81.26, "near_std": 0.0}, "near_auroc") == "81.26"
    assert published.figure({"near_auroc": 81.26, "near_std": 0.4}, "near_auroc") == "81.26 ± 0.40"
