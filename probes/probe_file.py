"""Probes files: what was fitted, for which model, on what, and how well it does.

A probes file is safetensors with one JSON header. Its weights are integers: with binary features a
prediction is a sum of them, and the scale of each column is chosen so that no sum of a frame
leaves the 24 bits that float32 holds exactly, and none over a span of frames leaves 32 bits with
sign. Predictions therefore do not depend on the order of summation, on
the BLAS at hand, or on how a recording is cut.

Imports neither scikit-learn nor scipy nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..audio.errors import DynseError
from ..models.container import read_container, write_container

__all__ = [
    "AT_ONCE",
    "BUILT_IN",
    "FORMAT",
    "SHIPPED",
    "Probe",
    "Probes",
    "ProbesError",
    "Spans",
    "around",
    "load_probes",
    "load_shipped",
    "save_probes",
]

FORMAT = "dynse.probes/1"
_SHIPPED_DIR = Path(__file__).parent / "weights"
SHIPPED: dict[str, dict[str, str]] = json.loads((_SHIPPED_DIR / "shipped.json").read_text())
"""Name of each shipped probes file -> its ``sha256`` and that of the ``model`` it belongs to."""

BUILT_IN = frozenset(
    {"vad", "voiced", "gender", "language", "category", "f0_hz"}
    | {"snr_input_db", "si_sdr_input_db", "pesq_input"}
    | {"snr_enhanced_db", "si_sdr_enhanced_db", "pesq_enhanced"}
)
"""Probes that reports have a place for; others are somebody's own (`manifest`)."""

EXACT = 1 << 24
"""float32 holds every integer up to here."""

Spans = tuple[tuple[int, int], ...]
"""Stretches of frames, first and last counted from the frame in question, both included."""
AT_ONCE: Spans = ((0, 0),)

Kind = Literal["flag", "class", "value"]
Link = Literal["identity", "log", "log_above_1"]
Rows = Literal["all", "speech", "voiced"]


