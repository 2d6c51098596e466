"""`edgedistill package`: a folder with all that a bundle needs to be served by others."""

import shutil
from pathlib import Path
from string import Template

from deploy import triton
from deploy.bundle import Bundle

FILES = Path(__file__).parent / "files"
_FILLED = ("Dockerfile.cpu", "Dockerfile.gpu", "kserve.yaml", "README.md")
_COPIED = ("start.sh", "client.py", "plain_onnxruntime.py")
_EXTRAS = {"ort": "serve,build", "openvino": "serve,build,openvino", "trt": "serve,build,tensorrt", "trt_rtx": "serve,build,tensorrt-rtx"}
MODELS = "triton"


def ship(bundle: Bundle, out: Path, *, image: str | None = None) -> None:
    """Write into `out`, an empty folder: the bundle itself, a Triton model repository, containers, a KServe manifest, clients.

    Args:
        image: the container's name in kserve.yaml; null for edgedistill/<name>:<the first digits of the engine's sha256>.
    """
    manifest = bundle.manifest
    shutil.copytree(bundle.root, out / "bundle")
    triton.write(bundle, out / MODELS)
    digest = manifest.files[manifest.engine or manifest.onnx]
    words = {
        "name": manifest.name,
        "kubernetes_name": "".join(c if c.isalnum() else "-" for c in manifest.name.lower()).strip("-"),
        "image": image or f"edgedistill/{manifest.name.lower()}:{digest[:12]}",
        "target": manifest.target,
        "extras": _EXTRAS[manifest.runtime],
        "extras_cpu": _EXTRAS[manifest.runtime] if manifest.runtime in ("ort", "openvino") else _EXTRAS["ort"],
        "height": str(manifest.contract.preprocessing.height),
        "width": str(manifest.contract.preprocessing.width),
    }
    for name in _FILLED:
        text = Template((FILES / name).read_text(encoding="utf-8")).substitute(words)
        (out / name).write_text(text, encoding="utf-8")
    for name in _COPIED:
        shutil.copy(FILES / name, out / name)
