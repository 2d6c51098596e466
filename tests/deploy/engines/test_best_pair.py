"""runtime: auto takes the fastest pair of runtime and precision that is accurate enough, of those that work on this machine."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
from artifact_samples import QUIET
from clock import Clock
from pydantic import ValidationError

from deploy import plugins, runtimes
from deploy.accuracy.judge import judge
from deploy.engines import fastest, maps
from deploy.engines.choice import Choice
from deploy.engines.fastest import Offer, Rules, choose
from deploy.engines.maps import EngineMaps
from deploy.engines.request import BuildRequest
from deploy.errors import ArtifactError, BuildError, DataError
from deploy.precision import Batch, Precision
from deploy.runtimes import Compiled, Raw, Session, ort
from deploy.runtimes.onnx_files import engine
from stages.config import TargetConfig
from stages.facts import EngineFacts
from stages.measurement.calibration_images import CalibrationImages
from stages.optimize import optimize

NAMES = ("ort", "other")
PAIRS = [f"{name} {precision}" for precision in ("fp32", "fp16", "int8") for name in NAMES]
IMAGES = [np.zeros((64, 64, 3), np.uint8)]


class StandIn(Session):
    """Takes a given time of the clock and finds nothing."""

    def __init__(self, clock: Clock, seconds: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = seconds

    def infer(self, images: Batch) -> Raw:
        self._clock.seconds += self._seconds()
        return Raw(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int64), np.ones(1, bool))

    def close(self) -> None:
        pass


class GivenMaps(EngineMaps):
    """The mAP of each pair as it is given."""

    def __init__(self, maps: Mapping[str, float | None]) -> None:
        self._maps = maps

    def of(self, file: Path, request: BuildRequest, label: str) -> float | None:
        return self._maps[file.name]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.replace(monkeypatch, "deploy.latency.measure.perf_counter", "deploy.prediction.predictor.perf_counter_ns")
    monkeypatch.setattr("deploy.latency.measure.Watch.seen", lambda _: QUIET)
    return made


class Machine:
    """Stand-ins for two runtimes: each pair's milliseconds, noise and mAP; pairs that are named in `broken` cannot be opened."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ms = dict.fromkeys(PAIRS, 10.0)
        self.maps: dict[str, float | None] = dict.fromkeys(PAIRS, 0.6)
        self.noise = 0.0
        self.broken: dict[str, Exception] = {}
        self._clock = clock
        self._random = np.random.default_rng(0)
        monkeypatch.setattr(plugins, "load", lambda *_: SimpleNamespace(open=self._open))

    def choose(self, limit: float | None = 0.01, unbuilt: Mapping[str, str] | None = None) -> Choice:
        """What is chosen; `unbuilt` has pairs that cannot be built, with the reason."""
        offers = []
        for name in PAIRS:
            runtime, _, precision = name.partition(" ")
            why = (unbuilt or {}).get(name)
            request = BuildRequest(runtime, "auto", max_map_drop=limit)
            offers.append(Offer(request, _precision(precision), None if why else Path(name), why))
        return choose(offers, Rules(0.6, limit), GivenMaps(self.maps), onnx_samples.contract(), IMAGES)

    def _open(self, file: Path, **_: object) -> Session:
        if file.name in self.broken:
            raise self.broken[file.name]
        return StandIn(self._clock, lambda: (self.ms[file.name] + self._random.exponential(self.noise)) / 1e3)


