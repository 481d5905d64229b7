"""The files of a folder of text that are read, and their order."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import TextError
from compress.texts.documents import documents_in
from compress.texts.folders import files_in
from compress.texts.rows import read_rows


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["b.jsonl", "sub/a.csv.gz", "README.md", ".git/c.json", "d.bin"], ["b.jsonl", "sub/a.csv.gz"]),
        (["b.txt", "a.md", "README.md", "LICENSE.txt"], ["a.md", "b.txt"]),
        (["data/train-00000.parquet", "data/test-00000.parquet", "other.parquet"], ["data/train-00000.parquet"]),
        (["one.json", "one_test.json", "dataset_infos.json"], ["one.json"]),
        (["test.json"], ["test.json"]),
    ],
)
def test_files_of_a_folder(tmp_path: Path, names: list[str], wanted: list[str]) -> None:
    folder = folder_of(tmp_path, *names)
    assert [str(path.relative_to(folder)) for path in files_in(folder)] == wanted


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"holds no file of text.*\.parquet.*save_to_disk"):
        files_in(folder_of(tmp_path, "model.bin", "README.md"))


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": [f"w{n}" for n in range(10)], "id": list(range(10))})
    data.select([7, 2, 5]).save_to_disk(tmp_path / "one", num_shards=2)
    files = files_in(tmp_path / "one")
    assert len(files) == 2
    assert [text for path in files for text in documents_in(read_rows(path), "one")] == ["w7", "w2", "w5"]

    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(tmp_path / "two")
    assert {path.parent.name for path in files_in(tmp_path / "two")} == {"train"}
    datasets.DatasetDict(validation=data, test=data).save_to_disk(tmp_path / "three")
    with pytest.raises(TextError, match=r"no split train; its splits are validation, test.*three/validation"):
        files_in(tmp_path / "three")
    assert {path.parent.name for path in files_in(tmp_path / "three/test")} == {"test"}


def test_a_damaged_list_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"state\.json names no shard"):
        files_in(folder_of(tmp_path, "state.json", "a.arrow"))
