from .compiler.pipeline import build as build
from .compiler.pipeline import check as check
from .runtime.import_folder import import_folder as import_folder
from .runtime.load import load as load
from .specs.diagnostics import LlmcError as LlmcError

__version__: str
