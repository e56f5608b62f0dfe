# %% [markdown]
# # Real models
#
# **What is in the file of a trained model, and how do you know that you read it right?**
#
# You need: [the whole model](06_whole_model.py). Explains: [families.py](../src/cutaway/weights/families.py),
# [renaming.py](../src/cutaway/weights/renaming.py), [hugging_face.py](../src/cutaway/weights/hugging_face.py),
# [gguf_file.py](../src/cutaway/weights/gguf_file.py), [comparison.py](../src/cutaway/evaluation/comparison.py).

# %%
import copy
import json
import math
import struct
import tempfile
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from torch import Tensor

import cutaway
from cutaway import LanguageModel, ModelConfig, Transformer, plots, refactoring
from cutaway.lesson import checking, expect, figure, pick, say, show
from cutaway.tokenizers import CharTokenizer
from cutaway.weights import HuggingFaceFolder, model_sha256, open_model, parameter_shapes, save_hugging_face
from cutaway.weights.families import FAMILIES, Family
from cutaway.weights.renaming import Renaming

# %% [markdown]
# ## The idea
#
# A trained model is a list of tensors with names, and a page of settings that says which computation they belong to. There is
# no program in it. Whoever loads it must bring a program that computes *exactly* what the authors' did: the same order of
# operations, the same constants, the same layout of each matrix. Nothing in the file protects you. A matrix that was transposed
# by mistake, if it is square, fits its place; an activation function that is nearly the right one raises no error. The model
# still talks. It is only a little worse, and every experiment on it is an experiment on another model.
#
# So loading has two halves: to translate names and layouts, which is a table, and to prove that nothing was lost, which is a
# measurement. This lesson does both by hand and then shows the library's own.

# %% [markdown]
# ## The equation
#
# PyTorch's linear layer has a matrix $W$ of shape `d_out d_in`; OpenAI's GPT-2 keeps what it calls Conv1D, a matrix of shape
# `d_in d_out`:
#
# $$ y = x\,W^\top + b \quad (\text{Linear}), \qquad y = x\,W' + b \quad (\text{Conv1D}), \qquad W' = W^\top $$
#
# and its queries, keys and values lie in one matrix side by side: $W'_\mathrm{c\_attn} = [\,W_Q^\top \mid W_K^\top \mid
# W_V^\top\,]$.
#
# A quantised file stores blocks of 32 weights as small whole numbers $n_i$ with a common scale $d$, and perhaps an offset $m$:
#
# $$ \text{Q8\_0}:\; w_i \approx d\, n_i,\; -127 \le n_i \le 127 \qquad \text{Q4\_1}:\; w_i \approx d\, n_i + m,\; 0 \le n_i \le 15 $$
#
# The error of a weight is at most about half a step, $d / 2$; and $d$ follows from the largest weight of the block, in Q4_1
# from the distance between the largest and the smallest.

# %% [markdown]
# ## The code
#
# The library has no code for GPT-2 and other code for Llama. A family is a table. A row says which of our tensors lie in one of
# theirs, and it is read in both directions.

# %%
show(Renaming)


# %%
def short(name: str) -> str:
    return f"`{name.removeprefix('transformer.').replace('{layer}', 'L').removesuffix('.{kind}').removesuffix('.weight')}`"


say(
    "| Hugging Face's GPT-2 | cutaway | |\n|---|---|---|\n"
    + "\n".join(
        f"| {short(row.theirs)} | {', '.join(map(short, row.ours))} | {'transposed' if row.is_conv1d else ''} |"
        for row in FAMILIES["gpt2"].rows
    )
)

# %%
show(Family.match, start="expected = self._expected", stop="return rows")

# %% [markdown]
# ## A checkpoint in your hand
#
# Make a tiny GPT-2, write it in Hugging Face's format, and look into the folder.

