"""Compiled is eager: one graph without a break, and the same numbers. In a process of its own, where no signature is checked."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from cutaway.runtime import compile_obstacle

COMMON = """
import sys
import torch, torch.nn.functional as F
from cutaway.config import ModelConfig
from cutaway.model import KVCache, Transformer

torch.set_num_threads(1)
SIZES = dict(d_vocab=31, n_ctx=12, n_layers=2, n_heads=4, d_model=16)
LLAMA = dict(
    norm="rmsnorm", norm_bias=False, position="rotary", act="silu", gated_mlp=True,
    attn_bias=False, mlp_bias=False, n_kv_heads=2,
)
SHAPES = {
    "gpt2": {},
    "phi": dict(position="rotary", rotary_dim=2, block="parallel", tie_embeddings=False, unembed_bias=True),
    "llama": LLAMA,
    "attention-only": dict(d_mlp=0, position="attention_only", tie_embeddings=False),
    "bidirectional": dict(is_causal=False, position="sinusoidal", norm="none"),
}
tokens = torch.randint(31, (2, 9), generator=torch.Generator().manual_seed(0))

def run(compiled):
    logits = compiled(tokens)
    grads = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), tokens.flatten()), list(model.parameters()))
    return [logits, *grads]

def compare(backend, tolerance):
    for got, expected in zip(run(torch.compile(model, fullgraph=True, backend=backend)), run(model), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
"""


def run_alone(script: str, timeout_s: int = 300) -> str:
    environment = os.environ | {"JAXTYPING_DISABLE": "1"}
    code = COMMON + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_shape_is_one_graph() -> None:
    out = run_alone("""
        for name, shape in SHAPES.items():
            model = Transformer(ModelConfig(**SIZES, **shape), generator=torch.Generator().manual_seed(0)).double()
            compare("aot_eager", 1e-12)  # float64, the same operations in another order
            torch.compiler.reset()
            print(name)
    """)
    assert out.split() == ["gpt2", "phi", "llama", "attention-only", "bidirectional"]


def test_a_step_with_a_cache_is_one_graph() -> None:
    run_alone("""
        model = Transformer(ModelConfig(**SIZES, **LLAMA), generator=torch.Generator().manual_seed(0)).double()
        kv = KVCache(model.config, batch=2, dtype=torch.float64)
        with torch.inference_mode():
            expected = model(tokens)
            model(tokens[:, :5], kv=kv)
            step = torch.compile(model, fullgraph=True, backend="eager")
            for pos in (5, 6):
                torch.testing.assert_close(step(tokens[:, pos : pos + 1], kv=kv)[:, 0], expected[:, pos], rtol=0, atol=1e-12)
    """)


def test_hook_points_leave_no_trace_in_a_compiled_model() -> None:
    """As many operations as the same source has with every `hooks("name", x)` replaced by `x`."""
    out = run_alone("""
        import ast, importlib
        from pathlib import Path

        def count_operations(transformer):
            operations = []
            def count(graph, _inputs):
                operations.extend(node.target for node in graph.graph.nodes if node.op.startswith("call"))
                return graph.forward
            model = transformer.Transformer(ModelConfig(**SIZES, **LLAMA))
            torch.compiler.reset()
            torch.compile(model, fullgraph=True, backend=count)(tokens)
            return len(operations)

        class WithoutHooks(ast.NodeTransformer):
            n_points = 0
            def visit_Call(self, node):
                self.generic_visit(node)
                if isinstance(node.func, ast.Name) and node.func.id == "hooks":
                    self.n_points += 1
                    return node.args[1]
                return node

        from cutaway.model import transformer
        n_with = count_operations(transformer)
        without = WithoutHooks()
        for name in ("norms", "positions", "mlp", "attention", "block", "transformer"):
            module = importlib.import_module(f"cutaway.model.{name}")
            tree = ast.fix_missing_locations(without.visit(ast.parse(Path(module.__file__).read_text())))
            exec(compile(tree, module.__file__, "exec"), vars(module))
        print(n_with, count_operations(transformer), without.n_points)
    """)
    n_with, n_without, n_points = map(int, out.split())
    assert n_points > 20
    assert n_with == n_without


@pytest.mark.skipif(
    compile_obstacle(torch.device("cpu")) is not None, reason="there is no C++ compiler, which torch.compile needs on a CPU"
)
def test_generated_code_computes_the_same() -> None:
    run_alone("""
        shape = {**SIZES, **LLAMA, "position": "learned"}
        model = Transformer(ModelConfig(**shape), generator=torch.Generator().manual_seed(0)).double()
        model.init_weights(torch.Generator().manual_seed(0), std=0.3)
        compare("inductor", 1e-12)  # float64, the same sums in another order

        # angles are float32, and generated code has a sine of its own, right to 2 in the last place: 2^-23 each, for numbers up to 1
        from cutaway.model import Rotary
        rotary, positions = Rotary(8), torch.arange(12)
        for got, expected in zip(torch.compile(rotary.rotation)(positions), rotary.rotation(positions), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=2**-22)
    """)
