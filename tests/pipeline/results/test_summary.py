import pytest

from deploy.contract import Ratio
from deploy.engines.choice import Choice, Measured
from pipeline.results.robustness import lead_lines
from pipeline.results.summary import difference, gap_closed
from pipeline.results.table import _shown, choice_table, grid, number, verdict_table


@pytest.mark.parametrize(
    ("teacher", "baseline", "student", "closed"),
    [
        (0.6, 0.4, 0.5, 0.5),
        (0.6, 0.4, 0.7, 1.5),
        (0.6, 0.4, 0.3, -0.5),
        (0.4, 0.4, 0.5, None),
        (0.408, 0.4, 0.35, None),
        (0.3, 0.4, 0.5, None),
        (None, 0.4, 0.5, None),
        (0.6, None, 0.5, None),
        (0.6, 0.4, None, None),
    ],
)
def test_gap_closed(teacher: float | None, baseline: float | None, student: float | None, closed: float | None) -> None:
    assert gap_closed(teacher, baseline, student) == (closed if closed is None else pytest.approx(closed))


def test_difference_of_an_undefined_figure_is_undefined() -> None:
    assert (difference(0.5, 0.25), difference(None, 0.5), difference(0.5, None)) == (0.25, None, None)


def test_columns_line_up() -> None:
    assert grid(["a", "bb"], [["long", "1"], ["x", "200"]]) == "a      bb\n---------\nlong    1\nx     200"


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.5, "0.5000"), (0, "0.0000"), (123456.0, "123456"), (12.5, "12.5000")])
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


def test_what_could_not_be_judged_is_said_below_the_table() -> None:
    gate = {"name": "fast", "target": "gpu", "metric": "bytes", "measured": None, "limit": "<= 3", "verdict": "unmeasured", "why": "no GPU"}
    assert verdict_table([gate]).splitlines()[-1] == "! gpu, gate fast: no GPU"


def test_masks_have_a_column_where_any_network_has_them() -> None:
    assert _shown([{"map": 0.5}, {"map": 0.4, "mask_map": None}], "map") == ["map"]
    assert _shown([{"map": 0.5}, {"map": 0.4, "mask_map": 0.3}], "map") == ["map", "mask_map"]


def test_a_choice_has_a_line_per_candidate_and_one_per_reason() -> None:
    offers = (
        Measured(runtime="ort", precision="fp32", map=0.61, drop=0.0, p50_ms=6.5, ratio=Ratio(ratio=1.5, low=1.4, high=1.6)),
        Measured(runtime="openvino", precision="fp32", map=0.6100001, drop=-1e-7, p50_ms=4.5, ratio=Ratio(ratio=1.0, low=0.98, high=1.02)),
        Measured(runtime="ort", precision="int8", map=0.605, drop=0.005, p50_ms=4.4),
        Measured(runtime="openvino", precision="int8", why="no layer to quantize"),
    )
    choice = Choice(
        runtime="ort", precision="int8", limit=0.01, float_map=0.61, offers=offers, left_out={"trt": "no GPU"}, warning="a storm"
    )
    assert choice_table("best", choice.figures()).splitlines() == [
        "best: ort int8 was chosen, the fastest of those within 0.01 of the float graph's mAP",
        "candidate         map    drop  p50 ms      x chosen  verdict",
        "-------------------------------------------------------------",
        "ort fp32       0.6100  0.0000    6.50  1.40 to 1.60  slower",
        "openvino fp32  0.6100  0.0000    4.50  0.98 to 1.02  tie",
        "ort int8       0.6050  0.0050    4.40             -  chosen",
        "openvino int8       -       -       -             -  left out",
        "! openvino int8 was left out: no layer to quantize",
        "! trt was left out: no GPU",
        "! latency of the candidates: a storm",
        "x chosen: times as long as the chosen engine takes, 95% interval; drop: mAP lost against the float graph",
    ]


def test_candidates_that_were_left_out_for_one_reason_share_a_line() -> None:
    offers = (
        Measured(runtime="ort", precision="fp32", map=0.61, p50_ms=6.5),
        *(Measured(runtime="ncnn", precision=precision, why="raw outputs only") for precision in ("fp32", "fp16")),
        Measured(runtime="ncnn", precision="int8", why="no int8"),
        Measured(runtime="ort", precision="int8", map=0.2, p50_ms=3.0, why="it loses 0.4 mAP"),
        Measured(runtime="litert", precision="fp32", why="raw outputs only"),
    )
    choice = Choice(runtime="ort", precision="fp32", limit=0.01, offers=offers)
    reasons = [line for line in choice_table("best", choice.figures()).splitlines() if line.startswith("!")]
    assert reasons == [
        "! ncnn fp32, ncnn fp16 and litert fp32 were left out: raw outputs only",
        "! ncnn int8 was left out: no int8",
        "! ort int8 was left out: it loses 0.4 mAP",
    ]
    assert str(choice).partition("faster: ")[2] == (
        "ort fp32 mAP 0.6100, 6.50 ms; ort int8 mAP 0.2000, 3.00 ms, left out: it loses 0.4 mAP; "
        "ncnn fp32, ncnn fp16 and litert fp32 were left out: raw outputs only; ncnn int8 was left out: no int8"
    )


def test_choices_of_earlier_versions_name_no_runtime() -> None:
    offers = [{"precision": precision, "map": 0.6, "p50_ms": ms, "why": None} for precision, ms in (("fp32", 3.0), ("int8", 2.0))]
    choice = Choice.model_validate({"precision": "int8", "limit": None, "offers": offers})
    lines = choice_table("best", choice.figures()).splitlines()
    assert lines[0] == "best: int8 was chosen, the fastest"
    rows = [line.split() for line in lines[3:5]]
    assert rows == [["fp32", "0.6000", "-", "3.00", "-", "tie"], ["int8", "0.6000", "-", "2.00", "-", "chosen"]]


def test_leads_in_robustness_say_where_too_few_images_have_objects() -> None:
    told = {"metric": "map@night", "num_images": 60, "gain": 0.0312, "low": 0.012, "high": 0.05}
    leads = [told, {**told, "metric": "mpc", "gain": -0.1, "low": None, "high": None}, {**told, "metric": "rpc", "gain": None}]
    words = "+0.0312 (+0.012 to +0.050) map@night, -0.1000 (too few images with objects) mpc"
    assert lead_lines({"leads": leads}) == [f"student over baseline: {words}; in parentheses: 95% interval over the images"]
