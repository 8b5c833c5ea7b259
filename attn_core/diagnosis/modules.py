"""Diagnosing a module: what can be judged from outside, without knowing its parameters."""

from torch import Tensor, nn

from attn_core.diagnosis.calling import Budget, TroubleError
from attn_core.diagnosis.functions import diagnose_function
from attn_core.diagnosis.mistakes import NAMED
from attn_core.diagnosis.module_checks import (
    findings,
    notes,
    random_in_evaluation,
    unused_parameters,
)
from attn_core.diagnosis.module_heads import HEADS_ATTRIBUTES, heads_mixed
from attn_core.diagnosis.properties import Broken
from attn_core.diagnosis.report import Report
from attn_core.diagnosis.runner import Runner, own_copy, runner_of


def diagnose_module(
    module: nn.Module,
    *,
    inputs: tuple[Tensor, ...] | None,
    causal: bool,
    mask: str | None,
    mask_means: str,
    seconds: float,
) -> Report:
    """Judge a module from outside."""
    name, budget = type(module).__name__, Budget(seconds)
    was_training = module.training
    module = own_copy(module).eval()
    try:
        runner, is_double = runner_of(module, inputs, budget)
        if (random := random_in_evaluation(runner)) is not None:
            mistake, example = random
            return Report(
                name,
                mistakes=(mistake,),
                broken=(Broken(mistake.says, example),),
                untested=("anything else, since two calls differ",),
                is_module=True,
            )
        unused = unused_parameters(runner)
        if unused and len(unused) == len(list(module.named_parameters())):
            by_function = _as_a_function(module, name, runner, seconds)
            if by_function is not None:
                return by_function
        found = [] if is_double else [(NAMED["needs float32"], "")]
        found += findings(runner, unused, causal, mask, mask_means)
        remarks = notes(runner)
        heads, untested = heads_mixed(runner)
        found += [] if heads is None else [heads]
    except TroubleError as error:
        return Report(name, trouble=str(error), is_module=True)
    finally:
        module.train(was_training)  # where it could not be copied
    return Report(
        name,
        mistakes=tuple(mistake for mistake, _ in found),
        broken=tuple(Broken(one.says, example) for one, example in found if example),
        notes=tuple(remarks),
        untested=untested,
        is_module=True,
    )


def _as_a_function(module: nn.Module, name: str, runner: Runner, seconds: float) -> Report | None:
    """A module that uses none of its parameters is a function of its inputs."""
    if len(runner.inputs) != 3:
        return None
    width = runner.inputs[0].shape[-1]
    named = (getattr(module, name, None) for name in HEADS_ATTRIBUTES)
    heads = next((x for x in named if isinstance(x, int) and x > 0), 1)
    plain = module.double()
    report = diagnose_function(
        lambda query, key, value: plain(query, key, value),
        name,
        layout="joined" if heads > 1 else "BLD",
        backend="torch",
        mask=None,
        mask_means="allowed",
        causal=False,
        masked_rows=True,
        heads=heads,
        width=width // heads,
        seconds=seconds,
    )
    if report.trouble or report.is_unexplained:
        return None
    unused = [one for one, _ in module.named_parameters()]
    return report.with_mistake(NAMED["parameters unused"], ", ".join(unused)) if unused else report
