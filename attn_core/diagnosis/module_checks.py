"""What can be judged of a module from outside: change its inputs, watch outputs and gradients."""

import inspect
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_core.diagnosis.calling import TroubleError
from attn_core.diagnosis.mistake import Mistake
from attn_core.diagnosis.mistakes import NAMED
from attn_core.diagnosis.runner import Runner, parameters_of

_NEAR = 1e-9


def _named(name: str, example: str) -> tuple[Mistake, str]:
    return NAMED[name], example


def unused_parameters(runner: Runner) -> list[str]:
    """The names of parameters whose gradient is 0 for every input that was tried."""
    reached: set[str] = set()
    named = [(name, p) for name, p in runner.module.named_parameters() if p.requires_grad]
    for seed in range(2):
        inputs = tuple(_redrawn(x, seed) for x in runner.inputs)
        with torch.enable_grad():
            output, _ = runner(*inputs)
        if not output.requires_grad or not named:
            continue
        generator = torch.Generator().manual_seed(seed)
        towards = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        gradients = torch.autograd.grad(
            output, [p for _, p in named], towards.to(output.dtype), allow_unused=True
        )
        for (name, _), gradient in zip(named, gradients, strict=True):
            if gradient is not None and gradient.abs().max() > 1e-12:
                reached.add(name)
    return [name for name, _ in named if name not in reached]


def _redrawn(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    if not x.is_floating_point():
        return x[:, torch.randperm(x.shape[1], generator=generator)] if x.ndim > 1 else x
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype)


def findings(
    runner: Runner, unused: list[str], causal: bool, mask: str | None, mask_means: str
) -> list[tuple[Mistake, str]]:
    found: list[tuple[Mistake, str]] = []
    # Softmax takes away what is added to all scores of a query: such a bias cannot learn, in the
    # best of layers, and is not worth a word.
    weights_unused = [name for name in unused if not _is_bias(runner.module, name)]
    if weights_unused:
        found.append(_named("parameters unused", ", ".join(weights_unused)))
    checks: list[Callable[[Runner], tuple[Mistake, str] | None]] = [
        _changes_inputs,
        _positions_follow_batch,
        _batch_entries_influence,
        _wrong_gradient,
        _unequal_lengths,
        _wrong_weights,
    ]
    found += [one for check in checks if (one := check(runner)) is not None]
    if causal and (one := _sees_the_future(runner)) is not None:
        found.append(one)
    argument = mask or _mask_argument(runner.module)
    if argument is not None:
        found += _mask_findings(runner, argument, mask_means)
    return found


def _is_bias(module: nn.Module, name: str) -> bool:
    return name.endswith("bias") or module.get_parameter(name).ndim == 1


def random_in_evaluation(runner: Runner) -> tuple[Mistake, str] | None:
    one, two = runner.output(*runner.inputs), runner.output(*runner.inputs)
    if not (one.isfinite().all() and two.isfinite().all()):
        raise TroubleError("it gives NaN or infinity for ordinary inputs")
    if one.shape == two.shape and (one - two).abs().max() <= _NEAR:
        return None
    return _named("random in evaluation", "two calls with the same inputs differ")


def _changes_inputs(runner: Runner) -> tuple[Mistake, str] | None:
    copies = tuple(x.clone() for x in runner.inputs)
    with torch.no_grad():
        runner(*copies)
    if all(torch.equal(x, y) for x, y in zip(copies, runner.inputs, strict=True)):
        return None
    return _named("changes its input", "")


def _equal_rows(runner: Runner) -> tuple[Tensor, ...]:
    return tuple(x[:1].expand(_rows(runner), *x.shape[1:]).clone() for x in runner.inputs)


def _rows(runner: Runner) -> int:
    return max(2, len(runner.inputs[0]))


def _positions_follow_batch(runner: Runner) -> tuple[Mistake, str] | None:
    """Batch entries that are equal have equal outputs, unless it matters where they stand."""
    output = runner.output(*_equal_rows(runner))
    difference = (output - output[:1]).abs().max()
    if difference <= 1e-6:
        return None
    text = f"{len(output)} equal batch entries give outputs that differ by {difference:.2g}"
    return _named("positions follow the batch", text)


def _batch_entries_influence(runner: Runner) -> tuple[Mistake, str] | None:
    changed = tuple(_redrawn(x, 7) for x in runner.inputs)
    mixed = tuple(
        torch.cat([new[:1], old[1:]]) for new, old in zip(changed, runner.inputs, strict=True)
    )
    before, after = runner.output(*runner.inputs), runner.output(*mixed)
    difference = (after[1:] - before[1:]).abs().max() if len(before) > 1 else torch.tensor(0.0)
    if difference <= 1e-6:
        return None
    return _named("batch entries influence each other", f"by {difference:.2g}")