@pytest.fixture
def machine(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(clock, monkeypatch)


def _precision(name: str) -> Precision:
    assert name in ("fp32", "fp16", "int8")
    return name  # type: ignore[return-value]


def verdicts(choice: Choice) -> dict[str, str]:
    return {one.pair: choice.verdict(one) for one in choice.offers}


def test_the_fastest_pair_is_taken_and_the_others_are_compared_with_it(machine: Machine) -> None:
    machine.ms["other int8"] = 4.0
    choice = machine.choose()
    assert (choice.runtime, choice.precision) == ("other", "int8")
    assert verdicts(choice) == {**dict.fromkeys(PAIRS, "slower"), "other int8": "chosen"}
    first = choice.offers[0]
    assert first.ratio is not None
    assert first.p50_ms == pytest.approx(10)
    assert first.ratio.ratio == pytest.approx(2.5)
    assert first.ratio.low <= 2.5 <= first.ratio.high


def test_a_fast_pair_that_loses_too_much_is_passed_over_for_the_next(machine: Machine) -> None:
    machine.ms |= {"other int8": 4.0, "ort int8": 5.0}
    machine.maps |= {"other int8": 0.55, "ort int8": 0.595}
    choice = machine.choose()
    assert choice.pair == "ort int8"
    refused = choice.offers[PAIRS.index("other int8")]
    assert (refused.map, refused.why) == (0.55, "it loses 0.0500 mAP, allowed: 0.01")
    assert refused.drop == pytest.approx(0.05)
    assert refused.ratio is not None
    assert refused.ratio.ratio == pytest.approx(0.8)
    assert "other int8 mAP 0.5500, 4.00 ms, left out: it loses 0.0500 mAP" in str(choice)


def test_without_a_limit_the_fastest_is_taken_whatever_it_loses(machine: Machine) -> None:
    machine.ms["other int8"] = 4.0
    machine.maps["other int8"] = 0.1
    assert machine.choose(None).pair == "other int8"


def test_a_tie_goes_to_the_simplest(machine: Machine) -> None:
    """Fewer bits cost accuracy, and another runtime has to be installed: neither for nothing."""
    machine.noise = 3.0
    choice = machine.choose()
    assert choice.pair == "ort fp32"
    assert set(verdicts(choice).values()) <= {"chosen", "tie", "slower"}
    machine.noise = 0.0
    machine.ms |= {"ort fp32": 20.0, "ort fp16": 20.0}
    assert machine.choose().pair == "other fp32"


def test_int8_that_is_slower_than_fp32_is_not_taken(machine: Machine) -> None:
    machine.ms |= {"ort int8": 14.0, "other int8": 12.0}
    choice = machine.choose()
    assert choice.pair == "ort fp32"
    assert verdicts(choice)["other int8"] == "slower"


def test_pairs_that_cannot_be_built_or_opened_or_answer_nonsense_are_named(machine: Machine) -> None:
    machine.ms["other int8"] = 1.0
    machine.broken = {"other int8": BuildError("out of memory"), "other fp16": ArtifactError("not finite")}
    choice = machine.choose(unbuilt={"ort int8": "no layer to quantize"})
    reasons = {one.pair: one.why for one in choice.offers if one.why}
    assert reasons == {"other int8": "out of memory", "other fp16": "not finite", "ort int8": "no layer to quantize"}
    assert choice.pair == "ort fp32"
    assert {name for name, word in verdicts(choice).items() if word == "left out"} == set(reasons)


def test_if_nothing_is_left_one_line_has_every_reason(machine: Machine) -> None:
    machine.broken = {name: ArtifactError("not finite") for name in PAIRS[1:]}
    with pytest.raises(BuildError) as caught:
        machine.choose(unbuilt={"ort fp32": "damaged"})
    assert str(caught.value) == f"no engine can be chosen: ort fp32: damaged; {'; '.join(f'{name}: not finite' for name in PAIRS[1:])}"
    assert caught.value.exit_code == 5


def test_a_limit_on_images_without_objects_is_refused(machine: Machine) -> None:
    machine.maps = dict.fromkeys(PAIRS)
    with pytest.raises(DataError, match=r"max_map_drop 0\.01 cannot be judged"):
        machine.choose()
    assert machine.choose(None).offers[0].drop is None


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of all other runtimes one that computes with ONNX Runtime, and has TensorRT's name and options."""
    made = SimpleNamespace(**{**vars(ort), "DELIVERY": runtimes.Delivery("extra")})
    made.compiled_with = []

    def compiled(typed: Path, heads: Any, out: Path, **options: Any) -> Compiled:
        made.compiled_with.append(options)
        return engine.write(typed, heads, out)

    made.compile = compiled
    made.identity = lambda: {"other": "other 1.0"}
    load = plugins.load
    monkeypatch.setattr(plugins, "names", lambda _: ["ort", "trt"])
    monkeypatch.setattr(plugins, "load", lambda package, name: made if name == "trt" else load(package, name))
    return made


def built(root: Path, read: list[int] | None = None, **options: object) -> EngineFacts:
    out = root / "engine"
    out.mkdir(parents=True)
    config = samples.target(runtime="auto", **options)
    return optimize(out, config, samples.model(root / "onnx"), samples.dataset(root / "data", 12), "val").facts


def times(monkeypatch: pytest.MonkeyPatch, **changes: float) -> None:
    def fixed(name: str) -> float:
        return next((value for part, value in changes.items() if part in name), 5.0)

    monkeypatch.setattr(fastest, "measure_together", lambda engines, *_: samples.measured({name: fixed(name) for name in engines}))


def test_the_engine_has_the_chosen_runtime_and_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace) -> None:
    times(monkeypatch, trt=2.0)
    facts = built(tmp_path, max_batch=16, provider="cpu")
    assert (facts.runtime, facts.precision, facts.options["max_batch"]) == ("trt", "fp32", 16)
    assert "provider" not in facts.options
    assert facts.fingerprint.items() >= {"other": "other 1.0"}.items()
    assert facts.choice is not None
    assert [one.pair for one in facts.choice.offers] == ["ort fp32", "trt fp32"]
    assert all(options == facts.options for options in other.compiled_with)
    times(monkeypatch, ort=2.0)
    facts = built(tmp_path / "ort", max_batch=16, provider="cpu")
    assert (facts.runtime, facts.options) == ("ort", {"provider": "cpu", "optimization": "all"})


