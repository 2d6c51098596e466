"""The sections of pipeline.yaml, typed.

Nothing here imports torch: a file is checked in milliseconds, also on a machine without torch.
"""

from stages.config.augmentations import Augmentation, Color, Corrupt, Crop, Flip, Mosaic, Scale
from stages.config.baseline import BaselineConfig, stretched
from stages.config.compare import CompareConfig
from stages.config.corruption import StudentViewConfig
from stages.config.data import DataConfig
from stages.config.distillation import DistillConfig, LossConfig
from stages.config.gates import SHARE, GateConfig, Tolerance, Versus
from stages.config.int8 import FinetuneConfig, Int8Config
from stages.config.plugin import DetectorConfig, Fraction, Plugin, Positive
from stages.config.robustness import GroupingConfig, RobustnessConfig
from stages.config.targets import ExportConfig, LatencyConfig, PackageConfig, TargetConfig, ValidationConfig
from stages.config.training import StudentConfig, TeacherConfig, TrainConfig
from stages.config.unlabelled import PseudoConfig, SelfTrainingConfig, UnlabelledConfig

__all__ = [
    "SHARE",
    "Augmentation",
    "BaselineConfig",
    "Color",
    "CompareConfig",
    "Corrupt",
    "Crop",
    "DataConfig",
    "DetectorConfig",
    "DistillConfig",
    "ExportConfig",
    "FinetuneConfig",
    "Flip",
    "Fraction",
    "GateConfig",
    "GroupingConfig",
    "Int8Config",
    "LatencyConfig",
    "LossConfig",
    "Mosaic",
    "PackageConfig",
    "Plugin",
    "Positive",
    "PseudoConfig",
    "RobustnessConfig",
    "Scale",
    "SelfTrainingConfig",
    "StudentConfig",
    "StudentViewConfig",
    "TargetConfig",
    "TeacherConfig",
    "Tolerance",
    "TrainConfig",
    "UnlabelledConfig",
    "ValidationConfig",
    "Versus",
    "stretched",
]
