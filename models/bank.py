"""Banks of voices and noises, mixed anew for every step on the device that trains.

A CPU core mixes some hundreds of seconds of sound a second; a GPU trains on tens of thousands. So
voices (`Mixer.voice`) and noises (`Mixer.background`) are drawn apart, by all cores, into a bank;
a step picks pairs of them, and SNR and what a recording chain does to both, by a few tensor
operations. While one bank is in use, the next is drawn; after a number of them the first comes
again, with other pairs.

A bank is a function of corpus, settings and seed alone, and so are the picks of each step: a
run that goes on from its state file sees what it would have seen.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..audio.lock import lock
from ..audio.mixing import MixConfig, Mixer, active_level
from .spectra import band_gain

_PIECE = 50  # voices and noises that a worker draws at once
_KNOTS = 5  # of a change of level
_KEPT_S = 14 * 86_400.0
"""Banks that no run has used for this long are removed: they are large, and can be drawn again."""


NO_LIMIT = 1e6
"""Upper limit in Hz of a band that has none."""


class Bank(NamedTuple):
    """Voices and noises of one length n, as int16 with a scale each.

    Attributes
    ----------
    sounds : (N, 3, n) int16: clean target, speech as recorded, noise.
    scales : (N, 3) float32: factors to the sounds at unit active level of the speech, of the
        speech, and at unit RMS of the noise.
    levels : (N,) float32, active level of the clean target relative to that of the speech.
    labels : (N, 2) int16, gender of the voice and category of the noise, as numbers in
        `Mixer.genders` and `Mixer.categories`; -1 where it is not known.
    """

    sounds: Tensor
    scales: Tensor
    levels: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Bank:
        """The same on another device."""
        return Bank(*(x.to(device) for x in self))


class Banks:
    """Bank after bank, the next one drawn while one is in use, and kept on disk.

    Runs that compare networks share their banks, also while they run side by side: the first to
    come draws, the others wait for it.

    Parameters
    ----------
    mixer : what to draw from; the name of the files tells its corpus, settings and seed.
    size : voices, and noises, of a bank.
    folder : where they are kept: 6 bytes a sample, 1.7 GB for a bank of 6000 of 3 s.
    workers : processes that draw; 0 draws in this one.
    """

    def __init__(self, mixer: Mixer, size: int, folder: Path, workers: int = 0):
        self.mixer, self.size, self.folder, self.workers = mixer, size, folder, workers
        corpus = mixer.corpus
        # The number is that of the files' layout.
        what = (2, corpus.cache.name, corpus.speech, corpus.noise, asdict(mixer.config), mixer.seed)
        self._key = hashlib.sha256(repr((what, size)).encode()).hexdigest()[:16]
        self._thread = ThreadPoolExecutor(1)
        self._next: dict[int, Future[Bank]] = {}

    def __call__(self, number: int, then: int | None = None) -> Bank:
        """Bank `number`; begins to get bank `then` in the background."""
        bank = self._next.pop(number, None) or self._thread.submit(self._get, number)
        if then is not None and then not in self._next:
            self._next[then] = self._thread.submit(self._get, then)
        return bank.result()

    def _get(self, number: int) -> Bank:
        path = self.folder / f"bank-{self._key}-{number}.safetensors"
        with lock(path.with_suffix(".lock")):
            if path.exists():
                path.touch()
            else:
                self._sweep()
                partial = path.with_suffix(f".{os.getpid()}")
                save_file(self._draw(number)._asdict(), partial)
                os.replace(partial, path)
        return Bank(**load_file(path))

    def _sweep(self) -> None:
        for old in self.folder.glob("bank-*"):
            with suppress(OSError):  # another run may have been faster
                if old.suffix != ".lock" and time.time() - old.stat().st_mtime > _KEPT_S:
                    old.unlink()

    def _draw(self, number: int) -> Bank:
        first, n = number * self.size, self.mixer.config.samples
        sounds = torch.empty((self.size, 3, n), dtype=torch.int16)
        scales, levels = torch.empty((self.size, 3)), torch.empty(self.size)
        labels = torch.empty((self.size, 2), dtype=torch.int16)
        starts = range(0, self.size, _PIECE)
        tasks = [range(first + at, first + min(at + _PIECE, self.size)) for at in starts]
        with ExitStack() as stack:
            pieces: Iterator[Any] = (_draw_piece(self.mixer, task) for task in tasks)
            if self.workers:
                pool = ProcessPoolExecutor(
                    self.workers, get_context("spawn"), _start_worker, (self.mixer,)
                )
                pieces = stack.enter_context(pool).map(_draw_in_worker, tasks)
            for at, piece in zip(starts, pieces, strict=True):
                part = slice(at, at + len(piece[0]))
                for whole, values in zip((sounds, scales, levels, labels), piece, strict=True):
                    whole[part] = torch.from_numpy(values)
        return Bank(sounds, scales, levels, labels)


_worker_mixer: Mixer | None = None


def _start_worker(mixer: Mixer) -> None:
    global _worker_mixer
    torch.set_num_threads(1)
    _worker_mixer = mixer


def _draw_in_worker(numbers: range) -> tuple[NDArray[Any], ...]:
    assert _worker_mixer is not None
    return _draw_piece(_worker_mixer, numbers)


def _draw_piece(mixer: Mixer, numbers: range) -> tuple[NDArray[Any], ...]:
    sounds = np.empty((len(numbers), 3, mixer.config.samples), np.int16)
    scales = np.empty((len(numbers), 3), np.float32)
    levels = np.empty(len(numbers), np.float32)
    labels = np.empty((len(numbers), 2), np.int16)
    for row, number in enumerate(numbers):
        clean, speech, gender = mixer.voice(number)
        noise, category = mixer.background(number)
        labels[row] = mixer.numbers(gender, category)
        level = active_level(speech) or 1.0
        levels[row] = (active_level(clean) / level) or 1.0
        for column, x in enumerate((clean / level, speech / level, noise)):
            scales[row, column] = max(float(np.abs(x).max()), 1e-6) / 32767
            sounds[row, column] = np.round(x / scales[row, column])
    return sounds, scales, levels, labels


class Draws:
    """What each item of each step of a bank is made of, as rows of plain numbers.

    Parameters
    ----------
    config : how to mix.
    batch : items a step.
    p_telephone : share of the items that pass through a telephone's band.
    """

    FIELDS = (
        "voice", "noise", "snr_db", "speaks", "sounds", "low_hz", "high_hz", "clip", "offset",
        "drop_from", "drop_to",
    )  # fmt: skip

    def __init__(self, config: MixConfig, batch: int, p_telephone: float):
        self.config, self.batch, self.p_telephone = config, batch, p_telephone
        self.width = len(self.FIELDS) + _KNOTS

    def __call__(self, seed: tuple[int, ...], size: int, steps: int) -> NDArray[np.float32]:
        """Rows for `steps` steps on a bank of `size`: (steps, batch, width) float32."""
        cfg, rng, shape = self.config, np.random.default_rng(seed), (steps, self.batch)

        def happens(probability: float) -> NDArray[np.bool_]:
            return rng.random(shape) < probability

        # float32 holds whole numbers up to 2**24.
        voice, noise = rng.integers(size, size=(2, *shape))
        wide, usual = rng.uniform(*cfg.wide_snr_db, shape), rng.uniform(*cfg.snr_db, shape)
        snr_db = np.where(happens(cfg.p_wide_snr), wide, usual)
        silent, quiet = happens(cfg.p_noise_only), happens(cfg.p_clean_only)
        narrow, telephone = happens(cfg.p_narrowband), happens(self.p_telephone)
        low_hz = np.where(telephone, rng.uniform(200, 400, shape), 0)
        high_hz = np.where(narrow | telephone, rng.uniform(3200, 3900, shape), NO_LIMIT)
        clip = np.where(happens(cfg.p_clipping), rng.uniform(0.25, 0.9, shape), 1)
        offset = np.where(happens(cfg.p_dc_offset), rng.uniform(-1, 1, shape), 0)
        start, length = rng.uniform(0, 0.9, shape), rng.uniform(0.03, 0.3, shape)
        drop_from = np.where(happens(cfg.p_dropout), start, 2)
        knots_db = rng.uniform(-1, 1, (*shape, _KNOTS)) * 12.5
        knots_db *= happens(cfg.p_level_change)[..., None]
        fields = (  # in the order of FIELDS
            voice, noise, snr_db, ~silent, silent | ~quiet, low_hz, high_hz, clip, offset,
            drop_from, start + length,
        )  # fmt: skip
        return np.concatenate([np.stack(fields, -1), knots_db], -1).astype(np.float32)


def _fields(rows: Tensor) -> dict[str, Tensor]:
    return dict(zip(Draws.FIELDS, rows.unbind(1), strict=False))


def labels_of(bank: Bank, rows: Tensor) -> Tensor:
    """(B, 2) numbers of gender and category of what is heard in each item, -1 where there is none.

    Parameters
    ----------
    bank, rows : as in `mix`.
    """
    of = _fields(rows)
    gender, category = bank.labels[of["voice"].long(), 0], bank.labels[of["noise"].long(), 1]
    heard = [torch.where(of["speaks"] > 0, gender, -1), torch.where(of["sounds"] > 0, category, -1)]
    return torch.stack(heard, 1).long()


def mix(bank: Bank, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mix a batch on the bank's device.

    Parameters
    ----------
    bank : voices and noises.
    rows : (B, width), a step of `Draws`, on the same device.

    Returns
    -------
    (B, n) noisy and clean, at unit active level of the clean target; of noise alone, at unit RMS.
    Bands and changes of level come later, to the spectrum: see `band_and_level`.
    """
    of = _fields(rows)
    voice, noise = of["voice"].long(), of["noise"].long()
    snr_db, speaks, sounds, clip = (of[x] for x in ("snr_db", "speaks", "sounds", "clip"))
    level = torch.where(speaks > 0, bank.levels[voice], 1.0)
    speech_gain = speaks / level
    loudness = torch.where(speaks > 0, 10 ** (-snr_db / 20), 1.0)
    noise_gain = sounds * loudness / level

    def sound(column: int, number: Tensor, gain: Tensor) -> Tensor:
        return bank.sounds[number, column].float() * (bank.scales[number, column] * gain)[:, None]

    clean = sound(0, voice, speech_gain)
    noisy = sound(1, voice, speech_gain) + sound(2, noise, noise_gain)
    peak = noisy.abs().amax(1) * clip
    noisy = torch.minimum(torch.maximum(noisy, -peak[:, None]), peak[:, None])
    noisy = noisy + of["offset"][:, None]
    place = torch.linspace(0, 1, noisy.shape[1], device=noisy.device)
    kept = (place < of["drop_from"][:, None]) | (place >= of["drop_to"][:, None])
    return noisy * kept, clean * kept


def band_and_level(rows: Tensor, frames: int) -> Tensor:
    """Gains that a telephone line and a moving level put on noisy and clean spectra alike.

    Returns
    -------
    (B, frames, F), 1 where nothing happens.
    """
    knots = rows[:, None, len(Draws.FIELDS) :]
    level_db = torch.nn.functional.interpolate(
        knots, frames, mode="linear", align_corners=True
    )  # (B, 1, frames)
    of = _fields(rows)
    return band_gain(of["low_hz"], of["high_hz"]) * (10 ** (level_db[:, 0] / 20))[..., None]
