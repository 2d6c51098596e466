import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_samples
import pytest
import tensorrt_stand_in
from engine_samples import compiled, images
from onnx import TensorProto, helper

from deploy import machine
from deploy.contract import Heads
from deploy.errors import ArtifactError, BuildError, RuntimeUnavailable
from deploy.latency import measure
from deploy.precision import Precision, fp16
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import Compiled, fill, ort, trt, trt_rtx, why_not_build
from deploy.runtimes.nvidia.cuda import Device
from deploy.runtimes.nvidia.log import make_logger, plain
from deploy.runtimes.nvidia.session import TensorRTSession

HEADS = onnx_samples.HEADS


def compile_rtx(folder: Path, chosen: Precision = "fp16", **options: Any) -> Compiled:
    pytest.importorskip("tensorrt_rtx")
    masks = options.pop("mask_frame", None)
    model = onnx_samples.write(folder / "model.onnx", dynamic_batch=options.pop("dynamic_batch", True), mask_frame=masks)
    options = {"compute_capability": "8.9", **options}
    calibration = [images({(0, 0): 0}), images({(1, 1): 1, (2, 2): 2})]
    return compiled("trt_rtx", model, folder, chosen, calibration, options=options)


class TestBuildWithoutAGpu:
    @pytest.mark.parametrize(
        ("chosen", "counts"), [("fp32", (4, 0, 0)), ("fp16", (0, 4, 0)), ("int8", (2, 0, 2))], ids=["fp32", "fp16", "int8"]
    )
    def test_the_parsed_network_proves_the_precision(self, tmp_path: Path, chosen: Precision, counts: tuple[int, ...]) -> None:
        made = compile_rtx(tmp_path, chosen)
        assert tuple(made.proof[f"convolutions_{name}"] for name in ("fp32", "fp16", "int8")) == counts
        assert made.proof["low_precision_after_head"] == 0
        assert made.file.name == "engine.plan"
        assert made.file.stat().st_size > 10_000

    @pytest.mark.parametrize("mask_frame", ["box", "image"])
    def test_masks(self, tmp_path: Path, mask_frame: str) -> None:
        assert compile_rtx(tmp_path, mask_frame=mask_frame).proof["low_precision_after_head"] == 0

    @pytest.mark.parametrize("capability", ["8.6", 12.0])
    def test_other_gpus(self, tmp_path: Path, capability: float | str) -> None:
        assert compile_rtx(tmp_path, compute_capability=capability).file.exists()

    def test_a_fixed_batch_and_the_other_options(self, tmp_path: Path) -> None:
        assert compile_rtx(tmp_path, dynamic_batch=False, workspace_mib=256, tf32=True).file.exists()

    def test_half_precision_after_the_head_would_be_counted(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorrt_rtx")
        whole = Heads(outputs=("boxes", "scores"))  # as if decoding belonged to the network
        onnx.save(fp16.to_fp16(onnx_samples.detector(), whole), tmp_path / "typed.onnx")
        made = trt_rtx.compile(tmp_path / "typed.onnx", HEADS, tmp_path, compute_capability="8.9")
        assert made.proof["low_precision_after_head"] > 5

    @pytest.mark.parametrize(
        ("operator", "domain", "message"),
        [("NonMaxSuppression", "", r"NonMaxSuppression"), ("Unheard", "of.here", r"cannot parse Unheard 'Unheard_0_unnamed'")],
    )
    def test_an_operator_that_cannot_be_built_is_named_in_one_line(self, tmp_path: Path, operator: str, domain: str, message: str) -> None:
        pytest.importorskip("tensorrt_rtx")
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("b", [1, 9, 4]), ("s", [1, 2, 9]))]
        output = helper.make_tensor_value_info("o", TensorProto.INT64, [None, 3])
        graph = helper.make_graph([helper.make_node(operator, ["b", "s"], ["o"], domain=domain)], "g", inputs, [output])
        opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")
        with pytest.raises(BuildError, match=message) as caught:
            trt_rtx.compile(tmp_path / "m.onnx", Heads(outputs=("o",)), tmp_path, compute_capability="8.9")
        assert "\n" not in str(caught.value)

    def test_an_unknown_gpu_is_refused_with_those_known(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match=r"compute capability 3\.5; choose from .*8\.9"):
            compile_rtx(tmp_path, compute_capability="3.5")

    @pytest.mark.parametrize("capability", ["current", "8.9", 8.9, 12, 12.0, "120", "89"])
    def test_the_forms_of_a_compute_capability(self, capability: float | str) -> None:
        assert fill({"runtime": "trt_rtx", "compute_capability": capability}, ())["runtime"] == "trt_rtx"

    @pytest.mark.parametrize("capability", ["", "RTX 4090", "8.9.1", "sm_89", 8.95, -8.9])
    def test_other_forms_are_refused_when_the_configuration_is_read(self, capability: float | str) -> None:
        with pytest.raises(
            ValueError, match=r"trt_rtx: compute_capability: got .*, allowed: current, or major and minor version such as 8\.9"
        ):
            fill({"runtime": "trt_rtx", "compute_capability": capability}, ())

    def test_this_machines_gpu_must_be_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("tensorrt_rtx")
        monkeypatch.setattr(machine, "gpu", dict)
        for options in ({}, {"compute_capability": "current"}):
            assert "set compute_capability on the target" in (why_not_build("trt_rtx", options) or "")
        assert why_not_build("trt_rtx", {"compute_capability": 8.9}) is None

    @pytest.mark.parametrize("cut", [0, 100, -1000], ids=["empty", "head", "tail"])
    def test_a_damaged_engine_is_refused_before_the_gpu_is_asked(self, tmp_path: Path, cut: int) -> None:
        file = compile_rtx(tmp_path).file
        file.write_bytes(file.read_bytes()[:cut])
        module = importlib.import_module("tensorrt_rtx")
        with pytest.raises(ArtifactError, match=r"engine\.plan: not an engine for this tensorrt_rtx and GPU \(\w") as caught:
            TensorRTSession(module, tensorrt_stand_in.Cuda(), make_logger(module), file)
        assert "\n" not in str(caught.value)


