"""HGNetV2, the backbone of D-FINE and of the smaller DEIMv2, by name.

Its sizes come from PaddleDetection and Peng et al., "D-FINE: Redefine Regression Task of DETRs as Fine-grained Distribution
Refinement", ICLR 2025, https://arxiv.org/abs/2410.13842.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Sizes:
    stem: tuple[int, int]
    middle: tuple[int, int, int, int]
    out: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    layers: int
    affine: bool


SIZES: dict[str, _Sizes] = {
    "hgnetv2_b0": _Sizes((16, 16), (16, 32, 64, 128), (64, 256, 512, 1024), (1, 1, 2, 1), 3, affine=True),
    "hgnetv2_b2": _Sizes((24, 32), (32, 64, 128, 256), (96, 384, 768, 1536), (1, 1, 3, 1), 4, affine=True),
    "hgnetv2_b4": _Sizes((32, 48), (48, 96, 192, 384), (128, 512, 1024, 2048), (1, 1, 3, 1), 6, affine=False),
    "hgnetv2_b5": _Sizes((32, 64), (64, 128, 256, 512), (128, 512, 1024, 2048), (1, 2, 5, 2), 6, affine=False),
}


def configuration(library: Any, name: str, scale: float, num_levels: int) -> Any:
    """transformers' configuration of the backbone: `scale` times the channels, the `num_levels` coarsest levels, up to stride 32."""

    def scaled(channels: tuple[int, ...]) -> list[int]:
        return [max(8, 8 * round(scale * count / 8)) for count in channels]

    sizes = SIZES[name]
    stem, out = scaled(sizes.stem), scaled(sizes.out)
    return library.HGNetV2Config(
        stem_channels=[3, *stem],
        stage_in_channels=[stem[-1], *out[:-1]],
        stage_mid_channels=scaled(sizes.middle),
        stage_out_channels=out,
        hidden_sizes=out,
        stage_num_blocks=list(sizes.blocks),
        stage_numb_of_layers=[sizes.layers] * 4,
        use_learnable_affine_block=sizes.affine,
        out_indices=[2, 3, 4][-num_levels:],
    )
