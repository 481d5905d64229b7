"""Reads conversations from rows (`messages`, `conversations`, question and answer); renders them by the template."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import TextError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHAT_FIELDS = ("messages", "conversations", "conversation")
Message = dict[str, str]
"""`role` (`system`, `user`, `assistant` …) and `content`."""
_ASKED_AND_ANSWERED = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
)
_CONTEXTS = ("input", "context")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatbot": "assistant", "model": "assistant"}


def messages_of(value: Any, place: str) -> list[Message]:
    """Returns the messages of a chat field.

    Both common forms are read: `role` and `content`, and `from` and `value`. A content may be a list of parts, of which
    the texts are taken; a content that is null (of a tool call) is empty.

    Raises:
        TextError: `value` is no list of such messages; `place` says where it stands.
    """
    if not isinstance(value, list) or not value:
        raise _malformed(value, place)
    return [_message(entry, place) for entry in value]


def is_conversation(value: Any) -> bool:
    """Returns whether a value looks like messages, whatever its column is called (`prompt`, `chosen` …)."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, Mapping) and ("role" in entry or "from" in entry) for entry in value)
    )


def exchange_columns(names: Collection[str]) -> tuple[str, ...] | None:
    """Returns the columns of a user's message (one or two, with its context) and of the answer, which comes last.

    Such are `instruction`, `input` and `output`, or `prompt` and `completion`. None where there are no such columns.
    """
    for asked, answered in _ASKED_AND_ANSWERED:
        if asked in names and answered in names:
            return (asked, *(name for name in _CONTEXTS if name in names), answered)
    return None


def exchange_of(row: Mapping[str, Any], columns: Sequence[str]) -> list[Message] | None:
    """Returns the two messages of a row with `exchange_columns`; None where the question or the answer is blank."""
    texts = [value if isinstance(value := row.get(name), str) else "" for name in columns]
    *asked, answer = texts
    if not asked[0].strip() or not answer.strip():
        return None
    return by_turns(["\n\n".join(text for text in asked if text.strip()), answer])


def system_merged(messages: Sequence[Message]) -> list[Message] | None:
    """Returns the conversation with its system message put before the user's first; None where there is none.

    Some templates take no system message.
    """
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return None
    system, user, *others = messages
    return [{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}, *others]


def _message(entry: Any, place: str) -> Message:
    if not isinstance(entry, Mapping):
        raise _malformed(entry, place)
    role, content = entry.get("role", entry.get("from")), entry.get("content", entry.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if not isinstance(role, str) or not isinstance(content, str | None):
        raise _malformed(entry, place)
    return {"role": _ROLES.get(role, role), "content": content or ""}


def _malformed(value: Any, place: str) -> TextError:
    return TextError(
        f"{place}: a chat holds {str(value)[:80]!r}",
        allowed='a list of messages such as {"role": "user", "content": "…"} or {"from": "human", "value": "…"}',
    )


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether the tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def chat_text(messages: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, *, answer_next: bool) -> str:
    """Renders a conversation with the chat template, or without one as `User:` and `Assistant:` lines.

    Args:
        messages: roles and contents.
        tokenizer: whose template it is.
        answer_next: the text ends where the assistant's next answer begins.

    Raises:
        TextError: the template refuses the messages (two of the same role in a row, a system message …).
    """
    if not has_template(tokenizer):
        return _plain(messages, answer_next)
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=answer_next
            )
        )
    except (TemplateError, ValueError, TypeError, KeyError, ImportError) as error:
        roles = ", ".join(message["role"] for message in messages[:8])
        raise TextError(
            f"the model's chat template does not take a conversation of {roles}: {error}",
            do="Give conversations in the form that the model was trained on, or plain text",
        ) from error


def by_turns(turns: Sequence[str]) -> list[Message]:
    """Returns alternating turns as messages; the user speaks first."""
    return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def _plain(messages: Sequence[Mapping[str, str]], answer_next: bool) -> str:
    lines = []
    for message in messages:
        content = message["content"]
        space = " " if content and not content[0].isspace() else ""  # an assistant's text may begin with its own space
        lines.append(f"{message['role'].capitalize()}:{space}{content}\n")
    return "".join([*lines, "Assistant:" if answer_next else ""])
