"""Other ways of writing an adapter: under the names on disk, those of the language model alone, by expert, pickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conformance.subjects.models.adapters import CONFIG, TENSORS, FilePair
from conformance.subjects.models.chains import Chain
from conformance.subjects.models.keys import PREFIX
from conformance.values.models import fill_weight
from strategies.models.cases import ModelCase

PICKLED, ON_DISK = "as adapter_model.bin", "under the base checkpoint's names"
ALONE = "as an adapter of the language model alone"


@dataclass(frozen=True, slots=True)
class Writing:
    """One way of writing the adapter: what is different about it, the directory, and whether experts are fused."""

    name: str
    directory: Path
    fused_experts: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a pair's weight in the base checkpoint: all of it, or one expert's rows from ``start`` to ``stop``."""

    module: str
    expert: int | None = None
    start: int = 0
    stop: int | None = None

    def factors(self, a: Tensor, b: Tensor, experts: int) -> tuple[Tensor, Tensor]:
        """LoRA A and B of the piece, of those of the pair: PEFT stacks experts outside of ranks in A, inside in B."""
        if self.expert is None:
            return a, b
        stacked_a, stacked_b = a.reshape(experts, -1, a.shape[-1]), b.reshape(b.shape[0], -1, experts)
        return stacked_a[self.expert], stacked_b[self.start : self.stop, :, self.expert]


def writings(case: ModelCase, chain: Chain) -> list[Writing]:
    """The ways that there are, besides PEFT's own."""
    fused = any(pair.delta.ndim == 3 for pair in chain.file.pairs)
    found = [Writing(PICKLED, _pickled(chain), fused)]
    if not (case.adapter.ranks or case.adapter.alphas or chain.file.others):  # patterns go by PEFT's names
        as_written = load_file(chain.adapter / TENSORS).keys()
        for name, tensors, takes_fused in (
            (ALONE, _of_language_model(chain), fused),
            (ON_DISK, _as_on_disk(case, chain), False),
        ):
            if tensors and tensors.keys() != as_written:
                found.insert(0, Writing(name, _written(chain, name, tensors), takes_fused))
    return found


def _written(chain: Chain, name: str, tensors: Mapping[str, Tensor]) -> Path:
    directory = chain.root / name.replace(" ", "-").replace("'", "")
    directory.mkdir(exist_ok=True)
    config = json.loads((chain.adapter / CONFIG).read_text(encoding="utf-8"))
    if name == ALONE and config["target_modules"]:
        config["target_modules"] = sorted({pair.module.rpartition(".")[2] for pair in chain.file.pairs})
    (directory / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    save_file(dict(tensors), directory / TENSORS)
    return directory


def _of_language_model(chain: Chain) -> dict[str, Tensor]:
    """The adapter's tensors by the names in the language model's own class; nothing where one is of something else."""
    tensors = load_file(chain.adapter / TENSORS)
    if not all(pair.alone for pair in chain.file.pairs):
        return {}
    return {
        key.replace(f"{PREFIX}{pair.module}.", f"{PREFIX}{pair.alone}.", 1): tensors[key]
        for pair in chain.file.pairs
        for key in pair.keys
    }


def _pickled(chain: Chain) -> Path:
    directory = chain.root / "pickled"
    if not directory.exists():
        directory.mkdir()
        shutil.copy(chain.adapter / CONFIG, directory / CONFIG)
        torch.save(load_file(chain.adapter / TENSORS), directory / "adapter_model.bin")
    return directory


def _as_on_disk(case: ModelCase, chain: Chain) -> dict[str, Tensor]:
    """The adapter's tensors by the base checkpoint's names; nothing where one of its weights is not found there."""
    tensors = load_file(chain.adapter / TENSORS)
    written: dict[str, Tensor] = {}
    for pair, found in pieces(case, chain):
        if not found:
            return {}
        for piece in found:
            a, b = piece.factors(tensors[pair.key_a], tensors[pair.key_b], pair.delta.shape[0])
            written[f"{PREFIX}{piece.module}.lora_A.weight"] = a.contiguous().clone()
            written[f"{PREFIX}{piece.module}.lora_B.weight"] = b.contiguous().clone()
    return written


def pieces(case: ModelCase, chain: Chain) -> Iterator[tuple[FilePair, list[Piece]]]:
    """Where each pair's weight is in the base checkpoint.

    A weight is found there by its numbers, whole or as the expert, or half of an expert, that it is.
    """
    names, tensors = _names_on_disk(chain), load_file(chain.adapter / TENSORS)
    dtype = getattr(torch, case.dtype.of_tensors)
    for pair in chain.file.pairs:
        weight = torch.empty(pair.delta.shape, dtype=dtype)
        fill_weight(weight, case.seed, pair.parameter)
        yield pair, list(_parts(pair, weight, tensors[pair.key_a], tensors[pair.key_b], names))


def _names_on_disk(chain: Chain) -> Mapping[bytes, str]:
    return {
        _content(tensor): name
        for file in sorted(chain.base.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _parts(pair: FilePair, weight: Tensor, a: Tensor, b: Tensor, names: Mapping[bytes, str]) -> Iterator[Piece]:
    if weight.ndim == 2 or a.ndim > 2:  # of a linear layer, or a convolution
        name = names.get(_content(weight))
        if name is not None and "embedding" not in pair.key_a:
            yield Piece(name.removesuffix(".weight"))
        return
    for expert in range(weight.shape[0]):
        for turned in (weight[expert], weight[expert].T):
            half = len(turned) // 2
            for start, stop in ((0, None), (0, half), (half, None)):
                name = names.get(_content(turned[start:stop])) if turned.shape == (len(b), a.shape[-1]) else None
                if name is not None:
                    yield Piece(name.removesuffix(".weight"), expert, start, stop)


def _content(tensor: Tensor) -> bytes:
    return bytes(str(tuple(tensor.shape)), "ascii") + tensor.contiguous().float().numpy().tobytes()
