"""The hash of a model: it changes with whatever changes what the model computes, and with nothing else."""

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer, load, sae, store
from cutaway.config import Activation
from cutaway.interp.circuits import Circuit, Graph
from cutaway.tokenizers import CharTokenizer
from cutaway.weights import model_sha256, save_hugging_face

SHAPE = ModelConfig(d_vocab=7, n_ctx=16, n_layers=2, n_heads=2, d_model=8, position="rotary")


def a_model(**changes: object) -> Transformer:
    return Transformer(SHAPE.replace(**changes), generator=torch.Generator().manual_seed(0))


def test_it_is_of_every_bit_of_the_weights() -> None:
    model, known = a_model(), model_sha256(a_model())
    assert model_sha256(model) == known
    with torch.no_grad():
        model.blocks[1].attn.W_Q.bias[3] += 1e-30
    assert model_sha256(model) != known
    assert model_sha256(a_model().bfloat16()) != known
    assert model_sha256(a_model().bfloat16()) != model_sha256(a_model().bfloat16().float())


@pytest.mark.parametrize("changes", [{"rotary_base": 500.0}, {"act": "relu"}, {"norm_eps": 1e-6}, {"is_causal": False}], ids=str)
def test_it_is_of_the_configuration(changes: dict[str, float | bool | Activation]) -> None:
    """Models with these have the same weights and compute something else."""
    model, other = a_model(), a_model(**changes)
    assert all(torch.equal(*each) for each in zip(model.parameters(), other.parameters(), strict=True))
    assert model_sha256(model) != model_sha256(other)
    graph = Graph(model.config)
    circuit = Circuit(graph, (graph.parse("embed->logits"),), model_hash=model_sha256(model))
    circuit.check(model)
    with pytest.raises(ValueError, match="found in a model with other weights or settings"):
        circuit.check(other)


def test_it_is_of_nothing_else(tmp_path) -> None:
    known = model_sha256(a_model())
    assert model_sha256(a_model(rotary_base=10_000)) == known  # a whole number from a file
    assert model_sha256(a_model(dropout=0.5).eval()) == known
    model = Transformer(ModelConfig(d_vocab=7, n_ctx=16, n_layers=1, n_heads=2, d_model=8))
    save_hugging_face(LanguageModel(model, CharTokenizer("abcdefg")), tmp_path / "folder")
    assert model_sha256(load(tmp_path / "folder", device="cpu").model) == model_sha256(model)


def test_a_store_a_dictionary_and_a_circuit_know_one_model_by_one_hash(tmp_path) -> None:
    model, other = a_model(), a_model(norm_eps=1e-3)
    tokens = torch.arange(28).reshape(4, 7) % 7
    kept = store.collect(model, tokens, "blocks.0.resid_post", tmp_path / "store")
    shape = sae.DictionaryConfig(d_in=8, d_sae=16, k=2, name="blocks.0.resid_post", model_sha256=kept.manifest["model"]["sha256"])
    dictionary = sae.make_dictionary(shape)
    kept.check_model(model)
    sae.check_fits(dictionary, model)
    Circuit(Graph(model.config), (), model_hash=shape.model_sha256).check(model)
    for check in (
        kept.check_model,
        lambda model: sae.check_fits(dictionary, model),
        lambda model: sae.evaluate(model, dictionary, tokens),
        lambda model: sae.describe_features(LanguageModel(model, CharTokenizer("abcdefg")), dictionary, tokens),
        lambda model: sae.feature_effects(model, dictionary, tokens, metric=lambda logits: logits[:, -1, 0]),
        lambda model: sae.feature_density(model, dictionary, tokens),
    ):
        with pytest.raises(ValueError, match="another model"):
            check(other)


def test_a_dictionary_s_model_is_hashed_once_an_analysis(monkeypatch) -> None:
    model, n_hashed = a_model(), []
    shape = sae.DictionaryConfig(d_in=8, d_sae=16, k=2, name="blocks.0.resid_post", model_sha256=model_sha256(model))
    monkeypatch.setattr("cutaway.weights.model_sha256", lambda model: n_hashed.append(1) or model_sha256(model))
    sae.evaluate(model, sae.make_dictionary(shape), torch.arange(28).reshape(4, 7) % 7)
    assert len(n_hashed) == 1
