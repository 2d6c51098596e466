"""Bundles that somebody edited: every hash is right, and they are refused in one line all the same."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import artifact_samples as samples
import numpy as np
import onnx
import onnx_samples
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from deploy import plugins
from deploy.bundles import triton
from deploy.bundles.bundle import Bundle
from deploy.bundles.manifest import MANIFEST
from deploy.comparison import limits
from deploy.comparison.interval import Effect
from deploy.errors import ArtifactError
from deploy.runtimes import Raw, checked
from deploy.runtimes.onnx_files import header
from pipeline.cli import main
from pipeline.commands import build

Content = dict[str, Any]
LONG = "x" * 300


def edited(folder: Path, change: Callable[[Content], object]) -> Path:
    """The bundle with its manifest changed and its hashes made right."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    samples.resign(folder, manifest, measured=False)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def verdict(**changes: object) -> Callable[[Content], object]:
    return lambda m: m["verdicts"][0].update(changes)


def effect(change: float, low: float, high: float) -> dict[str, float]:
    return {"change": change, "low": low, "high": high, "num": 50}


FELL = "falls <= 0.01 from teacher"
EDITS: dict[str, tuple[Callable[[Content], object], str]] = {
    "fewer ids than classes": (lambda m: m["contract"].update(category_ids=[3]), "3 classes, but 1 category_ids"),
    "one id twice": (lambda m: m["contract"].update(category_ids=[3, 3, 9]), "two classes have the same category id"),
    "no classes": (lambda m: m["contract"].update(category_ids=[], classes=[]), "there is no class"),
    "accuracy of an unknown class": (lambda m: m["accuracy"]["per_class"].update(pink=0.5), "accuracy has a class 'pink'"),
    "std 0": (lambda m: m["contract"]["preprocessing"].update(std=[0, 1, 1]), "std.0: Input should be greater than or equal to 0.0001"),
    "tiny std": (lambda m: m["contract"]["preprocessing"].update(std=[1e-300, 1, 1]), "std.0"),
    "huge mean": (lambda m: m["contract"]["preprocessing"].update(mean=[1e300, 1, 1]), "mean.0"),
    "unknown provider": (lambda m: m["options"].update(provider="evil"), "options: ort: provider: Input should be 'auto'"),
    "list as provider": (lambda m: m["options"].update(provider=["cpu"]), "options: ort: provider"),
    "unknown option": (lambda m: m["options"].update(library="/tmp/x.so"), "options: ort has no option 'library'"),
    "options that name a runtime": (lambda m: m["options"].update(runtime=["x"]), "no option 'runtime'"),
    "unknown runtime": (lambda m: m.update(runtime="../ort"), "options: no '../ort' in deploy.runtimes"),
    "precision": (lambda m: m.update(precision="fp64"), "precision: Input should be 'fp32', 'fp16' or 'int8'"),
    "name of 300": (lambda m: m.update(name=LONG), "name: String should have at most 200 characters"),
    "target that leaves the folder": (lambda m: m.update(target="../../evil"), "target: String should match pattern"),
    "target of 300": (lambda m: m.update(target=LONG), "target: String should have at most 150 characters"),
    "checkpoint that leaves the store": (
        lambda m: m["graph"]["network"].update(checkpoint="../../../home/me"),
        "checkpoint: String should match pattern",
    ),
    "neither engine nor reason": (lambda m: m.update(engine=None), "neither an engine nor a reason"),
    "nothing measured": (lambda m: m.update(latency=None), "nothing was measured"),
    "hash of the graph": (lambda m: m["graph"].update(sha256="0" * 64), "graph.sha256 is not that of model.onnx"),
    "no detections": (lambda m: m["graph"].update(max_detections=0), "output boxes should be any x 0 x 4"),
    "fewer detections": (lambda m: m["graph"].update(max_detections=7), "output boxes should be any x 7 x 4, the graph has any x 8 x 4"),
    "other size": (lambda m: m["contract"]["preprocessing"].update(height=96), "the graph's images are any x 3 x 64 x 64"),
    "masks": (lambda m: m["contract"].update(mask_frame="box"), "output masks should be"),
    "opset": (lambda m: m["graph"].update(opset=9), "opset is 9, the graph's 18"),
    "mAP above 1": (lambda m: m["accuracy"].update(map=1.5), "accuracy.map is 1.5, allowed: 0 to 1"),
    "class below 0": (lambda m: m["accuracy"]["per_class"].update(red=-0.5), "accuracy.per_class.red is -0.5"),
    "no images": (lambda m: m["accuracy"].update(num_images=0), "accuracy.num_images is 0"),
    "percentiles": (lambda m: m["latency"]["infer"].update(p99=0.1), "latency.infer: percentiles should rise"),
    "no seconds": (lambda m: m["latency"].update(seconds=0), "100 passes in 0 s"),
    "speedup": (lambda m: m.update(speedups={"teacher": {"ratio": 9, "low": 1, "high": 2}}), "speedups.teacher: 9"),
    "pass of a failing figure": (verdict(measured=0.0), "gate 'map >= 0.5 on here' is stored as pass, but 0 is not within its limit"),
    "pass of another figure": (verdict(measured=0.99), "its map is 0.99, and 0.5 in the rest of the manifest"),
    "better accuracy": (lambda m: m["accuracy"].update(map=0.999), "its map is 0.5, and 0.999 in the rest of the manifest"),
    "pass of nothing": (verdict(measured=None), "nothing was measured"),
    "pass without a limit": (verdict(limit=""), "'' is not a limit"),
    "pass with half a limit": (verdict(limit=" and <= 1"), "is not a limit"),
    "pass of an unknown metric": (verdict(metric="goodness"), "goodness"),
    "pass of an unknown class": (verdict(metric="map/pink"), "no class 'pink'"),
    "pass of a change without one": (verdict(limit=FELL), "there is no interval of the change"),
    "pass of a failed change": (verdict(limit=FELL, effect=effect(0.05, 0.04, 0.06)), "its interval is not within falls <= 0.01"),
    "pass of an unclear change": (verdict(limit=FELL, effect=effect(0.01, -0.02, 0.04)), "its interval is not within falls <= 0.01"),
    "pass of a share": (verdict(limit="rises <= 5% from teacher", effect=effect(0.06, 0.055, 0.07)), "its interval is not within"),
    "pass of too little": (verdict(limit=FELL, effect=effect(0, 0, 0), why="6 images are too few to tell"), "its interval is not within"),
    "pass of too little by a number": (verdict(measured=0.0, why="6 images are too few to tell"), "0 is not within its limit"),
    "interval beside its change": (verdict(limit=FELL, effect=effect(0.5, -0.02, 0.001)), "there is no interval of the change"),
    "size that is not the engine's": (lambda m: m["verdicts"][1].update(measured=5.0), "its bytes is 5, and"),
    "verdict on another target": (verdict(target="there"), "it is on target 'there', not 'here'"),
    "target without a name": (lambda m: m["plan"]["targets"][0].pop("name"), "plan.targets.0.name should be text"),
    "list as a target's name": (lambda m: m["plan"]["targets"][0].update(name=["a"]), "plan.targets.0.name should be text"),
    "words as a drop": (lambda m: m["plan"]["targets"][0].update(max_map_drop="x"), "plan.targets.0.max_map_drop should be a number"),
    "list as a gate's metric": (lambda m: m["plan"]["gates"][0].update(metric=["map"]), "plan.gates.0.metric should be text"),
    "a verdict that was removed": (lambda m: m["verdicts"].pop(0), "its plan has the gate map >= 0.5, on which there is no verdict"),
}


