"""Launches of the expert kernels that must compile for a GPU; the first one always, the others in the long form."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from llmc.kernels.gpu import target
from llmc.kernels.moe.triton_experts_packed_grouped import PACKED
from llmc.kernels.moe.triton_experts_ternary import OUTPUTS, inner_rule

from .compile_for_gpu import Case

POINTERS = {
    "p_weights": "*fp32:16", "p_experts": "*i64:16", "p_order": "*i32:16", "p_hidden": "*fp32:16", "M": "i32:16",
    "F": "i32:16", "s_expert": "i32:16",
}  # fmt: skip
OUT_IN, IN_OUT = {"s_out": "i32:16", "s_in": "i32:1"}, {"s_out": "i32:1", "s_in": "i32:16"}


def _inner(name: str, strides: dict[str, str], *, packed: bool, out: int, into: int) -> Case:
    return Case(
        name=f"experts_decode_inner {name}",
        kernel="moe.triton_experts_decode:_inner_units",
        arguments={
            **POINTERS, **strides, "p_x": "*bf16:16", "p_gate": "*bf16:16", "p_up": "*bf16:16", "limit": "fp32",
            "p_gate_bias": "None", "p_up_bias": "*bf16:16" if packed else "None", "s_bias": "i32:16",
            "up_offset": "fp32",
        },
        constexprs={
            "K": 8, "KIND": "silu", "IS_GATED": True, "IS_INTERLEAVED": packed, "HAS_BIAS": packed,
            "HAS_LIMIT": packed, "WEIGHS_INPUT": False, "BLOCK_OUT": out, "BLOCK_IN": into, "BLOCK_K": 8, "STAGES": 1,
        },
        num_stages=1,
    )  # fmt: skip


def _outputs(name: str, strides: dict[str, str], *, result: str, out: int, into: int, stages: int) -> Case:
    return Case(
        name=f"experts_decode_outputs {name}",
        kernel="moe.triton_experts_decode:_outputs",
        arguments={
            **POINTERS, **strides, "p_down": "*bf16:16", "p_bias": "*bf16:16", "p_out": result, "steps": "i32",
        },
        constexprs={
            "K": 8, "HAS_BIAS": True, "WEIGHS_OUTPUT": True, "BLOCK_OUT": out, "BLOCK_IN": into, "STAGES": stages,
        },
        num_stages=1,
    )  # fmt: skip


STACKS = {
    0: ("*i32:16", "*fp32:16"), 1: ("*u8:16", "*fp32:16"), 32: ("*u8:16", "*fp16:16"), 128: ("*u8:16", "*fp16:16"),
}  # fmt: skip
"""Numbers and scales by what `experts_packed` calls a group: 0 is ternary, 1 int8."""


def _packed(group: int, *, interleaved: bool) -> tuple[Case, Case]:
    """Inner units and outputs of int8 weights, group 1, or int4."""
    stack, scale = STACKS[group]
    sizes = {"M": "i32:16", "F": "i32:16", "size": "i32:16", "scales": "i32"}
    pointers = {"p_weights": "*fp32:16", "p_experts": "*i64:16", "p_hidden": "*fp32:16", "p_order": "*i32:16"}
    blocks = {"K": 8, "G": group, "BLOCK_OUT": 4, "BLOCK_IN": 1024 if group <= 1 else 512 // group}
    inner = Case(
        name=f"experts_packed_inner {group}{' interleaved' if interleaved else ''}",
        kernel="moe.triton_experts_packed_decode:_inner_units",
        arguments={
            **pointers, **sizes, "p_x": "*bf16:16", "p_gate": stack, "p_gate_scales": scale, "p_up": stack,
            "p_up_scales": scale, "p_gate_bias": "None", "p_up_bias": "*bf16:16" if interleaved else "None",
            "rows": "i32:16", "up_row": "i32", "s_bias": "i32:16", "limit": "fp32", "up_offset": "fp32",
        },
        constexprs={
            **blocks, "KIND": "silu", "IS_GATED": True, "IS_INTERLEAVED": interleaved, "HAS_BIAS": interleaved,
            "HAS_LIMIT": interleaved, "WEIGHS_INPUT": False, "BLOCK_K": 8,
        },
    )  # fmt: skip
    outputs = Case(
        name=f"experts_packed_outputs {group}{' interleaved' if interleaved else ''}",
        kernel="moe.triton_experts_packed_decode:_outputs",
        arguments={**pointers, **sizes, "p_down": stack, "p_scales": scale, "p_bias": "None", "p_out": "*bf16:16"},
        constexprs={**blocks, "HAS_BIAS": False, "WEIGHS_OUTPUT": True},
    )
    return inner, outputs


def _ternary(words: int) -> tuple[Case, Case]:
    """Inner units and outputs, as the rules shape them."""
    key = {"size": 4 * words, "picks": 8}
    inner, outputs = dict(inner_rule(key)), dict(OUTPUTS.rule(key))
    whole, _ = _packed(0, interleaved=False)
    return replace(
        whole,
        name=f"experts_ternary_inner {words}",
        num_warps=inner.pop("num_warps"),
        constexprs={**whole.constexprs, **inner},
    ), Case(
        name=f"experts_ternary_outputs {words}",
        kernel="moe.triton_experts_ternary:outputs_of_2",
        arguments={
            "p_hidden": "*fp32:16", "p_weights": "*fp32:16", "p_experts": "*i64:16", "p_order": "*i32:16",
            "p_down": "*i32:16", "p_scales": "*fp32:16", "p_bias": "*bf16:16", "p_out": "*bf16:16", "M": "i32:16",
            "F": "i32:16", "words": "i32:16",
        },
        num_warps=outputs.pop("num_warps"),
        constexprs={"K": 8, "HAS_BIAS": True, "WEIGHS_OUTPUT": True, "WORDS": words, **outputs},
    )  # fmt: skip


def _packed_grouped(
    group: int, *, rows: int, is_first: bool, interleaved: bool = False, architecture: str = "sm_90", of: str = "bf16"
) -> Case:
    """As the rule shapes it, of gate and up with their activation, or of outputs."""
    stack, scale = "*u8:16", STACKS[group][1]
    key = {"rows": rows, "group": group, "is_gated": int(is_first), "dtype": "bfloat16"}
    with mock.patch.object(target, "_present", return_value=architecture):
        config = dict(PACKED.rule(key))
    warps, stages = config.pop("num_warps"), config.pop("num_stages")
    config["BLOCK_N"] //= 1 + interleaved
    kind = "first" if is_first else "second"
    return Case(
        name=f"experts_packed_grouped {group} {rows} {kind}{' interleaved' * interleaved} {architecture} {of}",
        kernel="moe.triton_experts_packed_grouped:_grouped",
        arguments={
            **{name: type for name, type in TABLE.items() if name.startswith("p_")},
            "p_x": f"*{of}:16" if group else "*i8:16",
            "p_factors": "None" if group else "*fp32:16", "p_counts": "None" if group else "*i32:16",
            "p_weights": "*fp32:16", "p_slots": "*i32:16", "p_gate": stack, "p_gate_scales": scale, "p_up": stack,
            "p_up_scales": scale, "p_gate_bias": "None", "p_up_bias": "*bf16:16" if interleaved else "None",
            "p_out": f"*{of}:16", "width": "i32:16", "stride": "i32:16", "units": "i32:16", "rows": "i32:16",
            "up_row": "i32:16", "size": "i32:16", "scales": "i32:16" if group > 1 else "i32:1", "s_bias": "i32:16",
            "limit": "fp32", "up_offset": "fp32",
        },
        constexprs={
            "K": 8, "GATHERS": is_first, "KIND": "silu" if is_first else "", "IS_GATED": is_first,
            "IS_INTERLEAVED": interleaved, "HAS_BIAS": interleaved, "HAS_LIMIT": False, "WEIGHS": False, "G": group,
            "BLOCK_M": rows, **config,
        },
        num_warps=warps,
        num_stages=stages,
        architecture=architecture,
    )  # fmt: skip


TABLE = {"p_starts": "*i32:16", "p_tiles": "*i32:16", "p_count": "*i32:16", "M": "i32:16", "F": "i32:16"}


def _first(
    name: str, strides: dict[str, str], *, packed: bool, rows: int, lanes: int, warps: int, stages: int,
    keeps: bool = False,
) -> Case:  # fmt: skip
    return Case(
        name=f"experts_grouped_first {name}",
        kernel="moe.triton_experts_grouped:_first",
        arguments={
            **TABLE, **strides, "p_x": "*bf16:16", "p_weights": "*fp32:16", "p_slots": "*i32:16", "p_gate": "*bf16:16",
            "p_up": "*bf16:16", "p_gate_bias": "None", "p_up_bias": "*bf16:16" if packed else "None",
            "p_hidden": "*bf16:16", "p_kept": "*bf16:16", "s_expert": "i32:16", "s_bias": "i32:16", "limit": "fp32",
            "up_offset": "fp32",
        },
        constexprs={
            "K": 8, "KIND": "silu", "IS_GATED": True, "IS_INTERLEAVED": packed, "HAS_BIAS": packed,
            "HAS_LIMIT": packed, "WEIGHS_INPUT": False, "KEEPS": keeps, "BLOCK_M": rows,
            "BLOCK_N": lanes, "BLOCK_K": 64,
        },
        num_warps=warps,
        num_stages=stages,
    )  # fmt: skip


def _second(name: str, strides: dict[str, str], *, rows: int, lanes: int, warps: int, stages: int) -> Case:
    return Case(
        name=f"experts_grouped_second {name}",
        kernel="moe.triton_experts_grouped:_second",
        arguments={
            **TABLE, **strides, "p_hidden": "*bf16:16", "p_down": "*bf16:16", "p_bias": "*bf16:16",
            "p_parts": "*bf16:16", "s_expert": "i32:16",
        },
        constexprs={"HAS_BIAS": True, "BLOCK_M": rows, "BLOCK_N": lanes, "BLOCK_K": 64},
        num_warps=warps,
        num_stages=stages,
    )  # fmt: skip


def _inner_gradients(name: str, *, packed: bool, rows: int, lanes: int, warps: int, stages: int) -> Case:
    return Case(
        name=f"experts_backward_inner {name}",
        kernel="moe.triton_experts_slopes:inner_gradients",
        arguments={
            **TABLE, **(IN_OUT if packed else OUT_IN), "p_grad": "*bf16:16", "p_weights": "*fp32:16",
            "p_slots": "*i32:16", "p_down": "*bf16:16", "p_kept": "*bf16:16", "p_hidden": "*bf16:16",
            "p_inner": "*bf16:16", "p_shares": "*fp32:16", "slots": "i32:16", "s_expert": "i32:16", "limit": "fp32",
            "up_offset": "fp32",
        },
        constexprs={
            "K": 8, "KIND": "silu", "IS_GATED": True, "IS_INTERLEAVED": packed, "HAS_LIMIT": packed,
            "WEIGHS_INPUT": False, "BLOCK_M": rows, "BLOCK_N": lanes, "BLOCK_K": 64, "IN_QUARTERS": int(rows >= 64),
        },
        num_warps=warps,
        num_stages=stages,
    )  # fmt: skip


def _input_gradients(name: str, *, packed: bool, rows: int, lanes: int, warps: int, stages: int) -> Case:
    return Case(
        name=f"experts_backward_input {name}",
        kernel="moe.triton_experts_backward:_input_gradients",
        arguments={
            **TABLE, **(IN_OUT if packed else OUT_IN), "p_inner": "*bf16:16", "p_x": "*bf16:16", "p_slots": "*i32:16",
            "p_gate": "*bf16:16", "p_up": "*bf16:16", "p_parts": "*bf16:16", "p_shares": "*fp32:16",
            "slots": "i32:16", "s_expert": "i32:16",
        },
        constexprs={
            "K": 8, "IS_GATED": True, "IS_INTERLEAVED": packed, "WEIGHS_INPUT": False, "BLOCK_M": rows,
            "BLOCK_N": lanes, "BLOCK_K": 64,
        },
        num_warps=warps,
        num_stages=stages,
    )  # fmt: skip


def _outer_products(name: str, *, along: str, rows: int, lanes: int, depth: int, warps: int) -> Case:
    strides = {"s_r": "i32:16", "s_c": "i32:1"} if along == "c" else {"s_r": "i32:1", "s_c": "i32:16"}
    return Case(
        name=f"experts_backward_sums {name}",
        kernel="moe.triton_experts_backward:_outer_products",
        arguments={
            **strides, "p_left": "*bf16:16", "p_right": "*bf16:16", "p_weights": "*fp32:16", "p_slots": "*i32:16",
            "p_starts": "*i32:16", "p_out": "*bf16:16", "R": "i32:16", "C": "i32:16", "s_left": "i32:16",
            "s_expert": "i32:16",
        },
        constexprs={"K": 8, "WEIGHS": False, "BLOCK_R": rows, "BLOCK_C": lanes, "BLOCK_S": depth},
        num_warps=warps,
    )  # fmt: skip


def _dispatch(kernel: str, pointers: tuple[str, ...], sizes: tuple[str, ...], **blocks: int) -> Case:
    return Case(
        name=f"experts_dispatch {kernel}",
        kernel=f"moe.triton_dispatch:{kernel}",
        arguments={
            **{name: "*i64:16" if name == "p_picks" else "*i32:16" for name in pointers},
            **dict.fromkeys(sizes, "i32:16"),
        },
        constexprs=blocks,
    )


CHOICE = {
    "K": 8, "SCORE": "sigmoid", "IS_OVER_CHOSEN": False, "HAS_CORRECTION": True, "NORMALISES": True, "GROUPS": 8,
    "TOP_GROUPS": 4, "SUMS_TWO": True, "BLOCK_K": 8, "BLOCK_G": 8,
}  # fmt: skip
ROUTER = {
    "p_x": "*bf16:16", "p_weight": "*bf16:16", "p_bias": "None", "p_logits": "*fp32:16", "M": "i32:16", "E": "i32:16",
}  # fmt: skip
PICKS = {"p_correction": "*bf16:16", "p_weights": "*fp32:16", "p_experts": "*i64:16", "size": "i32", "scale": "fp32"}

CASES = (
    _inner("out_in", OUT_IN, packed=False, out=4, into=512),
    _inner("interleaved in_out", IN_OUT, packed=True, out=32, into=128),
    _outputs("out_in", OUT_IN, result="*bf16:16", out=4, into=512, stages=1),
    _outputs("out_in staged", OUT_IN, result="*bf16:16", out=4, into=512, stages=3),
    _outputs("in_out", IN_OUT, result="*fp32:16", out=64, into=128, stages=1),
    Case(
        name="experts_decode_sum",
        kernel="moe.triton_experts_decode:_sum_parts",
        arguments={"p_parts": "*fp32:16", "p_out": "*bf16:16", "M": "i32:16", "parts": "i32"},
        constexprs={"BLOCK": 1024},
    ),
    *(one for group in (1, 32, 128) for one in _packed(group, interleaved=group == 32)),
    *(one for words in (64, 128, 1024) for one in _ternary(words)),
    *(
        _packed_grouped(group, rows=rows, is_first=is_first)
        for group in (32, 1, 128, 0)
        for rows in (128, 64, 16)
        for is_first in (True, False)
        if group or rows < 128
    ),
    *(
        case
        for group, rows in ((32, 128), (1, 128), (0, 64))
        for case in (
            _packed_grouped(group, rows=rows, is_first=True, interleaved=True),
            _packed_grouped(group, rows=rows, is_first=True, architecture="sm_86"),
            _packed_grouped(group, rows=rows, is_first=True, of="fp16"),
        )
    ),
    _first("128x128", OUT_IN, packed=False, rows=128, lanes=128, warps=8, stages=3),
    _first("interleaved in_out", IN_OUT, packed=True, rows=128, lanes=128, warps=8, stages=3),
    _first("16x64", OUT_IN, packed=False, rows=16, lanes=64, warps=4, stages=4),
    _second("128x256", OUT_IN, rows=128, lanes=256, warps=8, stages=3),
    _second("in_out 64x128", IN_OUT, rows=64, lanes=128, warps=4, stages=4),
    Case(
        name="experts_grouped_sum",
        kernel="moe.triton_experts_grouped:_sum_picks",
        arguments={
            "p_parts": "*bf16:16", "p_weights": "*fp32:16", "p_positions": "*i32:16", "p_out": "*bf16:16",
            "M": "i32:16",
        },
        constexprs={"K": 8, "WEIGHS": True, "BLOCK": 1024, "BLOCK_K": 8},
    ),
    _first("128x128, kept", OUT_IN, packed=False, rows=128, lanes=128, warps=8, stages=3, keeps=True),
    _first("interleaved in_out, kept", IN_OUT, packed=True, rows=128, lanes=128, warps=8, stages=3, keeps=True),
    _inner_gradients("128x128", packed=False, rows=128, lanes=128, warps=8, stages=3),
    _inner_gradients("interleaved 128x128", packed=True, rows=128, lanes=128, warps=8, stages=3),
    _inner_gradients("16x128", packed=False, rows=16, lanes=128, warps=4, stages=4),
    _input_gradients("128x256", packed=False, rows=128, lanes=256, warps=8, stages=3),
    _input_gradients("interleaved 128x256", packed=True, rows=128, lanes=256, warps=8, stages=3),
    _input_gradients("16x128", packed=False, rows=16, lanes=128, warps=4, stages=4),
    _outer_products("128x256", along="c", rows=128, lanes=256, depth=64, warps=8),
    _outer_products("128x256 down", along="r", rows=128, lanes=256, depth=64, warps=8),
    _outer_products("128x128", along="c", rows=128, lanes=128, depth=32, warps=4),
    Case(
        name="experts_backward_biases",
        kernel="moe.triton_experts_backward:_bias_gradients",
        arguments={
            "p_rows": "*bf16:16", "p_weights": "*fp32:16", "p_slots": "*i32:16", "p_starts": "*i32:16",
            "p_out": "*bf16:16", "s_row": "i32:16", "width": "i32:16",
        },
        constexprs={"K": 8, "GATHERS": True, "WEIGHS": True, "BLOCK": 128, "BLOCK_S": 32},
    ),
    _dispatch("_count", ("p_picks", "p_counts"), ("slots", "E"), BLOCK=128, BLOCK_E=128),
    _dispatch("_sum_blocks", ("p_counts", "p_totals"), ("blocks", "E"), BLOCK=4096),
    _dispatch(
        "_list_tiles", ("p_totals", "p_starts", "p_tiles", "p_count"), ("E",), TILE=128, BLOCK=128, BLOCK_E=128
    ),
    _dispatch(
        "_place", ("p_picks", "p_counts", "p_starts", "p_slots", "p_positions"), ("slots", "E"), BLOCK=128, BLOCK_E=128
    ),
    Case(
        name="router_whole",
        kernel="moe.triton_router:_whole",
        arguments={**ROUTER, **PICKS},
        constexprs={**CHOICE, "HAS_BIAS": False, "BLOCK_E": 32, "BLOCK_IN": 256},
        num_warps=8,
    ),
    Case(
        name="router_logits_of_few",
        kernel="moe.triton_router:_logits_of_few",
        arguments=ROUTER,
        constexprs={"HAS_BIAS": False, "BLOCK_OUT": 2, "BLOCK_IN": 1024},
    ),
    *(
        Case(
            name=f"router_logits_of_many {rows}x{lanes}",
            kernel="moe.triton_router:_logits_of_many",
            arguments={**ROUTER, "tokens": "i32"},
            constexprs={"HAS_BIAS": False, "BLOCK_M": rows, "BLOCK_N": lanes, "BLOCK_K": depth},
            num_warps=warps,
        )
        for rows, lanes, depth, warps in ((64, 128, 64, 4), (16, 16, 128, 2))
    ),
    *(
        Case(
            name=f"router_pick {rows}",
            kernel="moe.triton_router:_pick",
            arguments={**PICKS, "p_logits": "*fp32:16", "tokens": "i32", "E": "i32:16"},
            constexprs={**CHOICE, "BLOCK_E": 256, "ROWS": rows},
        )
        for rows in (1, 16)
    ),
    *(
        Case(
            name=f"router_backward_logits {rows}",
            kernel="moe.triton_router_backward:_of_logits",
            arguments={
                "p_logits": "*fp32:16", "p_experts": "*i64:16", "p_grad": "*fp32:16", "p_grad_logits": "*fp32:16",
                "p_out": "*fp32:16", "tokens": "i32", "E": "i32:16", "scale": "fp32",
            },
            constexprs={
                "K": 8, "SCORE": "softmax", "IS_OVER_CHOSEN": False, "NORMALISES": True, "HAS_GRAD_LOGITS": True,
                "BLOCK_E": 256, "BLOCK_K": 8, "ROWS": rows,
            },
        )
        for rows in (1, 16)
    ),
    *(
        Case(
            name=f"router_backward_product {name}",
            kernel="moe.triton_router_backward:_product",
            arguments={
                **strides, "p_a": "*fp32:16", "p_b": "*bf16:16", "p_out": out, "high": "i32", "wide": "i32:16",
                "deep": "i32", "steps": "i32", "s_bk": "i32:16",
            },
            constexprs={"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "PRECISION": "tf32x3"},
        )
        for name, strides, out in (
            ("tokens", {"s_am": "i32:16", "s_ak": "i32:1"}, "*bf16:16"),
            ("weight", {"s_am": "i32:1", "s_ak": "i32:16"}, "*fp32:16"),
        )
    ),
)  # fmt: skip
