# %% [markdown]
# # Attribution and patching
#
# **Which parts of a model brought its answer about?**
#
# You need: [opening the model](12_opening_the_model.py), [the residual stream](05_residual_stream.py). Explains: [direct
# attribution](../src/cutaway/interp/residual/attribution.py), [patching](../src/cutaway/interp/patching/grid.py),
# [sweeps](../src/cutaway/interp/sweep/plan.py), [attribution patching](../src/cutaway/interp/attribution/patching.py) and [path
# patching](../src/cutaway/interp/path_patching/patching.py).

# %%
import time

import torch
from torch import Tensor

import cutaway
from cutaway import ActivationCache, attribution, edits, factored, metrics, patching, path_patching, plots, residual
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Transformer

# %% [markdown]
# ## The idea
#
# There are two ways to ask who is responsible for an answer. One looks at a single run and takes the sum apart: but for one
# number that the last norm divides by, the logits are a linear map of the last residual stream; the stream is a sum of what
# every part wrote; so each part's share of the answer can be read off. That is *attribution*. It is exact, costs one run, and
# says what was written.
#
# The other compares two runs: a *clean* one, and a *corrupted* one that differs in the one thing you want to know about and
# ends in another answer. Put one activation of the one run into the other, let everything after it be computed anew, and see
# how far the answer moves. That is *patching*. It costs a run for each activation, and says what made the difference.
#
# The two may disagree completely about the same head in the same prompt, and both be right. This lesson shows such a head.

# %% [markdown]
# ## The equation
#
# Let $x = \sum_i w_i$ be the last stream at the position of the answer, $w_i$ what part $i$ wrote (`d_model`), $s$ the scale
# that the last norm divided by in this run, $g$ and $\beta$ its gain and bias, and $u = W_U[:, a] - W_U[:, b]$ for a correct
# token $a$ and a wrong one $b$. With $\mathrm{centre}(v) = v - \mathrm{mean}(v)$ and $d = \mathrm{centre}(g \odot u)$,
#
# $$ \mathrm{logit}_a - \mathrm{logit}_b = u \cdot \Big( g \odot \frac{\mathrm{centre}(x)}{s} + \beta \Big)
# = \sum_i \frac{w_i \cdot d}{s} + u \cdot \beta . $$
#
# (Centring may change sides, as $u \cdot (g \odot \mathrm{centre}(x)) = d \cdot x$.) The norm is not linear, as $s$ depends on
# $x$; with the $s$ of this run held fixed, the sum is exact.
#
# Of a patch, with $m$ the metric of a run, the *recovery* is how far it goes from one run to the other:
#
# $$ \mathrm{recovery} = \frac{m_\mathrm{patched} - m_\mathrm{into}}{m_\mathrm{from} - m_\mathrm{into}} $$
#
# 0 is no effect, 1 all of the difference, and values beyond both happen.

# %% [markdown]
# ## The code
#
# The direction $d$, in the library's words (`read_through` of the last norm and of $u$); and an experiment: two runs, one of
# which gives its activations to the other.

# %%
show(factored.read_through)
show(residual.logit_directions)
show(patching.patch, start="is_denoising = direction", stop="grid = grid_with_base")

# %% [markdown]
# ## A sum that adds up
#
# The model reads *When Mary and John went to the store, John gave a drink to*, and has learned to go on with the one who
# receives. It has two layers of eight heads and no MLP, and was trained on such sentences. It runs in float64, so that "adds up"
# means what it says. (In a model with MLPs each layer's MLP is one part more, and `by="neuron"` cuts it finer.)

# %%
lm = cutaway.load("ioi-mini", dtype=torch.float64)
model, config = lm.model.requires_grad_(False), lm.config
clean = "When Mary and John went to the store , John gave a drink to"
corrupted = "When Mary and John went to the store , Mary gave a drink to"
tokens, corrupted_tokens = lm.tokens(clean), lm.tokens(corrupted)
mary, john = lm.tokens(" Mary")[0, 0].item(), lm.tokens(" John")[0, 0].item()
logit_diff = metrics.logit_diff(mary, john)
base, other = logit_diff(model(tokens)).item(), logit_diff(model(corrupted_tokens)).item()
assert base > 4
assert other < -4
say(f"""
The logit of *Mary* less that of *John* is {base:+.2f} where John gives, and {other:+.2f} where Mary gives: one word changed, and
the answer with it.
""")

