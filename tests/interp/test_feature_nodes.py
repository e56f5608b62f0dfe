"""Features as nodes where the answer is known, on the disk, in pictures, and refused."""

import dataclasses
import json

import pytest
import torch

from cutaway import LanguageModel, metrics, run_with_cache, sae
from cutaway.experiments.handmade import HANDMADE
from cutaway.hooks import Hooks
from cutaway.interp.circuits import (
    Circuit,
    CircuitRuns,
    FeatureNodes,
    Graph,
    choose_features,
    compare,
    draw_circuit,
    evaluate_circuit,
    faithfulness_curve,
    find_by_acdc,
    find_circuit,
    keep_features,
    minimise,
    prune_greedily,
    random_circuit,
    read_pairs,
    run_circuit,
    score_edges,
)
from cutaway.interp.path_patching import patch_paths
from cutaway.runtime import seeded_generator
from interp.models import small_model, two_runs

METRIC = metrics.logit_diff(3, 5)


@pytest.fixture(scope="module")
def known():
    """A rule with an exception that one neuron knows, its layer's neurons as a transcoder's latents, and where that neuron stands."""
    made = HANDMADE["neuron"]()
    (neuron,) = made.circuit.neurons
    mlp = made.model.blocks[neuron.layer].mlp
    d_sae, d_in = mlp.W_in.weight.shape
    config = sae.DictionaryConfig(kind="relu", d_in=d_in, d_sae=d_sae, name="blocks.1.resid_mid", target="blocks.1.mlp_out")
    transcoder = sae.make_dictionary(config).double().eval()
    with torch.no_grad():
        transcoder.W_enc.copy_(mlp.W_in.weight.T)
        transcoder.b_enc.copy_(mlp.W_in.bias)
        transcoder.W_dec.copy_(mlp.W_out.weight.T)
    metric = metrics.logit_diff(made.answers.tolist(), made.wrong_answers.tolist())
    before = next(f"L{head.layer}H{head.head}" for head, role in made.circuit.heads.items() if role == "previous token")
    return made, transcoder.requires_grad_(False), metric, f"mlp1.f{neuron.index}", before


def chosen_of(known, n_features=5):
    made, transcoder, metric, _, _ = known
    return choose_features(made.model, made.tokens, made.corrupted_tokens, metric, transcoder, n_features=n_features)


def test_the_feature_that_carries_the_answer_is_chosen_first(known):
    made, _, _, feature, _ = known
    assert [f"mlp1.f{each}" for each in chosen_of(known, 1).features] == [feature]
    assert made.circuit.neurons


@pytest.mark.parametrize("method", ["exact", "eap", "eap-ig-inputs", "eap-ig-activations"])
def test_its_edges_are_the_known_ones(known, method):
    made, _, _, feature, before = known
    rows = slice(0, 4)
    few = metrics.logit_diff(made.answers[rows].tolist(), made.wrong_answers[rows].tolist())
    found = score_edges(
        made.model, made.tokens[rows], made.corrupted_tokens[rows], few, method=method, features=[chosen_of(known)],
        steps=4,  # the neuron's threshold is half way, where one point of five would stand
    )  # fmt: skip
    counted = {str(each.edge) for each in found.ranked() if abs(each.score) >= 0.05 * abs(found.gap)}
    assert counted == {f"embed->{before}.v", f"{before}->{feature}", f"{feature}->logits"}


def test_acdc_keeps_its_edges_and_a_small_circuit_is_the_model(known):
    made, _, metric, feature, before = known
    graph = Graph(made.model.config, features=(chosen_of(known, 1),)).open(made.model)
    runs = CircuitRuns.of(made.model, made.tokens[:4], Circuit(graph, ()), other_tokens=made.corrupted_tokens[:4])
    some = metrics.logit_diff(made.answers[:4].tolist(), made.wrong_answers[:4].tolist())
    kept = {str(edge) for edge in graph.edges_of(find_by_acdc(runs, some, threshold=0.01))}
    assert {f"embed->{before}.v", f"{before}->{feature}", f"{feature}->logits"} <= kept
    alone = Circuit.of_mask(graph, graph.mask(map(graph.parse, kept)))
    logits = run_circuit(made.model, made.tokens, alone, other_tokens=made.corrupted_tokens)
    torch.testing.assert_close(metric(logits), metric(made.model(made.tokens)), rtol=0, atol=0.5)
    assert not any(edge.startswith("mlp1->") for edge in kept), "the rest of its MLP is in no part of the answer"


