"""The Open Inference Protocol as NVIDIA's own client speaks it, against a server of this machine."""

import asyncio
import queue
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from serving_samples import Running
from waiting import PATIENCE, until

from deploy.bundles.bundle import Bundle
from deploy.prediction import preprocess
from deploy.prediction.predictor import SessionPredictor, decide
from deploy.runtimes import Raw

http = pytest.importorskip("tritonclient.http")
grpc = pytest.importorskip("tritonclient.grpc")
http_aio = pytest.importorskip("tritonclient.http.aio")
grpc_aio = pytest.importorskip("tritonclient.grpc.aio")
pytest.importorskip("uvicorn")

NAME = "cells-here"
TOKEN = "0123456789abcdef"
CELLS = [{(0, 1): 0, (2, 3): 2}, {}, {(3, 3): 1}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("oip"))


@pytest.fixture(scope="module")
def running(bundle: Bundle) -> Iterator[Running]:
    made = Running(bundle.root)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> Any:
    """Preprocessed, [3, 3, H, W]: more than one batch."""
    chosen = bundle.manifest.contract.preprocessing
    return np.stack([preprocess.apply(onnx_samples.picture(cells), chosen)[0] for cells in CELLS])


@pytest.fixture(scope="module")
def raw(bundle: Bundle, images: Any) -> Raw:
    with bundle.open(threads=1) as session:
        return session.infer(images)


def asked(module: Any, images: Any, **options: Any) -> list[Any]:
    given = module.InferInput("images", list(images.shape), "FP32")
    given.set_data_from_numpy(images, **options)
    return [given]


def check(result: Any, raw: Raw, names: tuple[str, ...] = ("boxes", "scores", "labels", "converged")) -> None:
    for name in names:
        value = result.as_numpy(name)
        expected = getattr(raw, name)
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape), name
        assert (value == expected).all(), name


