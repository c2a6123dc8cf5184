"""Which score, whether that is settled, and collapse in five bars: hand-computed."""

import math

import pytest

from reporting import answer, collapse_summary


def row(method, auroc, near=(), tied=(), apart=False):
    return {
        "method": method,
        "auroc": auroc,
        "auroc_low": auroc - 0.01,
        "auroc_high": auroc + 0.01,
        "fpr95": 0.25,
        "tied_with": list(tied),
        "intervals_overlap_with": list(near),
        "set_apart": apart,
    }


def run(best, tests=None):
    """A summary in which each set's next method is MSP at 0.8."""
    return {
        "best": best,
        "ranking": {
            name: [
                {"method": one["method"], "auroc": one["auroc"]},
                {"method": "MSP", "auroc": 0.8},
            ]
            for name, one in best.items()
            if one
        },
        "ood_metrics": [{"ood": name, "best": tests} for name in best],
        "mean_over_sets": [{"method": "ViM", "auroc": 0.9}, {"method": "MSP", "auroc": 0.8999}],
        "averaged_sets": list(best),
    }


def test_a_best_method_that_tests_set_apart_is_settled():
    found = answer.answer(run({"svhn": row("ViM", 0.9, near=["MSP"], apart=True)}, tests=True))
    (verdict,) = found.verdicts
    assert (verdict.settled, verdict.runner_up) == ("yes", "MSP, 10.0 points behind")
    assert verdict.why == "paired tests on the same images set it apart from every other"
    assert found.sentences == [
        "Settled on this set: the best method is set apart from every other."
    ]


def test_what_intervals_leave_open_is_not_settled_and_names_who_is_near():
    near = ["MSP", "Energy", "KNN", "NECO", "GEN"]
    found = answer.answer(run({"a": row("ViM", 0.9, near=near), "b": row("KNN", 0.95, apart=True)}))
    first, second = found.verdicts
    assert (
        first.settled == "no"
        and first.why == "its interval meets that of MSP, Energy, KNN and 2 more"
    )
    assert second.why == "its interval meets that of no other"
    assert found.sentences[0] == (
        "ViM has the highest mean AUROC over 2 OOD sets, 90.0%; next is MSP, less than 0.1 points"
        " behind."
    )
    assert found.sentences[1].startswith("Settled on b, where") and found.sentences[1].endswith(
        "on a."
    )


def test_a_tie_is_no_winner():
    found = answer.answer(run({"a": row("MSP", 1.0, tied=["ViM", "KNN"])}))
    assert found.verdicts[0].settled == "tie" and found.verdicts[0].best == "MSP and 2 more"
    assert found.sentences == ["Not settled: no method is set apart from every other on this set."]


def test_without_any_defined_score_there_is_no_answer():
    assert answer.answer(run({"a": None})) is None


def measured(**values):
    """A summary with metrics by "metric__split"."""
    rows = []
    for name, value in values.items():
        metric, _, split = name.partition("__")
        split = split.replace("ood_", "ood:")
        rows.append({"metric": metric, "split": split, "value": value, "note": "the <note>"})
    return {"neural_collapse": rows}


def test_bars_stand_at_their_share_of_the_way():
    summary = measured(
        nc1__train=0.146,
        nc1_trace_ratio__train=3.0,
        nc1_cdnv__train=1.33,
        nc2_means_gram_distance__train=math.sqrt(2) / 4,
        nc3_cosine_mean__train=0.9,
        nc4_mismatch__train=0.0,
        nc4_mismatch__test=0.02,
        nc5_centred__test=0.05,
        nc5_centred__ood_a=0.2,
        nc5_centred__ood_b=0.4,
    )
    bars = {bar.name: bar for bar in collapse_summary.bars(summary)}
    shares = {name: bar.share for name, bar in bars.items()}
    expected = {"NC1": 0.25, "NC2": 0.75, "NC3": 0.9, "NC4": 0.98, "NC5": 0.7}
    assert shares == pytest.approx(expected)
    assert bars["NC1"].value == "0.146" and bars["NC1"].beside == ["trace ratio 3", "CDNV 1.33"]
    assert bars["NC4"].value == "2.00% test" and bars["NC4"].beside == ["0.00% on train"]
    assert bars["NC5"].beside == ["ID test images, the null: 0.05"]


def test_full_and_no_collapse_are_the_ends():
    whole = measured(nc1_trace_ratio__train=0.0, nc1__train=0.0, nc3_cosine_mean__train=1.0)
    none = measured(nc1_trace_ratio__train=1e12, nc1__train=1e12, nc3_cosine_mean__train=-0.2)
    assert [bar.share for bar in collapse_summary.bars(whole)] == [1.0, 1.0]
    assert [bar.share for bar in collapse_summary.bars(none)] == pytest.approx([0, 0], abs=1e-9)


def test_an_undefined_metric_says_why_and_an_unmeasured_one_has_no_bar():
    (bar,) = collapse_summary.bars(measured(nc3_cosine_mean__train=float("nan")))
    assert (bar.name, bar.value, bar.share, bar.rule) == ("NC3", "undefined", None, "the <note>")
