"""Running somebody's module: what it takes, and what it gives."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from attn_core.diagnosis.calling import Budget, TroubleError

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

    def __call__(self, *inputs: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Output and weights, if it returns any, for inputs that are batch first.

        Raises:
            TroubleError: if it crashes, returns no tensor, or takes too long.
        """
        if not self.is_batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        with self.budget.running():
            try:
                returned = self.module(*inputs, **{**self.options, **options})
            except TroubleError:
                raise
            except Exception as error:
                first_line = (str(error) or "without a message").splitlines()[0]
                raise TroubleError(f"it raises {type(error).__name__}: {first_line}") from error
        parts = returned if isinstance(returned, tuple | list) else (returned,)
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not tensors:
            raise TroubleError(f"it returns {type(returned).__name__}, and no tensor")
        output = tensors[0] if self.is_batch_first else tensors[0].transpose(0, 1)
        weights = [x for x in tensors[1:] if x.ndim >= 3 and x.is_floating_point()]
        return output, weights[0] if weights else None

    def output(self, *inputs: Tensor, **options: Any) -> Tensor:
        with torch.no_grad():
            return self(*inputs, **options)[0]


def runner_of(
    module: nn.Module, inputs: tuple[Tensor, ...] | None, budget: Budget
) -> tuple[Runner, bool]:
    """The module in double precision with inputs that it takes; in single, failing that."""
    tried = [inputs] if inputs is not None else guessed_inputs(module)
    trouble: str | None = None
    for dtype in (torch.float64, torch.float32):
        for given in tried:
            one = own_copy(module)
            if one is not module:
                one = one.to(dtype)
            elif any(p.dtype != dtype for p in module.parameters()):
                continue
            cast = (x.to(dtype) if x.is_floating_point() else x for x in given)
            runner = Runner(one, tuple(cast), budget)
            if "need_weights" in inspect.signature(one.forward).parameters:
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


def own_copy(module: nn.Module) -> nn.Module:
    """A copy that may be changed; the module itself if it cannot be copied, as Keras layers."""
    try:
        return copy.deepcopy(module)
    except Exception:
        return module


def guessed_inputs(module: nn.Module) -> list[tuple[Tensor, ...]]:
    """Inputs that it may take, by its arguments and the sizes of its layers."""
    generator = torch.Generator().manual_seed(0)
    kinds = (nn.Linear, nn.Embedding, nn.MultiheadAttention)
    first = next((x for x in module.modules() if isinstance(x, kinds)), None)
    arguments = inspect.signature(module.forward).parameters.values()
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
        widths += reversed(tensor.shape[-2:])
    found = dict.fromkeys(x for x in [*widths, 16] if isinstance(x, int) and x > 1)
    shapes = [(_BATCH, _LENGTH, width) for width in list(found)[:6]]
    return [
        tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count))
        for shape in shapes
    ]
