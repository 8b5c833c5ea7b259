import math

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor

from attn_core.models.spectrogram import SAMPLE_RATE, log_mel, mel_filters


def chirp(seconds, seed=0):
    """A tone that rises through all pitches, grows louder, and has noise in it."""
    time = torch.arange(int(seconds * SAMPLE_RATE), dtype=torch.float64) / SAMPLE_RATE
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    sound = torch.sin(2 * math.pi * (100 + 3500 * time / seconds) * time) * time / seconds
    return (0.8 * sound + 0.01 * noise).float()


@pytest.mark.parametrize("seconds", [0.5, 4, 30])
def test_it_is_what_hugging_faces_whisper_hears(seconds):
    audio = chirp(seconds)
    extractor = WhisperFeatureExtractor(feature_size=80)
    expected = extractor(audio.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
    picture = log_mel(audio)
    assert picture.std() > 0.1
    torch.testing.assert_close(picture, expected.input_features[0], rtol=0, atol=1e-4)


def test_it_reads_as_its_equation():
    """Frame by frame with NumPy: a window, a Fourier transform, the bands, the logarithm."""
    audio = chirp(0.2).double()
    samples = np.pad(audio.numpy(), 200, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = [window * samples[start : start + 400] for start in range(0, len(audio), 160)]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    loudness = np.log10(np.maximum(mel_filters(80).numpy() @ power.T, 1e-10))
    expected = (np.maximum(loudness, loudness.max() - 8) + 4) / 4
    np.testing.assert_allclose(log_mel(audio, seconds=None).numpy(), expected, atol=1e-10)


def test_a_tone_is_loudest_in_the_band_around_its_pitch():
    centres = mel_filters(80).argmax(1) * SAMPLE_RATE / 400
    time = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    for pitch in (200, 440, 1000, 3000, 7000):
        loudest = log_mel(torch.sin(2 * math.pi * pitch * time), seconds=None)[:, 50].argmax()
        assert abs(centres[loudest] - pitch) < max(40, 0.05 * pitch)


def test_bands_are_as_wide_to_the_ear_and_every_one_has_the_same_area():
    filters = mel_filters(80, bins=40_001)  # finely, so that a sum is an area
    areas = filters.sum(1) * (SAMPLE_RATE / 2) / 40_000
    torch.testing.assert_close(areas, torch.ones(80).double(), rtol=1e-3, atol=0)
    centres = filters.argmax(1) * (SAMPLE_RATE / 2) / 40_000
    below = centres[centres < 990].diff()
    above = centres[centres > 1010]
    torch.testing.assert_close(below, below.mean().expand_as(below), rtol=0.01, atol=0)
    ratios = above[1:] / above[:-1]
    torch.testing.assert_close(ratios, ratios.mean().expand_as(ratios), rtol=0.01, atol=0)


def test_silence_is_added_to_half_a_minute_and_a_batch_is_its_sounds():
    sounds = torch.stack([chirp(1), chirp(1, seed=1)])
    pictures = log_mel(sounds)
    assert pictures.shape == (2, 80, 3000)
    for sound, picture in zip(sounds, pictures, strict=True):
        assert torch.equal(log_mel(sound), picture)
    assert log_mel(sounds[None], seconds=None).shape == (1, 2, 80, 100)


def test_half_as_loud_is_the_same_picture_but_darker():
    """The logarithm makes it a shift of log10(4) / 4, where nothing is cut off."""
    audio = chirp(1).double()
    loud, quiet = log_mel(audio, seconds=None), log_mel(audio / 2, seconds=None)
    torch.testing.assert_close(loud - quiet, torch.full_like(loud, math.log10(4) / 4))
