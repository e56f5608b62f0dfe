# %% [markdown]
# # Backpropagation
#
# **How does each weight of a block find out, from one number at the end, which way to move?**
#
# You need: [the whole model](06_whole_model.py), and the chain rule. Explains: [step.py](../src/cutaway/training/step.py),
# [running.py](../src/cutaway/interp/running.py), [flops.py](../src/cutaway/flops.py).

# %%
import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway import ModelConfig, Transformer, metrics, plots
from cutaway.flops import forward_flops, training_flops
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import MLP, LayerNorm, RMSNorm, attend
from cutaway.training.step import next_token_loss

# %% [markdown]
# ## The idea
#
# The loss is a function of a hundred million weights. Its gradient says for each of them: if you grow by a little, the loss
# grows by this much for each unit. To find it by trying would take a forward pass for each weight. Backpropagation takes one
# pass back, which costs as much as two forward ones.
#
# It works since a model is a chain of small steps. Each step gets, from the step after it, the gradient of the loss with
# respect to its *output*, and makes of it two things: the gradient with respect to its *input*, which it hands to the step
# before, and with respect to its *weights*, which is kept. For that it needs nothing but what stood at its input in the forward
# pass. A gradient has the shape of the thing that it is the gradient of; this alone tells you how most of the formulas must go.

# %% [markdown]
# ## The equation
#
# Write $\bar{x}$ for $\partial \mathrm{loss} / \partial x$. Seven kinds of steps make up a transformer:
#
# $$
# \begin{aligned}
# y &= x W^\top + b & \bar{x} &= \bar{y}\, W, \quad \bar{W} = \bar{y}^\top x, \quad \bar{b} = \textstyle\sum_\mathrm{pos} \bar{y} \\
# y &= f(x) \text{, number by number} & \bar{x} &= \bar{y} \cdot f'(x) \\
# y &= A B \text{, both computed} & \bar{A} &= \bar{y}\, B^\top, \quad \bar{B} = A^\top \bar{y} \\
# y_p &= E[t_p] \text{, a look-up} & \bar{E}[t] &= \textstyle\sum_{p:\, t_p = t} \bar{y}_p \\
# y &= x + f(x) & \bar{x} &= \bar{y} + \bar{x}_f \\
# p &= \mathrm{softmax}(s) & \bar{s} &= p \cdot (\bar{p} - \textstyle\sum p \cdot \bar{p}) \\
# \hat{x} &= (x - \mathrm{mean}) / \sigma
# & \bar{x} &= (g - \mathrm{mean}(g) - \hat{x}\, \mathrm{mean}(\hat{x} \cdot g)) / \sigma \quad \text{with } g = \bar{\hat{x}}
# \end{aligned}
# $$
#
# With `x` of shape `pos d_in`, `W` of `d_out d_in` and `y` of `pos d_out`, the product $\bar{y}\,W$ is `pos d_in`, and
# $\bar{y}^\top x$ is `d_out d_in`. The sums in the last two lines go along one row: the keys of a query, the coordinates of a
# position. And $\bar{x}_f$ is what comes back through $f$: a tensor that several steps read gets the sum of what each of them
# hands back.

# %% [markdown]
# ## The code
#
# The library writes only the forward pass; torch notes the steps as they run and goes back through them. Training starts at the
# loss:

# %%
show(next_token_loss)

# %% [markdown]
# To look at gradients of what flows, not only of weights, a hook keeps each activation before the model goes on with it:

# %%
show(cutaway.gradients, start="def keep", stop="grads = ")

# %% [markdown]
# ## A model small enough
#
# One block, two heads, six positions, in float64 so that only mistakes can differ. Its weights, biases and norms are drawn
# large enough for all of them to matter. From here on, each gradient is worked out by hand and then held against autograd's.

# %%
generator = torch.Generator().manual_seed(0)
config = ModelConfig(d_vocab=11, n_ctx=6, n_layers=1, n_heads=2, d_model=8, d_mlp=12, tie_embeddings=False)
model = Transformer(config).double()
with torch.no_grad():
    for weight in model.parameters():
        weight.normal_(std=0.5, generator=generator)
