"""A model that was left in training mode."""

from __future__ import annotations

import inspect
import warnings

from torch import fx, nn


def warn_of_training(model: nn.Module) -> None:
    """Warn where the model would compute something else in evaluation mode, which is what is compiled."""
    training = [
        name or "itself" for name, module in model.named_modules() if module.training and _depends(type(module))
    ]
    if training:
        others = f" and {len(training) - 1} others" if len(training) > 1 else ""
        warnings.warn(
            f"{type(model).__name__} is in training mode ({training[0]}{others}): it is compiled as it behaves in "
            "evaluation mode, call model.eval() first to compare",
            # Past `compile` and what wraps it.
            stacklevel=4,
        )


def _depends(kind: type[nn.Module]) -> bool:
    """Whether code of a module's class, other than that of all modules, reads ``training``; a graph's is settled."""
    if issubclass(kind, fx.GraphModule):
        return False
    classes = kind.__mro__[: kind.__mro__.index(nn.Module)]
    functions = [each for one in classes for each in vars(one).values() if inspect.isfunction(each)]
    return any("training" in function.__code__.co_names for function in functions)
