"""Hugging Face folders: read as the function that the transformers library computes, written so that it computes ours."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.hooks import recording
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import BytePairTokenizer, NoTokenizer
from cutaway.weights.hugging_face import HuggingFaceFolder, save_hugging_face
from cutaway.weights.source import StoredTensor, read_model
from hugging_face_models import CASES, add_tensors, make_theirs, normalise_in_float64, saved

transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")

# float64 keeps 16 digits; a hundred operations in another order on values of size 10 differ by 1e-13. A mistake in a formula, an
# epsilon or a precision (float32 anywhere) shows at 1e-7 or above.
TOLERANCE = 1e-9
MakeModel = Callable[..., Transformer]


@pytest.fixture(params=CASES)
def theirs(request: pytest.FixtureRequest) -> nn.Module:
    """A random model of the transformers library in float64; the test runs once for each case."""
    return make_theirs(request.param)


def without_tokenizer(model: Transformer) -> LanguageModel:
    return LanguageModel(model, NoTokenizer())


def stored_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_bits(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(got[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8)), name


def assert_same_function(ours: Transformer, theirs: nn.Module) -> None:
    """The same logits, and the same residual stream after every layer."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(ours.config.d_vocab, (2, ours.config.n_ctx), generator=generator)
    hooks, activations = recording("blocks.*.resid_post")
    blocks = next(module for module in theirs.modules() if isinstance(module, nn.ModuleList))
    outputs: list[Any] = []
    handles = [block.register_forward_hook(lambda _block, _inputs, output: outputs.append(output)) for block in blocks]
    with torch.inference_mode():
        logits = ours(tokens, hooks=hooks)
        expected = theirs(tokens).logits
    for handle in handles:
        handle.remove()
    assert expected.dtype == logits.dtype == torch.float64
    assert expected.std() > 0.5  # so that 1e-9 means nine digits
    assert len(outputs) == ours.config.n_layers == 3
    for layer, output in enumerate(outputs):
        resid = output[0] if isinstance(output, tuple) else output  # before transformers 5 a tuple
        assert_close(f"layer {layer}", activations[f"blocks.{layer}.resid_post"], resid)
    assert_close("logits", logits, expected)


def assert_close(what: str, got: Tensor, expected: Tensor) -> None:
    error, scale = (got - expected).abs().max().item(), expected.abs().max().item()
    assert error <= TOLERANCE, f"{what}: {error:.1e} apart at a scale of {scale:.1e}"


def loaded_by_the_library(folder: Path) -> nn.Module:
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype="auto", attn_implementation="sdpa", output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return normalise_in_float64(model.eval())


# --- the same function


def test_a_folder_is_read_as_the_library_computes(theirs: nn.Module, tmp_path: Path) -> None:
    source = HuggingFaceFolder(saved(theirs, tmp_path))
    ours = read_model(source)
    assert not ours.training
    assert {weight.dtype for weight in ours.parameters()} == {torch.float64}
    assert_same_function(ours, theirs)


def test_a_folder_is_written_as_the_library_reads(theirs: nn.Module, tmp_path: Path) -> None:
    ours = read_model(HuggingFaceFolder(saved(theirs, tmp_path / "theirs")))
    save_hugging_face(without_tokenizer(ours), tmp_path / "ours")
    again = loaded_by_the_library(tmp_path / "ours")
    assert type(again) is type(theirs)
    assert_same_function(ours, again)
    assert_same_bits(again.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000], ids=["one file", "shards"])
def test_a_round_trip_keeps_every_bit(theirs: nn.Module, dtype: torch.dtype, max_shard_bytes: int, tmp_path: Path) -> None:
    saved(theirs.to(dtype), tmp_path / "theirs", max_shard_size=max_shard_bytes)
    ours = read_model(HuggingFaceFolder(tmp_path / "theirs"), dtype=dtype)
    save_hugging_face(without_tokenizer(ours), tmp_path / "ours", max_shard_bytes=max_shard_bytes)
    written = stored_tensors(tmp_path / "ours")
    assert_same_bits(written, stored_tensors(tmp_path / "theirs"))
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) == 1 or max_shard_bytes == 9000
    again = read_model(HuggingFaceFolder(tmp_path / "ours"), dtype=dtype)
    assert_same_bits(again.state_dict(), ours.state_dict())


