"""The loaded model: an ordinary nn.Module for training, and the fused Program behind `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, overload

import torch
from torch import Tensor, nn

from ..compiler.program import Program
from ..specs.diagnostics import did_you_mean, fail
from .cache import UNBOUNDED, Cache, has_constant_size
from .execute import Executor
from .native.choose import make_executor
from .outputs import Outputs, unwrap
from .storage import Signature, bind_parameters, signature
from .tokenizer import Tokenizer
from .tree import Block, find, grow, scalar_operands

if TYPE_CHECKING:
    from .generate import Generation, Prompt


class LanguageModel(nn.Module):
    """One spec with its weights. Paths of parameters are the checkpoint's names."""

    def __init__(self, program: Program, *, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.program = program
        self.tokenizer = tokenizer
        self.layout: Mapping[str, str] | None = None
        self.source: Path | None = None
        self.folder_eos_ids: tuple[int, ...] | None = None
        self.folder_repetition_penalty: float | None = None
        self._graphs = grow(self, program.model)
        for path, owner in program.weights.ties.items():
            self._tie(path, owner)
        self._executor: tuple[Signature, Executor] | None = None

    def _tie(self, path: str, owner: str) -> None:
        parent, _, name = path.rpartition(".")
        module = find(self, parent)
        shared = find(self, owner)
        assert isinstance(module, nn.Module)
        assert isinstance(shared, nn.Parameter)
        module.register_parameter(name, shared)

    @property
    def max_seq_len(self) -> int | None:
        """The longest context, in tokens; None where the spec sets no limit."""
        length = self.program.spec.environment.get("max_seq_len")
        return length if isinstance(length, int) else None

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def named_owned_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by checkpoint path, tied ones under their owner only."""
        return dict(self.named_parameters())

    # --- calling -------------------------------------------------------------------------------------------------

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        cache: Cache | None = None,
        **named_inputs: Tensor,
    ) -> Tensor | Outputs:
        """Run the model.

        tokens `[B, T]` int64; attention_mask `[B, T]` bool, False where a token is padding (left or right): a padded
        row equals the row alone. Without a cache, the whole sequence is run through the modules, with gradients where
        they are on. With a cache, the tokens continue what it holds, through the fused Program. Gives logits `[B, T,
        V]`, or an object with the spec's outputs. Raises E0801 where the context would overflow, E0803 for ids or
        shapes that do not fit.
        """
        values = self._inputs(tokens, named_inputs)
        if cache is not None:
            with torch.inference_mode():
                return unwrap(self.run_program(values, cache, attention_mask))
        position = positions(tokens, attention_mask)
        self._check_length(int(position.max()) + 1)
        ambient = {"position": position, "lengths": torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)}
        if not self.program.states and not torch.is_grad_enabled():
            return unwrap(self.executor().run("prefill", values, ambient, {}))
        return unwrap(self._run_modules(values, ambient))

    def run_program(
        self,
        values: Mapping[str, Tensor],
        cache: Cache,
        attention_mask: Tensor | None,
        *,
        executor: Executor | None = None,
        last_token_only: bool = False,
    ) -> dict[str, Tensor]:
        """One pass of the fused Program over tokens that continue `cache`; a given `executor` is taken to be fresh."""
        executor = executor or self.executor()
        tokens = values[self.program.model.inputs[0].name]
        if len(tokens) != cache.batch_size:
            raise fail("E0803", f"the cache was made for {cache.batch_size} rows, but there are {len(tokens)}")
        position = positions(tokens, attention_mask)
        new = (position >= 0).sum(dim=1)
        cache.reserve(new)
        position = torch.where(position >= 0, position + cache.lengths[:, None], -1)
        ambient = {"position": position, "lengths": cache.lengths}
        phase = "decode" if tokens.shape[1] == 1 else "prefill"
        outputs = executor.run(phase, values, ambient, cache.states, last_token_only=last_token_only)
        cache.advance(new)
        return outputs

    def _run_modules(self, inputs: Mapping[str, Tensor], ambient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values: dict[str, object] = dict(inputs)
        for call in self.program.model.calls:
            given = [
                [values[v] for v in value] if isinstance(value, tuple) else values[value]
                for value in call.inputs.values()
            ]
            graph = self._graphs.get(call.definition)
            if graph is None:
                block = cast("Block", find(self, call.binding.prefix))
                results = block(*given, *(ambient[name] for name in block.graph.lowered.ambient))
            else:
                operands = [*given, *(ambient[name] for name in graph.lowered.ambient)]

                def lookup(path: str, call: object = call) -> object:
                    return find(self, call.binding.absolute(path))  # type: ignore[attr-defined]

                results = graph.run(operands, scalar_operands(graph.lowered, call), lookup)
            values.update(zip(call.outputs.values(), results, strict=True))
        given = self.program.model.outputs if self.training else self.program.module.outputs
        return {name: values[self.program.model.outputs[name]] for name in given}  # type: ignore[misc]

    def _inputs(self, tokens: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        declared = {port.name: port for port in self.program.model.inputs}
        first = self.program.model.inputs[0]
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise fail("E0803", f"tokens must be [B, T] int64, not {list(tokens.shape)} {tokens.dtype}")
        if tokens.numel():
            self.check_ids([int(value) for value in torch.aminmax(tokens)])
        for name in named:
            if name not in declared:
                raise fail("E0804", f"this model has no input {name!r}", help=did_you_mean(name, declared))
        missing = [
            port.name for port in self.program.model.inputs[1:] if port.name not in named and port.default is None
        ]
        if missing:
            raise fail("E0804", f"this model needs its input {missing[0]!r}")
        return {**self.default_inputs(tokens), **named, first.name: tokens}

    def check_ids(self, ids: Sequence[int]) -> None:
        """Raises E0803 for an id that the vocabulary does not have."""
        size = self.program.spec.environment.get("vocab_size")
        outside = next((id for id in ids if id < 0 or (isinstance(size, int) and id >= size)), None)
        if outside is not None:
            raise fail("E0803", f"token id {outside} is outside the vocabulary of {size}")

    def default_inputs(self, tokens: Tensor) -> dict[str, Tensor]:
        """The inputs that have a default, filled with it at the shape of the tokens."""
        return {
            port.name: torch.full_like(tokens, port.default)
            for port in self.program.model.inputs
            if port.default is not None
        }

    def _check_length(self, length: int) -> None:
        limit = self.max_seq_len
        if limit is not None and length > limit:
            raise fail(
                "E0801",
                f"{length} tokens do not fit the context of {limit}",
                help="shorten the input, or set max_seq_len where the architecture allows it",
            )

    # --- the fused view ------------------------------------------------------------------------------------------

    def executor(self) -> Executor:
        """The Program bound to the present parameters; bound again after any of them changed."""
        if any(parameter.is_meta for parameter in self.parameters()):
            raise fail("E0708", f"{self.program.spec.name} has no weights", help="load it with weights=DIR")
        current = signature(self)
        if self._executor is None or self._executor[0] != current:
            with torch.inference_mode(False):
                bound = bind_parameters(self, self.program)
            self._executor = (signature(self), make_executor(self.program, bound))
        return self._executor[1]

    def new_cache(self, batch_size: int = 1, max_seq_len: int | None = None, *, snapshots: int = 0) -> Cache:
        """An empty cache for `batch_size` rows of at most `max_seq_len` tokens.

        The default is the spec's longest context, or no limit where no state grows with the tokens. `snapshots` is the
        number of calls that states of constant size keep a copy of, so that they can be taken back.
        """
        limit = self.max_seq_len
        length = max_seq_len if max_seq_len is not None else limit
        if length is None and has_constant_size(self.program.states):
            length = UNBOUNDED
        if length is None or length < 1 or batch_size < 1:
            raise fail("E0803", f"a cache needs at least one row and one token, not {batch_size} and {length}")
        if limit is not None and length > limit:
            raise fail("E0801", f"a cache of {length} tokens is longer than the model's context of {limit}")
        return Cache(
            self.program.states,
            batch_size=batch_size,
            max_seq_len=length,
            dtype=self.dtype,
            device=self.device,
            snapshots=snapshots,
        )

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
        """Write config.json and the weights as a Hugging Face style folder, in the layout they were loaded from."""
        from .save import save

        save(self, Path(folder))


def positions(tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The position of each token in its row, -1 where it is padding. `[B, T]` -> `[B, T]` int64."""
    if attention_mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[0], tokens.shape[1])
    if attention_mask.shape != tokens.shape:
        raise fail("E0803", f"attention_mask is {list(attention_mask.shape)}, tokens are {list(tokens.shape)}")
    mask = attention_mask.bool()
    return torch.where(mask, mask.cumsum(dim=1) - 1, -1)
