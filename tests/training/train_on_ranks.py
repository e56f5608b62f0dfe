"""Do what a JSON list of jobs says, one after the other, as one process of several: run by test_many_processes.py.

A job is `{"train": {...fields of tiny_config}}` or `{"resume": folder, ...changes}`, computed in float64 unless `"float32": true`. Of
the last process alone: with `"interrupt_at": step` it is asked to stop once it has done so many steps, with `"fail_at": step` it fails
there, and with `"own_disks": true` it writes its parts of a checkpoint elsewhere, as a machine does that shares no disk.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.distributed.checkpoint import hf_storage

from cutaway.runtime import this_rank
from cutaway.training import parallel, resume, train, trainer
from tiny_training import tiny_config

learning_rate, averaging = trainer.learning_rate, parallel.Replicated.averaging


class ElsewhereWriter(hf_storage.HuggingFaceStorageWriter):
    def __init__(self, path, *, save_distributed, enable_consolidation):
        elsewhere = Path(path).parents[3] / "elsewhere"
        super().__init__(str(elsewhere), save_distributed=save_distributed, enable_consolidation=enable_consolidation)


def counted_sending():
    """Have DistributedDataParallel note each time that it sends gradients, all in one bucket."""
    sent = []

    def noted(_, bucket):
        sent.append(bucket.index())
        return default_hooks.allreduce_hook(None, bucket)

    def counting(self, loss_of, model):
        averaged = averaging(self, loss_of, model)
        self._replica.register_comm_hook(None, noted)
        return averaged

    parallel.Replicated.averaging = counting
    return sent


def do(job):
    interrupt_at, fail_at = job.pop("interrupt_at", None), job.pop("fail_at", None)
    is_last = this_rank().index == this_rank().n_ranks - 1

    def interrupting(step, config):
        if step + 1 == interrupt_at and is_last:
            os.kill(os.getpid(), signal.SIGINT)
        if step + 1 == fail_at and is_last:
            raise MemoryError("the last process has no memory left")
        return learning_rate(step, config)

    trainer.learning_rate = interrupting
    n_sent = counted_sending() if job.pop("counts", False) else None
    if job.pop("own_disks", False) and is_last:
        hf_storage.HuggingFaceStorageWriter = ElsewhereWriter
    torch.set_default_dtype(torch.float32 if job.pop("float32", False) else torch.float64)
    try:
        if recipe := job.get("train"):
            watch = tuple(recipe.pop("watch", ()))  # JSON has lists alone
            train(tiny_config(Path(recipe.pop("data")), watch=watch, **recipe), quiet=True)
        else:
            resume(job.pop("resume"), quiet=True, **job)
    except (KeyboardInterrupt, SystemExit) as error:
        if interrupt_at is None:
            raise
        print(error, flush=True)
    finally:
        if n_sent is not None:
            print(f"gradients were sent {len(n_sent)} times")
            parallel.Replicated.averaging = averaging
        trainer.learning_rate = learning_rate
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        do(job)
