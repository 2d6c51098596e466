"""`edgedistill compare`: what is trained, what is refused, what is said; with stages that only count."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import arena_samples
import pytest

from deploy.errors import ConfigError
from pipeline import cli
from pipeline.arena import lineup, opening, serving, trainings
from pipeline.arena.lineup import Costs
from pipeline.arena.outcome import to_paste
from pipeline.arena.variants import method, shares, untaught, with_share
from pipeline.commands import compare
from pipeline.config import PipelineConfig, load
from pipeline.store import exclusion
from stages.facts import StepTimeFacts


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A comparison whose trainings take no time, in the working directory."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "pipeline.yaml"
    file.write_text(arena_samples.CONFIG, encoding="utf-8")
    with arena_samples.counting():
        yield file


def figures() -> dict[str, object]:
    found: dict[str, object] = json.loads(Path("runs/made-up/compare.json").read_text(encoding="utf-8"))
    return found


class TestWhole:
    def test_every_training_is_made_once_and_reused(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare"]) == 0
        out = capsys.readouterr().out
        # teacher, random teacher, 2 x 2 trials, and at 2 seeds: 2 baselines, 2 methods, control
        assert len(Path("runs/.store/made.txt").read_text().split()) == 2 + 4 + 2 * 5
        assert "15 of 15 trainings done" in out
        assert "distill:pearson, trial 2" in out
        first = figures()
        assert first["control_method"] == "pearson", "the one that led"
        assert Path("runs/made-up/compare.html").exists()
        assert not Path("runs/made-up/compare.lock.json").exists()
        assert not Path("runs/made-up/teacher-outputs").exists()
        assert cli.main(["compare"]) == 0
        assert "running" not in capsys.readouterr().out
        assert figures() == first

    def test_what_others_share_is_not_forgotten_by_a_different_comparison(self, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as begun:
            share(begun)
        agreed = Path("runs/made-up/compare.lock.json")
        for content in (agreed.read_bytes(), b"\xff damaged"):
            agreed.write_bytes(content)
            assert cli.main(["compare", "--seeds", "3"]) == 0
            assert agreed.read_bytes() == content

    def test_the_strength_that_led_in_the_trials_is_used(self, config_file: Path) -> None:
        assert cli.main(["compare", "--set", "compare.trials=3"]) == 0
        for one in figures()["methods"]:  # type: ignore[attr-defined]
            reached = {trial["share"]: trial["map"] for trial in one["trials"]}
            assert one["distill"].get("share", 0.7) == max(reached, key=lambda share: reached[share])
            assert len(reached) == 3

    def test_one_trial_is_none(self, config_file: Path) -> None:
        assert cli.main(["compare", "--set", "compare.trials=1", "--set", "distill.share=0.4"]) == 0
        found = figures()
        assert found["tuning"] is None
        assert found["control_method"] == "attention", "the first one"
        assert [one["distill"]["share"] for one in found["methods"]] == [0.4, 0.4]  # type: ignore[attr-defined]
        assert len(Path("runs/.store/made.txt").read_text().split()) == 2 + 2 * 5

    def test_the_longer_baseline_takes_as_long_as_the_slowest_method(self, config_file: Path) -> None:
        assert cli.main(["compare"]) == 0
        assert figures()["equal_cost"]["epochs"] == 18  # type: ignore[index]  # 1.5 times 12

    def test_a_named_control_needs_no_trials_to_be_chosen(self, config_file: Path) -> None:
        assert cli.main(["compare", "--set", "compare.control=attention"]) == 0
        control = figures()["control"]
        assert control["distill"]["losses"][0]["name"] == "attention"  # type: ignore[index]
        assert figures()["control_method"] == "attention"
        assert max(control["maps"]) < 0.5  # type: ignore[index]

    def test_a_method_that_diverges_is_left_out_and_not_repeated(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        methods = f"compare.methods=[attention, {arena_samples.DIVERGES}]"
        assert cli.main(["compare", "--set", methods]) == 0
        out = capsys.readouterr().out
        assert out.count("distill:hint, trial 1") == 1
        assert "! hint is left out: every trial diverged; the last one: distill: hint is nan at step 3 (delete" in out
        assert cli.main(["compare", "--set", methods]) == 0
        assert "running" not in capsys.readouterr().out

    def test_if_every_method_diverges_that_is_an_error(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare", "--set", f"compare.methods=[{arena_samples.DIVERGES}]"]) == 4
        assert "no method could be trained at every seed; every trial diverged" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["train_teacher", "train_baseline"])
    def test_without_a_teacher_or_a_baseline_everything_ends(
        self, config_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr(arena_samples, "BROKEN", {name})
        assert cli.main(["compare"]) == 4
        printed = capsys.readouterr()
        assert f"{name}: loss is nan at step 3" in printed.err
        assert "distill:attention, seed" not in printed.out

    def test_images_without_labels_may_be_part_of_a_method(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        methods = "compare={methods: [attention, attention+unlabelled, attention + unlabelled.pseudo], control: attention+unlabelled}"
        with_images = sets(methods, "compare.trials=1", "data.unlabelled=photos", "distill.unlabelled={}")
        assert cli.main(["compare", *with_images]) == 0
        found = figures()
        names = [one["name"] for one in found["methods"]]  # type: ignore[attr-defined]
        assert names == ["attention", "attention + unlabelled", "attention + unlabelled.pseudo"]
        sections = [one["distill"].get("unlabelled") for one in found["methods"]]  # type: ignore[attr-defined]
        assert sections == [{"ratio": 0.0}, {}, {"features": False}]
        assert "unlabelled: {}" in found["recommendation"]["lines"]  # type: ignore[index]
        # all students share the teacher's labels; a teacher that knows nothing has none that could be targets
        labeled = [line.split() for line in Path("runs/.store/labeled.txt").read_text().splitlines()]
        assert sorted((round(float(teacher)), what) for teacher, what in labeled) == [(0, "features"), (1, "pseudo")]
        assert max(found["control"]["maps"]) < 0.5  # type: ignore[index]

    def test_lines_to_paste_are_a_section_for_this_file(self, tmp_path: Path) -> None:
        file = tmp_path / "pipeline.yaml"
        file.write_text(arena_samples.CONFIG, encoding="utf-8")
        settings = ["data.unlabelled=photos", "distill.unlabelled={classes: [cat], images: 5, strong: [{name: color, hue: 0.1}]}"]
        config = load(file, settings)
        for name in ("attention", "attention + pearson+unlabelled", "attention+unlabelled.features", "pearson+unlabelled.pseudo"):
            one = with_share(method(config, name), 0.4).distill
            assert one is not None
            lines = json.dumps({"distill": to_paste(one, config.distill.unlabelled)})
            (tmp_path / "pasted.yaml").write_text(f"extends: pipeline.yaml\n{lines[1:-1]}", encoding="utf-8")
            pasted = load(tmp_path / "pasted.yaml", settings[:1]).distill
            assert (pasted if one.unlabelled else pasted.labeled) == one
            assert (pasted.from_unlabelled is None) == (one.unlabelled is None)
            assert pasted.taught == {"cat": "cat"}, "the teacher is the same, too"

    def test_a_teacher_that_labels_for_another_is_counted_and_looked_up_once(
        self, config_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = sets("data.unlabelled=photos", "teacher.unlabelled={labels: first}")
        assert cli.main(["compare", *given, "--dry-run", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["portions"][0]["trainings"] == 2
        assert cli.main(["compare", *given]) == 0
        assert capsys.readouterr().out.count("train_teacher:first") == 2, "running and done"

    def test_as_json(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert {"format": 1, **found} == figures()
        assert found["recommendation"]["sentence"]


class TestPlan:
    def test_a_dry_run_counts_and_trains_nothing(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare", "--dry-run"]) == 0
        out = capsys.readouterr().out
        assert not Path("runs/.store/made.txt").exists()
        assert "0 of 15 trainings done" in out
        assert "methods: attention, pearson" in out
        assert "2 per method at seed 1000, judged on a fifth of train: the losses get 0.7, 0.44 of the gradient" in out

    def test_the_state_of_every_training(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["compare", "--status"]) == 0
        assert "0 of 15 trainings done" in capsys.readouterr().out
        assert cli.main(["compare"]) == 0
        capsys.readouterr()
        assert cli.main(["compare", "--status"]) == 0
        out = capsys.readouterr().out
        assert "15 of 15 trainings done" in out
        assert [line.split()[-2:] for line in out.splitlines() if line.startswith("pearson")] == [["##", "##"]]

    def test_minutes_leave_out_seeds_before_methods(self) -> None:
        field, costs = planned(num_methods=4, seeds=5)
        whole = costs.minutes(field)
        assert costs.fitting(field, whole) == field
        fewer = costs.fitting(field, whole - 0.1)
        assert (len(fewer.methods), len(fewer.seeds)) == (4, 4)
        least = costs.fitting(field, costs.minutes(field.cut(2, 3)) + 0.1)
        assert [one.name for one in least.methods] == ["attention", "pearson"]
        assert len(least.seeds) == 3

    def test_minutes_do_not_leave_out_the_control(self, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        given = sets("compare={methods: [attention, pearson, channel_wise], control: channel_wise, trials: 2, seeds: 3}")
        assert cli.main(["compare", *given, "--minutes", "0.6", "--dry-run"]) == 0
        assert "methods: channel_wise, attention\n" in capsys.readouterr().out

    def test_parts_of_the_estimate_by_hand(self) -> None:
        field, costs = planned(num_methods=2, seeds=5)
        found = {one.name: one for one in costs.portions(field)}
        # 12 epochs of 6 steps of 0.1 s, at the ratios 1.5 and 1.5; judging 96 images costs as much as two steps
        plain, taught = 72 * 0.1 + 0.2, 72 * 0.15 + 0.2
        longer = 18 * 6 * 0.1 + 0.2
        assert found["trials"].trainings == 4
        assert found["trials"].minutes == pytest.approx(4 * taught / 60)
        assert found["methods"].minutes == pytest.approx(10 * taught / 60)
        assert found["baselines"].minutes == pytest.approx(5 * (plain + longer) / 60)
        assert found["random teacher"].minutes == pytest.approx(5 * taught / 60)
        assert found["teacher"].minutes == pytest.approx(72 * 0.05 * 3 / 60)

    def test_strengths_are_tripled_from_one_to_the_next(self) -> None:
        found = shares(0.5, 5)
        assert found == (0.5, 0.25, 0.75, 0.1, 0.9)  # odds 1, 1/3, 3, 1/9, 9
        assert shares(0.7, 1) == (0.7,)

    @pytest.mark.parametrize("usual", [1 / 3, 0.00004, 0.001, 0.999, 0.99999])
    def test_the_first_is_the_files_and_none_is_0_or_1(self, usual: float) -> None:
        found = shares(usual, 9)
        assert found[0] == usual
        assert all(0 < one < 1 for one in found)
        ratios = [one / (1 - one) / (usual / (1 - usual)) for one in found]
        assert ratios == pytest.approx([1, 1 / 3, 3, 1 / 9, 9, 1 / 27, 27, 1 / 81, 81], rel=2e-3)

    def test_a_method_has_the_options_of_the_file_and_is_weighted_alike(self, tmp_path: Path) -> None:
        file = tmp_path / "pipeline.yaml"
        file.write_text(arena_samples.CONFIG, encoding="utf-8")
        config = load(file, ["distill.losses=[{name: attention, weight: 3.0, temperature: 2.0}, {name: pearson, weight: 0}]"])
        found = method(config, "pearson+attention").distill
        assert found is not None
        assert [(loss.name, loss.weight) for loss in found.losses] == [("pearson", "auto"), ("attention", "auto")]
        assert found.losses[1].options["temperature"] == 2.0


def planned(num_methods: int, seeds: int) -> tuple[lineup.Lineup, Costs]:
    """Methods whose steps take 1.5 times as long, 96 images for training and as many for judging, in batches of 16."""
    names = ("attention", "pearson", "hint", "channel_wise")[:num_methods]
    data = {
        "name": "a",
        "data": {"dataset": "digits"},
        "teacher": NETWORK,
        "student": NETWORK,
        "distill": {"losses": [{"name": "attention"}]},
    }
    config = PipelineConfig.model_validate({**data, "targets": [{"name": "cpu", "runtime": "ort"}], "compare": {"trials": 2}})
    field = lineup.lineup(config, names, seeds)
    facts = {
        "plain_s": 0.1,
        "distilled_s": 0.15,
        "ratio": {"ratio": 1.5, "low": 1.4, "high": 1.6},
        "rounds": 8,
        "device": "cpu",
        "machine": {},
    }
    times = {name: StepTimeFacts.model_validate(facts) for name in names}
    return field, Costs(config, times, num_train=96, num_judged=96)


NETWORK = {"detector": {"name": "fcos", "backbone": "resnet10", "width": 8}}


def not_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "methods_of", serving.methods_of)
    found = {"attention": None, "pearson": "pearson needs equal channels: 8 and 16"}
    monkeypatch.setattr(serving, "refusals", lambda _: found)


def serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "methods_of", serving.methods_of)
    monkeypatch.setattr(serving, "refusals", lambda _: {"attention": None})


def nothing_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "methods_of", serving.methods_of)
    monkeypatch.setattr(serving, "refusals", lambda _: {"attention": "no"})


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusion, "_TRY", "")


def another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    share(monkeypatch)
    monkeypatch.setattr("pipeline.arena.record.version", lambda name: "9.9" if name == "torch" else "1")


def share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison that others have begun, and not finished."""
    monkeypatch.setattr(compare, "do_all", lambda *_: None)
    monkeypatch.setattr("pipeline.arena.record.version", lambda _: "1")
    assert cli.main(["compare", "--share", "any"]) == 0


