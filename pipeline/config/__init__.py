"""pipeline.yaml as one typed value."""

from pipeline.config.pipeline import FLOAT, PLUGIN_SECTIONS, REFERENCES, PipelineConfig, load

__all__ = ["FLOAT", "PLUGIN_SECTIONS", "REFERENCES", "PipelineConfig", "load"]
