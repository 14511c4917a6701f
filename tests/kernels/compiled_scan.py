"""Launches of the scan kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from llmc.kernels.scan.triton_selective_backward import SELECTIVE_BACKWARD, WALKED

from .compile_for_gpu import Case

SIZES = {name: "i32:16" for name in ("heads", "key_dim", "value_dim", "v_row", "k_row", "q_row")}
ROWS = {name: "i32:16" for name in ("decay_row", "dt_row", "beta_row", "erase_row", "write_row")}
STREAMS = {"p_v": "*bf16:16", "p_k": "*bf16:16", "p_q": "*bf16:16", "p_out": "*bf16:16", "p_position": "*i64:16"}
ROW_NAMES = ("k_row", "q_row", "log_row", "beta_row", "erase_row", "write_row")
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


def _inside(name: str, update: str, key_dim: int, *, per_channel: bool, warps: int = 4, spills: int = 0) -> Case:
    tensors = ("p_k", "p_q", "p_scores", "p_reads", "p_writes")
    solved, erased = ("p_solves", "p_system"), ("p_scores_v", "p_feed", "p_writes_v", "p_erase", "p_write")
    rows = ("tokens", "count", "padded", "heads", "key_dim", *ROW_NAMES)
    is_solved, is_erased = update != "add", update == "erase_write"
    return Case(
        name=f"scan_inside {name}",
        kernel="scan.triton_inside:inside",
        arguments={
            **dict.fromkeys(tensors, "*bf16:16"), **dict.fromkeys(solved, "*bf16:16" if is_solved else "None"),
            **dict.fromkeys(erased, "*bf16:16" if is_erased else "None"), **dict.fromkeys(rows, "i32:16"),
            "p_position": "*i64:16", "p_log": "*fp32:16", "p_dt": "None", "p_whole": "*fp32:16", "shared": "i32",
            "p_beta": "*bf16:16" if update == "delta" else "None", **({"p_system": "*fp32:16"} if is_solved else {}),
        },
        constexprs={"UPDATE": update, "PER_CHANNEL": per_channel, "CHUNK": 64, "BLOCK_K": key_dim},
        num_warps=warps,
        spills=spills,
    )  # fmt: skip


def _between(name: str, update: str, key_dim: int, columns: int, warps: int, *, spills: int = 0) -> Case:
    tensors = ("p_v", "p_scores", "p_reads", "p_writes", "p_out")
    rows = ("tokens", "count", "padded", "heads", "key_dim", "value_dim", "v_row")
    is_solved, is_erased = update != "add", update == "erase_write"
    return Case(
        name=f"scan_between {name}",
        kernel="scan.triton_between:between",
        arguments={
            **dict.fromkeys(tensors, "*bf16:16"), **dict.fromkeys(rows, "i32:16"), "p_skip": "None", "scale": "fp32",
            "per_segment": "i32", "p_position": "*i64:16",
            **dict.fromkeys(("p_w", "p_u"), "*bf16:16" if is_solved else "None"),
            **dict.fromkeys(("p_scores_v", "p_writes_v"), "*bf16:16" if is_erased else "None"),
            **_fp32("p_whole", "p_initial", "p_final"), **dict.fromkeys(("p_states", "p_solution"), "None"),
        },
        constexprs={"UPDATE": update, "PER_CHANNEL": True, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": columns},
        num_warps=warps,
        num_stages=2,
        spills=spills,
    )  # fmt: skip


def _crossing(name: str, key_dim: int, columns: int, warps: int, *, backwards: bool) -> Case:
    return Case(
        name=f"scan_crossing {name}",
        kernel="scan.triton_crossing:crossing",
        arguments={
            "p_first": "*bf16:16", "p_second": "*bf16:16", **_fp32("p_whole", "p_crossing"), "padded": "i32:16",
            "per_segment": "i32", "key_dim": "i32:16",
        },
        constexprs={
            "PER_CHANNEL": backwards, "BACKWARDS": backwards, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": columns,
        },
        num_warps=warps,
        num_stages=2,
    )  # fmt: skip


def _pass_on(name: str, key_dim: int, columns: int, warps: int, *, with_matrices: bool) -> Case:
    return Case(
        name=f"scan_pass_on {name}",
        kernel="scan.triton_crossing:pass_on",
        arguments={
            **_fp32("p_left", "p_whole", "p_states", "p_last"), "p_crossing": "*fp32:16" if with_matrices else "None",
            "padded": "i32:16", "per_segment": "i32", "segments": "i32", "key_dim": "i32:16", "value_dim": "i32:16",
        },
        constexprs={
            "PER_CHANNEL": True, "BACKWARDS": with_matrices, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": columns,
            "PRECISION": "tf32",
        },
        num_warps=warps,
        num_stages=1,
    )  # fmt: skip


def _solved(name: str, update: str, key_dim: int, columns: int) -> Case:
    tensors, sizes = ("p_solves", "p_v", "p_w", "p_u"), ("heads", "key_dim", "value_dim", "v_row")
    rows = ("tokens", "count", "padded", *sizes)
    is_erased = update == "erase_write"
    return Case(
        name=f"scan_solved {name}",
        kernel="scan.triton_between:solved",
        arguments={
            **dict.fromkeys(tensors, "*bf16:16"), **dict.fromkeys(rows, "i32:16"), "p_inverse": "*fp32:16",
            "p_feed": "*bf16:16" if is_erased else "None", "p_position": "*i64:16", "beta_row": "i32:16",
            "p_beta": "None" if is_erased else "*bf16:16", "p_dt": "None",
        },
        constexprs={"UPDATE": update, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": columns},
    )  # fmt: skip


def _states(name: str, *, backwards: bool) -> Case:
    rows = ("tokens", "heads", "key_dim", "value_dim", "x_row", "y_row")
    return Case(
        name=f"scan_states {name}",
        kernel="scan.triton_chunked_backward:_states",
        arguments={
            **dict.fromkeys(("p_x", "p_y", "p_states"), "*bf16:16"), **_fp32("p_log", "p_begin", "p_end"),
            **dict.fromkeys(rows, "i32:16"), "p_dt": "None" if backwards else "*fp32:16", "p_position": "*i64:16",
            "chunks": "i32", "shared": "i32", "scale": "fp32",
        },
        constexprs={"BACKWARDS": backwards, "CHUNK": 64, "BLOCK_K": 64, "BLOCK_V": 64},
        num_stages=2,
    )  # fmt: skip


def _backward(name: str, kernel: str, key_dim: int, value_dim: int) -> Case:
    rows = ("tokens", "heads", "key_dim", "value_dim", "v_row", "k_row", "q_row", "grad_row")
    tensors, wide, counts = {
        "_values": (("p_slopes", "p_skip", "p_grad_v"), ("p_grad_dt", "p_grad_skip"), ("chunks",)),
        "_keys": (("p_slopes", "p_states", "p_pairs", "p_grad_k", "p_grad_q"), ("p_grad_log",), ("chunks", "part")),
        "_pairs": (("p_pairs",), ("p_grad_log",), ("chunks",)),
    }[kernel]
    return Case(
        name=f"scan_chunk backward {name}",
        kernel=f"scan.triton_chunked_backward:{kernel}",
        arguments={
            **dict.fromkeys(("p_v", "p_k", "p_q", "p_grad", *tensors), "*bf16:16"), **dict.fromkeys(rows, "i32:16"),
            **_fp32("p_log", "p_dt", *wide), "p_position": "*i64:16", "scale": "fp32",
            **dict.fromkeys(("shared", *counts), "i32"),
        },
        constexprs={"CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": value_dim},
        num_stages=1,
    )  # fmt: skip


def _selective_backward(name: str, kernel: str, *, states: int = 16, backwards: bool = False, spills: int = 0) -> Case:
    """As the rule shapes them."""
    tensors = ("p_x", "p_y", "p_v", "p_k", "p_q", "p_dt", "p_skip", "p_grad", "p_grad_v", "p_grad_dt")
    wide = ("p_decay", "p_left", "p_whole", "p_starts", "p_slopes", "p_kept", "p_grad_k", "p_grad_q", "p_grad_rate")
    rows = ("tokens", "channels", "key_dim", "x_row", "y_row", "v_row", "k_row", "q_row", "dt_row", "grad_row")
    of_walk = ("p_x", "p_y", "p_left", "p_whole", "x_row", "y_row")
    both = ("p_position", "p_decay", "p_dt", "tokens", "segments", "channels", "key_dim", "dt_row", "scale")
    every = {
        **dict.fromkeys(tensors, "*bf16:16"), **_fp32(*wide, "p_grad_skip"), **dict.fromkeys(rows, "i32:16"),
        "p_position": "*i64:16", "segments": "i32", "batch": "i32", "scale": "fp32",
    }  # fmt: skip
    is_walk = kernel == "_walk"
    taken = {name: kind for name, kind in every.items() if name in both or (name in of_walk) == is_walk}
    rule = SELECTIVE_BACKWARD.rule({"key_dim": states})
    own = {"BACKWARDS": backwards, "BLOCK_H": WALKED} if is_walk else {x: rule[x] for x in ("BACK", "BLOCK_H")}
    return Case(
        name=f"scan_selective backward {name}",
        kernel=f"scan.triton_selective_backward:{kernel}",
        arguments=taken,
        constexprs={"PER_STATE": True, "IS_A_LOG": True, "SEGMENT": 64, "BLOCK_N": states, **own},
        num_warps=1 if is_walk else rule["num_warps"],
        spills=spills,
    )


def _delta_backward(
    name: str, kernel: str, update: str, key_dim: int, value_dim: int, *, per_channel: bool, warps: int = 4
) -> Case:
    """A kernel of triton_between_backward, its arguments picked from those of all of them."""
    always = ("p_grad", "p_v", "p_scores", "p_reads", "p_writes", "p_slopes", "p_states", "p_grad_u", "p_grad_v")
    solved, erased = ("p_w", "p_u", "p_right", "p_grad_system", "p_grad_solves"), (
        "p_scores_v", "p_writes_v", "p_feed", "p_grad_scores_v", "p_grad_feed", "p_grad_writes_v")  # fmt: skip
    is_solved, is_erased = update != "add", update == "erase_write"
    every = {
        **dict.fromkeys((*always, "p_skip", "p_grad_scores", "p_grad_reads", "p_grad_writes"), "*bf16:16"),
        **dict.fromkeys(solved, "*bf16:16" if is_solved else "None"), "p_right": "*bf16:16",
        **dict.fromkeys(erased, "*bf16:16" if is_erased else "None"),
        **_fp32("p_whole", "p_end", "p_begin", "p_grad_skip", "p_grad_whole"), "p_dt": "None",
        "p_inverse": "*fp32:16" if is_solved else "None", "p_beta": "*bf16:16" if update == "delta" else "None",
        "p_grad_amount": "*fp32:16" if update == "delta" else "None", "p_position": "*i64:16", "scale": "fp32",
        **dict.fromkeys(("tokens", "count", "padded", "heads", "key_dim", "value_dim", "grad_row", "v_row"), "i32:16"),
        "beta_row": "i32:16", "per_segment": "i32",
    }  # fmt: skip
    constants = {
        "UPDATE": update, "PER_CHANNEL": per_channel, "CHUNK": 64, "BLOCK_K": key_dim, "BLOCK_V": value_dim,
        "PRECISION": "tf32",
    }  # fmt: skip
    names = TAKEN[kernel].split()
    return Case(
        name=f"scan_delta {kernel} {name}",
        kernel=f"scan.triton_between_backward:{kernel}",
        arguments={key: every[key] for key in names if key in every},
        constexprs={key: constants[key] for key in names if key in constants},
        num_warps=warps,
        num_stages=2,
    )


def _inside_backward(name: str, update: str, key_dim: int, *, per_channel: bool) -> Case:
    both = ("scores", "reads", "writes"), ("system", "solves"), ("scores_v", "feed", "writes_v")
    is_given = (True, update != "add", update == "erase_write")
    kinds = {
        f"p_grad_{what}": "*bf16:16" if given else "None"
        for group, given in zip(both, is_given, strict=True)
        for what in group
    }
    kinds |= {
        "p_reads": "*bf16:16", "p_writes": "*bf16:16", "p_solves": kinds["p_grad_solves"],
        "p_writes_v": kinds["p_grad_writes_v"], "p_erase": kinds["p_grad_feed"], "p_write": kinds["p_grad_feed"],
        "p_grad_erase": kinds["p_grad_feed"], "p_grad_write": kinds["p_grad_feed"],
    }  # fmt: skip
    rows = ("tokens", "key_tokens", "count", "padded", "heads", "key_dim", *ROW_NAMES)
    is_delta = update == "delta"
    return Case(
        name=f"scan_inside backward {name}",
        kernel="scan.triton_inside_backward:inside_backward",
        arguments={
            **kinds, **dict.fromkeys(("p_k", "p_q", "p_grad_k", "p_grad_q"), "*bf16:16"), "p_position": "*i64:16",
            **_fp32("p_log", "p_grad_whole", "p_grad_log", "p_grad_dt", "p_grad_beta"), "p_dt": "None",
            "p_beta": "*bf16:16" if is_delta else "None", "p_grad_amount": "*fp32:16" if is_delta else "None",
            **dict.fromkeys(rows, "i32:16"), "shared": "i32",
        },
        constexprs={
            "UPDATE": update, "PER_CHANNEL": per_channel, "CHUNK": 64, "BLOCK_K": key_dim, "PRECISION": "tf32",
        },
        num_warps=8 if per_channel and update != "add" else 4,
    )  # fmt: skip


TAKEN = {
    "between_backward": """p_grad p_position p_scores p_reads p_writes p_w p_whole p_end p_slopes p_grad_u p_begin
        tokens count padded per_segment heads key_dim value_dim grad_row scale
        UPDATE PER_CHANNEL CHUNK BLOCK_K BLOCK_V""",
    "values_backward": """p_grad p_v p_position p_skip p_beta p_dt p_inverse p_scores_v p_writes_v p_feed p_slopes
        p_grad_u p_grad_v p_grad_amount p_grad_skip
        tokens count padded heads key_dim value_dim grad_row v_row beta_row scale
        UPDATE CHUNK BLOCK_K BLOCK_V PRECISION""",
    "squares_backward": """p_grad p_v p_position p_u p_right p_grad_scores p_grad_system p_grad_scores_v p_grad_feed
        tokens count padded heads value_dim grad_row v_row scale UPDATE CHUNK BLOCK_V PRECISION""",
    "keys_backward": """p_grad p_v p_position p_u p_right p_whole p_states p_slopes p_grad_reads p_grad_solves
        p_grad_writes p_grad_writes_v p_grad_whole
        tokens count padded heads key_dim value_dim grad_row v_row scale
        UPDATE PER_CHANNEL CHUNK BLOCK_K BLOCK_V PRECISION""",
}
"""Which arguments each kernel takes."""

CASES = (
    _step("delta", _given("p_decay", "p_beta"), "token_head", 1, 128, 16, 4),
    _step("ssd", _given("p_decay", "p_dt", "p_skip"), "head", 1, 128, 32, 8),
    _step("s6", _given("p_decay", "p_dt", "p_skip"), "state", 32, 16, 1, 1),
    _step("erase_write", _given("p_decay", "p_erase", "p_write"), "token_channel", 1, 64, 16, 2),
    _step("gla", _given("p_decay"), "token_channel", 1, 256, 16, 8),
    _selective("whole", with_out=True),
    _selective("segment", with_out=False),
    _chunks("ssd", 128, 32, 4, spills=127),
    _chunks("ssd segment", 128, 32, 4, with_out=False),
    _chunks("small", 64, 64, 4, spills=127),
    _chunks("wide", 256, 16, 4, spills=127),
    _states("forward", backwards=False),
    _states("backward", backwards=True),
    _backward("values", "_values", 128, 64),
    _backward("keys", "_keys", 32, 64),
    _backward("pairs", "_pairs", 128, 64),
    _backward("wide values", "_values", 256, 64),
    _backward("wide pairs", "_pairs", 256, 64),
    _selective_backward("walk", "_walk"),
    _selective_backward("walk back", "_walk", backwards=True),
    _selective_backward("segment", "_segment", spills=72),  # none of them in a loop
    _selective_backward("wide segment", "_segment", states=64),
    _inside("delta", "delta", 128, per_channel=False, spills=8),
    _inside("delta by channel", "delta", 128, per_channel=True),
    _inside("gla", "add", 256, per_channel=True, warps=8),
    _inside("erase_write", "erase_write", 64, per_channel=True),
    Case(
        name="scan_invert",
        kernel="scan.triton_inside:invert",
        arguments={"p_system": "*fp32:16", "padded": "i32:16"},
        constexprs={"CHUNK": 64},
        num_warps=2,
    ),
    _solved("delta", "delta", 128, 64),
    _solved("erase_write", "erase_write", 64, 64),
    _between("delta", "delta", 128, 64, 8),
    _between("gla", "add", 256, 32, 8),
    _between("erase_write", "erase_write", 64, 64, 4),
    _crossing("delta", 128, 64, 8, backwards=False),
    _crossing("erase_write backward", 64, 64, 4, backwards=True),
    _pass_on("delta", 128, 64, 8, with_matrices=True),
    _pass_on("gla", 256, 32, 8, with_matrices=False),
    _delta_backward("delta", "between_backward", "delta", 128, 64, per_channel=False, warps=8),
    _delta_backward("gla", "between_backward", "add", 256, 32, per_channel=True, warps=8),
    _delta_backward("erase_write", "between_backward", "erase_write", 64, 64, per_channel=True),
    *(
        _delta_backward(
            update,
            kernel,
            update,
            64,
            64,
            per_channel=update != "delta",
            warps=8 if update == "erase_write" and kernel != "squares_backward" else 4,
        )
        for kernel in ("values_backward", "squares_backward", "keys_backward")
        for update in ("add", "delta", "erase_write")
    ),
    _inside_backward("delta", "delta", 64, per_channel=False),
    _inside_backward("delta by channel", "delta", 64, per_channel=True),
    _inside_backward("gla", "add", 64, per_channel=True),
    _inside_backward("erase_write", "erase_write", 64, per_channel=True),
)
