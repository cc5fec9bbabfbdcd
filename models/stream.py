"""Enhancement of streams: the one path that files, pipes, arrays and live sound take.

    samples -> STFT -> model.step -> gain -> change of the spectrum -> ISTFT -> input + change

The output is the input plus what the gain changes, not a resynthesis: where the gain is 1 (an
attenuation limit of 0 dB, a mix of 0) the output is the input to the last bit. Nothing depends on
how the input is cut, and memory is that of a few blocks whatever the length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..audio.errors import SamplesError
from ..audio.formats import MAX_CHANNELS
from ..audio.resampling import BandMode, Bands
from ..audio.stft import BINS, HOP, SAMPLE_RATE, Analysis, Synthesis
from .linking import Link

Float32 = NDArray[np.float32]
ChannelMode = Literal["linked", "independent", "mono"]
Listener = Callable[[Float32, NDArray[np.uint8], NDArray[np.complex64]], None]

PEAK_LIMIT = 2.0**48
"""Samples beyond are no sound, and the power of their spectrum would overflow."""

_PIECE = 64 * HOP
"""Samples processed at once: a second, so that a long array does not become one long spectrum."""

_UPPER_BINS = slice(BINS // 2, BINS)
"""4 to 8 kHz: what the gain above 8 kHz is taken from."""


class Model(Protocol):
    """What can enhance: a network with explicit state. `engine.Engine` is one."""

    sample_rate: int
    hop: int
    latency: int
    gate_shape: tuple[int, int]

    def initial_state(self) -> Any:
        """State before the first frame."""

    def step(
        self, frames: NDArray[np.complex64], state: Any
    ) -> tuple[Float32, NDArray[np.uint8], Any]:
        """(L, 257) frames -> (L, 257) gain, (L, I, C) gates, state."""


@dataclass(frozen=True)
class Settings:
    """How much to enhance, and of what.

    Attributes
    ----------
    atten_lim_db : no bin is attenuated by more than this; 0 leaves the input untouched.
    mix : 0 is the input, 1 the enhanced signal.
    channel_mode : "linked" gives all channels one gain, so that the image does not move;
        "independent" treats each alone; "mono" mixes them down first.
    band : what happens above 8 kHz; see `audio.resampling.Bands`.
    """

    atten_lim_db: float = 100.0
    mix: float = 1.0
    channel_mode: ChannelMode = "linked"
    band: BandMode = "model"

    def apply(self, gain: Float32) -> Float32:
        """Gain of the model -> gain to be used, limited and mixed."""
        if self.atten_lim_db <= 0 or self.mix <= 0:
            return np.ones_like(gain)
        # From 100 dB on there is no limit: what the model calls silence may be silent.
        floor = 10 ** (-self.atten_lim_db / 20) if self.atten_lim_db < 100 else 0.0
        if not floor and self.mix == 1:
            return gain
        return np.float32(1) + np.float32(self.mix) * (np.maximum(gain, np.float32(floor)) - 1)


class Stream:
    """16 kHz samples in, enhanced samples out.

    Parameters
    ----------
    model : what enhances.
    channels : None for (n,) samples, a number for (n, channels).
    settings : how.
    listener : called with (L, 257) gain, (L, I, C) gates and the (L, 257) spectrum that the model
        heard, of all frames in order, the gain being the model's own, before limit and mix. With
        independent channels: of the first.
    upper_gains : keep the gains for the band above 8 kHz until `take_upper_gains` asks for them.

    Attributes
    ----------
    latency : samples from a sample's arrival to the earliest departure of its enhanced self.
    masks : (L, I, C) uint8, the pruning masks of the L frames that the last `feed` or `flush`
        completed: 1 where a channel of a block was computed. With independent channels: of the
        first.

    Examples
    --------
    >>> import numpy as np, dynse
    >>> stream = dynse.Stream(dynse.load())
    >>> sound = np.zeros(16000, np.float32)
    >>> blocks = [stream.feed(sound[i : i + 256]) for i in range(0, len(sound), 256)]
    >>> clean = np.concatenate([*blocks, stream.flush()])
    >>> len(clean) == len(sound), stream.latency, stream.masks.shape[1:]
    (True, 512, (9, 128))
    """

    def __init__(
        self,
        model: Model,
        channels: int | None = None,
        settings: Settings | None = None,
        listener: Listener | None = None,
        *,
        upper_gains: bool = False,
    ):
        if channels is not None and not 1 <= channels <= MAX_CHANNELS:
            raise SamplesError(f"{channels} channels; None or 1 to {MAX_CHANNELS} are allowed")
        self._model, self._channels, self._ended = model, channels, False
        self._settings, self._listener = settings or Settings(), listener
        self._independent = self._settings.channel_mode == "independent" and channels is not None
        self._states = [
            model.initial_state() for _ in range(channels or 1 if self._independent else 1)
        ]
        self._link = Link(channels or 1)
        self._analysis, self._synthesis = Analysis(channels), Synthesis(channels)
        self._waiting = np.zeros((0,) if channels is None else (0, channels), np.float32)
        self._upper: list[Float32] | None = [] if upper_gains else None
        self._gates: list[NDArray[np.uint8]] = []
        self.masks = np.zeros((0, *model.gate_shape), np.uint8)
        self.latency = model.latency

    def feed(self, samples: ArrayLike) -> Float32:
        """Take the next samples; give the enhanced ones that are ready.

        Parameters
        ----------
        samples : (n,) or (n, channels) float32 at 16 kHz, any n.

        Returns
        -------
        (m,) or (m, channels) float32, following on what was given before.

        Raises
        ------
        SamplesError
            Another shape, no floats, NaN, Inf or beyond `PEAK_LIMIT`, or fed after `flush`. The
            stream is as it was and may be fed on.
        """
        if self._ended:
            raise SamplesError("the stream has been flushed; begin another Stream")
        x = checked(samples, self._channels).astype(np.float32, copy=False)
        pieces = [self._piece(x[i : i + _PIECE]) for i in range(0, len(x), _PIECE)]
        self._renew_masks()
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else self._waiting[:0]

    def flush(self) -> Float32:
        """Give the samples left, as many in all as were fed. Nothing may be fed after."""
        if self._ended:
            raise SamplesError("the stream has been flushed before")
        self._ended = True
        frames = self._analysis.flush()
        change = self._synthesis.flush(self._change(frames), self._analysis.samples)
        self._renew_masks()
        return self._release(change)

    def take_upper_gains(self) -> Float32:
        """Gains for the band above 8 kHz of the frames since the last call: (l,) or (l, c)."""
        if self._upper:
            gains = np.concatenate(self._upper)
            self._upper.clear()
            return gains
        return np.zeros((0, len(self._states)) if self._independent else (0,), np.float32)

    def _renew_masks(self) -> None:
        self.masks = (
            self._gates[0]
            if len(self._gates) == 1
            else np.concatenate([np.zeros((0, *self._model.gate_shape), np.uint8), *self._gates])
        )
        self._gates.clear()

    def _hear(self, gain: Float32, gates: NDArray[np.uint8], heard: NDArray[np.complex64]) -> None:
        self._gates.append(gates)
        if self._listener:
            self._listener(gain, gates, heard)

    def _piece(self, x: Float32) -> Float32:
        self._waiting = np.concatenate([self._waiting, x])
        return self._release(self._synthesis.feed(self._change(self._analysis.feed(x))))

    def _release(self, change: Float32) -> Float32:
        ready, self._waiting = self._waiting[: len(change)], self._waiting[len(change) :]
        return ready + change

    def _change(self, frames: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """What enhancement adds to the spectrum: (gain - 1) * frames."""
        if not len(frames):
            return frames
        if self._independent:
            gains = []
            for c, state in enumerate(self._states):
                gain, gates, self._states[c] = self._model.step(frames[:, c], state)
                if c == 0:
                    self._hear(gain, gates, frames[:, c])
                gains.append(gain)
            gain = self._settings.apply(np.stack(gains, axis=1))  # (L, c, F)
            self._keep_upper(gain, frames)
            return frames * (gain - 1)
        heard = frames if self._channels is None else self._link(frames)
        gain, gates, self._states[0] = self._model.step(heard, self._states[0])
        self._hear(gain, gates, heard)
        gain = self._settings.apply(gain)
        self._keep_upper(gain, heard)
        change = gain - 1
        return frames * (change if self._channels is None else change[:, None, :])

    def _keep_upper(self, gain: Float32, heard: NDArray[np.complex64]) -> None:
        if self._upper is None:
            return
        upper_gain, power = gain[..., _UPPER_BINS], _power(heard[..., _UPPER_BINS])
        before = power.sum(-1)
        after = (power * upper_gain**2).sum(-1)
        mean = upper_gain.mean(-1)
        loud = before > 0
        ratio = np.sqrt(np.divide(after, before, out=np.zeros_like(after), where=loud))
        self._upper.append(np.where(loud, ratio, mean).astype(np.float32))


def checked(samples: ArrayLike, channels: int | None) -> NDArray[np.floating[Any]]:
    """Samples as an array, if they are sound.

    Parameters
    ----------
    samples : (n,) floats where `channels` is None, else (n, channels).

    Raises
    ------
    SamplesError
        Another shape, no floats, NaN, Inf, or beyond `PEAK_LIMIT`.
    """
    x = np.asarray(samples)
    if x.dtype.kind != "f":
        raise SamplesError(f"samples of type {x.dtype}; give floats within [-1, 1] (x / 32768)")
    shape = "(n,)" if channels is None else f"(n, {channels})"
    if x.ndim != (1 if channels is None else 2) or (channels and x.shape[1] != channels):
        raise SamplesError(f"samples of shape {x.shape}; {shape} is allowed")
    # Written so that NaN fails, too.
    if x.size and not (x.min() >= -PEAK_LIMIT and x.max() <= PEAK_LIMIT):
        raise SamplesError("samples are NaN, Inf or absurd; replace them, as numpy.nan_to_num does")
    return x


def _power(frames: NDArray[np.complex64]) -> Float32:
    return frames.real**2 + frames.imag**2


class Enhancer:
    """Recordings at any rate: blocks in, enhanced blocks out, as many frames in all.

    Parameters
    ----------
    model : what enhances.
    sample_rate : 4 to 384 kHz.
    channels : of the input. The output has as many, or one in mode "mono".
    settings, listener : as in `Stream`.
    """

    def __init__(
        self,
        model: Model,
        sample_rate: int,
        channels: int,
        settings: Settings | None = None,
        listener: Listener | None = None,
    ):
        settings = settings or Settings()
        self._mono = settings.channel_mode == "mono"
        self.channels = 1 if self._mono else channels
        self._bands = Bands(sample_rate, self.channels, settings.band)
        # At 16 kHz there is no band above that of the model.
        upper = settings.band == "model" and sample_rate != SAMPLE_RATE
        self._stream = Stream(model, self.channels, settings, listener, upper_gains=upper)

    def feed(self, block: NDArray[Any]) -> NDArray[Any]:
        """Take (n, channels) samples, give the (m, channels) ready."""
        low = self._bands.split(self._input(block))
        return self._bands.merge(self._stream.feed(low), self._stream.take_upper_gains())

    def flush(self) -> NDArray[Any]:
        """Give the samples left. Nothing may be fed after."""
        low = self._bands.end_split()
        enhanced = np.concatenate([self._stream.feed(low), self._stream.flush()])
        last = self._bands.merge(enhanced, self._stream.take_upper_gains())
        return np.concatenate([last, self._bands.end_merge()])

    def input_of(self, block: NDArray[Any]) -> NDArray[Any]:
        """What counts as the input of this mode: the block, or its downmix."""
        return self._input(block)

    def _input(self, block: NDArray[Any]) -> NDArray[Any]:
        return block.mean(axis=1, keepdims=True).astype(block.dtype) if self._mono else block


def enhance(
    model: Model,
    samples: ArrayLike,
    sample_rate: int = SAMPLE_RATE,
    settings: Settings | None = None,
    listener: Listener | None = None,
) -> NDArray[Any]:
    """Enhance a whole recording.

    Parameters
    ----------
    model : as returned by `dynse.load`.
    samples : (n,) or (n, channels) float, nominally within [-1, 1].
    sample_rate : 4000 to 384000 Hz.
    settings, listener : as in `Stream`.

    Returns
    -------
    (n,) or (n, channels), sample-aligned with the input.

    Raises
    ------
    SamplesError
        Another shape, more than 64 channels, another rate, no floats, NaN or Inf.
    """
    x = np.asarray(samples)
    if x.ndim not in (1, 2) or (x.ndim == 2 and not 1 <= x.shape[1] <= MAX_CHANNELS):
        raise SamplesError(
            f"samples of shape {x.shape}; (n,) or (n, channels) with 1 to {MAX_CHANNELS} channels "
            "are allowed"
        )
    if not isinstance(sample_rate, (int, np.integer)) or not 4000 <= sample_rate <= 384000:
        raise SamplesError(f"sample rate {sample_rate!r}; whole Hz from 4000 to 384000 are allowed")
    x = checked(x, None if x.ndim == 1 else x.shape[1])
    x = x if x.dtype == np.float64 else x.astype(np.float32, copy=False)
    columns = x[:, None] if x.ndim == 1 else x
    enhancer = Enhancer(model, sample_rate, columns.shape[1], settings, listener)
    out = np.concatenate([enhancer.feed(columns), enhancer.flush()])
    return out[:, 0] if x.ndim == 1 else out
