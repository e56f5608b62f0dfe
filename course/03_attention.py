# %% [markdown]
# # Attention
#
# **How does one position of a text get to use what stands at another?**
#
# You need: the dot product of two vectors, and [embeddings and positions](02_embeddings_and_positions.py). Explains:
# [attention.py](../src/cutaway/model/attention.py), [masks.py](../src/cutaway/model/masks.py).

# %%
import math

import torch
from torch import Tensor

import cutaway
from cutaway import plots
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Attention, attend, causal_mask

# %% [markdown]
# ## The idea
#
# All other parts of a transformer treat each position by itself. Attention alone moves anything from one position to another.
# Each position asks a question, its *query*; each position carries a label that says what it has to offer, its *key*, and the
# offer itself, its *value*. The better a query fits a key, the more of that position's value is read. Query, key and value are
# three linear maps of the same vector, so what is asked, labelled and offered is learned.
#
# How well a query fits a key is their dot product. A softmax over all keys makes shares of these scores: they are positive, and
# their sum is 1. What a position reads is the average of the values, weighted by its shares.

# %% [markdown]
# ## The equation
#
# $$ \mathrm{attend}(q, k, v) = \mathrm{softmax}\!\left(\frac{q\,k^\top}{\sqrt{d_\mathrm{head}}}\right) v $$
#
# For $x$ of shape `pos d_model`, the residual stream, the three linear maps are $q = x W_Q$, $k = x W_K$ and $v = x W_V$, each of
# shape `pos d_head`. What is read, $z = \mathrm{attend}(q, k, v)$, is added to the stream as $z\, W_O$. A *head* is one such set of
# four matrices.
#
# With `q` of shape `q_pos d_head` and `k`, `v` of shape `k_pos d_head`, the scores are `q_pos k_pos`: a row for each position
# that asks, a column for each that is asked. The softmax goes along the row. In a language
# model the scores above the diagonal are $-\infty$, by the causal mask, which has a section below.

# %% [markdown]
# ## The code
#
# This is the whole of it in the library. A *hook* is a function that you may hand in to look at what has a name on the way, here
# `attn_scores` and `pattern` ([lesson 12](12_opening_the_model.py)). If nobody wants to look, the library calls torch's *fused*
# kernel instead: one routine that computes the same piece by piece, without ever holding the whole matrix of scores.

# %%
show(attend)

# %% [markdown]
# ## One head by hand
#
# Three positions, two dimensions. The queries and keys are such that position 2 asks for what position 0 offers.

# %%
q = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
k = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
v = torch.tensor([[10.0, 0.0], [0.0, 10.0], [5.0, 5.0]])
scores = q @ k.T / math.sqrt(2)
pattern = scores.softmax(dim=-1)
z = pattern @ v
expect(z, attend(q, k, v), "by hand as by the library")
say(f"""
The scores of position 2 are {scores[2, 0]:.2f}, {scores[2, 1]:.2f} and {scores[2, 2]:.2f}; the softmax makes
{pattern[2, 0]:.2f}, {pattern[2, 1]:.2f} and {pattern[2, 2]:.2f} of them, so it reads ({z[2, 0]:.2f}, {z[2, 1]:.2f}), nearly the
value of position 0. Position 0 asks nothing: its query is zero, every score is 0, and it reads the mean of all values.
""")

# %% [markdown]
# ## The causal mask
#
# A language model is trained to predict each token from those before it, all positions at once. Position 1 must not read
# position 2, which holds the answer. So the scores of later positions become $-\infty$ before the softmax, which makes their
# shares exactly 0 and leaves the sum of the others 1. Zeroing shares after the softmax would leave rows that do not sum to 1.

# %%
show(causal_mask)

# %%
masked = attend(q, k, v, "causal")
expect(masked[0], v[0], "the first position sees itself alone")
n_pos = pick(fast=16, full=64)
lm = cutaway.load("stdlib-4l")
text = "def __init__(self, name):\n    self.name = name\n"
tokens = lm.tokens(text[:n_pos])
logits, cache = cutaway.run_with_cache(lm.model, tokens, names="blocks.*.attn.pattern")
figure(
    plots.attention(
        cache["pattern", 0][0],
        tokens=[lm.text([token]) for token in tokens[0].tolist()],
        titles=[f"head {head}" for head in range(lm.config.n_heads)],
        title="Layer 0",
    ),
    "Where each head of layer 0 looks, rows asking and columns asked: nothing above the diagonal",
)

# %% [markdown]
# ## Predict
#
# Before you run the next cell: the entries of `q` and `k` are independent with variance 1. What is the variance of their dot
# product for `d_head` of 64, and what would a softmax of such scores over 32 keys look like, without and with the division by
# $\sqrt{64}$? Guess the largest share of a row in each case.

