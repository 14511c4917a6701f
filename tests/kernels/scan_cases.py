"""Generated calls of a scan, and their comparison with the float64 reference: values, states and gradients."""

# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softshrink

from llmc.kernels.kernel import Request
from llmc.kernels.scan import reference
from llmc.kernels.tolerance import TOLERANCE

from .conditioned import assert_conditioned
from .gpu import DEVICE, DTYPES


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of a scan: its shape, and which operands it has."""

    update: str = "add"
    decay_per: str = "none"
    decay_form: str = "log"
    batch: int = 1
    tokens: int = 3
    groups: int = 1
    shared: int = 1
    key_dim: int = 3
    value_dim: int = 3
    has_dt: bool = False
    has_skip: bool = False
    has_state: bool = False
    strength: float = 0.1
    """Of the log decay: at 300 each token forgets all that was before."""
    padding: float = 0.0
    is_strided: bool = False
    dtype: torch.dtype = torch.float32
    seed: int = 0


def cases(
    *,
    updates: Sequence[str] = ("add",),
    decays: Sequence[str],
    tokens: Sequence[int],
    key_dims: Sequence[int],
    value_dims: Sequence[int],
    groups: int = 2,
    shared: int = 2,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> st.SearchStrategy[Case]:
    """Few heads, since programs are what an interpreter is slow at."""
    return st.builds(
        Case,
        update=st.sampled_from(updates),
        decay_per=st.sampled_from(decays),
        decay_form=st.sampled_from(["log", "A_log"]),
        batch=st.integers(1, 2),
        tokens=st.sampled_from(tokens),
        groups=st.integers(1, groups),
        shared=st.integers(1, shared),
        key_dim=st.sampled_from(key_dims),
        value_dim=st.sampled_from(value_dims),
        has_dt=st.booleans(),
        has_skip=st.booleans(),
        has_state=st.booleans(),
        strength=st.sampled_from([1e-3, 0.1, 2.0, 300.0]),
        padding=st.sampled_from([0.0, 0.3, 1.0]),
        is_strided=st.booleans(),
        dtype=st.sampled_from(dtypes),
        seed=st.integers(0, 2**16),
    )


def operands(case: Case) -> tuple[dict[str, object], Tensor]:
    """The keyword arguments of a scan, what lies at padding being NaN, and a state `[B, H, Dk, Dv]`."""
    make = torch.Generator().manual_seed(case.seed)
    heads, shape = case.groups * case.shared, (case.batch, case.tokens)
    is_token = torch.rand(shape, generator=make) >= case.padding
    position = (is_token.cumsum(1) - 1).masked_fill(~is_token, -1)

    def stream(width: int, *, is_positive: bool = False, of_unit: int = 0) -> Tensor:
        x = torch.rand(*shape, width, generator=make) if is_positive else torch.randn(*shape, width, generator=make)
        if of_unit:
            x = torch.nn.functional.normalize(x.unflatten(-1, (-1, of_unit)), dim=-1).flatten(-2)
        x = x.masked_fill(~is_token[..., None], torch.nan).to(DEVICE, case.dtype)
        return x.repeat(1, 1, 2)[..., :width] if case.is_strided else x

    is_stable = case.update != "add"
    given: dict[str, object] = {
        "v": stream(heads * case.value_dim),
        "k": stream(case.groups * case.key_dim, of_unit=case.key_dim if is_stable else 0),
        "q": stream(case.groups * case.key_dim), "position": position.to(DEVICE), "key_dim": case.key_dim,
        "value_dim": case.value_dim, "scale": 0.7, "decay_per": case.decay_per, "decay_form": case.decay_form,
        "update": case.update,
    }  # fmt: skip
    if case.decay_per != "none":
        if case.decay_per.startswith("token"):
            rate = stream(heads * (1 if case.decay_per == "token_head" else case.key_dim), is_positive=True)
        else:
            width = () if case.decay_per == "head" else (case.key_dim,)
            rate = torch.rand(heads, *width, generator=make).to(DEVICE, case.dtype)
        rate = rate * case.strength + 1e-4
        given["decay"] = rate.log() if case.decay_form == "A_log" else -rate
    if case.has_dt:
        given["dt"] = stream(heads, is_positive=True)
    if case.update == "delta":
        given["beta"] = stream(heads, is_positive=True)
    if case.update == "erase_write":
        given["erase"] = -stream(heads * case.key_dim, of_unit=case.key_dim)
        given["write"] = stream(heads * case.key_dim, of_unit=case.key_dim) * 0.5
    if case.has_skip:
        given["skip"] = torch.randn(heads, generator=make).to(DEVICE, case.dtype)
    state = torch.randn(case.batch, heads, case.key_dim, case.value_dim, generator=make)
    return given, state.to(DEVICE, torch.promote_types(case.dtype, torch.float32))


def compare(scan: Callable[..., object], case: Case, *, slack: float = 1.0) -> None:
    """What is read, and what the state holds afterwards, of which the dtype of the products is the measure."""
    given, state = operands(case)

    def values(function: Callable[..., object], given: dict[str, object]) -> dict[str, Tensor]:
        """What is read, and the state that the call leaves."""
        if not case.has_state:
            return {"out": function(**given)}  # type: ignore[dict-item]  # pyright: ignore
        held = (given["state"].clone(),)  # type: ignore[attr-defined]  # pyright: ignore
        out, after = function(**given | {"state": held})  # type: ignore[misc]
        assert after is held
        return {"out": out, "state": held[0]}

    whole = given | ({"state": state} if case.has_state else {})
    assert_conditioned(
        values(scan, whole),
        lambda wide: values(reference.scan, wide),
        whole,
        dtype=case.dtype,
        tolerance=TOLERANCE[case.dtype] * slack,
    )


def compare_gradients(scan: Callable[..., object], case: Case, *, slack: float = 1.0) -> None:
    """What `compare` does, and gradients of every operand and of the state before, for a random gradient of what is
    read and of the state afterwards. The slack is that of gradients; values have at most 2.

    Padding of an operand, where only the reference is given numbers, has the gradient 0.
    """
    given, state = operands(case)
    if case.has_state:
        given["state"] = state
    names = [name for name, value in given.items() if isinstance(value, Tensor) and value.is_floating_point()]
    make = torch.Generator().manual_seed(case.seed + 1)
    weight, slope = (torch.randn(x.shape, generator=make).to(DEVICE) for x in (given["v"], state))  # type: ignore[union-attr]
    weight, tiny = weight.to(case.dtype), torch.finfo(case.dtype).tiny

    def gradients(function: Callable[..., object], given: dict[str, object]) -> dict[str, Tensor]:
        """What the function gives, and the gradients of its operands."""
        leaves = {name: given[name].detach().requires_grad_() for name in names}  # type: ignore[union-attr]
        if case.has_state:  # another tensor than the leaf, since it is written, and than what the reference saves
            held = (leaves["state"].float().clone(),)
            out, _ = function(**given | leaves | {"state": held})  # type: ignore[misc]
            outs, weights = [out, held[0]], [weight, slope]
        else:
            outs, weights = [function(**given | leaves)], [weight]
        weights = [x.to(out.dtype) for out, x in zip(outs, weights, strict=True)]  # type: ignore[attr-defined]  # pyright: ignore
        found = torch.autograd.grad(outs, list(leaves.values()), weights, materialize_grads=True)  # type: ignore[arg-type]  # pyright: ignore
        # What the dtype has no normal number for counts as 0: strong decays leave less than that.
        slopes = {f"{name}.grad": softshrink(x.double(), tiny) for name, x in zip(names, found, strict=True)}
        return dict(zip(("out", "state"), outs, strict=False)) | slopes  # type: ignore[arg-type]

    def exact(wide: dict[str, object]) -> dict[str, Tensor]:
        return gradients(reference.scan, wide | {name: wide[name].nan_to_num(0.0) for name in names})  # type: ignore[union-attr]

    found, bound = gradients(scan, given), TOLERANCE[case.dtype]
    assert_conditioned(
        found,
        exact,
        given,
        dtype=case.dtype,
        tolerance={name: bound * (slack if name.endswith(".grad") else min(slack, 2.0)) for name in found},
    )


def request(**changes: object) -> Request:
    """Of a scan with `changes` to its fields; `phase` and `dtype` are the request's own."""
    fields = {"update": "add", "decay_per": "none", "key_dim": 16, "value_dim": 16, **changes}
    phase, dtype = fields.pop("phase", "prefill"), fields.pop("dtype", "bfloat16")
    shapes = {"k": ("B", "T", fields["key_dim"])}
    return Request(op="scan", fields=fields, shapes=shapes, dtype=dtype, device="cuda", phase=phase)  # type: ignore[arg-type]
