# %% [markdown]
# # The KV cache
#
# **What does a model compute again and again while it writes, and what limits its speed once it no longer does?**
#
# You need: [attention](03_attention.py) and [sampling](09_sampling.py). Explains:
# [kv_cache.py](../src/cutaway/model/kv_cache.py), [cached.py](../src/cutaway/generation/cached.py),
# [costs.py](../src/cutaway/costs.py), and of [measure](../src/cutaway/measure/__init__.py) what finds a machine's limits.

# %%
import math

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import cutaway
from cutaway import ModelConfig, Transformer, plots
from cutaway.costs import kv_bytes_a_token
from cutaway.flops import forward_flops, product_flops_per_s
from cutaway.generation import CachedDecoder, draw
from cutaway.hooks import recording
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.measure import bytes_a_token, bytes_of_weights, matrix_shapes, seconds
from cutaway.model import Attention, KVCache, attend

# %% [markdown]
# ## The idea
#
# To write a token the model reads the whole text and returns a prediction. To write the next it reads the whole text again, and
# one token more. Nearly all of that is work done before: because of the causal mask nothing that was computed at position 5 can
# depend on what stands at position 6, so it is the same, number for number, whatever comes after.
#
# What has to be kept of the past? Ask what a new position reads from an old one. It never sees its residual stream, its MLP or
# its logits. It sees the old position's *key* and *value* in each head of each layer, and nothing else. Keep those, and a step
# computes one position instead of all. That is the KV cache.
#
# Then a new limit appears. Each weight of the model is used for one multiplication and one addition per token, and must be
# fetched from memory for it. Fetching takes longer than multiplying, by far. From there on, speed is a question of bytes.

# %% [markdown]
# ## The equation
#
# A new position $t$ attends with one query to all keys and values so far:
#
# $$ z_t = \mathrm{softmax}\!\left(\frac{q_t\,K_{\le t}^\top}{\sqrt{d_\mathrm{head}}}\right) V_{\le t} $$
#
# with `q` of shape `1 d_head` and `K`, `V` of shape `k_pos d_head`. The cache of one row holds, in numbers,
#
# $$ 2 \cdot n_\mathrm{layers} \cdot n_\mathrm{kv\_heads} \cdot d_\mathrm{head} \cdot n_\mathrm{pos} $$
#
# And a step for $B$ rows of length $L$, with $W$ bytes of weights and $c$ bytes of cache a token, on a machine that reads
# $\beta$ bytes and computes $\pi$ operations a second, takes at least
#
# $$ \max\!\left( \frac{W + B\,L\,c}{\beta},\; \frac{B \cdot \mathrm{FLOPs\ a\ row}}{\pi} \right) $$

# %% [markdown]
# ## The code
#
# The cache is two lists of tensors, one a layer, with a slot for each position. Attention hands over its new keys and values
# and gets back all of them: what it calls `extend_kv` is this function of the cache, for its layer.

# %%
show(KVCache.extend)

# %%
show(Attention.forward, start="if rotation is not None", stop="z = fused_attend")

# %% [markdown]
# ## What never changes
#
# Read a text twice, with one letter changed in the middle, and look at how far the residual stream moves at each layer and
# position. All computations in this lesson that are to be equal are done in float64, so that a difference means something.

# %%
lm = cutaway.load("stdlib-4l")
model = lm.model.double()
config = model.config
text, changed = "self.name = name", "self.nome = name"
place = next(i for i, (a, b) in enumerate(zip(text, changed, strict=True)) if a != b)
streams = []
for each in (text, changed):
    hooks, seen = recording("embed", "blocks.*.resid_post")
    with torch.inference_mode():
        model(lm.tokens(each), hooks=hooks)
    streams.append(torch.stack([x[0] for x in seen.values()]))  # layer pos d_model
