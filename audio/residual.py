"""What was removed, so that input == output + residual to the last bit.

Rounding stands in the way: a float32 residual cannot do it for every float32 input, since where
output and residual are much larger than their sum, both lack the bits in which it ends. Two ways
out: inputs of up to 24 bits all lie on one grid, onto which the output is moved as well; for the
others the residual is float64.
"""

from __future__ import annotations

import numpy as np

from .formats import INTEGERS, Samples
from .suffixes import LINEAR
from .writing import quantise

_GRID = 2.0**-23
"""What 24-bit samples are multiples of; float32 holds all of them up to 2."""


def on_grid(subtype: str) -> bool:
    """Whether samples read from this subtype are multiples of 2**-23, as 24 bits give them."""
    return subtype in ("PCM_U8", "PCM_16", "PCM_24", "ULAW", "ALAW")


def residual_subtype(source: str, output: str, gridded: bool) -> str:
    """Return the subtype in which input - output has room, to the last bit.

    Parameters
    ----------
    source, output : subtypes of the input and of the output as written.
    gridded : whether all samples of the input are multiples of 2**-23.
    """
    if gridded and output in INTEGERS and source in INTEGERS:
        return max(source, output, key=LINEAR.index)
    if gridded and output != "DOUBLE":
        return "FLOAT"
    if output == source == "PCM_32":
        return "PCM_32"
    # Where two float32 almost cancel, what is left needs bits that float32 does not have.
    return "DOUBLE"


def split_exactly(x: Samples, y: Samples, output: str, gridded: bool) -> tuple[Samples, Samples]:
    """Split the input into an output and a residual that give it back when added.

    Parameters
    ----------
    x, y : input and enhanced samples.
    output : subtype that the output is written in.
    gridded : whether all samples of `x` are multiples of 2**-23.

    Returns
    -------
    What to write as output, and the residual: what is missing from the output as the file will
    hold it. With `gridded` and float output, `y` is moved by less than 2**-22 onto the same grid,
    so that the sum is exact even in float32. Otherwise the residual is float64, and the sum is
    exact in float64 where one of the two samples is 0 or they are within 170 dB of each other;
    elsewhere it is within 2**-53 of the larger.
    """
    if gridded and output == "FLOAT":
        y = np.rint(y.astype(np.float64) / _GRID) * _GRID
        r = (x - y).astype(np.float32)
        return (x - r.astype(np.float64)).astype(np.float32), r
    return y, x.astype(np.float64) - quantise(y, output)
