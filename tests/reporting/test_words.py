"""Numbers and lists as the report writes them."""

import numpy as np
import pytest

from reporting import words as reporting_words


@pytest.mark.parametrize(
    "share, text",
    [
        (0.5, "50.0%"),
        (1, "100.0%"),
        (1.0, "100.0%"),
        (0.9999, ">99.9%"),
        (0.0, "0.0%"),
        (1e-6, "<0.1%"),
        (None, "–"),
        (np.nan, "–"),
    ],
)
def test_percent_says_all_or_none_only_of_all_or_none(share, text):
    assert reporting_words.percent(share) == text


@pytest.mark.parametrize(
    "seconds, text",
    [(3.04, "3.0 s"), (6464.85, "1.8 h"), (600, "10 min"), (None, None), (np.nan, None)],
)
def test_durations_take_the_unit_that_reads_best(seconds, text):
    assert reporting_words.duration(seconds) == text


@pytest.mark.parametrize(
    "words, further, text",
    [([], 0, ""), ("a", 0, "a"), ("ab", 0, "a and b"), ("ab", 3, "a, b and 3 more")],
)
def test_lists_end_in_and(words, further, text):
    assert reporting_words.listed(words, further) == text


@pytest.mark.parametrize(
    "record, text",
    [
        ({}, None),
        ({"git_commit": "0123456789abc"}, "0123456789"),
        ({"git_commit": "0123456789abc", "git_dirty": True}, "0123456789, with changes"),
    ],
)
def test_a_commit_says_that_the_code_was_changed(record, text):
    assert reporting_words.commit(record) == text


@pytest.mark.parametrize(
    "low, high, text",
    [(0.9406, 0.9591, "94.1–95.9"), (0.9991, 0.99995, "99.9–>99.9"), (0.99996, 0.99999, ">99.9")],
)
def test_an_interval_is_not_written_twice(low, high, text):
    assert reporting_words.interval({"auroc_low": low, "auroc_high": high}) == text
