import ctypes
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_samples
import pytest
from onnx import TensorProto, helper

from deploy import machine, preprocess
from deploy.cuda import Device
from deploy.errors import ArtifactError, BuildError, RuntimeUnavailable
from deploy.runtimes import ort, trt, trt_rtx
from deploy.tensorrt_log import make_logger, plain
from deploy.tensorrt_session import TensorRTSession

HEADS = onnx_samples.HEAD_OUTPUTS


def images(*cells: dict[tuple[int, int], int]) -> np.ndarray:
    preprocessing = onnx_samples.contract().preprocessing
    return np.stack([preprocess.apply(onnx_samples.picture(one), preprocessing)[0] for one in cells])


def compile_rtx(folder: Path, chosen: str = "fp16", **options: Any) -> Any:
    pytest.importorskip("tensorrt_rtx")
    model = onnx_samples.write(folder / "model.onnx", dynamic_batch=options.pop("dynamic_batch", True))
    options = {"compute_capability": "8.9", **options}
    calibration = [images({(0, 0): 0}), images({(1, 1): 1, (2, 2): 2})]
    return trt_rtx.compile(model, folder, precision=chosen, calibration=calibration, head_outputs=HEADS, **options)


class TestBuildWithoutAGpu:
    @pytest.mark.parametrize(
        ("chosen", "counts"), [("fp32", (4, 0, 0)), ("fp16", (0, 4, 0)), ("int8", (2, 0, 2))], ids=["fp32", "fp16", "int8"]
    )
    def test_the_parsed_network_proves_the_precision(self, tmp_path, chosen, counts):
        compiled = compile_rtx(tmp_path, chosen)
        assert tuple(compiled.proof[f"convolutions_{name}"] for name in ("fp32", "fp16", "int8")) == counts
        assert compiled.proof["low_precision_after_head"] == 0
        assert compiled.file.name == "engine.plan"
        assert compiled.file.stat().st_size > 10_000

    @pytest.mark.parametrize("capability", ["8.6", 12.0])
    def test_other_gpus(self, tmp_path, capability):
        assert compile_rtx(tmp_path, compute_capability=capability).file.exists()

    def test_a_fixed_batch_and_the_other_options(self, tmp_path):
        assert compile_rtx(tmp_path, dynamic_batch=False, workspace_mib=256, tf32=True).file.exists()

    def test_half_precision_after_the_head_would_be_counted(self, tmp_path, monkeypatch):
        whole = ("boxes", "scores")  # as if decoding belonged to the network
        monkeypatch.setattr("deploy.precision.to_fp16", lambda model, heads, convert=_to_fp16(): convert(model, whole))
        assert compile_rtx(tmp_path).proof["low_precision_after_head"] > 5

    @pytest.mark.parametrize(
        ("operator", "domain", "message"),
        [("NonMaxSuppression", "", r"NonMaxSuppression"), ("Unheard", "of.here", r"cannot parse Unheard 'Unheard_0_unnamed'")],
    )
    def test_an_operator_that_cannot_be_built_is_named_in_one_line(self, tmp_path, operator, domain, message):
        pytest.importorskip("tensorrt_rtx")
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("b", [1, 9, 4]), ("s", [1, 2, 9]))]
        output = helper.make_tensor_value_info("o", TensorProto.INT64, [None, 3])
        graph = helper.make_graph([helper.make_node(operator, ["b", "s"], ["o"], domain=domain)], "g", inputs, [output])
        opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
        with pytest.raises(BuildError, match=message) as caught:
            trt_rtx.compile(
                tmp_path / "m.onnx", tmp_path, precision="fp32", calibration=[], head_outputs=("o",), compute_capability="8.9"
            )
        assert "\n" not in str(caught.value)

    def test_an_unknown_gpu_is_refused_with_those_known(self, tmp_path):
        with pytest.raises(BuildError, match=r"compute capability 3\.5; choose from .*8\.9"):
            compile_rtx(tmp_path, compute_capability="3.5")

    def test_this_machines_gpu_must_be_there(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "gpu", dict)
        with pytest.raises(RuntimeUnavailable, match="compute_capability"):
            compile_rtx(tmp_path, compute_capability="current")

    @pytest.mark.parametrize("cut", [0, 100, -1000], ids=["empty", "head", "tail"])
    def test_a_damaged_engine_is_refused_before_the_gpu_is_asked(self, tmp_path, cut):
        file = compile_rtx(tmp_path).file
        file.write_bytes(file.read_bytes()[:cut])
        module = importlib.import_module("tensorrt_rtx")
        with pytest.raises(ArtifactError, match=r"engine\.plan: not an engine for this tensorrt_rtx and GPU \(\w") as caught:
            TensorRTSession(module, FakeCuda(), make_logger(module), file)
        assert "\n" not in str(caught.value)