moved = (streams[0] - streams[1]).norm(dim=-1) / streams[0].norm(dim=-1)  # layer pos
expect(moved[:, :place], torch.zeros_like(moved[:, :place]), "nothing before the change moves", tolerance=1e-12)
assert (moved[-1, place:] > 1e-3).all()
figure(
    plots.heatmap(
        moved.flip(0),
        rows=[*[f"after layer {layer}" for layer in reversed(range(config.n_layers))], "embedding"],
        columns=list(text),
        title=f"How far the residual stream moves when {text[place]!r} becomes {changed[place]!r}",
        label="share of its length",
    ),
    "One letter changes: everything to its left stays exactly as it was, so it may be kept",
)

# %% [markdown]
# ## Keys and values, and why not queries
#
# Take the layer's own matrices and do one step by hand. The first positions have been read; then one more comes. A row of the
# pattern belongs to the position that asks. Row 3 was needed once, for what position 3 wrote; no later position ever asks with
# the query of position 3. Its key is a column of every later row.

# %%
attn = Attention(d_model=24, n_heads=3).double()
x = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
with torch.inference_mode():
    whole = attn(x, mask="causal")
    k, v = (W(x[:, :5]).view(5, 3, 8).transpose(0, 1) for W in (attn.W_K, attn.W_V))  # head pos d_head: kept from before
    new = x[:, 5]
    q_new, k_new, v_new = (W(new).view(3, 1, 8) for W in (attn.W_Q, attn.W_K, attn.W_V))  # of the new position alone
    z = attend(q_new, torch.cat([k, k_new], dim=1), torch.cat([v, v_new], dim=1))  # no mask: every key is earlier
    by_hand = attn.W_O(z.flatten())
expect(by_hand, whole[0, 5], "the last position from kept keys and values", tolerance=1e-12)

# %% [markdown]
# ## Slot p holds position p
#
# In the library's cache the slot is the position. Keys lie there as attention uses them, after rotation: a key turned by its
# own position once need not be turned again, since only the difference of positions counts ([embeddings and
# positions](02_embeddings_and_positions.py)).

# %%
tokens = lm.tokens("def read(self, size):\n    return self")
n_pos, n_prompt = tokens.shape[1], 10
kv = KVCache(config, n_slots=n_pos, dtype=torch.float64)
with torch.inference_mode():
    hooks, seen = recording("blocks.*.attn.rot_k", "blocks.*.attn.v")
    uncached = model(tokens, hooks=hooks)[0]
    steps = [model(tokens[:, :n_prompt], kv=kv)[0]]
    steps += [model(tokens[:, pos : pos + 1], kv=kv)[0] for pos in range(n_prompt, n_pos)]
cached = torch.cat(steps)
expect(kv.length(), n_pos, "slots filled")
for layer in range(config.n_layers):
    expect(kv.k[layer][0].transpose(0, 1), seen[f"blocks.{layer}.attn.rot_k"][0], "slot p: the key of position p", tolerance=1e-12)
    expect(kv.v[layer][0].transpose(0, 1), seen[f"blocks.{layer}.attn.v"][0], "and its value", tolerance=1e-12)
worst = (cached - uncached).abs().max().item()
assert worst < 1e-11
say(f"""
Read at once and read one by one, the logits differ by at most {worst:.0e}, where they are as large as
{uncached.abs().max():.0f}: rounding of float64, and no more. A cache is not an approximation.
""")

# %% [markdown]
# ## What it saves, counted
#
# Torch counts the operations of matrix products as they happen. Without a cache, step $t$ reads $t$ positions; with it, one. (A
# hook on the pattern makes attention explicit, so that its products are counted too.)


# %%
def counted(tokens: Tensor, kv: KVCache | None = None) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        model(tokens, kv=kv, hooks={"blocks.*.attn.pattern": lambda pattern, name: None})
    return counter.get_total_flops()