def _wrong_gradient(runner: Runner) -> tuple[Mistake, str] | None:
    if not all(x.is_floating_point() and x.dtype == torch.float64 for x in runner.inputs):
        return None
    small = [x[:1, :3].clone().requires_grad_() for x in runner.inputs]
    if runner.output(*small).dtype != torch.float64:  # too coarse to compare with differences
        return None
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            torch.autograd.gradcheck(lambda *x: runner(*x)[0], small, fast_mode=True)
        except TroubleError:
            return None
        except RuntimeError as error:
            return _named("gradient wrong", str(error).splitlines()[0][:120])
    return None


def _unequal_lengths(runner: Runner) -> tuple[Mistake, str] | None:
    if len(runner.inputs) != 3:
        return None
    query, key, value = runner.inputs
    short = query[:, :-2]
    try:
        output = runner.output(short, key, value)
    except TroubleError as error:
        return _named("equal lengths needed", str(error))
    if output.shape[1] == short.shape[1]:
        return None
    return _named(
        "equal lengths needed",
        f"{short.shape[1]} queries and {key.shape[1]} keys give {tuple(output.shape)}",
    )


def _weights_of(runner: Runner) -> Tensor | None:
    """The weights that it returns, or those that can be told from its outputs."""
    with torch.no_grad():
        _, weights = runner(*runner.inputs)
    if weights is not None and weights.shape[-1] in (1, runner.inputs[-1].shape[1]):
        return weights
    return recovered_weights(runner)


def recovered_weights(runner: Runner) -> Tensor | None:
    r"""Find out the weights of a layer of one head from its outputs alone.

    A sequence of one token gives that token's value :math:`v(x_j)`, whatever the score is, because
    its only weight is 1. A longer sequence gives :math:`\sum_j a_{ij} v(x_j)`. With more
    dimensions than tokens the weights are the solution of linear equations, if there is one.
    """
    if len(runner.inputs) != 1 or not runner.inputs[0].is_floating_point():
        return None
    x = runner.inputs[0]
    try:
        with warnings.catch_warnings():  # Keras warns of a softmax over a single token
            warnings.simplefilter("ignore")
            output = runner.output(x)
            values = torch.cat([runner.output(x[:, j : j + 1]) for j in range(x.shape[1])], 1)
    except (TroubleError, RuntimeError):
        return None
    if output.ndim != 3 or output.shape != values.shape or values.shape[2] < values.shape[1] + 2:
        return None
    weights = torch.linalg.lstsq(values.mT, output.mT).solution.mT
    error = (weights @ values - output).abs().max()
    return weights if error <= 1e-6 * output.abs().max() else None


def _wrong_weights(runner: Runner) -> tuple[Mistake, str] | None:
    weights = _weights_of(runner)
    if weights is None or not torch.isfinite(weights).all():
        return None
    rows, columns = weights.sum(-1), weights.sum(-2)
    if weights.shape[-1] == 1 or weights.shape[-2] == 1:
        if (weights - 1).abs().max() <= 1e-6 and weights.shape[-1] == 1:
            return _named("weights all 1", f"weights {tuple(weights.shape)} are all 1")
        if weights.shape[-1] == 1:
            rows = weights.sum(-2)
    if (rows - 1).abs().max() > 1e-3:
        sums = [round(x, 3) for x in rows.flatten()[:3].tolist()]
        if (columns - 1).abs().max() <= 1e-6:
            return _named("weights over queries", f"rows sum to {sums} …, columns to 1")
        return _named("weights do not sum to 1", f"rows sum to {sums} …")
    is_square = weights.shape[-1] == weights.shape[-2] and weights.shape[-1] > 2
    if not is_square or not (weights > 0).all():
        return None
    if (weights - weights[..., :1, :]).abs().max() <= 1e-9:
        if (weights - weights[..., :1]).abs().max() <= 1e-9:
            return None
        return _named("query does not matter", "all rows of weights are equal")
    # log a_ij = s_ij − log z_i: where s is symmetric, log a_ij − log a_ji = log z_j − log z_i, and
    # going round three tokens gives 0.
    logarithms = weights.double().log()
    skew = logarithms - logarithms.mT
    around = skew[..., 0, 1] + skew[..., 1, 2] + skew[..., 2, 0]
    if around.abs().max() <= 1e-6:
        return _named("symmetric scores", "score of i for j = score of j for i")
    return None


