"""Each test that takes `case` runs on random features and on handwritten digits."""

import pytest
from score_cases import CASES, Case


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]
