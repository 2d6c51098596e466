"""`edgedistill package --web`: a static page that runs a bundle's graph in the browser, with ONNX Runtime Web."""

import json
import shutil
from pathlib import Path

from deploy.bundles.bundle import Bundle, sha256
from deploy.bundles.manifest import Manifest
from deploy.contract import FULL_WHITE
from deploy.errors import ArtifactError, ConfigError

VERSION = "1.30.0"
ORT_FILES = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The files of the npm package onnxruntime-web that the page needs, with the sha256 of this version's."""
FORMAT = 1
"""Of contract.json, which the page compares with its own."""
PAGE = Path(__file__).parent / "files" / "web"
_COMMAND = f"npm install --ignore-scripts onnxruntime-web@{VERSION}"


def write_page(bundle: Bundle, ort_web: Path | None, out: Path) -> None:
    """Write the page into `out`, an empty folder: it needs only a server of static files.

    Args:
        ort_web: the folder of the npm package onnxruntime-web.

    Raises:
        ConfigError: there is no such folder, or it has a different version.
        ArtifactError: a bundle that the page would not compute as edgedistill does.
    """
    _refuse_unlike(bundle)
    for name, file in _runtime(ort_web).items():
        shutil.copyfile(file, out / name)
    for page in sorted(PAGE.iterdir()):
        shutil.copyfile(page, out / page.name)
    shutil.copyfile(bundle.file(bundle.manifest.onnx), out / "model.onnx")
    (out / "contract.json").write_text(json.dumps(_contract(bundle.manifest, out / "model.onnx"), indent=1) + "\n", encoding="utf-8")


def _contract(manifest: Manifest, model: Path) -> dict[str, object]:
    contract = manifest.contract
    known = {"name": manifest.name, "preprocessing": contract.preprocessing.model_dump(mode="json"), "classes": contract.classes}
    return {"format": FORMAT, **known, "model": {"bytes": model.stat().st_size, "sha256": sha256(model)}}


def _runtime(ort_web: Path | None) -> dict[str, Path]:
    """The files of ONNX Runtime Web by name, each as it was published."""
    if ort_web is None:
        raise ConfigError(f"--web needs ONNX Runtime Web: {_COMMAND}, then pass --ort-web node_modules/onnxruntime-web")
    found = {name: next((path for path in (ort_web / "dist" / name, ort_web / name) if path.is_file()), None) for name in ORT_FILES}
    for name, expected in ORT_FILES.items():
        file = found[name]
        if file is None:
            raise ConfigError(f"--ort-web {ort_web}: has no dist/{name}; pass the folder of the npm package: {_COMMAND}")
        if sha256(file) != expected:
            raise ConfigError(f"--ort-web {ort_web}: {name} is not that of onnxruntime-web {VERSION}; install this version: {_COMMAND}")
    return {name: file for name, file in found.items() if file is not None}


def _refuse_unlike(bundle: Bundle) -> None:
    contract = bundle.manifest.contract
    given, root = contract.preprocessing, bundle.root
    if contract.decoding is not None:
        raise ArtifactError(f"{root}: its boxes are decoded on the host, which the page does not do; export with export.decode: graph")
    if len(bundle.parts(bundle.manifest.onnx)) > 1:
        raise ArtifactError(f"{root}: its graph has its tensors in files of their own, which the page does not load; export it as one file")
    if given.reduced_decoding:
        raise ArtifactError(f"{root}: its network sees JPEGs decoded at a reduced size (reduced_decoding), which browsers do not do")
    if given.white != FULL_WHITE:
        raise ArtifactError(f"{root}: its images have a range of their own (white: {given.white}), which browsers cannot read")
    if given.alpha == "ignore":
        raise ArtifactError(f"{root}: its network sees colors below transparency (alpha: ignore), which browsers do not show")
