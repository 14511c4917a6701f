"""One record of the golden table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmc.compiler.ops.declaration import Value

VOCAB = 97


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tiny model in both worlds: `config` and `model` are classes of transformers, `spec` and `params` are ours."""

    name: str
    spec: str
    config: str
    model: str
    kwargs: Mapping[str, object]
    params: Mapping[str, Value]
    """What `config.json` says as params of the spec: loading by spec and loading the folder must agree."""
    eps: str
    """The param with the epsilon of the norms."""
    is_sharded: bool = False
    seed: int = 0
    embedding_std: float = 0.3
    """Small enough that a wrong epsilon shows."""
    mistakes: Mapping[str, Mapping[str, Mapping[str, Value]]] | None = None
    """By name, the `params` or the `overlay` of mutants that must fail; None: those that `mutations` knows for it."""
    bias_std: float = 0.3
    """Small enough that greedy text varies. Seed, sizes and prompts are chosen so that it does: see test_greedy."""
    inert: tuple[str, ...] = ()
    """Ends of the paths of parameters that cannot matter: a bias on keys without RoPE."""
    derived: tuple[str, ...] = ()
    """Ends of the names of tensors that the reference saves although its config says them: they are no parameters."""
    first_position: int | None = None
    """Given to a reference that would else count only the tokens that are not its padding id."""

    @property
    def window(self) -> int | None:
        value = self.params.get("sliding_window", self.params.get("chunk_size"))
        return value if isinstance(value, int) else None

    @property
    def is_tied(self) -> bool:
        return bool(self.params.get("tie_word_embeddings"))

    @property
    def num_layers(self) -> int:
        value = self.params["num_layers"]
        assert isinstance(value, int)
        return value
