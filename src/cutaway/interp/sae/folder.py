"""Dictionaries on disk, in the format of SAELens: `cfg.json` and `sae_weights.safetensors`.

Of `cfg.json` these fields are relied on: `architecture` (standard, topk, jumprelu, transcoder, skip_transcoder, jumprelu_transcoder,
jumprelu_skip_transcoder), `d_in`, `d_sae`, `d_out`, `k`, `apply_b_dec_to_input`, `normalize_activations`, `reshape_activations`,
`rescale_acts_by_decoder_norm`, and `hook_name`, in `metadata` since version 6 and beside the others before; of the weights `W_enc`,
`b_enc`, `W_dec`, `b_dec`, `threshold`, `W_skip`. What SAELens has no word for is in `metadata` under `cutaway`, which it passes over: a
crosscoder and its scales, a batchtopk (which it writes as jumprelu, and so do we), a transcoder of another kind, the model's hash.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cutaway import runtime
from cutaway.hooks import canonical_name
from cutaway.interp.sae.dictionary import Dictionary, make_dictionary
from cutaway.interp.sae.shape import DictionaryConfig, Kind
from cutaway.runtime import atomic_path, atomic_write
from cutaway.values import said_of_json
from cutaway.weights import save_tensors, stream_tensors

__all__ = [
    "DESCRIPTION",
    "check_folder",
    "dictionary_folders",
    "layer_folder",
    "load_dictionary",
    "name_of_model",
    "save_dictionary",
    "transformer_lens_name",
]

DESCRIPTION = "cfg.json"
"""The file that says what a folder's dictionary is."""
_TENSORS, _CURVE = "sae_weights.safetensors", "curve.json"
_MADE_BY = "`cutaway interpret sae train MODEL --corpus TEXT --save FOLDER` makes one, with --target mlp_out a transcoder"
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMAT_VERSION = "6.0.0"
"""Of SAELens, whose files we write."""
_ARCHITECTURES: dict[str, Kind] = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_WRITTEN: dict[Kind, str] = {"relu": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}


def save_dictionary(dictionary: Dictionary, folder: Path | str, *, curve: str | None = None, model: str = "") -> Path:
    """Write a dictionary, and perhaps its learning curve as JSON, into a folder of its own and return that.

    `model` is what the model that it was trained on is called, where its config does not say. Raises ValueError for a folder that holds
    anything else.
    """
    folder = Path(folder)
    check_folder(folder)
    config, dtype = dictionary.config, dictionary.W_enc.dtype
    about: dict[str, Any] = {
        "architecture": _architecture(config),
        "d_in": config.d_in,
        "d_sae": config.d_sae,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": config.subtracts_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if config.name.endswith("attn.z") else "none",
    }
    about |= {"k": config.k} if config.kind == "topk" else {}
    about |= {"d_out": config.d_out} if config.is_transcoder else {}
    about["metadata"] = {
        "sae_lens_version": _FORMAT_VERSION,
        "hook_name": transformer_lens_name(config.name),
        "hook_name_out": None if config.target is None else transformer_lens_name(config.target),
        "cutaway": replace(config, model="").to_dict(),
    }
    about["metadata"] |= {"model_name": named} if (named := config.model or model) else {}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in dictionary.state_dict().items()}
    with atomic_path(folder / _TENSORS) as temporary:
        save_tensors(tensors, temporary)
    if curve is not None:
        atomic_write(folder / _CURVE, curve)
    atomic_write(folder / DESCRIPTION, json.dumps(about, indent=2))
    return folder


def load_dictionary(folder: Path | str, *, device: torch.device | str = "cpu") -> Dictionary:
    """Read a dictionary that we saved or SAELens did, in its own dtype; gradients are not asked of it.

    Decoder rows that SAELens left at other lengths but 0 are given length 1 and the encoder makes up for it, where that changes
    nothing that is computed; of a topk, whose choice it would change, they stay. Raises ValueError for what is none, is damaged, or
    does at run time what a dictionary here does not.
    """
    folder = Path(folder)
    path = folder / DESCRIPTION
    runtime.check_holds(folder, DESCRIPTION, "no saved dictionary", made_by=_MADE_BY)
    try:
        about: dict[str, Any] = {**json.loads(path.read_text(encoding="utf-8"))}
        config = replace(_config(about), model=_model_name(about))
        dtype = _DTYPES[str(about.get("dtype", "float32")).removeprefix("torch.")]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} describes no dictionary that is read here: {said_of_json(error)}") from None
    tensors = dict(stream_tensors(folder / _TENSORS))
    with torch.device("meta"):
        dictionary = make_dictionary(config)
    _check_tensors(dictionary, tensors, folder / _TENSORS)
    dictionary = dictionary.to_empty(device=device).to(dtype)
    dictionary.load_state_dict(tensors)
    if isinstance(threshold := getattr(dictionary, "threshold", None), Tensor):
        threshold.detach().clamp_(
            min=0
        )  # SAELens takes the ReLU of what is above a threshold, so that one below zero does as zero does
    if about.get("rescale_acts_by_decoder_norm") or (config.kind != "topk" and not _is_ours(about)):
        _fold_norms(dictionary)
    return dictionary.eval().requires_grad_(False)


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that a dictionary is not to be written into: a file, or one that holds other things."""
    runtime.check_folder(folder, "the dictionary", {_TENSORS, DESCRIPTION, _CURVE, "checkpoints"})


def layer_folder(folder: Path, layer: int) -> Path:
    """Return where a layer's dictionary goes in a folder that holds one of each layer."""
    return folder / f"layer-{layer:02d}"