text = torch.randint(config.d_vocab, (7,), generator=generator)
tokens, targets = text[:-1], text[1:]
n_pos, d_head = len(tokens), config.d_head


def loss_of(logits: Tensor) -> Tensor:
    """Return the mean loss of each row, of which there is one."""
    return F.cross_entropy(logits[0], targets).unsqueeze(0)


losses, activations, by_autograd = cutaway.gradients(model, tokens[None], loss_of, "*")
loss_of(model(tokens[None])).backward()
of_weights = {name: weight.grad for name, weight in model.named_parameters()}
model.zero_grad()  # or the next gradients would be added to these
checked: list[float] = []


def same(name: str, found: Tensor) -> None:
    """Compare a gradient found by hand with autograd's, of an activation or of a weight."""
    true = of_weights[name] if name in of_weights else by_autograd[name].squeeze(0)
    expect(found, true, f"the gradient of {name}", tolerance=1e-10)
    checked.append((found - true).abs().max().item())


# %% [markdown]
# ## Forward, keeping what the way back needs
#
# The forward pass once more, as in [the whole model](06_whole_model.py), one tensor a name. Heads stand first in `q`, `k` and
# `v`: `head pos d_head`.


# %%
def normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x less its mean over its scale, before weight and bias, and the scale."""
    scale = (x.var(-1, keepdim=True, correction=0) + config.norm_eps).sqrt()
    return (x - x.mean(-1, keepdim=True)) / scale, scale


def split(x: Tensor) -> Tensor:
    return x.unflatten(-1, (config.n_heads, d_head)).transpose(0, 1)  # pos (head d_head) -> head pos d_head


def join(x: Tensor) -> Tensor:
    return x.transpose(0, 1).flatten(1)  # head pos d_head -> pos (head d_head)


with torch.no_grad():
    block, ln_final, W_U = model.blocks[0], model.unembed.ln_final, model.unembed.W_U.weight
    resid_pre = model.embed.W_E[tokens] + model.embed.pos_embed.W_pos[:n_pos]
    x1, scale1 = normalise(resid_pre)
    normed1 = x1 * block.ln1.weight + block.ln1.bias
    q, k, v = (split(linear(normed1)) for linear in (block.attn.W_Q, block.attn.W_K, block.attn.W_V))
    scores = (q @ k.mT / math.sqrt(d_head)).masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -math.inf)
    pattern = scores.softmax(-1)
    z = pattern @ v
    resid_mid = resid_pre + block.attn.W_O(join(z))
    x2, scale2 = normalise(resid_mid)
    normed2 = x2 * block.ln2.weight + block.ln2.bias
    pre = block.mlp.W_in(normed2)
    post = F.gelu(pre, approximate="tanh")
    resid_post = resid_mid + block.mlp.W_out(post)
    x3, scale3 = normalise(resid_post)
    normed3 = x3 * ln_final.weight + ln_final.bias
    logits = normed3 @ W_U.mT
    probs = logits.softmax(-1)
    loss = -probs[range(n_pos), targets].log().mean()
expect(loss, losses[0], "the loss by hand", tolerance=1e-12)
expect(resid_mid, activations["blocks.0.resid_mid"][0], "the stream by hand", tolerance=1e-12)

# %% [markdown]
# ## The loss and the unembedding
#
# Of one position the loss is $\ln \sum_v e^{\mathrm{logit}_v} - \mathrm{logit}_\mathrm{target}$. The first term's derivative by
# $\mathrm{logit}_v$ is $p_v$, the second's is 1 at the target. So the gradient is *what the model says minus what is true*,
# divided by the number of positions, as the loss is their mean. It sums to 0 over the vocabulary: what the target gains, all
# others lose.

# %%
with torch.no_grad():
    d_logits = (probs - F.one_hot(targets, config.d_vocab)) / n_pos
    same("logits", d_logits)
    same("unembed.W_U.weight", d_logits.mT @ normed3)
    d_normed3 = d_logits @ W_U
    same("ln_final.normalized", d_normed3)
expect(d_logits.sum(-1), torch.zeros(n_pos), "what one logit gains, the others lose", tolerance=1e-12)

# %% [markdown]
# ## LayerNorm
#
# Weight and bias are easy. For the rest, ask what moving `x` does to $\hat{x} = (x - \mathrm{mean}) / \sigma$: it moves
# $\hat{x}$ by $1/\sigma$ of the move, less what the mean takes with it, less what the scale takes with it, as
# $\partial \sigma / \partial x_i = \hat{x}_i / d$. That gives the three terms. Read it so: LayerNorm ignores a constant added
# to `x` and its length, so moves in these two directions must be worth nothing, and the formula takes them out of the gradient.


# %%
def normalise_backward(d_normed: Tensor, x_hat: Tensor, scale: Tensor, norm: LayerNorm) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the input, of the weight and of the bias."""
    d_hat = d_normed * norm.weight
    d_x = (d_hat - d_hat.mean(-1, keepdim=True) - x_hat * (d_hat * x_hat).mean(-1, keepdim=True)) / scale
    return d_x, (d_normed * x_hat).sum(0), d_normed.sum(0)


