"""`transformers serve` with a compressed folder, asked by the client of OpenAI over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import compress
from compress import hf
from tests.support.chatting import save_dense
from tests.support.proofs import in_this_process

_PATIENCE = 300


def test_the_program_is_that_of_transformers_with_our_format(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.cli import transformers as command_line
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    called: list[int] = []
    monkeypatch.setattr(command_line, "main", lambda: called.append(1))
    hf.main()
    assert called and "compress" in AUTO_QUANTIZER_MAPPING


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    dense = save_dense(folder / "dense")
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        return compress.run(str(dense), "rtn", bits=4, group_size=16, suite="none", output=folder / "run").checkpoint


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    for package in ("openai", "fastapi", "uvicorn"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "compress.hf", "serve", str(folder), "--port", str(port), "--device", "cpu"]
    with subprocess.Popen([*command, "--host", "127.0.0.1"], env=os.environ | {"HF_HUB_OFFLINE": "1"}) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(_PATIENCE):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError("the server does not answer")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_client_gets_the_answer_of_the_packed_model(folder: Path, address: str) -> None:
    from openai import OpenAI
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "Hi"}]
    client = OpenAI(base_url=address, api_key="none", timeout=_PATIENCE)
    request = dict(model=str(folder), messages=messages, max_tokens=20, temperature=0)
    answer = client.chat.completions.create(**request).choices[0].message.content
    parts = [part.choices[0].delta.content for part in client.chat.completions.create(**request, stream=True)]

    tokenizer, model = AutoTokenizer.from_pretrained(folder), compress.load(folder)
    tokens = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = model.generate(**tokens, max_new_tokens=20, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert answer == "".join(part or "" for part in parts) == tokenizer.decode(expected, skip_special_tokens=True)
