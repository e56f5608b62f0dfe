"""Models whose tokens are words, written into the folder of a test of the command."""

from pathlib import Path

import torch

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.tokenizers import BPETokenizer, Tokenizer
from cutaway.weights import save_hugging_face


def write_text_and_models(folder: Path, text: str, *, n_ctx: int) -> tuple[Tokenizer, ModelConfig]:
    """Write the text, and as "words" and "other" two models that have never learned anything; return what they have in common."""
    (folder / "text.txt").write_text(text)
    tokenizer = BPETokenizer.train(text, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=n_ctx, n_layers=2, n_heads=2, d_model=16)
    for seed, name in enumerate(("words", "other")):
        model = Transformer(shape, generator=torch.Generator().manual_seed(seed))
        save_hugging_face(LanguageModel(model, tokenizer), folder / name)
    return tokenizer, shape
