"""Hook of mkdocs: fills the marked places of the reference from the package, so that it says what the program says.

A page has `<!-- commands -->`, `<!-- methods -->` or `<!-- recipe -->` where its generated part goes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compress import recipe
from compress.cli import COMMANDS, group
from compress.methods import registry

MORE = "Explained"
KINDS = {
    "pack": "packs weights, one linear at a time",
    "rewrite": "makes a dense model of another shape",
    "train": "trains the model",
}


def on_config(config: Any) -> Any:
    """Adds documents that the menu does not name to its part MORE, so that none is lost."""
    named = set(re.findall(r"'([\w./-]+\.md)'", repr(config["nav"])))
    part = next(entry for entry in config["nav"] if MORE in entry)[MORE]
    part += [path.name for path in sorted(Path(config["docs_dir"]).glob("*.md")) if path.name not in named]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Returns the page with its marks replaced, and the golden bytes of the format document as titled blocks."""
    markdown = re.sub(r"^```golden (\S+)$", r'```text title="\1"', markdown, flags=re.MULTILINE)
    for name, make in PARTS.items():
        mark = f"<!-- {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def commands() -> str:
    """Every command with its help and its options, as `--help` has them."""
    above = group.make_context("compress", ["--help"], resilient_parsing=True)
    table = ["| command | |", "|---|---|", *(f"| `{name}` | {_cell(short)} |" for name, short in COMMANDS.items())]
    parts = ["\n".join(table)]
    for name in COMMANDS:
        command = group.get_command(above, name)
        assert command is not None
        # the options of a method are on the page of methods
        ctx = click.Context(command, info_name=name, parent=above)
        params = click.Command.get_params(command, ctx)
        usage = command.get_usage(ctx).removeprefix("Usage: ")
        rows = [
            f"| `{_code(flag)}` | {_cell(text)} |" for param in params for flag, text in [_record(param, ctx)] if flag
        ]
        options = "\n".join(["| option | |", "|---|---|", *rows])
        parts.append("\n\n".join([f"## compress {name}", f"`{usage}`", inspect.cleandoc(command.help or ""), options]))
    return "\n\n".join(parts)


def methods() -> str:
    """Every method with its options."""
    parts = []
    for name in registry.names():
        told = registry.describe(name)
        reads = "reads calibration data" if told.needs_data else "needs no data"
        lines = [f"## {name}", told.summary, f"Kind: {KINDS[told.kind]}; {reads}."]
        rows = [
            f"| `{option.name}` | {option.type.__name__}{' or none' if option.optional else ''} | `{option.default}` "
            f"| {_cell(option.help)} |"
            for option in told.options
        ]
        table = ["| option | type | default | |", "|---|---|---|---|", *rows]
        parts.append("\n\n".join([*lines, "\n".join(table)]))
    return "\n\n".join(parts)


def recipe_keys() -> str:
    """The keys of a recipe file, with the text that stands below each field in the source."""
    tables: tuple[tuple[str, type, set[str]], ...] = (
        ("Top level", recipe.Recipe, {"stages", "calibration"}),
        ("[calibration]", recipe.CalibrationSpec, set()),
        ("[[stage]]", recipe.StageSpec, {"options"}),
    )
    parts = []
    for title, kind, elsewhere in tables:
        said = _documented(kind)
        rows = [
            f"| `{field.name}` | `{_default(field)}` | {_cell(said.get(field.name, ''))} |"
            for field in dataclasses.fields(kind)
            if field.name not in elsewhere
        ]
        parts.append("\n".join([f"## {title}", "", "| key | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(parts)


def _record(param: click.Parameter, ctx: click.Context) -> tuple[str, str]:
    return param.get_help_record(ctx) or ("", "")


def _documented(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(str(after.value.value).split())
        for field, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "must be given" if field.default is dataclasses.MISSING else repr(field.default)


def _cell(text: str) -> str:
    """The text as the cell of a table: what stands in backticks as it is, elsewhere nothing is markup."""
    pieces = " ".join(text.split()).replace("|", "\\|").split("`")
    pieces[::2] = [piece.replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*") for piece in pieces[::2]]
    return "`".join(pieces)


def _code(text: str) -> str:
    return text.replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {"commands": commands, "methods": methods, "recipe": recipe_keys}
