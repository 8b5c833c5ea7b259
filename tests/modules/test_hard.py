"""Hard attention: the draw, its probability, and a gradient that is right on average."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention, masks, scores
from attn_core.modules import HardAttention, MovingAverage, reinforce_loss

TOLERANCE = {"rtol": 1e-10, "atol": 1e-12}


def normal(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def problem():
    """One query, five keys, and a reward for each key."""
    query, key = normal((1, 1, 3), (1, 5, 3))
    rewards = torch.tensor([3.0, 0.5, 2.0, -1.0, 7.0], dtype=torch.float64)
    return query.requires_grad_(), key.requires_grad_(), rewards


def estimates(query, key, rewards, **options):
    """For each choice: its probability, and the gradients that REINFORCE gives after it."""
    layer, found = HardAttention(), []
    for number in range(key.shape[1]):
        seen = layer(query, key, choice=torch.tensor([[number]]))
        loss = reinforce_loss(
            rewards[number].expand(1, 1), seen.log_prob, entropy=seen.entropy, **options
        )
        gradients = torch.autograd.grad(loss, [query, key])
        found.append(
            (seen.log_prob.exp().item(), torch.cat([gradient.flatten() for gradient in gradients]))
        )
    return found


def mean_and_variance(found):
    mean = sum(probability * gradient for probability, gradient in found)
    variance = sum(probability * (gradient - mean).square() for probability, gradient in found)
    return mean, variance


BASELINES = {
    "no baseline": 0.0,
    "a bad one": -40.0,
    "the expected reward": "expected",
    "a learned one": torch.tensor([[2.5]], dtype=torch.float64, requires_grad=True),
}


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES.keys())
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_the_estimate_is_unbiased(baseline, entropy_weight):
    """Averaged over all choices it is the exact gradient, whatever the baseline."""
    query, key, rewards = problem()
    weights = HardAttention()(query, key).weights[0, 0]
    entropy = -(weights * weights.log()).sum()
    objective = -(weights * rewards).sum() - entropy_weight * entropy
    exact = torch.cat([x.flatten() for x in torch.autograd.grad(objective, [query, key])])
    if baseline == "expected":
        baseline = (weights * rewards).sum().item()
    found = estimates(query, key, rewards, baseline=baseline, entropy_weight=entropy_weight)
    assert abs(sum(probability for probability, _ in found) - 1) < 1e-12
    torch.testing.assert_close(mean_and_variance(found)[0], exact, **TOLERANCE)


def test_a_baseline_near_the_expected_reward_makes_the_estimate_less_noisy():
    query, key, rewards = problem()
    expected = (HardAttention()(query, key).weights[0, 0] * rewards).sum().item()

    def noise(baseline):
        return mean_and_variance(estimates(query, key, rewards, baseline=baseline))[1].sum()

    assert noise(expected) < 0.8 * noise(0.0)
    assert noise(0.0) < 0.8 * noise(-10.0)


def test_a_gradient_through_the_reward_would_not_be_reinforce():
    """Neither reward nor baseline is differentiated, though both may depend on parameters."""
    log_prob = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    reward, baseline = torch.ones(1, 1, requires_grad=True), torch.zeros(1, 1, requires_grad=True)
    reinforce_loss(reward, log_prob, baseline=baseline).backward()
    assert reward.grad is None
    assert baseline.grad is None
    assert torch.equal(log_prob.grad, torch.tensor([[-0.5, -0.5]]))


def test_draws_are_as_frequent_as_their_probabilities():
    torch.manual_seed(0)
    (key,) = normal((1, 4, 3))
    query = torch.ones(1, 20_000, 3, dtype=torch.float64)
    seen = HardAttention().train()(query, key)
    counts = torch.bincount(seen.choice[0], minlength=4)
    probabilities = seen.weights[0, 0]
    deviations = (probabilities * (1 - probabilities) / 20_000).sqrt()
    assert ((counts / 20_000 - probabilities).abs() <= 4 * deviations).all()


@given(seed=st.integers(0, 1000), padded=st.lists(st.integers(1, 5), min_size=2, max_size=2))
def test_it_gives_the_value_it_chose_and_says_how_likely_that_was(seed, padded):
    query, key, value = normal((2, 3, 4), (2, 5, 4), (2, 5, 6), seed=seed)
    torch.manual_seed(seed)
    mask = masks.padding(padded)
    seen = HardAttention().train()(query, key, value, mask=mask)
    soft = attention(
        query[:, None], key[:, None], value[:, None], mask=mask, return_weights=True
    ).weights[:, 0]
    torch.testing.assert_close(seen.weights, soft, **TOLERANCE)
    for entry in range(2):
        for row in range(3):
            choice = seen.choice[entry, row]
            probabilities = soft[entry, row, : padded[entry]]
            assert 0 <= choice < padded[entry]
            assert torch.equal(seen.output[entry, row], value[entry, choice])
            torch.testing.assert_close(
                seen.log_prob[entry, row], probabilities[choice].log(), **TOLERANCE
            )
            torch.testing.assert_close(
                seen.entropy[entry, row],
                -(probabilities * probabilities.log()).sum(),
                **TOLERANCE,
            )


def test_while_evaluating_it_takes_the_most_probable_key():
    query, key = normal((2, 3, 4), (2, 5, 4))
    layer = HardAttention().eval()
    seen = layer(query, key)
    assert torch.equal(seen.choice, seen.weights.argmax(-1))
    assert torch.equal(layer(query, key).output, seen.output)


def test_only_the_value_that_was_chosen_learns_from_the_output():
    query, key, value = normal((1, 1, 3), (1, 4, 3), (1, 4, 2))
    value.requires_grad_()
    seen = HardAttention()(query, key.requires_grad_(), value, choice=torch.tensor([[2]]))
    seen.output.sum().backward()
    assert torch.equal(value.grad[0].sum(-1), torch.tensor([0.0, 0, 2, 0], dtype=torch.float64))
    assert key.grad is None


@pytest.mark.parametrize("training", [False, True])
def test_poison_and_rows_without_keys(training):
    """A query that may attend nothing chooses nothing; masked keys reach nothing."""
    table = torch.tensor([[True, True, False, False], [False, False, False, False]])
    results = []
    for poison in (0.0, torch.nan, torch.inf):
        query, key, value = normal((2, 2, 3), (2, 4, 3), (2, 4, 2))
        key[:, 2:], value[:, 2:] = poison, poison
        inputs = [x.requires_grad_() for x in (query, key, value)]
        torch.manual_seed(0)
        seen = HardAttention().train(training)(*inputs, mask=table)
        assert (seen.choice[:, 1] == -1).all()
        for zeros in (seen.output, seen.log_prob, seen.entropy, seen.weights):
            assert (zeros[:, 1] == 0).all()
        total = seen.output.sum() + seen.log_prob.sum() + seen.entropy.sum()
        gradients = torch.autograd.grad(total, inputs)
        assert (gradients[0][:, 1] == 0).all()
        results.append([seen.output, seen.log_prob, seen.entropy, seen.weights, *gradients])
    for result in results:
        for one, two in zip(result, results[0], strict=True):
            assert torch.equal(one, two)
            assert one.isfinite().all()


def test_a_choice_can_be_judged_again():
    torch.manual_seed(0)
    query, key = normal((2, 3, 4), (2, 5, 4))
    table = torch.ones(3, 5, dtype=torch.bool)
    table[1] = False
    layer = HardAttention(score=scores.dot)
    drawn = layer(query, key, mask=table)
    again = layer(query, key, mask=table, choice=drawn.choice)
    assert all(torch.equal(one, two) for one, two in zip(drawn, again, strict=True))


def test_it_learns_where_the_reward_is():
    """The key to look at is told by nothing but the reward."""
    torch.manual_seed(0)
    score = scores.Bilinear(3, 3).double()
    layer, baseline = HardAttention(score=score), MovingAverage().double()
    key = torch.eye(3, dtype=torch.float64).expand(64, 3, 3)
    query = torch.ones(64, 1, 3, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(120):
        seen = layer(query, key)
        reward = (seen.choice == 1).double()
        loss = reinforce_loss(
            reward,
            seen.log_prob,
            baseline=baseline.value,
            entropy=seen.entropy,
            entropy_weight=0.01,
        )
        baseline.update(reward)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (layer.eval()(query, key).choice == 1).all()
    assert seen.weights[0, 0, 1] > 0.9
    assert baseline.value > 0.8


def test_the_moving_average_is_the_formula_and_is_saved():
    baseline = MovingAverage(momentum=0.75)
    for reward in (torch.tensor([2.0, 4.0]), torch.tensor([[7.0]]), torch.tensor(1.0)):
        baseline.update(reward)
    assert baseline.value.item() == 0.75 * (0.75 * 3 + 0.25 * 7) + 0.25 * 1
    again = MovingAverage(momentum=0.75)
    again.load_state_dict(baseline.state_dict())
    again.update(torch.tensor(9.0))
    assert again.value.item() == 0.75 * baseline.value.item() + 0.25 * 9
    assert not list(baseline.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    torch.manual_seed(0)
    query, key = (x.to(dtype) for x in normal((2, 50, 4), (2, 300, 4)))
    seen = HardAttention()(query, key)
    assert seen.log_prob.isfinite().all()
    assert seen.output.dtype == seen.weights.dtype == dtype
    exact = HardAttention()(query.double(), key.double(), choice=seen.choice)
    scale = exact.log_prob.abs().max()
    assert (seen.log_prob.double() - exact.log_prob).abs().max() <= 8 * torch.finfo(
        dtype
    ).eps * scale
    assert (seen.entropy.double() - exact.entropy).abs().max() <= 0.05
