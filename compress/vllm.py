"""Lets vLLM serve a checkpoint of this package: weights are decoded while they are loaded. Experimental.

vLLM finds `register` by the entry point `vllm.general_plugins`, once both packages are installed:

    vllm serve FOLDER --load-format compress

The model then takes the memory, and has the speed, of the dense one. An export (`compress export`) keeps it packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NAME = "compress"
"""Value of `quant_method` in config.json, and of `--load-format`."""


def decoded_weights(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every tensor of a checkpoint under its name on the hub, one block at a time; what was packed, in float32.

    Raises:
        FormatError: the folder is damaged or unfinished.
    """
    from compress.exports import hub_folder, plan

    decoded = plan.make(folder, "dense", allow_dense=True, dense_dtype="float32")
    decoded.checkpoint.verify()
    for names in hub_folder.groups(decoded):
        yield from hub_folder.dense_tensors(decoded, names).items()


def register() -> None:
    """Teaches vLLM the `quant_method` and the load format. Called by vLLM in each of its processes."""
    import torch
    from vllm.config import get_current_vllm_config
    from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
    from vllm.model_executor.layers.quantization import register_quantization_config
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    @register_quantization_config(NAME)
    class Config(QuantizationConfig):  # type: ignore[misc]
        """Every layer is computed dense."""

        def get_name(self) -> str:
            return NAME

        def get_supported_act_dtypes(self) -> list[torch.dtype]:
            return [torch.float32, torch.bfloat16, torch.float16]

        @classmethod
        def get_min_capability(cls) -> int:
            return 0

        @staticmethod
        def get_config_filenames() -> list[str]:
            return []

        @classmethod
        def from_config(cls, config: dict[str, Any]) -> Config:
            return cls()

        def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
            if get_current_vllm_config().load_config.load_format != NAME:
                raise ValueError(
                    f"the weights of this folder are packed by compress: give --load-format {NAME}, "
                    "or serve an export of it (compress export --to compressed-tensors)"
                )
            return UnquantizedLinearMethod() if isinstance(layer, LinearBase) else None

    @register_model_loader(NAME)
    class Loader(DefaultModelLoader):  # type: ignore[misc]
        """Gives vLLM the decoded weights in place of what the files hold."""

        def get_all_weights(self, model_config: Any, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
            return decoded_weights(_local(model_config.model, model_config.revision))

        def download_model(self, model_config: Any) -> None:
            _local(model_config.model, model_config.revision)


def _local(model: str, revision: str | None) -> Path:
    """Returns the folder of a model that may be on the hub."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision))
