"""vLLM's engine configuration and process groups, for models that are loaded by the dozen in one process."""

from __future__ import annotations

import atexit
import copy
import gc
import importlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from conformance.implementations.models import ModelSettings, NoForward
from conformance.implementations.vllm.groups import MissingLayers, Stage
from conformance.implementations.vllm.models.classes import model_class
from conformance.implementations.vllm.models.stand_ins import put_in_place
from conformance.implementations.vllm.runtime import runtime
from strategies.models.deployments import given

MAX_TOKENS = 4096
_MAX_LENGTH = 64
_CONFIGS_KEPT = 64
COPIED_EXPERTS = "num_redundant_experts"
_made: dict[tuple[object, ...], Any] = {}  # configurations that no model was built with, by what they are made of


# What the first load imports; half of the ten seconds go into kernels that no CPU runs.
_IMPORTED_BY_LOADS = (
    "vllm.engine.arg_utils",
    "vllm.lora.ops.torch_ops",
    "vllm.lora.ops.triton_ops",
    "vllm.lora.worker_manager",
    "vllm.model_executor.kernels.linear",
    "vllm.model_executor.layers.quantization.online.base",
    "vllm.model_executor.layers.quantization.online.fp8",
    "vllm.model_executor.model_loader",
    "vllm.model_executor.models.expert_substitution",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.transformers",
)


def prepare() -> None:
    """Imports what every load does, for the processes that are forked afterwards; groups are each process's own."""
    runtime()
    for name in _IMPORTED_BY_LOADS:
        with suppress(ModuleNotFoundError):  # of another release
            importlib.import_module(name)
    with suppress(ModuleNotFoundError, AttributeError):  # likewise
        settings = importlib.import_module("vllm.config.logging").LoggingConfig()
        importlib.import_module("vllm.logger").configure_logging_if_needed(settings)