# %% tags=["prediction"]
generator = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 1000, 32, 64, generator=generator)
raw = q @ k.mT
bare, scaled = raw.softmax(dim=-1).amax(dim=-1).mean(), (raw / math.sqrt(64)).softmax(dim=-1).amax(dim=-1).mean()
expect(raw.var() / 64, 1.0, "the variance is d_head", tolerance=0.05)
say(f"""
The variance is {raw.var():.1f}: a sum of 64 products, each of variance 1. Without the division the largest of 32 shares is
{bare:.2f} on average, so the softmax is nearly a choice and passes hardly any gradient to the other keys; with it, {scaled:.2f}.
That is why scores are divided by $\\sqrt{{d_\\mathrm{{head}}}}$: how far they spread at the start of training does not depend on the
width of the head.
""")
expect(0.02 * math.sqrt(768), 0.55, "the size of GPT-2's queries before training", tolerance=0.01)

# %% [markdown]
# GPT-2's queries and keys begin smaller than in this example, with a size of about 0.55: see [the whole
# model](06_whole_model.py). The argument is about the width, and holds for any size.

# %% [markdown]
# ## Many heads
#
# One head has one pattern, so it can read from one place at a time for one reason. `Attention` cuts `d_model` into `n_heads`
# pieces of `d_head`; each head has its own queries, keys and values, and a last linear map `W_O` adds what they read into the
# residual stream. This costs as much as one head of full width, and no head sees another's pattern.
#
# Read the lines with `W_Q`, `W_K`, `W_V`, `transpose`, `attend` and, at the end, `_write`, which multiplies by `W_O` and adds up the
# heads. Of the rest, `rotation` is from [the lesson before](02_embeddings_and_positions.py), `extend_kv` belongs to [the KV
# cache](10_kv_cache.py), and `hooks` to [lesson 12](12_opening_the_model.py).

# %%
show(Attention.forward, start="q = hooks", stop="return F.dropout")

# %% [markdown]
# `n_kv_heads` may be smaller than `n_heads`: then groups of heads share keys and values, each with queries of its own, and the
# [KV cache](10_kv_cache.py) is smaller.

# %%
attn = Attention(d_model=32, n_heads=4)
x = torch.randn(1, 5, 32, generator=generator)
results: dict[str, Tensor] = {}
out = attn(x, mask="causal", hooks=cutaway.Hooks({"result": lambda result, name: results.update({name: result})}))
expect(results["result"].sum(dim=-2) + attn.W_O.bias, out, "the heads' results add up to the output")

# %% [markdown]
# ## Exercises
#
# **1. A mask.** Write the causal mask of `n_pos` positions: a boolean matrix `q_pos k_pos`, true where the query may look.


# %% tags=["starter"]
def mask_of(n_pos: int) -> Tensor:
    return ...


# %% [markdown] tags=["hint"]
# `torch.arange(n_pos)` as a column and as a row can be compared with each other.

# %% [markdown] tags=["hint"]
# A query may see a key where the query's position is greater than or equal to the key's.


# %% tags=["solution"]
def mask_of(n_pos: int) -> Tensor:
    pos = torch.arange(n_pos)
    return pos[:, None] >= pos[None, :]


# %% tags=["check"]
with checking("a mask"):
    expect(str(mask_of(3).dtype), "torch.bool", "the dtype of the mask")
    expect(mask_of(3), [[True, False, False], [True, True, False], [True, True, True]], "three positions")
    expect(mask_of(7), causal_mask(torch.arange(7), torch.arange(7)), "seven, as the library has it")

# %% [markdown]
# **2. Attention from scratch.** Write `attend_by_hand(q, k, v)` with the causal mask, of queries, keys and values `head pos
# d_head`, out of `@`, `masked_fill` and `softmax`.


# %% tags=["starter"]
def attend_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    return scores.softmax(dim=-1) @ v


# %% [markdown] tags=["hint"]
# Two steps are missing between the scores and the softmax.

# %% [markdown] tags=["hint"]
# Divide by `math.sqrt(q.shape[-1])`; then `scores.masked_fill(~mask_of(n_pos), -math.inf)`, with
# `torch.ones(...).tril().bool()` if you skipped the first exercise.


# %% tags=["solution"]
def attend_by_hand(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n_pos = q.shape[-2]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    mask = torch.ones(n_pos, n_pos).tril().bool()
    return scores.masked_fill(~mask, -math.inf).softmax(dim=-1) @ v


# %% tags=["check"]
with checking("attention from scratch"):
    q, k, v = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(1))
    expect(attend_by_hand(q, k, v), attend(q, k, v, "causal"), "as the library's attend")
    others = torch.randn(3, 2, 9, 5, generator=torch.Generator().manual_seed(2))
    expect(attend_by_hand(*others), attend(*others, "causal"), "with two heads of width 5 and nine positions")

