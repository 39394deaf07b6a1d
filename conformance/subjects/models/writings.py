"""Other ways of writing an adapter: under the names that the base checkpoint has on disk, by expert, pickled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conformance.subjects.models.adapters import CONFIG, TENSORS, FilePair
from conformance.subjects.models.chains import Chain
from conformance.values.models import fill_weight
from strategies.models.cases import ModelCase

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Writing:
    """One way of writing the adapter: what is different about it, the directory, and whether experts are fused."""

    name: str
    directory: Path
    fused_experts: bool


def writings(case: ModelCase, chain: Chain) -> list[Writing]:
    """The ways that there are, besides PEFT's own."""
    fused = any(pair.delta.ndim == 3 for pair in chain.file.pairs)
    found = [Writing("as adapter_model.bin", _pickled(chain), fused)]
    if not (case.adapter.ranks or case.adapter.alphas or chain.file.others):  # patterns go by PEFT's names
        directory = chain.root / "as-on-disk"
        tensors = dict(_as_on_disk(case, chain))
        if tensors and tensors.keys() != load_file(chain.adapter / TENSORS).keys():
            directory.mkdir(exist_ok=True)
            shutil.copy(chain.adapter / CONFIG, directory / CONFIG)
            save_file(tensors, directory / TENSORS)
            found.insert(0, Writing("under the base checkpoint's names", directory, fused_experts=False))
    return found


def _pickled(chain: Chain) -> Path:
    directory = chain.root / "pickled"
    if not directory.exists():
        directory.mkdir()
        shutil.copy(chain.adapter / CONFIG, directory / CONFIG)
        torch.save(load_file(chain.adapter / TENSORS), directory / "adapter_model.bin")
    return directory


def _as_on_disk(case: ModelCase, chain: Chain) -> Iterator[tuple[str, Tensor]]:
    """The adapter's tensors by the base checkpoint's names; nothing where one of its weights is not found there.

    A weight is found on disk by its numbers, whole or as the expert, or half of an expert, that it is there.
    """
    names = _names_on_disk(chain)
    tensors = load_file(chain.adapter / TENSORS)
    dtype = getattr(torch, case.dtype.of_tensors)
    written: dict[str, Tensor] = {}
    for pair in chain.file.pairs:
        weight = torch.empty(pair.delta.shape, dtype=dtype)
        fill_weight(weight, case.seed, pair.parameter)
        parts = list(_parts(pair, weight, tensors[pair.key_a], tensors[pair.key_b], names))
        if not parts:
            return
        for module, a, b in parts:
            written[f"{_PREFIX}{module}.lora_A.weight"] = a.clone()
            written[f"{_PREFIX}{module}.lora_B.weight"] = b.contiguous().clone()
    yield from written.items()


def _names_on_disk(chain: Chain) -> Mapping[bytes, str]:
    return {
        _content(tensor): name
        for file in sorted(chain.base.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _parts(
    pair: FilePair, weight: Tensor, a: Tensor, b: Tensor, names: Mapping[bytes, str]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    if weight.ndim == 2 or a.ndim > 2:  # of a linear layer, or a convolution
        name = names.get(_content(weight))
        if name is not None and "embedding" not in pair.key_a:
            yield name.removesuffix(".weight"), a, b
        return
    experts = weight.shape[0]
    stacked_a = a.reshape(experts, -1, a.shape[-1])
    stacked_b = b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
    found = []
    for expert in range(experts):
        for turned in (weight[expert], weight[expert].T):
            if turned.shape != (stacked_b.shape[1], stacked_a.shape[2]):
                continue
            for rows in (slice(None), slice(0, len(turned) // 2), slice(len(turned) // 2, None)):
                name = names.get(_content(turned[rows]))
                if name is not None:
                    found.append((name.removesuffix(".weight"), stacked_a[expert], stacked_b[expert][rows]))
    yield from found


def _content(tensor: Tensor) -> bytes:
    return bytes(str(tuple(tensor.shape)), "ascii") + tensor.contiguous().float().numpy().tobytes()
