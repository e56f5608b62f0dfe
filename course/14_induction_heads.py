# %% [markdown]
# # Induction heads
#
# **How does a model go on as it went last time, with tokens it has never seen together?**
#
# You need: [attention](03_attention.py), [attribution and patching](13_attribution_and_patching.py), and of linear algebra
# eigenvalues and the Frobenius norm, the root of the sum of a matrix's squared entries. Explains:
# [detection.py](../src/cutaway/interp/heads/detection.py), [circuits.py](../src/cutaway/interp/factored/circuits.py),
# [composition](../src/cutaway/interp/composition/scores.py) and [a model made by
# hand](../src/cutaway/experiments/handmade/induction.py).

# %%
import math

import torch
import torch.nn.functional as F
from torch import Tensor

import cutaway
from cutaway import Hooks, ModelConfig, Transformer, ablation, composition, factored, heads, metrics, plots, residual
from cutaway.experiments import handmade
from cutaway.experiments.repeated_segments import repeated_segments
from cutaway.interp.heads import repeated_tokens
from cutaway.lesson import checking, expect, figure, pick, say, show

# %% [markdown]
# ## The idea
#
# *Ada Quimby wrote to us. In her letter Ada* — and you know what follows, although you never met the name before. You looked
# back for the last *Ada* and said what came after it. Models do the same, with two attention heads in two layers:
#
# 1. The **previous-token head** looks one token back, at every position, and writes down what it finds. Each position now
#   carries two facts: what I am, and what came *before* me.
# 2. The **induction head** asks at the last token A: who has A *before* it? It finds the B of an earlier "A B", and copies B.
#
# One layer does not do it at any width that one would build. What a key says can depend on its neighbour only if something has
# moved the neighbour's token there first, and keys of the first layer are made of their own position alone. Two heads must
# compose, and that makes this the smallest circuit in which attention is more than the sum of its heads.

# %% [markdown]
# ## The equation
#
# Rows of $E$ (`W_E`, `d_vocab d_model`) are the tokens' embeddings. Each head has two matrices, `d_model d_model` of rank
# `d_head`: $W_{QK} = W_Q W_K^\top$ says where it looks, $W_{OV} = W_V W_O$ what it moves. (Here, as in [the theory
# guide](../docs/theory.md), rows of a matrix are its inputs; torch's `Linear` keeps the transpose, and `cutaway.factored` gives
# them this way.) Let $P$ be the previous-token head and $I$ the induction head. The stream at position $j$, which holds token
# $t_j$, is $E_{t_j} + E_{t_{j-1}} W_{OV}^P + \ldots$, so the score of query $i$ and key $j$ has, among others, the term
#
# $$ E_{t_i}\, W_{QK}^{I} \left( E_{t_{j-1}} W_{OV}^{P} \right)^{\!\top} / \sqrt{d_\mathrm{head}}
# = \Big( \underbrace{E\, W_{QK}^{I}\, W_{OV}^{P\,\top} E^\top / \sqrt{d_\mathrm{head}}}_{\mathrm{match:}\ d_\mathrm{vocab} \times
# d_\mathrm{vocab}} \Big)_{t_i,\, t_{j-1}} $$
#
# and where it looks at $t_j$ the logits gain the row $t_j$ of the $\mathrm{copy}$ matrix $E\, W_{OV}^{I}\, W_U$. The claim
# "this is an induction circuit" is a claim about numbers: *match* and *copy* are large on their diagonals.

# %% [markdown]
# ## The code
#
# The circuits of a head are kept as two thin factors. The copying score says how far the eigenvalues of *copy* are positive: 1
# if all are, as of a head that makes likelier whatever it looks at, and -1 if all are negative. It is a summary: a score of 1
# does not mean that every single token is copied.

# %%
show(factored.ov_circuit)
show(factored.copying_scores, start="through = (unembed", stop="return torch.stack")

