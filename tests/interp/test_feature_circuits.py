"""Features as nodes of circuits: beside a pass over receivers one by one, autograd, and brute force."""

import copy
import math

import pytest
import torch

from cutaway import run_with_cache, sae
from cutaway.hooks import Hooks
from cutaway.interp import metrics
from cutaway.interp.circuits import Circuit, CircuitRuns, FeatureNodes, Graph, run_circuit, score_edges
from cutaway.interp.path_patching import patch_paths
from cutaway.interp.refactoring import ungroup_heads
from interp.models import small_model, two_runs

ROUNDING = {"rtol": 0, "atol": 1e-10}  # float64 with logits below 100: sums of some hundred terms in another order
METRIC = metrics.logit_diff(3, 5)

CASES = {
    "gpt2, relu of the output": ("gpt2", "mlp_out", "relu"),
    "llama, topk of the output": ("rotary, grouped, gated", "mlp_out", "topk"),
    "llama, jumprelu transcoder": ("rotary, grouped, gated", "ln2.normalized", "jumprelu"),
    "parallel, relu transcoder": ("parallel", "ln1.normalized", "relu"),
    "parallel, batchtopk of the output": ("parallel", "mlp_out", "batchtopk"),
    "no norm, topk transcoder of the stream": ("no norm", "resid_mid", "topk"),
    "bidirectional, skip transcoder": ("bidirectional", "ln2.normalized", "skip"),
}
FEATURES = {0: [1, 4, 7], 2: [0, 3]}


