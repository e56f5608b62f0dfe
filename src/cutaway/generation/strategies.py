"""The ways to choose a token, by name, to see them side by side."""

from __future__ import annotations

from typing import Any

__all__ = ["STRATEGIES"]

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "beam search, 4 beams": {"num_beams": 4},
    "temperature 0.5": {"temperature": 0.5, "top_p": 1.0},
    "temperature 1.0": {"temperature": 1.0, "top_p": 1.0},
    "temperature 1.5": {"temperature": 1.5, "top_p": 1.0},
    "top-k 10": {"temperature": 1.0, "top_k": 10, "top_p": 1.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "min-p 0.1": {"temperature": 1.0, "min_p": 0.1, "top_p": 1.0},
    "repetition penalty 1.3": {"temperature": 0.0, "repetition_penalty": 1.3},
    "precise": {"preset": "precise"},
    "balanced": {"preset": "balanced"},
    "creative": {"preset": "creative"},
}
"""Options of `LanguageModel.generate` that show each strategy by itself."""
