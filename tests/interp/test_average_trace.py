"""A trace over several prompts is the mean of the traces of each, by what a position is in its prompt."""

import json
import math
from collections.abc import Callable
from io import StringIO

import pytest
import torch
from rich.console import Console

from cutaway.config import ModelConfig
from cutaway.interp.spread import standard_error, with_errors
from cutaway.interp.tracing import ROLES, AverageTrace, average_trace, trace
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

TEXTS = ["the king is in", "oh, a fox is at", "we is"]
SUBJECTS = ["king", "a fox", "we"]
ANSWERS = ["a", "b", "c"]
ROUNDING = 1e-12  # float64: effects of size 1e-3 to 1, summed over at most five positions


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz ,")
    config = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=20, n_layers=3, n_heads=2, d_model=16)
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    return LanguageModel(model, tokenizer)


@pytest.fixture(scope="module")
def found(lm: LanguageModel) -> AverageTrace:
    return average_trace(lm, TEXTS, SUBJECTS, ANSWERS, n_draws=2, seed=5)


def positions_of(text: str, subject: str) -> dict[str, list[int]]:
    """The positions of each role, a character each."""
    first = text.index(subject)
    last, end = first + len(subject) - 1, len(text) - 1
    every = {
        "before the subject": range(first), "first of the subject": [first] * (last > first),
        "middle of the subject": range(first + 1, last), "last of the subject": [last], "first after it": [last + 1],
        "further": range(last + 2, end), "last of the prompt": [end],
    }  # fmt: skip
    return {role: list(places) for role, places in every.items()}


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_the_average_is_that_of_single_traces(lm: LanguageModel, found: AverageTrace, site: str) -> None:
    alone = [trace(lm, *row, n_draws=2, seed=5 + i) for i, row in enumerate(zip(TEXTS, SUBJECTS, ANSWERS, strict=True))]
    assert found.total_effects.tolist() == [each.total_effect for each in alone]
    for place, role in enumerate(found.roles):
        rows = [
            each.effects[site][:, places].mean(-1)
            for each, text, subject in zip(alone, TEXTS, SUBJECTS, strict=True)
            if (places := positions_of(text, subject)[role])
        ]
        values = torch.stack(rows)  # prompt layer
        torch.testing.assert_close(found.effects[site][:, place], values.mean(0), rtol=0, atol=ROUNDING)
        error = values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.full((3,), math.nan).double()
        torch.testing.assert_close(found.standard_errors[site][:, place], error, rtol=0, atol=ROUNDING, equal_nan=True)


def test_the_best_place_leaves_out_what_brings_back_by_definition(found: AverageTrace) -> None:
    assert found.roles == ROLES
    shares = found.effects["resid_post"] / found.total_effects.mean()
    assert shares[-1, -1].item() == pytest.approx(1, abs=1e-10)  # the stream at the end is all that is read
    layer, role, share = found.best("resid_post")
    assert role != ROLES[-1]
    assert share == pytest.approx(shares[:, :-1].max().item(), abs=1e-12)
    assert shares[layer, ROLES.index(role)].item() == share


def test_it_is_shown_and_saved(found: AverageTrace, tmp_path) -> None:
    console = Console(file=StringIO(), width=80, color_system=None)
    found.show(console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines()[2:])) <= 80
    assert "an average indirect effect of" in shown
    saved = json.loads(found.to_json())
    assert len(saved["traces"]) == 3
    assert saved["effects"]["mlp_out"] == found.effects["mlp_out"].tolist()
    assert saved["standard_errors"]["mlp_out"][0][6] == found.standard_errors["mlp_out"][0, 6].item()
    assert found.report(tmp_path / "traces.html").read_text(encoding="utf-8").count("<svg") == 3


def test_each_prompt_has_its_own(lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="there are 1 subjects for 3 prompts: give one for each"):
        average_trace(lm, TEXTS, SUBJECTS[:1], ANSWERS)
    with pytest.raises(ValueError, match="there is no prompt"):
        average_trace(lm, [], [], [])


def test_progress_goes_over_all_prompts(lm: LanguageModel) -> None:
    told: list[tuple[int, int]] = []
    average_trace(lm, TEXTS[:2], SUBJECTS[:2], ANSWERS[:2], n_draws=1, sites=["mlp_out"], progress=lambda *n: told.append(n))
    done, total = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1]


def test_standard_errors(make_tokens: Callable) -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [4.0, math.nan, 8.0], [math.nan, 3.0, math.nan]]).double()
    expected = torch.tensor([math.sqrt(7 / 3), 2.0, math.nan], dtype=torch.float64)
    torch.testing.assert_close(standard_error(values), expected, rtol=0, atol=1e-15, equal_nan=True)
    assert with_errors(["a", "b"], [["1", "2"]], [0.25], after=0) == (["a", "±", "b"], [["1", "± 0.25", "2"]])
    assert with_errors(["a", "b"], [["1", "2"]], [math.nan], after=0) == (["a", "b"], [["1", "2"]])
