"""Running somebody's module: what it takes, and what it gives."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_core.diagnosis.calling import Budget, TroubleError, asked_signature

_WIDTHS = ("embed_dim", "d_model", "dim", "hidden_dim", "hidden_size", "embedding_dim", "width")
_BATCH, _LENGTH = 3, 6


class Runner:
    """A module with inputs that it takes: batch first, in evaluation, in double precision."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...], budget: Budget) -> None:
        self.module = module
        self.inputs = inputs
        self.budget = budget
        self.is_batch_first = getattr(module, "batch_first", True)
        self.options: dict[str, Any] = {}
        names = asked_signature(module.forward).inputs if len(inputs) == 3 else None
        self.names = names  # of query, key and value, if that is not their order

    def __call__(self, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Output and weights, if it returns any, for inputs that are batch first.

        Raises:
            TroubleError: if it crashes, returns no tensor, or takes too long.
        """
        if not self.is_batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        named = {} if self.names is None else dict(zip(self.names, inputs, strict=True))
        options = {**named, **self.options, **options}
        with self.budget.running():
            returned = self.module(*(inputs if self.names is None else ()), **options)
        parts = tuple(returned.values()) if isinstance(returned, dict) else returned
        parts = parts if isinstance(parts, tuple | list) else (parts,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not tensors or tensors[0].is_complex() or tensors[0].layout != torch.strided:
            raise TroubleError(f"it returns {type(returned).__name__}, and no tensor of numbers")
        if tensors[0].ndim < 2:
            shape = tuple(tensors[0].shape)
            raise TroubleError(f"it returns the shape {shape}, and nothing for each batch entry")
        output = tensors[0] if self.is_batch_first else tensors[0].transpose(0, 1)
        weights = [x for x in tensors[1:] if x.ndim >= 3 and x.is_floating_point()]
        return output, weights[0] if weights else None

    def output(self, *inputs: Tensor, **options: Any) -> Tensor:
        """The output for copies of the inputs, which it may change."""
        with torch.no_grad():
            return self(*(x.clone() for x in inputs), **options)[0]


def runner_of(
    module: nn.Module, inputs: tuple[Tensor, ...] | None, budget: Budget
) -> tuple[Runner, bool]:
    """The module in double precision with inputs that it takes; in single, failing that."""
    tried = [_by_name(module, inputs)] if inputs is not None else guessed_inputs(module)
    trouble: str | None = None
    for dtype in (torch.float64, torch.float32):
        for given in tried:
            one = own_copy(module)
            if one is not module:
                one = one.to(dtype)
            elif any(p.dtype != dtype for p in module.parameters()):
                continue
            cast = (x.to(dtype) if x.is_floating_point() else x for x in given)
            cast = (x.detach().clone() for x in cast)  # made in inference mode, it has no gradient
            runner = Runner(one, tuple(cast), budget)
            if "need_weights" in parameters_of(one):
                # Asked for them, PyTorch gives NaN for a fully masked row.
                runner.options = {"need_weights": False}
            try:
                runner(*runner.inputs)
            except TroubleError as error:
                shapes = ", ".join(str(tuple(x.shape)) for x in given)
                trouble = trouble or f"given {shapes}, {error}"
                continue
            return runner, dtype == torch.float64 or one is module
    hint = "" if inputs is not None else " (say inputs= if it takes others)"
    raise TroubleError(f"{trouble}{hint}")


def _by_name(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Query, key and value in this order, if the names of the arguments tell another one."""
    names = asked_signature(module.forward).inputs
    if names is None or len(inputs) != 3:
        return inputs
    order = [name for name in inspect.signature(module.forward).parameters if name in names]
    return tuple(inputs[order.index(name)] for name in names)


def own_copy(module: nn.Module) -> nn.Module:
    """A copy that may be changed; the module itself if it cannot be copied, as Keras layers."""
    try:
        return copy.deepcopy(module)
    except Exception:
        return module


def parameters_of(module: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The arguments of a module; none are known of one that TorchScript has compiled."""
    try:
        return inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return {}


def guessed_inputs(module: nn.Module) -> list[tuple[Tensor, ...]]:
    """Inputs that it may take, by its arguments and the sizes of its layers."""
    generator = torch.Generator().manual_seed(0)
    kinds = (nn.Linear, nn.Embedding, nn.MultiheadAttention)
    first = next((x for x in module.modules() if isinstance(x, kinds)), None)
    arguments = parameters_of(module).values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p for p in arguments if p.default is p.empty and p.kind in positional]
    count = max(1, len([p for p in required if "mask" not in p.name.lower()]))
    if isinstance(first, nn.Embedding) and count == 1:
        shape = (_BATCH, _LENGTH)
        return [(torch.randint(first.num_embeddings, shape, generator=generator),)]
    widths = [getattr(module, name, None) for name in _WIDTHS]
    if isinstance(first, nn.MultiheadAttention):
        widths.append(first.embed_dim)
    if isinstance(first, nn.Linear):
        widths.append(first.in_features)
    for tensor in (*module.parameters(), *module.buffers()):
        if nn.parameter.is_lazy(tensor):
            continue
        widths += reversed(tensor.shape[-2:])
    found = dict.fromkeys(x for x in [*widths, 16] if isinstance(x, int) and x > 1)
    shapes = [(_BATCH, _LENGTH, width) for width in list(found)[:6]]
    return [
        tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count))
        for shape in shapes
    ]
