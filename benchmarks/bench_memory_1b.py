"""Measures the peak resident memory of compressing a random Llama of one billion parameters from disk.

    python benchmarks/bench_memory_1b.py [--blocks 16] [--method spqr] [--folder DIR]

The model (hidden 2048, 16 blocks, MLP 8192, vocabulary 128,256, tied, bf16, 2.5 GB) is made on the spot, tensor by
tensor; `compress run` then works on 8 x 128 calibration tokens in a process of its own, whose peak (VmHWM) is read from
the operating system, as is that of the fresh process that proves the load. The latter holds the whole packed model and
maps the shards: pages of files count as resident too. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _print import show
from safetensors.torch import save_file

_RUN = """
import json, resource, sys, time
import compress
start = time.time()
result = compress.run(sys.argv[1], sys.argv[2], output=sys.argv[3], calibration=sys.argv[4], samples=8, seq_len=128,
                      suite="none", max_memory=sys.argv[5])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    # not ru_maxrss: a process starts with the peak of the one that started it
    "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
    "proof_peak_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    "seconds": time.time() - start,
    "bits_per_weight": result.manifest["bits_per_weight"],
}))
"""


def make_model(folder: Path, blocks: int) -> int:
    """Writes the model and a file of calibration tokens; returns its parameters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    hidden, mlp, heads, kv_heads, vocabulary = 2048, 8192, 32, 8, 128_256
    LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=blocks, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, tie_word_embeddings=True, max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"], dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1, "[END]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[END]")
    made.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * 0.02).to(torch.bfloat16)

    shapes = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden * kv_heads // heads, hidden),
        "self_attn.v_proj": (hidden * kv_heads // heads, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    weight_map: dict[str, str] = {}
    parameters = 0
    for index in range(blocks + 1):
        if index == 0:
            tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden), "model.norm.weight": torch.ones(hidden)}
        else:
            prefix = f"model.layers.{index - 1}."
            tensors = {f"{prefix}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors[f"{prefix}{norm}.weight"] = torch.ones(hidden, dtype=torch.bfloat16)
        file = f"model-{index + 1:05d}-of-{blocks + 1:05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        parameters += sum(tensor.numel() for tensor in tensors.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    tokens = torch.randint(0, vocabulary, (8, 128), generator=generator)
    save_file({"tokens": tokens}, folder / "calibration.safetensors")
    return parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--method", default="spqr")
    parser.add_argument("--max-memory", default="2.5GB")
    parser.add_argument("--folder", help="keep model and result here instead of in a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary)
        (folder / "model").mkdir(parents=True, exist_ok=True)
        start = time.time()
        parameters = make_model(folder / "model", options.blocks)
        made = time.time() - start
        calibration = folder / "model" / "calibration.safetensors"
        (folder / "calibration.safetensors").unlink(missing_ok=True)
        os.rename(calibration, folder / "calibration.safetensors")
        command = [sys.executable, "-c", _RUN, str(folder / "model"), options.method, str(folder / "out")]
        command += [str(folder / "calibration.safetensors"), options.max_memory]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}  # as the command line sets it
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        figures = json.loads(done.stdout.splitlines()[-1])
        written = sum(path.stat().st_size for path in (folder / "out").glob("*.safetensors"))
        figures |= {"parameters": parameters, "output_bytes": written, "making_the_model_s": made}
    show(
        "peak resident memory, 1B-shaped Llama from disk",
        [{"process": name, "peak GB": figures[key] / 1e9} for name, key in
         (("compress run", "peak_bytes"), ("proof of load", "proof_peak_bytes"))],
        **figures, method=options.method,
    )  # fmt: skip


if __name__ == "__main__":
    main()
