from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import jsonschema
import pytest
import yaml
from places import ROOT
from pydantic import BaseModel

from deploy.comparison.metrics import NAMES
from deploy.errors import ConfigError
from pipeline.commands.config import schema
from pipeline.config import PLUGIN_SECTIONS, PipelineConfig, load
from pipeline.config.document import PLUGINS


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *settings: str) -> str:
    """The one line that a configuration is refused with."""
    with pytest.raises(ConfigError) as caught:
        load(path, settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_are_filled_in_and_the_value_is_frozen(small_file: Path) -> None:
    config = load(small_file)
    assert (config.seed, config.device, config.export.opset) == (0, "auto", 18)
    assert config.student.detector.options["backbone"]
    assert config.serve.host == "127.0.0.1"
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("sed=1", "sed: no such key (did you mean seed?); choose from name, seed, device, "),
        ("student.tran.epochs=3", "student.tran: no such key (did you mean train?); choose from detector, train, weights"),
        ("student.train.epochs=-1", "student.train.epochs: got -1, allowed: greater than or equal to 0"),
        ("student.train.epochs='3'", 'student.train.epochs: got "3", allowed: a number'),
        ("student.train.epochs=true", "student.train.epochs: got true, allowed: a number"),
        ("student.train.epochs=null", "student.train.epochs: got null, allowed: a valid integer"),
        ("student.train.betas=[0.9, 1.0]", "student.train.betas.1: got 1.0, allowed: less than 1"),
        ("student.train.betas=[-0.1, 0.9]", "student.train.betas.0: got -0.1, allowed: greater than or equal to 0"),
        ("student.train=fast", 'student.train: got "fast", allowed: a mapping'),
        ("student.train.optimizer=adam", 'student.train.optimizer: got "adam" (did you mean adamw?), allowed: sgd, adamw'),
        ("student.train.augment=[{name: flop}]", "student.train.augment.0: no 'flop' (did you mean flip?); choose from flip, "),
        ("student.train.augment=[{name: flip, q: 1}]", "student.train.augment.0.q: no such key; choose from name, p"),
        ("student.train.augment=[{name: scale, min: 2}]", "student.train.augment.0: min 2.0 is above max 1.25"),
        ("student.train.augment=[3]", "student.train.augment.0: got 3, allowed: a mapping"),
        ("student.detector.name=fcs", "student.detector: no 'fcs' in stages.detectors (did you mean fcos?); choose from "),
        ("student.detector=null", "student.detector: expected a mapping with 'name'"),
        ("student.detector.wdith=3", "student.detector: fcos has no option 'wdith'"),
        ("distill.losses=[]", "distill.losses: got 0 entries, allowed: at least 1"),
        ("distill.losses.0.name=atention", "distill.losses.0: no 'atention' in stages.losses (did you mean attention?)"),
        ("distill.losses.0.wight=3", "distill.losses.0: attention has no option 'wight' (did you mean weight?)"),
        ("distill.losses.0.temperature=warm", "distill.losses.0: attention: temperature: "),
        ("data=3", "data: expected a mapping with 'dataset'"),
        ("data.dataset=digit", "data: no 'digit' in stages.datasets (did you mean digits?)"),
        ("data.preprocessing.height=101", "data.preprocessing.height: got 101, allowed: a multiple of 4"),
        ("data.strict=1", "data.strict: got 1, allowed: true or false"),
        ("seed=.nan", "seed: got NaN, allowed: a finite number"),
        ("seed=010", 'seed: got "010", allowed: a number'),
        ("seed=1:30", 'seed: got "1:30", allowed: a valid integer'),
        ("seed=0b11", 'seed: got "0b11", allowed: a valid integer'),
        ("baseline.max_minutes=1:30.5", 'baseline.max_minutes: got "1:30.5", allowed: a valid number'),
        ("data.seed=010", 'data.seed: got "010", allowed: a number'),
        ("seed=-1", "seed: got -1, allowed: greater than or equal to 0"),
        ("device=gpu", 'device: got "gpu" (did you mean cpu?), allowed: auto, cpu, cuda'),
        ("name=a/b", 'name: got "a/b", allowed: text that matches '),
        ("name=12", "name: got 12, allowed: text"),
        ("export.opset=99", "export.opset: got 99, allowed: less than or equal to 23"),
        ("export=null", "export: got null, allowed: a mapping"),
        ("targets=[]", "targets: got 0 entries, allowed: at least 1"),
        ("targets=cpu", 'targets: got "cpu", allowed: a list'),
        ("targets.0.runtime=onnx", "targets.0: no 'onnx' in deploy.runtimes; choose from auto, litert, ncnn"),
        ("targets.0.runtime=ncnn", "targets.0.runtime: runtime ncnn computes raw outputs only; set export.decode: host"),
        ("targets.0.runtime=aut", "targets.0: no 'aut' in deploy.runtimes (did you mean auto?)"),
        ("targets.0={name: a, runtime: auto, provdr: cpu}", "targets.0: no runtime has an option 'provdr' (did you mean provider?)"),
        ("targets.0.precision=fp8", 'targets.0.precision: got "fp8", allowed: fp32, fp16, int8'),
        ("targets.0.name=teacher", "targets: a target cannot be called teacher"),
        ("targets.0.name=float", "targets: a target cannot be called float"),
        ("targets=[{name: a, runtime: ort}, {name: a, runtime: ort}]", "targets: 2 targets are called a; give each its own name"),
        ("validation.split=train", "validation: the networks are trained on split train; choose a different split"),
        ("gates.0.metric=mapp", "gates.0.metric: no metric 'mapp' (did you mean map?); choose from map, map_50, "),
        ("gates.0.metric=torch_drop_map", "gates.0.metric: metric 'torch_drop_map' is now called student_drop_map"),
        ("gates.0={metric: map, max_drop: 0, versus: undistilled}", 'gates.0.versus: "undistilled" is now called baseline'),
        ("gates.0={metric: map, max_drop: 0, versus: undistiled}", 'gates.0.versus: got "undistiled", allowed: teacher, baseline, float,'),
        ("baseline.equal=epochs", 'baseline.equal: got "epochs", allowed: steps, cost, both'),
        ("baseline.max_minutes=-1", "baseline.max_minutes: got -1, allowed: greater than or equal to 0"),
        ("gates.0.target=cpuu", "gates.0.target: no target 'cpuu' (did you mean cpu?); choose from cpu"),
        ("gates.0.min=null", "gates.0: set min, max or both"),
        ("serve.port=99999", "serve.port: got 99999, allowed: less than or equal to 65535"),
        # the setting itself
        ("gates.1.min=0.5", "gates is a list, got index '1', allowed: 0 to 0"),
        ("gates.first.min=0.5", "gates is a list, got index 'first', allowed: 0 to 0"),
        ("gates.².min=0.5", "gates is a list, got index '²', allowed: 0 to 0"),
        ("name.first=1", "name is 'small', which has no 'first'"),
        ("package.list.0=1", "package.list has no entries"),
        ("seed", "pass a path and a value, such as gates.0.min=0.5"),
        ("seed..x=1", "pass a path and a value, such as gates.0.min=0.5"),
        ("export=[1", "expected ',' or ']', but got '<stream end>'"),
        ("export={opset: 18, opset: 19}", "opset is given twice"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(small_file: Path, setting: str, line: str) -> None:
    assert refusal(small_file, setting).startswith(f"--set {setting}: {line}")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ": got an empty file, allowed: a mapping"),
        ("- 1\n- 2\n", ": got list, allowed: a mapping"),
        ("name: a\nname: b\n", ":2: name is given twice"),
        ("name: [a\n", ":2: expected ',' or ']'"),
        ("name: &a [*a]\n", ":1: an alias that contains itself"),
        ("1: a\n", ": key 1 is not text; put it in quotes"),
        ("name: small\n", ": data: missing, and has no default (and 4 more)"),
        ("nam: small\n", ": nam: no such key (did you mean name?)"),
        ("extends: 3\n", ": extends: got 3, allowed: one file name, relative to this file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_it(tmp_path: Path, text: str, line: str) -> None:
    path = write(tmp_path, "wrong.yaml", text)
    assert refusal(path).startswith(f"{path}{line}")


@pytest.mark.parametrize(
    ("gate", "line"),
    [
        ("{metric: torch_drop_map, max: 0.01}", "gates.0.metric: metric 'torch_drop_map' is now called student_drop_map"),
        ("{metric: map, max_drop: 0.01, versus: undistilled}", 'gates.0.versus: "undistilled" is now called baseline'),
    ],
)
def test_a_former_name_in_a_file_is_refused_with_the_present_one(tmp_path: Path, small_file: Path, gate: str, line: str) -> None:
    path = write(tmp_path, "former.yaml", f"extends: {small_file}\ngates: [{gate}]\n")
    assert refusal(path) == f"{path}: {line}"
    assert ConfigError.exit_code == 2


@pytest.mark.parametrize(
    ("metric", "equal", "lacking"), [("gain_map", "cost", "steps"), ("gain_map_equal_cost", "steps", "cost"), ("gain_map", "both", None)]
)
def test_a_gate_on_a_gain_over_a_baseline_that_the_run_does_without(small_file: Path, metric: str, equal: str, lacking: str | None) -> None:
    settings = [f"baseline.equal={equal}", f"gates.0={{metric: {metric}, min: 0}}"]
    if lacking is None:
        assert load(small_file, settings).gates[0].metric == metric
    else:
        with pytest.raises(ConfigError, match=f"gates.0.metric: {metric} needs a baseline at equal {lacking}; set baseline.equal to both"):
            load(small_file, settings)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: no such file")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(tmp_path / "binary.yaml")


def test_settings_take_their_type_from_yaml_and_the_last_one_wins(small_file: Path) -> None:
    config = load(small_file, ["seed=1", "seed=2", "student.train.learning_rate=1e-3", "gates.0.min=0.99", "teacher.weights=x=y"])
    assert (config.seed, config.student.train.learning_rate, config.gates[0].min, config.teacher.weights) == (2, 0.001, 0.99, "x=y")


@pytest.mark.parametrize(("text", "value"), [("0x10", 16), ("1_000", 1000), ("0", 0), ("+7", 7)])
def test_other_spellings_of_whole_numbers_have_one_meaning(small_file: Path, text: str, value: int) -> None:
    assert load(small_file, [f"seed={text}"]).seed == value


def test_a_class_may_be_called_as_a_number_that_starts_with_zero(small_file: Path) -> None:
    assert load(small_file, ["data={dataset: yolo, root: here, names: [007, 010]}"]).data.model_dump()["names"] == ["007", "010"]


@pytest.mark.parametrize("text", ["2026-11-30", "2026-13-45", "2026-11-30 17:00:00"])
def test_dates_are_text(small_file: Path, text: str) -> None:
    assert load(small_file, [f"package.description={text}"]).package.description == text


def test_a_setting_makes_the_sections_on_its_way(small_file: Path) -> None:
    assert load(small_file, ["validation.latency.min_passes=3"]).validation.latency.min_passes == 3


def test_a_setting_changes_one_of_two_aliased_sections(tmp_path: Path, small_file: Path) -> None:
    text = small_file.read_text()
    text = text.replace("teacher: {detector: {name: fcos}}", "teacher: {detector: {name: fcos}, train: &training {epochs: 5}}")
    path = write(tmp_path, "alias.yaml", text.replace("train: {epochs: 2}", "train: *training"))
    config = load(path, ["student.train.epochs=9"])
    assert (config.teacher.train.epochs, config.student.train.epochs) == (5, 9)


class TestExtends:
    def test_mappings_merge_and_lists_replace(self, tmp_path: Path, small_file: Path) -> None:
        path = write(tmp_path, "over.yaml", f"extends: {small_file.name}\nstudent: {{train: {{epochs: 7}}}}\ngates: []\n")
        config = load(path)
        assert (config.student.train.epochs, config.student.detector.name, config.gates) == (7, "fcos", ())

    def test_files_are_relative_to_the_one_that_names_them(self, tmp_path: Path, small_file: Path) -> None:
        (tmp_path / "deep").mkdir()
        write(tmp_path, "middle.yaml", f"extends: {small_file.name}\nseed: 5\n")
        assert load(write(tmp_path / "deep", "over.yaml", "extends: ../middle.yaml\nname: deep\n")).seed == 5

    def test_another_plugin_drops_the_options_of_the_one_it_replaces(self, tmp_path: Path, small_file: Path) -> None:
        write(tmp_path, "base.yaml", f"extends: {small_file.name}\ndata: {{dataset: digits, val_images: 3}}\n")
        path = write(tmp_path, "over.yaml", "extends: base.yaml\nname: other\ndata: {dataset: coco, root: somewhere}\n")
        assert load(path).data.dataset == "coco"

    def test_another_name_of_the_server_keeps_its_other_settings(self, tmp_path: Path, small_file: Path) -> None:
        own = "serve: {name: a, port: 9000, host: 0.0.0.0, token_file: /run/secret}"
        write(tmp_path, "base.yaml", f"extends: {small_file.name}\n{own}\n")
        serve = load(write(tmp_path, "over.yaml", "extends: base.yaml\nserve: {name: b}\n")).serve
        assert (serve.name, serve.port, serve.host, serve.token_file) == ("b", 9000, "0.0.0.0", Path("/run/secret"))

    @pytest.mark.parametrize("key", ["name", "dataset", "runtime"])
    def test_a_key_of_the_users_own_may_be_called_as_one_that_names_a_plugin(self, tmp_path: Path, small_file: Path, key: str) -> None:
        write(tmp_path, "base.yaml", f"extends: {small_file.name}\ndata: {{splits: {{{key}: a, val: test}}}}\n")
        path = write(tmp_path, "over.yaml", f"extends: base.yaml\ndata: {{splits: {{{key}: b}}}}\n")
        assert load(path).data.splits == {key: "b", "val": "test"}

    def test_every_section_of_a_plugin_that_can_be_merged_is_known_as_one(self) -> None:
        def found(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
            for name, field in model.model_fields.items():
                parts = () if get_origin(field.annotation) is tuple else (field.annotation, *get_args(field.annotation))
                for kind in (one for one in parts if isinstance(one, type) and issubclass(one, BaseModel)):
                    if kind in PLUGIN_SECTIONS:
                        yield (*path, name), PLUGIN_SECTIONS[kind].key
                    yield from found(kind, (*path, name))

        assert dict(found(PipelineConfig, ())) == PLUGINS

    def test_a_circle_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a.yaml", "extends: b.yaml\n")
        write(tmp_path, "b.yaml", "extends: a.yaml\n")
        assert "b.yaml: extends " in refusal(tmp_path / "a.yaml")

    def test_a_missing_base_is_named(self, tmp_path: Path) -> None:
        file = write(tmp_path, "a.yaml", "extends: none.yaml\n")
        assert refusal(file) == f"{tmp_path / 'none.yaml'}: no such file; {file} extends it: name one relative to that"

    def test_an_error_names_the_file_that_holds_the_value(self, tmp_path: Path, small_file: Path) -> None:
        base = write(tmp_path, "base.yaml", small_file.read_text() + "seed: -1\n")
        assert refusal(write(tmp_path, "over.yaml", "extends: base.yaml\nname: over\n")).startswith(f"{base}: seed: ")


def test_gates_apply_to_the_target_they_name_or_to_all(small_file: Path) -> None:
    config = load(
        small_file,
        ["targets=[{name: a, runtime: ort}, {name: b, runtime: ort}]", "gates=[{metric: map, min: 0}, {metric: bytes, max: 9, target: b}]"],
    )
    assert [len(config.gates_of(name)) for name in "ab"] == [1, 2]


def test_metrics_are_those_that_a_report_holds() -> None:
    assert {"map", "map_50", "mar_100", "bytes", "latency_pre_p50_ms", "latency_end_to_end_p99_ms"} <= set(NAMES)
    assert not {"split", "num_images", "per_class", "latency_seconds_p50_ms"} & set(NAMES)


SHIPPED = [ROOT / "pipeline.yaml", *sorted((ROOT / "examples").glob("*.yaml")), *sorted((ROOT / "benchmarks/evidence").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
class TestEveryShippedFile:
    def test_it_is_valid(self, path: Path) -> None:
        assert load(path).name

    def test_it_fits_the_schema_for_editors(self, path: Path) -> None:
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema())


def test_the_first_gate_is_a_min_on_map() -> None:
    gate = load(ROOT / "pipeline.yaml").gates[0]
    assert (gate.metric, gate.min is not None) == ("map", True)


def test_runtime_auto_has_the_options_of_all_runtimes_in_the_schema_too(small_file: Path) -> None:
    data = yaml.safe_load(small_file.read_text())
    best = {"name": "best", "runtime": "auto", "precision": "auto", "provider": "cpu", "max_batch": 4}
    jsonschema.validate({**data, "targets": [best]}, schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "targets": [{**best, "providr": "cpu"}]}, schema())


def test_the_schema_refuses_what_the_pipeline_refuses(small_file: Path) -> None:
    data = yaml.safe_load(small_file.read_text())
    jsonschema.validate(data, schema())
    for wrong in ({"sed": 1}, {"student": {"detector": {"name": "fcos", "wdith": 1}}}, {"distill": {"losses": [{"name": "atention"}]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**data, **wrong}, schema())
