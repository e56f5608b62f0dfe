"""Tokenizers and texts that the tests share, and two oracles: tiktoken's own encodings and Hugging Face's `tokenizers`."""

import argparse
import difflib
import random
import string
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import tiktoken
import tiktoken.load
from hypothesis import settings
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from cutaway import assets
from cutaway.tokenizers import BPETokenizer, BytePairTokenizer, CharTokenizer

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

_PIECES = [
    *["'s", "'S", "'t", "'re", "'ve", "'m", "'ll", "'LL", "'d", "'", "’s", "I'd've", "don't", "'sss"],
    *[
        " ",
        "  ",
        "   \t",
        "\n",
        "\r\n",
        "\n\n ",
        "\t",
        "\x0b",
        "\x0c",
        "\x1c",
        "\x85",
        "\u00a0",
        "\u2003",
        "\u200b",
        "\u3000",
    ],
    *["0", "12", "123", "12345", "3.14", "1,000", "٣٤", "½", "Ⅷ", "²", "1st"],
    *[
        "the",
        " the",
        "The",
        "Hello world",
        "naïve",
        "Straße",
        "日本語",
        "한국어",
        "русский",
        "עברית",
        "हिन्दी",
        "e\u0301",
        "\u0301",
    ],
    *[
        "😀",
        "👩‍👩‍👧",
        "🇬🇧",
        "\U0001f3fd",
        "\0",
        "\x7f",
        "\ufeff",
        "\ufffd",
        "\U0010ffff",
        "_",
        "__init__",
        "...",
        "!?",
        "<|",
        "|>",
    ],
    "<|endoftext|>",
]


@pytest.fixture(scope="session")
def texts() -> st.SearchStrategy[str]:
    """Text of characters that are assigned, and text that is hard to cut into words.

    The oracles' tables of Unicode are of several years: what is a letter in the newest is none in another.
    """
    assigned = st.characters(exclude_categories=["Cs", "Cn"])
    pieces = st.one_of(st.sampled_from(_PIECES), st.text(assigned, max_size=3))
    return st.one_of(st.text(assigned), st.lists(pieces, max_size=12).map("".join))


_BLOCKS = [(0x20, 0x24F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x2190, 0x21FF), (0x3041, 0x3096), (0x4E00, 0x9FFF)]


@pytest.fixture(scope="session")
def mixtures() -> Callable[[int], list[str]]:
    """Draw texts of words, numbers, blanks, made-up words and characters of many scripts: long ones, where `texts` are short."""

    def draw(n_texts: int) -> list[str]:
        chance = random.Random(0)
        kinds = [
            lambda: chance.choice(_PIECES),
            lambda: chance.choice(_PIECES),
            lambda: str(chance.randrange(10 ** chance.randint(1, 9))),
            lambda: " " * chance.randint(1, 9),
            lambda: "".join(chance.choices(string.ascii_letters, k=chance.randint(1, 12))),
            lambda: chr(chance.randint(*chance.choice(_BLOCKS))),
        ]
        return ["".join(chance.choice(kinds)() for _ in range(chance.randint(1, 40))) for _ in range(n_texts)]

    return draw


@pytest.fixture(scope="session")
def corpus() -> str:
    """Text that every machine has."""
    return "".join(Path(module.__file__).read_text(encoding="utf-8") for module in (argparse, difflib, textwrap))


@pytest.fixture(scope="session")
def trained(corpus: str) -> BPETokenizer:
    return BPETokenizer.train(corpus, d_vocab=1000, special_tokens=["<|endoftext|>", "<|endoftext|>!"])


def _files(name: str) -> dict[str, Path]:
    try:
        return assets.fetch(name)
    except assets.AssetError as error:
        pytest.skip(f"needs the {name} vocabulary: {error}")


@pytest.fixture(scope="session")
def gpt2_files() -> dict[str, Path]:
    return _files("gpt2-vocab")


@pytest.fixture(scope="session")
def gpt2_scratch(gpt2_files: dict[str, Path]) -> BPETokenizer:
    return BPETokenizer.from_gpt2_files(gpt2_files["encoder.json"], gpt2_files["vocab.bpe"])


@pytest.fixture(scope="session")
def gpt2(gpt2_files: dict[str, Path]) -> BytePairTokenizer:
    return BytePairTokenizer.gpt2()


@pytest.fixture(scope="session")
def cl100k() -> BytePairTokenizer:
    _files("cl100k")
    return BytePairTokenizer.cl100k()


@pytest.fixture(scope="session")
def tiktoken_gpt2(gpt2_files: dict[str, Path]) -> tiktoken.Encoding:
    """tiktoken's own definition, its loader given the files that are here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        load = tiktoken.load.data_gym_to_mergeable_bpe_ranks
        files = {"vocab_bpe_file": str(gpt2_files["vocab.bpe"]), "encoder_json_file": str(gpt2_files["encoder.json"])}
        patch.setattr(openai_public, "data_gym_to_mergeable_bpe_ranks", lambda **given: load(**given | files))
        return tiktoken.Encoding(**openai_public.gpt2())


@pytest.fixture(scope="session")
def tiktoken_cl100k() -> tiktoken.Encoding:
    file = _files("cl100k")["cl100k_base.tiktoken"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")
        load = tiktoken.load.load_tiktoken_bpe
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda url, expected_hash: load(str(file), expected_hash))
        return tiktoken.Encoding(**openai_public.cl100k_base())


@pytest.fixture(scope="session")
def smollm2_fields() -> dict[str, Any]:
    """The metadata of SmolLM2's GGUF file, read by the `gguf` package; skips where the model was not downloaded."""
    files = assets.locate("smollm2-135m")
    if files is None:
        pytest.skip("needs the model smollm2-135m, 93 MB: cutaway download smollm2-135m")
    reader = gguf.GGUFReader(next(path for name, path in files.items() if name.endswith(".gguf")))
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


@pytest.fixture(params=["char", "bpe", "byte_pair", "gpt2", "cl100k"])
def tokenizer(request: pytest.FixtureRequest, corpus: str):
    """Every tokenizer there is, one after the other."""
    match request.param:
        case "char":
            return CharTokenizer.fit(corpus + "日本😀")
        case "bpe":
            return request.getfixturevalue("trained")
        case "byte_pair":
            return BytePairTokenizer.from_bpe(request.getfixturevalue("trained"))
        case name:
            return request.getfixturevalue(name)