# %% [markdown]
# ## A text without meaning
#
# To see this and nothing else, take away everything else that could help: tokens drawn at random, and then the same once more.
# Nothing foretells the first copy, everything the second. Two models learned on such data, with one layer and with two.

# %%
one, two = cutaway.load("induction-1l"), cutaway.load("induction-2l")
for lm in (one, two):
    lm.model.requires_grad_(False)
n_sequences = pick(fast=32, full=256)
scores = {name: heads.detect_heads(lm, n_sequences=n_sequences, seed=0) for name, lm in {"1 layer": one, "2 layers": two}.items()}
n, d_vocab = scores["2 layers"].drawn.seq_length, two.config.d_vocab
figure(
    plots.lines(
        {name: (list(range(1, 2 * n)), each.losses.tolist()) for name, each in scores.items()},
        title="Loss on random tokens that come twice",
        x_label="position",
        y_label="loss, nats a token",
    ),
    "Both models are helpless on the first copy; on the second, two layers need one token to find their place, and then know",
)
first_copy, second_copy = scores["2 layers"].both_losses()
of_one = scores["1 layer"].both_losses()[1]
assert second_copy < 0.6
assert of_one > math.log(n)
say(f"""
Knowing nothing costs $\\log {d_vocab}$ = {math.log(d_vocab):.2f} nats. On the second copy two layers pay {second_copy:.2f}, one
layer {of_one:.2f}. That is not nothing, and it cannot be induction. Its heads spread over all that was read, so it knows *which*
{n} tokens have come, not in which order; who knows this and nothing else pays $\\log {n}$ = {math.log(n):.2f}.

Second copy less first is what the context is worth, the *in-context learning score* of this text:
{second_copy - first_copy:+.2f} nats with two layers, {of_one - scores["1 layer"].both_losses()[0]:+.2f} with one. (Olsson et al.
take the loss late in a context less that early in it, of natural text.)
""")

# %% [markdown]
# ## Two kinds of heads
#
# What to look for in a pattern follows from the idea. In the second copy, query $i$ should look at $j = i - n + 1$, the place
# after its own earlier occurrence: the mean attention there is the **prefix matching** score. The previous-token head looks at
# $i - 1$. Both are diagonals of the pattern.

# %%
drawn = repeated_tokens(two, n_sequences=n_sequences, seed=0)
_, cache = cutaway.run_with_cache(two.model, drawn.tokens, "blocks.*.attn.pattern")
patterns = cache.stack("pattern")  # layer batch head q_pos k_pos
prefix = patterns.diagonal(offset=-(n - 1), dim1=-2, dim2=-1)[..., 1:].mean(dim=(1, 3))
previous = patterns.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean(dim=(1, 3))
expect(prefix, scores["2 layers"].scores["induction"].float(), "prefix matching by hand, layer head")
expect(previous, scores["2 layers"].scores["previous"].float(), "attention to the token before, layer head")
before, inducing = int(previous[0].argmax()), int(prefix[1].argmax())
assert previous[0, before] > 0.9
assert prefix[1, inducing] > 0.8
short = repeated_tokens(two, n_sequences=1, seq_length=12, seed=3)
_, shown = cutaway.run_with_cache(two.model, short.tokens, "blocks.*.attn.pattern")
figure(
    plots.attention(
        torch.stack([shown["pattern", 0][0, before], shown["pattern", 1][0, inducing]]).numpy(),
        tokens=[two.text([token]) for token in short.tokens[0].tolist()],
        titles=[f"L0H{before}: previous token", f"L1H{inducing}: induction"],
        title="Twelve random tokens, twice",
    ),
    "Left: each token looks at the one before. Right: from the second copy on, each looks at what followed it the first time",
)
n_inducing = int((prefix[1] > 0.5).sum())
say(f"""
One head of layer 0 looks back ({previous[0, before]:.2f} of its attention), and {n_inducing} heads of layer 1 match prefixes, up to
{prefix[1].max():.2f}. The best score in the model of one layer is {scores["1 layer"].scores["induction"].max():.2f}.
""")

