"""The NumPy twins of layers refuse bad input: a table of call × defect."""

import numpy as np
import pytest
from refusals import assert_refuses

from attn_core import reference

X = np.ones((2, 3, 4))
W = np.ones((4, 4))
LAYER = (X, X, X, W, W, W, W)
LOCAL = (X, X, X)
PLACE = (np.ones((5, 4)), np.ones(5))
LEVEL = (np.ones((5, 4)), np.ones(5), np.ones(5))
WORDS = np.ones((2, 3, 2, 4))
CHOICE = np.zeros((2, 3), dtype=int)
GRADS = reference.HardAttentionOutput(X, X[..., 0], X[..., 0])
LATENT = (X, W, W[:2], W, W, W, W, W)

CALLS = {
    "multi_head heads": (
        lambda: reference.multi_head(*LAYER, heads=0),
        ValueError,
        ["heads", "0"],
    ),
    "multi_head heads float": (
        lambda: reference.multi_head(*LAYER, heads=2.0),
        TypeError,
        ["heads", "2.0"],
    ),
    "multi_head groups": (
        lambda: reference.multi_head(*LAYER, heads=4, kv_heads=3),
        ValueError,
        ["heads", "4", "kv_heads", "3"],
    ),
    "multi_head query_weight": (
        lambda: reference.multi_head(X, X, X, W[:3], W, W, W, heads=2),
        ValueError,
        ["query_weight", "(3, 4)"],
    ),
    "multi_head value_weight": (
        lambda: reference.multi_head(X, X, X[..., :2], W, W, W, W, heads=2),
        ValueError,
        ["value_weight", "(4, 4)", "2"],
    ),
    "multi_head out_weight": (
        lambda: reference.multi_head(X, X, X, W, W, W, W[:, :3], heads=2),
        ValueError,
        ["out_weight", "(4, 3)"],
    ),
    "multi_head integers": (
        lambda: reference.multi_head(X, X.astype(int), X, W, W, W, W, heads=2),
        TypeError,
        ["int64"],
    ),
    "multi_head mask": (
        lambda: reference.multi_head(*LAYER, heads=2, mask=np.ones((3, 3))),
        TypeError,
        ["mask", "float64"],
    ),
    "multi_head_backward": (
        lambda: reference.multi_head_backward(X[:, :2], *LAYER, heads=2),
        ValueError,
        ["grad_output", "(2, 3, 4)", "(2, 2, 4)"],
    ),
    "multi_head_decoding batch": (
        lambda: reference.multi_head_decoding(X, W, W, W, W, heads=2),
        ValueError,
        ["x", "(3, 4)", "(2, 3, 4)"],
    ),
    "multi_head_decoding heads": (
        lambda: reference.multi_head_decoding(X[0], W, W, W, W, heads=3),
        ValueError,
        ["query_weight", "3"],
    ),
    "multi_head_latent heads": (
        lambda: reference.multi_head_latent(*LATENT, heads=True),
        TypeError,
        ["heads", "True"],
    ),
    "multi_head_latent latent_weight": (
        lambda: reference.multi_head_latent(X, W[:, :3], *LATENT[2:], heads=2),
        ValueError,
        ["latent_weight", "(4, 3)"],
    ),
    "multi_head_latent rotary widths": (
        lambda: reference.multi_head_latent(*LATENT, heads=1),
        ValueError,
        ["rotary_query_weight", "(2, 4)", "(4, 4)"],
    ),
    "multi_head_latent key_weight": (
        lambda: reference.multi_head_latent(*LATENT[:3], W[:2], *LATENT[4:], heads=2),
        ValueError,
        ["key_weight", "(4, 4)", "(2, 4)"],
    ),
    "multi_head_latent out_weight": (
        lambda: reference.multi_head_latent(*LATENT[:7], W[:, :2], heads=2),
        ValueError,
        ["out_weight", "(4, 2)"],
    ),
    "multi_head_latent pairing": (
        lambda: reference.multi_head_latent(*LATENT, heads=2, pairing="both"),
        ValueError,
        ["pairing", "both"],
    ),
    "multi_head_latent_backward": (
        lambda: reference.multi_head_latent_backward(X[:1], *LATENT, heads=2),
        ValueError,
        ["grad_output", "(2, 3, 4)", "(1, 3, 4)"],
    ),
    "local_m window": (
        lambda: reference.local_m(*LOCAL, window=-1),
        ValueError,
        ["window", "-1"],
    ),
    "local_m window float": (
        lambda: reference.local_m(*LOCAL, window=1.0),
        TypeError,
        ["window", "1.0"],
    ),
    "local_m matrix": (
        lambda: reference.local_m(X[0], X, X, window=1),
        ValueError,
        ["query", "(3, 4)"],
    ),
    "local_m lengths": (
        lambda: reference.local_m(*LOCAL, window=1, lengths=[1]),
        ValueError,
        ["lengths", "(2,)"],
    ),
    "local_m lengths too long": (
        lambda: reference.local_m(*LOCAL, window=1, lengths=[1, 4]),
        ValueError,
        ["lengths", "4"],
    ),
    "local_m_backward": (
        lambda: reference.local_m_backward(X[:, :1], *LOCAL, window=1),
        ValueError,
        ["grad_output", "(2, 3, 4)"],
    ),
    "local_p window": (
        lambda: reference.local_p(*LOCAL, *PLACE, window=0),
        ValueError,
        ["window", "0"],
    ),
    "local_p hidden_weight": (
        lambda: reference.local_p(*LOCAL, PLACE[0][:, :2], PLACE[1], window=1),
        ValueError,
        ["hidden_weight", "(5, 2)"],
    ),
    "local_p position_vector": (
        lambda: reference.local_p(*LOCAL, PLACE[0], PLACE[1][:2], window=1),
        ValueError,
        ["position_vector", "(2,)"],
    ),
    "local_p_backward": (
        lambda: reference.local_p_backward(X[:1], *LOCAL, *PLACE, window=1),
        ValueError,
        ["grad_output", "(2, 3, 4)"],
    ),
    "hierarchical matrix": (
        lambda: reference.hierarchical(X[0], *LEVEL, *LEVEL),
        ValueError,
        ["x", "3 dimensions", "(3, 4)"],
    ),
    "hierarchical word_bias": (
        lambda: reference.hierarchical(WORDS, LEVEL[0], LEVEL[1][:2], LEVEL[2], *LEVEL),
        ValueError,
        ["word_bias", "(2,)"],
    ),
    "hierarchical sentence_weight": (
        lambda: reference.hierarchical(WORDS, *LEVEL, W[:, :2], *LEVEL[1:]),
        ValueError,
        ["sentence_weight", "(4, 2)"],
    ),
    "hierarchical mask": (
        lambda: reference.hierarchical(WORDS, *LEVEL, *LEVEL, mask=np.ones((2, 3, 2))),
        TypeError,
        ["mask", "float64"],
    ),
    "hierarchical mask shape": (
        lambda: reference.hierarchical(WORDS, *LEVEL, *LEVEL, mask=np.ones((2, 3)) > 0),
        ValueError,
        ["mask", "(2, 3, 2)", "(2, 3)"],
    ),
    "hierarchical_backward": (
        lambda: reference.hierarchical_backward(np.ones(4), WORDS, *LEVEL, *LEVEL),
        ValueError,
        ["grad_output", "(2, 4)", "(4,)"],
    ),
    "hard_attention choice": (
        lambda: reference.hard_attention(X, X, X, CHOICE * 0.5),
        TypeError,
        ["choice", "float64"],
    ),
    "hard_attention choice shape": (
        lambda: reference.hard_attention(X, X, X, CHOICE[:1]),
        ValueError,
        ["choice", "(2, 3)", "(1, 3)"],
    ),
    "hard_attention choice too high": (
        lambda: reference.hard_attention(X, X, X, CHOICE + 3),
        ValueError,
        ["choice", "3"],
    ),
    "hard_attention choice masked": (
        lambda: reference.hard_attention(X, X, X, CHOICE, mask=np.arange(3) > 0),
        ValueError,
        ["choice", "may not be attended"],
    ),
    "hard_attention mask": (
        lambda: reference.hard_attention(X, X, X, CHOICE, mask=CHOICE),
        TypeError,
        ["mask", "int64"],
    ),
    "hard_attention value": (
        lambda: reference.hard_attention(X, X, X[:, :2], CHOICE),
        ValueError,
        ["value", "(2, 2, 4)"],
    ),
    "hard_attention_backward": (
        lambda: reference.hard_attention_backward(GRADS._replace(entropy=X[0, 0]), X, X, X, CHOICE),
        ValueError,
        ["entropy", "(2, 3)", "(4,)"],
    ),
    "reinforce_loss reward": (
        lambda: reference.reinforce_loss(np.ones(3), np.ones((2, 3))),
        ValueError,
        ["reward", "(2, 3)", "(3,)"],
    ),
    "reinforce_loss baseline": (
        lambda: reference.reinforce_loss(np.ones((2, 1)), np.ones((2, 3)), baseline="low"),
        TypeError,
        ["baseline", "'low'"],
    ),
    "reinforce_loss entropy": (
        lambda: reference.reinforce_loss(np.ones((2, 1)), np.ones((2, 3)), entropy_weight=1),
        ValueError,
        ["entropy", "1"],
    ),
    "reinforce_loss_backward": (
        lambda: reference.reinforce_loss_backward(
            1.0, np.ones((2, 1)), np.ones((2, 3)), entropy=np.ones(3)
        ),
        ValueError,
        ["entropy", "(2, 3)", "(3,)"],
    ),
}


@pytest.mark.parametrize(("call", "raises", "says"), CALLS.values(), ids=CALLS.keys())
def test_the_twins_of_layers_refuse(call, raises, says):
    assert_refuses(call, raises, says)
