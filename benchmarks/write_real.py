"""Writes docs/REAL.md: every method of this project and its peers on a real language model, SmolLM2-135M-Instruct.

    pip install "compress-llm[real]"
    python benchmarks/write_real.py --text wikitext2-test.raw --data-dir FOLDER [--only 'hqq-*']

Every checkpoint is made by its own project from the same weights and the same calibration tokens, read back from disk,
and measured on the same held-out text. A row that is done is kept, so the script can be interrupted; without `--only`
it makes all rows, which takes hours on two cores. Peers get environments of their own under OUTPUT.
`--text` is WikiText-2's raw test split; without it, it comes from the hub.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "real"
sys.path.insert(0, str(HERE))

import speed  # noqa: E402
from _environments import python_of  # noqa: E402
from document import readme_table, write  # noqa: E402
from picture import draw  # noqa: E402
from rows import ENVIRONMENTS, ROWS, Row  # noqa: E402

import compress  # noqa: E402

README = Path(__file__).parents[1] / "README.md"
DOCUMENT = README.parent / "docs" / "REAL.md"
ENGINE = "@node-llama-cpp/linux-x64@3.22.1"
"""The npm package that ships llama.cpp's libraries with the quantiser."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", type=Path, help="held-out text")
    parser.add_argument("--calibration", default="self", help="source of the calibration tokens of all rows")
    parser.add_argument("--data-dir", type=Path, help="data of the suite kick; without it only the text is measured")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--limit", type=int, default=100, help="items per family of kick")
    parser.add_argument("--only", action="append", default=[], help="glob of folder names; repeatable")
    parser.add_argument("--output", type=Path, default=Path("runs/real"))
    parser.add_argument(
        "--speed", action="store_true", help="make no row; time those done, on a machine without other work"
    )
    parser.add_argument("--document", action="store_true", help="make no row; write docs/REAL.md and README's table")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    setting = Setting.of(options)
    chosen = {row.slug for row in ROWS if any(fnmatch(row.slug, pattern) for pattern in options.only or ["*"])}
    for row in ROWS:
        wanted = row.slug in chosen and not options.document and not options.speed
        if (result := setting.result(row, make=wanted)) is not None:
            results.append({"project": row.project, "name": row.name, "options": row.options, **result})
    if options.speed:
        setting.add_speed(results, chosen)
    (options.output / "real.json").write_text(json.dumps(results, indent=1))
    known = {(result["project"], result["name"]) for result in results}
    missing = [f"{row.project} {row.name}" for row in ROWS if (row.project, row.name) not in known]
    document = write(results, missing, setting.description())
    (options.output / "REAL.md").write_text(document)
    if options.document:
        DOCUMENT.write_text(document)
        draw(results, DOCUMENT.with_name("real.svg"))
        readme = README.read_text()
        before, _, after = re.split(r"(?s)((?<=<!-- of docs/REAL.md -->\n).*?(?=<!-- end -->))", readme)
        README.write_text(before + readme_table(results) + after)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows share."""

    model: Path
    tokens: Path
    text: Path
    data_dir: Path | None
    windows: int
    limit: int
    output: Path
    calibration: str
    samples: int
    seq_len: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> Setting:
        """Returns the setting; makes the calibration tokens the first time."""
        from compress.models.folder.locate import locate

        model = locate(options.model)
        tokens = options.output / f"tokens-{options.samples}x{options.seq_len}.safetensors"
        if not tokens.exists():
            _write_tokens(model, options, tokens)
        text = options.text or _hub_text(options.output / "wikitext2-test.raw")
        return cls(model, tokens, text, options.data_dir, options.windows, options.limit, options.output,
                   options.calibration, options.samples, options.seq_len)  # fmt: skip

    def description(self) -> dict[str, Any]:
        """Returns what the document says of the setting."""
        return {key: getattr(self, key) for key in ("windows", "calibration", "samples", "seq_len", "limit")}

    def result(self, row: Row, *, make: bool) -> dict[str, Any] | None:
        """Returns the row's figures: those kept, or made now; None if there are none and none are to be made."""
        folder = self.output / row.slug
        kept = folder / "result.json"
        if not make:
            return json.loads(kept.read_text()) if kept.exists() else None
        print(row.slug, flush=True)
        readable = folder / ("stored" if row.script is None else "dense")
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            made = self._make(row, folder)
            if "failed" not in made:
                counted = folder / "stored"
                if row.to is not None:
                    counted = compress.export(counted, row.to, folder / row.to)
                made |= _stored_size(counted) | self._measured(readable)
            kept.write_text(json.dumps(made, indent=1))
        figures: dict[str, Any] = json.loads(kept.read_text())
        if self.data_dir is not None and "knowledge" not in figures and readable.is_dir():
            figures["knowledge"] = self._known(readable)
            kept.write_text(json.dumps(figures, indent=1))
        shutil.rmtree(folder / "dense", ignore_errors=True)
        return figures

    def _make(self, row: Row, folder: Path) -> dict[str, Any]:
        """Runs the row's maker in its own process; returns its CPU seconds and peak memory, or why it failed."""
        if row.script is None:
            flags = [
                text for name, value in row.options.items() for text in (f"--{name.replace('_', '-')}", str(value))
            ]
            command = [sys.executable, "-m", "compress", "run", "--model", str(self.model), *flags,
                       "--calibration", str(self.tokens), "--samples", str(self.samples), "--seq-len",
                       str(self.seq_len), "--no-eval", "-o", str(folder / "stored")]  # fmt: skip
        else:
            assert row.environment is not None
            options = {**row.options, **(self._engine() if row.environment == "llama.cpp" else {})}
            python = python_of(self.output / "environments", row.environment, ENVIRONMENTS[row.environment])
            command = [str(python), str(HERE / row.script), str(self.model), str(self.tokens), str(folder),
                       json.dumps(options)]  # fmt: skip
        with (folder / "log.txt").open("w") as log:
            workers = {"GPTQMODEL_CPU_WORKERS": "2"}  # GPTQModel's own choice fails on two cores
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **workers})
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            last = (folder / "log.txt").read_text().strip().splitlines()[-1:]
            return {"failed": (last or ["no reason given"])[0]}
        return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_bytes": usage.ru_maxrss * 1024}

    def _measured(self, folder: Path) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "measure.py"), str(self.model), str(folder), str(self.text),
                   str(self.output / "reference"), "--windows", str(self.windows)]  # fmt: skip
        return _printed(command)

    def _known(self, folder: Path) -> dict[str, Any]:
        command = [sys.executable, str(HERE / "knowledge.py"), str(self.model), str(folder), str(self.data_dir),
                   str(self.output / "reference"), "--limit", str(self.limit)]  # fmt: skip
        return _printed(command)

    def add_speed(self, results: list[dict[str, Any]], chosen: set[str]) -> None:
        """Measures tokens per second of the chosen rows with kernels for the CPU, and keeps them with their figures."""
        runnable = [row.slug for row in ROWS if row.script is None or row.environment == "llama.cpp"]
        folders = {slug: self.output / slug / "stored" for slug in runnable if slug in chosen}
        folders = {slug: folder for slug, folder in folders.items() if folder.is_dir()}
        engine = python_of(self.output / "environments", "llama.cpp", ENVIRONMENTS["llama.cpp"])
        speeds = speed.measure({"dense": self.model, **folders}, engine, threads=len(os.sched_getaffinity(0)))
        print(json.dumps(speeds, indent=1))
        for slug, figures in speeds.items():
            if slug != "dense":
                kept = self.output / slug / "result.json"
                kept.write_text(json.dumps(json.loads(kept.read_text()) | {"tokens_per_s": figures}, indent=1))
        for result in results:
            slug = Row(result["project"], result["name"]).slug
            if slug in speeds:
                result["tokens_per_s"] = speeds[slug]

    def _engine(self) -> dict[str, str]:
        """Returns where llama.cpp's libraries and a GGUF file of the model lie; both are downloaded the first time."""
        place = self.output / "llama.cpp"
        if not (place / "package").exists():
            place.mkdir(exist_ok=True)
            subprocess.run(["npm", "pack", ENGINE], cwd=place, check=True, capture_output=True)
            subprocess.run(["tar", "xzf", *map(str, place.glob("*.tgz"))], cwd=place, check=True)
        weights = place / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if not weights.exists():
            from compress.models.folder import smollm2

            shutil.copyfile(smollm2.weights(place), weights)
        return {"library": str(place / "package/bins/linux-x64"), "gguf": str(weights)}


