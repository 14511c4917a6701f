"""What Python and the compiled program agree on: the structs of `program.h`, and the types of its functions."""

from __future__ import annotations

import ctypes

from ...compiler.native.source import NativeProgram
from .objects import shared_library
from .packing import declare


class PassStruct(ctypes.Structure):
    """`llmc_pass`."""

    _fields_ = (
        ("batch", ctypes.c_int64),
        ("tokens", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("locals", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("cache_type", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
        ("sharing", ctypes.c_int64),
    )


class CallStruct(ctypes.Structure):
    """`llmc_call`."""

    _fields_ = (
        ("function", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("states", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("scalars", ctypes.c_void_p),
        ("stores", ctypes.c_void_p),
    )


class DecodingStruct(ctypes.Structure):
    """`llmc_decoding`."""

    _fields_ = (
        ("tokens", ctypes.c_void_p),
        ("position", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("vocab", ctypes.c_int64),
        ("ends", ctypes.c_void_p),
        ("ends_count", ctypes.c_int64),
        ("chosen", ctypes.c_void_p),
        ("sampling", ctypes.c_void_p),
    )


class SamplingStruct(ctypes.Structure):
    """`llmc_sampling`."""

    _fields_ = (
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("repetition_penalty", ctypes.c_float),
        ("presence_penalty", ctypes.c_float),
        ("frequency_penalty", ctypes.c_float),
        ("top_k", ctypes.c_int64),
        ("seeds", ctypes.c_void_p),
        ("steps", ctypes.c_void_p),
        ("seen", ctypes.c_void_p),
        ("generated", ctypes.c_void_p),
        ("seen_count", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("workspace", ctypes.c_void_p),
    )


class BeamsStruct(ctypes.Structure):
    """`llmc_beams`."""

    _fields_ = (
        ("prompts", ctypes.c_int64),
        ("beams", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("ends", ctypes.c_void_p),
        ("ends_count", ctypes.c_int64),
        ("rules", ctypes.c_void_p),
        ("step", ctypes.c_int64),
        ("repetition_penalty", ctypes.c_float),
        ("seen", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("score", "row", "common")),
        *((name, ctypes.c_void_p) for name in ("kept_score", "kept_step", "kept_parent", "kept_token")),
        *((name, ctypes.c_void_p) for name in ("is_open", "is_broken", "next", "chosen", "parent", "parts")),
        ("parts_count", ctypes.c_int64),
        ("unit", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("value", "token", "source", "first", "pairs", "is_taken")),
    )


def open_library(native: NativeProgram) -> ctypes.CDLL:
    """The program, compiled and loaded. Raises NoCompiler where that cannot be done."""
    library = ctypes.CDLL(str(shared_library(native.text, native.sources)))
    library.llmc_run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    library.llmc_run.restype = None
    library.llmc_decode.argtypes = (*(ctypes.c_void_p,) * 3, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    library.llmc_decode.restype = ctypes.c_int64
    library.llmc_choose.argtypes = (ctypes.c_void_p, ctypes.c_int64)
    library.llmc_choose.restype = ctypes.c_int64
    library.llmc_search.argtypes = (*library.llmc_decode.argtypes, ctypes.c_void_p)
    library.llmc_search.restype = ctypes.c_int64
    if native.widest:
        library.llmc_linear_workspace.argtypes = (ctypes.c_int64, ctypes.c_int64)
        library.llmc_linear_workspace.restype = ctypes.c_size_t
        declare(library)
    return library
