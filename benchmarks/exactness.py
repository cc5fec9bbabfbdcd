"""How far the engine is from the torch reference, and whether cuts change a bit, on a folder.

    python -m benchmarks.exactness TEST/noisy [--model NAME] [-o exactness.json]

Of each file: the largest difference of a mask and of an output sample; the gates that differ, with
the reference's score where a file's first one does; and whether cuts into 1, 7, 64 and 1000 frames
give the bits of the whole file.

The reference runs in float64: in float32 it errs as much as the engine. One gate's score in a
million still lies so near zero that the engine's rounding decides, and all that follows in the file
differs because of it. So the reference runs a second time, in which gates with a score below `TIE`
go the way of the engine's: what then still differs, differs for another reason.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import soundfile
import torch

from dynse.audio.stft import analyse, synthesise
from dynse.models import conv_fsenet
from dynse.models.checkpoint import DEFAULT, load_network, read
from dynse.models.engine import Engine

CUTS = (1, 7, 64, 1000)
TIE = 1e-6


def compare(engine: Engine, network: torch.nn.Module, x: np.ndarray, cuts: bool) -> dict[str, Any]:
    """All figures of one recording."""
    frames = analyse(x)
    scores = np.empty((len(frames), *engine.gate_shape), np.float32)
    mask, gates, end = engine.step(frames, engine.initial_state(), scores)
    with torch.inference_mode():
        out = network(torch.from_numpy(frames.astype(np.complex128))[None])
    reference, wanted = out.mask[0].numpy(), out.scores[0].numpy()
    turned = gates != out.gates[0].numpy()
    first = None
    if turned.any():
        frame = int(np.argmax(turned.any(axis=(1, 2))))
        block = int(np.argmax(turned[frame].any(axis=1)))
        first = float(np.abs(wanted[frame, block][turned[frame, block]]).max())
    same = True
    for size in CUTS if cuts else ():
        state = engine.initial_state()
        parts = [engine.step(frames[i : i + size], state) for i in range(0, len(frames), size)]
        same &= np.array_equal(np.concatenate([part[0] for part in parts]), mask)
        same &= np.array_equal(np.concatenate([part[1] for part in parts]), gates)
        same &= np.array_equal(state.memory, end.memory)
    settled = out
    if turned.any():
        ties = iter(torch.from_numpy(gates).double().unbind(1))

        def settle(score: torch.Tensor, *_: Any) -> torch.Tensor:
            return torch.where(score.abs() < TIE, next(ties)[None], (score > 0).double())

        with torch.inference_mode(), mock.patch.object(conv_fsenet, "binarise", settle):
            settled = network(torch.from_numpy(frames.astype(np.complex128))[None])

    def differences(other: np.ndarray) -> dict[str, float]:
        sample = synthesise(frames * mask, len(x)) - synthesise(frames * other, len(x))
        return {
            "mask": float(np.abs(mask - other).max(initial=0)),
            "sample": float(np.abs(sample).max(initial=0)),
        }

    return {
        "frames": len(frames),
        **differences(reference),
        "settled": differences(settled.mask[0].numpy())
        | {"gates_turned": int((gates != settled.gates[0].numpy()).sum())},
        "gates": gates.size,
        "gates_within_1e-6": int((np.abs(wanted) < 1e-6).sum()),
        "gates_turned": int(turned.sum()),
        "score_of_first_turned": first,
        "cuts_equal": bool(same),
    }


def summary(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Totals and extremes over the files."""
    found = list(files.values())
    firsts = [f["score_of_first_turned"] for f in found if f["gates_turned"]]
    return {
        "files": len(found),
        **{k: sum(f[k] for f in found) for k in ("frames", "gates", "gates_within_1e-6")},
        "gates_turned": sum(f["gates_turned"] for f in found),
        "files_with_turned_gates": len(firsts),
        "largest_score_of_first_turned": max(firsts, default=None),
        "files_first_turned_beyond_1e-6": sum(score > 1e-6 for score in firsts),
        "largest_mask_difference": max(f["mask"] for f in found),
        "largest_sample_difference": max(f["sample"] for f in found),
        "files_sample_beyond_1e-4": sum(f["sample"] > 1e-4 for f in found),
        "settled": {
            "gates_turned": sum(f["settled"]["gates_turned"] for f in found),
            "largest_mask_difference": max(f["settled"]["mask"] for f in found),
            "largest_sample_difference": max(f["settled"]["sample"] for f in found),
        },
        "cuts_equal": all(f["cuts_equal"] for f in found),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = read(arguments.model)
    engine, network = Engine(checkpoint), load_network(checkpoint).double()
    files = {}
    for path in sorted(arguments.folder.glob("*.*")):
        x, _ = soundfile.read(path, dtype="float32")
        files[path.name] = compare(engine, network, x, cuts=True)
    found = summary(files)
    print(json.dumps(found, indent=2))
    if arguments.output:
        report = {"model": engine.name, "sha256": engine.sha256, **found, "by_file": files}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
