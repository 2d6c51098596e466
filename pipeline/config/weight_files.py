"""Files of weights that a configuration names: which are missing, where they can be had, and whether they are what their names say.

The addresses of MMDetection's model zoo follow from the names of its files, which end with the first digits of their content's sha256.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from deploy.machine.files import sha256
from deploy.plugins import OptionRole
from pipeline.config.pipeline import PipelineConfig

SUFFIXES = (".pth", ".pt", ".safetensors")
ZOO = "https://download.openmmlab.com/mmdetection/v2.0"
_ZOO_NAME = re.compile(
    r"^(?P<config>[\w+-]+?)(?:_bbox_mAP-[\d.]+(?:__segm_mAP-[\d.]+)?)?(?:_\d{8}(?:_\d{6})?)?-(?P<digits>[0-9a-f]{8})\.pth$"
)
_URL = re.compile(r"https?://[^\s\"'<>]+")

_FAMILIES = {
    "retinanet": "retinanet",
    "fcos": "fcos",
    "fsaf": "fsaf",
    "atss": "atss",
    "gfl": "gfl",
    "faster_rcnn": "faster_rcnn",
    "mask_rcnn": "mask_rcnn",
    "cascade_rcnn": "cascade_rcnn",
    "cascade_mask_rcnn": "cascade_rcnn",
    "dynamic_rcnn": "dynamic_rcnn",
    "grid_rcnn": "grid_rcnn",
    "reppoints": "reppoints",
    "yolox": "yolox",
}
"""The zoo's folder by how the names of files begin."""

_ELSEWHERE = {"dconv": "dcn", "mdconv": "dcn", "dpool": "dcn", "mdpool": "dcn", "fp16": "fp16"}
"""Folders of detectors with these parts in their names, but for those in _TOGETHER."""

_TOGETHER = ("reppoints", "gfl", "fcos")

_RENAMED = {"atss_r101_fpn_1x": "atss_r101_fpn_1x_coco"}
"""Folders that are not called as their files."""


def problems(config: PipelineConfig, text: str) -> Iterator[str]:
    """One line for each file of weights that is missing or is not what its name says.

    Args:
        text: the configuration's file and those that it extends, whose comments may hold addresses.
    """
    for key, given in _named(config):
        file = Path(given)
        digits = (_ZOO_NAME.match(file.name) or {"digits": None})["digits"]
        if not file.exists():
            yield f"{key}: {given} does not exist; {_remedy(file.name, digits, text)}"
        elif digits is not None and file.is_file() and not (found := sha256(file)).startswith(digits):
            yield f"{key}: the sha256 of {given} begins with {found[:8]}, its name says {digits}; {_remedy(file.name, digits, text)}"


def zoo_address(name: str) -> str | None:
    """Where the model zoo has a file; None if its name is not one of the zoo's."""
    found = _ZOO_NAME.match(name)
    families = [one for one in _FAMILIES if found is not None and found["config"].startswith(f"{one}_")]
    if found is None or not families:
        return None
    config = _RENAMED.get(found["config"], found["config"])
    folder = _FAMILIES[families[0]]
    if families[0] not in _TOGETHER:
        folder = next((other for part, other in reversed(_ELSEWHERE.items()) if part in config.split("_")), folder)
    return f"{ZOO}/{folder}/{config}/{name}".replace("+", "%2B")


def _named(config: PipelineConfig) -> Iterator[tuple[str, str]]:
    """The configuration's keys for files of weights, and their values."""
    for section, side in (("teacher", config.teacher), ("student", config.student)):
        options = side.detector.options_of(OptionRole.WEIGHTS)
        given = {f"{section}.detector.{name}": value for name, value in options.items()} | {f"{section}.weights": side.weights}
        yield from ((key, value) for key, value in given.items() if value is not None and value.endswith(SUFFIXES))


def _remedy(name: str, digits: str | None, text: str) -> str:
    address = _commented(name, text) or zoo_address(name)
    if address is None:
        return "give a file that exists"
    proof = "" if digits is None else f" (sha256 {digits}...)"
    return f"download it: curl -L -o {shlex.quote(name)} {shlex.quote(address)}{proof}"


def _commented(name: str, text: str) -> str | None:
    """The address in a comment that ends with the file's name, or stands in the file's line or just above it."""
    above = None
    for line in text.splitlines():
        content, _, comment = line.partition("#")
        found = _URL.search(f"{comment}" if comment else "")
        if found is not None and found[0].replace("%2B", "+").endswith(f"/{name}"):
            return found[0]
        if name in content and (own := found[0] if found else above) is not None:
            return own
        above = found[0] if found is not None and not content.strip() else None
    return None
