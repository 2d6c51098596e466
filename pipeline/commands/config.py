"""`edgedistill config`: the resolved configuration, and the JSON schema with which editors complete and check it."""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from deploy import plugins
from pipeline.config import PLUGIN_SECTIONS, PipelineConfig, load
from pipeline.config.pipeline import PluginSection
from pipeline.terminal.answer import Answer


def config(args: argparse.Namespace) -> Answer:
    """The configuration with every default, or the schema."""
    if args.schema:
        found = schema()
        return Answer(found, json.dumps(found, indent=2))
    resolved = load(Path(args.config), args.settings).model_dump(mode="json")
    return Answer(resolved, yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True, width=120).rstrip())


def schema() -> dict[str, Any]:
    """pipeline.yaml as JSON schema, with the options of every plugin."""
    found = PipelineConfig.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    found["title"] = "edgedistill pipeline.yaml"
    found["properties"]["extends"] = {"type": "string", "description": "a file that this one extends, relative to this file"}
    # a file that extends another may leave out anything
    found.pop("required", None)
    for kind, section in PLUGIN_SECTIONS.items():
        own = found["$defs"][kind.__name__]
        variants = [_variant(own, section, name) for name in plugins.names(section.package)]
        variants += [_any_variant(section, variants)] if section.any_of_them is not None else []
        found["$defs"][kind.__name__] = {"anyOf": variants, "description": own.get("description", "")}
    return found


def _variant(own: dict[str, Any], section: PluginSection, name: str) -> dict[str, Any]:
    options = plugins.schema(section.package, name, section.function).model_json_schema()
    return {
        "title": name,
        "type": "object",
        "properties": {**own["properties"], **options.get("properties", {}), section.key: {"const": name}},
        "required": sorted({section.key, *own.get("required", []), *options.get("required", [])}),
        "additionalProperties": False,
    }


def _any_variant(section: PluginSection, variants: list[dict[str, Any]]) -> dict[str, Any]:
    """The variant in which any plugin may be used: every plugin's options, each of which has its own default."""
    common = {name: one for name, one in variants[0]["properties"].items() if all(each["properties"].get(name) == one for each in variants)}
    options = {name: one for each in variants for name, one in each["properties"].items() if name not in common}
    free = {name: {key: value for key, value in one.items() if key != "default"} for name, one in options.items()}
    title = section.any_of_them
    return {**variants[0], "title": title, "properties": {**common, **free, section.key: {"const": title}}}
