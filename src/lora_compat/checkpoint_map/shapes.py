"""What a checkpoint has, from the headers of its files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from lora_compat.errors import LoRAError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class CheckpointFormatError(LoRAError):
    """A directory that holds no checkpoint whose headers can be read."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"checkpoint {str(path)!r}: {reason}")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint; its *rows* are all its dimensions but the last, flattened, of one all of it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return prod(self.shape[:-1]) if len(self.shape) > 1 else prod(self.shape)

    @property
    def columns(self) -> int:
        """How many elements a row has."""
        return self.shape[-1] if len(self.shape) > 1 else 1


def shapes_in(directory: str | Path) -> Mapping[str, TensorInfo]:
    """The tensors of all safetensors files in ``directory``, of which only the headers are read.

    Raises:
        CheckpointFormatError: there is none, one is damaged, or it has a dtype that nobody knows.
    """
    # Optional: only those who read checkpoints need it.
    from safetensors import SafetensorError, safe_open

    found: dict[str, TensorInfo] = {}
    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise CheckpointFormatError(directory, "it has no *.safetensors; give the directory of a checkpoint that has")
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # no mapping
                    told = opened.get_slice(name)
                    found[name] = TensorInfo(tuple(told.get_shape()), _DTYPES[told.get_dtype()])
        except (SafetensorError, OSError) as error:
            raise CheckpointFormatError(file, f"it cannot be read, it is damaged or cut short: {error}") from error
        except KeyError as error:
            raise CheckpointFormatError(file, f"a tensor has dtype {error}; known are {', '.join(_DTYPES)}") from error
    return found
