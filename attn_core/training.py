"""The one training loop that the chapters share."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from attn_core.checks import (
    check_callable,
    check_kind,
    check_not_sparse,
    check_number,
    check_path,
    check_sizes,
    check_text,
)
from attn_core.extras import needed


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
        ValueError: ``batch_size`` or ``epochs`` is less than 1, ``seed`` is negative, or
            ``lengths`` are empty or not one number per example.
        TypeError: a size or ``seed`` is no integer, or ``lengths`` are no numbers.

    Example:
        >>> sorted(sorted(batch.tolist()) for batch in length_batches([9, 1, 8, 2], 2))
        [[0, 2], [1, 3]]
    """
    check_sizes(batch_size=batch_size, epochs=epochs)
    check_sizes(least=0, seed=seed)
    check_not_sparse("lengths", lengths)
    try:
        lengths = torch.as_tensor(lengths)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"lengths must be one number per example, got {lengths!r}") from None
    if lengths.ndim != 1 or len(lengths) == 0 or lengths.isnan().any():
        raise ValueError(
            f"lengths must be one number per example, at least one, got {lengths.tolist()}"
        )
    generator = torch.Generator().manual_seed(int(seed))
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
        TypeError: an argument has the wrong type.
        ImportError: tqdm, or tensorboard where ``log_dir`` is given, is not installed.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> history = train(model, lambda x: (model(x) ** 2).mean(), [torch.ones(4, 1)] * 3)
        >>> len(history.losses)
        3
    """
    check_kind("model", model, nn.Module)
    check_callable("loss", loss)
    if isinstance(batches, str) or not hasattr(batches, "__len__"):
        raise TypeError(f"batches must be a sequence of batches, got {batches!r}")
    check_not_sparse("batches", batches)
    if len(batches) == 0:
        raise ValueError("batches must hold at least one batch, got none")
    check_number("learning_rate", learning_rate)
    check_number("clip_norm", clip_norm)
    if log_dir is not None:
        check_path("log_dir", log_dir)
    check_text("description", description)
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


@dataclass(frozen=True)
class PlateauHistory:
    """What :func:`train_to_plateau` leaves behind.

    Attributes:
        errors: the validation error before training and after every epoch.
        best: the index in ``errors`` of the smallest; the model has the weights of that epoch.
        seconds: how long it took, validation included.
        stopped: whether the error had stopped falling; False where ``max_epochs`` ended it.

    Example:
        >>> PlateauHistory([2.0, 1.0, 1.5], best=1, seconds=0.1, stopped=True).errors[1]
        1.0
    """

    errors: list[float]
    best: int
    seconds: float
    stopped: bool


def train_to_plateau(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    epoch: Callable[[int], Sequence[Any]],
    validate: Callable[[], float],
    *,
    learning_rate: float = 1e-3,
    clip_norm: float = 1.0,
    patience: int = 3,
    reductions: int = 3,
    max_epochs: int = 100,
) -> PlateauHistory:
    """Trains with Adam until the validation error stops falling: what a fair baseline gets.

    When ``patience`` epochs in a row bring no smaller error, training goes back to the best
    weights so far and goes on with a quarter of the learning rate and a new optimizer. After
    ``reductions`` of these it ends, with the best weights; an error of 0 ends it at once. The
    first of the epochs warms up.

    Args:
        model: what is trained; in evaluation mode while ``validate`` runs and afterwards.
        loss: gets one batch and returns a scalar.
        epoch: gets 0, 1, 2, … and returns the batches of that epoch.
        validate: returns the error to make small, at least 0, computed on data that is not
            trained on.
        learning_rate: the highest learning rate.
        clip_norm: the longest gradient.
        patience: epochs without a smaller error before the learning rate falls.
        reductions: how often it falls.
        max_epochs: the end in any case.

    Returns:
        ``PlateauHistory(errors, best, seconds, stopped)``.

    Raises:
        ValueError: ``patience`` or ``max_epochs`` is less than 1, ``reductions`` is negative, an
            epoch has no batch, a loss or an error is not finite, or an error is negative.
        TypeError: an argument has the wrong type.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> square = lambda x: (model(x) ** 2).mean()
        >>> x = torch.ones(4, 1)
        >>> history = train_to_plateau(
        ...     model, square, lambda _: [x] * 50, lambda: square(x).item(), learning_rate=0.1
        ... )
        >>> history.stopped, round(history.errors[history.best], 3)
        (True, 0.0)
    """
    check_kind("model", model, nn.Module)
    for name, call in (("loss", loss), ("epoch", epoch), ("validate", validate)):
        check_callable(name, call)
    check_number("learning_rate", learning_rate)
    check_number("clip_norm", clip_norm)
    check_sizes(patience=patience, max_epochs=max_epochs)
    check_sizes(least=0, reductions=reductions)
    start = time.perf_counter()
    errors = [_error(model, validate, 0)]
    best, best_weights = 0, copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    waited, left, stopped = 0, reductions, False
    while len(errors) <= max_epochs and not stopped:
        batches = epoch(len(errors) - 1)
        if len(batches) == 0:
            raise ValueError(
                f"epoch must return at least one batch, got none for {len(errors) - 1}"
            )
        model.train()
        for step, batch in enumerate(batches, start=1):
            if len(errors) == 1:
                optimizer.param_groups[0]["lr"] = learning_rate * step / len(batches)
            value = loss(batch)
            if not torch.isfinite(value):
                raise ValueError(f"loss must be finite, got {value.item()} in epoch {len(errors)}")
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
        errors.append(_error(model, validate, len(errors)))
        if errors[-1] < errors[best]:
            best, best_weights = len(errors) - 1, copy.deepcopy(model.state_dict())
            waited, stopped = 0, errors[-1] == 0
            continue
        waited += 1
        if waited == patience:
            model.load_state_dict(best_weights)
            if left == 0:
                stopped = True
            left, waited = left - 1, 0
            learning_rate /= 4
            optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    model.load_state_dict(best_weights)
    model.eval()
    return PlateauHistory(errors, best, time.perf_counter() - start, stopped)


def _error(model: nn.Module, validate: Callable[[], float], epoch: int) -> float:
    model.eval()
    with torch.no_grad():
        error = float(validate())
    if not (math.isfinite(error) and error >= 0):
        raise ValueError(
            f"validate must return a finite error of at least 0, got {error} after epoch {epoch}"
        )
    return error


def _progress(batches: Sequence[Any], description: str) -> Any:
    with needed("the progress bar"):
        from tqdm import tqdm
    return tqdm(batches, desc=description, unit="step")


def _open_log(log_dir: str | PathLike[str]) -> Any:
    with needed("log_dir"):
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(log_dir)