n_steps = pick(fast=48, full=64)
many = torch.arange(n_steps)[None] % config.d_vocab
kv = KVCache(config, n_slots=n_steps, dtype=torch.float64)
lengths = list(range(1, n_steps + 1))
flops = {
    "without a cache": [counted(many[:, :n]) for n in lengths],
    "with a cache": [counted(many[:, n - 1 : n], kv) for n in lengths],
}
expect(flops["without a cache"][-1], forward_flops(config, n_steps), "as the library's formula has it")
totals = {name: sum(each) for name, each in flops.items()}
assert totals["without a cache"] > 0.4 * n_steps * totals["with a cache"]
figure(
    plots.lines(
        {name: (lengths, [n / 1e6 for n in each]) for name, each in flops.items()},
        title="The work of one more token",
        x_label="tokens in the text",
        y_label="million operations",
    ),
    "Without a cache each token costs more than the last; with one it grows by the new scores alone",
)
say(f"""
{n_steps} tokens take {totals["without a cache"] / totals["with a cache"]:.0f} times as much work without the cache as with it, about
half the number of tokens: a sum over 1, 2, 3, ... instead of 1 each.
""")

# %% [markdown]
# ## Why writing is bound by memory
#
# Divide what a step computes by what it must fetch. Each weight takes a multiplication and an addition for each row of the
# batch: $2B$ operations. In float32 it is 4 bytes. So the *arithmetic intensity* is $B / 2$ operations a byte: half an
# operation for a byte at $B = 1$. Now see what this machine could do for each byte it reads.

# %%
flops_per_s = max(product_flops_per_s(torch.float32) for _ in range(3))
memory = torch.ones(pick(fast=2**26, full=2**27))  # more than caches hold
bytes_per_s = memory.nbytes / min(seconds(lambda: memory.sum(), n_rounds=1) for _ in range(7))
ridge = flops_per_s / bytes_per_s
say(f"""
This machine, as it is now: {flops_per_s / 1e9:.0f} billion operations a second in products of large matrices, and
{bytes_per_s / 1e9:.0f} GB a second read from memory. So {ridge:.1f} operations fit into the time of one byte. One row uses 0.5.
""")

# %%
with torch.device("meta"):  # shapes alone: no memory is taken
    gpt2 = Transformer(ModelConfig.preset("gpt2"))
n_bytes = bytes_a_token(gpt2, length=100)
expect(bytes_of_weights(gpt2), sum(4 * d_in * d_out for d_in, d_out in matrix_shapes(gpt2.config)), "bytes of all matrices")
say(f"""
GPT-2 small in float32: {n_bytes / 1e6:.0f} MB must be read for each token. At this machine's rate that allows
{bytes_per_s / n_bytes:.0f} tokens a second, and {2 * bytes_per_s / n_bytes:.0f} with weights of 16 bits. No program that reads the
weights once for each token can be faster here, however clever. Its operations alone would allow {flops_per_s / (n_bytes / 2):.0f}.
""")

# %% [markdown]
# `cutaway bench` measures how near the library's own decoding comes to this line, and `cutaway bench profile` draws it.

# %% [markdown]
# ## Predict
#
# Before you run the next cell: a weight matrix of 4,096 by 16,384, more than a cache holds, is multiplied with $B$ rows. By the
# numbers above, from which $B$ on does computing take longer than reading? What is then the time of *one* row among 4, among
# 64, beside that of a row alone? Compare with the clock.

# %% tags=["prediction"]
W = torch.ones(4096, 16384)
batches = pick(fast=[1, 2, 4, 8, 16, 32, 64], full=[1, 2, 4, 8, 16, 32, 64, 128, 256])
tried = {n_rows: torch.ones(n_rows, 16384) for n_rows in batches}
measured = dict.fromkeys(batches, math.inf)
for _ in range(pick(fast=5, full=15)):  # in turn, so that a busy moment of the machine meets all alike
    for n_rows, rows in tried.items():
        measured[n_rows] = min(measured[n_rows], seconds(lambda rows=rows: rows @ W.T, n_rounds=1))
