import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from waiting import PATIENCE, join, until

from deploy.contract import Frozen
from deploy.errors import ConfigError
from pipeline.store import keys
from pipeline.store.past import past_stages
from pipeline.store.stamp import STAMP, changed, finished
from pipeline.store.store import Mode, NothingMeasured, Store, UntilReached
from stages.artifacts import Artifact
from stages.config import DetectorConfig, DistillConfig, LossConfig, TargetConfig
from stages.facts import write_facts
from stages.stage import StageInfo, stage

LOSS = LossConfig.model_validate({"name": "attention"})
CONFIG = DistillConfig(losses=(LOSS,))
PLAIN = Mode()


class Facts(Frozen):
    text: str


calls: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


@stage(version=1)
def grow(out: Path, seed: int) -> Artifact:
    calls.append("grow")
    write_facts(out, Facts(text=f"tree {seed}"))
    return Artifact(out)


@stage(version=1)
def cut(out: Path, config: DistillConfig, tree: Artifact) -> Artifact:
    calls.append("cut")
    (out / "deep").mkdir()
    (out / "deep" / "wood.txt").write_text(tree.file("artifact.json").read_text())
    write_facts(out, Facts(text="wood"))
    return Artifact(out)


@stage(version=1, resumable=True)
def climb(out: Path, steps: int, fail_at: int | None) -> Artifact:
    reached = len(list(out.glob("step-*")))
    for step in range(reached, steps):
        if step == fail_at:
            raise RuntimeError("fell")
        calls.append(f"step {step}")
        (out / f"step-{step}").touch()
    write_facts(out, Facts(text="top"))
    return Artifact(out)


@stage(version=1)
def clock(out: Path, seed: int) -> Artifact:
    calls.append("clock")
    (out / "tensorboard").mkdir()
    (out / "tensorboard" / f"events.{time.time_ns()}").touch()
    write_facts(out, Facts(text=f"{len(calls)} ms"))
    return Artifact(out)


@stage(version=1)
def read(out: Path, clocks: Mapping[str, Artifact]) -> Artifact:
    write_facts(out, Facts(text=",".join(one.file("artifact.json").read_text() for one in clocks.values())))
    return Artifact(out)


def flow(store: Store, config: DistillConfig = CONFIG, seed: int = 0) -> Artifact:
    return store.run(cut, config, store.run(grow, seed))


def reasons(store: Store) -> list[str | None]:
    return [record.reason for record in store.records]


def weighted(weight: float) -> DistillConfig:
    return DistillConfig(losses=(LOSS.model_copy(update={"weight": weight}),))


def test_a_second_run_reuses_all(tmp_path: Path) -> None:
    lines: list[str] = []
    first = flow(Store(tmp_path, "a", say=lines.append))
    again = Store(tmp_path, "a", say=lines.append)
    assert flow(again) == first
    assert calls == ["grow", "cut"]
    assert [record.reused for record in again.records] == [True, True]
    assert all(record.seconds is not None for record in again.records)
    assert [line.split()[1:][0] for line in lines] == ["running:", "done", "running:", "done", "reused", "reused"]
    assert not list((tmp_path / ".store").glob(".*.partial"))


def test_an_artifact_lies_in_a_folder_named_by_its_hash(tmp_path: Path) -> None:
    artifact = flow(Store(tmp_path, "a"))
    assert artifact.root.parent == tmp_path / ".store"
    assert artifact.root.name.startswith("cut-")
    assert len(artifact.root.name) == len("cut-") + 16
    stamp = finished(artifact.root)
    assert stamp is not None
    assert set(stamp["files"]) == {"artifact.json", "deep/wood.txt"}


def test_what_an_artifact_and_its_inputs_depended_on_is_remembered_under_its_name(tmp_path: Path) -> None:
    wood = flow(Store(tmp_path, "run", PLAIN), seed=3)
    found = past_stages(tmp_path, {wood.root.name, "cut-of-a-run-that-is-gone"})
    assert [name.partition("-")[0] for name in found] == ["cut", "grow"]
    cut_from, grown_from = found.values()
    assert cut_from["config"]["distill"]["losses"][0]["name"] == "attention"
    assert grown_from["config"] == {"seed": 3}
    assert all(keys.key_of(parts) == name for name, parts in found.items())
    assert past_stages(tmp_path / "missing", {wood.root.name}) == {}


