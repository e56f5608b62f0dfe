"""Learning from token shards of documents: the same as ever when stopped, and begun on the first shard while others arrive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutaway.assets import HUB_DOCUMENTS
from cutaway.data import (
    DocumentShards,
    ShardLoader,
    ShardsError,
    obtain_shards,
    open_documents,
    shard_loader,
    write_document_shards,
)
from cutaway.data.document_shards import shard_path
from cutaway.runs import Run
from cutaway.tokenizers import tokenizer_hash
from cutaway.training import TrainConfig, arriving, resume, train
from hub_server import Hub, running_hub
from many_processes import run_ranks, surroundings
from tiny_training import OPTIONS, learned, tiny_config
from web_documents import make_texts, small_tokenizer, write_parquet

TOKENIZER = small_tokenizer()
COMMIT = "a" * 40


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "pages.parquet", make_texts(300))


@pytest.fixture
def shards(pages: Path, tmp_path: Path) -> DocumentShards:
    return write_document_shards(open_documents(pages), tmp_path / "shards", TOKENIZER, shard_tokens=1500)


def config_of(shards: DocumentShards, **changes: Any) -> TrainConfig:
    """Two batches of four windows of 16 a step: 12 steps read 96 windows, about one shard."""
    return tiny_config(shards.folder, **({"tokenizer": str(shards.folder / "tokenizer.json"), "n_steps": 24} | changes))


def test_a_run_learns_from_shards(shards: DocumentShards) -> None:
    run = Run(train(config_of(shards, out="run"), quiet=True))
    curve = run.metrics().curve("val_loss")[1]
    assert curve[-1] < curve[0] - 0.05
    data = run.manifest["data"]
    assert (data["source"], data["sha256"]) == (shards.name, shards.sha256)
    assert data["n_train_tokens"] == shards.n_tokens("train")
    assert data["n_validation_tokens"] == shards.pairs[0].validation.n_tokens
    assert run.manifest["tokenizer"]["sha256"] == tokenizer_hash(TOKENIZER)
    assert run.model_config.d_vocab == TOKENIZER.d_vocab


class Stop(Exception):
    pass


def stop(step: int, model: object) -> dict[str, float]:
    if step == 16:  # after the checkpoint of step 15, in the second shard of those of 1,500 tokens
        raise Stop
    return {}


def watch_nothing(step: int, model: object) -> dict[str, float]:
    return {}


def test_a_run_that_was_stopped_ends_in_the_same_weights(shards: DocumentShards) -> None:
    whole = train(config_of(shards, out="whole", watch_every=4), observers={"none": watch_nothing}, quiet=True)
    with pytest.raises(Stop):
        train(config_of(shards, out="stopped", watch_every=4), observers={"none": stop}, quiet=True)
    assert learned(Path("stopped"))["step"] == 15
    assert learned(resume("stopped", observers={"none": watch_nothing}, quiet=True)) == learned(whole)


def test_the_preset_takes_the_shards_tokenizer(shards: DocumentShards, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig.preset("shakespeare-char", data=str(shards.folder))
    assert config.tokenizer == str(shards.folder / "tokenizer.json")
    assert config.name == "shards"
    with monkeypatch.context() as patch:
        patch.chdir(shards.folder)  # where nothing is named, what lies here does not count
        assert (
            TrainConfig.preset("shakespeare-char").tokenizer == TrainConfig.preset("shakespeare-char", data="").tokenizer == "char"
        )
    of_hub = TrainConfig.preset("shakespeare-char", data="fineweb-edu")
    assert (of_hub.tokenizer, of_hub.cap_bytes) == ("gpt2", 10**9)
    assert TrainConfig.preset("shakespeare-char", data="fineweb-edu", tokenizer="cl100k", cap_bytes=None).cap_bytes is None
    assert TrainConfig.preset("shakespeare-char", data=str(shards.folder), from_model="runs/mine").tokenizer == "own"
    for name, cap in (("quick", 10**9), ("medium", 5 * 10**9), ("full", 10**10)):
        config = TrainConfig.preset(f"fineweb-{name}")
        assert (config.data, config.tokenizer, config.cap_bytes, config.n_accumulate) == ("fineweb-edu", "cl100k", cap, 16)
        assert config.n_warmup_steps == config.n_steps / 20
        assert (config.model.n_layers, config.model.d_model, config.model.n_heads) == (4, 256, 4)
    assert TrainConfig.preset("gpt2-124m-fineweb").n_tokens_per_step == 2**19


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "char"}, r"tokenizer is 'char', which is made of a text, and shards holds tokens: give .*tokenizer.json"),
        (
            {"tokenizer": "other.json"},
            r"shards was encoded by another tokenizer than other.json, which the run has: give --tokenizer",
        ),
        ({"validation_fraction": 0.2}, "validation_fraction is 0.2, and of shards 0.1 is kept for validation: give that"),
        ({"n_ctx": 10_000}, r"gives \d+ tokens to train on and \d+ to validate; each needs at least 10001"),
    ],
)
def test_what_does_not_fit_the_shards(
    shards: DocumentShards, changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tokenizer(d_vocab=310).save(tmp_path / "other.json")
    config = config_of(shards.replace(folder=Path("shards")), out="run", **changes)
    with pytest.raises(ValueError, match=said):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_shard_that_is_cut_short_is_said_before_anything_is_written(shards: DocumentShards, tmp_path: Path) -> None:
    path = shard_path(shards.folder, "train", len(shards.pairs) - 1)
    path.write_bytes(path.read_bytes()[:-3])
    config = tiny_config(shards.folder, tokenizer=str(shards.folder / "tokenizer.json"), out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"{path.name} should hold \d+ tokens and is \d+ bytes long: it was cut short"):
        train(config, quiet=True)
    assert not (tmp_path / "run").exists()


def test_other_shards_are_not_gone_on_with(shards: DocumentShards, pages: Path) -> None:
    run = train(config_of(shards, out="run"), quiet=True)
    for path in shards.folder.iterdir():
        path.unlink()
    write_parquet(pages, make_texts(300, seed=1))
    write_document_shards(open_documents(pages), shards.folder, TOKENIZER, shard_tokens=1500)
    with pytest.raises(ValueError, match="is not the text that run began with"):
        resume(run, n_steps=30, quiet=True)


def test_shards_that_nobody_goes_on_with(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_writing(n_done: int, n_total: int | None) -> None:
        if n_done > 2000:
            raise Stop

    with pytest.raises(Stop):
        write_document_shards(open_documents(pages), tmp_path / "shards", TOKENIZER, shard_tokens=1500, progress=stop_writing)
    config = config_of(DocumentShards.open(tmp_path / "shards"), out="run", n_steps=100)
    monkeypatch.setattr(shard_loader, "_PATIENCE_S", 0.3)
    with pytest.raises(ShardsError, match=r"shard 1 of .*shards is not there and nobody writes it"):
        train(config, quiet=True)
    step = Run(tmp_path / "run").latest_checkpoint().step  # type: ignore[union-attr]
    assert step
    write_document_shards(open_documents(pages), tmp_path / "shards", TOKENIZER, shard_tokens=1500)
    assert learned(resume("run", quiet=True))["step"] == 100


# --- from a hub


@pytest.fixture
def hub(pages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    folder = HUB_DOCUMENTS["fineweb-edu"]
    TOKENIZER.save(tmp_path / "small.json")
    with running_hub(folder.repo) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}")
        hub.commit(COMMIT, {f"{folder.path}/000.parquet": pages.read_bytes()})
        yield hub


def hub_config(**changes: Any) -> TrainConfig:
    return tiny_config(Path("fineweb-edu"), **({"tokenizer": "small.json", "n_steps": 24} | changes))


def test_a_run_fetches_what_it_learns_from(hub: Hub, tmp_path: Path) -> None:
    run = train(hub_config(out="run", cap_bytes=10**9), quiet=True)
    folder = small_folder(tmp_path)
    shards = DocumentShards.open(folder)
    assert json.loads((folder / "manifest.json").read_text())["about"]["source"]["revision"] == COMMIT
    assert Run(run).manifest["data"]["sha256"] == shards.sha256
    hub.commits.clear()  # all is there: neither is needed again
    asked = len(hub.asked)
    assert learned(train(hub_config(out="again", cap_bytes=10**9), quiet=True)) == learned(run)
    assert len(hub.asked) == asked


def test_a_hub_that_stays_away_is_one_sentence_and_leaves_no_run(hub: Hub, tmp_path: Path) -> None:
    hub.commits.clear()
    with pytest.raises(RuntimeError, match=r"^hub HuggingFaceFW/fineweb-edu/sample/10BT: the hub did not name the files \(.*\)$"):
        train(hub_config(out="run"), quiet=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"tokenizer is 'char'; fineweb-edu is encoded by gpt2, cl100k, or a tokenizer.json"):
        train(hub_config(out="run", tokenizer="char"), quiet=True)


@pytest.fixture
def slow_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Shards made by a thread in place of a process, in small pairs, the first at once and each other when the semaphore lets it."""
    monkeypatch.setattr(shard_loader, "_ASK_S", 0.01)
    may_go_on = threading.Semaphore(0)

    @contextmanager
    def running(source: str, folder: Path, tokenizer: str, **limits: int | None) -> Iterator[Any]:
        n_pairs = 0

        def progress(n_done: int, n_total: int | None) -> None:
            nonlocal n_pairs
            if len(DocumentShards.open(folder).pairs) > n_pairs:
                n_pairs += 1
                may_go_on.acquire()

        options = {"shard_tokens": 1500, "progress": progress, **limits}
        documents = open_documents(source)
        writer = threading.Thread(target=write_document_shards, args=(documents, folder, TOKENIZER), kwargs=options)
        writer.start()
        yield SimpleNamespace(is_running=True, failure=lambda: None)
        may_go_on.release(100)
        writer.join()

    monkeypatch.setattr(arriving, "running_writer", running)
    return may_go_on


