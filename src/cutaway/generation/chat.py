"""A conversation as the text that a model was trained to go on from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

__all__ = ["Message", "render_chat"]

Message = Mapping[str, str]
"""What someone said: `{"role": "user", "content": "..."}`; roles are system, user and assistant."""

_ROLES = ("system", "user", "assistant")


def render_chat(messages: Sequence[Message], template: str, *, special_tokens: Iterable[str] = (), **names: str | None) -> str:
    """Return a conversation as its model's template writes it, up to where the assistant's next message begins.

    The template is Jinja as Hugging Face's tokenizers have it, run in a sandbox; `names` are what it may ask for, as `bos_token`.
    Raises ValueError for messages without role and content, for content that holds one of `special_tokens`, which would end the
    message, and for what the template itself refuses.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    _check(messages, list(special_tokens))
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _as_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().astimezone().strftime(form)}
    given = {name: value for name, value in names.items() if value is not None}
    try:
        return environment.from_string(template).render(
            messages=[dict(message) for message in messages], add_generation_prompt=True, **given
        )
    except Exception as error:  # a template is a program that came with the file: whatever it does wrong is no fault of ours
        raise ValueError(f"the model's chat template cannot write these messages: {error}") from None


def _check(messages: Sequence[Message], special_tokens: Sequence[str]) -> None:
    if not messages:
        raise ValueError("the conversation is empty; give at least one message, as {'role': 'user', 'content': 'Hello'}")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            said = ", ".join(message) if isinstance(message, Mapping) else type(message).__name__
            raise ValueError(f"message {number} has {said or 'nothing'}; expected role and content")
        if not isinstance(message["content"], str):
            raise ValueError(f"message {number} has content of type {type(message['content']).__name__}; expected a text")  # noqa: TRY004 (data)
        if message["role"] not in _ROLES:
            raise ValueError(f"message {number} has the role {message['role']!r}; expected {', '.join(_ROLES)}")
        if found := [token for token in special_tokens if token in message["content"]]:
            raise ValueError(f"message {number} holds the special token {found[0]}, which would end it: remove it")


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)  # as Hugging Face's: Jinja's own writes &lt; for <, and sorts


def _refuse(sentence: str) -> Any:
    from jinja2 import TemplateError

    raise TemplateError(sentence)
