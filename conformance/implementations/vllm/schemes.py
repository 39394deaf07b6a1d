"""vLLM's own quantization schemes, built as a checkpoint's configuration asks for; which run is found by trying.

On 0.33.0, the ordinary wheel and a CPU three of twelve do (`docs/engines.md`); the others end in operators that the
wheel does not have, or find no kernel.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from conformance.implementations.dtypes import default_dtype
from conformance.implementations.protocol import Unavailable
from conformance.implementations.vllm import fp8 as vllm_fp8
from conformance.implementations.vllm.runtime import runtime
from strategies.schemes import Scheme, SchemeCase

_QUANTIZATION = "vllm.model_executor.layers.quantization."
_FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
_INT = {"type": "int", "symmetric": True, "dynamic": False}
_INT8 = {**_INT, "num_bits": 8}
_PER_TOKEN = {"strategy": "token", "dynamic": True}
_QUARK = {"dtype": "fp8_e4m3", "qscheme": "per_channel", "symmetric": None}
_LONGEST_REASON = 160


def _compressed(format_: str, weights: Mapping[str, Any], activations: Mapping[str, Any] | None) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": activations}
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "ignore": [],
        "config_groups": {"group_0": group},
    }


def _fp8(strategy: str, activations: Mapping[str, Any] | None, **more: Any) -> dict[str, Any]:
    given = {**_FP8, **activations} if activations else None
    return _compressed("float-quantized", {**_FP8, "strategy": strategy, **more}, given)


def _by_quark() -> dict[str, Any]:
    tensors = {
        "weight": {**_QUARK, "is_dynamic": False, "ch_axis": 0},
        "input_tensors": {**_QUARK, "is_dynamic": True, "ch_axis": 1},
        "output_tensors": None,
        "bias": None,
    }
    rest: dict[str, Any] = {"layer_type_quant_config": {}, "layer_quant_config": {}, "exclude": []}
    return {"export": {"kv_cache_group": [], "pack_method": "reorder"}, "global_quant_config": tensors, **rest}


_COMPRESSED = ("compressed_tensors.compressed_tensors", "CompressedTensorsConfig")
_DYNAMIC = {"quant_method": "fp8", "activation_scheme": "dynamic"}
_4_BIT = {"bits": 4, "w_bit": 4, "group_size": 32, "q_group_size": 32}
# The module, the configuration class, and the checkpoint's ``quantization_config``.
_CONFIGS: Mapping[Scheme, tuple[tuple[str, str], dict[str, Any]]] = {
    Scheme.FP8_CHANNEL_TOKEN: (_COMPRESSED, _fp8("channel", _PER_TOKEN)),
    Scheme.QUARK_FP8: (("quark.quark", "QuarkConfig"), _by_quark()),
    Scheme.MODELOPT_FP8: (("modelopt", "ModelOptFp8Config"), {"quantization": {"quant_algo": "FP8"}}),
    Scheme.FP8_STATIC: (_COMPRESSED, _fp8("tensor", {"strategy": "tensor"})),
    Scheme.FP8_BLOCK: (
        _COMPRESSED,
        _fp8("block", {"strategy": "group", "group_size": 128, "dynamic": True}, block_structure=[128, 128]),
    ),
    Scheme.FP8_WEIGHT_ONLY: (_COMPRESSED, _fp8("channel", None)),
    Scheme.INT8: (
        _COMPRESSED,
        _compressed(
            "int-quantized", {**_INT, "num_bits": 8, "strategy": "channel"}, {**_INT, "num_bits": 8} | _PER_TOKEN
        ),
    ),
    Scheme.INT4_PACKED: (
        _COMPRESSED,
        _compressed("pack-quantized", {**_INT, "num_bits": 4, "strategy": "group", "group_size": 32}, None),
    ),
    Scheme.CHECKPOINT_FP8: (("fp8", "Fp8Config"), _DYNAMIC),
    Scheme.CHECKPOINT_FP8_BLOCK: (("fp8", "Fp8Config"), {**_DYNAMIC, "weight_block_size": [128, 128]}),
    Scheme.GPTQ: (("auto_gptq", "AutoGPTQConfig"), {**_4_BIT, "quant_method": "gptq", "desc_act": False, "sym": True}),
    Scheme.AWQ: (("auto_awq", "AutoAWQConfig"), {**_4_BIT, "quant_method": "awq", "zero_point": True}),
}


# An operator; a kernel; the table of kernels of a platform, and Triton's stand-in (0.19.1 and 0.20.0).
_MISSING = ("_OpNamespace", "find a kernel", "PlatformEnum", "module 'triton'")


def scheme_layer(case: SchemeCase, dtype: torch.dtype) -> nn.Module:
    """A layer of vLLM's with the case's scheme, weights of -1, 0 and 1, finished; it has run once.

    Raises:
        Unavailable: it cannot be built, finished or run here.
    """
    (module, name), checkpoint = _CONFIGS[case.scheme]
    try:
        config = getattr(importlib.import_module(_QUANTIZATION + module), name).from_config(checkpoint)
        with default_dtype(dtype), vllm_fp8.served_in_default_dtype():
            layer: Any = runtime().linear.ColumnParallelLinear(
                case.columns, case.rows, bias=False, return_bias=False, quant_config=config, prefix="fc"
            )
        _fill(layer, case.seed)
        layer.quant_method.process_weights_after_loading(layer)
        layer(torch.zeros(1, case.columns, dtype=dtype))
    except Exception as error:
        if not _says_that_something_is_missing(error):
            raise
        raise Unavailable(" ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]) from error
    return layer  # type: ignore[no-any-return]


def _fill(layer: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in layer.named_parameters():
        values = torch.ones(parameter.shape)
        if "weight" in name and "scale" not in name:
            values = torch.randint(-1, 2, parameter.shape, generator=generator).float()
        parameter.data.copy_(values.to(parameter.dtype))


def _says_that_something_is_missing(error: Exception) -> bool:
    """A module, an operator, a kernel, kernels of this platform; anything else is a fault."""
    missing = isinstance(error, (ImportError, NotImplementedError))
    return missing or any(word in str(error) for word in _MISSING)
