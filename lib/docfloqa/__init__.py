"""How much of Florence-2's vision encoder must be trainable to answer questions about documents?"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
# Imported when they are asked for: torch and transformers take seconds.
HOMES = dict.fromkeys(("Settings", "Freezing"), "settings") | dict.fromkeys(("anls", "exact_match", "f1"), "metrics")
HOMES |= {"load_florence": "model.florence", "freeze": "model.freezing", "load_docvqa": "data.load"}
__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"docfloqa.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
