"""Grid R-CNN's parts, assembled, with mmdet's names of their tensors."""

from torch import nn

from stages.detectors.two_stage.grid.heads import GridHead, RegionClassHead
from stages.detectors.two_stage.refining.model import ProposingModel, RefinementOptions
from stages.detectors.two_stage.refining.proposal_network import CASCADE_PROPOSALS


class GridHeads(nn.Module):
    """The heads of the second stage."""

    def __init__(self, layout: RefinementOptions, point_channels: int) -> None:
        super().__init__()
        self.bbox_head = RegionClassHead(layout.fpn_channels, layout.box_head_channels, layout.num_classes)
        self.grid_head = GridHead(layout.fpn_channels, point_channels)


class GridModel(ProposingModel):
    """The layers; proposals are chosen and learned as Cascade R-CNN's are."""

    def __init__(self, layout: RefinementOptions, point_channels: int) -> None:
        super().__init__(layout, CASCADE_PROPOSALS)
        self.roi_head = GridHeads(layout, point_channels)