with torch.no_grad():
    d_resid_post, d_weight, d_bias = normalise_backward(d_normed3, x3, scale3, ln_final)
    same("blocks.0.resid_post", d_resid_post)
    same("unembed.ln_final.weight", d_weight)
    same("unembed.ln_final.bias", d_bias)
expect(d_resid_post.sum(-1), torch.zeros(n_pos), "a constant is worth nothing", tolerance=1e-12)
expect((d_resid_post * x3).sum(-1), torch.zeros(n_pos), "nor is length, but for eps", tolerance=1e-4)

# %% [markdown]
# ## The MLP
#
# `resid_post` is `resid_mid` plus what the MLP writes. An addition hands its gradient to both: unchanged along the stream, and
# unchanged into the MLP. There it goes through `W_out`, the slope of gelu, `W_in` and a LayerNorm, and is *added* to what came
# along the stream. GPT-2's gelu is $\frac{x}{2}(1 + \tanh u)$ with $u = \sqrt{2/\pi}\,(x + 0.044715\, x^3)$, so its slope is
#
# $$ \tfrac12 (1 + \tanh u) + \tfrac{x}{2} (1 - \tanh^2 u) \sqrt{2/\pi}\, (1 + 3 \cdot 0.044715\, x^2) $$

# %%
show(MLP.forward)


# %%
def gelu_slope(x: Tensor) -> Tensor:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return (1 + t) / 2 + x / 2 * (1 - t**2) * c * (1 + 3 * 0.044715 * x**2)


with torch.no_grad():
    d_mlp_out = d_resid_post
    same("blocks.0.mlp_out", d_mlp_out)
    same("blocks.0.mlp.W_out.weight", d_mlp_out.mT @ post)
    same("blocks.0.mlp.W_out.bias", d_mlp_out.sum(0))
    d_post = d_mlp_out @ block.mlp.W_out.weight
    same("blocks.0.mlp.post", d_post)
    d_pre = d_post * gelu_slope(pre)
    same("blocks.0.mlp.pre", d_pre)
    same("blocks.0.mlp.W_in.weight", d_pre.mT @ normed2)
    same("blocks.0.mlp.W_in.bias", d_pre.sum(0))
    d_normed2 = d_pre @ block.mlp.W_in.weight
    same("blocks.0.ln2.normalized", d_normed2)
    through_mlp, d_weight, d_bias = normalise_backward(d_normed2, x2, scale2, block.ln2)
    same("blocks.0.ln2.weight", d_weight)
    same("blocks.0.ln2.bias", d_bias)
    d_resid_mid = d_resid_post + through_mlp
    same("blocks.0.resid_mid", d_resid_mid)