def _write_tokens(model: Path, options: argparse.Namespace, target: Path) -> None:
    from safetensors.torch import save_file

    from compress.calibration.opening import open_text
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource
    from compress.progress import Silent
    from compress.recipe import CalibrationSpec

    spec = CalibrationSpec(source=options.calibration, samples=options.samples, seq_len=options.seq_len)
    work = options.output / "text"
    work.mkdir(exist_ok=True)
    text = open_text(spec, BlockWalker(ModelSource.open(str(model))), work=work)
    save_file({"tokens": text.tokens(work, Silent())}, target)


def _hub_text(target: Path) -> Path:
    if not target.exists():
        from datasets import load_dataset

        rows = load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
        target.write_text("".join(rows["text"]))
    return target


def _printed(command: list[str]) -> dict[str, Any]:
    """Runs a command; returns the JSON of the last line that it prints."""
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    printed: dict[str, Any] = json.loads(lines[-1])
    return printed


def _stored_size(folder: Path) -> dict[str, Any]:
    """Returns the size of the files with weights, and a digest of them."""
    files = sorted(path for suffix in ("*.safetensors", "*.gguf") for path in folder.glob(suffix))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return {"file_bytes": sum(path.stat().st_size for path in files), "sha256": digest.hexdigest()}


if __name__ == "__main__":
    main()
