"""Times learning the map of a large checkpoint beside loading it: ``python -m benchmarks.checkpoint_map``.

The checkpoint is a Llama's in bfloat16 whose files have headers and holes, so reading it costs no disk: what it is
compared with is vLLM's own loading at its quickest. Each part runs in a process of its own; its peak memory is that of
the process, files that are mapped left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch

from conformance.implementations.vllm.models.bare import alone, bare_model
from lora_compat.checkpoint_map import CheckpointMap, shapes_in

_GIB = 2**30


def config(layers: int, hidden: int, inner: int, vocabulary: int) -> dict[str, Any]:
    """A config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "head_dim": 128,
        "num_attention_heads": hidden // 128, "num_key_value_heads": max(1, hidden // 512), "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "hidden_act": "silu",
    }  # fmt: skip


def write(directory: Path, content: dict[str, Any]) -> None:
    """A checkpoint of zeros that takes no place on disk, a file for each layer."""
    (directory / "config.json").write_text(json.dumps(content), encoding="utf-8")
    hidden, inner, vocabulary = content["hidden_size"], content["intermediate_size"], content["vocab_size"]
    kv = 128 * content["num_key_value_heads"]
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    for number in range(content["num_hidden_layers"]):
        shapes = {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
        _write_file(directory / f"model-{number:03}.safetensors", shapes)
    ends: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    _write_file(directory / "model-ends.safetensors", ends)


def _write_file(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


class Memory:
    """The largest anonymous memory of this process while inside."""

    def __enter__(self) -> Memory:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            told = Path("/proc/self/status").read_text(encoding="utf-8")
            self.peak = max(self.peak, int(told.split("RssAnon:")[1].split()[0]) * 1024)


def measure(part: str, directory: Path, repeats: int) -> None:
    """Prints what one part took, each time, as JSON."""
    torch.set_num_threads(1)
    with bare_model(directory, torch.bfloat16, alone()) as (model, engine_config), Memory() as memory:
        size = sum(one.numel() * one.element_size() for one in model.parameters())
        taken = []
        for _ in range(repeats):
            start, used = time.perf_counter(), time.process_time()
            if part == "load":
                loader = importlib.import_module("vllm.model_executor.model_loader").get_model_loader
                loader(engine_config.load_config).load_weights(model, engine_config.model_config)
            else:
                found = CheckpointMap.of(model, shapes_in(directory), restore=False)
                assert not found.unmoved
                assert all(one.whole for one in found.parameters.values())
            taken.append((time.perf_counter() - start, time.process_time() - used))
    print(json.dumps({"part": part, "size": size, "peak": memory.peak, "taken": taken}))


def main() -> None:
    """Both parts, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 32), ("hidden", 4096), ("inner", 11008), ("vocabulary", 32000), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        measure(args.part, args.directory, args.repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), config(args.layers, args.hidden, args.inner, args.vocabulary))
        command = [sys.executable, "-m", "benchmarks.checkpoint_map", "--repeats", str(args.repeats)]
        best = {}
        for part in ("load", "map"):
            done = subprocess.run(
                [*command, "--part", part, "--directory", folder], check=True, capture_output=True, text=True
            )
            told = json.loads(done.stdout.splitlines()[-1])
            best[part] = min(used for _, used in told["taken"])
            times = ", ".join(f"{elapsed:.1f} s ({used:.1f} s of CPU)" for elapsed, used in told["taken"])
            print(f"{part}: {times}; parameters {told['size'] / _GIB:.2f} GiB, peak {told['peak'] / _GIB:.2f} GiB")
        print(f"the map takes {best['map'] / best['load']:.2f} times the CPU time of one load")


if __name__ == "__main__":
    main()
