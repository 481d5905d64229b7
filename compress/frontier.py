"""Runs several methods at several bit widths on one model, to plot quality against stored bits.

Every point is an ordinary run in its own folder, so an interrupted frontier goes on where it stopped: finished points
are not run again. The dense model is evaluated once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import pipeline
from compress.errors import BudgetError, MethodError, RecipeError, need_package
from compress.format.files import write_json, write_whole
from compress.methods import registry
from compress.recipe import Recipe, StageSpec, digest
from compress.report.progress_bars import watch

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult
    from compress.progress import Progress
    from compress.result import Result

SCHEMA_VERSION = 1
JSON, MARKDOWN, PICTURE = "frontier.json", "frontier.md", "frontier"
_KINDS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "str": str,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the frontier."""

    label: str
    """The curve it belongs to: the method, with its fine-tuning."""
    column: str
    """The size that was asked for, such as `3 bits` or `≤ 3.25 bits`."""
    stage: StageSpec

    @property
    def folder(self) -> str:
        """Name of its folder, different for different options."""
        name = f"{self.label}-{self.column}".replace("≤ ", "to-").replace(" ", "-").replace("+", "-")
        return f"{name}-{digest(self.stage.identity())[:8]}"


@dataclass(frozen=True, slots=True)
class Frontier:
    """The results of a frontier; `data` is the content of frontier.json."""

    folder: Path
    data: dict[str, Any]

    def figure(self) -> Any:
        """Returns the matplotlib figure."""
        from compress.report import frontier as drawing

        return drawing.figure(self.data)

    def summary(self) -> str:
        """Returns the table as markdown."""
        from compress.report import frontier as drawing

        return drawing.markdown(self.data)

    def _repr_markdown_(self) -> str:
        return self.summary()


def points(
    methods: Iterable[str], bits: Iterable[int] = (), target_bits: Iterable[float] = (), extra: Iterable[str] = ()
) -> list[Point]:
    """Returns every method at every width.

    Args:
        methods: names; `+block` or `+full` after a name asks for fine-tuning.
        bits: nominal widths; the method's hook `nominal` turns one into options.
        target_bits: stored bits per weight, reached by mixed precision.
        extra: further points, written as `spqr+block bits=2 group_size=32`.
    """
    listed = []
    widths, targets = list(bits), list(target_bits)
    for text in methods:
        method, tune = _named(text)
        for width in widths:
            options = registry.nominal(method, width)
            listed.append(Point(text, f"{width} bits", StageSpec(method=method, options=options, tune=tune)))
        for target in targets:
            stage = StageSpec(method=method, tune=tune, target_bits=target)
            listed.append(Point(text, f"≤ {target:g} bits", stage))
    for line in extra:
        name, *pairs = line.split()
        method, tune = _named(name)
        stage = StageSpec(method=method, options=_options(method, pairs), tune=tune)
        listed.append(Point(name, " ".join(pairs) or "defaults", stage))
    if not listed:
        raise RecipeError("the frontier has no point", do="Give --methods with --bits or --target-bits, or --point")
    return listed


def run(
    asked: Sequence[Point],
    *,
    folder: str | Path,
    base: Recipe | None = None,
    model: str = "atlas",
    progress: Progress | None = None,
    **options: Any,
) -> Frontier:
    """Runs all points and writes frontier.json, frontier.md, frontier.png and frontier.svg into `folder`.

    Args:
        asked: see `points`.
        folder: output folder of the points and of frontier.json.
        base: recipe with the model, calibration and suite of all points; by default made from `model` and `options`.
        model: as in `compress.run`.
        progress: receives progress reports.
        options: of the recipe and the calibration, as in `compress.run`.

    Raises:
        CompressError: a point failed. One whose options its method refuses, or whose target is too low, is recorded in
            the result with the reason instead.
    """
    need_package("matplotlib", "the picture of a frontier")  # before the runs, which may take hours
    folder, progress = Path(folder), progress or watch()
    base = base or Recipe.from_options(model, asked[0].stage.method, options)
    if base.suite == "none":
        raise RecipeError("a frontier without an evaluation (suite is none)", do="Name a suite")
    rows: list[dict[str, Any]] = []
    dense: EvalResult | None = None
    for number, point in enumerate(asked, start=1):
        progress.note(f"Point {number} of {len(asked)}: {point.label}, {point.column}")
        place = folder / point.folder
        recipe = dataclasses.replace(base, stages=(point.stage,), output=str(place))
        row = {"label": point.label, "column": point.column, "recipe": point.stage.identity()}
        try:
            result = pipeline.run(recipe, progress=progress, baseline=dense)
        except (MethodError, BudgetError) as error:
            rows.append({**row, "refused": str(error)})
            progress.note(f"Refused: {error}")
            continue
        assert result.evaluation is not None
        dense = result.evaluation.baseline
        rows.append({**row, "folder": point.folder, **_measured(result)})
    if dense is None:
        raise RecipeError("no point could be run", do=f"The first was refused because: {rows[0]['refused']}")
    return _write(folder, _outcome(base, dense, rows))


def _outcome(base: Recipe, dense: EvalResult, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": base.model_name,
        "suite": dict(dense.suite),
        "limit": dense.settings.get("limit", base.limit),
        "dense": {"perplexity": dense.text.perplexity, "scores": _scores(dense)},
        "points": rows,
    }


def _measured(result: Result) -> dict[str, Any]:
    evaluation = result.evaluation
    assert evaluation is not None and evaluation.divergence is not None and evaluation.comparison is not None
    return {
        "bits_per_weight": result.manifest["bits_per_weight"],
        "size_bytes": sum(shard["size_bytes"] for shard in result.manifest["shards"]),
        "kl": {name: getattr(evaluation.divergence, name) for name in ("mean", "low", "high")},
        "perplexity": evaluation.text.perplexity,
        "scores": _scores(evaluation),
        "differences": {
            name: {"difference": paired.difference, "low": paired.low, "high": paired.high}
            for name, paired in evaluation.comparison.families.items()
        },
    }


def _scores(evaluation: EvalResult) -> dict[str, float]:
    return {name: family.score for name, family in evaluation.families.items()}


def _write(folder: Path, data: dict[str, Any]) -> Frontier:
    from compress.report import frontier as drawing

    write_json(folder / JSON, data)
    write_whole(folder / MARKDOWN, [drawing.markdown(data).encode()])
    for ending, content in drawing.pictures(data).items():
        write_whole(folder / f"{PICTURE}.{ending}", [content])
    return Frontier(folder, data)


def _named(text: str) -> tuple[str, str | None]:
    """Returns the method and the fine-tuning that `aqlm+block` names; an unknown method is an error."""
    method, _, tune = text.partition("+")
    registry.describe(method)
    return method, tune or None


def _options(method: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Returns the options that `bits=2 group_size=32` gives, with values of the types that the method declares."""
    types = {option.name: option.type for option in registry.describe(method).options}
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RecipeError(f"{pair!r} in a point", allowed="option=value")
        try:
            options[name] = None if text == "none" else _KINDS[types.get(name, str).__name__](text)
        except (ValueError, KeyError) as error:
            raise RecipeError(
                f"{pair!r} in a point", allowed=f"{name}= and {registry.TYPE_NAMES[types[name]]}"
            ) from error
    return registry.check_options(method, options)
