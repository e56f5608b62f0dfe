# %% [markdown]
# # Training
#
# **What happens to a GPT while its loss falls, and what should you expect before you start?**
#
# You need: [the whole model](06_whole_model.py) and what a gradient is, from [backpropagation](07_backpropagation.py).
# Explains: [step.py](../src/cutaway/training/step.py), [schedule.py](../src/cutaway/training/schedule.py),
# [optimizer.py](../src/cutaway/training/optimizer.py), [runs.py](../src/cutaway/runs.py).

# %%
import copy
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import cutaway
from cutaway import ModelConfig, TrainConfig, Transformer, plots
from cutaway.data import Loader, read_corpus, split_tokens
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.plots import loss_figure, smoothed
from cutaway.runs import Run
from cutaway.training import expected_loss, validation_loss
from cutaway.training.optimizer import make_optimizers
from cutaway.training.schedule import learning_rate
from cutaway.training.step import TrainStep

# %% [markdown]
# ## The idea
#
# Take a few windows of text. Let the model predict each token from those before it. The loss is the mean surprise at what
# really came; its gradient says for each weight which way is less surprising. Move all weights a little that way, and take
# other windows. There is nothing else to it: no rules of grammar, no labels, a few lines in a loop.
#
# All else in this lesson is about *a little*: how far each weight moves is decided by AdamW, how far all of them do by a
# schedule, and what one may expect of it by the text.

# %% [markdown]
# ## The equation
#
# The loss in nats a token, for tokens $t$ of shape `batch pos`:
#
# $$ L = -\frac{1}{N} \sum \ln p(t_{i+1} \mid t_{\le i}) $$
#
# AdamW keeps two running averages for each weight, of its gradient $g$ and of its square, and moves the weight by their
# quotient:
#
# $$
# \begin{aligned}
# m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2 \\
# w &\leftarrow (1 - \eta \lambda)\, w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
# \end{aligned}
# $$
#
# Here $\eta$ is the learning rate, $\lambda$ the weight decay, $t$ counts steps from 1. Both averages begin at 0, and dividing
# by $1 - \beta^t$ makes up for that. All have the shape of `w`: so training holds four numbers for each weight, with its
# gradient.

# %% [markdown]
# ## The code
#
# One step in the library: gradients of one or several batches, clipping, the optimizer's move. What is called on `_parallel` does
# nothing on one machine; it is for [many GPUs](17_many_gpus.py).

# %%
show(TrainStep.__call__, start="weight = 1", stop="optimizer.zero_grad")

# %% [markdown]
# ## Nats, bits, and what a loss means
#
# A loss of $L$ nats says that the right token got a probability of $e^{-L}$, as a geometric mean: the model was as unsure as if
# it chose among $e^L$ tokens alike. One that knows nothing chooses among all `d_vocab`: for the 65 characters of tiny
# Shakespeare, the text on which nanoGPT and many others try things out, that is $\ln 65$. One bit is $\ln 2$ nats. Losses of
# models with different tokenizers cannot be compared for each token, as their tokens are not of one length; for each *byte* of
# text they can.

# %%
expect(math.exp(math.log(65)), 65, "as unsure as among 65")
known = expected_loss(TrainConfig.preset("stdlib"), read_corpus("stdlib"))
say(f"""
ln 65 is {math.log(65):.2f} nats, {math.log2(65):.2f} bits. The `stdlib` recipe is known to reach {known:.2f} nats a character
on Python's standard library: {known / math.log(2):.2f} bits, as unsure as among {math.exp(known):.1f} characters alike. (That is on
the text which that recipe holds out. Below, another stretch is held out, and losses on the two cannot be compared.)
""")

# %% [markdown]
# ## AdamW by hand
#
# The equation, line by line. It is held against torch's own over a hundred steps.


