"""`edgedistill push`: uploads weights, graph, card and contract to a model hub."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deploy.bundles.bundle import Bundle, write
from deploy.bundles.card import CARD, LABELS
from deploy.engines.int8_training import INT8
from deploy.errors import ArtifactError, ConfigError, in_one_line
from deploy.machine import files

WEIGHTS = "model.safetensors"
CONTRACT = "preprocessing.json"


def push(bundle: Bundle, repository: str, weights: Path | None, *, private: bool = False, engine: bool = False) -> str:
    """Upload a bundle in one commit; the repository is created if it does not exist.

    Args:
        repository: OWNER/NAME.
        weights: the student's weights as safetensors; None to leave them out.
        private: whether a newly created repository is private.
        engine: whether to upload the engine, with its machine in its file name.

    Returns:
        The commit's URL.

    Raises:
        ConfigError: huggingface_hub or a token is missing, or the repository's name is invalid.
        ArtifactError: the hub refuses the upload, or cannot be reached.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    except ImportError as error:
        raise ConfigError('push needs huggingface_hub, which is not installed: pip install "edgedistill[hub]"') from error
    broken: tuple[type[Exception], ...] = (*_network(HfHubHTTPError), OSError)
    with TemporaryDirectory() as scratch:
        stage(bundle, Path(scratch), weights, engine=engine)
        try:
            client = HfApi()
            client.create_repo(repository, private=private, exist_ok=True, repo_type="model")
            message = f"{bundle.manifest.name}, edgedistill {bundle.manifest.provenance.edgedistill}"
            done: Any = client.upload_folder(repo_id=repository, folder_path=scratch, commit_message=message, repo_type="model")
        except HFValidationError as error:
            raise ConfigError(f"--repo {repository}: {in_one_line(error)}") from error
        except LocalTokenNotFoundError as error:
            raise ConfigError("push needs a token for the hub: set HF_TOKEN, or run hf auth login") from error
        except ValueError as error:  # it validates the card's header
            advice = "package.license may be one of https://huggingface.co/docs/hub/repositories-licenses, or other"
            raise ArtifactError(f"{repository}: the hub refuses the model card ({in_one_line(error)}); {advice}") from error
        except broken as error:
            raise ArtifactError(f"{repository}: the upload to the hub failed ({in_one_line(error)})") from error
    return str(getattr(done, "commit_url", done))


def stage(bundle: Bundle, out: Path, weights: Path | None, *, engine: bool = False) -> None:
    """Write the upload's files into `out`, an empty folder: itself a bundle, from which `edgedistill build` builds an engine."""
    manifest = bundle.manifest
    tensor_files = bundle.parts(manifest.onnx)[1:]
    ranges = [INT8] if INT8 in manifest.files else []
    for name in (manifest.onnx, *tensor_files, *ranges, LABELS):
        files.copy(bundle.file(name), out / name)
    (out / CONTRACT).write_text(manifest.contract.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (out / CARD).write_text(front_matter(bundle) + files.read_text(bundle.file(CARD)), encoding="utf-8")
    if weights is not None:
        files.copy(weights, out / WEIGHTS)
    sent = None
    if engine and manifest.engine is not None:
        short = (value for key, value in manifest.fingerprint.items() if key != "cpu_features" and len(value) < 60)
        machine = "-".join("".join(c if c.isalnum() else "-" for c in value) for value in short)
        sent = f"{Path(manifest.engine).stem}-{machine}{Path(manifest.engine).suffix}"
        tensor_files += bundle.parts(manifest.engine)[1:]
        for name, copied in ((manifest.engine, sent), *((one, one) for one in tensor_files)):
            files.copy(bundle.file(name), out / copied)
    why = manifest.why or (None if sent else "the engine was left out; build it on the machine that will run it")
    names = [manifest.onnx, *tensor_files, *ranges, LABELS, CARD, *([sent] if sent else [])]
    write(out, manifest.model_copy(update={"engine": sent, "why": why}), names)


def front_matter(bundle: Bundle) -> str:
    """The card's header, in the form that hubs read; its JSON values are valid YAML."""
    manifest = bundle.manifest
    fields: dict[str, Any] = {"pipeline_tag": "object-detection", "library_name": "edgedistill"}
    fields["tags"] = ["object-detection", "onnx", "knowledge-distillation", manifest.graph.network.detector, manifest.precision]
    if manifest.license:
        fields["license"] = manifest.license.lower()
    if manifest.accuracy is not None and manifest.accuracy.map is not None:
        fields["model-index"] = [
            {
                "name": manifest.name,
                "results": [
                    {
                        "task": {"type": "object-detection"},
                        "dataset": {"name": f"{manifest.accuracy.split} ({manifest.accuracy.num_images} images)", "type": "coco"},
                        "metrics": [{"type": "map", "value": round(manifest.accuracy.map, 4), "name": "mAP, measured on the engine"}],
                    }
                ],
            }
        ]
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()) + "---\n"


def _network(kind: type[Exception]) -> tuple[type[Exception], ...]:
    """The bases of the hub's error class: errors of its HTTP library, which differs between releases."""
    return tuple(base for base in kind.__bases__ if issubclass(base, Exception))
