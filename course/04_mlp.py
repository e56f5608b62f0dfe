# %% [markdown]
# # The MLP
#
# **Most of a GPT's weights sit where no position can see another: what do they do there?**
#
# You need: [attention](03_attention.py), to see what the MLP is not. Explains: [mlp.py](../src/cutaway/model/mlp.py), and with
# [feed_forward_memories.py](../src/cutaway/experiments/feed_forward_memories.py) how to read it.

# %%
import inspect
import math

import torch
from torch import Tensor, nn

import cutaway
from cutaway import ModelConfig, Transformer, edits, metrics, plots, residual
from cutaway.experiments.feed_forward_memories import Memories
from cutaway.experiments.text_model import spread_windows
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import MLP, Attention, GatedMLP
from cutaway.model.mlp import ACTIVATIONS
from cutaway.weights import parameter_shapes

torch.manual_seed(0)  # weights
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The idea
#
# Attention has fetched what it could from other positions and added it to the stream. Now each position works on what it has,
# alone. The MLP is the plainest neural network there is: a matrix into a wide hidden layer, a nonlinear function of each number
# there, a matrix back.
#
# There is a second way to read the same lines. Each of the hidden *neurons* has a row of `W_in`, its **key**: a pattern that it
# compares the stream with, by a dot product. And it has a column of `W_out`, its **value**: what it adds to the stream, as
# strongly as its key fits. An MLP is then a memory of `d_mlp` entries, all of which are asked at once. "After `sel`, write `f`"
# is such an entry, and you will meet it below in a model that has learnt it.

# %% [markdown]
# ## The equation
#
# $$
# \mathrm{MLP}(x) = W_\mathrm{out}\, \sigma(W_\mathrm{in}\, x + b_\mathrm{in}) + b_\mathrm{out}
# = b_\mathrm{out} + \sum_{n=1}^{d_\mathrm{mlp}} \underbrace{\sigma(k_n \cdot x + b_n)}_{\text{how well key } n \text{ fits}}
# \; \underbrace{v_n}_{\text{value}}
# $$
#
# For $x$ of shape `d_model`, `W_in` is `d_mlp d_model` with the keys $k_n$ as its rows, and `W_out` is `d_model d_mlp` with the
# values $v_n$ as its columns. The same weights serve every position. (These are the shapes in which torch keeps a
# `Linear`: `out in`. The [theory guide](../docs/theory.md) and many papers write the transposed matrices, with a key a column of
# $W_\mathrm{in}$ and a value a row of $W_\mathrm{out}$.) The gated kind has a second matrix and multiplies:
#
# $$ \mathrm{GatedMLP}(x) = W_\mathrm{out} \big( \sigma(W_\mathrm{gate}\, x) \odot W_\mathrm{in}\, x \big) $$

# %% [markdown]
# ## The code

# %%
show(MLP.forward)
show(GatedMLP.forward)

# %% [markdown]
# ## A memory of three entries
#
# Three neurons in two dimensions, with ReLU, so that a neuron whose key does not fit is silent.

# %%
mlp = MLP(d_model=2, d_mlp=3, act="relu", bias=False)
mlp.W_in.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # a key a row
mlp.W_out.weight.data = torch.tensor([[0.0, 5.0, 7.0], [3.0, 0.0, 7.0]])  # a value a column
x = torch.tensor([2.0, 0.5])
fits = (mlp.W_in.weight @ x).relu()
out = fits[0] * mlp.W_out.weight[:, 0] + fits[1] * mlp.W_out.weight[:, 1] + fits[2] * mlp.W_out.weight[:, 2]
expect(out, mlp(x), "the sum over neurons is the MLP")
say(f"The keys fit by {fits.tolist()}: twice value 0, half of value 1, nothing of value 2. Together ({out[0]:.1f}, {out[1]:.1f}).")

# %% [markdown]
# ## Each position alone
#
# Does an MLP mix positions? It gets all of them at once, and nothing in `forward` names one. But `nn.Linear` multiplies along
# the last axis alone, and the activation takes each number by itself. The proof is a derivative: how much does the output at
# one position change with the input at another? Here is the size of these derivatives for every pair of positions.

