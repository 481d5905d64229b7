"""What `--for ENGINE` chooses and refuses, before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

import compress
from compress import pipeline
from compress.engines import ENGINES
from compress.errors import RecipeError
from compress.exports import plan as exporting
from compress.recipe import CalibrationSpec, Recipe, StageSpec
from compress.stages import finish
from tests.support.exports import MODELS
from tests.support.models import tiny_tokenizer

ENDS = {"embedding_bits": 8, "head_bits": 8}


@pytest.fixture
def model(tmp_path: Path) -> str:
    return dense(tmp_path / "model", "llama")


def dense(folder: Path, kind: str, dtype: torch.dtype = torch.bfloat16, **sizes: int) -> str:
    torch.manual_seed(0)
    config: dict[str, Any] = MODELS[kind] | sizes
    AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).to(
        dtype
    ).save_pretrained(folder)
    return str(folder)


def recipe(model: str, engine: str, method: str = "rtn", skip: str = "", **options: Any) -> Recipe:
    settings = {name: options.pop(name) for name in ("target_bits", *ENDS) if name in options}
    stage = StageSpec(method=method, options=options, **settings)
    return Recipe(
        model=model, engine=engine, stages=(stage,), suite="none", skip=(skip,) if skip else (), min_coverage=0
    )


def test_options_that_are_not_given_are_chosen(model: str) -> None:
    plan = pipeline.plan(recipe(model, "vllm"))
    assert plan.options == {"scale_dtype": "bfloat16"} and plan.engine == "vllm"
    assert plan.coverage is not None and not plan.coverage["packed_outside_blocks"], "engines read the embedding dense"
    plan = pipeline.plan(recipe(model, "mlx", "easyquant", scale_dtype="bfloat16"))
    assert plan.options == {"scale_dtype": "bfloat16", "sigma": float("inf")}
    assert plan.coverage is not None and plan.coverage["packed_outside_blocks"]


@pytest.mark.parametrize(
    "options",
    [{"grid": "nvfp4"}, {"grid": "fp8", "activations": "fp8"}, {"bits": 8, "activations": "int8"}],
    ids=str,
)  # fmt: skip
def test_vllm_holds_what_rounds_inputs(model: str, options: dict[str, Any]) -> None:
    assert pipeline.plan(recipe(model, "vllm", "rtn", **options)).engine == "vllm"
    with pytest.raises(RecipeError, match=r"mlx cannot hold it: (the layout float_group|the format cannot say)"):
        pipeline.plan(recipe(model, "mlx", "rtn", **options))


@pytest.mark.parametrize("kind", ["q2_k", "q4_k", "q6_k"])
def test_llama_cpp_holds_the_grids_of_k_quants(tmp_path: Path, model: str, kind: str) -> None:
    long = dense(tmp_path / "long", "llama", hidden_size=256, intermediate_size=256)
    for each in (model, long):  # 256 divides the rows of one of them
        assert "scale_dtype" not in pipeline.plan(recipe(each, "llama.cpp", grid=kind)).options
    with pytest.raises(RecipeError, match=r"mlx cannot hold it: the layout super_block\.v1 has no counterpart there"):
        pipeline.plan(recipe(long, "mlx", grid=kind))


@pytest.mark.parametrize(
    ("engine", "method", "options", "message"),
    [
        ("vllm", "rtn", {"bits": 3}, r"q_proj: vllm cannot hold it: codes have 4, 8 bits there"),
        ("vllm", "rtn", {"bits": 8, "symmetric": False}, "zero points need 4 bits there"),
        ("sglang", "rtn", {"symmetric": False}, "there are no zero points there"),
        ("vllm", "rtn", {"group_size": 16}, "groups have 32, 64, 128 columns there, or the whole row, not 16"),
        ("vllm", "rtn", ENDS, "engines read the embedding dense. Give --embedding-bits none"),
        ("vllm", "rtn", {"skip": "*.k_proj"}, r"self_attn: vllm cannot hold the result: .*k_proj dense"),
        ("llama.cpp", "rtn", {"bits": 8, "symmetric": False}, "q_proj: llama.cpp cannot hold it"),
        ("llama.cpp", "rtn", {"group_size": 16}, "q_proj: llama.cpp cannot hold it"),
        ("mlx", "rtn", {"bits": 7}, "codes have 2, 3, 4, 5, 6, 8 bits there"),
        ("mlx", "rtn", {"group_size": 16}, "cannot be split into groups of 32, 64 or 128"),
        ("mlx", "spqr", {}, "spqr.v1 has no counterpart there"),
        ("mlx", "easyquant", {"outlier_share": 0.01}, "no engine adds the sparse outliers"),
        ("vllm", "aqlm", {}, "additive.v1 has no counterpart"),
        ("vlm", "rtn", {}, "unknown engine 'vlm'; did you mean 'vllm'"),
    ],
)
def test_what_an_engine_cannot_hold_is_refused(
    model: str, engine: str, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        pipeline.plan(recipe(model, engine, method, **options))


def test_mixed_precision_chooses_among_the_widths_of_the_engine(model: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(model)
    save_file({"tokens": torch.arange(61)[None].repeat(4, 1)}, tmp_path / "tokens.safetensors")
    text = CalibrationSpec(source=str(tmp_path / "tokens.safetensors"), samples=4, seq_len=32)
    plan = pipeline.plan(dataclasses.replace(recipe(model, "sglang", target_bits=6), calibration=text))
    assert plan.allotted is not None and plan.allotted["candidates"] == 2  # 4 and 8 bits
    with pytest.raises(RecipeError, match=r"below the 4\.\d+ bits"):
        pipeline.plan(recipe(model, "sglang", target_bits=3))


@pytest.mark.parametrize(
    ("engine", "kind"), [("vllm", "mixtral"), ("mlx", "llama"), ("transformers", "qwen2"), ("llama.cpp", "llama")]
)
def test_the_result_goes_to_the_engine_without_loss(
    tmp_path: Path, engine: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "prove", lambda *_: None)  # a process of its own, which takes seconds
    result = compress.run(recipe(dense(tmp_path / "model", kind), engine), output=tmp_path / "out")
    made = exporting.make(result.checkpoint, ENGINES[engine].target, allow_dense=False, dense_dtype="float32")
    assert made.linears and not made.decoded and not made.warnings
    assert f"for {engine}: compress export" in "\n".join(result._overview().remarks)


def test_the_option_of_the_command(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from compress.cli import invoke

    assert invoke(["run", "--model", model, "--method", "rtn", "--for", "vllm", "--dry-run", "--no-eval"]) == 0
    shown = capsys.readouterr().out
    assert "for          vllm" in shown and "scale_dtype=bfloat16" in shown
