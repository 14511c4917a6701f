"""All kernels in C, one an op."""

from __future__ import annotations

from .kernel import NativeKernel

NORM = ("norm/native.h",)
POINTWISE = ("norm/native.h", "pointwise/native.h")
ATTENTION = ("attention/native.h",)
LINEAR = ("linear/native/linear.h",)
ROPE = ("rope/native.h",)
CONV = (*POINTWISE, "conv/native.h")
SIZES = ("heads", "key_dim", "value_dim", "window")
VIEWS = ("values", "key_position")
LATENT = (*LINEAR, "latent_attention/native.h")
POSITION = ("pointwise/position_native.h",)

NATIVE_KERNELS: tuple[NativeKernel, ...] = (
    NativeKernel(op="embedding", emitter="embedding.native:embedding", headers=("embedding/native.h",)),
    NativeKernel(op="linear", emitter="linear.native:linear", headers=LINEAR),
    NativeKernel(op="gated_linear", emitter="linear.native:gated_linear", headers=LINEAR + POINTWISE),
    NativeKernel(op="ternary_linear", emitter="linear.native:ternary_linear", headers=LINEAR),
    NativeKernel(op="rms_norm", emitter="norm.native:rms_norm", headers=NORM),
    NativeKernel(op="add_rms_norm", emitter="norm.native:add_rms_norm", headers=NORM),
    NativeKernel(op="layer_norm", emitter="norm.native:layer_norm", headers=NORM),
    NativeKernel(op="add_layer_norm", emitter="norm.native:add_layer_norm", headers=NORM),
    NativeKernel(op="group_norm", emitter="norm.native:group_norm", headers=NORM),
    NativeKernel(op="l2_norm", emitter="norm.native:l2_norm", headers=NORM),
    NativeKernel(op="rope_table", emitter="rope.native:rope_table", headers=ROPE),
    NativeKernel(op="rope_apply", emitter="rope.native:rope_apply", headers=ROPE),
    NativeKernel(op="kv_full_append", emitter="attention.native:append", implied=SIZES),
    NativeKernel(op="kv_window_append", emitter="attention.native:append", implied=SIZES),
    NativeKernel(op="attend_cached", emitter="attention.native:attend_cached", headers=ATTENTION, implied=VIEWS),
    NativeKernel(op="cross_kv_append", emitter="attention.native:cross_kv_append", headers=ATTENTION),
    NativeKernel(op="cross_kv_read", emitter="attention.native:cross_kv_read"),
    NativeKernel(op="relative_bias", emitter="attention.native:relative_bias"),
    NativeKernel(op="attention", emitter="attention.native:attention", headers=ATTENTION),
    NativeKernel(op="add", emitter="pointwise.native:add"),
    NativeKernel(op="sum", emitter="pointwise.native:sum_of"),
    NativeKernel(op="sub", emitter="pointwise.native:sub"),
    NativeKernel(op="mul", emitter="pointwise.native:mul"),
    NativeKernel(op="div", emitter="pointwise.native:div"),
    NativeKernel(op="lerp", emitter="pointwise.native:lerp"),
    NativeKernel(op="clamp", emitter="pointwise.native:clamp"),
    NativeKernel(op="scale", emitter="pointwise.native:scale"),
    NativeKernel(op="softcap", emitter="pointwise.native:softcap", headers=POINTWISE),
    NativeKernel(op="activation", emitter="pointwise.native:activation", headers=POINTWISE),
    NativeKernel(op="gated_activation", emitter="pointwise.native:gated_activation", headers=POINTWISE),
    NativeKernel(op="gated_activation_packed", emitter="pointwise.native:gated_activation_packed", headers=POINTWISE),
    NativeKernel(op="pool", emitter="pointwise.position_native:pool", headers=POSITION),
    NativeKernel(
        op="sinusoidal", emitter="pointwise.position_native:sinusoidal", headers=POSITION, implied=("features",)
    ),
    NativeKernel(op="position_scale", emitter="pointwise.position_native:position_scale", headers=POSITION),
    NativeKernel(
        op="kv_latent_append",
        emitter="latent_attention.native:append",
        implied=("position", "lengths", "rank", "rope_dim"),
    ),
    NativeKernel(
        op="latent_attend_cached",
        emitter="latent_attention.native:latent_attend_cached",
        headers=LATENT,
        implied=("k_ropes", "key_position", "position"),
    ),
    NativeKernel(op="router", emitter="moe.native:router", headers=(*LINEAR, "moe/native/router.h")),
    NativeKernel(op="experts", emitter="moe.native:experts", headers=(*LINEAR, *POINTWISE, "moe/native/experts.h")),
    NativeKernel(op="geometric", emitter="progression.native:geometric", implied=("like", "size")),
    NativeKernel(op="token_shift", emitter="shift.native:token_shift", headers=("shift/native.h",)),
    NativeKernel(op="short_conv", emitter="conv.native:short_conv", headers=CONV),
    NativeKernel(op="scan", emitter="scan.native:scan", headers=("scan/native.h",), implied=("chunk_size",)),
    NativeKernel(op="zeros_like", emitter="pointwise.native:zeros_like", implied=("x",)),
    NativeKernel(op="split", emitter="pointwise.native:split"),
    NativeKernel(op="concat", emitter="pointwise.native:concat"),
    NativeKernel(op="reduce", emitter="pointwise.native:reduce", headers=POINTWISE),
    NativeKernel(op="topk_sparsity", emitter="pointwise.native:topk_sparsity", headers=POINTWISE),
    NativeKernel(op="split_heads", emitter="layout.native:split_heads"),
    NativeKernel(op="slice", emitter="layout.native:slice_features"),
    NativeKernel(op="tile", emitter="layout.native:tile"),
    NativeKernel(op="reshape", emitter="layout.native:reshape"),
    NativeKernel(op="mix_streams", emitter="layout.native:mix_streams"),
)

_BY_OP = {kernel.op: kernel for kernel in NATIVE_KERNELS}


def native_kernel(op: str) -> NativeKernel | None:
    """The kernel in C of an op, if it has one."""
    return _BY_OP.get(op)
