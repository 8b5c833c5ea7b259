"""The one training loop that the chapters share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class History:
    """What a training run leaves behind.

    Attributes:
        losses: the loss of every step.
        seconds: how long it took.

    Example:
        >>> History([2.0, 1.0], seconds=0.1).losses[-1]
        1.0
    """

    losses: list[float]
    seconds: float


def length_batches(
    lengths: Sequence[int] | Tensor, batch_size: int, *, epochs: int = 1, seed: int = 0
) -> list[Tensor]:
    """Batches of examples of similar length, so that little is padding.

    Every epoch sorts the examples by length, equal lengths in a new random order, cuts the row
    into batches and shuffles the batches.

    Args:
        lengths: the length of every example.
        batch_size: examples per batch; the last batch of an epoch may have fewer.
        epochs: how often every example is used.
        seed: of the random order.

    Returns:
        A list of int64 tensors, the examples' indices ``(batch,)``.

    Raises:
        ValueError: ``batch_size`` or ``epochs`` is less than 1.

    Example:
        >>> sorted(sorted(batch.tolist()) for batch in length_batches([9, 1, 8, 2], 2))
        [[0, 2], [1, 3]]
    """
    if batch_size < 1 or epochs < 1:
        raise ValueError(f"batch_size and epochs must be at least 1, got {batch_size} and {epochs}")
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.as_tensor(lengths)
    batches: list[Tensor] = []
    for _ in range(epochs):
        shuffled = torch.randperm(len(lengths), generator=generator)
        by_length = shuffled[lengths[shuffled].argsort(stable=True)]
        of_epoch = by_length.split(batch_size)
        order = torch.randperm(len(of_epoch), generator=generator)
        batches.extend(of_epoch[int(i)] for i in order)
    return batches


def train(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Sequence[Any],
    *,
    learning_rate: float = 1e-3,
    clip_norm: float = 1.0,
    log_dir: str | PathLike[str] | None = None,
    description: str = "training",
) -> History:
    """Makes ``loss`` small with Adam, one step per batch.

    The learning rate rises over the first tenth of the steps and then falls to zero along a half
    cosine (Loshchilov and Hutter, 2017); gradients longer than ``clip_norm`` are scaled down to
    it (Pascanu et al., 2013). A progress bar shows the loss; ``TQDM_DISABLE=1`` turns it off.

    Args:
        model: what is trained; in training mode meanwhile, in evaluation mode afterwards.
        loss: gets one batch and returns a scalar.
        batches: anything with a length; its items are handed to ``loss`` in this order.
        learning_rate: the highest learning rate.
        clip_norm: the longest gradient.
        log_dir: a folder for a TensorBoard log of loss, gradient norm and learning rate; None
            writes none.
        description: the progress bar's name.

    Returns:
        ``History(losses, seconds)``.

    Raises:
        ValueError: ``batches`` is empty, or the loss is not finite.
        ImportError: tqdm, or tensorboard where ``log_dir`` is given, is not installed.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> history = train(model, lambda x: (model(x) ** 2).mean(), [torch.ones(4, 1)] * 3)
        >>> len(history.losses)
        3
    """
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got none")
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=len(batches) + 1, pct_start=0.1, cycle_momentum=False
    )
    writer = _open_log(log_dir) if log_dir is not None else None
    bar = _progress(batches, description)
    losses: list[float] = []
    start = time.perf_counter()
    model.train()
    for batch in bar:
        value = loss(batch)
        if not torch.isfinite(value):
            raise ValueError(f"loss must be finite, got {value.item()} at step {len(losses)}")
        optimizer.zero_grad()
        value.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        if writer is not None:
            writer.add_scalar("loss", value.item(), len(losses))
            writer.add_scalar("gradient norm", norm.item(), len(losses))
            writer.add_scalar("learning rate", schedule.get_last_lr()[0], len(losses))
        schedule.step()
        losses.append(value.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    model.eval()
    if writer is not None:
        writer.close()
    return History(losses, time.perf_counter() - start)


def _progress(batches: Sequence[Any], description: str) -> Any:
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("the progress bar needs tqdm: pip install tqdm") from error
    return tqdm(batches, desc=description, unit="step")


def _open_log(log_dir: str | PathLike[str]) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("log_dir needs TensorBoard: pip install tensorboard") from error
    return SummaryWriter(log_dir)
