"""A text's characters as tokens, windows of it, and characters as numbers and back."""

import torch

from cutaway.experiments.characters import random_windows, read_characters


def test_the_tokens_are_the_text(tmp_path) -> None:
    (tmp_path / "text.txt").write_text("a naïve line\nand one more")
    tokenizer, tokens = read_characters(str(tmp_path / "text.txt"), 15)
    assert tokenizer.decode(tokens.tolist()) == "a nave line\nand"


def test_windows_begin_anywhere_and_know_what_comes_next() -> None:
    tokens = torch.arange(10)
    read, due = random_windows(tokens, 4, 500, generator=torch.Generator().manual_seed(0))
    assert torch.equal(due, read + 1)
    assert torch.equal(read, read[:, :1] + torch.arange(4))
    assert read[:, 0].unique().tolist() == list(range(6))  # the last one's next token is the text's last
