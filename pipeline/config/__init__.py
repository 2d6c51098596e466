"""pipeline.yaml as one typed value."""

from pipeline.config.pipeline import PLUGIN_SECTIONS, REFERENCES, PipelineConfig, load

__all__ = ["PLUGIN_SECTIONS", "REFERENCES", "PipelineConfig", "load"]
