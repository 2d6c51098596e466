"""Loops over pixels that imagecorruptions-imaug has scipy and scikit-image run, compiled, with the same operations in the same order.

Numbers are float64 unless said, as there, so that results are equal to the last bit. Rows are images [H, W * C]: the channels of a pixel
are neighbors in a row. The library requires numba, which compiles them once per machine.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]


def _compiled(*signatures: str) -> Callable[[Any], Any]:
    """Compile at once, before processes are forked that would each do it; what was compiled is kept on disk if there is a place for it."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(list(signatures), nogil=True, cache=True)(function)
        except (RuntimeError, OSError):  # no folder that numba may write to, or no room in it
            return numba.njit(list(signatures), nogil=True)(function)

    return decorate


@_compiled("UniTuple(float64, 3)(int64, float64, int64)")
def _between(index: int, zoom: float, length: int) -> tuple[float, float, float]:
    """For an output px, the input px before it and the weights of that one and of the next; weights are 0 outside."""
    place = index * zoom
    if place < 0 or place > length - 1:
        return 0.0, 0.0, 0.0
    start = np.floor(place)
    first = 1.0 - (place - start)
    return start, first, 1.0 - first


@_compiled("void(float32[:, ::1], int64, int64, int64, float32[:, ::1])", "void(float64[:, ::1], int64, int64, int64, float64[:, ::1])")
def add_zoomed(rows: NDArray[Any], channels: int, height: int, width: int, out: NDArray[Any]) -> None:
    """Add `rows`, enlarged linearly to height x width px and cut off, to the upper left of `out`, both of one kind of float."""
    length, across = rows.shape[0], rows.shape[1] // channels
    down = (length - 1) / (height - 1) if height > 1 else 1.0
    right = (across - 1) / (width - 1) if width > 1 else 1.0
    near, first, second = np.empty(out.shape[1], np.uint64), np.empty(out.shape[1]), np.empty(out.shape[1])
    for x in range(out.shape[1]):
        start, first[x], second[x] = _between(x // channels, right, across)
        near[x] = int(start) * channels + x % channels
    far = near + np.uint64(channels)
    upper, lower = np.zeros(rows.shape[1] + channels), np.zeros(rows.shape[1] + channels)
    for y in range(out.shape[0]):
        start, above, below = _between(y, down, length)
        top = int(start)
        source, following, target = rows[top], rows[min(top + 1, length - 1)], out[y]
        for x in range(len(source)):
            upper[x] = source[x] * above
            lower[x] = following[x] * below
        for x in range(len(target)):
            total = upper[near[x]] * first[x] + upper[far[x]] * second[x] + lower[near[x]] * first[x] + lower[far[x]] * second[x]
            target[x] += rows.dtype.type(total)


@_compiled(
    "float64[:, ::1](uint8[:, ::1], int64, float64[::1], int64[:, ::1])",
    "float64[:, ::1](float64[:, ::1], int64, float64[::1], int64[:, ::1])",
)
def moved(rows: NDArray[Any], channels: int, weights: Doubles, steps: NDArray[np.int64]) -> Doubles:
    """The weighted sum of copies that are moved by steps [N, 2] (down, right); the px at an edge fill what a copy leaves free."""
    height, length = rows.shape
    width = length // channels
    out = np.zeros((height, length))
    for y in range(height):
        for number in range(len(weights)):
            weight, dy, dx = weights[number], steps[number, 0], steps[number, 1]
            row = rows[min(max(y - dy, 0), height - 1)]
            begin, end = max(dx, 0) * channels, (width + min(dx, 0)) * channels
            source, target = row[begin - dx * channels : end - dx * channels], out[y, begin:end]
            for x in range(len(target)):
                target[x] += weight * source[x]
            for x in range(begin):
                out[y, x] += weight * row[x % channels]
            for x in range(end, length):
                out[y, x] += weight * row[length - channels + x % channels]
    return out


@_compiled("int64(int64, int64, boolean)")
def _inside(index: int, length: int, mirrored: bool) -> int:
    """The px that stands for one outside: the px at the edge, or the mirror image in which the edge is there twice."""
    if not mirrored:
        return min(max(index, 0), length - 1)
    while index < 0 or index >= length:
        index = -index - 1 if index < 0 else 2 * length - index - 1
    return index


@_compiled("float64[:, ::1](float64[:, ::1], int64, float64[::1], float64[::1], boolean)")
def blurred(rows: Doubles, channels: int, down: Doubles, across: Doubles, mirrored: bool) -> Doubles:
    """The rows under symmetric weights down and across, summed from the outermost pair inwards."""
    height, length = rows.shape
    width, middle = length // channels, len(down) // 2
    reach = len(across) // 2
    line, out = np.empty(length + 2 * reach * channels), np.empty((height, length))
    inner = reach * channels
    whole = line[inner : inner + length]
    for y in range(height):
        source, target = rows[y], out[y]
        for x in range(length):
            whole[x] = source[x] * down[middle]
        for offset in range(middle, 0, -1):
            above, below = rows[_inside(y - offset, height, mirrored)], rows[_inside(y + offset, height, mirrored)]
            for x in range(length):
                whole[x] += (above[x] + below[x]) * down[middle - offset]
        for x in range(reach):
            before, after = _inside(x - reach, width, mirrored), _inside(width + x, width, mirrored)
            for channel in range(channels):
                line[x * channels + channel] = whole[before * channels + channel]
                line[inner + length + x * channels + channel] = whole[after * channels + channel]
        for x in range(length):
            target[x] = whole[x] * across[reach]
        for offset in range(reach, 0, -1):
            gap = offset * channels
            left, right = line[inner - gap :], line[inner + gap :]
            for x in range(length):
                target[x] += (left[x] + right[x]) * across[reach - offset]
    return out


@_compiled("void(uint8[:, :, ::1], int64, int64[:, ::1])")
def shuffle(image: Bytes, reach: int, steps: NDArray[np.int64]) -> None:
    """Copy to each px a neighbor at most `reach` px away, from the lower right to the upper left, until all steps (right, down) are used.

    The library means to exchange the two, but its exchange overwrites the first before it is read; this is what it does.
    """
    used = 0
    while used < len(steps):
        for y in range(image.shape[0] - reach, reach, -1):
            for x in range(image.shape[1] - reach, reach, -1):
                source, target = image[y + steps[used, 1], x + steps[used, 0]], image[y, x]
                used += 1
                for channel in range(3):
                    target[channel] = source[channel]


@_compiled("UniTuple(float64, 2)(float64, int64)")
def _reflected(place: float, length: int) -> tuple[float, float]:
    """The input px before a place and the weight of that one, in a mirror image in which the edge is there twice."""
    if place < 0:
        place = (place + 2 * length if place < -length else 1e-15 if place > -1e-15 else -place) - 1
    elif place > length - 1:
        place = 2 * length - place - 1 if place >= length else place
    start = np.floor(place)
    return start, 1.0 - (place - start)


@_compiled("void(float32[:, :, ::1], float32[:, ::1], float32[:, ::1], uint8[:, :, ::1])")
def displace(image: NDArray[np.float32], down: NDArray[np.float32], right: NDArray[np.float32], out: Bytes) -> None:
    """For each px, the 8-bit value [0, 255] at the place that is `down` and `right` px from it in the image, whose values are 0 to 1."""
    height, width = image.shape[0], image.shape[1]
    for y in range(height):
        for x in range(width):
            row, above = _reflected(y + np.float64(down[y, x]), height)
            column, before = _reflected(x + np.float64(right[y, x]), width)
            below, after = 1.0 - above, 1.0 - before
            top, bottom = _inside(int(row), height, True), _inside(int(row) + 1, height, True)
            left, other = _inside(int(column), width, True), _inside(int(column) + 1, width, True)
            for channel in range(3):
                total = image[top, left, channel] * above * before
                total += image[top, other, channel] * above * after
                total += image[bottom, left, channel] * below * before
                total += image[bottom, other, channel] * below * after
                value = min(max(np.float32(total), np.float32(0)), np.float32(1)) * np.float32(255)
                out[y, x, channel] = np.uint8(value)


@_compiled("UniTuple(float64, 3)(float64, float64, float64, float64)")
def _brighter(red: float, green: float, blue: float, more: float) -> tuple[float, float, float]:
    """A color with a higher value in HSV; all from 0 to 1."""
    value = max(red, green, blue)
    range_ = value - min(red, green, blue)
    saturation = 0.0 if range_ == 0 else range_ / value
    if range_ == 0:
        hue = 0.0
    elif blue == value:
        hue = (4.0 + (red - green) / range_) / 6.0 % 1.0
    elif green == value:
        hue = (2.0 + (blue - red) / range_) / 6.0 % 1.0
    else:
        hue = (green - blue) / range_ / 6.0 % 1.0
    value = min(max(value + more, 0.0), 1.0)
    sector = np.floor(hue * 6)
    rest = hue * 6 - sector
    low, falling, rising = value * (1 - saturation), value * (1 - rest * saturation), value * (1 - (1 - rest) * saturation)
    number = int(sector) % 6
    if number == 0:
        return value, rising, low
    if number == 1:
        return falling, value, low
    if number == 2:
        return low, value, rising
    if number == 3:
        return low, falling, value
    if number == 4:
        return rising, low, value
    return value, low, falling


@_compiled("void(uint8[:, :, ::1], float64, uint8[:, :, ::1])")
def brighten(image: Bytes, more: float, out: Bytes) -> None:
    """Add to the value in HSV."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            red, green, blue = _brighter(image[y, x, 0] / 255.0, image[y, x, 1] / 255.0, image[y, x, 2] / 255.0, more)
            out[y, x, 0] = np.uint8(min(max(red, 0.0), 1.0) * 255)
            out[y, x, 1] = np.uint8(min(max(green, 0.0), 1.0) * 255)
            out[y, x, 2] = np.uint8(min(max(blue, 0.0), 1.0) * 255)
