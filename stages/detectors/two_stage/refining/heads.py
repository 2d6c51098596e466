"""The heads that look at the features of regions, with mmdet's names of their tensors: the background is the last class."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

BOX_SIZE, MASK_SIZE = 7, 14
"""Side of the features of a region, for its box and for its mask."""


class BoxHead(nn.Module):
    """Maps regions [N, C, 7, 7] to logits [N, K + 1], the background last, and deltas [N, K * 4], or [N, 4] if all classes share them."""

    def __init__(self, channels: int, hidden: int, num_classes: int, *, shared_boxes: bool) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(channels * BOX_SIZE * BOX_SIZE, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.Linear(hidden, num_classes + 1)
        self.fc_reg = nn.Linear(hidden, 4 if shared_boxes else num_classes * 4)
        for layer in self.shared_fcs:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.normal_(self.fc_reg.weight, std=0.001)
        for layer in (*self.shared_fcs, self.fc_cls, self.fc_reg):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas."""
        hidden = regions.flatten(1)
        for layer in self.shared_fcs:
            hidden = functional.relu(layer(hidden))
        return self.fc_cls(hidden), self.fc_reg(hidden)


class MaskHead(nn.Module):
    """Maps regions [N, C, 14, 14] to logits [N, K, 28, 28]."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        widths = (channels, hidden, hidden, hidden)
        self.convs = nn.ModuleList(nn.Sequential(OrderedDict(conv=nn.Conv2d(own, hidden, 3, padding=1))) for own in widths)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        self.conv_logits = nn.Conv2d(hidden, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        """Logits of every class."""
        hidden = regions
        for layer in self.convs:
            hidden = functional.relu(layer(hidden))
        logits: Tensor = self.conv_logits(functional.relu(self.upsample(hidden)))
        return logits