def dictionary_folders(folder: Path | str) -> list[Path]:
    """Return the folders of all dictionaries in a folder: itself where it is one, and else those in it.

    Raises ValueError for a folder with none.
    """
    folder = Path(folder)
    if (folder / DESCRIPTION).is_file():
        return [folder]
    found = sorted(each.parent for each in folder.glob(f"*/{DESCRIPTION}"))
    if not found:
        runtime.check_holds(folder, DESCRIPTION, "no saved dictionary, nor is any folder in it", made_by=_MADE_BY)
    return found


def transformer_lens_name(name: str) -> str:
    """Return TransformerLens's spelling of an activation's name.

    >>> transformer_lens_name("blocks.3.attn.z"), transformer_lens_name("embed")
    ('blocks.3.attn.hook_z', 'hook_embed')
    """
    scope, dot, last = name.rpartition(".")
    return f"{scope}{dot}hook_{last}" if last else ""


def _architecture(config: DictionaryConfig) -> str:
    if config.n_models > 1:
        return "cutaway_crosscoder"
    name = _WRITTEN[config.kind]
    if not config.is_transcoder and not config.has_skip:
        return name
    of_kind = {"standard": "", "jumprelu": "jumprelu_"}.get(name, "cutaway_topk_")
    return f"{of_kind}{'skip_' * config.has_skip}transcoder"


def name_of_model(folder: Path | str) -> str | None:
    """Return what the model of a dictionary that we saved is called; None where that is not known, or the folder holds none."""
    path = Path(folder) / DESCRIPTION
    try:
        about = {**json.loads(path.read_text(encoding="utf-8"))} if path.is_file() else {}
    except (ValueError, TypeError):  # damaged, which load_dictionary says
        return None
    return (_model_name(about) or None) if _is_ours(about) else None


def _model_name(about: dict[str, Any]) -> str:
    """Return what a description calls the model, in `metadata` or as SAELens did before version 6; empty where it does not."""
    return str((about.get("metadata") or {}).get("model_name") or about.get("model_name") or "")


def _is_ours(about: dict[str, Any]) -> bool:
    return "cutaway" in (about.get("metadata") or {})


def _config(about: dict[str, Any]) -> DictionaryConfig:
    """Return the shape that a description gives; raises ValueError for what is computed otherwise than here."""
    if _is_ours(about):
        return DictionaryConfig.from_dict(about["metadata"]["cutaway"])
    metadata = about.get("metadata") or about
    architecture, k = about.get("architecture", "standard"), about.get("k")
    if about.get("activation_fn_str", about.get("activation_fn")) == "topk":  # before version 6
        architecture, k = "topk", about["activation_fn_kwargs"]["k"]
    if architecture not in _ARCHITECTURES:
        raise ValueError(f"its architecture is {architecture!r}; expected one of {', '.join(_ARCHITECTURES)}")
    normalised = about.get("normalize_activations") or "none"
    if normalised not in ("none", "expected_average_only_in"):  # the second is folded into the weights when SAELens saves
        raise ValueError(f"it normalises each activation as it runs ({normalised!r}), which a dictionary here does not")
    if about.get("finetuning_scaling_factor"):
        raise ValueError("it has a scaling factor of its own for each latent (finetuning_scaling_factor)")
    name = metadata.get("hook_name") or about.get("hook_name") or about.get("hook_point") or ""
    is_transcoder = "transcoder" in architecture
    target = (metadata.get("hook_name_out") or about.get("hook_name_out") or f"{name}, predicted") if is_transcoder else None
    return DictionaryConfig(
        kind=_ARCHITECTURES[architecture],
        d_in=int(about["d_in"]),
        d_sae=int(about["d_sae"]),
        d_out=int(about.get("d_out") or about["d_in"]),
        name=canonical_name(name),
        target=target,
        k=int(k or 0) if architecture == "topk" else None,
        has_skip="skip" in architecture,
        subtracts_b_dec=bool(about.get("apply_b_dec_to_input", not is_transcoder)),
    )


def _check_tensors(dictionary: Dictionary, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in dictionary.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path}: the shape of {name} is {found.get(name, 'missing')}; expected {wanted.get(name, 'none of that name')}"
            )


@torch.no_grad()
def _fold_norms(dictionary: Dictionary) -> None:
    """Give decoder rows length 1 and let the encoder make up for it: what is predicted stays the same."""
    norms = dictionary.W_dec.norm(dim=1)
    norms = norms.where(norms > 0, 1)  # what died without a direction writes nothing at any length
    if torch.allclose(norms, torch.ones_like(norms), atol=1e-5, rtol=0):
        return
    dictionary.W_dec.div_(norms[:, None])
    dictionary.W_enc.mul_(norms)
    dictionary.b_enc.mul_(norms)
    if isinstance(threshold := getattr(dictionary, "threshold", None), Tensor):
        threshold.mul_(norms)
