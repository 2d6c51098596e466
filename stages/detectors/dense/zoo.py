"""What files of MMDetection's one-stage detectors have in common: their pyramid, and names of the towers' tensors."""

from stages.detectors.zoo.settings import ZooSetting

TOWERS = ((r"bbox_head\.((?:cls|reg)_convs|scales)\.", r"head.\1."),)
"""Names of our own head."""


def predicting(**names: str) -> tuple[tuple[str, str], ...]:
    """The layers that predict: MMDetection's names of classes, boxes and quality, in place of ours."""
    return tuple((rf"bbox_head\.{theirs}\.", f"head.{own}.") for own, theirs in names.items())


def pyramid_settings(extra: str, *, relu: bool = False) -> tuple[ZooSetting, ...]:
    """What a pyramid is built for: see PyramidBackbone."""
    made = ("on_input" if extra == "p6p7_c5" else "on_output", True)  # True, of old files, is either; the layers' shapes tell
    return (
        ZooSetting("neck.type", ("FPN",)),
        ZooSetting("neck.add_extra_convs", made, remedy="set extra to p6p7_c5 for on_input, to p6p7 for on_output"),
        ZooSetting("neck.relu_before_extra_convs", (relu,), absent=False),
    )


def group_settings(channels: int, absent: int | None = 32) -> tuple[ZooSetting, ...]:
    """Group normalization in groups of 8 channels, as weights for other groups have the same shapes; `absent`: the head's own groups."""
    groups = (channels // 8,)
    return ZooSetting("bbox_head.norm_cfg.num_groups", groups, absent), ZooSetting("neck.norm_cfg.num_groups", groups)


def square_settings(scale: float) -> tuple[ZooSetting, ...]:
    """One square anchor at every position."""
    return (
        ZooSetting("bbox_head.anchor_generator.octave_base_scale", (scale,), remedy="set anchor_scale to this"),
        ZooSetting("bbox_head.anchor_generator.scales_per_octave", (1,)),
        ZooSetting("bbox_head.anchor_generator.ratios", ([1.0],)),
        ZooSetting("bbox_head.anchor_generator.center_offset", (0.0,), absent=0.0),
    )
