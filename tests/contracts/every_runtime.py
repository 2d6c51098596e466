"""What holds of every runtime, on the sample graph and through the stages that use it; each where it can build, and where it can run."""

import re
from pathlib import Path

import artifact_samples
import numpy as np
import onnx_samples
import pytest

from deploy import plugins
from deploy.errors import ArtifactError, BuildError, RuntimeUnavailable
from deploy.precision import Precision, Recipe, network
from deploy.precision.proof import proof
from deploy.prediction import preprocess
from deploy.runtimes import Delivery, delivery, fingerprint, on_site
from deploy.runtimes.host_decoding.session import decoded
from stages.artifacts import Dataset
from stages.config import ValidationConfig
from stages.validate import validate

QUICK = ValidationConfig.model_validate({"latency": {"warmup": 1, "min_passes": 3, "min_seconds": 0, "threads": 1}})
CELLS = ({(0, 1): 0, (2, 3): 2}, {(3, 0): 1})
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@pytest.mark.parametrize("name", plugins.names("deploy.runtimes"))
class TestEveryRuntime:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_does_so_when_boxes_are_decoded_on_the_host(self, name: str, precision: Precision, tmp_path: Path) -> None:
        config = artifact_samples.target(runtime=name, precision=precision, calibration_images=4)
        try:
            engine = artifact_samples.engine(tmp_path, config, raw=True)
        except BuildError as lacking:
            if f"not in {precision}" not in str(lacking):
                raise
            return
        assert (engine.facts.file is None) == (engine.facts.why is not None)
        (tmp_path / "report").mkdir()
        report = validate(tmp_path / "report", QUICK, engine, Dataset(tmp_path / "data")).facts
        missing = plugins.load("deploy.runtimes", name).why_not()
        assert (report.why is None) == (engine.facts.file is not None and missing is None)
        if report.accuracy is not None:
            assert report.accuracy.map == pytest.approx(1)

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_an_engine_finds_everything_or_its_facts_say_why_there_is_none(self, name: str, precision: Precision, tmp_path: Path) -> None:
        config = artifact_samples.target(runtime=name, precision=precision, calibration_images=4)
        try:
            engine = artifact_samples.engine(tmp_path, config)
        except BuildError as lacking:  # a runtime may lack a precision other than fp32, if it says which ones it has
            if not re.fullmatch(rf"target here: runtime {name} computes in fp32.*, not in {precision}\b.*", str(lacking)):
                raise
            return
        facts, out = engine.facts, tmp_path / "report"
        assert (facts.file is None) == (facts.why is not None)
        assert facts.fingerprint["onnx_sha256"] == facts.onnx_sha256
        if facts.file is not None:
            assert engine.file(facts.file).stat().st_size == facts.bytes
            assert facts.proof["low_precision_after_head"] == 0
            assert facts.proof[f"convolutions_{precision}"] > 0
            assert facts.typed is not None
            assert proof(network.read(engine.file(facts.typed)), onnx_samples.HEADS)[f"convolutions_{precision}"] > 0
            contents = [path.read_bytes() for path in engine.root.iterdir()]
            assert len(contents) == len(set(contents)), "a file is kept twice"
        out.mkdir()
        report = validate(out, QUICK, engine, Dataset(tmp_path / "data")).facts
        missing = plugins.load("deploy.runtimes", name).why_not()
        assert (report.why is None) == (facts.file is not None and missing is None)
        if report.accuracy is not None:
            assert report.accuracy.map == pytest.approx(1)

    def test_it_answers_each_image_alone_in_memory_of_the_caller(self, name: str, tmp_path: Path) -> None:
        runtime, engine = plugins.load("deploy.runtimes", name), artifact_samples.engine(tmp_path, artifact_samples.target(runtime=name))
        if engine.facts.file is None or runtime.why_not() is not None:
            with pytest.raises((RuntimeUnavailable, ArtifactError)):
                runtime.open(tmp_path / "engine")
            return
        preprocessing = onnx_samples.contract().preprocessing
        images = np.stack([preprocess.apply(onnx_samples.picture(cells), preprocessing)[0] for cells in CELLS])
        opened = runtime.open(engine.file(engine.facts.file), threads=1, options=engine.facts.options)
        with decoded(opened, engine.facts.contract) as session:
            both, first = session.infer(images), session.infer(images[:1])
            types = [both.boxes.dtype, both.scores.dtype, both.labels.dtype, both.converged.dtype]
            assert types == [np.dtype(kind) for kind in (np.float32, np.float32, np.int64, np.bool_)]
            assert (both.scores > 0).sum(axis=1).tolist() == [2, 1]
            np.testing.assert_allclose(first.scores[0], both.scores[0], rtol=1e-5)
            kept = both.boxes.copy()
            session.infer(np.zeros_like(images))
            assert np.array_equal(both.boxes, kept)
            with pytest.raises(ArtifactError):
                session.infer(np.zeros((1, 3, 32, 32), np.float32))
        with pytest.raises(ArtifactError):
            runtime.open(tmp_path / "nowhere")

    def test_it_says_who_it_is_and_what_it_needs(self, name: str) -> None:
        runtime = plugins.load("deploy.runtimes", name)
        assert isinstance(getattr(runtime, "INTEGERS", None), Recipe | None)
        assert isinstance(delivery(name), Delivery)
        assert runtime.identity()
        assert runtime.why_not() is None or "\n" not in runtime.why_not()
        assert runtime.foreign(fingerprint(name, {})) is None
        assert on_site(name, {}) == {} or set(on_site(name, {})) == {"compute_capability"}
