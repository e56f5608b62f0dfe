# %% [markdown]
# # Opening the model
#
# **How do you see, and change, what a model computes, and leave the model as it is?**
#
# You need: [the whole model](06_whole_model.py). Explains: [hooks.py](../src/cutaway/hooks.py),
# [cache.py](../src/cutaway/interp/cache.py), [edits.py](../src/cutaway/interp/edits.py) and [the logit
# lens](../src/cutaway/interp/lens/logit.py).

# %%
import csv
import gc
import inspect
import json
import textwrap
from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor

import cutaway
from cutaway import Edit, Hooks, ModelConfig, edits, lens, plots
from cutaway.costs import n_parameters
from cutaway.hooks import recording, replacing
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Block, Transformer

# %% [markdown]
# ## The idea
#
# A forward pass makes hundreds of tensors and keeps one, the logits. Every question about *how* the model came to them is a
# question about a tensor on the way, an *activation*. To answer it you need two things: to look at an activation, and to put
# another in its place and see what follows.
#
# Give every activation a name, and let the caller hand the model functions by name. Where the computation comes to a name, it
# shows its tensor to the function. A function that returns nothing has looked; one that returns a tensor has replaced. Such a
# function is a *hook*, and here it is an argument of the call, like the tokens. It is not stored in the model, so there is
# nothing to take off afterwards, and a second call knows nothing of the first.

# %% [markdown]
# ## The equation
#
# Cut the computation at one activation $x$: what comes before makes it, what comes after uses it. A hook $h$ stands at the cut:
#
# $$ \mathrm{logits} = f_\mathrm{after}\big(h(x)\big), \qquad x = f_\mathrm{before}(\mathrm{tokens}) $$
#
# Looking is $h(x) = x$. The tensor that the hook is given is the one that the model goes on with, no copy and no other layout
# of it, and what it returns must have the same shape.
#
# The residual stream is special among activations, as it is a sum. With $x_\ell$, `batch pos d_model`, the stream after layer
# $\ell$, and $a_m$ and $b_m$ what attention and MLP of layer $m$ write,
#
# $$ \mathrm{logits} = \mathrm{unembed}\Big( x_\ell + \sum_{m > \ell} (a_m + b_m) \Big), \qquad
# \mathrm{lens}_\ell = \mathrm{unembed}(x_\ell). $$
#
# The *logit lens* leaves the sum out. It asks what the model would say if it ended there.

# %% [markdown]
# ## The code
#
# This is all that happens at a name. `Hooks` knows which functions want it, calls them in order, and hands on what comes back.

# %%
show(Hooks.__call__)

# %% [markdown]
# And this is how the names come to be: the model says them where it computes. `hooks.at("blocks", 3)` puts `blocks.3.` before
# what a block says, so that each part of the model knows its own names only. (Of the arguments, `qk_offset` and `rotation` are
# [positions](02_embeddings_and_positions.py), `extend_kv` is [the KV cache](10_kv_cache.py), and `n_last` asks for the last
# positions alone.)

# %%
show(Block.forward, start='hooks("resid_pre"', stop="return self.add_mlp")
show(Block.add_mlp)

# %% [markdown]
# ## Names
#
# No list of names is kept anywhere, as it could go out of date. The model runs once on shapes without numbers, with a hook on
# everything, and what fires is the list. The running model of this lesson has four layers and reads characters of Python code.

