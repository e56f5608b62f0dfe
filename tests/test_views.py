"""Views of a model without dropout: the same weights and numbers, and a model that stays in its mode all the while."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from cutaway import LanguageModel, Transformer, edits, metrics, run_with_cache, sae, steering
from cutaway.evaluation import Request, compare, score_continuations
from cutaway.generation import Sampling, beam_search, decode
from cutaway.interp import attribution_graphs, heads, lens, patching, path_patching, residual, tracing
from cutaway.interp.ablation import ablate, backup_effects, gradient_importance
from cutaway.interp.attention import attention_patterns
from cutaway.interp.attribution import attribute_patches
from cutaway.interp.circuits import CircuitRuns, Graph, ablated_outputs, score_edges
from cutaway.interp.generating import EditedTransformer, generate_with_edits
from cutaway.interp.probing.activations import Spots, activations_of
from cutaway.interp.provenance import Weights
from cutaway.interp.rows import rows_of
from cutaway.tokenizers import CharTokenizer
from cutaway.views import original, without_dropout
from interp.models import VARIANTS, small_model

TOKENS = torch.tensor([[5, 3, 1, 4, 2, 6]])
OTHER = torch.tensor([[5, 3, 7, 4, 2, 6]])
METRIC = metrics.logit_diff(3, 4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_view_computes_as_the_model_does_in_evaluation_mode(variant: str) -> None:
    model = small_model(variant, dropout=0.5)
    expected = model(TOKENS)
    view = without_dropout(model.train())
    assert torch.equal(view(TOKENS), expected)
    assert not torch.equal(model(TOKENS), expected)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in view.modules())
    assert isinstance(view, Transformer)


def test_a_view_has_the_models_own_parameters() -> None:
    model = small_model(dropout=0.5).train()
    view = without_dropout(model)
    ours, theirs = dict(model.named_parameters()), dict(view.named_parameters())
    assert list(ours) == list(theirs)
    assert all(ours[name] is theirs[name] for name in ours)
    view(TOKENS).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_compiled_models_view_is_not_the_model_again() -> None:
    model = small_model(dropout=0.5)
    expected = model(TOKENS)
    model.compile(backend="eager")
    assert torch.equal(without_dropout(model.train())(TOKENS), expected)


def test_what_is_no_view_or_needs_none_is_itself() -> None:
    model = small_model().train()
    assert without_dropout(model) is model
    assert original(model) is model
    dropping = small_model(dropout=0.5)
    view = without_dropout(dropping)
    assert without_dropout(view) is view
    assert original(view) is dropping
    dropping.train()
    assert torch.equal(view(TOKENS), view(TOKENS))  # whatever becomes of the model's mode afterwards


def test_records_of_a_view_are_of_the_models_weights() -> None:
    model = small_model(dropout=0.5)
    first, second = without_dropout(model), without_dropout(model)
    assert Weights.of(first) == Weights.of(second) == Weights.of(model)
    _, cache = run_with_cache(first, TOKENS, "blocks.0.resid_post")
    edit = edits.patch("blocks.0.resid_post", cache, pos=2)
    assert edit.provenance is not None
    assert edit.provenance.holds(edit.value, Weights.of(model))
    with torch.no_grad():
        model.embed.W_E.mul_(2)
    assert not edit.provenance.holds(edit.value, Weights.of(second))
    assert Weights.of(without_dropout(small_model(dropout=0.5))) != Weights.of(model)


def test_an_edited_model_is_seen_with_its_edits() -> None:
    model = small_model(dropout=0.5)
    edited = EditedTransformer(model, [edits.zero("blocks.1.attn_out")])
    expected = edited(TOKENS)
    model.train()
    edited.train()
    assert torch.equal(without_dropout(edited)(TOKENS), expected)


def steered(lm: LanguageModel, **options: Any) -> Any:
    vector = steering.difference_of_means(lm, ["abc"], ["cde"], 0)
    return steering.steer(lm, vector, "ab", n_random=1, max_new_tokens=2, neutral=["abcd"], **options)


def circuit_runs(lm: LanguageModel) -> Any:
    graph = Graph(lm.config)
    runs = CircuitRuns(lm.model, TOKENS, graph, ablated_outputs(lm.model, TOKENS, "resample", other_tokens=OTHER))
    return runs.metric(graph.has_edge & (torch.arange(len(graph.senders))[:, None] % 2 == 0), METRIC)


def attribution_graph(lm: LanguageModel) -> Any:
    config = sae.DictionaryConfig(
        kind="topk", k=2, d_in=32, d_sae=16, name="blocks.1.ln2.normalized", target="blocks.1.mlp_out", d_out=32
    )
    made = sae.make_dictionary(config, generator=torch.Generator().manual_seed(0)).double().eval()
    graph = attribution_graphs.attribute(lm, TOKENS, [made])
    return [graph.edges, attribution_graphs.intervene(lm, graph, [made]).to_dict()]


def spliced(lm: LanguageModel) -> Any:
    config = sae.DictionaryConfig(kind="topk", k=2, d_in=32, d_sae=16, name="blocks.1.resid_post")
    made = sae.make_dictionary(config, generator=torch.Generator().manual_seed(0)).double().eval()
    of_features = sae.feature_effects(lm, made, TOKENS, metric=METRIC)
    contexts = sae.find_contexts(lm, made, TOKENS, [0, 1])
    return [sae.evaluate(lm, made, TOKENS).to_dict(), of_features.to_dict(), contexts.values, sae.feature_density(lm, made, TOKENS)]


ANALYSES: dict[str, Callable[[LanguageModel], Any]] = {
    "ablation": lambda lm: ablate(lm, TOKENS, metric=METRIC),
    "backup": lambda lm: backup_effects(lm, TOKENS, (1, 1), correct=3),
    "importance": lambda lm: gradient_importance(lm, TOKENS, metric=METRIC),
    "attention": lambda lm: attention_patterns(lm, TOKENS[0]),
    "attribution": lambda lm: attribute_patches(lm.model, TOKENS, OTHER, METRIC).estimates,
    "paths": lambda lm: path_patching.patch_paths(lm.model, TOKENS, OTHER, METRIC).to_dict(),
    "patching": lambda lm: patching.patch(lm, "abcd", "abed", "a", "b"),
    "tracing": lambda lm: tracing.trace(lm, "abcd", "bc", "a", n_draws=1),
    "edges": lambda lm: score_edges(lm.model, TOKENS, OTHER, METRIC, exact_top=2).scores.nan_to_num(),
    "circuits": circuit_runs,
    "graphs": attribution_graph,
    "dictionaries": spliced,
    "rows": lambda lm: torch.cat(list(sae.ModelActivations(lm, TOKENS, "blocks.1.attn.z").batches(3, seed=0))),
    "heads": lambda lm: heads.detect_heads(lm, n_sequences=2, seq_length=5),
    "lens": lambda lm: lens.logit_lens(lm, "abcd"),
    "contributions": lambda lm: residual.attribute(lm, TOKENS, 3),
    "stream": lambda lm: residual.stream(lm, TOKENS),
    "probing": lambda lm: activations_of(lm, "blocks.1.resid_post", [Spots.at_position(rows_of(lm, TOKENS), -1)]),
    "steering": steered,
    "ablated direction": partial(steered, ablate=True),
    "generation under edits": lambda lm: generate_with_edits(lm, "ab", [edits.zero("blocks.1.attn_out")], max_new_tokens=3, seed=0),
    "decoding": lambda lm: list(decode(lm.model, [[1, 2]], max_new_tokens=3, sampling=Sampling(), seed=0)),
    "beams": lambda lm: beam_search(lm.model, [1, 2], num_beams=2, max_new_tokens=3),
    "scoring": lambda lm: score_continuations(lm.model, [Request((1, 2), ((3,), (4,)))]),
    "comparison": lambda lm: compare(lm, lm, "abcd"),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_nothing_switches_the_mode_of_a_model_that_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode switched off and back on again would be found off by whoever comes in between."""
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
    lm = LanguageModel(small_model(dropout=0.5, d_vocab=tokenizer.d_vocab), tokenizer)
    expected = ANALYSES[name](lm)
    lm.model.train()
    own = {id(module) for module in lm.model.modules()}
    switch = torch.nn.Module.__setattr__

    def watched(module: torch.nn.Module, attribute: str, value: Any) -> None:
        assert attribute != "training" or id(module) not in own, "the mode of the model given was switched"
        switch(module, attribute, value)

    monkeypatch.setattr(torch.nn.Module, "__setattr__", watched)
    assert plain(ANALYSES[name](lm)) == plain(expected)
    assert all(module.training for module in lm.model.modules())


def plain(found: Any) -> Any:
    """Return what can be compared."""
    if isinstance(found, torch.Tensor):
        return found.tolist()
    if isinstance(found, dict):
        return {name: plain(each) for name, each in found.items()}
    if isinstance(found, list | tuple):
        return [plain(each) for each in found]
    return plain(found.to_dict()) if hasattr(found, "to_dict") else found
