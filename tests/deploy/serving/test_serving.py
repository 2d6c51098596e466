"""The HTTP application, in this process."""

import base64
import errno
import gzip
import hashlib
import io
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from clock import Clock
from PIL import Image
from waiting import join, until

from deploy import machine
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.errors import ArtifactError, ConfigError
from deploy.prediction import image_files, masks, preprocess
from deploy.prediction.detections import to_coco
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Raw, Session
from deploy.serving.logs import Log
from deploy.serving.options import ServeConfig

testclient = pytest.importorskip("starlette.testclient")
api = pytest.importorskip("deploy.serving.api")
service = pytest.importorskip("deploy.serving.service")

CELLS = {(0, 1): 0, (2, 3): 2}
LIMIT = 20_000
CONFIG = {"threads": 1, "max_batch_size": 4, "max_body_mib": LIMIT / 2**20, "max_pixels": 100_000, "max_images": 3}


def encoded(cells: dict[tuple[int, int], int] = CELLS, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(onnx_samples.picture(cells)).save(file, kind)
    return file.getvalue()


class Served:
    """A loaded service, a client of it, and what it logged."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.lines = io.StringIO()
        self.service = service.Service(folder, ServeConfig(**{**CONFIG, **options}), log=Log(self.lines))
        self.service.load()
        self.client = testclient.TestClient(api.app(self.service), raise_server_exceptions=False, base_url="http://localhost")

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.getvalue().splitlines()]

    def metric(self, name: str) -> float:
        """The value on the line of /metrics that begins so."""
        line = next(line for line in self.client.get("/metrics").text.splitlines() if line.startswith(name))
        return float(line.rpartition(" ")[2])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[Served]:
    made = Served(bundle.root)
    yield made
    made.service.close()


@pytest.fixture
def client(served: Served) -> Any:
    return served.client


def expected(bundle: Bundle, *contents: bytes) -> list[dict[str, Any]]:
    """What `predict` finds."""
    contract = bundle.manifest.contract
    with bundle.open(threads=1) as session:
        predictor = SessionPredictor(session, contract)
        images = enumerate((image_files.load_image(content, contract.preprocessing) for content in contents), start=1)
        return [one for number, image in images for one in to_coco(predictor.detect(image), number, contract)]


def wrapped(content: bytes) -> str:
    return base64.encodebytes(content).decode()  # lines of 76 characters


def address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


SPELLINGS: dict[str, Callable[[bytes], Any]] = {
    "json": lambda content: {"image": base64.b64encode(content).decode()},
    "list": lambda content: {"images": [base64.b64encode(content).decode()]},
    "line breaks": lambda content: {"image": wrapped(content)},
    "other alphabet, no padding": lambda content: {"image": base64.urlsafe_b64encode(content).decode().rstrip("=")},
    "address in json": lambda content: {"image": address(content)},
    "address": lambda content: address(content).encode(),
    "encoded address": lambda content: address(content).replace("+", "%2B").replace("=", "%3D").encode(),
    "byte order mark": lambda content: b"\xef\xbb\xbf" + json.dumps({"image": address(content)}).encode(),
}


class TestDetect:
    def test_an_image_gives_coco_boxes_in_its_own_pixels(self, client: Any, bundle: Bundle) -> None:
        answer = client.post("/v1/detect", content=encoded())
        assert answer.status_code == 200
        body = answer.json()
        assert (body["model"], body["version"], body["images"]) == ("cells-here", "1", [{"id": 1, "width": 64, "height": 64}])
        assert body["categories"] == [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}, {"id": 90, "name": "blue"}]
        assert {(one["category_id"], *one["bbox"]) for one in body["annotations"]} == {(3, 16, 0, 16, 16), (90, 48, 32, 16, 16)}
        assert body["annotations"] == expected(bundle, encoded())
        assert set(body["timings_ms"]) == {"decode", "pre", "queue", "infer", "post", "end_to_end"}

    def test_several_files_of_a_form_are_answered_in_their_order(self, client: Any, bundle: Bundle) -> None:
        contents = [encoded(), encoded({}), encoded({(3, 3): 1}, "JPEG")]
        files = [("images", (f"{number}.png", content)) for number, content in enumerate(contents)]
        body = client.post("/v1/detect", files=files, data={"note": "x"}).json()
        assert [(one["id"], one["file_name"]) for one in body["images"]] == [(1, "0.png"), (2, "1.png"), (3, "2.png")]
        assert body["annotations"] == expected(bundle, *contents)

    @pytest.mark.parametrize("write", SPELLINGS.values(), ids=SPELLINGS)
    def test_an_image_in_base64_is_answered_as_its_bytes_are(self, served: Served, bundle: Bundle, write: Callable[[bytes], Any]) -> None:
        sent = write(encoded())
        given = {"content": sent} if isinstance(sent, bytes) else {"json": sent}
        answer = served.client.post("/v1/detect", **given)
        assert answer.status_code == 200, answer.text
        assert answer.json()["annotations"] == expected(bundle, encoded())
        assert (served.service.admission.bytes, served.service.admission.images) == (0, 0)

    def test_several_images_in_json_are_answered_in_their_order(self, client: Any, bundle: Bundle) -> None:
        contents = [encoded(), encoded({}), encoded({(3, 3): 1}, "JPEG")]
        body = client.post("/v1/detect", json={"images": [base64.b64encode(content).decode() for content in contents]}).json()
        assert [one["id"] for one in body["images"]] == [1, 2, 3]
        assert body["annotations"] == expected(bundle, *contents)

    def test_files_of_a_form_need_no_disk(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("starlette.formparsers.MultiPartParser.spool_max_size", 100)
        monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        assert client.post("/v1/detect", files=[("images", ("a.png", encoded()))]).status_code == 200

    def test_a_name_that_json_cannot_hold_is_returned_as_escapes(self, client: Any) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="+2AA-.png"\r\n\r\n'
        sent = {"content": head + encoded() + b"\r\n--x--\r\n", "headers": {"content-type": f"{FORM['content-type']}; charset=utf-7"}}
        assert client.post("/v1/detect", **sent).json()["images"][0]["file_name"] == "\\ud800.png"

    def test_min_score_leaves_out_lower_scores(self, client: Any) -> None:
        scores = sorted(one["score"] for one in client.post("/v1/detect", content=encoded()).json()["annotations"])
        least = (scores[0] + scores[1]) / 2
        kept = client.post(f"/v1/detect?min_score={least}", content=encoded()).json()["annotations"]
        assert [one["score"] for one in kept] == [score for score in scores if score >= least]

    @pytest.mark.parametrize("frame", ["box", "image"])
    def test_masks_are_returned_if_the_detector_has_them(self, tmp_path: Path, frame: Any) -> None:
        made = samples.bundle(tmp_path)
        content = onnx_samples.detector(mask_frame=frame).SerializeToString()
        for name in ("engine.onnx", "model.onnx"):
            (made.root / name).write_bytes(content)
        manifest = json.loads((made.root / MANIFEST).read_text())
        manifest["contract"]["mask_frame"] = frame
        manifest["graph"]["sha256"] = hashlib.sha256(content).hexdigest()
        samples.resign(made.root, manifest)
        masked = Served(made.root)
        detections = masked.client.post("/v1/detect", content=encoded()).json()["annotations"]
        outputs = masked.client.get("/v2/models/cells-here").json()["outputs"]
        assert outputs[-1] == {"name": "masks", "datatype": "FP32", "shape": [-1, onnx_samples.MAX_DETECTIONS, -1, -1]}
        assert len(detections) == 2
        for one in detections:
            x, y, width, height = (int(value) for value in one["bbox"])
            inside = masks.decode(one["segmentation"], (64, 64))
            assert inside[y + 2 : y + height - 2, x + 2 : x + width // 2 - 2].all()
            assert inside.sum() == pytest.approx(width * height / (2 if frame == "box" else 1), rel=0.2)
        masked.service.close()

    def test_an_image_without_objects_gives_an_empty_list(self, client: Any) -> None:
        assert client.post("/v1/detect", content=encoded({})).json()["annotations"] == []

    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate"])
    def test_a_compressed_body_is_decompressed(self, client: Any, encoding: str) -> None:
        packed = gzip.compress(encoded()) if encoding.lower() == "gzip" else zlib.compress(encoded())
        answer = client.post("/v1/detect", content=packed, headers={"content-encoding": encoding})
        assert answer.json()["annotations"] == client.post("/v1/detect", content=encoded()).json()["annotations"]


def large() -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("L", (1000, 101)).save(file, "PNG")
    return file.getvalue()


def run_lengths() -> bytes:
    """A BMP of 8 bits a px, compressed."""
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "BMP")
    content = bytearray(file.getvalue())
    content[30:34] = (1).to_bytes(4, "little")
    return bytes(content)


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b"x" * 1000


FORM = {"content-type": "multipart/form-data; boundary=x"}
NO_FILE = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "headers", "query", "code", "words"),
        [
            (b"", {}, "", 400, "not an image"),
            (b"not an image", {}, "", 400, "not an image"),
            (encoded()[:60], {}, "", 400, "cannot be read"),
            (large(), {}, "", 400, "1000 x 101 px is more than 100,000"),
            (b"P5 8 8 254\n" + bytes(64), {}, "", 400, "not an image"),
            (run_lengths(), {}, "", 400, "run-length-encoded BMP"),
            (encoded(kind="JPEG") + b"\xff\xda" * 200, {}, "", 400, "more than 100 scans"),
            (encoded(), {}, "?min_score=2", 400, "min_score '2'; allowed: 0 to 1"),
            (encoded(), {}, "?min_score=nan", 400, "min_score 'nan'"),
            (encoded(), {"x-timeout-ms": "soon"}, "", 400, "X-Timeout-Ms 'soon'"),
            (NO_FILE, FORM, "", 400, "no file"),
            (b"broken", FORM, "", 400, ""),
            (NO_FILE, {"content-type": "Multipart/Form-Data; boundary=x"}, "", 400, "no file"),
            (NO_FILE, {"content-type": "multipart/form-data; boundary=x; charset=undefined"}, "", 400, "the form's charset cannot be read"),
            (b"x" * (LIMIT + 1), {}, "", 413, "larger than 20,000 bytes"),
            (gzip.compress(bytes(LIMIT + 1), mtime=0), {"content-encoding": "gzip"}, "", 413, "decompresses to more than 20,000"),
            (gzip.compress(encoded(), mtime=0)[:-9], {"content-encoding": "gzip"}, "", 400, "is truncated"),
            (b"no gzip", {"content-encoding": "gzip"}, "", 400, "not valid gzip"),
            (gzip.compress(b"a") * 2, {"content-encoding": "gzip"}, "", 400, "the body goes on after its gzip data"),
            (zlib.compress(b"a") + b"b", {"content-encoding": "deflate"}, "", 400, "the body goes on after its deflate data"),
            (encoded(), {"content-encoding": "br"}, "", 415, "allowed: gzip, deflate"),
            (gzip.compress(NO_FILE, mtime=0), {**FORM, "content-encoding": "gzip"}, "", 415, "of a form"),
        ],
    )
    def test_an_error_is_one_line_that_names_the_problem(
        self, client: Any, content: bytes, headers: Mapping[str, str], query: str, code: int, words: str
    ) -> None:
        answer = client.post(f"/v1/detect{query}", content=content, headers=headers)
        assert answer.status_code == code
        assert words in answer.json()["error"]
        assert "\n" not in answer.json()["error"]

    def test_a_body_in_chunks_is_cut_off_at_the_limit(self, client: Any) -> None:
        assert client.post("/v1/detect", content=chunks(50)).status_code == 413

    def test_too_many_files_and_the_bad_one_among_several(self, client: Any) -> None:
        four = [("images", ("a.png", encoded()))] * 4
        for files in (four, four * 2, four * 10):
            answer = client.post("/v1/detect", files=files)
            assert (answer.status_code, answer.json()["error"]) == (413, "more than 3 images in one request")
        answer = client.post("/v1/detect", files=[*four[:1], ("images", ("b.png", b"bad"))])
        assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (400, "image 2 of 2")

    @pytest.mark.parametrize(
        ("sent", "code", "words"),
        [
            (base64.b64encode(encoded()), 400, "send the bytes themselves, or JSON"),
            (b'{"image": "', 400, "the body is not JSON"),
            (b"[" * 9000, 400, "the body is not JSON"),
            (b'{"image": "a", "score": 1}', 400, "JSON with keys 'image', 'score'; allowed"),
            (b"[]", 400, "JSON with a list; allowed"),
            (b'{"images": []}', 400, "images is not a list of at least one image"),
            (b'{"image": 7}', 400, "image is not text"),
            (b'{"image": "%%%%"}', 400, "image: not valid base64"),
            (b'{"image": "abcde"}', 400, "image: not valid base64"),
            (b'{"image": ""}', 400, "image: empty"),
            (b'{"image": "aGVsbG8="}', 400, "image of 5 bytes: not an image"),
            (b'{"image": "https://example.org/a.png"}', 400, "image: an address, and nothing is downloaded"),
            (b"data:image/png,abc", 400, "the body: a data: address without ;base64"),
            (b'{"images": ["aGVsbG8=", "%"]}', 400, "images[1]: not valid base64"),
            (b'{"images": ["a", "a", "a", "a"]}', 413, "more than 3 images"),
        ],
    )
    def test_text_without_an_image_is_refused_in_one_line(self, client: Any, sent: bytes, code: int, words: str) -> None:
        answer = client.post("/v1/detect", content=sent)
        assert answer.status_code == code
        assert words in answer.json()["error"]
        assert "\n" not in answer.json()["error"]

    def test_other_methods_and_addresses(self, client: Any) -> None:
        assert client.get("/v1/detect").status_code == 405
        assert (client.get("/nothing").status_code, client.get("/nothing").json()) == (404, {"error": "Not Found"})

    def test_an_engine_that_fails_is_a_500_and_the_next_request_is_answered(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(images: Any, deadline: float, client: str) -> Any:
            raise ArtifactError("the engine failed")

        with monkeypatch.context() as patch:
            patch.setattr(served.service._model.batcher, "submit", fail)
            answer = served.client.post("/v1/detect", content=encoded())
        assert (answer.status_code, answer.json()) == (500, {"error": "the engine failed"})
        assert served.client.post("/v1/detect", content=encoded()).status_code == 200

    def test_the_unexpected_keeps_its_traceback_to_the_log(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("deploy.prediction.image_files.load", lambda *_, **__: 1 / 0)
            answer = served.client.post("/v1/detect", content=encoded())
        assert (answer.status_code, "division" in answer.text) == (500, False)
        assert "ZeroDivisionError" in "".join(served.log()[-1]["traceback"])


class TestOperations:
    def test_a_request_id_comes_back_and_stands_in_the_log(self, served: Served) -> None:
        answer = served.client.post("/v1/detect", content=encoded(), headers={"x-request-id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        line = served.log()[-1]
        assert (line["request_id"], line["path"], line["status"]) == ("mine-1", "/v1/detect", 200)
        forged = served.client.post("/v1/detect", content=encoded(), headers={"x-request-id": 'a" b'})
        assert forged.headers["x-request-id"] != 'a" b'

    def test_metrics_count_requests_passes_and_errors(self, served: Served) -> None:
        before = (
            served.metric('edgedistill_requests_total{code="200",endpoint="detect"}'),
            served.metric("edgedistill_compute_seconds_count"),
        )
        served.client.post("/v1/detect", content=encoded())
        assert served.metric('edgedistill_requests_total{code="200",endpoint="detect"}') == before[0] + 1
        assert served.metric("edgedistill_compute_seconds_count") == before[1] + 1
        served.client.post("/v1/detect", content=b"bad")
        assert served.metric('edgedistill_errors_total{kind="invalid"}') >= 1
        text = served.client.get("/metrics").text
        assert "edgedistill_engine_info{" in text
        assert f'fingerprint_cpu="{machine.cpu_model()}"' in text
        assert served.metric("edgedistill_ready") == 1

    def test_a_draining_server_is_live_but_not_ready_and_answers_requests(self, served: Served) -> None:
        served.service.draining = True
        try:
            assert served.client.get("/v2/health/live").status_code == 200
            assert served.client.get("/v2/health/ready").status_code == 400
            assert served.client.get("/v2/models/cells-here/ready").status_code == 400
            answer = served.client.post("/v1/detect", content=encoded())
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        finally:
            served.service.draining = False

    def test_before_the_engine_is_loaded_requests_are_sent_away(self, bundle: Bundle) -> None:
        early = service.Service(bundle.root, ServeConfig(), log=Log(io.StringIO()))
        client = testclient.TestClient(api.app(early), base_url="http://localhost")
        assert client.get("/v2/health/ready").status_code == 400
        assert client.get("/v2/models/cells-here/ready").status_code == 400
        answer = client.post("/v1/detect", content=encoded())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        early.close()

    def test_a_token_guards_all_but_health_the_page_and_the_document(self, bundle: Bundle, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("0123456789abcdef\n")
        guarded = Served(bundle.root, token_file=tmp_path / "token")
        client = guarded.client
        for path in ("/", "/openapi.json", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/metrics", "/v2", "/v2/models/cells-here"):
            assert (client.get(path).status_code, client.get(path).headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/v1/detect", content=encoded(), headers={"authorization": "Bearer 0123456789abcdeF"}).status_code == 401
        assert client.post("/v1/detect", content=encoded(), headers={"authorization": "Bearer 0123456789abcdef"}).status_code == 200
        assert "0123456789abcde" not in guarded.lines.getvalue()
        guarded.service.close()

    @pytest.mark.parametrize(("content", "words"), [("short", "16 or more"), ("", "16 or more"), (None, "No such file")])
    def test_an_invalid_token_is_refused(self, bundle: Bundle, tmp_path: Path, content: str | None, words: str) -> None:
        file = tmp_path / "token"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigError, match=words):
            service.Service(bundle.root, ServeConfig(token_file=file))

    def test_the_document_names_every_address_and_the_page_loads_nothing_from_elsewhere(self, client: Any) -> None:
        document = client.get("/openapi.json").json()
        routes = {(route.path, method.lower()) for route in client.app.routes for method in route.methods if method != "HEAD"}
        assert {(path, method) for path, item in document["paths"].items() for method in item if method != "parameters"} == routes
        page = client.get("/")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        assert "http://" not in page.text.replace("http://www.w3.org", "")
        assert "https://" not in page.text


class TestGates:
    def test_an_ungated_bundle_is_served_only_when_asked_for_and_loudly(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path, ({"metric": "map", "min": 2.0},))
        lines = io.StringIO()
        with pytest.raises(ArtifactError, match="--allow-ungated"):
            service.Service(made.root, ServeConfig(**CONFIG), log=Log(lines)).load()
        allowed = service.Service(made.root, ServeConfig(**CONFIG), allow_ungated=True, log=Log(lines))
        allowed.load()
        warned = [json.loads(line) for line in lines.getvalue().splitlines() if '"warning"' in line]
        assert [one["event"] for one in warned] == ["ungated bundle"]
        assert 'gated="false"' in allowed.metrics.text(pending=0, ready=True).decode()
        allowed.close()

    def test_gates_that_passed_on_another_kind_of_machine_do_not_count(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle.refuse_ungated_here()
        elsewhere = {**machine.identity(), "cpu": "Imagined 3000"}
        monkeypatch.setattr(machine, "identity", lambda: elsewhere)
        with pytest.raises(
            ArtifactError, match=r"passed on a machine with .*, and this one has Imagined 3000; judge it here: edgedistill build"
        ):
            bundle.refuse_ungated_here()
        elsewhere["cpu"] = machine.cpu_model()
        elsewhere["cores"] = "999"
        bundle.refuse_ungated_here()


class TestModel:
    @pytest.mark.parametrize("count", [2, 4])
    def test_a_batch_answers_bit_for_bit_what_single_images_do(self, bundle: Bundle, count: int) -> None:
        from deploy.serving.model import _images

        images, _ = _images(bundle, count)
        with bundle.open(threads=1) as session:
            together = session.infer(images)
            for index in range(count):
                alone = session.infer(images[index : index + 1])
                for name in ("boxes", "scores", "labels"):
                    assert (getattr(alone, name)[0] == getattr(together, name)[index]).all()

    def test_a_graph_of_one_image_is_not_asked_for_more(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        (made.root / "engine.onnx").write_bytes(onnx_samples.detector(dynamic_batch=False).SerializeToString())
        manifest = json.loads((made.root / MANIFEST).read_text())
        manifest["graph"]["dynamic_batch"] = False
        samples.resign(made.root, manifest)
        single = Served(made.root, max_batch_size=None)
        assert single.service._model.batcher.max_batch_size == 1
        files = [("images", ("a.png", encoded()))] * 3
        assert len(single.client.post("/v1/detect", files=files).json()["annotations"]) == 6
        single.service.close()
        with pytest.raises(ArtifactError, match=r"cannot run a batch of 2: .*; set serve\.max_batch_size lower"):
            Served(made.root, max_batch_size=2)

    def test_an_engine_that_did_not_converge_fails_the_test(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path)
        (made.root / "engine.onnx").write_bytes(onnx_samples.detector(converged=False).SerializeToString())
        samples.resign(made.root, json.loads((made.root / MANIFEST).read_text()))
        with pytest.raises(ArtifactError, match="did not converge"):
            Served(made.root)

    def test_a_mixture_of_answers_is_a_drift(self, bundle: Bundle) -> None:
        from deploy.serving.model import batch_drift

        contract = bundle.manifest.contract
        pictures = [onnx_samples.picture(cells) for cells in (CELLS, {(3, 3): 1, (0, 0): 2})]
        images = np.stack([preprocess.apply(picture, contract.preprocessing)[0] for picture in pictures])
        with bundle.open(threads=1) as session:
            alone, together = session.infer(images[:1]), session.infer(images)
        assert batch_drift(alone, together, 0) == 0
        assert batch_drift(alone, together, 1) == float("inf")
        assert batch_drift(alone, replace(together, scores=together.scores * np.float32("nan")), 0) == float("inf")
        assert 0 < batch_drift(alone, replace(together, scores=together.scores - np.float32(0.01)), 0) < 0.02

    def test_a_model_that_has_closed_is_not_taken(self, bundle: Bundle) -> None:
        from deploy.serving.model import Model

        model = Model.open(bundle, ServeConfig(**CONFIG))
        assert model.take()
        closing = threading.Thread(target=model.close, daemon=True)
        closing.start()
        until(lambda: model._free._waiters, "the model to wait for its last request")  # type: ignore[attr-defined]
        assert closing.is_alive()
        model.give_back()
        join(closing)
        assert not model.take()

    def test_equal_sizes_are_taken_large_and_slower_ones_not(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        from deploy.serving.model import fastest_size

        clock = Clock()
        clock.replace(monkeypatch, "deploy.serving.model.monotonic", "deploy.serving.model.perf_counter")

        class Timed(Session):
            def __init__(self, seconds: dict[int, float]) -> None:
                self.seconds = seconds

            def infer(self, images: Any) -> Raw:
                clock.seconds += self.seconds[len(images)]
                return Raw(*(np.zeros(1) for _ in range(4)))  # type: ignore[arg-type]

            def close(self) -> None:
                """Nothing is open."""

        assert fastest_size(bundle, Timed({1: 0.004, 2: 0.008, 4: 0.032, 8: 0.064})) == 2
        assert fastest_size(bundle, Timed({1: 0.008, 2: 0.010, 4: 0.012, 8: 0.016})) == 8
        assert fastest_size(bundle, Timed({1: 0.004, 2: 0.008, 4: 0.0163, 8: 0.0328})) == 4  # 2% is about equal


class TestSwap:
    def test_a_new_bundle_takes_over_and_a_bad_one_changes_nothing(self, tmp_path: Path) -> None:
        old, new, bad = (samples.bundle(tmp_path / name) for name in ("old", "new", "bad"))
        link = tmp_path / "current"
        link.symlink_to(old.root)
        (bad.root / "engine.onnx").write_bytes(b"broken")
        swapped = Served(link)
        assert swapped.client.post("/v1/detect", content=encoded()).json()["version"] == "1"
        link.unlink()
        link.symlink_to(bad.root)
        with pytest.raises(ArtifactError, match="sha256"):
            swapped.service.load()
        assert swapped.client.post("/v1/detect", content=encoded()).json()["version"] == "1"
        samples.resign(bad.root, json.loads((bad.root / MANIFEST).read_text()))
        with pytest.raises(ArtifactError, match="not an engine"):
            swapped.service.load()
        link.unlink()
        link.symlink_to(new.root)
        swapped.service.load()
        assert swapped.client.post("/v1/detect", content=encoded()).json()["version"] == "2"
        assert swapped.client.get("/v2/models/cells-here/versions/1").status_code == 404
        assert (swapped.metric('edgedistill_swaps_total{result="done"}'), swapped.metric('edgedistill_swaps_total{result="refused"}')) == (
            1,
            2,
        )
        swapped.service.close()

    def test_requests_swap_only_where_a_token_guards(self, bundle: Bundle, client: Any, tmp_path: Path) -> None:
        assert client.post("/v2/repository/models/cells-here/load").status_code == 403
        (tmp_path / "token").write_text("0123456789abcdef\n")
        guarded = Served(bundle.root, token_file=tmp_path / "token")
        headers = {"authorization": "Bearer 0123456789abcdef"}
        assert guarded.client.post("/v2/repository/models/other/load", headers=headers).status_code == 404
        assert guarded.client.post("/v2/repository/models/cells-here/load", headers=headers).status_code == 200
        assert guarded.client.get("/v2/models/cells-here", headers=headers).json()["versions"] == ["2"]
        guarded.service.close()
