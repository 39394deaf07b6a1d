"""Towers whose sizes are written in a model's code, made small, and the tokenizer that such code asks for tokens."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

_SIGLIP = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2,
           "image_size": 28}  # fmt: skip
_MOLMO = {
    "image_default_input_size": (28, 28), "image_emb_dim": 64, "image_num_heads": 4, "image_num_key_value_heads": 4,
    "image_num_layers": 2, "image_mlp_dim": 96, "image_num_pos": 5,
}  # fmt: skip
_SAM = {"depth": 2, "embed_dim": 64, "img_size": 64, "num_heads": 4, "global_attn_indexes": [1], "window_size": 2}
_QWEN2 = {"decoder_layer": 1, "hidden_dimension": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
          "intermediate_size": 96}  # fmt: skip


def _with(sizes: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Makes of a function or a class one that is called with these, whatever it is called with."""
    return lambda made: lambda *given, **named: made(*given, **{**named, **sizes})


def _small_radio(made: Any) -> Any:
    """Its sizes are those of the name of a model of timm's."""

    def small(**named: Any) -> Any:
        config = made(**named)
        config.update({"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2})
        return config

    return small


class _Tokenizer:
    """Has a number for whatever is asked."""

    @property
    def vocab(self) -> Any:
        return self

    get_vocab = property(lambda self: lambda: self)

    def __getitem__(self, token: str) -> int:
        return 1

    def encode(self, text: str, **how: object) -> list[int]:
        return [1]


def _tokenizer(asked: object) -> Callable[..., _Tokenizer]:
    return lambda model_config: _Tokenizer()


_DEEPSEEK = {"cached_tokenizer_from_config": _tokenizer, "CLIPVisionConfig": _with(_SIGLIP)}
_INSTEAD: Mapping[str, Mapping[str, Callable[[Any], Any]]] = {
    "deepencoder": {"ImageEncoderViT": _with(_SAM)},
    "deepseek_ocr": _DEEPSEEK,
    "deepseek_ocr2": {
        "cached_tokenizer_from_config": _tokenizer,
        "ImageEncoderViT": _with(_SAM),
        "build_qwen2_decoder_as_encoder": _with(_QWEN2),
    },
    "isaac": {"cached_tokenizer_from_config": _tokenizer},
    "molmo": {"VisionBackboneConfig": _with(_MOLMO)},
    "nano_nemotron_vl": {"cached_tokenizer_from_config": _tokenizer, "RadioConfig": _small_radio},
    "phi4mm": {"SiglipVisionConfig": _with(_SIGLIP)},
}
_WITH = {"deepseek_ocr": ("deepencoder",), "unlimited_ocr": ("deepencoder", "deepseek_ocr")}


@cache
def make_small(module: str) -> None:
    """Puts small towers into a module of vLLM's models, once, before its class makes any."""
    name = module.rpartition(".")[2]
    for one in (*_WITH.get(name, ()), name):
        place = importlib.import_module(f"vllm.model_executor.models.{one}") if one in _INSTEAD else None
        for attribute, instead in _INSTEAD.get(one, {}).items():
            setattr(place, attribute, instead(getattr(place, attribute)))
