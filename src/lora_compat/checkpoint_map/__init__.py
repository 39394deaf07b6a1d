"""Where each element of a checkpoint goes, learned by asking the model's own loader."""

from lora_compat.checkpoint_map.adapter_loading import AdapterFactors, NotMovedError, load_factors
from lora_compat.checkpoint_map.factors import Factor, TensorDelta, added, factors_of
from lora_compat.checkpoint_map.indices import Indices
from lora_compat.checkpoint_map.learning import LoaderStopped
from lora_compat.checkpoint_map.maps import CheckpointMap, ParameterMap
from lora_compat.checkpoint_map.pieces import Piece
from lora_compat.checkpoint_map.proving import Origin
from lora_compat.checkpoint_map.shapes import CheckpointFormatError, TensorInfo, shapes_in

__all__ = [
    "AdapterFactors",
    "CheckpointFormatError",
    "CheckpointMap",
    "Factor",
    "Indices",
    "LoaderStopped",
    "NotMovedError",
    "Origin",
    "ParameterMap",
    "Piece",
    "TensorDelta",
    "TensorInfo",
    "added",
    "factors_of",
    "load_factors",
    "shapes_in",
]
