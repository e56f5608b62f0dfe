"""Runs in a Python that has TransformerLens 2, and nothing of cutaway's: answers a line of JSON for each that it reads.

Tensors go through safetensors files of a folder that both know. Sweeps are TransformerLens's own, of its `patching` module.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any, TextIO

__all__ = ["Worker", "serve"]


class Worker:
    """One model, and what is measured of it."""

    def __init__(self) -> None:
        import torch
        import transformer_lens  # type: ignore[import-not-found]

        self.torch, self.lens = torch, transformer_lens
        self.model: Any = None

    def versions(self, n_threads: int) -> dict[str, str]:
        """Compute with so many threads, and say what is installed."""
        self.torch.set_num_threads(n_threads)
        self.torch.set_grad_enabled(False)
        return {"transformer_lens": version("transformer_lens"), "torch": self.torch.__version__}

    def open(self, config: dict[str, Any], weights: str, dtype: str, device: str) -> dict[str, list[str]]:
        """Build a model and give it the weights of a file; say which names the file lacks and which are unknown."""
        from safetensors.torch import load_file

        settings = self.lens.HookedTransformerConfig(**config, dtype=getattr(self.torch, dtype), device=device)
        self.model = self.lens.HookedTransformer(settings).eval()
        found = self.model.load_state_dict(load_file(weights), strict=False)
        return {"missing": list(found.missing_keys), "unexpected": list(found.unexpected_keys)}

    def logits(self, tokens: list[list[int]], out: str) -> dict[str, str]:
        """Write the logits of some tokens to a file."""
        from safetensors.torch import save_file

        save_file({"logits": self.model(self._tensor(tokens)).float().contiguous().cpu()}, out)
        return {"file": out}

    def forward(self, tokens: list[list[int]]) -> dict[str, float]:
        """Time one forward pass."""
        given = self._tensor(tokens)
        started = time.perf_counter()
        self.model(given)[0, 0, 0].item()  # which waits for a GPU
        return {"time_s": time.perf_counter() - started}

    def sweep(self, kind: str, clean: list[list[int]], corrupted: list[list[int]], correct: int, wrong: int) -> dict[str, Any]:
        """Time a patching sweep, from the clean run into the corrupted one, and return the logit differences of its cells."""
        from transformer_lens import patching

        patch = {"grid": patching.get_act_patch_resid_pre, "heads": patching.get_act_patch_attn_head_out_all_pos}[kind]
        _, cache = self.model.run_with_cache(self._tensor(clean))
        given = self._tensor(corrupted)
        started = time.perf_counter()
        scores = patch(self.model, given, cache, lambda logits: logits[0, -1, correct] - logits[0, -1, wrong])
        scores = scores.flatten().tolist()
        return {"time_s": time.perf_counter() - started, "scores": scores}

    def _tensor(self, tokens: list[list[int]]) -> Any:
        return self.torch.tensor(tokens, device=self.model.cfg.device)


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer each request {"do": name, ...} until there are no more; what fails is answered as {"error": sentence}."""
    worker = Worker()
    for line in requests:
        request: dict[str, Any] = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    own_answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    serve(sys.stdin, own_answers)
