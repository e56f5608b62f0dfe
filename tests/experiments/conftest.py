"""Every model made by hand, one after the other."""

import pytest

from cutaway.experiments.handmade import HANDMADE, Handmade
from handmade_runs import built


@pytest.fixture(params=HANDMADE)
def made(request: pytest.FixtureRequest) -> Handmade:
    return built(request.param)
