"""A transformer with its tokenizer: text in, text out."""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.generation import Sampling, TextStream, beam_search, decode
from cutaway.model import Transformer
from cutaway.runs import Checkpoint, Run, open_run_or_checkpoint
from cutaway.runtime import pick_device, seeded_generator
from cutaway.tokenizers import BytePairTokenizer, CharTokenizer, Tokenizer, load_tokenizer
from cutaway.weights import load_model

__all__ = ["LanguageModel", "load", "random_model"]

_Prompt = TypeVar("_Prompt", str, list[str])

_GPT2_D_VOCAB = 50_257


@dataclass(frozen=True)
class LanguageModel:
    """A model and the tokenizer whose ids it reads; everything here is a short composition of public parts.

    Raises ValueError when the tokenizer has ids that the model has not.
    """

    model: Transformer
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if self.tokenizer.d_vocab > self.config.d_vocab:
            raise ValueError(
                f"the tokenizer has {self.tokenizer.d_vocab} tokens and the model d_vocab {self.config.d_vocab}: "
                "they do not belong together"
            )

    def __repr__(self) -> str:
        config = self.config
        shape = f"n_layers={config.n_layers}, n_heads={config.n_heads}, d_model={config.d_model}, n_ctx={config.n_ctx}"
        n_parameters = sum(weight.numel() for weight in self.model.parameters())
        return f"LanguageModel({shape}, {n_parameters:,} parameters, {self.tokenizer!r})"

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config

    def tokens(self, text: str | Sequence[str], *, bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Return the ids of a text, or of several, a row each, on the model's device.

        Shorter rows are filled up on the right, which no earlier position sees. `bos` puts the beginning-of-text token first (True),
        leaves it out (False), or does as the tokenizer does (None). Raises ValueError for a text without tokens.
        """
        rows = self._encode([text] if isinstance(text, str) else text, bos=bos)
        width = max(map(len, rows))
        fill = self.tokenizer.eot or 0
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=self.model.embed.W_E.device)

    def text(self, tokens: Int[Tensor, " pos"] | Sequence[int]) -> str:
        """Return the text of one row of ids."""
        return self.tokenizer.decode([int(token) for token in tokens])

    def generate(
        self,
        prompt: _Prompt,
        *,
        max_new_tokens: int = 100,
        preset: str = "balanced",
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        num_beams: int = 1,
        length_penalty: float = 1.0,
        stop: Sequence[str] = (),
        seed: int = 0,
        bos: bool | None = None,
        compile: bool = False,
    ) -> _Prompt:
        """Return the prompt, or each of several, with its continuation; the same seed gives the same text.

        What is left at None is as `preset` says (precise, balanced, creative); top_p=1 takes all tokens. Text ends before the first of
        the strings `stop`, or where the model ends it. With `num_beams` above 1 the likeliest continuation found is returned; nothing
        is drawn, so that options of sampling raise ValueError, as does `compile` with several prompts or beams.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        rows = self._encode(prompts, bos=bos)
        sampling = Sampling.of(
            preset,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
        )
        if num_beams != 1:
            if any(value is not None for value in (temperature, top_k, top_p, min_p, repetition_penalty)):
                raise ValueError("beam search draws nothing: leave out temperature, top_k, top_p, min_p and repetition_penalty")
            if compile:
                raise ValueError("beam search reads several continuations at once, which is not compiled: leave out compile")
            search = {"num_beams": num_beams, "length_penalty": length_penalty, "max_new_tokens": max_new_tokens}
            texts = [text + self._best_beam(row, stop, search) for text, row in zip(prompts, rows, strict=True)]
        else:
            texts = list(prompts)
            for row, piece in self._continue(
                rows,
                stop,
                max_new_tokens=max_new_tokens,
                sampling=sampling,
                seed=seed,
                compile=compile,
                tell=warnings.warn,
            ):
                texts[row] += piece
        return texts[0] if isinstance(prompt, str) else texts

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 100,
        sampling: Sampling | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
        bos: bool | None = None,
        compile: bool = False,
        tell: Callable[[str], None] = warnings.warn,
    ) -> Iterator[str]:
        """Yield the continuation piece by piece, each of whole characters; joined, the pieces are what `generate` adds."""
        rows = self._encode([prompt], bos=bos)
        sampling = sampling or Sampling.of("balanced")
        for _, piece in self._continue(
            rows, stop, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, compile=compile, tell=tell
        ):
            yield piece

    def _continue(
        self,
        rows: list[list[int]],
        stop: Sequence[str],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        seed: int,
        compile: bool,
        tell: Callable[[str], None],
    ) -> Iterator[tuple[int, str]]:
        streams = [TextStream(self.tokenizer, stop) for _ in rows]
        pieces = [""] * len(rows)

        def is_done(row: int, token: int) -> bool:
            if token == self.tokenizer.eot:
                return True
            pieces[row] = streams[row].push(token)
            return streams[row].is_done

        for chosen in decode(
            self.model,
            rows,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            seed=seed,
            never=self._wordless_ids,
            is_done=is_done,
            tell=tell,
            compile=compile,
        ):
            for row, _ in chosen:
                piece, pieces[row] = pieces[row], ""
                yield row, piece
        for row, text_stream in enumerate(streams):
            yield row, text_stream.flush()

    def _best_beam(self, row: list[int], stop: Sequence[str], search: dict[str, Any]) -> str:
        def text_of(tokens: Sequence[int]) -> tuple[str, bool]:
            text_stream = TextStream(self.tokenizer, stop)
            text = "".join([text_stream.push(token) for token in tokens if token != self.tokenizer.eot])
            return text + text_stream.flush(), text_stream.is_done

        def is_done(tokens: Sequence[int]) -> bool:
            return tokens[-1] == self.tokenizer.eot or (bool(stop) and text_of(tokens)[1])

        best = beam_search(self.model, row, is_done=is_done, never=self._wordless_ids, **search)[0]
        return text_of(best.tokens)[0]

    @property
    def _wordless_ids(self) -> list[int]:
        """The ids that the model has logits for and the tokenizer no token."""
        return [*self.tokenizer.unused_ids, *range(self.tokenizer.d_vocab, self.config.d_vocab_out)]

    def _encode(self, texts: Sequence[str], *, bos: bool | None) -> list[list[int]]:
        first: list[int] = []
        if bos:
            if self.tokenizer.eot is None:
                raise ValueError(f"bos=True, and the {self.tokenizer.kind} tokenizer has no beginning-of-text token")
            first = [self.tokenizer.eot]  # GPT-2's family begins a text with the token that ends one
        rows = [first + self.tokenizer.encode(text) for text in texts]
        if not rows or not all(rows):
            raise ValueError("a prompt has no tokens: give some text to go on from")
        return rows


