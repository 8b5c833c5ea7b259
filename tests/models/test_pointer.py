"""The pointer-generator: what is copied lands on the right word, and nothing is lost on the way."""

import random

import pytest
import torch
from test_twins import assert_twins, normal
from torch import nn

from attn_core import reference
from attn_core.data.vocabulary import BOS, EOS, PAD, UNKNOWN, Vocabulary
from attn_core.models.copying import copy_batch, coverage, coverage_loss, pointer_mixture
from attn_core.models.pointer import PointerGenerator
from attn_core.training import train

LETTERS = Vocabulary("abcdef")
V = len(LETTERS)


def make_model(**options):
    torch.manual_seed(0)
    return PointerGenerator(LETTERS, embedding_dim=6, hidden_dim=8, **options).double().eval()


@pytest.fixture
def batch():
    return copy_batch(LETTERS, ["axyax", "bc", "zfz"], ["ya", "bcd", "zq"])


def distributions(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(shape, generator=generator, dtype=torch.float64).softmax(-1) for shape in shapes
    ]


def drawn_mixture(leading=(), steps=4, places=6, words=5, size=8):
    generate, weights = distributions((*leading, steps, words), (*leading, steps, places))
    generator = torch.Generator().manual_seed(1)
    p_generate = torch.rand(*leading, steps, generator=generator, dtype=torch.float64)
    source = torch.randint(size, (*leading, places), generator=generator)
    return generate, weights, p_generate, source, size


def test_the_mixture_sums_to_one_and_is_never_negative():
    generate, weights, p_generate, source, size = drawn_mixture((3,))
    mixture = pointer_mixture(generate, weights, p_generate, source, size)
    assert mixture.shape == (3, 4, 8)
    assert (mixture >= 0).all()
    torch.testing.assert_close(mixture.sum(-1), torch.ones(3, 4, dtype=torch.float64))


def test_a_word_collects_the_weights_of_all_its_places():
    source = torch.tensor([2, 5, 2, 0, 2])
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.15, 0.25]])
    generate = torch.full((1, 4), 0.25)
    copied = pointer_mixture(generate, weights, torch.zeros(1), source, 6)
    torch.testing.assert_close(copied, torch.tensor([[0.15, 0, 0.65, 0, 0, 0.2]]))
    generated = pointer_mixture(generate, weights, torch.ones(1), source, 6)
    torch.testing.assert_close(generated, torch.tensor([[0.25, 0.25, 0.25, 0.25, 0, 0]]))


def test_the_mixture_is_the_sum_of_the_formula_word_by_word():
    generate, weights, p_generate, source, size = drawn_mixture()
    mixture = pointer_mixture(generate, weights, p_generate, source, size)
    for t in range(4):
        for word in range(size):
            written = generate[t, word] if word < 5 else 0.0
            copied = sum(weights[t, j] for j in range(6) if source[j] == word)
            expected = p_generate[t] * written + (1 - p_generate[t]) * copied
            assert abs(mixture[t, word] - expected) < 1e-15


def test_renumbering_and_reordering_the_source_changes_no_probability():
    generate, weights, p_generate, source, size = drawn_mixture((2,))
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    torch.testing.assert_close(
        pointer_mixture(generate, weights[..., order], p_generate, source[:, order], size),
        pointer_mixture(generate, weights, p_generate, source, size),
        rtol=1e-14,
        atol=1e-14,
    )


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_the_mixture_and_its_numpy_twin_agree(leading):
    generate, weights, p_generate, source, size = drawn_mixture(leading)
    assert_twins(
        lambda *tensors: pointer_mixture(*tensors, source, size),
        lambda *arrays: reference.pointer_mixture(*arrays, source.numpy(), size),
        lambda grad, *arrays: reference.pointer_mixture_backward(
            grad, *arrays, source.numpy(), size
        ),
        [generate.numpy(), weights.numpy(), p_generate.numpy()],
    )


@pytest.mark.parametrize("name", ["coverage", "coverage_loss"])
@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (2, 4, 3)])
def test_coverage_and_its_numpy_twin_agree(name, shape):
    function = {"coverage": coverage, "coverage_loss": coverage_loss}[name]
    assert_twins(
        function,
        getattr(reference, name),
        getattr(reference, f"{name}_backward"),
        [abs(array) for array in normal(shape)],
    )


