# %% [markdown]
# # The residual stream
#
# **Where does a model keep what it has found out so far?**
#
# You need: [attention](03_attention.py) and [the MLP](04_mlp.py), the two parts that write, and what a gradient
# is. For the section *Norm on the branch or on the trunk*, to have trained some network once: [training](08_training.py) comes
# later, and that section can wait until then. Explains: [block.py](../src/cutaway/model/block.py),
# [norms.py](../src/cutaway/model/norms.py), and of the tools
# [decomposition.py](../src/cutaway/interp/residual/decomposition.py) and
# [refactoring.py](../src/cutaway/interp/refactoring.py).

# %%
import inspect
import tarfile

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cutaway
from cutaway import Transformer, edits, plots, residual
from cutaway.experiments.characters import random_windows
from cutaway.interp.refactoring import centre_writing_weights, fold_norm
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Block, LayerNorm, RMSNorm
from cutaway.plots import LawPanel

# %% [markdown]
# ## The idea
#
# Every position has one vector of length `d_model`, from its embedding up to its logits. Attention and MLPs never replace it.
# They read it, compute something, and **add** the result. So the vector is a sum, and what was written once stays in it until
# something is added that cancels it. It is the only memory a position has, and the only channel by which layer 0 can tell layer
# 7 anything. Its name is the *residual stream*.
#
# What reads the stream wants numbers of a known size, and the stream grows as more is added. So each reader takes a copy
# through a *norm*, which sets the copy's length to $\sqrt{d_\mathrm{model}}$ (a learned gain comes after) and leaves the stream
# itself alone. That small choice, to put the norm on the branch and not on the trunk, makes deep models much easier to train.
# You will measure it.

# %% [markdown]
# ## The equation
#
# For a stream $x_\ell$ of shape `pos d_model` before layer $\ell$, with attention $a_\ell$ and MLP $m_\ell$:
#
# $$ x' = x_\ell + a_\ell(\mathrm{norm}(x_\ell)), \qquad x_{\ell+1} = x' + m_\ell(\mathrm{norm}(x')) $$
#
# Unrolled, the end is a sum over all that was ever written,
# $x_L = \mathrm{embed} + \sum_\ell (\text{attn out}_\ell + \text{mlp out}_\ell)$. The two usual norms, with a learned gain
# $\gamma$ and bias $\beta$ of shape `d_model`:
#
# $$
# \mathrm{LayerNorm}(x) = \frac{x - \bar{x}}{\sqrt{\mathrm{mean}((x - \bar{x})^2) + \epsilon}} \odot \gamma + \beta,
# \qquad \mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\mathrm{mean}(x^2) + \epsilon}} \odot \gamma
# $$
#
# The derivative of one layer is $I + J$, where $J$ is what the branches do. Through all layers it is the product
# $\prod_\ell (I + J_\ell)$: however small the $J_\ell$, the identity carries the gradient down to the embedding.

# %% [markdown]
# ## The code
#
# `Block.forward` computes `x + attn(ln1(x))` and ends with this:

# %%
show(Block.add_mlp)
show(LayerNorm.forward, start="wide =")
show(RMSNorm.forward)

# %% [markdown]
# ## Norms by hand

# %%
x = torch.tensor([1.0, 2.0, 3.0, 6.0])
centred = x - 3.0  # the mean
expect(centred.square().mean(), 3.5, "(4 + 1 + 0 + 9) / 4")
layer_normed, rms_normed = centred / 3.5**0.5, x / 12.5**0.5
expect(LayerNorm(d_model=4)(x), layer_normed, "LayerNorm")
expect(RMSNorm(d_model=4)(x), rms_normed, "RMSNorm: (1 + 4 + 9 + 36) / 4 is 12.5")
expect(RMSNorm(d_model=4)(centred), LayerNorm(d_model=4)(x), "LayerNorm is RMSNorm of what the mean was taken off")
expect([layer_normed.norm(), rms_normed.norm()], [2.0, 2.0], "both have the length sqrt(4)", tolerance=1e-4)
expect(LayerNorm(d_model=4)(1000 * x), LayerNorm(d_model=4)(x), "the size of x is gone, its direction stays", tolerance=1e-4)