# %%
work = tempfile.TemporaryDirectory()
folder = Path(work.name) / "tiny"
tokenizer = CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .\n")
tiny_config = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=16, n_layers=2, n_heads=2, d_model=8)
tiny = LanguageModel(Transformer(tiny_config, generator=torch.Generator().manual_seed(0)).eval(), tokenizer)
save_hugging_face(tiny, folder)
settings = json.loads((folder / "config.json").read_text())
say("Files: " + ", ".join(f"`{path.name}`" for path in sorted(folder.iterdir())))
say(
    "Settings, in their words: "
    + ", ".join(f"`{name}` {settings[name]}" for name in ("n_embd", "n_layer", "n_head", "n_positions"))
)

# %% [markdown]
# **The file of weights** has a format that one can read without any library, which is its point. Eight bytes hold a number, the
# length of a header; then comes the header, JSON, with the type, shape and place of each tensor; then the numbers. Nothing in
# it can run. (The older `.bin` and `.pt` files are pickles: programs that build objects when they are read, and that may do
# anything else as well.)

# %%
content = (folder / "model.safetensors").read_bytes()
(n_header,) = struct.unpack("<Q", content[:8])
header = json.loads(content[8 : 8 + n_header])
name = "transformer.h.0.attn.c_attn.weight"
begin, end = header[name]["data_offsets"]
raw = content[8 + n_header + begin : 8 + n_header + end]
c_attn = torch.from_numpy(np.frombuffer(raw, dtype="<f4").reshape(header[name]["shape"]).copy())
block = tiny.model.blocks[0].attn
expect(header[name]["shape"], [8, 24], "d_model by three times d_model: a Conv1D")
expect(c_attn[:, :8].T, block.W_Q.weight, "its first third, transposed, is W_Q")
expect(c_attn[:, 16:].T, block.W_V.weight, "its last third is W_V")
say(f"""
The header takes {n_header:,} of {len(content):,} bytes. It says of `{name}`: `{json.dumps(header[name])}`.
""")

# %% [markdown]
# **One tensor is not there:** the unembedding. GPT-2 ties it to the embedding, so `lm_head.weight` would be a copy. Files that
# have it all the same exist, and a reader has to check that it *is* a copy; the library does.

# %%
assert "lm_head.weight" not in header
assert tiny.model.unembed.W_U.weight is tiny.model.embed.W_E, "one tensor under two names"
again = cutaway.load(folder)
for name, weight in tiny.model.named_parameters():
    there = again.model.get_parameter(name)
    assert torch.equal(weight.view(torch.int32), there.view(torch.int32)), f"{name} has changed"
expect(model_sha256(again.model), model_sha256(tiny.model), "one hash of all weights and settings")
rows = FAMILIES["gpt2"].rows_of(tiny_config)
expect(set(rows), set(header) - {"__metadata__"}, "the table knows every tensor of the file, and no other")
say(f"Written and read again: {sum(weight.numel() for weight in again.model.parameters()):,} numbers, every bit the same.")

# %% [markdown]
# Where are the numbers of the real one? From the shapes alone, without its file:

# %%
groups = Counter()
for name, shape in parameter_shapes(ModelConfig.preset("gpt2")).items():
    part = {"attn": "attention", "mlp": "MLP", "embed": "embedding of tokens"}
    kind = next((said for key, said in part.items() if f".{key}." in f".{name}"), "norms")
    groups["embedding of positions" if "W_pos" in name else kind] += shape.numel()
expect(sum(groups.values()), 124_439_808, "the parameters of GPT-2 small")
figure(
    plots.bars(
        [n / 1e6 for n in groups.values()], labels=list(groups), title="Where GPT-2 small has its parameters", label="millions"
    ),
    "A third of GPT-2 small is the table of its tokens, which is tied: it counts once and is used at both ends",
)

# %% [markdown]
# ## Weights of 8 bits and of 4
#
# The commonest files for one's own machine are GGUF, and their weights are quantised. Take 32 weights of a trained model and
# the block that becomes of them: two bytes of scale, a number in float16, and one byte a weight.

