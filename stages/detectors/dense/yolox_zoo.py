"""YOLOX as MMDetection writes it down: the names of its tensors, and pixels as they are read."""

from stages.detectors.backbones.csp_darknet import STRIDES, DarknetShape
from stages.detectors.zoo.layout import ZooLayout
from stages.detectors.zoo.settings import ZooSetting

_NAMES = (
    (r"backbone\.", "backbone.body."),
    (r"neck\.", "backbone.fpn."),
    (r"bbox_head\.multi_level_(cls|reg)_convs\.(\d+)\.", r"head.levels.\2.\1_convs."),
    (r"bbox_head\.multi_level_conv_cls\.(\d+)\.", r"head.levels.\1.cls_logits."),
    (r"bbox_head\.multi_level_conv_reg\.(\d+)\.", r"head.levels.\1.bbox_reg."),
    (r"bbox_head\.multi_level_conv_obj\.(\d+)\.", r"head.levels.\1.objectness."),
)

_PIXELS = {"color": "bgr", "mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}

_SWISH = ("Swish", "SiLU")
_UNSCALED = "use weights that were trained on BGR from 0 to 255"


def yolox_layout(shape: DarknetShape) -> ZooLayout:
    """Of a network of this shape."""
    constant = (
        ZooSetting("backbone.type", ("CSPDarknet",), remedy="use weights of a CSPDarknet"),
        ZooSetting("backbone.arch", ("P5",), absent="P5"),
        ZooSetting("backbone.deepen_factor", (shape.depth,), absent=1.0, remedy="set depth to this"),
        ZooSetting("backbone.widen_factor", (shape.width,), absent=1.0, remedy="set width to this"),
        ZooSetting("backbone.spp_kernal_sizes", ([5, 9, 13],)),
        *(ZooSetting(f"{part}.use_depthwise", (shape.depthwise,), absent=False) for part in ("backbone", "neck", "bbox_head")),
        *(ZooSetting(f"{part}.act_cfg.type", _SWISH) for part in ("backbone", "neck", "bbox_head")),
        ZooSetting("data_preprocessor.bgr_to_rgb", (False,), absent=False, remedy=_UNSCALED),
        ZooSetting("data_preprocessor.mean", ([0.0] * 3,), remedy=_UNSCALED),
        ZooSetting("data_preprocessor.std", ([1.0] * 3,), remedy=_UNSCALED),
    )
    settings = (
        ZooSetting("neck.type", ("YOLOXPAFPN",)),
        ZooSetting("bbox_head.type", ("YOLOXHead",)),
        ZooSetting("bbox_head.strides", (list(STRIDES),)),
    )
    return ZooLayout(("YOLOX",), _NAMES, settings, constant=constant, pixels=_PIXELS)
