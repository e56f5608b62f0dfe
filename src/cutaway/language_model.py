"""A transformer with its tokenizer: text in, text out."""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.generation import Message, Sampling, TextStream, beam_search, decode, render_chat
from cutaway.model import Transformer
from cutaway.report import fetch_progress
from cutaway.runtime import atomic_path, free_memory_gib, pick_device, seeded_generator
from cutaway.tokenizers import BytePairTokenizer, CharTokenizer, NoTokenizer, Tokenizer
from cutaway.values import shortened
from cutaway.weights import open_model, parameter_shapes, read_model, save_model

__all__ = ["LanguageModel", "load", "random_model", "check_memory"]

_Prompt = TypeVar("_Prompt", str, list[str])

_GPT2_D_VOCAB = 50_257


@dataclass(frozen=True)
class LanguageModel:
    """A model and the tokenizer whose ids it reads; everything here is a short composition of public parts.

    Raises ValueError when the tokenizer has ids that the model has not.
    """

    model: Transformer
    tokenizer: Tokenizer
    chat_template: str | None = None
    """How a conversation is written, in Jinja; None for a model that was not trained on conversations."""

    def __post_init__(self) -> None:
        if self.tokenizer.d_vocab > self.config.d_vocab:
            raise ValueError(
                f"the {self.tokenizer.kind} tokenizer has {self.tokenizer.d_vocab} tokens and the model d_vocab {self.config.d_vocab}: "
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
        leaves it out (False), or does as the tokenizer's file says (None). Raises ValueError for a text without tokens.
        """
        rows = self._encode(text, bos=bos)
        width = max(map(len, rows))
        fill = self.tokenizer.eot or 0
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=self.model.embed.W_E.device)

    def text(self, tokens: Int[Tensor, " pos"] | Sequence[int]) -> str:
        """Return the text of one row of ids; raises ValueError for what is no such row, and for an id without a token."""
        if isinstance(tokens, Tensor) and tokens.ndim != 1:
            raise ValueError(f"the ids have the shape {list(tokens.shape)}; expected one row of them, as tokens[0]")
        if isinstance(tokens, str):
            raise ValueError(f"{shortened(tokens)} is text already; expected ids, as lm.tokens gives them")  # noqa: TRY004 (data)
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

        What is left at None is as the sampling preset says (precise, balanced, creative); top_p=1 takes all tokens. Text ends before
        the first of the strings `stop`, or where the model ends it. With `num_beams` above 1 the likeliest continuation found is
        returned; nothing is drawn, so that options of sampling raise ValueError, as does `compile` with several prompts or beams.
        """
        rows = self._encode(prompt, bos=bos)
        prompts = [prompt] if isinstance(prompt, str) else prompt
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
                self._end_ids,
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
        allow_special: bool = False,
        compile: bool = False,
        tell: Callable[[str], None] = warnings.warn,
    ) -> Iterator[str]:
        """Yield the continuation piece by piece, each of whole characters; joined, the pieces are what `generate` adds.

        A special token's name in the prompt is ordinary text; with `allow_special` it stands for that token, and any such token ends
        the continuation: a turn of a conversation is what stands between two of them.
        """
        rows = self._encode([prompt], bos=bos, allow_special=allow_special)
        sampling = sampling or Sampling.of("balanced")
        ends = self._end_ids | (set(self.tokenizer.special_tokens.values()) if allow_special else set())
        for _, piece in self._continue(
            rows, stop, ends, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed, compile=compile, tell=tell
        ):
            yield piece

    def save(self, folder: str | Path) -> None:
        """Write weights, configuration, tokenizer and chat template as a folder that `load` opens, whole or not at all.

        Raises ValueError for a folder that is there already.
        """
        folder = Path(folder)
        if folder.exists():
            raise ValueError(f"{folder} is there already: give a new folder")
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_model(self.model, temporary)
            self.tokenizer.save(temporary / "tokenizer.json")
            if self.chat_template is not None:
                (temporary / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")

    def chat_prompt(self, messages: str | Sequence[Message]) -> str:
        """Return a conversation as the model reads it, special tokens and all, up to where its answer begins.

        A string is one message of the user. Raises ValueError for a model without a chat template, and for messages without role and
        content.
        """
        if self.chat_template is None:
            raise ValueError("this model has no chat template, as it was not trained on conversations: use generate")
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        tokenizer = self.tokenizer
        names = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
        return render_chat(messages, self.chat_template, special_tokens=tokenizer.special_tokens, **names)

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        max_new_tokens: int = 256,
        preset: str = "balanced",
        stop: Sequence[str] = (),
        seed: int = 0,
        **sampling: float | None,
    ) -> str:
        """Return the model's answer to a conversation, messages as `{"role": "user", "content": "..."}`; a string is one of them.

        The token that ends the answer is no part of it. `sampling` are fields of `Sampling` that differ from the preset's. Raises
        ValueError as `chat_prompt` does.
        """
        chosen = Sampling.of(preset, **sampling)
        prompt = self.chat_prompt(messages)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "stop": stop, "seed": seed}
        return "".join(self.stream(prompt, sampling=chosen, bos=False, allow_special=True, **options))

    def _continue(
        self,
        rows: list[list[int]],
        stop: Sequence[str],
        ends: Collection[int],
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
            if token in ends:
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
        ends = self._end_ids

        def text_of(tokens: Sequence[int]) -> tuple[str, bool]:
            text_stream = TextStream(self.tokenizer, stop)
            text = "".join([text_stream.push(token) for token in tokens if token not in ends])
            return text + text_stream.flush(), text_stream.is_done

        def is_done(tokens: Sequence[int]) -> bool:
            return tokens[-1] in ends or (bool(stop) and text_of(tokens)[1])

        best = beam_search(self.model, row, is_done=is_done, never=self._wordless_ids, **search)[0]
        return text_of(best.tokens)[0]

    @property
    def _end_ids(self) -> set[int]:
        """The ids with which a model ends what it writes: a text, or its turn in a conversation."""
        return {self.tokenizer.eot, self.tokenizer.eos} - {None}  # type: ignore[return-value]

    @property
    def _wordless_ids(self) -> list[int]:
        """The ids that the model has logits for and the tokenizer no token."""
        return [*self.tokenizer.unused_ids, *range(self.tokenizer.d_vocab, self.config.d_vocab_out)]

    def _encode(self, text: str | Sequence[str], *, bos: bool | None, allow_special: bool = False) -> list[list[int]]:
        texts = [text] if isinstance(text, str) or not isinstance(text, Sequence) else text
        if wrong := [each for each in texts if not isinstance(each, str)]:
            raise ValueError(
                f"a prompt is {shortened(wrong[0])}, of type {type(wrong[0]).__name__}; expected text: ids are read by lm.model, "
                "and lm.text makes text of them"
            )
        first: list[int] = []
        if self.tokenizer.adds_bos if bos is None else bos:
            begin = self.tokenizer.eot if self.tokenizer.bos is None else self.tokenizer.bos
            if begin is None:
                raise ValueError(f"bos=True, and the {self.tokenizer.kind} tokenizer has no beginning-of-text token")
            first = [begin]  # GPT-2's family begins a text with the token that ends one
        rows = [first + self.tokenizer.encode(text, allow_special=allow_special) for text in texts]
        if not rows or not all(rows):
            raise ValueError("a prompt has no tokens: give some text to go on from")
        return rows


def load(
    source: str | Path,
    *,
    config: ModelConfig | None = None,
    tokenizer: Tokenizer | None = None,
    device: str | None = None,
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """Load a language model: a name of the catalogue, a run, a checkpoint, a Hugging Face folder, a .gguf or a foreign checkpoint.

    What is computed is what the file holds, nothing folded and nothing centred. Weights of 16 bits become float32, which holds them
    exactly, unless a `dtype` is given. `config` is the shape of a TransformerLens state, which does not hold it. Raises ValueError for
    what is no model, is damaged, does not fit its configuration, or needs more memory than is free; AssetError for a model that cannot
    be fetched.

    >>> import cutaway
    >>> lm = cutaway.load("stdlib-1l")
    >>> lm.generate("def __init__(", max_new_tokens=4, temperature=0)
    'def __init__(self'
    """
    with fetch_progress() as report:
        found = open_model(source, config=config, report=report)
    where = pick_device(device)
    check_memory(found.config, where, name=str(found.path), dtype=dtype)
    model = read_model(found, device=where, dtype=dtype)
    return LanguageModel(model, tokenizer or found.tokenizer() or NoTokenizer(), found.chat_template())


def check_memory(
    config: ModelConfig,
    device: torch.device,
    *,
    name: str,
    dtype: torch.dtype | None = None,
    n_copies: int = 1,
    n_more_bytes: int = 0,
    what: str = "its weights",
) -> None:
    """Raise ValueError, before any is read, for weights of which `n_copies`, and `n_more_bytes`, would not fit into the free memory."""
    free = free_memory_gib(device)
    n_parameters = sum(shape.numel() for shape in parameter_shapes(config).values())
    needed = (n_copies * n_parameters * (dtype or torch.float32).itemsize + n_more_bytes) / 2**30
    if free is not None and needed > free:
        half = n_parameters * 2 / 2**30
        hint = f"dtype=torch.bfloat16 needs {half:.1f}; " if n_copies == 1 and half < min(free, needed) else ""
        raise ValueError(
            f"{name} needs {needed:.1f} GiB of memory for {what} and {free:.1f} are free on {device}: "
            f"{hint}{'' if n_copies == 1 else 'take a smaller model or batch, '}free some, or use a larger machine"
        )


def random_model(size: str, *, seed: int = 0, device: str | None = None) -> LanguageModel:
    """Return a model of this size, as `gpt2`, with the weights it would begin training with.

    Its tokens are GPT-2's where they fit the vocabulary, otherwise the printable ASCII characters.
    """
    config = ModelConfig.preset(size)
    tokenizer: Tokenizer = CharTokenizer.fit(string.printable)
    if config.d_vocab >= _GPT2_D_VOCAB:
        tokenizer = BytePairTokenizer.gpt2()
    d_vocab = max(config.d_vocab, tokenizer.d_vocab)
    model = Transformer(config.replace(d_vocab=d_vocab), generator=seeded_generator(seed))
    return LanguageModel(model.to(pick_device(device)).eval(), tokenizer)