# %%
logits, cache = cutaway.run_with_cache(model, tokens, [*model.hook_names()])
norm, W_U = model.unembed.ln_final, factored.W_U(model)
u = W_U[:, mary] - W_U[:, john]
d = norm.weight * u - (norm.weight * u).mean()
s = cache["ln_final.scale"][0, -1, 0]
heads = torch.stack([cache["result", layer][0, -1] @ d / s for layer in range(config.n_layers)])  # layer head
biases = sum(block.attn.W_O.bias @ d / s for block in model.blocks)
embedding = cache["embed"][0, -1] @ d / s
total = embedding + heads.sum() + biases + u @ norm.bias
expect(total, base, "the parts add up to the logit difference", tolerance=1e-9)
ready = residual.attribute(lm, clean, "Mary", "John", by="head")
of_library = dict(zip(ready.labels, ready.mean, strict=True))
expect([of_library[f"L1H{head}"] for head in range(config.n_heads)], heads[1], "as the library has them", tolerance=1e-9)
figure(
    ready.figures()[0],
    "Every part's own share of the answer: two heads stand out, and they pull against each other",
)
most, least = int(heads[1].argmax()), int(heads[1].argmin())
sizes = torch.stack([each.abs() for each in of_library.values()]).sort().values
assert sizes[-2:].sum() > sizes[:-2].sum()
assert sizes[-3] < sizes[-2] / 2
say(f"""
The parts add up to the last digit that a float64 has. Head {most} of layer 1 says *Mary* with {heads[1, most]:+.2f}, head {least}
says *John* with {heads[1, least]:+.2f}, and no other part reaches half of that.
""")

# %% [markdown]
# ## Predict
#
# These two heads write more about Mary and John than all the rest of the model. Now put each of them, alone, from the clean run
# into the corrupted one, where the model says *John*. Before you run the next cell: what share of the way back to *Mary* does
# each bring?

# %% tags=["prediction"]
restored = patching.patch(lm, clean, corrupted, "Mary", "John", site="z")
recovery = restored.recovery  # layer head
assert recovery[1, most].abs() < 0.02
assert recovery[1, least].abs() < 0.02
first, second = recovery[1].topk(2).indices.tolist()
assert {first, second}.isdisjoint({most, least})
assert recovery[1, first] > 0.5
say(f"""
Nothing: {recovery[1, most]:z.1%} and {recovery[1, least]:z.1%}. Heads {first} and {second} bring {recovery[1, first]:.0%} and
{recovery[1, second]:.0%}, and by attribution they had {heads[1, first]:+.2f} and {heads[1, second]:+.2f}. The loudest heads say the
same in both runs. Each of them knows *names*, not roles: head {most} says Mary wherever a Mary stands, whether she gives or receives,
and head {least} says John. Who gives, and so must not be the answer, is for others to say.
""")

# %% [markdown]
# That they know names and not roles can be tested: change the roles and keep the names, then change the names.

# %%
prompts = {
    "Mary, who receives, less John": (clean, "Mary", "John"),
    "John, who receives, less Mary": ("When John and Mary went to the store , Mary gave a drink to", "John", "Mary"),
    "Tom, who receives, less Anna": ("When Tom and Anna went to the store , Anna gave a drink to", "Tom", "Anna"),
}
told = {}
for asked, (prompt, receiver, giver) in prompts.items():
    of_prompt = residual.attribute(lm, prompt, receiver, giver, by="head")
    told[asked] = dict(zip(of_prompt.labels, of_prompt.mean.tolist(), strict=True))
