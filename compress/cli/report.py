"""`compress report`: a page, or markdown or JSON, about one run, several, or a frontier."""

from __future__ import annotations

from pathlib import Path

import click

from compress.errors import OutputError, RecipeError, unknown

FORMATS = ("html", "md", "json")
_ITEMS = 6


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--format", "formats", metavar="LIST", default="html", help="html, md and json, with commas between.")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="Folder, or file whose ending is replaced by that of each format; - for stdout.  "
    "[default: report.* in the folder of the only RUN, else here]",
)
@click.option("--items", type=click.IntRange(min=1), default=_ITEMS, help="Lost items to show of each family.")
@click.option("--data-dir", metavar="FOLDER", help="Public data that the suite asked, to show its questions.")
def command(runs: tuple[str, ...], formats: str, output: str | None, items: int, data_dir: str | None) -> None:
    """Report on finished runs as one self-contained page.

    RUN is the folder of a run or of a frontier, or an eval.json. The page needs no network; it shows what was done,
    what it cost with intervals, every layer, and the items that were lost.
    """
    wanted = _formats(formats)
    if output == "-" and len(wanted) > 1:
        raise RecipeError(f"--format {formats} on stdout", allowed="one format", do="Give -o a folder or a file")
    from compress.report.page import content, sources

    data = content.build(sources.read(runs), items, data_dir)
    for form in wanted:
        made = _rendered(form, data)
        if output == "-":
            click.echo(made, nl=False)
            continue
        target = _target(output, runs, form)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(made, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error.strerror}") from error
        click.echo(target)


def _formats(text: str) -> list[str]:
    """The formats asked for, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in FORMATS:
            raise RecipeError(unknown("format", name, FORMATS), allowed=", ".join(FORMATS))
    if not names:
        raise RecipeError("no format", allowed=", ".join(FORMATS))
    return names


def _target(output: str | None, runs: tuple[str, ...], form: str) -> Path:
    """Where the report of a format goes."""
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
