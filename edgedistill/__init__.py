"""edgedistill from Python: predict with a bundle, run a pipeline, judge its gates.

Nothing is imported until it is used: `import edgedistill` loads neither NumPy nor a runtime nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.bundles.bundle import Bundle
    from deploy.bundles.trust import Trust
    from deploy.errors import ArtifactError, BuildError, ConfigError, DataError, EdgedistillError, RuntimeUnavailable, Untrusted
    from edgedistill.commands import gate, load_config, run
    from edgedistill.prediction import Prediction
    from edgedistill.predictor import Predictor
    from pipeline.commands.gate import GateResult
    from pipeline.commands.run import FinishedRun
    from pipeline.config import PipelineConfig

    __version__: str

__all__ = [
    "ArtifactError",
    "BuildError",
    "Bundle",
    "ConfigError",
    "DataError",
    "EdgedistillError",
    "FinishedRun",
    "GateResult",
    "PipelineConfig",
    "Prediction",
    "Predictor",
    "RuntimeUnavailable",
    "Trust",
    "Untrusted",
    "gate",
    "load_config",
    "run",
]

_MODULES = {
    "Bundle": "deploy.bundles.bundle",
    "FinishedRun": "pipeline.commands.run",
    "GateResult": "pipeline.commands.gate",
    "PipelineConfig": "pipeline.config",
    "Prediction": "edgedistill.prediction",
    "Predictor": "edgedistill.predictor",
    "Trust": "deploy.bundles.trust",
    **dict.fromkeys(("gate", "load_config", "run"), "edgedistill.commands"),
    **dict.fromkeys(
        ("ArtifactError", "BuildError", "ConfigError", "DataError", "EdgedistillError", "RuntimeUnavailable", "Untrusted"), "deploy.errors"
    ),
}


if not TYPE_CHECKING:  # to a type checker, a module with __getattr__ has every name

    def __getattr__(name: str) -> Any:
        """Import what is asked for (PEP 562); it is an ordinary attribute from then on."""
        if name == "__version__":
            from deploy.machine.packages import DISTRIBUTION, version

            value: Any = version(DISTRIBUTION)
        elif name in _MODULES:
            value = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(_unknown(name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, __all__, 1)
    return f"edgedistill has no {name}{f' (did you mean {close[0]}?)' if close else ''}; it has {', '.join(__all__)}"
