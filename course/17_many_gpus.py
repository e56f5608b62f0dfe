# %% [markdown]
# # Many GPUs
#
# **How do several processors train one model, so that what it learns does not depend on how many there are?**
#
# You need: [training](08_training.py), and from [the KV cache](10_kv_cache.py) what it means to be bound by bytes. Explains:
# [parallel.py](../src/cutaway/training/parallel.py), [step.py](../src/cutaway/training/step.py),
# [ranks.py](../src/cutaway/ranks.py), [loader.py](../src/cutaway/data/loader.py), [costs.py](../src/cutaway/costs.py). No GPU
# is needed: processes on a CPU do the same.

# %%
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway import ModelConfig, TrainConfig, Transformer, plots
from cutaway.costs import n_parameters, step_peak_bytes, train_state_bytes
from cutaway.data import Loader
from cutaway.flops import training_flops
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.model import MLP
from cutaway.ranks import Ranks
from cutaway.runtime import Rank
from cutaway.training.parallel import Replicated, Sharded
from cutaway.training.step import TrainStep, next_token_loss
from cutaway.weights import parameter_shapes

# %% [markdown]
# ## The idea
#
# There are two reasons to take more than one GPU, and they ask for different things. Either one is **too slow**: then every
# process keeps the whole model, reads its own share of the batch, and all of them average their gradients before they step. Or
# one is **too small**: then the model itself is cut up, and what a process needs of the rest is sent to it just in time.
#
# Both rest on one fact of calculus: a gradient is a sum over examples, and a sum may be taken in any order and by anyone. So a
# run on eight GPUs should learn *exactly* what a run on one learns. That is a demand one can test, and it is the best
# protection there is: a mistake in parallel training hardly ever crashes. It trains, a little worse.

# %% [markdown]
# ## The equation
#
# With $R$ processes that each hold $B / R$ of the $B$ rows of a batch:
#
# $$ \nabla L = \frac{1}{B} \sum_{b=1}^{B} \nabla \ell_b
#    = \frac{1}{R} \sum_{r=1}^{R} \Big( \frac{R}{B} \sum_{b \in \mathrm{part}\ r} \nabla \ell_b \Big) $$
#
# The bracket is what process $r$ computes by itself; the outer mean is the only communication. It holds because all parts are
# equally large. To average $S$ bytes in a ring of $R$ processes each of them sends
#
# $$ 2\, \frac{R - 1}{R}\, S \text{ bytes} $$
#
# each step. What training holds, with $N$ parameters in float32 and AdamW's two averages, is $16 N$ bytes and
# the activations.

# %% [markdown]
# ## The code
#
# The step of the library is one, for one process and for many. `parallel` is told what to do with the model; the rest reads as
# if there were one process.

# %%
show(TrainStep.__call__)

# %%
show(Replicated)

# %% [markdown]
# ## What has to fit
#
# From the shape alone, before anything is bought:

# %%
show(train_state_bytes)

# %%
GIB = 2**30
sizes = {name: ModelConfig.preset(name) for name in ("gpt2", "gpt2-large", "gpt2-xl")}
n_of = {name: n_parameters(config) for name, config in sizes.items()}


def row_bytes(config: ModelConfig) -> float:
    """Return what one more row of the full context adds to the peak of a step, where activations make it."""
    return (step_peak_bytes(config, 16 * config.n_ctx) - step_peak_bytes(config, 8 * config.n_ctx)) / 8


