"""Reading a model's attention while it runs, and taking heads out of it."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attn_core import kernels
from attn_core.attend import watcher, watchers
from attn_core.checks import check_flags, check_sizes

_WHAT_IS_SEEN = (
    "seen are layers of attn_core, calls of attn_core.attention and torch.nn.MultiheadAttention. "
    "torch.nn.functional.scaled_dot_product_attention and FlexAttention keep no weights: a model "
    "that calls them has none to record: call attn_core.attention in their place"
)


@contextmanager
def record(model: nn.Module, *, with_gradients: bool = False) -> Iterator[dict[str, list[Tensor]]]:
    r"""Collect the weights of every attention layer while a model runs.

    .. math:: A^{(1)}, A^{(2)}, \dots \qquad \text{one for each layer and call}

    A layer is any part of the model whose ``forward`` gives its weights, always or with
    ``return_weights``, and that has no such part inside itself; or a
    :class:`torch.nn.MultiheadAttention`. Where another part calls :func:`attn_core.attention`, its
    weights are recorded under the name of that part. The output of the model stays as it is, bit
    for bit: weights are computed beside it. Where PyTorch skips its own attention layer
    (:class:`torch.nn.TransformerEncoderLayer` when evaluating), the encoder is run a second time
    for the weights.

    Args:
        model: the model that is read.
        with_gradients: whether the recorded weights are those that the output is computed from,
            so that :func:`gradient_times_attention` can differentiate with respect to them. The
            three steps are then written out (``kernels.use("explicit")``), and the output differs
            from the usual one by rounding. Layers with one head keep the dimension of heads.

    Yields:
        For each layer, by its name within the model, a list of weights ``(..., heads, L, S)``, one
        for each call, before dropout. The model itself has the name of its class.

    Raises:
        TypeError: if ``model`` is no :class:`torch.nn.Module`, or ``with_gradients`` is asked of a
            :class:`torch.nn.MultiheadAttention`, whose weights lie outside its graph.
        ValueError: if the model has no attention layer, or none that ran.

    Source: Vig (2019); this package.

    Example:
        >>> import torch
        >>> from attn_core.modules import MultiHeadAttention
        >>> model = torch.nn.Sequential(MultiHeadAttention(4, 2), torch.nn.Linear(4, 3))
        >>> with record(model) as layers:
        ...     output = model(torch.ones(1, 5, 4))
        >>> {name: [weights.shape for weights in calls] for name, calls in layers.items()}
        {'0': [torch.Size([1, 2, 5, 5])]}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    layers = _attention_layers(model)
    others = _other_parts(model, layers)
    check_flags(with_gradients=with_gradients)
    if not layers and not others:
        raise ValueError(f"model {type(model).__name__} has no attention layer: {_WHAT_IS_SEEN}")
    theirs = [name for name, layer in layers.items() if isinstance(layer, nn.MultiheadAttention)]
    if with_gradients and theirs:
        raise TypeError(
            f"with_gradients needs layers of attn_core, but model has torch.nn.MultiheadAttention "
            f"at {theirs}; copy them with attn_core.modules.MultiHeadAttention.from_torch"
        )
    recorded: dict[str, list[Tensor]] = {name: [] for name in layers}
    running = [type(model).__name__]  # the parts that are running, the innermost one last

    def watch(weights: Tensor) -> None:
        recorded.setdefault(running[-1], []).append(weights)

    with ExitStack() as stack:
        if with_gradients:
            stack.enter_context(kernels.use("explicit"))
        for name, layer in layers.items():
            if isinstance(layer, nn.MultiheadAttention):
                forward = _recording_theirs(layer, recorded[name])
            else:
                forward = _recording(layer.forward, recorded[name], with_gradients)
            stack.enter_context(_forward_replaced(layer, forward))
        for name, part in others.items():
            stack.enter_context(_forward_replaced(part, _naming(part.forward, name, running)))
        stack.enter_context(_watched(watch))
        if theirs:
            for encoder in _outermost_encoders(model):
                stack.enter_context(
                    _forward_replaced(encoder, _without_shortcut(encoder, recorded))
                )
        yield recorded
    if not recorded:
        raise ValueError(
            f"model {type(model).__name__} has no attention layer that ran: {_WHAT_IS_SEEN}"
        )