class TestUnavailable:
    @pytest.mark.parametrize(("runtime", "extra"), [(trt, "tensorrt"), (trt_rtx, "tensorrt-rtx")])
    def test_a_missing_package_is_named_with_its_pip_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: ModuleType, extra: str
    ) -> None:
        monkeypatch.setattr("deploy.runtimes.nvidia.session.importlib.util.find_spec", lambda _: None)
        assert f'pip install "edgedistill[{extra}]"' in runtime.why_not()
        with pytest.raises(RuntimeUnavailable, match="not installed"):
            runtime.open(tmp_path / "engine.plan")

    def test_building_for_another_gpu_needs_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.runtimes.nvidia.session.importlib.util.find_spec", lambda _: None)
        assert "not installed" in (trt_rtx.why_not_build({"compute_capability": 8.9}) or "")

    @pytest.mark.parametrize("runtime", [trt, trt_rtx])
    def test_a_missing_gpu_is_said(self, monkeypatch: pytest.MonkeyPatch, runtime: ModuleType) -> None:
        monkeypatch.setattr("deploy.runtimes.nvidia.session.importlib.util.find_spec", lambda _: SimpleNamespace())
        monkeypatch.setattr(machine, "gpu", dict)
        assert runtime.why_not() == "no NVIDIA GPU here (driver not found)"

    def test_missing_bindings_are_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "deploy.runtimes.nvidia.session.importlib.util.find_spec", lambda name: None if name == "cuda" else SimpleNamespace()
        )
        assert trt.why_not() == 'cuda-bindings is not installed: pip install "edgedistill[tensorrt]"'

    def test_identity_says_what_is_not_installed(self) -> None:
        assert set(trt_rtx.identity()) >= {"tensorrt_rtx"}
        assert trt.identity()["tensorrt"]


def test_where_an_error_was_raised_is_left_out_of_messages() -> None:
    message = (
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at /_src/a/b.cpp:250 (cudaError 35: old))"
    )
    assert plain(message) == "Cuda Runtime: cudaError 35: old"
    assert plain("") == "no reason given"


