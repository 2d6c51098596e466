import json
from pathlib import Path

import artifact_samples as samples
import pytest

from deploy.errors import ArtifactError, DataError
from stages.artifacts import Dataset, Engine, Measurement
from stages.config import LatencyConfig
from stages.measure import identity, measure

QUICK = LatencyConfig(warmup=1, min_passes=5, min_seconds=0, threads=1, ratio_width=100)


def run(tmp_path: Path, engines: dict[str, Engine], split: str = "val", *, data: bool = True) -> Measurement:
    out = tmp_path / "measurement"
    out.mkdir()
    return measure(out, QUICK, split, engines, Dataset(tmp_path / "here" / "data") if data else None)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return samples.engine(tmp_path / "here", samples.target())


@pytest.mark.parametrize("data", [True, False])
def test_engines_are_measured_together(tmp_path: Path, engine: Engine, data: bool) -> None:
    facts = run(tmp_path, {"one": engine, "twin": engine}, data=data).facts
    assert facts.measured is not None
    assert facts.left_out == {}
    latency = facts.latency("one")
    assert latency is not None
    assert latency.num_passes >= 5
    assert 0 < latency.infer.p50 <= latency.end_to_end.p99
    assert set(facts.speedups("one")) == {"twin"}
    assert facts.speedups("one")["twin"].ratio == pytest.approx(1 / facts.speedups("twin")["one"].ratio)


def test_an_engine_that_cannot_run_here_is_left_out_with_its_reason(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    other = samples.engine(tmp_path / "there", samples.target(runtime="trt"))
    facts = run(tmp_path, {"here": engine, "there": other}).facts
    assert facts.measured is not None
    assert set(facts.measured.latencies) == {"here"}
    assert facts.left_out["there"].startswith("tensorrt is not installed")
    assert (facts.latency("there"), facts.speedups("there"), facts.speedups("here")) == (None, {}, {})


def test_nothing_is_measured_where_no_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda package, extra: f"{package} is not installed: {extra}")
    facts = run(tmp_path, {"there": samples.engine(tmp_path / "here", samples.target(runtime="trt"))}).facts
    assert (facts.measured, facts.latency("there"), facts.speedups("there")) == (None, None, {})


def test_a_damaged_engine_is_an_error(tmp_path: Path, engine: Engine) -> None:
    (engine.root / "engine.onnx").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="not an engine"):
        run(tmp_path, {"here": engine})


def test_an_unknown_split_is_an_error_with_a_suggestion(tmp_path: Path, engine: Engine) -> None:
    with pytest.raises(DataError, match=r"'vall' \(did you mean val\?\): the data has train, val"):
        run(tmp_path, {"here": engine}, "vall")


def test_the_machine_is_part_of_the_hash(engine: Engine) -> None:
    assert {"platform", "cpu", "cores"} <= set(json.loads(json.dumps(dict(identity(QUICK, "val", {"here": engine}, None)))))