def test_a_run_begins_on_the_first_shard_while_others_arrive(hub: Hub, slow_writer: threading.Semaphore, tmp_path: Path) -> None:
    """A writer that makes the next pair when the run has learned from the first, and the same run when all were there before."""
    folder, n_at_first_step = small_folder(tmp_path), None

    def observer(step: int, model: object) -> dict[str, float]:
        nonlocal n_at_first_step
        n_at_first_step = n_at_first_step or len(DocumentShards.open(folder).pairs)
        return {"none": 0.0}

    config = hub_config(out="arriving", cap_bytes=10**9, n_steps=40)
    release = threading.Thread(target=release_when_begun, args=(slow_writer, tmp_path / "arriving"))
    release.start()
    train(config, observers={"none": observer}, quiet=True)
    release.join()
    assert n_at_first_step == 1
    assert DocumentShards.open(folder).is_complete
    whole = train(hub_config(out="whole", cap_bytes=10**9, n_steps=40), observers={"none": observer}, quiet=True)
    assert learned(whole) == learned(tmp_path / "arriving")


def small_folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "shards" / f"fineweb-edu-small-{tokenizer_hash(TOKENIZER)[:8]}"


def release_when_begun(may_go_on: threading.Semaphore, run: Path) -> None:
    """Let the writer go on once the run has learned from the first shard."""
    while not (run / "metrics.jsonl").is_file() or len(Run(run).metrics().records) < 8:
        time.sleep(0.02)
    may_go_on.release(100)


