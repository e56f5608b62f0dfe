"""SmolLM2-135M itself: probabilities that are known, a text that repeats, and lm-evaluation-harness row by row."""

import json
import os
from pathlib import Path

import pytest
import torch

from cutaway.evaluation import lambada, multiple_choice
from cutaway.language_model import LanguageModel, load

pytestmark = pytest.mark.slow

N_ROWS = 40


@pytest.fixture(scope="module")
def lm(smollm2_fetched: None) -> LanguageModel:
    return load("smollm2-135m", device="cpu")


@pytest.mark.parametrize(
    ("prompt", "word", "probability"),
    [
        ("The capital of France is", " Paris", 0.77),
        ("When Mary and John went to the store, John gave a drink to", " Mary", 0.92),
    ],
)
def test_what_it_knows(lm: LanguageModel, prompt: str, word: str, probability: float) -> None:
    (token,) = lm.tokenizer.encode(word)
    with torch.inference_mode():
        probabilities = lm.model(lm.tokens(prompt))[0, -1].softmax(dim=-1)
    assert probabilities.argmax().item() == token
    # half of the last digit that is stated
    assert probabilities[token].item() == pytest.approx(probability, rel=0, abs=0.005)


def test_a_text_that_repeats_is_predicted_the_second_time(lm: LanguageModel) -> None:
    """Random tokens have nothing to go by but their own repetition, which heads that look back for it find."""
    once = torch.randint(lm.tokenizer.d_vocab, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    tokens = torch.tensor(once * 2)
    with torch.inference_mode():
        log_probs = lm.model(tokens[None])[0, :-1].log_softmax(dim=-1)
    nats = -log_probs[torch.arange(99), tokens[1:]]
    # a uniform guess costs ln 49,152 = 10.8 nats
    assert nats[:49].mean().item() > 10
    assert 2 < nats[50:].mean().item() < 3.5


@pytest.mark.parametrize("task", ["hellaswag", "lambada"])
def test_every_row_is_predicted_as_the_harness_does(lm: LanguageModel, tmp_path: Path, task: str) -> None:
    """The first rows of a file that is named by CUTAWAY_HELLASWAG or CUTAWAY_LAMBADA, as nothing here can fetch it for both."""
    for package in ("lm_eval", "accelerate", "transformers"):
        pytest.importorskip(package, reason=f"{package}, which the oracle needs, is not installed (pip install lm-eval accelerate)")
    if not (source := os.environ.get(f"CUTAWAY_{task.upper()}")):
        pytest.skip(f"needs the rows of {task}: name their JSONL file in CUTAWAY_{task.upper()}")
    harness = pytest.importorskip("benchmarks.harness", reason="benchmarks/ is found from the root: run python -m pytest there")
    rows = [json.loads(line) for line in Path(source).read_text(encoding="utf-8").splitlines() if line.strip()][:N_ROWS]
    assert len(rows) == N_ROWS
    theirs, _ = harness.run_harness(lm, task, rows, tmp_path, batch_size=4)
    ours = (multiple_choice if task == "hellaswag" else lambada)(lm, source, limit=N_ROWS)
    n_different, largest = harness.differences(task, theirs, ours)
    assert n_different == 0
    # float32: sums of about 30 log-probabilities of size up to 10, which the harness adds in float32
    assert largest < 1e-3