def a_dictionary(model, layer, reads, kind, *, d_sae=12):
    d = model.config.d_model
    is_transcoder = reads != "mlp_out"
    config = sae.DictionaryConfig(
        kind="relu" if kind == "skip" else kind, d_in=d, d_sae=d_sae, name=f"blocks.{layer}.{reads}",
        target=f"blocks.{layer}.mlp_out" if is_transcoder else None, k=5 if "topk" in kind else None, has_skip=kind == "skip",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(layer)
    made = sae.make_dictionary(config, generator=generator).double().eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        if kind in ("batchtopk", "jumprelu"):
            made.threshold.fill_(0.2)
    return made.requires_grad_(False)


@pytest.fixture(params=CASES)
def case(request):
    """A model, dictionaries of two of its layers, and both as features."""
    return made_case(request.param)


def made_case(name):
    variant, reads, kind = CASES[name]
    model = small_model(variant)
    made = {layer: a_dictionary(model, layer, reads, kind) for layer in FEATURES}
    return model, made, tuple(FeatureNodes.of(each, FEATURES[layer]) for layer, each in made.items())


def by_receiver(model, tokens, graph, dictionaries, read, held=None):
    """A run by the definition: a receiver after the other, each reading the stream that `read` gives it; returns logits and writes.

    `held` are the scales of norms before MLPs, by layer.
    """
    config, written, constant = model.config, {"embed": model.embed(tokens)}, torch.zeros((), dtype=torch.float64)
    offset = 0 if model.qk_positions is None else model.qk_positions(torch.arange(tokens.shape[1]))
    shared = graph.kv == "group" and config.n_kv_heads < config.n_heads

    def head(block, layer, h):
        g = h // (config.n_heads // config.n_kv_heads)
        kv = f"L{layer}G{g}" if shared else f"L{layer}H{h}"
        x = {"q": read(f"L{layer}H{h}.q", written, constant)}
        x |= {part: read(f"{kv}.{part}", written, constant) for part in "kv"}
        q = (block.attn.W_Q(block.ln1(x["q"]) + offset)).unflatten(-1, (config.n_heads, -1))[:, :, h]
        k = (block.attn.W_K(block.ln1(x["k"]) + offset)).unflatten(-1, (config.n_kv_heads, -1))[:, :, g]
        v = block.attn.W_V(block.ln1(x["v"])).unflatten(-1, (config.n_kv_heads, -1))[:, :, g]
        if model.rotary is not None:
            q, k = (model.rotary(each[:, :, None], torch.arange(tokens.shape[1]))[:, :, 0] for each in (q, k))
        scores = q @ k.mT / math.sqrt(config.d_head)
        if config.is_causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        return scores.softmax(-1) @ v @ block.attn.W_O.weight[:, h * config.d_head : (h + 1) * config.d_head].T

    def mlp(block, layer):
        norm = block.ln2 or block.ln1

        def parts(receiver):
            x, seen = read(receiver, written, constant), {}
            functions = {"normalized": lambda x, name: seen.update({name: x})}
            if held:
                functions["scale"] = lambda _x, _name: held[layer]
            normed = norm(x, hooks=Hooks(functions))
            out = block.mlp(normed)
            if layer not in dictionaries:
                return out, None
            name = dictionaries[layer].config.name.rpartition(".")[2]
            latents = dictionaries[layer].encode({"mlp_out": out, "normalized": seen.get("normalized"), "resid_mid": x}[name])
            return out, latents[..., None] * dictionaries[layer].W_dec  # batch pos d_sae d_model

        out, each = parts(f"mlp{layer}")
        if each is None:
            return {f"mlp{layer}": out}
        found = {f"mlp{layer}": out - each[:, :, FEATURES[layer]].sum(2)}
        return found | {f"mlp{layer}.f{f}": parts(f"mlp{layer}.f{f}")[1][:, :, f] for f in FEATURES[layer]}

    for layer, block in enumerate(model.blocks):
        new = {f"L{layer}H{h}": head(block, layer, h) for h in range(config.n_heads)}
        early = mlp(block, layer) if block.is_parallel else {}
        constant = constant + (0 if block.attn.W_O.bias is None else block.attn.W_O.bias)
        written |= new | early
        if not block.is_parallel:
            written |= mlp(block, layer)
    return model.unembed(read("logits", written, constant)), written


def plainly(_receiver, written, constant):
    return constant + sum(written.values())


def random_mask(graph, share, seed=0):
    drawn = torch.rand(graph.has_edge.shape, generator=torch.Generator().manual_seed(seed))
    return graph.has_edge & (drawn < share)


def test_the_graph_has_them_as_nodes_of_their_own():
    model = small_model()
    features = tuple(FeatureNodes.of(a_dictionary(model, layer, "mlp_out", "relu"), FEATURES[layer]) for layer in (2, 0))
    graph, plain = Graph(model.config, features=features), Graph(model.config)
    assert [str(node) for node in graph.senders if node.layer == 0] == [
        "L0H0", "L0H1", "L0H2", "L0H3", "mlp0", "mlp0.f1", "mlp0.f4", "mlp0.f7"
    ]  # fmt: skip
    assert {str(edge) for edge in plain.edges()} < {str(edge) for edge in graph.edges()}
    assert graph.has_edge[graph.place(graph.parse("L0H3->mlp0.f4"))]
    for wrong in ("mlp0->mlp0.f4", "mlp0.f1->mlp0.f4", "mlp2.f0->L2H0.q"):
        with pytest.raises(ValueError, match="is no edge"):
            graph.parse(wrong)
    with pytest.raises(ValueError, match=r"there is no mlp0\.f2 in this graph"):
        graph.parse("mlp0.f2->logits")
    receivers = list(map(str, graph.receivers))
    assert receivers[graph.first_receiver(1)] == "L1H0.q"
    assert [receivers[i] for i in graph.mlp_receivers(2)] == ["mlp2", "mlp2.f0", "mlp2.f3"]
    assert [receivers[i] for i in graph.head_receivers(2)["v"]] == [f"L2H{h}.v" for h in range(4)]
    fed = graph.feeds[receivers.index("mlp0.f4")].nonzero()[:, 0].tolist()
    assert [str(graph.senders[i]) for i in fed] == ["mlp0.f4"]


@torch.no_grad()
def test_all_edges_are_the_model_and_none_the_other_run(case):
    model, made, features = case
    (tokens, other), graph = two_runs(), Graph(model.config, features=features)
    whole, empty = Circuit.of_mask(graph, graph.has_edge), Circuit(graph, ())
    torch.testing.assert_close(by_receiver(model, tokens, graph, made, plainly)[0], model(tokens), **ROUNDING)
    for how in ("zero", "mean", "resample"):
        torch.testing.assert_close(run_circuit(model, tokens, whole, ablation=how, other_tokens=other), model(tokens), **ROUNDING)
    torch.testing.assert_close(run_circuit(model, tokens, empty, other_tokens=other), model(other), **ROUNDING)
    runs = CircuitRuns.of(model, tokens, empty, other_tokens=tokens)  # two runs that are alike: any part of the model is the model
    torch.testing.assert_close(runs.logits(random_mask(graph, 0.5)), model(tokens), **ROUNDING)


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
@torch.no_grad()
def test_a_circuit_is_what_its_receivers_read_one_by_one(case, how):
    model, made, features = case
    tokens, other = two_runs()
    for kv in ("group", "query-head")[: 1 + (model.config.n_kv_heads < 4)]:
        graph = Graph(model.config, kv, features)
        apart = ungroup_heads(model) if kv == "query-head" else model
        instead = by_receiver(apart, other, graph, made, plainly)[1]
        if how != "resample":
            instead = {name: x.mean(0, keepdim=True).expand_as(x) * (how == "mean") for name, x in instead.items()}
        for share in (0.1, 0.7):
            kept = random_mask(graph, share, seed=int(10 * share))
            columns = {str(node): kept[:, i] for i, node in enumerate(graph.receivers)}

            def read(receiver, written, constant, columns=columns, graph=graph, instead=instead):
                is_kept = dict(zip(map(str, graph.senders), columns[receiver].tolist(), strict=True))
                return constant + sum(x if is_kept[name] else instead[name] for name, x in written.items())

            expected = by_receiver(apart, tokens, graph, made, read)[0]
            found = run_circuit(model, tokens, Circuit.of_mask(graph, kept), ablation=how, other_tokens=other)
            torch.testing.assert_close(found, expected, **ROUNDING)
            assert not torch.allclose(expected, model(tokens), atol=1e-3), "the mask must matter"


def check_attributions(case, frozen=()):
    model, made, features = case
    tokens, other = two_runs()
    graph, leaves, held = Graph(model.config, features=features), {}, scales_of(model, tokens, frozen)

    def read(receiver, written, constant):
        for name, x in written.items():
            leaves.setdefault((name, receiver), torch.zeros_like(x, requires_grad=True))  # a group's heads read it in turn
        return constant + sum(x + leaves[name, receiver] for name, x in written.items())

    logits, written = by_receiver(model, tokens, graph, made, read, held)
    there = by_receiver(model, other, graph, made, plainly)[1]
    grads = torch.autograd.grad(METRIC(logits).mean(), list(leaves.values()))
    found = score_edges(model, tokens, other, METRIC, features=features, frozen=frozen)
    assert set(map(str, found.graph.edges())) == {f"{sender}->{receiver}" for sender, receiver in leaves}
    for (sender, receiver), grad in zip(leaves, grads, strict=True):
        expected = ((there[sender] - written[sender]) * grad).sum().detach()
        assert found.score(f"{sender}->{receiver}") == pytest.approx(expected.item(), abs=1e-10)


@torch.no_grad()
def check_exact(case, frozen=()):
    """Each edge by brute force: one receiver reads what one sender writes in the other run, all after it is computed anew."""
    model, made, features = case
    tokens, other = two_runs()
    graph, held = Graph(model.config, features=features), scales_of(model, tokens, frozen)
    base, written = by_receiver(model, tokens, graph, made, plainly)
    there = by_receiver(model, other, graph, made, plainly)[1]
    edges = [edge for edge in graph.edges() if "f" in f"{edge}".replace("embed", "") or "mlp" in str(edge.receiver)][::7]
    paths = [(str(edge.sender), str(edge.receiver)) for edge in edges]
    found = patch_paths(model, tokens, other, METRIC, paths=paths, mlps="frozen", features=features, frozen_norms=frozen)
    for sender, receiver in paths:

        def read(name, now, constant, sender=sender, receiver=receiver):
            moved = there[sender] - written[sender] if name == receiver else 0
            return constant + sum(now.values()) + moved

        effect = (METRIC(by_receiver(model, tokens, graph, made, read, held)[0]) - METRIC(base)).mean()
        assert found.effect(sender, receiver) == pytest.approx(effect.item(), abs=1e-10), f"{sender}->{receiver}"


def scales_of(model, tokens, frozen):
    cache = run_with_cache(model, tokens, list(frozen))[1] if frozen else {}
    return {int(name.split(".")[1]): cache[name] for name in frozen}


def test_attributions_are_those_of_a_model_with_a_stream_for_each_receiver(case):
    check_attributions(case)


def test_exact_scores_are_those_of_runs_with_one_edge_moved(case):
    check_exact(case)


@pytest.mark.parametrize("name", ["gpt2, relu of the output", "llama, jumprelu transcoder"])
def test_scores_with_norms_held_are_too(name):
    held = tuple(f"blocks.{layer}.ln2.scale" for layer in range(3))
    check_attributions(made_case(name), held)
    check_exact(made_case(name), held)


def test_the_parts_of_an_mlp_sum_to_it(case):
    """To first order the whole MLP's edges are those of its features and of the rest, in both directions."""
    model, _, features = case
    tokens, other = two_runs()
    apart, whole = (score_edges(model, tokens, other, METRIC, features=each) for each in (features, ()))
    for layer in FEATURES:
        rows, columns = (list(places(layer)) for places in (apart.graph.mlp_senders, apart.graph.mlp_receivers))
        (row,), (column,) = whole.graph.mlp_senders(layer), whole.graph.mlp_receivers(layer)
        assert apart.scores[rows, -1].sum().item() == pytest.approx(whole.scores[row, -1].item(), abs=1e-10)
        assert apart.scores[0, columns].sum().item() == pytest.approx(whole.scores[0, column].item(), abs=1e-10)


@pytest.mark.parametrize("name", ["gpt2, relu of the output", "llama, jumprelu transcoder"])
@pytest.mark.parametrize("method", ["eap", "eap-ig-inputs", "eap-ig-activations"])
def test_coarser_weights_give_nearly_the_same(name, method):
    """A model in bfloat16 and its copy in float64, the dictionary in float32: 8 bits of each number are left."""
    model, made, _ = made_case(name)
    coarse = copy.deepcopy(model).bfloat16()
    features = [FeatureNodes.of(each.float(), FEATURES[layer]) for layer, each in made.items()]
    tokens, other = two_runs()
    rough, exact = (
        score_edges(each, tokens, other, METRIC, features=features, method=method, steps=2).scores.double().nan_to_num()
        for each in (coarse, copy.deepcopy(coarse).double())
    )
    assert (rough - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", ["gpt2, relu of the output", "llama, jumprelu transcoder"])
def test_half_precision_loses_no_more_than_the_model_does(name):
    model, made, _ = made_case(name)
    coarse = copy.deepcopy(model).bfloat16()
    graph = Graph(model.config, features=tuple(FeatureNodes.of(each.float(), FEATURES[layer]) for layer, each in made.items()))
    (tokens, other), exact = two_runs(), copy.deepcopy(coarse).double()
    circuit = Circuit.of_mask(graph, random_mask(graph, 0.5))
    found, truth = (run_circuit(each, tokens, circuit, other_tokens=other) for each in (coarse, exact))
    assert found.dtype == torch.bfloat16
    assert (found - truth).square().mean() <= 2 * (coarse(tokens) - exact(tokens)).square().mean()
