"""The text of an allocation and of a plan with a target."""

from compress.report.table import plan
from compress.report.table.allotted import render


def one(names, bits):
    return {"linears": names, "bits_per_weight": bits}


def test_one_line_per_kind_and_one_figure_per_block():
    sets = []
    for block in range(17):
        at = f"model.layers.{block}"
        sets.append(one([f"{at}.self_attn.{name}_proj" for name in "qkv"], 2.5 + block / 4))
        sets += [one([f"{at}.mlp.experts.q_down_proj.{expert}"], 2.0 + expert) for expert in range(3)]
    text = render({"target_bits": 3, "bits_per_weight": 2.98765, "predicted_loss": 0.0123, "sets": sets}).splitlines()
    assert text[0].startswith("Allotted 2.988 bits per weight (target 3), predicted divergence 0.012 nats")
    assert text[1].split()[:5] == ["self_attn.q_proj", "k_proj", "v_proj", "2.50", "2.75"]
    assert text[2].split() == ["6.50"], "sixteen to a line"
    assert text[3].split()[:2] == ["mlp.experts.q_down_proj", "2.00-4.00"] and len(text) == 5


def test_a_block_without_the_kind_shows_a_dash():
    sets = [one(["h.0.attn.o"], 2.0), one(["h.1.mlp.up"], 3.0), one(["h.2.attn.o"], 4.0)]
    text = render({"target_bits": 3, "bits_per_weight": 3.0, "predicted_loss": 0.1, "sets": sets}).splitlines()
    assert [line.split() for line in text[1:]] == [["attn.o", "2.00", "-", "4.00"], ["mlp.up", "-", "3.00", "-"]]


def test_the_plan_says_that_measuring_comes_first():
    known = {
        "model": "atlas", "method": "rtn", "options": {}, "output": "o", "blocks": 4, "linears": 28,
        "coverage": {"share_of_linears": 1.0, "share_of_model": 0.8}, "calibration": None, "bits_per_weight": 2.5,
        "output_bytes": 10, "source_bytes": 20, "peak_memory_bytes": 30, "phases": (), "micro_batch": 1, "then": (),
        "engine": None, "kept": 0, "seconds": 1.0, "evaluation": None, "figures": {},
    }  # fmt: skip
    assert "about 2.50\n" in plan.render(known | {"allotted": None})
    text = plan.render(known | {"allotted": {"candidates": 6, "least_bits": 2.0536}})
    assert "2.5 on average or less: measured first, then one of 6 candidates" in text and "(2.05 at the least)" in text
