# %% [markdown]
# # Finding a circuit
#
# **Which few parts of a model do a thing, and how would you know that it is these?**
#
# You need: [attribution and patching](13_attribution_and_patching.py), [induction heads](14_induction_heads.py). Explains the
# package [circuits](../src/cutaway/interp/circuits/__init__.py): [graph.py](../src/cutaway/interp/circuits/graph.py),
# [estimates.py](../src/cutaway/interp/circuits/estimates.py), [pruning.py](../src/cutaway/interp/circuits/pruning.py),
# [minimising.py](../src/cutaway/interp/circuits/minimising.py), [evaluation.py](../src/cutaway/interp/circuits/evaluation.py).

# %%
from unittest.mock import Mock, patch

import torch
from torch import Tensor

import cutaway
from cutaway import ModelConfig, circuits, metrics, plots, residual
from cutaway.experiments.handmade import Handmade, Head, indirect_object, induction
from cutaway.experiments.name_sentences import NameSentences
from cutaway.experiments.year_spans import YearSpans
from cutaway.interp.circuits.estimates import along_inputs
from cutaway.lesson import checking, expect, figure, pick, say, show

# %% [markdown]
# ## The idea
#
# A transformer's parts talk through the residual stream: every head and MLP adds to it, and every later one reads the sum. So
# each pair of an earlier sender and a later receiver is an *edge*, and a model is the graph of all of them. Most do nothing
# for a given behaviour. A *circuit* is the few that do.
#
# To find it one needs a behaviour that is a number (a metric), and prompts in pairs: clean ones, on which the model does it,
# and corrupted ones that are alike but for what the behaviour should depend on. Then, edge by edge: what happens to the metric
# on the clean prompt if along this edge alone comes what would come on the corrupted one? The edges that matter make the
# circuit.
#
# And then the claim has to be tested: with **only** the circuit left, and all other edges carrying what they carry on corrupted
# prompts, does the model still do it, on prompts that were not used to find it, better than other circuits as large?

# %% [markdown]
# ## The equation
#
# The stream that receiver $r$ reads is the sum of what the senders wrote. Let $a_s$ and $a'_s$, `pos d_model`, be what sender
# $s$ writes on the clean and on the corrupted prompt, and $m$ the metric. The effect of an edge is
#
# $$ \Delta_{s \to r} = m\big(\text{$r$ reads } a'_s \text{ in the place of } a_s\big) - m
#    \;\approx\; \sum_\text{pos} (a'_s - a_s) \cdot \frac{\partial m}{\partial\,\text{input}_r} $$
#
# Left is the exact effect: one run an edge. Right is its first-order estimate, *edge attribution patching* (EAP): the gradient
# is the same for all senders, so one backward pass scores every edge. With *integrated gradients* (EAP-IG) the gradient is
# averaged over a few points of the line between both prompts' embeddings, which helps where the metric is not linear.
#
# The *faithfulness* of circuit $C$ is how far it gets from the empty circuit, in which every edge is corrupted, to the model:
#
# $$ \frac{m(C) - m(\emptyset)}{m(M) - m(\emptyset)} $$

# %% [markdown]
# ## The code
#
# The estimate, for all edges of one place where receivers read: `changed` is what senders change, `grad` the gradient where
# receivers read.

# %%
show(along_inputs, start="for share in shares", stop="scores[:")

# %% [markdown]
# To choose from scores, the library goes from the logits down: an edge is taken only if it leads to something that is
# already in the circuit. What then hangs in the air is dropped.

# %%
show(circuits.prune_greedily)

# %% [markdown]
# ## First, where the answer is known
#
# Would this find a circuit if there was one? The library has transformers whose weights were set by hand, with other heads
# beside the circuit that are active and say nothing, and all directions turned at random. `carrying` are the edges along which
# something comes that is another on the corrupted prompt.


# %%
def name_of(part: object) -> str:
    return f"L{part.layer}H{part.head}" if isinstance(part, Head) else str(part)


def carrying(made: Handmade) -> set[str]:
    """Return the edges of a handmade circuit that carry the difference, as the circuits package writes them."""
    return {
        f"{name_of(each.sender)}->{name_of(each.receiver)}" + (f".{each.input}" if each.input in "qkv" else "")
        for each in made.carrying
    }


