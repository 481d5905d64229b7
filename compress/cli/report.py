"""`compress report`: writes a page, markdown or JSON about one or more runs, or a frontier."""

from __future__ import annotations

from pathlib import Path

import click

from compress.errors import RecipeError, unknown
from compress.json_files import write_text

FORMATS = ("html", "md", "json")
_ITEMS = 6


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "formats", metavar="LIST", default="html", help="html, md, json; separated by commas.")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="Folder, or file whose ending is replaced by that of each format; - for stdout.  "
    "[default: report.* in the folder of the only RUN, else here]",
)
@click.option("--items", type=click.IntRange(min=1), default=_ITEMS, help="Lost items to show per family.")
@click.option("--data-dir", metavar="FOLDER", help="Data of the suite kick, to show its questions.")
@click.option("--title", metavar="TEXT", help="Title of the report.  [default: the models and methods]")
@click.option("--notes", metavar="FILE", help="Notes in markdown, shown at the top. Those of a run: its notes.md.")
def command(
    runs: tuple[str, ...],
    formats: str,
    output: str | None,
    items: int,
    data_dir: str | None,
    title: str | None,
    notes: str | None,
) -> None:
    """Report on finished runs as one self-contained page.

    RUN is the folder of a run or of a frontier, or an eval.json. The page needs no network. It shows the recipe, the
    scores with their intervals, every layer, and the items that the compressed model lost.
    """
    wanted = _formats(formats)
    if output == "-" and len(wanted) > 1:
        raise RecipeError(f"--format {formats} on stdout", allowed="one format", do="Give -o a folder or a file")
    from compress.report.page import content, sources

    text = None if notes is None else sources.read_notes(Path(notes))
    data = content.build(sources.read(runs), items, data_dir, title, text)
    for form in wanted:
        text = _rendered(form, data)
        if output == "-":
            click.echo(text, nl=False)
            continue
        target = _target(output, runs, form)
        write_text(target, text, do="Give another file")
        click.echo(target)


def _formats(text: str) -> list[str]:
    """Returns the formats in `text`, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in FORMATS:
            raise RecipeError(unknown("format", name, FORMATS), allowed=", ".join(FORMATS))
    if not names:
        raise RecipeError(f"--format {text!r} names no format", allowed=", ".join(FORMATS))
    return names


def _target(output: str | None, runs: tuple[str, ...], form: str) -> Path:
    """Returns the file for the report in one format."""
    if output is None:
        only = Path(runs[0])
        beside = only if only.is_dir() else only.parent
        return (beside if len(runs) == 1 else Path()) / f"report.{form}"
    path = Path(output)
    if path.is_dir() or output.endswith("/") or not path.suffix:
        return path / f"report.{form}"
    return path.with_suffix(f".{form}")


def _rendered(form: str, content: dict[str, object]) -> str:
    if form == "html":
        from compress.report.page import page

        return page.render(content)
    if form == "md":
        from compress.report.page import markdown

        return markdown.render(content)
    import json

    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