def test_gradients_are_those_of_finite_differences():
    generate, weights, p_generate, source, size = drawn_mixture((2,))
    inputs = [x.requires_grad_() for x in (generate, weights, p_generate)]
    assert torch.autograd.gradcheck(lambda *x: pointer_mixture(*x, source, size), inputs)
    assert torch.autograd.gradcheck(coverage, [weights])
    assert torch.autograd.gradcheck(coverage_loss, [weights])


def test_coverage_is_what_was_attended_before_and_not_now():
    (weights,) = distributions((2, 6, 5))
    covered = coverage(weights)
    assert (covered[:, 0] == 0).all()
    for step in range(6):
        torch.testing.assert_close(covered[:, step], weights[:, :step].sum(1))
    # After t steps that sum to 1 there is t to be had.
    torch.testing.assert_close(
        covered.sum(-1), torch.arange(6, dtype=torch.float64).expand(2, 6), rtol=1e-14, atol=1e-14
    )


def test_the_coverage_loss_is_none_for_new_words_and_all_for_old_ones():
    once = torch.eye(4)
    assert (coverage_loss(once) == 0).all()
    again = torch.eye(4)[[2, 2, 2, 2]]
    assert coverage_loss(again).tolist() == [0, 1, 1, 1]
    (weights,) = distributions((50, 9))
    assert (coverage_loss(weights) <= 1 + 1e-12).all()


def test_a_step_of_the_coverage_knows_no_later_one():
    (weights,) = distributions((6, 5))
    changed = weights.clone()
    changed[3:] = changed[3:].flip(-1)
    assert torch.equal(coverage(changed)[:4], coverage(weights)[:4])
    assert torch.equal(coverage_loss(changed)[:3], coverage_loss(weights)[:3])
    assert not torch.equal(coverage(changed)[4:], coverage(weights)[4:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_exact_mixture_rounded(dtype):
    generate, weights, p_generate, source, size = drawn_mixture((2,))
    halves = [x.to(dtype) for x in (generate, weights, p_generate)]
    seen = pointer_mixture(*halves, source, size)
    exact = pointer_mixture(*(x.double() for x in halves), source, size)
    is_word = nn.functional.one_hot(source, size).to(dtype)
    share = halves[2][..., None]
    plain = nn.functional.pad(share * halves[0], (0, 3)) + (1 - share) * (halves[1] @ is_word)
    assert seen.dtype == dtype
    assert (seen.double() - exact).abs().max() <= 2 * (plain.double() - exact).abs().max()


def test_words_that_the_vocabulary_lacks_are_numbered_anew_in_every_row():
    source, target, unknown = copy_batch(LETTERS, ["axyax", "bzc"], ["yaxz", "zqb"])
    a, b, c = LETTERS.encode("abc")
    assert source.tolist() == [[a, V, V + 1, a, V], [b, V, c, PAD, PAD]]
    assert target.tolist() == [[BOS, V + 1, a, V, UNKNOWN, EOS], [BOS, V, UNKNOWN, b, EOS, PAD]]
    assert unknown == [["x", "y"], ["z"]]
    assert copy_batch(LETTERS, ["ab"]).target.tolist() == [[BOS, EOS]]


def test_probabilities_sum_to_one_over_vocabulary_and_source(batch):
    probabilities = make_model()(batch.source, batch.target)
    assert probabilities.shape == (*batch.target.shape, V + 2)
    assert (probabilities >= 0).all()
    total = probabilities.sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))
    # Row 1 has no unknown word, so none may be written there; row 2 has one.
    assert (probabilities[1, :, V:] == 0).all()
    assert (probabilities[2, :, V + 1 :] == 0).all()
    assert (probabilities[2, :, V] > 0).all()


def test_without_generating_only_the_source_can_be_written(batch):
    model = make_model()
    with torch.no_grad():
        model.generate_gate.bias.fill_(-1e4)
    probabilities = model(batch.source, batch.target)
    for row in range(3):
        in_source = torch.zeros(V + 2, dtype=torch.bool)
        in_source[batch.source[row]] = True
        in_source[PAD] = False
        assert (probabilities[row, :, ~in_source] == 0).all()
        assert (probabilities[row, :, in_source] > 0).all()
    with torch.no_grad():
        model.generate_gate.bias.fill_(1e4)
    assert (model(batch.source, batch.target)[..., V:] == 0).all()