# %%
lm = cutaway.load("stdlib-4l")
model, config = lm.model.requires_grad_(False), lm.config  # nothing is learned here, so no graph need be kept
names = model.hook_names()
of_a_layer = [name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")]
outside = [name for name in names if not name.startswith("blocks.")]
say(f"""
{len(names)} names. Outside the blocks: `{"`, `".join(outside)}`. In each of the {config.n_layers} blocks, in the order of the
computation: `{"`, `".join(of_a_layer)}`.
""")

# %% [markdown]
# | name | shape | what it is |
# |---|---|---|
# | `resid_pre`, `resid_mid`, `resid_post` | `batch pos d_model` | the stream before a layer, between attention and MLP, after it |
# | `attn.q`, `attn.k`, `attn.v` | `batch pos head d_head` | queries, keys, values (`kv_head` where heads share the last two) |
# | `attn.rot_q`, `attn.rot_k` | the same | queries and keys as rotary positions have turned them |
# | `attn.z` | `batch pos head d_head` | what each head has read: values, weighted by its pattern |
# | `attn.attn_scores`, `attn.pattern` | `batch head q_pos k_pos` | before and after the softmax |
# | `attn.result` | `batch pos head d_model` | what each head by itself adds to the stream |
# | `ln1.scale`, `ln2.scale`, `ln_final.scale` | `batch pos 1` | what the norm before attention, MLP, unembedding divides by |
# | `ln1.normalized`, and so on | `batch pos d_model` | what these norms make of the stream (RMSNorm: before its gain) |
# | `embed`, `logits` | `batch pos d_model`, `batch pos d_vocab` | the beginning and the end |
# | `attn_out`, `mlp_out` | `batch pos d_model` | what the layer's two parts add to the stream |
# | `mlp.pre`, `mlp.post` | `batch pos d_mlp` | the neurons before and after their activation function |
#
# A name may be a glob, `"blocks.*.attn.pattern"`, where `*` stands for anything, and may be spelled as TransformerLens spells it.

# %% [markdown]
# ## Looking
#
# `recording` makes hooks that keep what they see. Here all patterns, of a text of one line.

# %%
line = "def __init__(self, name):"
tokens = lm.tokens(line)
hooks, seen = recording("blocks.*.attn.pattern")
plain, logits = model(tokens), model(tokens, hooks=hooks)
assert list(seen) == [f"blocks.{layer}.attn.pattern" for layer in range(config.n_layers)]
expect(seen["blocks.0.attn.pattern"].sum(dim=-1), torch.ones(1, config.n_heads, len(line)), "each query's shares add up to 1")
expect(logits, plain, "looking changes nothing but the rounding of attention, which is written out where its pattern is wanted")
hooks, as_there = recording("blocks.0.attn.hook_pattern")
model(tokens, hooks=hooks)
expect(as_there["blocks.0.attn.pattern"], seen["blocks.0.attn.pattern"], "the same by TransformerLens's name")

# %% [markdown]
# A hook is any function of the tensor and its full name, so it can also keep a number in the tensor's place. That is how one
# reads a long run in little memory: not "keep everything and reduce it afterwards", but "reduce it as it comes".

# %%
norms: dict[str, float] = {}
model(tokens, hooks={"blocks.*.resid_post": lambda resid, name: norms.update({name: resid.norm(dim=-1).mean().item()})})
say("The stream's mean length after each layer: " + ", ".join(f"{norm:.1f}" for norm in norms.values()) + ".")

# %% [markdown]
# ## Replacing
#
# A hook that returns a tensor has changed the run. Here head 3 of layer 1 writes nothing. The next call is as before, because
# nothing of the hook stayed.


# %%
def without_head_3(z: Tensor, name: str) -> Tensor:
    z = z.clone()  # batch pos head d_head
    z[:, :, 3] = 0
    return z


ablated = model(tokens, hooks={"blocks.1.attn.z": without_head_3})
assert (ablated - plain).abs().max() > 1e-3
assert torch.equal(model(tokens), plain), "the model after an edited run"
try:
    model(tokens, hooks={"blocks.1.attn.z": lambda z, name: z[:, :, 0]})
except ValueError as error:
    say(f"A replacement of another shape is refused: *{error}*.")

# %% [markdown]
# Where you have the tensor already, `replacing` makes the hook. With the stream of another text in its place after the last
# layer, the model gives the other text's logits: the stream is all that the unembedding reads.

# %%
elsewhere = lm.tokens("class Reader(io.BytesIO):")
hooks, there = recording("blocks.3.resid_post")
other_logits = model(elsewhere, hooks=hooks)
expect(model(tokens, hooks=replacing(there)), other_logits, "logits of the other text", tolerance=1e-6)

# %% [markdown]
# ## A name that never fires
#
# The worst bug of this trade is a hook that does nothing. A misspelled name, or one that the run does not come to, then reads
# as "this activation does not matter", or as an empty record. So a run in which a name never came up is an error, and says what
# is near.

# %%
for wrong in ("blocks.1.attn.patern", "blocks.7.mlp_out", "blocks.0.mlp"):
    try:
        model(tokens, hooks={wrong: lambda x, name: None})
    except ValueError as error:
        say(f"- {error}")
    else:
        raise AssertionError(f"{wrong} was taken")

# %% [markdown]
# ## Everything at once, and what it costs
#
# `run_with_cache` records by the same means, and gives the record as a mapping that also knows parts and layers. It keeps what
# the run computes anyway; scores, patterns and the outputs of single heads follow from that, and are computed when you ask.

# %%
logits, cache = cutaway.run_with_cache(model, tokens)
expect(cache["pattern", 1], seen["blocks.1.attn.pattern"], "a pattern that was derived, as the run had it")
expect(cache["result", 1].sum(dim=2) + model.blocks[1].attn.W_O.bias, cache["attn_out", 1], "heads add up")
assert cache["result", 1].shape == (1, len(line), config.n_heads, config.d_model)

# %% [markdown]
# How much would a full record take? Before you run it, ask: `cache_gib` adds up shapes. For GPT-2 with 8 texts of 1,024 tokens:

# %%
gpt2 = ModelConfig.preset("gpt2")
parts = {
    "scores and patterns": ["blocks.*.attn.attn_scores", "blocks.*.attn.pattern"],
    "logits": ["logits"],
    "MLPs' hidden layers": ["blocks.*.mlp.*"],
    "queries, keys, values, z": ["blocks.*.attn.[qkvz]"],
    "stream after layers": ["blocks.*.resid_post"],
    "all names but result": None,
}
gib = {part: cutaway.cache_gib(gpt2, batch=8, n_pos=1024, names=wanted) for part, wanted in parts.items()}
weights_gib = 4 * n_parameters(gpt2) / 2**30
pattern_gib = 8 * gpt2.n_layers * gpt2.n_heads * 1024**2 * 4 / 2**30
expect(gib["scores and patterns"], 2 * pattern_gib, "batch x layers x heads x queries x keys x 4 bytes, twice")
figure(
    plots.bars(list(gib.values()), labels=list(gib), title="A record of GPT-2, 8 x 1,024 tokens", label="GiB", signed=False),
    "What a record would hold if each activation were kept: patterns grow with the square of the text and outweigh the rest",
)
result_gib = cutaway.cache_gib(gpt2, batch=8, n_pos=1024, names="blocks.*.attn.result")
_, unnamed = cutaway.run_with_cache(model, tokens)
kept_kib, named_kib = 2**20 * unnamed.gib, 2**20 * cutaway.cache_gib(config, batch=1, n_pos=len(line))
assert 0 < kept_kib < 0.8 * named_kib
say(f"""
All of it, each as a tensor of its own, takes {gib["all names but result"]:.1f} GiB beside {weights_gib:.1f} GiB of weights, and
`attn.result` {result_gib:.1f} more. A record made without names takes less, as it keeps what scores, patterns, norms and hidden layers
follow from, and not those: of the line above {kept_kib:.0f} KiB instead of {named_kib:.0f}, until you ask for them. The stream after
each layer of GPT-2 takes {gib["stream after layers"]:.2f} GiB.

Name what you want: `names="blocks.*.resid_post"`, and `pos=-1` where one position is
enough. A record that would take more than half of the free memory is refused before the run begins.
""")

# %% [markdown]
# ## What can depend on what
#
# With recording alone you can test the claim on which all language models rest: that no position sees a later one. Change one
# character, run twice, and compare *every* activation, not the logits alone.

# %%
changed_pos = 13
other = lm.tokens(line[:changed_pos] + "x" + line[changed_pos + 1 :])
hooks, before = recording("*")
model(tokens, hooks=hooks)
hooks, after = recording("*")
model(other, hooks=hooks)
for name, x in before.items():
    moved = (x != after[name]).nonzero()  # a row of places for each number that differs
    pos_axis = 2 if name.endswith(("attn_scores", "pattern")) else 1
    assert len(moved) == 0 or moved[:, pos_axis].min() >= changed_pos, name
change = torch.stack(
    [(before[name] - after[name])[0].norm(dim=-1) for name in before if name.endswith(("0.resid_pre", "resid_post"))]
)
figure(
    plots.heatmap(
        change.numpy(),
        rows=["embed", *(f"after {layer}" for layer in range(config.n_layers))],
        columns=list(line),
        title="One character changed",
        label="length of the difference",
        limit=change[1:].max().item(),
    ),
    "How much the stream differs when one character does: nothing to its left, not by a bit, and a shadow to its right",
)
say(f"""
All {len(before)} activations are the same to the last bit at the {changed_pos} positions before the change. What an edit can reach
is the region down and to the right: its *causal cone*. The next lesson saves most of its work by it.
""")

# %% [markdown]
# ## Edits are values
#
# A hook is code, and code cannot be printed, compared, or stored beside a result. So the library has the usual changes as
# values: where (name, head, position, coordinate) and what (zero, mean, replace, patch, scale, add, project). They become hooks
# when a run applies them.

# %%
show(Edit.new_value, start="match self.kind", stop="return value")

# %%
silence = edits.zero("blocks.1.attn.z", head=3)
expect(cutaway.run_with_edits(model, tokens, [silence]), ablated, "the edit does what the hook did", tolerance=1e-6)
written = json.dumps(silence.to_dict())
again = Edit.from_dict(json.loads(written))
say(f"Printed: `{silence}`. As JSON: `{written}`. Read back: `{again}`.")

# %% [markdown]
# ## What the model believes, layer by layer
#
# Now the lens. Take the stream after each layer, hand it to the unembedding, and read off the likeliest next character.

# %%
reading = lens.logit_lens(lm, line[:22])
figure(
    reading.figures()[0],
    "A row for each state of the stream, a column for each character read: the likeliest next character, darker the surer. The row "
    "embed is the stream before layer 0, the rows 0 to 3 are the stream after that layer",
)
expect(reading.labels, ["embed", "0", "1", "2", "3"], "the rows")
kl_of_row = ", ".join(f"{kl:.2f} in row {row}" for kl, row in zip(reading.kl.mean(dim=-1).tolist(), reading.labels, strict=True))
say(f"""
{reading.summary().split(" Mean KL")[0]} How far each row is from the last one, as the KL divergence (the nats lost by believing the
row when the last is true), averaged over the characters: {kl_of_row}.
""")

# %% [markdown]
# Is that more than a picture? The equation above says so. The lens leaves out what later layers write. There is an experiment
# that does the same: run the model with everything that later layers write set to zero. The two are not alike but equal, so
# **the logit lens is an ablation**, and a causal statement about the unembedding: this is what it would answer, were the rest
# silent.

# %%
with torch.no_grad():
    for layer in range(config.n_layers):
        silent = [edits.zero(f"blocks.{m}.{part}") for m in range(layer + 1, config.n_layers) for part in ("attn_out", "mlp_out")]
        ended = cutaway.run_with_edits(model, tokens, silent)
        expect(model.unembed(cache["resid_post", layer]), ended, f"the lens after layer {layer}", tolerance=1e-6)

# %% [markdown]
# One text is an anecdote. Over many: how often is what the lens reads already the model's final answer, how often the character
# that in truth comes next, and how often the character just read? The texts are Python's own source, cut into windows, from
# files that the model has not read.

# %%
source = "".join(c for module in (textwrap, csv, json) for c in inspect.getsource(module) if c == "\n" or " " <= c <= "~")
n_windows = pick(fast=80, full=300)
windows = lm.tokens(source[: n_windows * config.n_ctx]).view(n_windows, config.n_ctx)
_, wide = cutaway.run_with_cache(model, windows, ["blocks.0.resid_pre", "blocks.*.resid_post"])
states = [wide["resid_pre", 0], *(wide["resid_post", layer] for layer in range(config.n_layers))]
with torch.no_grad():
    top = torch.stack([model.unembed(state).argmax(dim=-1) for state in states])  # state window pos
is_final = (top == top[-1]).float().mean(dim=(1, 2))
is_next = (top[:, :, :-1] == windows[:, 1:]).float().mean(dim=(1, 2))

# %% [markdown]
# ## Predict
#
# The first of these states is the embedding alone, and you know from [the whole model](06_whole_model.py) what is read there:
# this model unembeds with the transpose of `W_E` (`tie_embeddings`), so it is the character just read. Before you run the next
# cell, guess three shares. How often is that by luck the *right* next character? How many answers are final after one layer of
# four? And how many does the last layer still change?

# %% tags=["prediction"]
is_itself = (top == windows).float().mean(dim=(1, 2))
assert config.tie_embeddings
assert is_itself[0] > 0.95
assert is_itself[1] < 0.6
places = list(range(-1, config.n_layers))
curves = {"the final answer": is_final, "the next character": is_next, "the character just read": is_itself}
figure(
    plots.lines(
        {name: (places, share.tolist()) for name, share in curves.items()},
        title="What the lens reads",
        x_label="layer (the embedding is at -1)",
        y_label="share of positions",
    ),
    "What the lens reads: at the embedding the character just read, and layer by layer more often the model's final answer",
)
say(f"""
At the embedding the lens reads the character just read, at {is_itself[0]:.0%} of positions: up to the last norm its logits are the
dot products of one row of `W_E` with all rows of `W_E`, and a vector agrees with itself best. That is right at {is_next[0]:.0%}. The
lens shows *what the unembedding makes of a state*. With tied matrices the embedding is written in the unembedding's own language, and
says there "I am this character", which the unembedding reads as "this character comes next". One layer later {is_itself[1]:.0%} are
left of that (the final answer repeats the character at {is_itself[-1]:.0%}), and {is_final[1]:.0%} are already the final answer. The
last layer by itself still changes {1 - is_final[-2]:.0%} of all answers, so it is not there for decoration.
""")

# %% [markdown]
# So a lens that reads nonsense does not show that the layer knows nothing. What it knows may be there in other directions. The
# *tuned lens* learns for each layer an affine map into the language of the last one (`cutaway.lens.tuned_lens`; the last
# exercise builds one in closed form, and it will find much of the answer in the embedding itself).

# %% [markdown]
# ## Exercises
#
# **1. Measure without keeping.** Return for each layer how much of its attention a head gives to the query's own position,
# averaged over queries and heads, without keeping a pattern: a list, by layer.


# %% tags=["starter"]
def attention_to_itself(model: Transformer, tokens: Tensor) -> list[float]:
    found: list[float] = []
    model(tokens, hooks={"blocks.*.attn.pattern": lambda pattern, name: None})
    return found


# %% [markdown] tags=["hint"]
# The pattern is `batch head q_pos k_pos`. What a query gives to itself is on the diagonal of the last two axes.

# %% [markdown] tags=["hint"]
# `pattern.diagonal(dim1=-2, dim2=-1).mean().item()`, and the list's `append`, which returns None as a hook that looks should.


# %% tags=["solution"]
def attention_to_itself(model: Transformer, tokens: Tensor) -> list[float]:
    found: list[float] = []

    def look(pattern: Tensor, name: str) -> None:
        found.append(pattern.diagonal(dim1=-2, dim2=-1).mean().item())

    model(tokens, hooks={"blocks.*.attn.pattern": look})
    return found


# %% tags=["check"]
def n_large() -> int:
    """Return how many stretches of memory tensors hold that are as large as a layer's patterns of three windows, or larger."""
    gc.collect()
    held = [each.untyped_storage() for each in gc.get_objects() if type(each) is Tensor]
    return len({memory.data_ptr() for memory in held if memory.nbytes() >= 4 * 3 * config.n_heads * config.n_ctx**2})


with checking("measure without keeping"), torch.no_grad():
    n_before, at_end = n_large(), []
    with model.unembed.register_forward_pre_hook(lambda *_: at_end.append(n_large() - n_before)):
        yours = attention_to_itself(model, windows[:3])
    _, kept = cutaway.run_with_cache(model, windows[:3], "blocks.*.attn.pattern")
    of_layers = [kept["pattern", layer].diagonal(dim1=-2, dim2=-1).mean().item() for layer in range(config.n_layers)]
    expect(yours, of_layers, "layer by layer")
    assert max(at_end, default=0) <= 0, f"right, but at the logits {max(at_end)} tensors as large as a pattern are still kept"

# %% [markdown]
# **2. A hook that steers.** Return the logits of a run in which `vector`, of `d_model`, is added to the stream before layer
# `layer`, at the last position alone. Use a hook, no edit, and leave the tensor that the hook is given as it was.


# %% tags=["starter"]
def steered(model: Transformer, tokens: Tensor, layer: int, vector: Tensor) -> Tensor:
    def push(resid: Tensor, name: str) -> Tensor:
        return resid + vector

    return model(tokens, hooks={"blocks.0.resid_pre": push})


# %% [markdown] tags=["hint"]
# Two things are wrong: the layer, and that all positions are pushed.

# %% [markdown] tags=["hint"]
# `resid.clone()`, add to `[:, -1]`, return it; the name is `f"blocks.{layer}.resid_pre"`.


# %% tags=["solution"]
def steered(model: Transformer, tokens: Tensor, layer: int, vector: Tensor) -> Tensor:
    def push(resid: Tensor, name: str) -> Tensor:
        resid = resid.clone()
        resid[:, -1] += vector
        return resid

    return model(tokens, hooks={f"blocks.{layer}.resid_pre": push})


# %% tags=["check"]
class Watched:
    """The model, which also notes whether a hook left its tensor as it was."""

    is_kept = True

    def __call__(self, tokens: Tensor, hooks: dict[str, Callable[[Tensor, str], Tensor | None]]) -> Tensor:
        def watched(function: Callable[[Tensor, str], Tensor | None]) -> Callable[[Tensor, str], Tensor | None]:
            def look(x: Tensor, name: str) -> Tensor | None:
                before = x.clone()
                after = function(x, name)
                self.is_kept &= torch.equal(x, before)
                return after

            return look

        return model(tokens, hooks={name: watched(function) for name, function in hooks.items()})


with checking("a hook that steers"):
    vector = torch.randn(config.d_model, generator=torch.Generator().manual_seed(0))
    watch = Watched()
    for layer in (2, 0):
        by_edit = cutaway.run_with_edits(model, tokens, [edits.add(f"blocks.{layer}.resid_pre", vector, pos=-1)])
        yours = steered(watch, tokens, layer, vector)
        expect(yours[:, :-1], by_edit[:, :-1], f"layer {layer}: positions before the last, which must stay")
        expect(yours, by_edit, f"layer {layer}: all logits, beside the library's edit")
    assert watch.is_kept, "the hook wrote into the tensor that it was given: clone first"

# %% [markdown]
# **3. When is it settled?** For each position, return the first state from which on the lens reads the model's final answer and
# never leaves it: 0 for the embedding, `n_layers` for the last. `states` are `n_layers + 1` tensors `batch pos d_model`.


# %% tags=["starter"]
def settled_at(model: Transformer, states: list[Tensor]) -> Tensor:
    top = torch.stack([model.unembed(state).argmax(dim=-1) for state in states])
    return (top == top[-1]).float().argmax(dim=0)


# %% [markdown] tags=["hint"]
# The starter finds the *first* state that agrees. One that agrees by chance, and then leaves, must not count.

# %% [markdown] tags=["hint"]
# Walk from the last state backwards and keep a boolean "agreed with the end ever since". How many states it stays true says the
# rest.


# %% tags=["solution"]
def settled_at(model: Transformer, states: list[Tensor]) -> Tensor:
    top = [model.unembed(state).argmax(dim=-1) for state in states]
    agrees = [each == top[-1] for each in reversed(top)]
    ever_since = torch.stack(list(accumulate(agrees, torch.logical_and)))
    return len(states) - ever_since.sum(dim=0)


# %% tags=["check"]
with checking("when is it settled?"):
    settled = settled_at(model, [state[:4] for state in states])
    expect(tuple(settled.shape), (4, config.n_ctx), "the shape, a number for each position")
    for place, column in enumerate(top[:, :4].flatten(1).T.tolist()):
        right = next(state for state in range(len(column)) if len(set(column[state:])) == 1)
        reads = ", ".join(repr(lm.text([token])) for token in column)
        expect(settled.flatten()[place].item(), right, f"where the lens reads {reads}, state by state")
    expect(settled_at(model, [state[:4] for state in states[2:]]), (settled - 2).clamp(min=0), "without the first two states")

# %% [markdown]
# **4. A tuned lens in closed form.** Find for one state an affine map, `x @ A + b`, that brings it as near as it can to the
# last state, by least squares over all positions. Return `A`, `d_model d_model`, and `b`, `d_model`. On other texts the lens
# through your map must lose much less of the model's answer (KL in nats) than the bare lens does. (The tuned lens proper
# minimises that KL itself, which has no closed form.)


# %% tags=["starter"]
def translator(state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    d_model = state.shape[-1]
    return torch.eye(d_model), torch.zeros(d_model)


# %% [markdown] tags=["hint"]
# A constant 1 beside the `d_model` coordinates makes the bias a row of one larger matrix: `torch.cat([x, ones], dim=-1)`.

# %% [markdown] tags=["hint"]
# `torch.linalg.lstsq(X, Y).solution` minimises the squares of `X @ W - Y`; flatten windows and positions into one axis first,
# and compute in float64.

# %% [markdown] tags=["hint"]
# `W` has `d_model + 1` rows: the last one is `b`.


# %% tags=["solution"]
def translator(state: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    X, Y = state.flatten(0, -2).double(), last.flatten(0, -2).double()
    W = torch.linalg.lstsq(torch.cat([X, torch.ones(len(X), 1).to(X)], dim=-1), Y).solution.float()
    return W[:-1], W[-1]


# %% tags=["check"]
with checking("a tuned lens in closed form"), torch.no_grad():
    learn, held_out = slice(0, None, 2), slice(1, None, 2)
    final = model.unembed(states[-1][held_out]).log_softmax(dim=-1)

    def kl_of(state: Tensor) -> float:
        read = model.unembed(state).log_softmax(dim=-1)
        return (final.exp() * (final - read)).sum(dim=-1).mean().item()

    for place, most in ((0, 0.4), (1, 0.85), (2, 0.85)):
        A, b = translator(states[place][learn], states[-1][learn])
        bare, tuned = kl_of(states[place][held_out]), kl_of(states[place][held_out] @ A + b)
        where = "the embedding" if place == 0 else f"layer {place - 1}"
        assert tuned < most * bare, f"at {where} the KL through your map is {tuned:.2f} and the bare lens has {bare:.2f}"
        x, y = (each[learn].flatten(0, -2).double() for each in (states[place], states[-1]))
        missing = y - (x @ A.double() + b.double())  # where the squares are least, it is uncorrelated with x
        zero = torch.zeros(config.d_model, config.d_model)
        what = f"what your map of {where} misses the last state by"
        expect(missing.mean(dim=0), zero[0], f"{what}, averaged over all positions", tolerance=1e-4)
        expect(x.T @ missing / len(x), zero, f"{what}, times each coordinate it reads, averaged", tolerance=1e-4)

# %% [markdown]
# ## Pitfalls
#
# - *"My hook is registered and never fires; the record is empty."* In libraries where an activation exists only under a flag,
#   this is silent. Here a name that never came up raises, and an activation that costs something to compute (`attn.result`,
#   `attn.pattern`) is computed because a hook wants it.
# - *"`run_with_cache` uses a ton of memory."* It does what it was told. Name what you need, keep some positions (`pos=`), end
#   the run early (`stop_after_layer=`), or reduce in a hook; `cutaway.cache_gib` says beforehand what a record takes.
# - *"I made hooks in a loop over layers, and all of them act as if they were the last layer's."* Python looks the loop's
#   variable up when the function runs, not when it is made. Read the layer from the name that the hook is given, or bind it,
#   `lambda x, name, layer=layer: ...`. The cell below shows it.
# - *"I wrote into the tensor, `z[:, :, 3] = 0`, and returned nothing."* The model then goes on with what you wrote, and so does
#   everything else that holds the same memory: the stream itself, or a record that another hook has just kept. Clone, write,
#   return.
# - *"My prompts differ in length, and `pos=-1` reads the filling."* Rows of a batch are filled up on the right, so the last
#   place of the tensor is the last token of the longest row alone. Give `run_with_cache` and edits `lengths=`, and negative
#   positions count from each row's own end.
# - *"Does a hook survive `torch.compile`?"* A module's `register_forward_hook`, added after the first compiled call, is ignored
#   without a word. Here calls without hooks may be compiled and a call with hooks runs the same model uncompiled.
# - *"Which scale does the lens divide by?"* By default each state is divided by its own, as if the model ended there. With
#   `norm="frozen"` all are divided by the scale of the end, and the readings are then partial sums of one and the same logit.

# %%
filled = torch.cat([tokens, tokens])
filled[1, -5:] = 0  # the second row is shorter: what stands in its last five places is filling
_, at_ends = cutaway.run_with_cache(model, filled, "blocks.3.resid_post", pos=-1, lengths=[len(line), len(line) - 5])
expect(at_ends["resid_post", 3][1, 0], cache["resid_post", 3][0, -6], "the last token of the shorter row", tolerance=1e-4)

late: list[int] = []
bound: list[int] = []
loop_hooks = {f"blocks.{layer}.resid_post": lambda x, name: late.append(layer) for layer in range(config.n_layers)}  # noqa: B023
model(tokens, hooks=loop_hooks)
loop_hooks = {f"blocks.{layer}.resid_post": lambda x, name, layer=layer: bound.append(layer) for layer in range(config.n_layers)}
model(tokens, hooks=loop_hooks)
say(f"Looked up late: {late}. Bound when made: {bound}.")
assert late == [config.n_layers - 1] * config.n_layers
assert bound == list(range(config.n_layers))

# %% [markdown]
# ## Read on
#
# [Attribution and patching](13_attribution_and_patching.py): which of all these activations brought the answer about. The
# stream's parts: [the residual stream](05_residual_stream.py). The lens in formulas: [the theory guide](../docs/theory.md).
# Papers: nostalgebraist 2020, "interpreting GPT: the logit lens"; Belrose et al. 2023, "Eliciting Latent Predictions from
# Transformers with the Tuned Lens", arXiv 2303.08112.