def discovered(made: Handmade, method: str) -> set[str]:
    """Return the edges that move the metric by five per cent of the difference between both prompts."""
    metric = metrics.logit_diff(made.answers, made.wrong_answers)
    found = circuits.score_edges(made.model, made.tokens, made.corrupted_tokens, metric, method=method)
    assert found.graph.n_edges > 80
    return {str(each.edge) for each in found.ranked() if abs(each.score) > 0.05 * abs(found.gap)}


rows = []
for made in (induction(), indirect_object()):
    known = carrying(made)
    for method in ("exact", "eap", "eap-ig-inputs"):
        named = discovered(made, method)
        if method == "exact":
            assert named == known
        if (made.name, method) == ("indirect object", "eap"):
            assert not any(edge.startswith("embed->") for edge in named)
        rows.append(f"| {made.name} | {method} | {len(known)} | {len(named & known)} | {len(named - known)} |")
say("| model | method | known | found | wrong |\n|---|---|---|---|---|\n" + "\n".join(rows))

# %% [markdown]
# Trying every edge finds exactly the circuit, no more and no less. The first-order estimate finds all of the first; of the
# second it misses all edges that come from the embedding, so that no path from there to the logits is left. Its heads give
# nearly all their attention to one token. Where a softmax is saturated its gradient is nearly 0, although a large change would
# move it, and along a chain of three heads such small factors multiply. EAP-IG crosses the region in between, sees most of it,
# and may name an edge too many. Keep this in mind whenever a cheap score says that an edge does nothing.

# %% [markdown]
# ## A behaviour, and prompts in pairs
#
# `ioi-mini` has two layers of attention, learnt from sentences of this kind, and no positions. It knows who receives. The
# corrupted prompt has a third person give, after which neither of the two is likelier.

# %%
lm = cutaway.load("ioi-mini")
sentences = NameSentences.drawn(0.2, generator=torch.Generator().manual_seed(0))
made_here = sentences.prompts(pick(fast=128, full=512), generator=torch.Generator().manual_seed(1))


def texts(tokens: Tensor) -> list[str]:
    return [lm.text(row) for row in tokens]


receivers, givers = (texts(tokens[:, None]) for tokens in (made_here.receivers, made_here.givers))
pairs = circuits.read_pairs(lm, texts(made_here.tokens), texts(made_here.other_tokens), receivers, givers)
finding, held_out = pairs.split(0.5)
with torch.inference_mode():
    clean, corrupted = (pairs.metric(lm.model(tokens)).mean().item() for tokens in (pairs.tokens, pairs.other_tokens))
assert clean > 4 > 1 > abs(corrupted)
say(f"""
- clean: `{texts(made_here.tokens)[0].strip()}` → `{receivers[0].strip()}`
- corrupted: `{texts(made_here.other_tokens)[0].strip()}`

The receiver's logit less the giver's is {clean:.2f} on clean prompts and {corrupted:.2f} on corrupted ones.
""")

# %% [markdown]
# ## Scores of all edges

# %%
graph = circuits.Graph(lm.config)
few = finding.rows(range(pick(fast=32, full=128)))
scores = {
    method: circuits.score_edges(lm.model, few.tokens, few.other_tokens, few.metric, method=method)
    for method in ("exact", "eap", "eap-ig-inputs")
}
exact = scores["exact"].scores[graph.has_edge].tolist()
figure(
    plots.scatter(
        {
            name: (exact, scores[method].scores[graph.has_edge].tolist())
            for name, method in (("EAP", "eap"), ("EAP-IG, 5 points", "eap-ig-inputs"))
        },
        title=f"Scores of {graph.n_edges} edges",
        x_label="exact: what the logit difference gains with the edge corrupted",
        y_label="estimate",
        has_diagonal=True,
    ),
    "An edge is a point: four matter, to the left; of the two that come from the embedding EAP sees half and a tenth, while EAP-IG "
    "lies near the diagonal",
)
names = [str(each.edge) for each in scores["exact"].ranked(4)]
eap_sees = [scores["eap"].score(name) / scores["exact"].score(name) for name in names if name.startswith("embed->")]
assert len(eap_sees) == 2
assert min(eap_sees) < 0.25 < max(eap_sees) < 0.75
table = "\n".join(f"| `{name}` | " + " | ".join(f"{each.score(name):+.2f}" for each in scores.values()) + " |" for name in names)
say(f"| edge | exact | EAP | EAP-IG |\n|---|---|---|---|\n{table}")

