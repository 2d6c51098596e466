"""What the documents say against what the code does: commands, exit codes, keys, files, links, and the examples, which are run."""

import argparse
import ast
import importlib
import inspect
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import every_detector
import every_loss
import every_plugin
import numpy as np
import onnx_samples
import pytest
import yaml
from PIL import Image
from places import ROOT
from pydantic import BaseModel

from deploy import errors, plugins
from deploy.comparison import metrics
from deploy.contract import Preprocessing
from deploy.errors import BuildError, DataError
from deploy.prediction import preprocess
from deploy.runtimes import ort
from deploy.serving.options import ServeConfig
from pipeline import cli, config, flow
from stages.config import DataConfig
from stages.config.distillation import DistillConfig, LossConfig
from stages.config.gates import GateConfig
from stages.config.targets import ExportConfig, LatencyConfig, PackageConfig, TargetConfig, ValidationConfig
from stages.config.training import Color, Crop, Flip, Mosaic, Scale, StudentConfig, TeacherConfig, TrainConfig
from stages.datasets.drawing import embedded
from stages.prepare import prepare

PACKAGES = ("pipeline", "stages", "deploy")
README, ARCHITECTURE, CONFIG = (ROOT / name for name in ("README.md", "docs/ARCHITECTURE.md", "docs/CONFIG.md"))
PAGES = [
    README,
    ARCHITECTURE,
    CONFIG,
    ROOT / "docs/DETECTORS.md",
    ROOT / "docs/ENGINES.md",
    ROOT / "docs/evidence.md",
    ROOT / "docs/SERVING.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_BLOCK = re.compile(r"`([\w/.]+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(text(page)) if kind == language]


def sections(page: Path) -> dict[str, str]:
    """What stands between each heading and the next; a heading inside a block of code is none."""
    found: dict[str, list[str]] = {}
    title, fenced = "", False
    for line in text(page).splitlines(keepends=True):
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"#+ ", line):
            title = line.lstrip("#").strip()
            assert title not in found, f"{page.name} has two headings {title}"
        found.setdefault(title, []).append(line)
    return {heading: "".join(lines) for heading, lines in found.items()}


def rows(body: str) -> list[list[str]]:
    """The cells of the tables in a text, less their heads."""
    lines = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return [cells for index, cells in enumerate(lines) if cells[0] != "---" and lines[index + 1 : index + 2][0:1] != [["---"] * len(cells)]]


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


class TestEveryPage:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_links_lead_somewhere(self, page: Path) -> None:
        for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
            if target.startswith("https://"):
                continue
            name, _, anchor = target.partition("#")
            there = (page.parent / name).resolve() if name else page
            assert there.exists(), target
            if anchor:
                assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in sections(there)], target

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_it_names_no_place_on_somebodys_machine(self, page: Path) -> None:
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/|[A-Z]:\\", text(page))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_it_starts_no_package_as_a_module(self, page: Path) -> None:
        assert not re.search(r"-m (pipeline|stages|deploy)\b", text(page))

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_make_target_exists(self, page: Path) -> None:
        targets = set(re.findall(r"^([\w-]+):", text(ROOT / "Makefile"), re.MULTILINE))
        assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text(page), re.MULTILINE)) <= targets

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
    def test_every_command_shown_is_one(self, page: Path) -> None:
        code = blocks(page, "sh") + re.findall(r"`([^`\n]+)`", text(page))
        shown = [call for part in code for call in re.findall(r"(?:^|bin/|no-python )edgedistill (\w+)((?: [^\n#]+)?)", part, re.MULTILINE)]
        for command, arguments in shown:
            assert command in subcommands(), command
            known = {option for action in subcommands()[command]._actions for option in action.option_strings}
            assert set(re.findall(r"(?<= )--[a-z-]+", arguments)) <= known, (command, arguments)


class TestReadme:
    def test_every_command_and_each_of_its_options(self) -> None:
        given = {cells[0].strip("`"): set(re.findall(r"`(--[a-z-]+)", cells[1])) for cells in rows(sections(README)["Commands"])}
        options = {
            name: {option for action in command._actions for option in action.option_strings if option.startswith("--")}
            for name, command in subcommands().items()
        }
        assert given == {name: found - {"--help", "--json"} for name, found in options.items()}

    def test_every_command_has_an_example(self) -> None:
        (examples,) = (body for body in blocks(README, "sh") if body.startswith("edgedistill run"))
        assert re.findall(r"^edgedistill (\w+)", examples, re.MULTILINE) == list(subcommands())

    def test_every_exit_code_and_what_it_means(self) -> None:
        said = {int(code): meaning for code, meaning in rows(sections(README)["Exit codes"])}
        helped = {int(code): meaning for code, meaning in re.findall(r"^  (\d+) +(.+)$", cli.EXIT_CODES, re.MULTILINE)}
        assert said == helped
        raised = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.EdgedistillError)}
        assert raised <= said.keys()

    def test_the_stages(self) -> None:
        assert f"`{' '.join(flow.STAGES)}`" in " ".join(text(README).split())

    def test_every_extra(self) -> None:
        extras = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
        assert {cells[0].strip("`") for cells in rows(sections(README)["Install"])} == {"(none)", *extras}

    def test_the_photographers_who_ask_for_it_are_named(self) -> None:
        named = re.search(r"china, flower \((\w+) and (\w+) on Flickr\): CC BY 2.0", embedded.__doc__ or "")
        assert named
        assert all(f"by {name}" in " ".join(text(README).split()) for name in named.groups())


class TestSnippets:
    @pytest.mark.parametrize(("page", "snippet"), [(page, body) for page in PAGES for body in blocks(page, "yaml")])
    def test_it_loads(self, page: Path, snippet: str, tmp_path: Path, examples: None) -> None:
        """A whole file as it is; some of its sections on top of examples/small.yaml."""
        path = tmp_path / "pipeline.yaml"
        whole = "name" in yaml.safe_load(snippet)
        path.write_text(snippet if whole else f"extends: {ROOT / 'examples' / 'small.yaml'}\n{snippet}", encoding="utf-8")
        config.load(path)

    def test_there_are_some(self) -> None:
        assert all(blocks(page, "yaml") for page in (README, ARCHITECTURE, CONFIG))


TABLES: dict[str, type[BaseModel]] = {
    "Top level": config.PipelineConfig,
    "data": DataConfig,
    "data.preprocessing": Preprocessing,
    "teacher": TeacherConfig,
    "student": StudentConfig,
    "train": TrainConfig,
    **{f"augment: {kind.__name__.lower()}": kind for kind in (Flip, Scale, Crop, Color, Mosaic)},
    "distill": DistillConfig,
    "distill.losses": LossConfig,
    "export": ExportConfig,
    "targets": TargetConfig,
    "validation": ValidationConfig,
    "validation.latency": LatencyConfig,
    "gates": GateConfig,
    "package": PackageConfig,
    "serve": ServeConfig,
    **{
        f"{word}: {name}": plugins.schema(place.package, name, place.function, place.hidden)
        for word, place in zip(("dataset", "detector", "loss", "runtime"), config.PLUGIN_SECTIONS.values(), strict=True)
        for name in plugins.names(place.package)
    },
}


def kind_of(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(kind_of(one) for one in schema[union]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"{len(schema['prefixItems'])} numbers" if "prefixItems" in schema else f"list of {kind_of(schema['items'])}"
    names = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null", None: "section"}
    least, above, most, below, step = (
        schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
    )
    low = f"above {above:g}" if above is not None else f"{least:g}" if least is not None else ""
    high = f"below {below:.12g}" if below is not None else f"{most:.12g}" if most is not None else ""
    extent = f"{low} to {high}" if low and high else low if above is not None else f"{low} or more" if low else ""
    return ", ".join(part for part in (names[schema.get("type")], extent, f"a multiple of {step}" if step else "") if part)


def default_of(schema: dict[str, Any]) -> str:
    """What stands where nothing is given."""
    if "default" not in schema:
        return "required"
    value = schema["default"]
    if isinstance(value, dict):
        return "its defaults"
    return f"`{value}`" if isinstance(value, str) and value else f"`{yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}`"


def expected_rows(model: type[BaseModel]) -> list[str]:
    """Key, type and default of every field, as CONFIG.md shows them."""
    properties = model.model_json_schema()["properties"]
    return [f"`{name}` | {kind_of(one)} | {default_of(one)}" for name, one in properties.items()]


class TestConfigPage:
    @pytest.mark.parametrize(("title", "model"), TABLES.items(), ids=TABLES)
    def test_its_tables_say_what_the_code_says(self, title: str, model: type[BaseModel]) -> None:
        found = rows(sections(CONFIG)[title])
        assert [" | ".join(cells[:3]) for cells in found] == expected_rows(model)
        assert all(len(cells) == 4 and len(cells[3]) > 3 for cells in found)

    def test_every_table_is_of_something(self) -> None:
        assert {title for title in sections(CONFIG) if ": " in title} <= TABLES.keys()

    def test_every_metric(self) -> None:
        body = sections(CONFIG)["gates"]
        assert all(f"`{name}`" in body for name in metrics.NAMES if not name.startswith("latency_"))
        parts, percentiles = re.findall(r"latency_<([a-z_|]+)>_<([p\d|]+)>_ms", body)[0]
        spelled = {f"latency_{part}_{percentile}_ms" for part in parts.split("|") for percentile in percentiles.split("|")}
        assert spelled == {name for name in metrics.NAMES if name.startswith("latency_")}


class TestServingPage:
    def test_every_row_of_the_conformance_table_has_its_test(self) -> None:
        found = rows(sections(ROOT / "docs/SERVING.md")["Conformance"])
        assert len(found) > 15
        for cells in found:
            named = re.findall(r"`(tests/\w+\.py)::(\w+)`", cells[-1])
            assert named, cells
            assert all(f"def {test}(" in text(ROOT / file) for file, test in named), cells

    def test_every_metric(self) -> None:
        source = text(ROOT / "deploy/serving/metrics.py")
        body = sections(ROOT / "docs/SERVING.md")["Operation"]
        assert all(name in body for name in re.findall(r'"(edgedistill_\w+)"', source))


class TestArchitecture:
    def test_its_map_has_every_module_and_no_other(self) -> None:
        body = sections(ARCHITECTURE)["The map"]
        named = [line.split()[0] for block in BLOCK.findall(body) for line in block[1].splitlines() if line.strip()]
        there = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
        there |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "pipeline").glob("*.[jc]*")}
        there |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "deploy/serving").glob("*.[hy]*")}
        there -= {f"{package}/__init__.py" for package in PACKAGES}
        assert len(named) == len(set(named))
        assert {name for name in named if name.startswith(tuple(f"{package}/" for package in PACKAGES))} == there
        assert not [name for name in named if not (ROOT / name).exists()]

    def test_every_line_of_the_map_says_something(self) -> None:
        body = sections(ARCHITECTURE)["The map"]
        lines = [line for block in BLOCK.findall(body) for line in block[1].splitlines() if line.strip()]
        assert not [line for line in lines if len(line.split(maxsplit=1)) < 2 or len(line) > 140]

    def test_every_file_named_elsewhere_exists(self) -> None:
        outside = text(ARCHITECTURE).replace(sections(ARCHITECTURE)["The map"], "")
        examples = {name for name, _ in FILE_BLOCK.findall(outside)}
        named = set(re.findall(r"`((?:pipeline|stages|deploy|tests|docs|examples)/[\w/.]+\.\w+)`", outside))
        assert named
        assert not [name for name in named - examples if not (ROOT / name).exists()]

    def test_every_stage_and_its_artifact(self) -> None:
        said = {cells[0].strip("`"): cells[2].strip("`") for cells in rows(sections(ARCHITECTURE)["How data flows"])}
        real = {name: inspect.get_annotations(getattr(flow, name), eval_str=True)["return"].__name__ for name in flow.STAGES}
        assert said == real

    def test_the_flow_is_quoted_as_it_is(self) -> None:
        (quoted,) = (body for body in blocks(ARCHITECTURE, "python") if body.startswith("dataset = store.run("))
        source = " ".join(inspect.getsource(flow.compress).split())
        assert all(" ".join(line.split()) in source for line in quoted.splitlines() if line)

    def test_the_contracts_are_quoted_as_they_are(self) -> None:
        quoted = [(name, ast.parse(body)) for name, body in FILE_BLOCK.findall(sections(ARCHITECTURE)["The contracts"])]
        assert [name for name, _ in quoted] == [
            *("stages/stage.py", "stages/detectors/__init__.py", "stages/losses/__init__.py"),
            *("stages/datasets/__init__.py", "deploy/runtimes/__init__.py"),
        ]
        for name, tree in quoted:
            real = ast.parse(text(ROOT / name))
            package = name.removesuffix("/__init__.py").replace("/", ".")
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    assert outline(node) == outline(next(n for n in real.body if isinstance(n, ast.ClassDef) and n.name == node.name))
                elif isinstance(node, ast.FunctionDef) and not name.endswith("__init__.py"):
                    assert outline(node) == outline(next(n for n in real.body if isinstance(n, ast.FunctionDef) and n.name == node.name))
                elif isinstance(node, ast.FunctionDef):
                    for plugin in plugins.names(package):
                        kept_by_plugin(node, inspect.signature(getattr(plugins.load(package, plugin), node.name)))


