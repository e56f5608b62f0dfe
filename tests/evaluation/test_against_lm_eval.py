"""lm-evaluation-harness itself, with a tiny GPT-2 of transformers, on made-up rows: the same sums and the same predictions."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cutaway.config import ModelConfig
from cutaway.evaluation import lambada, multiple_choice, perplexity
from cutaway.evaluation.multiple_choice import likeliest
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import END_OF_TEXT, BPETokenizer
from cutaway.tokenizers.byte_level import to_letters

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval, the oracle here, is not installed (pip install lm-eval accelerate)")
transformers = pytest.importorskip("transformers", reason="transformers, which the oracle runs, is not installed")

pytestmark = pytest.mark.slow

N_CTX = 32
# float32, as the harness computes: it adds up to 40 log-probabilities of size 10 in float32, which rounds by 1e-5
TOLERANCE = 1e-4

WORDS = [
    "pull",
    "rope",
    "walk",
    "paint",
    "water",
    "kitchen",
    "[title]",
    "[step]",
    "He's",
    "naïve",
    "\u2014",
    "140",
    "knots",
    "\nslow",
]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    text = " ".join(f"{word}s and the {word}ing of a {word}" for word in WORDS)
    return BPETokenizer.train(text * 3, 330, special_tokens=[END_OF_TEXT])


@pytest.fixture(scope="module")
def theirs(tokenizer: BPETokenizer) -> nn.Module:
    shape = {"vocab_size": tokenizer.d_vocab, "n_positions": N_CTX, "n_embd": 32, "n_layer": 2, "n_head": 4}
    config = transformers.GPT2Config(**shape, bos_token_id=tokenizer.eot, eos_token_id=tokenizer.eot)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return theirs


@pytest.fixture(scope="module")
def harness(theirs: nn.Module, tokenizer: BPETokenizer) -> Any:
    """Its own model class around theirs, with the same vocabulary in the tokenizers library."""
    from lm_eval.models.huggingface import HFLM

    from tokenizers import Tokenizer, models, pre_tokenizers

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    vocab = {to_letters(tokenizer.decode_bytes([token])): token for token in range(tokenizer.d_vocab - 1)}
    merges = [tuple(merge.split(" ")) for merge in tokenizer.state_dict()["merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab | {END_OF_TEXT: tokenizer.eot}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    their_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    return HFLM(pretrained=theirs, tokenizer=their_tokenizer, batch_size=7, device="cpu")


@pytest.fixture(scope="module")
def lm(theirs: nn.Module, tokenizer: BPETokenizer) -> LanguageModel:
    """The same weights in a model of ours, renamed by hand."""
    state = {name.removeprefix("transformer."): tensor for name, tensor in theirs.state_dict().items()}
    ours = {"embed.W_E": state["wte.weight"], "embed.pos_embed.W_pos": state["wpe.weight"]}
    ours |= {f"unembed.ln_final.{kind}": state[f"ln_f.{kind}"] for kind in ("weight", "bias")}
    for layer in range(2):
        for kind in ("weight", "bias"):  # their matrices are transposed
            queries_keys_values = state[f"h.{layer}.attn.c_attn.{kind}"].movedim(-1, 0).chunk(3)
            ours |= {f"blocks.{layer}.attn.W_{part}.{kind}": each for part, each in zip("QKV", queries_keys_values, strict=True)}
            for their_name, name in (("attn.c_proj", "attn.W_O"), ("mlp.c_fc", "mlp.W_in"), ("mlp.c_proj", "mlp.W_out")):
                ours[f"blocks.{layer}.{name}.{kind}"] = state[f"h.{layer}.{their_name}.{kind}"].movedim(-1, 0)
            for number in (1, 2):
                ours[f"blocks.{layer}.ln{number}.{kind}"] = state[f"h.{layer}.ln_{number}.{kind}"]
    model = Transformer(ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=N_CTX, n_layers=2, n_heads=4, d_model=32))
    model.load_state_dict(ours | {"unembed.W_U.weight": ours["embed.W_E"]})
    return LanguageModel(model.eval(), tokenizer)


def harness_samples(
    harness: Any, task: str, rows: list[dict[str, Any]], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run its own task on rows of a file in place of the hub's; return what it says of each row, and its results."""
    from lm_eval.tasks import TaskManager

    folder.mkdir()
    file, settings = folder / "rows.jsonl", folder / "task.yaml"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = "test" if task.startswith("lambada") else "validation"
    settings.write_text(
        f"include: {Path(lm_eval.__file__).parent / 'tasks' / f'{task}.yaml'}\n"
        "task: local\ndataset_path: json\ndataset_name: null\ntraining_split: null\n"
        f"dataset_kwargs: {{data_files: {{{split}: {file}}}, cache_dir: {folder / 'cache'}}}\n"
    )
    quiet = {"bootstrap_iters": 0, "verbosity": "ERROR", "task_manager": TaskManager()}
    found = lm_eval.simple_evaluate(harness, tasks=[str(settings)], num_fewshot=0, **quiet)
    samples = sorted(found["samples"]["local"], key=lambda sample: sample["doc_id"])
    return samples, found["results"]["local"]


