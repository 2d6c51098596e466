"""docs/extending.md: its contracts against the modules that state them, and its examples, run through the real stages."""

import ast
import builtins
import csv
import importlib
import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import artifact_samples
import every_detector
import every_loss
import every_plugin
import every_runtime
import onnx_samples
import pytest
import yaml
from pages import EXTENDING, blocks, text
from PIL import Image
from places import ROOT

from deploy import plugins, precision
from deploy.errors import BuildError, DataError
from deploy.precision import Precision
from pipeline import cli, config
from stages.config import DataConfig
from stages.prepare import prepare

FILES = dict(re.findall(r"The example, `([\w/.]+\.py)`:\n\n```python\n(.*?)^```$", text(EXTENDING), re.MULTILINE | re.DOTALL))
CONTRACTS = dict(
    re.findall(
        r"(?:The contract, |artifacts |store how to hash and run it\. )`([\w/.]+\.py)`.*?:\n\n```python\n(.*?)^```$",
        text(EXTENDING),
        re.MULTILINE | re.DOTALL,
    )
)
REGISTRIES = {place.package: place for place in config.PLUGIN_SECTIONS.values()}


def module_of(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def public(nodes: list[ast.stmt], kind: type[ast.stmt]) -> dict[str, Any]:
    return {node.name: node for node in nodes if isinstance(node, kind) and not node.name.startswith("_")}  # type: ignore[attr-defined]


def outline(node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """A function's line, or a class's fields and public methods, as Python writes them."""
    if isinstance(node, ast.FunctionDef):
        return [f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns) if node.returns else None}"]
    fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
    methods = [line for one in node.body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_") for line in outline(one)]
    return fields + methods


def given(nodes: list[ast.stmt]) -> dict[str, ast.FunctionDef | ast.AnnAssign]:
    """What a plugin defines: functions, and constants in capitals."""
    constants = {node.target.id: node for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {**public(nodes, ast.FunctionDef), **constants}


def parameters(node: ast.FunctionDef) -> tuple[list[str], dict[str, str]]:
    """Those by place, with types and defaults, and those by keyword alone."""
    by_place = ast.unparse(ast.arguments([], node.args.args, None, [], [], None, node.args.defaults)).split(", ")
    keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return by_place, {one.arg: ast.unparse(ast.arguments([], [], None, [one], [default], None, [])) for one, default in keywords}


class TestContracts:
    def test_there_is_one_of_each_kind(self) -> None:
        assert sorted(CONTRACTS) == sorted(["stages/stage.py", *(f"{package.replace('.', '/')}/__init__.py" for package in REGISTRIES)])

    @pytest.mark.parametrize("name", CONTRACTS)
    def test_every_class_is_quoted_and_quoted_in_full(self, name: str) -> None:
        quoted, real = (public(ast.parse(source).body, ast.ClassDef) for source in (CONTRACTS[name], text(ROOT / name)))
        assert list(quoted) == list(real)
        for title, node in quoted.items():
            assert outline(node) == outline(real[title]), title

    def test_the_decorator_is_quoted_in_full(self) -> None:
        quoted, real = (
            public(ast.parse(source).body, ast.FunctionDef) for source in (CONTRACTS["stages/stage.py"], text(ROOT / "stages/stage.py"))
        )
        assert {title: outline(node) for title, node in quoted.items()} == {title: outline(node) for title, node in real.items()}

    @pytest.mark.parametrize("package", REGISTRIES)
    def test_it_asks_for_what_the_module_asks_for(self, package: str) -> None:
        """All that the docstring of the contract's module names, and nothing else."""
        asked = re.findall(r"`([A-Za-z_]\w*)(?=\(|: [A-Za-z])", importlib.import_module(package).__doc__ or "")
        assert sorted(set(asked)) == sorted(given(ast.parse(CONTRACTS[f"{package.replace('.', '/')}/__init__.py"]).body))

    @pytest.mark.parametrize(("package", "plugin"), every_plugin.EVERY, ids=lambda value: value)
    def test_every_plugin_keeps_it(self, package: str, plugin: str) -> None:
        source = CONTRACTS[f"{package.replace('.', '/')}/__init__.py"]
        required, optional = (given(ast.parse(part).body) for part in (*source.split("# Optional:"), "")[:2])
        own = public(ast.parse(text(plugins.source(package, plugin))).body, ast.FunctionDef)
        loaded = vars(plugins.load(package, plugin))
        assert required.keys() <= loaded.keys()
        for name, asked in {**required, **{key: node for key, node in optional.items() if key in loaded}}.items():
            if isinstance(asked, ast.AnnAssign):
                kind = ast.unparse(asked.annotation).partition("[")[0]
                places = (importlib.import_module(package), precision, builtins)
                assert isinstance(loaded[name], next(getattr(place, kind) for place in places if hasattr(place, kind)))
                continue
            place = REGISTRIES[package]
            (by_place, keywords), (wanted, wanted_keywords) = parameters(own[name]), parameters(asked)
            assert by_place == wanted
            if name == place.function or package != "deploy.runtimes":  # those by keyword are options, which no contract has
                assert not wanted_keywords
            else:
                assert keywords == wanted_keywords


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The page's plugins beside ours, as if their files had been added."""
    with pytest.MonkeyPatch.context() as patch:
        for name, body in FILES.items():
            folder = Path(name).parent
            package = importlib.import_module(module_of(folder.as_posix()))
            place = tmp_path_factory.mktemp("plugins") / folder.name
            place.mkdir()
            for file in (ROOT / folder).glob("*.py"):
                shutil.copy(file, place)
            (place / Path(name).name).write_text(body, encoding="utf-8")
            places = [str(place), str(ROOT / folder)]  # plugins are looked for in the first, their parts in both
            assert package.__spec__ is not None
            patch.setattr(package.__spec__, "submodule_search_locations", places)
            patch.setattr(package, "__path__", places)
        importlib.invalidate_caches()
        yield
    plugins.schema.cache_clear()
    for name in FILES:
        sys.modules.pop(module_of(name), None)


def checks(kind: type) -> list[Callable[..., None]]:
    """The tests of a contract, each for every value it is run with."""
    return [getattr(kind(), name) for name in dir(kind) if name.startswith("test_")]


def named(check: Callable[..., None]) -> str:
    return check.__name__


@pytest.mark.usefixtures("examples")
class TestExamples:
    """They keep the contracts, tested as every plugin is."""

    def test_there_is_one_of_each_kind(self) -> None:
        assert sorted(module_of(Path(name).parent.as_posix()) for name in FILES) == sorted(REGISTRIES)

    @pytest.mark.parametrize("name", FILES)
    def test_it_is_a_plugin(self, name: str) -> None:
        package, plugin = module_of(name).rsplit(".", 1)
        for check in checks(every_plugin.TestEveryPlugin):
            check(package, plugin)
        TestContracts().test_every_plugin_keeps_it(package, plugin)

    @pytest.mark.parametrize("snippet", blocks(EXTENDING, "yaml"))
    def test_its_yaml_loads(self, snippet: str, tmp_path: Path) -> None:
        path = tmp_path / "pipeline.yaml"
        whole = "name" in yaml.safe_load(snippet)
        path.write_text(snippet if whole else f"extends: {ROOT / 'examples' / 'small.yaml'}\n{snippet}", encoding="utf-8")
        config.load(path)

    @pytest.mark.parametrize("check", checks(every_loss.TestEveryLoss), ids=named)
    def test_the_loss(self, check: Callable[..., None]) -> None:
        check("imitation")

    @pytest.mark.parametrize("check", checks(every_detector.TestEveryDetector), ids=named)
    def test_the_detector(self, check: Callable[..., None]) -> None:
        check("grid")

    @pytest.mark.parametrize("check", checks(every_runtime.TestEveryRuntime), ids=named)
    @pytest.mark.parametrize("chosen", ["fp32", "fp16"])
    def test_the_runtime(self, check: Callable[..., None], chosen: Precision, tmp_path: Path) -> None:
        """Through optimize and validate."""
        values: dict[str, Any] = {"name": "reference", "precision": chosen, "tmp_path": tmp_path}
        check(**{name: values[name] for name in inspect.signature(check).parameters})

    def test_the_runtime_refuses_int8_and_names_the_target(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="target here: runtime reference computes in fp32 and fp16, not in int8"):
            artifact_samples.engine(tmp_path, artifact_samples.target(runtime="reference", precision="int8"))

    def test_the_data_set_names_what_is_wrong(self, tmp_path: Path) -> None:
        cells(tmp_path)
        found = DataConfig.model_validate({"dataset": "table", "root": str(tmp_path)})
        (tmp_path / "val.csv").write_text("file,label,x1,y1,x2,y2\n1.png,green,16,0,wide,16\n")
        with pytest.raises(DataError, match="four numbers"):
            prepare(tmp_path, found)
        (tmp_path / "val.csv").write_text("file,label\n1.png,green\n")
        with pytest.raises(DataError, match=r"columns file,label; write file,label,x1"):
            prepare(tmp_path, found)


def cells(root: Path) -> None:
    """Eight images and the tables that the example reads: two objects, one, and none."""
    (root / "images").mkdir()
    lines = []
    for number in range(8):
        drawn = {(number % 4, 1): 0, (1, 3): 1} if number < 4 else {(2, number % 4): 1} if number < 7 else {}
        Image.fromarray(onnx_samples.picture(drawn)).save(root / "images" / f"{number}.png")
        for (row, column), label in drawn.items():
            corner = (column * 16, row * 16, column * 16 + 16, row * 16 + 16)
            lines.append(f"{number}.png,{'red' if label == 0 else 'green'},{','.join(map(str, corner))}\n")
        lines += [] if drawn else [f"{number}.png,,,,,\n"]
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("file,label,x1,y1,x2,y2\n" + "".join(lines))


@pytest.fixture(scope="module")
def run(examples: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's whole pipeline, run by the command line: where the store is."""
    root = tmp_path_factory.mktemp("run")
    (whole,) = (snippet for snippet in blocks(EXTENDING, "yaml") if "name" in yaml.safe_load(snippet))
    cells(root)
    (root / "pipeline.yaml").write_text(whole.replace("/path/to/cells", str(root)), encoding="utf-8")
    quickly = ["--set", "validation.latency.ratio_width=100"]  # ratios need not settle
    assert cli.main(["run", str(root / "pipeline.yaml"), "--runs", str(root / "runs"), *quickly]) == 0
    return root / "runs"


def facts(run: Path, stage: str) -> list[Any]:
    return [json.loads(path.read_text()) for path in sorted((run / ".store").glob(f"{stage}-*/artifact.json"))]


class TestTheWholeRun:
    def test_prepare_reads_the_data_set(self, run: Path) -> None:
        (found,) = facts(run, "prepare")
        assert found["contract"]["classes"] == ["green", "red"]
        assert {name: (split["num_images"], split["num_boxes"]) for name, split in found["splits"].items()} == {
            "train": (8, 11),
            "val": (8, 11),
        }

    def test_distill_trains_with_the_loss(self, run: Path) -> None:
        (curves,) = (run / ".store").glob("distill-*/curves.csv")
        with curves.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 2
        assert all(float(row["imitation/error"]) > 0 and float(row["weighted/imitation/error"]) > 0 for row in rows)

    def test_the_detector_is_trained_exported_and_measured(self, run: Path) -> None:
        detectors = [found["detector"] for stage in ("train_teacher", "train_baseline", "distill") for found in facts(run, stage)]
        assert {one["name"] for one in detectors} == {"grid"}
        assert len(detectors) in {3, 4}  # the baseline at equal cost may have as many epochs as the student
        assert [found["network"]["detector"] for found in facts(run, "export")] == ["grid"] * 3

    def test_optimize_and_validate_use_the_runtime(self, run: Path) -> None:
        (engine,) = (found for found in facts(run, "optimize") if found["runtime"] == "reference")
        (report,) = (found for found in facts(run, "validate") if found["runtime"] == "reference")
        assert engine["fingerprint"].keys() == {"onnx", "cpu", "onnx_sha256"}
        assert report["why"] is None
        assert report["accuracy"]["num_images"] == 8
        others = [found["accuracy"]["map"] for found in facts(run, "validate") if found["target"] == "float"]
        assert others == [pytest.approx(report["accuracy"]["map"], abs=1e-6)]
