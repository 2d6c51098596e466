"""manifest.json: a bundle's description of itself."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from deploy.comparison.gain import DistillationGain
from deploy.comparison.interval import Effect
from deploy.comparison.metrics import FORMER_NAMES
from deploy.comparison.robustness import RobustnessFigures
from deploy.contract import Accuracy, Cost, Frozen, GraphFacts, Latency, ModelContract, Ratio
from deploy.engines.choice import Choice
from deploy.engines.fallback import Fallback
from deploy.engines.int8_training import Int8Figures
from deploy.errors import ArtifactError
from deploy.machine import files
from deploy.machine.documents import parse_json
from deploy.machine.load import Load

MANIFEST = "manifest.json"


FORMAT = 2


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=200)]


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _present(name: Any) -> Any:
    return FORMER_NAMES.get(name, name) if isinstance(name, str) else name


class Verdict(Frozen):
    """One gate on one target.

    For a gate on a change, `effect` is how much the metric rose or fell from `reference`, and `how` describes what was compared.
    `load` is the machine's other activity while latency was measured.
    """

    name: str
    target: str
    metric: str
    verdict: Literal["pass", "fail", "inconclusive", "unmeasured", "incomparable"]
    measured: float | None
    limit: str
    why: str | None = None
    effect: Effect | None = None
    reference: float | None = None
    how: str | None = None
    load: Load | None = None

    @model_validator(mode="before")
    @classmethod
    def _renewed(cls, given: Any) -> Any:
        """Bundles of earlier versions use former names in the metric, in the limit, and in the name of a gate that was given none."""
        if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("metric", "limit")):
            return given
        words = {"metric": _present(given["metric"]), "limit": " ".join(map(_present, given["limit"].split(" ")))}
        if given.get("name") == f"{given['metric']} {given['limit']} on {given.get('target')}":
            words["name"] = f"{words['metric']} {words['limit']} on {given.get('target')}"
        return {**given, **words}


class Provenance(Frozen):
    """How the bundle was made; `artifacts` lists the store's folders, whose names contain the hashes of their inputs."""

    edgedistill: str
    python: str
    platform: str
    packages: dict[str, str]
    git_commit: str | None
    artifacts: dict[str, FileName]


class Plan(Frozen):
    """What `edgedistill build` builds and judges on a different machine: sections of pipeline.yaml with defaults filled in."""

    targets: tuple[dict[str, Any], ...]
    gates: tuple[dict[str, Any], ...]
    validation: dict[str, Any]

    @field_validator("gates")
    @classmethod
    def _renewed(cls, gates: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """As in verdicts."""
        return tuple({key: _present(value) if key in ("metric", "versus") else value for key, value in gate.items()} for gate in gates)


class Manifest(Frozen):
    """manifest.json. If the engine could not be built on the packaging machine, `engine` is null and `why` gives the reason.

    `gain` is what distillation gained, measured in torch. `robustness` is the engine's accuracy on other splits, in groups and on
    corrupted images, if it was measured.
    `data` is the hash and the number of the images that accuracy was measured on; `cost` is the cost of the engine's graph, `lowest_ms`
    the least time its network could take at the machine's peak rates. `proof` is evidence of the precision from the engine's graph,
    `engine_proof` from the open engine. `speedups` is how many times as long teacher, baseline and float graph took. `fallback` is what
    was returned from int8 to float, `choice` the chosen precision, `int8` what training for int8 gained over post-training int8.
    """

    format: Literal[2] = 2
    name: Annotated[str, Field(pattern=NAME, max_length=200)]
    target: Annotated[str, Field(pattern=NAME, max_length=150)]
    runtime: str
    precision: Literal["fp32", "fp16", "int8"]
    options: dict[str, Any]
    engine: FileName | None
    onnx: FileName
    files: dict[FileName, Sha256]
    contract: ModelContract
    graph: GraphFacts
    plan: Plan
    accuracy: Accuracy | None
    gain: DistillationGain | None = None
    robustness: RobustnessFigures | None = None
    latency: Latency | None
    speedups: dict[str, Ratio] = Field(default_factory=dict)
    data: tuple[Sha256, int] | None = None
    cost: Cost | None = None
    lowest_ms: float | None = None
    fallback: Fallback | None = None
    choice: Choice | None = None
    int8: Int8Figures | None = None
    verdicts: tuple[Verdict, ...]
    why: str | None
    fingerprint: dict[str, str]
    machine: dict[str, str]
    proof: dict[str, Any]
    engine_proof: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance
    license: str | None
    description: str


_MOST = 2**24
"""Bytes that a manifest may have."""


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """A folder's manifest, and the sha256 of the bytes that were read.

    Raises:
        ArtifactError: it is missing, or not the manifest of a bundle of this format.
    """
    path = folder / MANIFEST
    try:
        raw = files.read_bytes(path, most=_MOST)
        content = parse_json(raw)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}; pass the folder of a bundle") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: not JSON ({error}); package again") from error
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ArtifactError(f"{path}: bundle format {content.get('format')!r}; this edgedistill reads format {FORMAT}")
    try:
        return Manifest.model_validate(content), hashlib.sha256(raw).hexdigest()
    except ValidationError as error:
        first = error.errors()[0]
        raise ArtifactError(f"{path}: not a bundle's manifest ({'.'.join(map(str, first['loc']))}: {first['msg']})") from error
