"""Where each element of a checkpoint goes, learned by asking the model's own loader."""

from lora_compat.checkpoint_map.factors import Factor, TensorNotServed, delta, factors, unserved
from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.learning import LoaderStopped
from lora_compat.checkpoint_map.maps import CheckpointMap, Origin, ParameterMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.shapes import TensorInfo, shapes_in

__all__ = [
    "CheckpointMap",
    "Factor",
    "Indices",
    "LoaderStopped",
    "Origin",
    "ParameterMap",
    "Piece",
    "TensorInfo",
    "TensorNotServed",
    "delta",
    "factors",
    "shapes_in",
    "unserved",
]
