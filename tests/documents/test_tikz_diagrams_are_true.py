"""What the diagrams of docs/diagrams draw is true of the library: names, calls, shapes and numbers."""

import importlib
import importlib.util
import inspect
import re
from functools import cache

import pytest
import torch
from torch import Tensor

from cutaway import edits, metrics
from cutaway.config import ModelConfig, Position
from cutaway.experiments import handmade
from cutaway.hooks import recording
from cutaway.interp.sweep import plan_sweep
from cutaway.interp.sweep.lanes import Entry
from cutaway.model import KVCache, Transformer, attend
from tikz_sources import NAMES, drawn_text, listed, pairs, render, source

# Every axis of another size, so that no two can be taken for each other; positions are looked from and looked at.
SIZES = {"batch": 2, "pos": 5, "head": 3, "d_head": 7, "d_model": 11, "d_mlp": 13, "d_vocab": 17, "n_slots": 8}
SIZES |= {"q_pos": SIZES["pos"], "k_pos": SIZES["pos"], "kv_head": SIZES["head"]}


# --- what is drawn is true


def resolve(name: str) -> object:
    """The object of a dotted name: each part what the one before has, or a module in it."""
    first, *parts = name.split(".")
    found: object = importlib.import_module(first)
    for i, part in enumerate(parts, start=1):
        if not hasattr(found, part):
            importlib.import_module(".".join([first, *parts[:i]]))
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_code_exist(name: str) -> None:
    names = listed(name, "code")
    assert names
    for each in names:
        assert callable(resolve(each)), each


def test_dotted_names_that_are_drawn_exist() -> None:
    homes = {"Transformer": "cutaway.", "CachedDecoder": "cutaway.generation.", "metrics": "cutaway.", "cutaway": ""}
    homes |= {"Block": "cutaway.model.", "Attention": "cutaway.model.", "cache": "", "kv": ""}
    values = {"cache": "cutaway.ActivationCache", "kv": "cutaway.model.KVCache"}
    found = set()
    for name in NAMES:
        for drawn in re.findall(rf"(?<![\w.])(?:{'|'.join(homes)})(?:\.[A-Za-z_]\w*)+", drawn_text(name)):
            first, rest = drawn.split(".", 1)
            instance = KVCache(model().config) if first == "kv" else None
            thing = getattr(instance, rest) if instance else resolve(f"{homes[first]}{values.get(first, first)}.{rest}")
            assert thing is not None
            found.add(drawn)
    assert len(found) >= 15


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_checked_are_drawn(name: str) -> None:
    """Of a dotted name the last part, in the drawing itself."""
    checked = [*listed(name, "weight"), *listed(name, "hooks"), *listed(name, "rotary hooks")]
    checked += [left for left, _ in pairs(name, "shape")]
    text = drawn_text(name)
    assert not [each for each in checked if not re.search(rf"(?<!\w){re.escape(each.split('.')[-1])}(?!\w)", text)]


def test_the_forward_pass_calls_what_is_drawn_in_that_order() -> None:
    functions = pairs("forward_pass", "source")
    assert len(functions) >= 6
    for name, fragments in functions:
        code, place = inspect.getsource(resolve(name)), 0
        for fragment in re.split(r", (?![^()]*\))", fragments):
            place = code.find(fragment, place)
            assert place >= 0, f"{name} does not say {fragment}, or says it earlier"


def test_every_call_of_the_forward_pass_is_in_the_code() -> None:
    code = "".join(inspect.getsource(resolve(name)) for name, _ in pairs("forward_pass", "source"))
    steps = re.findall(r"\\step(?:\{[^{}]*\}){5}\{(.*)\}", drawn_text("forward_pass"))
    called = {
        name for step in steps for text in re.findall(r"\\code\{([^{}]*)\}", step) for name in re.findall(r"(\w+)[(\[]", text)
    }
    assert len(called) >= 20
    assert not [name for name in called if not re.search(rf"\b{name}[(\[]|partial\(kv\.{name}\b", code)]