# %% [markdown]
# A norm works on one position at a time and along `d_model`, never along the batch. Except for what it divides by it is linear,
# and the library uses that whenever it asks what a part contributed.

# %% [markdown]
# ## A sum, to the last digit
#
# `run_with_cache` runs the model and keeps every tensor on the way, under a name ([lesson 12](12_opening_the_model.py)).
# `decompose_resid` returns what was written to the stream, each part under its own. In float64 the parts of `stdlib-4l` add up to
# the stream after the last layer.

# %%
lm = cutaway.load("stdlib-4l")
model = Transformer(lm.config).double()
model.load_state_dict({name: weight.double() for name, weight in lm.model.state_dict().items()})
prompt = "    def name(self):\n        return sel"
tokens = lm.tokens(prompt)
_, cache = cutaway.run_with_cache(model, tokens)
parts = cache.decompose_resid()
expect(parts.total, cache["resid_post", -1], "the sum of the parts is the stream", tolerance=1e-13)
print(*parts.labels, sep=", ")

# %% [markdown]
# The unembedding is linear, and so is the last norm once what it divides by is known. So a *logit* is a sum of parts, too: each
# part's answer to the question how much of the next character it wrote. The text is `return sel`, and the character an `f`.

# %%
f = lm.tokenizer.encode("f")[0]
normed = cache.decompose_resid(apply_ln=True, pos=-1)
of_logit = normed.values[:, 0, 0] @ model.unembed.W_U.weight[f]
logits = model(tokens)
expect(of_logit.sum(), logits[0, -1, f], "the logit is the sum of what the parts say", tolerance=1e-12)
figure(
    plots.bars(of_logit.tolist(), labels=normed.labels, title="Who wrote the logit of f after return sel", label="logit"),
    "What each part of the stream adds to the logit of the right character: bars to the right speak for it, to the left against it; "
    "the last is the bias of the norm",
)

# %% [markdown]
# ## It grows
#
# What is added usually makes the stream longer. Here is its length by layer, averaged over texts, and the length of what each
# layer adds to it. A layer whose words are to be heard at the end has to write as loud as those before it, since the last norm
# divides them all by the same number.

# %%
text = inspect.getsource(tarfile).encode("ascii", "ignore").decode()
ids = torch.tensor([lm.tokenizer.encode(character)[0] for character in text if character in lm.tokenizer.characters])
rows = ids[: 64 * 64].view(64, 64)
grown = residual.stream(lm, rows)
figure(grown.figures()[0], "The length of the stream by layer, beside the length of what attention and the MLP of each layer add")
assert grown.mean_norms[-1] > 3 * grown.mean_norms[0]
assert bool((grown.mean_norms.diff() > 0).all())
first_mlp = grown.lengths[grown.parts.index("L0 mlp")]
at_first = grown.norms[-1, 0].item()
assert 0.8 < at_first / grown.mean_norms[-1] < 1.2
say(f"""
The stream is {grown.mean_norms[0]:.2f} long at the embedding and {grown.mean_norms[-1]:.2f} at the end. Most of it comes at once: the
MLP of layer 0 writes {first_mlp:.1f}, a new and louder word for the character and those before it. The picture leaves out the
first position, as in large models the stream is often many times as long there as elsewhere; here it is not, with {at_first:.1f}
at the end beside {grown.mean_norms[-1]:.1f}.
""")

# %% [markdown]
# ## Norm on the branch or on the trunk
#
# The first transformer had its norms on the trunk, after the addition: *post-norm*, $\mathrm{norm}(x + f(x))$. GPT-2 moved them
# onto the branches: *pre-norm*, $x + f(\mathrm{norm}(x))$. The library's blocks are pre-norm, and their parts can be put
# together in the other order.


# %%
def run(blocks: nn.ModuleList, x: Tensor, *, pre_norm: bool) -> Tensor:
    """Return the stream after blocks whose norms are on the branches, or else on the trunk."""
    for block in blocks:
        if pre_norm:
            x = block(x, mask="causal")
        else:
            x = block.ln1(x + block.attn(x, mask="causal"))
            x = block.ln2(x + block.mlp(x))
    return x