# %% [markdown]
# ## A circuit read from its weights
#
# A pattern shows *that* a head looks there. Why it does is in the weights. First in a model that was not trained but written:
# the library builds transformers by hand whose circuit is known, in which every other head does something else.

# %%
made = handmade.induction()
by_role = {role: head for head, role in made.circuit.heads.items()}
writer, reader = by_role["previous token"], by_role["induction"]
E = factored.W_E(made.model)


def match_and_copy(model: Transformer, writer: tuple[int, int], reader: tuple[int, int]) -> tuple[Tensor, Tensor]:
    E, options = factored.W_E(model), {"with_norm": model.config.norm != "none"}
    turned = {"offset": n - 1} if model.rotary is not None else {}  # rotary positions: one circuit for each distance
    qk = factored.qk_circuit(model, *reader, **options, **turned)
    written = factored.ov_circuit(model, *writer, **options)
    match = factored.FactoredMatrix(E @ qk.A, qk.B) @ (E @ written.A @ written.B).T
    return match.AB / math.sqrt(model.config.d_head), factored.full_ov(model, *reader, **options).AB


match, copy = (matrix.detach() for matrix in match_and_copy(made.model, writer, reader))
n_letters = made.model.config.d_vocab
assert match.diagonal().min() > 1
expect(match, torch.diag(match.diagonal()), "match is a diagonal matrix", tolerance=1e-9)
expect(copy - copy[0, 1], torch.diag((copy - copy[0, 1]).diagonal()), "and so is copy, up to what all logits share", tolerance=1e-9)
for other in (head for head in made.distractors if head[0] == 0):
    expect(match_and_copy(made.model, other, reader)[0], torch.zeros_like(match), "match through another head", tolerance=1e-9)
own = residual.attribute(made.model, made.tokens, made.answers.tolist(), made.wrong_answers.tolist(), by="head")
of_part = dict(zip(own.labels, own.mean.tolist(), strict=True))
names = {head: f"L{head[0]}H{head[1]}" for head in (writer, reader)}
say(f"""
Head {names[writer]} looks one back with {made.attention:.2f} of its attention. Through it *match* is {match[0, 0]:.1f} times the
identity, and *copy* {copy[0, 0] - copy[0, 1]:.1f} times. The model has {len(made.distractors)} other heads, all of them busy; *match*
through any other head of layer 0 is zero.

Attribution, by the way, gives {names[reader]} {of_part[names[reader]]:+.2f} and {names[writer]} {abs(of_part[names[writer]]):.2f}: the
first half of the circuit writes *nothing* that the unembedding reads. That is the blind spot of the last lesson.
""")

# %% [markdown]
# ## The same in a trained model
#
# Nothing forced the trained model to come out like this. Here is its *match*, through the previous-token head and past it: with
# the gains of the norms in it and their scales left out, and with its queries and keys turned as rotary positions turn them at
# the distance at which it works.

# %%
through, copies = match_and_copy(two.model, (0, before), (1, inducing))
qk = factored.qk_circuit(two.model, 1, inducing, offset=n - 1, with_norm=True)
past = (factored.W_E(two.model) @ qk.A @ qk.B @ factored.W_E(two.model).T) / math.sqrt(two.config.d_head)
diagonals = {}
for head in range(two.config.n_heads):
    of_head, _ = match_and_copy(two.model, (0, head), (1, inducing))
    diagonals[f"L0H{head}"] = (of_head.argmax(dim=1) == torch.arange(d_vocab)).float().mean().item()
