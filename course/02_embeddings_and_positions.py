# %% [markdown]
# # Embeddings and positions
#
# **How does a model know which token stands where?**
#
# You need: [text to tokens](01_text_to_tokens.py), the product of two matrices, sine and cosine. Explains:
# [positions.py](../src/cutaway/model/positions.py), `Embedding` in [transformer.py](../src/cutaway/model/transformer.py), and
# of [block.py](../src/cutaway/model/block.py) what it does with positions.

# %%
import inspect
import math
import tarfile

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway import ModelConfig, Transformer, plots
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import Attention, Block, Embedding, LearnedPositions, Rotary, SinusoidalPositions, attend
from cutaway.model.positions import Rotation

torch.manual_seed(0)  # weights
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## The idea
#
# A token is a number without meaning: id 8 is not twice id 4. So the first thing a model does is to look up a vector for each
# id, a row of a learned table `W_E`, its *embedding*. From here on everything is vectors of length `d_model`, one for each
# position: the residual stream.
#
# The next step, attention, is a sum over positions, and a sum does not know the order of its terms. "dog bites man" and "man
# bites dog" have the same terms. The order has to be put in, and there are two good places for it. Either each position's
# vector gets something added that says where it stands, before anything else happens. Or positions stay out of the vectors, and
# the *comparison* of two positions is changed by how far apart they are.
#
# There is a third place, which is easily overlooked, and you will find it in the prediction below.
#
# One thing about attention, which the [next lesson](03_attention.py) builds: each position makes a *query*, a *key* and a
# *value*, three vectors of length `d_head`, out of its vector in the stream. The *score* of two positions is the dot product of
# the query of one and the key of the other. The scores become positive shares whose sum is 1 (by a *softmax*), and the position
# reads the average of the values by its shares. In a *causal* model a *mask* lets each position see itself and those before it
# alone. A *head* is one such set of queries, keys and values, and the *logits* are the scores of all tokens as the next one, at
# the end of the model.

# %% [markdown]
# ## The equation
#
# With `tokens` of shape `pos`, `W_E` of shape `d_vocab d_model` and `W_pos` of shape `n_ctx d_model`, the stream at position
# $p$ begins as
#
# $$ x_p = \mathrm{onehot}(t_p)\, W_E + W_\mathrm{pos}[p] $$
#
# where *learned* positions are a table like `W_E`, and *sinusoidal* ones are $\sin(p\,\theta_i)$ and $\cos(p\,\theta_i)$ for a
# few frequencies $\theta_i = b^{-2i/d}$. *Rotary* positions add nothing. They turn queries and keys by an angle proportional to
# the position, each pair of coordinates at its own frequency. Write $R_a$ for the turn of a pair by the angle $a$:
#
# $$ R_a \, (x, y) = (x \cos a - y \sin a,\; x \sin a + y \cos a) $$
#
# A dot product depends on two lengths and the angle between them, and turning both vectors changes none of these. So for one
# pair of a query $q$ at position $m$ and of a key $k$ at position $n$, turn both back by $m\theta$:
#
# $$ (R_{m\theta}\, q) \cdot (R_{n\theta}\, k) = q \cdot (R_{(n-m)\theta}\, k) $$
#
# Only the difference $n - m$ is left in the score.

# %% [markdown]
# ## The code
#
# A look-up, and a vector added where the model has some. (`hooks` shows what has a name to whoever wants to look, and returns it as
# it is: [lesson 12](12_opening_the_model.py). `F.dropout` acts in training alone.)

# %%
show(Embedding.forward, start="resid = hooks", stop="return")
show(SinusoidalPositions.forward)
show(Rotation.turn)
show(Rotary.rotation)

# %% [markdown]
# ## A row of a table
#
# Why is a look-up called a linear layer in some texts? A *one-hot* vector has a 1 at the token's place and 0 elsewhere, and its
# product with `W_E` is the token's row. The two are the same function; the look-up does not multiply by all the zeros.

# %%
W_E = torch.randn(6, 4, generator=generator)
tokens = torch.tensor([2, 5, 2])
one_hot = F.one_hot(tokens, num_classes=6).float()
print(one_hot)
expect(one_hot @ W_E, W_E[tokens], "a one-hot row times W_E is a row of W_E")

