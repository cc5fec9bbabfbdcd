from typing import Any

def step(
    shape: Any,
    weights: Any,
    state: Any,
    clock: Any,
    spectrum: Any,
    mask: Any,
    gates: Any,
    scores: Any | None,
    force_open: bool,
    /,
) -> None: ...