class TestReasons:
    def test_nothing_ran_before(self, tmp_path: Path) -> None:
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == ["never ran", "never ran"]

    def test_a_configured_value(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a", Mode(dry=True))
        flow(store, weighted(2.0))
        assert reasons(store) == [None, "distill.losses.0.weight auto -> 2.0"]

    def test_an_input(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a")
        flow(store, seed=1)
        assert reasons(store) == ["seed 0 -> 1", "input tree changed"]

    def test_a_loss_more(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a", Mode(dry=True))
        flow(store, DistillConfig(losses=(LOSS, LossConfig.model_validate({"name": "non_local"}))))
        assert reasons(store)[1] == "distill.losses.1.name (none) -> non_local"

    def test_the_stage_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        flow(Store(tmp_path, "a"))
        monkeypatch.setitem(cut.__dict__, "stage_info", StageInfo(version=2))
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == [None, "stage code version 1 -> 2"]

    def test_what_it_runs_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for version in ("1.0", "1.1"):
            monkeypatch.setitem(grow.__dict__, "stage_info", StageInfo(1, identity=lambda _, now=version: {"runtime": now}))
            store = Store(tmp_path, "a")
            flow(store)
        assert reasons(store) == ["runtime 1.0 -> 1.1", "input tree changed"]

    def test_a_plugin_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        flow(Store(tmp_path, "a"))
        monkeypatch.setattr(keys, "_digest", lambda *_: "other")
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == [None, "stages/losses/attention.py changed"]

    def test_a_result_that_was_deleted(self, tmp_path: Path) -> None:
        root = flow(Store(tmp_path, "a")).root
        shutil.rmtree(root)
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == [None, "its result is gone"]

    @pytest.mark.parametrize("name", ["artifact.json", "deep/wood.txt"])
    def test_a_file_that_was_deleted(self, tmp_path: Path, name: str) -> None:
        root = flow(Store(tmp_path, "a")).root
        (root / name).unlink()
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == [None, f"{name} in the store is not as it was written"]

    def test_a_dry_run_runs_and_remembers_nothing(self, tmp_path: Path) -> None:
        for _ in range(2):
            store = Store(tmp_path, "a", Mode(dry=True))
            flow(store)
            assert reasons(store) == ["never ran", "never ran"]
        assert calls == []
        assert list(tmp_path.iterdir()) == []

    def test_going_back_reuses_and_is_remembered(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        flow(Store(tmp_path, "a"), weighted(2.0))
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a", Mode(dry=True))
        flow(store, weighted(3.0))
        assert reasons(store) == [None, "distill.losses.0.weight auto -> 3.0"]
        assert calls == ["grow", "cut", "cut"]

    @pytest.mark.parametrize("content", ["", "[]", '{"stages": 3}', '{"stages": {"grow": 3, "cut": {}}}', "\x00"])
    def test_a_damaged_memory_is_no_memory(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "lock.json").write_text(content)
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == ["never ran", "never ran"]


class TestKeys:
    def test_equal_arguments_give_equal_keys_however_they_are_passed(self, tmp_path: Path) -> None:
        tree = Artifact(tmp_path / "grow-1")
        assert keys.key_of(keys.parts_of(cut, CONFIG, tree)) == keys.key_of(keys.parts_of(cut, tree=tree, config=CONFIG))

    def test_the_place_of_the_store_is_no_part_of_a_key(self, tmp_path: Path) -> None:
        one, other = (keys.parts_of(cut, CONFIG, Artifact(tmp_path / folder / "grow-1")) for folder in ("a", "b"))
        assert keys.key_of(one) == keys.key_of(other)

    def test_every_plugin_that_a_configuration_names_is_digested(self) -> None:
        detector = DetectorConfig.model_validate({"name": "fcos"})
        target = TargetConfig.model_validate({"name": "cpu", "runtime": "ort"})

        def build(out: Path, config: TargetConfig, losses: tuple[LossConfig, ...], detector: DetectorConfig) -> Artifact:
            return Artifact(out)

        parts = keys.parts_of(stage(version=1)(build), target, (LOSS,), detector)
        assert list(parts["plugins"]) == ["deploy/runtimes/ort.py", "stages/detectors/fcos.py", "stages/losses/attention.py"]


class TestDamage:
    @pytest.mark.parametrize("name", ["artifact.json", "stage.json", "deep/wood.txt"])
    def test_a_half_deleted_artifact_is_made_again(self, tmp_path: Path, name: str) -> None:
        artifact = flow(Store(tmp_path, "a"))
        (artifact.root / name).unlink()
        assert flow(Store(tmp_path, "a")) == artifact
        assert calls == ["grow", "cut", "cut"]
        assert artifact.file("deep/wood.txt").exists()

    def test_a_file_cut_short_is_made_again(self, tmp_path: Path) -> None:
        artifact = flow(Store(tmp_path, "a"))
        artifact.file("deep/wood.txt").write_text("wo")
        flow(Store(tmp_path, "a"))
        assert calls == ["grow", "cut", "cut"]

    @pytest.mark.parametrize("name", ["artifact.json", "deep/wood.txt"])
    def test_flipped_bytes_are_named_and_the_artifact_is_made_again(self, tmp_path: Path, name: str) -> None:
        artifact = flow(Store(tmp_path, "a"))
        file = artifact.file(name)
        before, times = file.read_bytes(), file.stat()
        file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        said: list[str] = []
        assert flow(Store(tmp_path, "a", say=said.append)) == artifact
        assert calls == ["grow", "cut", "cut"]
        assert f"running: {name} in the store is not as it was written" in said[1]
        assert file.read_bytes() == before

    def test_what_a_stage_is_made_from_is_read_first(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        tree = next((tmp_path / ".store").glob("grow-*/artifact.json"))
        before = tree.read_bytes()
        tree.write_bytes(before.replace(b"tree", b"weed"))
        flow(Store(tmp_path, "a", Mode(force="cut")))
        assert calls == ["grow", "cut", "grow", "cut"]
        assert tree.read_bytes() == before

    def test_a_command_that_only_reads_names_the_file(self, tmp_path: Path) -> None:
        artifact = flow(Store(tmp_path, "a"))
        artifact.file("deep/wood.txt").write_bytes(artifact.file("deep/wood.txt").read_bytes().upper())
        with pytest.raises(NothingMeasured, match=r"cut: deep/wood\.txt in the store is not as it was written"):
            flow(Store(tmp_path, "a", Mode(only=())))

    def test_a_file_may_have_grown_since(self, tmp_path: Path) -> None:
        artifact = flow(Store(tmp_path, "a"))
        with artifact.file("deep/wood.txt").open("a") as file:
            file.write("more")
        flow(Store(tmp_path, "a"))
        assert calls == ["grow", "cut"]

    @pytest.mark.parametrize("damage", [{"sha256": {"gone": "0"}}, {"sha256": []}, {"sha256": {"artifact.json": 3}}, {"files": []}])
    def test_a_damaged_stamp_is_no_stamp(self, tmp_path: Path, damage: dict[str, object]) -> None:
        path = flow(Store(tmp_path, "a")).root / "stage.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
        flow(Store(tmp_path, "a"))
        assert calls == ["grow", "cut", "cut"]

    def test_artifacts_of_earlier_versions_are_reused(self, tmp_path: Path) -> None:
        for path in (flow(Store(tmp_path, "a")).root.parent).glob("*/stage.json"):
            path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}))
        flow(Store(tmp_path, "a"))
        assert calls == ["grow", "cut"]

    def test_a_stage_that_fails_leaves_scratch_only(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="fell"):
            Store(tmp_path, "a").run(climb, 3, 1)
        assert [path.name[0] for path in (tmp_path / ".store").iterdir()] == [".", "."]
        assert not (tmp_path / "a").exists()

    def test_a_resumable_stage_goes_on_from_its_scratch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        store = Store(tmp_path, "a")
        with pytest.raises(RuntimeError, match="fell"):
            store.run(climb, 3, 1)
        scratch = next((tmp_path / ".store").glob("*.partial"))
        # the same arguments, so that the scratch is the same; what made it fall is gone
        whole = tmp_path / ".store" / keys.key_of(keys.parts_of(climb, 3, None))
        scratch.rename(whole.with_name(f".{whole.name}.partial"))
        lines: list[str] = []
        Store(tmp_path, "a", say=lines.append).run(climb, 3, None)
        assert calls == ["step 0", "step 1", "step 2"]
        assert lines[0].endswith("running: never ran, continues where it stopped")

    def test_killed_before_its_folder_had_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def killed(scratch: Path, _: Path) -> None:
            assert (scratch / STAMP).exists()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("pipeline.store.store.replace_folder", killed)
            with pytest.raises(KeyboardInterrupt):
                Store(tmp_path, "a").run(climb, 2, None)
        assert finished(Store(tmp_path, "a").run(climb, 2, None).root)
        again = Store(tmp_path, "a")
        again.run(climb, 2, None)
        assert reasons(again) == [None]
        assert calls == ["step 0", "step 1"]

    @pytest.mark.parametrize("damage", [Path.unlink, lambda file: os.truncate(file, 2)], ids=["gone", "cut short"])
    def test_a_file_that_is_not_whole_is_named(self, tmp_path: Path, damage: Callable[[Path], object]) -> None:
        artifact = flow(Store(tmp_path, "a"))
        damage(artifact.file("deep/wood.txt"))
        assert changed(artifact.root) == "deep/wood.txt"

    @pytest.mark.parametrize("text", ["", "[]", '{"files": {}, "seconds": 1}'])
    def test_a_stamp_that_is_none_is_named(self, tmp_path: Path, text: str) -> None:
        artifact = flow(Store(tmp_path, "a"))
        artifact.file(STAMP).write_text(text)
        assert changed(artifact.root) == STAMP
        artifact.file(STAMP).unlink()
        assert changed(artifact.root) is None

    def test_another_stage_starts_from_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / ".store" / keys.key_of(keys.parts_of(grow, 0))
        scratch = path.with_name(f".{path.name}.partial")
        scratch.mkdir(parents=True)
        (scratch / "left.txt").touch()
        artifact = Store(tmp_path, "a").run(grow, 0)
        assert not (artifact.root / "left.txt").exists()


class TestInputsMadeAgain:
    """Results of stages that do not give the same twice."""

    def timed(self, root: Path, mode: Mode = PLAIN) -> list[str | None]:
        """The reasons of a run; what was read is what the clock shows now."""
        store = Store(root, "a", mode)
        clocks = {"one": store.run(clock, 0)}
        found = store.run(read, clocks)
        if not mode.dry:
            shown = clocks["one"].file("artifact.json").read_text()
            assert json.loads(found.file("artifact.json").read_text())["text"] == shown
        return reasons(store)

    def test_after_a_folder_was_deleted(self, tmp_path: Path) -> None:
        self.timed(tmp_path)
        shutil.rmtree(next((tmp_path / ".store").glob("clock-*")))
        assert self.timed(tmp_path, Mode(dry=True)) == ["its result is gone", "input clocks.one runs again"]
        assert self.timed(tmp_path) == ["its result is gone", "input clocks.one was made again"]
        assert self.timed(tmp_path) == [None, None]

    def test_after_a_file_was_damaged(self, tmp_path: Path) -> None:
        self.timed(tmp_path)
        file = next((tmp_path / ".store").glob("clock-*/artifact.json"))
        file.write_bytes(file.read_bytes().replace(b"ms", b"ns"))
        assert self.timed(tmp_path)[1] == "input clocks.one was made again"

    def test_after_a_forced_run_that_went_no_further(self, tmp_path: Path) -> None:
        self.timed(tmp_path)
        with pytest.raises(UntilReached):
            self.timed(tmp_path, Mode(force="clock", until="clock"))
        assert self.timed(tmp_path) == [None, "input clocks.one was made again"]

    def test_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        shutil.rmtree(next((tmp_path / ".store").glob("grow-*")))
        store = Store(tmp_path, "a")
        flow(store)
        assert reasons(store) == ["its result is gone", None]

    def test_logs_do_not_count(self, tmp_path: Path) -> None:
        self.timed(tmp_path)
        shutil.rmtree(next((tmp_path / ".store").glob("clock-*")))
        calls.clear()
        assert self.timed(tmp_path) == ["its result is gone", None]

    @pytest.mark.parametrize("inputs", [None, [], {"clocks.one": None}])
    def test_artifacts_of_earlier_versions_stay(self, tmp_path: Path, inputs: object) -> None:
        self.timed(tmp_path)
        file = next((tmp_path / ".store").glob("read-*/stage.json"))
        file.write_text(json.dumps({**json.loads(file.read_text()), "inputs": inputs}))
        shutil.rmtree(next((tmp_path / ".store").glob("clock-*")))
        store = Store(tmp_path, "a")
        store.run(read, {"one": store.run(clock, 0)})
        assert reasons(store) == ["its result is gone", None]


class TestForce:
    def test_the_stage_and_all_that_depends_on_it_run_again(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a", Mode(force="grow"))
        flow(store)
        assert reasons(store) == ["forced", "input tree runs again"]
        assert calls == ["grow", "cut"] * 2

    def test_what_comes_before_is_left_alone(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        flow(Store(tmp_path, "a", Mode(force="cut")))
        assert calls == ["grow", "cut", "cut"]

    def test_one_of_several_instances(self, tmp_path: Path) -> None:
        for mode in (Mode(), Mode(force="grow:b")):
            store = Store(tmp_path, "a", mode)
            for label, seed in (("a", 0), ("b", 1)):
                store.at(label).run(grow, seed)
        assert reasons(store) == [None, "forced"]
        assert [record.instance for record in store.records] == ["grow:a", "grow:b"]

    def test_a_dry_run_says_so(self, tmp_path: Path) -> None:
        flow(Store(tmp_path, "a"))
        store = Store(tmp_path, "a", Mode(force="grow", dry=True))
        flow(store)
        assert reasons(store) == ["forced", "input tree runs again"]
        assert calls == ["grow", "cut"]

    def test_a_forced_stage_does_not_resume(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="fell"):
            Store(tmp_path, "a").run(climb, 3, 1)
        with pytest.raises(RuntimeError, match="fell"):
            Store(tmp_path, "a", Mode(force="climb")).run(climb, 3, 1)
        assert calls == ["step 0", "step 0"]


def test_until_ends_before_the_next_stage(tmp_path: Path) -> None:
    store = Store(tmp_path, "a", Mode(until="grow"))
    store.at("a").run(grow, 0)
    store.at("b").run(grow, 1)
    with pytest.raises(UntilReached):
        store.run(cut, CONFIG, Artifact(tmp_path))
    assert calls == ["grow", "grow"]


def test_until_goes_on_to_the_last_instance(tmp_path: Path) -> None:
    store = Store(tmp_path, "a", Mode(until="grow", interim={"grow:first"}))
    first = store.at("first").run(grow, 0)
    store.run(cut, CONFIG, first)
    store.run(grow, 1)
    with pytest.raises(UntilReached):
        store.run(cut, CONFIG, first)
    assert calls == ["grow", "cut", "grow"]


def test_a_reading_command_runs_only_what_it_may(tmp_path: Path) -> None:
    store = Store(tmp_path, "a", Mode(only={"cut"}))
    with pytest.raises(NothingMeasured, match=r"^nothing measured for this configuration \(grow: never ran\); run: edgedistill run$"):
        flow(store)
    Store(tmp_path, "a").run(grow, 0)
    flow(store)
    assert calls == ["grow", "cut"]


class TestTwoProcesses:
    def test_the_second_waits_and_reuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        gate = threading.Event()

        def slow(out: Path, seed: int) -> Artifact:
            assert gate.wait(PATIENCE)
            return grow(out, seed)

        lines: list[str] = []
        marked = stage(version=1)(slow)
        first = threading.Thread(target=lambda: Store(tmp_path, "a").run(marked, 0), daemon=True)
        first.start()
        until(lambda: list((tmp_path / ".store").glob("*.partial")), "the first to begin")

        def heard(line: str) -> None:
            lines.append(line)
            gate.set()

        store = Store(tmp_path, "b", say=heard)
        store.run(marked, 0)
        join(first)
        assert calls == ["grow"]
        assert "waiting: another process is running it" in lines[0]
        assert store.records[0].reused

    def test_killed_at_any_time_only_scratch_is_left(self, tmp_path: Path) -> None:
        script = (
            "import sys, time\nfrom pathlib import Path\nfrom deploy.contract import Frozen\nfrom pipeline.store.store import Store\n"
            "from stages.artifacts import Artifact\nfrom stages.facts import write_facts\nfrom stages.stage import stage\n"
            "class Facts(Frozen):\n    text: str\n"
            "@stage(version=1)\ndef sleep(out: Path) -> Artifact:\n"
            "    write_facts(out, Facts(text='half'))\n    print('in', flush=True)\n    time.sleep(600)\n    return Artifact(out)\n"
            "Store(Path(sys.argv[1]), 'a').run(sleep)\n"
        )
        file = tmp_path / "script.py"
        file.write_text(script)
        with subprocess.Popen([sys.executable, "-P", str(file), str(tmp_path / "runs")], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in\n"
            process.send_signal(signal.SIGKILL)
        assert {path.name[0] for path in (tmp_path / "runs" / ".store").iterdir()} == {"."}


class TestTorchrun:
    """The store's part: which process runs what. Process groups are the stages' own."""

    @pytest.fixture
    def follower(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Store]:
        def make(mode: Mode = PLAIN) -> Store:
            monkeypatch.setenv("RANK", "1")
            monkeypatch.setenv("WORLD_SIZE", "2")
            store = Store(tmp_path, "a", mode)
            monkeypatch.delenv("RANK")
            monkeypatch.delenv("WORLD_SIZE")
            return store

        return make

    def test_a_follower_waits_for_what_the_first_process_makes(
        self, tmp_path: Path, follower: Callable[..., Store], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = follower()
        looks: list[Path] = []

        def look(path: Path) -> object:
            looks.append(path)
            return finished(path)

        monkeypatch.setattr("pipeline.store.store.POLL_SECONDS", 0.01)
        monkeypatch.setattr("pipeline.store.store.finished", look)
        waiting = threading.Thread(target=lambda: store.run(grow, 0), daemon=True)
        waiting.start()
        until(lambda: len(looks) > 5, "the follower to look again and again")
        assert waiting.is_alive()
        assert calls == []
        Store(tmp_path, "a").run(grow, 0)
        join(waiting)
        assert calls == ["grow"]
        assert store.records[0].key == Store(tmp_path, "a").run(grow, 0).root.name

    def test_a_follower_takes_part_in_a_distributed_stage(self, tmp_path: Path, follower: Callable[..., Store]) -> None:
        both = threading.Barrier(2)
        folders: list[Path] = []

        def train(out: Path, seed: int) -> Artifact:
            folders.append(out)
            both.wait(PATIENCE)
            return Artifact(out) if threading.current_thread() is other else grow(out, seed)

        marked = stage(version=1, distributed=True)(train)
        store = follower()
        other = threading.Thread(target=lambda: store.run(marked, 0), daemon=True)
        other.start()
        artifact = Store(tmp_path, "a").run(marked, 0)
        join(other)
        assert len(folders) == 2
        assert len(set(folders)) == 1
        assert finished(artifact.root)
        assert calls == ["grow"]

    def test_force_is_refused(self, follower: Callable[..., Store]) -> None:
        with pytest.raises(ConfigError, match="--force works in one process only"):
            follower(mode=Mode(force="grow"))


def test_stage_json_is_strict_json(tmp_path: Path) -> None:
    artifact = flow(Store(tmp_path, "a"))
    stamp = json.loads((artifact.root / "stage.json").read_text())
    assert stamp["stage"] == "cut"
    assert stamp["seconds"] >= 0
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["lock.json"]