# %%
x = torch.randn(6, 8, generator=generator, dtype=torch.float64)


def dependence(part: nn.Module, **options: str) -> Tensor:
    """Return "out_pos in_pos": the norm of the derivative of the output at one position by the input at another."""
    jacobian = torch.autograd.functional.jacobian(lambda x: part.double()(x, **options), x)  # pos d_model pos d_model
    return jacobian.square().sum(dim=(1, 3)).sqrt()


of_mlp, of_attention = dependence(MLP(d_model=8)), dependence(Attention(d_model=8, n_heads=2), mask="causal")
assert torch.equal(of_mlp, of_mlp.diag().diag())  # exactly 0 everywhere else
assert (of_attention.tril(-1) > 0).sum() == 15  # every pair of a later and an earlier position
figure(
    plots.heatmap(
        torch.cat([each / each.max() for each in (of_mlp, of_attention)], dim=1).numpy(),
        rows=[str(pos) for pos in range(6)],
        columns=[f"{part} {pos}" for part in ("MLP", "attention") for pos in range(6)],
        title="What the output at each position depends on",
        row_title="position of the output",
        column_title="position of the input",
        label="derivative, the greatest 1",
    ),
    "The output of the MLP depends on the same position alone, the diagonal on the left; that of attention on all before it, too",
)
order = torch.randperm(6, generator=generator)
mlp = MLP(d_model=8).double()
expect(mlp(x[order]), mlp(x)[order], "shuffled in, shuffled out", tolerance=1e-12)
expect(torch.stack([mlp(each) for each in x]), mlp(x), "one position at a time", tolerance=1e-12)

# %% [markdown]
# ## The bend
#
# Without $\sigma$ the two matrices would be one, $W_\mathrm{out} W_\mathrm{in}$, of shape `d_model d_model`, and all the width
# in the middle would be for nothing. The bend is what makes a neuron a decision: below, nothing; above, more and more. GELU
# is $\mathrm{gelu}(x) = x\,\Phi(x)$, the input times the probability that a normal number is smaller; GPT-2's, `gelu_new`, is
# nearly the same by a tanh.

# %%
grid = torch.linspace(-4, 4, 161)
figure(
    plots.lines(
        {name: (grid.tolist(), act(grid).tolist()) for name, act in ACTIVATIONS.items() if name != "gelu_new"},
        title="Three bends",
        x_label="before",
        y_label="after",
    ),
    "ReLU has a corner; GELU and SiLU dip below zero and are smooth, so that a neuron that is nearly off still has a gradient",
)
difference = (ACTIVATIONS["gelu"](grid) - ACTIVATIONS["gelu_new"](grid)).abs().max().item()
assert 1e-4 < difference < 1e-3
say(f"`gelu` and `gelu_new` differ by {difference:.4f} at most: too little to draw, far more than rounding.")

# %% [markdown]
# ## Where the weights are
#
# Attention has four matrices `d_model d_model`, and the MLP two that are four times as large: 4 parts of 12 against 8. So of
# the weights of the blocks two thirds are in the MLPs. Shapes are enough to count them, no weights are made:

# %%
for size in ("gpt2", "gpt2-xl", "smollm2-135m"):
    config = ModelConfig.preset(size)
    counts = {name: shape.numel() for name, shape in parameter_shapes(config).items()}
    in_mlp = sum(count for name, count in counts.items() if ".mlp." in name)
    in_blocks = sum(count for name, count in counts.items() if name.startswith("blocks."))
    print(
        f"{size:14}{in_mlp / in_blocks:.3f} of the blocks, {in_mlp / sum(counts.values()):.3f} of the model; gated: {config.gated_mlp}"
    )
    if size.startswith("gpt2"):
        expect(in_mlp / in_blocks, 2 / 3, size, tolerance=1e-3)
