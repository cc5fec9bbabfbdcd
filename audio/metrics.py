"""Scores of enhanced speech against its clean reference."""

from __future__ import annotations

import warnings
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DynseError, MissingPackageError
from .stft import SAMPLE_RATE


class MetricError(DynseError):
    """A score that is not defined for these signals."""


def package(name: str) -> ModuleType:
    """Import a package of the extra ``train``.

    Raises
    ------
    MissingPackageError
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyworld imports pkg_resources, which complains
            return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(name) from error


def si_sdr(clean: ArrayLike, estimate: ArrayLike) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019), means removed.

    Raises
    ------
    MetricError
        Silent reference, or lengths that differ.
    """
    s, e = _pair(clean, estimate)
    s, e = s - s.mean(), e - e.mean()
    energy = float(s @ s)
    if energy == 0.0:
        raise MetricError("SI-SDR needs a reference that is not silent")
    target = (e @ s) / energy * s
    error = float(np.sum((e - target) ** 2))
    return float(10 * np.log10((float(target @ target) + 1e-20) / (error + 1e-20)))


def pesq_wb(clean: ArrayLike, estimate: ArrayLike) -> float:
    """Wideband PESQ (ITU-T P.862.2), 1.04..4.64, by the `pesq` package.

    Raises
    ------
    MetricError
        No utterance found, or shorter than a quarter of a second.
    """
    pesq = package("pesq")
    s, e = _pair(clean, estimate)
    if not np.any(e):
        return 1.04  # the reference code divides by the level of the degraded signal
    try:
        return float(pesq.pesq(SAMPLE_RATE, s, e, "wb"))
    except (pesq.PesqError, ValueError) as error:
        message = error.args[0] if error.args else error
        text = message.decode() if isinstance(message, bytes) else str(message)
        raise MetricError(f"PESQ is not defined here: {text}") from error


def stoi(clean: ArrayLike, estimate: ArrayLike, *, extended: bool = False) -> float:
    """Short-time objective intelligibility, 0..1, by the `pystoi` package; ESTOI if `extended`.

    Raises
    ------
    MetricError
        The reference is silent, or shorter without its pauses than the 0.4 s that it is taken over.
    """
    import pystoi

    s, e = _pair(clean, estimate)
    if not np.any(s):
        raise MetricError("STOI is not defined here: the reference is silent")
    try:
        with warnings.catch_warnings():
            # It would warn and return 1e-5, and of less than one of its frames fail otherwise.
            warnings.filterwarnings("error", "Not enough STFT frames")
            return float(pystoi.stoi(s, e, SAMPLE_RATE, extended=extended))
    except (RuntimeWarning, np.exceptions.AxisError) as error:
        raise MetricError("STOI is not defined here: too little speech") from error


def _pair(clean: ArrayLike, estimate: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    s, e = np.asarray(clean, np.float64), np.asarray(estimate, np.float64)
    if s.ndim != 1 or s.shape != e.shape:
        raise MetricError(f"needs two mono signals of one length, got {s.shape} and {e.shape}")
    if not s.size:
        raise MetricError("needs signals that are not empty")
    return s, e
