"""Folders of tiny models that can be talked with: text is bytes, and answers are printable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import tiny_suite

TEMPLATE = (
    "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + TEMPLATE


def save_dense(folder: Path, template: str | None = TEMPLATE, seed: int = 0, **changes: Any) -> Path:
    """Writes a dense model whose answers end at a line break, with its tokenizer; returns the folder."""
    model = tiny_suite.plain_spoken(seed, **changes)
    model.generation_config.eos_token_id = tiny_suite.tokenizer()("\n")["input_ids"][0]
    model.save_pretrained(folder)
    tokenizer = tiny_suite.tokenizer()
    tokenizer.chat_template = template
    try:
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.chat_template = None  # the tokenizer is shared
    return folder