def test_the_whole_way_of_a_circuit(known, tmp_path):
    """Found from a folder, saved, read, run, evaluated, minimised, drawn and compared as any other."""
    made, transcoder, metric, feature, before = known
    lm = LanguageModel(made.model, made.tokenizer)
    clean, corrupted = (list(map(made.tokenizer.decode, rows.tolist())) for rows in (made.tokens, made.corrupted_tokens))
    right, wrong = ([made.tokenizer.decode([each]) for each in ids.tolist()] for ids in (made.answers, made.wrong_answers))
    pairs = read_pairs(lm, clean, corrupted, right, wrong)
    folder = sae.save_dictionary(transcoder, tmp_path / "transcoder")
    found = find_circuit(lm, pairs, features=[folder], n_features=3, n_edges=12)
    assert f"{before}->{feature}" in map(str, found.circuit.edges)
    saved = Circuit.load(found.circuit.save(tmp_path / "circuit.json"))
    assert saved == found.circuit
    (features,) = json.loads((tmp_path / "circuit.json").read_text())["features"]
    assert features["path"] == str(folder)
    assert features["sha256"] == sae.dictionary_sha256(transcoder)
    given = {"other_tokens": made.corrupted_tokens}
    for circuit in (saved, saved.with_dictionaries(transcoder)):
        torch.testing.assert_close(
            run_circuit(made.model, made.tokens, circuit, **given), run_circuit(made.model, made.tokens, found.circuit, **given)
        )
    scores = evaluate_circuit(
        made.model, made.tokens, made.corrupted_tokens, metric, saved, ablations=["zero", "resample"], n_random=5, n_subsets=2
    )
    assert scores.of("resample").normalised == pytest.approx(1, abs=0.02)
    assert feature in {each.unit for each in scores.of("resample").units}
    small = minimise(made.model, made.tokens, made.corrupted_tokens, metric, saved)
    assert set(map(str, small.edges)) == {f"embed->{before}.v", f"{before}->{feature}", f"{feature}->logits"}
    assert "1 feature," in draw_circuit(small, tmp_path / "small.svg").summary()
    assert feature in (tmp_path / "small.svg").read_text()
    assert compare(small, saved).only_first == ()
    assert [str(node) for node in small.nodes] == ["embed", before, feature, "logits"]


def test_random_circuits_and_curves_have_them():
    model, (tokens, other) = small_model(), two_runs()
    features = FeatureNodes.of(of_output(model, 1), [0, 2, 3, 5])
    scores = score_edges(model, tokens, other, METRIC, features=[features])
    graph, n_edges = scores.graph, 60
    kept = prune_greedily(graph, scores.scores, n_edges).kept
    drawn = [random_circuit(graph, graph.layer_histogram(kept), generator=seeded_generator(seed)) for seed in range(10)]
    for each in drawn:
        assert graph.layer_histogram(each) == graph.layer_histogram(kept)
        assert torch.equal(graph.connected(each), each)
    assert any("f" in str(edge).replace("embed", "") for each in drawn for edge in graph.edges_of(each))
    unopened = dataclasses.replace(graph, features=(features,))
    curve = faithfulness_curve(model, tokens, other, METRIC, unopened, scores.scores, shares=[0.1, 1.0], ablations=["resample"])
    torch.testing.assert_close(curve.curves[0].circuits[1], METRIC(model(tokens)), rtol=0, atol=1e-10)


def test_along_activations_a_features_edges_sum_to_its_patch():
    model, (tokens, other) = small_model(gated_mlp=True, act="silu"), two_runs()
    made = of_output(model, 1)
    features = FeatureNodes.of(made, range(6))
    found = score_edges(model, tokens, other, METRIC, features=[features], method="eap-ig-activations", steps=30)
    patched = sae.feature_effects(model, made, tokens, metric=METRIC, other_texts=other, features=range(6))
    assert max(effect.abs().max() for effect in patched.exact.values()) > 0.01
    for place, node in enumerate(found.graph.senders):
        if node.kind == "feature":
            assert found.scores[place].nansum().item() == pytest.approx(patched.exact[node.index].mean().item(), abs=2e-3)