diagonals["no head"] = (past.argmax(dim=1) == torch.arange(d_vocab)).float().mean().item()
assert diagonals[f"L0H{before}"] > 0.8
assert max(share for name, share in diagonals.items() if name != f"L0H{before}") < 0.6
letters = [two.text([token]) for token in range(24)]
figure(
    plots.heatmap(
        through[:24, :24].numpy(),
        rows=letters,
        columns=letters,
        title=f"match: L1H{inducing} reading what L0H{before} writes",
        row_title="the token now",
        column_title="the token before the key",
        label="score, before the norms' scales",
        signed=True,
    ),
    "From the weights alone, the first 24 of 64 tokens: a key scores where the token before it is the token now",
)
assert d_vocab == 64
found = ", ".join(f"{share:.0%} through {name}" for name, share in diagonals.items())
say(f"""
The largest entry of a row is the one on the diagonal in this share of rows: {found}. And *copy*, whose eigenvalues give a
copying score of {scores["2 layers"].scores["copying"][1, inducing]:.2f}: in
{(copies.argmax(dim=1) == torch.arange(d_vocab)).float().mean():.0%} of rows. No text was run for any of these numbers.
""")

# %% [markdown]
# Elhage et al. measure the same without the vocabulary: how much of what the induction head's keys read is what an earlier head
# writes, $\lVert W_{QK}^I W_{OV}^{P\,\top} \rVert / (\lVert W_{QK}^I \rVert\, \lVert W_{OV}^P \rVert)$, beside what a head
# turned at random would score ($\lVert\cdot\rVert$ is the Frobenius norm). It needs no idea of what is written, and so it says
# less: that they talk, not what about.

# %%
composed = composition.composition_scores(two.model)
figure(composed.figures()[1], "Which head of layer 0 the keys of each head of layer 1 read, less what chance gives")
strongest = composed.strongest("k", n_pairs=1)[0]
assert (strongest.layer, strongest.head) == (0, before)
other, other_reader = (0, 3), (1, 3)
deviations = composed.deviations["k"][(*other, *other_reader)].item()
squares = torch.linalg.svdvals(factored.ov_circuit(two.model, *other, with_norm=True).AB).square()
on_diagonal = (match_and_copy(two.model, other, other_reader)[0].argmax(dim=1) == torch.arange(d_vocab)).float().mean()
assert deviations > 10
assert squares[0] > 0.8 * squares.sum()
assert on_diagonal < 0.1
say(f"""
One dark cell is not in the story: L1H3 reads L0H3, {composed.score("k", other, other_reader):.2f} where a head turned at random scores
{composed.baseline:.2f}, {deviations:.0f} standard deviations above chance. So they do talk. But L0H3 has hardly more than one thing to
say: {squares[0] / squares.sum():.0%} of the squared norm of its $W_{{OV}}$ is a single direction. *match* through this pair has its
largest entry on the diagonal in {on_diagonal:.0%} of rows, so what L1H3 hears there is not which token came before.
""")

# %% [markdown]
# ## Predict
#
# If the story is true, it can be bent. Take the trained model, and with one hook make its previous-token head, L0H2, look *two*
# tokens back instead of one, everywhere, with all its attention. Nothing else is touched. In the middle of the second copy of
# ... A B C D ... A: what will the model now say? Think of what each position carries, before you run the cell.


# %%
def looking_back(distance: int, head: int) -> Hooks:
    def replace(pattern: Tensor, name: str) -> Tensor:
        pattern, n_pos = pattern.clone(), pattern.shape[-1]
        seen = (torch.arange(n_pos) - distance).clamp(min=0)
        pattern[:, head] = F.one_hot(seen, n_pos).to(pattern)  # q_pos k_pos
        return pattern

    return Hooks({"blocks.0.attn.pattern": replace})


# %% tags=["prediction"]
assert before == 2
queries = torch.arange(n, 2 * n - 4)  # of the second copy
shares: dict[int, list[float]] = {}
for distance in range(4):
    said = two.model(drawn.tokens, hooks=looking_back(distance, before))[:, queries].argmax(dim=-1)
    shares[distance] = [(said == drawn.tokens[:, queries - n + ahead]).float().mean().item() for ahead in range(4)]
    assert shares[distance][distance] > 0.75
