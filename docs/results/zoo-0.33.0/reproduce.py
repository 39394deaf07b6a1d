"""vLLM's own linear subclasses under vLLM's own LoRA layers, with nothing but vLLM: wrapped, right, wrong or raised.

    python reproduce.py [CLASS ...]

Every class is built as its model builds it, on TP ranks of one process, and loaded through its own weight loader.
What it returns with an adapter is compared with what it returns with the adapter merged into its checkpoint. All
values are small integers, so the two must be equal.
"""

import importlib
import sys
from types import SimpleNamespace

import torch
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()  # before anything else of vLLM

from vllm.config import LoRAConfig, VllmConfig, set_current_vllm_config  # noqa: E402
from vllm.distributed import parallel_state  # noqa: E402
from vllm.lora.layers import LoRAMapping  # noqa: E402
from vllm.lora.punica_wrapper import get_punica_wrapper  # noqa: E402
from vllm.lora.utils import from_layer  # noqa: E402
from vllm.model_executor.layers.linear import QKVParallelLinear  # noqa: E402

LINEAR = "model_executor.layers.linear"
K, TOKENS, RANK = 6, 3, 4  # input size, tokens, rank of the adapter (and max_lora_rank)


def cls(module, name):
    return getattr(importlib.import_module(f"vllm.{module}"), name)


def qwen(tp):
    importlib.import_module("vllm.models.qwen4_exp.nvidia.model")
    qkv = QKVParallelLinear(K, 1, 4, 4, bias=False)
    return cls("models.qwen4_exp.nvidia.qsa", "Qwen4ExpQSAQKVIndexerLinear")(qkv, 2, None)


def muse(tp):
    layer = cls("models.muse_spark.common.layers", "MuseSpark1xQKVOGateParallelLinear")(K, 1, 8, 4)
    layer.weight.weight_loader = layer.weight_loader  # as its load_weights does
    return layer


def merged(module, name, **replicated):
    return lambda tp: cls(module, name)(K, [4, 4, 2], tp_size=tp, bias=False, **replicated)


def step5(tp):
    return cls("models.step5.nvidia.model", "Step5FusedQKVIndexerLinear")(
        K, 2, 4, 4, indexer_q_output_size=8, indexer_kv_output_size=8, gate_output_size=4, proxy_dim=2,
        index_tp_size=tp,
    )  # fmt: skip


NUMBERS = (0, 1, 2)
# class: (constructor, checkpoint rows of each shard, shard ids; one shard without an id)
ZOO = {
    "GateLinear": (lambda tp: cls("model_executor.layers.fused_moe.router.gate_linear", "GateLinear")(K, 4), (4,), ()),
    "DCPGroupColumnParallelLinear": (
        lambda tp: cls(LINEAR, "DCPGroupColumnParallelLinear")(K, 4, bias=False), (4,), ()),
    "KimiK3MergedQKVGateLinear": (
        lambda tp: cls(LINEAR, "KimiK3MergedQKVGateLinear")(K, 4, 2, 2, 2, 1), (4, 4, 2), NUMBERS),
    "MinimaxM3QKVParallelLinearWithIndexer": (
        lambda tp: cls(LINEAR, "MinimaxM3QKVParallelLinearWithIndexer")(K, 2, 4, 4, 4, 2), (8, 8, 8, 8, 2),
        ("q", "k", "v", "index_q", "index_k")),
    "mamba _KimiGDNMergedColumnParallelLinear": (
        merged("model_executor.layers.mamba.gdn.kimi_gdn_linear_attn", "_KimiGDNMergedColumnParallelLinear",
               replicated_shard_id=2), (4, 4, 2), NUMBERS),
    "kimi_k3 _KimiGDNMergedColumnParallelLinear": (
        merged("models.kimi_k3.nvidia.kda", "_KimiGDNMergedColumnParallelLinear", replicated_shard_id=2),
        (4, 4, 2), NUMBERS),
    "_Glm5NextMergedColumnParallelLinear": (
        merged("models.glm5next.common.kda", "_Glm5NextMergedColumnParallelLinear", replicated_shard_ids=(1, 2)),
        (4, 4, 2), NUMBERS),
    "DeepSeekV2FusedQkvAProjLinear": (
        lambda tp: cls("model_executor.models.deepseek_v2", "DeepSeekV2FusedQkvAProjLinear")(K, [4, 2]),
        (4, 2), (0, 1)),
    "MuseSpark1xQKVOGateParallelLinear": (muse, (8, 4, 4, 8), ("q", "k", "v", "o_gate")),
    "Qwen4ExpQSAQKVIndexerLinear": (qwen, (4, 4, 4, 2), (0, 1, 2, 3)),
    "Step5FusedQKVIndexerLinear": (
        step5, (8, 8, 8, 8, 8, 8, 4), ("q", "k", "v", "index_q", "index_k", "index_z", "index_g")),
    "Step5SparseIndexerIndexTPLinear": (
        lambda tp: cls("models.step5.nvidia.model", "Step5SparseIndexerIndexTPLinear")(
            K, 4, params_dtype=torch.float32, index_tp_size=tp), (4,), ()),
}  # fmt: skip


