"""Models whose tokens are words, and their text, in the folder of every test of `cutaway interpret sae`."""

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face
from sae_commands import TEXT


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything, one with another, and a text."""
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = BPETokenizer.train(TEXT, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=32, n_layers=2, n_heads=2, d_model=16)
    for seed, name in enumerate(("words", "other")):
        save_hugging_face(
            LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(seed)), tokenizer), tmp_path / name
        )
    narrow = Transformer(shape.replace(d_model=8), generator=torch.Generator().manual_seed(0))
    save_hugging_face(LanguageModel(narrow, tokenizer), tmp_path / "narrow")
