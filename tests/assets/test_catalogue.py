"""The catalogue's own entries: against what others publish, and for real where the registry answers."""

import hashlib
import inspect
import sysconfig
import time
from pathlib import Path

import pytest
import torch

from cutaway import assets
from cutaway.assets import AssetError
from cutaway.assets.shakespeare import SHAKESPEARE_MEMBERS, join_works
from cutaway.assets.sources import HubFile, SdistMembers, WheelMember
from cutaway.assets.sources.standard_library import MAX_BYTES
from cutaway.config import ModelConfig
from cutaway.model import Transformer

HUB = ["config.json", "tokenizer.json", "vocab.json", "merges.txt"]


def fetch_or_skip(name):
    try:
        return assets.fetch(name)
    except AssetError as error:
        pytest.skip(f"the package registry does not give it here: {error}")


def test_names_and_files():
    assert {name: [file.name for file in asset.files] for name, asset in assets.CATALOGUE.items()} == {
        "smollm2-135m": ["SmolLM2-135M-Instruct.Q4_1.gguf"],
        **{name: [*HUB, "model.safetensors"] for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")},
        "phi-2": [
            *HUB,
            "added_tokens.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
        "gpt2-vocab": ["encoder.json", "vocab.bpe"],
        "cl100k": ["cl100k_base.tiktoken"],
        "shakespeare": ["shakespeare.txt"],
        "tinyshakespeare": ["input.txt"],
        "stdlib": ["stdlib.txt"],
        "hellaswag": ["hellaswag_val.jsonl"],
        "lambada": ["lambada_test.jsonl"],
    }
    assert all(asset.name == name for name, asset in assets.CATALOGUE.items())


def test_a_models_memory_is_that_of_its_preset_in_float32():
    models = [asset for asset in assets.CATALOGUE.values() if asset.kind == "model"]
    assert len(models) == 6
    for asset in models:
        with torch.device("meta"):
            model = Transformer(ModelConfig.preset(asset.name))
        assert asset.memory_bytes == 4 * sum(weight.numel() for weight in model.parameters())
    assert all(asset.memory_bytes is None for asset in assets.CATALOGUE.values() if asset.kind != "model")


def test_hub_models_are_held_to_what_the_hub_says():
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "phi-2"):
        asset = assets.CATALOGUE[name]
        assert {type(source) for source in asset.sources} == {HubFile}
        assert {source.repo for source in asset.sources} == {"microsoft/phi-2" if name == "phi-2" else f"openai-community/{name}"}
        assert [source.path for source in asset.sources] == [file.name for file in asset.files]
        assert all(file.sha256 is None and file.n_bytes is None for file in asset.files)


@pytest.mark.slow
def test_smollm2_comes_from_the_registry():
    path = fetch_or_skip("smollm2-135m")["SmolLM2-135M-Instruct.Q4_1.gguf"]
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.stat().st_size == assets.CATALOGUE["smollm2-135m"].n_bytes == 98_362_432
    assert assets.verify("smollm2-135m") == []


def test_every_hash_is_a_hash():
    for asset in assets.CATALOGUE.values():
        packages = {source.package for source in asset.sources if isinstance(source, WheelMember | SdistMembers)}
        hashes = [file.sha256 for file in asset.files if file.sha256] + [package.sha256 for package in packages]
        assert all(len(bytes.fromhex(digest)) == 32 for digest in hashes)


def test_the_vocabularies_are_the_ones_tiktoken_enforces():
    from tiktoken_ext import openai_public

    published = inspect.getsource(openai_public)
    for name in ("gpt2-vocab", "cl100k"):
        for file in assets.CATALOGUE[name].files:
            assert file.sha256 in published
            assert file.sources[-1].address in published


def test_the_gpt2_vocabulary_comes_from_the_registry():
    files = fetch_or_skip("gpt2-vocab")
    assert {name: path.stat().st_size for name, path in files.items()} == {"encoder.json": 1042301, "vocab.bpe": 456318}
    assert assets.verify("gpt2-vocab") == []


def test_shakespeare_is_made_of_the_packages_texts():
    text = fetch_or_skip("shakespeare")["shakespeare.txt"].read_text(encoding="utf-8")
    assert text.startswith("ALL'S WELL THAT ENDS WELL\n\nPERSONS REPRESENTED.")
    assert text.count("\n\n\n") == len(SHAKESPEARE_MEMBERS) - 1 == 41
    assert "To be, or not to be,--that is the question" in text
    assert "gutenberg" not in text.lower()


def test_works_are_joined_without_their_editors_lines():
    first = b"HAMLET\n\nby William Shakespeare\n\n\n\n\nWords, words,  \nwords.\n\n\nTHE END"
    assert join_works([first, b"LEAR\n\nNothing.\n"]) == b"HAMLET\n\nWords, words,\nwords.\n\n\nLEAR\n\nNothing.\n"
    with pytest.raises(ValueError, match="licence"):
        join_works([b"*** START OF THE PROJECT GUTENBERG EBOOK ***"])


def test_the_standard_library_is_a_corpus_of_whole_modules():
    path = assets.fetch("stdlib")["stdlib.txt"]
    text = path.read_text(encoding="utf-8")
    assert 2**20 < path.stat().st_size <= MAX_BYTES
    library = Path(sysconfig.get_path("stdlib"))
    for module in ("argparse.py", "collections/__init__.py"):
        assert (library / module).read_text(encoding="utf-8").rstrip() in text
    assert text.index("class ArgumentParser") < text.index("class OrderedDict")
    assert str(library) not in text
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    assert hashlib.sha256(assets.fetch("stdlib")["stdlib.txt"].read_bytes()).hexdigest() == before


def test_tinyshakespeare_comes_or_fails_fast_and_in_words():
    begun = time.monotonic()
    try:
        path = assets.fetch("tinyshakespeare")["input.txt"]
    except AssetError as error:
        assert time.monotonic() - begun < 30
        lines = str(error).splitlines()
        assert lines[0] == "tinyshakespeare: input.txt could not be fetched"
        assert len(lines) == 2
        assert lines[1].startswith("  URL https://raw.githubusercontent.com/karpathy/char-rnn/")
    else:
        assert path.stat().st_size == 1_115_394