in_first_run, swapped, without_mary = told.values()
assert in_first_run[f"L1H{most}"] > 4
assert swapped[f"L1H{most}"] < -4, "still for Mary"
assert swapped[f"L1H{least}"] > 4, "still for John"
assert max(abs(without_mary[f"L1H{head}"]) for head in (most, least)) < 3 < without_mary["L1H3"]
say(
    f"| the receiver's logit less the giver's | L1H{most} | L1H{least} | L1H3 |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {asked} | {each[f'L1H{most}']:+.1f} | {each[f'L1H{least}']:+.1f} | {each['L1H3']:+.1f} |"
        for asked, each in told.items()
    )
    + f"\n\nHead {most} is for Mary in both roles, head {least} for John, and where neither of the two stands both are quiet and head "
    "3 is loud, which knows Tom. Several heads share the names among them. To have the loudest voice is not to decide."
)

# %% [markdown]
# Here are the accounts side by side, and then where these four heads look from the last word.

# %%
of_corrupted = residual.attribute(lm, corrupted, "Mary", "John", by="head")
labels = [f"L{layer}H{head}" for layer in range(config.n_layers) for head in range(config.n_heads)]
in_corrupted = dict(zip(of_corrupted.labels, of_corrupted.mean, strict=True))
there = torch.stack([in_corrupted[label] for label in labels])
spoiled = patching.patch(lm, clean, corrupted, "Mary", "John", site="z", direction="noising")
zeroed = cutaway.sweep(
    model, tokens, [[edits.zero(f"blocks.{label[1]}.attn.z", head=int(label[3]))] for label in labels], logit_diff
)
accounts = {
    "attribution, clean": heads.flatten(),
    "attribution, corrupted": there,
    "clean less corrupted": heads.flatten() - there,
    "lost by patching": base - spoiled.values.flatten(),
    "lost by zeros": base - zeroed[:, 0],
}
rows = torch.stack(list(accounts.values()))
figure(
    plots.heatmap(
        rows.numpy(),
        rows=list(accounts),
        columns=labels,
        title="Five accounts of the same heads",
        label="logit of Mary less John",
        signed=True,
        texts=[[f"{value:.1f}" if abs(value) >= 0.05 else "0" for value in row] for row in rows.tolist()],
    ),
    "L1H0, a head for Mary, and L1H5, one for John, write most in either run; what differs between the runs is L1H1 and L1H7",
)
pattern = cache["pattern", 1][0, :, -1]  # head k_pos
of_interest = [most, least, first, second]
words = [lm.text([token]).strip() for token in tokens[0].tolist()]
figure(
    plots.heatmap(
        pattern[of_interest].numpy(),
        rows=[f"L1H{head}" for head in of_interest],
        columns=[f"{pos} {word}" for pos, word in enumerate(words)],
        title="Where four heads look from the last word",
        label="attention",
        limit=1.0,
    ),
    "Two heads look at the people who are introduced, two at the one who gives",
)
last_layer = slice(config.n_heads, None)
assert (accounts["clean less corrupted"] - accounts["lost by patching"])[last_layer].abs().max() < 0.5
assert zeroed[labels.index(f"L1H{most}"), 0] < 0
for head, place in zip(of_interest, (1, 3, 9, 9), strict=True):
    assert pattern[head, place] > 0.8
say(f"""
Read the rows as questions. *What did this head write?* (1, 2): the two that name Mary and John shout loudest. *What would happen
without it?* (5): without L1H{most}'s voice for Mary the model would say John. *What depends on who gives?* (3, 4): only
L1H{first} and L1H{second}, which look at the giver and take this name down. Attribution and patching nearly agree once both are
asked about the *difference* of the two runs: in the last layer, where nothing hears a head but the logits, they differ only by
the norm's scale, which is another in each run.
""")

# %% [markdown]
# That is the blind spot of attribution, and there is a second one. It sees what a part writes *to the logits*. A head of layer
# 0 that tells a head of layer 1 where to look writes nothing for the unembedding, however much hangs on it. One such head is in
# the figure: its own share is small, and without it much is lost.

# %%
hidden = int((accounts["lost by zeros"] - accounts["attribution, clean"])[: config.n_heads].argmax())
own, needed = heads[0, hidden], accounts["lost by zeros"][hidden]
assert needed > 2 * own
say(
    f"Head {hidden} of layer 0 writes {own:+.2f} to the logit difference, and {needed:.2f} are lost with it: heads after it read it."
)

