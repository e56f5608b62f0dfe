"""Models whose tokens are words, and their text, in the folder of every test of `cutaway interpret sae`."""

import pytest
import torch
from word_models import write_text_and_models

from cutaway import LanguageModel, Transformer
from cutaway.weights import save_hugging_face
from sae_commands import TEXT


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything, one with another, and a text."""
    tokenizer, shape = write_text_and_models(tmp_path, TEXT, n_ctx=32)
    narrow = Transformer(shape.replace(d_model=8), generator=torch.Generator().manual_seed(0))
    save_hugging_face(LanguageModel(narrow, tokenizer), tmp_path / "narrow")