def _sees_the_future(runner: Runner) -> tuple[Mistake, str] | None:
    before = runner.output(*runner.inputs)
    length = runner.inputs[0].shape[1]
    for token in range(length - 1, 0, -1):
        changed = tuple(x.clone() for x in runner.inputs)
        for x in changed:
            x[:, token] = _redrawn(x, 9)[:, token]
        difference = (runner.output(*changed) - before)[:, :token].abs().flatten(2).amax((0, 2))
        if difference.max() > _NEAR:
            position = int(difference.argmax())
            text = f"token {token} changes the output at position {position}"
            return _named("sees the future", text)
    return None


def _mask_argument(module: nn.Module) -> str | None:
    # A layer of Keras has its own arguments in `call`; its `forward` takes anything.
    call = getattr(module, "call", None)
    names = parameters_of(module) if call is None else inspect.signature(call).parameters
    padding = [name for name in names if "padding" in name.lower()]
    masks = [name for name in names if name.lower() in ("mask", "attn_mask", "attention_mask")]
    return next(iter(padding + masks), None)


def _mask_findings(runner: Runner, argument: str, means: str) -> list[tuple[Mistake, str]]:
    """Hide the last token of every sequence, then every token of the first one."""
    batch, length = runner.inputs[-1].shape[:2]
    hides = means == "hidden" or "key_padding" in argument

    def given(allowed: Tensor) -> list[Tensor]:
        allowed = ~allowed if hides else allowed
        queries = runner.inputs[0].shape[1]
        return [
            allowed,
            allowed[:, None, None, :],
            allowed[:, None, :].expand(batch, queries, length),
            allowed[:, None, None, :].expand(batch, 1, queries, length),
        ]

    allowed = torch.ones(batch, length, dtype=torch.bool)
    allowed[:, -1] = False
    for form in range(4):
        mask = given(allowed)[form]
        try:
            before = runner.output(*runner.inputs, **{argument: mask})
        except TroubleError:
            continue
        if before.shape[:2] == runner.inputs[0].shape[:2] or before.ndim == 2:
            break
    else:
        return []
    found = []
    changed = tuple(torch.cat([x[:, :-1], _redrawn(x, 3)[:, -1:]], 1) for x in runner.inputs)
    after = runner.output(*changed, **{argument: mask})
    kept = slice(None) if before.ndim == 2 else (slice(None), slice(0, length - 1))
    difference = (after - before)[kept].abs().max()
    if difference > 1e-6:
        found.append(
            _named("padding leaks", f"a token that is hidden changes others by {difference:.2g}")
        )
    allowed[0] = False
    try:
        rows = runner.output(*runner.inputs, **{argument: given(allowed)[form]})
    except TroubleError:
        return found
    if torch.isnan(rows).any():
        found.append(_named("nothing to attend gives NaN", "a batch entry that is all padding"))
    return found


def notes(runner: Runner) -> list[str]:
    """What is no mistake: whether order matters, whether there is a mask."""
    notes = []
    before = runner.output(*runner.inputs)
    if (
        len(runner.inputs) == 1
        and before.ndim == 3
        and before.shape[1] == runner.inputs[0].shape[1] > 1
    ):
        x = runner.inputs[0]
        swapped = [1, 0, *range(2, x.shape[1])]  # turned round, distances would stay the same
        turned = runner.output(x[:, swapped])[:, swapped]
        ordered = (turned - before).abs().max() > 1e-6
        notes.append(
            "the order of the tokens matters to it: it knows positions, or is causal"
            if ordered
            else "the order of the tokens does not matter to it: it knows no positions"
        )
        if _has_no_values(runner):
            notes.append("its values are its inputs: it has no projection of values")
        if not _mixes(runner, before):
            notes.append("no token reaches the output at another position: it is no attention")
    if _mask_argument(runner.module) is None:
        notes.append("it takes no mask, so padding takes part")
    return notes


def _has_no_values(runner: Runner) -> bool:
    """Whether a token alone, whose only weight is 1, comes out as it went in."""
    (x,) = runner.inputs
    alone = x[:, :1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = runner.output(alone)
    except TroubleError:
        return False
    return output.shape == alone.shape and bool((output - alone).abs().max() <= _NEAR)


def _mixes(runner: Runner, before: Tensor) -> bool:
    """Whether a token reaches the output at another position."""
    (x,) = runner.inputs
    last = torch.cat([x[:, :-1], _redrawn(x, 8)[:, -1:]], 1)
    first = torch.cat([_redrawn(x, 8)[:, :1], x[:, 1:]], 1)
    changes = (runner.output(last) - before)[:, :-1], (runner.output(first) - before)[:, 1:]
    return any(change.abs().max() > _NEAR for change in changes)
