"""The text of a card: what was done, what it cost, how the model is loaded, and how it is made again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import rerun
from compress.cards import metadata, snippet
from compress.methods import registry
from compress.report import coverage, formatting
from compress.report import manifest as manifests
from compress.report.formatting import size
from compress.report.page import phrases
from compress.report.table import markdown, overview, suite

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult

_IMPORT = "import compress.hf  # pip install compress-llm"
_FOLDERS = re.compile(r"(?<![\w.:/])~?/(?:[^\s\"',:/]+/)*")
"""The folders before the name of a local file."""
_NO_LICENCE = "The licence of the base model is not known from its files; its terms hold for this model too."


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a card tells of."""

    manifest: Mapping[str, Any]
    """Checked content of compress.json."""
    evaluation: EvalResult | None
    """Evaluation of this checkpoint."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Metadata that the model has from the one it was made of (`metadata.inherited`)."""
    chat: bool = False
    """Whether the tokenizer has a chat template."""
    verdict: str | None = None
    """Verdict of the gate."""


def of_checkpoint(facts: Facts) -> str:
    """Returns the card of a checkpoint of this package. It names no path of this machine."""
    needs = _IMPORT if metadata.is_own(facts.manifest) else None
    return metadata.with_block(
        metadata.of(facts.manifest, facts.kept, library=metadata.library_of(facts.manifest)),
        "\n\n".join(
            [
                f"# {_title(facts.manifest)}",
                f"{_made(facts.manifest)}. {_sizes(facts.manifest)}",
                "## Use it",
                snippet.of_transformers(chat=facts.chat, needs=needs),
                *([snippet.of_folder("compress chat")] if needs else []),
                *_told(facts),
            ]
        )
        + "\n",
    )


def of_export(facts: Facts, target: str, read_by: str, what: str, use: str, library: str, plan: str) -> str:
    """Returns the card of an export.

    Args:
        facts: what the card of the checkpoint tells.
        target: name of the format.
        read_by: programs that read it.
        what: sentences on how its weights differ from those that were evaluated.
        use: code or commands that load it.
        library: the hub's name of a library that loads it.
        plan: what became of the tensors, in markdown.
    """
    return metadata.with_block(
        metadata.of(facts.manifest, facts.kept, library=library, tags=[target]),
        "\n\n".join(
            [
                f"# {_title(facts.manifest)}, for {target}",
                f"{_made(facts.manifest)} and exported to **{target}**, for {read_by}. {what}",
                "## Use it",
                use,
                "## What was exported",
                plan,
                *_told(facts),
            ]
        )
        + "\n",
    )


def _told(facts: Facts) -> Iterator[str]:
    """Yields the parts on what was done, what it cost, the command that repeats it, and the licence."""
    yield "## What was done"
    yield "\n".join(_did(facts.manifest))
    yield "## What it cost"
    yield from _cost(facts)
    if (again := rerun.of(facts.manifest, _asked(facts.evaluation))) is not None:
        yield "## Make it again"
        yield snippet.of_shell(_FOLDERS.sub("", again.command))
        if again.recipe is not None:
            yield f"with this `{rerun.RECIPE_FILE}`:"
            yield f"```toml\n{_FOLDERS.sub('', again.recipe).rstrip()}\n```"
    if "license" not in facts.kept:
        yield _NO_LICENCE


def _title(manifest: Mapping[str, Any]) -> str:
    stages = manifests.stages(manifest, always=("bits",))
    did = " → ".join(formatting.stage(stage["method"], stage["unusual"]) for stage in stages)
    return f"{manifests.origin(manifest).get('model', 'model')}, {did or 'compressed'}"


def _made(manifest: Mapping[str, Any]) -> str:
    """Returns the model and what compressed it."""
    base = metadata.base_of(manifest)
    name = str(manifests.origin(manifest).get("model", "A model"))
    linked = name if base is None else f"[{base}](https://huggingface.co/{base})"
    return f"{linked}, compressed by `compress` {manifest.get('compress_version', '')}".rstrip()


def _sizes(manifest: Mapping[str, Any]) -> str:
    """Returns the size before and after, and the stored bits per weight."""
    sizes = manifests.sizes(manifest)
    before = "" if sizes["dense_bytes"] is None else f"{size(sizes['dense_bytes'])} → "
    parts = [f"Size: {before}{size(sizes['bytes'])}"]
    bits = {"in the linears": sizes["bits_per_weight_linears"], "over the whole model": sizes["bits_per_weight_model"]}
    if told := [f"{value:.2f} {where}" for where, value in bits.items() if value is not None]:
        parts.append(f"stored bits per weight: {', '.join(told)}")
        if (dense := sizes["dense_bits_per_weight"]) is not None:
            parts[-1] += f" (before: {dense:.2f})"
    return "; ".join(parts) + "."


def _did(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yields a list of the stages, the calibration text, what stayed dense, and the warnings."""
    for number, stage in enumerate(manifests.stages(manifest, always=("bits",)), 1):
        name = stage["method"]
        summary = registry.describe(name).summary if name in registry.names() else ""
        options = ", ".join(f"{key}={value}" for key, value in stage["unusual"].items())
        yield f"{number}. `{formatting.stage(name, {})}`{f' ({options})' if options else ''}: {summary}".rstrip(": ")
    if calibration := manifest.get("calibration"):
        yield f"- Calibration text: {phrases.calibration(_named(calibration))}"
    told = manifest.get("coverage", {})
    shares = {
        "Compressed": coverage.compressed(told, total=False),
        "Packed outside the blocks": coverage.outside(told),
        "Left dense": coverage.left_dense(told),
        "Removed": coverage.removed(told),
    }
    yield from (f"- {label}: {text}" for label, text in shares.items() if text is not None)
    yield from (f"- Warning: {text}" for text in manifest.get("warnings", ()) if not _names_a_path(text))


def _named(calibration: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record of calibration text with the name of a local file in the place of its path."""
    parts = str(calibration.get("source", "")).split(",")
    return {**calibration, "source": ",".join(Path(part).name if _names_a_path(part) else part for part in parts)}


def _names_a_path(text: str) -> bool:
    return any(word.strip("'\"(),:;").startswith(("/", "~", "..")) for word in text.split())


def _cost(facts: Facts) -> Iterator[str]:
    if facts.verdict is not None:
        yield f"Verdict of `compress gate`: **{facts.verdict}**."
    evaluation = facts.evaluation
    if evaluation is None:
        yield "Not evaluated. `compress eval . --baseline MODEL -o eval.json` measures it against the dense model."
        return
    paired = evaluation.comparison is not None
    table = overview.of_checkpoint(None, facts.manifest, evaluation) if paired else overview.of_evaluation(evaluation)
    lines = markdown.render(table).splitlines()
    yield "\n".join(line for line in lines if line.startswith("|"))
    told = suite.remarks(evaluation)
    yield "\n".join(f"- {line}" for line in told if not _names_a_path(line))


def _asked(evaluation: EvalResult | None) -> dict[str, Any] | None:
    return None if evaluation is None else {"suite": evaluation.suite, "settings": evaluation.settings}