@pytest.mark.parametrize("use_coverage", [True, False])
def test_the_score_sees_the_coverage_only_where_it_is_used(batch, use_coverage):
    model = make_model(use_coverage=use_coverage)
    memory, state = model.encode(batch.source)
    first = torch.full((3, 1), BOS)
    before, weights, _, after = model.decode(first, memory, state)
    torch.testing.assert_close(after.coverage, weights[:, 0])
    covered = state._replace(coverage=torch.rand_like(state.coverage))
    other, _, _, _ = model.decode(first, memory, covered)
    assert torch.equal(other, before) != use_coverage


def test_attention_is_the_additive_score_with_coverage(batch):
    model = make_model()
    memory, state = model.encode(batch.source)
    state = state._replace(coverage=torch.rand_like(state.coverage))
    previous = torch.full((3, 1), BOS)
    _, weights, p_generate, after = model.decode(previous, memory, state)
    word = model.embedding(previous)[:, 0]
    hidden = model.cell(torch.cat([word, state.context], -1), state.hidden)
    score = model.score
    for row, length in enumerate([5, 2, 3]):
        for_source = memory.states[row, :length] @ score.key_proj.weight.T
        for_coverage = state.coverage[row, :length, None] * model.coverage_proj.weight[:, 0]
        for_query = hidden[row] @ score.query_proj.weight.T
        scores = torch.tanh(for_query + for_source + for_coverage) @ score.score_vector
        expected = scores.softmax(-1)
        torch.testing.assert_close(weights[row, 0, :length], expected)
        assert (weights[row, 0, length:] == 0).all()
        context = expected @ memory.states[row, :length]
        torch.testing.assert_close(after.context[row], context)
        gate = torch.cat([context, hidden[row], word[row]]) @ model.generate_gate.weight[0]
        torch.testing.assert_close(
            p_generate[row, 0], torch.sigmoid(gate + model.generate_gate.bias[0])
        )


def test_teacher_forcing_is_one_step_after_another(batch):
    model = make_model()
    memory, state = model.encode(batch.source)
    at_once = model.decode(batch.target, memory, state)
    steps = []
    for previous in batch.target.split(1, dim=1):
        *step, state = model.decode(previous, memory, state)
        steps.append(step)
    for seen, expected in zip(at_once[:3], zip(*steps, strict=True), strict=True):
        torch.testing.assert_close(seen, torch.cat(expected, dim=1))


def test_no_probability_depends_on_a_later_target_word(batch):
    model = make_model()
    changed = batch.target.clone()
    changed[:, 2:] = LETTERS.encode("f")[0]
    before, after = model(batch.source, batch.target), model(batch.source, changed)
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2:], before[:, 2:])


def test_padding_changes_nothing(batch):
    model = make_model()
    longer = nn.functional.pad(batch.source, (0, 4), value=PAD)
    torch.testing.assert_close(
        model(longer, batch.target), model(batch.source, batch.target), rtol=1e-12, atol=1e-14
    )
    later = nn.functional.pad(batch.target, (0, 3), value=PAD)
    torch.testing.assert_close(
        model.loss(longer, later), model.loss(batch.source, batch.target), rtol=1e-12, atol=1e-14
    )
    alone = model(batch.source[1:2, :2], batch.target[1:2])
    torch.testing.assert_close(model(batch.source, batch.target)[1:2, :, :V], alone)


@pytest.mark.parametrize("nonsense", [100.0, torch.nan])
def test_what_stands_on_padding_reaches_nothing(batch, nonsense):
    model = make_model()
    before = model(batch.source, batch.target[:, :3])  # no row has ended there
    with torch.no_grad():
        model.embedding.weight[PAD] = nonsense
    assert torch.equal(model(batch.source, batch.target[:, :3]), before)


def test_an_unknown_word_is_read_as_unknown_and_copied_as_itself(batch):
    model = make_model()
    source = batch.source.clone()
    source[source >= V] = UNKNOWN
    one, two = model.encode(batch.source)[0], model.encode(source)[0]
    assert torch.equal(one.states, two.states)
    as_itself, as_unknown = model(batch.source, batch.target), model(source, batch.target)
    torch.testing.assert_close(
        as_itself[..., V:].sum(-1) + as_itself[..., UNKNOWN], as_unknown[..., UNKNOWN]
    )