# %% [markdown]
# **3. A head out of weights.** The stream tells each position where it stands: `x` is the unit matrix, `n_pos n_pos`. Set the
# weights of one head so that each position but the first reads the one before it. No training. (You have then written half of
# an [induction head](14_induction_heads.py).)


# %% tags=["starter"]
def one_back(n_pos: int) -> Attention:
    attn = Attention(d_model=n_pos, n_heads=1, bias=False)
    for weight in attn.parameters():
        weight.data = torch.eye(n_pos)
    return attn


# %% [markdown] tags=["hint"]
# With these weights position `p` asks for `p`, and position `p` offers `p`. Let position `p` offer `p + 1`.

# %% [markdown] tags=["hint"]
# `torch.eye(n_pos).roll(1, dims=0)`, as the weight of a linear layer, maps place `p` to place `p + 1`.

# %% [markdown] tags=["hint"]
# The share of that one key must be nearly 1: multiply the queries until the softmax is as good as a choice, and mind the
# division by the root.


# %% tags=["solution"]
def one_back(n_pos: int) -> Attention:
    attn = Attention(d_model=n_pos, n_heads=1, bias=False)
    for weight in attn.parameters():
        weight.data = torch.eye(n_pos)
    attn.W_Q.weight.data *= 20 * math.sqrt(n_pos)
    attn.W_K.weight.data = torch.eye(n_pos).roll(1, dims=0)
    return attn


# %% tags=["check"]
with checking("a head out of weights"):
    for n_pos in (3, 8, 30):
        x = torch.eye(n_pos)
        read = one_back(n_pos)(x, mask="causal")
        expect(read[1:], x[:-1], f"of {n_pos} positions, each but the first reads the one before", tolerance=1e-4)
        expect(read[0], x[0], "the first sees itself alone")

# %% [markdown]
# ## Pitfalls
#
# - *"Which axis does the softmax go along?"* The keys, the last. Along the queries the sum of each *column* would be 1, and no
#   error is raised: later positions would have a say in the shares of earlier ones.
# - *"I reshaped to heads and it trains badly."* `view(n_heads, pos, d_head)` of a `pos (head d_head)` tensor has the right shape
#   and mixes positions. Split the last axis, then transpose; the cell below shows both.
# - *"My own attention differs from torch's under a mask."* The boolean masks of `nn.MultiheadAttention` are true where a query
#   may *not* look; those of `scaled_dot_product_attention`, and of this library, where it may.
# - *"The pattern shows what the model uses."* It shows where a head reads, not what it reads there nor what becomes of it:
#   [attribution and patching](13_attribution_and_patching.py).
# - *"Why is there no mask in the flash-attention path?"* There is: `is_causal=True` tells the kernel to skip what lies above
#   the diagonal, and no matrix is needed. The cell below shows that both paths agree.
# - *"A row of my pattern is NaN."* A query that may see no key has no softmax: every score is $-\infty$. The library gives such
#   a query zero.
# - *"Dropout stands twice."* One drops shares of the pattern, the other parts of the sum that is added to the residual stream.
#   They are different places, and small models on little data want both.

# %%
joined = torch.arange(6).repeat_interleave(8).view(6, 8)  # pos (head d_head), every number says its position
right = joined.unflatten(-1, (2, 4)).transpose(0, 1)  # head pos d_head
expect(right[:, 3].unique(), [3], "split, then transposed: at position 3 there is position 3")
expect(joined.view(2, 6, 4)[:, 3].unique(), [1, 4], "by view alone: at position 3 of the heads there are positions 1 and 4")

# %%
attn = Attention(d_model=32, n_heads=4).eval()
x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(2))
explicit = attn(x, mask="causal", hooks=cutaway.Hooks({"pattern": lambda pattern, name: None}))
expect(attn(x, mask="causal"), explicit, "fused and explicit attention")
expect(attend(q, k, v, torch.zeros(6, 6, dtype=torch.bool)), torch.zeros_like(v), "a query that sees nothing reads zero")

# %% [markdown]
# ## Read on
#
# [The MLP](04_mlp.py), which works on each position alone. The pattern's place in the residual stream: [the residual
# stream](05_residual_stream.py). What heads learn to look for: [induction heads](14_induction_heads.py). The same
# in mathematics: [theory guide](../docs/theory.md). Vaswani et al. 2017 (arXiv 1706.03762) has the equation and the many heads.
