"""RT-DETR and its successors, RT-DETRv2, D-FINE and DEIMv2: decoders that also learn to denoise perturbed objects.

Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024, https://arxiv.org/abs/2304.08069; denoising after Zhang et al.,
"DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection", ICLR 2023, https://arxiv.org/abs/2203.03605.
Departures: in fresh networks batch normalization starts at 1 and convolutions with Kaiming initialization (transformers starts both near
0, from where nothing is learned); position embeddings and anchors follow the image's size, whatever the weights' configuration fixes.

The parts of transformers' models are called one by one: as a whole, a model exports neither with a dynamic batch nor without assertions.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.detectors import DecodedQueries, HeadShape, Outputs, Queries
from stages.detectors.boxes.nms import best
from stages.detectors.set_prediction import hub
from stages.detectors.set_prediction.detector import (
    LabelDict,
    SetPrediction,
    SetPredictionDetector,
    corners,
    full_precision,
    grid_boxes,
    mended,
    not_finite,
)
from stages.processes import rescale

CLASS_LAYERS = (r"(model\.decoder\.)?class_embed\.", r"model\.enc_score_head\.", r"model\.denoising_class_embed\.")
"""Name patterns of the tensors that grow with the number of classes."""

_OFF = 1e4
"""The logit of anchors at the border: 1 after the sigmoid, like the largest float's, which half precision cannot represent."""


_EDGE = 1e-5
"""Given queries' boxes as fractions are at least this far from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True)
class _Proposed:
    """The encoder's best positions: features [B, Q, C], class logits [B, Q, K], boxes [B, Q, 4] as logits of fractions."""

    features: Tensor
    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class _Noise:
    """Perturbed objects: features [B, N, C], boxes [B, N, 4] as logits, the attention mask [N + Q, N + Q], and what the losses need."""

    features: Tensor
    boxes: Tensor
    mask: Tensor
    meta: dict[str, Any]