# %% [markdown]
# `L1H1.v` is what the values of head 1 of layer 1 read. A negative score says that the answer suffers when the edge is
# corrupted.

# %% [markdown]
# ## Predict
#
# The model has two layers, and a model of one layer learns this less well in as many steps
# ([experiments](../docs/experiments.md) has both). Of the 257 edges the next cell takes the best 20 on one half of the prompts,
# and leaves out what can go while the metric stays within 5 % of the gap. How many edges are left? Which heads of layer 0 are
# among them?

# %% tags=["prediction"]
assert graph.n_edges == 257
n_edges, tolerance = 20, 0.05
found = circuits.find_circuit(lm, pairs, n_edges=n_edges, method="eap-ig-inputs")
small = circuits.minimise(lm.model, finding.tokens, finding.other_tokens, finding.metric, found.circuit, tolerance=tolerance)
heads = {str(node) for node in small.nodes if node.kind == "head"}
assert len(small) <= 8
assert {"L1H1", "L1H7"} <= heads
in_first_layer = sorted(head for head in heads if head.startswith("L0"))
say(f"""
{len(small)} edges are left: {", ".join(f"`{edge}`" for edge in small.edges)}. Of layer 0 there is
{", ".join(in_first_layer) or "no head at all"}. The names go straight from the embedding into the values of two heads, and from
there to the logits. So what is the first layer for? Keep the question; the answer is below, and it is about the prompts.
""")

# %%
figure(
    circuits.draw_circuit(small).figures()[0],
    "The circuit: from the embedding to the values of two heads of layer 1, and from them to the logits, an edge as wide as its score",
)

# %% [markdown]
# ## Is it faithful?
#
# On the other half of the prompts, beside the model, the empty circuit and random circuits. A random circuit is connected too
# and has as many edges into each layer, which in a small graph makes it a hard null: now and then it is the circuit itself.