say(
    "| model | parameters | weights | gradients | AdamW's averages | each row adds |\n|---|---|---|---|---|---|\n"
    + "\n".join(
        f"| {name} | {n / 1e6:,.0f} million | {4 * n / GIB:.1f} GiB | {4 * n / GIB:.1f} GiB | {8 * n / GIB:.1f} GiB "
        f"| {row_bytes(sizes[name]) / GIB:.1f} GiB |"
        for name, n in n_of.items()
    )
    + "\n\nFloat32 throughout. Rows of the full context; what they add is kept for the backward pass."
)
xl = sizes["gpt2-xl"]
state = train_state_bytes(xl)
expect(state, 16 * n_of["gpt2-xl"], "sixteen bytes a parameter")
by_part = {
    part: sum(4 * shape.numel() for name, shape in parameter_shapes(xl).items() if name.startswith(part))
    for part in ("blocks.0.", "embed.")
}
counts = list(range(1, 17))
figure(
    plots.lines(
        {
            "whole in each": (counts, [state / GIB] * 16),
            "shared out": (counts, [(state / n + max(by_part.values()) * (n > 1)) / GIB for n in counts]),
        },
        title="Weights, gradients and averages of GPT-2 XL on each device",
        x_label="devices",
        y_label="GiB on each",
    ),
    "Kept whole, the model takes as much on each of 16 devices as on one; shared out, a sixteenth and the part in use",
)

# %% [markdown]
# ## The mean of the gradients is the gradient of the mean
#
# A tiny model, eight rows, in float64. One process takes all eight. Then four take two each, and their gradients are averaged.

# %%
lm = cutaway.load("stdlib-4l")
text = "".join(c for c in inspect.getsource(textwrap) if c == "\n" or " " <= c <= "~")
ids = np.array(lm.tokenizer.encode(text), dtype=np.uint16)
recipe = TrainConfig.preset(
    "shakespeare-char",
    d_vocab=lm.config.d_vocab,
    n_layers=2,
    n_heads=2,
    d_model=32,
    n_ctx=16,
    batch_size=8,
    dtype="float32",
    compile=False,
)


def fresh() -> Transformer:
    return Transformer(recipe.model, generator=torch.Generator().manual_seed(0)).double()


