"""Launches of the attention kernels of many queries that must compile for a GPU; the first one always."""

from __future__ import annotations

from .compile_for_gpu import Case

FORWARD = {
    "p_q": "*bf16:16", "p_k": "*bf16:16", "p_v": "*bf16:16", "p_position": "*i64:16", "p_key": "*i64:16",
    "p_plan": "*i32:16", "p_bias": "None", "p_distance": "None", "p_sink": "None", "p_seed": "None",
    "p_out": "*bf16:16", "p_lse": "*fp32:16", "s_q_batch": "i32:16", "s_q": "i32:16", "s_k_batch": "i32:16",
    "s_k_head": "i32:16",
    "s_k": "i32:16", "s_v_batch": "i32:16", "s_v_head": "i32:16", "s_v": "i32:16", "s_position": "i32:16",
    "s_key": "i32:16", "s_bias_head": "i32", "s_bias_query": "i32", "s_bias_key": "i32", "batch": "i32",
    "heads": "i32:16", "queries": "i32:16", "keys": "i32:16", "group": "i32", "power": "i32", "blocks": "i32",
    "head_dim": "i32:16", "v_head_dim": "i32:16", "window": "i32", "chunk": "i32", "scale": "fp32",
    "softcap": "fp32", "reach": "i32", "drop": "i32", "at_once": "i32",
}  # fmt: skip
PLAIN = {
    "CAUSAL": True, "HAS_WINDOW": False, "HAS_CHUNK": False, "IS_PLAIN": True, "HAS_SOFTCAP": False,
    "HAS_ALIBI": False, "HAS_BIAS": False, "HAS_DISTANCE": False, "HAS_DROPOUT": False, "HAS_SINK": False,
    "DESCRIBED": False,
    "EVEN_D": True, "EVEN_DV": True,
}  # fmt: skip
ALL = {**PLAIN, "HAS_WINDOW": True, "HAS_CHUNK": True, "IS_PLAIN": False, "HAS_SOFTCAP": True, "HAS_ALIBI": True,
       "HAS_BIAS": True, "HAS_DISTANCE": True, "HAS_SINK": True}  # fmt: skip
SINGLE = {"p_q": "*fp32:16", "p_k": "*fp32:16", "p_v": "*fp32:16", "p_out": "*fp32:16"}
OPERANDS = {"p_bias": "*bf16:16", "p_distance": "*fp32:16", "p_sink": "*bf16:16"}


def forward(
    name: str,
    m: int,
    n: int,
    d: int,
    dv: int,
    num_warps: int,
    num_stages: int,
    flags: dict[str, bool],
    arguments: dict[str, str],
) -> Case:
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": d, "BLOCK_DV": dv}
    return Case(
        name=f"attention forward {name} {m}x{n}, heads of {d} and {dv}, {num_warps} warps, {num_stages} stages",
        kernel="attention.triton_prefill:_forward",
        arguments={**FORWARD, **arguments},
        constexprs={**flags, **blocks},
        num_warps=num_warps,
        num_stages=num_stages,
    )


BIASES = {name: kind for name, kind in OPERANDS.items() if name != "p_sink"}
SINGLES = {name: "*fp32:16" for name in ("p_q", "p_k", "p_v", "p_grad")}
SINGLE_QUERIES = {**SINGLES, "p_grad_q": "*fp32:16"}
SINGLE_KEYS = {**SINGLES, "p_grad_k": "*fp32:16", "p_grad_v": "*fp32:16"}
BACKWARD = {
    **{name: kind for name, kind in FORWARD.items() if name not in ("p_out", "p_sink")},
    "p_grad": "*bf16:16", "p_delta": "*fp32:16", "s_grad_batch": "i32:16", "s_grad": "i32:16",
}  # fmt: skip
OF_QUERIES = {"p_grad_q": "*bf16:16"}
OF_KEYS = {"p_grad_k": "*bf16:16", "p_grad_v": "*bf16:16"}


def backward(
    kernel: str,
    name: str,
    m: int,
    n: int,
    d: int,
    num_warps: int,
    num_stages: int,
    flags: dict[str, bool],
    arguments: dict[str, str],
    spills: int = 0,
) -> Case:
    own = OF_QUERIES if kernel == "queries" else OF_KEYS
    blocks = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_D": d, "BLOCK_DV": d}
    kept = {name: flag for name, flag in flags.items() if name not in ("HAS_SINK", "DESCRIBED")}
    return Case(
        name=f"attention backward of {kernel} {name} {m}x{n}, heads of {d}, {num_warps} warps, {num_stages} stages",
        kernel=f"attention.triton_backward:_{kernel}",
        arguments={**BACKWARD, **own, **arguments},
        constexprs={**kept, **blocks},
        num_warps=num_warps,
        num_stages=num_stages,
        spills=spills,
    )


def of_biases(
    kernel: str,
    name: str,
    m: int,
    n: int,
    d: int,
    num_stages: int,
    flags: dict[str, bool],
    arguments: dict[str, str],
) -> Case:
    """Of a bias, or of one by distance; 8 warps, as the rule for queries has where scores are not plain."""
    given = {k: v for k, v in BACKWARD.items() if k not in ("blocks", "at_once", *(["p_plan"] * (kernel == "of_bias")))}
    last = "shared" if kernel == "of_bias" else "first"
    return Case(
        name=f"attention bias gradient {kernel} {name} {m}x{n}, heads of {d}, {num_stages} stages",
        kernel=f"attention.triton_bias_gradient:{kernel}",
        arguments={**given, "p_out": "*fp32:16", last: "i32", **arguments},
        constexprs={
            **{k: v for k, v in flags.items() if k not in ("HAS_SINK", "DESCRIBED")},
            "BLOCK_M": m,
            "BLOCK_N": n,
            "BLOCK_D": d,
            "BLOCK_DV": d,
        },
        num_warps=8,
        num_stages=num_stages,
    )


