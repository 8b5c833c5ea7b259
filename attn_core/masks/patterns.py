"""Published sparse patterns, composed of the other masks."""

import torch

from attn_core.checks import check_sizes
from attn_core.masks.given import block_sparse
from attn_core.masks.mask import Mask
from attn_core.masks.near import causal, global_tokens, strided, window


def longformer(width: int, n_global: int) -> Mask:
    r"""Look at a window around the query, and let a few first positions see and be seen.

    .. math:: \text{window}(w/2, w/2) \;|\; \text{global\_tokens}(g)

    Args:
        width: number of neighbours, half of them on each side; Longformer's window size.
        n_global: number of global positions, from the first on.

    Returns:
        A mask that compares positions. Its number of allowed pairs grows linearly with the length.

    Raises:
        ValueError: if ``width`` is odd or negative, or ``n_global`` negative.
        TypeError: if one is not an integer.

    Source: Beltagy, Peters and Cohan (2020), figure 2d.

    Example:
        >>> longformer(width=2, n_global=1)
        window(1, 1) | global_tokens(1)
    """
    check_sizes(least=0, width=width, n_global=n_global)
    if width % 2:
        raise ValueError(f"width must be even, half on each side, got {width}")
    return window(width // 2, width // 2) | global_tokens(n_global)


def bigbird(
    length: int,
    block_size: int,
    *,
    near_blocks: int = 3,
    global_blocks: int = 1,
    random_blocks: int = 1,
    seed: int = 0,
) -> Mask:
    r"""Look at blocks nearby, at the first blocks, and at a few blocks drawn at random.

    .. math:: \text{near} \;|\; \text{random} \;|\; \text{global\_tokens}(g \cdot n)

    Args:
        length: number of positions.
        block_size: number of positions in a block, n.
        near_blocks: how many blocks around the query's own, which is one of them; odd.
        global_blocks: how many first blocks see and are seen by all, g.
        random_blocks: how many further blocks each block of queries looks at.
        seed: of the random draw; the same seed gives the same mask.

    Returns:
        A mask that compares positions. Its number of allowed pairs grows linearly with the length.

    Raises:
        ValueError: if a size is out of range, or ``near_blocks`` is even.
        TypeError: if one is not an integer.

    Source: Zaheer et al. (2020), section 2 and appendix D.

    Example:
        >>> bigbird(8, 2, random_blocks=0)
        block_sparse(4×4, 2) | global_tokens(2)
        >>> bigbird(8, 2, random_blocks=0).dense(8, 8)[4].int()
        tensor([1, 1, 1, 1, 1, 1, 1, 1], dtype=torch.int32)
    """
    check_sizes(length=length, block_size=block_size, near_blocks=near_blocks)
    check_sizes(least=0, global_blocks=global_blocks, random_blocks=random_blocks, seed=seed)
    if near_blocks % 2 == 0:
        raise ValueError(f"near_blocks must be odd, as many on each side, got {near_blocks}")
    blocks = -(-length // block_size)
    position = torch.arange(blocks)
    layout = (position[:, None] - position).abs() <= near_blocks // 2
    # Every block that is not near has the same chance; random numbers, ranked, draw without
    # replacement.
    chance = torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(int(seed)))
    chance[:, :global_blocks] = -1.0
    chance[layout] = -1.0
    drawn = chance.topk(min(random_blocks, blocks), dim=1)
    layout = layout.scatter(1, drawn.indices, layout.gather(1, drawn.indices) | (drawn.values >= 0))
    return block_sparse(layout, block_size) | global_tokens(global_blocks * block_size)


def sparse_transformer(stride: int) -> Mask:
    r"""Look back at the last keys, and at every ``stride``-th one before them.

    .. math:: \text{causal} \;\&\; (\text{window}(\text{stride} - 1, 0)
        \;|\; \text{strided}(\text{stride}))

    The paper gives one half to some heads and the other half to others, or both to all.

    Args:
        stride: the length of the look back, and the distance between keys further back.

    Returns:
        A mask that compares positions.

    Raises:
        ValueError: if ``stride`` is not positive.
        TypeError: if it is not an integer.

    Source: Child, Gray, Radford and Sutskever (2019), section 4.3, *strided*.

    Example:
        >>> sparse_transformer(2).dense(4, 4)
        tensor([[ True, False, False, False],
                [ True,  True, False, False],
                [ True,  True,  True, False],
                [False,  True,  True,  True]])
    """
    check_sizes(stride=stride)
    return causal() & (window(stride - 1, 0) | strided(stride))
