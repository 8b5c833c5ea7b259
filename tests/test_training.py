import sys
from itertools import pairwise

import pytest
import torch
from refusals import assert_refuses
from torch import nn

from attn_core.training import History, length_batches, train, train_to_plateau


def test_every_example_comes_once_in_every_epoch():
    batches = length_batches([3, 9, 1, 4, 4, 7, 2], 3, epochs=2)
    assert sorted(len(batch) for batch in batches[:3]) == [1, 3, 3]
    first, second = torch.cat(batches[:3]), torch.cat(batches[3:])
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(7))


def test_a_batch_holds_similar_lengths():
    lengths = torch.randint(1, 50, (256,), generator=torch.Generator().manual_seed(0))
    spans = sorted(
        (lengths[b].min().item(), lengths[b].max().item()) for b in length_batches(lengths, 32)
    )
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(spans))


def test_the_seed_decides_the_order():
    lengths = [5] * 40
    same, again, other = (
        [b.tolist() for b in length_batches(lengths, 8, seed=seed)] for seed in (1, 1, 2)
    )
    assert same == again != other


REFUSED = {
    "batch of none": (lambda: length_batches([1, 2], 0), ValueError, ["batch_size", "0"]),
    "batch of halves": (lambda: length_batches([1, 2], 2.5), TypeError, ["batch_size", "2.5"]),
    "no epoch": (lambda: length_batches([1, 2], 2, epochs=0), ValueError, ["epochs", "0"]),
    "epochs of a flag": (lambda: length_batches([1], 2, epochs=True), TypeError, ["epochs"]),
    "seed of text": (lambda: length_batches([1, 2], 2, seed="a"), TypeError, ["seed", "'a'"]),
    "seed below 0": (lambda: length_batches([1, 2], 2, seed=-1), ValueError, ["seed", "-1"]),
    "lengths of text": (lambda: length_batches("ab", 1), TypeError, ["lengths", "'ab'"]),
    "no lengths": (lambda: length_batches(None, 1), TypeError, ["lengths", "None"]),
    "lengths empty": (lambda: length_batches([], 1), ValueError, ["lengths", "[]"]),
    "one length": (lambda: length_batches(torch.tensor(3), 1), ValueError, ["lengths", "3"]),
    "lengths in rows": (lambda: length_batches([[1], [2]], 1), ValueError, ["lengths", "[[1]"]),
    "a length unknown": (lambda: length_batches([float("nan")], 1), ValueError, ["nan"]),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_lengths_and_sizes_are_refused_by_name(call, error, words):
    assert_refuses(call, error, words)


def fit_a_line(**options):
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 16)[:, None]
    history = train(
        model,
        lambda _: ((model(x) - 3 * x - 1) ** 2).mean(),
        range(150),
        learning_rate=0.2,
        **options,
    )
    return model, history


def test_a_line_is_fitted():
    model, history = fit_a_line()
    assert isinstance(history, History)
    assert len(history.losses) == 150
    assert history.seconds > 0
    assert history.losses[-1] < 1e-3 < history.losses[0]
    assert model.weight.item() == pytest.approx(3, abs=0.05)
    assert model.bias.item() == pytest.approx(1, abs=0.05)


def test_the_model_is_in_evaluation_mode_afterwards():
    model, _ = fit_a_line()
    assert not model.training


def test_losses_are_the_same_again():
    assert fit_a_line()[1].losses == fit_a_line()[1].losses


def test_long_gradients_are_clipped():
    model = nn.Linear(1, 1, bias=False)
    norms = []

    class Recorder(torch.optim.Adam):
        def step(self, *args, **kwargs):
            norms.append(model.weight.grad.norm().item())
            return super().step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Recorder)
        train(model, lambda _: 1000 * model.weight.sum(), [None] * 3, clip_norm=0.5)
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)


def test_a_log_is_written(tmp_path):
    fit_a_line(log_dir=tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(tmp_path)).Reload()
    assert set(log.Tags()["scalars"]) == {"loss", "gradient norm", "learning rate"}
    assert len(log.Scalars("loss")) == 150


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="batches"):
        train(nn.Linear(1, 1), lambda _: torch.zeros(()), [])


