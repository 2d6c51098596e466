"""The documents against the code: links, commands, exit codes, keys, rooms, files."""

import argparse
import ast
import importlib.util
import inspect
import itertools
import operator
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import ARCHITECTURE, EXTENDING, PAGES, README, blocks, prose, rows, sections, text
from places import ROOT
from pydantic import BaseModel

import deploy.bundles.trust
import edgedistill
from deploy import errors, plugins
from deploy.comparison import metrics
from deploy.contract import Preprocessing
from deploy.serving.options import ServeConfig
from pipeline import cli, config, flow
from pipeline.terminal import refusals
from stages import STAGES
from stages.config import BaselineConfig, CompareConfig, DataConfig
from stages.config.augmentations import Color, Corrupt, Crop, Flip, Mosaic, Scale
from stages.config.corruption import StudentViewConfig
from stages.config.distillation import DistillConfig, LossConfig
from stages.config.gates import GateConfig
from stages.config.int8 import Int8Config
from stages.config.robustness import GroupingConfig, RobustnessConfig
from stages.config.targets import ExportConfig, LatencyConfig, PackageConfig, TargetConfig, ValidationConfig
from stages.config.training import StudentConfig, TeacherConfig, TrainConfig
from stages.config.unlabelled import PseudoConfig, SelfTrainingConfig, UnlabelledConfig
from stages.datasets.drawing import embedded

CONFIGURATION, COMMANDS, GATES, SERVING = (ROOT / "docs" / f"{name}.md" for name in ("configuration", "commands", "gates", "serving"))
PROJECT = tomllib.loads(text(ROOT / "pyproject.toml"))
LAYERS = [contract for contract in PROJECT["tool"]["importlinter"]["contracts"] if contract["name"].startswith("The rooms of")]
PACKAGES = PROJECT["tool"]["importlinter"]["root_packages"]


