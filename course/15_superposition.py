# %% [markdown]
# # Superposition
#
# **How does a model hold more features than it has dimensions, and how can they be read out again?**
#
# You need: the dot product, and [the residual stream](05_residual_stream.py). Explains:
# [toy_models.py](../src/cutaway/experiments/toy_models.py), [dictionary.py](../src/cutaway/interp/sae/dictionary.py),
# [training.py](../src/cutaway/interp/sae/training.py), [evaluation.py](../src/cutaway/interp/sae/evaluation.py).

# %%
import math
from collections import Counter

import torch
from torch import Tensor

import cutaway
from cutaway import plots, sae
from cutaway.experiments.characters import read_characters
from cutaway.experiments.superposition_phases import handmade_losses
from cutaway.experiments.text_model import spread_windows
from cutaway.experiments.toy_models import ToyModels, best_replicas, feature_dimensionality, sparse_features
from cutaway.lesson import checking, expect, figure, pick, say, show

# %% [markdown]
# ## The idea
#
# A *feature* is something that a model represents: this is a name, this line is a comment, a bracket is open. Suppose each is a
# direction of the residual stream, and how strongly it is there is the length along that direction. In $d$ dimensions at most
# $d$ directions are at right angles to each other. A text has far more things to say about it than a stream has dimensions.
#
# But of all these things few are there at a time. Then directions need not be at right angles. If two features share a
# direction in part, reading one gives some of the other, *interference*, and that costs something only when the other is there.
# A nonlinearity can cut small interference off. So a model that can gain from more features packs more of them in than it has
# dimensions: *superposition*.
#
# It has a price for us. A coordinate, or a neuron, is then a mixture of several features, and no single one means anything. To
# read the model we have to find the directions. That is what *sparse autoencoders* are for: they explain each activation as a
# sum of few directions out of many.

# %% [markdown]
# ## The equation
#
# The smallest model that shows it squeezes $n$ features into $d$ dimensions and reads them back with the same matrix:
#
# $$ h = \sum_j x_j W_j, \qquad x'_i = \mathrm{ReLU}(W_i \cdot h + b_i) =
#    \mathrm{ReLU}\Big(\underbrace{|W_i|^2 x_i}_{\text{itself}} +
#    \underbrace{\textstyle\sum_{j \ne i} (W_i \cdot W_j)\, x_j}_{\text{interference}} + b_i\Big) $$
#
# `W` is `feature hidden`: row $W_i$ is the direction of feature $i$. Each $x_i$ is 0, or with probability $p$ uniform between 0
# and 1. The loss is the squared error $\sum_i I_i (x_i - x'_i)^2$, with $I_i$ how important feature $i$ is.
#
# A sparse autoencoder goes the other way, from activations `x` of width `d_in` to `d_sae` latents, of which few are above zero:
#
# $$ f = \mathrm{activate}\big((x - b_\mathrm{dec})\, W_\mathrm{enc} + b_\mathrm{enc}\big), \qquad
#    \hat{x} = f\, W_\mathrm{dec} + b_\mathrm{dec} $$
#
# Each row of `W_dec`, `d_sae d_in`, is a direction of length 1. That is all: the kinds differ in how they keep $f$ sparse.

# %% [markdown]
# ## The code
#
# The library trains many toy models side by side, an *instance* each. Its `losses` are means over features; the sums above and
# below are $n$ times that.

# %%
show(ToyModels.forward)
show(ToyModels.losses)