# %% [markdown]
# Patching sees both, and has a price of its own: it answers the question that *your corrupted prompt* asks. Change another
# word, and another head makes the difference. Now Tom stands where Mary stood, and John gives as before:

# %%
third = "When Tom and John went to the store , John gave a drink to"
asked_else = patching.patch(lm, clean, third, "Mary", "John", site="z").recovery
assert asked_else[1, most] > 0.5
assert asked_else[1, [first, second]].abs().max() < 0.05
say(f"""
| patched from the clean run | who gives? (Mary for John) | who is there? (Tom for Mary) |
|---|---|---|
| L1H{most} | {recovery[1, most]:z.0%} | {asked_else[1, most]:z.0%} |
| L1H{first} | {recovery[1, first]:z.0%} | {asked_else[1, first]:z.0%} |
""")

# %% [markdown]
# ## Where the answer is, layer by layer
#
# Patch the whole stream, one layer and one position at a time. The word that differs is at position 9, the answer is read at
# 13.

# %%
assert (words[9], len(words) - 1) == ("John", 13)
by_place = patching.patch(lm, clean, corrupted, "Mary", "John", site="resid_post")
embedded = patching.patch(lm, clean, corrupted, "Mary", "John", site="resid_pre")
grid = torch.cat([embedded.recovery[:1], by_place.recovery])
figure(
    plots.heatmap(
        grid.numpy(),
        rows=["embed", *(f"after {layer}" for layer in range(config.n_layers))],
        columns=[f"{pos} {word}" for pos, word in enumerate(words)],
        title="How much of the answer comes with the stream",
        label="recovery",
        limit=1.0,
    ),
    "The difference sits at the giver's position until layer 1 moves it, in one step, to the last word",
)
whole = patching.patch(lm, clean, corrupted, "Mary", "John", site="resid_pre", by="layer").recovery
expect(whole, torch.ones(config.n_layers), "the whole stream of a layer brings everything", tolerance=1e-9)

# %% [markdown]
# Patching the stream of one layer at *all* positions recovers exactly 1, at every layer, in every model in which nothing passes
# the stream by, as nothing does here. That finds nothing out: the later layers read the stream and nothing else, so with the
# clean stream they compute the clean run. In the same way the last row of the grid is 1 at the last position and 0 elsewhere,
# whatever the model. Look for what is *not* so by construction.

# %% [markdown]
# ## Denoising and noising
#
# Clean into corrupted (*denoising*) asks what is **enough** to bring the answer; corrupted into clean (*noising*) asks what is
# **needed**. Where parts add up, as above, the two agree. Where they do not, they see different things. Two gates show it:

# %%
gates = {"both are needed (and)": min, "either is enough (or)": max}
for name, gate in gates.items():
    denoised = gate(1, 0) - gate(0, 0)  # one input clean, the other corrupted
    noised = gate(1, 1) - gate(1, 0)
    say(f"- {name}: denoising one input brings {denoised} of 1, noising it costs {noised} of 1.")
    assert (denoised, noised) == ((0, 1) if gate is min else (1, 0))

# %% [markdown]
# So noising overlooks what has a double (an *or*), denoising overlooks what works only together with another (an *and*). Do
# both.

# %% [markdown]
# ## The metric bends the picture
#
# The same patches, measured by the probability of *Mary* instead of the logit difference:

# %%
by_prob = patching.patch(lm, clean, corrupted, "Mary", "John", site="z", metric="prob").recovery
assert by_prob[1, first] > recovery[1, first] + 0.1
assert by_prob[1, second] < recovery[1, second] - 0.1
say(f"""
| head | by logit difference | by probability |
|---|---|---|
| L1H{first} | {recovery[1, first]:.0%} | {by_prob[1, first]:.0%} |
| L1H{second} | {recovery[1, second]:.0%} | {by_prob[1, second]:.0%} |

By probability the first head is nearly everything and the second nearly nothing. A softmax is flat at both ends: a head that
brings a quarter of the way in logits still leaves *Mary* at the flat bottom, and one that brings three quarters has already
reached the flat top. Logits add up, and so the logit difference is the metric to begin with; a probability is what the user of a
model sees.
""")