def older_record(monkeypatch: pytest.MonkeyPatch) -> None:
    share(monkeypatch)
    Path("runs/made-up/compare.lock.json").write_text('{"format": 0}')


def damaged_record(monkeypatch: pytest.MonkeyPatch) -> None:
    share(monkeypatch)
    Path("runs/made-up/compare.lock.json").write_text('{"form')


def val_without_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(facts=SimpleNamespace(splits={"train": SimpleNamespace(num_boxes=9), "val": SimpleNamespace(num_boxes=0)}))
    monkeypatch.setattr(trainings, "prepared", lambda *_: made)


def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


BAD: list[tuple[list[str], Callable[[pytest.MonkeyPatch], None], int, str]] = [
    (["--seeds", "1"], nothing, 2, "--seeds is 1; pass 2 to 100: a single seed has no interval (edgedistill ablate takes one)"),
    (["--seeds", "0"], nothing, 2, "--seeds is 0; pass 2 to 100"),
    (["--seeds", "many"], nothing, 2, "argument --seeds: invalid int value: 'many'"),
    (sets("compare.seeds=1"), nothing, 2, "compare.seeds: got 1"),
    (sets("compare.trials=0"), nothing, 2, "compare.trials: got 0"),
    (sets("compare.trials=8"), nothing, 2, "compare.trials: got 8"),
    (sets("compare.methods=[]"), nothing, 2, "compare.methods: got 0 entries, allowed: at least 1"),
    (sets("compare.methods=attention"), nothing, 2, 'compare.methods: got "attention", allowed: a list'),
    (sets("compare.methods=[atention]"), nothing, 2, "no loss 'atention' (did you mean attention?); choose from"),
    (
        sets("compare.methods=[attention+pearson, pearson + attention]"),
        nothing,
        2,
        "attention+pearson is listed 2 times; list each method once",
    ),
    (
        sets("compare.methods=[attention+unlabelled]"),
        serves,
        2,
        "compare.methods: attention+unlabelled: distill.unlabelled is not set, so no image without labels is used; leave it out",
    ),
    (sets("compare.methods=[unlabelled]"), nothing, 2, "unlabelled has no loss; join it to one, such as attention+unlabelled"),
    (
        sets("compare.methods=[attention+unlabelled+unlabelled.pseudo]"),
        nothing,
        2,
        "has unlabelled and unlabelled.pseudo; choose one of them",
    ),
    (sets("compare.methods=[attention+unlabeled]"), nothing, 2, "no loss 'unlabeled' (did you mean unlabelled?)"),
    (
        sets("compare.methods=[attention+unlabelled]", "data.unlabelled=a", "distill.unlabelled={only: true}"),
        serves,
        2,
        "distill.unlabelled has only: true, and the losses' weights are measured on labeled images",
    ),
    (
        sets("compare.methods=[attention+unlabelled.pseudo]", "data.unlabelled=a", "distill.unlabelled={pseudo: null}"),
        serves,
        2,
        "attention+unlabelled.pseudo: distill.unlabelled.pseudo is null; leave it out",
    ),
    (sets("compare.methods=[attention+attention]"), nothing, 2, "attention+attention has a loss twice; name each once"),
    (
        sets("compare.methods=[attention, pearson]"),
        not_serving,
        2,
        "compare.methods: pearson: pearson needs equal channels: 8 and 16; leave it out",
    ),
    (sets("compare.methods=null"), nothing_serves, 2, "compare.methods: no loss serves this pair; choose a different student or teacher"),
    (sets("compare.method=[attention]"), nothing, 2, "compare.method: no such key (did you mean methods?)"),
    (sets("compare.tuning_split=val"), nothing, 2, "val cannot be the tuning split: the result is judged on it (validation.split)"),
    (sets("compare.tuning_split=train"), nothing, 2, "train cannot be the tuning split: the networks are trained on it"),
    (sets("compare.tuning_split=tset"), nothing, 3, "no split 'tset'"),
    (sets("compare.control=hint"), not_serving, 2, "compare.methods: pearson: pearson needs equal channels"),
    (["--minutes", "0"], nothing, 2, "--minutes is 0; pass a number above 0"),
    (["--minutes", "0.01"], nothing, 2, "--minutes 0.01: 2 methods at 2 seeds take about 1 minutes; pass 1 or more"),
    (["--share", "all"], nothing, 2, "argument --share: invalid choice: 'all'"),
    (["--share", "any", "--dry-run"], nothing, 2, "--share trains, and --dry-run and --status do not; pass one of them"),
    (["--share", "any"], no_locks, 4, "a lock there does not keep other processes out; use a file system with working locks"),
    (
        ["--share", "any"],
        another_torch,
        2,
        "torch 1 -> 9.9; start every process with the same installation, file and options, or delete that",
    ),
    (["--share", "any", "--seeds", "3"], share, 2, "seeds.2 (none) -> 2; start every process"),
    (["--share", "any", *sets("student.train.epochs=3")], share, 2, "student.train.epochs 12 -> 3; start every process"),
    (["--share", "any", *sets("baseline.equal=steps")], share, 2, "baseline, equal cost: trained -> (none); start every process"),
    ([], val_without_objects, 3, "mAP is undefined on split val: it has no objects; choose a different one"),
    (["--share", "any"], older_record, 2, "was written by a different version of edgedistill"),
    (["--share", "any"], damaged_record, 2, "is not readable"),
    ([], torchrun, 2, "compare does not run under torchrun; start one process per GPU with --share any"),
]


