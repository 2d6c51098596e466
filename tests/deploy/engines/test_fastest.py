"""precision: auto takes the fastest engine that is accurate enough."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from artifact_samples import dataset, measured, model, target
from poisoned_samples import deeper, unlabel

from deploy.accuracy import judge
from deploy.engines import fastest, maps
from deploy.errors import ArtifactError, BuildError, DataError
from deploy.precision import Precision
from deploy.runtimes import Session, ort
from stages.config import LatencyConfig, ValidationConfig
from stages.facts import EngineFacts
from stages.optimize import judging, optimize

TIMES: dict[Precision, float] = {"fp32": 3.0, "fp16": 2.0, "int8": 1.0}


def chosen(
    root: Path, *, poisoned: bool = False, runtime: str = "ort", labeled: bool = True, threads: int | None = None, **options: object
) -> EngineFacts:
    out = root / "engine"
    out.mkdir(parents=True)
    config = target(runtime=runtime, precision="auto", **options)
    data = dataset(root / "data", 12)
    if not labeled:
        unlabel(data)
    return optimize(out, config, model(root / "onnx", deeper(poisoned=poisoned)), data, "val", threads).facts


def times(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    fixed = {f"ort {precision}": changes.get(precision, value) for precision, value in TIMES.items()}
    monkeypatch.setattr(fastest, "measure_together", lambda engines, *_: measured({name: fixed[name] for name in engines}))


def test_the_fastest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch)
    facts = chosen(tmp_path)
    assert facts.precision == "int8"
    assert facts.proof["convolutions_int8"] == 5
    assert facts.choice is not None
    assert [(offer.pair, offer.p50_ms) for offer in facts.choice.offers] == [("ort fp32", 3.0), ("ort fp16", 2.0), ("ort int8", 1.0)]
    assert [offer.ratio.ratio if offer.ratio else None for offer in facts.choice.offers] == [3.0, 2.0, None]
    assert [facts.choice.verdict(offer) for offer in facts.choice.offers] == ["slower", "slower", "chosen"]
    assert facts.choice.float_map == facts.choice.offers[0].map == 1


def test_int8_is_not_assumed_to_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch, int8=9.0, fp16=9.0)
    facts = chosen(tmp_path)
    assert (facts.precision, facts.proof["convolutions_fp32"]) == ("fp32", 7)


def test_the_limit_holds_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The poisoned int8 goes back to float where it must, so that it is accurate enough and still the fastest."""
    times(monkeypatch)
    facts = chosen(tmp_path, poisoned=True, max_map_drop=0.01)
    assert facts.precision == "int8"
    assert facts.fallback is not None
    assert "second" in facts.fallback.float_layers


def test_an_engine_below_the_limit_is_not_taken_and_one_that_cannot_be_built_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times(monkeypatch)

    def refuse(*_: object) -> None:
        raise BuildError("int8 cannot keep it")

    monkeypatch.setattr("deploy.engines.build.search", refuse)
    facts = chosen(tmp_path, poisoned=True, max_map_drop=0.01)
    assert facts.precision == "fp16"
    assert facts.choice is not None
    assert facts.choice.offers[2].why == "int8 cannot keep it"


def test_real_turns_are_measured(tmp_path: Path) -> None:
    facts = chosen(tmp_path)
    assert facts.choice is not None
    assert all(offer.p50_ms is not None and offer.p50_ms > 0 for offer in facts.choice.offers)
    best = min(facts.choice.offers, key=lambda offer: offer.ratio.ratio if offer.ratio else 1.0)
    winner = next(offer for offer in facts.choice.offers if facts.choice.verdict(offer) == "chosen")
    assert winner.precision == facts.precision
    assert winner is best or (best.ratio is not None and best.ratio.high >= 1)


def test_a_device_that_is_not_here_cannot_choose(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    facts = chosen(tmp_path, runtime="trt_rtx", compute_capability="8.9")
    assert facts.file is None
    assert facts.why is not None
    assert "precision auto has to measure engines on their target machine" in facts.why


@pytest.mark.parametrize("broken", ["fp16", "int8"])
def test_an_engine_whose_answer_cannot_be_used_is_named_and_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Precision
) -> None:
    times(monkeypatch)

    def judged(predictor: object, split: object, label: str) -> object:
        if label == f"auto: ort {broken}":
            raise ArtifactError("the engine answers with numbers that are not finite")
        return judge.judge(predictor, split, label)  # type: ignore[arg-type]

    monkeypatch.setattr(maps, "judge", judged)
    facts = chosen(tmp_path)
    assert facts.precision == ("fp16" if broken == "int8" else "int8")
    assert facts.choice is not None
    offer = next(offer for offer in facts.choice.offers if offer.precision == broken)
    assert (offer.map, offer.p50_ms, offer.why) == (None, None, "the engine answers with numbers that are not finite")


def test_an_fp32_engine_whose_answer_cannot_be_used_is_an_error_that_names_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ArtifactError("not finite")

    monkeypatch.setattr(maps, "judge", refuse)
    with pytest.raises(ArtifactError, match="target here: not finite"):
        chosen(tmp_path)


def test_a_limit_without_objects_to_judge_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"max_map_drop 0\.01 cannot be judged"):
        chosen(tmp_path, labeled=False, max_map_drop=0.01)
    assert chosen(tmp_path / "free", labeled=False).precision in TIMES


def test_engines_are_judged_once_and_timed_with_the_threads_that_they_are_measured_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    judged: list[str] = []
    opened = ort.open

    def note(file: Path, *, threads: int | None = None, options: Mapping[str, Any]) -> Session:
        asked.append(threads)
        return opened(file, threads=threads, options=options)

    def noted(predictor: object, split: object, label: str) -> object:
        judged.append(label)
        return judge.judge(predictor, split, label)  # type: ignore[arg-type]

    monkeypatch.setattr(ort, "open", note)
    monkeypatch.setattr(maps, "judge", noted)
    chosen(tmp_path, threads=1, max_map_drop=0.5)
    assert asked == [1] * 6
    assert judged == ["auto: ort fp32", "int8, 0 layers in float", "auto: ort fp16"]
    measured_with = ValidationConfig(latency=LatencyConfig(threads=1))
    assert judging(target(precision="auto"), measured_with) == ("val", 1)
    assert judging(target(precision="int8", max_map_drop=0.1), measured_with) == ("val", None)
    assert judging(target(precision="int8"), measured_with) == (None, None)
    assert judging(target(runtime="auto"), measured_with) == ("val", 1)
