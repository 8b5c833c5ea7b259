"""T5's buckets: where each begins, without a rounded logarithm; and the bias that is looked up."""

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from attn_core import attention
from attn_core.positions import T5Bias, distances, t5_bucket

# The first distance of each bucket of one direction, for max_distance 128, as in
# T5Attention._relative_position_bucket of transformers 4.57.
STARTS_OF_16 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
STARTS_OF_32 = [*range(17), 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]


def bucket_by_fractions(distance, n, max_distance):
    """The largest b with (d / e)^(n − e) ≥ (max_distance / e)^(b − e), in exact arithmetic."""
    exact = n // 2
    if distance < exact:
        return distance
    ratio, widest = Fraction(distance, exact), Fraction(max_distance, exact)
    inside = [b for b in range(exact, n) if ratio ** (n - exact) >= widest ** (b - exact)]
    return max(inside)


@given(
    distance=st.integers(-3000, 3000),
    per_direction=st.integers(2, 20),
    beyond=st.integers(1, 500),
    bidirectional=st.booleans(),
)
def test_a_distance_is_in_the_bucket_that_the_formula_names(
    distance, per_direction, beyond, bidirectional
):
    max_distance = per_direction // 2 + beyond
    seen = t5_bucket(
        torch.tensor(distance),
        buckets=per_direction * (2 if bidirectional else 1),
        max_distance=max_distance,
        bidirectional=bidirectional,
    )
    if bidirectional:
        expected = bucket_by_fractions(abs(distance), per_direction, max_distance)
        expected += per_direction if distance > 0 else 0
    else:
        expected = bucket_by_fractions(max(-distance, 0), per_direction, max_distance)
    assert seen == expected


def test_the_buckets_of_released_models_begin_where_theirs_do():
    far = torch.arange(0, 1000)
    for direction, starts in ((-1, STARTS_OF_16), (1, STARTS_OF_16)):
        buckets = t5_bucket(direction * far) - (16 if direction > 0 else 0)
        first = [int((buckets == b).nonzero()[0]) for b in range(1, 16)]
        assert first == starts[1:]
    buckets = t5_bucket(-far, bidirectional=False)
    assert [int((buckets == b).nonzero()[0]) for b in range(32)] == STARTS_OF_32
    assert (t5_bucket(far, bidirectional=False) == 0).all()


def test_a_border_that_a_float32_logarithm_can_miss():
    """16, 32 and 64 are 8 · 16^(b/8) exactly: the bucket begins there, not one later."""
    assert t5_bucket(torch.tensor([-15, -16, -31, -32, -63, -64])).tolist() == [
        9,
        10,
        11,
        12,
        13,
        14,
    ]


@given(per_direction=st.integers(2, 16), beyond=st.integers(1, 300), bidirectional=st.booleans())
def test_the_layer_looks_up_the_bucket_of_any_distance(per_direction, beyond, bidirectional):
    buckets = per_direction * (2 if bidirectional else 1)
    settings = {
        "buckets": buckets,
        "max_distance": per_direction // 2 + beyond,
        "bidirectional": bidirectional,
    }
    bias = T5Bias(2, **settings)
    distance = torch.tensor([[0, 1, -1, 2, -3, 7, -8, 40, -41, 300, -299, 10**6, -(10**6)]])
    query = torch.zeros(1, 1)
    seen = bias(query, query, distance)
    expected = bias.weight[t5_bucket(distance, **settings)].permute(2, 0, 1)
    assert torch.equal(seen, expected)


def test_integers_of_any_size():
    for dtype in (torch.uint8, torch.int8, torch.int32):
        for bidirectional in (True, False):
            distance = torch.tensor([0, 1, 9, 100], dtype=dtype)
            seen = t5_bucket(distance, bidirectional=bidirectional)
            assert torch.equal(seen, t5_bucket(distance.long(), bidirectional=bidirectional))


def test_heads_have_numbers_of_their_own_and_distances_share_theirs():
    bias = T5Bias(heads=3, buckets=4, max_distance=4)
    bias.weight.data = torch.arange(12.0).reshape(4, 3)
    table = bias.dense(5, 5)
    assert table[1, 0].tolist() == [1, 10, 10, 10, 10]  # n = 2: itself, and all that is ahead
    assert table[1, :, 0].tolist() == [1, 4, 4, 4, 4]
    assert table[:, 2, 2].tolist() == [0, 1, 2]


def test_a_bucket_learns_from_all_pairs_in_it():
    bias = T5Bias(heads=2, buckets=4, max_distance=4)
    query = torch.zeros(2, 3, 1)
    bias(query, query, distances(3, 3)).sum().backward()
    assert bias.weight.grad.tolist() == [[3, 3], [3, 3], [0, 0], [3, 3]]


def test_t5_adds_it_to_scores_that_are_not_scaled():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    bias = T5Bias(3)
    scores = query @ key.mT + bias.weight[t5_bucket(distances(5, 5))].permute(2, 0, 1)
    ours = attention(query, key, value, bias=bias, scale=1.0)
    torch.testing.assert_close(ours, scores.softmax(-1) @ value)