class TestEdited:
    @pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS)
    def test_what_contradicts_itself_is_refused(self, tmp_path: Path, change: Callable[[Content], object], message: str) -> None:
        folder = samples.bundle(tmp_path).root
        assert message in refusal(edited(folder, change))

    def test_deep_nesting_and_long_numbers_are_refused(self, tmp_path: Path) -> None:
        folder = samples.bundle(tmp_path).root
        for text, message in (("[" * 200_000, "nested"), ('{"format": ' + "2" * 400 + "}", "400 digits"), (" " * 2**24 + "{}", "bytes")):
            (folder / MANIFEST).write_text(text)
            assert message in refusal(folder)

    @pytest.mark.parametrize(
        ("found", "why"),
        [
            (effect(0.01, -0.02, 0.04), "too few images to tell: 50 measured, about 90 would suffice"),
            (effect(0.5, 0.4, 0.6), "6 images are too few to tell; at least 20 are needed"),  # all of it beyond the limit
            (effect(0, 0, 0), "6 images are too few to tell; at least 20 are needed"),
        ],
    )
    def test_a_pass_on_noise_is_allowed_by_the_gate_that_says_so(self, tmp_path: Path, found: dict[str, float], why: str) -> None:
        def change(m: Content) -> None:
            m["verdicts"][0].update(limit=FELL, effect=found, why=why)
            m["plan"]["gates"][0] = {"metric": "map", "max_drop": 0.01, "versus": "teacher", "on_noise": "pass"}

        folder = edited(samples.bundle(tmp_path).root, change)
        assert Bundle.load(folder).gated

    def test_commands_say_it_in_one_line_with_exit_code_4(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = edited(samples.bundle(tmp_path).root, verdict(measured=0.0))
        for command in (["gate", str(folder)], ["serve", str(folder), "--check"], ["package", str(folder), "--out", str(tmp_path / "o")]):
            assert main(command) == 4
            assert "is stored as pass, but 0 is not within its limit, >= 0.5" in capsys.readouterr().err


def test_a_network_of_few_candidates_has_fewer_detections_than_allowed(tmp_path: Path) -> None:
    made = samples.bundle(tmp_path)
    fewer = Bundle.load(edited(made.root, lambda m: m["graph"].update(max_detections=100)))
    assert fewer.manifest.files == made.manifest.files
    assert [one.shape for one in triton.tensors(fewer)[1]] == [(8, 4), (8,), (8,), ()]
    triton.write(fewer, tmp_path / "repository")
    assert re.findall(r"dims: \[(8|100)\b", (tmp_path / "repository" / "cells-here" / "config.pbtxt").read_text()) == ["8"] * 3
    with fewer.open(threads=1) as session:
        size = fewer.manifest.contract.preprocessing
        assert session.infer(np.zeros((1, 3, size.height, size.width), np.float32)).boxes.shape == (1, 8, 4)


class TestLimits:
    @pytest.mark.parametrize(
        ("limit", "measured", "change", "passed"),
        [
            (">= 0.3", 0.3, None, True),
            (">= 0.3", 0.2999, None, False),
            ("<= 1e+15", 1e15, None, True),
            ("<= 20", 20.1, None, False),
            (">= -1 and <= 2", 3.0, None, False),
            (">= -1 and <= 2", 0.0, None, True),
            (limits.of_number(1 / 3, None), 1 / 3, None, True),
            ("falls <= 0.01 from baseline", 0.5, (0.0, -0.1, 0.01), True),
            ("falls <= 0.01 from baseline at equal cost", 0.5, (0.0, -0.1, 0.01), True),
            ("falls <= 0.01 from baseline", 0.5, (0.0, -0.1, 0.02), None),
            ("rises <= 5% from float", 0.5, (0.06, 0.051, 0.07), False),
            ("rises <= 5% from float", 0.5, (0.02, 0.01, 0.05), True),
        ],
    )
    def test_a_pass_follows_from_the_figures(
        self, limit: str, measured: float, change: tuple[float, float, float] | None, passed: bool | None
    ) -> None:
        found = None if change is None else Effect(change=change[0], low=change[1], high=change[2], num=9)
        assert limits.holds(limit, measured, found) is passed

    @pytest.mark.parametrize("limit", ["", ">=", "> 0.3", ">= nan", ">= 0.3 and", " and <= 1", "<= 1 and >= 0", "falls <= x from y"])
    def test_other_words_are_no_limit(self, limit: str) -> None:
        with pytest.raises(ValueError, match="is not a limit"):
            limits.holds(limit, 1.0, None)


def hidden(place: str) -> onnx.ModelProto:
    """The sample with a tensor in etc/passwd, wherever a graph can have one."""
    model = onnx_samples.detector()
    tensor = numpy_helper.from_array(np.zeros(4, np.uint8), "secret")
    external_data_helper.set_external_data(tensor, "etc/passwd", length=4)
    tensor.ClearField("raw_data")
    node = helper.make_node("Constant", [], ["found"], value=tensor)
    inner = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("found", TensorProto.UINT8, [4])])
    if place == "initializer":
        model.graph.initializer.append(tensor)
    elif place == "constant":
        model.graph.node.append(node)
    elif place == "list":
        attribute = onnx.AttributeProto(name="values", type=onnx.AttributeProto.TENSORS, tensors=[tensor])
        model.graph.node.append(onnx.NodeProto(op_type="X", domain="x", attribute=[attribute]))
    elif place == "branch":
        model.graph.node.append(helper.make_node("If", ["converged"], ["y"], then_branch=inner, else_branch=inner))
    elif place == "function":
        model.functions.append(helper.make_function("x", "F", [], ["found"], [node], [helper.make_opsetid("", 18)]))
    elif place == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, indices=numpy_helper.from_array(np.zeros(1, np.int64)), dims=[4])
        model.graph.sparse_initializer.append(sparse)
    else:
        model.training_info.append(onnx.TrainingInfoProto(algorithm=inner))
    return model