# %% [markdown]
# ## The causal cone
#
# A grid takes one edited run for each cell. But an edit at layer $\ell$ and position $p$ changes nothing before it, so a run
# can go on from there, on the keys and values of the run without edits, and only the logits that the metric reads are needed.
# Of a model with $L$ layers and $n$ positions, the cell at $(\ell, p)$ leaves $(L - \ell)(n - p)$ of $L n$ places to be
# computed; over all cells that is about a quarter. `sweep` does this, leaves out cells that change nothing, and puts those that
# start near each other into one matrix product. A plan, printed, says what is done and why not less.

# %%
reader = cutaway.load("stdlib-4l").model.requires_grad_(False)
n_pos = pick(fast=48, full=64)
generator = torch.Generator().manual_seed(0)
text = torch.randint(reader.config.d_vocab, (1, n_pos), generator=generator)
changed = text.clone()
changed[0, 12] = (changed[0, 12] + 1) % reader.config.d_vocab
_, source = cutaway.run_with_cache(reader, changed, "blocks.*.resid_pre")
places = [(layer, pos) for layer in range(reader.config.n_layers) for pos in range(n_pos)]
cells = [[edits.patch(f"blocks.{layer}.resid_pre", source, pos=pos)] for layer, pos in places]
metric = metrics.logit_diff(3, 5)
begin = time.perf_counter()
plan = cutaway.plan_sweep(reader, text, cells, metric)
scores = plan.run()
seconds = time.perf_counter() - begin
begin = time.perf_counter()
one_by_one = torch.stack([metric(cutaway.run_with_edits(reader, text, cell)) for cell in cells])
naive_seconds = time.perf_counter() - begin
expect(scores, one_by_one, "the same numbers as one whole run for each cell", tolerance=1e-4)
assert plan.flops < plan.naive_flops / 4
print(plan)
say(f"""
{plan.naive_flops / plan.flops:.1f} times fewer operations, and in this run {naive_seconds / seconds:.1f} times less time. `sweep`
is `plan_sweep(...).run()`.
""")

# %% [markdown]
# ## All patches from one gradient
#
# Still too many cells, say every neuron at every position? To first order in the change of an activation $a$,
#
# $$ m_\mathrm{patched} - m \approx (a_\mathrm{other} - a) \cdot \frac{\partial m}{\partial a}, $$
#
# and two forward passes and one backward pass give all of these products at once: *attribution patching*. It is an estimate.
# Here it is beside the truth, for the heads, with two metrics.

# %%
kinds = ("z", "q", "k", "v")
options = {"kinds": kinds, "exact_all": True}
found = {
    name: attribution.attribution_patch(lm, clean, corrupted, "Mary", "John", metric=name, **options)
    for name in ("logit_diff", "prob")
}
figure(
    plots.scatter(
        {
            f"by {name}": (
                [each.exact / result.gap for each in result.ranked()],
                [each.estimate / result.gap for each in result.ranked()],
            )
            for name, result in found.items()
        },
        title="Estimate beside truth",
        x_label="exact share of the way to the corrupted run",
        y_label="estimated",
        has_diagonal=True,
    ),
    "By logit difference the estimates lie near the line, the second head's a third short; by probability the strongest is missed",
)
strongest = {name: each.ranked("z")[0] for name, each in found.items()}
assert abs(strongest["logit_diff"].estimate / strongest["logit_diff"].exact - 1) < 0.25
runner_up = found["logit_diff"].ranked("z")[1]
assert 0.5 < runner_up.estimate / runner_up.exact < 0.8
assert strongest["prob"].estimate / strongest["prob"].exact < 0.2
p = model(tokens)[0, -1].softmax(dim=-1)[mary].item()
say(f"""
By logit difference the strongest head is estimated at {strongest["logit_diff"].estimate:.2f}, and is
{strongest["logit_diff"].exact:.2f}; the second at {runner_up.estimate:.2f}, and is {runner_up.exact:.2f}.
By probability the strongest is estimated at {strongest["prob"].estimate:.3f}, and is {strongest["prob"].exact:.3f}.
The reason is one factor: the slope of a probability over its logit is $p (1 - p)$, which is
{p * (1 - p):.3f} where $p$ is {p:.3f}. The straight line does not know that the softmax will let go.
""")

