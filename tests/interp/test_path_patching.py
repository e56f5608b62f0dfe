"""Path patching finds what plain hooks find path by path, and on models made by hand nothing but the circuit."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Handmade, Head
from cutaway.hooks import Hooks
from cutaway.interp import metrics
from cutaway.interp.circuits import Graph
from cutaway.interp.nodes import KVInputs
from cutaway.interp.path_patching import MLPs, PathPatching, patch_paths
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

same = partial(torch.testing.assert_close, rtol=0, atol=1e-10)  # float64: logits of size 1 to 10


def record(model: Transformer, tokens: Tensor, hooks: dict | None = None) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    functions = {**(hooks or {})}
    for name in model.hook_names():
        before = functions.get(name)
        functions[name] = [*([] if before is None else [before]), lambda x, full: found.update({full: x.clone()})]
    model(tokens, hooks=Hooks(functions))
    return found


def put(at: tuple, value: Tensor) -> Callable:
    """A hook that writes at some places."""

    def write(x: Tensor, _name: str) -> Tensor:
        x = x.clone()
        x[at] = value
        return x

    return write


def first_pass(model: Transformer, tokens: Tensor, base: dict, other: dict, sender: str, mlps: str, frozen: list[str]) -> dict:
    """All activations with the sender's of the other run and other heads (and MLPs) held, written out with plain hooks."""
    every = slice(None)
    hooks: dict[str, Callable] = {name: put((every,), base[name]) for name in frozen}
    for layer in range(model.config.n_layers):
        z = f"blocks.{layer}.attn.z"
        held = base[z].clone()
        for head in range(model.config.n_heads):
            if sender == f"L{layer}H{head}":
                held[:, :, head] = other[z][:, :, head]
        hooks[z] = put((every,), held)
        mlp_out = f"blocks.{layer}.mlp_out"
        if sender == f"mlp{layer}":
            hooks[mlp_out] = put((every,), other[mlp_out])
        elif sender.startswith(f"mlp{layer}."):
            neuron = int(sender.partition(".")[2])
            post = base[f"blocks.{layer}.mlp.post"].clone()
            post[..., neuron] = other[f"blocks.{layer}.mlp.post"][..., neuron]
            hooks[f"blocks.{layer}.mlp.post"] = put((every,), post)
        elif mlps == "frozen" and mlp_out in base:
            hooks[mlp_out] = put((every,), base[mlp_out])
    if sender == "embed":
        hooks["embed"] = put((every,), other["embed"])
    return record(model, tokens, hooks)


def second_pass(model: Transformer, tokens: Tensor, base: dict, noted: dict, receivers: str, frozen: list[str]) -> Tensor:
    """The logits with the inputs of the receivers that are joined by + as they were noted."""
    if receivers == "logits":
        return noted["logits"]
    hooks: dict[str, list[Callable]] = {name: [put((slice(None),), base[name])] for name in frozen}
    for receiver in receivers.split("+"):
        for name, hook in taking(model.config, base, noted, receiver).items():
            hooks.setdefault(name, []).append(hook)
    return model(tokens, hooks=Hooks(hooks))


def taking(config: ModelConfig, base: dict, noted: dict, receiver: str) -> dict[str, Callable]:
    """Hooks that give one receiver what was noted; one query head's keys and values by its scores and its z."""
    every, hooks = slice(None), {}
    if receiver.startswith("mlp"):
        layer, _, neuron = receiver.removeprefix("mlp").partition(".")
        at = (..., int(neuron)) if neuron else (every,)
        names = [f"blocks.{layer}.mlp.{part}" for part in ("pre", "pre_linear")]
        return {name: put(at, noted[name][at]) for name in names if name in base}
    where, _, kind = receiver.partition(".")
    if "G" in where:
        layer, group = map(int, where.removeprefix("L").split("G"))
        name = f"blocks.{layer}.attn.{kind}"
        return {name: put((every, every, group), noted[name][:, :, group])}
    layer, head = map(int, where.removeprefix("L").split("H"))
    scope = f"blocks.{layer}.attn."
    group = head // (config.n_heads // config.n_kv_heads)
    if kind == "v":
        z = base[f"{scope}pattern"][:, head] @ noted[f"{scope}v"][:, :, group]
        hooks[f"{scope}z"] = put((every, every, head), z)
    elif kind == "q":
        hooks[f"{scope}q"] = put((every, every, head), noted[f"{scope}q"][:, :, head])
    else:
        turned = "rot_" if config.position == "rotary" else ""
        q, k = base[f"{scope}{turned}q"][:, :, head], noted[f"{scope}{turned}k"][:, :, group]
        scores = q @ k.mT / config.d_head**0.5
        hidden = base[f"{scope}attn_scores"][:, head].isneginf()
        hooks[f"{scope}attn_scores"] = put((every, head), scores.masked_fill(hidden, -torch.inf))
    return hooks


