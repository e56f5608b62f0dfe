"""TransformerLens as a peer, in a Python of its own that is asked over pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.costs import is_like_gpt2
from cutaway.model import Transformer
from cutaway.weights import save_tensors
from cutaway.weights.transformer_lens import transformer_lens_tensors

__all__ = ["TransformerLens"]

_ZEROS = r"(mask|IGNORE|\.b|\.b_\w+)$"
"""What a state may lack: masks, and biases, which are zero in a new model."""

_LONGEST = 100
_HOW = "make an environment for it (python -m venv lens; lens/bin/pip install transformer-lens) and give lens/bin/python"


class TransformerLens:
    """A process that holds a model of TransformerLens's, opened with the weights of one of ours; to be left as a context.

    Raises ValueError for a program that is not there or is no Python that has TransformerLens.
    """

    name = "TransformerLens"

    def __init__(self, python: str | Path) -> None:
        self._python = str(python)
        self._folder = tempfile.TemporaryDirectory()
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        source = files(__package__).joinpath("lens_worker.py").read_text(encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        try:
            self._process = subprocess.Popen(
                [self._python, "-c", source],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                text=True,
                cwd=self._folder.name,
                env={**environment, "TQDM_DISABLE": "1"},
            )
        except OSError as error:
            self._said.close()
            self._folder.cleanup()
            raise ValueError(
                f"{python} cannot be run ({error.strerror}), and is to be a Python that has TransformerLens: {_HOW}"
            ) from None
        try:
            self.versions: dict[str, str] = self._ask("versions", n_threads=torch.get_num_threads())
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.terminate()
        self._process.wait()
        self._said.close()
        self._folder.cleanup()

    def open(self, model: Transformer) -> None:
        """Have the process build the same model with the same weights; raises ValueError for a shape that is not like GPT-2's."""
        if not is_like_gpt2(model.config):
            raise ValueError("only shapes like GPT-2's are compared with TransformerLens")
        file = Path(self._folder.name) / "weights.safetensors"
        save_tensors({name: weight.cpu() for name, weight in transformer_lens_tensors(model).items()}, file)
        weight = model.embed.W_E
        found = self._ask(
            "open",
            config=_settings(model.config),
            weights=str(file),
            dtype=str(weight.dtype).removeprefix("torch."),
            device=str(weight.device),
        )
        file.unlink()
        ours = [name for name in found["missing"] if not re.search(_ZEROS, name)]
        if ours or found["unexpected"]:
            raise RuntimeError(f"this TransformerLens names its weights otherwise ({', '.join([*ours, *found['unexpected']][:3])})")

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Return its logits, in float32."""
        file = Path(self._folder.name) / "logits.safetensors"
        self._ask("logits", tokens=tokens.tolist(), out=str(file))
        return load_file(file)["logits"]

    def forward_s(self, tokens: Int[Tensor, "batch pos"]) -> float:
        """Return how long one forward pass took there."""
        return float(self._ask("forward", tokens=tokens.tolist())["time_s"])

    def sweep(
        self, kind: str, *, clean: Int[Tensor, "1 pos"], corrupted: Int[Tensor, "1 pos"], correct: int, wrong: int
    ) -> tuple[float, list[float]]:
        """Return how long its own patching function took, and the logit difference of each cell."""
        tokens = {"clean": clean.tolist(), "corrupted": corrupted.tolist()}
        answer = self._ask("sweep", kind=kind, **tokens, correct=correct, wrong=wrong)
        return float(answer["time_s"]), [float(score) for score in answer["scores"]]

    def _ask(self, request: str, **values: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": request, **values}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._said.seek(0)
            last = ([line.strip() for line in self._said if line.strip()] or ["it said nothing"])[-1]
            last = (
                last if len(last) < _LONGEST else f"{last[:_LONGEST]} ..."
            )  # who was given the program as an argument may repeat it
            if request == "versions":
                raise ValueError(f"{self._python} is no Python that has TransformerLens ({last}): {_HOW}")
            raise RuntimeError(f"TransformerLens's process ended while it did {request!r} ({last})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"TransformerLens could not do {request!r}: {answer['error']}")
        return answer


def _settings(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of its configuration for a shape like GPT-2's."""
    return {
        "n_layers": config.n_layers,
        "d_model": config.d_model,
        "n_ctx": config.n_ctx,
        "d_head": config.d_head,
        "n_heads": config.n_heads,
        "d_mlp": config.d_mlp,
        "d_vocab": config.d_vocab,
        "act_fn": config.act,
        "normalization_type": "LN",
        "eps": config.norm_eps,
    }
