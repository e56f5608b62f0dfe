"""GPT-2 small, one row: tokens a second compiled and as it is, beside the memory's rate and beside transformers, in turn."""

from __future__ import annotations

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from cutaway.config import ModelConfig
from cutaway.measure import bytes_a_token, bytes_of_weights, next_token, reading_weights, seconds_in_turn
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

LENGTH = 32


def transformers_token(n_prompt: int):
    """Return a function that decodes one more token with transformers' own cache."""
    model = GPT2LMHeadModel(GPT2Config()).eval()
    state = model(torch.arange(n_prompt)[None], use_cache=True)

    def step() -> None:
        nonlocal state
        token = state.logits[:, -1:].argmax(dim=-1)
        state = model(token, past_key_values=state.past_key_values, use_cache=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="gpt2")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    config = ModelConfig.preset(arguments.preset)
    prompt = list(range(LENGTH))
    for dtype in (torch.float32, torch.bfloat16):
        model = Transformer(config, generator=seeded_generator(0)).to(dtype).eval()
        with torch.inference_mode():
            functions = {"compiled": next_token(model, prompt, compile=True), "as it is": next_token(model, prompt)}
            if arguments.preset == "gpt2":
                functions["transformers, float32"] = transformers_token(LENGTH)
            functions["reading, compiled"] = reading_weights(model)
            functions["reading, torch's sum"] = reading_weights(model, compile=False)
            times = seconds_in_turn(functions, n_rounds=arguments.rounds, n_warmups=3)
        reading_s = min(times.pop("reading, compiled"), times.pop("reading, torch's sum"))
        limit = bytes_of_weights(model) / reading_s / bytes_a_token(model, length=LENGTH + arguments.rounds // 2)
        rate = bytes_of_weights(model) / reading_s / 1e9
        print(f"{str(dtype).removeprefix('torch.')}: weights read at {rate:.1f} GB/s, so at most {limit:.1f} tokens/s")
        for what, time_s in times.items():
            print(f"  {what:22} {1 / time_s:7.1f} tokens/s   {1 / time_s / limit:.2f} of the limit")


if __name__ == "__main__":
    main()
