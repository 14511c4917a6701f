"""The loaded model: an ordinary nn.Module for training, and the fused Program behind `generate`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from ..compiler.facts import facts
from ..compiler.native.formats import Quantize, choose_formats, rules_of
from ..compiler.program import Program
from ..specs.diagnostics import fail
from .cache import UNBOUNDED, Cache, has_constant_size
from .cache_dtype import refuse_cache_dtype
from .choose import make_executor, make_packed_executor
from .execute import Executor
from .gpu.cache_pool import CachePool
from .gpu.executor import GpuExecutor
from .late_tree import LateTree
from .loss import GivesLoss, Loss, require_logits
from .named_inputs import check_named, other_ambient, positions, table_rows
from .native.executor import NativeExecutor
from .outputs import Outputs, unwrap
from .recalled import Recalled
from .run_modules import run_modules
from .storage import ParameterBinder, Signature, first_parameter, parameters_below, signature
from .tokenizer import Tokenizer
from .tree import assign, find, grow

if TYPE_CHECKING:
    from .batch import Generation
    from .prompts import Prompt


class LanguageModel(GivesLoss, LateTree):
    """One spec with its weights. Paths of parameters are the checkpoint's names."""

    def __init__(self, program: Program | Recalled, *, tokenizer: Tokenizer | None = None) -> None:
        """Of a program, with parameters on the meta device; or as it was recalled, whose tree grows when it is asked
        for."""
        super().__init__()
        self.facts = program.facts if isinstance(program, Recalled) else facts(program)
        self.tokenizer = tokenizer
        self.layout: Mapping[str, str] | None = None
        self.source: Path | None = None
        self.folder_eos_ids: tuple[int, ...] | None = None
        self.folder_repetition_penalty: float | None = None
        self.folder_decoder_start_id: int | None = None
        self._executor: tuple[Signature, Executor] | None = None
        self.quantize: Quantize | None = None
        self.cache_dtype: torch.dtype | None = None
        self._packed: Executor | None = None
        self._fixed: tuple[torch.device, torch.dtype] | None = None
        self._program = None if isinstance(program, Recalled) else program
        self._recalled = program if isinstance(program, Recalled) else None
        if isinstance(program, Recalled):
            self._recall(program)
        else:
            self._graphs = grow(self, program.training)
            self.retie()

    def _recall(self, recalled: Recalled) -> None:
        """Run with the executor that there is already; the tree may wait."""
        self._fixed, self.quantize = (torch.device("cpu"), recalled.dtype), recalled.quantize
        if recalled.quantize is None:
            self._executor = ((), recalled.executor)
        else:
            self._packed = recalled.executor
        self.put_off(partial(self._grow_recalled, recalled))

    def _grow_recalled(self, recalled: Recalled) -> None:
        """The tree, on the tensors that the executor reads."""
        program = self.program
        with torch.inference_mode(False):
            self._graphs = grow(self, program.training)
            for path, spec in program.weights.parameters.items():
                if path not in program.weights.ties:
                    found = recalled.parameters.get(path)
                    tensor = torch.empty(spec.shape, dtype=recalled.dtype, device="meta") if found is None else found
                    is_trained = found is not None and spec.is_trained
                    assign(self, path, nn.Parameter(tensor, requires_grad=is_trained))
            self.retie()
        if recalled.quantize is None:
            self._fixed, self._executor = None, (signature(parameters_below(self)), recalled.executor)
        self._recalled = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy binds its own parameters."""
        return {**super().__getstate__(), "_executor": None}

    @property
    def program(self) -> Program:
        """The compiled program; compiled now where the model was recalled without it."""
        if self._program is None:
            assert self._recalled is not None
            self._program = self._recalled.compile()
        return self._program

    def _tie(self, path: str, owner: str) -> None:
        parent, _, name = path.rpartition(".")
        module = find(self, parent)
        shared = find(self, owner)
        assert isinstance(module, nn.Module)
        assert isinstance(shared, nn.Parameter)
        module.register_parameter(name, shared)

    def retie(self) -> None:
        """Let tied paths hold the owner's parameter again, after owners were replaced."""
        for path, owner in self.program.weights.ties.items():
            self._tie(path, owner)

    @property
    def max_seq_len(self) -> int | None:
        """The longest context, in tokens; None where the spec sets no limit."""
        return self.facts.max_seq_len

    @property
    def device(self) -> torch.device:
        return first_parameter(self).device if self._fixed is None else self._fixed[0]

    @property
    def dtype(self) -> torch.dtype:
        return first_parameter(self).dtype if self._fixed is None else self._fixed[1]

    def named_owned_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by checkpoint path, tied ones under their owner only."""
        return dict(self.named_parameters())

    # --- calling -------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        *,
        loss: Loss | None = None,
        **named_inputs: Tensor,
    ) -> Tensor | Outputs:
        """Run the model.

        tokens `[B, T]` int64; attention_mask `[B, T]` bool, False where a token is padding (left or right): a padded
        row equals the row alone. Without a cache, the whole sequence is run through the modules, with gradients where
        they are on. With a cache, the tokens continue what it holds, through the fused Program. Gives logits `[B, T,
        V]`, or an object with the spec's outputs. Raises E0801 where the context would overflow, E0803 for ids or
        shapes that do not fit.

        What is given once per request (`encoder_tokens`, padded by `encoder_attention_mask`) comes with the first
        tokens of a cache and is kept in it.

        With a `loss` what it makes of the logits, `[]` float32, takes their place; the modules run.
        """
        if loss is not None:
            self._require_parameters()
            require_logits(self.program, cache)
        is_later = cache is not None and bool(cache.kept)
        values = self._inputs(tokens, named_inputs, is_later=is_later)
        if cache is not None:
            with torch.inference_mode():
                return unwrap(self.run_program(values, cache, attention_mask))
        position = positions(tokens, attention_mask)
        if not torch.compiler.is_compiling():  # nothing may be read on the host while it is traced
            self._check_length(int(position.max()) + 1)
        lengths = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        ambient = {"position": position, "lengths": lengths, **other_ambient(self.facts.inputs, values)}
        if loss is not None:
            return unwrap(run_modules(self, self.program, self._graphs, values, ambient, loss))
        if not self.facts.states and (self.quantize is not None or not torch.is_grad_enabled()):
            return unwrap(self.executor().run("prefill", values, ambient, {}))
        if self.quantize is not None:
            with torch.inference_mode():
                return unwrap(self.run_program(values, self.new_cache(*tokens.shape), attention_mask))
        return unwrap(run_modules(self, self.program, self._graphs, values, ambient))

    def run_program(
        self,
        values: Mapping[str, Tensor],
        cache: Cache,
        attention_mask: Tensor | None,
        *,
        executor: Executor | None = None,
        last_token_only: bool = False,
    ) -> dict[str, Tensor]:
        """One pass of the fused Program over tokens that continue `cache`; a given `executor` is taken to be fresh.

        values: the inputs by name, with the masks of other axes than the stream's.
        """
        executor = executor or self.executor()
        tokens = values[self.facts.inputs[0].name]
        if len(tokens) != cache.batch_size:
            raise fail("E0803", f"the cache was made for {cache.batch_size} rows, but there are {len(tokens)}")
        position = positions(tokens, attention_mask)
        new = (position >= 0).sum(dim=1)
        cache.reserve(new)
        position = torch.where(position >= 0, position + cache.lengths[:, None], -1)
        ambient = {"position": position, "lengths": cache.lengths}
        if not cache.kept:
            ambient |= other_ambient(self.facts.inputs, values)
        phase = "decode" if tokens.shape[1] == 1 else "prefill"
        outputs = executor.run(phase, values, ambient, cache.states, kept=cache.kept, last_token_only=last_token_only)
        cache.advance(new)
        return outputs

    def _inputs(self, tokens: Tensor, named: Mapping[str, Tensor], *, is_later: bool) -> dict[str, Tensor]:
        first = self.facts.inputs[0]
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise fail("E0803", f"tokens must be [B, T] int64, not {list(tokens.shape)} {tokens.dtype}")
        if tokens.numel() and not torch.compiler.is_compiling():
            self.check_ids([int(value) for value in torch.aminmax(tokens)])
        check_named(self.facts.inputs, named, len(tokens), is_later=is_later, rows_of=self._table_rows)
        return {**self.default_inputs(tokens), **named, first.name: tokens}

    def _table_rows(self, name: str) -> int | None:
        return table_rows(self.program.model, name)

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises E0803 for an id that the vocabulary does not have."""
        size = self.facts.vocab_size
        outside = next((id for id in ids if id < 0 or (size is not None and id >= size)), None)
        if outside is not None:
            bound = "are at least 0" if size is None else f"go from 0 to {size - 1}"
            raise fail("E0803", f"token id {outside} is outside the vocabulary of {size}", help=f"ids {bound}")

    def default_inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """The inputs that have a default, filled with it at the shape of the tokens."""
        return {
            port.name: torch.full_like(tokens, port.default) for port in self.facts.inputs if port.default is not None
        }

    def _check_length(self, length: int) -> None:
        limit = self.max_seq_len
        if limit is not None and length > limit:
            raise fail(
                "E0801",
                f"{length} tokens do not fit the context of {limit}",
                help="shorten the input, or set max_seq_len where the architecture allows it",
            )

    def keep_keys_as(self, dtype: torch.dtype) -> None:
        """Let caches hold keys and values in `dtype`; what attention computes stays float32.

        Machine code takes any but float8, which torch and GPUs take. Raises E0855 where the dtype cannot be.
        """
        executor = self.executor()
        reason = refuse_cache_dtype(dtype, self.dtype, executor)
        if reason is not None:
            name = str(dtype).removeprefix("torch.")
            raise fail("E0855", f"{self.facts.name} cannot keep keys and values as {name} here", help=reason)
        self.cache_dtype = dtype

    # --- the fused view ------------------------------------------------------------------------------------------

    def pack(self, quantize: Quantize, packed: Mapping[str, Tensor] = MappingProxyType({})) -> None:
        """Pack the matrices of the linear layers, once and for all: the model then runs and has no parameters.

        packed: those that machine code packed before, by call and placeholder. Raises E0860 for rules of the spec that
        disagree, E0861 where there is no code for packed matrices.
        """
        program = self.program.packable()
        formats = choose_formats(program.module, quantize, rules_of(program.spec))
        with torch.inference_mode(False):
            real = (one.device for one in self.parameters() if not one.is_meta)
            self._fixed = (next(real, self.device), self.dtype)
            binder = ParameterBinder(self, program)
            self._packed = make_packed_executor(program, binder, formats, packed)
        self.quantize = quantize
        self._packed.release()
        for path, parameter in list(super().named_parameters()):
            parent, _, name = path.rpartition(".")
            owner = cast("nn.Module", find(self, parent))
            meta = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
            owner.register_parameter(name, meta)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        self._require_parameters()
        return super().named_parameters(prefix, recurse, remove_duplicate)

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, object]:  # type: ignore[override]
        self._require_parameters()
        return super().state_dict(*args, **kwargs)  # type: ignore[arg-type]

    def _require_parameters(self) -> None:
        if self.quantize is not None:
            raise fail(
                "E0859",
                f"the weights of {self.facts.name} are packed as {self.quantize}: it has no parameters",
                help="load it without quantize",
            )

    def packed_executor(self) -> NativeExecutor:
        """What runs a model that is packed for a CPU, and holds its matrices. Raises E0861 where there is none."""
        if not isinstance(self._packed, NativeExecutor):
            what = "is not packed" if self._packed is None else "is packed for a GPU"
            raise fail("E0861", f"{self.facts.name} {what}", help="load it with quantize, on a CPU")
        return self._packed

    def executor(self) -> Executor:
        """The Program bound to the present parameters; bound again after any of them changed."""
        if self._packed is not None:
            return self._packed
        if self._executor is not None and self.is_put_off:
            return self._executor[1]
        parameters = parameters_below(self)
        if any(parameter.is_meta for parameter in parameters):
            raise fail("E0708", f"{self.facts.name} has no weights", help="load it with weights=DIR")
        current = signature(parameters)
        if self._executor is None or self._executor[0] != current:
            with torch.inference_mode(False):
                executor = make_executor(self.program, ParameterBinder(self, self.program))
            self._executor = (signature(parameters_below(self)), executor)
        return self._executor[1]

    def new_cache(self, batch_size: int = 1, max_seq_len: int | None = None, *, snapshots: int = 0) -> Cache:
        """An empty cache for `batch_size` rows of at most `max_seq_len` tokens.

        The default is the spec's longest context, or no limit where no state grows with the tokens. `snapshots` is the
        number of calls that states of constant size keep a copy of, so that they can be taken back.
        """
        limit = self.max_seq_len
        length = max_seq_len if max_seq_len is not None else limit
        if length is None and has_constant_size(self.facts.states):
            length = UNBOUNDED
        if length is None:
            remedy = "give max_seq_len: this architecture sets no limit of its own"
            raise fail("E0803", "a cache needs a largest number of tokens", help=remedy)
        if length < 1 or batch_size < 1:
            raise fail("E0803", f"a cache needs at least one row and one token, not {batch_size} and {length}")
        if limit is not None and length > limit:
            remedy = "ask for fewer tokens, or set max_seq_len where the architecture allows it"
            raise fail(
                "E0801", f"a cache of {length} tokens is longer than the model's context of {limit}", help=remedy
            )
        return Cache(
            self.facts.states,
            batch_size=batch_size,
            max_seq_len=length,
            dtype=self.dtype,
            device=self.device,
            snapshots=snapshots,
            kv_dtype=self.cache_dtype,
        )

    @contextmanager
    def lease_cache(self, rows: int, tokens: int, *, executor: Executor | None = None) -> Generator[Cache, None, None]:
        """An empty cache of at least `tokens` tokens a row for as long as the block runs; on a GPU one of those that
        graphs were recorded for. A given `executor` is taken to be fresh."""
        executor = executor or self.executor()
        if not isinstance(executor, GpuExecutor):
            yield self.new_cache(rows, max_seq_len=tokens)
            return
        if executor.pool is None:
            executor.pool = CachePool(self.new_cache, self.max_seq_len, lambda cache: executor.forget(cache.states))
        with executor.pool.lease(rows, tokens) as cache:
            yield cache

    # --- text ----------------------------------------------------------------------------------------------------

    @overload
    def generate(  # pyright: ignore[reportOverlappingOverload]
        self, prompt: Prompt, *, stream: Literal[True], **options: object
    ) -> Iterator[str]: ...
    @overload
    def generate(self, prompt: Prompt, **options: object) -> Generation: ...
    @overload
    def generate(self, prompt: Sequence[Prompt], **options: object) -> list[Generation]: ...
    def generate(self, prompt: object, **options: object) -> object:
        """Continue a prompt: text, token ids, or a list of those. See `llmc.runtime.generate.generate`."""
        from .generate import generate

        return generate(self, prompt, **options)  # type: ignore[arg-type]

    def save(self, folder: str | Path) -> None:
        """Write config.json and the weights as a Hugging Face style folder, in the layout they were loaded from.

        Raises LlmcError E0714, with the weights written, where the spec has no `config:` to make a config.json of.
        """
        from .save import save

        save(self, Path(folder))