class DenoisingDetector(SetPredictionDetector):
    """See the module. Denoising queries exist only in training mode, as do D-FINE's and DEIMv2's losses of all but the last layer."""

    def __init__(self, model: Any) -> None:
        """Take over the network of one of transformers' models."""
        super().__init__()
        self.config = model.config
        self.strides = tuple(self.config.feat_strides)
        self.channels = (self.config.encoder_hidden_dim,) * len(self.strides)
        self.head_shape = HeadShape(channels=self.config.d_model)
        self.network = model.model  # it contains the heads that are used; the model's own are the same tensors
        self.criterion = model.loss_function
        self.config.auxiliary_loss = True
        for module in self.network.modules():
            if hasattr(module, "eval_size"):
                module.eval_size = None
        hub.untie(self.network)

    def layers(self) -> tuple[nn.Module, ...]:
        """See Detector.layers."""
        return (self.network.conv_encoder if hasattr(self.network, "conv_encoder") else self.network.backbone.model,)

    def predict(self, images: Tensor, labels: list[LabelDict] | None = None) -> SetPrediction:
        """See SetPredictionDetector.predict."""
        pyramid = self._pyramid(images)
        memory, shapes = self._memory(pyramid)
        self.check_positions(images, shapes, self.config.num_queries)
        proposed = self._propose(memory, shapes)
        noise = self._noise(labels) if self.training and labels is not None else None
        decoded = self._decode(memory, shapes, proposed, noise)
        first = noise.features.shape[1] if noise else 0
        logits, boxes = decoded.intermediate_logits[:, -1, first:], decoded.intermediate_reference_points[:, -1, first:]
        losses = {} if labels is None else self._losses(decoded, proposed, noise, labels)
        return SetPrediction(tuple(pyramid), logits, boxes, losses=losses)

    def decode_queries(self, outputs: Outputs, queries: Queries | None) -> DecodedQueries:
        """See Detector.decode_queries."""
        memory, shapes = self._memory(outputs.pyramid)
        if queries is None:
            features, places = self._start(self._propose(memory, shapes))
        else:
            features, places = queries.features, torch.logit(queries.boxes, eps=_EDGE)
        found = self._attend(memory, shapes, features, places, None)
        boxes = corners(found.intermediate_reference_points[:, -1].float(), *outputs.size)
        return DecodedQueries(queries or Queries(features, torch.sigmoid(places)), found.intermediate_logits[:, -1], boxes)

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        network = self.network
        if hasattr(network, "conv_encoder"):  # DEIMv2
            return list(network.encoder(network.conv_encoder(images)).feature_maps)
        features = network.backbone.model(images).feature_maps
        projected = [project(feature) for project, feature in zip(network.encoder_input_proj, features, strict=True)]
        return list(network.encoder(projected).last_hidden_state)

    def _memory(self, pyramid: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """What the decoder attends to, [B, S, C], and its levels' sizes: the pyramid's, and further ones made from its coarsest."""
        coarser = [pyramid[-1]] * (self.config.num_feature_levels - len(pyramid))
        levels = [project(level) for project, level in zip(self.network.decoder_input_proj, [*pyramid, *coarser], strict=True)]
        memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
        return memory, [(level.shape[-2], level.shape[-1]) for level in levels]

    def _propose(self, memory: Tensor, shapes: list[tuple[int, int]]) -> _Proposed:
        grid, inside = grid_boxes(shapes, memory.device)
        anchors = torch.where(inside, torch.logit(grid), torch.full_like(grid, _OFF))
        features = self.network.enc_output(memory * inside.to(memory.dtype))
        logits = self.network.enc_score_head(features)
        boxes = self.network.enc_bbox_head(features) + anchors
        chosen = best(logits.amax(dim=-1), self.config.num_queries)[1][..., None]
        return _Proposed(*(torch.gather(one, 1, chosen.expand(-1, -1, one.shape[-1])) for one in (features, logits, boxes)))

    def _noise(self, labels: list[LabelDict]) -> _Noise | None:
        """None if there is nothing to perturb."""
        config = self.config
        found = importlib.import_module(type(self.network).__module__).get_contrastive_denoising_training_group(
            labels,
            config.num_labels,
            config.num_queries,
            getattr(self.network, "denoising_class_embed", None),
            config.num_denoising,
            config.label_noise_ratio,
            config.box_noise_scale,
        )
        return None if found[0] is None else _Noise(*found)

    def _decode(self, memory: Tensor, shapes: list[tuple[int, int]], proposed: _Proposed, noise: _Noise | None) -> Any:
        queries, boxes = self._start(proposed)
        if noise is not None:
            queries, boxes = torch.cat((noise.features, queries), dim=1), torch.cat((noise.boxes.detach(), boxes), dim=1)
        return self._attend(memory, shapes, queries, boxes, None if noise is None else noise.mask)

    def _start(self, proposed: _Proposed) -> tuple[Tensor, Tensor]:
        """The network's own queries: features [B, Q, C] and boxes [B, Q, 4] as logits."""
        queries, boxes = proposed.features.detach(), proposed.boxes.detach()
        if self.config.learn_initial_query:
            queries = self.network.weight_embedding.weight.expand_as(queries)
        return queries, boxes

    def _attend(self, memory: Tensor, shapes: list[tuple[int, int]], queries: Tensor, boxes: Tensor, mask: Tensor | None) -> Any:
        return self.network.decoder(
            inputs_embeds=queries,
            encoder_hidden_states=memory,
            encoder_attention_mask=mask,
            reference_points=boxes,
            # they are only compared with the memory's length; as plain integers they put no assertion on tensors into an exported graph
            spatial_shapes=np.array(shapes, dtype=object),
            spatial_shapes_list=shapes,
        )

    def _losses(self, decoded: Any, proposed: _Proposed, noise: _Noise | None, labels: list[LabelDict]) -> dict[str, Tensor]:
        logits, boxes = decoded.intermediate_logits, decoded.intermediate_reference_points
        diverged = not_finite(logits, boxes, proposed.boxes)
        with torch.autocast(boxes.device.type, enabled=False):
            corners, references = decoded.intermediate_predicted_corners, decoded.initial_reference_points
            given = full_precision([logits, boxes, proposed.logits, torch.sigmoid(proposed.boxes.float()), corners, references])
            logits, boxes, proposed_logits, proposed_boxes, corners, references = mended(given) if diverged else given
            _, terms, _ = self.criterion(
                logits[:, -1],
                labels,
                boxes.device,
                boxes[:, -1],
                self.config,
                logits,
                boxes,
                enc_topk_logits=proposed_logits,
                enc_topk_bboxes=proposed_boxes,
                denoising_meta_values=None if noise is None else noise.meta,
                predicted_corners=corners,
                initial_reference_points=references,
            )
        if diverged:  # the other processes wait for this one's sums and terms anyway
            terms["loss_bbox"] = terms["loss_bbox"] + torch.nan
        if self.training and self.config.num_denoising and noise is None:
            # several processes wait for every parameter's gradient, even if a batch has nothing to denoise
            terms["loss_bbox"] = terms["loss_bbox"] + 0 * self.network.denoising_class_embed.weight.sum()
        return self._averaged(terms, labels)

    def _averaged(self, terms: dict[str, Tensor], labels: list[LabelDict]) -> dict[str, Tensor]:
        """transformers divides by this process's objects; "loss_ddf" is a mean over queries and stays as it is."""
        means = {name: value for name, value in terms.items() if name.startswith("loss_ddf")}
        sums = {name: value for name, value in terms.items() if name not in means}
        num_objects = sum(len(label["class_labels"]) for label in labels)
        return {**rescale(sums, num_objects, next(self.parameters()).device), **means}


def pretrained(model_class: Any, weights: str, num_classes: int, sizes: dict[str, Any], denoising: int | None) -> DenoisingDetector:
    """The detector of a hub id or a folder; `denoising` replaces the number that the weights were trained with.

    Raises:
        ValueError: one of `sizes`, by their options' names, is given; the weights have their own.
        ArtifactError: weights that are not available or belong to a different detector.
    """
    hub.refuse_sizes(weights, sizes)
    detector = DenoisingDetector(hub.load(model_class, weights, num_classes, CLASS_LAYERS))
    detector.config.num_denoising = denoising or detector.config.num_denoising
    return detector


def fresh(model_class: Any, config: Any) -> DenoisingDetector:
    """A detector to be trained from scratch."""
    model = model_class(config)
    _start_afresh(model)
    return DenoisingDetector(model)


def shared_sizes(
    num_classes: int, width: int, channels: list[int], layers: int, queries: int, *, widening: int, denoising: int | None
) -> dict[str, Any]:
    """What the configurations of all these detectors have in common.

    Args:
        width: channels of the pyramid and of the queries.
        channels: channels of the backbone's three levels, finest first.
        layers: decoder layers.
        widening: the channels inside feed-forward blocks, as a multiple of `width`.
        denoising: see the option; None: 100.
    """
    return {
        "num_labels": num_classes,
        "freeze_backbone_batch_norms": False,
        "tie_word_embeddings": False,
        "encoder_in_channels": channels,
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": widening * width,
        "d_model": width,
        "decoder_in_channels": [width] * 3,
        "decoder_ffn_dim": widening * width,
        "decoder_layers": layers,
        "num_queries": queries,
        "num_denoising": denoising or 100,
    }


def _start_afresh(model: nn.Module) -> None:
    """Set weights from which a network can learn without pretrained ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