def around(frames: int) -> Spans:
    """One span of an odd number of frames, centred."""
    return ((-(frames // 2), frames // 2),)


class ProbesError(DynseError):
    """A probes file that is missing, damaged, or made for another model."""

    code = "probes"


@dataclass(frozen=True)
class Probe:
    """One linear predictor.

    Attributes
    ----------
    name : of the target, as in `fitting.TASKS`.
    kind : "flag" has one output, a logit; "class" one logit a class, or of two classes the logit
        of the second; "value" the value.
    classes : of kind "class".
    spans : its columns are summed over the open gates, the sums of each span averaged over the
        span's frames, and the averages added up.
    limits : values are clipped to these.
    link : "log" predicts ln(value), for F0, which is heard in octaves; "log_above_1" predicts
        ln(value - 1), for PESQ, which crowds near 1 and trails off to 4.6.
    first, outputs : its columns of the weights: `outputs` for the first span, as many for the
        next, and so on.
    rows : which frames of a recording its summary is taken over.
    evidence : of kind "class": a mean log-probability over many frames, times this, is that of
        the recording; neighbouring frames are no independent witnesses.
    scores : on held-out data, with baselines.
    unnamed : of kind "class": those that are known and not reported; a recording's label is then
        null.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    spans: Spans = AT_ONCE
    limits: tuple[float, float] | None = None
    link: Link = "identity"
    first: int = 0
    outputs: int = 1
    rows: Rows = "all"
    evidence: float = 1.0
    scores: dict[str, Any] | None = None
    unnamed: tuple[str, ...] = ()

    @property
    def columns(self) -> int:
        """Columns of the weights that are its own."""
        return self.outputs * len(self.spans)


@dataclass(frozen=True, eq=False)
class Probes:
    """All probes of one file.

    Attributes
    ----------
    header : name, model, data, library versions, calibration, ... as written.
    probes : in the order of their columns.
    features : (K,) indices into the flattened (I * C) gates.
    weights : (K, T) float32 holding integers.
    scale, bias : (T,) float64: prediction = scale * (sum of weights of the open gates) + bias.
    sha256 : of the file.
    """

    header: dict[str, Any]
    probes: tuple[Probe, ...]
    features: NDArray[np.int64]
    weights: NDArray[np.float32]
    scale: NDArray[np.float64]
    bias: NDArray[np.float64]
    sha256: str = ""

    @property
    def name(self) -> str:
        """Name of the file's content."""
        return str(self.header["name"])

    def check_model(self, name: str, sha256: str, gates: int) -> None:
        """Refuse a model that these probes were not fitted for.

        Raises
        ------
        ProbesError
        """
        made_for = self.header["model"]
        if made_for["sha256"] != sha256:
            raise ProbesError(
                f"probes {self.name!r} were fitted for the model {made_for['name']!r}"
                f" (sha256 {made_for['sha256'][:12]}...), not for {name!r} ({sha256[:12]}...);"
                " fit new ones with dynse fit-probes"
            )
        if len(self.features) and not 0 <= self.features.min() <= self.features.max() < gates:
            raise ProbesError(f"probes {self.name!r} read gates that {name!r} does not have")

    def get(self, name: str) -> Probe | None:
        """The probe of this name."""
        return next((probe for probe in self.probes if probe.name == name), None)


def unlink(output: NDArray[Any], link: Link) -> NDArray[Any]:
    """Output of a linear predictor -> value; see `Probe.link`."""
    if link == "identity":
        return output
    if link == "log":
        return np.asarray(np.exp(np.minimum(output, 50.0)))
    if link == "log_above_1":
        return np.asarray(1 + np.exp(np.minimum(output, 50.0)))
    raise ProbesError(f"unknown link {link!r}: this probes file is of a later version")


def linked(value: NDArray[np.float64], link: Link) -> NDArray[np.float64]:
    """Value -> what a linear predictor of it predicts; see `Probe.link`."""
    if link == "log":
        return np.asarray(np.log(np.maximum(value, 1e-3)))
    return np.asarray(np.log(np.maximum(value - 1, 0.01))) if link == "log_above_1" else value


def bounds(probes: Sequence[Probe]) -> NDArray[np.int64]:
    """(T,) that the absolute weights of a column must stay below: 2^24, and 2^31 over its span."""
    frames = [last - first + 1 for p in probes for first, last in p.spans for _ in range(p.outputs)]
    return np.minimum(EXACT, (1 << 31) // np.array(frames, np.int64).reshape(-1))


def quantise(
    weights: NDArray[Any], below: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """(K, T) real weights -> integers held as float32, and the (T,) scale that brings them back.

    The absolute values of a column add up to less than ``below``, of `bounds`, so every partial
    sum is exact.
    """
    total = np.abs(weights).sum(axis=0) + 1e-30
    # Rounding may add a half for each weight.
    scale = total / (below - 1 - len(weights))
    return np.round(weights / scale).astype(np.float32), scale


def save_probes(
    path: Path,
    header: dict[str, Any],
    probes: Sequence[Probe],
    features: NDArray[np.int64],
    weights: NDArray[Any],
    bias: NDArray[Any],
) -> str:
    """Write a probes file whole or not at all; return its sha256.

    Parameters
    ----------
    header : at least ``name`` and ``model`` (name, sha256).
    probes : in the order of their columns.
    features : (K,) gate indices.
    weights, bias : (K, T) and (T,) real.
    """
    integers, scale = quantise(np.asarray(weights, np.float64), bounds(probes))
    tensors: dict[str, NDArray[Any]] = {
        "bias": np.asarray(bias, np.float64),
        "features": np.asarray(features, np.int32),
        "scale": np.asarray(scale, np.float64),
        "weights": np.asarray(integers, np.int32),
    }
    told = {**header, "probes": [asdict(probe) for probe in probes]}
    return write_container(path, FORMAT, tensors, told)


def load_shipped(model_name: str, model_sha256: str) -> Probes:
    """Read the probes that are shipped for a model.

    Raises
    ------
    ProbesError
        There are none, or the file is not the one that was shipped.
    """
    for name, entry in SHIPPED.items():
        if entry["model"] == model_sha256:
            path = _SHIPPED_DIR / f"{name}.safetensors"
            probes = load_probes(path)
            if probes.sha256 != entry["sha256"]:
                raise ProbesError(
                    f"{path}: sha256 {probes.sha256[:12]}..., expected {entry['sha256'][:12]}...;"
                    " reinstall dynse"
                )
            return probes
    raise ProbesError(
        f"no probes are shipped for the model {model_name!r} ({model_sha256[:12]}...);"
        " fit some with dynse fit-probes and name them with --probes"
    )


def load_probes(path: str | Path) -> Probes:
    """Read a probes file.

    Raises
    ------
    ProbesError
        Missing, damaged, or another kind of file.
    """
    path = Path(path)
    header, tensors, digest = read_container(path, FORMAT, "probes file", ProbesError)
    try:
        probes = tuple(_probe(entry) for entry in header.pop("probes"))
        features = tensors["features"].astype(np.int64)
        weights = tensors["weights"].astype(np.float32)
        scale, bias = tensors["scale"], tensors["bias"]
        outputs = sum(probe.columns for probe in probes)
        fits = weights.shape == (len(features), outputs) and scale.shape == bias.shape == (outputs,)
        if not fits or (np.abs(weights).sum(axis=0, dtype=np.float64) >= bounds(probes)).any():
            raise ProbesError(f"{path}: the weights do not fit the header")
        if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
            raise ProbesError(f"{path}: weights that are not finite")
        return Probes(header, probes, features, weights, scale, bias, digest)
    except (KeyError, TypeError, ValueError) as error:
        raise ProbesError(f"{path}: damaged probes file ({error})") from error


def _probe(entry: dict[str, Any]) -> Probe:
    limits = entry["limits"]
    return Probe(
        **{
            **entry,
            "classes": tuple(entry["classes"]),
            "unnamed": tuple(entry.get("unnamed", ())),
            "spans": tuple((int(a), int(b)) for a, b in entry["spans"]),
            "limits": None if limits is None else (float(limits[0]), float(limits[1])),
        }
    )