class TestSessionAgainstAStandIn:
    def session(self, folder: Path, cuda: tensorrt_stand_in.Cuda | None = None, **options: Any) -> TensorRTSession:
        module = tensorrt_stand_in.TensorRT(**options)
        file = onnx_samples.write(folder / "engine.plan", mask_frame="box" if options.get("masks") else None)
        return TensorRTSession(module, cuda or tensorrt_stand_in.Cuda(), make_logger(module), file)

    def test_it_answers_as_onnx_runtime_does_for_batches_that_grow_and_shrink(self, tmp_path: Path) -> None:
        x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
        with self.session(tmp_path) as session, ort.open(tmp_path / "engine.plan", threads=1) as expected:
            for batch in (x[:1], x, x[1:]):
                ours, theirs = session.infer(batch), expected.infer(batch)
                for name in ("boxes", "scores", "labels", "converged"):
                    assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
                    assert getattr(ours, name).dtype == getattr(theirs, name).dtype

    def test_masks_are_answered_where_the_engine_has_them(self, tmp_path: Path) -> None:
        x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
        with self.session(tmp_path, masks=True) as session, ort.open(tmp_path / "engine.plan", threads=1) as expected:
            for batch in (x[:1], x):
                ours, theirs = session.infer(batch).masks, expected.infer(batch).masks
                assert ours is not None
                assert theirs is not None
                assert ours.dtype == np.float32
                assert np.array_equal(ours, theirs)
        with self.session(tmp_path) as session:
            assert session.infer(x).masks is None

    def test_answers_belong_to_the_caller(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as session:
            first = session.infer(images({(0, 1): 0}))
            kept = first.boxes.copy()
            session.infer(images({(2, 2): 1}))
            assert np.array_equal(first.boxes, kept)

    def test_closing_frees_all_memory_and_twice_is_fine(self, tmp_path: Path) -> None:
        cuda = tensorrt_stand_in.Cuda()
        with self.session(tmp_path, cuda) as session:
            session.infer(images({}))
            assert len(cuda.held) == 5
        session.close()
        assert (len(cuda.held), cuda.streams) == (0, 0)

    def test_a_recorded_engine_answers_the_same_and_is_executed_twice_a_batch_size(self, tmp_path: Path) -> None:
        x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
        cuda = tensorrt_stand_in.Cuda()
        module = tensorrt_stand_in.TensorRT(cuda=cuda)
        file = onnx_samples.write(tmp_path / "engine.plan")
        with (
            TensorRTSession(module, cuda, make_logger(module), file, cuda_graph=True) as session,
            ort.open(file, threads=1) as expected,
        ):
            for batch in (x, x, x[::-1], x, x[:1], x[1:], x[:1], x[::-1], x[1:]):
                assert np.array_equal(session.infer(batch).boxes, expected.infer(batch).boxes)
            assert (module.executions, cuda.launches, cuda.graphs) == (4, 7, 2)
        assert (cuda.graphs, len(cuda.held), cuda.streams) == (0, 0, 0)

    def test_a_batch_that_outgrows_its_memory_is_recorded_anew(self, tmp_path: Path) -> None:
        cuda = tensorrt_stand_in.Cuda()
        module = tensorrt_stand_in.TensorRT(cuda=cuda)
        file = onnx_samples.write(tmp_path / "engine.plan")
        x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
        with TensorRTSession(module, cuda, make_logger(module), file, cuda_graph=True) as session, ort.open(file, threads=1) as expected:
            for batch in (x[:1], x[:1], x[:1], x, x[1:], x[:1], x[1:]):
                assert np.array_equal(session.infer(batch).boxes, expected.infer(batch).boxes)

    def test_the_engines_own_precision_and_the_gpus_peak(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "gpu", lambda: {"compute_capability": "8.9"})
        with self.session(tmp_path) as session:
            assert session.proof() == {"layers_fp16": 2, "layers_fp32": 1, "layers_int8": 1}
            peak = session.peak("fp32")
        assert peak is not None
        assert 2 * peak.macs == pytest.approx(82.6e12, rel=0.01)  # 82.6 TFLOPS and 1,008 GB/s by its data sheet
        assert peak.bytes == pytest.approx(1008e9, rel=0.01)

    def test_a_batch_that_the_engine_was_not_built_for_is_refused(self, tmp_path: Path) -> None:
        with self.session(tmp_path) as session, pytest.raises(ArtifactError, match=r"not built for images \(3, 3, 64, 64\)"):
            session.infer(images({}, {}, {}))

    def test_an_answer_of_another_shape_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = TensorRTSession._run
        monkeypatch.setattr(TensorRTSession, "_run", lambda *given: {**(found := run(*given)), "labels": found["labels"][:, :1]})
        with self.session(tmp_path) as session, pytest.raises(ArtifactError, match="the engine's labels are int64"):
            session.infer(images({}))

    def test_a_failure_on_the_gpu_is_one_line(self, tmp_path: Path) -> None:
        with self.session(tmp_path, works=False) as session, pytest.raises(ArtifactError, match="failed on the GPU"):
            session.infer(images({}))
        with (
            self.session(tmp_path, tensorrt_stand_in.Cuda(fail="cudaMalloc")) as session,
            pytest.raises(ArtifactError, match="CUDA failed: out of memory"),
        ):
            session.infer(images({}))

    def test_a_foreign_engine_is_refused_and_nothing_stays_held(self, tmp_path: Path) -> None:
        cuda, module = tensorrt_stand_in.Cuda(), tensorrt_stand_in.TensorRT()
        (tmp_path / "engine.plan").write_bytes(b"of another GPU")
        with pytest.raises(ArtifactError, match=r"not an engine for this tensorrt and GPU \(Serialization: bad plan\)"):
            TensorRTSession(module, cuda, make_logger(module), tmp_path / "engine.plan")
        assert cuda.streams == 0
        module.types = {"x": np.float32}
        with pytest.raises(ArtifactError, match="not an edgedistill engine"):
            TensorRTSession(module, cuda, make_logger(module), onnx_samples.write(tmp_path / "engine.plan"))


def test_the_real_bindings_have_what_the_session_calls() -> None:
    cudart = pytest.importorskip("cuda.bindings.runtime")
    names = [name for name in vars(tensorrt_stand_in.Cuda) if name.startswith("cuda")]
    assert len(names) == 17
    assert all(hasattr(cudart, name) for name in names)
    if not machine.gpu():
        with pytest.raises(ArtifactError, match="CUDA failed: "):
            Device(cudart)


@pytest.mark.gpu
@pytest.mark.parametrize("runtime", [trt, trt_rtx], ids=["tensorrt", "tensorrt_rtx"])
@pytest.mark.parametrize("chosen", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "cuda_graph"])
def test_an_engine_built_and_run_on_the_gpu_agrees_with_onnx_runtime(
    tmp_path: Path, runtime: ModuleType, chosen: Precision, recorded: bool
) -> None:
    if missing := runtime.why_not():
        pytest.skip(missing)
    model = onnx_samples.write(tmp_path / "model.onnx")
    x = images({(0, 1): 0, (2, 3): 2}, {(3, 3): 1})
    made = compiled(runtime.__name__.rpartition(".")[2], model, tmp_path, chosen, [x[:1], x[1:]])
    options = {"cuda_graph": recorded}
    with runtime.open(made.file, options=options) as session, ort.open(model, threads=1) as expected:
        for batch in (x[:1], x, x[:1], x[:1], x[1:], x, x, x[::-1], x[:1], x):
            ours, theirs = session.infer(batch), expected.infer(batch)
            real = theirs.scores > 0
            assert np.array_equal(ours.scores > 0, real)
            assert np.abs(ours.scores - theirs.scores).max() < 0.01
            assert np.abs(ours.boxes[real] - theirs.boxes[real]).max() < 0.05
            assert np.array_equal(ours.labels[real], theirs.labels[real])
            assert ours.converged.all()
        assert sum(session.proof().values()) > 0
        peak = session.peak(chosen)
        assert peak is None or min(peak.macs, peak.bytes) > 0
        pictures = [onnx_samples.picture({(0, 1): 0})]
        protocol = measure.LatencyProtocol(warmup=2, min_passes=20, min_seconds=0)
        took = measure.measure_together({"own": SessionPredictor(session, onnx_samples.contract())}, pictures, protocol).latencies["own"]
        assert 0 < took.infer.p50 <= took.end_to_end.p50


@pytest.mark.gpu
def test_a_timing_cache_made_on_the_gpu_is_taken_up_again(tmp_path: Path) -> None:
    if missing := trt.why_not():
        pytest.skip(missing)
    model, cache = onnx_samples.write(tmp_path / "model.onnx"), tmp_path / "kept" / "timing.cache"
    for _ in range(2):
        assert compiled("trt", model, tmp_path, "fp16", options={"timing_cache": str(cache)}).file.exists()
        assert cache.stat().st_size > 0
