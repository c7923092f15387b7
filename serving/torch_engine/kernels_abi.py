"""The structures of ``native/model.hpp`` as ctypes sees them, field by field."""

from __future__ import annotations

import ctypes
from typing import ClassVar

_POINTER = ctypes.c_void_p
_INTEGER = ctypes.c_int64


class NativeLinear(ctypes.Structure):
    """Packed weights of one projection; ``inputs`` and ``outputs`` are padded."""

    _fields_: ClassVar = [
        ("weights", _POINTER),
        ("scales", _POINTER),
        ("bias", _POINTER),
        ("inputs", _INTEGER),
        ("outputs", _INTEGER),
    ]


class NativeLayer(ctypes.Structure):
    """One transformer block."""

    _fields_: ClassVar = [
        ("attention_norm", _POINTER),
        ("query_norm", _POINTER),
        ("key_norm", _POINTER),
        ("feed_forward_norm", _POINTER),
        ("query_key_value", NativeLinear),
        ("output", NativeLinear),
        ("gate_up", NativeLinear),
        ("down", NativeLinear),
        ("window", _INTEGER),
    ]


class NativeModelTable(ctypes.Structure):
    """A whole model and its KV cache."""

    _fields_: ClassVar = [
        ("format", _INTEGER),
        ("layers", _INTEGER),
        ("hidden", _INTEGER),
        ("hidden_padded", _INTEGER),
        ("heads", _INTEGER),
        ("kv_heads", _INTEGER),
        ("head_dim", _INTEGER),
        ("epsilon", ctypes.c_float),
        ("layer", ctypes.POINTER(NativeLayer)),
        ("norm", _POINTER),
        ("head", NativeLinear),
        ("cosines", _POINTER),
        ("sines", _POINTER),
        ("keys", _POINTER),
        ("values", _POINTER),
        ("cache_is_half", _INTEGER),
        ("blocks", _INTEGER),
        ("block_size", _INTEGER),
    ]


class NativeBatch(ctypes.Structure):
    """The rows of one step."""

    _fields_: ClassVar = [
        ("rows", _INTEGER),
        ("positions", _POINTER),
        ("sequences", _POINTER),
        ("tables", _POINTER),
        ("table_stride", _INTEGER),
        ("hidden", _POINTER),
        ("wanted_rows", _INTEGER),
        ("wanted", _POINTER),
        ("logits", _POINTER),
    ]