def _to_fp16() -> Any:
    from deploy import precision

    return precision.to_fp16


class TestUnavailable:
    @pytest.mark.parametrize(("runtime", "extra"), [(trt, "tensorrt"), (trt_rtx, "tensorrt-rtx")])
    def test_a_missing_package_is_named_with_its_pip_line(self, tmp_path, monkeypatch, runtime, extra):
        monkeypatch.setattr("deploy.tensorrt_session.importlib.util.find_spec", lambda name: None)
        assert f'pip install "edgedistill[{extra}]"' in runtime.why_not()
        with pytest.raises(RuntimeUnavailable, match="not installed"):
            runtime.compile(tmp_path / "m", tmp_path, precision="fp16", calibration=[], head_outputs=HEADS)
        with pytest.raises(RuntimeUnavailable, match="not installed"):
            runtime.open(tmp_path / "engine.plan")

    @pytest.mark.parametrize("runtime", [trt, trt_rtx])
    def test_a_missing_gpu_is_said(self, monkeypatch, runtime):
        monkeypatch.setattr("deploy.tensorrt_session.importlib.util.find_spec", lambda name: SimpleNamespace())
        monkeypatch.setattr(machine, "gpu", dict)
        assert runtime.why_not() == "no NVIDIA GPU here (driver not found)"

    def test_missing_bindings_are_said(self, monkeypatch):
        monkeypatch.setattr("deploy.tensorrt_session.importlib.util.find_spec", lambda name: None if name == "cuda" else SimpleNamespace())
        assert trt.why_not() == 'cuda-bindings is not installed: pip install "edgedistill[tensorrt]"'

    def test_identity_says_what_is_not_installed(self):
        assert set(trt_rtx.identity()) >= {"tensorrt_rtx"}
        assert trt.identity()["tensorrt"]


def test_where_an_error_was_raised_is_left_out_of_messages():
    message = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/a/b.cpp:250 (cudaError 35: old))"
    assert plain(message) == "Cuda Runtime: cudaError 35: old"
    assert plain("") == "no reason given"


