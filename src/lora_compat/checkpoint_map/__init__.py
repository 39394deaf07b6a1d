"""Where each element of a checkpoint goes, learned by asking the model's own loader."""

from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.learning import LoaderStopped
from lora_compat.checkpoint_map.maps import CheckpointMap, Origin, ParameterMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.shapes import TensorInfo, shapes_in

__all__ = [
    "CheckpointMap",
    "Indices",
    "LoaderStopped",
    "Origin",
    "ParameterMap",
    "Piece",
    "TensorInfo",
    "shapes_in",
]
