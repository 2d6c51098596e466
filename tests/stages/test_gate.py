from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import artifact_samples as samples
import pytest

from deploy.bundles.manifest import Verdict
from deploy.comparison import metrics
from deploy.comparison.side import Side
from deploy.contract import Cost, NetworkFacts
from stages.config import GateConfig, ValidationConfig
from stages.gate import gate
from stages.measurement.verdicts import Judge, exit_code, limit


def judge(own: Side, gates: Sequence[GateConfig]) -> list[Verdict]:
    """The verdicts that take nothing but the engine's own figures."""
    judged = Judge(own, {}, None, ValidationConfig())
    return [judged.verdict(one) for one in gates if one.target in (None, own.name)]


def of(metric: str, **limits: object) -> GateConfig:
    return GateConfig.model_validate({"metric": metric, **limits})


@pytest.mark.parametrize(
    ("one", "verdict", "measured"),
    [
        (of("map", min=0.5), "pass", 0.5),  # the limit itself passes
        (of("map", min=0.4), "pass", 0.5),
        (of("map", min=0.500001), "fail", 0.5),
        (of("map", max=0.5), "pass", 0.5),
        (of("map", max=0.4), "fail", 0.5),
        (of("map", min=0.4, max=0.6), "pass", 0.5),
        (of("map", min=0.6, max=0.7), "fail", 0.5),
        (of("map_small", min=0), "incomparable", None),  # undefined on this data, never a pass
        (of("latency_end_to_end_p99_ms", max=9), "pass", 9.0),
        (of("latency_infer_p50_ms", max=0.5), "fail", 1.0),
        (of("latency_pre_p90_ms", max=2), "pass", 2.0),
        (of("bytes", max=1000), "pass", 1000.0),
        (of("bytes", max=999), "fail", 1000.0),
        (of("mapp", min=0.1), "incomparable", None),
    ],
)
def test_a_measured_number_against_its_limit(one: GateConfig, verdict: str, measured: float | None) -> None:
    (found,) = judge(samples.side(samples.report_facts()), [one])
    assert (found.verdict, found.measured) == (verdict, measured)
    assert (found.why is not None) == (verdict == "incomparable")


@pytest.mark.parametrize("share", ["0.7%", "1.4%", "2.8%", "5.6%", "7%", "33.3%"])
def test_a_share_equal_to_its_limit_passes(share: str) -> None:
    """As fractions of two, 0.7 / 100 is less than 7 / 1000."""
    bound, relative = of("bytes", max_increase=share).limit
    reference = 10_000
    own = reference + round(float(share[:-1]) * reference / 100)
    assert (relative, (own - reference) / reference <= bound) == (True, True)


def test_nan_never_passes() -> None:
    accuracy = samples.accuracy().model_copy(update={"map": float("nan")})
    report = samples.report_facts().model_copy(update={"accuracy": accuracy})
    for one in (of("map", min=0.0), of("map", max=1.0), of("map", min=0.9)):
        (found,) = judge(samples.side(report), [one])
        assert (found.verdict, found.measured) == ("incomparable", None)


def test_a_target_that_was_not_measured_is_unmeasured_whatever_the_metric() -> None:
    verdicts = judge(samples.side(samples.report_facts(why="no GPU")), [of("map", min=0.1), of("bytes", max=1)])
    assert {(one.verdict, one.why, one.measured) for one in verdicts} == {("unmeasured", "no GPU", None)}


def test_gates_apply_to_the_target_they_name_or_to_all() -> None:
    gates = [of("map", min=0.1), of("map", min=0.1, target="here"), of("map", min=0.1, target="there")]
    assert [one.name for one in judge(samples.side(samples.report_facts()), gates)] == ["map >= 0.1 on here"] * 2


def test_names_and_limits_in_words() -> None:
    assert judge(samples.side(samples.report_facts()), [of("map", min=0.3, name="good")])[0].name == "good"
    assert limit(of("map", min=0.3, max=0.9)) == ">= 0.3 and <= 0.9"
    assert limit(of("bytes", max=1234567)) == "<= 1234567"
    assert limit(of("map", min=0.1234567)) == ">= 0.1234567"


def test_the_stage_writes_its_verdicts(tmp_path: Path) -> None:
    out = tmp_path / "verdicts"
    out.mkdir()
    built = samples.engine(tmp_path / "built", samples.target())
    timed = samples.measurement(tmp_path / "measurement", {"here": samples.latency()})
    model, report = samples.model(tmp_path / "model"), samples.report(tmp_path / "report")
    others: Any = (ValidationConfig(), None, built, model, report, timed, {}, {}, {}, {})
    facts = gate(out, (of("map", min=0.99), of("macs", max=10), of("map", max_drop=0.01)), *others).facts
    assert (facts.target, [one.verdict for one in facts.verdicts]) == ("here", ["fail", "fail"])


