"""Compiled decoding gives what decoding gives. In processes of their own, where no signature is checked and nothing was compiled."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.generation import CompiledDecoder
from cutaway.model import Transformer
from cutaway.runtime import compile_obstacle

COMMON = """
import torch
from cutaway.config import ModelConfig
from cutaway.generation import CachedDecoder, CompiledDecoder, Sampling, compiled, decode
from cutaway.model import Transformer

torch.set_num_threads(1)
SIZES = dict(d_vocab=31, n_ctx=20, n_layers=2, n_heads=4, d_model=16)
SHAPES = {
    "gpt2": {},
    "llama, grouped heads": dict(
        norm="rmsnorm", norm_bias=False, position="rotary", act="silu", gated_mlp=True,
        attn_bias=False, mlp_bias=False, n_kv_heads=2, tie_embeddings=False,
    ),
}

def make(shape):
    model = Transformer(ModelConfig(**SIZES, **SHAPES[shape])).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if ".ln" in name and name.endswith("weight") else 0.0
            weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=generator))
    return model

def text(model, n_new, compile):
    sampling = Sampling(temperature=1.0, top_k=10)
    steps = decode(model, [[3, 1, 4]], max_new_tokens=n_new, sampling=sampling, compile=compile, tell=told.append)
    return [token for step in steps for _, token in step]

told = []
"""

needs_compiler = pytest.mark.skipif(
    compile_obstacle(torch.device("cpu")) is not None, reason="no C++ compiler is on the path, so nothing can be compiled"
)


def run_alone(script: str, *arguments: str, **environment: str) -> str:
    outer = {name: value for name, value in os.environ.items() if name != "CXX"}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + textwrap.dedent(script), *arguments],
        env=outer | {"JAXTYPING_DISABLE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_compiler
@pytest.mark.parametrize("shape", ["gpt2", "llama, grouped heads"])
def test_compiled_is_eager(shape: str) -> None:
    """From the first bucket of slots into the rest, to the end of the context, and past it."""
    out = run_alone(
        """
        import sys
        compiled._BUCKETS = (8,)  # and beyond the last bucket all slots
        model = make(sys.argv[1])
        prompt = [3, 1, 4]
        fast = CompiledDecoder(model, [prompt], max_new_tokens=20, tell=told.append)
        slow = CachedDecoder(model, [prompt], max_new_tokens=20)
        tokens = torch.randint(31, (20,), generator=torch.Generator().manual_seed(1)).tolist()
        with torch.inference_mode():
            torch.testing.assert_close(fast.read_prompts(), slow.read_prompts())
            for token in tokens:
                got, expected = fast.append([token]), slow.append([token])
                # float32: 7 digits, less two or three for sums in another order through two layers with logits of size 1 to 10
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
                assert fast.rows == slow.rows
        assert expected.std() > 0.5  # so that the tolerance means something
        from torch._dynamo.utils import counters
        print(told, counters["stats"]["unique_graphs"])
        # the text too, where greedy decoding of random logits leaves no tie
        assert text(model, 20, compile=True) == text(model, 20, compile=False)
        """,
        shape,
    )
    told, n_graphs = out.split("\n")[0].rsplit(" ", 1)
    assert told == "['past the context of 20 tokens each new token reads the last 20 anew, which is slower']"
    assert n_graphs == "2"  # one for each bucket


def test_without_a_compiler_one_sentence_and_the_same_text(tmp_path: Path) -> None:
    out = run_alone(
        """
        model = make("gpt2")
        eager = text(model, 12, compile=False)
        assert told == []
        assert text(model, 12, compile=True) == eager
        assert len(told) == 1
        print(told[0])
        """,
        PATH=str(tmp_path),
    )
    assert out.startswith("there is no C++ compiler here (`cutaway doctor` shows what was looked for), so decoding runs as it is")


def test_with_a_compiler_that_fails_one_sentence_and_the_same_text(tmp_path: Path) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ]\n')
    broken.chmod(0o755)
    out = run_alone(
        """
        model = make("gpt2")
        eager = text(model, 12, compile=False)
        assert text(model, 12, compile=True) == eager
        assert len(told) == 1
        print(told[0])
        """,
        CXX=str(broken),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert out.startswith("the decoding step could not be compiled (")
    assert out.endswith("), so it runs as it is\n")


def test_many_shapes_in_one_process() -> None:
    """torch compiles a function eight times at most unless it is told otherwise, and every bucket of every shape takes one."""
    out = run_alone("""
        import functools
        torch.compile = functools.partial(torch.compile, backend="eager")  # the graphs count, not their speed
        compiled._BUCKETS = (4, 8, 12, 16, 64)
        from torch._dynamo.utils import counters

        def n_graphs(**changes):
            text(Transformer(ModelConfig(**SIZES | changes)).eval(), 17, compile=True)
            return counters["stats"]["unique_graphs"]

        print(n_graphs(), n_graphs(), n_graphs(n_layers=1), n_graphs(d_model=8), told)
        compiled._MOST_GRAPHS = 17
        compiled._compiled_step.cache_clear()
        n_graphs(n_layers=3)
        print(told)
        print(torch._dynamo.config.cache_size_limit)
    """)
    # other weights of one shape use the same graphs; past the limit it is told, and everyone else's limit stays
    assert out.splitlines() == [
        "5 5 10 15 []",
        "['the decoding step could not be compiled (FailOnRecompileLimitHit), so it runs as it is']",
        "8",
    ]


def test_all_but_token_and_position_stays_where_it_is() -> None:
    """A CUDA graph refuses a step that writes into what may have another address the next time; torch says what it takes for fixed."""
    out = run_alone(
        """
        from torch._inductor import compile_fx

        def backend(graph, inputs):
            def note(module, inputs, **options):
                print(len(inputs), sorted(set(range(len(inputs))) - set(options["static_input_idxs"])))
                print([inputs[number].shape for number in range(len(inputs)) if number not in options["static_input_idxs"]])
                return module
            return compile_fx.compile_fx(graph, inputs, inner_compile=note)

        compile_function = torch.compile
        torch.compile = lambda function, **options: compile_function(function, **options | {"backend": backend})
        decoder = CompiledDecoder(make("gpt2"), [[3, 1, 4]], max_new_tokens=9, tell=told.append)
        with torch.inference_mode():
            decoder.read_prompts()
            decoder.append([5])
        assert told == [], told
        """,
        TORCHINDUCTOR_AUTOGRAD_CACHE="0",  # or nothing is compiled where it once was
    )
    n_inputs, shapes = out.splitlines()
    n_weights_and_slots = len(list(Transformer(_SHAPE).parameters())) + 2 * 2
    assert n_inputs.startswith(f"{n_weights_and_slots + 2} [")
    assert shapes == "[torch.Size([1, 1]), torch.Size([1])]"


_SHAPE = ModelConfig(d_vocab=31, n_ctx=20, n_layers=2, n_heads=4, d_model=16)


def test_several_prompts_are_refused(tiny_model: Transformer) -> None:
    with pytest.raises(ValueError, match="compiled decoding takes one prompt at a time, not 2"):
        CompiledDecoder(tiny_model, [[1], [2]], max_new_tokens=3, tell=print)
