"""Do what a JSON list of jobs says, one after the other, as one of torchrun's processes: run by test_ranks.py.

A job is `{"train": {...fields of tiny_config}}` or `{"resume": folder, ...changes}`; `"interrupt_at": step` has the last process asked
to stop when it has done so many steps, `"float64": true` has the model and all that it computes in float64.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from cutaway.training import resume, train, trainer
from tiny_training import tiny_config


def do(job):
    is_last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    interrupt_at = job.pop("interrupt_at", None)
    learning_rate = trainer.learning_rate

    def interrupting(step, config):
        if step + 1 == interrupt_at and is_last:
            os.kill(os.getpid(), signal.SIGINT)
        return learning_rate(step, config)

    trainer.learning_rate = interrupting
    torch.set_default_dtype(torch.float64 if job.pop("float64", False) else torch.float32)
    try:
        if "train" in job:
            recipe = job["train"]
            train(tiny_config(Path(recipe.pop("data")), **recipe), quiet=True)
        else:
            resume(job.pop("resume"), quiet=True, **job)
    except KeyboardInterrupt as error:
        if interrupt_at is None:
            raise
        print(error, flush=True)
    finally:
        trainer.learning_rate = learning_rate


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        do(job)