def test_a_loss_that_is_not_finite_stops_the_training():
    model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="loss must be finite, got nan at step 0"):
        train(model, lambda _: model.weight.sum() * float("nan"), [None])


@pytest.mark.parametrize(
    ("missing", "options", "command"),
    [
        ("tqdm", {}, "pip install tqdm"),
        ("tensorboard", {"log_dir": "unused"}, "pip install tensorboard"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, missing, options, command):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=command):
        fit_a_line(**options)


def noisy_line(seed=0):
    """A model, its loss on few noisy points, and its error on others."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))
    x, held_out = torch.rand(12, 1) * 2 - 1, torch.linspace(-1, 1, 50)[:, None]
    y = 2 * x + 0.5 * torch.randn(12, 1)
    loss = lambda _: ((model(x) - y) ** 2).mean()  # noqa: E731
    return model, loss, lambda: ((model(held_out) - 2 * held_out) ** 2).mean().item()


def test_the_weights_are_those_of_the_smallest_error():
    model, loss, error = noisy_line()
    history = train_to_plateau(model, loss, lambda _: range(20), error, learning_rate=0.05)
    assert history.stopped
    assert history.best == min(range(len(history.errors)), key=history.errors.__getitem__)
    assert history.errors[history.best] < history.errors[-1]  # it overfits, so the last is worse
    assert error() == history.errors[history.best]
    assert not model.training


def test_training_ends_when_the_patience_of_every_rate_is_spent():
    model, loss, _ = noisy_line()
    errors = iter([5.0, 4.0, *[4.0] * 100])
    history = train_to_plateau(
        model, loss, lambda _: range(2), lambda: next(errors), patience=2, reductions=1
    )
    assert (history.errors, history.best) == ([5.0, 4.0, 4.0, 4.0, 4.0, 4.0], 1)
    assert history.stopped


@pytest.mark.parametrize(("smallest", "stopped"), [(0.0, True), (1e-9, False)])
def test_an_error_of_zero_ends_training(smallest, stopped):
    model, loss, _ = noisy_line()
    errors = iter([1.0, smallest, *[0.5] * 3])
    history = train_to_plateau(
        model, loss, lambda _: range(2), lambda: next(errors), patience=9, max_epochs=4
    )
    assert (history.stopped, history.best) == (stopped, 1)
    assert len(history.errors) == (2 if stopped else 5)


def test_max_epochs_ends_training_before_it_stops_by_itself():
    model, loss, _ = noisy_line()
    errors = iter(range(100, 0, -1))
    history = train_to_plateau(model, loss, lambda _: range(2), lambda: next(errors), max_epochs=3)
    assert (history.errors, history.stopped) == ([100, 99, 98, 97], False)


def test_after_a_plateau_the_rate_falls_and_the_best_weights_return():
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    seen, errors = [], iter([3.0, 1.0, 2.0, 2.0, 2.0])

    def validate():
        seen.append(model.weight.item())
        return next(errors)

    x = torch.ones(1, 1)
    train_to_plateau(
        model,
        lambda _: -model(x).mean(),  # one step of Adam moves the weight by the learning rate
        lambda _: [0],
        validate,
        learning_rate=0.4,
        patience=1,
        reductions=2,
    )
    assert seen == pytest.approx([0, 0.4, 0.8, 0.5, 0.425], abs=1e-6)
    assert model.weight.item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        ({"reductions": -1}, "reductions must be at least 0, got -1"),
        ({"epoch": lambda _: []}, "epoch must return at least one batch"),
        ({"validate": lambda: float("nan")}, "validate must return a finite error .* got nan"),
        ({"validate": lambda: -1e-9}, "at least 0, got -1e-09 after epoch 0"),
        ({"loss": lambda _: torch.tensor(float("inf"))}, "loss must be finite, got inf"),
    ],
)
def test_train_to_plateau_refuses_bad_arguments(options, message):
    model, loss, error = noisy_line()
    call = {"loss": loss, "epoch": lambda _: range(2), "validate": error, **options}
    with pytest.raises(ValueError, match=message):
        train_to_plateau(model, **call)