# %% [markdown]
# ## Attention
#
# `z = pattern @ v` is linear in both of its factors, and so are the scores in `q` and `k`. Between them stands the softmax. As
# $\partial p_i / \partial s_j = p_i (\delta_{ij} - p_j)$, summing over $i$ gives
#
# $$ \bar{s}_j = \sum_i \bar{p}_i\, p_i (\delta_{ij} - p_j) = p_j \Big(\bar{p}_j - \sum_i p_i\, \bar{p}_i\Big) $$
#
# In words: $\bar{p}_j$ says what it would cost to read more of value $j$, and the sum is the mean of that over what is read
# now. A score is to rise where a value is better than the mean of those read. A key with a share of 0 gets no gradient, however
# good its value: what is not looked at cannot be found worth looking at. Masked keys have a share of exactly 0, so nothing
# flows to the future.

# %%
with torch.no_grad():
    d_attn_out = d_resid_mid
    same("blocks.0.attn.W_O.weight", d_attn_out.mT @ join(z))
    same("blocks.0.attn.W_O.bias", d_attn_out.sum(0))
    d_z = split(d_attn_out @ block.attn.W_O.weight)
    d_pattern, d_v = d_z @ v.mT, pattern.mT @ d_z
    same("blocks.0.attn.pattern", d_pattern)
    d_scores = pattern * (d_pattern - (pattern * d_pattern).sum(-1, keepdim=True))
    same("blocks.0.attn.attn_scores", d_scores)
    d_q, d_k = d_scores @ k / math.sqrt(d_head), d_scores.mT @ q / math.sqrt(d_head)
    d_normed1 = torch.zeros_like(normed1)
    for name, d_head_vectors, linear in (("Q", d_q, block.attn.W_Q), ("K", d_k, block.attn.W_K), ("V", d_v, block.attn.W_V)):
        same(f"blocks.0.attn.{name.lower()}", d_head_vectors.transpose(0, 1))
        d_out = join(d_head_vectors)
        same(f"blocks.0.attn.W_{name}.weight", d_out.mT @ normed1)
        same(f"blocks.0.attn.W_{name}.bias", d_out.sum(0))
        d_normed1 += d_out @ linear.weight  # three readers of one tensor: their gradients add up
    same("blocks.0.ln1.normalized", d_normed1)

# %% [markdown]
# ## Down to the embeddings
#
# One more LayerNorm and one more addition. A row of `W_E` gets the gradients of all positions that looked it up; a row that was
# not looked up gets none.

# %%
with torch.no_grad():
    through_attn, d_weight, d_bias = normalise_backward(d_normed1, x1, scale1, block.ln1)
    same("blocks.0.ln1.weight", d_weight)
    same("blocks.0.ln1.bias", d_bias)
    d_resid_pre = d_resid_mid + through_attn
    same("blocks.0.resid_pre", d_resid_pre)
    same("embed.W_E", torch.zeros_like(model.embed.W_E).index_add(0, tokens, d_resid_pre))
    same("embed.pos_embed.W_pos", d_resid_pre)
say(f"""
{len(checked)} gradients by hand, of all {len(of_weights)} tensors of weights and of {len(checked) - len(of_weights)} activations;
none differs from autograd's by more than {max(checked):.0e}. Look at what never vanished on the way: `d_resid_post` came down to
`d_resid_pre` by two additions, unchanged but for what was added. That is what the residual stream is for, seen from behind.
""")

# %% [markdown]
# ## Autograd against the definition
#
# Both could be wrong alike. The definition is the judge: move one weight by $h$ up and down, and divide the change of the loss
# by $2h$. The error of that is of the order $h^2$, plus rounding, which is *divided* by $h$: so there is a best $h$, and in
# float32 even that is poor. This is why gradients are checked in float64.