PLACES = ("initializer", "constant", "list", "branch", "function", "sparse", "training")


def with_graph(folder: Path, model: onnx.ModelProto, **more: bytes) -> Path:
    """The bundle with this graph as its engine and its graph, and with more files, all of them listed."""
    for name in ("engine.onnx", "model.onnx"):
        (folder / name).write_bytes(model.SerializeToString())
    for name, content in more.items():
        (folder / name).write_bytes(content)

    def change(m: Content) -> None:
        m["files"] |= dict.fromkeys(more, "0" * 64)
        m["verdicts"][1]["measured"] = float((folder / "engine.onnx").stat().st_size)

    edited(folder, change)
    return edited(folder, lambda m: m["graph"].update(sha256=m["files"]["model.onnx"]))


def in_weights(name: str = "tensors", *, listed: str = "tensors") -> tuple[onnx.ModelProto, dict[str, bytes]]:
    """The sample with one tensor moved to a file."""
    model = onnx_samples.detector()
    weight = next(one for one in model.graph.initializer if one.name == "stem_weight")
    content = weight.raw_data
    external_data_helper.set_external_data(weight, name, length=len(content))
    weight.ClearField("raw_data")
    return model, {listed: content}


class TestTensorsElsewhere:
    @pytest.mark.parametrize("place", PLACES)
    def test_a_file_of_the_machine_is_never_read(self, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        model = hidden(place)
        assert header.read(model.SerializeToString()).external == ["etc/passwd"] * (2 if place == "branch" else 1)
        folder = with_graph(samples.bundle(tmp_path).root, model)
        assert "a tensor is in 'etc/passwd', outside the folder" in refusal(folder)
        for runtime in ("ort", "openvino"):
            opened = plugins.load("deploy.runtimes", runtime)
            if opened.why_not() is None:
                with pytest.raises(ArtifactError, match="outside the folder"):
                    opened.open(folder / "engine.onnx")

    @pytest.mark.parametrize("name", ["/etc/passwd", "../tensors", "..", "", "a/../tensors", "*/_ORT_MEM_ADDR_/*", "x\n", "./tensors"])
    def test_names_that_are_not_those_of_files_here_are_refused(self, tmp_path: Path, name: str) -> None:
        model, more = in_weights(name)
        assert "outside the folder" in refusal(with_graph(samples.bundle(tmp_path).root, model, **more))

    def test_a_file_that_the_manifest_does_not_list_is_refused(self, tmp_path: Path) -> None:
        model, more = in_weights()
        folder = with_graph(samples.bundle(tmp_path).root, model, **more)
        edited(folder, lambda m: m["files"].pop("tensors"))
        assert "a tensor is in tensors, which manifest.json does not list" in refusal(folder)

    def test_a_listed_file_is_part_of_the_bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        plain = samples.bundle(tmp_path / "plain")
        model, more = in_weights()
        made = Bundle.load(with_graph(samples.bundle(tmp_path / "made").root, model, **more))
        images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
        with plain.open(threads=1) as one, made.open(threads=1) as other:
            assert (one.infer(images).scores == other.infer(images).scores).all()
        triton.write(made, tmp_path / "repository")
        assert (tmp_path / "repository" / "cells-here" / "1" / "tensors").read_bytes() == more["tensors"]
        with pytest.raises(ArtifactError, match="has tensors in tensors; build needs them inside"):
            build.again(made, tmp_path, dataset=None)
        (made.root / "tensors").write_bytes(b"\1" * len(more["tensors"]))
        assert "tensors: its sha256 differs" in refusal(made.root)

    def test_an_engine_of_another_suffix_has_its_tensors_inside(self, tmp_path: Path) -> None:
        model, more = in_weights()
        (tmp_path / "tensors").write_bytes(more["tensors"])
        (tmp_path / "engine.bin").write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError, match=r"its name does not end in \.onnx"):
            plugins.load("deploy.runtimes", "ort").open(tmp_path / "engine.bin")

    def test_a_graph_of_one_image_cannot_be_said_to_take_more(self, tmp_path: Path) -> None:
        folder = with_graph(samples.bundle(tmp_path).root, onnx_samples.detector(dynamic_batch=False))
        assert "dynamic_batch is true, but the graph's images are 1 x 3 x 64 x 64" in refusal(folder)
        Bundle.load(edited(folder, lambda m: m["graph"].update(dynamic_batch=False)))

    def test_a_node_that_opens_a_compiled_file_is_refused(self, tmp_path: Path) -> None:
        model = onnx_samples.detector()
        model.graph.node.append(helper.make_node("EPContext", ["images"], ["y"], domain="com.microsoft", ep_cache_context="../x"))
        assert "EPContext" in refusal(with_graph(samples.bundle(tmp_path).root, model))


