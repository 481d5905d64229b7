"""What the page says in words, made from the figures: titles, the headline, cards. No figure is judged, only stated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.report.charts.families import label, verdict
from compress.report.formatting import growth, percent, perplexity, signed, size
from compress.report.page import speed

Content = Mapping[str, Any]


def methods(run: Content) -> str:
    """Returns the stages as `llm_pruner ratio=0.2 → spqr bits=4`."""
    return " → ".join(" ".join([stage["method"], *options(stage["unusual"])]) for stage in run["did"])


def options(values: Mapping[str, Any]) -> list[str]:
    """Returns options as `bits=3`."""
    return [f"{name}={value(v)}" for name, v in values.items()]


def value(given: Any) -> str:
    """Returns an option as the command line takes it."""
    return str(given).lower() if isinstance(given, bool) else "none" if given is None else str(given)


def title(content: Content) -> str:
    """Returns the title of the page."""
    runs = content["runs"]
    models = list(dict.fromkeys([r["model"] for r in runs] + [f["model"] for f in content["frontiers"]]))
    if len(runs) == 1 and not content["frontiers"]:
        run = runs[0]
        if run["did"] or run["asked"] is None:
            return f"{run['model']}, compressed"
        return f"{run['asked']['model']['name']} on {run['asked']['suite']['name']}"
    count = len(runs) or len(content["frontiers"][0]["points"])
    return f"{' and '.join(models)}: {count} compressed {'model' if count == 1 else 'models'}"


def headline(run: Content) -> str:
    """Returns the sentence that a reader in a hurry needs."""
    said = []
    made = run["size"] or {}
    times, linears = made.get("times_smaller"), made.get("bits_per_weight_linears")
    sizes = [f"{times:.1f}× smaller"] if times is not None else []
    sizes += [f"{linears:.2f} bits per weight in its linears"] if linears is not None else []
    if sizes:
        said.append(f"{', '.join(sizes)}.")
    paired = [family for family in run["families"] or () if family["paired"]]
    if paired:
        said.append(_lost(paired, run["asked"]["confidence"]))
    elif run["families"] is None:
        said.append("What it still knows was not evaluated.")
    return _whole(" ".join(said))


def _lost(families: list[Content], confidence: float) -> str:
    fell = [family for family in families if verdict(family["paired"]) == "loss"]
    interval = f"{100 * confidence:g} % interval"
    if not fell:
        n = min(family["items"] for family in families)
        return f"No loss is shown: in every family the {interval} of the difference includes zero (n = {n} or more)."
    worst = min(fell, key=lambda family: float(family["paired"]["difference"]))
    one = worst["paired"]
    return (
        f"Most was lost in {label(worst)}: {signed(100 * one['difference'])} points "
        f"({interval} {signed(100 * one['low'])} to {signed(100 * one['high'])}); "
        f"the interval leaves zero out in {len(fell)} of {len(families)} families."
    )


def cards(run: Content) -> list[tuple[str, str, str]]:
    """Returns the headline figures as (name, figure, what to compare it with)."""
    made: list[tuple[str, str, str]] = []
    if found := run["size"]:
        dense = "dense size not known" if found["dense_bytes"] is None else f"from {size(found['dense_bytes'])}"
        times = "" if found["times_smaller"] is None else f", {found['times_smaller']:.1f}× smaller"
        made.append(("Size on disk", size(found["bytes"]), dense + times))
        if (left := found["parameters"]) and (before := found["dense_parameters"]) and left != before:
            made.append(("Parameters", f"{left:,}", f"from {before:,}, {signed(100 * (left / before - 1))} %"))
        if found["bits_per_weight_linears"] is not None:
            whole = found["bits_per_weight_model"]
            told = "of the linears" + ("" if whole is None else f"; whole model {whole:.2f}")
            made.append(("Bits per weight", f"{found['bits_per_weight_linears']:.2f}", told))
    if text := run["text"]:
        before = text["dense_perplexity"]
        told = "" if before is None else f"dense {perplexity(before)}, {growth(text['perplexity'] / before)}"
        made.append(("Perplexity", perplexity(text["perplexity"]), told or f"over {text['tokens']:,} tokens"))
        if kl := text["divergence"]:
            told = f"{kl['low']:.4f} to {kl['high']:.4f}; same first token {percent(kl['same_top1'])}"
            made.append(("KL to dense", f"{kl['mean']:.4f}", told))
    if run["speed"]:
        made += speed.cards(run["speed"])
    paired = [family["paired"] for family in run["families"] or () if family["paired"]]
    if paired:
        lost, gained, n = (sum(one[key] for one in paired) for key in ("lost", "gained", "n"))
        changed = sum(one["answers_changed"] for one in paired)
        told = f"of {n:,}; {gained:,} gained, {changed:,} answered otherwise"
        made.append(("Items lost", f"{lost:,}", told))
    if judged := (run["asked"] or {}).get("judgement"):
        told = f"of {judged['judge']}; both orders agree in {percent(judged['consistent'])}"
        made.append(("Judged wins", percent(judged["score"]), told))
    return [(name, figure, _whole(told)) for name, figure, told in made]


def _whole(text: str) -> str:
    """The text with its per cent signs kept beside their figures."""
    return text.replace(" %", "\u00a0%")


def interval(paired: Content) -> str:
    """Returns a difference with its interval, in points."""
    low, high = (signed(100 * paired[end]) for end in ("low", "high"))
    return f"{signed(100 * paired['difference'])} [{low}, {high}]"


def parts(run: Content) -> list[tuple[str, bool]]:
    """Returns the sections of a run's page by the names of their links, and whether the run has them."""
    return [
        ("Headline", True),
        ("Knowledge", run["families"] is not None),
        ("Lost", bool(run["lost"] and run["lost"]["families"])),
        ("Text", run["text"] is not None),
        ("Speed", bool(run["speed"])),
        ("Layers", bool(run["layers"])),
        ("Made", bool(run["made"])),
    ]
