"""The result of a run, with its tables for Python and for notebooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.format.manifest import read_manifest

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult
    from compress.report.table.overview import Overview

REPORT = "report.md"


@dataclass(frozen=True, slots=True)
class Result:
    """A finished checkpoint with its manifest and its evaluation."""

    checkpoint: Path
    """Folder of the packed checkpoint."""
    evaluation: EvalResult | None = field(repr=False)
    """Evaluation of the packed checkpoint, read back from disk; `.baseline` is that of the dense model. None for a run
    without evaluation."""
    manifest: dict[str, Any] = field(repr=False)
    """Content of compress.json: schemes, bits, errors, coverage, recipe, versions."""

    @classmethod
    def read(cls, folder: Path, evaluation: EvalResult | None) -> Result:
        """Returns the result in `folder`."""
        return cls(folder, evaluation, read_manifest(folder))

    def summary(self) -> str:
        """Returns the table *dense vs compressed* as markdown."""
        from compress.report.table import markdown

        return markdown.render(self._overview())

    def write_report(self) -> None:
        """Writes the table to report.md in the checkpoint's folder; the text does not depend on where the folder is."""
        from compress.report.table import markdown, overview

        text = markdown.render(overview.of_checkpoint(None, self.manifest, self.evaluation))
        (self.checkpoint / REPORT).write_text(text, encoding="utf-8")

    def page(self, items: int = 6) -> str:
        """Returns the report as a self-contained HTML page that shows `items` lost items per family."""
        from compress.report.page import page

        return page.render(self._content(items))

    def _repr_html_(self) -> str:
        from compress.report.page import page
        from compress.report.table import notebook

        content = self._content()
        (run,) = content["runs"]
        return notebook.render(self._overview(), page.render(content), run["families"] or (), run["samples"])

    def _content(self, items: int = 6) -> dict[str, Any]:
        from compress.report.page import content, sources

        run = sources.of_checkpoint(self.checkpoint, self.manifest, self.evaluation)
        return content.build(sources.Sources((run,)), items)

    def _overview(self) -> Overview:
        from compress.report.table import overview

        return overview.of_checkpoint(self.checkpoint, self.manifest, self.evaluation)
