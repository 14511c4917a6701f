"""The scan against each law written out for one head in float64; padding, groups, gradients; also conv and shift."""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportArgumentType=false, reportCallIssue=false
from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llmc.kernels.conv.reference import short_conv
from llmc.kernels.scan.fields import DecayShape, Update
from llmc.kernels.scan.reference import scan
from llmc.kernels.shift.reference import token_shift
from llmc.kernels.tolerance import assert_close

B, T, H, G, DK, DV = 2, 7, 4, 2, 5, 3
DECAYS: tuple[DecayShape, ...] = ("none", "head", "state", "token_head", "token_channel")
UPDATES: tuple[Update, ...] = ("add", "delta", "erase_write")


def operands(decay_per: DecayShape, update: Update, *, dt: bool, skip: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random operands of a scan, decays negative."""
    made = {"v": torch.randn(B, T, H * DV), "k": torch.randn(B, T, G * DK), "q": torch.randn(B, T, G * DK)}
    shapes = {"head": (H,), "state": (H, DK), "token_head": (B, T, H), "token_channel": (B, T, H * DK)}
    if decay_per != "none":
        made["decay"] = -torch.rand(shapes[decay_per]) - 0.1
    if dt:
        made["dt"] = torch.rand(B, T, H)
    if update == "delta":
        made["beta"] = torch.rand(B, T, H)
    if update == "erase_write":
        made.update(erase=torch.randn(B, T, H * DK) / 3, write=torch.randn(B, T, H * DK) / 3)
    if skip:
        made["skip"] = torch.randn(H)
    return {name: x.to(dtype) for name, x in made.items()}


def one_head(x: dict[str, Tensor], row: int, head: int, decay_per: DecayShape, update: Update, scale: float) -> Tensor:
    """The law, step by step, for one head of one row -> `[T, DV]`."""
    s, out = torch.zeros(DK, DV, dtype=torch.float64), []
    keys, own = slice(head // (H // G) * DK, (head // (H // G) + 1) * DK), slice(head * DK, (head + 1) * DK)
    for t in range(T):
        v = x["v"][row, t, head * DV : (head + 1) * DV].double()
        k, q = x["k"][row, t, keys].double(), x["q"][row, t, keys].double()
        dt = x["dt"][row, t, head].double() if "dt" in x else torch.tensor(1.0)
        log = torch.zeros(DK, dtype=torch.float64)
        match decay_per:
            case "head" | "state":
                log = log + x["decay"][head].double()
            case "token_head":
                log = log + x["decay"][row, t, head].double()
            case "token_channel":
                log = x["decay"][row, t, own].double()
            case "none":
                pass
        old, s, strength = s, torch.diag((log * dt).exp()) @ s, 1.0
        if update == "delta":
            strength = float(x["beta"][row, t, head])
            s = s - strength * torch.outer(k, k) @ s
        if update == "erase_write":
            s = s + torch.outer(x["write"][row, t, own].double(), x["erase"][row, t, own].double()) @ old
        s = s + dt * strength * torch.outer(k, v)
        out.append(scale * s.T @ q + (x["skip"][head].double() * v if "skip" in x else 0.0))
    return torch.stack(out)


POSITION = torch.arange(T).expand(B, T)
CASES = list(product(DECAYS, UPDATES, (False, True)))


@pytest.mark.parametrize(("decay_per", "update", "dt"), CASES)
def test_every_law(decay_per: DecayShape, update: Update, dt: bool) -> None:
    for dtype in (torch.float32, torch.float64):
        x = operands(decay_per, update, dt=dt, skip=dt, dtype=dtype)
        out = scan(**x, position=POSITION, key_dim=DK, value_dim=DV, decay_per=decay_per, update=update, scale=0.7)
        expected = torch.stack(
            [torch.cat([one_head(x, b, h, decay_per, update, 0.7) for h in range(H)], dim=-1) for b in range(B)]
        )
        assert_close(f"{decay_per} {update}", out, expected)


def test_decay_may_be_given_as_the_logarithm_of_its_rate() -> None:
    x = operands("state", "add", dt=True, skip=False, dtype=torch.float32)
    same = {**x, "decay": (-x["decay"]).log()}
    sizes = {"position": POSITION, "key_dim": DK, "value_dim": DV}
    expected = scan(**x, **sizes, decay_per="state")
    assert_close("A_log", scan(**same, **sizes, decay_per="state", decay_form="A_log"), expected)


@pytest.mark.parametrize(("decay_per", "update", "dt"), CASES)
def test_padding_leaves_the_state_alone(decay_per: DecayShape, update: Update, dt: bool) -> None:
    """Tokens of one row spread among NaN give what they give together, and the same state."""
    x = operands(decay_per, update, dt=dt, skip=True, dtype=torch.float32)
    places = torch.tensor([1, 2, 4, 7, 8, 9, 10])
    position = torch.full((B, 12), -1)
    position[:, places] = POSITION
    wide: dict[str, Tensor] = {}
    for name, value in x.items():
        wide[name] = value
        if value.shape[:2] == (B, T):
            wide[name] = torch.full((B, 12, value.shape[-1]), torch.nan)
            wide[name][:, places] = value
    states = [(torch.randn(B, H, DK, DV, generator=torch.Generator().manual_seed(1)),) for _ in range(2)]
    given = {"key_dim": DK, "value_dim": DV, "decay_per": decay_per, "update": update}
    expected, alone = scan(**x, position=POSITION, **given, state=states[0])
    out, after = scan(**wide, position=position, **given, state=states[1])
    assert_close("out", out[:, places], expected)
    assert_close("state", after[0], alone[0])
    assert float(out[:, [0, 3, 5, 6, 11]].abs().max()) == 0


def test_bfloat16_keeps_a_float32_state() -> None:
    x = operands("token_head", "delta", dt=True, skip=True, dtype=torch.bfloat16)
    state = (torch.zeros(B, H, DK, DV),)
    given = {"position": POSITION, "key_dim": DK, "value_dim": DV, "decay_per": "token_head", "update": "delta"}
    out, after = scan(**x, **given, state=state)
    assert out.dtype == torch.bfloat16
    assert after[0] is state[0]
    assert after[0].dtype == torch.float32
    assert_close("out", out, scan(**{name: value.double() for name, value in x.items()}, **given), tolerance=8e-3)


@pytest.mark.parametrize(("decay_per", "update"), [("state", "add"), ("token_head", "delta"), ("head", "erase_write")])
def test_gradients(decay_per: DecayShape, update: Update) -> None:
    x = operands(decay_per, update, dt=True, skip=True, dtype=torch.float64)
    position = POSITION[:1, :3].clone()
    position[0, 1] = -1
    short = {n: v[:1, :3].clone() if v.shape[:2] == (B, T) else v for n, v in x.items()}
    names = list(short)

    def run(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return scan(**given, position=position, key_dim=DK, value_dim=DV, decay_per=decay_per, update=update)

    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in short.values()])


def test_a_call_without_tokens() -> None:
    none = torch.zeros(B, 0, dtype=torch.int64)
    state = (torch.ones(B, H, DK, DV),)
    v, k = torch.zeros(B, 0, H * DV), torch.zeros(B, 0, G * DK)
    out, _ = scan(v=v, k=k, q=k, position=none, key_dim=DK, value_dim=DV, state=state)
    assert out.shape == v.shape
    assert bool((state[0] == 1).all())


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_short_conv_is_torchs(taps: int) -> None:
    x, weight, bias = torch.randn(B, T, 6), torch.randn(6, 1, taps), torch.randn(6)
    padded = functional.pad(x.transpose(1, 2), (taps - 1, 0))
    expected = functional.silu(functional.conv1d(padded, weight, bias, groups=6)).transpose(1, 2)
    assert_close("out", short_conv(x=x, position=POSITION, weight=weight, bias=bias, activation="silu"), expected)
    position = torch.tensor([[-1, 0, 1, -1, 2, 3, -1]]).expand(B, T)
    out = short_conv(x=x, position=position, weight=weight)
    kept = position[0] >= 0
    alone = short_conv(x=x[:, kept], position=torch.arange(4).expand(B, 4), weight=weight)
    assert_close("kept", out[:, kept], alone)
    assert float(out[:, ~kept].abs().max()) == 0


def test_gradients_of_conv_and_shift() -> None:
    x, weight = torch.randn(1, 4, 2, dtype=torch.float64), torch.randn(2, 1, 3, dtype=torch.float64)
    position = torch.tensor([[0, 1, -1, 2]])

    def both(x: Tensor, weight: Tensor) -> Tensor:
        return short_conv(x=x, position=position, weight=weight) + token_shift(x=x, position=position)

    assert torch.autograd.gradcheck(both, (x.requires_grad_(), weight.requires_grad_()))


def test_token_shift() -> None:
    x = torch.randn(1, 5, 3)
    out = token_shift(x=x, position=torch.tensor([[-1, 0, -1, 1, 2]]))
    zero = torch.zeros(3)
    for place, wanted in enumerate((zero, zero, zero, x[0, 1], x[0, 3])):
        assert torch.equal(out[0, place], wanted)