# %% [markdown]
# ## Two features, one dimension
#
# Here everything can be worked out. Let both features matter alike.
#
# *One takes the dimension*: $W = (1, 0)$. Feature 1 comes back exactly. Of feature 2 the model knows nothing, and its best
# guess is the mean, $b_2 = p/2$. What is lost is the variance: $\mathbb{E}[x^2] - \mathbb{E}[x]^2 = p/3 - p^2/4$.
#
# *Both share it*: $W = (1, -1)$, without biases. Then $x'_1 = \mathrm{ReLU}(x_1 - x_2)$ and $x'_2 = \mathrm{ReLU}(x_2 - x_1)$.
# A feature that is there alone comes back exactly, and the ReLU silences the other, which would have come out negative. If both
# are there, the smaller one comes out as 0 and the larger one too small by the smaller: both are wrong by $m = \min(x_1, x_2)$.
# As $P(m > t) = (1-t)^2$, its density is $2(1-t)$, and the mean of its square $\int_0^1 t^2 \cdot 2(1-t)\,dt = 2/3 - 1/2 =
# 1/6$. This happens with probability $p^2$ to two features, so the loss is $p^2/3$.
#
# *Both share it, without the ReLU*: $x'_1 = x_1 - x_2$ is wrong by $x_2$ whenever feature 2 is there. The loss is $2p/3$,
# always more than that of leaving a feature out. A linear model gains nothing from superposition, nor from any other $W$: the
# best linear map keeps one direction of the plane of both features, and as these vary alike and independently, all directions
# lose the same, $p/3 - p^2/4$.


# %%
def shared(p: Tensor) -> Tensor:
    return p**2 / 3


def one_alone(p: Tensor) -> Tensor:
    return p / 3 - p**2 / 4


some_p = torch.tensor([0.1, 0.5, 0.9])
by_library = handmade_losses(torch.ones(3), some_p)
expect(by_library[1], one_alone(some_p), "one alone, as the library has it")
expect(by_library[2], shared(some_p), "both, as the library has it")
drawn = torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0)).amin(dim=1)
expect((drawn**2).mean(), 1 / 6, "the mean square of the smaller one, drawn", tolerance=0.01)

# %% [markdown]
# ## Predict
#
# How often may features be there for sharing to pay: up to which $p$ is $p^2/3$ less than $p/3 - p^2/4$? Work it out, and then
# guess what training does: does a model of random weights find the better of the two, and what happens near the border?

# %% tags=["prediction"]
border = 4 / 7
expect(shared(torch.tensor(border)), one_alone(torch.tensor(border)), "the border")
p = torch.linspace(0.1, 1.0, 10)
n_replicas, importance = 6, torch.ones(2)
generator = torch.Generator().manual_seed(0)
pairs = ToyModels(len(p) * n_replicas, 2, 1, generator=generator)
p_active = p.repeat_interleave(n_replicas)[:, None].expand(-1, 2)
optimizer = torch.optim.Adam(pairs.parameters(), lr=2e-2)
for _ in range(pick(fast=500, full=3000)):
    loss = pairs.losses(sparse_features(512, p_active, generator=generator), importance).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    losses = 2 * pairs.losses(sparse_features(40_000, p_active, generator=generator), importance)  # a sum over both features
    best = pairs.chosen(best_replicas(losses, n_replicas=n_replicas)).W.detach()[..., 0]
least = losses.unflatten(0, (-1, n_replicas)).amin(dim=1)
n_kept = best.square().sum(dim=1)  # 1 of a direction that is kept, 2 of two features in one dimension
assert (n_kept[p < 0.45] > 1.7).all(), "sparse features share the dimension"
assert n_kept[-1] < 1.3, "dense features do not"
assert (least < 1.1 * torch.minimum(shared(p), one_alone(p)) + 0.002).all(), "training finds the better of the two"
say(f"""
They are equal at $p = 4/7$, about {border:.2f}: features that are there less often share the dimension. Trained
models do as well as the better of the two, and near the border a little better: at $p = {p[5]:.1f}$ the weights are
({best[5, 0]:.2f}, {best[5, 1]:.2f}), something between, with biases that guess. At $p = 1$ they are ({best[-1, 0]:.2f},
{best[-1, 1]:.2f}), of length 1: one direction of the plane of both features is kept, and as they vary alike it does not matter
which. What makes sharing pay is that collisions are as rare as $p^2$, while features are there as often as $p$.
""")

