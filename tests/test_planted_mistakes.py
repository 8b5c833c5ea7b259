"""The mistakes that most code makes are planted, one at a time, and a test of ours is seen to fail.

A test that passes proves nothing unless it can fail. The numbers are those of the list:

 1. a fully masked row gives NaN, or uniform weights
 2. queries and keys of different lengths are aligned wrongly
 3. the future leaks in
 4. a mask has the wrong polarity, or is combined with the wrong operator
 5. a window is off by one, or a block pattern; padding takes part
 6. a finite stand-in for minus infinity overflows, or swallows real scores
 7. dropout is active in evaluation; weights are those after dropout
 8. asking for weights changes the output; a layer forgets the mask
 9. rotary pairs, positions and angles are wrong
10. ALiBi's slopes for a number of heads that is no power of two
11. half precision is summed in half precision
12. an approximation is shown without an honest error
13. heads are split and joined without a transposition
14. a test compares without asserting
"""

import ast
from pathlib import Path
from typing import NamedTuple

import pytest
from planting import NotSeenError, fails, planted

TESTS = Path(__file__).parent


class Mistake(NamedTuple):
    """Where a mistake is planted, and which test sees it."""

    number: int
    what: str
    module: str
    old: str
    new: str
    test: str


NOTHING = "test_nothing_to_attend.py::"
CAUSALITY = "test_causality.py::"
ATTEND = "test_attend.py::"
HALF = "test_half_precision.py::"
MASKS = "masks/test_masks.py::"
ZEROS = f"{NOTHING}test_a_query_that_may_attend_nothing_gives_exact_zeros"
POISON = f"{NOTHING}test_poison_in_masked_keys_and_values_reaches_nothing"
FAMILIES = f"{CAUSALITY}test_other_families_know_no_later_token"
ATTENTION = f"{CAUSALITY}test_attention_knows_no_later_token"
MODELS = f"{CAUSALITY}test_models_know_no_later_token"
OVERFLOW = f"{HALF}test_a_mask_never_overflows_and_never_swallows_a_real_score"
NORMALIZERS = "normalizers/test_normalizers.py::"
HEADS = "modules/test_multi_head.py::test_heads_are_split_and_joined_as_a_loop_over_heads_does"
BLOCKS = (
    "test_masked_everywhere.py::"
    "test_over_many_blocks_every_kernel_gives_what_the_explicit_one_gives"
)
CACHED = "modules/test_cached_decoding.py::test_cached_decoding_is_the_full_pass"

