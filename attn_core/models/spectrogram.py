"""Sound as a picture: how loud every band of pitches is, every hundredth of a second."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_core.checks import check_floating_point, check_number, check_sizes

__all__ = ["SAMPLE_RATE", "log_mel", "mel_filters"]

#: Samples per second that Whisper listens to.
SAMPLE_RATE = 16_000
_WINDOW, _HOP = 400, 160  # samples: 25 ms of sound every 10 ms


def mel_filters(bands: int, bins: int = _WINDOW // 2 + 1, rate: float = SAMPLE_RATE) -> Tensor:
    r"""Gather frequencies into bands that are equally wide to the ear.

    The mel scale is linear up to 1000 Hz and logarithmic above,

    .. math::
        m(f) = \frac{3 f}{200} \;\text{ below, and }\;
        15 + 27 \, \frac{\ln (f / 1000)}{\ln 6.4} \;\text{ above.}

    A band is a triangle between its two neighbours' centres, of area 1 over the frequencies in Hz.

    Args:
        bands: number of bands.
        bins: number of frequencies, equally far from each other, from 0 to half of ``rate``.
        rate: samples per second.

    Returns:
        ``(bands, bins)`` in float64.

    Raises:
        ValueError: if a size or ``rate`` is not positive.
        TypeError: if a size is not an integer.

    Source: Slaney (1998), whose bands Whisper's feature extraction uses.

    Example:
        >>> mel_filters(80).shape
        torch.Size([80, 201])
    """
    check_sizes(bands=bands)
    check_sizes(least=2, bins=bins)
    check_number("rate", rate)
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    frequencies = torch.linspace(0, rate / 2, bins, dtype=torch.float64)
    mels = torch.linspace(0, _to_mel(rate / 2), bands + 2, dtype=torch.float64)
    edges = torch.where(
        mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27)
    )
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0) * 2 / (right - left)


def log_mel(audio: Tensor, *, bands: int = 80, seconds: float | None = 30.0) -> Tensor:
    r"""Give the loudness of every band of pitches over time, as Whisper hears it.

    .. math::
        x = \log_{10} \max(M \, |\operatorname{STFT}(a)|^2, 10^{-10}), \qquad
        y = \tfrac{1}{4} \max(x, \max x - 8) + 1

    Args:
        audio: samples between −1 and 1, ``(..., samples)``, 16,000 of them a second.
        bands: number of bands.
        seconds: silence is added up to this length, which Whisper was trained on; None adds none.

    Returns:
        ``(..., bands, frames)``, a frame for every hundredth of a second.

    Raises:
        ValueError: if the sound is longer than ``seconds``, or shorter than a fortieth of one.
        TypeError: if ``audio`` is no tensor of floating point numbers.

    Source: Radford et al. (2023), section 2.2; the published code for the last step.

    Example:
        >>> tone = torch.sin(torch.arange(16_000) * (2 * torch.pi * 440 / SAMPLE_RATE))
        >>> picture = log_mel(tone, seconds=None)
        >>> picture.shape, picture[:, 50].argmax().item()
        (torch.Size([80, 100]), 11)
    """
    check_floating_point("audio", audio)
    samples = audio.shape[-1] if audio.ndim else 0
    if seconds is not None:
        check_number("seconds", seconds)
        if samples > seconds * SAMPLE_RATE:
            raise ValueError(
                f"audio must be at most {seconds} s long, got {samples} samples, which are "
                f"{samples / SAMPLE_RATE:.2f} s: cut it into pieces"
            )
        audio = F.pad(audio, (0, int(seconds * SAMPLE_RATE) - samples)) if samples else audio
    if audio.ndim == 0 or audio.shape[-1] < _WINDOW:
        raise ValueError(
            f"audio must be (..., samples), {_WINDOW} or more, got {tuple(audio.shape)}"
        )
    window = torch.hann_window(_WINDOW, dtype=audio.dtype, device=audio.device)
    waves = torch.stft(
        audio.reshape(-1, audio.shape[-1]), _WINDOW, _HOP, window=window, return_complex=True
    )
    power = waves[..., :-1].abs().square()  # the last frame is half beyond the end
    loudness = (mel_filters(bands).to(audio) @ power).clamp(min=1e-10).log10()
    loudest = loudness.amax(dim=(-2, -1), keepdim=True)
    picture = torch.maximum(loudness, loudest - 8) / 4 + 1
    return picture.reshape(*audio.shape[:-1], *picture.shape[-2:])


def _to_mel(frequency: float) -> float:
    if frequency < 1000:
        return 3 * frequency / 200
    return 15 + 27 * math.log(frequency / 1000) / math.log(6.4)
