"""precision: auto takes the fastest engine that is accurate enough."""

from pathlib import Path

import pytest
from artifact_samples import dataset, model, target
from test_fallback import deeper

from deploy import quickest
from deploy.errors import BuildError
from deploy.runtimes import Precision
from stages.artifacts import EngineFacts
from stages.optimize import optimize

TIMES: dict[Precision, float] = {"fp32": 3.0, "fp16": 2.0, "int8": 1.0}


def chosen(root: Path, *, poisoned: bool = False, runtime: str = "ort", **options: object) -> EngineFacts:
    out = root / "engine"
    out.mkdir(parents=True)
    config = target(runtime=runtime, precision="auto", **options)
    return optimize(out, config, model(root / "onnx", deeper(poisoned=poisoned)), dataset(root / "data", 12), "val").facts


def times(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    fixed = {str(precision): value for precision, value in TIMES.items()} | changes
    monkeypatch.setattr(quickest, "_take_turns", lambda predictors, *_: {precision: fixed[precision] for precision in predictors})


def test_the_fastest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times(monkeypatch)
    facts = chosen(tmp_path)
    assert facts.precision == "int8"
    assert facts.proof["convolutions_int8"] == 5
    assert facts.choice is not None
    assert [(offer.precision, offer.p50_ms) for offer in facts.choice.offers] == [("fp32", 3.0), ("fp16", 2.0), ("int8", 1.0)]
    assert facts.choice.offers[0].map == 1


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

    monkeypatch.setattr("deploy.build.search", refuse)
    facts = chosen(tmp_path, poisoned=True, max_map_drop=0.01)
    assert facts.precision == "fp16"
    assert facts.choice is not None
    assert facts.choice.offers[2].why == "int8 cannot keep it"


def test_real_turns_are_measured(tmp_path: Path) -> None:
    facts = chosen(tmp_path)
    assert facts.choice is not None
    assert all(offer.p50_ms is not None and offer.p50_ms > 0 for offer in facts.choice.offers)
    fastest = min(facts.choice.offers, key=lambda offer: offer.p50_ms or 0.0)
    assert facts.precision == fastest.precision == facts.choice.precision


def test_a_device_that_is_not_here_cannot_choose(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    facts = chosen(tmp_path, runtime="trt_rtx", compute_capability="8.9")
    assert facts.file is None
    assert facts.why is not None
    assert "precision auto measures engines on the machine that they are for" in facts.why
