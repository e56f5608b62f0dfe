"""Several processes train one model as one process does: the same losses, the same files, and one voice."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_on_ranks import do

import cutaway
from cutaway.data import open_documents, write_document_shards
from cutaway.data.document_writing import side_of
from cutaway.flops import training_flops
from cutaway.runs import Checkpoint, Run
from cutaway.training import resume, train
from cutaway.weights import stream_tensors
from many_processes import run_ranks, start_ranks, surroundings
from tiny_training import OPTIONS, hashes, tiny_config, write_text
from web_documents import WORDS, small_tokenizer, write_parquet

HERE = Path(__file__).parent
RECIPE = {"dropout": 0.0, "n_steps": 20, "batch_size": 12, "sample_every": 0, "save_every": 20}
FAST = {"optimizer": "muon", "n_first_window": 4, "schedule": "linear", "learning_rate": 0.01}
N_DONE = 7  # steps of those that are stopped


def start_jobs(n_ranks, *jobs):
    """Start jobs in so many processes."""
    return start_ranks(n_ranks, HERE / "train_on_ranks.py", json.dumps(jobs))


def do_jobs(n_ranks, *jobs, fails=False):
    """Do jobs in so many processes; return what each printed."""
    ended = run_ranks(n_ranks, HERE / "train_on_ranks.py", json.dumps(jobs), returncode=1 if fails else 0)
    return ["".join(printed) for printed in ended] if fails else [printed for printed, _ in ended]


def start_torchrun(n_ranks, *arguments, folder, **more):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_ranks}", "-m", "cutaway"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env=surroundings(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def children_of(process):
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not tasks.is_file():
        pytest.skip("needs /proc, to know torchrun's processes")
    return [int(number) for number in tasks.read_text().split()]


def curve(run, name="loss"):
    return Run(run).metrics().curve(name)[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One process's run, beside those of two that did the same work, and two that were stopped."""
    home = tmp_path_factory.mktemp("home")
    data = str(write_text(home))
    recipe = lambda out, **more: RECIPE | {"data": data, "out": str(home / out)} | more  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        do({"train": recipe("one")})
        do({"train": recipe("one-fast", **FAST)})
        do({"train": recipe("one-32", watch=["norms"]), "float32": True})
        printed = do_jobs(
            2,
            {"train": recipe("ddp")},
            {"train": recipe("fsdp2", parallel="fsdp2")},
            {"train": recipe("ddp-fast", **FAST)},
            {"train": recipe("ddp-32", sample_every=20, watch=["norms"]), "float32": True},
            {"train": recipe("fsdp2-32", parallel="fsdp2", sample_every=20, watch=["norms"]), "float32": True},
            {"train": recipe("ddp-counted", n_steps=4), "counts": True},
            {"train": recipe("ddp-dropout", dropout=0.1, n_steps=4)},
            {"train": recipe("fsdp2-dropout", dropout=0.1, n_steps=4, parallel="fsdp2")},
            {"train": recipe("stopped-ddp"), "interrupt_at": N_DONE},
            {"train": recipe("stopped-fsdp2", parallel="fsdp2"), "interrupt_at": N_DONE},
        )
    (home / "printed.json").write_text(json.dumps(printed))
    return home


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["loss", "val_loss", "grad_norm"])
def test_two_processes_learn_what_one_does(home, parallel, name):
    one, two = curve(home / "one", name), curve(home / parallel, name)
    assert two == pytest.approx(one, abs=1e-13)  # sums in another order: 53 bits of numbers of about 3
    assert max(one) - min(one) > 0.01
    one, two = curve(home / "one-32", name), curve(home / f"{parallel}-32", name)
    assert two == pytest.approx(one, abs=2e-6 if name == "grad_norm" else 1e-6)  # the same in 24 bits


@pytest.mark.parametrize("name", ["loss", "val_loss", "grad_norm"])
def test_two_processes_learn_by_muon_what_one_does(home, name):
    one, two = curve(home / "one-fast", name), curve(home / "ddp-fast", name)
    # as above, and five rounds of Newton-Schulz make up to 3.4^5 = 480 times as much of a small singular value's rounding
    assert two == pytest.approx(one, abs=1e-10)
    assert max(one) - min(one) > 0.1


@pytest.mark.parametrize(("run", "one"), [("ddp", "one"), ("fsdp2", "one"), ("ddp-fast", "one-fast")])
def test_the_files_are_those_of_one_process(home, run, one):
    ours, theirs = (Checkpoint(home / name / "checkpoints/step-000020") for name in (run, one))
    assert {path.name for path in ours.path.iterdir()} == {path.name for path in theirs.path.iterdir()}
    assert ours.verify().keys() == theirs.verify().keys()
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = dict(stream_tensors(theirs.path / name))
        found = dict(stream_tensors(ours.path / name))
        assert found.keys() == expected.keys()
        for key, tensor in found.items():
            torch.testing.assert_close(tensor, expected[key], atol=1e-12, rtol=1e-9)  # Adam divides by small sums
    assert not [path for path in (home / run).rglob("*") if path.name.endswith((".tmp", "-parts"))]
    assert cutaway.load(home / run).generate("the", max_new_tokens=3).startswith("the")
    assert Run(home / run).manifest["n_processes"] == 2


