"""What training steps learn from: mixtures of the CPU, one after another, or of a bank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..audio.mixing import Mixer, active_level
from ..audio.stft import frame_count
from .bank import NO_LIMIT, Bank, Banks, Draws, band_and_level, labels_of, mix
from .capture import Captured
from .losses import difficulty
from .spectra import band_gain, spectrum

if TYPE_CHECKING:
    from .conv_fsenet import State
    from .training import TrainConfig

Features = Callable[[Tensor, "State | None"], "tuple[Tensor, State]"]


class Batch(NamedTuple):
    """B mixtures, ready to learn from."""

    features: Tensor  # (B, L, 2 * bands) of the noisy spectrum
    noisy: Tensor  # (B, L, F, 2) real and imaginary parts, at about unit level
    clean: Tensor  # (B, L, F, 2)
    shape: Tensor  # (B, L) of `losses.difficulty`
    labels: Tensor  # (B, 2) numbers of gender and noise category, -1 where there is none


class Feed(Protocol):
    """Batches by number."""

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Batches `start` to `stop`, each valid until the next is asked for."""


def feed(
    config: TrainConfig, mixer: Mixer, features: Features, device: torch.device, workers: int
) -> Feed:
    """The feed of a run: of a bank where `TrainConfig.bank` says so.

    Parameters
    ----------
    config : of the run.
    mixer : what to mix from.
    features : `ConvFSENet.features`.
    device : where the batches are wanted.
    workers : processes that mix.
    """
    if config.bank:
        return _FromBank(config, mixer, features, device, workers)
    return _Mixed(config, mixer, features, device, workers)


def _batch(noisy: Tensor, clean: Tensor, labels: Tensor, gain: Tensor, features: Features) -> Batch:
    noisy_stft, clean_stft = (spectrum(x) * gain for x in (noisy, clean))
    heard, _ = features(noisy_stft, None)
    # Unit RMS has a mean |X|^2 of sum(window^2) = 256: back to about 1.
    noisy_ri, clean_ri = (torch.view_as_real(x) / 16 for x in (noisy_stft, clean_stft))
    return Batch(heard, noisy_ri, clean_ri, difficulty(noisy_ri, clean_ri), labels)


class Mixtures(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch number i: (B, n) noisy and clean, at unit active level of the clean speech; labels."""

    def __init__(self, mixer: Mixer, batch: int):
        self.mixer, self.batch = mixer, batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        pairs, labels = [], []
        for number in range(index * self.batch, (index + 1) * self.batch):
            mixture = self.mixer(number)
            level = active_level(mixture.clean) or active_level(mixture.noisy) or 1.0
            pairs.append(np.stack([mixture.noisy, mixture.clean]) / np.float32(level))
            labels.append(self.mixer.numbers(mixture.gender, mixture.category))
        noisy, clean = torch.from_numpy(np.stack(pairs)).unbind(1)
        return noisy.contiguous(), clean.contiguous(), torch.tensor(labels)


class _Mixed:
    """Every mixture made by itself, by CPU processes."""

    def __init__(
        self, config: TrainConfig, mixer: Mixer, features: Features, device: torch.device,
        workers: int,
    ):  # fmt: skip
        self.config, self.features, self.device, self.workers = config, features, device, workers
        self._mixtures = Mixtures(mixer, config.batch)

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        loader = DataLoader(
            self._mixtures,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self.workers,
            prefetch_factor=8 if self.workers else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_one_thread,
        )
        p, seed = self.config.p_telephone, self.config.seed
        kept: Batch | None = None
        for step, items in enumerate(loader, start):
            noisy, clean, labels = (x.to(self.device, non_blocking=True) for x in items)
            gain = telephone_gain(len(noisy), p, (seed, step)).to(self.device)
            batch = _batch(noisy, clean, labels, gain, self.features)
            if kept is None or self.device.type != "cuda":
                kept = batch
            else:  # to where the graph of a step reads it
                for place, value in zip(kept, batch, strict=True):
                    place.copy_(value)
            yield kept


class _FromBank:
    """Mixtures of a bank, made on the device that trains; see `bank`."""

    def __init__(
        self, config: TrainConfig, mixer: Mixer, features: Features, device: torch.device,
        workers: int,
    ):  # fmt: skip
        self.config, self.features, self.device = config, features, device
        self._banks = Banks(mixer, config.bank, mixer.corpus.cache.parent, workers)
        self._draws = Draws(config.mix, config.batch, config.p_telephone)
        self._clock = torch.zeros(1, dtype=torch.long, device=device)
        self._mix = Captured(self._mix_on_device, device)
        self._bank: Bank | None = None
        self._rows: Tensor | None = None
        self._batch: Batch | None = None

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        number = -1
        for step in range(start, stop):
            if step // self.config.bank_steps != number:
                number = step // self.config.bank_steps
                self._load(number, last=(number + 1) * self.config.bank_steps >= stop)
                self._clock.fill_(step % self.config.bank_steps)
            self._mix()
            assert self._batch is not None
            yield self._batch

    def _load(self, number: int, last: bool) -> None:
        config = self.config
        rows = torch.from_numpy(self._draws((config.seed, number), config.bank, config.bank_steps))
        bank = self._banks(number % config.banks, None if last else (number + 1) % config.banks)
        if self._bank is None or self._rows is None:
            self._bank, self._rows = bank.to(self.device), rows.to(self.device)
        else:  # to where the graph of a step reads it
            self._rows.copy_(rows)
            for place, value in zip(self._bank, bank, strict=True):
                place.copy_(value)

    def _mix_on_device(self) -> None:
        assert self._bank is not None
        assert self._rows is not None
        rows = self._rows.index_select(0, self._clock)[0]
        noisy, clean = mix(self._bank, rows)
        gain = band_and_level(rows, frame_count(noisy.shape[1]))
        batch = _batch(noisy, clean, labels_of(self._bank, rows), gain, self.features)
        if self._batch is None:
            self._batch = batch
        else:
            for place, value in zip(self._batch, batch, strict=True):
                place.copy_(value)
        self._clock += 1


def telephone_gain(items: int, probability: float, seed: tuple[int, ...]) -> Tensor:
    """Gains of a telephone's band for some items of a batch, 1 for the others.

    Zero phase: from 200-400 Hz to 3.2-3.8 kHz.

    Returns
    -------
    Tensor
        (B, 1, F), a function of the arguments alone.
    """
    draw = torch.from_numpy(np.random.default_rng(seed).uniform(size=(3, items)))
    through = draw[0] < probability
    low = torch.where(through, 200 + 200 * draw[1], 0)
    return band_gain(low, torch.where(through, 3200 + 600 * draw[2], NO_LIMIT)).float()


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
