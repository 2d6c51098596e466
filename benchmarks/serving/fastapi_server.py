"""An alternative in run.py: a FastAPI handler as one would write it by hand. Usage: python fastapi_server.py BUNDLE PORT."""

import sys
from pathlib import Path
from typing import Any

import uvicorn
from bare_engine import BareEngine
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

app, engine = FastAPI(), BareEngine(Path(sys.argv[1]))


@app.post("/v1/detect")
async def detect(request: Request) -> list[dict[str, Any]]:
    """Detect objects in the request body, an image."""
    return await run_in_threadpool(engine, await request.body())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error", access_log=False)
