"""Chooses the questions for a model (`--suite auto`): by its origin, and by the data that can be reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.atlas.origin import is_of_atlas
from compress.errors import extra_with, installed, need_package
from compress.evaluation import suites
from compress.evaluation.asking import tiers
from compress.evaluation.kick_data.hub import NotDownloadedError
from compress.evaluation.suites.base import Suite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ATLAS, _PUBLIC, _TEXT = "kick-atlas", "kick", "heldout"
_TIER = "pr"


@dataclass(frozen=True)
class Chosen:
    """A suite, how much of it is asked, and why it was chosen."""

    suite: Suite
    tier: str | None
    why: str

    def record(self, limit: int | None) -> dict[str, Any]:
        """Returns plain data for the plan: suite, tier, items by family, most windows of text, reason, warnings.

        Items that turn out too long for the model's context are counted here.
        """
        bounds = tiers.resolve(self.tier, limit)
        return {
            "suite": self.suite.name,
            "tier": self.tier,
            "reason": self.why,
            "families": {each.name: len(each.items[: bounds.items]) for each in self.suite.families},
            "windows": bounds.windows,
            "warnings": list(self.suite.warnings),
        }


def choose(
    name: str,
    data_dir: str | Path | None,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    *,
    tier: str | None = None,
    limit: int | None = None,
) -> Chosen:
    """Returns the suite `name`; for `auto` the one that suits the model, with the tier `pr` unless a number is given.

    With `auto`, atlas and models made from it are asked the questions of kick-atlas. All others are asked those of
    kick, from `data_dir` or from the hub. Where the hub cannot be reached, nothing is asked: the suite heldout then
    measures perplexity and divergence, with a warning; so it is without lm-eval. `data_dir` always means kick.

    Args:
        name: suite, path of a file of questions, or `auto`.
        data_dir: folder with the data of kick; None downloads them from the hub.
        tokenizer: returns the model's tokenizer; called only where the choice depends on it.
        tier: tier that was asked for.
        limit: number of items that was asked for, instead of a tier.

    Raises:
        EvaluationError: an unknown suite, or data that cannot be read.
        MissingPackageError: the suite `name` has questions, and lm-eval is not installed.
    """
    if name != suites.AUTO:
        suite = suites.load(name, data_dir)
        if suite.families:
            need_package("lm_eval", f"the questions of --suite {name}")
        foreign = name == _ATLAS and not is_of_atlas(tokenizer())
        return Chosen(_warned(suite, _OF_ATLAS) if foreign else suite, tier, f"--suite {name}")
    if not installed("lm_eval"):
        warning = f"no questions were asked, since the package lm-eval is not installed: {extra_with('lm_eval')}"
        return Chosen(_warned(suites.load(_TEXT), warning), tier, "lm-eval, which asks questions, is not installed")
    if data_dir is None and is_of_atlas(tokenizer()):
        return Chosen(suites.load(_ATLAS), tier, "the model is atlas, or was made from it")
    tier = _TIER if tier is None and limit is None else tier
    why = "the model is not made from atlas" if data_dir is None else "the data of --data-dir"
    try:
        return Chosen(suites.load(_PUBLIC, data_dir), tier, why)
    except NotDownloadedError as error:
        why += ", and the hub with the questions of kick cannot be reached"
        return Chosen(_warned(suites.load(_TEXT), f"{_NO_DATA} ({error.given})"), tier, why)


_OF_ATLAS = (
    "kick-atlas asks about the world of the bundled model atlas, which this model was not trained on: its scores say "
    "nothing about this model. --suite auto chooses questions that do"
)
_NO_DATA = (
    "no questions were asked, since the public datasets could not be downloaded: perplexity and KL on held-out text "
    "are all that was measured. Give the datasets with --data-dir, or questions of your own with --suite FILE"
)


def _warned(suite: Suite, warning: str) -> Suite:
    return replace(suite, warnings=(warning, *suite.warnings))
