"""Hard attention: look at one key only, drawn at random, and learn from what comes of it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attn_core.arguments import check_arguments
from attn_core.checks import check_floating_point, check_mask_dimensions, check_number, check_share
from attn_core.kernels import explicit
from attn_core.masks import Mask
from attn_core.modules.local import Score, check_batches, checked_score


class HardAttentionOutput(NamedTuple):
    """What hard attention looked at, and what learning needs to know of it.

    Attributes:
        output: ``(batch, L, Dv)``, the values that were chosen.
        choice: ``(batch, L)`` integers, which key each query looked at; −1 where it may attend
            nothing.
        log_prob: ``(batch, L)``, the logarithm of the probability of that choice, in nats; 0 where
            there was none.
        entropy: ``(batch, L)``, how undecided each query was, in nats: 0 if one key has all the
            probability.
        weights: ``(batch, L, S)``, the probabilities.

    Source: Xu et al. (2015), section 4.1.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 1, 2)
        >>> HardAttention()(x, torch.zeros(1, 4, 2)).weights
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500]]])
    """

    output: Tensor
    choice: Tensor
    log_prob: Tensor
    entropy: Tensor
    weights: Tensor


class HardAttention(nn.Module):
    r"""Draw one key for each query, with the probabilities that soft attention has for weights.

    .. math::
        a_i &= \operatorname{softmax}_j \operatorname{score}(q_i, k_j) \\
        s_i &\sim \operatorname{Categorical}(a_{i1}, \dots, a_{iS}) \\
        o_i &= v_{s_i}

    The draw has no gradient: query and key learn through ``log_prob`` by
    :func:`reinforce_loss`. The value that was drawn learns as usual. While training it draws; while
    evaluating it takes the most probable key.

    Args:
        score: a callable ``(query, key)``, see :mod:`attn_core.scores`; by default the scaled dot
            product.

    Raises:
        ValueError: if an input has the wrong shape.
        TypeError: if ``score`` is not callable, or an input no tensor.

    Source: Xu et al. (2015), section 4.1; D2, section 2.2, hard attention.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> attend, query = HardAttention(), torch.zeros(1, 3, 2)
        >>> values = torch.tensor([[[10.0], [20.0], [30.0]]])
        >>> seen = attend(query, torch.zeros(1, 3, 2), values)
        >>> bool((seen.output[0, :, 0] == 10 * (seen.choice[0] + 1)).all())
        True
        >>> seen.log_prob.exp()
        tensor([[0.3333, 0.3333, 0.3333]])
    """

    __call__: Callable[..., HardAttentionOutput]

    def __init__(self, *, score: Score | None = None) -> None:
        super().__init__()
        self.score = None if score is None else checked_score(score)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        mask: Tensor | Mask | None = None,
        choice: Tensor | None = None,
    ) -> HardAttentionOutput:
        """Let each query look at one key.

        Args:
            query: ``(batch, L, Dq)``.
            key: ``(batch, S, Dk)``.
            value: ``(batch, S, Dv)``; by default the key.
            mask: a mask, or bool ``(L, S)`` or ``(batch, 1, L, S)``, True = may attend.
            choice: ``(batch, L)`` integers, which key each query looks at, to judge a choice that
                was made before; by default it is drawn, or the most probable one in evaluation.

        Returns:
            :class:`HardAttentionOutput`.

        Raises:
            ValueError: if shapes do not fit, or ``choice`` names a key that is not there or that
                may not be attended.
            TypeError: if an input is no tensor, or ``choice`` no integers.
        """
        value = key if value is None else value
        check_batches(query, key, value)
        check_mask_dimensions(mask)
        if key.shape[1] == 0:
            raise ValueError(f"key must have a vector to look at, got key {tuple(key.shape)}")
        arguments = check_arguments(
            query[:, None], key[:, None], value[:, None], mask=mask, score=self.score
        )
        weights = explicit.weights(arguments)[:, 0]
        nothing = (weights == 0).all(-1)
        possible = weights.masked_fill(nothing[..., None], 1.0)
        if choice is None:
            choice = self._choose(possible.detach())
        else:
            _check_choice(choice, weights, nothing)
            choice = choice.clamp(min=0)
        chosen = choice[..., None]

        log_prob = possible.gather(-1, chosen)[..., 0].log()
        sure = possible.masked_fill(possible == 0, 1.0)
        entropy = -(possible * sure.log()).sum(-1)
        output = value.gather(1, chosen.expand(-1, -1, value.shape[-1]))
        return HardAttentionOutput(
            output.masked_fill(nothing[..., None], 0.0),
            choice.masked_fill(nothing, -1),
            log_prob.masked_fill(nothing, 0.0),
            entropy.masked_fill(nothing, 0.0),
            weights,
        )

    def _choose(self, probabilities: Tensor) -> Tensor:
        if not self.training:
            return probabilities.argmax(-1)
        flat = probabilities.flatten(0, 1).float()
        return torch.multinomial(flat, 1)[:, 0].view(probabilities.shape[:-1])


class MovingAverage(nn.Module):
    r"""Remember about how large the reward was: the baseline that REINFORCE compares with.

    .. math:: b \leftarrow \text{momentum} \cdot b + (1 - \text{momentum}) \cdot \bar r

    The first reward is taken as it is. What it remembers is in the state dict and is not trained.

    Args:
        momentum: how slowly it forgets, at least 0 and below 1.

    Attributes:
        value: :math:`b`, a scalar; 0 before the first update.

    Raises:
        ValueError: if ``momentum`` is out of range, or a reward is empty.
        TypeError: if ``momentum`` is no number, or a reward no floating point tensor.

    Source: Xu et al. (2015), section 4.1, with momentum 0.9.

    Example:
        >>> import torch
        >>> baseline = MovingAverage(momentum=0.5)
        >>> baseline.update(torch.tensor([1.0, 3.0]))
        >>> baseline.update(torch.tensor([4.0]))
        >>> baseline.value
        tensor(3.)
    """

    value: Tensor
    updates: Tensor

    def __init__(self, momentum: float = 0.9) -> None:
        super().__init__()
        check_share("momentum", momentum)
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, reward: Tensor) -> None:
        """Take the mean of these rewards, of any shape, into the average."""
        check_floating_point("reward", reward)
        if reward.numel() == 0:
            raise ValueError(f"reward must not be empty, got reward {tuple(reward.shape)}")
        mean = reward.mean().to(self.value)
        if self.updates > 0:
            mean = self.momentum * self.value + (1 - self.momentum) * mean
        self.value.copy_(mean)
        self.updates += 1

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}"


def reinforce_loss(
    reward: Tensor,
    log_prob: Tensor,
    *,
    baseline: Tensor | float = 0.0,
    entropy: Tensor | None = None,
    entropy_weight: float = 0.0,
) -> Tensor:
    r"""Give a loss whose gradient makes choices more probable that were better than expected.

    .. math::
        \mathcal{L} = -\operatorname{mean}\big[ (r - b) \, \log p(s) \big]
                      - \lambda \operatorname{mean}\big[ H \big]

    Its gradient is an unbiased estimate of that of the expected reward (with the sign of a loss),
    whatever the baseline, as long as the baseline does not depend on the choice. A baseline near
    the expected reward makes the estimate less noisy. Neither reward nor baseline is
    differentiated: a learned baseline needs a loss of its own, its squared distance from the
    reward.

    Args:
        reward: :math:`r`, how good the outcome was, larger is better; ``(batch, L)``, or ``(batch,
            1)`` for one reward for all L choices of a batch entry.
        log_prob: :math:`\log p(s)`, ``(batch, L)``, from :class:`HardAttention`.
        baseline: :math:`b`, the reward that was to be expected: a number, the ``value`` of a
            :class:`MovingAverage`, or a tensor shaped as ``reward`` may be.
        entropy: :math:`H`, the shape of ``log_prob``; needed where ``entropy_weight`` is not 0.
        entropy_weight: :math:`\lambda`, how much being undecided is worth: it keeps the choice from
            settling before other keys were tried.

    Returns:
        A scalar.

    Raises:
        TypeError: if an argument is no floating point tensor, or ``entropy_weight`` no number.
        ValueError: if shapes do not fit, or ``entropy`` is needed and missing.

    Source: Williams (1992), theorem 1; Xu et al. (2015), section 4.1.

    Example:
        >>> import torch
        >>> log_prob = torch.tensor([[0.5, 0.25]]).log().requires_grad_()
        >>> reinforce_loss(torch.tensor([[3.0]]), log_prob, baseline=1.0).backward()
        >>> log_prob.grad
        tensor([[-1., -1.]])
    """
    check_floating_point("reward", reward)
    check_floating_point("log_prob", log_prob)
    check_number("entropy_weight", entropy_weight)
    _check_broadcasts("reward", reward, log_prob)
    if isinstance(baseline, Tensor):
        check_floating_point("baseline", baseline)
        _check_broadcasts("baseline", baseline, log_prob)
        baseline = baseline.detach()
    else:
        check_number("baseline", baseline)
    loss = -((reward.detach() - baseline) * log_prob).mean()
    if entropy is not None:
        check_floating_point("entropy", entropy)
        if entropy.shape != log_prob.shape:
            raise ValueError(
                f"entropy must have the shape of log_prob {tuple(log_prob.shape)}, got entropy "
                f"{tuple(entropy.shape)}"
            )
        loss = loss - entropy_weight * entropy.mean()
    elif entropy_weight != 0:
        raise ValueError(f"entropy is needed where entropy_weight is {entropy_weight}, got None")
    return loss


def _check_broadcasts(name: str, x: Tensor, log_prob: Tensor) -> None:
    # As many dimensions, or none: (batch,) would go along the queries where L happens to be batch.
    fits = x.ndim in (0, log_prob.ndim) and all(
        size in (1, whole) for size, whole in zip(x.shape, log_prob.shape, strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must have the shape of log_prob {tuple(log_prob.shape)}, with 1 for what is "
            f"the same for all, got {name} {tuple(x.shape)}"
        )


def _check_choice(choice: Tensor, weights: Tensor, nothing: Tensor) -> None:
    if not isinstance(choice, Tensor):
        raise TypeError(f"choice must be a torch tensor, got {type(choice).__name__}")
    if choice.dtype != torch.int64:
        raise TypeError(f"choice must hold key numbers as int64, got {choice.dtype}")
    if choice.shape != weights.shape[:-1]:
        raise ValueError(
            f"choice must be (batch, queries) = {tuple(weights.shape[:-1])}, got "
            f"{tuple(choice.shape)}"
        )
    if (
        ((choice == -1) != nothing).any()
        or (choice < -1).any()
        or (choice >= weights.shape[-1]).any()
    ):
        raise ValueError(
            f"choice must be from 0 to {weights.shape[-1] - 1}, and −1 for a query that may attend "
            f"nothing, got {choice.tolist()}"
        )
    chosen = weights.gather(-1, choice.clamp(min=0)[..., None])[..., 0]
    if ((chosen == 0) & ~nothing).any():
        raise ValueError(f"choice has a key that may not be attended, got {choice.tolist()}")