def precedes(sender: str, receiver: str, config: ModelConfig) -> bool:
    if receiver == "logits" or sender == "embed":
        return True
    if "+" in receiver:
        return any(precedes(sender, each, config) for each in receiver.split("+"))
    at = [int(re.search(r"\d+", name)[0]) for name in (sender, receiver)]
    if at[0] != at[1]:
        return at[0] < at[1]
    return sender.startswith("L") and receiver.startswith("mlp") and config.block == "sequential"


@torch.no_grad()
def check_paths(model: Transformer, make_tokens: Callable, mlps: MLPs, *, norms: tuple[str, ...] = ()) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    other_tokens[:, :3] = tokens[:, :3]  # a common beginning, where nothing differs
    config, metric = model.config, metrics.logit_diff(3, 5)
    senders, receivers = ["embed", "L0H1", "L1H0"], ["L0H2.q", "L1H2.q", "L1H1.k", "L1H3.v", "logits"]
    if config.d_mlp:
        senders, receivers = [*senders, "mlp0", "mlp0.5"], [*receivers, "mlp1", "mlp1.3", "L1H2.q+mlp1"]
    receivers += ["L1H2.q+L1H1.k+L1H3.v", "L0H2.q+L1H2.q"]  # the second: a head, and one that reads what it makes of it
    if config.n_kv_heads < config.n_heads:
        receivers += ["L1G0.k", "L1G0.v", "L1G0.k+L1H3.v" if config.n_kv_heads > 1 else "L1G0.k+L1G0.v"]
    base, other = record(model, tokens), record(model, other_tokens)
    found = patch_paths(model, tokens, other_tokens, metric, senders=senders, receivers=receivers, mlps=mlps, frozen_norms=norms)
    same(found.base, metric(base["logits"]))
    same(found.other, metric(other["logits"]))
    for i, sender in enumerate(map(str, found.senders)):
        noted = first_pass(model, tokens, base, other, sender, mlps, list(norms))
        for j, receiver in enumerate(map(str, found.receivers)):
            if not precedes(sender, receiver, config):
                assert found.scores[i, j].isnan().all(), (sender, receiver)
                continue
            same(
                found.scores[i, j],
                metric(second_pass(model, tokens, base, noted, receiver, list(norms))),
                msg=f"{sender} {receiver}",
            )