# %%
lm = cutaway.load("stdlib-4l")
weights = lm.model.blocks[0].mlp.W_in.weight.detach().numpy()[:1, :32]
bytes_8 = quantize(weights, GGMLQuantizationType.Q8_0)
expect(bytes_8.shape, (1, 34), "bytes of a block of Q8_0")
scale = bytes_8[0, :2].view(np.float16)[0]
by_hand = np.float32(scale) * bytes_8[0, 2:].view(np.int8)
expect(by_hand, dequantize(bytes_8, GGMLQuantizationType.Q8_0)[0], "decoded by hand as by the gguf package", tolerance=1e-7)
expect(float(scale) * 127 / float(np.abs(weights).max()), 1.0, "the largest weight has the number 127", tolerance=1e-3)
bytes_4 = quantize(weights, GGMLQuantizationType.Q4_1)
half_a_step = float(weights.max() - weights.min()) / 15 / 2  # of Q4_1
decoded = {"Q4_1": dequantize(bytes_4, GGMLQuantizationType.Q4_1)[0], "Q8_0": by_hand}
assert half_a_step / 2 < np.abs(decoded["Q4_1"] - weights).max() < 1.1 * half_a_step
figure(
    plots.scatter(
        {name: (weights[0].tolist(), (values - weights[0]).tolist()) for name, values in decoded.items()},
        title="What rounding moves 32 weights by",
        x_label="as trained",
        y_label="decoded less trained",
        levels={"half a step up": half_a_step, "half a step down": -half_a_step},
    ),
    "Eight bits leave each weight nearly where it was; four bits know sixteen heights between the lowest and the highest of the block, "
    "and move a weight by up to half of the step between two",
)
say(f"""
A block of Q8_0 takes {bytes_8.size} bytes, {bytes_8.size * 8 / 32:.1f} bits a weight; one of Q4_1 {bytes_4.size} bytes,
{bytes_4.size * 8 / 32:.1f} bits, as 32 weights share a scale. The error is at most
{np.abs(decoded["Q8_0"] - weights).max():.4f} and {np.abs(decoded["Q4_1"] - weights).max():.3f}, beside weights of
{np.abs(weights).mean():.2f} on average.
""")

# %% [markdown]
# ## What a rounding does to a model
#
# An error of a weight says little. What counts is the function. `cutaway.compare` runs two models on one text, and reports how
# their predictions differ and *where along the computation* they part.


# %%
def changed(lm: LanguageModel, change: object) -> LanguageModel:
    """Return a copy of a language model whose matrices went through `change`."""
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(change(weight))  # type: ignore[operator]
    return LanguageModel(model, lm.tokenizer)


def quantised(kind: GGMLQuantizationType) -> object:
    return lambda weight: torch.from_numpy(dequantize(quantize(weight.detach().numpy(), kind), kind))


TEXT = '''
class Reader:
    """Reads a file line by line, and says at which line it is."""

    def __init__(self, path, encoding="utf-8"):
        self.path = path
        self._file = open(path, encoding=encoding)
        self.number = 0

    def close(self):
        self._file.close()

    def __next__(self):
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        return line.rstrip()
'''
copies = {
    "float16": changed(lm, lambda weight: weight.half().float()),
    "bfloat16": changed(lm, lambda weight: weight.bfloat16().float()),
    "Q8_0": changed(lm, quantised(GGMLQuantizationType.Q8_0)),
    "Q4_1": changed(lm, quantised(GGMLQuantizationType.Q4_1)),
}
comparisons = {name: cutaway.compare(lm, other, TEXT) for name, other in copies.items()}
places = [each.name.removeprefix("blocks.") for each in comparisons["Q8_0"].layers]
figure(
    plots.lines(
        {
            name: (list(range(len(places))), [math.log10(each.relative) for each in found.layers])
            for name, found in comparisons.items()
        },
        title="How far rounded weights carry the model from itself",
        x_label="the embedding, after each layer, the logits",
        y_label="log10 of difference / size",
    ),
    "Each format has its own height, from the embedding to the logits: what was rounded neither explodes nor dies out on the way",
)
say(
    "| weights in | bits | KL, nats a token | same likeliest token | loss |\n|---|---|---|---|---|\n"
    + "\n".join(
        f"| {name} | {bits} | {found.kl:.0e} | {found.agreement:.0%} | {found.loss_difference:+.4f} |"
        for (name, found), bits in zip(comparisons.items(), (16, 16, 8.5, 5), strict=True)
    )
)
for each in comparisons.values():
    assert 0.3 < each.layers[-1].relative / each.layers[0].relative < 3, "the end is about as far off as the beginning"