def test_more_may_be_added_to_shards_between(hub: Hub, tmp_path: Path) -> None:
    """Whatever other runs have made since, a run sees what is within its own cap."""
    few = obtain_shards("fineweb-edu", small_folder(tmp_path), TOKENIZER, cap_bytes=12_000)
    whole = train(hub_config(out="whole", cap_bytes=12_000, watch_every=4), observers={"none": watch_nothing}, quiet=True)
    with pytest.raises(Stop):
        train(hub_config(out="stopped", cap_bytes=12_000, watch_every=4), observers={"none": stop}, quiet=True)
    assert obtain_shards("fineweb-edu", small_folder(tmp_path), TOKENIZER).n_tokens() > few.n_tokens()
    assert learned(resume("stopped", observers={"none": watch_nothing}, quiet=True)) == learned(whole)


def test_a_run_takes_more_than_one_before_it_had(hub: Hub, tmp_path: Path) -> None:
    few = obtain_shards("fineweb-edu", small_folder(tmp_path), TOKENIZER, n_tokens=3000)
    run = Run(train(hub_config(out="run", cap_bytes=10**9, n_steps=60), quiet=True))
    shards = DocumentShards.open(small_folder(tmp_path))
    assert shards.n_tokens() > few.n_tokens()
    assert run.manifest["data"]["sha256"] == few.sha256 == shards.sha256
    seen = set()
    loader = ShardLoader(shards.within(10**9), batch_size=4, n_ctx=16, seed=0)
    while len(seen) < shards.n_tokens("train") // 20:
        seen |= {tuple(row) for row in loader.next_batch()[0].tolist()}  # of all that is there now, not of the few
    assert learned(run.path)["step"] == 60