# %% [markdown]
# The rows are learned like all weights, and training has one reason to move them: tokens that are used alike get rows that
# point alike. These are the nearest rows in a small model of code, by the angle between them. Digits lie together, which nobody
# has told it. Rare characters lie together too, `Q` with `~` and `$`, for another reason. Here the table is also the one that
# predicts ([lesson 6](06_whole_model.py)), and all that hardly ever comes next is pushed away in the same direction.

# %%
lm = cutaway.load("stdlib-4l")
rows = F.normalize(lm.model.embed.W_E.detach(), dim=-1)
for character in "72qQ":
    place = lm.tokenizer.encode(character)[0]
    nearest = (rows @ rows[place]).topk(6).indices[1:].tolist()
    print(repr(character), "is near", "  ".join(repr(lm.text([token])) for token in nearest))
rare = [lm.tokenizer.encode(each)[0] for each in "QJYZ~$"]
assert (rows[rare] @ rows[rare].T).mean() > 0.5
assert (rows @ rows.T).mean() < 0.3

# %% [markdown]
# ## Attention cannot tell order
#
# Shuffle what goes into attention, and what comes out is shuffled in the same way and nothing else: each position reads the
# same average as before. The cell proves it to the last digits of float64. The MLP and the norms treat each position by itself,
# so in a whole model without positions and without a mask, what comes out at a position depends on its own token and on the
# *bag* of all others.

# %%
attn = Attention(d_model=32, n_heads=4).double()
x = torch.randn(9, 32, generator=generator, dtype=torch.float64)
shuffled = torch.randperm(9, generator=generator)
expect(attn(x[shuffled]), attn(x)[shuffled], "shuffled in, shuffled out", tolerance=1e-12)

# %% [markdown]
# ## Vectors that are added
#
# GPT-2 learns a vector for each of its 1,024 positions. Nothing tells it that position 5 is next to position 6: it has to find
# out, for every position, from texts that reach so far. The sinusoids need not be learned. Each pair of coordinates is the hand
# of a clock, the first fast, the last so slow that it hardly moves in a whole text; together they tell the time as hours,
# minutes and seconds do.

