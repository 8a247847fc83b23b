"""Idiomatic pretraining step in PyTorch, for comparison: eager, channels-last, float32.

Needs PyTorch, which is optional: import this module only if it is installed. The network has our layers with the names
of torchvision's ResNet, which has no width, no small stem, and no projection in the first block of ResNet-18. Only the
max pooling pads as in torchvision.
"""

import collections
import itertools

import torch
from torch import nn
from torch.nn import functional

from benchmarks.synthetic import count_classes
from tf_simclr.config import ExperimentConfig, ModelConfig
from tf_simclr.models.counting import count_network

_TRUST_COEFFICIENT = 0.001
Tensors = list[torch.Tensor]


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck of three whose stride is on the 3x3."""

    def __init__(self, channels: int, filters: int, out_channels: int, stride: int, projection: bool):
        super().__init__()
        self.is_bottleneck = out_channels != filters
        self.bn1 = nn.BatchNorm2d(filters)
        if self.is_bottleneck:
            self.conv1 = _conv(channels, filters, 1)
            self.conv2 = _conv(filters, filters, 3, stride)
            self.bn2 = nn.BatchNorm2d(filters)
            self.conv3 = _conv(filters, out_channels, 1)
        else:
            self.conv1 = _conv(channels, filters, 3, stride)
            self.conv2 = _conv(filters, filters, 3)
        self.bn3 = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.bn3.weight)
        self.downsample = None
        if projection:
            shortcut = _conv(channels, out_channels, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Maps `[B, channels, H, W]` to `[B, out_channels, H / stride, W / stride]`."""
        x = self.conv2(functional.relu(self.bn1(self.conv1(inputs)), inplace=True))
        if self.is_bottleneck:
            x = self.conv3(functional.relu(self.bn2(x), inplace=True))
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        return functional.relu(self.bn3(x) + shortcut, inplace=True)


class ResNet(nn.Module):
    """The encoder, from images `[B, 3, H, W]` to features `[B, width]`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        from tf_simclr.models.resnet import encoder_width, scaled_filters

        stem = scaled_filters(64, config)
        self.conv1 = _conv(3, stem, 3) if config.cifar_stem else _conv(3, stem, 7, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.Identity() if config.cifar_stem else nn.MaxPool2d(3, 2, padding=1)
        expansion = encoder_width(config) // scaled_filters(512, config)
        blocks = collections.Counter(stage.group for stage in count_network(config).encoder)
        channels = stem
        for group in range(1, 5):
            filters = scaled_filters(64 * 2 ** (group - 1), config)
            outputs = expansion * filters
            layer = [Block(channels, filters, outputs, 2 if group > 1 else 1, projection=True)]
            layer += [Block(outputs, filters, outputs, 1, projection=False) for _ in range(blocks[group] - 1)]
            self.add_module(f"layer{group}", nn.Sequential(*layer))
            channels = outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Computes the mean of the last feature map over its positions."""
        x = self.maxpool(functional.relu(self.bn1(self.conv1(images)), inplace=True))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x.mean(dim=(2, 3))


class ProjectionHead(nn.Module):
    """Dense layers with batch norm and ReLU between them; the last norm has no offset."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.projection_head = nn.ModuleList()
        last = len(widths) - 2
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            layer = nn.ModuleDict({"dense": nn.Linear(inputs, outputs, bias=False), "norm": nn.BatchNorm1d(outputs)})
            nn.init.normal_(layer["dense"].weight, std=0.01)
            if number == last:
                layer["norm"].bias.requires_grad_(False)
            self.projection_head.append(layer)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Maps `[B, widths[0]]` to `[B, widths[-1]]`."""
        x = features
        for number, layer in enumerate(self.projection_head):
            x = layer["norm"](layer["dense"](functional.relu(x) if number else x))
        return x