# %%
def slope_found(model: Transformer, name: str, place: int, h: float) -> float:
    """Return by how much the loss grows, divided by the move, when one number of a weight is moved both ways."""
    entry, moved = model.get_parameter(name).detach().view(-1)[place : place + 1], []
    before = entry.clone()
    for sign in (1, -1):
        entry.copy_(before + sign * h)
        moved.append(loss_of(model(tokens[None])).detach())
    entry.copy_(before)
    return ((moved[0] - moved[1]) / (2 * h)).item()


for name, weight in model.named_parameters():
    place = int(torch.randint(weight.numel(), (), generator=generator))
    expect(slope_found(model, name, place, 1e-5), of_weights[name].view(-1)[place], f"the slope of {name}", tolerance=1e-7)

name = "blocks.0.mlp.W_in.weight"
true = of_weights[name].flatten()[:8].tolist()
steps = [10**-exponent for exponent in torch.arange(0.5, 11.1, pick(fast=0.5, full=0.1)).tolist()]
errors: dict[str, tuple[list[float], list[float]]] = {}
for label, each in (("float32", copy.deepcopy(model).float()), ("float64", model)):
    mean_errors = [sum(abs(slope_found(each, name, place, h) - slope) for place, slope in enumerate(true)) / 8 for h in steps]
    errors[label] = [math.log10(h) for h in steps], [math.log10(error + 1e-16) for error in mean_errors]
figure(
    plots.lines(errors, title="A slope by trying", x_label="log10 of the move h", y_label="log10 of the error"),
    "Right to left, the error falls with the square of the move until rounding takes over; far left, the loss in float32 stays put",
)
expect(min(errors["float64"][1]) < min(errors["float32"][1]) - 5, True, "float64 is a hundred thousand times better")

# %% [markdown]
# ## What it costs
#
# Each linear step did one product on the way forward, and two on the way back: one for its input, one for its weight, each as
# large. So a step of training costs three forward passes, $6N$ a token. (And memory: all those activations, kept until they are
# needed.)

# %%
show(training_flops)
with FlopCounterMode(display=False) as counter:
    model(tokens[None], hooks={"blocks.0.attn.pattern": lambda pattern, name: None}).sum().backward()
model.zero_grad()
expect(counter.get_total_flops(), training_flops(config, n_pos), "operations there and back, by torch's count", tolerance=0)
expect(training_flops(config, n_pos) / forward_flops(config, n_pos), 3, "three forward passes")

# %% [markdown]
# ## What a head is told
#
# In a trained model these gradients can be read. `stdlib-4l` reads a line of Python; of one head, here is the gradient of the
# loss with respect to its scores, with its sign turned: which key each query should look at more, in the loss's opinion, and
# which less.

# %%
lm = cutaway.load("stdlib-4l")
line = "self.names = self.names[1:]"
line_tokens = lm.tokens(line)
scores_name = "blocks.1.attn.attn_scores"
_, seen, grads = cutaway.gradients(
    lm.model, line_tokens, metrics.loss(line_tokens), [scores_name, scores_name.replace("attn_scores", "pattern")]
)
wishes = -grads[scores_name][0]
head = int(wishes.abs().sum(dim=(-1, -2)).argmax())
expect(wishes.sum(-1), torch.zeros(wishes.shape[:2]), "each row sums to zero", tolerance=1e-5)
figure(
    plots.heatmap(
        wishes[head],
        rows=list(line),
        columns=list(line),
        title=f"More here, less there: layer 1, head {head}",
        row_title="query",
        column_title="key",
        label="less loss for each unit of score",
        signed=True,
    ),
    "Blue: this query would lower the loss by looking at this key more; orange: less. Each row sums to zero",
)

# %% [markdown]
# And how large are gradients, part by part? Compare a model just drawn with the trained one, on the same text.