# %%
curves = {"one alone": one_alone(p), "both, opposite": shared(p), "trained": least}
figure(
    plots.lines(
        {name: (p.tolist(), values.tolist()) for name, values in curves.items()},
        title="Two features, one dimension",
        x_label="p, how often each feature is there",
        y_label="squared error",
    ),
    "The loss of two models made by hand, which cross at four sevenths, and of trained ones, which follow the lower curve",
)

# %% [markdown]
# ## Five features, two dimensions
#
# The same in the plane, with five features and less importance for each that follows. As features get sparser the model keeps
# two at right angles, then two pairs of opposites, then all five, at equal angles.

# %%
p_of_panel = (1.0, 0.3, 0.1, 0.02)
n_replicas, importance = 4, 0.9 ** torch.arange(5)
fives = ToyModels(len(p_of_panel) * n_replicas, 5, 2, generator=generator)
p_active = torch.tensor(p_of_panel).repeat_interleave(n_replicas)[:, None].expand(-1, 5)
optimizer = torch.optim.Adam(fives.parameters(), lr=1e-2)
for _ in range(pick(fast=1000, full=6000)):
    loss = fives.losses(sparse_features(256, p_active, generator=generator), importance).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
with torch.no_grad():
    losses = fives.losses(sparse_features(16_384, p_active, generator=generator), importance)
planes = fives.chosen(best_replicas(losses, n_replicas=n_replicas)).W.detach()
figure(
    plots.arrows(
        {f"p = {each:g}": plane.numpy() for each, plane in zip(p_of_panel, planes, strict=True)},
        title="What becomes of five features in the plane",
    ),
    "An arrow is a feature's direction: two at right angles where all are always there, a pentagon where they are rare",
)

# %% [markdown]
# How much of a dimension has each feature? The *dimensionality* of feature $i$ is
#
# $$ D_i = \frac{|W_i|^2}{\sum_j (\hat{W}_i \cdot W_j)^2}, \qquad \hat{W}_i = W_i / |W_i| $$
#
# A feature that shares with none has 1, one of two opposites 1/2. For the corners of a regular pentagon the sum is that of
# $\cos^2$ at five equal steps of the circle, which is 5/2, so each has 2/5: the plane's two dimensions, divided by five.

# %%
pentagon = torch.stack([torch.tensor([math.cos(turn), math.sin(turn)]) for turn in torch.arange(5) * 2 * math.pi / 5])
expect(feature_dimensionality(pentagon), torch.full((5,), 2 / 5), "a corner of a pentagon")
shares = feature_dimensionality(planes)
expect(shares[-1], torch.full((5,), 2 / 5), "a trained one", tolerance=0.06)
say(f"""
Trained at p = {p_of_panel[-1]:g}, the five have {", ".join(f"{each:.2f}" for each in shares[-1].tolist())} of a dimension. At p = 1
the first two have {shares[0, 0]:.2f} and {shares[0, 1]:.2f}, and the others are not there.
""")

# %% [markdown]
# ## Read back from activations alone
#
# Now forget the features. All that is left is what one sees in a real model: points `h` in the plane. Principal components, the
# directions in which points vary most, are two in a plane, at right angles, and none of them is a feature. A sparse autoencoder
# with five latents, of which one may be on, gets the points and nothing else. Does it find the five directions that the toy
# model had chosen?

# %%
show(sae.TopK._largest)

# %%
corners = ToyModels.load("toy-geometry").W[-1].detach()  # comes with the package, of p = 0.02
features = sparse_features(20_000, torch.full((1, 5), 0.05), generator=generator)[:, 0]
h = features @ corners
h = h[h.norm(dim=1) > 0]  # where no feature is there, there is nothing to explain
recipe = sae.SAEConfig(
    dictionary=sae.DictionaryConfig(kind="topk", d_in=2, d_sae=5, k=1), n_steps=400, batch_size=512, learning_rate=1e-2
)
reader, _ = sae.train(recipe, h)
found = sae.best_cosines(corners, reader.W_dec)
assert found.min() > 0.98
figure(
    plots.arrows(
        {
            "the toy model's directions": (corners / corners.norm(dim=1, keepdim=True)).numpy(),
            "rows of the autoencoder's W_dec": reader.W_dec.numpy(),
        },
        title="Found again, in another order",
    ),
    "Left the five directions that a toy model learned, right those that an autoencoder found from its activations alone",
)
say(f"""
The worst of the five directions is found with a cosine of {found.min():.4f}. More directions than dimensions can be identified
because the features are sparse: the points lie near five rays. Of dense features nothing would be left to find.
""")