# %%
n_random = 30
judged = circuits.evaluate_circuit(
    lm.model, held_out.tokens, held_out.other_tokens, held_out.metric, small, n_random=n_random, n_subsets=10,
    measured="logit difference",
)  # fmt: skip
resample = judged.of("resample")
assert resample.interval is not None
assert resample.normalised is not None
assert resample.normalised > 0.75
assert resample.incompleteness < resample.difference + 0.3
median = sorted(resample.random_shares)[n_random // 2]
assert median < 0.3
figure(
    judged.figures()[0],
    "The circuit gets most of the way from the empty circuit to the model, and random circuits mostly do not",
)
say(f"""
On {len(held_out)} pairs that it was not found with the circuit gives {100 * resample.normalised:.0f} % of the logit difference (95 %
interval over prompts: {resample.interval}); of {n_random} random circuits the median gives {100 * median:.0f} %, and
{resample.n_random_further} are further from the model. The interval is of the prompts alone: it says nothing of other kinds of
sentences.

*Completeness* asks the opposite: if parts of the circuit are taken out, does the model lose as much as the circuit? If something
else in the model could step in, it would lose less. Over ten random parts, circuit and model differ by at most
{resample.incompleteness:.2f}, and the whole difference between them is {resample.difference:.2f}: nothing steps in.
""")

# %%
sizes = circuits.faithfulness_curve(
    lm.model, held_out.tokens, held_out.other_tokens, held_out.metric, graph, scores["eap-ig-inputs"].scores,
    ablations=("resample",), n_random=10, measured="logit difference",
)  # fmt: skip
figure(sizes.figures()[0], "Faithfulness over the share of the edges that is kept: a few per cent are nearly the whole of it")

# %% [markdown]
# ## What it means
#
# A list of edges is not an explanation. Where do the two heads look from the last word, and what do they write?

# %%
_, cache = cutaway.run_with_cache(lm.model, made_here.tokens, names="blocks.1.attn.pattern")
looks = cache["pattern", 1][:, :, -1]  # batch head k_pos
is_giver = made_here.tokens != made_here.other_tokens  # the one place where both prompts differ
on_giver = {head: (looks[:, head] * is_giver).sum(dim=1).mean().item() for head in (1, 7)}
assert min(on_giver.values()) > 0.8
written = {
    who: residual.attribute(lm.model, made_here.tokens, names.tolist(), made_here.strangers.tolist(), by="head")
    for who, names in (("receiver", made_here.receivers), ("giver", made_here.givers))
}
to_logits = {who: dict(zip(each.labels, each.mean.tolist(), strict=True)) for who, each in written.items()}
shown = [f"L1H{head}" for head in range(8)]
raise_both = [head for head in shown if min(to_logits["giver"][head], to_logits["receiver"][head]) > 1]
assert raise_both == ["L1H0", "L1H2", "L1H3", "L1H4", "L1H5"]
assert all(abs(to_logits["giver"][head] - to_logits["receiver"][head]) < 0.5 for head in raise_both)
assert all(to_logits["giver"][head] < -1 and abs(to_logits["receiver"][head]) < 0.1 for head in ("L1H1", "L1H7"))
figure(
    plots.bars(
        [to_logits[who][head] for head in shown for who in to_logits],
        labels=[f"{head} to the {who}" for head in shown for who in to_logits],
        title="What heads of layer 1 add straight to the names' logits",
        label="logit, less that of a name that is not in the sentence",
    ),
    "On average over many names five heads raise both names about equally; the two of the circuit take the giver's down, and leave "
    "the receiver's as it is",
)
say(f"""
Head 1 gives {100 * on_giver[1]:.0f} % of its attention to the giver, head 7 {100 * on_giver[7]:.0f} %. They write
{to_logits["giver"]["L1H1"]:.1f} and {to_logits["giver"]["L1H7"]:.1f} to the giver's logit and next to nothing to the receiver's. So
the model raises names, by heads that each know some of them (on average both alike; the lesson on patching shows one for Mary), which
are not in the circuit as they do so on both prompts, and takes down the one who gave.
GPT-2 does it otherwise: there heads move the name that comes next (Wang et al. 2022).
""")

# %% [markdown]
# ## What the question left out
#
# The heads look at the giver. How do they know who that is? The model has no positions, and Mary looks the same wherever she
# stands. Something must mark the giver first, and it is not in the circuit. It cannot be: on the corrupted prompt there is a
# giver too, at the same place, so the mark is the same on both. **Resample ablation leaves alone whatever both prompts have in
# common.** It finds who carries the *name*, and is blind to who finds the *place*.
#
# Zero ablation takes away all that an edge carries. That asks another question and gets another circuit.

# %%
zeroed = circuits.score_edges(lm.model, few.tokens, few.other_tokens, few.metric, method="exact", ablation="zero")
ranked = [str(each.edge) for each in zeroed.ranked(14)]
marking = [edge for edge in ranked if edge.endswith(".k") and edge.startswith("L0")]
assert any(edge.startswith("L0H6") for edge in marking)
assert all(edge.endswith(("->L1H1.k", "->L1H7.k")) for edge in marking)
asking = [edge for edge in ranked if edge in ("embed->L1H1.q", "embed->L1H7.q")]
assert asking
assert not [edge for edge in small.edges if edge.receiver.input == "k"]
larger = circuits.Circuit.of_mask(graph, circuits.prune_greedily(graph, zeroed.scores, 16).kept)
both = {
    name: circuits.evaluate_circuit(
        lm.model, held_out.tokens, held_out.other_tokens, held_out.metric, circuit, ablations=("resample", "zero"),
        n_random=0, n_subsets=0, units=None,
    )
    for name, circuit in {"found by resampling": small, "found by zeros": larger}.items()
}  # fmt: skip
of_small, of_larger = (
    {each.how: 100 * (each.normalised or 0) for each in both[name].faithfulness}
    for name in ("found by resampling", "found by zeros")
)
assert of_small["zero"] < 40
assert of_larger["zero"] > of_small["zero"] + 20
say(f"""
By exact scores under zero ablation the strongest edges are {", ".join(f"`{edge}`" for edge in ranked[:10])}. There is the first
layer: {", ".join(f"`{edge}`" for edge in marking)} enter the *keys* of heads of the circuit, by which the giver is found. And
by {", ".join(f"`{edge}`" for edge in asking)} the embedding of the last word enters the queries: this is where the question is asked.

| circuit | edges | faithfulness, resample | faithfulness, zero |
|---|---|---|---|
| found by resampling | {len(small)} | {of_small["resample"]:.0f} % | {of_small["zero"]:.0f} % |
| found by zeros | {len(larger)} | {of_larger["resample"]:.0f} % | {of_larger["zero"]:.0f} % |

Neither is wrong. A circuit is the answer to a question, and the question is the corrupted prompt.
""")

# %% [markdown]
# ## Exercises
#
# **1. Faithfulness.** Write it from the metric of circuit, model and empty circuit, row by row: of the means, not the mean of
# shares, as a row in which the model and the empty circuit hardly differ would outweigh all others.


# %% tags=["starter"]
def faithfulness(circuit: Tensor, model: Tensor, empty: Tensor) -> float:
    return ((circuit - empty) / (model - empty)).mean().item()


# %% [markdown] tags=["hint"]
# Take the means of the three first.


# %% tags=["solution"]
def faithfulness(circuit: Tensor, model: Tensor, empty: Tensor) -> float:
    return ((circuit.mean() - empty.mean()) / (model.mean() - empty.mean())).item()


# %% tags=["check"]
with checking("faithfulness"):
    some = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]), torch.tensor([1.9, 0.0])
    expect(faithfulness(*some), (2.0 - 0.95) / (3.0 - 0.95), "two rows, of which one has hardly a gap")
    expect(faithfulness(resample.circuit, resample.model, resample.empty), resample.normalised, "as the library has it")

