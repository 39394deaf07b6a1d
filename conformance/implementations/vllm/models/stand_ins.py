"""What stands in for parts that are not there, so that models can be built; none of them is what is judged."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from conformance.implementations.vllm.models import compiled

# Each is said in the report: what is missing, and what is there instead.
STAND_INS = {
    "sparse attention": "vLLM's dense latent attention of a CPU, which is built and not run",
    "FlashAttention of towers": "the same on a CPU, which is built and not run",
    "attention to the chunk before": "a CPU's attention, which is built and not run",
    "attention of small heads on a GPU": "vLLM's Triton backend, which is built and not run",
    "compiled activations, where a GPU's vLLM lacks them": "their names, which are looked up and not called",
    "the compiled lookup of a sharded embedding, likewise": "the same function by torch",
    "moe_align_block_size, moe_lora_align_block_size and moe_sum, likewise": "the same functions by torch",
    "the compiled question for a GPU's shared memory, likewise": "torch's answer",
    "the activation of experts on a GPU, and the choice of experts": "unit vectors to each of both products, and "
    "every expert in each place of a token",
    "experts without a gate": "vLLM's fused experts, whose weights are compared and which are not run",
    "the flash attention that Qwen4Exp asks for on a CPU": "the answer that it is there, as it is built and not run",
    "quick GELU": "the same function by torch",
    "the processor of images and sounds, whose checkpoint files are not made": "room for as many tokens as are read, "
    "which is all that LoRA on towers asks of it, and the names of the parts that transformers' class has, and "
    "every modality of its class",
    "the tokenizer, likewise": "numbers for the tokens that models ask for while they are built",
    "towers whose sizes are written in a model's code": "the same layers with small numbers, one of each kind",
    "compiled functions": "the same functions, as they are written",
    "Triton's allocator": "nothing, as no Triton kernel runs",
    "Inkling's fused all-reduce": "switched off by INKLING_MULTIMEM_AR=0, as vLLM asks of those who use LoRA",
}


@functools.cache
def put_in_place(device: str) -> None:
    """Once in a process, after vLLM was imported."""
    os.environ.setdefault("INKLING_MULTIMEM_AR", "0")
    _experts_without_gate()
    _quick_gelu(device)
    _room_of_towers()
    _all_modalities()
    _processor_of_named_parts()
    _transformers_as_it_is()
    torch.compiler.set_stance("force_eager")
    if device == "cpu":
        _dense_for_sparse()
        _flash_attention_of_towers()
        _attention_without_looking_back()
        _flash_attention_is_there()
        importlib.import_module("vllm.triton_utils").triton.set_allocator = lambda allocator: None
    else:
        _attention_of_any_head()
        _names_of_activations()
        _sharded_lookup()
        compiled.put_in_place()


def _dense_for_sparse() -> None:
    platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform
    choose = platform.get_attn_backend_cls.__func__

    def chosen(cls: Any, /, selected: Any, attn_selector_config: Any, **others: Any) -> str:
        dense = attn_selector_config._replace(use_sparse=False)
        return choose(cls, selected, attn_selector_config=dense, **others)  # type: ignore[no-any-return]

    platform.get_attn_backend_cls = classmethod(chosen)


def _flash_attention_of_towers() -> None:
    platform = importlib.import_module("vllm.platforms.cpu").CpuPlatform
    backends = importlib.import_module("vllm.v1.attention.backends.registry").AttentionBackendEnum
    of_a_cpu = platform.get_supported_vit_attn_backends
    platform.get_supported_vit_attn_backends = classmethod(lambda cls: [*of_a_cpu(), backends.FLASH_ATTN])


def _attention_without_looking_back() -> None:
    attention: Any = importlib.import_module("vllm.v1.attention.backends.cpu_attn").CPUAttentionBackendImpl
    made = attention.__init__

    def without(self: Any, *given: Any, chunk_lookback: int = -1, **named: Any) -> None:
        made(self, *given, **named)

    attention.__init__ = without


def _flash_attention_is_there() -> None:
    importlib.import_module("vllm.v1.attention.backends.flash_attn")  # which takes its functions where they are
    asking = ("vllm.v1.attention.backends.fa_utils", "vllm.models.qwen4_exp.nvidia.qsa")
    for name in asking[: 1 + (asking[1] in sys.modules)]:
        module: Any = importlib.import_module(name)
        module.is_flash_attn_varlen_func_available = lambda: True


def _attention_of_any_head() -> None:
    """Small models have heads that no backend of a GPU takes."""
    backends = importlib.import_module("vllm.v1.attention.backends.registry").AttentionBackendEnum

    def chosen(cls: Any, /, selected: Any, attn_selector_config: Any, **others: Any) -> str:
        latent = attn_selector_config.use_mla
        return (backends.TRITON_MLA if latent else backends.TRITON_ATTN).get_path()  # type: ignore[no-any-return]

    platform = importlib.import_module("vllm.platforms.cuda").CudaPlatform
    platform.get_attn_backend_cls = classmethod(chosen)
    prefill: Any = importlib.import_module("vllm.v1.attention.backends.mla.prefill.registry")
    platform.get_mla_prefill_backend_cls = classmethod(
        lambda cls, mla_selector_config: prefill.MLAPrefillBackendEnum.FLASH_ATTN.get_class()
    )


_ACTIVATIONS = (
    *("silu_and_mul", "mul_and_silu", "gelu_and_mul", "gelu_tanh_and_mul", "gelu_tanh", "gelu_new", "gelu_fast"),
    *("relu_squared", "relu2_no_mul", "fatrelu_and_mul", "situ_and_mul", "silu_and_mul_with_clamp"),
)


def _names_of_activations() -> None:
    library: Any = importlib.import_module("torch.library").Library("_C", "FRAGMENT")
    for name in _ACTIVATIONS:
        if not hasattr(torch.ops._C, name):
            library.define(f"{name}(Tensor! out, Tensor input) -> ()")
    _kept.append(library)


def _sharded_lookup() -> None:
    operators: Any = importlib.import_module("vllm._custom_ops")
    if not hasattr(torch.ops._C, "vocab_parallel_embedding"):
        operators.vocab_parallel_embedding = looked_up


def looked_up(ids: Tensor, weight: Tensor, start: int, end: int, padding: int, added: int, last: int) -> Tensor:
    """A rank's rows: of ids ``start`` to ``end`` and, after ``padding``, ``added`` to ``last``; zeros of others."""
    own, extra = (start <= ids) & (ids < end), (added <= ids) & (ids < last)
    row = torch.where(own, ids - start, ids - added + end - start + padding)
    found: Tensor = weight[torch.where(own | extra, row, 0)]
    return found * (own | extra).unsqueeze(-1)


