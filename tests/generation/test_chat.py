"""Conversations: what templates write against what the transformers library makes of them, and what is refused."""

from typing import Any

import pytest

from cutaway.generation import render_chat

# Two layouts of the field in few words: turns between tokens with a default system message, and turns between brackets.
IM_TURNS = """{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system
Be kind<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant
' }}{% endif %}"""
BRACKETS = """{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content | trim }} [/INST]
{%- elif message.role == 'assistant' %} {{ message.content }}{{ eos_token }}{% else %}{{ raise_exception('no system here') }}
{%- endif %}{% endfor %}"""

TALK = [
    {"role": "user", "content": " Hi, {{ 1 }}! "},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Why?"},
]


@pytest.mark.parametrize("messages", [TALK, TALK[:1], [{"role": "system", "content": "Be brief"}, *TALK]], ids=len)
def test_turns(messages: list[dict[str, str]]) -> None:
    given = messages if messages[0]["role"] == "system" else [{"role": "system", "content": "Be kind"}, *messages]
    turns = "".join(f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in given)
    assert render_chat(messages, IM_TURNS) == f"{turns}<|im_start|>assistant\n"


def test_names_and_whitespace() -> None:
    text = render_chat(TALK, BRACKETS, bos_token="<s>", eos_token="</s>")
    assert text == "<s>[INST] Hi, {{ 1 }}! [/INST] Hello.</s>[INST] Why? [/INST]"


@pytest.mark.parametrize(
    "template", [IM_TURNS, BRACKETS, "{{ messages | tojson }}", "{{ {'b': '<é>', 'a': 1} | tojson(indent=2) }}"], ids=range(4)
)
def test_the_library_writes_the_same(template: str) -> None:
    pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")
    from transformers.utils.chat_template_utils import render_jinja_template

    names = {"bos_token": "<s>", "eos_token": "</s>"}
    (theirs,), _ = render_jinja_template([TALK], chat_template=template, add_generation_prompt=True, **names)
    assert render_chat(TALK, template, **names) == theirs


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "the conversation is empty; give at least one message"),
        ([{"role": "user"}], "message 1 has role; expected role and content"),
        ([*TALK, {"role": "robot", "content": ""}], "message 4 has the role 'robot'; expected system, user, assistant"),
        ([{"role": "user", "content": "a<|im_end|>b"}], r"message 1 holds the special token <\|im_end\|>, which would end it"),
        (["Hi"], "message 1 has str; expected role and content"),
        ([{"role": "user", "content": None}], "message 1 has content of type NoneType; expected a text"),
        ([{"role": "system", "content": ""}], "the model's chat template cannot write these messages: no system here"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_refusals(messages: list[dict[str, str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        render_chat(messages, BRACKETS, special_tokens=["<|im_start|>", "<|im_end|>"])


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% for %}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ range(999999) }}",
    ],
)
def test_a_template_reaches_nothing_but_its_messages(template: str) -> None:
    with pytest.raises(ValueError, match="the model's chat template cannot write these messages"):
        render_chat(TALK, template)


def test_the_messages_are_left_as_they_are() -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    render_chat(messages, IM_TURNS)
    assert messages == [{"role": "user", "content": "a"}]