# %% [markdown]
# The same happens inside attention. Where a head looks at one place with nearly all its attention, the softmax of the *pattern*
# is flat, and a changed key seems to do nothing. The library takes queries and keys through the softmax (`qk_fix`); without
# that:

# %%
bare = attribution.attribution_patch(lm, clean, corrupted, "Mary", "John", qk_fix=False, kinds=("k",), exact_all=True)
worst = max(bare.ranked(), key=lambda each: abs(each.estimate - each.exact))
fixed = next(each for each in found["logit_diff"].ranked("k") if each.node == worst.node)
assert abs(fixed.estimate - worst.exact) < abs(worst.estimate - worst.exact) / 2
say(f"""
{worst.node}: the patch does {worst.exact:+.3f}; the gradient alone says {worst.estimate:+.3f}, and through the softmax
{fixed.estimate:+.3f}. Estimate everything, then try the best (`exact_top=10`): a false alarm then costs
one run, while a miss stays a miss.
""")

# %% [markdown]
# ## Along which path
#
# A head may matter because others hear it. *Path patching* takes one edge: the sender writes as in the corrupted run, but only
# one input (query, key or value) of one receiver hears it, and all others hear the clean run.

# %%
receivers = [f"L1H{head}.{name}" for head in of_interest for name in "qkv"]
senders = ["embed", *(f"L0H{head}" for head in range(config.n_heads))]
paths = path_patching.path_patch(lm, clean, corrupted, "Mary", "John", senders=senders, receivers=receivers)
figure(
    plots.heatmap(
        100 * paths.recovery.numpy(),
        rows=senders,
        columns=receivers,
        title="Who is heard by whom",
        row_title="sender",
        column_title="receiver",
        label="% of the way to the corrupted run",
        signed=True,
    ),
    "The giver's name comes straight from the embedding, through the values of two heads",
)
edge = paths.ranked()[0]
assert (edge.sender, edge.receiver) == ("embed", f"L1H{first}.v")
say(f"""
The strongest path is from {edge.sender} to {edge.receiver}: {edge.recovery:.0%} of all. So the head looks at the giver's place in
both runs, and what changes is the *name it finds there*. (In GPT-2, Wang et al. found the information coming through queries: there
it tells later heads where *not* to look. Another model may solve the same task otherwise; nobody knows before the paths are
measured.)
""")

# %% [markdown]
# ## Exercises
#
# **1. Attribution by head.** Of a cache that has `result` of every layer and `ln_final.scale`, return what each head adds at
# the last position along `direction`, `d_model`, over the run's scale: `layer head`, of row 0.


# %% tags=["starter"]
def by_head(cache: ActivationCache, direction: Tensor) -> Tensor:
    written = cache.stack("attn.result")[:, 0, -1]  # layer head d_model
    return written.sum(dim=-1)


# %% [markdown] tags=["hint"]
# The starter adds up coordinates. You want the dot product with the direction.

# %% [markdown] tags=["hint"]
# `written @ direction`, and then the division by `cache["ln_final.scale"][0, -1]`.


# %% tags=["solution"]
def by_head(cache: ActivationCache, direction: Tensor) -> Tensor:
    written = cache.stack("attn.result")[:, 0, -1]  # layer head d_model
    return written @ direction / cache["ln_final.scale"][0, -1]


# %% tags=["check"]
with checking("attribution by head"):
    expect(by_head(cache, d), heads, "Mary less John")
    expect(by_head(cache, 2 * d), 2 * heads, "twice the direction")

# %% [markdown]
# **2. A patch by hand.** Return the logits of a run on `tokens` in which the stream before layer `layer` has, at position
# `pos`, what `cache` recorded of another run there. Use a hook.


# %% tags=["starter"]
def patched(model: Transformer, tokens: Tensor, cache: ActivationCache, layer: int, pos: int) -> Tensor:
    return model(tokens, hooks={f"blocks.{layer}.resid_pre": lambda resid, name: cache[name]})


# %% [markdown] tags=["hint"]
# The starter replaces all positions. Only one may change.