def gradient(model: Transformer, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the mean loss as one long vector."""
    grads = torch.autograd.grad(next_token_loss(model, tokens, targets), list(model.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


model = fresh()
tokens, targets = Loader(ids, batch_size=8, n_ctx=16, seed=0).next_batch()
whole = gradient(model, tokens, targets)
parts = [gradient(model, tokens[part], targets[part]) for part in map(slice, (0, 2, 4, 6), (2, 4, 6, 8))]
expect(torch.stack(parts).mean(dim=0), whole, "the mean of four gradients", tolerance=1e-12)
uneven = [gradient(model, tokens[:6], targets[:6]), gradient(model, tokens[6:], targets[6:])]
off = ((torch.stack(uneven).mean(dim=0) - whole).norm() / whole.norm()).item()
assert off > 0.05
say(f"""
Four equal parts give the gradient of the batch to rounding. Parts of six and two rows do not: the plain mean of their gradients is
{off:.0%} off, as each of the two rows then counts three times as much as each of the six.
""")

# %% [markdown]
# ## A ring, by hand
#
# How does everyone get the mean? If all sent everything to one, that one would receive and send $(R - 1) S$ bytes, and all
# would wait for it. In a *ring* each process sends only to its right neighbour. The vector is cut into $R$ chunks. In the first
# $R - 1$ rounds each sends a chunk, which the neighbour adds to its own: then each process holds one chunk that is complete. In
# $R - 1$ more rounds the complete chunks travel on. At every moment every wire is in use.


# %%
def ring_mean(vectors: list[Tensor]) -> tuple[list[Tensor], list[int], list[list[int]]]:
    """Return what each process ends with, the bytes each has sent, and after each round how many processes are in each chunk."""
    n = len(vectors)
    chunks = [list(vector.clone().tensor_split(n)) for vector in vectors]  # of each process
    inside = [[1] * n for _ in range(n)]  # how many vectors each chunk of each process is the sum of
    sent, history = [0] * n, [[1] * n * n]
    for step in range(2 * (n - 1)):
        is_adding = step < n - 1
        places = [(rank - step) % n if is_adding else (rank + 1 - (step - (n - 1))) % n for rank in range(n)]
        messages = [(chunks[rank][place].clone(), inside[rank][place]) for rank, place in enumerate(places)]
        for rank, (place, (message, count)) in enumerate(zip(places, messages, strict=True)):
            right = (rank + 1) % n
            sent[rank] += message.nbytes
            chunks[right][place] = chunks[right][place] + message if is_adding else message
            inside[right][place] = inside[right][place] + count if is_adding else count
        history.append([count for of_rank in inside for count in of_rank])
    return [torch.cat(each) / n for each in chunks], sent, history


means, sent, history = ring_mean(parts)
for mean in means:
    expect(mean, whole, "every process ends with the gradient of the batch", tolerance=1e-12)
expect(sum(sent) / 4, 2 * 3 / 4 * whole.nbytes, "bytes that each has sent", tolerance=1e-3)
expect(history[3].count(4), 4, "after three rounds each process has one complete chunk")
figure(
    plots.heatmap(
        history,
        rows=["at first", *[f"after round {step}" for step in range(1, len(history))]],
        columns=[f"{rank}:{place}" for rank in range(4) for place in range(4)],
        texts=[[str(count) for count in row] for row in history],
        title="How many gradients each chunk is the sum of",
        column_title="process : chunk",
        label="gradients in it",
    ),
    "Sums travel round the ring and grow; after three rounds each process has one that is complete, after three more all of them",
)

# %% [markdown]
# ## Predict
#
# The gradients of GPT-2 small in float32 are half a gigabyte. By the ring, how much does each device send for one step among 2
# devices, among 8, among 64? And how much would have to pass through one device that collected all of them and sent the mean
# back? Write your guesses down: does what each device sends grow with their number?

# %% tags=["prediction"]
n_bytes = 4 * n_of["gpt2"]
expect(n_bytes / 1e9, 0.498, "the gradients, GB", tolerance=1e-3)
say(
    "| devices | each sends, by the ring | through the one that collects |\n|---|---|---|\n"
    + "\n".join(f"| {n} | {2 * (n - 1) / n * n_bytes / 1e9:.2f} GB | {2 * (n - 1) * n_bytes / 1e9:.1f} GB |" for n in (2, 8, 64))
    + "\n\nThe ring's share never reaches twice the gradients. That is why the number of devices can grow: what each of them has to "
    "send does not. The rounds grow, and with them the waiting for the first byte of each."
)
assert 2 * 63 / 64 * n_bytes < 2 * n_bytes

# %% [markdown]
# ## How much faster?
#
# Let one device take $C$ seconds to compute a step. With $R$ devices, $S$ bytes of gradients and a link of $\beta$ bytes a
# second,
#
# $$ T(R) = \frac{C}{R} + 2\,\frac{R-1}{R}\,\frac{S}{\beta}, \qquad \mathrm{speed\text{-}up} = \frac{C}{T(R)} $$
#
# if nothing overlaps. The first term shrinks, the second does not: so the speed-up has a ceiling, $C\beta / 2S$, which a larger
# batch lifts, a faster link, or fewer bytes, but not more devices. Torch's `DistributedDataParallel`, which `Replicated` above
# wraps round the model, sends the gradients of the last
# layers while those of the first are still computed, which hides the second term as long as it is shorter than the backward
# pass. The figure takes no such credit.

# %%
flops_per_s, link = 1e14, 25e9  # a device that reaches 100 TFLOP/s, a link of 25 GB/s: an example, not a machine
n_devices = [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]
compute_s = {n_rows: n_rows * training_flops(sizes["gpt2"], 1024) / flops_per_s for n_rows in (32, 128, 512)}


def speed_up(compute_s: float, n: int) -> float:
    return compute_s / (compute_s / n + 2 * (n - 1) / n * n_bytes / link)


figure(
    plots.lines(
        {
            "in proportion": (n_devices, n_devices),
            **{f"batch of {n_rows}": (n_devices, [speed_up(c, n) for n in n_devices]) for n_rows, c in compute_s.items()},
        },
        title="Speed-up of GPT-2 small by the law, rows of 1024 tokens",
        x_label="devices",
        y_label="times as fast as one",
    ),
    "Small batches stop gaining early: once sending takes as long as computing, more devices only wait together",
)
say(f"""
By the law, a batch of 32 rows can never be more than {compute_s[32] * link / (2 * n_bytes):.0f} times as fast on such devices, one of
512 rows {compute_s[512] * link / (2 * n_bytes):.0f} times.
""")

# %% [markdown]
# ## Several batches to a step
#
# *Gradient accumulation* makes a large batch of several small ones: gradients add up, and one step follows. Between them
# nothing needs to be sent, so the step above holds back the averaging for all batches but the last: with 16 batches that is a
# sixteenth of the traffic. The sum must be divided by the number of batches, or the learning rate grows with it unseen;
# `weight` does that.

# %%
model = fresh()
for part in map(slice, (0, 2, 4, 6), (2, 4, 6, 8)):
    (next_token_loss(model, tokens[part], targets[part]) / 4).backward()
accumulated = torch.cat([weight.grad.flatten() for weight in model.parameters()])
expect(accumulated, whole, "four batches added up", tolerance=1e-12)

# %% [markdown]
# ## Who reads what
#
# Averaging is half of the demand. The other half is that eight processes read the very rows that one would have read, in the
# same steps. A loader with a seed *per process* breaks that: the run then depends on their number, and a run that goes on with
# another number is another run. The library draws the places of the whole batch in every process, from the seed and the number
# of the step alone, and each process takes its rows.

# %%
show(Loader.next_batch)

# %%
show(Ranks.rows)

# %%
for n in (1, 2, 4):
    loaders = [Loader(ids, batch_size=8, n_ctx=16, seed=0, rows=Ranks(Rank(index=index, n_ranks=n)).rows(8)) for index in range(n)]
    for _ in range(3):
        rows = torch.cat([loader.next_batch()[0] for loader in loaders])
    alone = Loader(ids, batch_size=8, n_ctx=16, seed=0)
    third = [alone.next_batch()[0] for _ in range(3)][-1]
    expect(rows, third, f"the third batch of {n} processes, together")

# %% [markdown]
# ## Two real processes
#
# `torchrun` starts processes and tells each of them five things in its environment: which it is, how many there are, the same
# two for its machine, and where to meet. The rest is your program's. Here is one, which trains a few steps with the library's
# own parts and plain gradient descent; it is started twice, the two meet over gloo, torch's way of sending between CPUs, and
# then the same is done alone.

# %%
PROGRAM = """
import json, sys
import numpy as np, torch
from safetensors.torch import save_file
from cutaway import TrainConfig, Transformer
from cutaway.data import Loader
from cutaway.ranks import joined_ranks
from cutaway.training.parallel import make_parallel
from cutaway.training.step import TrainStep

recipe = TrainConfig.from_dict(json.loads(sys.argv[1]))
with joined_ranks("cpu") as ranks:
    parallel = make_parallel(recipe, ranks, torch.float32)
    model = Transformer(recipe.model, generator=torch.Generator().manual_seed(0)).double()
    model = parallel.place(model, torch.device("cpu"))
    step = TrainStep(model, [torch.optim.SGD(model.parameters(), lr=0.1)], recipe, parallel=parallel)
    loader = Loader(np.load("ids.npy"), batch_size=8, n_ctx=16, seed=0, rows=ranks.rows(8))
    for _ in range(int(sys.argv[2])):
        step([loader.next_batch()], learning_rate=0.1)
    if ranks.is_first:
        save_file({name: weight.detach() for name, weight in model.named_parameters()}, f"weights-{ranks.n}.safetensors")
"""


def run_processes(n: int, folder: Path) -> None:
    """Start the program as so many processes of one job, as torchrun would, and wait for all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    library = str(Path(cutaway.__file__).parents[1])
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(recipe.to_dict()), str(n_steps)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": library, "OMP_NUM_THREADS": "1", **told, "RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(n)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * n


n_steps = pick(fast=5, full=20)
with tempfile.TemporaryDirectory() as folder:
    np.save(Path(folder) / "ids.npy", ids)
    run_processes(2, Path(folder))
    of_two = load_file(Path(folder) / "weights-2.safetensors")
model = fresh()
step = TrainStep(model, [torch.optim.SGD(model.parameters(), lr=0.1)], recipe)
loader = Loader(ids, batch_size=8, n_ctx=16, seed=0)
for _ in range(n_steps):
    step([loader.next_batch()], learning_rate=0.1)
apart = max((weight - of_two[name]).abs().max().item() for name, weight in model.named_parameters())
moved = max((weight - start).abs().max().item() for weight, start in zip(model.parameters(), fresh().parameters(), strict=True))
assert apart < 1e-12 < 1e-3 < moved
say(f"""
In {n_steps} steps weights moved by up to {moved:.3f}. What two processes learnt and what one learnt differ by at most {apart:.0e}:
they are one run.
""")

# %% [markdown]
# On a machine with GPUs the same is a command. The batch size is that of all processes together, and any number that divides it
# will do, also for a run that goes on:
#
# ```sh
# torchrun --standalone --nproc-per-node=8 -m cutaway train gpt2-124m-fineweb
# torchrun --standalone --nproc-per-node=4 -m cutaway train --resume
# torchrun --standalone --nproc-per-node=8 -m cutaway train gpt2-124m-fineweb --parallel fsdp2
# ```

# %% [markdown]
# ## Too large for one: shards
#
# *Fully sharded data parallel* keeps of every weight, gradient and average a slice of $1/R$ on each device. Before a block is
# computed, its weights are gathered from all; afterwards they are let go, and gathered again for the backward pass. Its
# gradients are summed so that each device gets only its slice of the sum, which it needs for its slice of the weights. Each
# device sends $(R-1)/R \cdot S$ bytes three times, for two gatherings and one summing, where plain averaging sends it twice:
# half as much again, for $1/R$ of the memory.

# %%
show(Sharded.place, start="if norms:", stop="return model.train()")

# %% [markdown]
# Block by block is the point. What is gathered at one time is one block, while the next one is already on its way, so no device
# ever holds the whole. And a block is where one waits least: large enough for few messages, small enough to fit.
#
# ## Too deep for one: a pipeline
#
# A third way cuts the model between layers. Device $s$ holds some blocks in a row, gets the residual stream from the one
# before, and passes it on. So that not all but one are idle, the batch is cut into $m$ pieces that follow each other. With $p$
# stages there are $m + p - 1$ time slots, of which each stage works in $m$:
#
# $$ \mathrm{idle\ share} = \frac{p - 1}{m + p - 1} $$

# %%
n_stages, n_pieces = 4, 6
slots = np.zeros((n_stages, n_pieces + n_stages - 1), dtype=int)
for stage in range(n_stages):
    for piece in range(n_pieces):
        slots[stage, stage + piece] = 1 + piece % 2
idle = (slots == 0).mean()
expect(idle, (n_stages - 1) / (n_pieces + n_stages - 1), "the share of idle slots")
figure(
    plots.categories(
        slots,
        names=["idle", "pieces 1, 3, 5", "pieces 2, 4, 6"],
        rows=[f"stage {stage}" for stage in range(n_stages)],
        columns=[str(time) for time in range(slots.shape[1])],
        title="Six pieces through four stages",
        column_title="time slot",
    ),
    "The first stage starts alone and the last ends alone: the two triangles are what a pipeline loses, forward and backward alike",
)
say(f"Idle are {idle:.0%} of the slots here; with {4 * n_pieces} pieces it would be {3 / (4 * n_pieces + 3):.0%}.")

# %% [markdown]
# ## Exercises
#
# **1. What fits?** Write `devices_needed(config, memory_bytes)`: the least number of devices over which weights, gradients and
# AdamW's averages can be shared out, if half of each device's memory is kept free for activations and gathered blocks.


# %% tags=["starter"]
def devices_needed(config: ModelConfig, memory_bytes: int) -> int:
    return n_parameters(config) * 4 // memory_bytes


# %% [markdown] tags=["hint"]
# Sixteen bytes a parameter, half of the memory, rounded *up*: `-(-a // b)`.


# %% tags=["solution"]
def devices_needed(config: ModelConfig, memory_bytes: int) -> int:
    return -(-16 * n_parameters(config) // (memory_bytes // 2))


# %% tags=["check"]
with checking("what fits"):
    expect(devices_needed(sizes["gpt2"], 24 * GIB), 1, "GPT-2 small on 24 GiB")
    expect(devices_needed(sizes["gpt2-xl"], 24 * GIB), 2, "GPT-2 XL on 24 GiB each")
    n = devices_needed(xl, 2 * GIB)
    assert state <= n * GIB, f"{n} devices do not hold {state:,} bytes in half of 2 GiB each"
    assert state > (n - 1) * GIB, f"{n - 1} devices of 2 GiB would do; got {n}"

# %% [markdown]
# **2. Uneven parts.** Processes have unequal numbers of tokens that count, because texts were filled up. Each gives the
# gradient of *its own mean* loss, and its number of tokens. Write `combined(gradients, n_tokens)`: the gradient of the mean
# over all tokens. The mistake of the starter is easy to make and hard to see: the loss still falls.


# %% tags=["starter"]
def combined(gradients: list[Tensor], n_tokens: list[int]) -> Tensor:
    return torch.stack(gradients).mean(dim=0)


# %% [markdown] tags=["hint"]
# A mean times its number of tokens is a sum. Sums can be added.


# %% tags=["solution"]
def combined(gradients: list[Tensor], n_tokens: list[int]) -> Tensor:
    total = sum(grad * n for grad, n in zip(gradients, n_tokens, strict=True))
    return total / sum(n_tokens)


# %% tags=["check"]
with checking("uneven parts"):
    expect(combined(uneven, [6 * 16, 2 * 16]), whole, "six rows and two", tolerance=1e-10)
    expect(combined(parts, [5] * 4), whole, "four equal parts", tolerance=1e-10)

# %% [markdown]
# **3. Tensor parallel.** Cut an MLP over two devices so that each computes half of the hidden layer, and only *one* sum is
# exchanged. `W_in` is `d_mlp d_model` as `nn.Linear` has it, `W_out` is `d_model d_mlp`. Write `mlp_half(x, mlp, rank)`: what
# device `rank` of two adds. Device 0 alone adds the bias of `W_out`. The check sums the two halves.


# %% tags=["starter"]
def mlp_half(x: Tensor, mlp: MLP, rank: int) -> Tensor:
    half = slice(rank * mlp.W_in.out_features // 2, (rank + 1) * mlp.W_in.out_features // 2)
    hidden = F.linear(x, mlp.W_in.weight, mlp.W_in.bias)
    del half  # not used yet
    return F.linear(F.gelu(hidden, approximate="tanh"), mlp.W_out.weight, mlp.W_out.bias)


# %% [markdown] tags=["hint"]
# Device `rank` has the rows `half` of `W_in.weight` and of its bias, and the *columns* `half` of `W_out.weight`. The activation
# acts on each hidden neuron alone, so nothing is exchanged before it.

# %% [markdown] tags=["hint"]
# The sum of the halves has everything once, except for what both of them add: the bias of `W_out`, which device 0 alone adds.


# %% tags=["solution"]
def mlp_half(x: Tensor, mlp: MLP, rank: int) -> Tensor:
    half = slice(rank * mlp.W_in.out_features // 2, (rank + 1) * mlp.W_in.out_features // 2)
    hidden = F.linear(x, mlp.W_in.weight[half], mlp.W_in.bias[half])
    out = F.linear(F.gelu(hidden, approximate="tanh"), mlp.W_out.weight[:, half])
    return out + mlp.W_out.bias if rank == 0 else out


# %% tags=["check"]
with checking("tensor parallel"), torch.no_grad():
    for d_model, d_mlp in ((12, 48), (6, 20)):
        mlp, half = MLP(d_model=d_model, d_mlp=d_mlp).double(), d_mlp // 2
        x = torch.randn(5, d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expect(mlp_half(x, mlp, 0) + mlp_half(x, mlp, 1), mlp(x), f"the two halves of {d_mlp} added up", tolerance=1e-10)
        without = MLP(d_model=d_model, d_mlp=half).double()
        for mine, theirs in ((without.W_in.weight, mlp.W_in.weight[half:]), (without.W_in.bias, mlp.W_in.bias[half:])):
            mine.copy_(theirs)
        without.W_out.weight.copy_(mlp.W_out.weight[:, half:])
        without.W_out.bias.zero_()
        with FlopCounterMode(display=False) as needed:
            alone = without(x)
        with FlopCounterMode(display=False) as used:
            expect(mlp_half(x, mlp, 1), alone, f"what the second half of {d_mlp} neurons adds", tolerance=1e-10)
        times = used.get_total_flops() / needed.get_total_flops()
        assert times <= 1, f"device 1 gives its half, but multiplies {times:.2g} times as much as {half} neurons need"

# %% [markdown]
# **4. Shards by hand.** Write one step of sharded gradient descent. `shards[r]` is the slice of the long weight vector that
# device `r` keeps; `gradient_of(weights, r)` needs *all* weights, and returns the gradient of device `r`'s mean loss. Return
# the new shards. Every device may use what it gathered only until it has its gradient, and must move its own slice by the mean
# of all gradients there. About half an hour with the count: return the bytes that each device sends by a ring, too, for one
# gathering and one summing.


# %% tags=["starter"]
def sharded_step(shards: list[Tensor], gradient_of: object, rate: float) -> tuple[list[Tensor], float]:
    n = len(shards)
    gathered = torch.cat(shards)
    moved = [shard - rate * gradient_of(gathered, r)[: len(shard)] for r, shard in enumerate(shards)]  # type: ignore[operator]
    return moved, n * gathered.nbytes


# %% [markdown] tags=["hint"]
# All devices' gradients are as long as the whole vector. Cut each into the slices of the shards, `grad.split([len(s) for s in
# shards])`, and average slice by slice over the devices.

# %% [markdown] tags=["hint"]
# Gathering by a ring: each device passes on $n - 1$ of the $n$ slices, so it sends $(n - 1) / n$ of the whole. Summing by a
# ring, so that each ends with its slice, takes as much again.


# %% tags=["solution"]
def sharded_step(shards: list[Tensor], gradient_of: object, rate: float) -> tuple[list[Tensor], float]:
    n, lengths = len(shards), [len(shard) for shard in shards]
    gathered = torch.cat(shards)
    slices = [gradient_of(gathered, r).split(lengths) for r in range(n)]  # type: ignore[operator]
    means = [sum(of_device[r] for of_device in slices) / n for r in range(n)]
    moved = [shard - rate * mean for shard, mean in zip(shards, means, strict=True)]
    return moved, 2 * (n - 1) / n * gathered.nbytes


# %% tags=["check"]
with checking("shards by hand"):
    for lengths in ((3, 3, 3, 3), (6, 6), (3, 3, 3, 0)):  # the last is how `fully_shard` shares nine out to four
        n_devices, n_weights = len(lengths), sum(lengths)
        points = torch.randn(n_devices, 6, n_weights, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        start = torch.linspace(-1, 1, n_weights, dtype=torch.float64)

        def of_device(weights: Tensor, r: int, points: Tensor = points) -> Tensor:
            return points[r].T @ (points[r] @ weights) / 6

        new_shards, n_sent = sharded_step(list(start.split(lengths)), of_device, 0.1)
        alone = start - 0.1 * torch.einsum("drw,drv,v->w", points, points, start) / (6 * n_devices)
        expect([len(shard) for shard in new_shards], lengths, "the lengths of the new shards")
        expect(torch.cat(new_shards), alone, f"a step with shards of {lengths}, as one device would take it", tolerance=1e-10)
        if len(set(lengths)) == 1:
            expect(n_sent, 2 * (n_devices - 1) / n_devices * start.nbytes, f"bytes each of {n_devices} devices sends")

# %% [markdown]
# ## Pitfalls
#
# - *"With two GPUs my loss is different."* If every process reads its own batch of the old size, the batch has doubled, and the
#   recipe is another one. Keep the batch of all together, as the library does, and the learning rate need not change with the
#   number of devices; or make the batch larger, and choose the rate anew.
# - *"Dropout with the same seed in every process?"* Then all of them drop the same places of their rows: no error is raised,
#   and the noise of one process does not average out with that of the others. The library gives each its own seed; a run with
#   dropout then depends on the number of processes, as runs without it do not.
# - *"The job hangs."* Some process asked for an exchange that another did not: a validation or a save on the first process
#   alone, in which there is an exchange inside. All must ask the same in the same order.
# - *"I printed the loss of process 0."* That is the loss of its rows. The library averages over all before it writes a number.
# - *"Can gradients be averaged in bfloat16?"* It halves the bytes, for an error of about a hundredth or less where tens of devices add
#   up gradients of both signs, as the cell below shows. What adds up over *time* is another matter: an average of AdamW, or a
#   sum over many batches, soon stands still, as a step is too small for its digits. The library computes in bfloat16 and sums
#   in float32.
# - *"Bit for bit the same?"* Nearly: the sum of two halves is rounded in another order than one sum, so float32 runs part in
#   the last digits, and after many steps visibly. The float64 check above tells rounding from a mistake.
# - *"My batch does not divide."* Uneven parts would need weights. The library refuses, and says which sizes do.

# %%
generator, error_of = torch.Generator().manual_seed(0), {}
for n in (8, 64):
    grads = torch.randn(n, 4096, generator=generator)
    in_bfloat16 = torch.zeros(4096, dtype=torch.bfloat16)
    for grad in grads:
        in_bfloat16 = in_bfloat16 + grad.bfloat16()
    error_of[n] = ((in_bfloat16.float() - grads.sum(dim=0)).norm() / grads.sum(dim=0).norm()).item()
assert 0.001 < error_of[8] < error_of[64] < 0.012
say(f"The sum of 8 gradients in bfloat16 is {error_of[8]:.1%} off, of 64 gradients {error_of[64]:.1%}.")
ones = torch.full((4096,), 0.01, dtype=torch.bfloat16)
narrow = torch.zeros((), dtype=torch.bfloat16)
for value in ones:
    narrow = narrow + value
exact = ones.double().sum()
assert narrow < 0.2 * exact
say(
    f"Added one by one in bfloat16, 4096 times 0.01 is {narrow:.1f} instead of {exact:.1f}: the sum stops where a step is too small."
)
try:
    Ranks(Rank(index=0, n_ranks=3)).rows(8)
except ValueError as error:
    say(f"> {error}")

# %% [markdown]
# ## Read on
#
# [The theory guide](../docs/theory.md) has the costs with their derivations. Li et al. 2020, *PyTorch Distributed* (arXiv
# 2006.15704), Zhao et al. 2023, *PyTorch FSDP* (arXiv 2304.11277), Shoeybi et al. 2019, *Megatron-LM* (arXiv 1909.08053), for
# cutting matrices, and Huang et al. 2019, *GPipe* (arXiv 1811.06965). Job files for Slurm are in
# [examples](../examples/slurm/one-node.sbatch).