class FakeCuda:
    """cuda.bindings.runtime with host memory for the device's; keeps account of what is held."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.held: dict[int, Any] = {}
        self.streams = 0

    def _answer(self, name: str, *values: Any) -> tuple[Any, ...]:
        return (2, *values) if name == self.fail else (0, *values)

    def cudaStreamCreate(self):  # noqa: N802
        self.streams += 1
        return self._answer("cudaStreamCreate", 77)

    def cudaStreamDestroy(self, stream):  # noqa: N802
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return self._answer("cudaStreamSynchronize")

    def cudaMalloc(self, size):  # noqa: N802
        memory = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(memory)] = memory
        return self._answer("cudaMalloc", ctypes.addressof(memory))

    def cudaFree(self, address):  # noqa: N802
        del self.held[address]
        return (0,)

    def cudaMemcpyAsync(self, to, source, count, kind, stream):  # noqa: N802
        device = {1: to, 2: source}[kind]
        assert count <= len(self.held[device])
        ctypes.memmove(to, source, count)
        return (0,)

    def cudaGetErrorString(self, error):  # noqa: N802
        return 0, b"out of memory"


class FakeTensorRT:
    """A TensorRT whose engines are ONNX files run by ONNX Runtime, on the addresses that the session binds."""

    __name__ = "tensorrt"

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    def __init__(self, max_batch: int = 2, *, works: bool = True) -> None:
        self.max_batch = max_batch
        self.works = works
        self.types = {"images": np.float32, "boxes": np.float32, "scores": np.float32, "labels": np.int64, "converged": np.bool_}

    def Runtime(self, logger):  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self._engine(plan, logger))

    def nptype(self, dtype):
        return dtype

    def _engine(self, plan, logger):
        if not plan.startswith(b"\x08"):  # where ONNX files begin
            logger.log(1, "[a.cpp::b::1] Error Code 1: Serialization (bad plan In f at /x.cpp:3)")
            return None
        names = list(self.types)
        return SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_dtype=self.types.__getitem__,
            create_execution_context=lambda: FakeContext(self, plan),
        )


class FakeContext:
    def __init__(self, trt: FakeTensorRT, plan: bytes) -> None:
        import onnxruntime

        self.trt = trt
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def set_input_shape(self, name, shape):
        self.batch = shape[0]
        return name == "images" and shape[0] <= self.trt.max_batch

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        k = onnx_samples.MAX_DETECTIONS
        return {"boxes": (self.batch, k, 4), "converged": (self.batch,)}.get(name, (self.batch, k))

    def execute_async_v3(self, stream):
        assert stream == 77
        x = self._array("images", (self.batch, 3, 64, 64)).copy()
        names = [name for name in self.addresses if name != "images"]
        for name, value in zip(names, self.session.run(names, {"images": x}), strict=True):
            self._array(name, value.shape)[:] = value
        return self.trt.works

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(self.trt.types[name])
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.addresses[name]), dtype).reshape(shape)


class TestSessionAgainstAStandIn:
    def session(self, folder: Path, cuda: FakeCuda | None = None, **options: Any) -> TensorRTSession:
        module = FakeTensorRT(**options)
        return TensorRTSession(module, cuda or FakeCuda(), make_logger(module), onnx_samples.write(folder / "engine.plan"))

    def test_it_answers_as_onnx_runtime_does_for_batches_that_grow_and_shrink(self, tmp_path):
        x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
        with self.session(tmp_path) as session, ort.open(tmp_path / "engine.plan", threads=1) as expected:
            for batch in (x[:1], x, x[1:]):
                ours, theirs = session.infer(batch), expected.infer(batch)
                for name in ("boxes", "scores", "labels", "converged"):
                    assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
                    assert getattr(ours, name).dtype == getattr(theirs, name).dtype

    def test_answers_belong_to_the_caller(self, tmp_path):
        with self.session(tmp_path) as session:
            first = session.infer(images({(0, 1): 0}))
            kept = first.boxes.copy()
            session.infer(images({(2, 2): 1}))
            assert np.array_equal(first.boxes, kept)

    def test_closing_frees_all_memory_and_twice_is_fine(self, tmp_path):
        cuda = FakeCuda()
        with self.session(tmp_path, cuda) as session:
            session.infer(images({}))
            assert len(cuda.held) == 5
        session.close()
        assert (len(cuda.held), cuda.streams) == (0, 0)

    def test_a_batch_that_the_engine_was_not_built_for_is_refused(self, tmp_path):
        with self.session(tmp_path) as session, pytest.raises(ArtifactError, match=r"not built for images \(3, 3, 64, 64\)"):
            session.infer(images({}, {}, {}))

    def test_a_failure_on_the_gpu_is_one_line(self, tmp_path):
        with self.session(tmp_path, works=False) as session, pytest.raises(ArtifactError, match="failed on the GPU"):
            session.infer(images({}))
        with self.session(tmp_path, FakeCuda(fail="cudaMalloc")) as session, pytest.raises(ArtifactError, match="CUDA failed: out of memory"):
            session.infer(images({}))

    def test_a_foreign_engine_is_refused_and_nothing_stays_held(self, tmp_path):
        cuda, module = FakeCuda(), FakeTensorRT()
        (tmp_path / "engine.plan").write_bytes(b"of another GPU")
        with pytest.raises(ArtifactError, match=r"not an engine for this tensorrt and GPU \(Serialization: bad plan\)"):
            TensorRTSession(module, cuda, make_logger(module), tmp_path / "engine.plan")
        assert cuda.streams == 0
        module.types = {"x": np.float32}
        with pytest.raises(ArtifactError, match="not an edgedistill engine"):
            TensorRTSession(module, cuda, make_logger(module), onnx_samples.write(tmp_path / "engine.plan"))


def test_the_real_bindings_have_what_the_session_calls():
    cudart = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in vars(FakeCuda) if name.startswith("cuda")]
    assert len(names) == 8
    assert all(hasattr(cudart, name) for name in names)
    if not machine.gpu():
        with pytest.raises(ArtifactError, match="CUDA failed: "):
            Device(cudart)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", [trt, trt_rtx], ids=["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("chosen", ["fp32", "fp16", "int8"])
def test_an_engine_built_and_run_on_the_gpu_agrees_with_onnx_runtime(tmp_path, runtime, chosen):
    if missing := runtime.why_not():
        pytest.skip(missing)
    model = onnx_samples.write(tmp_path / "model.onnx")
    x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
    compiled = runtime.compile(model, tmp_path, precision=chosen, calibration=[x[:1], x[1:]], head_outputs=HEADS)
    with runtime.open(compiled.file) as session, ort.open(model, threads=1) as expected:
        for batch in (x[:1], x):
            ours, theirs = session.infer(batch), expected.infer(batch)
            real = theirs.scores > 0
            assert np.array_equal(ours.scores > 0, real)
            assert np.abs(ours.scores - theirs.scores).max() < 0.01
            assert np.abs(ours.boxes[real] - theirs.boxes[real]).max() < 0.05
            assert np.array_equal(ours.labels[real], theirs.labels[real])
            assert ours.converged.all()
