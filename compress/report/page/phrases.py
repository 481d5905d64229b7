"""Puts the content into words: titles, the headline, cards. Figures are stated, never judged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report import formatting
from compress.report.charts.families import verdict
from compress.report.formatting import growth, label, percent, perplexity, points, signed, size
from compress.report.page import speed

Content = Mapping[str, Any]
NOT_GATED = (
    "Whether the loss is below a margin was not asked: `compress gate FOLDER -o FOLDER` does that, and the "
    "next report shows the verdict."
)


def methods(run: Content) -> str:
    """Returns the stages as `llm_pruner ratio=0.2 → spqr bits=4`."""
    return " → ".join(formatting.stage(stage["method"], stage["unusual"]) for stage in run["did"])


def options(values: Mapping[str, Any]) -> list[str]:
    """Returns options as `bits=3`."""
    return [formatting.option(name, value) for name, value in values.items()]


def title(content: Content) -> str:
    """Returns the title of the page."""
    if content["title"] is not None:
        return str(content["title"])
    runs = content["runs"]
    models = list(dict.fromkeys([r["model"] for r in runs] + [f["model"] for f in content["frontiers"]]))
    if len(runs) == 1 and not content["frontiers"]:
        run = runs[0]
        if run["did"] or run["asked"] is None:
            by = ", then ".join(dict.fromkeys(stage["method"] for stage in run["did"]))
            return f"{run['model']}, compressed by {by}" if by else f"{run['model']}, compressed"
        return f"{run['asked']['model']['name']} on {run['asked']['suite']['name']}"
    count = len(runs) or len(content["frontiers"][0]["points"])
    return f"{' and '.join(models)}: {count} compressed {'model' if count == 1 else 'models'}"


def headline(run: Content) -> str:
    """Returns the result in one or two sentences: the reduction in size and the loss in quality."""
    sentences = []
    sizes = run["size"] or {}
    times, linears = sizes.get("times_smaller"), sizes.get("bits_per_weight_linears")
    smaller = [f"{times:.1f}× smaller"] if times is not None else []
    smaller += [f"{linears:.2f} bits per weight in its linears"] if linears is not None else []
    if smaller:
        sentences.append(f"{', '.join(smaller)}.")
    families = [family for family in run["families"] or () if family["paired"]]
    paired = [family for family in families if not family["cannot_tell"]]
    if paired:
        sentences.append(_lost(paired, run["asked"]["confidence"]))
    elif run["families"] is None:
        sentences.append("Its knowledge was not evaluated.")
    elif not run["families"]:
        sentences.append("No questions were asked; perplexity and divergence on held-out text were measured.")
    elif families:
        sentences.append("The dense model is above chance in no family, so the questions cannot tell what was lost.")
    return _keep_percent(" ".join(sentences))


def _lost(families: list[Content], confidence: float) -> str:
    fell = [family for family in families if verdict(family["paired"]) == "loss"]
    interval = f"{100 * confidence:g} % interval"
    if not fell:
        n = min(family["items"] for family in families)
        return f"No loss is shown: in every family the {interval} of the difference includes zero (n = {n} or more)."
    worst = min(fell, key=lambda family: float(family["paired"]["difference"]))
    paired = worst["paired"]
    return (
        f"Most was lost in {label(worst['name'])}: {points(paired['difference'])} points "
        f"({interval} {points(paired['low'])} to {points(paired['high'])}); "
        f"the interval excludes zero in {len(fell)} of {len(families)} families."
    )


def cards(run: Content) -> list[tuple[str, str, str]]:
    """Returns the headline figures as (name, figure, what to compare it with)."""
    cards = [*_size_cards(run["size"]), *_text_cards(run["text"])]
    if run["speed"]:
        cards += speed.cards(run["speed"])
    paired = [family["paired"] for family in run["families"] or () if family["paired"]]
    if paired:
        lost, gained, n, changed = (sum(p[key] for p in paired) for key in ("lost", "gained", "n", "answers_changed"))
        cards.append(("Items lost", f"{lost:,}", f"of {n:,}; {gained:,} gained, {changed:,} answered otherwise"))
    if judgement := (run["asked"] or {}).get("judgement"):
        note = f"of {judgement['judge']}; both orders agree in {percent(judgement['consistent'])}"
        cards.append(("Judged wins", percent(judgement["score"]), note))
    return [(name, figure, _keep_percent(note)) for name, figure, note in cards]


def _size_cards(sizes: Content | None) -> list[tuple[str, str, str]]:
    if sizes is None:
        return []
    dense = "dense size not known" if sizes["dense_bytes"] is None else f"from {size(sizes['dense_bytes'])}"
    times = "" if sizes["times_smaller"] is None else f", {sizes['times_smaller']:.1f}× smaller"
    cards = [("Size on disk", size(sizes["bytes"]), dense + times)]
    if (after := sizes["parameters"]) and (before := sizes["dense_parameters"]) and after != before:
        cards.append(("Parameters", f"{after:,}", f"from {before:,}, {signed(100 * (after / before - 1))} %"))
    if sizes["bits_per_weight_linears"] is not None:
        whole = sizes["bits_per_weight_model"]
        note = "of the linears" + ("" if whole is None else f"; whole model {whole:.2f}")
        cards.append(("Bits per weight", f"{sizes['bits_per_weight_linears']:.2f}", note))
    return cards


def _text_cards(text: Content | None) -> list[tuple[str, str, str]]:
    if text is None:
        return []
    dense = text["dense_perplexity"]
    note = f"over {text['tokens']:,} tokens"
    if dense is not None:
        note = f"dense {perplexity(dense)}, {growth(text['perplexity'] / dense)}"
    cards = [("Perplexity", perplexity(text["perplexity"]), note)]
    if kl := text["divergence"]:
        note = f"{kl['low']:.4f} to {kl['high']:.4f}; same top-1 token {percent(kl['same_top1'])}"
        cards.append(("KL to dense", f"{kl['mean']:.4f}", note))
    return cards


def _keep_percent(text: str) -> str:
    """Returns the text with no-break spaces before per cent signs."""
    return text.replace(" %", "\u00a0%")


def difference(paired: Content) -> str:
    """Returns a paired difference with its interval, in percentage points."""
    return formatting.difference(paired["difference"], paired["low"], paired["high"])


def when(run: Content) -> str | None:
    """Returns when a run was finished: `2026-03-01 12:00 UTC`; None where it is not recorded."""
    stamp = run["finished"]
    return None if stamp is None else f"{stamp[:10]} {stamp[11:16]} UTC"


def where(run: Content) -> str | None:
    """Returns the machine and the time that a run took on it; None where they are not recorded."""
    machine = run["machine"]
    if machine is None:
        return None
    cores, memory = machine.get("cores"), machine.get("memory_bytes")
    parts = [str(machine.get("processor", "processor not known"))]
    parts += [f"{cores} {'core' if cores == 1 else 'cores'}"] if cores else []
    parts += [f"{size(memory)} of memory"] if memory else []
    parts += [str(machine["system"])] if "system" in machine else []
    took = "" if run["seconds"] is None else f"; took {formatting.clock(run['seconds'])}"
    return f"{', '.join(parts)}{took}"


def gate(run: Content) -> tuple[str, str] | None:
    """Returns the word of the verdict of the gate and its colour class; None for a run that was not evaluated."""
    if run["gate"] is not None:
        verdict = str(run["gate"]["verdict"])
        return f"gate: {verdict}", verdict if verdict in ("pass", "fail", "inconclusive") else "none"
    return None if run["families"] is None else ("gate: not asked", "none")


def calibration(data: Content) -> str:
    """Returns the calibration data of a recipe, as far as it is recorded: `bundled, 128 × 256 tokens, seed 0`."""
    parts = [data["source"]] if "source" in data else []
    if "samples" in data and "seq_len" in data:
        parts.append(f"{data['samples']} × {data['seq_len']} tokens")
    parts += [f"seed {data['seed']}"] if "seed" in data else []
    parts += [data["reason"]] if "reason" in data else []
    return ", ".join(parts) or "not recorded"


def parts(run: Content) -> list[tuple[str, bool]]:
    """Returns the sections of a run's page: the names of their links, and whether the run has them."""
    return [
        ("Headline", True),
        ("Knowledge", run["families"] is not None),
        ("Answers", bool(run["samples"])),
        ("Lost", bool(run["lost"] and run["lost"]["families"])),
        ("Text", run["text"] is not None),
        ("Speed", bool(run["speed"])),
        ("Chat", bool(run["chats"])),
        ("Layers", bool(run["layers"])),
        ("Made", bool(run["made"])),
    ]


_STOPPED = {"length": "cut off", "context": "cut off: the context was full", "interrupted": "stopped by the user"}


def stopped(answer: Content) -> str:
    """Returns why an answer of a chat did not end by itself."""
    stopped = str(answer["stopped"])
    return _STOPPED.get(stopped, stopped)


def chat(data: Content) -> str:
    """Returns how the answers of a chat were made."""
    settings = data.get("settings", {})
    temperature = settings.get("temperature", 0)
    parts = [f"at temperature {temperature:g}, seed {settings.get('seed', 0)}" if temperature else "greedily"]
    parts += [f"at most {settings['max_new_tokens']} tokens"] if "max_new_tokens" in settings else []
    parts += ["as plain continuations, without a chat template"] if settings.get("template") is False else []
    told = f" System message: {data['system']}" if "system" in data else ""
    return f"Saved by `compress chat`. Answered {', '.join(parts)}.{told}".replace("`", "")
