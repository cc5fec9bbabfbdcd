"""What a run loads once: the model, and the probes that belong to it.

Apart from the commands so that workers need not import the command line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from .planning import RefusedError

if TYPE_CHECKING:
    from ..models.engine import Engine
    from ..probes.probe_file import Probes


@contextmanager
def refusing(name: str) -> Iterator[None]:
    """Take what goes wrong with the header of a model for what it is: the file's fault.

    Raises
    ------
    RefusedError
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RefusedError(f"{name}: damaged model ({type(error).__name__}: {error})") from error


@lru_cache(1)  # the command looks at the model before the first job of its process does
def load_model(name: str) -> Engine:
    """A shipped model or a checkpoint.

    Raises
    ------
    CheckpointError, RefusedError
        There is none of this name, or it is damaged.
    """
    from ..models.engine import load

    with refusing(name):
        return load(name)


@lru_cache(1)
def load_probes_of(model: str, path: str | None) -> Probes:
    """The probes file at `path`, or the one that is shipped for the model.

    Raises
    ------
    RefusedError
        There is none, it is damaged, or it was fitted for another model.
    """
    from ..probes.probe_file import ProbesError, load_probes, load_shipped

    engine = load_model(model)
    try:
        if path is None:
            return load_shipped(engine.name, engine.sha256)
        probes = load_probes(path)
        probes.check_model(engine.name, engine.sha256, engine.gate_shape[0] * engine.gate_shape[1])
        return probes
    except ProbesError as error:
        raise RefusedError(str(error)) from error