# %% [markdown]
# ## Three ways to be sparse
#
# With 64 features in 24 dimensions, three of them there at a time, nobody sees the rays any more, but we still know the truth.
# The library has the kinds that the field uses:
#
# - **ReLU with L1**: everything above zero is on, and the loss is the mean squared error of a coordinate plus $\lambda \sum_j
#   f_j / \sqrt{d}$, with $d$ the rows' width. (The library first scales rows so that the mean square of a coordinate is 1, for
#   every kind; `scales` of what `sae.train` returns are the factors);
# - **TopK**: the `k` largest are on, whatever they are;
# - **JumpReLU**: each latent has a threshold that is learned, and the loss counts how many are on. A count has no gradient, so
#   one is made up for the threshold, from the rows that come near it.

# %%
show(sae.ReLU.penalty)
show(sae.JumpReLU.activate)
show(sae.JumpReLU.penalty)

# %%
n_features, width = 64, 24
known = sae.SyntheticFeatures.random(n_features, width, probability=3 / 64, seed=7)
judged = known.draw(4000, torch.Generator().manual_seed(1))
settings = {
    "TopK": ("topk", 3, 0.0, pick(fast=500, full=3000)),
    "JumpReLU": ("jumprelu", None, 0.02, pick(fast=1500, full=6000)),
    "ReLU with L1": ("relu", None, 0.2, pick(fast=1000, full=6000)),
}
dictionaries = {}
for name, (kind, k, sparsity, n_steps) in settings.items():
    shape = sae.DictionaryConfig(kind=kind, d_in=width, d_sae=n_features, k=k)
    recipe = sae.SAEConfig(
        dictionary=shape, n_steps=n_steps, batch_size=256, learning_rate=1e-2, sparsity=sparsity, dead_after=10_000
    )
    dictionaries[name], _ = sae.train(recipe, known)
measured = {name: sae.measure_reconstruction(each, [judged]) for name, each in dictionaries.items()}
cosines = {name: sae.best_cosines(known.directions, each.W_dec) for name, each in dictionaries.items()}
cosines["random directions"] = sae.best_cosines(known.directions, sae.random_dictionary(n_features, width, seed=1))
for name in dictionaries:
    assert cosines[name].mean() > cosines["random directions"].mean() + 0.2, name
table = "\n".join(
    f"| {name} | {cosines[name].mean():.3f} | {each.l0:.1f} | {100 * each.fvu:.0f} % | {100 * each.pca_fvu:.0f} % | "
    f"{100 * each.dead:.0f} % |"
    for name, each in measured.items()
)
say(
    f"""
| kind | cosine with the true feature, mean | latents a row (L0) | unexplained | by as many principal components | dead |
|---|---|---|---|---|---|
{table}
| random directions | {cosines["random directions"].mean():.3f} | | | | |
""".replace("\n    ", "\n")
)

# %%
ranked = {name: values.sort(descending=True).values.tolist() for name, values in cosines.items()}
figure(
    plots.lines(
        {name: (list(range(1, n_features + 1)), values) for name, values in ranked.items()},
        title="How near each true feature is to a direction found",
        x_label="true features, the best found first",
        y_label="cosine with the nearest direction",
    ),
    "Three kinds of autoencoders find most of the true features; as many random directions come near none of them",
)

# %% [markdown]
# Four words for the table's columns. *L0* is how many latents are on in a row: the truth is three. *Unexplained* is the error's
# share of the variance. *Dead* latents never fire; training brings them back, by a loss of their own (TopK) or by letting them
# begin anew (the others). And *random directions* are the null: in few dimensions some direction is always fairly near, so a
# cosine means nothing without it.

