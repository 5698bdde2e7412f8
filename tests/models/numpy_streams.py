"""The methods of docs/methods.md once more, in float64 NumPy, clip by clip and layer by layer: what tests compare with.

Written from the equations and not from the library's code: nothing of it is imported.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf, logsumexp, softmax

ORDER = ("video", "audio", "both")  # of the joint layers' norms


class Net:
    """A model's parameters by path, as float64, and its sizes."""

    def __init__(self, flat, model, grids):
        self.flat = {path: np.asarray(array, np.float64) for path, array in flat.items()}
        self.model, self.grids = model, grids

    def get(self, path):
        return self.flat[path]

    def has(self, path):
        return path in self.flat


def norm(x, scale=1.0, shift=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + shift


def normed(net, path, x, row=None):
    scale, shift = net.get(f"{path}/scale"), net.get(f"{path}/bias")
    return norm(x, scale, shift) if row is None else norm(x, scale[row], shift[row])


def gelu(net, x):
    """Hendrycks & Gimpel 2016: x Φ(x), or their approximation of it."""
    if net.model.gelu == "tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def block(net, path, layer, x, row=None):
    """One pre-norm transformer block on one clip's tokens [N, C]."""

    def p(name):
        return net.get(f"{path}/{name}")[layer]

    def own(name, x):
        scale, shift = p(f"{name}/scale"), p(f"{name}/bias")
        return norm(x, scale, shift) if row is None else norm(x, scale[row], shift[row])

    y, qkv = own("norm1", x), p("attn/qkv")
    heads, width = qkv.shape[2:]
    out = np.zeros_like(x)
    for head in range(heads):
        q = y @ qkv[:, 0, head] + p("attn/q_bias")[head]
        k = y @ qkv[:, 1, head]
        v = y @ qkv[:, 2, head] + p("attn/v_bias")[head]
        out += softmax(q @ k.T / math.sqrt(width), axis=1) @ v @ p("attn/out/kernel")[head]
    x = x + out + p("attn/out/bias")
    hidden = own("norm2", x) @ p("mlp/fc1/kernel") + p("mlp/fc1/bias")
    hidden = gelu(net, hidden)
    return x + hidden @ p("mlp/fc2/kernel") + p("mlp/fc2/bias")


def window_block(net, path, layer, x, grid, window):
    """One block of AudioMAE's local decoder on one clip's tokens [T · F, C], a token at a time."""

    def p(name):
        return net.get(f"{path}/{name}")[layer]

    size = [min(pair) for pair in zip(window, grid, strict=True)]
    shift = size[0] // 2 if layer % 2 and grid[0] > size[0] else 0
    places = list(np.ndindex(*grid))
    # The window of each token, and where in it. A shifted one that wraps around is two.
    moved = [((time - shift) % grid[0], band) for time, band in places]
    names = [
        (time // size[0], band // size[1], place[0] < shift)
        for (time, band), place in zip(moved, places, strict=True)
    ]
    inside = [(time % size[0], band % size[1]) for time, band in moved]
    qkv, bias = p("attn/qkv"), p("attn/qkv_bias")
    out = np.tile(p("attn/out/bias"), (len(x), 1))
    for head in range(qkv.shape[2]):
        q, k, v = (x @ qkv[:, which, head] + bias[which, head] for which in range(3))
        for token, name in enumerate(names):
            others = [other for other, its in enumerate(names) if its == name]
            logits = []
            for other in others:
                cosine = q[token] @ k[other] / np.linalg.norm(q[token]) / np.linalg.norm(k[other])
                apart = np.subtract(inside[token], inside[other])
                apart = np.sign(apart) * np.log(1 + np.abs(apart))
                hidden = np.maximum(apart @ p("attn/meta/fc1/kernel") + p("attn/meta/fc1/bias"), 0)
                said = hidden @ p("attn/meta/fc2/kernel")[:, head]
                logits.append(cosine / max(p("attn/tau")[head], 0.01) + said)
            out[token] += softmax(logits) @ v[others] @ p("attn/out/kernel")[head]
    x = x + norm(out, p("norm1/scale"), p("norm1/bias"))
    hidden = x @ p("mlp/fc1/kernel") + p("mlp/fc1/bias")
    hidden = gelu(net, hidden)
    hidden = hidden @ p("mlp/fc2/kernel") + p("mlp/fc2/bias")
    return x + norm(hidden, p("norm2/scale"), p("norm2/bias"))


def positions(kind, grid, dim):
    """[N, dim], a token and a channel at a time."""
    table = np.zeros((math.prod(grid), dim))
    for token, place in enumerate(np.ndindex(*grid)):
        if kind == "flat":
            for channel in range(dim):
                angle = token / 10000 ** (2 * (channel // 2) / dim)
                table[token, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
        else:
            shares = [dim // 2, dim // 2] if len(grid) == 2 else [dim // 2, dim // 4, dim // 4]
            row = []
            for coordinate, share in zip(place, shares, strict=True):
                angles = [coordinate / 10000 ** (j / (share / 2)) for j in range(share // 2)]
                row += [*map(math.sin, angles), *map(math.cos, angles)]
            table[token] = row
    return table


def embedded(net, modality, patches, visible):
    """Registers, then the visible tokens."""
    x = patches @ net.get(f"{modality}/patch_embed/kernel") + net.get(f"{modality}/patch_embed/bias")
    x = x + positions(net.model.positions, net.grids[modality], x.shape[1])
    if net.has(f"{modality}/modality_token"):
        x = x + net.get(f"{modality}/modality_token")
    x = x[visible]
    if net.has(f"{modality}/registers"):
        x = np.concatenate([net.get(f"{modality}/registers"), x])
    return x


def alone(net, modality, patches, visible):
    """(every layer's output on a modality's way alone, what the joint layers take)."""
    owner = modality if net.has(f"trunk/{modality}/attn/qkv") else "shared"
    x, layers = embedded(net, modality, patches, visible), []
    for layer in range(net.model.depth):
        x = block(net, f"trunk/{owner}", layer, x)
        layers.append(x)
    if not net.model.joint_alone:
        return layers, normed(net, f"norm/{owner}", x), owner
    before = x
    for layer in range(net.model.joint_depth):
        x = block(net, "joint", layer, x, ORDER.index(modality) if net.model.joint_norms else None)
        layers.append(x)
    return layers, before, owner


def encoded(net, patches, visible):
    """One clip: (tokens for the decoder by modality, the mean token of each modality alone at each contrast layer
    [levels, C], each's layers)."""
    ways = {name: alone(net, name, patches[name], visible[name]) for name in net.grids}
    registers = net.model.registers
    compared = net.model.get("contrast_layers") or (-1,)
    means = {
        name: np.stack([normed(net, f"norm/{owner}", layers[at])[registers:].mean(0) for at in compared])
        for name, (layers, _, owner) in ways.items()
    }
    tokens = {name: way[1] for name, way in ways.items()}
    if net.model.joint_depth:
        x = np.concatenate(list(tokens.values()))
        for layer in range(net.model.joint_depth):
            x = block(net, "joint", layer, x, 2 if net.model.joint_norms else None)
        x = normed(net, "joint_norm", x)
        first = len(next(iter(tokens.values())))
        tokens = dict(zip(tokens, (x[:first], x[first:]), strict=True))
    return tokens, means, {name: way[0] for name, way in ways.items()}


def decoded(net, path, depth, kind, known, masks, registers=None):
    """What a decoder says of the hidden tokens: {modality: [N masked, P]}.

    known: tokens of what is visible by modality; masks: (visible, masked) of all that is asked for.
    """
    rows, asked = [], {}
    for name, (visible, masked) in masks.items():
        entry = name if net.has(f"{path}/embed/{name}/kernel") else "all"
        token = net.get(f"{path}/mask_token/{entry}")
        table = positions(kind, net.grids[name], len(token))
        if net.has(f"{path}/modality_token/{name}"):
            table = table + net.get(f"{path}/modality_token/{name}")
        if name in known:
            rows += list(project(net, f"{path}/embed/{entry}", known[name]) + table[visible])
        asked[name] = range(len(rows), len(rows) + len(masked))
        rows += [token + table[place] for place in masked]
    if registers is not None:
        entry = next(iter(masks)) if net.has(f"{path}/embed/{next(iter(masks))}/kernel") else "all"
        rows += list(project(net, f"{path}/embed/{entry}", registers))
    x = np.stack(rows)
    if net.has(f"{path}/blocks/attn/tau"):
        ((name, (visible, masked)),) = masks.items()
        order = [*visible, *masked]
        whole = x[: len(order)][np.argsort(order)]  # registers have no place in a window
        for layer in range(depth):
            whole = window_block(
                net, f"{path}/blocks", layer, whole, net.grids[name], net.model.decoder_window
            )
        x = whole[order]
    else:
        for layer in range(depth):
            x = block(net, f"{path}/blocks", layer, x)
    x = normed(net, f"{path}/norm", x)
    return {name: project(net, f"{path}/head/{name}", x[list(where)]) for name, where in asked.items()}


def project(net, path, x):
    y = x @ net.get(f"{path}/kernel")
    return y + net.get(f"{path}/bias") if net.has(f"{path}/bias") else y


def info_nce(first, second, temperature, direction="both"):
    """[B, C] twice."""
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    logits = first @ second.T / temperature
    forward = (logsumexp(logits, axis=1) - np.diag(logits)).mean()
    backward = (logsumexp(logits, axis=0) - np.diag(logits)).mean()
    return {"both": (forward + backward) / 2, "forward": forward, "backward": backward}[direction]


def error(kind, apart):
    """What a difference counts, value by value."""
    small = {
        "mse": apart**2,
        "l1": np.abs(apart),
        "smooth_l1": np.where(np.abs(apart) < 1, apart**2 / 2, np.abs(apart) - 0.5),
    }
    return small[kind]


def standardised(patches, colours):
    """Each patch's values of one colour: mean 0, unbiased deviation 1."""
    apart = patches.reshape(len(patches), -1, colours)
    apart = (apart - apart.mean(1, keepdims=True)) / (apart.std(1, ddof=1, keepdims=True) + 1e-6)
    return apart.reshape(patches.shape)
