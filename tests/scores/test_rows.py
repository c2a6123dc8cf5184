"""Rows of the scores: parameters with their types, settings as people write them, grids, words."""

import numpy as np
import pytest
from score_cases import CASES, CHEAP

from scores import limits, registry, rows

EVERY = [(name, parameter) for name, row in registry.METHODS.items() for parameter in row.described]
# Another legal value for each parameter, which changes what is recorded.
OTHER = {
    "temperature": "2.5",
    "gamma": "0.5",
    "top": "2",
    "percentile": "70",
    "low": "50",
    "share": "0.5",
    "weight": "2",
    "high": "90",
    "ridge": "0.2",
    "dim": "5",
    "alpha": "0.01",
    "k": "7",
    "power": "3",
    "threshold": "0.1",
    "tail": "7",
    "kernel_gamma": "0.5",
    "random_features": "64",
    "distance": "1.8",
    "repeats": "5",
    "bins": "60",
    "smooth": "8",
    "smooth_perturbed": "15",
    "perturbed_weight": "2.5",
    "msp_weight": "0.1",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_a_setting_reaches_every_parameter_of_every_method(name, parameter):
    default = registry.METHODS[name].parameters[parameter]
    text = str(not default) if isinstance(default, bool) else OTHER[parameter]
    assert registry.parse_setting(f"{name}.{parameter}={text}")[:2] == (name, parameter)
    value = registry.parse_setting(f"{name}.{parameter}={text}")[2]
    train = CASES["random"].train
    cheap = CHEAP.get(name, {})
    before = registry.METHODS[name].fit(train, **cheap).parameters
    after = registry.METHODS[name].fit(train, **(cheap | {parameter: value})).parameters
    assert after[parameter] == value
    assert after != before


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter"), EVERY)
def test_the_default_written_as_a_setting_changes_no_score(name, parameter):
    default = registry.METHODS[name].parameters[parameter]
    if default is None:
        pytest.skip("a rule on the ID data decides")
    _, _, value = registry.parse_setting(f"{name}.{parameter}={default}")
    case = CASES["random"]
    cheap = {key: given for key, given in CHEAP.get(name, {}).items() if key != parameter}
    scores = case.score(name, **cheap)
    np.testing.assert_array_equal(scores, case.score(name, **(cheap | {parameter: value})))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter"), EVERY)
@pytest.mark.parametrize("text", ["0", "0.001", "1", "39", "99.9", "100", "1000"])
def test_a_fit_takes_every_value_that_a_setting_may_have(name, parameter, text):
    """Otherwise the mistake would be told only after the features have been read.

    `dim` has to be below the features' width, which a setting does not know.
    """
    train = CASES["random"].train
    try:
        _, _, value = registry.parse_setting(f"{name}.{parameter}={text}")
    except ValueError:
        return
    if parameter == "dim" and value >= train.width:
        return
    given = CHEAP.get(name, {}) | {parameter: value}
    assert registry.METHODS[name].fit(train, **given).parameters[parameter] is not None


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("KNN.k=200", ("KNN", "k", 200)),
        ("knn.k = 200", ("KNN", "k", 200)),
        ("kl-matching.x=1", None),
        ("ash_s.percentile=85", ("ASH-S", "percentile", 85.0)),
        ("NECO.max-logit=true", ("NECO", "max_logit", True)),
        ("NECO.scaler=no", ("NECO", "scaler", False)),
        ("Relation.threshold=1e-3", ("Relation", "threshold", 0.001)),
    ],
)
def test_settings_as_people_write_them(text, setting):
    if setting is None:
        with pytest.raises(ValueError, match="KLMatching has no parameter 'x'; it has none"):
            registry.parse_setting(text)
        return
    found = registry.parse_setting(text)
    assert found == setting and type(found[2]) is type(setting[2])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("KNN", "expected METHOD.PARAMETER=VALUE, such as KNN.k=200"),
        ("k=200", "expected METHOD.PARAMETER=VALUE"),
        ("KNN.k=", "expected METHOD.PARAMETER=VALUE"),
        ("Mahalanobs.ridge=1", "unknown method 'Mahalanobs'; did you mean Mahalanobis"),
        ("KNN.n=3", "KNN has no parameter 'n'; it has k"),
        ("MSP.temperature=2", "MSP has no parameter 'temperature'; it has none"),
        ("KNN.k=2.5", "expected a whole number, found '2.5'"),
        ("KNN.k=0", "expected at least 1, found 0"),
        ("Energy.temperature=0", "expected a number above 0, found 0"),
        ("Energy.temperature=inf", "expected a number, found 'inf'"),
        ("SCALE.percentile=101", "expected 0 to below 100, found 101"),
        ("SCALE.percentile=100", "expected 0 to below 100, found 100"),
        ("ReAct.percentile=-1", "expected 0 to below 100, found -1"),
        ("NECO.scaler=maybe", "expected true or false, found 'maybe'"),
    ],
)
def test_a_mistake_says_what_was_expected(text, said):
    with pytest.raises(ValueError) as raised:
        registry.parse_setting(text)
    assert said in str(raised.value) and repr(text) in str(raised.value)


def test_a_row_says_what_its_method_does():
    for row in registry.ROWS.values():
        assert row.does and row.formula and row.source
        assert row.link.startswith("https://")
        assert set(row.needs) <= {"head", "labels", "rest", "images"}
    assert len({row.does for row in registry.ROWS.values()}) == len(registry.ROWS)


def test_what_scores_changed_images_has_a_row_and_no_fit():
    of_images = {"ODIN", "AdaSCALE-A", "AdaSCALE-L"}
    assert set(registry.ROWS) - set(registry.METHODS) == of_images
    assert registry.needs_head("ODIN")
    with pytest.raises(ValueError, match="unknown method ODIN"):
        registry.fit_all(CASES["random"].train, ["ODIN"])


def test_every_parameter_has_a_meaning_and_a_type():
    for row in rows.ALL:
        for parameter in row.described.values():
            assert parameter.meaning and parameter.kind in (int, float, bool)
    assert set(limits.LIMITS) == {parameter for _, parameter in EVERY}


def test_a_grid_holds_the_default_and_values_that_the_method_takes():
    for row in rows.ALL:
        if row.grid:
            parameter = row.described[row.grid.parameter]
            assert parameter.default in row.grid.values
            assert [parameter.parse(str(value)) for value in row.grid.values] == list(
                row.grid.values
            )


LIMITED = [
    (name, parameter)
    for name, parameter in EVERY
    if parameter not in ("scaler", "max_logit", "span", "power", "threshold")
]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "parameter"), LIMITED)
@pytest.mark.parametrize("value", [-1, 0, 1, 100])
def test_python_refuses_what_the_shell_refuses(name, parameter, value):
    try:
        registry.METHODS[name].described[parameter].parse(str(value))
    except ValueError:
        with pytest.raises(ValueError, match=r"^[\w+-]+: the .* is -?\d+; expected"):
            registry.METHODS[name].fit(CASES["random"].train, **{parameter: value})