@contextmanager
def ablate_heads(model: nn.Module, heads: Mapping[str, Sequence[int]]) -> Iterator[None]:
    r"""Take heads out of a model: what they find contributes nothing.

    .. math:: \operatorname{MultiHead}(Q, K, V) = \sum_m g_m H_m W_O^m, \qquad
        g_m = 0 \text{ for the heads taken out, else } 1

    Args:
        model: the model; as it was again at the end of the ``with`` block.
        heads: for the name of a layer within the model (as :func:`record` gives it), the numbers
            of the heads to take out, from 0.

    Raises:
        TypeError: if ``model`` is no :class:`torch.nn.Module`, or a number no integer.
        ValueError: if there is no such layer with heads, or no such head.

    Source: Michel, Levy and Neubig (2019), section 2.3.

    Example:
        >>> import torch
        >>> from attn_core.modules import MultiHeadAttention
        >>> layer = MultiHeadAttention(4, 2, bias=False)
        >>> with ablate_heads(layer, {"MultiHeadAttention": [0, 1]}):
        ...     layer(torch.ones(1, 2, 4))
        tensor([[[0., 0., 0., 0.],
                 [0., 0., 0., 0.]]], grad_fn=<UnsafeViewBackward0>)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(heads, Mapping):
        raise TypeError(f"heads must be a dictionary, layer: heads, got {heads!r}")
    layers = {
        name: layer
        for name, layer in _attention_layers(model).items()
        if isinstance(getattr(layer, "out_proj", None), nn.Module) and _heads_of(layer)
    }
    with ExitStack() as stack:
        for name, numbers in heads.items():
            if name not in layers:
                raise ValueError(f"heads names layer {name!r}, but model has {list(layers)}")
            stack.enter_context(_without_heads(name, layers[name], numbers))
        yield


def _attention_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The innermost parts that can give weights."""
    return {
        name: part
        for name, part in _named_parts(model).items()
        if _gives_weights(part) and not any(map(_gives_weights, list(part.modules())[1:]))
    }