def both(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two lines, or none while there are fewer."""
    found = list(lines)
    return found if len(found) >= 2 else []


class TestHttp:
    @pytest.fixture
    def client(self, running: Running) -> Iterator[Any]:
        with http.InferenceServerClient(running.http) as client:
            yield client

    def test_health_and_metadata(self, client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        assert client.is_model_ready(NAME, "1")
        assert not client.is_model_ready("other")
        server = client.get_server_metadata()
        assert (server["name"], "binary_tensor_data" in server["extensions"]) == ("edgedistill", True)
        model = client.get_model_metadata(NAME)
        assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 64, 64]}]
        assert [one["name"] for one in model["outputs"]] == ["boxes", "scores", "labels", "converged"]
        assert client.get_model_metadata(NAME, "1") == model
        config = client.get_model_config(NAME)
        assert (config["max_batch_size"], config["input"][0]["dims"]) == (2, [3, 64, 64])
        assert client.get_model_repository_index() == [{"name": NAME, "version": "1", "state": "READY", "reason": ""}]

    @pytest.mark.parametrize("binary_input", [True, False], ids=["binary in", "JSON in"])
    @pytest.mark.parametrize("binary_output", [True, False], ids=["binary out", "JSON out"])
    def test_infer(self, client: Any, images: Any, raw: Raw, binary_input: bool, binary_output: bool) -> None:
        outputs = [http.InferRequestedOutput(name, binary_data=binary_output) for name in ("scores", "boxes", "labels", "converged")]
        inputs = asked(http, images, binary_data=binary_input)
        result = client.infer(NAME, inputs, outputs=outputs, request_id="r1")
        check(result, raw)
        answer = result.get_response()
        assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r1", NAME, "1")
        assert [one["name"] for one in answer["outputs"]] == ["scores", "boxes", "labels", "converged"]

    def test_infer_returns_all_outputs_or_the_requested_ones(self, client: Any, images: Any, raw: Raw) -> None:
        check(client.infer(NAME, asked(http, images)), raw)
        some = client.infer(NAME, asked(http, images), outputs=[http.InferRequestedOutput("boxes")])
        check(some, raw, ("boxes",))
        assert some.as_numpy("scores") is None

    @pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
    def test_infer_compressed(self, client: Any, images: Any, raw: Raw, algorithm: str) -> None:
        check(client.infer(NAME, asked(http, images), request_compression_algorithm=algorithm), raw)

    def test_infer_asynchronously(self, client: Any, running: Running, images: Any, raw: Raw) -> None:
        requests = [client.async_infer(NAME, asked(http, images)) for _ in range(4)]
        for request in requests:
            check(request.get_result(), raw)

        async def ask() -> Any:
            async with http_aio.InferenceServerClient(running.http) as other:
                return await asyncio.gather(*(other.infer(NAME, asked(http_aio, images)) for _ in range(4)))

        for result in asyncio.run(ask()):
            check(result, raw)

    def test_statistics_count(self, client: Any, images: Any) -> None:
        def count() -> int:
            return int(client.get_inference_statistics(NAME)["model_stats"][0]["inference_count"])

        before = count()
        client.infer(NAME, asked(http, images))
        assert count() == before + 3
        assert client.get_inference_statistics()["model_stats"][0]["inference_count"] == before + 3

    def test_detections_equal_those_of_predict(self, client: Any, bundle: Bundle) -> None:
        contract = bundle.manifest.contract
        picture = onnx_samples.picture(CELLS[0])
        tensor, placement = preprocess.apply(picture, contract.preprocessing)
        result = client.infer(NAME, asked(http, tensor[None]))
        answer = Raw(*(result.as_numpy(name) for name in ("boxes", "scores", "labels", "converged")))
        found = decide(answer, placement, contract)
        with bundle.open(threads=1) as session:
            expected = SessionPredictor(session, contract).detect(picture)
        assert (found.boxes == expected.boxes).all()
        assert (found.scores == expected.scores).all()
        assert (found.labels == expected.labels).all()

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda body: body.pop("inputs"), "inputs"),
            (lambda body: body["inputs"].append(body["inputs"][0]), "2 inputs"),
            (lambda body: body["inputs"][0].update(name="x"), "input 'x'; this model's input is images"),
            (lambda body: body["inputs"][0].update(datatype="INT8"), "FP32"),
            (lambda body: body["inputs"][0].update(shape=[1, 3, 64, 65]), "must be [n, 3, 64, 64]"),
            (lambda body: body["inputs"][0].update(shape=[1, 3, -64, -64]), "must be [n, 3, 64, 64]"),
            (lambda body: body["inputs"][0].update(shape=[0, 3, 64, 64]), "must be [n, 3, 64, 64]"),
            (lambda body: body["inputs"][0].update(data=[1, 2]), "2 numbers"),
            (lambda body: body["inputs"][0].update(data=[[1], [2, 3]]), "must be numbers"),
            (lambda body: body["inputs"][0].update(data=["a"] * (3 * 64 * 64)), "must be numbers"),
            (lambda body: body["inputs"][0].update(data=[1e300] * (3 * 64 * 64)), "not finite"),
            (lambda body: body["inputs"][0].pop("data"), "has no data"),
            (lambda body: body["inputs"][0].update(parameters={"binary_data_size": 4}), "binary_data_size 4"),
            (lambda body: body.update(outputs=[{"name": "x"}]), "output 'x'"),
            (lambda body: body.update(outputs=[{"name": "boxes"}] * 2), "requested twice"),
            (lambda body: body.update(inputs=[1] * 1000), "inputs"),
            (lambda body: body.update(outputs=[{"name": "scores", "parameters": {"classification": 3}}]), "classification"),
            (lambda body: body["inputs"][0].update(parameters={"shared_memory_region": "r"}), "shared_memory_region"),
            (lambda body: body.update(parameters={"timeout": "soon"}), "timeout"),
        ],
    )
    def test_an_invalid_request_is_refused_in_one_line(self, running: Running, change: Any, words: str) -> None:
        import httpx

        data = [0.0] * (3 * 64 * 64)
        body: dict[str, Any] = {"inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 64, 64], "data": data}]}
        change(body)
        answer = httpx.post(f"http://{running.http}/v2/models/{NAME}/infer", json=body, timeout=PATIENCE)
        assert answer.status_code == 400, answer.text
        assert words in answer.json()["error"]
        assert "\n" not in answer.json()["error"]

    def test_too_many_images_and_a_wrong_header_length(self, running: Running, client: Any) -> None:
        import httpx

        with pytest.raises(http.InferenceServerException, match="17 images in one request; at most 16 are allowed"):
            client.infer(NAME, asked(http, np.zeros((17, 3, 64, 64), np.float32)))
        for header in ("9999", "-1", "x"):
            headers = {"inference-header-content-length": header}
            answer = httpx.post(f"http://{running.http}/v2/models/{NAME}/infer", content=b"{}", headers=headers, timeout=PATIENCE)
            assert answer.status_code == 400

    def test_a_request_s_timeout_is_kept(self, client: Any, images: Any, raw: Raw) -> None:
        with pytest.raises(http.InferenceServerException, match="the request's time"):
            client.infer(NAME, asked(http, images), timeout=1)
        check(client.infer(NAME, asked(http, images), timeout=int(PATIENCE * 1e6)), raw)


class TestGrpc:
    @pytest.fixture
    def client(self, running: Running) -> Iterator[Any]:
        with grpc.InferenceServerClient(running.grpc) as client:
            yield client

    def test_health_and_metadata(self, client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(NAME)
        with pytest.raises(grpc.InferenceServerException, match="no model 'other'"):
            client.is_model_ready("other")
        assert client.get_server_metadata(as_json=True)["name"] == "edgedistill"
        model = client.get_model_metadata(NAME, as_json=True)
        assert model["inputs"] == [{"name": "images", "datatype": "FP32", "shape": ["-1", "3", "64", "64"]}]
        config = client.get_model_config(NAME)
        assert (config.config.max_batch_size, list(config.config.input[0].dims), config.config.input[0].data_type) == (2, [3, 64, 64], 11)
        assert [one.data_type for one in config.config.output] == [11, 11, 9, 1]
        assert client.get_model_repository_index(as_json=True)["models"] == [{"name": NAME, "version": "1", "state": "READY"}]

    def test_infer(self, client: Any, images: Any, raw: Raw) -> None:
        result = client.infer(NAME, asked(grpc, images), request_id="r2")
        check(result, raw)
        assert (result.get_response().id, result.get_response().model_version) == ("r2", "1")
        some = client.infer(NAME, asked(grpc, images), outputs=[grpc.InferRequestedOutput("labels")])
        check(some, raw, ("labels",))

    def test_infer_from_typed_contents(self, running: Running, images: Any, raw: Raw) -> None:
        from grpc import insecure_channel
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        request = service_pb2.ModelInferRequest(model_name=NAME)
        given = request.inputs.add(name="images", datatype="FP32", shape=images.shape)
        given.contents.fp32_contents.extend(images.ravel().tolist())
        with insecure_channel(running.grpc) as channel:
            answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
        contents = {one.name: one.contents for one in answer.outputs}
        assert (np.array(contents["boxes"].fp32_contents, np.float32) == raw.boxes.ravel()).all()
        assert list(contents["labels"].int64_contents) == raw.labels.ravel().tolist()
        assert list(contents["converged"].bool_contents) == raw.converged.tolist()
        assert len(answer.raw_output_contents) == 0

    def test_infer_asynchronously_and_as_a_stream(self, client: Any, running: Running, images: Any, raw: Raw) -> None:
        called: queue.Queue[tuple[Any, Any]] = queue.Queue()
        streamed: queue.Queue[tuple[Any, Any]] = queue.Queue()

        for _ in range(3):
            client.async_infer(NAME, asked(grpc, images), lambda result, error: called.put((result, error)))
        client.start_stream(lambda result, error: streamed.put((result, error)))
        for name in (NAME, "other"):
            client.async_stream_infer(name, asked(grpc, images))
        answers = [called.get(timeout=PATIENCE) for _ in range(3)] + [streamed.get(timeout=PATIENCE)]
        assert "no model 'other" in str(streamed.get(timeout=PATIENCE)[1])
        client.stop_stream()
        for result, error in answers:
            assert error is None
            check(result, raw)
        lines = until(lambda: both(line for line in running.log() if line.get("path") == "ModelStreamInfer"), "both in the log")
        assert [line["status"] for line in lines] == ["OK", "NOT_FOUND"]
        assert "no model 'other" in lines[1]["reason"]

        async def ask() -> Any:
            async with grpc_aio.InferenceServerClient(running.grpc) as other:
                return await asyncio.gather(*(other.infer(NAME, asked(grpc_aio, images)) for _ in range(4)))

        for result in asyncio.run(ask()):
            check(result, raw)

    def test_statistics_count(self, client: Any, images: Any) -> None:
        before = client.get_inference_statistics(NAME).model_stats[0].inference_count
        client.infer(NAME, asked(grpc, images))
        assert client.get_inference_statistics(NAME).model_stats[0].inference_count == before + 3
        assert client.get_inference_statistics().model_stats[0].inference_count == before + 3

    def test_it_drains(self, running: Running, client: Any, images: Any) -> None:
        running.service.draining = True
        try:
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready(NAME)
            client.infer(NAME, asked(grpc, images))
        finally:
            running.service.draining = False

    def test_a_compressed_message_is_refused_unread(self, running: Running) -> None:
        """A message of kilobytes could unpack to gigabytes."""
        from grpc import Compression, RpcError, StatusCode, insecure_channel

        method = "/inference.GRPCInferenceService/ModelInfer"
        with insecure_channel(running.grpc, compression=Compression.Gzip) as channel, pytest.raises(RpcError) as refused:
            channel.unary_unary(method)(bytes(1_000_000), timeout=PATIENCE)
        assert refused.value.code() in (StatusCode.UNIMPLEMENTED, StatusCode.INTERNAL)

    def test_an_invalid_message_is_refused(self, running: Running) -> None:
        from grpc import RpcError, StatusCode, insecure_channel

        with insecure_channel(running.grpc) as channel, pytest.raises(RpcError) as refused:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff" * 100, timeout=PATIENCE)
        assert refused.value.code() == StatusCode.INVALID_ARGUMENT

    def test_every_error_has_its_status_code(self, client: Any, images: Any) -> None:
        with pytest.raises(grpc.InferenceServerException, match="no model 'other") as refused:
            client.infer("other", asked(grpc, images))
        assert refused.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(grpc.InferenceServerException, match=r"must be \[n, 3, 64, 64\]") as refused:
            client.infer(NAME, asked(grpc, images[:, :, :32]))
        assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
        with pytest.raises(grpc.InferenceServerException, match="the request's time") as refused:
            client.infer(NAME, asked(grpc, images), timeout=1)
        assert refused.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        with pytest.raises(grpc.InferenceServerException, match="classification is not supported"):
            client.infer(NAME, asked(grpc, images), outputs=[grpc.InferRequestedOutput("scores", class_count=2)])
        with pytest.raises(grpc.InferenceServerException, match="SIGHUP"):
            client.load_model(NAME)


def test_a_token_guards_http_and_grpc_and_allows_loading_models(bundle: Bundle, tmp_path: Path, images: Any, raw: Raw) -> None:
    (tmp_path / "token").write_text(TOKEN)
    running = Running(bundle.root, token_file=tmp_path / "token")
    try:
        headers = {"authorization": f"Bearer {TOKEN}"}  # the client adds to what it is given
        for module, address in ((http, running.http), (grpc, running.grpc)):
            with module.InferenceServerClient(address) as client:
                assert client.is_server_ready()
                with pytest.raises(module.InferenceServerException, match="token"):
                    client.infer(NAME, asked(module, images))
                check(client.infer(NAME, asked(module, images), headers=dict(headers)), raw)
                client.load_model(NAME, headers=dict(headers))
        with http.InferenceServerClient(running.http) as client:
            assert client.get_model_metadata(NAME, headers=dict(headers))["versions"] == ["3"]
    finally:
        running.stop()
    assert TOKEN not in running.lines.getvalue()


def test_our_messages_match_the_protocol() -> None:
    """Every field has the number, the type and the count that NVIDIA's generated classes give it."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    from deploy.serving.oip.messages import MESSAGES

    theirs: dict[str, Any] = {}

    def collect(descriptor: Any) -> None:
        theirs.setdefault(descriptor.name, descriptor)
        for nested in descriptor.nested_types:
            collect(nested)

    for module in (service_pb2, model_config_pb2):
        for descriptor in module.DESCRIPTOR.message_types_by_name.values():
            collect(descriptor)
    for name, message in MESSAGES.items():
        their_fields = theirs[name].fields_by_name
        for field in message.DESCRIPTOR.fields:
            their = their_fields[field.name]
            same_type = field.type == their.type or (field.type, their.type) == (field.TYPE_INT32, field.TYPE_ENUM)
            assert (field.number, same_type, field.is_repeated) == (their.number, True, their.is_repeated), f"{name}.{field.name}"
