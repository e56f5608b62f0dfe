"""What heads are by their weights alone: spectra against whole matrices."""

from collections.abc import Callable

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.interp.factored import copying_scores, effective_rank, head_weights, ov_circuit, qk_circuit
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]


def test_spectra_are_those_of_the_whole_matrices(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    found = head_weights(model, offset=2)
    at = 2 if variant.position == "rotary" else None
    assert found.offset == at
    for layer in range(variant.n_layers):
        ov, qk = ov_circuit(model, layer, with_norm=True).AB, qk_circuit(model, layer, offset=at, with_norm=True).AB
        for whole, values in ((ov, found.ov), (qk, found.qk)):
            expected = torch.linalg.svdvals(whole.detach())[:, : values.shape[2]]
            # float64: singular values are right to about 1e-15 of the largest
            torch.testing.assert_close(values[layer], expected, rtol=0, atol=1e-12 * float(expected.max()))
    assert found.copying is None if variant.d_vocab_out != variant.d_vocab else torch.equal(found.copying, copying_scores(model))
    found.to_json()
    assert found.summary()
    assert found.views()
    assert found.table()[1]


def test_one_layer(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config)
    whole, one = head_weights(model), head_weights(model, -1)
    assert one.layers == (1,)
    assert torch.equal(one.ov[0], whole.ov[1])
    assert one.ranked() == [head for head in whole.ranked() if head[0] == 1]
    assert len(one.figures()) == 7  # five maps, and two of spectra
    with pytest.raises(ValueError, match="no layer 2"):
        head_weights(model, 2)


def test_effective_rank_counts_equal_directions() -> None:
    values = torch.tensor([[3.0, 3.0, 3.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0] * 4], dtype=torch.float64)
    assert effective_rank(values).tolist() == pytest.approx([3.0, 1.0, 0.0], abs=1e-12)