reading = [W.nbytes / bytes_per_s / n_rows for n_rows in batches]
computing = [2 * W.numel() / flops_per_s] * len(batches)
limit = {n_rows: max(each) for n_rows, *each in zip(batches, reading, computing, strict=True)}
figure(
    plots.laws(
        [
            plots.LawPanel(
                title="one matrix, many rows",
                x_label="rows at once",
                laws={"reading the weights": (batches, reading), "computing": (batches, computing)},
                measured={"measured": (batches, [measured[n_rows] / n_rows for n_rows in batches])},
                write_y=lambda time_s: f"{time_s * 1e3:g} ms",
                x_ticks={float(n_rows): str(n_rows) for n_rows in batches},
            )
        ],
        title="The time of one row",
    ),
    "The time of a row falls as rows are added, until computing is the limit: many rows cost far less than as many times one",
)
assert measured[64] < 64 * measured[1]
say(f"""
Reading and computing take equally long at B = {2 * ridge:.0f}, twice the operations that fit into a byte's time, as four bytes
are read for two operations. In theory a row among 4 takes {limit[4] / limit[1]:.2f} of the time of a row alone, one among 64
{limit[64] / limit[1]:.2f}; by the clock it is {measured[4] / 4 / measured[1]:.2f} and {measured[64] / 64 / measured[1]:.2f}.
This is why servers gather requests: as long as reading is the limit, another reader of the same weights is nearly free.
""")

# %% [markdown]
# A law says what cannot be beaten, not what a program reaches: where points lie above both lines, the program is at fault. On a
# CPU torch multiplies a single row by other code than several, and the code for several is made for many; `cutaway generate
# --compile` makes better of one row. (Points a little below are no miracle: the two limits were measured too.)

# %% [markdown]
# ## What a batch does not make cheap
#
# The weights are shared by all rows of a batch. The cache is not: each row has its own past. So with long texts and many rows
# the cache is what is read, and what fills the memory.

# %%
lengths = list(range(0, 1025, 64))
per_token = kv_bytes_a_token(gpt2.config)
expect(per_token, 2 * 12 * 12 * 64 * 4, "two numbers, 12 layers, 12 heads of 64, four bytes each")
weights = bytes_of_weights(gpt2)
figure(
    plots.lines(
        {
            f"{n_rows} row{'s' * (n_rows > 1)}": (lengths, [(weights / n_rows + n * per_token) / 1e6 for n in lengths])
            for n_rows in (1, 8, 64)
        },
        title="Bytes read for one token of GPT-2 small",
        x_label="tokens in each row",
        y_label="MB a token",
    ),
    "More rows share the weights among them, at the left; every row reads its own cache, which is the slope, and no batch lessens it",
)
shapes = {name: ModelConfig.preset(name) for name in ("gpt2", "gpt2-xl", "phi-2", "smollm2-135m")}
say(
    "| model | KV heads of heads | cache of a token | of a full context |\n|---|---|---|---|\n"
    + "\n".join(
        f"| {name} | {shape.n_kv_heads} of {shape.n_heads} | {kv_bytes_a_token(shape, torch.bfloat16) / 1024:.1f} KiB "
        f"| {shape.n_ctx * kv_bytes_a_token(shape, torch.bfloat16) / 2**20:.0f} MiB |"
        for name, shape in shapes.items()
    )
    + "\n\nIn bfloat16, two bytes a number."
)

# %% [markdown]
# *Grouped-query attention* lessens the slope: several heads of queries share one head of keys and values; in SmolLM2 three
# heads of keys and values serve nine of queries. It computes what full attention computes if its key and value matrices repeat,
# and heads still look at different places, as their queries differ.

# %%
grouped = Attention(d_model=24, n_heads=6, n_kv_heads=2).double()
full = Attention(d_model=24, n_heads=6).double()
with torch.no_grad():
    for part in ("W_Q", "W_O"):
        getattr(full, part).load_state_dict(getattr(grouped, part).state_dict())
    for part in ("W_K", "W_V"):
        for kind in ("weight", "bias"):
            shared = getattr(getattr(grouped, part), kind)
            repeated = shared.unflatten(0, (2, 4)).repeat_interleave(3, dim=0).flatten(0, 1)  # kv_head d_head -> head d_head
            getattr(getattr(full, part), kind).copy_(repeated)
    expect(grouped(x, mask="causal"), full(x, mask="causal"), "grouped heads are full heads that repeat", tolerance=1e-12)

# %% [markdown]
# ## Rows of different lengths
#
# In a batch, prompts have different lengths. The library fills up short rows on the right, where no earlier position looks, and
# each row goes on at its own position: a row never sees a slot after its own. So a row's logits are what they are when it is
# alone.

