"""Registers the quantizer `compress` with transformers, so that AutoModelForCausalLM.from_pretrained reads our folders.

It only loads; it cannot compress. The schemes are in `quantization_config` of config.json, so loading from the hub
works and save_pretrained writes them again. Tensors have the names of the modules, so transformers converts nothing.
"""

from __future__ import annotations

from typing import Any

from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from compress.format import manifest, scheme_table
from compress.models import structure
from compress.models.walking import kv_cache
from compress.runtime import adapters, attention, head, skeleton
from compress.runtime.experts import PackedExperts


class CompressConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """The `quantization_config` of a checkpoint: format version, {linear: {scheme, shape, bias}}, and structure."""

    def __init__(
        self,
        format_version: int,
        tensors: list[Any] | dict[str, Any],
        structure: dict[str, Any] | None = None,
        kv_cache: dict[str, Any] | None = None,
        **unknown: Any,
    ):
        """Keeps unknown fields for save_pretrained; a change that readers must know raises the format version.

        `tensors` are groups of `format.scheme_table`; up to format version 1 entries by name.
        """
        unknown.pop("quant_method", None)
        self.__dict__.update(unknown)
        self.quant_method = manifest.QUANT_METHOD
        self.format_version = format_version
        self.tensors: dict[str, Any] = scheme_table.expand(tensors) if isinstance(tensors, list) else tensors
        self.structure = structure
        if kv_cache is not None:
            self.kv_cache = kv_cache

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, as save_pretrained writes it."""
        data: dict[str, Any] = super().to_dict()
        return data | {
            "format_version": manifest.version_of(self.tensors, self.kv_scales),
            "tensors": scheme_table.shorten(self.tensors),
        }

    @property
    def kv_scales(self) -> dict[str, Any]:
        """Scales of keys and values by attention module, where they are rounded."""
        return dict(self.__dict__.get("kv_cache", {}).get("scales", {}))

    def __repr__(self) -> str:
        """Returns one line, since a model has hundreds of linears."""
        return f"CompressConfig(format_version={self.format_version}, {len(self.tensors)} packed linears)"


class CompressQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts packed layers into the skeleton before the weights are loaded, and checks afterwards that all are filled."""

    requires_calibration = True  # a dense model cannot be compressed on the fly: base class refuses it
    _has_experts = False

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises FormatError for a newer format version or an unknown layout, before the model is built."""
        manifest.check_version(self.quantization_config.format_version)
        manifest.check_tensors(self.quantization_config.tensors)
        manifest.check_kv_cache(self.quantization_config.__dict__.get("kv_cache"))

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
        prefix = f"{model.base_model_prefix}." if not hasattr(model, model.base_model_prefix) else ""
        scales = self.quantization_config.kv_scales.items()
        kv_cache.round_in(model, {name.removeprefix(prefix): pair for name, pair in scales})
        self._has_experts = any(isinstance(module, PackedExperts) for module in model.modules())
        return model

    def update_weight_conversions(self, weight_conversions: Any, *model: Any) -> list[Any]:
        """Returns no conversions: tensors on disk have the same names and shapes as in the model."""
        return []

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        """Returns True: save_pretrained writes the planes unchanged."""
        return True

    @property
    def is_trainable(self) -> bool:
        """True: adapters on packed linears can be trained. Gradients reach the input; the planes stay constant."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """True: dense tensors (norms, embeddings, the head) can be trained. The Trainer needs it to evaluate, too."""
        return True

    @property
    def is_compileable(self) -> bool:
        """False for a model with packed experts: their loop over the chosen experts depends on the data."""
        return not self._has_experts


def register() -> None:
    """Registers the quantizer with transformers. Idempotent."""
    if manifest.QUANT_METHOD not in AUTO_QUANTIZER_MAPPING:
        register_quantization_config(manifest.QUANT_METHOD)(CompressConfig)
        register_quantizer(manifest.QUANT_METHOD)(CompressQuantizer)
    adapters.guard_peft()