smollm2 = ModelConfig.preset("smollm2-135m")
expect(smollm2.d_mlp, 8 / 3 * smollm2.d_model, "a gated hidden layer: three matrices of 8/3 weigh as much as two of 4")
expect(smollm2.n_heads / smollm2.n_kv_heads, 3, "heads that share keys and values")

# %% [markdown]
# SmolLM2's share is 3/4 and not 2/3. Its nine heads share three sets of keys and values, so `W_K` and `W_V` are a third as large
# (grouped-query attention).

# %% [markdown]
# ## What a neuron has learnt
#
# Now a trained model, `stdlib-4l`, which writes Python code character by character. For each neuron of a layer the library
# looks for the contexts in which its key fits best, in the source of a module. Apart from that it asks what the value says:
# read by the unembedding, which character does it make likeliest? One answer comes from texts, the other from weights alone. If
# an MLP is a memory, they should agree.
#
# Three words of later lessons are needed from here on. The *unembedding*, at the end of a model, scores each token by its dot
# product with the stream, after a last *norm*, which rescales the stream ([lesson 5](05_residual_stream.py)). An *edit* of a run
# puts another value in the place of an activation ([lesson 12](12_opening_the_model.py)); a *sweep* makes many edited runs.

# %%
lm = cutaway.load("stdlib-4l")
text = inspect.getsource(inspect).encode("ascii", "ignore").decode()
ids = torch.tensor([lm.tokenizer.encode(character)[0] for character in text if character in lm.tokenizer.characters])
windows = spread_windows(ids, lm.config.n_ctx + 1, n_windows=pick(fast=600, full=1500))
memories = [Memories.of(lm.model, windows, layer, n_contexts=6, first=8) for layer in range(lm.config.n_layers)]

last = memories[-1]
hits = (last.following == last.said).float().mean(dim=0)  # of the contexts of each key
shown = (hits * last.confidence).topk(8).indices.tolist()
texts, is_next = [], torch.zeros(len(shown), 12)
for row, key in enumerate(shown):
    window, end = int(last.rows[0, key]), int(last.positions[0, key])
    said = lm.text([int(last.said[key])])
    texts.append([*lm.text(windows[window, end - 9 : end + 2]), said])
    is_next[row, -2:] = float(texts[-1][-2] == said)
figure(
    plots.token_grid(
        texts,
        is_next.numpy(),
        rows=[f"neuron {int(last.keys[key])}" for key in shown],
        columns=[*map(str, range(-9, 1)), "next", "value"],
        title="Eight neurons of the last layer",
        label="1: the value says what comes next",
    ),
    "Where each neuron's key fits best, what comes next in that text, and the character that its value makes likeliest",
)
agreeing = [100 * each.agreement for each in memories]
by_chance = [100 * each.agreement_permuted for each in memories]
ratios = [a / b for a, b in zip(agreeing, by_chance, strict=True)]
weakest = ratios.index(min(ratios))
assert min(ratios) > 1.3
assert sorted(ratios)[1] > 2
assert min(agreeing[:2]) > max(agreeing[2:])
followed, guessed = (", ".join(f"{each:.0f}" for each in shares) for shares in (agreeing, by_chance))
say(f"""
Over all neurons of a layer, the value's likeliest character is the one that comes next in {followed} % of the contexts, in layers 0 to
3. With the values handed out to other keys it would be {guessed} %. So keys and values belong together beyond chance in every layer,
clearly in three of them and barely in layer {weakest}. (Geva et al. found it in the upper layers of a larger model only; here, where
one character often settles the next, the lowest layers have it most.) And most neurons are still no such clear entries: they say a
little of many things, and the answer is their sum.
""")

# %% [markdown]
# One of them is the entry promised above. Is it a cause? Switch it by hand: on, where nothing calls for it, and off, where it
# fires by itself.

# %%
neuron, f = 35, lm.tokenizer.encode("f")[0]
expect(int(last.said[(last.keys == neuron).nonzero()[0, 0]]), f, "what the value of neuron 35 says")
site = f"blocks.{lm.config.n_layers - 1}.mlp.post"


