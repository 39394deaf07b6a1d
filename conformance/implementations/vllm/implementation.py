"""vLLM's own LoRA layers as the implementation under test, on its CPU ops or on CUDA with its Triton ops."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.engines.ranks import RankGroup
from conformance.implementations.dtypes import torch_dtype
from conformance.implementations.model_protocol import ModelDeployment, ModelManager
from conformance.implementations.protocol import Deployment, Implementation, Refused, Unavailable
from conformance.implementations.vllm import cuda as vllm_cuda
from conformance.implementations.vllm.layers import VllmLayers
from conformance.implementations.vllm.lora_calls import map_tokens, max_loras, scaled, set_lora
from conformance.implementations.vllm.manager import VllmManager
from conformance.implementations.vllm.models.server import VllmModels
from conformance.implementations.vllm.runtime import (
    add_spare_slot,
    installed_version,
    lora_config,
    needs_spare_slot,
    runtime,
)
from conformance.implementations.vllm.schemes import scheme_layer
from conformance.implementations.vllm.vocabulary import VllmVocabulary, unsupported_vocabulary
from conformance.implementations.vocabulary import VocabularyServer, VocabularyWeights
from lora_compat.adapters import LayerAdapter
from lora_compat.families import Family
from strategies.cases import DTYPES, Case, Dtype
from strategies.schemes import SchemeCase
from strategies.trees import ModelSpec
from strategies.vocabulary import VocabularyCase

_LONGEST_CHAIN = 1000
# The release that reads through LoRA layers, and chooses a warm-up rank (vllm #35077).
_UNWRAPS = (0, 20, 0)
_PACKS_BY_SLICES = (0, 32, 0)


class VllmImplementation(Implementation):
    """`from_layer`, the LoRA layers it returns, and what vLLM's manager does with them."""

    name = "vllm"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.layers = VllmLayers(device)
        self.models = VllmModels()

    @property
    def why_no_experts(self) -> str:
        """Measured on 0.33.0: what its LoRA layer needs, `add_lora_fused_moe`, is there for CUDA and XPU alone."""
        if self.device == "cuda":
            return vllm_cuda.WHY_NO_EXPERTS
        return "on a CPU its expert layer ends in an operator that the wheel lacks (`prepack_moe_weight`)"

    def identity(self) -> Mapping[str, str]:
        ops = "Triton ops" if self.device == "cuda" else "CPU ops"
        return {
            "implementation": f"vllm {installed_version()}",
            "layers": "vllm",
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}, {ops}",
        }

    def dtypes(self, device: str) -> tuple[Dtype, ...]:
        return vllm_cuda.DTYPES if device == "cuda" else DTYPES

    def unsupported(self, case: Case) -> str | None:
        if case.device != self.device:
            return f"vLLM is driven on {self.device} here, not on {case.device}"
        reason = vllm_cuda.unsupported_on_cuda(case) if self.device == "cuda" else None
        reason = reason or self.layers.unsupported(case)
        if reason is not None:
            return reason
        try:
            lora_config(case.max_loras, case.max_rank, case.fully_sharded, torch_dtype(case.dtype))
        except ValueError:
            return f"LoRAConfig does not accept max_lora_rank={case.max_rank}"
        cuts_rank = case.fully_sharded and case.layer.family not in (Family.ROW, Family.REPLICATED)
        if cuts_rank and case.max_rank % case.layer_tp_size:
            return f"fully sharded, max_lora_rank={case.max_rank} must be a multiple of TP {case.layer_tp_size}"
        return None

    def unsupported_vocabulary(self, case: VocabularyCase) -> str | None:
        """Why there is no such embedding or LM head, or None."""
        reason = vllm_cuda.unsupported_vocabulary_on_cuda(case) if self.device == "cuda" else None
        return reason or unsupported_vocabulary(case)

    def vocabulary(self, case: VocabularyCase, weights: VocabularyWeights, group: RankGroup) -> VocabularyServer:
        """An embedding or LM head with its adapters, on one rank."""
        return VllmVocabulary(case, weights, group, self.layers)

    def wrap(self, layer: nn.Module, deployment: Deployment) -> nn.Module | None:
        wrapped = runtime().lora_utils.from_layer(
            layer, deployment.max_loras, _config_of(deployment), deployment.packed_names, None
        )
        if wrapped is layer:
            return None
        vllm_cuda.forget_addresses()
        wrapped.packed_names = deployment.packed_names
        if needs_spare_slot():
            add_spare_slot(wrapped)
        return wrapped  # type: ignore[no-any-return]

    def load(self, wrapped: nn.Module, slot: int, adapter: LayerAdapter) -> None:
        """As the manager activates an adapter: a tensor for a module named alone, lists for packed members.

        Raises:
            Refused: vLLM says that it cannot place the members.
        """
        lora_a = [None if part is None else part.lora_a for part in adapter.parts]
        lora_b = [None if part is None else scaled(part.lora_b, adapter.scaling) for part in adapter.parts]
        set_lora(wrapped, slot, lora_a, lora_b)

    def reset(self, wrapped: nn.Module, slot: int) -> None:
        wrapped.reset_lora(slot)  # type: ignore[operator]

    def select(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        """Maps tokens to slots; bug K1 (before 0.33.0) is kept out, so that it does not drown everything else."""
        map_tokens(wrapped, [slot + 1 for slot in slots])

    def select_as_is(self, wrapped: nn.Module, slots: tuple[int, ...]) -> None:
        """Like `select`, with bug K1: before 0.33.0 a token without an adapter gets the last slot's (MATH-3)."""
        last = max_loras(wrapped) if needs_spare_slot() else 0
        map_tokens(wrapped, [slot + 1 if slot >= 0 else last for slot in slots])

    def quant_method_of(self, module: nn.Module) -> object:
        """Descends as vLLM's one accessor does (`get_and_maybe_dequant_weights`), and reads the attribute."""
        found: Any = module
        if runtime().release >= _UNWRAPS:
            steps = 0
            while hasattr(found, "base_layer") and hasattr(found.base_layer, "quant_method"):
                found = found.base_layer
                steps += 1
                if steps > _LONGEST_CHAIN:
                    raise RecursionError("vLLM's search for the quant method does not end")
        return found.quant_method

    def dense_weight(self, module: nn.Module) -> Tensor:
        dense: Tensor = runtime().quant_utils.get_and_maybe_dequant_weights(module, out_dtype=torch.float32)
        return dense.detach()

    def warmup_rank(self, *, default: int, max_lora_rank: int, shards: tuple[int, ...]) -> int:
        """The manager's choice for modules that say they cut the rank; in vLLM only its fused MoE layers do."""
        choose = getattr(runtime().model_manager.LoRAModelManager, "get_dummy_lora_warmup_rank", None)
        if choose is None:
            return default  # 0.19.1 has no choice to make
        modules = {str(i): SimpleNamespace(tp_size=cut, fully_sharded=cut > 1) for i, cut in enumerate(shards)}
        config = SimpleNamespace(fully_sharded_loras=True, max_lora_rank=max_lora_rank)
        try:
            rank: int = choose(SimpleNamespace(lora_config=config, modules=modules), default)
        except ValueError as error:
            raise Refused(str(error)) from error
        return rank

    def load_dummy(self, wrapped: nn.Module, slot: int, rank: int) -> None:
        """As `create_dummy_lora` of the manager, whose B (and row-parallel A) has the sizes of one rank."""
        layer: Any = wrapped
        count = len(layer.packed_names) if len(layer.packed_names) > 1 else 1
        if count > 1 and runtime().release >= _PACKS_BY_SLICES:
            count = layer.n_slices
        make = runtime().lora_weights.LoRALayerWeights.create_dummy_lora_weights
        parts = [
            make("dummy", a.shape[-1], b.shape[-2], rank, a.dtype, "cpu")
            for a, b in [(layer.lora_a_stacked[i], layer.lora_b_stacked[i]) for i in range(count)]
        ]
        set_lora(wrapped, slot, [part.lora_a for part in parts], [part.lora_b for part in parts])

    def claimants(self, layer: nn.Module, deployment: Deployment) -> tuple[str, ...]:
        config = _config_of(deployment)
        return tuple(
            sorted(
                cls.__name__
                for cls in runtime().lora_utils._all_lora_classes
                if cls.can_replace_layer(
                    source_layer=layer,
                    lora_config=config,
                    packed_modules_list=deployment.packed_names,
                    model_config=None,
                )
            )
        )

    def scheme_outputs(
        self, case: SchemeCase, deployment: Deployment, adapter: LayerAdapter, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a layer of one of vLLM's own schemes gives, bare and with the adapter in slot 0.

        Raises:
            Unavailable: the scheme cannot run on this device.
        """
        if self.device != "cpu":
            raise Unavailable("it is driven on a CPU only")
        with self.layers.ranked(RankGroup(0, 1, lambda rank, issued, tensor: [tensor])):
            layer = scheme_layer(case, x.dtype)
            bare = layer(x).clone()
            wrapped = self.wrap(layer, deployment)
            if wrapped is None:
                raise Refused("a column layer of its own scheme was left unwrapped")
            self.load(wrapped, 0, adapter)
            self.select(wrapped, case.tokens)
            return bare, wrapped(x)

    def unsupported_model(self, model: ModelSpec, deployment: ModelDeployment) -> str | None:
        if deployment.dtype not in map(torch_dtype, self.dtypes(self.device)):
            return f"vLLM's Triton ops take float16 and bfloat16, not {deployment.dtype}"
        if model.tower:
            return "towers of their own are for its multimodal models, which are not driven here"
        try:
            lora_config(deployment.max_loras, deployment.max_lora_rank, deployment.fully_sharded, deployment.dtype)
        except ValueError:
            return f"its LoRAConfig takes no max_lora_rank of {deployment.max_lora_rank}"
        for module in model.linears if deployment.fully_sharded else ():
            if module.layer.family is Family.ROW and module.layer.output_sizes[0] % model.tp_size:
                return "fully sharded, the outputs of a row-parallel layer must be a multiple of the TP size"
        return None

    def manager(self, model: nn.Module, deployment: ModelDeployment) -> ModelManager:
        return VllmManager(model, deployment)


def _config_of(deployment: Deployment) -> Any:
    return lora_config(deployment.max_loras, deployment.max_lora_rank, deployment.fully_sharded, deployment.dtype)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
