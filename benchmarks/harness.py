"""HellaSwag and LAMBADA on SmolLM2: ours and lm-evaluation-harness's with transformers, on the same rows and weights, in turn.

`python -m benchmarks.harness hellaswag ROWS.jsonl [--limit N] [--batch-size 4]` needs `pip install lm-eval accelerate` beside cutaway.
Prints both scores, how many rows are predicted differently, the largest difference of a sum of log-probabilities, and the times: of
the harness its scoring alone, of ours everything from the file on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import cutaway
from cutaway.evaluation import Evaluation, lambada, multiple_choice
from cutaway.evaluation.multiple_choice import likeliest
from cutaway.language_model import LanguageModel
from cutaway.weights import save_hugging_face

TASKS = {"hellaswag": ("hellaswag/hellaswag.yaml", "validation"), "lambada": ("lambada/lambada_openai.yaml", "test")}

HELLASWAG_FIELDS = ("activity_label", "ctx_a", "ctx_b", "ctx", "endings")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.harness", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("data", type=Path, help="a JSONL file of the task's rows")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch-size", type=int, default=4, help="the harness's; 4 was its fastest of 4, 16, 64 on two cores")
    arguments = parser.parse_args()
    lm = cutaway.load("smollm2-135m", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        rows = [json.loads(line) for line in arguments.data.read_text().splitlines() if line.strip()][: arguments.limit]
        theirs, scoring_s = run_harness(lm, arguments.task, rows, Path(folder), arguments.batch_size)
    started = time.perf_counter()
    measure = multiple_choice if arguments.task == "hellaswag" else lambada
    ours = measure(lm, arguments.data, limit=arguments.limit)
    time_s = time.perf_counter() - started
    n_different, largest = differences(arguments.task, theirs, ours)
    print(f"{arguments.task}, {len(rows)} rows, {torch.get_num_threads()} threads")
    for name in ("acc", "acc_norm") if arguments.task == "hellaswag" else ("acc",):
        print(
            f"  {name:9} harness {100 * sum(sample[name] for sample in theirs) / len(theirs):.2f} %, cutaway {ours.metrics[name]}"
        )
    print(f"  {n_different} rows predicted differently; sums of log-probabilities at most {largest:.1e} apart")
    print(
        f"  scoring: harness {scoring_s:.1f} s, cutaway {time_s:.1f} s: {scoring_s / time_s:.2f} x as fast (at least 1.5 on HellaSwag)"
    )


def run_harness(
    lm: LanguageModel, task: str, rows: list[dict[str, Any]], folder: Path, batch_size: int
) -> tuple[list[dict[str, Any]], float]:
    """Return the harness's samples in the order of the rows, and the seconds it spent scoring."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    hub = folder / "model"
    save_hugging_face(lm, hub)
    model = AutoModelForCausalLM.from_pretrained(hub, dtype=torch.float32).eval()
    harness = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(hub), batch_size=batch_size, device="cpu")
    score, spent_s = harness._loglikelihood_tokens, [0.0]

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        scored = score(*arguments, **options)
        spent_s[0] += time.perf_counter() - started
        return scored

    harness._loglikelihood_tokens = timed
    done = simple_evaluate(
        harness,
        tasks=[local_task(task, rows, folder)],
        num_fewshot=0,
        bootstrap_iters=0,
        task_manager=TaskManager(),
        verbosity="ERROR",
    )
    (samples,) = done["samples"].values()
    return sorted(samples, key=lambda sample: sample["doc_id"]), spent_s[0]


def local_task(task: str, rows: list[dict[str, Any]], folder: Path) -> str:
    """Write the harness's own task with these rows in the place of the hub's, and return its path."""
    import lm_eval

    file, (definition, split) = folder / "rows.jsonl", TASKS[task]
    if task == "lambada":
        kept = [{"text": row.get("text") or f"{row['context']} {row['continuation']}"} for row in rows]
    else:
        kept = [{**{name: row[name] for name in HELLASWAG_FIELDS}, "label": str(row["label"])} for row in rows]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    lines = [
        f"include: {Path(lm_eval.__file__).parent / 'tasks' / definition}",
        f"task: {task}_local",
        "dataset_path: json",
        "dataset_name: null",
        "training_split: null",
        f"dataset_kwargs: {{data_files: {{{split}: {file}}}, cache_dir: {folder}}}",
    ]
    (folder / "task.yaml").write_text("\n".join(lines) + "\n")
    return str(folder / "task.yaml")


def differences(task: str, theirs: list[dict[str, Any]], ours: Evaluation) -> tuple[int, float]:
    """Return how many rows are predicted differently, and the largest difference of a sum of log-probabilities."""
    n_different, largest = 0, 0.0
    for sample, row in zip(theirs, ours.rows, strict=True):
        responses = [response[0] if isinstance(response[0], tuple | list) else response for response in sample["resps"]]
        sums = [float(response[0]) for response in responses]
        if task == "lambada":
            n_different += str(responses[0][1]) != str(row["is_greedy"])
            largest = max(largest, abs(sums[0] - row["log_prob"]))
            continue
        per_length = [each / length for each, length in zip(sums, row["lengths"], strict=True)]
        n_different += (likeliest(sums), likeliest(per_length)) != (row["acc"], row["acc_norm"])
        largest = max(largest, *(abs(a - b) for a, b in zip(sums, row["log_probs"], strict=True)))
    return n_different, largest


if __name__ == "__main__":
    main()
