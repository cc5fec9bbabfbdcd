from typing import Any

MAX_GATES: int
MAX_COLUMNS: int

def listen(
    gain: Any,
    gates: Any,
    spectrum: Any,
    bins: int,
    features: Any,
    weights: Any,
    running: Any,
    opened: Any,
    at: int,
    powers: Any,
    looked_at: int,
    begin: int,
    all: int,
    /,
) -> int: ...
def powers(gain: Any, spectrum: Any, bins: int, begin: int, all: int, out: Any, /) -> int: ...
def average(
    running: Any,
    width: int,
    base: int,
    columns: Any,
    scale: Any,
    bias: Any,
    begin: int,
    out: Any,
    /,
) -> None: ...