def log_odds_of_f(prompt: str, *changes: cutaway.Edit) -> Tensor:
    """Return ln(p / (1 - p)), where p is the probability of an f next."""
    logits = cutaway.run_with_edits(lm.model, lm.tokens(prompt), list(changes))[0, -1].double()
    is_other = torch.arange(len(logits)) != f
    return logits[f] - logits[is_other].logsumexp(dim=-1)


after_sel, elsewhere = "    def name(self):\n        return sel", "    def name(self):\n        return a"
_, cache = cutaway.run_with_cache(lm.model, lm.tokens(after_sel))
strength = cache[site][0, -1, neuron]
to_f = residual.logit_directions(lm.model, [f])
added = residual.neuron_projections(cache, to_f, lm.config.n_layers - 1, pos=-1).values.flatten()
place = int((added > added[neuron]).sum()) + 1
without, with_it = log_odds_of_f(elsewhere), log_odds_of_f(elsewhere, edits.replace(site, strength, index=neuron, pos=-1))
expected, taken = log_odds_of_f(after_sel), log_odds_of_f(after_sel, edits.zero(site, index=neuron, pos=-1))
assert with_it > without + math.log(2)
assert taken > expected - 0.05
assert place <= 5
say(f"""
After `return sel` neuron {neuron} is {strength:.1f} strong, and of the {lm.config.d_mlp} neurons of its layer it is number {place} in
what it adds to the logit of `f`. Switched on as strongly after `return a`, it raises the probability of `f` from
{without.sigmoid():.4f} to {with_it.sigmoid():.4f}: it is a cause. Switched off after `return sel`, where it fires by itself, one
would expect the answer to suffer. A probability near 1 hides what happens, so look at the log-odds of `f`, $\\ln(p / (1 - p))$:
{expected:.2f} before, {taken:.2f} after. They do not fall. Whatever is written also changes what the last norm divides by, and what
is written for `f` may cost it elsewhere.
""")

# %% [markdown]
# To add to a logit and to cause an answer are two things. How to tell them apart is the matter of [attribution and
# patching](13_attribution_and_patching.py).

# %% [markdown]
# ## Predict
#
# Take the MLP of layer 0 away, so that it adds nothing, and the model loses most of what it knows. The layer has 128 neurons.
# Before you run the cell: if you take away one neuron at a time, which share of that loss does the most important of them
# cause? And do the 128 costs add up to the cost of the whole?

# %% tags=["prediction"]
tokens = windows[: pick(fast=12, full=60), :-1]
expect(lm.config.d_mlp, 128, "neurons of a layer")
whole = [[], [edits.zero("blocks.0.mlp_out")]]
turned_down = [[edits.scale("blocks.0.mlp_out", factor)] for factor in (0.75, 0.5)]
single = [[edits.zero("blocks.0.mlp.post", index=each)] for each in range(lm.config.d_mlp)]
losses = cutaway.sweep(lm.model, tokens, [*whole, *turned_down, *single], metrics.loss(tokens)).mean(dim=-1)
cost, at_three_quarters, at_half = losses[1:4] - losses[0]
costs = losses[4:] - losses[0]
assert cost > 1
assert at_three_quarters < 0.1 * cost
assert at_half < 0.25 * cost
assert costs.max() < 0.1 * cost
assert costs.sum() < 0.6 * cost
say(f"""
The whole layer costs {cost:.2f} nats a character, the most important neuron {costs.max():.2f}, and all of them, each taken alone,
{costs.sum():.2f} together: a small part of the whole. {int((costs < 0).sum())} of the 128 would even be better away, on this text.
Turning the whole layer down to three quarters costs {at_three_quarters:.2f}, to a half {at_half:.2f}, off {cost:.2f}: the model bears a
little error in what the layer says, and not the loss of all of it. So the costs of the pieces do not add up to the cost of the whole,
and "what does the model lose without this part" is no property of the part alone. Remember it whenever someone reports the importance
of a neuron or a head.
""")

# %% [markdown]
# ## Exercises
#
# **1. By hand.** Compute what an `MLP` gives for a batch out of its four parameters, with `@`, `+` and its activation.


