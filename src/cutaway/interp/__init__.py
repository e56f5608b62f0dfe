"""Taking a model apart: activations, edits, sweeps that use causality, and the classic analyses on top."""