def test_16_bits_become_32_that_hold_them(tmp_path: Path) -> None:
    saved(make_theirs("llama").to(torch.bfloat16), tmp_path)
    wide, narrow = read_model(HuggingFaceFolder(tmp_path)), read_model(HuggingFaceFolder(tmp_path), dtype=torch.bfloat16)
    assert {weight.dtype for weight in wide.parameters()} == {torch.float32}
    assert_same_bits({name: x.bfloat16() for name, x in wide.state_dict().items()}, narrow.state_dict())


@pytest.mark.parametrize("case", ["gpt2", "phi", "llama"])
def test_files_of_the_bare_model(case: str, tmp_path: Path) -> None:
    theirs = make_theirs(case, tie_word_embeddings=True)
    saved(theirs, tmp_path)
    expected = read_model(HuggingFaceFolder(tmp_path)).state_dict()
    tensors = {name.split(".", 1)[1] if not name.startswith("lm_head") else name: x for name, x in stored_tensors(tmp_path).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    source = HuggingFaceFolder(tmp_path)
    assert source.stored().keys() == tensors.keys()
    assert_same_bits(read_model(source).state_dict(), expected)


def test_computed_tensors_of_old_files_are_passed_over(folder: Path) -> None:
    expected = read_model(HuggingFaceFolder(folder)).state_dict()
    old = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 19, 19).tril().bool() for layer in range(3)}
    for dtype in (torch.bool, torch.uint8, torch.float32):
        add_tensors(folder, {name: mask.to(dtype) for name, mask in old.items()})
        assert_same_bits(read_model(HuggingFaceFolder(folder)).state_dict(), expected)


def test_a_tied_head_that_is_there_all_the_same(folder: Path) -> None:
    expected = read_model(HuggingFaceFolder(folder)).state_dict()
    W_E = load_file(folder / "model.safetensors")["transformer.wte.weight"]
    add_tensors(folder, {"lm_head.weight": W_E.clone()})
    model = read_model(HuggingFaceFolder(folder))
    assert model.unembed.W_U.weight is model.embed.W_E
    assert_same_bits(model.state_dict(), expected)
    for other in (W_E + 1e-9, W_E.float(), W_E[1:]):
        add_tensors(folder, {"lm_head.weight": other.clone()})
        with pytest.raises(ValueError, match=r"lm_head\.weight is another tensor than transformer\.wte\.weight, although .* ties"):
            read_model(HuggingFaceFolder(folder))


# --- headers, files, memory


def test_a_folder_is_described_from_its_headers(tmp_path: Path) -> None:
    saved(make_theirs("llama-grouped").to(torch.bfloat16), tmp_path, max_shard_size=9000)
    for path in tmp_path.glob("*.safetensors"):  # zeros where the weights were
        content = path.read_bytes()
        n_header = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[:n_header] + bytes(len(content) - n_header))
    source = HuggingFaceFolder(str(tmp_path))
    assert source.kind == "Hugging Face folder"
    assert (source.config.n_heads, source.config.n_kv_heads, source.config.d_head) == (6, 3, 8)
    assert source.stored()["model.layers.0.self_attn.k_proj.weight"] == StoredTensor("BF16", (24, 48))
    assert source.details()["family"] == "llama"
    assert source.details()["files"].endswith(" safetensors files")
    assert source.tokenizer() is None
    assert source.chat_template() is None


def test_shards_are_those_of_the_index(make_model: MakeModel, tiny_config: ModelConfig, tmp_path: Path) -> None:
    save_hugging_face(without_tokenizer(make_model(tiny_config)), tmp_path / "x", max_shard_bytes=9000)
    index = json.loads((tmp_path / "x" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "x").glob("*.safetensors"))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 3
    for file in files:
        tensors = load_file(tmp_path / "x" / file)
        assert tensors.keys() == {name for name, place in index["weight_map"].items() if place == file}
        assert sum(x.nbytes for x in tensors.values()) <= 9000 or len(tensors) == 1
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in stored_tensors(tmp_path / "x").values())


