import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifact_samples as samples
import onnx_samples
import pytest
from PIL import Image

from deploy import masks
from deploy.errors import ArtifactError, ConfigError
from deploy.runtimes import ort

starlette_testclient = pytest.importorskip("starlette.testclient")
server = pytest.importorskip("deploy.server")

CELLS = {(0, 1): 0, (2, 3): 2}


def encoded(cells: dict[tuple[int, int], int] = CELLS, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(onnx_samples.picture(cells)).save(file, kind)
    return file.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = samples.bundle(tmp_path_factory.mktemp("served"))
    with made.open(threads=1) as session, starlette_testclient.TestClient(server.app(made, session, max_body_bytes=20_000)) as client:
        yield client


def test_an_image_gives_boxes_in_its_own_pixels(client: Any) -> None:
    answer = client.post("/v1/detect", content=encoded())
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model"], body["width"], body["height"]) == ("cells-here", 64, 64)
    found = {(one["category_id"], one["category"], *one["bbox"]) for one in body["detections"]}
    assert found == {(3, "red", 16, 0, 16, 16), (90, "blue", 48, 32, 16, 16)}
    assert all(0.9 < one["score"] <= 1 for one in body["detections"])
    assert set(body["detections"][0]) == {"category_id", "category", "bbox", "score"}
    assert set(body["timings_ms"]) == {"pre", "infer", "post", "end_to_end"}


def test_a_form_with_a_file_gives_the_same(client: Any) -> None:
    pytest.importorskip("python_multipart")
    answer = client.post("/v1/detect", files={"image": ("a.png", encoded(), "image/png")}, data={"note": "x"})
    assert answer.status_code == 200
    assert answer.json()["detections"] == client.post("/v1/detect", content=encoded()).json()["detections"]


@pytest.mark.parametrize("frame", ["box", "image"])
def test_masks_are_answered_where_the_detector_has_them(tmp_path: Path, frame: Any) -> None:
    made = samples.bundle(tmp_path)
    contract = onnx_samples.contract(mask_frame=frame)
    made = replace(made, manifest=made.manifest.model_copy(update={"contract": contract}))
    file = onnx_samples.write(tmp_path / "masks.onnx", mask_frame=frame)
    with ort.open(file, threads=1) as session, starlette_testclient.TestClient(server.app(made, session)) as client:
        detections = client.post("/v1/detect", content=encoded()).json()["detections"]
        outputs = client.get("/v2/models/cells-here").json()["outputs"]
    assert outputs[-1] == {"name": "masks", "datatype": "FP32", "shape": [-1, onnx_samples.MAX_DETECTIONS, -1, -1]}
    assert len(detections) == 2
    for one in detections:
        x, y, width, height = (int(value) for value in one["bbox"])
        inside = masks.decode(one["segmentation"], (64, 64))
        assert inside[y + 2 : y + height - 2, x + 2 : x + width // 2 - 2].all()
        assert inside.sum() == pytest.approx(width * height / (2 if frame == "box" else 1), rel=0.2)


def test_an_image_without_objects_gives_an_empty_list(client: Any) -> None:
    assert client.post("/v1/detect", content=encoded({})).json()["detections"] == []


@pytest.mark.parametrize("content", [b"", b"not an image", encoded()[:60]], ids=["empty", "text", "truncated"])
def test_a_bad_image_is_refused_in_one_line(client: Any, content: Any) -> None:
    answer = client.post("/v1/detect", content=content)
    assert answer.status_code == 400
    assert "\n" not in answer.json()["error"]


def test_a_form_without_a_file_is_refused(client: Any) -> None:
    pytest.importorskip("python_multipart")
    boundary = "multipart/form-data; boundary=x"
    answer = client.post(
        "/v1/detect", content=b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n', headers={"content-type": boundary}
    )
    assert (answer.status_code, "no file" in answer.json()["error"]) == (400, True)
    answer = client.post("/v1/detect", content=b"broken", headers={"content-type": boundary})
    assert answer.status_code == 400


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * 1000


@pytest.mark.parametrize("content", [b"x" * 20_001, chunks(50)], ids=["length stated", "in chunks"])
def test_a_body_above_the_limit_is_refused(client: Any, content: Any) -> None:
    answer = client.post("/v1/detect", content=content)
    assert answer.status_code == 413
    assert answer.json() == {"error": "the body is above 20,000 bytes; send a smaller image"}


def test_health_and_metadata(client: Any) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    model = client.get("/v2/models/cells-here").json()
    assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 64, 64]}]
    assert [one["name"] for one in model["outputs"]] == ["boxes", "scores", "labels", "converged"]
    unknown = client.get("/v2/models/other")
    assert (unknown.status_code, unknown.json()) == (404, {"error": "no model 'other'; this server has cells-here"})


def test_other_methods_and_paths_are_refused(client: Any) -> None:
    assert client.get("/v1/detect").status_code == 405
    assert client.get("/nothing").status_code == 404
    assert set(client.get("/nothing").json()) == {"error"}


def test_an_ungated_bundle_is_served_only_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, int]] = []

    def run(self: Any, sockets: list[socket.socket]) -> None:
        served.append(sockets[0].getsockname())

    monkeypatch.setattr(server.uvicorn.Server, "run", run)
    made = samples.bundle(tmp_path, ({"metric": "map", "min": 0.9},))
    with pytest.raises(ArtifactError, match="--allow-ungated"):
        server.serve(made.root)
    assert served == []
    server.serve(made.root, port=0, allow_ungated=True)
    assert served[0][0] == "127.0.0.1"


def test_an_address_that_cannot_be_listened_on_is_refused(tmp_path: Path) -> None:
    made = samples.bundle(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1, port {port} \(Address already in use\); give another --host"):
            server.serve(made.root, port=port)
    with pytest.raises(ConfigError, match=r"cannot listen on no\.host\.invalid, port 0 \("):
        server.serve(made.root, host="no.host.invalid", port=0)