# %%
prompts = [lm.tokenizer.encode(each) for each in ("import", "class Reader(")]
with torch.inference_mode():
    decoder = CachedDecoder(model, prompts, max_new_tokens=3)
    decoder.read_prompts()
    beside = decoder.append([lm.tokenizer.encode(" ")[0], lm.tokenizer.encode("s")[0]])
    for row, each in enumerate(("import ", "class Reader(s")):
        expect(beside[row], model(lm.tokens(each))[0, -1], "a row beside another, and alone", tolerance=1e-11)

# %% [markdown]
# ## Draft and verify
#
# Reading many positions at once costs little more than reading one: the limit above is for reading the weights once for each
# token, and one pass may be for several. *Speculative decoding* uses that: a small model writes a few tokens ahead, and the
# large one reads them all in one pass. It then accepts each drafted token with probability $\min(1, p/q)$, where $p$ is its own
# probability for the token and $q$ the small model's; at the first refusal it draws anew, from what $p$ has in excess of $q$:
#
# $$ r(x) = \frac{\max(0,\, p(x) - q(x))}{\sum_y \max(0,\, p(y) - q(y))} $$
#
# (if the two agree there are no refusals, and nothing to divide), and the text comes out *exactly* as if the large model had
# drawn every token itself. A token $x$ is written in one of two ways: drafted and accepted, with probability $q(x) \min(1,
# p(x)/q(x)) = \min(q(x), p(x))$; or after a refusal, which has the probability $1 - \sum_y \min(q(y), p(y)) = \sum_y \max(0,
# p(y) - q(y))$, times $r(x)$. Together that is $\min(q, p) + \max(0, p - q) = p$.

# %%
small = cutaway.load("stdlib-1l").model.double()
passage = lm.tokens('    def name(self):\n        """Return the name."""\n')
with torch.inference_mode():
    p, q = (each(passage)[0].softmax(dim=-1) for each in (model, small))  # pos d_vocab each
accepted = torch.minimum(p, q)
excess = (p - q).clamp(min=0)
refusal = 1 - accepted.sum(dim=-1, keepdim=True)
expect(accepted + refusal * excess / excess.sum(dim=-1, keepdim=True), p, "what comes out is p, exactly", tolerance=1e-12)
share = accepted.sum(dim=-1).mean().item()
ahead = range(1, 9)
expected = [(1 - share ** (n + 1)) / (1 - share) for n in ahead]
figure(
    plots.lines(
        {"written in one pass": (list(ahead), expected), "all accepted": (list(ahead), [n + 1 for n in ahead])},
        title="Tokens written in one pass of the large model, by the length of the draft",
        x_label="tokens drafted",
        y_label="tokens written",
    ),
    "A longer draft pays less and less, since one refusal throws away what follows; some token always comes out",
)
say(f"""
At the places of this text a token that a model of one layer drafts is accepted by one of four with probability {share:.0%} on
average. If that held independently at every token, a draft of 4 would yield {expected[3]:.1f} tokens in one pass of the large model.
""")

# %% [markdown]
# ## Exercises
#
# **1. The size of a cache.** Write `cache_bytes(config, n_rows, n_pos, bytes_a_number)` from the equation above.


# %% tags=["starter"]
def cache_bytes(config: ModelConfig, n_rows: int, n_pos: int, bytes_a_number: int) -> int:
    return ...


# %% [markdown] tags=["hint"]
# Keys and values have `n_kv_heads` heads, not `n_heads`; and there are keys *and* values.


# %% tags=["solution"]
def cache_bytes(config: ModelConfig, n_rows: int, n_pos: int, bytes_a_number: int) -> int:
    return 2 * config.n_layers * config.n_kv_heads * config.d_head * n_pos * n_rows * bytes_a_number


# %% tags=["check"]
with checking("the size of a cache"):
    for shape in shapes.values():
        expect(cache_bytes(shape, 3, 100, 2), 300 * kv_bytes_a_token(shape, torch.bfloat16), f"{shape.n_layers} layers, 3 rows")
    kv = KVCache(config, batch=2, n_slots=7)
    expect(cache_bytes(config, 2, 7, 4), sum(x.nbytes for x in (*kv.k, *kv.v)), "the library's own tensors")