assert comparisons["float16"].kl < comparisons["bfloat16"].kl < comparisons["Q4_1"].kl
assert comparisons["Q8_0"].kl < comparisons["Q4_1"].kl

# %% [markdown]
# The lines are flat. So is it the embedding that does all the harm, and do the layers pass it on? Round one and leave the
# other.

# %%
halves = {}
for name, is_embedding in {"embedding": True, "blocks": False}.items():
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight.ndim == 2 and ("embed" in weight_name) == is_embedding:
                weight.copy_(quantised(GGMLQuantizationType.Q4_1)(weight))
    halves[name] = cutaway.compare(lm, LanguageModel(model, lm.tokenizer), TEXT)
alone, after_one = (halves["embedding"].layers[place].relative for place in (0, 1))
assert after_one < alone
assert all(0.2 < found.kl / comparisons["Q4_1"].kl < 0.9 for found in halves.values())
say(f"""
With Q4_1 the KL is {comparisons["Q4_1"].kl:.4f}; with only the embedding rounded {halves["embedding"].kl:.4f}, with only the blocks
{halves["blocks"].kl:.4f}: about half each. What the embedding brings in shrinks beside the stream, from {alone:.3f} to
{after_one:.3f} of it in the first layer, while each layer adds an error of its own.
""")

# %% [markdown]
# bfloat16 is worse than float16 here: it has the range of float32 and 8 bits of precision, where float16 has 11 bits and little
# range. For weights, which are all of about one size, range is wasted. For gradients and activations it is not.

# %% [markdown]
# ## The same function in other numbers
#
# *"Why do my logits differ from the other library's?"* is the commonest question of all. There are three answers before "a
# mistake". A library may have **folded** the norms' gains into the matrices behind them, and **centred** matrices that write
# into the stream or the unembedding: then the same function is computed from other weights, or logits are moved by a constant
# that the softmax does not see. cutaway does so only when asked, so it can show what each step changes.

# %%
exact = LanguageModel(copy.deepcopy(lm.model).double(), lm.tokenizer)
tokens = exact.tokens(TEXT)[:, :64]
ways = {
    "norms folded": refactoring.fold_norm(exact.model),
    "writing weights centred": refactoring.centre_writing_weights(exact.model),
    "unembedding centred": refactoring.centre_unembed(exact.model),
}


def stream_and_logits(model: Transformer) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        logits, cache = cutaway.run_with_cache(model, tokens, names="blocks.2.resid_post")
    return cache["resid_post", 2], logits


resid, logits = stream_and_logits(exact.model)
found = {}
for name, model in ways.items():
    other_resid, other = stream_and_logits(model)
    found[name] = [
        ((other_resid - resid).norm() / resid.norm()).item(),
        (other - logits).abs().max().item(),
        (other.log_softmax(-1) - logits.log_softmax(-1)).abs().max().item(),
    ]
    assert found[name][2] < 1e-10, "none of these changes a prediction"