# %%
PARTS = ["attn.W_Q", "attn.W_K", "attn.W_V", "attn.W_O", "mlp.W_in", "mlp.W_out"]
drawn = Transformer(lm.config, generator=torch.Generator().manual_seed(0))
passage = lm.tokens("    if self.file is not None:\n        self.file.close()\n")
norms: dict[str, list[list[float]]] = {}
for name, each in (("just drawn", drawn), ("trained", lm.model)):
    leaves = [layer.get_parameter(f"{part}.weight") for layer in each.blocks for part in PARTS]
    value = metrics.loss(passage)(each(passage)).mean()
    flat = torch.stack([grad.norm() for grad in torch.autograd.grad(value, leaves)])
    norms[name] = flat.unflatten(0, (-1, len(PARTS))).tolist()
    figure(
        plots.heatmap(
            norms[name],
            rows=[f"layer {layer}" for layer in range(lm.config.n_layers)],
            columns=PARTS,
            title=f"Gradients of a model, {name}",
            label="norm",
            texts=[[f"{norm:#.2g}" for norm in row] for row in norms[name]],
        ),
        f"Model {name}: norms of the gradients of all matrices"
        + ("; queries and keys are told next to nothing" if name == "just drawn" else "; all parts are told something"),
    )
ratios = {name: sum(row[0] + row[1] for row in rows) / sum(row[2] + row[3] for row in rows) for name, rows in norms.items()}
expect(ratios["just drawn"] < 0.1 * ratios["trained"], True, "queries and keys wait")
with torch.no_grad():
    for layer in drawn.blocks:
        layer.attn.W_Q.weight.mul_(10)
        layer.attn.W_K.weight.mul_(10)
leaves = [layer.get_parameter(f"{part}.weight") for part in PARTS[:4] for layer in drawn.blocks]
grads = torch.autograd.grad(metrics.loss(passage)(drawn(passage)).mean(), leaves)
where, what = torch.stack([grad.norm() for grad in grads]).chunk(2)
larger = (where.sum() / what.sum()).item()
assert larger > 5 * ratios["just drawn"]
say(f"""
In the model just drawn, the gradients of `W_Q` and `W_K` are {ratios["just drawn"]:.2g} of those of `W_V` and `W_O`; in the trained
one, {ratios["trained"]:.2g}. Look at `d_q = d_scores @ k`: the gradient of `W_Q` has the keys as a factor and that of `W_K` the
queries, and both are small in a model just drawn. With these two matrices ten times as large the ratio is {larger:.2g}. What is left
is `d_scores`, a difference of values that are still much alike. Plain gradient descent would move *what* is read much faster than
*where* to look. AdamW, which divides each gradient by the size that it usually has, gives both the same pace: this is thought to be
one reason why transformers are trained by it.
""")

# %% [markdown]
# ## Predict
#
# Before you run the next cell: one tensor of weights in a block of GPT-2 has a gradient of zero, whatever the text, whatever
# its other weights. It never learns. Which, and why? (Go through the softmax.)

# %% tags=["prediction"]
sizes = {name: grad.norm().item() for name, grad in of_weights.items() if name.startswith("blocks")}
least = min(sizes, key=sizes.__getitem__)
expect(least, "blocks.0.attn.W_K.bias", "the tensor that never learns")
expect(d_scores.sum(-1), torch.zeros(config.n_heads, n_pos), "each row of d_scores sums to zero", tolerance=1e-12)
rotary_loss = metrics.loss(passage)(lm.model(passage)).mean()
(turned,) = torch.autograd.grad(rotary_loss, lm.model.blocks[0].attn.W_K.bias)
expect(turned.norm().item() > 1e-4, True, "with rotary positions it learns")
say(f"""
`{least}`: the norm of its gradient is {sizes[least]:.0e}, where the next smallest is
{sorted(sizes.values())[1]:.0e}. A bias of the keys adds the same number, `q @ b`, to all scores of a query, and a softmax does not see
what is added to all of its inputs. In the formulas: each row of `d_scores` sums to 0, so the sum of `d_k` over positions is 0 too.
GPT-2 has such biases in each of its layers. Where keys are *turned* by their position after the bias is added, as in `stdlib-4l`, it
does something, and its gradient is not 0: {turned.norm():.2g}.
""")

# %% [markdown]
# ## Exercises
#
# **1. A linear step.** Write `linear_backward(d_y, x, W)` for `y = x @ W.mT + b`: the gradients of `x`, `W` and `b`, in this
# order.