MISTAKES = [
    # 1. A fully masked row.
    Mistake(
        1,
        "explicit: −1e9 for −∞ gives uniform weights",
        "kernels.explicit",
        "scores.masked_fill(~table, -torch.inf)",
        "scores.masked_fill(~table, -1e9)",
        ZEROS,
    ),
    Mistake(
        1,
        "softmax: a row of −∞ is zeroed afterwards only, and its gradient is NaN",
        "normalizers.exponential",
        "return filled.softmax(dim).to(scores.dtype).masked_fill(empty, 0.0)",
        "return (scores * 1).softmax(dim).to(scores.dtype).masked_fill(empty, 0.0)",
        f"{NORMALIZERS}test_empty_rows_have_gradient_zero_and_do_not_spoil_the_others",
    ),
    Mistake(
        1,
        "softmax: a row of −∞ becomes uniform",
        "normalizers.exponential",
        "return filled.softmax(dim).to(scores.dtype).masked_fill(empty, 0.0)",
        "return filled.softmax(dim).to(scores.dtype)",
        ZEROS,
    ),
    Mistake(
        1,
        "sink: a row of −∞ is not zeroed",
        "normalizers.exponential",
        "return weights.narrow(dim, 0, scores.shape[dim]).masked_fill(empty, 0.0)",
        "return weights.narrow(dim, 0, scores.shape[dim]) + 0 * empty + empty / 7",
        f"{NORMALIZERS}test_other_weights_are_shares_too_and_empty_rows_are_zero",
    ),
    Mistake(
        1,
        "hard: a row of −∞ takes its first key",
        "normalizers.one_key",
        "one_hot = one_hot.masked_fill(scores.isneginf(), 0.0)",
        "one_hot = one_hot",
        f"{NORMALIZERS}test_rows_sum_to_one_along_the_dimension_and_empty_rows_are_zero",
    ),
    Mistake(
        1,
        "entmax: −∞ minus −∞ is NaN in an empty row",
        "normalizers.projection",
        "return rows - highest.masked_fill(highest.isneginf(), 0.0)",
        "return rows - highest",
        f"{NORMALIZERS}test_rows_sum_to_one_along_the_dimension_and_empty_rows_are_zero",
    ),
    Mistake(
        1,
        "a normaliser from outside sees a row of −∞",
        "kernels.explicit",
        "weights = arguments.normalizer(filled, -1)",
        "weights = arguments.normalizer(scores, -1)",
        ZEROS,
    ),
    Mistake(
        1,
        "the row that a normaliser from outside filled is not zeroed",
        "kernels.explicit",
        "return weights.masked_fill(empty, 0.0)",
        "return weights",
        ZEROS,
    ),
    Mistake(
        1,
        "sdpa: the output of a fully masked row stays",
        "kernels.sdpa",
        "return (output if empty is None else output.masked_fill(empty, 0.0)), None",
        "return output, None",
        ZEROS,
    ),
    Mistake(
        1,
        "sdpa: the kernel is asked about a fully masked row",
        "kernels.sdpa",
        "return table | empty, empty",
        "return table, empty",
        f"{NOTHING}test_the_fused_kernel_is_never_asked_about_a_query_that_may_attend_nothing",
    ),
    Mistake(
        1,
        "poison in masked keys goes on: 0 × NaN is NaN",
        "arguments",
        "self.key.masked_fill(~key_is_used, 0.0)",
        "self.key",
        POISON,
    ),
    Mistake(
        1,
        "poison in masked values goes on",
        "arguments",
        "self.value.masked_fill(~key_is_used, 0.0)",
        "self.value",
        POISON,
    ),
    Mistake(
        1,
        "linear attention divides by nothing",
        "kernels.linear",
        "nothing = total == 0",
        "nothing = total < 0",
        "kernels/test_linear_attention.py::test_a_query_with_nothing_to_attend_gives_zeros",
    ),
    Mistake(
        1,
        "FAVOR+ divides by nothing",
        "kernels.random_features",
        "nothing = total == 0",
        "nothing = total < 0",
        "kernels/test_approximations.py::test_nothing_but_padding_gives_zeros",
    ),
    Mistake(
        1,
        "a node without neighbours gathers from all",
        "models.graph",
        "mask=adjacency if adjacency.ndim == 2 else adjacency.unsqueeze(-3),",
        "mask=(adjacency | ~adjacency.any(-1, True)).unsqueeze(-3),",
        "models/test_graph.py::test_a_node_without_neighbours_gives_zeros_or_itself",
    ),
    Mistake(
        1,
        "chunked: a row without keys is divided by 0",
        "kernels.chunked",
        "total = total.masked_fill_(total == 0, 1.0)",
        "total = total",
        f"{BLOCKS}[chunked]",
    ),
    Mistake(
        1,
        "chunked: poison in masked keys goes on",
        "kernels.chunked",
        "if block.table is not None and not arguments.is_all_in_use:",
        "if False:",
        f"{BLOCKS}[chunked]",
    ),
    # 2. Alignment.
    Mistake(
        2,
        "positions of queries are counted without the offset",
        "masks.mask",
        "            query=row + offset,",
        "            query=row,",
        f"{MASKS}test_an_offset_moves_the_diagonal",
    ),
    Mistake(
        2,
        "the offset is subtracted",
        "masks.mask",
        "            query=row + offset,",
        "            query=row - offset,",
        f"{MASKS}test_an_offset_moves_the_diagonal",
    ),
    Mistake(
        2,
        "unequal lengths are aligned silently",
        "masks.mask",
        "        elif self.uses_positions and q_len != k_len:",
        "        elif False:",
        f"{ATTEND}test_unequal_lengths_with_a_mask_that_compares_positions_need_an_offset",
    ),
    Mistake(
        2,
        "sdpa: is_causal whatever the offset",
        "arguments",
        "return self.mask is causal() and self._queries_start_at_first_key",
        "return self.mask is causal()",
        f"{ATTEND}test_causal_with_fewer_queries_than_keys_does_what_q_offset_says",
    ),
    Mistake(
        2,
        "a cache says that new queries start at key 0",
        "modules.cache",
        "q_offset, new = self.kept, key.shape[-2]",
        "q_offset, new = 0, key.shape[-2]",
        CACHED,
    ),
    Mistake(
        2,
        "a cache that forgets counts from the first token ever seen",
        "modules.cache",
        "q_offset, new = self.kept, key.shape[-2]",
        "q_offset, new = self.length, key.shape[-2]",
        CACHED,
    ),
    Mistake(
        2,
        "biases by blocks are counted without the offset",
        "kernels.grid",
        "return bias(query, key, column - (row + self.offset))",
        "return bias(query, key, column - row)",
        f"{BLOCKS}[chunked]",
    ),
    # 3. The future.
    Mistake(
        3,
        "FAVOR+ divides by the maximum over all keys",
        "kernels.random_features",
        "fixed.amax(-1, keepdim=True).cummax(-2).values",
        "fixed.amax((-2, -1), keepdim=True).expand_as(fixed[..., :1])",
        f"{FAMILIES}[FAVOR+]",
    ),
    Mistake(
        3,
        "linear attention and the delta rule see one key ahead within a chunk",
        "kernels.recurrence",
        "later = torch.ones(size, size, dtype=torch.bool, device=key.device).triu(1)",
        "later = torch.ones(size, size, dtype=torch.bool, device=key.device).triu(2)",
        FAMILIES,
    ),
    Mistake(
        3,
        "LSH looks at every key of its bucket",
        "kernels.buckets",
        "allowed &= key <= row",
        "allowed &= key > -1",
        f"{FAMILIES}[LSH]",
    ),
    Mistake(
        3,
        "explicit: the maximum of all rows is subtracted from every row",
        "kernels.explicit",
        "    return scores if table is None else scores.masked_fill(~table, -torch.inf)",
        "    return (scores - scores.amax().detach()).masked_fill(~table, -torch.inf)",
        ATTENTION,
    ),
    Mistake(
        3,
        "sparse weights: rows go on searching until all have arrived",
        "normalizers.projection",
        "step = (length - 1) * length / root.sum(-1, keepdim=True).clamp_min(0.5) * moving",
        "step = (length - 1) * length / root.sum(-1, keepdim=True).clamp_min(0.5)",
        f"{CAUSALITY}test_a_row_is_normalised_whatever_the_other_rows_are",
    ),
    Mistake(
        3,
        "GPT forgets its mask",
        "models.gpt",
        "mask=self.mask, cache=cache",
        "mask=None, cache=cache",
        MODELS,
    ),
    Mistake(
        3,
        "causal is one key too far",
        "masks.near",
        "    lambda at: at.key <= at.query,",
        "    lambda at: at.key <= at.query + 1,",
        f"{MASKS}test_causal_lets_a_query_see_itself_and_what_was_before",
    ),
    Mistake(
        3,
        "coverage counts the step itself",
        "models.copying",
        "return F.pad(weights, (0, 0, 1, 0))[..., :-1, :].cumsum(-2)",
        "return weights.cumsum(-2)",
        "models/test_pointer.py::test_coverage_is_what_was_attended_before_and_not_now",
    ),
    Mistake(
        3,
        "chunked: what was summed is not shrunk when a higher score comes",
        "kernels.chunked",
        "summed = summed.mul_(shrink).baddbmm_(kept, step.value)",
        "summed = summed.baddbmm_(kept, step.value)",
        f"{BLOCKS}[chunked]",
    ),
    # 4. Polarity and operators.
    Mistake(
        4,
        "explicit: True means masked",
        "kernels.explicit",
        "scores.masked_fill(~table, -torch.inf)",
        "scores.masked_fill(table, -torch.inf)",
        ZEROS,
    ),
    Mistake(
        4,
        "sdpa: True means masked where there is a bias",
        "kernels.sdpa",
        "bias = bias.masked_fill(~table, -torch.inf)",
        "bias = bias.masked_fill(table, -torch.inf)",
        ZEROS,
    ),
    Mistake(
        4,
        "& allows what one of two allows",
        "masks.mask",
        'return self._combine(other, lambda a, b: a & b, "&")',
        'return self._combine(other, lambda a, b: a | b, "&")',
        "test_twins.py::test_masks",
    ),
    Mistake(
        4,
        "| allows what just one of two allows",
        "masks.mask",
        'return self._combine(other, lambda a, b: a | b, "|")',
        'return self._combine(other, lambda a, b: a & b, "|")',
        "test_twins.py::test_masks",
    ),
    Mistake(
        4,
        "~ changes nothing",
        "masks.mask",
        "lambda at: ~self.predicate(at)",
        "lambda at: self.predicate(at)",
        "test_twins.py::test_masks",
    ),
    Mistake(
        4,
        "the edges of a graph are read backwards",
        "models.graph",
        "mask=adjacency if adjacency.ndim == 2 else adjacency.unsqueeze(-3),",
        "mask=adjacency.mT if adjacency.ndim == 2 else adjacency.mT.unsqueeze(-3),",
        "models/test_graph.py::test_a_node_gathers_from_its_neighbours_as_the_equations_say",
    ),
    # 5. Windows and padding.
    Mistake(
        5,
        "a window does not reach its last key on the left",
        "masks.near",
        "inside = inside & (distance >= -left)",
        "inside = inside & (distance > -left)",
        f"{MASKS}test_a_window_counts_the_other_keys_on_each_side_and_never_its_own",
    ),
    Mistake(
        5,
        "a window reaches one key too far on the right",
        "masks.near",
        "inside = inside & (distance <= right)",
        "inside = inside & (distance <= right + 1)",
        f"{MASKS}test_a_window_counts_the_other_keys_on_each_side_and_never_its_own",
    ),
    Mistake(
        5,
        "a window is a pattern of blocks",
        "masks.near",
        "        distance = at.key - at.query\n        inside",
        "        distance = at.key - at.query // 2 * 2\n        inside",
        f"{MASKS}test_a_window_counts_the_other_keys_on_each_side_and_never_its_own",
    ),
    Mistake(
        5,
        "the first key of the padding takes part",
        "masks.given",
        "lambda at: at.key < lengths.to(at.key.device)[at.batch],",
        "lambda at: at.key <= lengths.to(at.key.device)[at.batch],",
        f"{MASKS}test_padding_keys_are_those_after_the_length_of_their_batch_entry",
    ),
    Mistake(
        5,
        "a sliding cache keeps one token too few",
        "modules.cache",
        "self._first = max(self._first, self._end - self.window)",
        "self._first = max(self._first, self._end - self.window + 1)",
        "models/test_gpt.py::test_a_cache_of_fixed_size_and_one_that_forgets",
    ),
    Mistake(
        5,
        "local-m looks further back than ahead",
        "modules.local",
        "mask: Mask = masks.window(self.window, self.window)",
        "mask: Mask = masks.window(self.window + 1, self.window)",
        "modules/test_local.py::test_local_m_is_the_softmax_of_the_window_alone",
    ),
    Mistake(
        5,
        "padding of a source is copied from",
        "models.seq2seq",
        "mask=memory.mask,",
        "mask=None,",
        "models/test_pointer.py::test_attention_is_the_additive_score_with_coverage",
    ),
    Mistake(
        5,
        "banded: the spans of keys end one key too early",
        "kernels.banded",
        "key, keys = start + offset - left, left + rows + right",
        "key, keys = start + offset - left, left + rows + right - 1",
        f"{BLOCKS}[banded]",
    ),
    Mistake(
        5,
        "banded: the spans of keys begin one key too late",
        "kernels.banded",
        "key, keys = start + offset - left, left + rows + right",
        "key, keys = start + offset - left + 1, left + rows + right - 1",
        f"{BLOCKS}[banded]",
    ),
    Mistake(
        5,
        "chunked: the nearest block of keys is left out",
        "kernels.grid",
        "begin = 0 if left is None else min(max(0, nearest - left), k_len)",
        "begin = 0 if left is None else min(max(0, nearest - left + 1), k_len)",
        f"{BLOCKS}[chunked]",
    ),
    # 6. Stand-ins for −∞.
    Mistake(
        6,
        "explicit: −10,000 swallows real scores",
        "kernels.explicit",
        "scores.masked_fill(~table, -torch.inf)",
        "scores.masked_fill(~table, -1e4)",
        OVERFLOW,
    ),
    Mistake(
        6,
        "explicit: the least number of float16",
        "kernels.explicit",
        "scores.masked_fill(~table, -torch.inf)",
        "scores.masked_fill(~table, -65504.0)",
        ZEROS,
    ),
    Mistake(
        6,
        "sdpa: the least number of the dtype",
        "kernels.sdpa",
        "bias = bias.masked_fill(~table, -torch.inf)",
        "bias = bias.masked_fill(~table, torch.finfo(bias.dtype).min)",
        ZEROS,
    ),
    # 7. Dropout.
    Mistake(
        7,
        "weights are those after dropout",
        "kernels.explicit",
        "return _aggregate(arguments, dropped, value), weights",
        "return _aggregate(arguments, dropped, value), dropped",
        f"{ATTEND}test_dropout_drops_weights_and_enlarges_the_others",
    ),
    Mistake(
        7,
        "a layer drops while evaluating",
        "modules.multi_head",
        "dropout_p=self.dropout if self.training else 0.0",
        "dropout_p=self.dropout",
        "modules/test_multi_head.py::"
        "test_dropout_is_for_training_only_and_the_weights_are_those_before_it",
    ),
    Mistake(
        7,
        "graph attention drops while evaluating",
        "models.graph",
        "dropout_p=self.dropout if self.training else 0.0",
        "dropout_p=self.dropout",
        "models/test_graph.py::test_dropout_is_for_training",
    ),
    Mistake(
        7,
        "what is left is not enlarged",
        "kernels.explicit",
        "return _aggregate(arguments, dropped, value), weights",
        "return _aggregate(arguments, dropped * (1 - arguments.dropout_p), value), weights",
        f"{ATTEND}test_dropout_drops_weights_and_enlarges_the_others",
    ),
    # 8. Weights, and masks that are forgotten.
    Mistake(
        8,
        "asking for weights takes another kernel",
        "attend",
        "output, weights = choosing.run(arguments)",
        "output, weights = (explicit if return_weights else choosing).run(arguments)",
        "modules/test_multi_head.py::test_asking_for_weights_changes_no_bit_of_the_output",
    ),
    Mistake(
        8,
        "asking for weights draws random numbers",
        "attend",
        "weights = explicit.weights(arguments)",
        "weights = explicit.run(arguments)[1]",
        f"{ATTEND}test_asking_for_weights_leaves_the_random_numbers_that_follow_as_they_are",
    ),
    Mistake(
        8,
        "layers after the first forget the mask",
        "models.transformer",
        "result = block(x, memory, cache=entry, return_weights=return_weights, **masks)",
        "result = block(x, memory, cache=entry, return_weights=return_weights, "
        "**(masks if number == 0 else {}))",
        MODELS,
    ),
    Mistake(
        8,
        "a layer forgets the mask",
        "modules.multi_head",
        "            mask=mask,\n            bias=bias,",
        "            mask=None,\n            bias=bias,",
        "modules/test_multi_head.py::test_a_stack_of_layers_keeps_its_causal_mask",
    ),
    # 9. Rotary.
    Mistake(
        9,
        "neighbours are turned where halves are asked for",
        "positions.rotation",
        'if pairing == "half":\n        first',
        'if pairing != "half":\n        first',
        "positions/test_rotary.py::test_each_pair_is_turned_by_its_own_angle",
    ),
    Mistake(
        9,
        "angles in float32",
        "positions.rotation",
        "angles = at.to(torch.float64)[..., None] * frequencies",
        "angles = (at.float()[..., None] * frequencies.float()).double()",
        "positions/test_rotary.py::test_angles_are_exact_far_out",
    ),
    Mistake(
        9,
        "cached queries are turned as if they came first",
        "modules.multi_head",
        "queries = self._rotate(queries, cache.length)",
        "queries = self._rotate(queries, 0)",
        CACHED,
    ),
    Mistake(
        9,
        "cached latent attention counts positions from the new tokens",
        "modules.latent",
        "first = 0 if cache is None else cache.length",
        "first = 0",
        "modules/test_latent.py::test_cached_decoding_is_the_full_pass",
    ),
    Mistake(
        9,
        "learned positions of cached tokens start again",
        "models.gpt",
        "offset=0 if cache is None else cache[0].length",
        "offset=0",
        "models/test_gpt.py::test_piece_by_piece_with_a_cache_is_the_full_pass",
    ),
    # 10. ALiBi.
    Mistake(
        10,
        "the released convention takes the other slopes",
        "positions.alibi",
        "[::2][: heads - below]",
        "[1::2][: heads - below]",
        "positions/test_alibi.py::test_the_conventions_differ_where_heads_are_none",
    ),
    Mistake(
        10,
        "one convention is given for the other",
        "positions.alibi",
        '    if slopes == "geometric":',
        "    if True:",
        "positions/test_alibi.py::test_the_conventions_differ_where_heads_are_none",
    ),
    # 11. Half precision.
    Mistake(
        11,
        "rows are normalised in half precision",
        "normalizers.rows",
        "return scores.to(torch.promote_types(scores.dtype, torch.float32))",
        "return scores",
        "normalizers/test_entmax.py::test_in_half_precision_it_is_the_exact_answer_rounded",
    ),
    Mistake(
        11,
        "distances are rounded before they are multiplied",
        "positions.alibi",
        "exact = torch.promote_types(query.dtype, torch.float32)",
        "exact = query.dtype; distance = distance.to(exact)",
        "positions/test_alibi.py::test_far_distances_are_multiplied_before_they_are_rounded",
    ),
    # 12. Approximations.
    Mistake(
        12,
        "the trivial baseline is the approximation itself",
        "kernels.approximation",
        "mean_of_values=float((mean.double() - exact.double()).norm() / length),",
        "mean_of_values=float((estimate.double() - exact.double()).norm() / length),",
        "kernels/test_approximations.py::test_the_errors_are_those_of_the_outputs_written_out",
    ),
    Mistake(
        12,
        "the error is that of the squares",
        "kernels.approximation",
        "error=float((estimate.double() - exact.double()).norm() / length),",
        "error=float((estimate.double() - exact.double()).norm() / length) ** 2,",
        "kernels/test_approximations.py::test_the_errors_are_those_of_the_outputs_written_out",
    ),
    # 13. Heads.
    Mistake(
        13,
        "heads are split by a view alone",
        "modules.multi_head",
        "return x.unflatten(-1, (heads, -1)).transpose(1, 2)",
        "return x.reshape(len(x), heads, x.shape[1], -1)",
        HEADS,
    ),
    Mistake(
        13,
        "heads are joined without undoing the transposition",
        "modules.multi_head",
        "return x.transpose(1, 2).flatten(2)",
        "return x.reshape(len(x), x.shape[2], -1)",
        HEADS,
    ),
    Mistake(
        13,
        "heads are interleaved",
        "modules.multi_head",
        "return x.unflatten(-1, (heads, -1)).transpose(1, 2)",
        "return x.unflatten(-1, (-1, heads)).movedim(-1, 1)",
        HEADS,
    ),
    Mistake(
        13,
        "groups of query heads are interleaved",
        "kernels.explicit",
        "x.unflatten(-3, (-1, group)).flatten(-3, -2)",
        "x.unflatten(-3, (group, -1)).transpose(-3, -4).flatten(-3, -2)",
        f"{ATTEND}test_grouped_heads_equal_repeated_heads",
    ),
    Mistake(
        13,
        "heads of latent attention are split by a view alone",
        "modules.latent",
        "return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)",
        "return x.reshape(len(x), self.heads, x.shape[1], -1)",
        "modules/test_latent.py::test_it_is_the_formula_of_the_paper",
    ),
    Mistake(
        13,
        "heads of graph attention are split by a view alone",
        "models.graph",
        "return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)",
        "return x.reshape(*x.shape[:-2], self.heads, x.shape[-2], -1)",
        "models/test_graph.py::test_a_node_gathers_from_its_neighbours_as_the_equations_say",
    ),
    Mistake(
        13,
        "of two places with one word the last alone is copied",
        "models.copying",
        "return generated.scatter_add(-1, source.unsqueeze(-2).expand(copied.shape), copied)",
        "return generated.scatter(-1, source.unsqueeze(-2).expand(copied.shape), copied)",
        "models/test_pointer.py::test_a_word_collects_the_weights_of_all_its_places",
    ),
]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.number} {m.what}")
def test_a_planted_mistake_is_seen(mistake):
    with planted(mistake.module, mistake.old, mistake.new):
        assert fails(mistake.test)


def test_what_is_planted_is_taken_away_again():
    mistake = MISTAKES[0]
    with planted(mistake.module, mistake.old, mistake.new):
        assert fails(mistake.test)
    with pytest.raises(NotSeenError):
        fails(mistake.test)


def test_every_mistake_of_the_list_is_planted():
    assert {mistake.number for mistake in MISTAKES} == set(range(1, 14))  # 14 is the next test


def asserts_something(function):
    """Whether a test can fail: by ``assert``, by ``raises``, or by a call that asserts."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name.startswith(("assert", "raises", "fail")) or name == "warns":
                return True
            if any(keyword.arg == "check" for keyword in node.keywords):  # of subprocess.run
                return True
    return False


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: str(path.relative_to(TESTS))
)
def test_every_test_asserts_something(path):
    """14. A test that compares without asserting."""
    tests = [
        node
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [test.name for test in tests if not asserts_something(test)] == []
