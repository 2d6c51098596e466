"""`edgedistill package`: writes a folder with everything that others need to serve a bundle."""

import shutil
from pathlib import Path
from string import Template

from deploy.bundles import triton
from deploy.bundles.bundle import Bundle
from deploy.runtimes import Delivery, delivery

FILES = Path(__file__).parent / "files"
_COPIED = ("start.sh", "client.py")
_OF_WHOLE_GRAPHS = ("triton.sh", "plain_onnxruntime.py")
_WITHOUT = """
## Decoded on the host

The graph of this bundle returns raw outputs, of which edgedistill makes boxes. So there is no Triton repository here, and no
plain_onnxruntime.py; what a program of your own has to do is in docs/host-decoding.md of edgedistill.
"""
MODELS = "triton"
_WORDS_OF_WHOLE_GRAPHS = {
    "triton_row": "| `triton/`, `triton.sh` | a model repository, and how to start `tritonserver` on it |\n",
    "plain_row": "| `plain_onnxruntime.py` | runs the graph in ONNX Runtime without edgedistill: the code to port to other languages |\n",
    "scripts": "`start.sh` and `triton.sh`",
}
_WORDS_OF_OTHERS = {"triton_row": "", "plain_row": "", "scripts": "`start.sh`"}


def ship(bundle: Bundle, out: Path, *, image: str | None = None) -> None:
    """Write into `out`, an empty folder: the bundle itself, a Triton model repository, containers, a KServe manifest, clients.

    Args:
        image: the container image's name in kserve.yaml; None: edgedistill/<name>:<the first digits of the engine's sha256>.
    """
    manifest = bundle.manifest
    bundle.copy(out / "bundle")
    whole = manifest.contract.decoding is None  # Triton and the plain program expect boxes of the graph
    if whole:
        triton.write(bundle, out / MODELS)
    digest = manifest.files[manifest.engine or manifest.onnx]
    needs = delivery(manifest.runtime)
    words = {
        "name": manifest.name,
        "kubernetes_name": kubernetes_name(manifest.name),
        "image": image or f"edgedistill/{manifest.name.lower()}:{digest[:12]}",
        "kind": needs.devices[0],
        "dockerfiles": " and ".join(f"`Dockerfile.{kind}`" for kind in needs.devices),
        "height": str(manifest.contract.preprocessing.height),
        "width": str(manifest.contract.preprocessing.width),
        **(_WORDS_OF_WHOLE_GRAPHS if whole else _WORDS_OF_OTHERS),
    }
    for kind in needs.devices:
        _fill("Dockerfile", out / f"Dockerfile.{kind}", {**words, **container(needs, kind)})
    for name in ("kserve.yaml", "README.md"):
        _fill(name, out / name, words)
    if not whole:
        with (out / "README.md").open("a", encoding="utf-8") as readme:
            readme.write(_WITHOUT)
    for name in (*_COPIED, *(_OF_WHOLE_GRAPHS if whole else ())):
        shutil.copy(FILES / name, out / name)


def kubernetes_name(name: str) -> str:
    """A bundle's name as KServe takes it: it begins with a letter, and leaves room in the 63 letters of a service for what KServe adds."""
    plain = "".join(c if c.isalnum() else "-" for c in name.lower())
    return (plain if plain[0].isalpha() else f"model-{plain}")[:40].strip("-")


def container(needs: Delivery, kind: str) -> dict[str, str]:
    """The parts that differ between the Dockerfiles for a CPU and a GPU."""
    if kind == "cpu":
        how = "If the gates passed on a different processor, they are judged again at startup; see start.sh."
        plain = {"device": "a CPU", "suffix": "", "more": "", "variables": "", "start": "120"}
    else:
        how = "docker run --gpus all; the driver comes from the host, the rest from pip. On a different GPU the engine is rebuilt."
        variables = " NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        plain = {"device": "an NVIDIA GPU", "suffix": "-gpu", "variables": variables, "start": "600"}
        plain["more"] = "".join(f' "{package}"' for package in needs.gpu_packages)
    return {**plain, "kind": kind, "how": how, "extras": ",".join(["serve", "build", "signing", *([needs.extra] if needs.extra else [])])}


def _fill(name: str, out: Path, words: dict[str, str]) -> None:
    out.write_text(Template((FILES / name).read_text(encoding="utf-8")).substitute(words), encoding="utf-8")
