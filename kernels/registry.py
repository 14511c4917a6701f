"""All kernels in order of preference, and the way from a name to a reference."""

from __future__ import annotations

from collections.abc import Callable

from .kernel import Kernel, resolve

PACKED_FORMATS = ("int8", "int4", "int4_128", "ternary")


def _triton(op: str, module: str) -> Kernel:
    """The Triton kernel of an op, in a module that tells by its `serves` what it takes."""
    return Kernel(name="triton", op=op, implementation=f"{module}:{op}", serves=f"{module}:serves", is_triton=True)


def _packed(op: str, format: str) -> Kernel:
    """The kernel of a linear layer, gated or not, for one format of packed weights."""
    function = f"linear.triton_packed:{format}{'_gated' if op == 'gated_linear' else ''}"
    module = "ternary.triton_pack:pack" if format == "ternary" else f"linear.triton_pack:pack_{format}"
    return Kernel(
        name=f"triton_{format}",
        op=op,
        format=format,
        implementation=function,
        serves="linear.triton_packed:serves",
        is_triton=True,
        prepares={"weight": module},
        packed_as=format,
        plain=f"{function}_torch",
    )


def _packed_experts(format: str) -> Kernel:
    """The kernel of experts for one format of packed weights."""
    names = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")
    return Kernel(
        name=f"triton_{format}",
        op="experts",
        format=format,
        implementation=f"moe.triton_experts_packed:{format}",
        serves="moe.triton_experts_packed:serves",
        is_triton=True,
        prepares={name: f"moe.triton_stack:{format}" for name in names},
        packed_as=format,
        plain=f"moe.triton_experts_packed:{format}_torch",
    )


def _normed_ternary(op: str) -> Kernel:
    """The kernel of a linear layer with its norm, for a matrix that is packed in 2 bits."""
    function = op.replace("linear", "ternary_projection")
    return Kernel(
        name="triton_ternary",
        op=op,
        format="ternary",
        implementation=f"ternary.triton_ternary:{function}",
        serves="linear.triton_packed:serves",
        is_triton=True,
        prepares={"weight": "ternary.triton_pack:pack"},
        packed_as="ternary",
        plain=f"ternary.packed_in_torch:{function}",
    )