def test_the_loss_is_the_papers(batch):
    model = make_model()
    source, target, _ = batch
    memory, state = model.encode(source)
    _, weights, _, _ = model.decode(target[:, :-1], memory, state)
    probabilities = model(source, target[:, :-1])
    total, attended_again, count = 0.0, 0.0, 0
    for row in range(3):
        covered = torch.zeros(source.shape[1], dtype=torch.float64)
        for t in range(target.shape[1] - 1):
            if target[row, t + 1] != PAD:
                total = total - probabilities[row, t, target[row, t + 1]].log()
                attended_again = attended_again + torch.minimum(weights[row, t], covered).sum()
                covered = covered + weights[row, t]
                count += 1
    torch.testing.assert_close(model.loss(source, target), (total + attended_again) / count)
    torch.testing.assert_close(
        model.loss(source, target, coverage_weight=0.25), (total + 0.25 * attended_again) / count
    )
    without = make_model(use_coverage=False)
    torch.testing.assert_close(
        without.loss(source, target), without.loss(source, target, coverage_weight=7.0)
    )


@pytest.mark.parametrize("use_coverage", [True, False])
def test_every_parameter_gets_a_gradient(batch, use_coverage):
    model = make_model(use_coverage=use_coverage)
    model.loss(batch.source, batch.target).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert (model.coverage_proj is not None) == use_coverage


def test_greedy_writes_the_most_probable_word_each_time(batch):
    model = make_model()
    tokens, weights, p_generate = model.greedy(batch.source, max_length=7)
    start = torch.full((3, 1), BOS)
    probabilities = model(batch.source, torch.cat([start, tokens[:, :-1]], dim=1))
    not_done = tokens != PAD
    assert torch.equal(probabilities.argmax(-1)[not_done], tokens[not_done])
    assert weights.shape == (*tokens.shape, 5)
    assert p_generate.shape == tokens.shape
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(p_generate))


def test_greedy_writes_padding_after_the_end(batch):
    model = make_model()
    with torch.no_grad():
        model.generate_gate.bias.fill_(1e4)
        model.output[1].weight.zero_()
        model.output[1].bias.zero_()
        model.output[1].bias[EOS] = 1.0
    assert model.greedy(batch.source, max_length=9).tokens.tolist() == [[EOS]] * 3


def test_dropout_is_for_training(batch):
    model = make_model(dropout=0.5)
    assert torch.equal(model(*batch[:2]), model(*batch[:2]))
    model.train()
    assert not torch.equal(model(*batch[:2]), model(*batch[:2]))


def test_it_copies_words_that_it_has_never_seen_which_no_vocabulary_can():
    """The source is said again backwards; half of its words are in no vocabulary."""
    rng = random.Random(0)
    known = Vocabulary([f"w{i}" for i in range(12)])

    def sentences(count):
        words = [f"w{i}" for i in range(12)] + [f"new{rng.random()}" for _ in range(12)]
        return [rng.sample(words, rng.randint(3, 5)) for _ in range(count)]

    def batch_of(sources):
        return copy_batch(known, sources, [source[::-1] for source in sources])

    torch.manual_seed(0)
    model = PointerGenerator(known, embedding_dim=24, hidden_dim=32)
    batches = [batch_of(sentences(24)) for _ in range(260)]
    train(model, lambda b: model.loss(b.source, b.target), batches, learning_rate=0.02)
    unseen = batch_of(sentences(100))
    right = {}
    for gate in ("learnt", "closed"):
        if gate == "closed":  # the baseline: the same network may only write its vocabulary
            with torch.no_grad():
                model.generate_gate.bias.fill_(1e4)
        tokens = model.greedy(unseen.source, max_length=6).tokens
        tokens = nn.functional.pad(tokens, (0, 6 - tokens.shape[1]))
        expected = nn.functional.pad(unseen.target[:, 1:], (0, 7 - unseen.target.shape[1]))
        is_new = expected >= len(known)
        right[gate] = (tokens == expected)[is_new].double().mean()
    assert right["learnt"] > 0.8
    assert right["closed"] == 0