def nt_xent_loss(view_a: torch.Tensor, view_b: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of `tf_simclr.losses.nt_xent_loss` for rows of length 1."""
    rows = torch.cat([view_a, view_b])
    logits = (rows @ rows.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(len(rows)).roll(len(view_a))
    return 2 * functional.cross_entropy(logits, partners)


class Lars:
    """The update of `tf_simclr.optimizers.lars_update`, with one kernel for many variables if there is one."""

    def __init__(self, decayed: Tensors, excluded: Tensors, *, momentum: float, weight_decay: float):
        self._decayed, self._excluded = decayed, excluded
        self._momentum, self._weight_decay = momentum, weight_decay
        self._velocities = {id(group): list(map(torch.zeros_like, group)) for group in (decayed, excluded)}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates the variables and clears their gradients."""
        gradients = [variable.grad for variable in self._decayed]
        torch._foreach_add_(gradients, self._decayed, alpha=self._weight_decay)
        weights, slopes = torch._foreach_norm(self._decayed), torch._foreach_norm(gradients)
        ratios = torch.stack(weights) / torch.stack(slopes)
        usable = torch.isfinite(ratios) & (ratios > 0)
        trusts = torch.where(usable, _TRUST_COEFFICIENT * ratios, 1.0)
        torch._foreach_mul_(gradients, list(trusts.unbind()))
        self._move(self._decayed, gradients, learning_rate)
        self._move(self._excluded, [variable.grad for variable in self._excluded], learning_rate)
        for variable in (*self._decayed, *self._excluded):
            variable.grad = None

    def _move(self, variables: Tensors, gradients: Tensors, learning_rate: float) -> None:
        velocities = self._velocities[id(variables)]
        torch._foreach_mul_(velocities, self._momentum)
        torch._foreach_add_(velocities, gradients, alpha=learning_rate)
        torch._foreach_sub_(variables, velocities)


class TorchStep:
    """A pretraining step with probe and LARS, on random weights.

    Args:
        training: configuration of the run; its probe sits on the encoder's output.
        learning_rate: constant learning rate.
    """

    def __init__(self, training: ExperimentConfig, learning_rate: float = 0.1):
        self._training, self._learning_rate = training, learning_rate
        self._num_classes = count_classes(training.model)
        widths = count_network(training.model).head_widths
        self.encoder = ResNet(training.model).to(memory_format=torch.channels_last)
        self.head = ProjectionHead(widths)
        self.probe = nn.Linear(widths[0], self._num_classes)
        modules = nn.ModuleList([self.encoder, self.head])
        parameters = [parameter for parameter in modules.parameters() if parameter.requires_grad]
        config = training.optimizer
        self._lars = Lars(
            [parameter for parameter in parameters if parameter.ndim > 1],
            [*(parameter for parameter in parameters if parameter.ndim == 1), *self.probe.parameters()],
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )

    def random_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns both views of a batch, concatenated, and its labels."""
        batch, side = self._training.train.train_batch_size, self._training.model.image_size
        views = torch.rand(2 * batch, 3, side, side).to(memory_format=torch.channels_last)
        return views, torch.randint(self._num_classes, (batch,))

    def __call__(self, views: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Takes one step; returns its loss.

        Args:
            views: `[2B, 3, H, W]`.
            labels: int64 `[B]`.
        """
        loss = self.backward(views, labels)
        self._lars.step(self._learning_rate)
        return loss

    def backward(self, views: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Computes the gradients without taking the step; returns the loss."""
        features = self.encoder(views)
        projections = functional.normalize(self.head(features), dim=1)
        logits = self.probe(features.detach())
        view_a, view_b = projections.chunk(2)
        loss = nt_xent_loss(view_a, view_b, self._training.contrast.temperature)
        loss = loss + functional.cross_entropy(logits, labels.repeat(2))
        loss = loss + self._training.optimizer.weight_decay * self.probe.weight.square().sum() / 2
        loss.backward()
        return loss.detach()


def _conv(channels: int, filters: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, stride, padding=kernel // 2, bias=False)
