"""Int8 within a limit: layers that cost accuracy are returned to float, the most harmful first, until the engine meets the limit."""

from collections.abc import Callable

from deploy.contract import Frozen
from deploy.errors import BuildError
from deploy.precision import LayerError


class TriedPoint(Frozen):
    """A number of layers in float, and the engine's mAP with them, 0 to 1."""

    num_float: int
    map: float


class Fallback(Frozen):
    """Which layers were returned to float, and how they were found.

    `float_map` is the unquantized engine's mAP, `limit` the largest allowed drop from it. `effects` lists all layers with their errors
    when quantized on their own, worst first; the first of them are the `float_layers`. It is empty if no layer had to be returned,
    because then none was examined. `tried` is in the order of the search.
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
            f"{number} of {self.num_layers} layers were returned from int8 to float{names}: "
            f"mAP {self.map:.4f}, {self.float_map:.4f} in float, allowed drop {self.limit:g}"
        )


def search(
    num_layers: int,
    rank: Callable[[], tuple[LayerError, ...]],
    judge: Callable[[frozenset[str]], float],
    float_map: float,
    limit: float,
) -> Fallback:
    """Find the fewest of the most harmful layers to return to float, such that mAP drops by no more than `limit`.

    Their number is doubled until the limit is met, then bisected, on the assumption that mAP rises with each returned layer.

    Args:
        rank: all layers, the most harmful first; slow, and called only if int8 everywhere misses the limit.
        judge: the mAP with these layers in float.

    Raises:
        BuildError: not even int8 in a single layer meets the limit; the message gives the best point.
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
