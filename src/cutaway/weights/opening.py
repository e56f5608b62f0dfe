"""Telling what a file or a folder is by looking at it, never by trying."""

from __future__ import annotations

from pathlib import Path

from cutaway.assets import CATALOGUE, Asset
from cutaway.assets.shipped import shipped_language_models, shipped_toys
from cutaway.assets.sources import Report
from cutaway.config import ModelConfig
from cutaway.runs import Checkpoint, Run, list_runs, runs_root
from cutaway.runtime import did_you_mean
from cutaway.values import read_object
from cutaway.weights.derived import catalogue_source
from cutaway.weights.foreign import read_checkpoint
from cutaway.weights.gguf_file import GGUFFile
from cutaway.weights.hugging_face import HuggingFaceFolder
from cutaway.weights.nanogpt import NanoGPTCheckpoint
from cutaway.weights.saved import SavedModel
from cutaway.weights.source import ModelSource
from cutaway.weights.transformer_lens import TransformerLensState, is_transformer_lens

__all__ = ["open_model", "resolve"]

_ACCEPTED = (
    "a run or a checkpoint, a folder with the config.json and the safetensors of a Hugging Face model, a .gguf file, "
    "nanoGPT's ckpt.pt, or a TransformerLens state dictionary (.pt or .safetensors)"
)


def open_model(source: str | Path, *, config: ModelConfig | None = None, report: Report | None = None) -> ModelSource:
    """Return the model of a path, of a run's name or of a name in the catalogue; of files that are here headers alone are read.

    `config` is for states that do not hold their shape; `report(done_bytes, total_bytes, what)` is called while a model is fetched.
    Raises FileNotFoundError where there is no such thing, ValueError for what is no model of a format that is read, is damaged, or
    does not fit `config`, and AssetError for a model that cannot be fetched.
    """
    found = _open(resolve(source), config, report)
    if config is not None and not isinstance(found, TransformerLensState):
        raise ValueError(f"{source} is a {found.kind}, which holds its own configuration: leave out --config, in Python config=")
    return found


def resolve(source: str | Path) -> Run | Checkpoint | Asset | Path:
    """Say what a source is: what lies at a path, else the run of this name, else a model of the package or of the catalogue.

    A path that comes back is of a Hugging Face folder or of a file, whose format is told when it is opened. Raises FileNotFoundError
    where there is no such thing, ValueError for a folder that is no model.
    """
    for path in (Path(source), runs_root() / source):
        if path.is_dir():
            return _resolve_folder(path)
        if path.exists():
            is_of_folder = path.name == "model.safetensors" and (path.parent / "config.json").is_file()
            return _resolve_folder(path.parent) if is_of_folder else path
    shipped, models = shipped_language_models(), {asset.name: asset for asset in CATALOGUE.values() if asset.kind == "model"}
    if str(source) in shipped:
        return Checkpoint.at(shipped[str(source)])
    if str(source) in models:
        return models[str(source)]
    if str(source) in shipped_toys():
        raise ValueError(
            f"{source} holds toy models of superposition, which read no text: "
            f"cutaway.experiments.toy_models.ToyModels.load({str(source)!r}) opens them"
        )
    runs = [run.name for run in list_runs()]
    meant = did_you_mean(str(source), [*models, *shipped, *runs])
    raise FileNotFoundError(
        f"there is no file or folder {source}, and no run or model of that name; {meant}the models are "
        f"{', '.join([*models, *shipped])}, the "
        f"runs {', '.join(runs[-5:]) or 'none yet'}"
    )


def _kind_of(path: Path) -> str:
    """Say what a file is by its first bytes; raises ValueError when its name says something else."""
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == b"GGUF":
        kind = "gguf"
    elif start[:4] == b"PK\x03\x04":
        kind = "zip"
    elif start[8:] == b"{":  # after the length of the header comes the header, which is JSON
        kind = "safetensors"
    else:
        kind = "unknown"
    expected = {".gguf": "gguf", ".safetensors": "safetensors", ".pt": "zip", ".pth": "zip"}.get(path.suffix.lower())
    if kind == "unknown" and expected == "zip":
        raise ValueError(
            f"{path} is not a file that torch.save has written since torch 1.6: if you trust it, read it with torch.load and save it "
            "again; nothing of it was run"
        )
    if kind == "unknown" or (expected is not None and kind != expected):
        found = {"unknown": "something else", "zip": "a file of torch.save"}.get(kind, f"a {kind} file")
        named = f"is called {path.suffix} and is" if expected else "is"
        raise ValueError(f"{path} {named} {found}; expected {_ACCEPTED}")
    return kind


def _resolve_folder(path: Path) -> Run | Checkpoint | Path:
    config_file = path / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{path} holds no config.json, so it is no model; expected {_ACCEPTED}")
    values = read_object(config_file)
    if "model_type" in values:
        return path
    if "train" in values:
        return Run(path)
    if "d_model" in values:
        return Checkpoint.at(path)
    raise ValueError(f"{config_file} is neither cutaway's nor, without a model_type, Hugging Face's; expected {_ACCEPTED}")


def _open(found: Run | Checkpoint | Asset | Path, config: ModelConfig | None, report: Report | None) -> ModelSource:
    if isinstance(found, Asset):
        return catalogue_source(found, report=report)
    if isinstance(found, Run):
        if (newest := found.latest_checkpoint()) is None:
            raise ValueError(f"{found.path} has no checkpoint yet: go on with it by `cutaway train --resume {found.path}`")
        return SavedModel(newest)
    if isinstance(found, Checkpoint):
        return SavedModel(found)
    if found.is_dir():
        return HuggingFaceFolder(found)
    return GGUFFile(found) if _kind_of(found) == "gguf" else _open_state(found, config)


def _open_state(path: Path, config: ModelConfig | None) -> ModelSource:
    names = read_checkpoint(path).keys()
    if "model_args" in names:
        return NanoGPTCheckpoint(path)
    if not is_transformer_lens(names):
        held = ", ".join(map(str, sorted(names, key=str)[:3])) or "nothing"
        hint = f"; to open a Hugging Face model, give its folder {path.parent}" if path.suffix == ".safetensors" else ""
        raise ValueError(f"{path} holds {held}: neither nanoGPT's model_args nor TransformerLens's embed.W_E and unembed.W_U{hint}")
    if config is None:
        raise ValueError(
            f"{path} is a TransformerLens state, which does not hold the model's shape: give it by --config FILE, the config.json of a "
            "model of cutaway's, or in Python by config=ModelConfig(...)"
        )
    return TransformerLensState(path, config)
