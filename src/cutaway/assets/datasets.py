"""The rows that models are evaluated on, as their authors published them."""

from __future__ import annotations

from cutaway.assets.asset import Asset, File
from cutaway.assets.sources import Url

__all__ = ["DATASETS"]

# Size and hash as huggingface/datasets recorded them (datasets/hellaswag/urls_checksums/checksums.txt), from this address.
_HELLASWAG = Asset(
    "hellaswag",
    "dataset",
    about="HellaSwag's 10,042 validation rows: which ending goes on?",
    licence="MIT",
    files=(
        File(
            "hellaswag_val.jsonl",
            (Url("https://github.com/rowanz/hellaswag/raw/master/data/hellaswag_val.jsonl"),),
            n_bytes=12_246_618,
            sha256="0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
)

# Size, hash and address from the card of EleutherAI/lambada_openai, which lm-evaluation-harness reads.
_LAMBADA = Asset(
    "lambada",
    "dataset",
    about="LAMBADA's 5,153 test passages as OpenAI prepared them: what is the last word?",
    licence="MIT (modified)",
    files=(
        File(
            "lambada_test.jsonl",
            (Url("https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl"),),
            n_bytes=1_819_752,
            sha256="4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
        ),
    ),
)

DATASETS = (_HELLASWAG, _LAMBADA)
"""What `cutaway evaluate` asks for by name."""