# --- features alone


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("blocks.0.resid_post", None),
        ("blocks.2.resid_post", None),
        ("blocks.1.attn.z", None),
        ("blocks.1.mlp_out", None),
        ("blocks.1.ln2.normalized", "blocks.1.mlp_out"),
    ],
)
def test_kept_features_are_whole_runs_with_a_hook(name, target, ablation):
    model, (tokens, other) = small_model(), two_runs(n_rows=3)
    made, written = of_output(model, 1, name=name, target=target), target or name
    _, there = run_with_cache(model, other, sorted({name, written}))

    @torch.no_grad()
    def by_hand(kept, keeps_rest):
        seen = {}

        def write(y, _name):
            here, away = made.encode(seen[name].flatten(2)), made.encode(there[name].flatten(2))
            whole = there[written].flatten(2)
            if ablation == "mean":
                away, whole = (x.mean(0).expand_as(x) for x in (away, whole))
            if ablation == "zero":
                away, whole = torch.zeros_like(away), torch.zeros_like(whole)
            latents = away.clone()
            latents[..., kept] = here[..., kept]
            rest = y.flatten(2) - here @ made.W_dec if keeps_rest else whole - away @ made.W_dec
            return (latents @ made.W_dec + rest).reshape(y.shape)

        functions = {name: [lambda x, _name: seen.update({name: x})]}
        functions.setdefault(written, []).append(write)
        return METRIC(model(tokens, hooks=Hooks(functions)))

    for keeps_rest in (True, False):
        found = keep_features(
            model, tokens, other, METRIC, made, ablation=ablation, sizes=[0, 1, 3], keeps_rest=keeps_rest, n_random=2
        )
        assert len(found.features) >= 3
        for n, rows in zip(found.sizes, found.curve.circuits, strict=True):
            torch.testing.assert_close(rows, by_hand(list(found.features[:n]), keeps_rest), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.curve.empty, by_hand([], False), rtol=0, atol=1e-10)
    all_kept = keep_features(model, tokens, other, METRIC, made, ablation=ablation, least_gap=0)
    torch.testing.assert_close(all_kept.curve.circuits[-1], METRIC(model(tokens)), rtol=0, atol=1e-10)
    assert all_kept.curve.normalised[-1].item() == pytest.approx(1)


def test_the_feature_that_carries_the_answer_is_enough(known):
    made, transcoder, metric, feature, _ = known
    found = keep_features(made.model, made.tokens, made.corrupted_tokens, metric, transcoder, keeps_rest=False, sizes=[0, 1])
    assert f"mlp1.f{found.features[0]}" == feature
    assert found.curve.normalised.tolist() == pytest.approx([0, 1])
    assert "With 1 kept or more it stays within 10 % of the model" in found.summary()
    assert "The rest alone" not in found.summary()
    kept = keep_features(made.model, made.tokens, made.corrupted_tokens, metric, transcoder, sizes=[0, 1])
    assert kept.curve.normalised[0].item() == pytest.approx(0, abs=1e-10)
    assert "The rest alone goes 0.0 % of the way" in kept.summary()
    assert max(max(each, default=0) for each in found.curve.random_shares()) <= 1
    given = keep_features(made.model, made.tokens, made.corrupted_tokens, metric, transcoder, features=found.features[1:4])
    assert given.features == found.features[1:4]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sizes": [3, 40]}, r"40 features are to be kept and \d+ can be: give 0 to so many"),
        ({"features": [12]}, "there is no feature 12; there are 12"),
        ({"ablation": "noise"}, "there is no ablation 'noise'"),
        ({"other_tokens": torch.zeros(2, 4, dtype=torch.long)}, "give as many of one length"),
    ],
)
def test_features_that_cannot_be_kept(given, sentence, without_type_checks):
    model, (tokens, other) = small_model(), two_runs()
    with pytest.raises(ValueError, match=sentence):
        keep_features(
            model, **{"tokens": tokens, "other_tokens": other, "metric": METRIC, "dictionary": of_output(model, 1), **given}
        )


# --- paths


def test_paths_lead_from_and_to_features():
    """What all parts of an MLP send to the logits directly is what its whole does, where nothing but the unembedding reads it."""
    model, (tokens, other) = small_model("no norm"), two_runs()
    features = FeatureNodes.of(of_output(model, 1), [1, 4, 5])
    apart = patch_paths(model, tokens, other, METRIC, features=[features], mlps="frozen")
    whole = patch_paths(model, tokens, other, METRIC, mlps="frozen")
    effects = {str(node): effect for node, effect in zip(apart.senders, apart.effects[:, 0].tolist(), strict=True)}
    of_whole = {str(node): effect for node, effect in zip(whole.senders, whole.effects[:, 0].tolist(), strict=True)}
    parts = [effects[name] for name in ("mlp1", "mlp1.f1", "mlp1.f4", "mlp1.f5")]
    assert sum(parts) == pytest.approx(of_whole["mlp1"], abs=1e-10)
    assert min(map(abs, parts)) > 1e-6
    into = patch_paths(model, tokens, other, METRIC, features=[features], senders=["L0H1"], receivers=["mlp1.f4", "L2H0.v"])
    assert list(map(str, into.receivers)) == ["mlp1.f4", "L2H0.v"]
    assert into.effects.abs().min() > 1e-6


