"""What keys call the arguments of stages."""

import inspect
from typing import get_type_hints

import artifact_samples
import pytest
from pydantic import BaseModel

from deploy import plugins
from pipeline import flow
from pipeline.store import keys
from stages import STAGES


def configurations(stage: str) -> list[type[BaseModel]]:
    """The classes of a stage's configurations, less the plan, which goes by its parameter's name."""
    function = getattr(flow, stage)
    given = {name: kind for name, kind in get_type_hints(function).items() if name in inspect.signature(function).parameters}
    return [kind for name, kind in given.items() if isinstance(kind, type) and issubclass(kind, BaseModel) and name != "plan"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_configuration_of_a_stage_has_a_name_of_its_own(stage: str) -> None:
    assert set(configurations(stage)) <= keys.SECTIONS.keys()


def test_a_target_that_may_get_any_runtime_depends_on_every_runtimes_file() -> None:
    files = {runtime: [file for file, _ in keys._plugin_digests(artifact_samples.target(runtime=runtime))] for runtime in ("ort", "auto")}
    assert files == {"ort": ["deploy/runtimes/ort.py"], "auto": [f"deploy/runtimes/{name}.py" for name in plugins.names("deploy.runtimes")]}


def test_stored_keys_hold_these_names() -> None:
    """A different name runs every stage again: change one only on purpose."""
    names = ["data", "teacher", "student", "distill", "export", "target", "validation", "latency", "package", "robustness", "detector"]
    names += ["distill.unlabelled", "int8"]
    assert list(keys.SECTIONS.values()) == names


def test_an_input_that_is_left_out_is_the_reason() -> None:
    """Where there is an artifact or nothing, nothing is null among the values."""
    without: keys.Parts = {"version": 1, "config": {"seed": 0, "times": None}, "identity": {}, "plugins": {}, "inputs": {}}
    having = {**without, "config": {"seed": 0}, "inputs": {"times": "time_steps-1"}}
    assert (keys.difference(having, without), keys.difference(without, having)) == ("input times changed", "input times changed")
