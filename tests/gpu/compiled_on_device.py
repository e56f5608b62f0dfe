"""Compiled training and decoding on a device, in a process of its own, where no signature is checked: run by the tests beside it.

`train FIELDS` trains with the fields of tiny_config given as JSON. `decode DEVICE DTYPE` decodes compiled beside eager decoding, and
prints the largest difference of logits, whether any logits changed after they were handed out, what was told, and how many steps were
compiled without a CUDA graph.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch._dynamo.utils import counters

from cutaway.config import ModelConfig
from cutaway.generation import CachedDecoder, CompiledDecoder, compiled
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator
from cutaway.training import train
from tiny_training import tiny_config


def decode_beside(device: str, dtype: str) -> None:
    compiled._BUCKETS = (8,)  # a graph for each bucket, and the next for the rest
    config = ModelConfig(d_vocab=31, n_ctx=40, n_layers=2, n_heads=4, d_model=16)
    model = Transformer(config, generator=seeded_generator(0)).to(device, getattr(torch, dtype)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight + 0.3 * torch.randn(weight.shape, generator=seeded_generator(1)))
    tokens = torch.randint(31, (30,), generator=seeded_generator(1)).tolist()
    told, worst, has_changed = list[str](), 0.0, False
    for _ in range(3):  # another text has other slots, at other addresses
        fast = CompiledDecoder(model, [[3, 1, 4]], max_new_tokens=37, tell=told.append)
        slow = CachedDecoder(model, [[3, 1, 4]], max_new_tokens=37)
        with torch.inference_mode():
            fast.read_prompts()
            slow.read_prompts()
            before = kept = torch.zeros(1, device=device)
            for token in tokens:
                got, expected = fast.append([token]), slow.append([token])
                worst = max(worst, (got.float() - expected.float()).abs().max().item())
                has_changed |= not torch.equal(before, kept)
                before, kept = got, got.clone()
    print(json.dumps([worst, has_changed, told, counters["inductor"]["cudagraph_skips"]]))


def run_compiled(*arguments: str) -> str:
    """Run this file with arguments and return what it printed."""
    here = Path(__file__)
    path = os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, here, *arguments], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


if __name__ == "__main__":
    if sys.argv[1] == "train":
        fields = json.loads(sys.argv[2])
        train(tiny_config(Path(fields.pop("data")), **fields), quiet=True)
    else:
        decode_beside(*sys.argv[2:])
