"""Every computation of a network while it runs, named by its module, so that it is known again in a different run."""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

OUTSIDE = ""
"""Where no module of the network, or only the network itself, computes."""


class Site(NamedTuple):
    """The innermost module, how many times it has run before, and how many tensors it has computed before."""

    module: str
    run: int
    number: int


class Walk(TorchFunctionMode):
    """Inside, each function that returns a floating tensor is called through `call`, and its result through `result`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._names = {module: name for name, module in network.named_modules()}
        self._runs: dict[str, int] = {}
        self._inside: list[list[Any]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        self._runs, self._inside = {}, [[OUTSIDE, 0, 0]]
        self._hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = self.call(func, args, dict(kwargs or {}))
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        here = self._inside[-1]
        site = Site(*here)
        here[2] += 1
        return self.result(site, func, result)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the function returns."""
        return func(*args, **kwargs)

    def result(self, site: Site, func: Callable[..., Any], result: Tensor) -> Tensor:
        """What the network receives instead of a function's result."""
        return result

    def _enter(self, module: nn.Module, given: Any) -> None:
        name = self._names.get(module, OUTSIDE)
        run = self._runs.get(name, 0)
        self._runs[name] = run + 1
        self._inside.append([name, run, 0])

    def _leave(self, module: nn.Module, given: Any, result: Any) -> None:
        self._inside.pop()


def name_of(func: Callable[..., Any]) -> str:
    """The function's name, such as conv2d."""
    return str(getattr(func, "__name__", ""))