# %% [markdown]
# **2. A head that remembers.** Write `step(x, W_Q, W_K, W_V, keys, values)`: `x` is the new position's vector, the matrices are
# `d_model d_head`, `keys` and `values` are Python lists that the function appends to. Return what the head reads, `d_head`
# numbers.


# %% tags=["starter"]
def step(x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    keys.append(x @ W_K)
    values.append(x @ W_V)
    return torch.zeros(W_V.shape[1], dtype=x.dtype)


# %% [markdown] tags=["hint"]
# `torch.stack(keys)` is `k_pos d_head`. The new query is one vector; its scores are one number for each key, its own included.

# %% [markdown] tags=["hint"]
# Divide the scores by the square root of `d_head`, take the softmax, and average the values with it. No mask is needed.


# %% tags=["solution"]
def step(x: Tensor, W_Q: Tensor, W_K: Tensor, W_V: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    keys.append(x @ W_K)
    values.append(x @ W_V)
    scores = torch.stack(keys) @ (x @ W_Q) / math.sqrt(W_Q.shape[1])  # k_pos
    return scores.softmax(dim=-1) @ torch.stack(values)


# %% tags=["check"]
with checking("a head that remembers"):
    generator = torch.Generator().manual_seed(2)
    for n_pos, d_model, d_head in ((5, 12, 4), (7, 10, 3)):
        xs = torch.randn(n_pos, d_model, generator=generator, dtype=torch.float64)
        matrices = torch.randn(3, d_model, d_head, generator=generator, dtype=torch.float64) / math.sqrt(d_model)
        kept_k, kept_v = [], []
        stepped = torch.stack([step(x_new, *matrices, kept_k, kept_v) for x_new in xs])
        expect(len(kept_k), n_pos, f"keys kept after {n_pos} steps")
        what = f"{n_pos} steps with d_head {d_head}, as attention over the whole text"
        expect(stepped, attend(*(xs @ W for W in matrices), "causal"), what, tolerance=1e-10)

# %% [markdown]
# **3. Accept or redraw.** Write the rule of speculative decoding for many tokens at once: `drafted` are tokens drawn from `q`,
# `u` and `v` uniform numbers, one each a token: accept where $u < p/q$, redraw by $v$. Return for each the token that is
# written. The starter refuses rightly but then draws from `p`, which looks natural and is wrong; 100,000 tokens are counted.


# %% tags=["starter"]
def accept_or_redraw(p: Tensor, q: Tensor, drafted: Tensor, u: Tensor, v: Tensor) -> Tensor:
    is_accepted = u < p[drafted] / q[drafted]
    redrawn = draw(p.log().expand(len(v), -1), v)
    return torch.where(is_accepted, drafted, redrawn)


# %% [markdown] tags=["hint"]
# A token for which $p < q$ was drafted too often, and refused sometimes. It must not come back by the redraw.

# %% [markdown] tags=["hint"]
# Redraw from $r$: `(p - q).clamp(min=0)`, divided by its sum. `draw` takes logarithms, and $\ln 0 = -\infty$ is fine there.


# %% tags=["solution"]
def accept_or_redraw(p: Tensor, q: Tensor, drafted: Tensor, u: Tensor, v: Tensor) -> Tensor:
    is_accepted = u < p[drafted] / q[drafted]
    excess = (p - q).clamp(min=0)
    redrawn = draw((excess / excess.sum()).log().expand(len(v), -1), v)
    return torch.where(is_accepted, drafted, redrawn)


# %% tags=["check"]
with checking("accept or redraw"):
    n_tokens = 100_000
    u0, u1, u2 = torch.rand(3, n_tokens, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for large, draft in (([0.5, 0.3, 0.15, 0.05], [0.2, 0.3, 0.1, 0.4]), ([0.1, 0.3, 0.6], [0.5, 0.2, 0.3])):
        large, draft = torch.tensor(large, dtype=torch.float64), torch.tensor(draft, dtype=torch.float64)
        drafted_ids = draw(draft.log().expand(n_tokens, -1), u0)
        tokens_out = accept_or_redraw(large, draft, drafted_ids, u1, u2)
        is_good = u1 < (large / draft)[drafted_ids]
        assert (tokens_out == drafted_ids)[is_good].all(), "a drafted token that passes, u < p / q, must be written as it is"
        assert not (tokens_out == drafted_ids)[~is_good].any(), "a refused token must not come back: there p < q, and r is 0"
        counts = torch.bincount(tokens_out, minlength=len(large))
        off = (counts - n_tokens * large) / (n_tokens * large * (1 - large)).sqrt()  # in standard deviations
        worst_token = int(off.abs().argmax())
        assert off.abs().max() < 5, (
            f"token {worst_token} came {counts[worst_token] / n_tokens:.3f} of the time; expected {large[worst_token]:.2f}, "
            f"which is {off[worst_token]:+.0f} standard deviations away"
        )

# %% [markdown]
# Half an hour more, if you like: put it together. Draft four tokens with `stdlib-1l`, read them with `stdlib-4l` in one pass on
# a `KVCache`, and after a refusal `rewind` the cache to what was accepted. Count the passes for a long text against the figure
# above.

# %% [markdown]
# ## Pitfalls
#
# - *"Cached and uncached logits are not bit for bit equal."* They are the same sums in another order: a product of one row and
#   a product of many add up differently. The float64 check above tells that from a mistake, which would not shrink with the
#   precision.
# - *"Can I drop the oldest slot when the context is full?"* It is fast, and another function. What is kept of later positions
#   was computed with the dropped token in view, and with learned positions each kept key was made for another position. The
#   library reads the last `n_ctx` tokens anew. The cell below measures the difference.
# - *"With my cache every shape is right, and the text is wrong."* The new token got position 0, as a model that is handed one
#   token counts from there. It must get the number of tokens before it; the library takes that from the cache. The cell below
#   makes the mistake.
# - *"Does the cache help in training, or in reading the prompt?"* No: there all positions are known and read at once, in large
#   products. That is why a long prompt is read fast and a short answer written slowly.
# - *"Batched rows give other answers than single ones."* That is a mask or a position that counts padding. Fill up on the
#   right, or give positions that do not count the filling; and test it as above.
# - *"My GPU is 100 % busy and slow."* Busy means that some kernel runs, also while it waits for memory. Count bytes.

# %%
with torch.inference_mode():
    window = lm.tokens("with open(path) as file:\n    data = file.read()\n")[:, :32]
    kv = KVCache(config, n_slots=32, dtype=torch.float64)
    model(window[:, :-1], kv=kv)
    is_kept = torch.arange(32) >= 8  # the new position may not see the first 8 slots
    short = model(window[:, -1:], kv=kv, mask=is_kept[None])[0, -1]
    anew = model(window[:, 8:], positions=torch.arange(8, 32))[0, -1]
difference = (short - anew).abs().max().item()
assert difference > 1e-3
say(f"Dropping eight slots instead of reading the rest anew changes the logits by up to {difference:.2f}.")
with torch.inference_mode():
    right = model(window)[0, -1]
    misplaced = model(window, positions=torch.tensor([*range(31), 0]))[0, -1]  # as if the last token were the first
assert misplaced.shape == right.shape
assert (misplaced - right).abs().max() > 1e-3
moved_share = (misplaced.softmax(dim=-1) - right.softmax(dim=-1)).abs().sum() / 2
say(f"The new token at position 0 instead of 31 moves {moved_share:.0%} of the probability of what comes next.")

# %% [markdown]
# ## Read on
#
# [Real models](11_real_models.py), where weights of 4 bits make those bytes fewer. Leviathan et al. 2023, *Fast Inference from
# Transformers via Speculative Decoding* (arXiv 2211.17192), and Ainslie et al. 2023, *GQA* (arXiv 2305.13245). The library also
# uses its cache for something else: a patch that acts at position 9 of layer 5 need not compute what comes before, see
# [attribution and patching](13_attribution_and_patching.py). The formulas with their derivations: [theory](../docs/theory.md).
