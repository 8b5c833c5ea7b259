"""Which parameters a loss reaches."""

import torch


def unreached(model, loss):
    """Names of the parameters without gradient, or with nothing but zeros in it.

    The key projections' biases are left out: a constant added to every key adds the same number to
    all scores of a query, and softmax does not notice.
    """
    model.zero_grad()
    loss.backward()
    return [
        name
        for name, parameter in model.named_parameters()
        if not name.endswith("key_proj.bias")
        and (parameter.grad is None or not torch.count_nonzero(parameter.grad))
    ]