@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_the_first_process_looks_at_the_whole_model(home, parallel):
    assert Run(home / f"{parallel}-32").metrics().last("sample") == Run(home / "ddp-32").metrics().last("sample")
    assert len(Run(home / f"{parallel}-32").metrics().last("sample")) > 200
    watched = Run(home / f"{parallel}-32").metrics().watched()
    assert "norms.W_Q" in watched
    for name in watched:
        assert curve(home / f"{parallel}-32", name) == pytest.approx(curve(home / "one-32", name), rel=1e-6)


def test_gradients_of_several_batches_are_sent_once_a_step(home):
    assert tiny_config(Path("play.txt")).n_accumulate == 2
    for printed in json.loads((home / "printed.json").read_text()):
        assert "gradients were sent 4 times" in printed


def test_dropout_is_off_where_it_is_off_and_on_where_it_is_on(home):
    assert curve(home / "fsdp2-dropout") == pytest.approx(curve(home / "ddp-dropout"), abs=1e-13)
    assert curve(home / "ddp-dropout") != pytest.approx(curve(home / "one")[:4], abs=1e-6)
    for parallel in ("ddp", "fsdp2"):
        first = curve(home / f"{parallel}-dropout", "val_loss")[0]
        assert first == pytest.approx(curve(home / "one", "val_loss")[0], abs=1e-13)


def test_all_stop_at_the_step_that_one_was_asked_at_and_one_says_so(home):
    first, last = json.loads((home / "printed.json").read_text())
    for run in ("stopped-ddp", "stopped-fsdp2"):
        assert Run(home / run).latest_checkpoint().step == N_DONE
        assert (
            f"stopped and saved after step {N_DONE}; go on by `torchrun --standalone --nproc-per-node=2 -m cutaway train" in first
        )
    assert "stopped" not in last


@pytest.mark.parametrize("run", ["stopped-ddp", "stopped-fsdp2"])
def test_one_process_goes_on_with_the_run_of_two(home, run, tmp_path):
    folder = shutil.copytree(home / run, tmp_path / "copy")
    do({"resume": str(folder)})
    for name in ("loss", "val_loss", "grad_norm"):
        assert curve(folder, name) == pytest.approx(curve(home / "one", name), abs=1e-13)


@pytest.mark.slow
def test_three_processes_go_on_with_the_run_of_two_in_either_way(home, tmp_path):
    ways = [(run, parallel) for run in ("stopped-ddp", "stopped-fsdp2") for parallel in ("ddp", "fsdp2")]
    folders = [shutil.copytree(home / run, tmp_path / f"{run}-as-{parallel}") for run, parallel in ways]
    do_jobs(3, *({"resume": str(folder), "parallel": way} for folder, (_, way) in zip(folders, ways, strict=True)))
    for folder in folders:
        for name in ("loss", "val_loss", "grad_norm"):
            assert curve(folder, name) == pytest.approx(curve(home / "one", name), abs=1e-13)


@pytest.mark.slow
def test_a_process_that_fails_alone_says_why_and_the_others_are_silent(home, tmp_path):
    recipe = RECIPE | {"data": str(home / "play.txt"), "out": str(tmp_path / "run")}
    first, last = do_jobs(2, {"train": recipe, "fail_at": 3}, fails=True)
    assert first == ""
    assert "MemoryError: the last process has no memory left" in last
    assert "rank 1" in last
    assert Run(tmp_path / "run").latest_checkpoint().step == 0