# %% [markdown]
# **2. One edge by hand.** What does the logit difference gain if head `head` of the last layer writes to the logits what it
# writes on the corrupted prompts, and nothing else changes? Of the last layer nothing reads the head's output but the final
# norm and `W_U`, so take the stream at the end, put the other output in the place of this one, and unembed.


# %% tags=["starter"]
def edge_to_logits(head: int) -> float:
    names = ["blocks.1.attn.z", "blocks.1.resid_post"]
    logits, clean = cutaway.run_with_cache(lm.model, few.tokens, names=names)
    _, other = cutaway.run_with_cache(lm.model, few.other_tokens, names=names)
    moved = other["blocks.1.resid_post"] - clean["blocks.1.resid_post"]  # of all senders: take the head's alone
    stream = clean["blocks.1.resid_post"] + moved
    return (few.metric(lm.model.unembed(stream)) - few.metric(logits)).mean().item()


# %% [markdown] tags=["hint"]
# `z` is `batch pos head d_head`. What the head adds to the stream is `z[:, :, head]` times its part of the output matrix.

# %% [markdown] tags=["hint"]
# `lm.model.blocks[1].attn.W_O.weight` is `d_model (head d_head)`: `.unflatten(1, (8, 8))[:, head]` is `d_model d_head`.


# %% tags=["solution"]
def edge_to_logits(head: int) -> float:
    names = ["blocks.1.attn.z", "blocks.1.resid_post"]
    logits, clean = cutaway.run_with_cache(lm.model, few.tokens, names=names)
    _, other = cutaway.run_with_cache(lm.model, few.other_tokens, names=names)
    W_O = lm.model.blocks[1].attn.W_O.weight.unflatten(1, (lm.config.n_heads, lm.config.d_head))[:, head]
    moved = (other["blocks.1.attn.z"] - clean["blocks.1.attn.z"])[:, :, head] @ W_O.T
    stream = clean["blocks.1.resid_post"] + moved
    return (few.metric(lm.model.unembed(stream)) - few.metric(logits)).mean().item()