assert found["writing weights centred"][0] > 1e-3
assert found["unembedding centred"][1] > 1e-3
say(
    "| | residual stream | logits | log-probabilities |\n|---|---|---|---|\n"
    + "\n".join(f"| {name} | {a:.0e} | {b:.0e} | {c:.0e} |" for name, (a, b, c) in found.items())
    + "\n\nDifferences of each from the model as trained. Compare log-probabilities, and you see what all libraries must agree on."
)

# %% [markdown]
# **The first token** is the second answer. Some tokenizers put a token for the beginning in front, some libraries add it
# always. It is a token like any other: every position attends to it, and every logit changes. Look at the ids before you look
# at the logits. `lm.tokens` takes `bos=True` or `False`, and with `None` does as the tokenizer's file says. **The dtype** is
# the third, measured above.

# %%
with torch.no_grad():
    bare = exact.model(exact.tokens("self.path = path"))[0, -1].softmax(dim=-1)
    begun = exact.model(exact.tokens("\nself.path = path"))[0, -1].softmax(dim=-1)
say(f"One more token in front moves {(bare - begun).abs().sum() / 2:.1%} of the probability of what follows the same text.")
assert (bare - begun).abs().sum() > 1e-3

# %% [markdown]
# ## Predict
#
# GPT-2 has four Conv1D matrices in a layer: `c_attn` from 768 to 2304, `attn.c_proj` from 768 to 768, `c_fc` from 768 to 3072
# and `mlp.c_proj` from 3072 to 768. You forget the transpose in each, one after the other. Which mistake does no check of
# shapes find? And when that one is made, how bad is the model: does it write noise, or does it still know a little? Guess the
# loss, where a model that knows nothing but how often each character occurs has about 3 nats.

# %% tags=["prediction"]
widths = {"c_attn": (768, 2304), "attn.c_proj": (768, 768), "c_fc": (768, 3072), "mlp.c_proj": (3072, 768)}
unseen = [name for name, (d_in, d_out) in widths.items() if d_in == d_out]
expect(unseen, ["attn.c_proj"], "the square one")
broken = copy.deepcopy(lm)
with torch.no_grad():
    for layer in broken.model.blocks:
        layer.attn.W_O.weight.copy_(layer.attn.W_O.weight.T.clone())
seen = cutaway.compare(lm, broken, TEXT)
loss, worse = (math.fsum(getattr(each, which) for each in seen.positions) / len(seen.positions) for which in ("loss_a", "loss_b"))
assert worse > loss + 0.5
shares = torch.bincount(torch.tensor(lm.tokenizer.encode(TEXT))).double() / len(TEXT)
counting = torch.distributions.Categorical(shares).entropy().item()
assert 2.7 < counting < 3.3
expect(seen.first_difference, "blocks.0.attn.result", "where they part")
say(f"""
`attn.c_proj` is square, so it fits either way, and no error is raised. The loss goes from {loss:.2f} to {worse:.2f}; counting the
characters of this text and nothing else would give {counting:.2f}. But `compare` says at once where: the first activation to differ
is `{seen.first_difference}`, what each head of layer 0 writes; the patterns before it are right. That is the method: do not stare at
logits, find the first activation that differs.
""")

# %% [markdown]
# ## A model that others trained
#
# In its full setting this lesson opens SmolLM2, a language model of 135 million parameters that comes from the package registry
# as one GGUF file; in the fast one, the small model that comes with the package. The lines are the same.

# %%
which = pick(fast="stdlib-4l", full="smollm2-135m")
source = open_model(which)  # reads headers alone
kinds = Counter(stored.dtype for stored in source.stored().values())
say(
    f"`{which}`: a {source.kind}, {len(source.stored())} tensors: {', '.join(f'{n} of {kind}' for kind, n in kinds.most_common())}."
)
real = cutaway.load(which)
prompt = pick(fast="    def close(sel", full="The capital of France is")
say(f"`{real}` goes on: `{real.generate(prompt, max_new_tokens=pick(fast=2, full=1), temperature=0)!r}`.")