# %% [markdown] tags=["hint"]
# Clone, then `resid[:, pos] = cache[name][:, pos]`, and return it.


# %% tags=["solution"]
def patched(model: Transformer, tokens: Tensor, cache: ActivationCache, layer: int, pos: int) -> Tensor:
    def put(resid: Tensor, name: str) -> Tensor:
        resid = resid.clone()
        resid[:, pos] = cache[name][:, pos]
        return resid

    return model(tokens, hooks={f"blocks.{layer}.resid_pre": put})


# %% tags=["check"]
with checking("a patch by hand"):
    for layer, pos in [(0, 9), (1, 9), (1, 13)]:
        expected = cutaway.sweep(model, corrupted_tokens, [[edits.patch(f"blocks.{layer}.resid_pre", cache, pos=pos)]], logit_diff)
        yours = patched(model, corrupted_tokens, cache, layer, pos)
        expect(logit_diff(yours), expected[0], f"the logit difference with layer {layer}, position {pos} patched")

# %% [markdown]
# **3. All heads from one gradient.** Return attribution patching's estimate for every head: what the logit difference of the
# run on `tokens` gains when a head's `z`, at all positions, is that of the run on `other`. The result is `layer head`.


# %% tags=["starter"]
def estimated(model: Transformer, tokens: Tensor, other: Tensor, metric: metrics.Metric) -> Tensor:
    _, _, gradient = cutaway.gradients(model, tokens, metric, "blocks.*.attn.z")
    return gradient.stack("z")[:, 0].sum(dim=(1, 3))


# %% [markdown] tags=["hint"]
# The gradient is half of it. The other half is how much `z` changes; `run_with_cache` on `other` has the end of the way.

# %% [markdown] tags=["hint"]
# `(other_z - z) * gradient`, each stacked as `layer batch pos head d_head`; then a sum over positions and over `d_head`.


# %% tags=["solution"]
def estimated(model: Transformer, tokens: Tensor, other: Tensor, metric: metrics.Metric) -> Tensor:
    _, z, gradient = cutaway.gradients(model, tokens, metric, "blocks.*.attn.z")
    _, there = cutaway.run_with_cache(model, other, "blocks.*.attn.z")
    return ((there.stack("z") - z.stack("z")) * gradient.stack("z"))[:, 0].sum(dim=(1, 3))


# %% tags=["check"]
with checking("all heads from one gradient"):
    of_z = found["logit_diff"].estimates["z"][:, :, 0, 0]
    expect(estimated(model, tokens, corrupted_tokens, logit_diff), of_z, "beside the library's estimates")
    expect(estimated(model, tokens, tokens, logit_diff), torch.zeros_like(of_z), "of a run patched with itself")

# %% [markdown]
# **4. A path by hand.** The sender is head `sender` of layer 0, the receiver the *values* of head `receiver` of layer 1. Return
# the logit difference (one number) when the receiver's values, and nothing else, hear the sender as it is on `other`. Two runs
# on `tokens`: in the first note what the values become when the sender writes as on `other`; in the second put these values in.


# %% tags=["starter"]
def along_path(model: Transformer, tokens: Tensor, other: Tensor, sender: int, receiver: int, metric: metrics.Metric) -> float:
    _, there = cutaway.run_with_cache(model, other, "blocks.0.attn.z")
    sent = [edits.patch("blocks.0.attn.z", there, head=sender)]
    return metric(cutaway.run_with_edits(model, tokens, sent)).item()


# %% [markdown] tags=["hint"]
# The starter patches the *node*: everyone hears the sender. `run_with_cache` takes `edits=` and can note `blocks.1.attn.v` in
# that first run.

# %% [markdown] tags=["hint"]
# The second run starts from clean tokens and has one edit: `edits.replace("blocks.1.attn.v", value, head=receiver)`.

# %% [markdown] tags=["hint"]
# `value` is `noted["v", 1][:, :, receiver]`, `batch pos d_head`: the receiver's part of what the first run noted.


