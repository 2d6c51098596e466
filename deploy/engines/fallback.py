"""Int8 within a limit: the layers that cost accuracy go back to float, the guiltiest first, until the engine itself is good enough."""

from collections.abc import Callable

from deploy.contract import Frozen
from deploy.errors import BuildError
from deploy.precision import LayerError


class TriedPoint(Frozen):
    """So many layers in float, and the mAP that the engine then had, 0 to 1."""

    num_float: int
    map: float


class Fallback(Frozen):
    """What was returned to float, and how that was found.

    `float_map` is the unquantized engine's mAP, `limit` the largest drop from it. `effects` are all layers with their errors when
    quantized alone, worst first; the first of them are the `float_layers`. They are empty where no layer had to go back, and so none
    was looked at. `tried` is in the order of the search.
    """

    limit: float
    float_map: float
    map: float
    float_layers: tuple[str, ...]
    num_layers: int
    effects: tuple[tuple[str, float], ...]
    tried: tuple[TriedPoint, ...]

    def __str__(self) -> str:
        """In one sentence."""
        names = f" ({', '.join(self.float_layers)})" if self.float_layers else ""
        number = str(len(self.float_layers)) if self.float_layers else "none"
        return (
            f"{number} of {self.num_layers} layers went back from int8 to float{names}: "
            f"mAP {self.map:.4f}, {self.float_map:.4f} in float, at most {self.limit:g} less allowed"
        )


def search(
    num_layers: int,
    rank: Callable[[], tuple[LayerError, ...]],
    judge: Callable[[frozenset[str]], float],
    float_map: float,
    limit: float,
) -> Fallback:
    """The fewest layers to return, of those that hurt most, so that mAP drops by no more than `limit`.

    Their number is doubled until the limit is met, then halved in between: mAP is taken to rise with each layer that is returned.

    Args:
        rank: all layers, the one that hurts most first; it takes long, and is asked only where int8 everywhere misses the limit.
        judge: the mAP with these layers in float.

    Raises:
        BuildError: not even the least of int8, one layer, meets the limit; the best point is named.
    """
    tried: dict[int, float] = {0: judge(frozenset())}
    effects = () if float_map - tried[0] <= limit else rank()

    def good(count: int) -> bool:
        if count not in tried:
            tried[count] = judge(frozenset(effect.layer for effect in effects[:count]))
        return float_map - tried[count] <= limit

    most = num_layers - 1
    low, high = -1, 0
    while not good(high):
        if high == most:
            best = max(tried, key=lambda count: tried[count])
            raise BuildError(
                f"int8 cannot keep max_map_drop {limit:g}: mAP is {float_map:.4f} in float and at best {tried[best]:.4f} "
                f"with {best} of {num_layers} layers in float; raise the limit or choose fp32 or fp16"
            )
        low, high = high, min(most, max(1, 2 * high))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return Fallback(
        limit=limit,
        float_map=float_map,
        map=tried[high],
        float_layers=tuple(effect.layer for effect in effects[:high]),
        num_layers=num_layers,
        effects=tuple((effect.layer, effect.error) for effect in effects),
        tried=tuple(TriedPoint(num_float=count, map=value) for count, value in tried.items()),
    )