@cache
def model(position: Position = "learned") -> Transformer:
    config = ModelConfig(
        d_vocab=SIZES["d_vocab"],
        n_ctx=SIZES["n_slots"],
        n_layers=2,
        n_heads=SIZES["head"],
        d_model=SIZES["d_model"],
        d_head=SIZES["d_head"],
        d_mlp=SIZES["d_mlp"],
        rotary_dim=SIZES["d_head"] - 1,
        position=position,
        tie_embeddings=False,
    )
    generator = torch.Generator().manual_seed(0)
    drawn = Transformer(config, generator=generator).double()
    for name, weight in drawn.named_parameters():
        if name.endswith("bias"):  # which are zero until they learn
            torch.nn.init.normal_(weight, generator=generator)
    return drawn


def tokens(n_pos: int = SIZES["pos"]) -> Tensor:
    return torch.randint(SIZES["d_vocab"], (SIZES["batch"], n_pos), generator=torch.Generator().manual_seed(1))


@cache
def activations() -> dict[str, Tensor]:
    hooks, seen = recording("*")
    model()(tokens(), hooks=hooks)
    return {"tokens": tokens(), **seen}


@pytest.mark.parametrize("name", ["architecture", "attention", "residual_stream"])
def test_shapes_are_as_drawn(name: str) -> None:
    shapes = [*pairs(name, "shape"), *pairs(name, "arrow")]
    assert len(shapes) >= 2
    for activation, shape in shapes:
        assert list(activations()[activation].shape) == [SIZES[axis] for axis in shape.split()], activation


def test_every_named_arrow_of_the_architecture_has_its_shape() -> None:
    drawn = re.findall(r"\\tensor(?:beside)?\{[^}]*\}\{[^}]*\}\{(\w+)\}\{([\w ]+)\}", drawn_text("architecture"))
    said = {activation.split(".")[-1]: shape for activation, shape in pairs("architecture", "shape")}
    assert len(drawn) == 12
    assert dict(drawn).items() <= said.items()


@pytest.mark.parametrize("name", ["architecture", "residual_stream"])
def test_weights_are_there(name: str) -> None:
    parameters = {key.removesuffix(".weight") for key, _ in model().named_parameters()}
    assert set(listed(name, "weight")) <= parameters


def test_the_forward_pass_names_every_hook() -> None:
    asked, rotary = listed("forward_pass", "hooks"), listed("forward_pass", "rotary hooks")
    of_one_layer = [each for each in activations() if not each.startswith("blocks.1.") and each != "tokens"]
    assert [each for each in of_one_layer if not each.endswith(".scale")] == asked, "in the order of the computation"
    assert sorted({*model("rotary").hook_names()} - {*activations()}) == sorted(
        [*rotary, *(each.replace("blocks.0", "blocks.1") for each in rotary)]
    )
    assert "\\code{scale}" in drawn_text("forward_pass")


