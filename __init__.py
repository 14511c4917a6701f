"""llmc: a declarative compiler for language models. One YAML file is the architecture.

`llmc.load(spec_or_folder, weights=..., params=...)` gives an nn.Module that generates; `llmc.build(spec)` gives the
compiled `Program` without weights. Names are resolved on first use, so that importing llmc costs nothing.
"""


def __getattr__(name: str) -> object:
    from importlib import import_module

    homes = {
        "load": "runtime.load",
        "build": "compiler.pipeline",
        "check": "compiler.pipeline",
        "import_folder": "runtime.import_folder",
        "LlmcError": "specs.diagnostics",
    }
    if name == "__version__":
        from importlib.metadata import version

        return version("llmc")
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{homes[name]}"), name)
