"""Ask a server to detect the objects in an image: python client.py photo.jpg [http://127.0.0.1:8000]. Needs only Python."""

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any


def detect(image: str, server: str = "http://127.0.0.1:8000") -> Any:
    """The answer of POST /v1/detect; boxes are [x, y, width, height] in px of the image."""
    with open(image, "rb") as file:
        request = urllib.request.Request(f"{server}/v1/detect", data=file.read(), method="POST")
    if token := os.environ.get("EDGEDISTILL_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    try:
        print(json.dumps(detect(*sys.argv[1:3]), indent=1))
    except urllib.error.HTTPError as refused:
        sys.exit(f"{refused}: {refused.read().decode()}")  # the server says why
