"""Language models small enough to know by heart, and files of rows made here."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer

WriteRows = Callable[[Sequence[dict[str, Any]]], Path]


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Write rows as JSONL and return the file."""

    def write(rows: Sequence[dict[str, Any]]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def byte_lm(make_model: Callable[..., Transformer]) -> LanguageModel:
    """A random model in float64 that reads bytes, and has a token that ends texts."""
    tokenizer = BPETokenizer(special_tokens=[END_OF_TEXT])
    config = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=64, n_layers=2, n_heads=2, d_model=16)
    return LanguageModel(make_model(config), tokenizer)


@pytest.fixture
def table_lm() -> Callable[..., LanguageModel]:
    """Build a model whose next character has these probabilities whatever came before, so that its scores are known."""

    def make(probabilities: dict[str, float]) -> LanguageModel:
        tokenizer = CharTokenizer.fit("".join(probabilities))
        n = tokenizer.d_vocab
        shape = {"d_vocab": n, "n_ctx": 200, "n_layers": 0, "n_heads": 1, "d_model": n, "norm": "none", "position": "none"}
        model = Transformer(ModelConfig(**shape, tie_embeddings=False)).double()
        with torch.no_grad():
            model.embed.W_E.copy_(torch.eye(n)[0].expand(n, n))
            chances = [probabilities[character] for character in tokenizer.characters]
            model.unembed.W_U.weight[:, 0] = torch.tensor(chances, dtype=torch.float64).log()
        return LanguageModel(model.eval(), tokenizer)

    return make


@pytest.fixture
def made_up_rows() -> Callable[..., list[dict[str, Any]]]:
    """Draw rows of HellaSwag's format from made-up words; which ending is right is drawn too."""

    def make(n_rows: int, *, seed: int = 0) -> list[dict[str, Any]]:
        draw = random.Random(seed)

        def words(least: int, most: int) -> str:
            return " ".join("".join(draw.choices("abcdefgh", k=draw.randint(1, 5))) for _ in range(draw.randint(least, most)))

        rows = []
        for _ in range(n_rows):
            first, second = words(1, 5), words(0, 2)
            endings = [words(1, 4) for _ in range(4)]
            row = {"activity_label": words(1, 2), "ctx_a": first, "ctx_b": second, "ctx": f"{first} {second}".strip()}
            rows.append({**row, "endings": endings, "label": draw.randrange(4)})
        return rows

    return make