def new_blocks(n_layers: int, d_model: int, generator: torch.Generator) -> nn.ModuleList:
    """Return blocks whose matrices keep the size of what goes through, as in the first transformer."""
    blocks = nn.ModuleList(Block(d_model, n_heads=4) for _ in range(n_layers))
    for name, weight in blocks.named_parameters():
        if weight.ndim == 2:
            nn.init.xavier_normal_(weight, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    return blocks


# %% [markdown]
# Before any training: how large is the gradient of the last layer's weights, and what has the depth of the model to do with it?


# %%
def last_gradient(n_layers: int, seed: int, *, pre_norm: bool) -> float:
    """Return the norm of the gradient of the last W_out of a new model, for targets drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    blocks = new_blocks(n_layers, 64, generator)
    x, W_U = torch.randn(8, 16, 64, generator=generator), torch.randn(64, 50, generator=generator) / 8
    logits = LayerNorm(64)(run(blocks, x, pre_norm=pre_norm)) @ W_U
    F.cross_entropy(logits.flatten(0, 1), torch.randint(50, (128,), generator=generator)).backward()
    return blocks[-1].mlp.W_out.weight.grad.norm().item()


depths, seeds = pick(fast=(2, 4, 8, 16), full=(2, 4, 8, 16, 32, 64)), range(pick(fast=3, full=8))
gradients = {
    name: [sum(last_gradient(depth, seed, pre_norm=pre_norm) for seed in seeds) / len(seeds) for depth in depths]
    for name, pre_norm in {"pre-norm": True, "post-norm": False}.items()
}
figure(
    plots.laws(
        [
            LawPanel(
                title="Gradient of the last layer's W_out",
                x_label="number of layers",
                laws={
                    "pre-norm": (depths, [gradients["pre-norm"][0] * (depths[0] / depth) ** 0.5 for depth in depths]),
                    "post-norm": (depths, [gradients["post-norm"][0] for _ in depths]),
                },
                measured={name: (depths, values) for name, values in gradients.items()},
                write_y=lambda value: f"{value:.2g}",
                x_ticks={depth: str(depth) for depth in depths},
            )
        ],
        title="Before training",
    ),
    "Points are measured; lines through the first point: 1 / sqrt(depth), and no change. Post-norm does not fall, here it rises",
)
assert gradients["pre-norm"][-1] < 0.6 * gradients["pre-norm"][0]
assert gradients["post-norm"][-1] > 0.8 * gradients["post-norm"][0]

# %% [markdown]
# With pre-norm the stream grows as more layers write to it, about as the square root of their number, and the last norm divides
# by that. So the last layer's weights get a gradient that shrinks with depth, just as their share of the stream does. With
# post-norm the last norm always divides by about the same, and the gradient near the output stays as large as in a shallow
# model, however many layers come before; here it is even larger. (The two lines in the picture are these two rules, drawn
# through the first point. Xiong et al. derive the first, and for post-norm a bound from above.) They blame the large gradients
# at the start for the trouble with post-norm, and the usual remedy is a slow *warm-up*, a learning rate that begins small. Here
# are both orders, from the same weights with the same rate, and post-norm with a warm-up over half of the steps, too.


# %%
def losses_of(n_steps: int, *, pre_norm: bool, n_warmup: int = 0, rate: float = 3e-3) -> list[float]:
    """Train 12 layers on code, and return the loss of every step."""
    generator = torch.Generator().manual_seed(1)
    blocks, ln_final = new_blocks(12, 32, generator), LayerNorm(32)
    W_E = nn.Parameter(torch.randn(lm.config.d_vocab, 32, generator=generator))
    W_U = nn.Parameter(torch.randn(32, lm.config.d_vocab, generator=generator) / 32**0.5)
    optimizer = torch.optim.AdamW([*blocks.parameters(), *ln_final.parameters(), W_E, W_U], lr=rate)
    losses = []
    for step in range(n_steps):
        inputs, targets = random_windows(ids, 16, 16, generator=generator)
        logits = ln_final(run(blocks, W_E[inputs], pre_norm=pre_norm)) @ W_U
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / (n_warmup + 1))
        optimizer.step()
        losses.append(loss.item())
    return losses


n_steps = pick(fast=90, full=1000)
learning = {
    "pre-norm": losses_of(n_steps, pre_norm=True),
    "post-norm": losses_of(n_steps, pre_norm=False),
    "post-norm, warm-up": losses_of(n_steps, pre_norm=False, n_warmup=n_steps // 2),
}
figure(
    plots.lines(
        {name: (list(range(n_steps)), plots.smoothed(losses)) for name, losses in learning.items()},
        title="12 layers learn to write code",
        x_label="step",
        y_label="nats a character",
    ),
    "The same weights, data and learning rate: with norms on the branches the loss falls on, on the trunk it lags, warm-up or not",
)
reached = {name: sum(losses[-10:]) / 10 for name, losses in learning.items()}
assert reached["pre-norm"] < min(reached["post-norm"], reached["post-norm, warm-up"]) - 0.2
assert abs(reached["post-norm, warm-up"] - reached["post-norm"]) < 0.3
say(f"""
After {n_steps} steps pre-norm is at {reached["pre-norm"]:.2f} nats, post-norm at {reached["post-norm"]:.2f}, and with a warm-up at
{reached["post-norm, warm-up"]:.2f}. In this small setting the warm-up alone hardly helps. A lower rate in a longer run helps more:
compare `losses_of(400, pre_norm=False, n_warmup=200)` with the same at `rate=1e-3`. With care post-norm models of two dozen layers do
learn, as BERT did. Pre-norm takes less care.
""")

# %% [markdown]
# ## Folding a norm away
#
# A norm's gain and bias are followed by a matrix, and a matrix takes them in:
# $W(\gamma \odot \hat{x} + \beta) = (W \odot \gamma)\,\hat{x} + W\beta$, where $W \odot \gamma$ multiplies each column of $W$.
# Afterwards the norm only divides, and a row of the matrix is what it seems to be. Nothing that the model computes has changed.
# The library does it when asked, and never behind your back. Here it is by hand for the first norm and the queries that read
# it:

# %%
folded = fold_norm(model)
ln1, W_Q = model.blocks[0].ln1, model.blocks[0].attn.W_Q
expect(folded.blocks[0].attn.W_Q.weight, W_Q.weight * ln1.weight, "the gain, one for each column", tolerance=1e-12)
expect(folded.blocks[0].attn.W_Q.bias, W_Q.bias + W_Q.weight @ ln1.bias, "the bias", tolerance=1e-12)
expect(folded(tokens), logits, "the same logits", tolerance=1e-11)
gains = [model.blocks[0].ln1.weight, folded.blocks[0].ln1.weight]
say(
    f"The gains of the first norm went from {gains[0].min():.2f} to {gains[0].max():.2f}; now all are {gains[1].unique().tolist()}."
)

# %% [markdown]
# ## Predict
#
# The model reads `return sel`. Before layer 2 (of 0 to 3), someone multiplies the whole stream by a million, and the run goes
# on. Before you run the cell: are the logits at the end a million times as large, the same as always, or something else?

# %% tags=["prediction"]
loud = cutaway.run_with_edits(model, tokens, [edits.scale("blocks.2.resid_pre", 1e6)])
early = model.unembed(cache["resid_pre", 2])
expect(loud, early, "the logits that the stream before layer 2 would give", tolerance=1e-3)
assert (loud - logits).abs().max() > 1
by_loud, by_model = (lm.text(each[0].argmax(dim=-1)) for each in (loud, logits))


def written(text: str) -> str:
    return text.replace(" ", "␣").replace("\n", "↵")


say(f"""
Something else. The size itself does not matter, as every reader has a norm: layer 2 reads what it always reads, and writes as loud
as always. But beside a stream of a million that is a whisper, and the last norm divides everything by a million. What comes out
is the answer that the model had *before layer 2*, as if the last two layers were not there. Here is the text, and under each of its
characters the one that was likeliest to come there, read before layer 2 and after all layers:

```
text            {written(prompt)}
before layer 2  {written(" " + by_loud[:-1])}
after layer 3   {written(" " + by_model[:-1])}
```

You have just invented the logit lens: read the stream early, through the last norm and the unembedding, and see what the model thinks
so far.
""")

# %% [markdown]
# ## Exercises
#
# **1. LayerNorm.** Write it from `mean`, `square`, `sqrt` and arithmetic, for any shape that ends in `d_model`.


# %% tags=["starter"]
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x "... d_model" normalised along its last axis."""
    centred = x - x.mean()
    return centred * gain + bias + eps


# %% [markdown] tags=["hint"]
# `x.mean(dim=-1, keepdim=True)` is the mean of each position, in a shape that can be subtracted.

# %% [markdown] tags=["hint"]
# `eps` stands under the root. Do not use `x.var()` with its defaults: it divides by one less than the number of values.


# %% tags=["solution"]
def layer_norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Return x "... d_model" normalised along its last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / scale * gain + bias


# %% tags=["check"]
with checking("LayerNorm"):
    drawn = torch.Generator().manual_seed(1)
    for d in (5, 8):
        x, gain, bias = torch.randn(2, 3, d, generator=drawn), torch.randn(d, generator=drawn), torch.randn(d, generator=drawn)
        expect(layer_norm(x, gain, bias), F.layer_norm(x, (d,), gain, bias), f"as torch has it for {d} coordinates")
    expect(layer_norm(x[0, 0], gain, bias), layer_norm(x, gain, bias)[0, 0], "each position by itself")
    expect(layer_norm(1e-4 * x, gain, bias), F.layer_norm(1e-4 * x, (8,), gain, bias), "with eps where it belongs")
    expect(layer_norm(x, gain, bias, 0.5), F.layer_norm(x, (8,), gain, bias, 0.5), "with eps 0.5")

# %% [markdown]
# **2. Who wrote the logit.** Given the parts of the stream at one position, `component d_model`, what the last norm divided by,
# its gain and bias, and a row `W_U` of the unembedding, return what each part adds to the logit and, as the last number, what
# the norm's bias adds. Their sum is to be the logit.


# %% tags=["starter"]
def logit_parts(parts: Tensor, scale: Tensor, norm: LayerNorm, W_U: Tensor) -> Tensor:
    """Return "component + 1": of each part, and of the norm's bias."""
    return torch.cat([parts @ W_U, norm.bias[:1]])


# %% [markdown] tags=["hint"]
# LayerNorm takes the mean off the stream. The mean of a sum is the sum of the means: take each part's own mean off.

# %% [markdown] tags=["hint"]
# Divide each by the one `scale`, multiply by the gain, then take the dot product with `W_U`. The bias is a part of its own.


# %% tags=["solution"]
def logit_parts(parts: Tensor, scale: Tensor, norm: LayerNorm, W_U: Tensor) -> Tensor:
    """Return "component + 1": of each part, and of the norm's bias."""
    centred = parts - parts.mean(dim=-1, keepdim=True)
    return torch.cat([centred / scale * norm.weight, norm.bias[None]]) @ W_U


# %% tags=["check"]
with checking("who wrote the logit"):
    at_end, scale = parts.values[:, 0, -1], cache["ln_final.scale"][0, -1]
    for character in "f.s":
        token = lm.tokenizer.encode(character)[0]
        found = logit_parts(at_end, scale, model.unembed.ln_final, model.unembed.W_U.weight[token])
        expect(found.shape, torch.Size([len(at_end) + 1]), "one number a part, and one for the bias")
        expect(found.sum(), logits[0, -1, token], f"the logit of {character!r}", tolerance=1e-9)
    found = logit_parts(at_end, scale, model.unembed.ln_final, model.unembed.W_U.weight[f])
    expect(found, of_logit, "part by part, for f", tolerance=1e-9)

# %% [markdown]
# **3. From LayerNorm to RMSNorm.** Newer models use RMSNorm. Turn `stdlib-4l`, which has LayerNorm, into a model with RMSNorm
# that computes *exactly* the same logits, without training. `fold_norm` and `centre_writing_weights` are there to be used; say
# to yourself why both are needed before you write.


# %% tags=["starter"]
def as_rmsnorm(model: Transformer) -> Transformer:
    """Return a model with norm="rmsnorm" that computes the same."""
    config = model.config.replace(norm="rmsnorm", norm_bias=False)
    return Transformer(config).double()


# %% [markdown] tags=["hint"]
# RMSNorm is LayerNorm of a stream whose mean is zero already, and it has no bias.

# %% [markdown] tags=["hint"]
# If all that is ever written to the stream has mean zero, so has the stream: that is what `centre_writing_weights` makes so.
# And `fold_norm` makes every norm's bias zero, so that it may be left out.

# %% [markdown] tags=["hint"]
# Take the `config` of the rewritten model, not the old one: folding has untied the embeddings and given more biases. Then load
# its `state_dict()` without the names that end in `ln1.bias`, `ln2.bias` and `ln_final.bias`.


# %% tags=["solution"]
def as_rmsnorm(model: Transformer) -> Transformer:
    """Return a model with norm="rmsnorm" that computes the same."""
    rewritten = centre_writing_weights(fold_norm(model))
    new = Transformer(rewritten.config.replace(norm="rmsnorm", norm_bias=False)).double()
    biases = ("ln1.bias", "ln2.bias", "ln_final.bias")
    new.load_state_dict({name: weight for name, weight in rewritten.state_dict().items() if not name.endswith(biases)})
    return new


# %% tags=["check"]
with checking("from LayerNorm to RMSNorm"):
    converted = as_rmsnorm(model)
    expect(converted.config.norm, "rmsnorm", "the norm of the new model")
    expect(converted(tokens), logits, "the logits", tolerance=1e-9)
    assert isinstance(converted.blocks[1].ln2, RMSNorm), f"its norms are {type(converted.blocks[1].ln2).__name__}, not RMSNorm"

# %% [markdown]
# ## Pitfalls
#
# - *"Is it pre-norm or post-norm?"* The figure in the first transformer's paper is post-norm, and GPT-2 and nearly all since
#   are pre-norm. Look at what is added to what: `x + f(norm(x))` is pre-norm.
# - *"Why is there one more norm before the unembedding?"* With norms on the branches nothing has ever normalised the stream
#   itself. `ln_final` does, for the last reader.
# - *"My LayerNorm differs from torch's a little."* The variance: torch's `var` divides by `n - 1` unless told otherwise, and
#   norms divide by `n`. In 4 dimensions that is much, in hundreds it looks like rounding and is not.
# - *"A part of the stream is large, so it is important."* Not for a reader whose matrix does not look in its direction, and not
#   after the mean is taken off. Ask how much it adds along a direction that is read, as in exercise 2.
# - *"I divided each part by its own size and the sum is wrong."* The norm divides the sum, once. All parts have to be divided
#   by what it divided by in the run, the recorded `ln_final.scale`.

# %%
x = torch.tensor([1.0, 2.0, 3.0, 6.0])
wrong, right = (x - x.mean()) / x.std(), (x - x.mean()) / x.std(unbiased=False)
expect(right, LayerNorm(d_model=4)(x), "divided by n")
print(f"divided by n - 1, the length is {wrong.norm():.2f}, and should be {right.norm():.2f}")

own = cache.apply_ln(parts, scale="own").total
recorded = cache.apply_ln(parts, scale="recorded").total
expect(recorded, cache["ln_final.normalized"], "parts divided by what the norm divided by", tolerance=1e-12)
assert (own - recorded).abs().max() > 0.1

# %% [markdown]
# ## Read on
#
# All parts together: [the whole model](06_whole_model.py). The derivations: [theory guide](../docs/theory.md). What else can be
# read off the stream: [opening the model](12_opening_the_model.py) and [attribution](13_attribution_and_patching.py). Elhage et
# al. 2021, *A Mathematical Framework for Transformer Circuits*, made the stream the centre of the picture; Xiong et al. 2020
# (arXiv 2002.04745) derived the gradients that you measured; Zhang and Sennrich 2019 (arXiv 1910.07467) have RMSNorm.
