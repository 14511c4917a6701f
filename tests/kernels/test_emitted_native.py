"""Every kernel in C, emitted as the compiler emits it, against its reference in float64: generated shapes, each vector
width, no tokens, one row, padding."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmc.kernels.native.registry import NATIVE_KERNELS

from . import emitted_matrices, emitted_mixers, emitted_rows, test_beams_native, test_sample_native
from .emitted import Emitted, emit
from .emitted_case import Case
from .emitted_draws import Builder
from .emitted_run import check
from .native import KERNELS

SHARE = {"native": 1, "avx2": 3, "portable": 3}
"""One of so many cases is compiled for a path: all of them for the machine's own (AVX-512 where it has it), and for the
others with --slow. These are the widths of vectors; the paths of matrix products beyond them (VNNI, AVX-VNNI, products
of bfloat16) are tested on all of INSTRUCTION_SETS in `test_linear_native` and `test_linear_packed`."""
GROUPS: Mapping[str, Mapping[str, Builder]] = {
    "numbers": emitted_rows.NUMBERS,
    "layouts": emitted_rows.LAYOUTS,
    "mixers": {**emitted_matrices.MATRICES, **emitted_mixers.MIXERS},
}
"""What is compiled together."""
GROUP_OF = {op: name for name, group in GROUPS.items() for op in group}
FIRST_CALLS = (0, 1, 2, 9)
"""Tokens of the only call, by the number of the case; every case also runs three calls that continue one state."""


@functools.cache
def cases(isa: str, op: str) -> tuple[Case, ...]:
    """As many as hypothesis' profile says, the same in every process."""
    found: list[Case] = []
    build = st.composite(GROUPS[GROUP_OF[op]][op])

    @settings(derandomize=True, database=None, phases=[Phase.generate])
    @given(case=build())
    def collect(case: Case) -> None:
        found.append(case)

    collect()
    return tuple(found[:: SHARE[isa] if len(found) < 100 else 1])


@functools.cache
def emitted(isa: str, group: str) -> Emitted:
    return emit(isa, [case for op in GROUPS[group] for case in cases(isa, op)])


@pytest.mark.parametrize("op", GROUP_OF)
@pytest.mark.parametrize("isa", SHARE)
def test_emitted(isa: str, op: str) -> None:
    library = emitted(isa, GROUP_OF[op])
    wanted = set(map(id, cases(isa, op)))
    for number, text in enumerate(library.texts):
        if id(text.case) not in wanted:
            continue
        for tokens in ((FIRST_CALLS[number % len(FIRST_CALLS)],), (5, 1, 3)):
            check(library, number, batch=1 + number % 3, tokens=tokens, threads=1 + number % 2, seed=number)


def test_every_kernel_has_cases() -> None:
    assert GROUP_OF.keys() == {kernel.op for kernel in NATIVE_KERNELS}


def test_every_file_in_c_is_a_kernels_or_chooses_tokens() -> None:
    """No op chooses tokens: `test_sample_native` and `test_beams_native` have the cases, on the same paths."""
    of_kernels = {KERNELS / source for kernel in NATIVE_KERNELS for source in kernel.sources}
    files = {path for path in KERNELS.rglob("*.c") if path.parent != KERNELS / "native"}
    chosen = {*test_sample_native.SOURCES, *(path for path in test_beams_native.SOURCES if path in files)}
    assert files - of_kernels == chosen
    assert set(test_sample_native.ISAS) == set(test_beams_native.ISAS) == SHARE.keys()


def test_only_matrix_products_have_paths_beside_the_width_of_vectors() -> None:
    """What reads other macros of the instruction set is to be tested on all of INSTRUCTION_SETS, as those are."""
    words = ("VNNI", "BF16__", "LLMC_BF16_DOT", "LLMC_HAS_DOT")
    files = [
        path for path in KERNELS.rglob("*.[ch]") if any(word in path.read_text(encoding="utf-8") for word in words)
    ]
    assert {path.parent.relative_to(KERNELS).as_posix() for path in files} == {"linear/native", "native"}