# %% [markdown]
# ## The neurons of a language model
#
# In a model of text nobody knows the features, so an autoencoder is judged by what it does: put what it makes of an activation
# in the activation's place and see what the loss becomes. *Loss recovered* is how much of the damage it undoes, where the
# damage is that of putting the mean there. More latents a row recover more; what counts is the curve, not a point of it. (As
# many principal components are a weak rival: they are the same for every character, and a dictionary chooses its few out of 512
# each time.)

# %%
lm = cutaway.load("stdlib-1l")
_, tokens = read_characters("stdlib", 400_000)
learnt = spread_windows(tokens[:360_000], 64, n_windows=pick(fast=400, full=4000))
held_out = spread_windows(tokens[360_000:], 64, n_windows=64)
neurons = "blocks.0.mlp.post"  # 256 of them, after the activation function
rows = sae.TensorActivations.of(sae.ModelActivations(lm, learnt, neurons))
of_text, curve = {}, {}
for k in (2, 6, 18):
    shape = sae.DictionaryConfig(kind="topk", d_in=256, d_sae=512, k=k, name=neurons)
    n_steps = pick(fast=120, full=1500)
    recipe = sae.SAEConfig(dictionary=shape, n_steps=n_steps, batch_size=512, learning_rate=4e-3, dead_after=10_000)
    of_text[k], _ = sae.train(recipe, rows)
    curve[k] = sae.evaluate(lm, of_text[k], held_out)
recovered = {k: 100 * each.recovered_of_mean for k, each in curve.items()}
assert 50 < recovered[2] < recovered[18] < 100
figure(
    plots.lines(
        {
            "loss recovered": (list(curve), list(recovered.values())),
            "variance explained": (list(curve), [100 * (1 - each.reconstruction.fvu) for each in curve.values()]),
            "by principal components": (list(curve), [100 * (1 - each.reconstruction.pca_fvu) for each in curve.values()]),
        },
        title="Few latents against little lost: 256 neurons of a one-layer model",
        x_label="latents a character",
        y_label="per cent",
    ),
    "With more latents a character, more of the loss is recovered; as many principal components explain far less of the neurons",
)
say(curve[6].summary())

# %% [markdown]
# And what do features stand for? Take the eight strongest contexts of each, from text that the dictionary has not seen. If they
# end in the same two characters, the feature has a plain meaning. The same of the neurons themselves is what it is to beat.

# %%
identity = sae.make_dictionary(sae.DictionaryConfig(kind="relu", d_in=256, d_sae=256, name=neurons))
with torch.no_grad():
    identity.W_enc.copy_(torch.eye(256))
    identity.W_dec.copy_(torch.eye(256))


def agreeing(dictionary: sae.Dictionary) -> dict[int, tuple[float, list[str]]]:
    """Return for latents the share of eight strongest contexts that end alike, and those contexts."""
    contexts, agreement = sae.find_contexts(lm, dictionary, held_out, n_features=80, n_contexts=8), {}
    for place, feature in enumerate(contexts.features):
        peaks = contexts.peaks(place)
        if len(peaks) == 8:
            ends = Counter(tuple(held_out[window, pos - 1 : pos + 1].tolist()) for window, pos in peaks)
            texts = [lm.text(held_out[window, max(0, pos - 9) : pos + 1]) for window, pos in peaks]
            agreement[feature] = ends.most_common(1)[0][1] / 8, texts
    return agreement


features, of_neurons = agreeing(of_text[2]), agreeing(identity)
share_of_features, share_of_neurons = (
    sum(share >= 0.75 for share, _ in each.values()) / len(each) for each in (features, of_neurons)
)
assert share_of_features > share_of_neurons + 0.1
clearest = sorted(features.items(), key=lambda each: -each[1][0])[:5]
lines = "\n".join(f"- feature {feature}: " + ", ".join(f"`{text!r}`" for text in texts[:4]) for feature, (_, texts) in clearest)
say(
    f"{100 * share_of_features:.0f} % of features end alike in at least six of eight, and {100 * share_of_neurons:.0f} % of neurons."
)
say(lines)

