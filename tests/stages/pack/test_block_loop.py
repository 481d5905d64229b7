"""The block loop's resume state; what it writes is compared with streaming in test_streaming.py."""

import pytest
import torch
from safetensors.torch import save_file

from compress.errors import OutputError
from compress.stages.pack import block_loop


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda content: b"{", lambda content: b""])
def test_damaged_inputs_of_a_block_are_an_error(damage, tmp_path):
    path = tmp_path / "hidden-001.safetensors"
    save_file({"hidden": torch.ones(2, 3, 4)}, path)
    assert torch.equal(block_loop._load_hidden(path), torch.ones(2, 3, 4))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(OutputError, match=r"hidden-001.*damaged.*--fresh"):
        block_loop._load_hidden(path)
    save_file({"other": torch.ones(1)}, path)
    with pytest.raises(OutputError, match="damaged"):
        block_loop._load_hidden(path)
