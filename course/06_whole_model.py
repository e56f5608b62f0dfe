# %% [markdown]
# # The whole model
#
# **What stands between a text and the probabilities of its next token, and what does each part of it cost?**
#
# You need: [attention](03_attention.py), [the MLP](04_mlp.py) and [the residual stream](05_residual_stream.py). Explains:
# [transformer.py](../src/cutaway/model/transformer.py), [block.py](../src/cutaway/model/block.py),
# [costs.py](../src/cutaway/costs.py), [flops.py](../src/cutaway/flops.py).

# %%
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway import ModelConfig, Transformer, plots
from cutaway.costs import attention_flops, n_parameters
from cutaway.flops import forward_flops, layer_flops
from cutaway.hooks import recording
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Block, Embedding, Unembedding

# %% [markdown]
# ## The idea
#
# Three moves, and no fourth. *Embed*: look up one vector for each token and add one for its position. *Run the blocks*: each of
# them reads the vectors, and adds what its attention and then its MLP has to say. *Unembed*: compare each vector with one
# vector for every token of the vocabulary; the dot products are the logits.
#
# Between the first move and the last there is one tensor, the residual stream, a row of `d_model` numbers for each position.
# Its shape never changes, which is why any number of blocks can stand in a row, and why you can stop after any of them and
# unembed.

# %% [markdown]
# ## The equation
#
# $$
# \begin{aligned}
# x_0 &= W_E[t] + W_\mathrm{pos} \\
# x'_l &= x_l + \mathrm{attn}_l(\mathrm{ln1}_l(x_l)), \qquad x_{l+1} = x'_l + \mathrm{mlp}_l(\mathrm{ln2}_l(x'_l)) \\
# \mathrm{logits} &= \mathrm{ln}_\mathrm{final}(x_L)\, W_U^\top, \qquad p(t_{i+1} \mid t_{\le i}) = \mathrm{softmax}(\mathrm{logits}_i)
# \end{aligned}
# $$
#
# Tokens `t` are `pos` whole numbers; `W_E` is `d_vocab d_model`, and all `x` are `pos d_model`; the logits are `pos d_vocab`.
# So one pass makes a prediction at *every* position, each from the tokens up to there: a text of `n` tokens is `n - 1` tasks to
# learn from, as nothing comes after the last.

# %% [markdown]
# ## The code
#
# The whole forward pass in the library is these three calls.

# %%
show(Transformer.forward, start="resid = self.embed", stop="logits: Tensor")

# %%
show(Embedding.forward, start='resid = hooks("embed"', stop="return F.dropout")
show(Block.add_mlp)
show(Unembedding.forward)

# %% [markdown]
# ## Three parts, each alone
#
# As the stream keeps its shape, it can be carried through some of the blocks, looked at, and carried on. The parts put together
# are the model, and so are its blocks run in two stretches.

# %%
lm = cutaway.load("stdlib-4l")
model, config = lm.model, lm.config
tokens = lm.tokens("    def __init__(self, path):\n        self.path = ")
with torch.no_grad():
    start = model.embed(tokens)
    middle = model.run_blocks(start, range(2))
    end = model.run_blocks(middle, range(2, 4))
    logits = model(tokens)
    expect(model.unembed(end), logits, "the three parts are the model", tolerance=1e-4)
    guesses = [model.unembed(resid)[0, -1].softmax(-1).max(-1) for resid in (start, middle, end)]
shown = ", ".join(f"`{lm.text([int(token)])!r}` ({share:.0%})" for share, token in guesses)
say(f"""
This model of {config.n_layers} layers has read Python's standard library, character by character. After `self.path = ` it expects,
if it is unembedded after no block, after two, and after four: {shown}. Without a block it can only repeat what it reads: where the
embedding is the unembedding too, a vector is most like itself.
""")

# %% [markdown]
# ## A shape at every name
#
# Every tensor on the way has a name, and a recorder keeps them all. Two texts of seven tokens, a model of two layers: look for
# the axis `pos` in each shape, and for the only two names in which it stands twice.

