"""What a card says, and which cards are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.cards import files, metadata, snippet, text
from compress.cards.text import Facts
from compress.errors import OutputError
from tests.support.results import dense_and_packed


def card(manifest: dict[str, Any], **facts: Any) -> tuple[dict[str, Any], str]:
    """The metadata and the text of a card."""
    whole = text.of_checkpoint(Facts(**{"manifest": manifest, "evaluation": None} | facts))
    assert whole.startswith("---\n")
    block, _, rest = whole[4:].partition("\n---\n")
    return yaml.safe_load(block), rest


def test_metadata_are_those_of_the_hub(manifest: dict[str, Any]) -> None:
    manifest["source"]["model"] = "owner/base"
    manifest["recipe"]["stages"][0]["options"] = {"bits": 3}
    kept = {"license": "mit", "language": ["en", "no"], "datasets": ["owner/text"]}
    data, said = card(manifest, kept=kept)
    assert data == {
        "base_model": "owner/base", "base_model_relation": "quantized", **kept, "library_name": "compress-llm",
        "pipeline_tag": "text-generation", "tags": ["spqr", "3-bit", "compress"],
    }  # fmt: skip
    assert "[owner/base](https://huggingface.co/owner/base), compressed by `compress` 0.1.0" in said
    assert "licence" not in said


def test_a_pruned_model_is_a_finetune_that_transformers_loads(manifest: dict[str, Any]) -> None:
    manifest |= {"tensors": {}, "recipe": {"stages": [{"method": "llm_pruner", "options": {"ratio": 0.2}}]}}
    manifest["source"]["model"] = "owner/base"
    data, said = card(manifest)
    assert (data["base_model_relation"], data["library_name"]) == ("finetune", "transformers")
    assert "compress.hf" not in said and "llm_pruner" in data["tags"]


@pytest.mark.parametrize("model", ["atlas", "base", "./models/base", "/home/me/base"])
def test_a_local_model_is_no_base_of_the_hub(model: str, manifest: dict[str, Any]) -> None:
    manifest["source"]["model"] = model
    data, said = card(manifest)
    assert "base_model" not in data and "base_model_relation" not in data
    assert "The licence of the base model is not known" in said


def test_the_table_has_the_intervals(manifest: dict[str, Any]) -> None:
    _, said = card(manifest, evaluation=dense_and_packed()[1], verdict="inconclusive")
    assert "Verdict of `compress gate`: **inconclusive**." in said
    assert "| factoid | 80.0 % | 60.0 % | −20.0 [" in said and "| KL to dense, mean | – | 0.0123 | [0.0101" in said
    assert "- kick-atlas: 20 items, differences in points over the same items" in said
    alone = replace(dense_and_packed()[0])
    assert "| factoid | 80.0 % | 10 |" in card(manifest, evaluation=alone)[1]
    assert "Not evaluated. `compress eval . --baseline MODEL -o eval.json`" in card(manifest)[1]


def test_what_was_done_and_how_it_is_repeated(manifest: dict[str, Any]) -> None:
    manifest["recipe"]["stages"][0]["options"] = {"bits": 3}
    manifest["calibration"] = {"source": "/home/me/letters.txt", "samples": 8, "seq_len": 64, "seed": 0}
    manifest["warnings"] = ["2 linears saw no token", "what stands in /home/me/x is left out"]
    _, said = card(manifest)
    assert "\n1. `spqr` (bits=3): " in said and "- Calibration text: letters.txt, 8 × 64 tokens, seed 0" in said
    assert "- Warning: 2 linears" in said and "/home/me" not in said
    assert "\ncompress run atlas --method spqr --no-eval --bits 3\n" in said
    manifest["recipe"]["calibration"] = {"source": "/home/me/letters.txt,hub:owner/text"}
    assert "--calibration letters.txt,hub:owner/text\n" in card(manifest)[1]


def test_several_stages_have_a_recipe_file(manifest: dict[str, Any]) -> None:
    manifest["history"] = [{"source": manifest["source"], "recipe": {"stages": [{"method": "llm_pruner"}]}}]
    _, said = card(manifest)
    assert "compress run --recipe recipe.toml" in said and '```toml\nmodel = "atlas"' in said
    assert "\n1. `llm_pruner`" in said and "\n2. `spqr`" in said


def test_code_on_the_hub_loads_the_repository(manifest: dict[str, Any]) -> None:
    local = text.of_checkpoint(Facts(manifest=manifest, evaluation=None))
    pushed = snippet.for_repository(local, "me/tiny")
    assert local.count('from_pretrained(".")') == pushed.count('from_pretrained("me/tiny")') == 2
    assert "compress chat .  # this folder" in local and "compress chat me/tiny\n" in pushed


def test_a_card_is_kept_once_it_is_edited(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert files.write(tmp_path, "# one\n") and files.is_own(path.read_text())
    assert files.write(tmp_path, "# two\n") and path.read_text().startswith("# two\n")
    edited = path.read_text().replace("two", "two, and a remark of mine")
    path.write_text(edited)
    assert not files.write(tmp_path, "# three\n") and path.read_text() == edited
    path.unlink()
    assert files.write(tmp_path, "# four\n")
    path.write_text("mine alone")
    assert not files.write(tmp_path, "# five\n")
    path.write_bytes(b"\xff")
    with pytest.raises(OutputError, match="no text in UTF-8"):
        files.write(tmp_path, "# six\n")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("---\nlicense: mit\nlanguage: en\ntags: [x]\n---\n# Model", {"license": "mit", "language": "en"}),
        ("---\nlicense: other\nlicense_name: own\n---\n", {"license": "other", "license_name": "own"}),
        ("---\nlicense: [\n---\n", {}),
        ("# no metadata", {}),
        (None, {}),
    ],
)
def test_the_licence_comes_from_the_card_of_the_source(said: str | None, kept: dict[str, Any]) -> None:
    assert metadata.inherited(said) == kept