class TestRefused:
    @pytest.mark.parametrize(("options", "prepare", "code", "message"), BAD)
    def test_in_one_line(
        self,
        config_file: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        prepare: Callable[[pytest.MonkeyPatch], None],
        code: int,
        message: str,
    ) -> None:
        prepare(monkeypatch)
        capsys.readouterr()
        assert cli.main(["compare", *options]) == code
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
        assert not Path("runs/.store/made.txt").exists()


def test_a_control_that_is_no_method_is_refused(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "refusals", lambda _: dict.fromkeys(("attention", "pearson", "hint")))
    with pytest.raises(
        Exception, match=r"compare\.control: hint is not one of the methods; choose from attention, pearson, or leave it out"
    ):
        serving.methods_of(load(config_file, ["compare.control=hint"]))


def test_losses_that_read_targets_compare_nothing_on_images_without_labels(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving, "refusals", lambda _: {"attention": None, "focal_global": None})
    with_images = ["data.unlabelled=photos", "distill.unlabelled={}"]
    for name in ("focal_global+unlabelled", "focal_global+unlabelled.pseudo", "focal_global+attention+unlabelled.features"):
        assert serving.methods_of(load(config_file, [*with_images, f"compare.methods=[{name}]"])) == [name]
    why = "its losses read targets, so they compare nothing on images without labels; leave it out"
    for pseudo, name in (("null", "focal_global+unlabelled"), ("{}", "focal_global+unlabelled.features")):
        with pytest.raises(ConfigError, match=re.escape(f"compare.methods: {name}: {why}")):
            serving.methods_of(load(config_file, [*with_images, f"compare.methods=[{name}]", f"distill.unlabelled.pseudo={pseudo}"]))
    losses = "distill.losses=[{name: focal_global, weight: 1.0}]"
    taught = load(config_file, [*with_images, losses]).distill
    assert untaught(taught).from_unlabelled is None
    assert cli.main(["compare", *sets(*with_images, "compare.methods=[focal_global, focal_global+unlabelled]", "compare.trials=1")]) == 0
    assert figures()["control"]["distill"]["unlabelled"] == {"ratio": 0.0}  # type: ignore[index]


def test_the_methods_by_default(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "refusals", lambda _: {"attention": None, "chen": None, "hint": None, "pearson": "no"})
    losses = "distill.losses=[{name: hint}, {name: attention}, {name: pearson, weight: 0}]"
    found = serving.methods_of(load(config_file, ["compare.methods=null", losses]))
    assert found == ["hint", "attention", "hint+attention", "chen"]
    more = ["data.unlabelled=photos", "distill.unlabelled={}"]
    found = serving.methods_of(load(config_file, ["compare.methods=null", losses, *more]))
    assert found == ["hint", "attention", "hint+attention", "hint+attention+unlabelled", "chen"]