# %%
small = ModelConfig(d_vocab=50, n_ctx=16, n_layers=2, n_heads=4, d_model=32)
hooks, seen = recording("*")
Transformer(small)(torch.zeros(2, 7, dtype=torch.long), hooks=hooks)
rows = [f"| `{name}` | `{' '.join(map(str, x.shape))}` |" for name, x in seen.items() if not name.startswith("blocks.1")]
say("| name | shape |\n|---|---|\n" + "\n".join(rows))
twice = {name.rsplit(".", 1)[-1] for name, x in seen.items() if x.shape.count(7) == 2}
expect(twice, {"attn_scores", "pattern"}, "the names in which pos stands twice, of all layers")

# %% [markdown]
# ## What it takes: parameters
#
# A block of GPT-2's shape has four matrices `d_model d_model` in attention, and two of `d_model` by `4 d_model` in the MLP:
# $4d^2 + 8d^2 = 12 d^2$. Biases and norms add $13 d$. The embeddings add $(d_\mathrm{vocab} + n_\mathrm{ctx})\, d$, the last
# norm $2d$, and the unembedding nothing, as it is the embedding once more.
#
# $$ N = (d_\mathrm{vocab} + n_\mathrm{ctx})\, d + n_\mathrm{layers}\,(12 d^2 + 13 d) + 2 d $$
#
# The library counts by building the model on torch's meta device, where tensors have shapes and no memory. `gpt2-xl` costs
# nothing there.

# %%
SIZES = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
parts: dict[str, list[float]] = {"embeddings": [], "attention": [], "MLPs": []}
counted = []
for name in SIZES:
    shape = ModelConfig.preset(name)
    d, n_layers = shape.d_model, shape.n_layers
    by_formula = (shape.d_vocab + shape.n_ctx) * d + n_layers * (12 * d**2 + 13 * d) + 2 * d
    expect(by_formula, n_parameters(shape), f"the parameters of {name}", tolerance=0)
    counted.append(f"{name} {by_formula:,}")
    for part, n in zip(parts, [(shape.d_vocab + shape.n_ctx) * d, 4 * d**2 * n_layers, 8 * d**2 * n_layers], strict=True):
        parts[part].append(n / by_formula)
say(f"""
{"; ".join(counted)}. Of the smallest, {parts["embeddings"][0]:.0%} are embeddings, of the largest {parts["embeddings"][-1]:.0%}; of
each, two thirds of what is in the blocks is in the MLPs. (The paper of 2019 says 117 million for the smallest;
its authors corrected that later.)
""")
widths = [ModelConfig.preset(name).d_model for name in SIZES]
figure(
    plots.lines(
        {part: (widths, shares) for part, shares in parts.items()},
        title="Where the parameters are",
        x_label="d_model",
        y_label="share",
    ),
    "Shares of all parameters in the four sizes of GPT-2: the vocabulary matters less and less, and the MLPs most",
)

# %% [markdown]
# ## What it takes: operations
#
# A product of a vector with a matrix multiplies each number of the matrix once and adds once. So each parameter in a matrix
# costs two operations a token: about $2N$ for a whole pass. (A look-up in `W_E` costs none, but the same matrix works as `W_U`
# at the end.) Gradients need two products more for each of these, so training costs $6N$ a token, which [the next
# lesson](07_backpropagation.py) derives.
#
# One cost is in no parameter: queries times keys, and patterns times values. Each takes $2 n\, d_\mathrm{model}$ a layer for a
# token that sees `n` keys, so $4\, n\, d_\mathrm{model}\, n_\mathrm{layers}$ in all. Torch can count the operations of a real
# run:

# %%
show(layer_flops)

# %%
with FlopCounterMode(display=False) as counter:
    model(tokens, hooks={"blocks.*.attn.pattern": lambda pattern, name: None})  # explicit, as fused kernels are not counted
expect(counter.get_total_flops(), forward_flops(config, tokens.shape[1]), "operations by torch's count", tolerance=0)