# %% [markdown]
# ## Exercises
#
# **1. Shares of a dimension.** Write `dimensionality(W)` for `W` of `feature hidden`, by the formula above, for features that
# all have a direction.


# %% tags=["starter"]
def dimensionality(W: Tensor) -> Tensor:
    unit = W / W.norm(dim=1, keepdim=True)
    return unit @ W.T


# %% [markdown] tags=["hint"]
# `unit @ W.T` holds $\hat{W}_i \cdot W_j$ in row $i$ and column $j$.

# %% [markdown] tags=["hint"]
# Square, sum along the row, and divide the squared length of each $W_i$ by it.


# %% tags=["solution"]
def dimensionality(W: Tensor) -> Tensor:
    unit = W / W.norm(dim=1, keepdim=True)
    return W.square().sum(dim=1) / (unit @ W.T).square().sum(dim=1)


# %% tags=["check"]
with checking("shares of a dimension"):
    expect(dimensionality(pentagon), torch.full((5,), 2 / 5), "a pentagon")
    expect(dimensionality(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])), [0.5, 0.5, 1.0], "two opposites and one alone")
    W = torch.randn(12, 5, generator=torch.Generator().manual_seed(3))
    expect(dimensionality(W), feature_dimensionality(W), "as the library has it")

# %% [markdown]
# **2. Shrinkage.** An L1 penalty makes latents too small. Take one feature of size `size` in its own direction, explained by
# one latent $f \ge 0$. The library's loss is $(s - f)^2 / d + \lambda f / \sqrt{d}$. Write the $f$ that makes it least.


# %% tags=["starter"]
def shrunk(size: float, sparsity: float, d: int) -> float:
    return size


# %% [markdown] tags=["hint"]
# Set the derivative with respect to $f$ to zero, and think of what happens when that gives a negative number.

# %% [markdown] tags=["hint"]
# $-2(s - f)/d + \lambda/\sqrt{d} = 0$.


# %% tags=["solution"]
def shrunk(size: float, sparsity: float, d: int) -> float:
    return max(0.0, size - sparsity * math.sqrt(d) / 2)


# %% tags=["check"]
with checking("shrinkage"):
    tried = torch.linspace(0, 4, 400_001, dtype=torch.float64)
    for size, sparsity, d in ((2.0, 0.3, 16), (1.0, 0.1, 64), (0.5, 0.8, 9)):
        loss_of_tried = (size - tried) ** 2 / d + sparsity * tried / math.sqrt(d)
        expect(
            shrunk(size, sparsity, d),
            float(tried[loss_of_tried.argmin()]),
            f"size {size}, sparsity {sparsity}, d {d}",
            tolerance=1e-4,
        )

# %% [markdown]
# **3. An autoencoder of your own.** Half an hour. Write a TopK autoencoder and train it: `found(rows, d_sae, k)` returns
# directions, `d_sae d`, of length 1. It is judged on 32 known features in 12 dimensions, two of them there at a time, by the
# mean cosine of a true feature with the nearest of your directions. Random directions, which the starter returns, get little
# more than half; get above 0.85.


# %% tags=["starter"]
def found(rows: Tensor, d_sae: int, k: int, *, n_steps: int = 800) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, rows.shape[1], generator=generator)
    return W_dec / W_dec.norm(dim=1, keepdim=True)


# %% [markdown] tags=["hint"]
# Parameters: `W_dec`, `W_enc` (begin with `W_dec.T`), `b_enc`. A step: draw rows, `pre = x @ W_enc + b_enc`, keep the k
# largest, reconstruct, squared error, `torch.optim.Adam` with a learning rate of 0.01.

# %% [markdown] tags=["hint"]
# `values, places = pre.topk(k)`, then `latents = torch.zeros_like(pre).scatter(1, places, values.relu())`.

# %% [markdown] tags=["hint"]
# After each step divide the rows of `W_dec` by their lengths, inside `torch.no_grad()`. Otherwise latents shrink and rows grow.