class TestHeader:
    def test_it_agrees_with_the_onnx_package(self) -> None:
        for model in (onnx_samples.detector(), onnx_samples.detector(dynamic_batch=False, mask_frame="image")):
            found = header.read(model.SerializeToString())
            for values, own in ((model.graph.input, found.inputs), (model.graph.output, found.outputs)):
                for value in values:
                    tensor = value.type.tensor_type
                    shape = tuple(one.dim_value if one.HasField("dim_value") else None for one in tensor.shape.dim)
                    assert own[value.name] == (tensor.elem_type, shape)
                assert len(own) == len(values)
            assert (found.opset, found.external) == (18, [])

    def test_damaged_bytes_are_refused_and_never_anything_else(self) -> None:
        whole = onnx_samples.detector().SerializeToString()
        random = np.random.default_rng(0)
        for _ in range(300):
            content = bytearray(whole)
            for place in random.integers(0, min(len(content), 2000), 3):
                content[place] = random.integers(256)
            for cut in (bytes(content), bytes(content[: random.integers(len(content))])):
                with contextlib.suppress(ValueError):
                    assert header.read(cut).outputs is not None

    @pytest.mark.parametrize("content", [b"", b"garbage", b"<net/>", b"\0\0\0\0ORTM", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"])
    def test_other_formats_are_refused(self, content: bytes) -> None:
        with pytest.raises(ValueError, match=r"damaged|no graph"):
            header.read(content)

    def test_nested_graphs_have_a_bound(self) -> None:
        content = b""
        for _ in range(400):
            attribute = b"\x32" + _length(content) + content  # AttributeProto.g
            node = b"\x2a" + _length(attribute) + attribute
            content = b"\x0a" + _length(node) + node
        with pytest.raises(ValueError, match="nested more than 100"):
            header.read(b"\x3a" + _length(content) + content)


def _length(content: bytes) -> bytes:
    value, made = len(content), bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def raw(**changes: Any) -> Raw:
    good: Mapping[str, Any] = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "scores": np.zeros((2, 3), np.float32),
        "labels": np.zeros((2, 3), np.int64),
        "converged": np.ones(2, bool),
    }
    return Raw(**{**good, **changes})


class TestAnswers:
    @pytest.mark.parametrize(
        "changes",
        [
            {"scores": np.array([["a", "b", "c"]] * 2)},
            {"scores": np.zeros((2, 5), np.float32)},
            {"scores": [np.zeros(3, np.float32)] * 2},
            {"boxes": np.zeros((2, 3, 5), np.float32)},
            {"labels": np.zeros((2, 3), np.float32)},
            {"labels": np.zeros((1, 3), np.int64)},
            {"converged": np.ones(1, bool)},
            {"converged": np.ones((), bool)},
            {"masks": np.zeros((2, 4, 2, 2), np.float32)},
            {name: value[:1] for name, value in vars(raw()).items() if value is not None},
        ],
    )
    def test_an_engine_that_answers_something_else_is_refused(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ArtifactError, match="the engine's"):
            checked(raw(**changes), 2)

    def test_what_is_expected_is_returned(self) -> None:
        whole = raw(masks=np.zeros((2, 3, 7, 7), np.float32))
        assert checked(whole, 2) is whole


def test_start_sh_serves_from_a_folder_without_files(tmp_path: Path) -> None:
    script = Path(triton.__file__).parents[1] / "shipping" / "files" / "start.sh"
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "edgedistill"
    fake.write_text('#!/bin/sh\necho "$PWD" "$2" "$(ls -A | wc -l)" >> "$LOG"\n')
    fake.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "LOG": str(tmp_path / "log"), "EDGEDISTILL_BUNDLE": "some/bundle"}
    subprocess.run(["sh", str(script)], cwd=tmp_path, env=variables, check=True, timeout=60)
    calls = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [call[1:] for call in calls] == [[str(tmp_path / "some/bundle"), "0"]] * 2
    assert all(Path(call[0]) != tmp_path for call in calls)
