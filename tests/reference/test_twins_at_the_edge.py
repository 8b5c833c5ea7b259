"""The NumPy twins where there is little: no batch, one row, one key; and lists in place of arrays.

How far each number may go stands in ``tests/test_limits.py``.
"""

import numpy as np
import pytest
import torch
from refusals import assert_refuses

from attn_core import kernels, masks, positions, reference

ROWS = np.random.default_rng(0).normal(size=(3, 2))
BATCH = ROWS[None]
SCORES = np.ones((3, 3))
LIST = [[1.0, 2.0, 3.0]] * 3
NUMBERS = np.array([0, 1, 0])
REWARD = np.ones(3)


def test_a_matrix_is_padded_by_one_row():
    real = np.array([[True, False, True]])
    expected = kernels.linear_attention(*[torch.tensor(ROWS)] * 3, mask=torch.tensor(real))
    for mask in (real, real[0]):
        seen = reference.linear_attention(ROWS, ROWS, ROWS, mask=mask)
        np.testing.assert_allclose(seen, expected, rtol=1e-12)
        np.testing.assert_allclose(
            seen,
            reference.linear_attention(ROWS, ROWS[[0, 2]], ROWS[[0, 2]]),
            rtol=1e-12,
        )


def test_a_column_of_padding_is_refused():
    real = np.array([[True], [False], [True]])
    assert_refuses(
        lambda: reference.linear_attention(ROWS, ROWS, ROWS, mask=real),
        ValueError,
        ["mask", "alike for every query and head", "(3, 1)"],
    )


def test_no_positions_have_an_encoding_of_no_rows():
    assert reference.sinusoidal(0, 4).shape == tuple(positions.sinusoidal(0, 4).shape) == (0, 4)


def test_directions_of_width_one_are_as_many_blocks():
    rows = reference.orthogonal_projection(3, 1, generator=np.random.default_rng(0))
    assert rows.shape == (3, 1)
    assert len(np.unique(rows)) == 3


@pytest.mark.parametrize("lengths", [[], np.array([], dtype=int)], ids=["list", "array"])
def test_a_batch_of_no_sequences_has_no_padding(lengths):
    for call in (lambda: masks.padding(lengths), lambda: reference.padding(lengths, 3)):
        assert_refuses(call, ValueError, ["lengths", "one integer per batch entry", "[]"])


@pytest.mark.parametrize(
    ("reward", "log_prob"), [((3,), (1,)), ((2, 3), (2, 1)), ((2, 3), (3,)), ((3,), (2, 3))]
)
def test_a_reward_fits_its_choices(reward, log_prob):
    for named in ({"reward": np.ones(reward)}, {"baseline": np.ones(reward)}):
        given = {"reward": np.ones(log_prob)} | named
        for call in (
            reference.reinforce_loss,
            lambda *a, **k: reference.reinforce_loss_backward(1.0, *a, **k),
        ):
            assert_refuses(
                lambda call=call, given=given: call(
                    given["reward"], np.ones(log_prob), baseline=given.get("baseline", 0.0)
                ),
                ValueError,
                [*named, str(reward), str(log_prob)],
            )


def test_rollout_needs_square_layers():
    for shape in ((2, 1, 3), (2, 3, 1)):
        assert_refuses(
            lambda shape=shape: reference.rollout([np.ones(shape)]),
            ValueError,
            ["weights", str(shape)],
        )


@pytest.mark.parametrize("name", ["entmax_bisect", "entmax_bisect_backward"])
@pytest.mark.parametrize("steps", [True, 2.0, np.ones(1)])
def test_steps_are_counted(name, steps):
    arguments = [SCORES] * (2 if name.endswith("backward") else 1)
    assert_refuses(
        lambda: getattr(reference, name)(*arguments, steps=steps), TypeError, ["steps", repr(steps)]
    )


LISTS = {
    "attention": ("query", lambda: reference.attention(LIST, ROWS, ROWS)),
    "attention_backward": (
        "grad_output",
        lambda: reference.attention_backward(LIST, ROWS, ROWS, ROWS),
    ),
    "softmax_backward": ("grad_weights", lambda: reference.softmax_backward(LIST, SCORES)),
    "dot_backward": ("grad_scores", lambda: reference.dot_backward(LIST, ROWS, ROWS)),
    "scaled_dot_backward": (
        "grad_scores",
        lambda: reference.scaled_dot_backward(LIST, ROWS, ROWS),
    ),
    "cosine_backward": ("grad_scores", lambda: reference.cosine_backward(LIST, ROWS, ROWS)),
    "gaussian_backward": (
        "grad_scores",
        lambda: reference.gaussian_backward(LIST, ROWS, ROWS),
    ),
    "entmax alpha": ("alpha", lambda: reference.entmax(SCORES, alpha=[1.5])),
    "gate": ("beta", lambda: reference.delta_rule(ROWS, ROWS, ROWS, beta=[1.0, 1.0, 1.0])),
    "segment": ("segment_ids", lambda: reference.segment(ROWS, ROWS, segment_ids=[0, 1, 0])),
    "segment_backward": (
        "grad_output",
        lambda: reference.segment_backward(LIST, ROWS, ROWS, segment_ids=NUMBERS),
    ),
    "t5_bucket": ("distance", lambda: reference.t5_bucket([0, 1])),
    "restarting": ("segment_ids", lambda: reference.restarting([0, 1])),
    "rotary": ("positions", lambda: reference.rotary(ROWS, [0, 1, 2])),
    "hard_attention": ("choice", lambda: reference.hard_attention(ROWS, ROWS, ROWS, [0, 1, 0])),
    "pointer source": (
        "source",
        lambda: reference.pointer_mixture(ROWS[:1], ROWS[:1], np.ones(1), [0, 1], 3),
    ),
    "reward": ("reward", lambda: reference.reinforce_loss([1.0] * 3, REWARD)),
    "baseline": ("baseline", lambda: reference.reinforce_loss(REWARD, REWARD, baseline=[1.0] * 3)),
    "coverage_backward": ("grad_coverage", lambda: reference.coverage_backward(LIST, ROWS)),
    "coverage_loss_backward": (
        "grad_loss",
        lambda: reference.coverage_loss_backward([1.0] * 3, ROWS),
    ),
    "recurrence mask": (
        "mask",
        lambda: reference.linear_attention(ROWS, ROWS, ROWS, mask=[True] * 3),
    ),
    "recurrence past": (
        "past_state",
        lambda: reference.linear_attention(
            ROWS, ROWS, ROWS, causal=True, past_state=np.eye(2).tolist()
        ),
    ),
    "local_p": (
        "position_vector",
        lambda: reference.local_p(BATCH, BATCH, BATCH, ROWS, [1.0] * 3, window=1),
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_no_array(name):
    argument, call = LISTS[name]
    seen = "[1" if argument in ("alpha", "beta", "baseline") else "list"  # these may be numbers
    assert_refuses(call, TypeError, [argument, seen])
