"""Lists the tensors of a model folder with their files. Checks headers and index; reads no tensor data.

The files are those that transformers would load, so that both read the same model.
"""

from __future__ import annotations

from pathlib import Path

from compress.errors import ModelError
from compress.format.manifest import INDEX
from compress.json_files import read_object
from compress.models.folder.other_kinds import PICKLES
from compress.models.folder.safetensors_header import TensorEntry, read_header

SINGLE = "model.safetensors"


def list_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Returns every tensor of the checkpoint in `folder`.

    Raises:
        ModelError: no safetensors weights, a shard missing, truncated or malformed, an index that names files outside
            the folder or tensors that its files do not hold, or two sets of weights in one folder.
    """
    weight_map = _weight_map(folder)
    files = sorted(set(weight_map.values())) if weight_map else [_single_file(folder)]
    tensors: dict[str, TensorEntry] = {}
    for file in files:
        if not (folder / file).is_file():
            raise ModelError(f"shard {file} is missing", do=f"Download it again into {folder}")
        header = read_header(folder / file)
        for name, entry in header.items():
            if weight_map.get(name, file) != file:
                continue  # the index prefers the copy in another shard
            if name in tensors:
                raise ModelError(f"tensor {name} is in {tensors[name].file} and in {file}", do="Save the model again")
            tensors[name] = entry
    for name, file in weight_map.items():
        if name not in tensors:
            raise ModelError(f"the index promises tensor {name} in {file}, but it is not there", do="Download it again")
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    """Tensor name to file name from the index; empty without an index."""
    path = folder / INDEX
    if not path.is_file():
        return {}
    weight_map = read_object(path, error=ModelError, do="Download the index again").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise ModelError(f"{INDEX} has no usable weight_map", do="Download the index again")
    files = sorted(set(weight_map.values()))
    for file in files:
        if Path(file).name != file or "\\" in file or file in ("", ".", "..") or not file.endswith(".safetensors"):
            raise ModelError(
                f"{INDEX} names the file {file!r}",
                allowed="plain names of .safetensors files in the model's own folder",
                do="Do not use this checkpoint unless you know who made it",
            )
    if (folder / SINGLE).is_file() and files != [SINGLE]:
        raise ModelError(
            f"{folder} holds the weights twice: {SINGLE}, and the shards of {INDEX}",
            do="Remove the set that is out of date",
        )
    return weight_map


def _single_file(folder: Path) -> str:
    if (folder / SINGLE).is_file():
        return SINGLE
    found = sorted(path.name for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))
    if len(found) == 1:
        # transformers loads no other name, so the dense model could not be evaluated
        raise ModelError(f"{folder} holds its weights as {found[0]}", allowed=SINGLE, do=f"Rename it to {SINGLE}")
    if found:
        raise ModelError(f"{folder} holds {len(found)} safetensors files but no {INDEX}", do="Download the index too")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is opened",
            allowed="safetensors",
            do="Convert it once in an isolated environment: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder) writes safetensors",
        )
    raise ModelError(
        f"{folder} holds no weights",
        allowed=f"{SINGLE}, or shards with their index",
        do="For a model on the hub, weights in other formats (.bin, .gguf, …) are not downloaded",
    )