def verdict(kind: str, target: str = "a") -> Verdict:
    return Verdict.model_validate({"name": "n", "target": target, "metric": "map", "verdict": kind, "measured": None, "limit": ">= 0"})


EVERYWHERE, ON_A, ON_B = of("map", min=0), of("map", min=0, target="a"), of("map", min=0, target="b")


@pytest.mark.parametrize(
    ("kinds", "gates", "required", "unmeasured", "expected"),
    [
        ([], [], [], [], 0),
        (["pass"], [EVERYWHERE], [], [], 0),
        (["pass", "fail"], [EVERYWHERE], [], [], 10),
        (["fail", "incomparable", "inconclusive"], [EVERYWHERE], ["a"], ["a"], 10),
        (["pass", "incomparable", "inconclusive"], [EVERYWHERE], [], [], 12),
        (["pass", "inconclusive"], [EVERYWHERE], [], [], 11),
        (["pass", "unmeasured"], [EVERYWHERE], [], ["a"], 0),
        (["pass", "unmeasured"], [EVERYWHERE, ON_A], [], ["a"], 12),
        (["pass", "unmeasured"], [EVERYWHERE, ON_B], [], ["a"], 0),
        (["inconclusive", "unmeasured"], [ON_A], [], ["a"], 12),
        (["pass", "unmeasured"], [EVERYWHERE], ["a"], ["a"], 5),
        (["pass", "unmeasured"], [ON_A], ["a"], ["a"], 5),
        (["unmeasured"], [EVERYWHERE], [], ["a"], 12),
        ([], [], [], ["a"], 0),
        ([], [], ["a"], ["a"], 5),
    ],
)
def test_the_exit_code(kinds: list[str], gates: Any, required: list[str], unmeasured: list[str], expected: int) -> None:
    assert exit_code([verdict(kind) for kind in kinds], gates, required=required, unmeasured=unmeasured) == expected


def test_every_metric_has_a_value_where_all_was_measured() -> None:
    report = samples.report_facts(map_small=0.1)
    accuracy = samples.accuracy(map_small=0.1).model_copy(update={"segmentation": report.accuracy})
    network = NetworkFacts(detector="cells", parameters=1234, macs=5, checkpoint="student")
    cost = Cost(macs=6, operators={"Conv": 2, "Relu": 1}, weight_bytes=7, peak_activation_bytes=8, input_bytes=9)
    maps = {"teacher": 0.7, "baseline": 0.4, "baseline_equal_cost": 0.45, "student": 0.51}
    ratios = samples.measured({"here": 2.0, "teacher": 12.0, "baseline": 2.2, "float": 3.0}).ratios
    speedups = {name: others["here"] for name, others in ratios.items() if name != "here"}
    masks = {"baseline": 0.35, "baseline_equal_cost": 0.4}
    robust = {"map_worst_group": 0.2, "mpc": 0.3, "rpc": 0.6, "map@night": 0.1}
    known = metrics.Figures(accuracy, samples.latency(), report.bytes, cost, network, maps, speedups, masks, robust)
    values = {name: metrics.value(name, known) for name in metrics.NAMES}
    assert len(values) == 12 + 3 + 6 + 16 + 3 + 1 + 1 + 2 + 4 + 3
    assert metrics.value("map@night", known) == 0.1
    assert (values["speedup_over_teacher"], values["speedup_over_float"]) == (6, 1.5)
    assert None not in values.values()
    assert (values["operators"], values["engine_macs"], values["macs"], values["images_per_s"]) == (3, 6, 5, 50)
    assert values["gain_map"] == pytest.approx(0.1)
    assert values["gain_map_equal_cost"] == pytest.approx(0.05)
    assert report.accuracy is not None
    assert report.accuracy.map is not None
    assert values["gain_mask_map"] == pytest.approx(report.accuracy.map - 0.35)
    assert values["gain_mask_map_equal_cost"] == pytest.approx(report.accuracy.map - 0.4)
    without = replace(known, accuracy=samples.accuracy())
    assert metrics.value("gain_mask_map", without) is None
    assert values["teacher_drop_map"] == pytest.approx(0.2)
    assert values["student_drop_map"] == pytest.approx(0.01)
    assert metrics.value("map/red", known) == 0.5
    assert metrics.value("map/green", known) is None
    with pytest.raises(ValueError, match="no class 'rod' \\(did you mean red\\?\\); choose from red, green"):
        metrics.value("map/rod", known)
    assert [metrics.value(name, metrics.Figures()) for name in metrics.NAMES] == [None] * len(values)


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no metric 'map_95' \(did you mean map_75\?\); choose from map, map_50"):
        metrics.check("map_95")
    assert metrics.check("bytes") == "bytes"