figure(
    plots.heatmap(
        torch.tensor(list(shares.values())).numpy(),
        rows=[f"{distance} back" for distance in shares],
        columns=["the token itself", "1 ahead (B)", "2 ahead (C)", "3 ahead (D)"],
        title="What is said when one head looks elsewhere",
        row_title=f"L0H{before} looks",
        label="share of positions",
        limit=1.0,
        texts=[[f"{share:.2f}" for share in row] for row in shares.values()],
    ),
    "The distance at which one head looks back is the distance at which the model reads ahead",
)
say(f"""
It says C: in {shares[2][2]:.0%} of cases it skips one token. Position C now carries "two before me was A", the induction heads look
for A, find C, and copy it. Looking at itself (0 back), the model repeats the token ({shares[0][0]:.0%}); looking three back, it skips
two ({shares[3][3]:.0%}). No weight was changed and the model was never trained to do any of this. That is what it means to
understand a circuit: to say beforehand what it will do under a change that nobody tried.
""")

# %% [markdown]
# ## Taking heads away
#
# The usual test of a circuit is rougher: replace heads by what they write on average, and see what the second copy loses of its
# gain over the first. New sequences, as the heads were chosen on the old ones.

# %%
tested = repeated_tokens(two, n_sequences=n_sequences, seed=1)
sets = {f"L{layer}H{head}": [(layer, head)] for layer in range(2) for head in range(two.config.n_heads)}
sets["all of layer 1"] = [(1, head) for head in range(two.config.n_heads)]
sets["the rest of layer 0"] = [(0, head) for head in range(two.config.n_heads) if head != before]
without = ablation.ablate_heads(two, sets, tested.tokens, how="mean", metric=metrics.loss(tested.tokens, first=n))
lost = dict(zip(sets, ((without.scores - without.base).mean(dim=1) / (first_copy - second_copy)).tolist(), strict=True))
assert lost[f"L0H{before}"] > 0.8
assert lost["all of layer 1"] > 0.8
assert lost["the rest of layer 0"] < 0.75
one_by_one = sum(lost[f"L1H{head}"] for head in range(two.config.n_heads))
figure(
    plots.bars(list(lost.values()), labels=list(lost), title="Heads replaced by their mean", label="share of the gain lost"),
    "Without the previous-token head all is lost; the induction heads share the work",
)
say(f"""
Without L0H{before} the model loses {lost[f"L0H{before}"]:.0%} of what the second copy gains, without any one induction head at most
{max(lost[f"L1H{head}"] for head in range(two.config.n_heads)):.0%}, without all of them {lost["all of layer 1"]:.0%}. What they lose
one by one adds up to {one_by_one:.0%}: shares of a loss are not additive, and a ranking of single ablations is no division of
labour. And the rest of layer 0, no part of the story, costs {lost["the rest of layer 0"]:.0%}. The circuit is the main thing, not
everything: a trained model is not a drawing.
""")

# %% [markdown]
# ## Why it comes suddenly
#
# In training, induction does not grow slowly: the loss stays where it is, and then falls within a few steps (Olsson et al. saw
# it as a bump in the loss curves of language models of every size, from two layers on). An explanation: each of the two heads
# is useless without the other. While nobody looks for "who has A before it", writing down the previous token earns nothing, and
# while nobody writes it, looking for it finds nothing. The gradient of each is as small as the other's work is bad.
#
# That can be tested: *give* the model the first half. Train the same model twice from the same weights on the same data, once
# with the hook above in place from the first step, so that head 0 of layer 0 always looks one back. And once more with one
# layer.