def load(source: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None) -> LanguageModel:
    """Load a language model from a run directory, whose newest checkpoint is taken, or from one checkpoint.

    Raises ValueError for what is no model, is damaged, or does not fit its configuration.
    """
    found = open_run_or_checkpoint(source)
    checkpoint = found.latest_checkpoint() if isinstance(found, Run) else found
    if checkpoint is None:
        raise ValueError(f"{source} has no checkpoint yet: go on with it by `cutaway train --resume {source}`")
    checkpoint.verify()
    model = load_model(checkpoint.path, device=pick_device(device), dtype=dtype)
    return LanguageModel(model.eval(), load_tokenizer(_tokenizer_file(checkpoint)))


def _tokenizer_file(checkpoint: Checkpoint) -> Path:
    own = checkpoint.path / "tokenizer.json"
    return own if own.is_file() or checkpoint.run is None else checkpoint.run.path / "tokenizer.json"


def random_model(preset: str, *, seed: int = 0, device: str | None = None) -> LanguageModel:
    """Return a model of this preset's shape with the weights it would begin training with.

    Its tokens are GPT-2's where they fit the vocabulary, otherwise the printable ASCII characters.
    """
    config = ModelConfig.preset(preset)
    tokenizer: Tokenizer = CharTokenizer.fit(string.printable)
    if config.d_vocab >= _GPT2_D_VOCAB:
        tokenizer = BytePairTokenizer.gpt2()
    d_vocab = max(config.d_vocab, tokenizer.d_vocab)
    model = Transformer(config.replace(d_vocab=d_vocab), generator=seeded_generator(seed))
    return LanguageModel(model.to(pick_device(device)).eval(), tokenizer)
