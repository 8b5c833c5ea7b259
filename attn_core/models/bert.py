"""BERT: an encoder that reads a text in both directions."""

import json
import re
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_core.calls import checked_call
from attn_core.checks import (
    check_eps,
    check_flags,
    check_integers,
    check_is_token,
    check_number,
    check_path,
    check_same_kind,
    check_sequence,
    check_share,
    check_sizes,
    check_tokens,
)
from attn_core.models.transformer import TransformerEncoder
from attn_core.models.weights import load_weights, read_safetensors
from attn_core.positions import LearnedEncoding, SegmentEncoding

__all__ = ["BERT", "MaskedTokenHead"]


@checked_call
class MaskedTokenHead(nn.Module):
    r"""Guess the token at every position, from what the encoder says of it.

    .. math:: \text{logits} = \operatorname{norm}(\operatorname{gelu}(h W + b)) \, E^\top + c

    E is the matrix that embeds the tokens.

    Args:
        dim: width of a token's vector.
        vocab_size: number of tokens.
        eps: added to the variance in the norm.

    Raises:
        ValueError: if a size is not positive.
        TypeError: if a size is not an integer.

    Source: Devlin et al. (2019), section 3.1, task 1; the published weights for its inner layer.

    Example:
        >>> import torch
        >>> MaskedTokenHead(8, 100)(torch.ones(2, 5, 8), torch.ones(100, 8)).shape
        torch.Size([2, 5, 100])
    """

    __call__: Callable[..., Tensor]

    def __init__(self, dim: int, vocab_size: int, eps: float = 1e-12) -> None:
        super().__init__()
        check_sizes(dim=dim, vocab_size=vocab_size)
        check_number("eps", eps)
        dim = int(dim)
        self.inner = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        """Give ``(batch, L, vocab_size)`` for states ``(batch, L, dim)``."""
        return F.linear(self.norm(F.gelu(self.inner(states))), embedding, self.bias)