def test_features_are_found_by_their_names():
    made = of_output(small_model(), 1)
    assert FeatureNodes.named(made, ["embed", "mlp1.f7", "mlp1.3", "mlp2.f4", "mlp1.f2", "mlp11.f5"]).features == (2, 7)
    with pytest.raises(
        ValueError, match=r"the dictionary is of mlp1, and none of its features is named: name some, such as mlp1.f12"
    ):
        FeatureNodes.named(made, ["mlp2.f4", "logits"])
    with pytest.raises(ValueError, match="there is no feature 12; there are 12"):
        FeatureNodes.named(made, ["mlp1.f12"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"senders": ["mlp1.f9"]}, r"mlp1.f9 is a feature, and no dictionary of mlp1 was given with it"),
        ({"senders": ["mlp0.f1"]}, r"mlp0.f1 is a feature, and no dictionary of mlp0 was given with it"),
        ({"receivers": ["mlp1.f1+L2H0.q"]}, "parts of an MLP that is taken apart join no set"),
    ],
)
def test_paths_that_are_refused(given, sentence):
    model, (tokens, other) = small_model(), two_runs()
    features = [FeatureNodes.of(of_output(model, 1), [1, 2, 4])]
    with pytest.raises(ValueError, match=sentence):
        patch_paths(model, tokens, other, METRIC, features=features, **given)


# --- bad input


def of_output(model, layer, **fields):
    shape = {"d_in": model.config.d_model, "name": f"blocks.{layer}.mlp_out", **fields}
    config = sae.DictionaryConfig(kind="relu", d_sae=12, **shape)
    return sae.make_dictionary(config, generator=seeded_generator(layer)).double().eval().requires_grad_(False)


def test_another_dictionary_is_refused(tmp_path):
    model, (tokens, other) = small_model(), two_runs()
    made = of_output(model, 1)
    folder = sae.save_dictionary(made, tmp_path / "sae")
    graph = Graph(model.config, features=(FeatureNodes.of(made, [1, 2], path=folder),))
    circuit = Circuit.load(Circuit.of_mask(graph, graph.has_edge).save(tmp_path / "circuit.json"))
    run_circuit(model, tokens, circuit, other_tokens=other)
    with pytest.raises(ValueError, match=r"the circuit has no features of a dictionary with sha256 .* give that of mlp1 with"):
        circuit.with_dictionaries(of_output(model, 2))
    sae.save_dictionary(of_output(model, 1, name="blocks.1.mlp_out").to(torch.float32), tmp_path / "sae")  # the same, in less bits
    run_circuit(model, tokens, circuit, other_tokens=other)
    with torch.no_grad():
        made.W_enc[3, 4] += 1
    sae.save_dictionary(made, folder)
    with pytest.raises(ValueError, match="are of another dictionary"):
        run_circuit(model, tokens, circuit, other_tokens=other)
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    with pytest.raises(ValueError, match=r"is not in .*sae any more: put it there, or give it"):
        run_circuit(model, tokens, circuit, other_tokens=other)


def test_circuits_of_other_features_are_not_compared():
    model = small_model()
    made = of_output(model, 1)
    of = [Circuit(Graph(model.config, features=features), ()) for features in ((), (FeatureNodes.of(made, [1]),))]
    with pytest.raises(ValueError, match=r"different graphs: .*sequential MLPs; .*sequential MLPs, 1 feature of mlp1 \(sha256"):
        compare(*of)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "blocks.1.resid_post"}, "features are nodes where a dictionary predicts an MLP's output"),
        ({"name": "blocks.1.attn.z"}, "features are nodes where a dictionary predicts an MLP's output"),
        ({"name": "blocks.1.resid_pre", "target": "blocks.1.mlp_out"}, "its features are to read what the MLP reads: give one of"),
        ({"name": "blocks.7.mlp_out"}, "there is no mlp7 in this model"),
        ({"d_in": 8}, "the dictionary is for 8 coordinates"),
        ({"model_sha256": "ab" * 32}, "the dictionary was trained on another model"),
    ],
)
def test_dictionaries_that_have_no_nodes_here(fields, sentence):
    model, (tokens, other) = small_model(), two_runs()
    with pytest.raises(ValueError, match=sentence):
        score_edges(model, tokens, other, METRIC, features=[FeatureNodes.of(of_output(model, 1, **fields), [0])])


def test_features_that_are_not_there():
    model, (tokens, other) = small_model(), two_runs()
    made = of_output(model, 1)
    with pytest.raises(ValueError, match="there is no feature 12; there are 12, 0 to 11"):
        FeatureNodes.of(made, [3, 12])
    with pytest.raises(ValueError, match="no feature is named"):
        FeatureNodes.of(made, [])
    with pytest.raises(ValueError, match="two dictionaries are for mlp1"):
        Graph(model.config, features=(FeatureNodes.of(made, [0]), FeatureNodes.of(made, [1])))
    with pytest.raises(ValueError, match="n_features is 0; expected 1 at least"):
        choose_features(model, tokens, other, METRIC, made, n_features=0)
    with pytest.raises(ValueError, match=r"no feature of blocks.1.mlp_out.* differs between the runs"):
        choose_features(model, tokens, tokens, METRIC, made)
