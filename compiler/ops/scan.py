"""Scan: the recurrence of every linear-time mixer, over one matrix of state per head.

With `S` the state of a head, `[key_dim, value_dim]`:

    S_t = decay_t * S_{t-1} + change_t + dt_t * k_t v_tᵀ        y_t = scale * S_tᵀ q_t + skip * v_t

    update: add          change = 0                                   linear attention, GLA, RetNet, S6, SSD
    update: delta        change = -beta_t * k_t (k_tᵀ decay_t S_{t-1})  DeltaNet and gated; beta_t scales the write too
    update: erase_write  change = write_t (erase_tᵀ S_{t-1})          RWKV-7

S6 is the case of one head per channel: value_dim 1, keys shared by all heads, decay per state. SSD is one decay per
head. The state is float32, and padding (position -1) leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from .declaration import Dim, Field, Fields, Inputs, Op, Port, ShapeProblem, Sizes, StateSpec, TensorType
from .shapes import known

_UPDATE_PORTS = {"add": (), "delta": ("beta",), "erase_write": ("erase", "write")}


def _heads(fields: Fields, inputs: Inputs) -> int:
    """The number of heads, by the width of v; raises where keys and queries do not fit it."""
    key_dim, value_dim = fields.int("key_dim"), fields.int("value_dim")
    width = known(inputs["v"].features, "the width of v", "v")
    if width % value_dim:
        raise ShapeProblem(f"the width of v, {width}, is no multiple of value_dim {value_dim}", "v")
    heads = width // value_dim
    if inputs["q"] != inputs["k"]:
        raise ShapeProblem(f"q is {inputs['q']} but k is {inputs['k']}", "q")
    keys = known(inputs["k"].features, "the width of k", "k")
    if keys % key_dim or heads % (keys // key_dim):
        raise ShapeProblem(f"{keys} key features do not fit {heads} heads of key_dim {key_dim}", "k")
    return heads


def _decay_shape(fields: Fields, inputs: Inputs, heads: int) -> tuple[Dim, ...]:
    tokens = inputs["v"].shape[:-1]
    match fields.str("decay_per"):
        case "head":
            return (heads,)
        case "state":
            return (heads, fields.int("key_dim"))
        case "token_head":
            return (*tokens, heads)
        case _:
            return (*tokens, heads * fields.int("key_dim"))


def _check(inputs: Inputs, port: str, shape: tuple[Dim, ...]) -> None:
    found = inputs.get(port)
    if found is not None and found.shape != shape:
        wanted = ", ".join(str(dim) for dim in shape)
        raise ShapeProblem(f"{port} must be [{wanted}], but it is {found}", port)


def _infer(fields: Fields, inputs: Inputs) -> Mapping[str, TensorType]:
    heads = _heads(fields, inputs)
    tokens = inputs["v"].shape[:-1]
    update = fields.str("update")
    for port in ("beta", "erase", "write"):
        if (port in inputs) != (port in _UPDATE_PORTS[update]):
            needs = "needs" if port in _UPDATE_PORTS[update] else "takes no"
            raise ShapeProblem(f"update {update} {needs} {port}", port if port in inputs else "update")
    if ("decay" in inputs) != (fields.str("decay_per") != "none"):
        raise ShapeProblem("decay and decay_per come together", "decay_per")
    if "decay" in inputs:
        _check(inputs, "decay", _decay_shape(fields, inputs, heads))
    per_head = (*tokens, heads)
    per_key = (*tokens, heads * fields.int("key_dim"))
    for port, shape in (
        ("dt", per_head),
        ("beta", per_head),
        ("erase", per_key),
        ("write", per_key),
        ("skip", (heads,)),
    ):
        _check(inputs, port, shape)
    return {"out": inputs["v"]}


def _states(fields: Fields, inputs: Inputs) -> tuple[StateSpec, ...]:
    sizes = {"heads": _heads(fields, inputs), "key_dim": fields.int("key_dim"), "value_dim": fields.int("value_dim")}
    return (StateSpec(kind="matrix", sizes=sizes),)


def _flops(fields: Fields, inputs: Inputs, sizes: Sizes) -> float:
    per_element = 4 + ("decay" in inputs) + (0 if fields.str("update") == "add" else 4)
    return float(per_element) * inputs["v"].count(sizes) * fields.int("key_dim")


SCAN = Op(
    name="scan",
    summary="Linear recurrence over a matrix state per head: S6, SSD, gated linear attention, delta rules",
    ports=(
        Port(name="v", doc="[B, T, H*Dv], what is written (x of a state-space model)"),
        Port(name="k", doc="[B, T, G*Dk], where it is written (B); H/G heads share a key"),
        Port(name="q", doc="[B, T, G*Dk], what is read (C)"),
        Port(name="decay", doc="log decay, shaped as decay_per says; with dt, per unit of time (A)", is_optional=True),
        Port(name="dt", doc="[B, T, H], length of the step: scales the log decay and the write", is_optional=True),
        Port(name="beta", doc="[B, T, H], strength of the delta rule", is_optional=True),
        Port(name="erase", doc="[B, T, H*Dk], what erase_write reads from the state", is_optional=True),
        Port(name="write", doc="[B, T, H*Dk], where erase_write puts it back", is_optional=True),
        Port(name="skip", doc="[H], adds skip * v to the output (D)", is_optional=True),
    ),
    fields=(
        Field(name="key_dim", kind="int", doc="Size of a key head: the state size N", is_required=True, minimum=1),
        Field(name="value_dim", kind="int", doc="Size of a value head", is_required=True, minimum=1),
        Field(
            name="decay_per",
            kind="str",
            doc="Shape of decay: head [H], state [H, Dk], token_head [B, T, H], token_channel [B, T, H*Dk]",
            default="none",
            choices=("none", "head", "state", "token_head", "token_channel"),
        ),
        Field(
            name="decay_form",
            kind="str",
            doc="What decay holds: the log decay itself, or A_log, whose log decay is -exp(A_log)",
            default="log",
            choices=("log", "A_log"),
        ),
        Field(
            name="update",
            kind="str",
            doc="How the old state changes before the write",
            default="add",
            choices=("add", "delta", "erase_write"),
        ),
        Field(name="scale", kind="float", doc="Factor on the output of the state", default=1.0),
        Field(
            name="chunk_size", kind="int", doc="Tokens a chunked kernel takes at once; a hint", default=64, minimum=1
        ),
    ),
    infer=_infer,
    states=_states,
    flops=_flops,
    operands=("key_dim", "value_dim", "decay_per", "decay_form", "update", "scale", "chunk_size"),
    ambient=("position",),
    is_tokenwise=False,
    reference="scan:scan",
)
