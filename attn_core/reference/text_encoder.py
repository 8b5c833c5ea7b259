"""BERT in NumPy: from the numbers of tokens to a vector for each, and one for the sentence."""

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from attn_core.reference.block import Parameters, transformer_block
from attn_core.reference.many_heads import check_heads
from attn_core.reference.position_wise import layer_norm
from attn_core.reference.shapes import Array, check_float_arrays, check_same_shape

__all__ = ["BERTOutput", "bert", "sentence_vector"]

EMBEDDING = ("token_embedding", "position", "segment", "embedding_norm")


class BERTOutput(NamedTuple):
    """What bert returns.

    Attributes:
        states: a vector for each token, shape (..., L, D).
        weights: those of every layer and head, shape (..., layers, heads, L, L).
    """

    states: Array
    weights: Array


def bert(
    ids: npt.ArrayLike,
    parameters: Parameters,
    *,
    heads: int,
    is_token: Array | None = None,
    segments: npt.ArrayLike = 0,
    eps: float = 1e-12,
) -> BERTOutput:
    r"""Give each token a vector that depends on the whole text, and show where it looked.

    .. math::
        x_i = \operatorname{norm}(E_{\text{token } i} + P_i + S_{\text{segment}}), \qquad
        h = \operatorname{block}_N(\cdots \operatorname{block}_1(x))

    with post-norm blocks, :func:`transformer_block`.

    Args:
        ids: token numbers, shape (..., L).
        parameters: the arrays by the names that ``attn_core.models.bert.BERT`` has for them:
            ``token_embedding.weight``, shape (V, D), ``position.weight``, shape (P, D),
            ``segment.weight``, shape (2, D), ``embedding_norm.weight`` and its ``bias``, shape
            (D,), and for each layer ``encoder.blocks.0.…`` those of a block. Those of a pooler
            or a head for masked tokens are not used.
        heads: the number of heads, a divisor of D.
        is_token: boolean, shape (..., L), False on padding; None where there is none.
        segments: the number of each token's segment; broadcasts to (..., L).
        eps: added to the variance in the norms.

    Returns:
        The states and the weights. Those of padding mean nothing.

    Raises:
        TypeError: ids or segments are no integers, is_token is not boolean, heads is no integer,
            or an array holds no floating-point numbers.
        ValueError: a number is outside its table, a text is longer than the positions, there are
            no layers, or shapes do not fit.

    Source: Devlin et al. 2019, section 3.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shapes = {"token_embedding": (5, 2), "position": (3, 2), "segment": (2, 2)}
        >>> shapes |= {f"encoder.blocks.0.attention.{name}_proj": (2, 2)
        ...     for name in ("query", "key", "value", "out")}
        >>> shapes |= {f"encoder.blocks.0.feed_forward.{name}": (2, 2)
        ...     for name in ("inner", "outer")}
        >>> arrays = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
        >>> arrays |= {f"{name}.bias": np.zeros(2) for name in shapes if "blocks" in name}
        >>> norms = ["attention_norm", "feed_forward_norm"]
        >>> norms = ["embedding_norm", *(f"encoder.blocks.0.{name}" for name in norms)]
        >>> for name in norms:
        ...     arrays |= {f"{name}.weight": np.ones(2), f"{name}.bias": np.zeros(2)}
        >>> states, weights = bert([4, 0, 1], arrays, heads=1)
        >>> states.shape, weights.shape, weights.sum(-1).round(6).tolist()
        ((3, 2), (1, 1, 3, 3), [[[1.0, 1.0, 1.0]]])
    """
    numbers = np.asarray(ids)
    check_heads("heads", heads)
    tables = {name: _weight(parameters, name) for name in EMBEDDING}
    _check_numbers("ids", numbers, len(tables["token_embedding"]))
    _check_numbers("segments", np.asarray(segments), len(tables["segment"]))
    if numbers.ndim == 0:
        raise ValueError("ids must have shape (..., L), got one number")
    length = numbers.shape[-1]
    if length > len(tables["position"]):
        raise ValueError(
            f"ids are {length} tokens, but there are {len(tables['position'])} positions"
        )
    if is_token is not None:
        if not isinstance(is_token, np.ndarray) or is_token.dtype != bool:
            raise TypeError("is_token must be a boolean NumPy array, False on padding")
        check_same_shape("is_token", is_token, numbers.shape)

    x = tables["token_embedding"][numbers]  # (..., L, D)
    x = x + tables["position"][:length] + tables["segment"][np.asarray(segments)]
    x = layer_norm(x, tables["embedding_norm"], parameters["embedding_norm.bias"], eps)

    mask = None if is_token is None else is_token[..., None, None, :]
    weights = []
    for block in _blocks(parameters):
        x, of_layer = transformer_block(
            x, block, heads=heads, norm="post", mask=mask, eps=eps, return_weights=True
        )
        weights.append(of_layer)
    return BERTOutput(x, np.stack(weights, axis=-4))