# %% tags=["solution"]
def found(rows: Tensor, d_sae: int, k: int, *, n_steps: int = 800) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, rows.shape[1], generator=generator)
    W_dec = (W_dec / W_dec.norm(dim=1, keepdim=True)).requires_grad_()
    W_enc = W_dec.detach().T.clone().requires_grad_()
    b_enc = torch.zeros(d_sae, requires_grad=True)
    optimizer = torch.optim.Adam([W_dec, W_enc, b_enc], lr=1e-2)
    for _ in range(n_steps):
        x = rows[torch.randint(len(rows), (256,), generator=generator)]
        pre = x @ W_enc + b_enc
        values, places = pre.topk(k)
        latents = torch.zeros_like(pre).scatter(1, places, values.relu())
        loss = (x - latents @ W_dec).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            W_dec /= W_dec.norm(dim=1, keepdim=True)
    return W_dec.detach()


# %% tags=["check"]
with checking("an autoencoder of your own"):
    truth = sae.SyntheticFeatures.random(32, 12, probability=2 / 32, seed=11)
    examples = truth.draw(10_000, torch.Generator().manual_seed(12))
    directions = found(examples[examples.norm(dim=1) > 0], 32, 2)
    expect(directions.shape, (32, 12), "the shape of what is found")
    expect(found(examples[:, :7], 20, 1, n_steps=1).shape, (20, 7), "the shape for 20 latents of 7 dimensions")
    expect(directions.norm(dim=1), torch.ones(32), "the lengths")
    mean = sae.best_cosines(truth.directions, directions).mean().item()
    assert mean > 0.85, f"the mean cosine is {mean:.2f}; expected more than 0.85"

# %% [markdown]
# ## Pitfalls
#
# - *"Are these the model's features?"* They are directions that explain its activations with few latents, which is not the
#   same. The first cell below plants a general feature A and a special one B that comes only with A, and trains with L1.
#   Explaining both with one latent along A + B costs the penalty $\sqrt{2}$, with two latents 2. So the latent that reads as A
#   stays silent where B is there. This is *absorption*: a feature that looks right in its contexts and has holes.
# - *"Two runs gave different features."* Either they were trained too little, or some are not forced by the data. With twice
#   the latents one feature may be *split* into several narrower ones, and neither number is the true one. Compare seeds before
#   you name anything: the second cell holds two dictionaries of the same neurons, which differ in their seeds alone, against
#   each other.
# - *"My reconstruction is always too small."* With L1 it has to be, by $\lambda\sqrt{d}/2$ in the units in which the library
#   trains, as in the second exercise. The third cell measures it. TopK and JumpReLU were made to have no such pull.
# - *"Nearly all of the loss is recovered, so it is a good dictionary."* Ask against what, and look at the curve. Against zeros
#   instead of the mean everything recovers more, and a dictionary that copies its input recovers all of it with no sparsity.
# - *"Some latents never fire, and some nearly always."* Look at the *density*, the share of rows on which a latent is on. A
#   dead latent is wasted. One that is on nearly everywhere names no feature: it is a part of the mean, or a direction that the
#   dictionary needs in every sum. The second cell has the range.
# - *"My null gave a cosine of 1."* Random directions drawn with the seed that also drew the true features are the true
#   features.

