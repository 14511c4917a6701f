"""Launches of the scan kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from .compile_for_gpu import Case

SIZES = {name: "i32:16" for name in ("heads", "key_dim", "value_dim", "v_row", "k_row", "q_row")}
ROWS = {name: "i32:16" for name in ("decay_row", "dt_row", "beta_row", "erase_row", "write_row")}
STREAMS = {"p_v": "*bf16:16", "p_k": "*bf16:16", "p_q": "*bf16:16", "p_out": "*bf16:16", "p_position": "*i64:16"}
OPTIONAL = ("p_decay", "p_dt", "p_beta", "p_erase", "p_write", "p_skip")


def _fp32(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "*fp32:16")


def _given(*names: str) -> dict[str, str]:
    return {name: ("*bf16:16" if name in names else "None") for name in OPTIONAL}


def _step(name: str, given: dict[str, str], decay: str, heads: int, key_dim: int, columns: int, warps: int) -> Case:
    return Case(
        name=f"scan_step {name}",
        kernel="scan.triton_step:_step",
        arguments={
            **STREAMS, **given, **SIZES, **ROWS, "p_state": "*fp32:16", "tokens": "i32:1", "shared": "i32",
            "scale": "fp32",
        },
        constexprs={
            "DECAY": decay, "IS_A_LOG": decay in ("head", "state"), "BLOCK_H": heads, "BLOCK_K": key_dim,
            "BLOCK_V": columns,
        },
        num_warps=warps,
    )  # fmt: skip


def _chunks(name: str, key_dim: int, columns: int, warps: int, *, with_out: bool = True, spills: int = 0) -> Case:
    return Case(
        name=f"scan_chunks {name}",
        kernel="scan.triton_chunked:_chunks",
        arguments={
            **STREAMS, **SIZES, **_fp32("p_log", "p_dt", "p_start", "p_final"), "p_skip": "*bf16:16",
            "p_whole": "None" if with_out else "*fp32:16", "tokens": "i32:16", "segment": "i32:16", "segments": "i32",
            "shared": "i32", "scale": "fp32",
        },
        constexprs={"WITH_OUT": with_out, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": columns},
        num_warps=warps,
        num_stages=2,
        spills=spills,
    )  # fmt: skip


def _selective(name: str, *, with_out: bool) -> Case:
    rows = ("key_dim", "v_row", "k_row", "q_row", "dt_row", "channels", "tokens", "segment")
    return Case(
        name=f"scan_selective {name}",
        kernel="scan.triton_selective:_walk",
        arguments={
            **STREAMS, **_fp32("p_start", "p_final", "p_decay"), **dict.fromkeys(rows, "i32:16"), "p_dt": "*bf16:16",
            "p_skip": "*bf16:16", "p_whole": "None" if with_out else "*fp32:16", "segments": "i32", "scale": "fp32",
        },
        constexprs={"PER_STATE": True, "IS_A_LOG": True, "WITH_OUT": with_out, "BLOCK_N": 16, "BLOCK_H": 32},
        num_warps=1,
    )  # fmt: skip


CASES = (
    _step("delta", _given("p_decay", "p_beta"), "token_head", 1, 128, 16, 4),
    _step("ssd", _given("p_decay", "p_dt", "p_skip"), "head", 1, 128, 32, 8),
    _step("s6", _given("p_decay", "p_dt", "p_skip"), "state", 32, 16, 1, 1),
    _step("erase_write", _given("p_decay", "p_erase", "p_write"), "token_channel", 1, 64, 16, 2),
    _step("gla", _given("p_decay"), "token_channel", 1, 256, 16, 8),
    _selective("whole", with_out=True),
    _selective("segment", with_out=False),
    _chunks("ssd", 128, 64, 8, spills=600),
    _chunks("ssd segment", 128, 64, 8, with_out=False),
    _chunks("small", 64, 64, 8, spills=200),
    _chunks("wide", 256, 32, 8, spills=1500),
)