gpt2 = ModelConfig.preset("gpt2")
lengths = list(range(128, 8193, 128))
of_blocks = gpt2.n_layers * 24 * gpt2.d_model**2
figure(
    plots.lines(
        {
            "blocks' matrices": (lengths, [of_blocks / 1e6] * len(lengths)),
            "unembedding": (lengths, [2 * gpt2.d_model * gpt2.d_vocab / 1e6] * len(lengths)),
            "attention": (lengths, [attention_flops(gpt2, n) / n / 1e6 for n in lengths]),
        },
        title="What a token costs GPT-2",
        x_label="tokens that it is compared with",
        y_label="million operations",
    ),
    "Operations for each token against the length of the text: only attention's products grow, and overtake the rest at last",
)
at_context, whole = attention_flops(gpt2, 1024) / 1024, forward_flops(gpt2, 1024) / 1024
equal = of_blocks / (4 * gpt2.d_model * gpt2.n_layers)
expect(equal, 6 * gpt2.d_model, "where attention costs as much as the matrices of the blocks")
say(f"""
At its full context of 1,024 tokens, GPT-2 does {whole / 1e6:.0f} million operations a token; $2N$ is
{2 * n_parameters(gpt2) / 1e6:.0f}, and attention's products are {at_context / whole:.0%} of the whole. They catch up with the
matrices of the blocks at `n = 6 * d_model`, {equal:,.0f} tokens, whatever the number of layers: that attention is quadratic is true,
and for short texts of little account. (This counts the half above the diagonal too, as the explicit code computes it and throws it
away. A fused kernel skips it, and then the text has to be twice as long.)
""")

# %% [markdown]
# ## How it begins: the scale of the weights
#
# A vector of `d` numbers of size 1, times a matrix with entries of standard deviation $\sigma$, has entries of size
# $\sigma \sqrt{d}$. GPT-2 takes $\sigma = 0.02$ throughout, so at `d_model` of 768 that is 0.55, and of the order of 1 for
# widths of hundreds and thousands. The matrices that write into the stream are an exception. The stream is a sum of
# $2\, n_\mathrm{layers}$ such writes, at the start as good as independent, so their *variances* add up. Divided by
# $\sqrt{2\, n_\mathrm{layers}}$ each, the sum is as large as one, whatever the depth.

# %%
show(Transformer.init_weights, start="writing = ", stop="weight.normal_(std=writing")

# %%
expect(0.02 * math.sqrt(768), 0.55, "the size of a product", tolerance=0.01)


def sizes_of_stream(n_layers: int, *, is_scaled: bool) -> list[float]:
    """Return the root mean square of the stream before each block and after the last, in a model just drawn."""
    generator = torch.Generator().manual_seed(0)
    fresh = Transformer(ModelConfig(d_vocab=500, n_ctx=32, n_layers=n_layers, n_heads=4, d_model=256), generator=generator)
    hooks, seen = recording("blocks.*.resid_pre", f"blocks.{n_layers - 1}.resid_post")
    with torch.no_grad():
        for block in fresh.blocks:
            for weight in () if is_scaled else (block.attn.W_O.weight, block.mlp.W_out.weight):
                weight.mul_(math.sqrt(2 * n_layers))
        fresh(torch.randint(500, (4, 32), generator=generator), hooks=hooks)
    return [x.square().mean().sqrt().item() for x in seen.values()]


depths = pick(fast=(6, 24), full=(6, 24, 96))
growth = {
    f"{depth} layers, {'scaled' if is_scaled else 'not scaled'}": sizes_of_stream(depth, is_scaled=is_scaled)
    for is_scaled in (False, True)
    for depth in depths
}
figure(
    plots.lines(
        {name: (list(range(len(sizes))), sizes) for name, sizes in growth.items()},
        title="How large the stream is before anything is learned",
        x_label="blocks done",
        y_label="root mean square",
    ),
    "With writes scaled by the depth, streams of any depth end equally large; without, the deeper the larger",
)
ends = {name: sizes[-1] for name, sizes in growth.items()}
few, many = (ends[f"{depth} layers, scaled"] for depth in depths[:2])
expect(many / few, 1.0, "scaled, the depth does not matter", tolerance=0.05)
few, many = (ends[f"{depth} layers, not scaled"] for depth in depths[:2])
expect(many / few, 2.0, "not scaled, four times the blocks write twice as much", tolerance=0.05)

# %% [markdown]
# ## One matrix, twice: tied embeddings
#
# In GPT-2 the matrix that reads tokens is the matrix that writes them. That saves `d_vocab d_model` parameters, in GPT-2 small
# nearly a third of all. Its gradient is the sum of what both places ask for: untie the two, and the gradients add up to the
# tied one.