# %% tags=["starter"]
def mlp_by_hand(x: Tensor, mlp: MLP) -> Tensor:
    """Return the output "batch pos d_model" for x "batch pos d_model"."""
    hidden = x @ mlp.W_in.weight.T
    return mlp.act(hidden)


# %% [markdown] tags=["hint"]
# `nn.Linear` computes `x @ weight.T + bias`.

# %% [markdown] tags=["hint"]
# The starter lacks the bias of `W_in`, and the whole way back.


# %% tags=["solution"]
def mlp_by_hand(x: Tensor, mlp: MLP) -> Tensor:
    """Return the output "batch pos d_model" for x "batch pos d_model"."""
    hidden = x @ mlp.W_in.weight.T + mlp.W_in.bias
    return mlp.act(hidden) @ mlp.W_out.weight.T + mlp.W_out.bias


# %% tags=["check"]
with checking("by hand"):
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    for act in ("gelu_new", "relu"):
        mlp = MLP(d_model=6, d_mlp=10, act=act)
        expect(mlp_by_hand(x, mlp), mlp(x), f"as the library's MLP with {act}")

# %% [markdown]
# **2. The share.** Which share of the weights of a block's matrices (no biases, no norms) is in its MLP? Write it as a formula
# of the configuration, for plain and gated MLPs, and for heads that share keys and values (`n_kv_heads`).


# %% tags=["starter"]
def mlp_share(config: ModelConfig) -> float:
    """Return the MLP's share of the weights of attention and MLP."""
    attention = 4 * config.d_model**2
    return 1 - attention / (3 * attention)


# %% [markdown] tags=["hint"]
# A gated MLP has three matrices of `d_model * d_mlp`, a plain one two.

# %% [markdown] tags=["hint"]
# `W_Q` and `W_O` have `d_model * n_heads * d_head` weights each; `W_K` and `W_V` have `n_kv_heads` in place of `n_heads`.


# %% tags=["solution"]
def mlp_share(config: ModelConfig) -> float:
    """Return the MLP's share of the weights of attention and MLP."""
    attention = 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)
    mlp = (3 if config.gated_mlp else 2) * config.d_model * config.d_mlp
    return mlp / (attention + mlp)


# %% tags=["check"]
with checking("the share"):
    expect(mlp_share(ModelConfig.preset("gpt2")), 2 / 3, "GPT-2")
    expect(mlp_share(lm.config), 1 / 2, "stdlib-4l, whose hidden layer is twice as wide as the stream")
    sizes = {name: ModelConfig.preset(name) for name in ("gpt2-xl", "smollm2-135m")}
    sizes["gpt2 with wider heads"] = ModelConfig.preset("gpt2").replace(d_head=100)
    for size, shaped in sizes.items():
        matrices = {name: shape.numel() for name, shape in parameter_shapes(shaped).items() if len(shape) == 2}
        in_mlp = sum(count for name, count in matrices.items() if ".mlp." in name)
        in_attention = sum(count for name, count in matrices.items() if ".attn." in name)
        expect(mlp_share(shaped), in_mlp / (in_mlp + in_attention), f"{size}, counted")

# %% [markdown]
# **3. Write a memory.** Given 24 keys of length 1 that point in different directions, and a value for each, set the weights of
# an MLP with 24 neurons and ReLU such that it answers a key with exactly its value, and anything unlike all keys with zero. No
# training. No two keys have a dot product above a half.


# %% tags=["starter"]
def remember(keys: Tensor, values: Tensor) -> MLP:
    """Return an MLP that maps each key "fact d_model" to its value "fact d_model"."""
    mlp = MLP(d_model=keys.shape[1], d_mlp=len(keys), act="relu")
    mlp.W_in.weight.data = keys.clone()
    return mlp


# %% [markdown] tags=["hint"]
# A key fits itself by 1, and another by a half at most. What threshold tells the two apart?

# %% [markdown] tags=["hint"]
# With a bias of minus a half the right neuron gives a half and all others 0. What factor, anywhere, makes a whole of it?