# %% tags=["solution"]
def along_path(model: Transformer, tokens: Tensor, other: Tensor, sender: int, receiver: int, metric: metrics.Metric) -> float:
    _, there = cutaway.run_with_cache(model, other, "blocks.0.attn.z")
    sent = [edits.patch("blocks.0.attn.z", there, head=sender)]
    _, noted = cutaway.run_with_cache(model, tokens, "blocks.1.attn.v", edits=sent)
    heard = edits.replace("blocks.1.attn.v", noted["v", 1][:, :, receiver], head=receiver)
    return metric(cutaway.run_with_edits(model, tokens, [heard])).item()


# %% tags=["check"]
with checking("a path by hand"):
    for sender, receiver in [(1, first), (5, first), (6, second)]:
        path = path_patching.path_patch(
            lm, clean, corrupted, "Mary", "John", senders=[f"L0H{sender}"], receivers=[f"L1H{receiver}.v"]
        )
        yours = along_path(model, tokens, corrupted_tokens, sender, receiver, logit_diff)
        expect(yours, path.scores[0, 0, 0].item(), f"the logit difference along L0H{sender} to L1H{receiver}.v")

# %% [markdown]
# ## Pitfalls
#
# - *"My contributions do not add up to the logit."* Three parts are forgotten most often: the biases of the heads' outputs, the
#   last norm's own bias, and the centring. And all parts must be divided by the run's one scale, never each by its own.
# - *"Head X has the largest attribution, so it computes the answer."* It writes most. Whether what it writes depends on what
#   you ask about is seen only in a second run, and whether it decides anything only in an intervention.
# - *"Recovery is above 1, or below 0."* Both happen: a part that pulls against the answer brings less when it is restored.
#   Clipping them away hides the heads that are most interesting.
# - *"My prompts differ in length."* Then positions do not correspond, and a patch puts one word's state on another's. The
#   library aligns common beginnings and ends and says which positions it took for each other; prompts of as many tokens are
#   better.
# - *"The result reads one position late."* A prompt ends *before* the answer, and its last position predicts it. An index of -1
#   into a text that contains the answer, or a beginning-of-text token that is counted once and not the other time, moves it by
#   one.
# - *"Zero ablation says the head is crucial, resampling says it is not."* So it was above, and neither is wrong. Zero removes
#   all that the head says, also what is the same for every prompt; a patch from a corrupted prompt removes what differs.
# - *"One prompt is enough."* It is enough to see how a head works, and no evidence that it always does. The cell below asks
#   many pairs of names at once and gives the spread.

# %%
names = ["Mary", "John", "Tom", "James", "Sarah", "Anna"]
pairs = [(a, b) for a in names for b in names if a != b]
texts = [f"When {a} and {b} went to the store , {b} gave a drink to" for a, b in pairs]
others = [f"When {a} and {b} went to the store , {a} gave a drink to" for a, b in pairs]
receives, gives = [a for a, _ in pairs], [b for _, b in pairs]
many = patching.patch(lm, texts, others, receives, gives, site="z")
error = many.standard_errors[1]
assert many.recovery[1, first] - 3 * error[first] > 0.5
assert many.recovery[1, [most, least]].abs().max() < 0.05
assert set(many.recovery[1].topk(2).indices.tolist()) == {first, second}
say(f"""
Over {len(pairs)} ordered pairs of names head {first} recovers {many.recovery[1, first]:.0%} (standard error {error[first]:.0%}),
head {second} {many.recovery[1, second]:.0%} ({error[second]:.0%}), and the two that were loud for Mary and John at most
{many.recovery[1, [most, least]].abs().max():.1%}: with other names other heads are loud, and none of them knows who gives.
""")

# %% [markdown]
# ## Read on
#
# [Induction heads](14_induction_heads.py): a circuit of two heads in two layers, found by these tools. [Finding a
# circuit](16_finding_a_circuit.py): the same for all edges at once, with tests of whether it is right. Papers: Wang et al.
# 2022, "Interpretability in the Wild", arXiv 2211.00593; Zhang and Nanda 2023, "Towards Best Practices of Activation Patching",
# arXiv 2309.16042; Heimersheim and Nanda 2024, "How to use and interpret activation patching", arXiv 2404.15255; Kramár et al.
# 2024, "AtP*", arXiv 2403.00745.
