"""Whisper: an encoder that hears, and a decoder that writes down what was said."""

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_floating_point,
    check_kind,
    check_path,
    check_sizes,
    check_tokens,
    is_integer,
    projected,
)
from attn_core.models.block import BlockCache, tokens_seen
from attn_core.models.spectrogram import log_mel
from attn_core.models.transformer import TransformerDecoder, TransformerEncoder
from attn_core.models.weights import load_weights, read_ctranslate2
from attn_core.positions import LearnedEncoding

__all__ = ["Rules", "Whisper"]


class Rules(NamedTuple):
    """How a text begins and ends, and what is never written.

    Attributes:
        prompt: the tokens that the text is a continuation of.
        end: the token that ends it.
        never: tokens that are never taken: brackets, notes, and the like.
        not_first: tokens that are not taken first.
    """

    prompt: tuple[int, ...] = (50257, 50362)  # start of transcript, no time stamps
    end: int = 50256
    never: tuple[int, ...] = ()
    not_first: tuple[int, ...] = ()


@checked_call
class Whisper(nn.Module):
    r"""Write down speech, and show for every token which moment of the sound it came from.

    .. math:: p(y \mid \text{sound}) = \prod_t p(y_t \mid y_1, \dots, y_{t-1},
              \operatorname{Encoder}(\text{sound}))

    Two convolutions halve the frames; the encoder's blocks let every fiftieth of a second attend to
    all others; the decoder attends to what it has written and to the sound. All blocks are
    pre-norm.

    Args:
        vocab_size: number of tokens.
        dim: width of a vector.
        heads: number of heads.
        layers: number of blocks of the encoder.
        decoder_layers: number of blocks of the decoder; by default ``layers``. Distilled models
            have fewer.
        bands: number of bands of pitches in the spectrogram.
        max_frames: number of positions of the encoder, fiftieths of a second.
        max_len: number of positions of the decoder, tokens.
        rules: how a text begins and ends.
        alignment_heads: (block, head) of the decoder's heads that follow the sound as it goes on,
            where that is known.

    Raises:
        ValueError: if a size is not positive, ``dim`` no multiple of ``heads``, tokens are outside
            the vocabulary, or a sound or a text is too long.
        TypeError: if a size is not an integer, ``rules`` are no :class:`Rules`,
            ``alignment_heads`` no pairs of integers, or an input has the wrong dtype.

    Source: Radford et al. (2023), section 2.2; tiny.en is 51864, 384, 6, 4. Gandhi et al.
    (2023) for a decoder with fewer blocks.

    Example:
        >>> import torch
        >>> from attn_core.data import pretrained
        >>> from attn_core.models.spectrogram import log_mel
        >>> model = Whisper.from_ctranslate2(pretrained.whisper_folder())
        >>> silence = torch.zeros(16_000)
        >>> weights = model.align(log_mel(silence, seconds=None)[None], torch.tensor([[50257]]))
        >>> weights.shape  # batch, layers, heads, tokens, fiftieths of a second
        torch.Size([1, 4, 6, 1, 50])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        decoder_layers: int | None = None,
        bands: int = 80,
        max_frames: int = 1500,
        max_len: int = 448,
        rules: Rules = Rules(),  # noqa: B008 - it cannot be changed
        alignment_heads: tuple[tuple[int, int], ...] = (),
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, dim=dim, heads=heads, layers=layers, bands=bands)
        decoder_layers = layers if decoder_layers is None else decoder_layers
        check_sizes(decoder_layers=decoder_layers, max_frames=max_frames, max_len=max_len)
        check_kind("rules", rules, Rules)
        _check_alignment_heads(alignment_heads)
        self.rules = rules
        self.alignment_heads = alignment_heads
        self.conv1 = nn.Conv1d(bands, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, padding=1, stride=2)
        self.frame_position = LearnedEncoding(max_frames, dim)
        self.encoder = TransformerEncoder(dim, heads, layers, norm="pre")
        self.embedding = nn.Embedding(vocab_size, dim)
        self.position = LearnedEncoding(max_len, dim)
        self.decoder = TransformerDecoder(dim, heads, decoder_layers, norm="pre")
        nn.init.normal_(self.embedding.weight, std=0.02)

    def encode(self, spectrogram: Tensor) -> Tensor:
        """Hear.

        Args:
            spectrogram: ``(batch, bands, frames)``, from
                :func:`attn_core.models.spectrogram.log_mel`.

        Returns:
            The memory, ``(batch, frames / 2, dim)``.

        Raises:
            ValueError: if the shape is another, or the sound too long.
            TypeError: if it is not floating point.
        """
        check_floating_point("spectrogram", spectrogram)
        if spectrogram.ndim != 3 or spectrogram.shape[1] != self.conv1.in_channels:
            raise ValueError(
                f"spectrogram must be (batch, {self.conv1.in_channels}, frames), got "
                f"{tuple(spectrogram.shape)}"
            )
        heard = projected("spectrogram", spectrogram, self.conv1)
        x = F.gelu(self.conv2(F.gelu(heard))).mT
        return self.encoder(self.frame_position(x))

    def decode(
        self, ids: Tensor, memory: Tensor, *, cache: list[BlockCache] | None = None
    ) -> Tensor:
        """Give the next token's logits after every token.

        Args:
            ids: token numbers ``(batch, T)``; with a cache, the new ones only.
            memory: what :meth:`encode` returned.
            cache: what :meth:`new_cache` gave.

        Returns:
            ``(batch, T, vocab_size)``.
        """
        states = self.decoder(self._embed(ids, tokens_seen(cache)), memory, cache=cache)
        return F.linear(states, self.embedding.weight)

    def forward(self, spectrogram: Tensor, ids: Tensor) -> Tensor:
        """Teacher forcing: the next token's logits after every token of a known text.

        Args:
            spectrogram: ``(batch, bands, frames)``.
            ids: token numbers ``(batch, T)``, the prompt first.

        Returns:
            ``(batch, T, vocab_size)``; row t predicts token t + 1.
        """
        return self.decode(ids, self.encode(spectrogram))

    def align(self, spectrogram: Tensor, ids: Tensor) -> Tensor:
        """Give the weights with which every token of a known text attends to the sound.

        Args:
            spectrogram: ``(batch, bands, frames)``.
            ids: token numbers ``(batch, T)``, the prompt first.

        Returns:
            ``(batch, layers, heads, T, frames / 2)``; row t produced token t + 1.
        """
        result = self.decoder(self._embed(ids), self.encode(spectrogram), return_weights=True)
        return torch.stack(result.memory_weights, dim=1)

    def new_cache(self) -> list[BlockCache]:
        """An empty cache per block of the decoder, for one sound."""
        return self.decoder.new_cache()

    @torch.no_grad()
    def generate(self, spectrogram: Tensor, max_length: int = 224) -> Tensor:
        """Write down what is heard, the most probable token every time that the rules allow.

        Args:
            spectrogram: ``(batch, bands, frames)``.
            max_length: the number of tokens after which to stop.

        Returns:
            Token numbers ``(batch, T)`` without the prompt; ``rules.end`` after the end.
        """
        check_sizes(max_length=max_length)
        memory, cache = self.encode(spectrogram), self.new_cache()
        new = torch.tensor([self.rules.prompt] * len(memory), device=memory.device)
        is_done = torch.zeros(len(memory), 1, dtype=torch.bool, device=memory.device)
        tokens: list[Tensor] = []
        while len(tokens) < max_length and not is_done.all():
            logits = self.decode(new, memory, cache=cache)[:, -1]
            never = self.rules.never if tokens else self.rules.never + self.rules.not_first
            logits[:, list(never)] = -torch.inf
            new = logits.argmax(dim=-1, keepdim=True).masked_fill(is_done, self.rules.end)
            is_done = new == self.rules.end
            tokens.append(new)
        return torch.cat(tokens, dim=1)

    def transcribe(self, audio: Tensor, tokenizer: Any) -> str:
        """Write down what is said, as text.

        Args:
            audio: samples between −1 and 1, ``(samples,)``, 16,000 a second, at most 30 seconds.
            tokenizer: has a method ``decode`` that turns a list of numbers into text:
                :func:`attn_core.data.pretrained.whisper_tokenizer` gives one.

        Returns:
            The text.

        Raises:
            ValueError: if ``audio`` is not one-dimensional, or longer than 30 seconds.
            TypeError: if ``audio`` is not floating point, or ``tokenizer`` decodes nothing.
        """
        check_floating_point("audio", audio)
        if audio.ndim != 1:
            raise ValueError(f"audio must be one sound (samples,), got {tuple(audio.shape)}")
        if not callable(getattr(tokenizer, "decode", None)):
            raise TypeError(f"tokenizer must have a method decode(ids), got {tokenizer!r}")
        spectrogram = log_mel(audio, bands=self.conv1.in_channels)
        tokens = self.generate(spectrogram[None].to(self.conv1.weight.dtype))[0]
        return tokenizer.decode(tokens[tokens != self.rules.end].tolist()).strip()

    @classmethod
    def from_ctranslate2(cls, folder: str | PathLike[str]) -> Self:
        """Load the trained weights of an English Whisper.

        Args:
            folder: holds ``model.bin`` and ``config.json``, as CTranslate2 writes them.

        Returns:
            The model in float32 and in evaluation mode.

        Raises:
            ValueError: if weights are missing, or too many, or the file cannot be read.
            FileNotFoundError: if a file is not there.
            TypeError: if ``folder`` is no path.
        """
        check_path("folder", folder)
        variables = read_ctranslate2(Path(folder, "model.bin"))
        config = json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))
        tensors = {name: x for name, x in variables.items() if x.is_floating_point()}
        settings = {name: int(x) for name, x in variables.items() if x.numel() == 1}
        renamed = _renamed(tensors)
        needed = ["embedding.weight", "conv1.weight", "frame_position.weight", "position.weight"]
        missing = [name for name in needed if name not in renamed]
        if missing or "decoder/num_heads" not in settings:
            raise ValueError(f"{folder} holds no Whisper: missing {missing or 'decoder/num_heads'}")
        vocab_size, dim = renamed["embedding.weight"].shape
        model = cls(
            vocab_size,
            dim,
            settings["decoder/num_heads"],
            _blocks("encoder", renamed),
            decoder_layers=_blocks("decoder", renamed),
            bands=renamed["conv1.weight"].shape[1],
            max_frames=len(renamed["frame_position.weight"]),
            max_len=len(renamed["position.weight"]),
            rules=Rules(
                never=tuple(config["suppress_ids"]), not_first=tuple(config["suppress_ids_begin"])
            ),
            alignment_heads=tuple((block, head) for block, head in config["alignment_heads"]),
        )
        load_weights(model, renamed)
        return model.eval()

    def _embed(self, ids: Tensor, start: int = 0) -> Tensor:
        check_tokens("ids", ids, self.embedding.num_embeddings)
        return self.position(self.embedding(ids), offset=start)


from_ctranslate2 = Whisper.from_ctranslate2


def _check_alignment_heads(heads: object) -> None:
    if not isinstance(heads, tuple | list) or not all(
        isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_integer, pair))
        for pair in heads
    ):
        raise TypeError(f"alignment_heads must be pairs (block, head), got {heads!r}")


# CTranslate2's names, and ours. It keeps projections of the same input in one matrix.
_RENAMED = {
    "/": ".",
    ".gamma": ".weight",
    ".beta": ".bias",
    ".layer_norm": "_norm",
    "layer_": "blocks.",
    "encoder.conv": "conv",
    "coder_norm": "coder.final_norm",
    "decoder.embeddings": "embedding",
    "encoder.position_encodings.encodings": "frame_position.weight",
    "decoder.position_encodings.encodings": "position.weight",
    ".attention": ".memory_attention",
    ".memory_attention_norm": ".memory_norm",
    ".self_attention": ".attention",
    ".ffn": ".feed_forward",
    ".feed_forward.linear_0": ".feed_forward.inner",
    ".feed_forward.linear_1": ".feed_forward.outer",
}
_PROJECTIONS = {
    ".memory_attention.linear_0": ["query_proj"],
    ".memory_attention.linear_1": ["key_proj", "value_proj"],
    ".memory_attention.linear_2": ["out_proj"],
    ".attention.linear_0": ["query_proj", "key_proj", "value_proj"],
    ".attention.linear_1": ["out_proj"],
}


def _blocks(part: str, renamed: dict[str, Tensor]) -> int:
    numbers = [int(name.split(".")[2]) for name in renamed if name.startswith(f"{part}.blocks.")]
    return 1 + max(numbers, default=-1)


def _renamed(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in variables.items():
        if name == "decoder/projection/weight":  # gives the logits; it is the matrix of the tokens
            continue
        for theirs, ours in _RENAMED.items():
            name = name.replace(theirs, ours)
        for together, parts in _PROJECTIONS.items():
            if together in name:
                prefix, kind = name.split("linear_")[0], name.rsplit(".", 1)[1]
                pieces = tensor.chunk(len(parts))
                renamed |= {f"{prefix}{p}.{kind}": x for p, x in zip(parts, pieces, strict=True)}
                break
        else:
            renamed[name] = tensor
    return renamed