class Ranks:
    """Stands in for vLLM's tensor-parallel group; without gathers (sharded off) nothing more is asked of it."""

    world_size, rank_in_group, unique_name = 1, 0, "tp:reproduce"


def built(make, tp, rank, sizes, shards, weights):
    Ranks.world_size, Ranks.rank_in_group = tp, rank
    layer = make(tp)
    for shard, part in zip(shards or [()], weights.split(sizes), strict=True):
        layer.weight.weight_loader(layer.weight, part, *([shard] if shards else []))
    layer.cpu_linear = torch.nn.functional.linear
    return layer


def first(result):
    return torch.cat([part for part in result if part is not None], -1) if isinstance(result, tuple) else result


def verdict(make, sizes, shards, tp):
    integers = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randint(-2, 3, shape, generator=integers).float()  # noqa: E731
    weight, x = draw(sum(sizes), K), draw(TOKENS, K)
    # Each shard has an adapter of its own, as a packed layer's members have.
    a, b = [draw(RANK, K) for _ in sizes], [draw(size, RANK) for size in sizes]
    gained = torch.cat([one @ other for one, other in zip(b, a, strict=True)])
    config = LoRAConfig(max_lora_rank=8, max_loras=1, lora_dtype=torch.float32)
    worst = 0.0
    for rank in range(tp):
        right = first(built(make, tp, rank, sizes, shards, weight + gained)(x))
        layer = built(make, tp, rank, sizes, shards, weight)
        names = [f"part_{index}" for index in range(len(sizes))] if shards else []
        lora = from_layer(layer, 1, config, names, None)
        if lora is layer:
            return "not wrapped"
        tokens = get_punica_wrapper(16, max_batches=16, device="cpu", lora_config=SimpleNamespace(max_loras=1))
        tokens.update_metadata(LoRAMapping((1,) * TOKENS, (1,) * TOKENS, is_prefill=False), [1], 2, 32)
        lora.set_mapping(tokens)
        lora.set_lora(0, a if shards else a[0], b if shards else b[0])
        worst = max(worst, float((first(lora(x)) - right).abs().max()))
    return f"wrong by {worst:g}" if worst else "right"


def main(names):
    with set_current_vllm_config(VllmConfig()), torch.no_grad():
        parallel_state._TP = Ranks()
        print(f"vLLM {vllm.__version__}, fully_sharded_loras off, one packed name per shard")
        for name in names or ZOO:
            said = []
            for tp in (1, 2):
                try:
                    said.append(verdict(*ZOO[name], tp))
                except Exception as error:
                    said.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            print(f"{name:45} TP 1: {said[0]:14} TP 2: {said[1]}")


if __name__ == "__main__":
    main(sys.argv[1:])