@cache
def groups() -> None:
    """Makes the world and all its groups, of this process alone; once."""
    state = runtime().parallel_state
    folder = tempfile.mkdtemp(prefix="lora-compat-rendezvous-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    state.init_distributed_environment(1, 0, f"file://{folder}/file", 0, backend="gloo")
    state._TP = None  # the stand-in, where single layers were run before
    state.initialize_model_parallel(1, 1)
    state._PP = Stage(state._PP)
    models: Any = importlib.import_module("vllm.model_executor.models.utils")
    models._model_to_pp_missing_layer_names = MissingLayers()
    if runtime().device == "cpu":
        _without_kernels_of_a_cpu()
    else:
        _workspace()
    put_in_place(runtime().device)


def _workspace() -> None:
    """The memory that kernels of experts share, which a worker makes: each rank has its own, threads too."""
    made = threading.local()
    workspace = importlib.import_module("vllm.v1.worker.workspace")

    def own() -> Any:
        if not hasattr(made, "manager"):
            made.manager = workspace.WorkspaceManager(device(), None, 1, nullcontext)
        return made.manager

    kernels: Any = importlib.import_module("vllm.model_executor.layers.fused_moe.modular_kernel")
    kernels.current_workspace_manager = own


def device() -> torch.device:
    """Where models are built and adapters loaded."""
    return torch.device(runtime().device)


def engine_config(directory: Path, settings: ModelSettings, tp_size: int) -> Any:
    """A `VllmConfig` for the checkpoint in a directory; raises whatever vLLM does.

    vLLM makes one from the configuration on disk and hands a copy to each worker: so do we, also where checkpoints,
    such as base and merged, have the same configuration, byte by byte. The TP size is set afterwards, as the platform
    would ask for devices; so is float64, which it cannot be told, and how adapters are sharded.
    """
    said = tuple((path.name, path.read_bytes()) for path in sorted(directory.rglob("*.json")))
    key = model_class(directory, settings.options), said, replace(settings, fully_sharded=False, stage=(0, 1))
    if key not in _made:
        if len(_made) == _CONFIGS_KEPT:
            del _made[next(iter(_made))]
        _made[key] = _engine_config(directory, key[0], key[2])
    config = copy.deepcopy(_made[key])
    config.model_config.model = config.model_config.served_model_name = str(directory)
    if config.lora_config is not None:
        config.lora_config.fully_sharded_loras = settings.fully_sharded
    stages = settings.stage[1]
    config.parallel_config.tensor_parallel_size, config.parallel_config.pipeline_parallel_size = tp_size, stages
    config.parallel_config.world_size = tp_size * stages
    config.model_config.verify_with_parallel_config(config.parallel_config)
    if settings.dtype is torch.float64:
        _in_double(config)
    return config


def _engine_config(directory: Path, cls: Any, settings: ModelSettings) -> Any:
    mixed = settings.fused_experts and not getattr(cls, "is_3d_moe_weight", False)
    asked = given(settings.options)
    copies = int(asked.pop(COPIED_EXPERTS, 0))
    options = importlib.import_module("vllm.engine.arg_utils").EngineArgs(
        model=str(directory),
        skip_tokenizer_init=True,
        dtype="float32" if settings.dtype is torch.float64 else str(settings.dtype).removeprefix("torch."),
        enforce_eager=True,
        max_model_len=_MAX_LENGTH,
        max_num_seqs=MAX_TOKENS,  # the LM head's tokens are those of as many sequences
        max_num_batched_tokens=MAX_TOKENS,
        enable_lora=settings.lora,
        max_lora_rank=settings.max_rank,
        max_loras=settings.max_loras,
        max_cpu_loras=settings.max_loras + settings.spare,
        lora_dtype="bfloat16" if settings.narrow else "auto",
        lora_target_modules=list(settings.restricted) or None,
        async_scheduling=False,
        enable_prefix_caching=False,
        load_format="hf",
        use_tqdm_on_load=False,
        **{"enable_mixed_moe_lora_format": mixed, **asked},
    )
    config = options.create_engine_config()
    parallel = config.parallel_config  # where vLLM takes no copies on a CPU, nor of a single rank
    parallel.enable_eplb, parallel.eplb_config.num_redundant_experts = copies > 0, copies
    return config


def _in_double(config: Any) -> None:
    if runtime().device != "cpu":
        raise NoForward("logits are compared in float64, which the LoRA operators of a GPU do not take")
    config.model_config.dtype = torch.float64
    config.compilation_config.custom_ops = ["none"]  # norms, rotary embeddings and activations by torch
    if config.lora_config is not None:
        config.lora_config.lora_dtype = torch.float64


@contextmanager
def without_amx() -> Iterator[None]:
    """vLLM's choice for a CPU without AMX: the operators for one with it are not in the wheel."""
    with patch.object(torch.cpu, "_is_amx_tile_supported", lambda: False):
        yield


@contextmanager
def quick_loading() -> Iterator[None]:
    """Without what takes most of a small model's load and is of no use to it.

    The two full collections of vLLM's loader take thirty times as long as all the rest, and what it notes for loading
    other weights into the same model later, which nobody does here, a sixth of what is left.
    """
    utils = importlib.import_module("vllm.model_executor.model_loader.utils")
    without_notes = patch.object(utils, "record_metadata_for_reloading", lambda model: None, create=True)
    with patch.object(gc, "collect", lambda *generation: 0), without_notes:
        yield


@contextmanager
def defined_memory() -> Iterator[None]:
    """Weights that a class allocates and its loader leaves alone are no numbers, in place of what was there before."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # which fills what `torch.empty` returns
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _without_kernels_of_a_cpu() -> None:
    """Products by torch: the kernels that vLLM would pack weights for are not in the wheel, or empty the weight."""

    def by_torch(layer: Any, remove_weight: bool = False) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    for name in ("layers.utils", "layers.linear", "layers.vocab_parallel_embedding"):
        module: Any = importlib.import_module(f"vllm.model_executor.{name}")
        if hasattr(module, "dispatch_cpu_unquantized_gemm"):
            module.dispatch_cpu_unquantized_gemm = by_torch
    operators: Any = importlib.import_module("vllm._custom_ops")
    if not hasattr(torch.ops._C, "prepack_moe_weight"):
        operators.cpu_prepack_moe_weight = lambda weight, isa: weight