def _ternary(op: str) -> Kernel:
    """The kernel of a ternary layer, which reads its matrices in 2 bits."""
    return Kernel(
        name="triton_packed",
        op=op,
        implementation=f"ternary.triton_ternary:{op}",
        serves="ternary.triton_ternary:serves",
        is_triton=True,
        prepares={"weight": "ternary.triton_pack:pack"},
        packed_as="ternary",
        plain=f"ternary.packed_in_torch:{op}",
    )


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        name="triton",
        op="mask_plan",
        implementation="attention.triton_plan:mask_plan",
        serves="attention.triton_plan:serves",
        is_triton=True,
    ),
    Kernel(
        name="none",
        op="mask_plan",
        implementation="attention.triton_plan:no_plan",
        serves="attention.triton_plan:serves_none",
        is_triton=True,
    ),
    Kernel(
        name="triton_prefill",
        op="attention",
        implementation="attention.triton_attention:attention",
        serves="attention.triton_attention:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_prefill",
        op="attend_cached",
        implementation="attention.triton_attention:attend_cached",
        serves="attention.triton_attention:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_prefill",
        op="attend_shared",
        implementation="attention.triton_attention:attend_cached",
        serves="attention.triton_attention:serves",
        is_triton=True,
    ),
    Kernel(name="sdpa", op="attention", implementation="attention.sdpa:attention", serves="attention.sdpa:serves"),
    Kernel(
        name="sdpa", op="attend_shared", implementation="attention.sdpa:attend_cached", serves="attention.sdpa:serves"
    ),
    Kernel(
        name="triton_decode",
        op="attend_cached",
        implementation="attention.triton_decode:attend_cached",
        serves="attention.triton_decode:serves",
        is_triton=True,
    ),
    Kernel(
        name="sdpa", op="attend_cached", implementation="attention.sdpa:attend_cached", serves="attention.sdpa:serves"
    ),
    Kernel(
        name="triton_joined",
        op="append_attend",
        implementation="attention.triton_append_attend:append_attend",
        serves="attention.triton_append_attend:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_apart",
        op="append_attend",
        implementation="attention.append_attend:append_attend",
        serves="attention.append_attend:serves",
        is_triton=True,
    ),
    Kernel(
        name="sdpa",
        op="append_attend",
        implementation="attention.append_attend:append_attend_sdpa",
        serves="attention.append_attend:serves_sdpa",
    ),
    Kernel(
        name="triton",
        op="kv_full_append",
        implementation="cache.triton_append:kv_full_append",
        serves="cache.triton_append:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="kv_window_append",
        implementation="cache.triton_append:kv_window_append",
        serves="cache.triton_append:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="kv_latent_append",
        implementation="cache.triton_append:kv_latent_append",
        serves="cache.triton_append:serves_latent",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="rope_kv_full_append",
        implementation="cache.triton_append:rope_kv_full_append",
        serves="cache.triton_append:serves_rope",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="rope_kv_window_append",
        implementation="cache.triton_append:rope_kv_window_append",
        serves="cache.triton_append:serves_rope",
        is_triton=True,
    ),
    Kernel(
        name="triton_decode",
        op="latent_attend_cached",
        implementation="latent_attention.triton_decode:latent_attend_cached",
        serves="latent_attention.triton_decode:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_expanded",
        op="latent_attend_cached",
        implementation="latent_attention.triton_expanded:latent_attend_cached",
        serves="latent_attention.triton_expanded:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_expanded",
        op="latent_attention",
        implementation="latent_attention.triton_expanded:latent_attention",
        serves="latent_attention.triton_expanded:serves",
        is_triton=True,
    ),
    Kernel(
        name="absorbed",
        op="latent_attend_cached",
        implementation="latent_attention.absorbed:latent_attend_cached",
        serves="latent_attention.absorbed:serves",
    ),
    _triton("rms_norm", "norm.triton_rms_norm"),
    _triton("add_rms_norm", "norm.triton_rms_norm"),
    _triton("layer_norm", "norm.triton_layer_norm"),
    _triton("add_layer_norm", "norm.triton_layer_norm"),
    _triton("group_norm", "norm.triton_layer_norm"),
    _triton("l2_norm", "norm.triton_layer_norm"),
    _triton("activation", "pointwise.triton_activation"),
    _triton("gated_activation", "pointwise.triton_activation"),
    _triton("gated_activation_packed", "pointwise.triton_activation"),
    _triton("softcap", "pointwise.triton_activation"),
    _triton("embedding", "embedding.triton_embedding"),
    _triton("rope_apply", "rope.triton_rope"),
    _triton("rope_table", "rope.triton_table"),
    _triton("linear", "linear.triton_gemv"),
    _triton("gated_linear", "linear.triton_gemv"),
    _triton("rms_norm_linear", "linear.triton_norm_gemv"),
    _triton("add_rms_norm_linear", "linear.triton_norm_gemv"),
    _triton("router", "moe.triton_router"),
    _triton("linear_cross_entropy", "cross_entropy.triton_cross_entropy"),
    Kernel(
        name="triton_chunked",
        op="scan",
        implementation="scan.triton_chunked:scan",
        serves="scan.triton_chunked:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_delta",
        op="scan",
        implementation="scan.triton_delta:scan",
        serves="scan.triton_delta:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_selective",
        op="scan",
        implementation="scan.triton_selective:scan",
        serves="scan.triton_selective:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton_step",
        op="scan",
        implementation="scan.triton_step:scan",
        serves="scan.triton_step:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="short_conv",
        implementation="conv.triton_short_conv:short_conv",
        serves="conv.triton_short_conv:serves",
        is_triton=True,
    ),
    Kernel(
        name="triton",
        op="token_shift",
        implementation="shift.triton_token_shift:token_shift",
        serves="shift.triton_token_shift:serves",
        is_triton=True,
    ),
    Kernel(name="chunked", op="scan", implementation="scan.chunked:scan", serves="scan.chunked:serves"),
    Kernel(name="torch", op="rms_norm", implementation="norm.fused:rms_norm", serves="norm.fused:serves_rms_norm"),
    Kernel(
        name="torch", op="add_rms_norm", implementation="norm.fused:add_rms_norm", serves="norm.fused:serves_rms_norm"
    ),
    Kernel(
        name="torch", op="layer_norm", implementation="norm.fused:layer_norm", serves="norm.fused:serves_layer_norm"
    ),
    Kernel(
        name="torch",
        op="add_layer_norm",
        implementation="norm.fused:add_layer_norm",
        serves="norm.fused:serves_layer_norm",
    ),
    Kernel(
        name="triton",
        op="experts",
        implementation="moe.triton_experts:experts",
        serves="moe.triton_experts:serves",
        is_triton=True,
    ),
    *map(
        _ternary,
        (
            "ternary_linear",
            "ternary_projection",
            "rms_norm_ternary_projection",
            "add_rms_norm_ternary_projection",
        ),
    ),
    *map(_normed_ternary, ("rms_norm_linear", "add_rms_norm_linear")),
    *(_packed(op, format) for op in ("linear", "gated_linear") for format in PACKED_FORMATS),
    *map(_packed_experts, PACKED_FORMATS),
)


def kernels_for(op: str) -> tuple[Kernel, ...]:
    """The kernels of an op, the preferred one first. The reference, which always serves, is not among them."""
    return tuple(kernel for kernel in KERNELS if kernel.op == op)


def resolve_reference(name: str) -> Callable[..., object]:
    """The reference that `family:function` names, e.g. `norm:rms_norm`, imported on first use."""
    family, _, function = name.partition(":")
    return resolve(f"{family}.reference:{function}")