def rows(macro: str) -> Tensor:
    """The numbers of a matrix as `attention.tex` draws them; what is left empty is masked."""
    found = re.search(rf"^\\def\\{macro}\{{(.+)\}}$", source("attention").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert found is not None, macro
    values = [[float(value) if value else -torch.inf for value in row.split(",")] for row in re.findall(r"\{([^{}]*)\}", found[1])]
    return torch.tensor(values, dtype=torch.float64)


def test_the_numbers_of_attention_are_the_librarys() -> None:
    q, k, v, W_O = (rows(f"{name}rows") for name in ("q", "k", "v", "WO"))
    hooks, seen = recording("attn_scores", "pattern")
    z = attend(q, k, v, "causal", hooks=hooks)
    assert torch.equal(rows("kTrows"), k.mT)
    assert q.shape[-1] == 4
    assert W_O.shape == (4, 6)
    assert torch.equal(rows("scoresrows"), seen["attn_scores"])
    half = 0.005 + 1e-9  # drawn with two digits
    drawn = {name: rows(f"{name}rows").clamp(min=0.0) for name in ("pattern", "z", "result")}
    for name, exact in {"pattern": seen["pattern"], "z": z, "result": z @ W_O}.items():
        assert (drawn[name] - exact).abs().max() <= half, name


def test_the_stream_is_the_sum_that_is_drawn() -> None:
    sums = pairs("residual_stream", "sum")
    assert len(sums) >= 5
    for whole, parts in sums:
        terms = []
        for part in parts.split(" + "):
            if part == "b_O":
                terms.append(model().blocks[0].attn.W_O.bias)
            else:
                value = activations()[part]
                terms.append(value.sum(dim=-2) if part.endswith(".result") else value)
        torch.testing.assert_close(activations()[whole], sum(terms[1:], start=terms[0]), rtol=0, atol=1e-12)  # float64


def test_the_cache_holds_and_shows_what_is_drawn() -> None:
    kv = KVCache(model().config, batch=SIZES["batch"], dtype=torch.float64)
    shape = render.comments(source("kv_cache"), "cache shape")[0]
    assert list(kv.k[0].shape) == list(kv.v[0].shape) == [SIZES[axis] for axis in shape.split()]
    assert shape in drawn_text("kv_cache")
    passes = [tuple(map(int, each.split(" x "))) for each in listed("kv_cache", "keys seen")]
    given, start = tokens(sum(n_new for n_new, _ in passes)), 0
    for n_new, n_seen in passes:
        assert f"/{start}/{n_new}/" in drawn_text("kv_cache")
        assert f"{{{n_new} quer{'y' if n_new == 1 else 'ies'}}}/{{{n_seen} keys}}" in drawn_text("kv_cache")
        hooks, seen = recording("blocks.1.attn.pattern", "logits")
        model()(given[:, start : start + n_new], kv=kv, hooks=hooks)
        pattern = seen["blocks.1.attn.pattern"]
        assert pattern.shape[-2:] == (n_new, n_seen)
        assert torch.equal(
            pattern > 0, torch.ones_like(pattern).tril(start).bool()
        )  # a query sees its own position and earlier ones
        start += n_new
        assert kv.length() == start
        assert kv.k[0][:, :, start - 1].abs().sum() > 0  # slot p holds position p
        assert kv.k[0][:, :, start:].abs().sum() == 0
        whole = model()(given[:, :start])
        torch.testing.assert_close(seen["logits"], whole[:, start - n_new :], rtol=0, atol=1e-12)  # float64


def test_the_induction_circuit_has_the_edges_that_are_drawn() -> None:
    made = handmade.induction()
    role = dict(made.circuit.heads)
    assert {what: head.layer for head, what in role.items()} == {"previous token": 0, "induction": 1}
    edges = {
        f"{role.get(edge.sender, edge.sender)} -> {role.get(edge.receiver, edge.receiver)}"
        + ("" if edge.input == "logits" else f".{edge.input}")
        for edge in made.circuit.edges
        if edge.sender != "pos_embed"
    }
    assert edges == set(render.comments(source("induction_circuit"), "edge"))


def test_a_sweep_computes_the_cone_that_is_drawn() -> None:
    said = render.comments(source("causal_cone"), "cone")[0]
    drawn = {words: int(number) for words, number in re.findall(r"(\w[\w ]*?) (\d+)(?:,|$)", said)}
    name, pos = re.search(r"edit (\S+) at (\d+)", said).groups()
    config = ModelConfig(d_vocab=5, n_ctx=8, n_layers=drawn["n_layers"], n_heads=2, d_model=8)
    tiny = Transformer(config, generator=torch.Generator().manual_seed(0))
    prompt = torch.tensor([[0, 1, 2, 3, 1, 0, 4]])
    plan = plan_sweep(tiny, prompt, [[edits.zero(name, pos=int(pos))]], metrics.logit_diff(2, 0))
    (group,) = plan.groups
    layer = int(name.split(".")[1])
    assert [lane.entry for lane in group.lanes] == [Entry(layer, 0)]
    assert prompt.shape[1] == drawn["n_pos"]
    assert (group.start, group.end, group.n_last) == (drawn["start"], drawn["end"], drawn["n_last"])
    n_between = group.end - group.start
    assert drawn["whole"] == n_between * (config.n_layers - 1 - layer) + group.n_last
    assert drawn["keys and values"] == n_between - group.n_last
    assert drawn["cells"] == config.n_layers * drawn["n_pos"]
    text = drawn_text("causal_cone")
    assert f"{drawn['whole']} of {drawn['cells']} cells" in text
    assert (
        f"(\\layer<{layer} || \\p<{group.start}) ? 0 : (\\layer<{config.n_layers - 1} || \\p=={drawn['n_pos'] - 1} ? 1 : 2)" in text
    )
    assert f"patch {name} (pos {pos})" in text
