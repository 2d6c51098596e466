"""An alternative in run.py: LitServe with the engine in a worker process. Usage: python litserve_server.py BUNDLE PORT."""

import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
from bare_engine import BareEngine
from fastapi import Body


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The request body is the image, which is the cheapest form for LitServe."""

    def setup(self, device: str) -> None:
        """Open the engine."""
        self.engine = BareEngine(Path(sys.argv[1]))

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        """Pass the body on unchanged."""
        return request

    def predict(self, content: bytes) -> list[dict[str, Any]]:
        """Decode and detect."""
        return self.engine(content)

    def encode_response(self, output: list[dict[str, Any]]) -> dict[str, Any]:
        """Answer with JSON."""
        return {"annotations": output}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="error", generate_client_file=False, access_log=False)
