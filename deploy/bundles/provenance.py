"""provenance.intoto.json: where a bundle came from, as an in-toto statement with SLSA's predicate; a signature covers it, too."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deploy.bundles.manifest import MANIFEST, Manifest

PROVENANCE = "provenance.intoto.json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
_KIND = "urn:edgedistill:bundle:v1"
_DIRTY = "-dirty"


def statement(manifest: Manifest, digest: str, stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which data, code, configuration and machine made a bundle, and which figures were measured.

    It says nothing of when and by whom, so the same bundle has the same statement.

    Args:
        digest: sha256 of manifest.json.
        stages: `config`, `identity`, `plugins` and `inputs` of each stage that the bundle depends on, by the name of its folder in the
            store; empty if the store is not at hand.
    """
    configuration = {name: {"config": one["config"], "inputs": one["inputs"]} for name, one in stages.items()}
    versions = {"edgedistill": manifest.provenance.edgedistill, "python": manifest.provenance.python}
    return {
        "_type": _STATEMENT,
        "subject": [_file(name, one) for name, one in sorted({MANIFEST: digest, **manifest.files}.items())],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _KIND,
                "externalParameters": {"plan": manifest.plan.model_dump(mode="json"), "stages": configuration},
                "internalParameters": {
                    "platform": manifest.provenance.platform,
                    "machine": manifest.machine,
                    "runtime": {"name": manifest.runtime, "precision": manifest.precision, "options": manifest.options},
                    "fingerprint": manifest.fingerprint,
                },
                "resolvedDependencies": [*_data(manifest, stages), *_code(manifest, stages)],
            },
            "runDetails": {
                "builder": {"id": f"{_KIND}:builder", "version": versions},
                "byproducts": [{"name": "figures", "annotations": _figures(manifest)}],
            },
        },
    }


def _file(name: str, sha256: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}}


def _data(manifest: Manifest, stages: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The images that accuracy was measured on, and what the stages read: files by their hashes."""
    if manifest.data is not None:
        digest, count = manifest.data
        split = None if manifest.accuracy is None else manifest.accuracy.split
        yield {**_file("images that accuracy was measured on", digest), "annotations": {"split": split, "num_images": count}}
    for name, one in stages.items():
        if one["identity"]:
            yield {"name": name, "annotations": {"identity": one["identity"]}}


def _code(manifest: Manifest, stages: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The commit, the files of plugins, the packages, the artifacts of the store."""
    made = manifest.provenance
    if made.git_commit is not None:
        commit = made.git_commit.removesuffix(_DIRTY)
        changed = {"annotations": {"changed": True}} if made.git_commit.endswith(_DIRTY) else {}
        yield {"name": "working directory", "digest": {"gitCommit": commit}, **changed}
    plugins = {path: digest for one in stages.values() for path, digest in one["plugins"].items()}
    yield from (_file(path, digest) for path, digest in sorted(plugins.items()))
    yield from ({"name": name, "uri": f"pkg:pypi/{name.lower()}@{version}"} for name, version in made.packages.items())
    yield from ({"name": name, "annotations": {"stage": kind}} for kind, name in sorted(made.artifacts.items()))


def _figures(manifest: Manifest) -> dict[str, Any]:
    whole = manifest.model_dump(mode="json", include={"accuracy", "latency", "speedups", "cost", "gain", "robustness", "why"})
    verdicts: Sequence[Any] = [one.model_dump(mode="json", exclude_none=True) for one in manifest.verdicts]
    return {**{key: value for key, value in whole.items() if value not in (None, {})}, "verdicts": verdicts}