def _other_parts(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """The parts outside of these layers that may call attention themselves."""
    inside = {id(part) for layer in layers.values() for part in layer.modules()}
    return {
        name: part
        for name, part in _named_parts(model).items()
        if id(part) not in inside and not type(part).__module__.startswith("torch.")
    }


def _named_parts(model: nn.Module) -> dict[str, nn.Module]:
    return {name or type(model).__name__: part for name, part in model.named_modules()}


def _gives_weights(part: nn.Module) -> bool:
    if isinstance(part, nn.MultiheadAttention):
        return True
    signature = inspect.signature(part.forward)
    returned = get_args(signature.return_annotation) or (signature.return_annotation,)
    records = [kind for kind in returned if hasattr(kind, "_fields")]
    with_weights = any("weights" in record._fields for record in records)
    if "return_weights" in signature.parameters:
        return with_weights or not records
    return with_weights and returned == tuple(records)


def _naming(forward: Callable[..., Any], name: str, running: list[str]) -> Callable[..., Any]:
    @wraps(forward)  # generate() of transformers reads what forward takes
    def named_forward(*inputs: Any, **options: Any) -> Any:
        running.append(name)
        try:
            return forward(*inputs, **options)
        finally:
            running.pop()

    return named_forward


@contextmanager
def _watched(watch: Callable[[Tensor], None]) -> Iterator[None]:
    token = watcher.set(watch)
    watchers.append(watch)
    try:
        yield
    finally:
        watchers.remove(watch)
        watcher.reset(token)


def _recording(
    forward: Callable[..., Any], calls: list[Tensor], with_gradients: bool
) -> Callable[..., Any]:
    signature = inspect.signature(forward)
    can_be_asked = "return_weights" in signature.parameters

    @wraps(forward)
    def recorded_forward(*inputs: Any, **options: Any) -> Any:
        asked = {"return_weights": True} if can_be_asked else {}
        wanted = signature.bind(*inputs, **options).arguments.get("return_weights", False)
        used: list[Tensor] = []
        with _watched(used.append):
            result = forward(*inputs, **options | asked)
        # What a layer returns may be a view of what its output was computed from, through which no
        # gradient comes.
        calls.extend(used if with_gradients and used else [result.weights])
        return result if wanted or not can_be_asked else result.output

    return recorded_forward


def _recording_theirs(layer: nn.MultiheadAttention, calls: list[Tensor]) -> Callable[..., Any]:
    """Their weights come after dropout and by another path, so they are asked for a second time."""
    forward: Callable[..., Any] = layer.forward
    signature = inspect.signature(forward)

    @wraps(forward)
    def recorded_forward(*inputs: Any, **options: Any) -> Any:
        result = forward(*inputs, **options)
        again = signature.bind(*inputs, **options).arguments
        again |= {"need_weights": True, "average_attn_weights": False}
        dropout, layer.dropout = layer.dropout, 0.0
        try:
            with torch.no_grad():
                calls.append(forward(**again)[1])
        finally:
            layer.dropout = dropout
        return result

    return recorded_forward


@contextmanager
def _forward_replaced(part: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = vars(part).get("forward")  # usually the class has it, and the instance has not
    part.forward = forward
    try:
        yield
    finally:
        del part.forward
        if own is not None:
            part.forward = own


def _outermost_encoders(model: nn.Module) -> list[nn.Module]:
    kinds = (nn.TransformerEncoder, nn.TransformerEncoderLayer)
    encoders = [part for part in model.modules() if isinstance(part, kinds)]
    inner = {id(part) for encoder in encoders for part in list(encoder.modules())[1:]}
    return [encoder for encoder in encoders if id(encoder) not in inner]


def _without_shortcut(encoder: nn.Module, recorded: dict[str, list[Tensor]]) -> Callable[..., Any]:
    """Run the encoder as it is; if it went past its attention layers, run it again for them."""
    forward = encoder.forward

    def recorded_forward(*inputs: Any, **options: Any) -> Any:
        seen = sum(map(len, recorded.values()))
        output = forward(*inputs, **options)
        if sum(map(len, recorded.values())) == seen:
            was_enabled = torch.backends.mha.get_fastpath_enabled()
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                with torch.no_grad():
                    forward(*inputs, **options)
            finally:
                torch.backends.mha.set_fastpath_enabled(was_enabled)
        return output

    return recorded_forward


class _ZeroColumns(nn.Module):
    """A weight matrix without the columns that read some heads."""

    def __init__(self, kept_heads: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept_heads", kept_heads)

    def forward(self, weight: Tensor) -> Tensor:
        return _without_zeros(weight, self.get_buffer("kept_heads"))


def _heads_of(layer: nn.Module) -> Any:
    """How many heads a layer says it has; None if it does not say."""
    return getattr(
        layer, "num_heads" if isinstance(layer, nn.MultiheadAttention) else "heads", None
    )


def _without_zeros(joined: Tensor, kept_heads: Tensor) -> Tensor:
    """``(..., heads × width)`` with zeros where a head is not kept."""
    kept = kept_heads.to(device=joined.device, dtype=joined.dtype)
    return joined * kept.repeat_interleave(joined.shape[-1] // len(kept))


@contextmanager
def _without_heads(name: str, layer: nn.Module, numbers: Sequence[int]) -> Iterator[None]:
    count: int = _heads_of(layer)
    out_proj: nn.Module = layer.out_proj  # type: ignore[assignment]
    kept_heads = torch.ones(count)
    for number in numbers:
        check_sizes(least=0, **{f"a head of layer {name!r}": number})
        if number >= count:
            raise ValueError(f"heads names head {number} of layer {name!r}, which has {count}")
        kept_heads[number] = 0.0
    if isinstance(layer, nn.MultiheadAttention):  # it reads the weight, and never calls out_proj
        parametrize.register_parametrization(out_proj, "weight", _ZeroColumns(kept_heads))
        try:
            yield
        finally:
            parametrize.remove_parametrizations(out_proj, "weight", leave_parametrized=False)
        return
    hook = out_proj.register_forward_pre_hook(
        lambda _, inputs: (_without_zeros(inputs[0], kept_heads), *inputs[1:])
    )
    try:
        yield
    finally:
        hook.remove()