def test_shards_that_are_still_to_be_begun_are_waited_for(pages: Path, tmp_path: Path) -> None:
    """A folder that is being written, whose manifest names no pair yet."""
    may_go_on, folder = threading.Event(), tmp_path / "shards"

    def progress(n_done: int, n_total: int | None) -> None:
        may_go_on.wait(20)

    options = {"shard_tokens": 1500, "progress": progress}
    writer = threading.Thread(target=write_document_shards, args=(open_documents(pages), folder, TOKENIZER), kwargs=options)
    writer.start()
    while not DocumentShards.are_in(folder):
        time.sleep(0.01)
    assert not DocumentShards.open(folder).pairs
    threading.Timer(0.5, may_go_on.set).start()
    config = tiny_config(folder, tokenizer=str(folder / "tokenizer.json"), n_steps=4, out="run")
    assert learned(train(config, quiet=True))["step"] == 4
    writer.join()


def test_a_writer_ends_with_the_one_that_started_it(hub: Hub, tmp_path: Path) -> None:
    hub.delay_s = 5.0
    program = "import os, sys; from pathlib import Path; from cutaway.data.writer_process import running_writer\n"
    program += "with running_writer('fineweb-edu', Path('out'), 'small.json', n_tokens=None, cap_bytes=None) as writer:\n"
    program += "    print(writer._process.pid, flush=True); os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", program], env=surroundings(), capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pid, until = int(ended.stdout), time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(pid)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not (status.is_file() and "State:\tZ" in status.read_text())


def test_two_processes_learn_from_what_one_of_them_has_made(hub: Hub, tmp_path: Path) -> None:
    options = ["--data", "fineweb-edu", "--tokenizer", "small.json", "--cap-bytes", "1000000000", "--n-steps", "4", "--out", "two"]
    run_ranks(2, "-m", "cutaway", "train", *options, *OPTIONS)
    one = train(hub_config(out="one", cap_bytes=10**9, n_steps=4, dropout=0.0), quiet=True)
    two = Run(tmp_path / "two")
    assert two.manifest["data"] == Run(one).manifest["data"]
    assert two.metrics().curve("loss")[1][0] == pytest.approx(Run(one).metrics().curve("loss")[1][0], abs=0.2)  # dropout differs
    assert two.manifest["n_processes"] == 2