def _experts_without_gate() -> None:
    config = importlib.import_module("vllm.model_executor.layers.fused_moe.config").FusedMoEConfig
    check = config.__post_init__

    def checked(self: Any) -> None:
        try:
            check(self)
        except NotImplementedError as error:  # the last thing that is looked at
            if "is_act_and_mul" not in str(error):
                raise

    config.__post_init__ = checked


class RoomOfTowers:
    """What LoRA on towers asks vLLM's budget of images and sounds: how many at once, and of how many tokens."""

    def __init__(self, vllm_config: Any, mm_registry: object) -> None:
        config, limits = vllm_config.model_config.hf_config, vllm_config.model_config.multimodal_config
        self._tokens: int = vllm_config.scheduler_config.max_num_batched_tokens
        modalities = {"image": "vision_config", "audio": "audio_config"}
        self.mm_max_toks_per_item = {
            modality: self._tokens
            for modality, name in modalities.items()
            if _has(config, name) and limits.get_limit_per_prompt(modality)
        }
        self.mm_max_items_per_prompt = dict.fromkeys(self.mm_max_toks_per_item, 1)

    def get_encoder_budget(self) -> int:
        return self._tokens


def _has(config: Any, name: str) -> bool:
    """Whether a configuration, or one in it, has one of that name; a model of several models has them further down."""
    inner = [one for one in vars(config).values() if hasattr(one, "to_dict")]
    return getattr(config, name, None) is not None or any(_has(one, name) for one in inner)


def _room_of_towers() -> None:
    manager: Any = importlib.import_module("vllm.lora.model_manager")
    if hasattr(manager, "MultiModalBudget"):
        manager.MultiModalBudget = RoomOfTowers


def _all_modalities() -> None:
    """A model takes what its class says, where a processor that is not there would be asked."""
    config: Any = importlib.import_module("vllm.config.model").ModelConfig
    asked = config._supports_multimodal_inputs

    def supports(self: Any) -> bool:
        try:
            return asked(self)  # type: ignore[no-any-return]
        except (ValueError, OSError, AttributeError, TypeError):
            return True

    config._supports_multimodal_inputs = supports


def _processor_of_named_parts() -> None:
    """Which of images, films and sounds a model takes is asked of its processor; of ours there is no more to see."""
    context = importlib.import_module("vllm.multimodal.processing.context").InputProcessingContext
    known: Any = importlib.import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING
    base = importlib.import_module("transformers.processing_utils").ProcessorMixin

    def named(self: Any, cls: Any = base, /, **how: object) -> SimpleNamespace:
        asked = known[type(self.get_hf_config())] if cls is base else cls
        return SimpleNamespace(**dict.fromkeys(asked.get_attributes(), SimpleNamespace()))

    context.get_hf_processor = named


def _quick_gelu(device: str) -> None:
    if hasattr(torch.ops._C, "gelu_quick"):
        return
    library: Any = importlib.import_module("torch.library").Library("_C", "FRAGMENT")
    library.define("gelu_quick(Tensor! out, Tensor input) -> ()")
    library.impl("gelu_quick", lambda out, x: out.copy_(x * torch.sigmoid(1.702 * x)), device.upper())
    _kept.append(library)


def _transformers_as_it_is() -> None:
    """Without vLLM's wrapping of transformers' classes for torch.compile, after which they build no checkpoint."""
    base = importlib.import_module("vllm.model_executor.models.transformers.base").Base
    base._decorate_cls_for_torch_compile = lambda *of_a_class, **how: None


_kept: list[Any] = []  # a library is gone with its last reference
