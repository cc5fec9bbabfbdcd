from typing import Any

MAX_GATES: int
MAX_COLUMNS: int

def gather(gates: Any, features: Any, weights: Any, running: Any, opened: Any, /) -> None: ...
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