# %% [markdown]
# ## Exercises
#
# **1. A header.** Write `shapes_of(path)`: the shape of each tensor of a safetensors file by its name, with `struct` and `json`
# alone, and without reading the numbers.


# %% tags=["starter"]
def shapes_of(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        start = file.read(8)
    return {"": list(start)}


# %% [markdown] tags=["hint"]
# `struct.unpack("<Q", start)` is a tuple of one number: how many bytes of JSON follow. Leave out the entry `__metadata__`.


# %% tags=["solution"]
def shapes_of(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        (n_bytes,) = struct.unpack("<Q", file.read(8))
        entries = json.loads(file.read(n_bytes))
    return {name: entry["shape"] for name, entry in entries.items() if name != "__metadata__"}


# %% tags=["check"]
with checking("a header"):
    library = {name: list(stored.shape) for name, stored in HuggingFaceFolder(folder).stored().items()}
    expect(shapes_of(folder / "model.safetensors"), library, "names and shapes, as the library's")

# %% [markdown]
# **2. Three in one.** Write `split_c_attn(weight, bias)`: from GPT-2's `c_attn`, `d_model 3*d_model`, return the weights of
# three `nn.Linear` layers and their biases, as two tuples.


# %% tags=["starter"]
def split_c_attn(weight: Tensor, bias: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return weight.chunk(3), bias.chunk(3)


# %% [markdown] tags=["hint"]
# `chunk` cuts along the first axis. In a Conv1D the outputs are along the second.

# %% [markdown] tags=["hint"]
# Transpose first, then cut.


# %% tags=["solution"]
def split_c_attn(weight: Tensor, bias: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return weight.T.chunk(3), bias.chunk(3)


# %% tags=["check"]
with checking("three in one"):
    three, biases = split_c_attn(c_attn, torch.arange(24.0))
    right = torch.arange(24.0).view(3, 8)
    for part, matrix, bias, right_bias in zip(("W_Q", "W_K", "W_V"), three, biases, right, strict=True):
        expect(matrix, getattr(block, part).weight, part)
        expect(bias, right_bias, f"the bias of {part}")
    x, wide = torch.eye(5)[:2], torch.arange(75.0).view(5, 15)
    three, _ = split_c_attn(wide, wide[0])
    expect([len(matrix) for matrix in three], [5, 5, 5], "the outputs of each of the three, d_model 5")
    expect(torch.cat([x @ matrix.T for matrix in three], dim=1), x @ wide, "what the three give for two positions, d_model 5")

# %% [markdown]
# **3. Four bits.** Write `decode_q4_1(blocks)`: rows of `bytes_4.size` bytes become rows of 32 weights. A block is the scale
# $d$ and the offset $m$, two bytes of float16 each, and 16 bytes with two numbers each. The low four bits of these bytes are
# the first half of the weights, *all of them in a row*, and the high four bits the second half.


# %% tags=["starter"]
def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
    d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    numbers = np.stack([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=-1).reshape(len(blocks), 32)
    return d * numbers


# %% [markdown] tags=["hint"]
# Two things are wrong in the starter: what is added is missing, and it takes the two numbers of a byte as neighbours.

# %% [markdown] tags=["hint"]
# `np.concatenate([low, high], axis=1)`, then `d * numbers + m`.


# %% tags=["solution"]
def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
    d = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    m = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    numbers = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    return d * numbers + m


# %% tags=["check"]
with checking("four bits"):
    packed = quantize(np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32), GGMLQuantizationType.Q4_1)
    expect(decode_q4_1(packed), dequantize(packed, GGMLQuantizationType.Q4_1), "five blocks, as the gguf package")

# %% [markdown]
# **4. Which mistake?** Somebody ported the model, and made one of four mistakes: `"activation"`, the exact GELU for GPT-2's
# form of it; `"epsilon"`, another number under the root of the norms; `"rotation"`, another base of the rotary positions;
# `"transpose"`, W_O as above. Write `mistake(lm, port)`, which finds out by `cutaway.compare`. About half an hour with
# `lm.model.hook_names()` at hand, in the order of the computation (the table of [the next lesson](12_opening_the_model.py) says
# what each name is).


# %% tags=["starter"]
def mistake(lm: LanguageModel, port: LanguageModel) -> str:
    first = cutaway.compare(lm, port, TEXT).first_difference
    return "activation" if first else "none"


# %% [markdown] tags=["hint"]
# Print `first` for ports of your own: `lm.config.replace(act="gelu")` makes a configuration, `Transformer(config)` a model, and
# `load_state_dict` puts the same weights in.

# %% [markdown] tags=["hint"]
# A wrong epsilon shows in `ln1.scale`, the first thing a layer computes; a wrong rotation in `rot_q`, before any score; a wrong
# activation in `mlp.post`, while `mlp.pre` is right.


# %% tags=["solution"]
def mistake(lm: LanguageModel, port: LanguageModel) -> str:
    first = cutaway.compare(lm, port, TEXT, tolerance=1e-6).first_difference or ""
    signs = {"scale": "epsilon", "rot_q": "rotation", "result": "transpose", "post": "activation"}
    return signs[first.split(".")[-1]]


# %% tags=["check"]
with checking("which mistake?"):
    changes = {"activation": {"act": "gelu"}, "epsilon": {"norm_eps": 1e-3}, "rotation": {"rotary_base": 10_000.0}}
    for expected, change in changes.items():
        port = Transformer(lm.config.replace(**change)).eval()
        port.load_state_dict(lm.model.state_dict())
        port.config = lm.config  # who makes a mistake does not write it down
        expect(mistake(lm, LanguageModel(port, lm.tokenizer)), expected, "a port with one mistake")
    with patch.object(cutaway, "compare", wraps=cutaway.compare) as compared:
        expect(mistake(lm, broken), "transpose", "the port with W_O transposed")
    assert compared.called, "right, but without `cutaway.compare`, by which it is to be found"

# %% [markdown]
# ## Pitfalls
#
# - *"My logits differ from Hugging Face's."* Look in this order: the ids, with or without a beginning; log-probabilities
#   instead of logits; the dtype; whether anything was folded. Then `compare`, and the first activation that differs.
# - *"The difference is 1e-3; is that rounding?"* Do both in float64. Rounding shrinks by a factor of hundreds of millions, a
#   mistake does not.
# - *"Llama's queries from a GGUF file make no sense."* llama.cpp turns neighbouring coordinates of a head, transformers turns a
#   coordinate with one half a head away. The rows of W_Q and W_K are in another order there; the library sorts them back.
# - *"The file has fewer parameters than the paper says."* Or more: tied weights count once, some files hold a copy, and old
#   GPT-2 files hold the causal triangle as if it were a weight.
# - *"Is a quantised model the model?"* It is another one, near it. Findings about heads mostly carry over; a number in the
#   third digit does not. Say which file you measured: the library writes the hash of the weights into every result.

# %%
theirs = torch.arange(8)  # one head of 8 coordinates as llama.cpp has its rows: pairs side by side
expect(theirs.view(4, 2).T.flatten(), [0, 2, 4, 6, 1, 3, 5, 7], "sorted back: first halves, then second halves")
old = {
    "transformer.h.0.attn.bias": (1, 1, 16, 16),
    **{name: tuple(entry["shape"]) for name, entry in header.items() if "." in name},
}
expect(len(FAMILIES["gpt2"].match(old, tiny_config)), len(rows), "the triangle of an old file is passed over")
work.cleanup()

# %% [markdown]
# ## Read on
#
# [Opening the model](12_opening_the_model.py): you have a real model now, so look inside. Radford et al. 2019, *Language Models
# are Unsupervised Multitask Learners*, for GPT-2's shapes. `cutaway inspect MODEL` shows what a file holds without reading a
# weight, and `cutaway.weights.save_hugging_face` writes your own model for everyone else.
