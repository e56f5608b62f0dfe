"""What several of these tests begin with: a graph of the tiny model and the transcoders that it is made with."""

import pytest

from cutaway import attribution_graphs
from interp.small_transcoders import a_transcoder


@pytest.fixture
def transcoders(tiny_model):
    return [a_transcoder(tiny_model, 0, "relu"), a_transcoder(tiny_model, 1, "jumprelu", has_skip=True)]


@pytest.fixture
def graph(tiny_model, tokens, transcoders):
    return attribution_graphs.attribute(tiny_model, tokens[:1], transcoders)
