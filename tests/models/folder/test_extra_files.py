"""Files beside the weights travel: every tokenizer file, templates, processors, licence, remote code. No weights."""

from __future__ import annotations

import json
from pathlib import Path

import compress
from compress.models.folder.extra_files import list_extra_files
from compress.models.folder.remote_code import list_remote_code
from tests.support.models import save_tiny

TRAVELS = (
    "LICENSE", "NOTICE.txt", "added_tokens.json", "additional_chat_templates/rag.jinja", "bpe.codes",
    "chat_template.jinja", "dict.txt", "generation_config.json", "merges.txt", "preprocessor_config.json",
    "processor_config.json", "qwen.tiktoken", "sentencepiece.bpe.model", "source.spm", "special_tokens_map.json",
    "tokenizer.json", "tokenizer.model.v3", "tokenizer_config.json", "vocab.txt",
)  # fmt: skip
STAYS = (
    ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors", "chat.json", "compress.json",
    "config.json", "eval.json", "evil.py", "flax_model.msgpack", "model.safetensors", "model.safetensors.index.json",
    "optimizer.pt", "original/params.json", "params.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
    "report.json", "report.md", "run.json", "trainer_state.json", "training_args.bin", "x.partial",
)  # fmt: skip


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def test_everything_beside_the_weights_is_listed(tmp_path: Path) -> None:
    fill(tmp_path, (*TRAVELS, *STAYS))
    listed = list_extra_files(tmp_path)
    assert tuple(sorted(listed)) == tuple(sorted(TRAVELS)) == tuple(listed)
    assert all(path == tmp_path / name for name, path in listed.items())


def test_remote_code_is_listed_with_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    code = {
        "modeling_own.py": "raise SystemExit()\nfrom .configuration_own import A\nfrom .parts.rope import f\nimport os",
        "configuration_own.py": "from . import shared\nfrom ..outside import x",
        "shared.py": "",
        "parts/rope.py": "from .deep import y\nfrom ..shared import z",
        "parts/deep.py": "def broken(:",
        "tokenization_own.py": "",
        "not_named.py": "",
    }
    for name, text in code.items():
        (tmp_path / name).write_text(text)
    auto_map = {"AutoConfig": "configuration_own.A", "AutoModel": "modeling_own.B", "AutoModelForX": "other/repo--m.C"}
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    tokenizer = {"auto_map": {"AutoTokenizer": [None, "tokenization_own.T"], "AutoProcessor": "../../secret.P"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (tmp_path / "processor_config.json").write_text("[" * 100_000)
    assert list_remote_code(tmp_path) == sorted(set(code) - {"not_named.py"})


def test_a_run_takes_them_along(tmp_path: Path, proof_in_this_process: None) -> None:
    folder = save_tiny(tmp_path / "tiny", num_hidden_layers=2)
    fill(folder, ("preprocessor_config.json", "LICENSE", "additional_chat_templates/rag.jinja", "own/modeling_own.py"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.modeling_own.Own"}}))
    (folder / "own/modeling_own.py").write_text("raise SystemExit('remote code was run')")
    out = compress.run(str(folder), "rtn", suite="none", output=tmp_path / "out").checkpoint
    for name in ("LICENSE", "additional_chat_templates/rag.jinja", "own/modeling_own.py", "preprocessor_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert json.loads((out / "config.json").read_text())["auto_map"] == {"AutoModel": "own.modeling_own.Own"}