# %% tags=["check"]
with checking("one edge by hand"):
    with torch.no_grad():
        by_hand = {head: edge_to_logits(head) for head in (1, 7, 2)}
    for head, effect in by_hand.items():
        expect(effect, scores["exact"].score(f"L1H{head}->logits"), f"L1H{head}->logits", tolerance=1e-3)

# %% [markdown]
# **3. A circuit of your own.** Half an hour. `greater-than` says which years may come after
# `from the year 18 21 to the year 18`, and has MLPs. Its corrupted prompts have the year `01`, or `98` where an earlier one is
# asked for. Return a circuit of at most 10 of its 46 edges that is faithful to 90 % on prompts that you do not see, without
# `select_circuit`, `find_circuit` and `minimise`: score all edges, and then try to drop each, from the weakest up, while the
# circuit stays within 5 % of the model. Then draw it, say what each part does, and which edges resampling can never find here,
# as both prompts share what they carry.

# %%
year_model = cutaway.load("greater-than").model
spans = YearSpans.drawn(0.2, generator=torch.Generator().manual_seed(0))
years = spans.prompts(64, generator=torch.Generator().manual_seed(1))
other_years = spans.prompts(64, generator=torch.Generator().manual_seed(2))
assert circuits.Graph(year_model.config).n_edges == 46


# %% tags=["starter"]
def year_circuit() -> circuits.Circuit:
    data = year_model, years.tokens, years.other_tokens, years.metric
    found = circuits.score_edges(*data, method="exact")
    return circuits.Circuit.of_mask(found.graph, found.graph.has_edge)  # all 46: drop what it can do without


# %% [markdown] tags=["hint"]
# `found.scores` is a table of senders and receivers; `found.graph.edges_of(mask)` lists edges and `found.graph.place(edge)` is
# an edge's place in the table. Sort the edges by the size of their scores.

# %% [markdown] tags=["hint"]
# `circuits.evaluate_circuit(*data, circuit, n_random=0, n_subsets=0, units=None).faithfulness[0].normalised` is 1 for a circuit
# that gives the metric of the model. Drop an edge from a copy of the mask, and keep the copy if this is above 0.95.


# %% tags=["solution"]
def year_circuit() -> circuits.Circuit:
    data = year_model, years.tokens, years.other_tokens, years.metric
    found = circuits.score_edges(*data, method="exact")
    graph, kept = found.graph, found.graph.has_edge.clone()
    for edge in sorted(graph.edges_of(kept), key=lambda edge: abs(float(found.scores[graph.place(edge)]))):
        tried = kept.clone()
        tried[graph.place(edge)] = False
        circuit = circuits.Circuit.of_mask(graph, tried)
        share = circuits.evaluate_circuit(*data, circuit, n_random=0, n_subsets=0, units=None).faithfulness[0].normalised
        if share is not None and abs(1 - share) < 0.05:
            kept = tried
    return circuits.Circuit.of_mask(graph, graph.connected(kept))


# %% tags=["check"]
with checking("a circuit of your own"):
    refusal = Mock(side_effect=AssertionError("select_circuit, find_circuit and minimise would do the exercise for you"))
    with patch.multiple(circuits, select_circuit=refusal, find_circuit=refusal, minimise=refusal):
        yours = year_circuit()
    assert len(yours) <= 10, f"it has {len(yours)} edges; expected 10 at most"
    of_yours = circuits.evaluate_circuit(
        year_model, other_years.tokens, other_years.other_tokens, other_years.metric, yours, n_random=0, n_subsets=0, units=None
    ).faithfulness[0]
    share = of_yours.normalised or 0.0
    assert abs(1 - share) < 0.1, f"on other prompts it gives {100 * share:.0f} % of the metric; expected 90 to 110 %"
    on_years = circuits.evaluate_circuit(
        year_model, years.tokens, years.other_tokens, years.metric, yours, n_random=0, n_subsets=0, units="edge"
    ).faithfulness[0]
    for edge in on_years.units:
        without = (on_years.normalised or 0.0) + edge.effect / on_years.gap
        assert abs(1 - without) >= 0.05, f"without one of its edges it gives {100 * without:.0f} % on `years`: that edge can go too"