BY_DISTANCE = {**PLAIN, "CAUSAL": False, "IS_PLAIN": False, "HAS_DISTANCE": True}
BY_PAIR = {**PLAIN, "IS_PLAIN": False, "HAS_BIAS": True}
DROPPING = {"HAS_DROPOUT": True}
SEED = {"p_seed": "*i64:16"}
TMA = {**PLAIN, "DESCRIBED": True}

CASES = (
    forward("causal", 128, 64, 128, 128, 8, 3, PLAIN, {}),
    forward("causal", 128, 128, 64, 64, 8, 3, PLAIN, {}),
    forward("causal", 128, 32, 256, 256, 8, 2, PLAIN, {}),
    forward("causal", 128, 64, 64, 128, 8, 3, PLAIN, {}),
    forward("causal", 64, 64, 128, 128, 4, 3, PLAIN, {}),
    forward("causal", 16, 32, 128, 128, 4, 3, PLAIN, {}),
    forward("described", 128, 128, 128, 128, 8, 2, TMA, {}),
    forward("described", 128, 64, 128, 128, 8, 4, TMA, {}),
    forward("uneven", 128, 64, 128, 128, 8, 3, {**PLAIN, "EVEN_D": False, "EVEN_DV": False}, {}),
    forward("all", 64, 32, 128, 128, 8, 3, ALL, OPERANDS),
    forward("all", 128, 32, 64, 64, 8, 3, ALL, OPERANDS),
    forward("all", 64, 32, 256, 256, 8, 2, ALL, OPERANDS),
    forward("dropping", 64, 32, 128, 128, 8, 3, {**PLAIN, **DROPPING}, SEED),
    forward("dropping", 128, 32, 64, 64, 8, 3, {**PLAIN, **DROPPING}, SEED),
    forward("float32", 32, 16, 128, 128, 8, 2, PLAIN, SINGLE),
    forward("float32", 32, 32, 64, 64, 8, 2, PLAIN, SINGLE),
    forward("float32", 16, 16, 256, 256, 4, 1, PLAIN, SINGLE),
    backward("queries", "causal", 128, 64, 128, 8, 2, PLAIN, {}),
    backward("keys", "causal", 32, 128, 128, 8, 2, PLAIN, {}, spills=64),
    backward("queries", "causal", 128, 64, 64, 8, 2, PLAIN, {}),
    backward("keys", "causal", 32, 128, 64, 8, 2, PLAIN, {}),
    backward("queries", "causal", 64, 32, 256, 8, 2, PLAIN, {}),
    backward("keys", "causal", 16, 64, 256, 8, 2, PLAIN, {}, spills=64),
    backward("queries", "all", 64, 32, 128, 8, 2, ALL, BIASES),
    backward("keys", "all", 16, 64, 128, 8, 2, ALL, BIASES),
    backward("queries", "dropping", 64, 32, 128, 8, 2, {**PLAIN, **DROPPING}, SEED),
    backward("keys", "dropping", 16, 64, 128, 8, 2, {**PLAIN, **DROPPING}, SEED),
    backward("queries", "dropping", 128, 64, 64, 8, 2, {**PLAIN, **DROPPING}, SEED),
    backward("keys", "dropping", 32, 128, 64, 8, 2, {**PLAIN, **DROPPING}, SEED),
    backward("queries", "float32", 32, 16, 64, 8, 1, PLAIN, SINGLE_QUERIES),
    backward("keys", "float32", 16, 32, 64, 8, 1, PLAIN, SINGLE_KEYS),
    backward("queries", "float32", 16, 16, 128, 4, 1, PLAIN, SINGLE_QUERIES),
    backward("keys", "float32", 16, 16, 128, 4, 1, PLAIN, SINGLE_KEYS),
    of_biases("by_distance", "T5", 64, 64, 64, 2, BY_DISTANCE, {"p_distance": "*bf16:16"}),
    of_biases("by_distance", "all", 64, 32, 128, 2, ALL, BIASES),
    of_biases("of_bias", "plain", 64, 64, 64, 2, BY_PAIR, {"p_bias": "*bf16:16"}),
    of_biases("of_bias", "dropping", 64, 64, 64, 2, {**BY_PAIR, **DROPPING}, {"p_bias": "*bf16:16", **SEED}),
    of_biases("of_bias", "all", 64, 32, 128, 2, ALL, BIASES),
    Case(
        name="attention spans",
        kernel="attention.triton_plan:_spans",
        arguments={
            "p_position": "*i64:16", "p_span": "*i32:16", "tokens": "i32:16", "s_batch": "i32:16", "granules": "i32:16"
        },
        constexprs={"BLOCK": 256},
    ),
    *(
        Case(
            name=f"attention plan of {name}",
            kernel="attention.triton_plan:_plan",
            arguments={
                "p_position": "*i64:16", "p_span": span, "p_lengths": "*i64:16", "p_plan": "*i32:16",
                "tokens": "i32:16", "s_batch": "i32:16", "blocks": "i32", "granules": "i32:16", "window": "i32",
                "chunk": "i32",
            },
            constexprs={
                "BY_KEYS": False, "CAUSAL": True, "HAS_WINDOW": True, "HAS_CHUNK": True, "IS_CACHE": name == "a cache",
                "IS_RING": name == "a ring", "ROWS": 16, "BLOCK": 128,
            },
        )
        for name, span in (("a ring", "*i32:16"), ("a cache", "None"))
    ),
)  # fmt: skip