# %%
n_pos, d_model = 64, 16
table = SinusoidalPositions(d_model=d_model)(torch.arange(n_pos))
figure(
    plots.heatmap(
        table[:, 0::2].T.numpy(),
        rows=[str(pair) for pair in range(d_model // 2)],
        columns=[str(pos) for pos in range(n_pos)],
        title="The sines of sinusoidal positions",
        row_title="pair",
        column_title="position",
        signed=True,
    ),
    "Each row is one pair of coordinates over the positions: a fast wave on top, at the bottom ones that hardly move in a text",
)
products = (table @ table.T).numpy()
apart = [[float(products[m, m - distance]) for m in range(distance, n_pos)] for distance in range(n_pos)]
expect([max(each) for each in apart], [min(each) for each in apart], "products depend on the distance", tolerance=1e-4)

# %% [markdown]
# Because $\sin a \sin b + \cos a \cos b = \cos(a - b)$, the dot product of two positions depends on their distance alone,
# wherever they stand (though not on which comes first). The authors' own reason is the stronger form of the same: moving on by
# $k$ positions turns each pair by $k\,\theta_i$. That is a fixed matrix, so a head could learn "three back" once for all
# positions. Rotary positions, below, make such turns the whole of it.
#
# Added vectors have a price. They live in the same stream as the meaning, so values carry them too: what a head reads from a
# position is mixed with where it stood. `position="attention_only"` keeps learned vectors out of the stream and adds them to
# what queries and keys are made of; values stay clean. (`normed` is the stream after a norm, [lesson 5](05_residual_stream.py),
# and `qk_offset` the added vectors.)

# %%
show(Block.forward, start="q_in = k_in", stop="v_in = normed")

quiet = Transformer(ModelConfig(d_vocab=6, n_ctx=16, n_layers=2, n_heads=2, d_model=8, position="attention_only"))
_, cache = cutaway.run_with_cache(quiet, tokens[None], names="blocks.0.*")
expect(cache["resid_pre", 0][0], quiet.embed.W_E[tokens], "the stream begins with the embedding alone")
expect(cache["v", 0][0, 0], cache["v", 0][0, 2], "the same token has the same value at both positions")
assert not torch.allclose(cache["k", 0][0, 0], cache["k", 0][0, 2])

# %% [markdown]
# ## Rotary: only the difference counts
#
# Rotary positions go one step further and change nothing but the comparison. One query and one key, at all pairs of positions:
# the score is constant along the diagonals.

# %%
q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(4))
positions = torch.arange(12)
rotary = Rotary(d_head=8, base=100.0)
turned_q, turned_k = (rotary(each.expand(12, 1, 8), positions)[:, 0] for each in (q, k))  # pos head d_head -> pos d_head
scores = turned_q @ turned_k.T
expect(scores[1:, 1:], scores[:-1, :-1], "one position further on both sides, the same score", tolerance=1e-4)
expect(turned_q.norm(dim=-1), q.norm().expand(12), "turning keeps the length", tolerance=1e-4)
figure(
    plots.heatmap(
        scores.numpy(),
        rows=[str(pos) for pos in range(12)],
        columns=[str(pos) for pos in range(12)],
        title="Scores of one query and one key, wherever they stand",
        row_title="position of the query",
        column_title="position of the key",
        signed=True,
    ),
    "Every diagonal has one colour: the score depends on how far the key is from the query, and on nothing else",
)

# %% [markdown]
# It holds for positions that are far from the beginning, too, since nothing is absolute. And it holds when only a part of the
# coordinates turns, as in Phi-2, whose heads turn 32 of 80: the others compare content at any distance.

# %%
partial = Rotary(d_head=8, rotary_dim=4, base=100.0)
far, near = (partial(torch.stack([q, k])[:, None], torch.tensor([pos + 3, pos])) for pos in (5000, 0))
expect((far[0] * far[1]).sum(), (near[0] * near[1]).sum(), "distance 3, near and far", tolerance=1e-3)
expect(partial(q.expand(1, 1, 8), torch.tensor([99]))[0, 0, 4:], q[4:], "coordinates past rotary_dim stay")
phi2 = ModelConfig.preset("phi-2")
expect([phi2.rotary_dim, phi2.d_head], [32, 80], "what Phi-2 turns")

# %% [markdown]
# ## Past the context
#
# What happens at positions that a model has never seen? With learned vectors there is no row to look up, and the library says
# so. With rotary positions any number can be turned by, so it *runs*. Here a model that was trained on 64 positions reads 256
# of a module's source. Rotary positions have no weights, so a longer model can take the old weights as they are.

# %%
n_long = 256
text = inspect.getsource(tarfile).encode("ascii", "ignore").decode()
every = torch.tensor(
    [token for character in text if character in lm.tokenizer.characters for token in lm.tokenizer.encode(character)]
)
n_windows = pick(fast=60, full=400)
windows = every[: len(every) // (n_long + 1) * (n_long + 1)].view(-1, n_long + 1)[:n_windows]


def loss_by_position(mask: Tensor | None = None, **changes: float) -> Tensor:
    """Return the loss at each of the 256 positions, with some of the configuration changed."""
    model = Transformer(lm.config.replace(n_ctx=n_long, **changes)).eval()
    model.load_state_dict(lm.model.state_dict())
    with torch.no_grad():
        log_probs = model(windows[:, :-1], mask=mask).log_softmax(dim=-1)
    return -log_probs.gather(-1, windows[:, 1:, None])[..., 0].mean(dim=0)


expect(lm.config.n_ctx, 64, "positions in training")
distances = torch.arange(n_long)[:, None] - torch.arange(n_long)
losses = {
    "as it is": loss_by_position(),
    "slower rotation": loss_by_position(rotary_base=4 * lm.config.rotary_base),
    "the last 64 alone": loss_by_position(distances < 64),
}
smooth = {name: loss.view(-1, 16).mean(dim=-1).tolist() for name, loss in losses.items()}
figure(
    plots.lines(
        {name: (list(range(8, n_long, 16)), loss) for name, loss in smooth.items()},
        title="Loss of a model trained on 64 positions",
        x_label="position",
        y_label="nats a token",
    ),
    "Past the 64 positions of training the loss rises, unless rotation is slowed down or each position sees the last 64 alone (which "
    "is the model as it is up to there: two lines are one)",
)
before, after = losses["as it is"][32:64].mean(), losses["as it is"][192:].mean()
assert after > before + 0.5
assert abs(losses["the last 64 alone"][192:].mean() - before) < 0.3
assert losses["slower rotation"][192:].mean() < after - 0.5
assert 0 < losses["slower rotation"][32:64].mean() - before < 0.3
late = {name: f"{loss[192:].mean():.2f}" for name, loss in losses.items()}
say(f"""
From position 32 to 64 the loss is {before:.2f}, in the last quarter {after:.2f}: the model meets distances that it has never seen.
Where each position sees only the last 64, it is {late["the last 64 alone"]} however far the text goes on: rotary positions have no
absolute place, so that a distance seen in training is right everywhere. A larger base slows the slow pairs down, so that far
distances look like ones that were seen: {late["slower rotation"]} without cutting anything off, for a little more loss at the
beginning ({losses["slower rotation"][32:64].mean():.2f}). That is the idea behind long contexts of models that were trained on short
ones.
""")

# %% [markdown]
# ## Predict
#
# A *causal* model with no positions at all: `position="none"`, every position sees itself and those before. Shuffle all tokens
# but the last, and look at the prediction after the last. Before you run the cell: does it change in a model of one layer? And
# of two?


# %% tags=["prediction"]
def change_of_last(n_layers: int, *, is_causal: bool) -> float:
    """Return how far shuffling the tokens before the last moves its logits."""
    config = ModelConfig(d_vocab=20, n_ctx=16, n_layers=n_layers, n_heads=2, d_model=16, position="none", is_causal=is_causal)
    model = Transformer(config).double()
    model.init_weights(torch.Generator().manual_seed(1), std=0.3)
    tokens = torch.tensor([[3, 14, 15, 9, 2, 6, 5, 8]])
    shuffled = tokens[:, [6, 3, 0, 5, 1, 4, 2, 7]]
    return (model(tokens) - model(shuffled))[0, -1].abs().max().item()


one, two, bag = change_of_last(1, is_causal=True), change_of_last(2, is_causal=True), change_of_last(2, is_causal=False)
assert max(one, bag) < 1e-9 < 1e-2 < two
expect(cutaway.load("ioi-mini").config.position, "none", "positions of a model that comes with the package")
say(f"""
One causal layer: {one:.0e}, nothing but rounding. Two causal layers: {two:.2f}; two without a mask, which see a bag: {bag:.0e}.
The mask itself is the third place where order gets in. After the first layer each position has read from those before it and from no
others, so what the second layer reads depends on who stood before whom. That can be enough: `ioi-mini`, which comes with the package,
was trained without positions and does its task. How a head can even count is exercise 3.
""")

# %% [markdown]
# ## Exercises
#
# **1. Embed without a look-up.** Return the rows of `W_E` for `tokens` by a product of matrices, without indexing `W_E`.


# %% tags=["starter"]
def embed_by_hand(tokens: Tensor, W_E: Tensor) -> Tensor:
    """Return "pos d_model" of tokens "pos"."""
    d_vocab = len(W_E)
    return torch.zeros(len(tokens), d_vocab) @ W_E


# %% [markdown] tags=["hint"]
# `tokens[:, None] == torch.arange(d_vocab)` is true in one place of each row.


# %% tags=["solution"]
def embed_by_hand(tokens: Tensor, W_E: Tensor) -> Tensor:
    """Return "pos d_model" of tokens "pos"."""
    d_vocab = len(W_E)
    return (tokens[:, None] == torch.arange(d_vocab)).to(W_E.dtype) @ W_E


# %% tags=["check"]
with checking("embed without a look-up"):
    for d_vocab, d_model, some in ((11, 5, torch.tensor([0, 10, 3, 3])), (7, 2, torch.tensor([6, 1]))):
        embed = Embedding(d_vocab=d_vocab, d_model=d_model)
        with FlopCounterMode(display=False) as products:
            found = embed_by_hand(some, embed.W_E)
        expect(found, embed(some), f"as the library's Embedding of {d_vocab} tokens")
    assert products.get_total_flops() > 0, "the rows are right, but no matrices are multiplied: that is a look-up"

# %% [markdown]
# **2. Sinusoids.** Write the table of sinusoidal positions, `n_pos d_model`: sines in the even coordinates, cosines in the odd.
# The frequency of pair $i$ is $b^{-2i/d}$ with $b = 10000$.


# %% tags=["starter"]
def sinusoids(n_pos: int, d_model: int, base: float = 10_000.0) -> Tensor:
    """Return "pos d_model"."""
    pairs = torch.arange(d_model // 2)
    return torch.zeros(n_pos, 2 * len(pairs))


# %% [markdown] tags=["hint"]
# `frequencies = base ** (-2 * pairs / d_model)`, and the angles are positions as a column times frequencies as a row.

# %% [markdown] tags=["hint"]
# `table[:, 0::2]` are the even coordinates of all rows, and can be assigned to.


# %% tags=["solution"]
def sinusoids(n_pos: int, d_model: int, base: float = 10_000.0) -> Tensor:
    """Return "pos d_model"."""
    pairs = torch.arange(d_model // 2)
    angles = torch.arange(n_pos)[:, None] * base ** (-2 * pairs / d_model)
    table = torch.zeros(n_pos, 2 * len(pairs))
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


# %% tags=["check"]
with checking("sinusoids"):
    expect(sinusoids(1, 4), [[0.0, 1.0, 0.0, 1.0]], "position 0: every sine is 0 and every cosine 1")
    expect(sinusoids(3, 4)[2, :2], [math.sin(2), math.cos(2)], "the first pair turns by one radian a position")
    for base in (10_000.0, 100.0):
        library = SinusoidalPositions(d_model=16, base=base)(torch.arange(50))
        expect(sinusoids(50, 16, base), library, f"as the library has it with base {base:.0f}", tolerance=1e-4)

# %% [markdown]
# **3. A head that counts.** Attention without positions, but causal, and the first token is always the same special one. Return
# queries, keys and values, each `n_pos 1`, that are the same function of the token at every position (the first may differ from
# the others, as its token does), such that `attend(q, k, v, "causal")` is $1 / (p + 1)$ at position $p$.


# %% tags=["starter"]
def counter(n_pos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v, each "pos 1"."""
    is_first = (torch.arange(n_pos) == 0).float()[:, None]
    return torch.ones(n_pos, 1), is_first, is_first


# %% [markdown] tags=["hint"]
# The average of how many numbers is a hundredth, if one of them is 1 and the others are 0?

# %% [markdown] tags=["hint"]
# Look at all positions alike: with queries of zero every score is zero and every share is the same.


# %% tags=["solution"]
def counter(n_pos: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k, v, each "pos 1"."""
    is_first = (torch.arange(n_pos) == 0).float()[:, None]
    return torch.zeros(n_pos, 1), torch.zeros(n_pos, 1), is_first


# %% tags=["check"]
with checking("a head that counts"):
    for n_pos in (1, 5, 40):
        q, k, v = counter(n_pos)
        for name, each in {"queries": q, "keys": k, "values": v}.items():
            assert len(each[1:].unique()) <= 1, f"the {name} differ between positions after the first, which have no way to differ"
        expect(attend(q, k, v, "causal")[:, 0], [1 / (pos + 1) for pos in range(n_pos)], f"{n_pos} positions")

# %% [markdown]
# **4. Rotary by complex numbers,** for who knows them. Turn vectors `pos d_head` with one product of complex numbers. The pairs
# are coordinate $i$, the real part, and coordinate $i + d/2$, the imaginary one. Then convince yourself with pencil and paper
# that $R_m^\top R_n = R_{n-m}$ is the same statement as the equation above.


# %% tags=["starter"]
def turn(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Return the vectors "pos d_head", each turned as its position asks."""
    real, imaginary = x.chunk(2, dim=-1)
    z = torch.complex(real, imaginary)  # pos pair
    return torch.cat([z.real, z.imag], dim=-1)


# %% [markdown] tags=["hint"]
# `z` has to be multiplied by $e^{ip\theta_i}$, the complex number of length 1 at the angle $p\,\theta_i$.

# %% [markdown] tags=["hint"]
# `torch.polar(lengths, angles)` makes complex numbers; lengths are `torch.ones_like(angles)`, angles `pos pair` are as in
# exercise 2.


# %% tags=["solution"]
def turn(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Return the vectors "pos d_head", each turned as its position asks."""
    real, imaginary = x.chunk(2, dim=-1)
    n_pairs = real.shape[-1]
    angles = positions[:, None] * base ** (-torch.arange(n_pairs) / n_pairs)
    z = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angles), angles)  # pos pair
    return torch.cat([z.real, z.imag], dim=-1)


# %% tags=["check"]
with checking("rotary by complex numbers"):
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(3))
    expect(turn(x, torch.zeros(7)), x, "position 0 does not turn")
    expect(turn(torch.tensor([[1.0, 0.0]]), torch.tensor([math.pi / 2])), [[0.0, 1.0]], "a quarter of a circle")
    for d_head, base in ((6, 10_000.0), (6, 100.0), (4, 10_000.0)):
        library = Rotary(d_head=d_head, base=base)(x[:, None, :d_head], torch.arange(7))[:, 0]
        expect(turn(x[:, :d_head], torch.arange(7), base), library, f"as the library has it, d_head {d_head}, base {base:.0f}")

# %% [markdown]
# ## Pitfalls
#
# - *"Why are positions added, and not put beside the embedding?"* A linear layer of two vectors side by side is the sum of a
#   linear layer of each, as the cell shows. Adding is the same with shared weights, and in hundreds of dimensions there is room
#   for both.
# - *"With what should position vectors begin?"* Small or zero: at the start they are noise on top of the tokens. GPT-2 draws
#   them with half the spread of `W_E`, which is what `init_weights` does; minGPT once began with zeros.
# - *"Does rotary turn the values too?"* No. Values are what is read, and where they come from has had its say in the scores. No
#   vector of positions is in the residual stream.
# - *"I loaded weights and get rubbish, and all shapes fit."* There are two conventions for which coordinates make a pair:
#   `(i, i + d/2)`, as here and in Phi and Llama files of Hugging Face, or `(2i, 2i + 1)`, as in the paper. Weights of one under
#   the code of the other are wrong until their rows are reordered, which the cell does.
# - *"I padded on the left, and the answers changed."* Padding moves every token to another position. Give the `positions` that
#   the tokens would have without it, and a `mask` that hides the padding.

# %%
a, b, W_a, W_b = torch.randn(3, generator=generator), torch.randn(4, generator=generator), torch.randn(3, 5), torch.randn(4, 5)
expect(torch.cat([a, b]) @ torch.cat([W_a, W_b]), a @ W_a + b @ W_b, "side by side is a sum")

fresh = Transformer(ModelConfig(d_vocab=500, n_ctx=500, n_layers=0, n_heads=1, d_model=64), generator=generator)
expect(fresh.embed.pos_embed.W_pos.std() / fresh.embed.W_E.std(), 0.5, "half the spread", tolerance=0.05)

x = torch.randn(5, 1, 8, generator=generator)
angles = torch.arange(5)[:, None] * 10_000.0 ** (-torch.arange(4) / 4)
neighbours = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous()) * torch.polar(torch.ones_like(angles), angles)[:, None]
in_halves = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # even coordinates, then odd ones
expect(
    Rotary(d_head=8)(x[..., in_halves], torch.arange(5)), torch.view_as_real(neighbours).flatten(-2)[..., in_halves], "reordered"
)

try:
    cutaway.load("greater-than").model(torch.zeros(1, 17, dtype=torch.long))
except ValueError as error:
    print(error)
expect(len(LearnedPositions(n_ctx=16, d_model=8).W_pos), 16, "a row a position, and no more")
expect(ModelConfig.preset("gpt2").n_ctx, 1024, "positions of GPT-2")

# %% [markdown]
# ## Read on
#
# What the queries and keys are for: [attention](03_attention.py). The mathematics in one place: [theory
# guide](../docs/theory.md). What a head makes of "one position before", and why two layers can do what one cannot: [induction
# heads](14_induction_heads.py). Vaswani et al. 2017 (arXiv 1706.03762) has the sinusoids, Su et al. 2021 (arXiv 2104.09864) the
# rotations; Haviv et al. 2022 (arXiv 2203.16634) found that causal models without positions learn them.