# %%
def adamw_step(w: Tensor, g: Tensor, m: Tensor, v: Tensor, t: int, *, lr: float, decay: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight and both averages after step `t`, with betas 0.9 and 0.99."""
    m = 0.9 * m + 0.1 * g
    v = 0.99 * v + 0.01 * g**2
    m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.99**t)
    w = (1 - lr * decay) * w - lr * m_hat / (v_hat.sqrt() + 1e-8)
    return w, m, v


generator = torch.Generator().manual_seed(0)
theirs = nn.Parameter(torch.randn(1000, dtype=torch.double, generator=generator))
optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1, foreach=False)
mine, m, v = theirs.detach().clone(), torch.zeros(1000).double(), torch.zeros(1000).double()
begin = mine.clone()
for t in range(1, 101):
    g = torch.randn(1000, dtype=torch.double, generator=generator) * 10 ** torch.linspace(-3, 3, 1000).double()
    mine, m, v = adamw_step(mine, g, m, v, t, lr=0.01, decay=0.1)
    theirs.grad = g
    optimizer.step()
    if t == 1:
        first_move = (mine - begin * (1 - 0.01 * 0.1)).abs()
expect(mine, theirs, "AdamW by hand", tolerance=1e-12)
expect(first_move / 0.01, torch.ones(1000), "the first move over the rate", tolerance=0.02)
say(f"""
After 100 steps no weight of the 1,000 differs from torch's by more than {(mine - theirs).abs().max():.0e}. Their gradients were of
sizes from a thousandth to a thousand, and yet the first step moved each by the learning rate, {first_move.mean():.3f}: of the first
gradient only the sign counts. AdamW does not ask how steep it is, but how *reliably* steep: where gradients agree from step to
step, the quotient is near 1, and where they contradict each other, near 0.
""")

# %% [markdown]
# ## How fast: warm-up, decay, clipping
#
# Because of that, the first steps are too bold: each weight moves by the full rate on the word of a single batch. So the rate
# begins small (*warm-up*). At the end it falls, along half a cosine or a straight line, and the weights settle: steps of a
# fixed size cannot come nearer to a minimum than about their size. *Clipping* scales a gradient longer than a limit down to it,
# all weights alike, so that a single odd batch cannot throw the averages far off.

# %%
show(learning_rate)

work = Path("runs/course/08_training")
work.mkdir(parents=True, exist_ok=True)
scratch = tempfile.TemporaryDirectory()
shape = ModelConfig(d_vocab=96, n_ctx=64, n_layers=pick(fast=2, full=4), n_heads=4, d_model=pick(fast=64, full=128))
recipe = TrainConfig(
    model=shape,
    name="lesson",
    data=str(work / "text.txt"),
    tokenizer=str(work / "tokenizer.json"),
    n_steps=pick(fast=320, full=2000),
    batch_size=pick(fast=8, full=16),
    learning_rate=3e-3,
    min_learning_rate=3e-4,
    n_warmup_steps=20,
    validate_every=pick(fast=20, full=125),
    sample_every=0,
    save_every=pick(fast=20, full=125),
    n_validation_windows=60,
    compile=False,
    device="cpu",
)
every_step = list(range(recipe.n_steps))
figure(
    plots.lines(
        {
            schedule: (every_step, [learning_rate(step, recipe.replace(schedule=schedule)) for step in every_step])
            for schedule in ("cosine", "linear")
        },
        title="The rate of each step",
        x_label="step",
        y_label="learning rate",
    ),
    "A short warm-up, then down to a tenth, as half a cosine or as a line",
)

# %% [markdown]
# ## How much at once: batches and accumulation
#
# The gradient of a batch is the mean of its rows' gradients. So a batch that does not fit can be read in pieces of equal size,
# and the gradients averaged before the one step: `n_accumulate`. It is the same step, but for rounding. (Where pieces hold
# different numbers of tokens that count, the mean of their means is not the mean of all: the best-known bug of accumulation.)

# %%
rows = torch.randint(96, (8, 33), generator=generator)
moved = []
for pieces in (rows.split(8), rows.split(2)):
    model = Transformer(shape, generator=torch.Generator().manual_seed(0)).double()
    step = TrainStep(model, [torch.optim.SGD(model.parameters(), lr=1.0)], recipe.replace(dtype="float32"))
    step([(piece[:, :-1], piece[:, 1:]) for piece in pieces], learning_rate=1.0)
    moved.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
expect(moved[1], moved[0], "one batch of 8 rows and four of 2", tolerance=1e-12)

# %% [markdown]
# ## What the text itself allows
#
# Here is a text that every machine with Python has: its standard library. Before any training, counting says what simple rules
# are worth. How often does each character occur (*unigrams*), how often after each other one (*bigrams*), and after each pair
# (*trigrams*)? Predicting by these tables has a loss on the text that was held out, which a model can be held against.

# %%
tokenizer = cutaway.load("stdlib-4l").tokenizer  # of letters, digits and signs; no rare ones
text = "".join(filter(set(tokenizer.characters).__contains__, read_corpus("stdlib").text))[: pick(fast=1_000_000, full=4_000_000)]
(work / "text.txt").write_text(text)
tokenizer.save(work / "tokenizer.json")
ids, held_out_ids = split_tokens(np.array(tokenizer.encode(text), dtype=np.uint16))
tokens, held_out = (torch.from_numpy(part.astype(np.int64)) for part in (ids, held_out_ids))
V = tokenizer.d_vocab


def table(after: Tensor, rarer: Tensor, n_rarer: float) -> Tensor:
    """Return the share of each token after each context, mixed with what shorter contexts say, which counts `n_rarer` times."""
    return (after + n_rarer * rarer) / (after.sum(-1, keepdim=True) + n_rarer)


first, second, third = tokens[:-2], tokens[1:-1], tokens[2:]
unigrams = table(torch.bincount(tokens, minlength=V).double(), torch.full((V,), 1 / V).double(), 1)
bigrams = table(torch.bincount(second * V + third, minlength=V**2).view(V, V).double(), unigrams, 1)
trigrams = table(torch.bincount((first * V + second) * V + third, minlength=V**3).view(V, V, V).double(), bigrams, 4)
levels = {
    "uniform": math.log(V),
    "unigrams": -unigrams[held_out].log().mean().item(),
    "bigrams": -bigrams[held_out[:-1], held_out[1:]].log().mean().item(),
    "trigrams": -trigrams[held_out[:-2], held_out[1:-1], held_out[2:]].log().mean().item(),
}
expect(sorted(levels.values(), reverse=True), list(levels.values()), "longer contexts say more")
say("| rule | nats a character |\n|---|---|\n" + "\n".join(f"| {name} | {level:.2f} |" for name, level in levels.items()))

# %% [markdown]
# ## Predict
#
# Before you run the next cell, which trains a GPT on this text: where does its loss begin? And suppose that after every few
# steps we ask how far its predictions are from those of each table, by the *KL divergence*: if characters came as the table
# says, how many nats more would each cost by the model's predictions than by the table's? Nobody tells it to count anything.
# Will it ever come close to the table of unigrams? To that of bigrams? At what loss, and in which order?

# %% tags=["prediction"]
windows = held_out[: len(held_out) // 64 * 64].view(-1, 64)
windows = windows[:: len(windows) // 48][:48]
context, previous = windows[:, 1:], windows[:, :-1]
tables = {"unigrams": unigrams.expand(*context.shape, V), "bigrams": bigrams[context], "trigrams": trigrams[previous, context]}
distances: dict[str, list[float]] = {name: [] for name in tables}
asked: list[int] = []


def distance_from_tables(step: int, model: Transformer) -> dict[str, float]:
    """An observer: the KL divergence of the model from each table, in nats a character."""
    with torch.no_grad():
        log_probs = model(windows)[:, 1:].double().log_softmax(-1)
    asked.append(step)
    for name, shares in tables.items():
        distances[name].append((shares * (shares.log() - log_probs)).sum(-1).mean().item())
    return {f"distance.{name}": values[-1] for name, values in distances.items()}


folder = cutaway.train(recipe, observers={"tables": distance_from_tables})
run = Run(folder)
steps, losses = run.metrics().curve("loss")
validated, validation = run.metrics().curve("val_loss")
nearest = {name: asked[values.index(min(values))] for name, values in distances.items()}
loss_at = {name: np.mean(losses[max(step - 10, 0) : step + 10]) for name, step in nearest.items()}
expect(losses[0], levels["uniform"], "the first loss", tolerance=0.04)
expect(0 < nearest["unigrams"] < nearest["bigrams"] < nearest["trigrams"], True, "first unigrams, then bigrams")
assert validation[-1] < levels["bigrams"] + 0.1
say(f"""
It begins at {losses[0]:.2f}, near ln {V}, and below it by a little: a model whose embedding is its unembedding begins by repeating
what it reads, and spaces do come in rows. After {nearest["unigrams"]} steps it is nearest to the table of unigrams: it knows how
often characters occur, and hardly reads. The distance is {min(distances["unigrams"]):.2f} nats then. After {nearest["bigrams"]} steps
it is nearest to the table of bigrams, {min(distances["bigrams"]):.2f} nats away, with a loss of about {loss_at["bigrams"]:.2f} where
the bigrams themselves have {levels["bigrams"]:.2f}: it comes near that table and never is it. At the end its validation loss is
{validation[-1]:.2f}. So the levels are landmarks along the curve and not stations at which it stops; but you can work them out before
you start, and know by them how far a run has come.
""")

# %%
figure(
    plots.lines(
        {name: (asked, values) for name, values in distances.items()},
        title="From one table to the next",
        x_label="step",
        y_label="KL divergence, nats a character",
    ),
    "Its distance from unigrams is least first, then that from bigrams, then that from trigrams",
)
level_lines = {f"{name} {level:.2f}": (every_step, [level] * len(every_step)) for name, level in levels.items()}
figure(
    plots.lines(
        {"the model": (steps, smoothed(losses)), **level_lines},
        title="The loss, and what it stands for",
        x_label="step",
        y_label="nats a character",
    ),
    "From knowing nothing past unigrams to bigrams, and further if it is trained longer: the levels come from counting alone",
)

# %% [markdown]
# ## Reading a run
#
# `cutaway.train` returned a folder that holds all there is to know, in plain files. `metrics.jsonl` has one object a step;
# `manifest.json` says what was trained where on what, with hashes; each checkpoint is a model, and enough to go on from.

# %%
records = (folder / "metrics.jsonl").read_text().splitlines()
last = json.loads(records[-1])
files = "\n".join(f"- `{path.relative_to(folder)}`" for path in sorted(folder.iterdir()) if path.name[0] != ".")
say(f"""
{files}

The last of {len(records)} records: step {last["step"]}, loss {last["loss"]:.2f} on its own batch, {last["val_loss"]:.2f} on text held
out, a learning rate of {last["lr"]:.1e}, a gradient of norm {last["grad_norm"]:.2f} before clipping.
""")
expect(len(run.checkpoints()), 1 + recipe.n_steps // recipe.save_every, "checkpoints")

# %% [markdown]
# The same from a terminal. It says what to expect before it begins, where a recipe is known, and how long is left while it
# runs:
#
# ```sh
# cutaway train stdlib --n-steps 2000    # or shakespeare-char, shakespeare-fast, ...
# cutaway inspect                        # the latest run: its curve, its checkpoints
# cutaway train --resume                 # go on after Ctrl-C, as if nothing had been
# cutaway generate --model runs/stdlib "def main("
# ```

# %% [markdown]
# ## What loss gives what text
#
# The most asked question about small models: *why are my samples garbage?* Because of the loss. Here is what the checkpoints of
# this run write, each with its own, and below them `stdlib-4l`, which comes with the package.

# %%
SEEDS = range(3)
checkpoints = {checkpoint.step: checkpoint for checkpoint in run.checkpoints()}
loss_of = dict(zip(validated, validation, strict=True))
written = []
for step in (0, recipe.save_every, recipe.n_steps // 4, recipe.n_steps):
    lm = cutaway.load(str(checkpoints[step].path))
    written.append((loss_of[step], [lm.generate("    def ", max_new_tokens=40, seed=seed) for seed in SEEDS]))
shipped = cutaway.load("stdlib-4l")
shipped_loss = validation_loss(shipped.model, held_out_ids, max_windows=60)
written.append((shipped_loss, [shipped.generate("    def ", max_new_tokens=40, seed=seed) for seed in SEEDS]))
for loss, samples in written:
    say(f"At a loss of {loss:.2f}:\n\n```text\n" + "\n".join(sample.strip().replace("\n", "⏎") for sample in samples) + "\n```")

# %% [markdown]
# Near the level of unigrams there are the right characters in no order; near bigrams, pairs that could be spoken; below, pieces
# of words and a bracket. Text that makes sense over whole lines needs losses that a model of this size does not reach in so few
# steps. So before you look for a bug in the sampler, look at the loss, and before you wait, at the loss that is to be expected.
#
# ## Too high, too low
#
# Of all the numbers of a recipe, try the learning rate first. Five rates, a quarter of the steps each:

# %%
short = recipe.replace(n_steps=recipe.n_steps // 4, min_learning_rate=0.0, validate_every=10**6, save_every=10**6)
rates = [1e-5, 3e-4, 3e-3, 3e-2, 1.0]
runs = tempfile.mkdtemp(dir=scratch.name)  # a new folder each time that the cell is run
curves = [Run(cutaway.train(short.replace(learning_rate=each, out=f"{runs}/{each}"), quiet=True)).metrics() for each in rates]
ends = [curve.last("val_loss") for curve in curves]
figure(
    plots.lines(
        {
            "after a quarter of the steps": ([math.log10(rate) for rate in rates], ends),
            f"unigrams {levels['unigrams']:.2f}": ([math.log10(rate) for rate in rates], [levels["unigrams"]] * len(rates)),
        },
        title="The loss that each learning rate reaches",
        x_label="log10 of the learning rate",
        y_label="validation loss, nats",
    ),
    "Too low, and it has not got anywhere; too high, and it is thrown back to what it learned first: unigrams",
)
best = ends.index(min(ends))
expect(0 < best < len(rates) - 1, True, "the best rate is in the middle")
expect(ends[-1] > levels["bigrams"], True, "far too high: not even bigrams")
highest = max(curves[-1].curve("loss")[1])
expect(highest > 2 * levels["uniform"], True, "it shoots up")
say(f"""
The best of these is {rates[best]:g}. With {rates[0]:g} it has hardly begun, at {ends[0]:.2f}. With 1 the loss shoots up to
{highest:.0f} within a few steps, and ends at {ends[-1]:.2f}, where unigrams alone have {levels["unigrams"]:.2f}: the bias of the
last norm and the unembedding can learn that table whatever the blocks do, and the blocks are wrecked. If a curve of yours stays
at that level, suspect the rate.
""")

# %% [markdown]
# ## Overfitting
#
# A model that sees the same few lines again and again learns them by heart. The sign is a validation loss that no longer falls
# while the training loss does. The remedies: more text, fewer steps, a smaller model, dropout.

# %%
N_READ = 1500
some_lines = "\n".join(text.splitlines()[::200])  # from everywhere, so that the end is like the beginning
(work / "short.txt").write_text(some_lines[:N_READ])
small = recipe.replace(
    data=str(work / "short.txt"),
    out=f"{tempfile.mkdtemp(dir=scratch.name)}/short",
    n_steps=recipe.n_steps * 5 // 8,
    validation_fraction=0.3,
    learning_rate=5e-3,
    n_window=32,
    save_every=10**6,
)
curve = Run(cutaway.train(small, quiet=True)).metrics()
few_steps, few_losses = curve.curve("loss")
val_steps, val_losses = curve.curve("val_loss")
figure(
    loss_figure(
        {"training": (few_steps, few_losses), "validation": (val_steps, val_losses)},
        title="A few lines, many times over",
    ),
    "The training loss falls on and on; the validation loss stops early, and rises: from there on it learns by heart",
)
at_end = smoothed(few_losses)[-1]
expect(val_losses[-1] > at_end + 0.5, True, "the gap")
expect(val_losses[-1] > min(val_losses) + 0.02, True, "it rises")
say(f"""
{small.n_steps} steps read the {N_READ * 0.7:.0f} characters that it trains on
{small.n_steps * small.n_tokens_per_step / (N_READ * 0.7):.0f} times. The validation loss was best after
{val_steps[val_losses.index(min(val_losses))]} steps, with {min(val_losses):.2f}, and is {val_losses[-1]:.2f} at the end; the training
loss is {at_end:.2f} by then.
""")

# %% [markdown]
# ## What decays
#
# Weight decay pulls each weight towards 0 by $\eta \lambda$ of itself at each step, whatever the gradient says. Matrices and
# embeddings are decayed: where the loss does not need a direction, it fades. Biases and the weights of norms are not: there are
# few of them, and a norm's weight rests at 1, not at 0.

# %%
model = Transformer(shape, generator=torch.Generator().manual_seed(0))
(adamw,) = make_optimizers(model, recipe)
decayed, kept = ({id(weight) for weight in group["params"]} for group in adamw.param_groups)
names = {id(weight): name for name, weight in model.named_parameters()}
expect({names[each].rsplit(".", 1)[-1] for each in kept} == {"bias", "weight"}, True, "biases and norms")
expect(all(model.get_parameter(names[each]).ndim == 1 for each in kept), True, "vectors alone")
left = math.exp(sum(math.log1p(-learning_rate(step, recipe) * recipe.weight_decay) for step in range(recipe.n_steps)))
say(f"""
{len(decayed)} matrices decay and {len(kept)} vectors do not. By decay alone, a weight would be left with {left:.0%} of itself
at the end of this run: the product of `1 - rate * decay` over all steps.
""")

# %% [markdown]
# ## Exercises
#
# **1. Bits for each byte.** A loss is given in nats a token. Write `bits_per_byte(loss, n_tokens, n_bytes)` for a text of so
# many tokens and bytes, in which models with any tokenizer can be compared.


# %% tags=["starter"]
def bits_per_byte(loss: float, n_tokens: int, n_bytes: int) -> float:
    return loss / math.log(2)


# %% [markdown] tags=["hint"]
# First find the nats of the whole text; then ask how many bits these are, and share them out among its bytes.


# %% tags=["solution"]
def bits_per_byte(loss: float, n_tokens: int, n_bytes: int) -> float:
    return loss * n_tokens / math.log(2) / n_bytes


# %% tags=["check"]
with checking("bits for each byte"):
    expect(bits_per_byte(math.log(2), 10, 40), 0.25, "one bit a token of four bytes")
    expect(bits_per_byte(math.log(256), 7, 7), 8, "bytes of which nothing is known")

# %% [markdown]
# **2. A schedule.** Write `rate(step, config)`: a linear warm-up over `n_warmup_steps`, then half a cosine from `learning_rate`
# to `min_learning_rate` at `n_steps`. The first step is 0 and its rate is not 0, or it would be wasted.


# %% tags=["starter"]
def rate(step: int, config: TrainConfig) -> float:
    if step < config.n_warmup_steps:
        return config.learning_rate * step / config.n_warmup_steps
    return config.learning_rate


# %% [markdown] tags=["hint"]
# With `n` warm-up steps, step 0 takes one part of `n + 1`, and step `n` the whole rate.

# %% [markdown] tags=["hint"]
# After that let `progress` go from 0 at step `n_warmup_steps` to 1 at step `n_steps`; `(1 + cos(pi * progress)) / 2` goes from
# 1 to 0, and says how much is left of the difference between the two rates.


# %% tags=["solution"]
def rate(step: int, config: TrainConfig) -> float:
    if step < config.n_warmup_steps:
        return config.learning_rate * (step + 1) / (config.n_warmup_steps + 1)
    progress = (step - config.n_warmup_steps) / (config.n_steps - config.n_warmup_steps)
    left = (1 + math.cos(math.pi * progress)) / 2
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


# %% tags=["check"]
with checking("a schedule"):
    for config in (recipe, recipe.replace(n_warmup_steps=0, n_steps=50), recipe.replace(learning_rate=1e-2, min_learning_rate=0.0)):
        for each in range(0, config.n_steps + 1, 5):
            expect(rate(each, config), learning_rate(each, config), f"the rate of step {each} of {config.n_steps}")

# %% [markdown]
# **3. The loop.** Write `train_by_hand(model, loader, config)`, all of training: for each of `config.n_steps` steps, the
# gradients of `config.n_accumulate` batches of `loader.next_batch()` averaged, clipped to `config.max_grad_norm`, and a step of
# `torch.optim.AdamW` at the rate of the schedule, matrices decayed and vectors not. The check trains two copies of a model, one
# by the library's step and one by yours, and compares all weights, one thing after the other: a step, decay, warm-up, ...


# %% tags=["starter"]
def train_by_hand(model: Transformer, loader: Loader, config: TrainConfig) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    for _ in range(config.n_steps):
        tokens, targets = loader.next_batch()
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()


# %% [markdown] tags=["hint"]
# AdamW takes groups: `[{"params": [...], "weight_decay": config.weight_decay}, {"params": [...], "weight_decay": 0.0}]`, and
# `betas=(config.beta1, config.beta2)`. A vector has `ndim` 1.

# %% [markdown] tags=["hint"]
# `backward()` adds to the gradients that are there: so divide each batch's loss by `config.n_accumulate`, and set the gradients
# to zero once a step, after the optimizer's.

# %% [markdown] tags=["hint"]
# `nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)` goes between the last `backward()` and the step; the rate
# is set by `group["lr"] = learning_rate(step, config)` for each of `optimizer.param_groups`.


# %% tags=["solution"]
def train_by_hand(model: Transformer, loader: Loader, config: TrainConfig) -> None:
    groups = [
        {"params": [weight for weight in model.parameters() if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in model.parameters() if weight.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2))
    for step in range(config.n_steps):
        for _ in range(config.n_accumulate):
            tokens, targets = loader.next_batch()
            loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
            (loss / config.n_accumulate).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.step()
        optimizer.zero_grad()


# %% tags=["check"]
with checking("the loop"):
    plain = recipe.replace(
        model=shape.replace(n_layers=1, d_model=16),
        n_steps=1,
        n_warmup_steps=0,
        batch_size=2,
        max_grad_norm=1e6,
        weight_decay=0.0,
        dtype="float32",
    )
    one_after_the_other: dict[str, dict[str, float]] = {
        "one step": {},
        "with weight decay": {"weight_decay": 5.0},
        "three steps, with a warm-up": {"n_steps": 3, "n_warmup_steps": 2},
        "with three batches a step": {"n_accumulate": 3},
        "with clipping": {"max_grad_norm": 0.5},
        "twelve steps": {"n_steps": 12},
        "other averages": {"beta1": 0.5, "beta2": 0.7},
    }
    config = plain
    for what, changes in one_after_the_other.items():
        config = config.replace(**changes)
        by_library = Transformer(config.model, generator=torch.Generator().manual_seed(0)).double()
        by_hand = copy.deepcopy(by_library)
        loaders = [Loader(ids, batch_size=2, n_ctx=16, seed=0) for _ in range(2)]
        take_step = TrainStep(by_library, make_optimizers(by_library, config), config)
        for each in range(config.n_steps):
            take_step([loaders[0].next_batch() for _ in range(config.n_accumulate)], learning_rate=learning_rate(each, config))
        train_by_hand(by_hand, loaders[1], config)
        for name, weight in by_library.named_parameters():
            expect(by_hand.get_parameter(name), weight, f"{name} after {what}", tolerance=1e-6)

# %% [markdown]
# ## Pitfalls
#
# - *"I left it running all night and the text is still garbage."* (Asked of nanoGPT more than once.) A run needs a number of
#   steps and an expected loss before it starts. `cutaway train` prints both for recipes that were measured, and the time left;
#   for your own text, count unigrams and bigrams as above.
# - *"My loss is lower than that paper's, and my text worse."* Per what? A character model's loss is for each character, a word
#   model's for each word. Compare bits for each byte.
# - *"Validation loss is lower than training loss. A leak?"* Rarely. With dropout, training runs a handicapped model, and the
#   logged training loss is that of one noisy batch, measured before the step. If it is *much* lower from the start, look for a
#   leak.
# - *"The loss spikes, then recovers."* One odd batch, or a rate near its limit. Clipping and a longer warm-up help; a loss that
#   is NaN never recovers, so the library stops there and says which checkpoint is whole.
# - *"Does a batch twice as large need twice the rate?"* For plain gradient descent about that; for AdamW, whose moves do not
#   grow with the gradient, less: the square root is a common rule of thumb. Measure.

# %%
broken = Transformer(shape, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    broken.embed.W_E.mul_(100)
batch = (tokens[:256].view(4, 64), tokens[1:257].view(4, 64))
result = TrainStep(broken, make_optimizers(broken, recipe), recipe)([batch], learning_rate=1e-3)
say(f"""
Embeddings drawn a hundred times too large: the first loss is {result.loss:.0f} instead of about {math.log(96):.1f}, and the gradient
has a norm of {result.grad_norm:.0f}, which clipping brings to {recipe.max_grad_norm:.0f}. Both numbers are in each record of
`metrics.jsonl`: look at the first.
""")
expect(result.loss.item() > 2 * math.log(96), True, "a first loss far above ln d_vocab")

# %% [markdown]
# ## Read on
#
# [Sampling](09_sampling.py): how text is made of what was learned. More than one machine: [many GPUs](17_many_gpus.py). AdamW
# is Loshchilov & Hutter 2019, arXiv 1711.05101. That networks learn unigrams before bigrams, and these before more, is studied
# by Belrose et al. 2024, arXiv 2402.04362.
