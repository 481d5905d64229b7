"""The code on a card that loads the model and has it answer; it runs in the folder of the card."""

from __future__ import annotations

from pathlib import Path

from compress.json_files import read_object
from compress.models.folder.extra_files import CHAT_TEMPLATES

HERE = '"."'
"""What stands for the model in the code; on the hub it is the name of the repository (`for_repository`)."""
_THIS_FOLDER = " .  # this folder"
_TOKENIZER = "tokenizer_config.json"


def for_repository(card: str, repo: str) -> str:
    """Returns a card whose code loads the model from a repository."""
    code = card.replace(f"from_pretrained({HERE})", f'from_pretrained("{repo}")')
    return code.replace(_THIS_FOLDER, f" {repo}")


def has_template(folder: Path) -> bool:
    """Returns whether the tokenizer in a folder has a chat template."""
    if (folder / "chat_template.jinja").is_file() or (folder / CHAT_TEMPLATES).is_dir():
        return True
    return (folder / _TOKENIZER).is_file() and bool(read_object(folder / _TOKENIZER).get("chat_template"))


def of_transformers(*, chat: bool, needs: str | None = None) -> str:
    """Returns the lines for transformers.

    Args:
        chat: ask through the chat template.
        needs: an import that teaches transformers the format, with its comment.
    """
    if chat:
        asks = [
            'messages = [{"role": "user", "content": "What is the capital of Norway?"}]',
            "tokens = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        asks = ['tokens = tokenizer("The capital of Norway is", return_tensors="pt")']
    lines = [
        *([needs] if needs else []),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({HERE})",
        f"model = AutoModelForCausalLM.from_pretrained({HERE})",
        *asks,
        "answer = model.generate(**tokens, max_new_tokens=64, do_sample=False)",
        'print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return "\n".join(["```python", *lines, "```"])


def of_folder(command: str) -> str:
    """Returns a command that reads this folder, or on the hub the repository."""
    return of_shell(f"{command}{_THIS_FOLDER}")


def of_shell(*lines: str) -> str:
    """Returns commands for a shell."""
    return "\n".join(["```bash", *lines, "```"])