@pytest.mark.slow
def test_machines_that_share_no_disk_are_noticed_at_the_first_checkpoint(home, tmp_path):
    recipe = RECIPE | {"data": str(home / "play.txt"), "out": str(tmp_path / "run"), "parallel": "fsdp2"}
    first, last = do_jobs(2, {"train": recipe, "own_disks": True}, fails=True)
    assert "holds the parts of some processes alone" in first
    assert last == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_weight_with_fewer_rows_than_processes_and_fewer_windows_too(home, tmp_path):
    recipe = RECIPE | {"data": str(home / "play.txt"), "n_ctx": 2, "n_validation_windows": 2, "n_steps": 6}
    do({"train": recipe | {"out": str(tmp_path / "one")}})
    do_jobs(3, {"train": recipe | {"out": str(tmp_path / "three"), "parallel": "fsdp2"}})
    for name in ("loss", "val_loss"):
        assert curve(tmp_path / "three", name) == pytest.approx(curve(tmp_path / "one", name), abs=1e-13)
    weights = dict(stream_tensors(tmp_path / "three/checkpoints/step-000006/model.safetensors"))
    assert weights["embed.pos_embed.W_pos"].shape == (2, 16)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_in_bfloat16_and_compiled_it_stays_close(home, tmp_path, parallel):
    recipe = RECIPE | {"data": str(home / "play.txt"), "n_steps": 4, "dtype": "bfloat16"}
    do_jobs(2, {"train": recipe | {"out": str(tmp_path / "run"), "parallel": parallel, "compile": True}, "float32": True})
    assert curve(tmp_path / "run") == pytest.approx(curve(home / "one-32")[:4], abs=0.01)  # 8 bits: test_step.py has the same


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "victim"), [("ddp", 1), ("fsdp2", 0)])
def test_a_killed_process_ends_the_job_and_the_next_start_goes_on(play, tmp_path, parallel, victim):
    more = ["--n-steps", 1000, "--validate-every", 1000, "--sample-every", 0, "--save-every", 100, "--parallel", parallel]
    job = start_torchrun(2, "train", "--data", play, *OPTIONS, *more, "--out", "run", folder=tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / "run/checkpoints/step-000100").exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(children_of(job)[victim], signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0
    step = Run(tmp_path / "run").latest_checkpoint().step
    assert 100 <= step < 1000
    assert said.replace("\n", " ").count("another process of this job ended, so training stopped after step ") == 1
    assert f"the checkpoint of step {step} is whole" in said
    assert "--nproc-per-node=2 -m cutaway train --resume run`" in said
    resume(tmp_path / "run", quiet=True)
    assert Run(tmp_path / "run").metrics().curve("loss")[0] == list(range(1, 1001))
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_one_process_says_which_file_the_run_of_two_lacks(home, tmp_path, name):
    folder = shutil.copytree(home / "stopped-fsdp2", tmp_path / "copy")
    (folder / f"checkpoints/step-{N_DONE:06d}" / name).unlink()
    before = hashes(folder / "checkpoints")
    said = (
        rf"step-{N_DONE:06d}.*{name} is missing: use another checkpoint, or remove step-{N_DONE:06d} to go on from the one before"
    )
    with pytest.raises(ValueError, match=said):
        resume(folder, quiet=True)
    assert hashes(folder / "checkpoints") == before


def test_the_speed_is_that_of_all_processes(home):
    for run in ("ddp-32", "fsdp2-32"):
        for record in Run(home / run).metrics().records[1:]:
            per_token = training_flops(Run(home / run).model_config, 16) / 16
            assert record["flops_per_s"] == pytest.approx(record["tokens_per_s"] * per_token)
            assert 0 < record["share_of_peak"] < 1


@pytest.mark.slow
def test_fewer_documents_than_processes(tmp_path):
    texts = [" ".join(random.Random(seed).choices(WORDS, k=150)) for seed in range(100)]
    two = [next(text for text in texts if side_of(text, 0.1) == side) for side in ("train", "validation")]
    shards = write_document_shards(
        open_documents(write_parquet(tmp_path / "two.parquet", two)), tmp_path / "shards", small_tokenizer()
    )
    assert shards.n_documents("train") == shards.n_documents("validation") == 1
    data = {"data": str(shards.folder), "tokenizer": str(shards.folder / "tokenizer.json")}
    do({"train": RECIPE | data | {"out": str(tmp_path / "one")}})
    do_jobs(3, {"train": RECIPE | data | {"out": str(tmp_path / "three")}})
    for name in ("loss", "val_loss"):
        assert curve(tmp_path / "three", name) == pytest.approx(curve(tmp_path / "one", name), abs=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_a_disk_that_takes_no_more_is_said_once_and_older_checkpoints_stay(home, tmp_path, parallel):
    folder = shutil.copytree(home / f"stopped-{parallel}", tmp_path / "copy")
    before = hashes(folder / "checkpoints")
    largest = (folder / f"checkpoints/step-{N_DONE:06d}/optimizer.safetensors").stat().st_size // 2  # now in float32
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1000, largest - 1000))  # noqa: E731
    job = start_torchrun(2, "train", "--resume", folder, folder=tmp_path, preexec_fn=limit)
    _, said = job.communicate(timeout=120)
    assert job.returncode != 0
    assert said.replace("\n", " ").count("file too large") == 1, said
    assert hashes(folder / "checkpoints") == before


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named_once(home, tmp_path, harm):
    folder = shutil.copytree(home / "stopped-fsdp2", tmp_path / "copy")
    file = folder / f"checkpoints/step-{N_DONE:06d}/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if harm == "damaged":
        file.write_bytes(content)
    job = start_torchrun(2, "train", "--resume", folder, folder=tmp_path)
    _, said = job.communicate(timeout=60)
    assert job.returncode != 0
    assert said.replace("\n", " ").count(f"cutaway: {file} is {harm}") == 1


def test_one_process_has_the_model_whole_whatever_is_asked(play, tmp_path):
    for parallel in ("ddp", "fsdp2"):
        train(tiny_config(play, out=str(tmp_path / parallel), parallel=parallel), quiet=True)
    assert curve(tmp_path / "ddp") == curve(tmp_path / "fsdp2")