@checked_call
class BERT(nn.Module):
    r"""Give every token a vector that knows the whole text.

    .. math::
        x = \operatorname{norm}(E_{\text{token}} + P_{\text{position}} + S_{\text{segment}}),
        \qquad h = \operatorname{Encoder}(x)

    Args:
        vocab_size: number of tokens.
        dim: width of a token's vector.
        heads: number of heads.
        layers: number of blocks.
        hidden_dim: inner width of the feed-forward network; by default ``4 × dim``.
        max_len: number of positions.
        segments: number of segments: 2 tell two sentences of one text apart.
        pooler: whether there is a layer that sums a text up from its first token.
        head: whether there is a head that guesses masked tokens.
        dropout: share dropped, while training only.
        eps: added to the variance in the norms.

    Raises:
        ValueError: if a size is not positive, ``dim`` no multiple of ``heads``, numbers are outside
            their vocabulary, or a text is longer than ``max_len``.
        TypeError: if a size is not an integer, or numbers are not int64.

    Source: Devlin et al. (2019), section 3, whose sizes are 30522, 768, 12 and 12; Reimers and
    Gurevych (2019), section 3, for :meth:`embed`.

    Example:
        >>> import torch
        >>> from attn_core.data import pretrained
        >>> model = BERT.from_safetensors(pretrained.minilm_folder())
        >>> texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "Stocks fell today."]
        >>> tokenizer = pretrained.minilm_tokenizer()
        >>> tokenizer.enable_padding()
        >>> ids = torch.tensor([text.ids for text in tokenizer.encode_batch(texts)])
        >>> vectors = model.embed(ids, ids != 0).detach()
        >>> (vectors @ vectors[0]).round(decimals=2)
        tensor([1.0000, 0.6700, 0.0800])
    """

    __call__: Callable[..., Tensor]

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        heads: int,
        layers: int,
        *,
        hidden_dim: int | None = None,
        max_len: int = 512,
        segments: int = 2,
        pooler: bool = True,
        head: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        check_sizes(vocab_size=vocab_size, dim=dim)
        dim = int(dim)
        check_share("dropout", dropout)
        check_flags(pooler=pooler, head=head)
        check_eps(eps)
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.segment = SegmentEncoding(segments, dim)
        self.position = LearnedEncoding(max_len, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.encoder = TransformerEncoder(
            dim, heads, layers, hidden_dim=hidden_dim, norm="post", dropout=dropout, eps=eps
        )
        self.pooler = nn.Linear(dim, dim) if pooler else None
        self.head = MaskedTokenHead(dim, vocab_size, eps) if head else None
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(
        self, ids: Tensor, is_token: Tensor | None = None, *, segments: Tensor | None = None
    ) -> Tensor:
        """Read a batch of texts.

        Args:
            ids: token numbers ``(batch, L)``.
            is_token: bool ``(batch, L)``, False on padding; None if there is none.
            segments: the number of every token's segment, broadcast to ``(batch, L)``; by default
                all 0.

        Returns:
            A vector for every token, ``(batch, L, dim)``. Those of padding mean nothing.

        Raises:
            ValueError: as :class:`BERT`, or if a shape does not fit ``ids``.
            TypeError: as :class:`BERT`, or if ``is_token`` is not bool.
        """
        check_tokens("ids", ids, self.token_embedding.num_embeddings)
        mask = None
        if is_token is not None:
            check_is_token(is_token, tuple(ids.shape))
            mask = is_token[:, None, None, :]
        segments = torch.zeros_like(ids) if segments is None else segments
        check_integers("segments", segments)
        x = self.position(self.segment(self.token_embedding(ids), segments))
        return self.encoder(self.dropout(self.embedding_norm(x)), mask=mask)

    def embed(self, ids: Tensor, is_token: Tensor | None = None) -> Tensor:
        """Give every text one vector of length 1: the mean of its tokens' vectors.

        The dot product of two of them is the cosine of the angle between two meanings.

        Args:
            ids: token numbers ``(batch, L)``.
            is_token: bool ``(batch, L)``, False on padding; None if there is none.

        Returns:
            ``(batch, dim)``; zeros for a text without tokens.
        """
        states = self(ids, is_token)
        if is_token is None:
            return F.normalize(states.mean(dim=1), dim=-1)
        total = states.masked_fill(~is_token[..., None], 0.0).sum(dim=1)
        return F.normalize(total / is_token.sum(dim=1, keepdim=True).clamp(min=1), dim=-1)

    def pool(self, states: Tensor) -> Tensor:
        """Sum every text up from the state of its first token, ``[CLS]``.

        Args:
            states: what the model returned, ``(batch, L, dim)``.

        Returns:
            ``(batch, dim)``, between −1 and 1.

        Raises:
            ValueError: if the model has no pooler, or ``states`` has another shape.
            TypeError: if ``states`` is no tensor.
        """
        if self.pooler is None:
            raise ValueError("this model has no pooler: make it with pooler=True")
        self._check_states(states)
        return torch.tanh(self.pooler(states[:, 0]))

    def guess(self, states: Tensor) -> Tensor:
        """Give the logits of the token at every position.

        Args:
            states: what the model returned, ``(batch, L, dim)``.

        Returns:
            ``(batch, L, vocab_size)``.

        Raises:
            ValueError: if the model has no head, or ``states`` has another shape.
            TypeError: if ``states`` is no tensor.
        """
        if self.head is None:
            raise ValueError("this model has no head for masked tokens: make it with head=True")
        self._check_states(states)
        return self.head(states, self.token_embedding.weight)

    def _check_states(self, states: Tensor) -> None:
        dim = self.token_embedding.embedding_dim
        check_sequence("states", states, dim)
        if states.ndim != 3:
            raise ValueError(f"states must be (batch, L, {dim}), got {tuple(states.shape)}")
        check_same_kind("states", states, "the model", self.token_embedding.weight)

    @classmethod
    def from_safetensors(cls, path: str | PathLike[str]) -> Self:
        """Load trained weights, with a pooler or a head if the file has one.

        Other heads, which tell whether a sentence follows, name a class, or mark a span, stand
        behind the encoder and change nothing that it returns. A warning names them, and they are
        left out.

        Args:
            path: a folder with ``model.safetensors`` and ``config.json`` as Hugging Face writes
                them for a BERT; or the first file, beside the other.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: if weights are missing, or too many, or the configuration is one that this
                class does not have.
            FileNotFoundError: if a file is not there.
            TypeError: if ``path`` is no path.
        """
        check_path("path", path)
        file = Path(path)
        file = file / "model.safetensors" if file.is_dir() else file
        config = json.loads(file.with_name("config.json").read_text(encoding="utf-8"))
        wanted = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
        for name, value in wanted.items():
            if config.get(name, value) != value:
                raise ValueError(f"{name} must be {value!r}, got {config[name]!r} in {path}")
        tensors = _without_other_heads(_renamed(read_safetensors(file)), path)
        needed = [
            "token_embedding.weight",
            "segment.weight",
            "position.weight",
            "encoder.blocks.0.feed_forward.inner.weight",
        ]
        missing = [name for name in needed if name not in tensors]
        if missing:
            raise ValueError(f"{path} holds no BERT: missing {missing}")
        (vocab_size, dim), (segments, _), (max_len, _), (hidden_dim, _) = (
            tensors[name].shape for name in needed
        )
        model = cls(
            vocab_size,
            dim,
            config["num_attention_heads"],
            config["num_hidden_layers"],
            hidden_dim=hidden_dim,
            max_len=max_len,
            segments=segments,
            pooler=any(name.startswith("pooler.") for name in tensors),
            head=any(name.startswith("head.") for name in tensors),
            eps=config["layer_norm_eps"],
        )
        load_weights(model, tensors)
        return model.eval()


from_safetensors = BERT.from_safetensors

# What Hugging Face calls the heads that the class has not: next sentence, classes, spans.
_OTHER_HEADS = ("cls.seq_relationship.", "classifier.", "qa_outputs.")

# Hugging Face's names, and ours; what was converted from TensorFlow has gamma and beta.
_RENAMED = {
    r"LayerNorm\.gamma$": "LayerNorm.weight",
    r"LayerNorm\.beta$": "LayerNorm.bias",
    r"^bert\.": "",
    r"^embeddings\.word_embeddings": "token_embedding",
    r"^embeddings\.token_type_embeddings": "segment",
    r"^embeddings\.position_embeddings": "position",
    r"^embeddings\.LayerNorm": "embedding_norm",
    r"^encoder\.layer\.": "encoder.blocks.",
    r"\.attention\.self\.(query|key|value)\.": r".attention.\1_proj.",
    r"\.attention\.output\.dense": ".attention.out_proj",
    r"\.attention\.output\.LayerNorm": ".attention_norm",
    r"\.intermediate\.dense": ".feed_forward.inner",
    r"\.output\.dense": ".feed_forward.outer",
    r"\.output\.LayerNorm": ".feed_forward_norm",
    r"^pooler\.dense": "pooler",
    r"^cls\.predictions\.transform\.dense": "head.inner",
    r"^cls\.predictions\.transform\.LayerNorm": "head.norm",
    r"^cls\.predictions\.bias": "head.bias",
}


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, ours in _RENAMED.items():
            name = re.sub(theirs, ours, name)
        renamed[name] = tensor
    # Two things that some files repeat: the numbers 0, 1, 2, ... and the matrix of the tokens.
    positions = renamed.pop("embeddings.position_ids", torch.arange(0)).flatten()
    if not torch.equal(positions, torch.arange(len(positions))):
        raise ValueError("embeddings.position_ids must be 0, 1, 2, ...: positions stand in order")
    for repeated, original in {
        "cls.predictions.decoder.weight": "token_embedding.weight",
        "cls.predictions.decoder.bias": "head.bias",
    }.items():
        if repeated in renamed and not torch.equal(renamed.pop(repeated), renamed[original]):
            raise ValueError(f"{repeated} is not what {original} is, but here they are one")
    return renamed


def _without_other_heads(
    tensors: dict[str, Tensor], path: str | PathLike[str]
) -> dict[str, Tensor]:
    left_out = sorted(name for name in tensors if name.startswith(_OTHER_HEADS))
    if left_out:
        warnings.warn(f"{path} has heads that BERT has not: {left_out} are left out", stacklevel=3)
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}