def script(name: str) -> Any:
    """A script of docs/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write = script("write")


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


class TestEveryPage:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_links_lead_somewhere(self, page: Path) -> None:
        for target in re.findall(r'(?:\]\(|src="|href=")([^)\s"]+)', prose(page)):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            assert there.exists(), target
            assert there.name in [path.name for path in there.parent.iterdir()], f"{target}: the file's name differs in case"
            if anchor:
                assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in sections(there)], target

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_file_named_exists(self, page: Path) -> None:
        folders = "edgedistill|pipeline|stages|deploy|tests|docs|examples|benchmarks"
        code = blocks(page, "sh") + re.findall(r"`([^`\n]+)`", prose(page))
        named = {name for part in code for name in re.findall(rf"(?<![\w/.])((?:{folders})/(?:[\w/.-]*\w)?)", part)}
        examples = set(re.findall(r"The example, `([\w/.]+)`", text(EXTENDING)))
        assert not [name for name in named - examples if not (ROOT / name).exists()]

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_it_names_no_place_on_somebodys_machine(self, page: Path) -> None:
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/|[A-Z]:\\", text(page))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_make_target_exists(self, page: Path) -> None:
        targets = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
        assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text(page), re.MULTILINE)) <= targets

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_command_shown_is_one(self, page: Path) -> None:
        code = blocks(page, "sh") + re.findall(r"`([^`\n]+)`", prose(page))
        shown = [call for part in code for call in re.findall(r"(?:^|bin/|no-python )edgedistill (\w+)((?: [^\n#]+)?)", part, re.MULTILINE)]
        for command, arguments in shown:
            assert command in subcommands(), command
            known = {option for action in subcommands()[command]._actions for option in action.option_strings}
            assert set(re.findall(r"(?<= )--[a-z0-9-]+", arguments)) <= known, (command, arguments)

    def test_the_names_of_pages_are_in_one_case(self) -> None:
        capitals = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ARCHITECTURE.md"}  # as everywhere
        assert not [page.name for page in PAGES if page.name not in capitals and not re.fullmatch(r"[a-z0-9-]+\.md", page.name)]

    def test_every_page_can_be_reached_from_the_readme(self) -> None:
        seen, ahead = set(), [README]
        while ahead:
            page = ahead.pop()
            seen.add(page)
            linked = [(page.parent / name).resolve() for name in re.findall(r"\]\(([\w./-]+\.md)", prose(page))]
            ahead += [one for one in linked if one not in seen and one.exists()]
        assert not [page.name for page in PAGES if page.resolve() not in seen]

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_row_of_a_table_has_as_many_cells_as_its_head(self, page: Path) -> None:
        r"""A bar within a cell, even within code, is written \|; otherwise what follows is cut off."""
        for table in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
            head, *others = ([*re.split(r"(?<!\\)\|", line)] for line in table.splitlines())
            assert not [cells for cells in others if len(cells) != len(head)]

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_a_percent_sign_follows_its_number_without_a_space(self, page: Path) -> None:
        assert not re.findall(r".*\d %(?!})", text(page))


class TestSpelling:
    """American spelling in everything that people read; `normalised` is the name of an option, `unlabelled` of keys."""

    BRITISH = (
        r"\b(colour|behaviour|favour|neighbour|honour|grey|centre|fibre|licence|(?<!un)labell|modell|catalogue|judgement|artefact|distils?\b"
        r"|analys(e|ed|es|ing)\b|(?!normalised\b)(normal|initial|optim|quant|serial|summar|organ|recogn)is(e|ing|ation)"
        r"|(special|util|minim|maxim|standard|real)is(e|ing|ation))"
    )
    FOLDERS = ("edgedistill", "pipeline", "stages", "deploy", "benchmarks", "examples")
    KINDS = (".py", ".md", ".j2", ".html", ".css", ".yaml", ".yml")

    def test_documents_and_sources_are_american(self) -> None:
        sources = [path for folder in self.FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in self.KINDS]
        assert len(sources) > 200
        found = [(path.name, word[0]) for path in (*PAGES, *sources) for word in re.finditer(self.BRITISH, text(path), re.IGNORECASE)]
        assert not found

    def test_the_percentages_of_charts_and_reports_have_no_space(self) -> None:
        pictures = [*(ROOT / "docs").glob("*.svg"), *(ROOT / "pipeline/report").glob("*.j2")]
        assert len(pictures) > 8
        assert not [path.name for path in pictures if re.search(r"\d %(?!})", text(path))]


class TestReadme:
    def test_it_is_short(self) -> None:
        """At most 160 lines with 20 detectors; another one has a line of its own."""
        assert len(text(README).splitlines()) - len(plugins.names("stages.detectors")) <= 140

    def test_the_terminal_shows_tables_that_a_run_prints(self) -> None:
        heads = [
            ["network", "map", "map_50", "map_75", "epochs", "parameters", "MACs"],
            ["target", "runtime", "precision", "map", "map_50", "x teacher", "p50 ms", "p99 ms", "size"],
            ["gate", "target", "metric", "measured", "limit", "verdict"],
        ]
        (shown,) = (body for body in blocks(README, "text") if body.startswith("network"))
        lines = shown.splitlines()
        assert [re.split(r" {2,}", line) for line, rule in itertools.pairwise(lines) if set(rule) == {"-"}] == heads
        source = text(ROOT / "pipeline/results/table.py")
        assert all(f'"{word}"' in source for head in heads for word in head)


class TestCommandsPage:
    def test_every_command_and_each_of_its_options(self) -> None:
        given = {cells[0].strip("`"): set(re.findall(r"`(--[a-z0-9-]+)", cells[1])) for cells in rows(sections(COMMANDS)["Options"])}
        options = {
            name: {option for action in command._actions for option in action.option_strings if option.startswith("--")}
            for name, command in subcommands().items()
        }
        assert given == {name: found - {"--help", "--json"} for name, found in options.items()}

    def test_every_command_has_an_example(self) -> None:
        (examples,) = (body for body in blocks(COMMANDS, "sh") if body.startswith("edgedistill run"))
        assert re.findall(r"^edgedistill (\w+)", examples, re.MULTILINE) == list(subcommands())

    def test_every_exit_code_and_what_it_means(self) -> None:
        said = {int(code): meaning for code, meaning in rows(sections(COMMANDS)["Exit codes"])}
        helped = {int(code): meaning for code, meaning in re.findall(r"^  (\d+) +(.+)$", refusals.EXIT_CODES, re.MULTILINE)}
        assert said == helped
        raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EdgedistillError)}
        assert raised <= said.keys()

    def test_the_stages(self) -> None:
        assert f"`{' '.join(STAGES)}`" in " ".join(text(COMMANDS).split())


class TestOtherPages:
    def test_every_extra(self) -> None:
        extras = PROJECT["project"]["optional-dependencies"]
        assert {cells[0].strip("`") for cells in rows(sections(ROOT / "docs/install.md")["Extras"])} == {"(none)", *extras}

    def test_every_signature_in_python_is_the_functions_own(self) -> None:
        shown = re.findall(r"^\| `([\w.]+)(\(.*?\))` \|", text(ROOT / "docs/python.md"), re.MULTILINE)
        assert [name for name, _ in shown] == ["Predictor", "Bundle.load", "load_config", "run", "gate"]
        for name, parameters in shown:
            own = inspect.signature(operator.attrgetter(name)(edgedistill))
            written = inspect.signature(eval(f"lambda {parameters[1:-1]}: None", vars(deploy.bundles.trust)))
            assert [(one.name, one.kind, one.default) for one in written.parameters.values()] == [
                (one.name, one.kind, one.default) for one in own.parameters.values()
            ]

    def test_the_photographers_who_ask_for_it_are_named(self) -> None:
        named = re.search(r"china, flower \((\w+) and (\w+) on Flickr\): CC BY 2.0", embedded.__doc__ or "")
        assert named
        assert all(f"by {name}" in " ".join(text(ROOT / "docs/method.md").split()) for name in named.groups())

    def test_the_options_about_gates_are_on_their_page(self) -> None:
        assert {"--allow-ungated", "--reference", "--save-reference"} <= set(re.findall(r"--[a-z0-9-]+", text(GATES)))

    def test_every_row_of_the_conformance_table_has_its_test(self) -> None:
        found = rows(sections(SERVING)["Conformance"])
        assert len(found) > 15
        for cells in found:
            named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", cells[-1])
            assert named, cells
            assert all(f"def {test}(" in text(ROOT / file) for file, test in named), cells

    def test_every_metric_of_the_server(self) -> None:
        source = text(ROOT / "deploy/serving/metrics.py")
        body = sections(SERVING)["Operation"]
        assert all(name in body for name in re.findall(r'"(edgedistill_\w+)"', source))


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_what_make_bench_runs_needs_no_argument() -> None:
    command = ["make", "--dry-run", "--old-file=install", "bench"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (scripts,) = re.findall(r"for script in (.*?);", shown)
    found = [path for script in scripts.split() for path in ROOT.glob(script)]
    assert len(found) > 20
    for path in found:
        assert "sys.argv[" not in text(path), path
        for call in (node for node in ast.walk(ast.parse(text(path))) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
                (first, *_), options = call.args, {one.arg: one.value for one in call.keywords}
                optional = ast.unparse(first).startswith("'-") or "nargs" in options
                assert optional, f"{path}:{call.lineno}"
                assert "required" not in options, f"{path}:{call.lineno}"


class TestSnippets:
    @pytest.mark.parametrize(("page", "snippet"), [(page, body) for page in PAGES if page != EXTENDING for body in blocks(page, "yaml")])
    def test_it_loads(self, page: Path, snippet: str, tmp_path: Path) -> None:
        """A file with a name as it is; sections on top of examples/small.yaml."""
        path = tmp_path / "pipeline.yaml"
        whole = "name" in yaml.safe_load(snippet)
        path.write_text(snippet if whole else f"extends: {ROOT / 'examples' / 'small.yaml'}\n{snippet}", encoding="utf-8")
        config.load(path)

    def test_there_are_some(self) -> None:
        assert all(blocks(page, "yaml") for page in (README, CONFIGURATION, GATES))


class TestArchitecture:
    def test_it_is_short(self) -> None:
        assert len(text(ARCHITECTURE).splitlines()) <= 200

    def test_every_room_has_a_line_and_every_line_is_a_room(self) -> None:
        there = {path.parent.relative_to(ROOT).as_posix() + "/" for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
        named = [cells[0].strip("`") for cells in rows(sections(ARCHITECTURE)["The rooms"])]
        assert sorted(named) == sorted(there)

    def test_the_picture_shows_every_room_and_every_stage(self) -> None:
        picture = text(ROOT / "docs" / "architecture.svg")
        shown = re.findall(r">([\w. /]+)</text>", picture)
        for contract in LAYERS:
            rooms = {room.strip() for layer in contract["layers"] for room in layer.split("|")}
            assert rooms - set(STAGES) - {"train"} <= set(shown), contract["name"]
        assert set(STAGES) <= set(shown)

    def test_the_picture_is_drawn_from_the_layers_as_they_are(self) -> None:
        pictures = script("pictures")
        assert pictures.architecture() == text(ROOT / "docs" / "architecture.svg"), "draw it again: python docs/pictures.py"

    def test_every_stage_with_its_artifact(self) -> None:
        said = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(sections(ARCHITECTURE)["The flow"])}
        real = {name: inspect.get_annotations(getattr(flow, name), eval_str=True)["return"].__name__ for name in STAGES}
        assert said == real

    def test_the_flow_is_quoted_as_it_is(self) -> None:
        (quoted,) = blocks(ARCHITECTURE, "python")
        source = " ".join(inspect.getsource(flow.compress).split())
        assert all(" ".join(line.split()) in source for line in quoted.splitlines() if line)

    def test_every_contract_with_its_file_its_folder_and_its_test(self) -> None:
        contracts = rows(sections(ARCHITECTURE)["Contracts"])
        assert [cells[0] for cells in contracts] == ["loss", "detector", "data set", "runtime", "stage", "command"]
        folders = [re.findall(r"`([\w/]+)/`", cells[1])[0] for cells in contracts]
        assert {place.package.replace(".", "/") for place in config.PLUGIN_SECTIONS.values()} <= set(folders)
        for folder, cells in zip(folders, contracts, strict=True):
            paths = [name for cell in cells[1:] for name in re.findall(r"`([\w/.]+)`", cell)]
            places = [Path(), Path(folder), Path("tests/contracts"), Path("tests/project")]
            assert all(any((ROOT / place / name).exists() for place in places) for name in paths), cells

    def test_six_files_to_read_first(self) -> None:
        assert len(re.findall(r"^\d\. `[\w/]+\.py`", sections(ARCHITECTURE)["Six files to read first"], re.MULTILINE)) == 6


TABLES: dict[str, type[BaseModel]] = {
    "Top level": config.PipelineConfig,
    "data": DataConfig,
    "data.preprocessing": Preprocessing,
    "teacher": TeacherConfig,
    "student": StudentConfig,
    "train": TrainConfig,
    **{f"augment: {kind.__name__.lower()}": kind for kind in (Flip, Scale, Crop, Color, Mosaic, Corrupt)},
    "distill": DistillConfig,
    "distill.unlabelled": UnlabelledConfig,
    "distill.unlabelled.pseudo": PseudoConfig,
    "teacher.unlabelled": SelfTrainingConfig,
    "distill.student_view": StudentViewConfig,
    "distill.losses": LossConfig,
    "baseline": BaselineConfig,
    "compare": CompareConfig,
    "export": ExportConfig,
    "targets": TargetConfig,
    "targets.int8": Int8Config,
    "validation": ValidationConfig,
    "validation.latency": LatencyConfig,
    "robustness": RobustnessConfig,
    "robustness.groups": GroupingConfig,
    "gates": GateConfig,
    "package": PackageConfig,
    "serve": ServeConfig,
}


class TestConfigurationPage:
    @pytest.mark.parametrize(("title", "model"), TABLES.items(), ids=TABLES)
    def test_its_tables_say_what_the_code_says(self, title: str, model: type[BaseModel]) -> None:
        found = rows(sections(CONFIGURATION)[title])
        assert [cells[:3] for cells in found] == [[f"`{row.key}`", row.kind, row.default] for row in write.rows_of(model)]
        assert all(len(cells) == 4 and len(cells[3]) > 3 for cells in found)

    def test_every_metric(self) -> None:
        body = sections(CONFIGURATION)["gates"]
        assert all(f"`{name}`" in body for name in metrics.NAMES if not name.startswith("latency_"))
        parts, percentiles = re.findall(r"latency_<([a-z_|]+)>_<([p\d|]+)>_ms", body)[0]
        spelled = {f"latency_{part}_{percentile}_ms" for part in parts.split("|") for percentile in percentiles.split("|")}
        assert spelled == {name for name in metrics.NAMES if name.startswith("latency_")}


PAGE = """# Page