def test_weights_do_not_depend_on_the_files_any_more(folder: Path) -> None:
    model = read_model(HuggingFaceFolder(folder))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_same_bits(model.state_dict(), before)


MEASURE = """
import sys
from pathlib import Path
from cutaway.weights.hugging_face import HuggingFaceFolder
from cutaway.weights.source import read_model

def resident(which):  # in bytes; getrusage would begin with the memory of the process that started this one
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))

read_model(HuggingFaceFolder(sys.argv[1]))
before = resident("VmRSS")
model = read_model(HuggingFaceFolder(sys.argv[2]))
print((resident("VmHWM") - before) / sum(weight.nbytes for weight in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process its peak memory in /proc")
def test_reading_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"n_ctx": 64, "n_heads": 4, "d_model": 512, "n_layers": 8}
    big = Transformer(ModelConfig(**sizes, d_vocab=20_000))  # 140 MB, of which the embedding is 41
    save_hugging_face(without_tokenizer(big), tmp_path / "big", max_shard_bytes=50_000_000)
    small = Transformer(ModelConfig(**{**sizes, "d_model": 8}, d_vocab=9))
    save_hugging_face(without_tokenizer(small), tmp_path / "small")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small"), str(tmp_path / "big")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    # the largest of the tensors that are read last is 4 MB, 3 % of the model; twice in memory, it and its transpose
    assert 0.9 < float(done.stdout) < 1.1


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "{{ a }}", "tokenizer_config.json": '{"chat_template": "b"}'}, "{{ a }}"),
        ({"tokenizer_config.json": '{"chat_template": "b"}'}, "b"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "default", "template": "c"}, {"name": "rag"}]}'}, "c"),
        ({"tokenizer_config.json": '{"chat_template": [{"name": "rag", "template": "c"}]}'}, None),
        ({"tokenizer_config.json": "{}"}, None),
    ],
)
def test_the_chat_template(folder: Path, files: dict[str, str], expected: str | None) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    assert HuggingFaceFolder(folder).chat_template() == expected


def test_the_chat_template_is_written(tiny_model: Transformer, tmp_path: Path) -> None:
    save_hugging_face(LanguageModel(tiny_model, NoTokenizer(), "{{ 'ü' }}"), tmp_path / "x")
    assert HuggingFaceFolder(tmp_path / "x").chat_template() == "{{ 'ü' }}"


def test_the_tokenizer_comes_along(make_model: MakeModel, tiny_config: ModelConfig, tmp_path: Path) -> None:
    tokenizer = BytePairTokenizer(special_tokens={"<end>": 256}, eos_token="<end>")
    save_hugging_face(LanguageModel(make_model(tiny_config.replace(d_vocab=257)), tokenizer), tmp_path / "x")
    again = HuggingFaceFolder(tmp_path / "x").tokenizer()
    assert again is not None
    assert (again.encode("Hi"), again.eos) == (tokenizer.encode("Hi"), 256)
    assert json.loads((tmp_path / "x" / "config.json").read_text())["eos_token_id"] == 256


# --- writing


def test_a_folder_that_is_there_is_left_alone(tiny_model: Transformer, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "full/mine.txt"):
        with pytest.raises(ValueError, match="is there already; give the name of a folder that is new or empty"):
            save_hugging_face(without_tokenizer(tiny_model), tmp_path / name)
    save_hugging_face(without_tokenizer(tiny_model), tmp_path / "empty")
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_what_cannot_be_written_leaves_nothing(make_model: MakeModel, tiny_config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_kv_heads is 2"):
        save_hugging_face(without_tokenizer(make_model(tiny_config.replace(n_kv_heads=2))), tmp_path / "x")
    with pytest.raises(ValueError, match="max_shard_bytes is 0"):
        save_hugging_face(without_tokenizer(make_model(tiny_config)), tmp_path / "x", max_shard_bytes=0)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writing_leaves_nothing(tiny_model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        assert list(tmp_path.rglob("*.safetensors"))
        raise KeyboardInterrupt

    monkeypatch.setattr("cutaway.weights.hugging_face._settings", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_hugging_face(without_tokenizer(tiny_model), tmp_path / "x")
    assert not list(tmp_path.iterdir())
