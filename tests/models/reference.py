"""The network's forward pass in plain NumPy, from `variable_tree` and the definitions of the papers."""

import numpy as np

EPSILON = 1e-5
BLOCKS = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


def pad(x, before, after, value=0.0):
    return np.pad(x, [(0, 0), (before, after), (before, after), (0, 0)], constant_values=value)


def conv(x, kernel, stride=1):
    """(k - 1) // 2 zeros before, the rest after, for every stride."""
    size = kernel.shape[0]
    before = (size - 1) // 2
    padded = pad(x, before, size - 1 - before)
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    y = np.zeros((len(x), height, width, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + size, j * stride : j * stride + size]
            y[:, i, j] = np.tensordot(window, kernel, axes=3)
    return y


def max_pool(x):
    """3x3, stride 2, SAME: one pixel is missing after even sizes, one on either side of odd ones."""
    padded = np.full((len(x), x.shape[1] + 2, x.shape[2] + 2, x.shape[3]), -np.inf)
    top, left = x.shape[1] % 2, x.shape[2] % 2
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    height, width = -(-x.shape[1] // 2), -(-x.shape[2] // 2)
    rows = [
        [padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)) for j in range(width)] for i in range(height)
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def shortcut_pool(x, stride):
    """2x2 average: with stride 2 the zeros after the end count, with stride 1 (SAME) they do not."""
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    padded = pad(x, 0, 1)
    y = np.zeros((len(x), height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + 2, j * stride : j * stride + 2]
            rows, columns = min(2, x.shape[1] - i), min(2, x.shape[2] - j)
            y[:, i, j] = window.sum(axis=(1, 2)) / (4 if stride == 2 else rows * columns)
    return y


def relu(x):
    return np.maximum(x, 0)


class Reference:
    """Computes every endpoint of a network in NumPy.

    Args:
        tree: `variable_tree()` with arrays in place of variables.
        config: of the network.
        training: batch norm with the statistics of the batch.
    """

    def __init__(self, tree, config, training):
        self.tree, self.config, self.training = tree, config, training
        self.statistics = {}

    def norm(self, x, layer, name):
        axes = tuple(range(x.ndim - 1))
        mean, variance = layer["moving_mean"], layer["moving_variance"]
        if self.training:
            mean = x.mean(axis=axes)
            variance = ((x - mean) ** 2).mean(axis=axes)
        self.statistics[name] = mean, variance
        return layer["gamma"] * (x - mean) / np.sqrt(variance + EPSILON) + layer.get("beta", 0)

    def conv_norm(self, x, block, name, number, stride=1):
        x = conv(x, block[f"conv{number}"]["kernel"], stride)
        return relu(self.norm(x, block[f"norm{number}"], f"{name}/norm{number}"))

    def stem(self, x):
        stem = self.tree["encoder"]["stem"]
        stride = 1 if self.config.image_size <= 32 else 2
        if self.config.sk_ratio > 0 and stride == 2:
            x = self.conv_norm(x, stem, "stem", 1, stride)
            x = self.conv_norm(x, stem, "stem", 2)
            initial = conv(x, stem["conv3"]["kernel"])
        else:
            initial = conv(x, stem["conv1"]["kernel"], stride)
        x = relu(self.norm(initial, stem["norm"], "stem/norm"))
        return initial, max_pool(x) if stride == 2 else x

    def shortcut(self, x, block, name, stride):
        if "shortcut_conv" not in block:
            return x
        if self.config.sk_ratio > 0:
            x, stride = shortcut_pool(x, stride), 1
        x = conv(x, block["shortcut_conv"]["kernel"], stride)
        return self.norm(x, block["shortcut_norm"], f"{name}/shortcut_norm")

    def selective_kernel(self, x, block, name, stride):
        x = self.conv_norm(x, block, name, 2, stride)
        branches = np.stack(np.split(x, 2, axis=-1))
        pooled = branches.sum(axis=0).mean(axis=(1, 2), keepdims=True)
        mixed = conv(pooled, block["mix_conv1"]["kernel"])
        mixed = relu(self.norm(mixed, block["mix_norm"], f"{name}/mix_norm"))
        logits = np.stack(np.split(conv(mixed, block["mix_conv2"]["kernel"]), 2, axis=-1))
        weights = np.exp(logits) / np.exp(logits).sum(axis=0)
        return (weights * branches).sum(axis=0)

    def squeeze_excitation(self, x, block):
        squeezed = x.mean(axis=(1, 2), keepdims=True)
        squeezed = relu(conv(squeezed, block["squeeze"]["kernel"]) + block["squeeze"]["bias"])
        logits = conv(squeezed, block["excite"]["kernel"]) + block["excite"]["bias"]
        return x / (1 + np.exp(-logits))

    def block(self, x, name, stride):
        block = self.tree["encoder"][name]
        shortcut = self.shortcut(x, block, name, stride)
        if self.config.resnet_depth < 50:
            x = self.conv_norm(x, block, name, 1, stride)
            x = conv(x, block["conv2"]["kernel"])
        else:
            x = self.conv_norm(x, block, name, 1)
            if self.config.sk_ratio > 0:
                x = self.selective_kernel(x, block, name, stride)
            else:
                x = self.conv_norm(x, block, name, 2, stride)
            x = conv(x, block["conv3"]["kernel"])
        x = self.norm(x, block["last_norm"], f"{name}/last_norm")
        if self.config.se_ratio > 0:
            x = self.squeeze_excitation(x, block)
        return relu(x + shortcut)

    def forward(self, images):
        """Returns (endpoints, head layers)."""
        endpoints = {}
        endpoints["initial_conv"], x = self.stem(images)
        endpoints["initial_max_pool"] = x
        for group, num_blocks in enumerate(BLOCKS[self.config.resnet_depth], start=1):
            for block in range(1, num_blocks + 1):
                stride = 2 if block == 1 and group > 1 else 1
                x = self.block(x, f"block_group{group}_block{block}", stride)
            endpoints[f"block_group{group}"] = x
        h = x.mean(axis=(1, 2))
        endpoints["default"] = endpoints["final_avg_pool"] = endpoints["proj_head_input"] = h
        layers = [h]
        head = self.tree["projection_head"]
        for number in range(1, len(head) + 1):
            layer = head[f"layer{number}"]
            z = self.norm(layers[-1] @ layer["dense"]["kernel"], layer["norm"], f"layer{number}/norm")
            layers.append(z if number == len(head) else relu(z))
        endpoints["proj_head_output"] = layers[-1]
        if "supervised_head" in self.tree:
            linear = self.tree["supervised_head"]
            endpoints["logits_sup"] = layers[self.config.ft_proj_selector] @ linear["kernel"] + linear["bias"]
        return endpoints, layers