# %%
tied = Transformer(small, generator=torch.Generator().manual_seed(0)).double()
untied = Transformer(small.replace(tie_embeddings=False)).double()
untied.load_state_dict(tied.state_dict())
text = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(1))
for each in (tied, untied):
    F.cross_entropy(each(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten()).backward()
read, written = untied.embed.W_E.grad, untied.unembed.W_U.weight.grad
expect(tied.embed.W_E.grad, read + written, "the gradient of the tied matrix is the sum of both", tolerance=1e-12)
assert tied.unembed.W_U.weight is tied.embed.W_E
n_rows_read, n_rows_written = ((grad.abs().sum(-1) > 0).sum().item() for grad in (read, written))
say(f"""
Of the 50 tokens, {n_rows_read} are read in these two texts, and only their rows get a gradient as embeddings; as unembeddings all
{n_rows_written} do, those that never occur too: they are pushed away.
""")

# %% [markdown]
# ## Predict
#
# Before you run the next cell: a model that knows nothing gives each of `d_vocab` tokens the same probability, and loses
# $\ln d_\mathrm{vocab}$ nats: for GPT-2's 50,257 tokens 10.82. What does a GPT-2 whose weights have just been drawn lose on
# random tokens: this, less, or more? By how much?

# %% tags=["prediction"]
fresh = Transformer(ModelConfig.preset("gpt2", n_layers=pick(fast=1, full=12)), generator=torch.Generator().manual_seed(0))
random_text = torch.randint(50_257, (4, 129), generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    logits = fresh(random_text[:, :-1])
first_loss = F.cross_entropy(logits.flatten(0, 1), random_text[:, 1:].flatten()).item()
expect(math.log(50_257), 10.82, "ln d_vocab", tolerance=0.001)
foretold = math.log(50_257) + 0.02**2 * 768 / 2
expect(first_loss, foretold, "the first loss", tolerance=0.005)
say(f"""
More: {first_loss:.2f}, of which {foretold:.2f} could be foretold. The last norm makes the square of each vector's length `d_model`,
so the logits are spread with variance `0.02**2 * d_model`, here {0.02**2 * 768:.2f} (measured: {logits.var():.2f}). The loss is
ln(sum of exp(logits)) less the right token's logit. That logit is 0 on average; but the mean of exp(logit) is exp(variance / 2). So
the first loss is ln(d_vocab) + variance / 2: opinions without knowledge cost half their variance. A first loss far above this says
that the weights were drawn too large; one far below, that the targets leak into the inputs. (A little below is usual on text with
repeats: a tied model begins by repeating.)
""")
del fresh, logits

# %% [markdown]
# ## Exercises
#
# **1. Count.** Write `count(config)`, the parameters of a model like GPT-2 whose embeddings may be tied or not, and whose
# `d_mlp` need not be four times `d_model`.


# %% tags=["starter"]
def count(config: ModelConfig) -> int:
    d = config.d_model
    return config.d_vocab * d


# %% [markdown] tags=["hint"]
# A linear map from `m` to `n` has `m * n` weights and `n` biases; a LayerNorm has two vectors of `d_model`. The unembedding has
# no bias.

# %% [markdown] tags=["hint"]
# Attention is four maps from `d` to `d`, the MLP one from `d` to `config.d_mlp` and one back, and a block has two norms. Then
# there are `config.n_ctx` vectors for positions, the last norm, and `d_vocab * d` once more if `config.tie_embeddings` is
# false.


# %% tags=["solution"]
def count(config: ModelConfig) -> int:
    d, d_mlp = config.d_model, config.d_mlp
    attention = 4 * (d * d + d)
    mlp = d * d_mlp + d_mlp + d_mlp * d + d
    block = attention + mlp + 2 * 2 * d
    n_vocabularies = 1 if config.tie_embeddings else 2
    return (n_vocabularies * config.d_vocab + config.n_ctx) * d + config.n_layers * block + 2 * d


# %% tags=["check"]
with checking("count"):
    one_change: list[dict[str, int]] = [{}, {"n_layers": 3}, {"d_mlp": 1000}, {"n_ctx": 77}, {"d_vocab": 99}]
    for change in [*one_change, {"tie_embeddings": False}]:
        shape = gpt2.replace(**change)
        expect(count(shape), n_parameters(shape), f"GPT-2 with {change or 'no change'}", tolerance=0)
    expect(count(small), n_parameters(small), f"a model of d_model {small.d_model}", tolerance=0)

# %% [markdown]
# **2. Unembed early.** Write `early_logits(model, tokens, n_blocks)`: the logits that the model would give if it ended after
# `n_blocks` blocks. This is the logit lens of [a later lesson](12_opening_the_model.py), and three lines.


# %% tags=["starter"]
def early_logits(model: Transformer, tokens: Tensor, n_blocks: int) -> Tensor:
    return model(tokens)


# %% [markdown] tags=["hint"]
# The three parts of the model are `embed`, `run_blocks` and `unembed`; the second takes a `range` of layers.

# %% [markdown] tags=["hint"]
# `run_blocks(resid, range(0))` does nothing, so no special case is needed for no blocks.


# %% tags=["solution"]
def early_logits(model: Transformer, tokens: Tensor, n_blocks: int) -> Tensor:
    resid = model.embed(tokens)
    resid = model.run_blocks(resid, range(n_blocks))
    return model.unembed(resid)


# %% tags=["check"]
with checking("unembed early"):
    for n_blocks in range(config.n_layers + 1):
        hooks, seen = recording("blocks.*.resid_post", "embed")
        model(tokens, hooks=hooks)
        stream = seen["embed"] if n_blocks == 0 else seen[f"blocks.{n_blocks - 1}.resid_post"]
        expect(early_logits(model, tokens, n_blocks), model.unembed(stream), f"after {n_blocks} blocks", tolerance=1e-4)

# %% [markdown]
# **3. The whole GPT.** Write it, out of tensors alone: `gpt(tokens, weights, n_heads, act)` returns the logits `pos d_vocab` of
# one text. `weights` is `dict(model.named_parameters())`, whose names the next cell lists; a linear layer's weight is stored
# `out in`, so it is `x @ weight.mT + bias`. Forty lines are enough. Where the unembedding is tied, `weights` has no
# `unembed.W_U.weight`.
#
# The check draws models of GPT-2's kind, from no block to three, and compares all logits. Then your function runs a trained
# model, `greater-than`, on a sentence about a war that began in the year '32: it must say that the war ended later. Ask it
# about wars of your own.

# %%
for name, weight in Transformer(small.replace(n_layers=1)).named_parameters():
    print(f"{name:28} {' '.join(map(str, weight.shape))}")

# %% tags=["starter"]
Weights = dict[str, Tensor]
Act = Callable[[Tensor], Tensor]


def gpt(tokens: Tensor, weights: Weights, n_heads: int, act: Act) -> Tensor:
    x = weights["embed.W_E"][tokens] + weights["embed.pos_embed.W_pos"][: len(tokens)]
    return x @ weights["embed.W_E"].mT


# %% [markdown] tags=["hint"]
# Write four small functions first: `linear(x, weights, name)`, `layer_norm(x, weights, name)`,
# `attention(x, weights, name, n_heads)` and `mlp(x, weights, name, act)`, where `name` is a prefix such as `"blocks.0.attn"`.
# The number of blocks is how often a name ends in `ln1.weight`.

# %% [markdown] tags=["hint"]
# LayerNorm subtracts the mean of the last axis, divides by `(x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()`, then
# multiplies by its weight and adds its bias.

# %% [markdown] tags=["hint"]
# In attention, `q.unflatten(-1, (n_heads, -1)).transpose(0, 1)` makes `head pos d_head` of `pos (head d_head)`. Scores above
# the diagonal become `-math.inf`. At the end `z.transpose(0, 1).flatten(1)` puts the heads side by side again for `W_O`.


# %% tags=["solution"]
Weights = dict[str, Tensor]
Act = Callable[[Tensor], Tensor]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].mT + weights[f"{name}.bias"]


def layer_norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x: Tensor, weights: Weights, name: str, n_heads: int) -> Tensor:
    q, k, v = (
        linear(x, weights, f"{name}.{matrix}").unflatten(-1, (n_heads, -1)).transpose(0, 1) for matrix in ("W_Q", "W_K", "W_V")
    )
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    is_later = torch.ones(len(x), len(x)).triu(1).bool()
    pattern = scores.masked_fill(is_later, -math.inf).softmax(-1)
    z = (pattern @ v).transpose(0, 1).flatten(1)
    return linear(z, weights, f"{name}.W_O")