# %%
generator = torch.Generator().manual_seed(0)
is_there = torch.rand(8000, 6, generator=generator) < 0.15
is_there[:, 1] = is_there[:, 0] & (torch.rand(8000, generator=generator) < 0.4)  # B, only with A
is_there = is_there[is_there.any(dim=1)]
planted = is_there.float()
sparsity = 0.3
recipe = sae.SAEConfig(
    dictionary=sae.DictionaryConfig(kind="relu", d_in=6, d_sae=6), n_steps=400, batch_size=256, learning_rate=1e-2, sparsity=sparsity,
    dead_after=4000, seed=1,
)  # fmt: skip
absorbing, training = sae.train(recipe, planted)
latents = absorbing.encode(planted) > 0.05
along_general, along_special = (
    absorbing.W_dec[:, 0] - absorbing.W_dec[:, 1],
    absorbing.W_dec[:, 1],
)  # how much a row is A without B, and B
general, special = int(along_general.argmax()), int(along_special.argmax())
alone, with_special = is_there[:, 0] & ~is_there[:, 1], is_there[:, 1]
fires_alone, fires_with_special = (latents[rows_of, general].float().mean().item() for rows_of in (alone, with_special))
assert fires_alone > 0.9
assert fires_with_special < 0.1
figure(
    plots.arrows(
        {"planted": [[1.0, 0.0], [0.0, 1.0]], "found": absorbing.W_dec[[general, special], :2].tolist()},
        title="The special feature absorbs the general one", axes_labels=("A", "B"),
    ),
    "Planted were A, to the right, and B, upwards; found were A, and one latent for A with B, half way between",
)  # fmt: skip
say(f"""
The latent along A fires on {100 * fires_alone:.0f} % of the rows with A alone and on {100 * fires_with_special:.0f} % of those
with A and B. The other latent's direction is ({absorbing.W_dec[special, 0]:.2f}, {absorbing.W_dec[special, 1]:.2f}) in A and B.
""")

# %%
shape = sae.DictionaryConfig(kind="topk", d_in=256, d_sae=512, k=6, name=neurons)
recipe = sae.SAEConfig(
    dictionary=shape, n_steps=pick(fast=120, full=1500), batch_size=512, learning_rate=4e-3, dead_after=10_000, seed=1
)
again, _ = sae.train(recipe, rows)
fires = curve[6].reconstruction.n_fired > 0
same = sae.best_cosines(of_text[6].W_dec[fires], again.W_dec)
chance = sae.best_cosines(of_text[6].W_dec[fires], sae.random_dictionary(512, 256, seed=5))
assert same.mean() > chance.mean() + 0.1
is_near = [(same > cosine).float().mean() for cosine in (0.9, 0.7)]
why = pick(
    fast="After so few steps this is mostly want of training: run the full setting (`CUTAWAY_COURSE=full`) and see how much stays.",
    full="Longer runs tell how much of the rest is want of training, and how much the data leave open.",
)
density = curve[6].reconstruction.density
assert density.max() > 5 * 6 / len(density)
say(f"""
Of the features that fire, {100 * is_near[0]:.0f} % have a partner in the other dictionary with a cosine above 0.9, and
{100 * is_near[1]:.0f} % one above 0.7. Random directions reach {chance.mean():.2f} on average. {why}

Six latents of {len(density)} are on at a time. If all fired alike, each would be on {6 / len(density):.1%} of rows. The busiest
fires on {density.max():.0%}, one in the middle on {density.median():.2%}, and {(density == 0).float().mean():.0%} never.
""")

# %%
shrinkage = sparsity * math.sqrt(6) / 2 / training.scales[0]  # in the units of the rows: training scales them
rebuilt = absorbing(planted)
lost = 1 - torch.stack([rebuilt[is_there[:, feature], feature].mean() for feature in (2, 3, 4)]).mean()
expect(lost / shrinkage, 1.0, "what is missing, over the shrinkage", tolerance=0.15)
say(f"Features of size 1 come back smaller by {lost:.3f}; $\\lambda\\sqrt{{d}}/2$ says {shrinkage:.3f}.")

# %% [markdown]
# ## Read on
#
# [Finding a circuit](16_finding_a_circuit.py), in which features can be nodes too. The same derivations with more
# generality: [the theory guide](../docs/theory.md). `cutaway reproduce superposition-phases` and its neighbours train the toy
# models at the published sizes; `cutaway interpret sae --help` does all of this to models of text. Elhage et al. 2022, *Toy
# Models of Superposition* (arXiv 2209.10652); Bricken et al. 2023, *Towards Monosemanticity*; Gao et al. 2024, *Scaling and
# evaluating sparse autoencoders* (arXiv 2406.04093).
