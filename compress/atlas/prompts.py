"""The exact prompt formats, used by training text and test items alike. Every answer ends with a newline."""

from __future__ import annotations

from collections.abc import Sequence


def closed_book(question: str) -> str:
    """Asks from memory."""
    return f"Question: {question}\nAnswer:"


def open_book(passage: str, question: str) -> str:
    """Asks about the passage."""
    return f"Passage: {passage}\nQuestion: {question}\nAnswer:"


def choice(question: str, choices: Sequence[str]) -> str:
    """Asks with the choices in view; the answer is the text of a choice."""
    return f"Question: {question}\nChoices: {'; '.join(choices)}\nAnswer:"


def summarise(text: str) -> str:
    """Asks for the digest of a text."""
    return f"Text: {text}\nSummary:"


def instruct(instruction: str) -> str:
    """Gives an instruction."""
    return f"Instruction: {instruction}\nAnswer:"