# %% tags=["starter"]
def linear_backward(d_y: Tensor, x: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d_b = d_y.sum(0)
    return ..., ..., d_b


# %% [markdown] tags=["hint"]
# Each gradient has the shape of its tensor: `x` is `pos d_in`, `W` is `d_out d_in`, `d_y` is `pos d_out`. There is one way to
# multiply two of them so that the shapes come out.


# %% tags=["solution"]
def linear_backward(d_y: Tensor, x: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return d_y @ W, d_y.mT @ x, d_y.sum(0)


# %% tags=["check"]
def autograd_of(y: Tensor, d_y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients of some inputs for a gradient of the output."""
    return torch.autograd.grad((y * d_y).sum(), inputs)


with checking("a linear step"):
    x, W, b, d_y = (torch.randn(*size, dtype=torch.double, generator=generator) for size in ((5, 3), (4, 3), (4,), (5, 4)))
    x, W, b = (each.requires_grad_() for each in (x, W, b))
    found = linear_backward(d_y, x.detach(), W.detach())
    for name, mine, true in zip("xWb", found, autograd_of(x @ W.mT + b, d_y, x, W, b), strict=True):
        expect(mine, true, f"the gradient of {name}", tolerance=1e-10)

# %% [markdown]
# **2. RMSNorm.** Llama's norm divides by $\mathrm{rms} = \sqrt{\mathrm{mean}(x^2) + \epsilon}$ and multiplies by a weight, with
# no mean and no bias. Write its way back, `rms_norm_backward(d_y, x, weight, eps)`: the gradients of `x` and of the weight.


# %% tags=["starter"]
def rms_norm_backward(d_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rms = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    x_hat = x / rms
    return d_y * weight / rms, (d_y * x_hat).sum(0)


# %% [markdown] tags=["hint"]
# The starter treats `rms` as a constant. It moves when `x` moves: its derivative by one coordinate is `x / (d * rms)`, that is
# `x_hat / d`.

# %% [markdown] tags=["hint"]
# It is the formula of LayerNorm with one of its three terms gone: this norm does not ignore a constant added to `x`.


# %% tags=["solution"]
def rms_norm_backward(d_y: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rms = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    x_hat = x / rms
    d_hat = d_y * weight
    return (d_hat - x_hat * (d_hat * x_hat).mean(-1, keepdim=True)) / rms, (d_y * x_hat).sum(0)


# %% tags=["check"]
with checking("RMSNorm"):
    for d, eps in ((8, 1e-5), (3, 0.1)):
        norm = RMSNorm(d, eps=eps).double()
        with torch.no_grad():
            norm.weight.normal_(generator=generator)
        x, d_y = torch.randn(2, 5, d, dtype=torch.double, generator=generator)
        x.requires_grad_()
        found = rms_norm_backward(d_y, x.detach(), norm.weight.detach(), eps)
        for name, mine, true in zip(("x", "the weight"), found, autograd_of(norm(x), d_y, x, norm.weight), strict=True):
            expect(mine, true, f"the gradient of {name} for {d} coordinates, eps {eps}", tolerance=1e-10)

# %% [markdown]
# **3. Attention with shared keys.** Write the way back through causal attention in which groups of query heads share keys and
# values (grouped-query attention): `q` is `head pos d_head`, `k` and `v` are `kv_head pos d_head`, and query heads
# `0 ... n - 1` use the first key head, the next `n` the second. Return the gradients of `q`, `k` and `v`, given that of `z`.
# You have only the inputs, so you compute the pattern once more, which is what fused kernels do to save memory.


# %% tags=["starter"]
def attend_backward(d_z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n_shared = len(q) // len(k)
    k, v = k.repeat_interleave(n_shared, dim=0), v.repeat_interleave(n_shared, dim=0)
    return ..., ..., ...


# %% [markdown] tags=["hint"]
# First, without sharing: compute `pattern` as in the forward pass above, then take the four lines from `d_pattern` to `d_k`.

# %% [markdown] tags=["hint"]
# Repeating a tensor hands it to several readers, and the gradients of several readers add up. So `k` gets the *sum* of the
# gradients of its copies.

# %% [markdown] tags=["hint"]
# `d_k.unflatten(0, (-1, n_shared)).sum(1)` sums neighbouring heads. Forgotten the mask or `math.sqrt(q.shape[-1])`? Both stand
# in the scores, and the second in `d_q` and `d_k` again.


# %% tags=["solution"]
def attend_backward(d_z: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    n_shared = len(q) // len(k)
    k, v = k.repeat_interleave(n_shared, dim=0), v.repeat_interleave(n_shared, dim=0)
    is_later = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
    pattern = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(is_later, -math.inf).softmax(-1)
    d_pattern, d_v = d_z @ v.mT, pattern.mT @ d_z
    d_scores = pattern * (d_pattern - (pattern * d_pattern).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    d_q, d_k = d_scores @ k, d_scores.mT @ q
    return d_q, d_k.unflatten(0, (-1, n_shared)).sum(1), d_v.unflatten(0, (-1, n_shared)).sum(1)


# %% tags=["check"]
with checking("attention with shared keys"):
    for n_heads, n_kv_heads, n_pos, d_head in ((2, 2, 5, 3), (6, 2, 5, 3), (4, 1, 7, 2)):
        sizes_of = {"q": n_heads, "k": n_kv_heads, "v": n_kv_heads, "d_z": n_heads}
        q, k, v, d_z = (torch.randn(n, n_pos, d_head, dtype=torch.double, generator=generator) for n in sizes_of.values())
        q, k, v = (each.requires_grad_() for each in (q, k, v))
        found = attend_backward(d_z, q.detach(), k.detach(), v.detach())
        for name, mine, true in zip("qkv", found, autograd_of(attend(q, k, v, "causal"), d_z, q, k, v), strict=True):
            size = f"{n_heads} heads on {n_kv_heads}, {n_pos} positions, d_head {d_head}"
            expect(mine, true, f"the gradient of {name} with {size}", tolerance=1e-10)

# %% [markdown]
# ## Pitfalls
#
# - *"My loss falls at first, then everything explodes."* Torch adds gradients to those that are there. Without
#   `optimizer.zero_grad()` each step uses the sum of all gradients so far; the cell below shows the second pass doubling them.
# - *"The gradient is None."* Nothing connects that tensor with the loss: it was computed under `no_grad`, detached, or went
#   through `.item()` or numpy. A gradient of zeros is another thing: connected, and of no influence.
# - *"Do gradients vanish in deep transformers?"* Along the stream each addition hands the gradient on, whatever a layer does, so
#   it does not fade with depth as in a plain chain. It is not constant either: in [the residual stream](05_residual_stream.py)
#   the last layer of a deeper pre-norm model gets less, as its reader divides by a longer stream.
# - *"Why not check with finite differences in float32?"* The figure above: the best you get there is a few digits, and you
#   cannot tell a mistake from rounding.

# %%
model.zero_grad()
for n_passes in (1, 2):
    loss_of(model(tokens[None])).backward()
    expect(model.embed.W_E.grad, n_passes * of_weights["embed.W_E"], "gradients add up over passes", tolerance=1e-10)
cut = model.embed(tokens[None]).detach().requires_grad_()
model.zero_grad()
loss_of(model.unembed(model.run_blocks(cut))).backward()
expect(model.embed.W_E.grad is None, True, "below a cut there is no gradient")
expect(cut.grad[0], d_resid_pre, "above it there is")

# %% [markdown]
# ## Read on
#
# [Training](08_training.py): what is done with the gradients. The same derivations with batches, rotary positions and gated
# MLPs: [the theory guide](../docs/theory.md). Gradients as a tool of explanation: [attribution and
# patching](13_attribution_and_patching.py). Backpropagation was made famous by Rumelhart, Hinton & Williams in 1986, and is
# older.