def test_one_calibration_serves_all_runtimes_with_the_same_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace
) -> None:
    times(monkeypatch, int8=2.0)
    read: list[int] = []
    original = CalibrationImages.__getitem__

    def counted(images: CalibrationImages, index: int) -> Batch:
        read.append(index)
        return original(images, index)

    monkeypatch.setattr(CalibrationImages, "__getitem__", counted)
    facts = built(tmp_path, precision="auto", max_map_drop=0.01)
    assert sorted(read) == list(range(12))
    assert facts.choice is not None
    assert [one.pair for one in facts.choice.offers] == [f"{name} {one}" for one in ("fp32", "fp16", "int8") for name in ("ort", "trt")]
    assert (facts.runtime, facts.precision, facts.choice.left_out) == ("ort", "int8", {})
    assert facts.fallback is not None


def test_a_runtime_that_is_not_here_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace
) -> None:
    other.why_not = lambda: "other is not installed: pip install other"
    facts = built(tmp_path, precision="auto")
    assert facts.runtime == "ort"
    assert facts.choice is not None
    assert facts.choice.left_out == {"trt": "other is not installed: pip install other"}
    assert {one.runtime for one in facts.choice.offers} == {"ort"}


def test_the_float_graph_is_judged_in_the_first_runtime_that_computes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace
) -> None:
    def judged(predictor: Any, split: Any, label: str) -> Any:
        if "ort" in label:
            raise ArtifactError("not finite")
        return judge(predictor, split, label)

    monkeypatch.setattr(maps, "judge", judged)
    facts = built(tmp_path, precision="auto", max_map_drop=0.01)
    assert facts.runtime == "trt"
    assert facts.choice is not None
    assert facts.choice.float_map == 1
    assert facts.choice.offers[0].why == "not finite"


@pytest.mark.parametrize("limit", [None, 0.5])
def test_int8_in_any_runtime_is_compared_with_the_float_graph_which_is_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace, limit: float | None
) -> None:
    times(monkeypatch, trt=2.0)
    facts = built(tmp_path, precision="int8", max_map_drop=limit)
    assert (facts.runtime, facts.precision, facts.fallback is not None) == ("trt", "int8", limit is not None)
    assert facts.choice is not None
    assert [one.pair for one in facts.choice.offers] == ["ort int8", "trt int8"]
    assert facts.choice.float_map == 1


def test_if_no_runtime_is_here_the_target_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace) -> None:
    other.why_not = lambda: "other is missing"
    monkeypatch.setattr("deploy.runtimes.ort.why_not", lambda: "onnxruntime is missing")
    facts = built(tmp_path)
    assert (facts.file, facts.why) == (None, "no engine can be chosen: ort: onnxruntime is missing; trt: other is missing")
    assert facts.runtime == "ort"


def test_a_choice_of_the_runtime_alone_needs_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: SimpleNamespace) -> None:
    times(monkeypatch, trt=2.0)
    out = tmp_path / "engine"
    out.mkdir()
    facts = optimize(out, samples.target(runtime="auto"), samples.model(tmp_path / "onnx"), None, "val").facts
    assert (facts.runtime, facts.choice is not None) == ("trt", True)


def test_a_real_choice_on_this_machine(tmp_path: Path) -> None:
    facts = built(tmp_path, precision="auto", max_map_drop=0.01)
    assert facts.choice is not None
    here = {name for name in plugins.names("deploy.runtimes") if plugins.load("deploy.runtimes", name).why_not() is None}
    assert {one.runtime for one in facts.choice.offers} == here
    assert set(facts.choice.left_out) == set(plugins.names("deploy.runtimes")) - here
    best = next(one for one in facts.choice.offers if facts.choice.verdict(one) == "chosen")
    assert (best.runtime, best.precision, best.why) == (facts.runtime, facts.precision, None)
    assert all(
        (one.p50_ms is None) == runtimes.is_raw_only(str(one.runtime)) for one in facts.choice.offers
    )  # this graph decodes its boxes
    least = min((one.ratio for one in facts.choice.offers if one.ratio is not None), key=lambda ratio: ratio.ratio)
    assert least.high >= 1


def test_options_of_any_runtime_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    config = samples.target(runtime="auto", provider="cpu", cuda_graph=True)
    assert config.options == {"provider": "cpu", "cuda_graph": True}
    assert TargetConfig.model_validate(config.model_dump()) == config
    with pytest.raises(ValidationError, match=r"no runtime has an option 'providr' \(did you mean provider\?\); available: .*provider"):
        samples.target(runtime="auto", providr="cpu")
    with pytest.raises(ValidationError, match="ort: provider: Input should be 'auto'"):
        samples.target(runtime="auto", provider="gpu")
    with pytest.raises(ValidationError, match="max_map_drop limits how much mAP int8 may lose"):
        samples.target(runtime="auto", max_map_drop=0.01)
    monkeypatch.setattr("deploy.machine.gpu", lambda: {"gpu": "RTX 3090", "driver": "580", "compute_capability": "8.6"})
    assert runtimes.options_of("trt_rtx", {"compute_capability": "8.9"})["compute_capability"] == "current"


def test_runtimes_that_need_no_extra_come_first() -> None:
    assert runtimes.wanted("auto")[0] == "ort"
    assert set(runtimes.wanted("auto")) == set(plugins.names("deploy.runtimes"))
    assert runtimes.wanted("openvino") == ("openvino",)
