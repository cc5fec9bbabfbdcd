"""Batches of mixtures for training: mixed as they are needed, or mixed once and kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..audio.mixing import Mixer, active_level

Samples = NDArray[np.float32]


def normalised(mixer: Mixer, index: int) -> Samples:
    """Mixture number `index`: (2, n), noisy and clean at unit active level of the clean speech."""
    mixture = mixer(index)
    level = active_level(mixture.clean) or active_level(mixture.noisy) or 1.0
    return np.stack([mixture.noisy, mixture.clean]) / np.float32(level)


class MixturePool:
    """The first `count` mixtures of a mixer, kept on disk as int16 once they are mixed.

    Runs that compare networks then share their mixtures, and a step no longer waits for a second
    core: reading is some 50 times faster than mixing. Any number of processes may share a pool.

    Parameters
    ----------
    mixer : what to keep; the name of the files tells its corpus, settings and seed.
    count : number of mixtures.
    folder : where: 4 bytes a sample, 12 GB for 64,000 mixtures of 3 s.
    """

    def __init__(self, mixer: Mixer, count: int, folder: Path):
        self.mixer = mixer
        folder.mkdir(parents=True, exist_ok=True)
        corpus = mixer.corpus
        what = (corpus.cache.name, corpus.speech, corpus.noise, asdict(mixer.config), mixer.seed)
        key = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        n = mixer.config.samples
        self._samples = _array(folder / f"pool-{key}-{count}.npy", np.int16, (count, 2, n))
        # A scale above 0 says that the mixture is there: it is written last.
        self._scales = _array(folder / f"pool-{key}-{count}-scale.npy", np.float32, (count, 2))

    def __len__(self) -> int:
        return len(self._scales)

    def __getitem__(self, index: int) -> Samples:
        """Mixture number `index`: (2, n) float32 as in `normalised`, rounded to 16 bits."""
        if not self._scales[index].all():
            x = normalised(self.mixer, index)
            scale = (np.abs(x).max(axis=1) / 32767).astype(np.float32)
            scale[scale == 0] = 1
            self._samples[index] = np.round(x / scale[:, None])
            self._scales[index] = scale
        return np.asarray(self._samples[index] * self._scales[index][:, None], np.float32)


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Open a memory-mapped array, zeros where nothing was written yet."""
    if not path.exists():
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:
            np.lib.format.write_array_header_2_0(file, header)
            # Sparse: takes no time, and no space until mixtures come.
            file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)
            with contextlib.suppress(FileExistsError):  # another process was quicker
                os.link(file.name, path)
    array: NDArray[np.generic] = np.load(path, mmap_mode="r+")
    return array


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batch number i: (B, n) noisy and clean, at unit active level of the clean speech."""

    def __init__(self, mixer: Mixer, batch: int, pool: MixturePool | None = None):
        self.mixer, self.batch, self.pool = mixer, batch, pool

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        numbers = range(index * self.batch, (index + 1) * self.batch)
        if self.pool is None:
            pairs = [normalised(self.mixer, i) for i in numbers]
        else:
            pairs = [self.pool[i % len(self.pool)] for i in numbers]
        noisy, clean = torch.from_numpy(np.stack(pairs)).unbind(1)
        return noisy.contiguous(), clean.contiguous()
