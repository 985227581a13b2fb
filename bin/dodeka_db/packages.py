"""The packages of .venv, imported on first use; a failed import is a SetupError."""

import importlib
from pathlib import Path
from types import ModuleType

from dodeka_db.errors import SetupError

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    """The package `name`; SetupError if it is missing or damaged."""
    try:
        return importlib.import_module(name)
    except (ImportError, SyntaxError) as error:
        raise SetupError(
            f"cannot import {name} from {ROOT / '.venv'}: {error}", f"run: make -C {ROOT} setup"
        ) from error