# %% [markdown]
# ## Pitfalls
#
# - *"My prompts differ in length."* Then position 7 of one is not position 7 of the other, and what is patched is noise. Pairs
#   must have the same number of tokens, each with its partner; the library refuses others, as the first cell below shows. Names
#   of one token are not names of one token in another vocabulary.
# - *"I measure the probability of the answer."* It saturates: near 1 a head that doubles the odds moves it by next to nothing,
#   and gradients vanish with it. The second cell shows how little EAP sees of the strongest edge then. Logit differences
#   do not saturate.
# - *"Zero ablation or resample?"* Zeros put the model where it has never been, and break what every prompt needs; resampling
#   leaves what both prompts share; means lie between, and depend on the prompts they are taken over. Say which, and score and
#   run under the same.
# - *"Faithfulness above 1: better than the model?"* Edges that work against the answer are outside. The share is no accuracy
#   and may leave 0 to 1; an average near 1 can also hide rows that are far above and far below.
# - *"It is faithful, so it is how the model does it."* It is enough, on these prompts, under this ablation. Look whether random
#   circuits are enough too, whether the model suffers without it, and on sentences of another kind.

# %%
try:
    circuits.read_pairs(lm, ["When Mary and John met"], ["When Mary and Tom and John met"], ["Mary"])
except ValueError as error:
    say(f"Refused: *{error}*.")
else:
    raise AssertionError("pairs of different length are refused")

# %%
by_metric = {"logit difference": few.metric, "probability": metrics.prob(list(few.question.correct.ids))}
shares = {
    (name, method): found.score("L1H1->logits") / found.gap
    for name, metric in by_metric.items()
    for method in ("exact", "eap")
    for found in [circuits.score_edges(lm.model, few.tokens, few.other_tokens, metric, method=method)]
}
assert shares["probability", "exact"] > 0.5 > 0.3 > shares["probability", "eap"]
assert shares["logit difference", "eap"] > 0.5
say(f"""
| metric | share of the gap that `L1H1->logits` carries, exact | by EAP |
|---|---|---|
| logit difference | {shares["logit difference", "exact"]:.2f} | {shares["logit difference", "eap"]:.2f} |
| probability | {shares["probability", "exact"]:.2f} | {shares["probability", "eap"]:.2f} |
""")

# %%
expect(circuits.Graph(ModelConfig.preset("smollm2-135m")).n_edges, 70_651, "edges of SmolLM2, by its shape alone")

# %% [markdown]
# ## Your own circuit tonight
#
# SmolLM2 comes from the package registry, and everything above works on it by name. A file of pairs has an object a line,
# `{"clean": "...", "corrupted": "...", "correct": " Mary", "wrong": " John"}`; `--ioi` makes prompts by itself.
#
# ```sh
# cutaway interpret circuit find smollm2-135m --ioi 32 --n-edges 200 --exact-top 50 --out ioi.json   # scores 70,651 edges
# cutaway interpret circuit score ioi.json --ablation resample --ablation mean --n-random 50          # on the pairs held out
# cutaway interpret circuit minimise ioi.json --tolerance 0.05 --out smaller.json
# cutaway interpret circuit draw smaller.json --out smaller.svg
# cutaway interpret circuit run smaller.json --ioi 4                        # what the circuit alone says next
# cutaway interpret circuit find smollm2-135m --prompts pairs.jsonl --out yours.json
# cutaway interpret circuit compare smaller.json yours.json
# ```
#
# Expect less than here: in so large a graph few edges carry only a part of the logit difference, and `circuit score --curve`
# shows how many carry how much. Begin with thirty pairs and a logit difference, look at the attention of the heads that come
# out, and write down what you expect before you test it.

# %% [markdown]
# ## Read on
#
# [Many GPUs](17_many_gpus.py), the last lesson. The proofs behind the estimates: [the theory guide](../docs/theory.md). Wang et
# al. 2022, *Interpretability in the Wild* (arXiv 2211.00593); Conmy et al. 2023, *Towards Automated Circuit Discovery*
# (arXiv 2304.14997); Syed et al. 2023, *Attribution Patching Outperforms Automated Circuit Discovery*; Hanna et al. 2024, *Have
# Faith in Faithfulness*.