# %% [markdown] tags=["hint"]
# The values are the columns of `W_out.weight`, so it is `values.T`, here times 2. Do not forget `W_out.bias`.


# %% tags=["solution"]
def remember(keys: Tensor, values: Tensor) -> MLP:
    """Return an MLP that maps each key "fact d_model" to its value "fact d_model"."""
    mlp = MLP(d_model=keys.shape[1], d_mlp=len(keys), act="relu")
    mlp.W_in.weight.data, mlp.W_in.bias.data = keys.clone(), torch.full((len(keys),), -0.5)
    mlp.W_out.weight.data, mlp.W_out.bias.data = 2 * values.T, torch.zeros(values.shape[1])
    return mlp


# %% tags=["check"]
with checking("write a memory"):
    facts = torch.Generator().manual_seed(2)
    keys = nn.functional.normalize(torch.randn(24, 64, generator=facts), dim=-1)
    values = torch.randn(24, 64, generator=facts)
    assert (keys @ keys.T - torch.eye(24)).max() < 0.5
    memory = remember(keys, values)
    expect(memory(keys), values, "each key is answered with its value", tolerance=1e-4)
    strangers = nn.functional.normalize(torch.randn(50, 64, generator=facts), dim=-1)
    strangers = strangers[(strangers @ keys.T).amax(dim=-1) < 0.5]
    expect(memory(strangers), torch.zeros_like(strangers), "what is unlike all keys is answered with zero", tolerance=1e-4)

# %% [markdown]
# How many entries would fit? A neuron each is the safe way, not the only one: directions can share neurons, if few are needed
# at a time. That is [superposition](15_superposition.py).

# %% [markdown]
# ## Pitfalls
#
# - *"Why is there a `.T`?"* Torch keeps the matrix of a `Linear` as `out in`, so that each row belongs to one output, and computes
#   `x @ weight.T + bias`. In exercise 1 a forgotten `.T` raises an error, as the two sizes differ; in a square matrix, such as
#   `W_Q` of most models, it does not.
# - *"Is the MLP applied to each position separately?"* Yes, and the section above proves it by derivatives that are exactly 0.
#   That it is written as one product of matrices over all positions is for speed.
# - *"Then how can it know the context?"* Attention has put the context into the vector that it reads. The neuron of `sel` sees
#   one vector, in which earlier layers have noted the characters before.
# - *"Why four times as wide?"* The first transformer was, and it works. It is a choice: `stdlib-4l` has two times, gated MLPs
#   mostly 8/3, so that three matrices weigh as much as two did.
# - *"My logits differ from theirs in the third decimal."* Look at the activation first. `gelu` in place of `gelu_new` is a
#   small change in every neuron of every layer, and the cell shows what becomes of it.
# - *"So neuron 35 is the self neuron."* It helps `self` along, in this model, on this kind of text. A neuron often has several
#   unrelated jobs, and a job several neurons.

# %%
exact = Transformer(lm.config.replace(act="gelu"))
exact.load_state_dict(lm.model.state_dict())
with torch.no_grad():
    change = (exact(tokens) - lm.model(tokens)).abs().max().item()
assert 1e-4 < change < 1
print(f"gelu in place of gelu_new moves some logit by {change:.4f}")
expect(ACTIVATIONS["gelu"](torch.tensor(1.0)), 0.5 * (1 + math.erf(1 / math.sqrt(2))), "gelu(1) is the probability of less than 1")

# %% [markdown]
# ## Read on
#
# Where the MLP writes to: [the residual stream](05_residual_stream.py). Its gradients by hand:
# [backpropagation](07_backpropagation.py), and in short form in the [theory guide](../docs/theory.md). How to ask what a part
# does without the trap of the prediction: [attribution and patching](13_attribution_and_patching.py). Geva et al. 2021 (arXiv
# 2012.14913) read MLPs as key-value memories, which the library reproduces as `cutaway reproduce feed-forward-memories`;
# Shazeer 2020 (arXiv 2002.05202) has the gated kinds.