def responses(sample: dict[str, Any]) -> list[tuple[float, bool]]:
    """Sum and greediness of each continuation."""
    return [(float(response[0][0]), str(response[0][1]) == "True") for response in sample["resps"]]


def test_hellaswag(harness: Any, lm: LanguageModel, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)

    def words(least: int, most: int) -> str:
        count = int(torch.randint(least, most + 1, (), generator=generator))
        return " ".join(WORDS[int(place)] for place in torch.randint(len(WORDS), (count,), generator=generator))

    rows = [
        {
            "activity_label": words(1, 2),
            "ctx_a": words(1, 16),
            "ctx_b": words(0, 3),
            "endings": [f"{words(1, 4)} a{number}" for number in range(3)] + ["[step] same"],
            "label": str(int(torch.randint(4, (), generator=generator))),
        }
        for _ in range(150)
    ]
    for row in rows[:20]:
        row["endings"][1] = row["endings"][0]  # equal endings: a tie
    samples, results = harness_samples(harness, "hellaswag/hellaswag", rows, tmp_path / "theirs")
    found = multiple_choice(lm, write_rows(rows))
    assert 5 < found.settings["n_truncated"] < 100
    for sample, row in zip(samples, found.rows, strict=True):
        sums = [log_prob for log_prob, _ in responses(sample)]
        assert row["log_probs"] == pytest.approx(sums, rel=0, abs=TOLERANCE)
        assert row["acc"] == likeliest(sums)
        assert sample["acc"] == float(row["acc"] == row["label"])
        assert sample["acc_norm"] == float(row["acc_norm"] == row["label"])
    for name in ("acc", "acc_norm"):
        assert found.metrics[name].value == pytest.approx(results[f"{name},none"])


def test_lambada(harness: Any, lm: LanguageModel, write_rows: Callable[..., Path], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    rows = [
        {"text": " ".join(WORDS[int(place)] for place in torch.randint(len(WORDS), (count,), generator=generator))}
        for count in torch.randint(1, 25, (150,), generator=generator).tolist()
    ]
    samples, results = harness_samples(harness, "lambada/lambada_openai", rows, tmp_path / "theirs")
    found = lambada(lm, write_rows(rows))
    assert found.settings["n_truncated"] > 5
    for sample, row in zip(samples, found.rows, strict=True):
        ((log_prob, is_greedy),) = responses(sample)
        assert row["log_prob"] == pytest.approx(log_prob, rel=0, abs=TOLERANCE)
        assert row["is_greedy"] == is_greedy
    assert found.metrics["acc"].value == pytest.approx(results["acc,none"])
    assert found.metrics["perplexity_per_last_word"].value == pytest.approx(results["perplexity,none"], rel=1e-5)


def test_rolling_perplexity(harness: Any, lm: LanguageModel) -> None:
    """Its windows share nothing: a stride of a whole window, after the token that begins a text."""
    from lm_eval.api.instance import Instance

    text = " ".join(WORDS) * 5
    request = Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)
    (log_prob,) = harness.loglikelihood_rolling([request], disable_tqdm=True)
    found = perplexity(lm, text, window=N_CTX, stride=N_CTX, bos=True)
    assert len(found.rows) > 2
    assert found.metrics["nats_per_token"].value * found.settings["n_tokens"] == pytest.approx(-log_prob, rel=1e-6)