def mlp(x: Tensor, weights: Weights, name: str, act: Act) -> Tensor:
    return linear(act(linear(x, weights, f"{name}.W_in")), weights, f"{name}.W_out")


def gpt(tokens: Tensor, weights: Weights, n_heads: int, act: Act) -> Tensor:
    x = weights["embed.W_E"][tokens] + weights["embed.pos_embed.W_pos"][: len(tokens)]
    for layer in range(sum(name.endswith("ln1.weight") for name in weights)):
        block = f"blocks.{layer}"
        x = x + attention(layer_norm(x, weights, f"{block}.ln1"), weights, f"{block}.attn", n_heads)
        x = x + mlp(layer_norm(x, weights, f"{block}.ln2"), weights, f"{block}.mlp", act)
    x = layer_norm(x, weights, "unembed.ln_final")
    return x @ weights.get("unembed.W_U.weight", weights["embed.W_E"]).mT


# %% tags=["check"]
with checking("the whole GPT"), torch.no_grad():
    gelu_new = lambda x: F.gelu(x, approximate="tanh")  # noqa: E731
    text = torch.randint(50, (11,), generator=torch.Generator().manual_seed(2))
    kinds = {
        "no block": small.replace(n_layers=0, tie_embeddings=False),
        "one block": small.replace(n_layers=1, tie_embeddings=False),
        "one block, its heads of half the width": small.replace(n_layers=1, d_head=4),
        "three blocks, tied": small.replace(n_layers=3),
    }
    for what, kind in kinds.items():
        drawn, drawing = Transformer(kind), torch.Generator().manual_seed(kind.n_layers)
        for weight in drawn.parameters():
            weight.normal_(std=0.3, generator=drawing)  # biases and norms too
        found = gpt(text, dict(drawn.named_parameters()), kind.n_heads, gelu_new)
        expect(found, drawn(text[None])[0], f"the logits of a model with {what}", tolerance=1e-3)
    war = cutaway.load("greater-than")
    prompt = war.tokens("The war lasted from the year 17 32 to the year 17")[0]
    logits = gpt(prompt, dict(war.model.named_parameters()), war.config.n_heads, F.relu)
    expect(logits, war.model(prompt[None])[0], "the logits of a trained model", tolerance=1e-3)
    ended = int(war.text([int(logits[-1].argmax())]))
    assert ended > 32, f"the war began in the year 32 and would have ended in {ended}"

