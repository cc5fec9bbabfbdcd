from typing import Any

LAYOUT: int

def step(
    shape: Any,
    weights: Any,
    memory: Any,
    sums: Any,
    clock: Any,
    scratch: Any,
    spectrum: Any,
    mask: Any,
    gates: Any,
    scores: Any | None,
    force_open: bool,
    /,
) -> None: ...
def scratch_size(shape: Any, /) -> int: ...
def kernels() -> list[str]: ...
def select(name: str, /) -> None: ...