## detector: old

Before.

<!-- detector: old -->
stale
<!-- end -->

After.

### More about old

## train
"""


class TestGeneratedParts:
    def test_they_are_as_the_code_says(self) -> None:
        """Tables of plugins, README's table of detectors, the schema."""
        stale = [path.name for path, content in write.written(ROOT).items() if text(path) != content]
        assert not stale, "write them again: make docs"

    def test_what_is_written_by_hand_around_one_stays(self) -> None:
        page = write.with_parts(PAGE, {("detector", "old"): "fresh"})
        assert page == PAGE.replace("stale", "\nfresh\n")
        assert write.with_parts(page, {("detector", "old"): "fresh"}) == page

    def test_a_new_plugin_gets_a_section_after_the_last_of_its_kind(self) -> None:
        page = write.with_parts(PAGE, {("detector", "old"): "fresh", ("detector", "new"): "table"})
        added = "## detector: new\n\n<!-- detector: new -->\n\ntable\n\n<!-- end -->\n\n"
        assert page == PAGE.replace("stale", "\nfresh\n").replace("## train", f"{added}## train")

    def test_a_part_about_a_plugin_that_is_gone_is_refused(self) -> None:
        with pytest.raises(SystemExit, match="describes detector old, which does not exist; delete its section"):
            write.with_parts(PAGE, {})

    def test_an_option_of_a_shared_module_is_in_its_table_alone(self) -> None:
        parts = write.parts()
        assert "| `backbone` |" in parts["detector options", "backbones"]
        assert "| `backbone` |" not in parts["detector", "fcos"]
        assert "Also `backbone`" in parts["detector", "fcos"]
        assert "| `range_scale` | number, above 0 to 4 | `1.0` | scales the object size" in parts["detector", "fcos"]

    def test_a_stale_file_is_named_and_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text("old")
        monkeypatch.setattr(write, "ROOT", tmp_path)
        monkeypatch.setattr(write, "written", lambda _: {page: "new"})
        monkeypatch.setattr("sys.argv", ["write.py", "--check"])
        assert write.main() == 1
        assert capsys.readouterr().out == "page.md is not what the code says; run: make docs\n"
        assert page.read_text() == "old"
        monkeypatch.setattr("sys.argv", ["write.py"])
        assert write.main() == 0
        assert page.read_text() == "new"
