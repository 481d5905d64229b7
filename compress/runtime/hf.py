"""The quantizer `compress` of transformers: AutoModelForCausalLM.from_pretrained reads our folders.

It only loads. The schemes stand in `quantization_config` of config.json, so it works from the hub, and save_pretrained
writes them again. The tensors bear the names of the modules, so transformers has nothing to convert.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compress.format import manifest
from compress.models import structure
from compress.runtime import adapters, attention, head, skeleton
from compress.runtime.experts import PackedExperts


class CompressConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a checkpoint: format version, {linear: {scheme, shape, bias}}, and its structure."""

    def __init__(
        self, format_version: int, tensors: dict[str, Any], structure: dict[str, Any] | None = None, **unknown: Any
    ):
        """Unknown fields are kept for save_pretrained; what matters raises the format version."""
        unknown.pop("quant_method", None)
        self.__dict__.update(unknown)
        self.quant_method = manifest.QUANT_METHOD
        self.format_version = format_version
        self.tensors = tensors
        self.structure = structure

    def __repr__(self) -> str:
        """Returns one line, since a model has hundreds of linears."""
        return f"CompressConfig(format_version={self.format_version}, {len(self.tensors)} packed linears)"


class CompressQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers into the skeleton before the weights arrive, and refuses a load that left one unfilled."""

    requires_calibration = True  # a dense model cannot be compressed on the fly: base class refuses it
    _has_experts = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuses newer formats and unknown layouts before anything is built."""
        manifest.check_version(self.quantization_config.format_version)
        manifest.check_tensors(self.quantization_config.tensors)

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self.quantization_config.structure:
            structure.apply(model, self.quantization_config.structure)
        skeleton.install(model, self.quantization_config.tensors)
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        skeleton.check_loaded(model)
        skeleton.keep_prepared(model)
        head.install(model)
        attention.install(model)
        self._has_experts = any(isinstance(module, PackedExperts) for module in model.modules())
        return model

    def update_weight_conversions(self, weight_conversions: Any, *model: Any) -> list[Any]:
        """No conversion at all: on disk every tensor has the name and form it has in the model."""
        return []

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """save_pretrained writes the planes as they are."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters on packed linears can be trained: gradients pass through the planes, which stay as they are."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Dense tensors (norms, embeddings, the head) can be trained. The Trainer also asks before it evaluates."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Looping over the experts that were hit depends on the data."""
        return not self._has_experts


def register() -> None:
    """Makes the quantizer known to transformers; a second call changes nothing."""
    if manifest.QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(manifest.QUANT_METHOD)(CompressConfig)
        register_quantizer(manifest.QUANT_METHOD)(CompressQuantizer)
    adapters.guard_peft()
