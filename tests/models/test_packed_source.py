"""A checkpoint of ours as a source: what the walker computes with it is what the loaded model computes."""

import pytest
import torch

import compress
from compress.errors import ModelError
from compress.format.manifest import fingerprint
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.runtime import load, proof
from tests.support.models import save_tiny

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


@pytest.fixture(params=["llama", "gpt2", "mixtral", "phi3"])
def packed(request, tmp_path):
    save_tiny(tmp_path / "dense", request.param)
    return compress.run(str(tmp_path / "dense"), "rtn", bits=5, suite="none", output=tmp_path / "packed").checkpoint


def test_it_is_walked_like_the_model_it_means(packed):
    source = ModelSource.open(packed)
    walker = BlockWalker(source)
    tokens = torch.arange(12)[None] % walker.vocab_size
    hidden = walker.embed(tokens)
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        hidden = walker.forward(block, hidden, micro_batch=1)
        walker.free_block(block)
    with torch.inference_mode():
        expected = load(packed, dtype=torch.float32)(tokens, use_cache=False).logits
    # the loaded model sums in the order of its kernel, the walker in that of a dense product: as the proof of load
    error = (walker.logits(hidden) - expected).abs().max() / expected.abs().max()
    assert error <= proof.TOLERANCE


def test_what_it_says_of_itself(packed):
    source = ModelSource.open(packed)
    dense = ModelSource.open(packed.parent / "dense")
    assert source.fingerprint == fingerprint(packed) != dense.fingerprint
    assert source.parameters == dense.parameters and source.size_bytes < dense.size_bytes
    assert source.structure is None and "quantization_config" not in source.raw_config
    ref = BlockWalker(source).linears(0)[0]
    part = source.part(ref.name)
    assert part is not None and part.shape == ref.shape
    assert source.part("no.such.linear") is None and dense.part(ref.name) is None
    assert ref.parameter in source.unpacked and not dense.unpacked


def test_a_damaged_one_is_refused(packed):
    (shard,) = packed.glob("model-*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(ModelError, match="model-00001"):
        ModelSource.open(packed)
