"""Perplexity against one forward pass for every token, and every normaliser by its definition."""

import hashlib
import math

import pytest
import torch

from cutaway.evaluation import perplexity
from cutaway.evaluation.perplexity import sliding_windows
from cutaway.language_model import LanguageModel

TEXT = "To be, or not to be:\n  that is the question — whether 'tis nobler in the mind to suffer 140 slings and arrows, or to. "


def naive_nats(lm: LanguageModel, ids: list[int], *, window: int, stride: int) -> list[float]:
    """Each token by a forward pass of its own over the past that its window shows."""
    nats = []
    for place in range(1, len(ids)):
        # the end of the window this token is predicted in: the first window, and then one every stride
        n_windows = max(0, math.ceil((place - window) / stride))
        end = min(window + n_windows * stride, len(ids) - 1)
        past = ids[max(0, end - window) : place]
        with torch.inference_mode():
            nats.append(-lm.model(torch.tensor([past]))[0, -1].log_softmax(dim=-1)[ids[place]].item())
    return nats


@pytest.mark.parametrize(("window", "stride"), [(64, 32), (64, 64), (20, 7), (5, 1), (1, 1), (None, None), (64, 50)])
@pytest.mark.parametrize("bos", [False, True])
def test_every_token_is_predicted_once(byte_lm: LanguageModel, window: int | None, stride: int | None, bos: bool) -> None:
    ids = byte_lm.tokens(TEXT, bos=bos)[0].tolist()
    result = perplexity(byte_lm, TEXT, source="a play", window=window, stride=stride, bos=bos)
    expected = naive_nats(byte_lm, ids, window=window or 64, stride=stride or 32)
    nats = sum(expected)
    scored = TEXT if bos else TEXT[1:]  # without a token before it the first one is not predicted
    n_words, n_bytes = len(scored.split()), len(scored.encode())
    assert result.settings == {
        "source": "a play",
        "sha256": hashlib.sha256(TEXT.encode()).hexdigest(),
        "window": window or 64,
        "stride": stride or 32,
        "n_tokens": len(expected),
        "n_words": n_words,
        "n_bytes": n_bytes,
    }
    # float64, sums of 250 log-probabilities of size 10
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values == pytest.approx(
        {
            "nats_per_token": nats / len(expected),
            "perplexity_per_token": math.exp(nats / len(expected)),
            "perplexity_per_word": math.exp(nats / n_words),
            "perplexity_per_byte": math.exp(nats / n_bytes),
            "bits_per_byte": nats / n_bytes / math.log(2),
        },
        rel=1e-11,
    )
    assert sum(row["n_tokens"] for row in result.rows) == len(expected)


def test_a_text_that_fits_one_window(byte_lm: LanguageModel) -> None:
    ids = byte_lm.tokens("short text")
    with torch.inference_mode():
        log_probs = byte_lm.model(ids)[0, :-1].log_softmax(dim=-1)
    expected = -log_probs[torch.arange(9), ids[0, 1:]].mean().item()
    metric = perplexity(byte_lm, "short text").metrics["nats_per_token"]
    assert metric.value == pytest.approx(expected, rel=1e-13)
    assert metric.standard_error is None  # one window says nothing of how windows differ


def test_a_window_of_everything_costs_one_reading_a_token() -> None:
    ids = list(range(100))
    for window, stride in [(10, 10), (10, 3), (99, 1), (200, 100)]:
        requests = sliding_windows(ids, window=window, stride=stride)
        assert [token for request in requests for token in request.continuations[0]] == ids[1:]
        for number, request in enumerate(requests):
            read = request.context + request.continuations[0][:-1]
            assert read == tuple(range(read[0], read[0] + len(read)))
            assert len(read) == min(window, 99)
            assert number == 0 or len(request.context) >= min(window - stride + 1, 99)


def test_the_error_is_that_of_windows(byte_lm: LanguageModel) -> None:
    result = perplexity(byte_lm, TEXT, window=20, stride=20)
    losses = torch.tensor([-row["log_prob"] for row in result.rows], dtype=torch.float64)
    counts = torch.tensor([row["n_tokens"] for row in result.rows], dtype=torch.float64)
    mean = losses.sum() / counts.sum()
    n = len(counts)
    spread = (losses - mean * counts).square().sum() * n / (n - 1)
    metric = result.metrics["nats_per_token"]
    assert metric.standard_error == pytest.approx((spread.sqrt() / counts.sum()).item(), rel=1e-12)
    assert result.metrics["perplexity_per_token"].standard_error == pytest.approx(math.exp(metric.value) * metric.standard_error)
    n_tokens, n_bytes = result.settings["n_tokens"], result.settings["n_bytes"]
    expected = metric.standard_error * n_tokens / n_bytes / math.log(2)
    assert result.metrics["bits_per_byte"].standard_error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"window": 65}, "the window is 65 tokens; expected 1 to n_ctx 64"),
        ({"window": 0}, "the window is 0 tokens"),
        ({"window": 10, "stride": 11}, "the stride is 11 tokens; expected 1 to the window's 10"),
        ({"stride": 0}, "the stride is 0 tokens"),
    ],
)
def test_sizes_that_do_not_fit(byte_lm: LanguageModel, choices: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        perplexity(byte_lm, TEXT, **choices)


def test_a_text_without_anything_to_predict(byte_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="the text has fewer than two tokens and so nothing to predict"):
        perplexity(byte_lm, "a")
    assert perplexity(byte_lm, "a", bos=True).settings["n_tokens"] == 1


def test_ids_are_read_as_they_are(byte_lm: LanguageModel) -> None:
    ids = byte_lm.tokens(TEXT)[0]
    expected = perplexity(byte_lm, TEXT)
    assert perplexity(byte_lm, ids) == perplexity(byte_lm, ids.tolist()) == expected
    half = ids[: TEXT.encode().index("—".encode()) + 1]  # in the middle of a character, which no text is
    found = perplexity(byte_lm, half, window=64, stride=64)
    nats = naive_nats(byte_lm, half.tolist(), window=64, stride=64)
    assert found.settings["n_tokens"] == len(half) - 1
    assert found.metrics["nats_per_token"].value == pytest.approx(sum(nats) / len(nats), rel=1e-11)
    assert found.settings["sha256"] == hashlib.sha256(TEXT.encode()[: len(half)]).hexdigest()
    with pytest.raises(ValueError, match="bos is for a text"):
        perplexity(byte_lm, ids, bos=True)


def test_a_text_is_told_by_its_hash(byte_lm: LanguageModel) -> None:
    result = perplexity(byte_lm, TEXT)
    assert result.settings["sha256"][:12] in str(result)
    assert result.settings["sha256"][:13] not in str(result)
    assert perplexity(byte_lm, TEXT[:-1]).settings["sha256"] != result.settings["sha256"]