def sentence_vector(states: Array, is_token: Array | None = None) -> Array:
    r"""Give a text one vector of length 1: the mean of its tokens' vectors.

    .. math:: \mathbf u = \frac{\bar{\mathbf h}}{\lVert \bar{\mathbf h} \rVert}, \qquad
              \bar{\mathbf h} = \tfrac1L \sum_i \mathbf h_i

    The dot product of two of them is the cosine of their angle.

    Args:
        states: what bert returned, shape (..., L, D).
        is_token: boolean, shape (..., L), False on padding; None where there is none.

    Returns:
        Shape (..., D); zeros for a text without tokens.

    Raises:
        TypeError: states hold no floating-point numbers, or is_token is not boolean.
        ValueError: shapes do not fit.

    Source: Reimers and Gurevych 2019, section 3, mean pooling.

    Example:
        >>> sentence_vector(np.array([[1.0, 4.0], [5.0, 4.0]])).tolist()
        [0.6, 0.8]
    """
    check_float_arrays(states=states)
    if is_token is None:
        is_token = np.ones(states.shape[:-1], dtype=bool)
    if not isinstance(is_token, np.ndarray) or is_token.dtype != bool:
        raise TypeError("is_token must be a boolean NumPy array, False on padding")
    check_same_shape("is_token", is_token, states.shape[:-1])
    total = np.where(is_token[..., None], states, np.zeros_like(states)).sum(axis=-2)
    length = np.linalg.norm(total, axis=-1, keepdims=True)  # the count of tokens cancels
    vector: Array = total / np.where(length > 0, length, np.ones_like(length))
    return vector


def _weight(parameters: Parameters, name: str) -> Array:
    if not isinstance(parameters, dict):
        raise TypeError(f"parameters must be a dict of arrays, got {type(parameters).__name__}")
    if f"{name}.weight" not in parameters:
        raise ValueError(f"parameters must be those of a BERT: missing {name}.weight")
    return parameters[f"{name}.weight"]


def _check_numbers(name: str, numbers: Array, count: int) -> None:
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {numbers.dtype}")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < count:
        raise ValueError(
            f"{name} must be from 0 to {count - 1}, got {numbers.min()} to {numbers.max()}"
        )


def _blocks(parameters: Parameters) -> list[Parameters]:
    """The parameters of each layer, by the names that a block has for them."""
    layers: dict[int, Parameters] = {}
    for name, array in parameters.items():
        found = re.fullmatch(r"encoder\.blocks\.(\d+)\.(.+)", name)
        if found:
            layers.setdefault(int(found[1]), {})[found[2]] = array
    if sorted(layers) != list(range(max(len(layers), 1))):
        raise ValueError(f"parameters must have layers 0, 1, 2, …, got {sorted(layers)}")
    return [layers[number] for number in range(len(layers))]