def outline(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """A function's line, or a class's fields and public methods, as Python writes them."""
    if isinstance(node, ast.FunctionDef):
        return [f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else None}"]
    fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
    methods = [line for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_") for line in outline(one)]
    return fields + methods


def kept_by_plugin(said: ast.FunctionDef, real: inspect.Signature) -> None:
    """A plugin takes what its contract says; its further keyword-only parameters are options."""
    by_kind = {kind: [name for name, one in real.parameters.items() if one.kind is kind] for kind in inspect._ParameterKind}
    assert by_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD] == [one.arg for one in said.args.args]
    assert {one.arg for one in said.args.kwonlyargs} <= set(by_kind[inspect.Parameter.KEYWORD_ONLY])


EXAMPLES = {name: body for name, body in FILE_BLOCK.findall(text(ARCHITECTURE)) if not name.endswith(("__init__.py", "stage.py"))}


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The plugins that ARCHITECTURE.md shows, beside ours, as if their files had been added."""
    for name, body in EXAMPLES.items():
        folder, file = Path(name).parent, Path(name).name
        package = importlib.import_module(folder.as_posix().replace("/", "."))
        place = tmp_path / "plugins" / folder
        if not place.exists():
            shutil.copytree(ROOT / folder, place, ignore=shutil.ignore_patterns("__pycache__"))
        (place / file).write_text(body, encoding="utf-8")
        assert package.__spec__ is not None
        monkeypatch.setattr(package.__spec__, "submodule_search_locations", [str(place)])
        monkeypatch.setattr(package, "__path__", [str(place)])
    modules = [name.removesuffix(".py").replace("/", ".") for name in EXAMPLES]
    importlib.invalidate_caches()
    yield
    plugins.schema.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


def methods(kind: type) -> list[Callable[..., None]]:
    return [getattr(kind(), name) for name in dir(kind) if name.startswith("test_")]


@pytest.mark.usefixtures("examples")
class TestExamples:
    """The files that ARCHITECTURE.md shows keep the contracts, tested as every plugin is."""

    def test_there_is_one_of_each_kind(self) -> None:
        assert sorted(Path(name).parent.as_posix() for name in EXAMPLES) == sorted(
            place.package.replace(".", "/") for place in config.PLUGIN_SECTIONS.values()
        )

    @pytest.mark.parametrize("name", EXAMPLES)
    def test_it_is_a_plugin(self, name: str) -> None:
        package, plugin = name.removesuffix(".py").replace("/", ".").rsplit(".", 1)
        for check in methods(every_plugin.TestEveryPlugin):
            check(package, plugin)

    @pytest.mark.parametrize("check", methods(every_loss.TestEveryLoss), ids=lambda check: check.__name__)
    def test_the_loss(self, check: Callable[..., None]) -> None:
        check("hint")

    @pytest.mark.parametrize("check", methods(every_detector.TestEveryDetector), ids=lambda check: check.__name__)
    def test_the_detector(self, check: Callable[..., None]) -> None:
        check("grid")

    def test_the_runtime(self, tmp_path: Path) -> None:
        model = onnx_samples.write(tmp_path / "model.onnx")
        image = preprocess.apply(onnx_samples.picture({(0, 1): 0, (2, 3): 2}), onnx_samples.contract().preprocessing)[0][None]
        arguments: dict[str, Any] = {"calibration": [image], "heads": onnx_samples.HEADS}
        runtime = plugins.load("deploy.runtimes", "reference")
        compiled = runtime.compile(model, tmp_path, precision="fp32", **arguments)
        with runtime.open(compiled.file) as session, ort.open(model, threads=1) as expected:
            own, other = vars(session.infer(image)), vars(expected.infer(image))
            assert own.pop("masks") is other.pop("masks") is None
            for name in other:
                np.testing.assert_allclose(own[name], other[name], rtol=1e-5, atol=1e-5)
        with pytest.raises(BuildError, match="not in int8"):
            runtime.compile(model, tmp_path, precision="int8", **arguments)
        assert runtime.why_not() is None
        assert set(runtime.identity()) == {"onnx", "cpu"}

    def test_the_data_set(self, tmp_path: Path) -> None:
        root, out = tmp_path / "cells", tmp_path / "out"
        (root / "images").mkdir(parents=True)
        out.mkdir()
        for number in range(3):
            Image.fromarray(onnx_samples.picture({(0, number): number})).save(root / "images" / f"{number}.png")
        head = "file,label,x1,y1,x2,y2\n"
        (root / "train.csv").write_text(head + "0.png,red,0,0,16,16\n1.png,green,16,0,32,16\n")
        (root / "val.csv").write_text(head + "1.png,green,16,0,32,16\n2.png,,,,,\n")
        found = DataConfig.model_validate({"dataset": "table", "root": str(root)})
        facts = prepare(out, found).facts
        assert facts.contract.classes == ("green", "red")
        assert {name: (split.num_images, split.num_boxes) for name, split in facts.splits.items()} == {"train": (2, 2), "val": (2, 1)}
        (root / "val.csv").write_text(head + "1.png,green,16,0,wide,16\n")
        with pytest.raises(DataError, match="four numbers"):
            prepare(out, found)