def test_every_path_is_that_of_plain_hooks(variant: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    check_paths(make_model(variant), make_tokens, "recomputed")


@pytest.mark.parametrize(
    "choices", [{}, {"block": "parallel", "position": "rotary", "rotary_dim": 2}, {"norm": "rmsnorm", "gated_mlp": True}]
)
def test_what_is_frozen_stays(choices: dict, tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    model = make_model(replace(tiny_config, **choices))
    check_paths(model, make_tokens, "frozen")
    check_paths(model, make_tokens, "frozen", norms=("blocks.1.ln1.scale", "ln_final.scale"))


@torch.no_grad()
def test_positions_and_rows_of_different_length(tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    model = make_model(tiny_config)
    tokens, other_tokens = make_tokens(), make_tokens(n_pos=8, seed=2)
    lengths, other_lengths = [9, 7], [8, 8]
    pairs = [[(0, 0), (5, 6), (7, 8)], [(1, 1), (3, 2), (7, 6)]]
    metric = metrics.log_prob(4)
    found = patch_paths(
        model, tokens, other_tokens, metric, senders=["L0H1"], receivers=["L1H2.k", "logits"], receiver_pos=-1,
        pairs=pairs, lengths=lengths, other_lengths=other_lengths,
    )  # fmt: skip
    for row, (length, other_length) in enumerate(zip(lengths, other_lengths, strict=True)):
        one, another = tokens[row : row + 1, :length], other_tokens[row : row + 1, :other_length]
        base, other = record(model, one), record(model, another)
        mixed = {name: x.clone() for name, x in base.items()}
        for there, here in pairs[row]:
            mixed["blocks.0.attn.z"][:, here] = other["blocks.0.attn.z"][:, there]
        noted = first_pass(model, one, base, mixed, "L0H1", "recomputed", [])
        same(found.scores[0, 1, row], metric(noted["logits"])[0])
        keys = base["blocks.1.attn.k"].clone()
        keys[:, -1, 2] = noted["blocks.1.attn.k"][:, -1, 2]
        logits = model(one, hooks={"blocks.1.attn.k": lambda x, _, keys=keys: keys})
        same(found.scores[0, 0, row], metric(logits)[0])
        same(found.base[row], metric(base["logits"])[0])


def paths_of(handmade: Handmade, **options: object) -> tuple[set[tuple[str, str]], PathPatching]:
    config = handmade.model.config
    receivers = [f"L{layer}H{head}" for layer in range(config.n_layers) for head in range(config.n_heads)]
    receivers += [f"mlp{neuron.layer}.{neuron.index}" for neuron in handmade.circuit.neurons] + ["logits"]
    receivers += [f"mlp{layer}" for layer in range(config.n_layers) if config.d_mlp and not handmade.circuit.neurons]
    found = patch_paths(
        handmade.model,
        handmade.tokens[:2],
        handmade.corrupted_tokens[:2],
        metrics.logit_diff(handmade.answers[:2], handmade.wrong_answers[:2]),
        receivers=receivers,
        **options,  # type: ignore[arg-type]
    )
    return {(path.sender, path.receiver) for path in found.ranked() if abs(path.effect) > 1e-10}, found


def edge_names(handmade: Handmade) -> set[tuple[str, str]]:
    def name(node: object, part: str = "") -> str:
        if isinstance(node, Head):
            return f"L{node.layer}H{node.head}{part}"
        return node if isinstance(node, str) else f"mlp{node.layer}.{node.index}"  # type: ignore[attr-defined]

    return {(name(edge.sender), name(edge.receiver, f".{edge.input}")) for edge in handmade.circuit.edges}


@pytest.mark.parametrize(
    "name",
    [
        "induction, with an MLP",
        "induction, learned positions",
        "induction, with decoys",
        "copying",
        "induction, rotary",
        "induction, grouped",
    ],
)
def test_a_circuit_made_by_hand_is_found_and_nothing_else(name: str) -> None:
    handmade = HANDMADE[name]()
    found, _ = paths_of(handmade)
    circuit = edge_names(handmade)
    from_heads = {(sender, receiver) for sender, receiver in circuit if sender.startswith("L")}
    assert {path for path in found if path[0] != "embed"} == from_heads
    assert found <= circuit


def test_an_induction_circuit_has_three_paths_that_carry_the_answer() -> None:
    """Of the embedding's, the one that differs between prompts: what the previous-token head reads."""
    handmade = HANDMADE["induction"]()
    before, inducing = (f"L{head.layer}H{head.head}" for head in handmade.circuit.heads)
    found, result = paths_of(handmade, mlps="frozen")
    assert found == {("embed", f"{before}.v"), (before, f"{inducing}.k"), (inducing, "logits")}
    shares = [path.recovery for path in result.ranked()[:3]]
    assert shares == pytest.approx([1.0] * 3, abs=1e-2)  # a circuit that is one chain: each link carries all of it


def test_names_are_moved_from_head_to_head() -> None:
    handmade = HANDMADE["indirect object"]()
    found, _ = paths_of(handmade)
    circuit = edge_names(handmade)
    duplicate, inhibition, _ = (f"L{head.layer}H{head.head}" for head in handmade.circuit.heads)
    same_in_both = (duplicate, f"{inhibition}.k")  # where the second name stands, which it does in the same place
    assert {path for path in found if path[0] != "embed"} == {
        path for path in circuit if path[0].startswith("L") and path != same_in_both
    }
    assert found <= circuit


def test_an_mlp_held_or_recomputed_decides_which_path_is_seen() -> None:
    handmade = HANDMADE["neuron"]()
    (head,), (neuron,) = handmade.circuit.heads, handmade.circuit.neurons
    sender, through = f"L{head.layer}H{head.head}", f"mlp{neuron.layer}.{neuron.index}"
    held, recomputed = paths_of(handmade, mlps="frozen"), paths_of(handmade, mlps="recomputed")
    assert held[0] == {("embed", f"{sender}.v"), (sender, through), (f"mlp{neuron.layer}", "logits")}
    assert recomputed[0] == held[0] | {(sender, "logits")}  # past the receiver nothing is held: by way of the MLP
    assert recomputed[1].effect(sender, "logits") == pytest.approx(recomputed[1].effect(sender, through), abs=1e-10)


@pytest.mark.parametrize("name", ["induction, RMSNorm", "induction, LayerNorm and MLP"])
def test_norms_leak_no_more_than_they_may(name: str) -> None:
    handmade = HANDMADE[name]()
    _, result = paths_of(handmade)
    circuit = edge_names(handmade)
    outside = [path for path in result.ranked() if (path.sender, path.receiver) not in circuit]
    assert max(abs(path.effect) for path in outside) <= handmade.leak
    assert {(path.sender, path.receiver) for path in result.ranked()[:3]} <= circuit


def test_a_result_is_shown_and_saved(tmp_path, tiny_model: Transformer, make_tokens: Callable) -> None:
    found = patch_paths(tiny_model, make_tokens(), make_tokens(seed=2), metrics.logit_diff(3, 5), receivers=["L1H2", "logits"])
    assert [str(node) for node in found.receivers] == ["L1H2.q", "L1H2.k", "L1H2.v", "logits"]
    saved = json.loads(found.to_json())
    assert saved["mlps"] == "recomputed"
    assert saved["effects"][-1][0] is None  # the last MLP writes after that head reads
    assert saved["effects"][0][3] == pytest.approx(found.effect("embed", "logits"))
    share = found.effects / (found.other.mean() - found.base.mean())
    same(found.recovery, share, equal_nan=True)
    console = Console(file=StringIO(), width=80, color_system=None)
    found.show(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The strongest paths" in shown
    assert max(map(len, shown.splitlines()[2:])) <= 80  # below the title and the sentences, which a file has in one line
    page = found.report(tmp_path / "paths.html").read_text(encoding="utf-8")
    assert "Wang et al. 2022" in page
    alone = patch_paths(tiny_model, make_tokens(), make_tokens(seed=2), metrics.logit_diff(3, 5))
    assert len(alone.figures()) == 2
    assert replace(alone, notes=("Mary is taken as ' Mary'.",)).summary().endswith("' Mary'.")


def test_a_set_of_receivers_is_shown_and_saved(tmp_path, tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, metric = (make_tokens(), make_tokens(seed=2)), metrics.logit_diff(3, 5)
    together = " + ".join(["L1H2.q", "L1H3.q", "L1H2.q"])
    found = patch_paths(tiny_model, *tokens, metric, receivers=[together, "L1H2.q", "L1H3.q", "L1H2.q+L1H2.q"])
    assert [str(each) for each in found.receivers] == ["L1H2.q+L1H3.q", "L1H2.q", "L1H3.q"]  # each once
    saved = json.loads(found.to_json())
    assert saved["receivers"] == ["L1H2.q+L1H3.q", "L1H2.q", "L1H3.q"]
    assert found.effect("embed", "L1H2.q+L1H3.q") != pytest.approx(found.effect("embed", "L1H2.q"))
    assert "joined by + take theirs together" in found.summary()
    console = Console(file=StringIO(), width=80, color_system=None)
    found.show(console)
    assert "Paths to L1H2.q+L1H3.q" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "L1H2.q+L1H3.q" in found.report(tmp_path / "paths.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kv", ["group", "query-head"])
def test_all_receivers_of_a_graph_are_patched(kv: KVInputs, make_model: MakeModel, make_tokens: Callable) -> None:
    """The change of the metric is there for every edge of the graph, and for nothing that is none."""
    llama = {"norm": "rmsnorm", "position": "rotary", "gated_mlp": True, "n_kv_heads": 2}
    graph = Graph(ModelConfig(d_vocab=31, n_ctx=12, n_layers=2, n_heads=4, d_model=16, **llama), kv)
    tokens, other = make_tokens(n_pos=5), make_tokens(n_pos=5, seed=2)
    receivers = list(map(str, graph.receivers))
    found = patch_paths(make_model(graph.config), tokens, other, metrics.logit_diff(3, 5), receivers=receivers, mlps="frozen")
    assert found.receivers == graph.receivers
    assert found.senders == graph.senders
    assert torch.equal(found.effects.isfinite(), graph.has_edge)
    assert (found.effects[graph.has_edge] != 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"senders": ["L7H0"]}, "no layer 7"),
        ({"senders": ["L0H9"]}, "no head 9"),
        ({"senders": ["logits"]}, "is no sender"),
        ({"senders": ["mlp0.999"]}, "no neuron 999"),
        ({"receivers": ["embed"]}, "is no receiver"),
        ({"receivers": ["L1H0.x"]}, "is no receiver"),
        ({"receivers": []}, "nothing to patch"),
        ({"receivers": ["L1H0.q+L1H9.q"]}, "no head 9"),
        ({"receivers": ["L1H0.q+"]}, "'' is no receiver"),
        ({"receivers": ["L1H0.q+logits"]}, "the logits take the whole stream"),
        ({"receivers": ["L1G4.k"]}, "no group 4"),
        ({"frozen_norms": "blocks.*.ln9"}, "computes no"),
        ({"receivers": ["L1H0.q"], "receiver_pos": 40}, "no position 40"),
        ({"pairs": [[(0, 12)], [(0, 0)]]}, r"no pair \(0, 12\)"),
        ({"pairs": [[(0, 0)]]}, "pairs are for 1 rows"),
    ],
)
def test_what_cannot_be_patched_is_refused(options: dict, said: str, tiny_model: Transformer, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=said):
        patch_paths(tiny_model, tokens, tokens, metrics.logit_diff(3, 5), **options)


def test_runs_of_different_length_need_pairs(tiny_model: Transformer, make_tokens: Callable) -> None:
    with pytest.raises(ValueError, match="9 and 7 tokens: give pairs"):
        patch_paths(tiny_model, make_tokens(), make_tokens(n_pos=7), metrics.logit_diff(3, 5))


def test_a_model_without_mlps_has_none_to_name(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="no MLPs"):
        patch_paths(make_model(replace(tiny_config, d_mlp=0)), tokens, tokens, metrics.logit_diff(3, 5), senders=["mlp0"])


def test_chosen_paths_are_patched_and_no_others(tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    model = make_model(replace(tiny_config, n_kv_heads=2))
    runs = (model, make_tokens(), make_tokens(seed=2), metrics.logit_diff(3, 5))
    chosen = [("embed", "L1G0.k"), ("L0H1", "L1G0.k+L1H2.q"), ("mlp0", "logits"), ("embed", "mlp0"), ("L1H0", "L0H0.q")]
    told: list[tuple[int, int]] = []
    found = patch_paths(*runs, paths=chosen, mlps="frozen", progress=lambda n, n_all: told.append((n, n_all)))
    whole = patch_paths(*runs, receivers=["L1G0.k", "L1G0.k+L1H2.q", "logits", "mlp0", "L0H0.q"], mlps="frozen")
    assert {(path.sender, path.receiver) for path in found.ranked()} == set(chosen[:4])  # L1H0 writes after L0H0 reads
    for sender, receiver in chosen[:4]:
        assert found.effect(sender, receiver) == pytest.approx(whole.effect(sender, receiver), abs=1e-10)
    assert max(told) == (2 * 5, 2 * 5)
    for options in ({"senders": ["embed"]}, {"receivers": ["L1H2.q"]}):
        with pytest.raises(ValueError, match="give either paths, or senders and receivers"):
            patch_paths(*runs, paths=chosen, **options)