# %% [markdown]
# ## Pitfalls
#
# - *"Shall I apply the softmax before the loss?"* No: `cross_entropy` takes logits. A softmax of probabilities is nearly
#   uniform, so the model cannot become sure of anything, and nothing raises an error; the cell below shows the least loss that
#   is then left.
# - *"Why is the position embedding drawn differently from the token embedding?"* (minGPT's readers asked.) GPT-2's own code
#   does that: `W_pos` has half the standard deviation of `W_E`. The table in `init_weights` says so for every weight.
# - *"My logits differ from another library's by a constant."* That changes nothing: a softmax does not see what is added to all
#   of its inputs. Compare log-probabilities.
# - *"Does the model see the length of the text?"* No. The logits at a position are the same whatever stands after it, so one
#   pass over a text gives what `n` passes over its beginnings would.

# %%
perfect = torch.full((1, 100), -1e4)
perfect[0, 7] = 1e4
target = torch.tensor([7])
expect(F.cross_entropy(perfect, target), 0.0, "logits: no loss is left")
least = F.cross_entropy(perfect.softmax(-1), target)
expect(least, math.log(math.e + 99) - 1, "probabilities as logits: much is left, of a vocabulary of 100")
say(f"A perfect model of 100 tokens still loses {least:.2f} nats if its probabilities are taken for logits.")
with torch.no_grad():
    expect(model(tokens[:, :9]), model(tokens)[:, :9], "what comes later changes nothing", tolerance=1e-4)
    log_probs = model(tokens).log_softmax(-1)
    expect((model(tokens) + 5).log_softmax(-1), log_probs, "a constant changes nothing", tolerance=1e-4)

# %% [markdown]
# ## Read on
#
# [Backpropagation](07_backpropagation.py): how each of these parameters learns which way to move. The same model in equations
# with all shapes: [the theory guide](../docs/theory.md). GPT-2 is Radford et al. 2019, "Language Models are Unsupervised
# Multitask Learners"; $6N$ a token comes from Kaplan et al. 2020, arXiv 2001.08361.