# %%
def trained(n_layers: int, hooks: Hooks | None, *, n_steps: int, seed: int = 0) -> dict[int, float]:
    """Return the loss on the second copy by step."""
    generator = torch.Generator().manual_seed(seed)
    size = {"d_vocab": 32, "n_ctx": 32, "n_layers": n_layers, "n_heads": 2, "d_model": 48, "d_mlp": 0}
    config = ModelConfig(**size, position="rotary", rotary_base=100.0, tie_embeddings=False)
    model = Transformer(config, generator=generator)
    torch.nn.init.normal_(model.embed.W_E, std=0.5, generator=generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    judged = repeated_tokens(model, n_sequences=32, seed=0).tokens
    second: dict[int, float] = {}
    for step in range(n_steps + 1):
        options = {} if hooks is None else {"hooks": hooks}
        if step % pick(fast=25, full=50) == 0:
            with torch.no_grad():
                losses = F.cross_entropy(model(judged[:, :-1], **options).mT, judged[:, 1:], reduction="none")
            second[step] = losses[:, 16:].mean().item()
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1.0, (step + 1) / 50)
        tokens = repeated_segments(32, 32, d_vocab=32, generator=generator)
        loss = F.cross_entropy(model(tokens[:, :-1], **options).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return second


n_steps = pick(fast=400, full=1500)
courses = {
    "2 layers": trained(2, None, n_steps=n_steps),
    "2 layers, one head given": trained(2, looking_back(1, 0), n_steps=n_steps),
    "1 layer, one head given": trained(1, looking_back(1, 0), n_steps=n_steps),
}
figure(
    plots.lines(
        {name: (list(course), list(course.values())) for name, course in courses.items()},
        title="Loss on the second copy while learning",
        x_label="step",
        y_label="loss, nats a token",
    ),
    "With the previous-token head given, the plateau is shorter, and not gone; one layer has no use for the gift",
)
ends = {name: list(course.values())[-1] for name, course in courses.items()}
assert ends["2 layers, one head given"] < 2.2
assert ends["1 layer, one head given"] > ends["2 layers, one head given"] + 0.7
at_fall = {name: next((step for step, loss in course.items() if loss < 2.5), None) for name, course in courses.items()}
free = at_fall["2 layers"]
assert free is None or free > at_fall["2 layers, one head given"]
when = f"is not there yet at the end, step {n_steps}" if free is None else f"is there at step {free}"
say(f"""
With the first half given, the loss is below 2.5 nats at step {at_fall["2 layers, one head given"]}; without the gift it
{when}. With it the fall comes early, but not at once: match and copy of the second head must still find each other, and that takes
a plateau of its own (Singh et al. count such parts). Without it there is one part more to wait for.
""")

# %% [markdown]
# ## Exercises
#
# **1. Prefix matching.** Of patterns `batch head q_pos k_pos`, on tokens that are `n` random ones and the same again, return
# for each head the mean attention of the second copy's queries to what followed their token in the first copy. Count the
# queries from position `n` on.


# %% tags=["starter"]
def prefix_matching(pattern: Tensor, n: int) -> Tensor:
    return pattern.diagonal(offset=-n, dim1=-2, dim2=-1).mean(dim=(0, 2))


# %% [markdown] tags=["hint"]
# The starter looks at the earlier occurrence itself (that is a *duplicate-token* head). You want one place further on.

# %% [markdown] tags=["hint"]
# The diagonal of offset `-(n - 1)` begins with query `n - 1`, the last one of the first copy. It does not count.


# %% tags=["solution"]
def prefix_matching(pattern: Tensor, n: int) -> Tensor:
    return pattern.diagonal(offset=-(n - 1), dim1=-2, dim2=-1)[..., 1:].mean(dim=(0, 2))


# %% tags=["check"]
with checking("prefix matching"):
    expect(prefix_matching(cache["pattern", 1], n), prefix[1], "the heads of layer 1")
    expect(prefix_matching(cache["pattern", 0], n), prefix[0], "the heads of layer 0")
    right = torch.diag(torch.ones(6), -4)[None, None]  # five tokens twice: queries 5 to 9 look four back, and so does 4
    right[..., 4, :] = 0
    expect(prefix_matching(right, 5), [1.0], "a perfect head on five tokens and the same again")

# %% [markdown]
# **2. Does it copy?** Return the sum of the eigenvalues of $A B$ over the sum of their sizes (`A`: `d_vocab d_head`, `B`:
# `d_head d_vocab`), a number from -1 to 1. Form no `d_vocab d_vocab` matrix: for GPT-2 it would take 10 GB.


# %% tags=["starter"]
def copying(A: Tensor, B: Tensor) -> float:
    total = (A * B.T).sum()  # the trace is the sum of the eigenvalues
    return total.item()


# %% [markdown] tags=["hint"]
# The sum is there. For the sizes you need the eigenvalues themselves. $A B$ and $B A$ have the same ones, but for zeros.

# %% [markdown] tags=["hint"]
# `torch.linalg.eigvals(B @ A)` are complex numbers, in pairs; the sum of their `.real` is the trace, and `.abs()` their size.


# %% tags=["solution"]
def copying(A: Tensor, B: Tensor) -> float:
    eigenvalues = torch.linalg.eigvals(B @ A)
    return (eigenvalues.real.sum() / eigenvalues.abs().sum()).item()


# %% tags=["check"]
with checking("does it copy?"):
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    expect(copying(A, A.T), 1.0, "a head that writes what it reads")
    expect(copying(A, -A.T), -1.0, "one that writes the opposite")
    B = torch.randn(4, 30, dtype=torch.float64, generator=generator)
    values = torch.linalg.eigvals(A @ B)
    expect(copying(A, B), (values.real.sum() / values.abs().sum()).item(), "one drawn at random, beside the eigenvalues of A B")

# %% [markdown]
# **3. Who feeds whom, by hand.** Return the K-composition score of an earlier head's `ov` and a later head's `qk`, both
# `d_model d_model`: how much of what the keys read is what the earlier head writes, by Frobenius norms, between 0 and 1.


# %% tags=["starter"]
def k_composition(ov: Tensor, qk: Tensor) -> float:
    return ((ov @ qk).norm() / (ov.norm() * qk.norm())).item()


# %% [markdown] tags=["hint"]
# `x @ ov` is what the head writes for the row `x`. In the score `x_q @ qk @ x_k` (both vectors), on which side of `qk` does it
# come in when it is part of the key? The starter has it on the side of the query.

# %% [markdown] tags=["hint"]
# `x_q @ qk @ (x @ ov)` is `x_q @ (qk @ ov.T) @ x`.


# %% tags=["solution"]
def k_composition(ov: Tensor, qk: Tensor) -> float:
    return ((qk @ ov.T).norm() / (ov.norm() * qk.norm())).item()


# %% tags=["check"]
with checking("who feeds whom, by hand"):
    by_library = composition.composition_scores(made.model)
    qk_of_reader = factored.qk_circuit(made.model, *reader).AB
    for head in range(made.model.config.n_heads):
        expected = by_library.score("k", (0, head), tuple(reader))
        yours = k_composition(factored.ov_circuit(made.model, 0, head).AB, qk_of_reader)
        expect(yours, expected, f"head {head} of layer 0 of the model made by hand", tolerance=1e-6)

# %% [markdown]
# **4. An induction circuit of your own.** Write a function that has no weights to learn: tokens (`pos`, ids below `d_vocab`)
# in, logits `pos d_vocab` out, by two attention heads out of `one_hot`, `@` and `softmax`. On a text that repeats it must put
# nearly all probability on what followed last time, and it must never look ahead. A `sharpness` of 20 is the score of a match.


# %% tags=["starter"]
def induction_by_hand(tokens: Tensor, d_vocab: int, sharpness: float = 20.0) -> Tensor:
    token = F.one_hot(tokens, d_vocab).float()  # what I am: pos d_vocab
    n_pos = len(tokens)
    look_back = torch.eye(n_pos)  # the pattern of the first head: q_pos k_pos
    return look_back @ token  # what came before me, where logits should be


# %% [markdown] tags=["hint"]
# The first head's pattern has its ones one place to the left of the diagonal: `torch.diag(torch.ones(n_pos - 1), -1)`. Row 0
# stays zero: nothing came before the first token, and it must match nobody.

# %% [markdown] tags=["hint"]
# The second head's scores: query "what I am" times key "what came before me", `sharpness * token @ came_before.T`, with
# $-\infty$ above the diagonal; then a softmax.

# %% [markdown] tags=["hint"]
# Its values are `token`; what it reads is a distribution over tokens. Logits that keep it: times `sharpness`.


# %% tags=["solution"]
def induction_by_hand(tokens: Tensor, d_vocab: int, sharpness: float = 20.0) -> Tensor:
    token = F.one_hot(tokens, d_vocab).float()
    n_pos = len(tokens)
    came_before = torch.diag(torch.ones(n_pos - 1), -1) @ token
    scores = sharpness * token @ came_before.T
    hidden = torch.ones(n_pos, n_pos).triu(1).bool()
    pattern = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
    return sharpness * pattern @ token


# %% tags=["check"]
with checking("an induction circuit of your own"):
    row = drawn.tokens[0]
    texts = {
        "the text of above": row,
        "a repeat of seven tokens": row[:7].repeat(2),
        "a second copy in another order": torch.cat([row[:n], row[:n].sort().values]),
    }
    for what, text in texts.items():
        logits, half = induction_by_hand(text, d_vocab), len(text) // 2
        expect(tuple(logits.shape), (len(text), d_vocab), f"the shape of the logits of {what}")
        followed = torch.stack([text[(text == token).nonzero()[0, 0] + 1] for token in text[half:]])  # the first time
        on_right = logits[half:].softmax(dim=-1).gather(1, followed[:, None])
        assert on_right.min() > 0.9, f"in {what}, what followed last time has a probability of {on_right.min():.2f} at worst"
        cut = induction_by_hand(text[: half + 5], d_vocab)
        expect(cut, logits[: half + 5], "logits of the same tokens when the text ends earlier (does a query look ahead?)")

# %% [markdown]
# ## Pitfalls
#
# - *"Any head that attends to a repeated token is an induction head."* One that looks at the earlier occurrence *itself* is a
#   duplicate-token head, one position off, and knows nothing of what followed. The score must tell the two diagonals apart.
# - *"It has a high score on natural text."* There a head may look at the right place for other reasons, since words that follow
#   each other follow each other. Random tokens take all other reasons away, and uniform attention gives the null.
# - *"My one-layer model has learned induction: its loss falls on the second copy."* Look how far. Knowing which tokens came,
#   but not in which order, is worth something too, as above.
# - *"The head with the best pattern is the one that matters."* A pattern says where a head looks, not that it moves anything.
#   Only with copying, and with what is lost without it, is it an induction head.
# - *"K-composition is small, so they do not compose."* The norm weighs all directions alike, also those in which nothing is
#   ever written. The perfect circuit made by hand scores little above chance, as the cell below shows; *match*, taken through
#   the vocabulary, sees it clearly.
# - *"Attention to the first position is high everywhere."* Heads that find nothing rest there: a softmax must spend its 1
#   somewhere. In large models it is where an induction head waits while there is nothing to repeat.

# %%
weights_of = composition.composition_scores(made.model)
score = weights_of.score("k", tuple(writer), tuple(reader))
assert score < 2 * weights_of.baseline
say(f"By hand, the one right pair has {score:.3f}; a head turned at random {weights_of.baseline:.3f}.")

# %% [markdown]
# ## Read on
#
# [Superposition](15_superposition.py): why neurons are harder to read than heads. [Finding a circuit](16_finding_a_circuit.py)
# without knowing what to look for. The same heads in a model that others trained: `cutaway interpret induction-heads
# smollm2-135m` and `cutaway reproduce smollm2-induction`. Papers: Elhage et al. 2021, "A Mathematical Framework for Transformer
# Circuits"; Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv 2209.11895; Singh et al. 2024, "What needs to
# go right for an induction head?", arXiv 2404.07129, who clamp activations while a model learns, as we did.
