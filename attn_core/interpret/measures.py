"""Numbers that sum up attention weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attn_core.checks import check_floating_point, check_number, check_q_offset
from attn_core.positions.bias import distances


def entropy(weights: Tensor) -> Tensor:
    r"""Measure how spread the weights of each query are.

    .. math:: H_i = -\sum_j a_{ij} \ln a_{ij}, \qquad 0 \ln 0 = 0

    It is 0 where one key gets everything, and :math:`\ln S` where S keys get the same.

    Args:
        weights: ``(..., L, S)``.

    Returns:
        ``(..., L)``, in nats; 0 for a query that attends nothing.

    Raises:
        TypeError: if ``weights`` is not a floating point tensor.
        ValueError: if it is no table of queries and keys.

    Source: Clark, Khandelwal, Levy and Manning (2019).

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.0000, 0.6931])
    """
    _check_weights("weights", weights)
    return torch.special.entr(weights).sum(-1)


def distance(weights: Tensor, q_offset: int | Tensor | None = None) -> Tensor:
    r"""Measure how far each query looks, on average.

    .. math:: \bar d_i = \sum_j a_{ij} \, \lvert j - (i + \mathrm{q\_offset}) \rvert

    Args:
        weights: ``(..., L, S)``.
        q_offset: position of query 0 among the keys, an int or one integer per batch entry
            (then weights are ``(batch, heads, L, S)``). It must be given when L and S differ.

    Returns:
        ``(..., L)``, in positions; 0 for a query that attends nothing.

    Raises:
        TypeError: if ``weights`` is not a floating point tensor, or ``q_offset`` no integer.
        ValueError: if ``weights`` is no table of queries and keys, or ``q_offset`` is needed.

    Source: Vig and Belinkov (2019).

    Example:
        >>> import torch
        >>> distance(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        tensor([0.0000, 0.5000])
    """
    _check_weights("weights", weights)
    q_len, k_len = weights.shape[-2:]
    if q_offset is not None:
        check_q_offset(q_offset)
    elif q_len != k_len:
        raise ValueError(
            f"q_offset, the position of query 0 among the keys, is needed: there are {q_len} "
            f"queries for {k_len} keys"
        )
    if isinstance(q_offset, Tensor) and (weights.ndim != 4 or len(weights) != len(q_offset)):
        raise ValueError(
            f"q_offset has {len(q_offset)} entries, so weights must be ({len(q_offset)}, heads, "
            f"queries, keys), got weights {tuple(weights.shape)}"
        )
    far = distances(q_len, k_len, q_offset, weights.device).abs()
    return (weights * far).sum(-1)


def rollout(weights: Sequence[Tensor], *, residual: float = 0.5) -> Tensor:
    r"""Follow attention through the layers: how much each output position draws on each input.

    .. math::
        R = \tilde A^{(n)} \cdots \tilde A^{(2)} \tilde A^{(1)}, \qquad
        \tilde A^{(l)} = (1 - r) \, \tfrac1H \sum_h A^{(l, h)} + r \, I

    It treats every layer as if it mixed its inputs by the weights alone, whatever values and
    feed-forward layers do with them: read it as a rough map.

    Args:
        weights: one tensor ``(..., heads, L, L)`` per layer, from the first layer to the last.
        residual: :math:`r`, the share that stays in place through the residual connection.

    Returns:
        ``(..., L, L)``: rows are positions of the last layer, columns are inputs. A row sums to 1
        if those of all layers do.

    Raises:
        TypeError: if an entry is not a floating point tensor, or ``residual`` no number.
        ValueError: if there are no layers, they are not square or do not fit together, or
            ``residual`` is not between 0 and 1.

    Source: Abnar and Zuidema (2020), section 3.

    Example:
        >>> import torch
        >>> first = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
        >>> rollout([first, first], residual=0.0)
        tensor([[1., 0.],
                [1., 0.]])
    """
    check_number("residual", residual)
    if not 0 <= residual <= 1:
        raise ValueError(f"residual must be between 0 and 1, got {residual}")
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise TypeError(f"weights must be a list of tensors, got {type(weights).__name__}")
    if len(weights) == 0:
        raise ValueError("weights must hold a tensor for each layer, got none")
    for layer in weights:
        _check_weights("weights", layer)
        if layer.ndim < 3 or layer.shape[-1] != layer.shape[-2]:
            raise ValueError(f"weights must be (..., heads, L, L), got {tuple(layer.shape)}")
        if layer.shape[-1] != weights[0].shape[-1]:
            lengths = [tuple(one.shape) for one in weights]
            raise ValueError(f"weights of all layers must have one length, got {lengths}")
    stays = residual * torch.eye(weights[0].shape[-1]).to(weights[0])
    flow = stays + (1 - residual) * weights[0].mean(-3)
    for layer in weights[1:]:
        flow = (stays + (1 - residual) * layer.mean(-3)) @ flow
    return flow


def gradient_times_attention(target: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    r"""Multiply each weight by what a small change of it does to the result.

    .. math:: a_{ij} \, \frac{\partial y}{\partial a_{ij}}

    A weight may be large and not matter, because its value does not; this product is small then.
    Its sign says whether the weight pushes the result up or down.

    Args:
        target: a single number :math:`y` that was computed from the weights: the logit of a class.
        weights: weights ``(..., L, S)`` as :func:`record` gives them ``with_gradients=True``.

    Returns:
        One tensor for each of the weights, of the same shape, in the unit of ``target``.

    Raises:
        TypeError: if an argument is not a floating point tensor.
        ValueError: if ``target`` is more than one number, or does not depend on the weights.

    Source: Barkan et al. (2021); Chefer, Gur and Wolf (2021), section 3.1.

    Example:
        >>> import torch
        >>> weights = torch.tensor([[0.75, 0.25]], requires_grad=True)
        >>> values = torch.tensor([2.0, -4.0])
        >>> gradient_times_attention((weights @ values).sum(), [weights])
        [tensor([[ 1.5000, -1.0000]])]
    """
    check_floating_point("target", target)
    if target.numel() != 1:
        raise ValueError(f"target must be a single number, got target {tuple(target.shape)}")
    if not isinstance(weights, Sequence):
        raise TypeError(f"weights must be a list of tensors, got {type(weights).__name__}")
    for layer in weights:
        _check_weights("weights", layer)
    message = (
        "target does not depend on weights {}: record them with_gradients=True, and compute target "
        "from the output of the same call"
    )
    if not target.requires_grad or not all(layer.requires_grad for layer in weights):
        raise ValueError(message.format("at all"))
    gradients = torch.autograd.grad(
        target.reshape(()), list(weights), retain_graph=True, allow_unused=True
    )
    products = []
    for number, (layer, gradient) in enumerate(zip(weights, gradients, strict=True)):
        if gradient is None:
            raise ValueError(message.format(number))
        products.append(layer.detach() * gradient)
    return products


def alignment_error_rate(weights: Tensor, sure: Tensor, possible: Tensor | None = None) -> Tensor:
    r"""Compare where attention points with an alignment that people made.

    .. math::
        \mathrm{AER} = 1 - \frac{|A \cap S| + |A \cap P|}{|A| + |S|}, \qquad
        A = \{(i, \arg\max_j a_{ij})\}, \quad S \subseteq P

    Args:
        weights: ``(..., L, S)``; a query that attends nothing links to nothing.
        sure: bool ``(..., L, S)``, the links that must be there, S.
        possible: bool ``(..., L, S)``, the links that may be there, P; sure links are always
            among them. By default none but the sure ones.

    Returns:
        ``(...)``, between 0 (agreement) and 1; NaN where there are neither links nor sure ones.

    Raises:
        TypeError: if ``weights`` is not floating point, or links are not bool.
        ValueError: if shapes differ.

    Source: Och and Ney (2003).

    Example:
        >>> import torch
        >>> weights = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> alignment_error_rate(weights, sure=torch.eye(2) > 0)
        tensor(0.5000)
    """
    _check_weights("weights", weights)
    for name, links in (("sure", sure), ("possible", possible)):
        if links is None:
            continue
        if not isinstance(links, Tensor) or links.dtype != torch.bool:
            seen = links.dtype if isinstance(links, Tensor) else type(links).__name__
            raise TypeError(f"{name} must be a bool tensor, got {seen}")
        if links.shape != weights.shape:
            raise ValueError(
                f"{name} must have the shape of weights {tuple(weights.shape)}, got "
                f"{tuple(links.shape)}"
            )
    possible = sure if possible is None else possible | sure
    strongest = torch.zeros_like(weights, dtype=torch.bool).scatter(
        -1, weights.argmax(-1, keepdim=True), True
    )
    found = strongest & (weights != 0).any(-1, keepdim=True)

    def count(links: Tensor) -> Tensor:
        return links.sum((-2, -1)).to(weights.dtype)

    return 1 - (count(found & sure) + count(found & possible)) / (count(found) + count(sure))


def _check_weights(name: str, weights: Tensor) -> None:
    check_floating_point(name, weights)
    if weights.ndim < 2:
        raise ValueError(f"{name} must be (..., queries, keys), got {tuple(weights.shape)}")
