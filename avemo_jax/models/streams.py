"""The encoder of the methods beside HiCMAE: one or two modalities, each alone and, in joint layers, together.

Every modality has a trunk: layers of its own (`weights="separate"`) or the same ones for both ("shared", which
tells modalities apart by learned tokens). Joint layers follow, over the tokens of both in one sequence. With
`joint_alone` each modality also goes through the joint layers by itself (CAV-MAE, Gong et al. 2023), and with
`joint_norms` these have norms of their own for each of the three ways. Without, the joint layers take what left the
trunks' norms (scenic's AV-MAE, Georgescu et al. 2023).

Sizes: B clips, N tokens, P numbers in a patch, C width, L layers on the way of a modality alone, R registers.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array
from ml_collections import ConfigDict

from avemo_jax.batch import Clip, Features, Masks
from avemo_jax.frontend import PATCHES, patchify, token_grids
from avemo_jax.models.attention import PLAIN, Choice
from avemo_jax.models.encoders import fold_keys, run_layers, take_tokens
from avemo_jax.models.layers import (
    GELUS,
    POSITIONS,
    Block,
    LayerNorm,
    Linear,
    drop_path_rates,
    glorot,
    positions_of,
    stacked,
    truncated_normal,
)

WEIGHTS = ("separate", "shared")
_COUNTS = ("joint_depth", "registers")  # of config.model, which may be 0
_BRANCH = {"video": 0, "audio": 1, "both": 2}  # of random draws, and of the joint layers' norms


def layer_count(model: ConfigDict) -> int:
    """Layers on the way of a modality alone in a model of `config.model`, HiCMAE's included."""
    return model.depth + (model.joint_depth if model.get("joint_alone", False) else 0)


def fuses(model: ConfigDict) -> bool:
    """Whether it has tokens that saw both modalities."""
    return bool(model.get("joint_depth", 0) or model.get("fusion_depth", 0))


def contrast_layers(model: ConfigDict) -> tuple[int, ...]:
    """The layers on the way of a modality alone by which clips are compared, HiCMAE's included: the last, where none is
    named."""
    return tuple(model.get("skip_layers", model.get("contrast_layers", ()))) or (layer_count(model) - 1,)


class Alone(NamedTuple):
    """A modality on its way alone; the first R tokens are its registers."""

    layers: Array  # every layer's raw output [L, B, R + N, C]
    trunk: Array  # what the joint layers take [B, R + N, C]


class Embedding(nnx.Module):
    """Patches → tokens with fixed positions, a learned token that says which modality it is, and learned registers
    (Darcet et al. 2024; MAE's class token is one) before them, which have no position."""

    def __init__(
        self,
        *,
        patch_dim: int,
        dim: int,
        grid: tuple[int, ...],
        positions: str,
        modality_token: bool,
        registers: int,
        rngs: nnx.Rngs,
    ):
        token = truncated_normal(0.02, 0.04)
        self.patch_embed = Linear(patch_dim, dim, init=glorot(1), rngs=rngs)
        self.modality_token = nnx.Param(token(rngs.params(), (dim,))) if modality_token else None
        self.registers = nnx.Param(token(rngs.params(), (registers, dim))) if registers else None
        self.grid, self.positions = grid, positions

    def __call__(self, patches: Array, visible: Array | None = None) -> Array:
        """[B, N, P] → [B, R + N visible, C]; `visible` int32 [B, N visible] are the tokens to keep, None all."""
        dim = self.patch_embed.kernel.shape[1]
        table = jnp.asarray(positions_of(self.positions, self.grid, dim), patches.dtype)
        if visible is None:
            tokens = self.patch_embed(patches) + table
        else:
            tokens = self.patch_embed(take_tokens(patches, visible)) + table[visible]
        if self.modality_token is not None:
            tokens = tokens + self.modality_token.astype(tokens.dtype)
        if self.registers is not None:
            first = jnp.broadcast_to(
                self.registers.astype(tokens.dtype), (len(tokens), *self.registers.shape)
            )
            tokens = jnp.concatenate([first, tokens], axis=1)
        return tokens


class StreamEncoder(nnx.Module):
    """See above. `model` is `config.model`; its `modalities`, `weights`, `depth`, `joint_depth`, `joint_alone`,
    `joint_norms`, `modality_tokens`, `registers`, `positions` say what is built, `contrast_layers` what is compared."""

    def __init__(
        self,
        model: ConfigDict,
        *,
        dtype,
        remat_policy: str,
        attention: Choice = PLAIN,
        rngs: nnx.Rngs,
    ):
        self._grids = tuple(token_grids(model).items())  # what a module keeps must have a hash
        self.modalities = tuple(self.grids)
        self.depth, self.joint_depth, self.joint_alone = model.depth, model.joint_depth, model.joint_alone
        self.registers, self.drop_path, self.remat_policy = model.registers, model.drop_path, remat_policy
        self.dtype = jnp.dtype(dtype)
        self.contrast_layers = contrast_layers(model)
        for name, grid in self.grids.items():
            embedding = Embedding(
                patch_dim=PATCHES[name],
                dim=model.dim,
                grid=grid,
                positions=model.positions,
                modality_token=model.modality_tokens,
                registers=model.registers,
                rngs=rngs,
            )
            setattr(self, name, embedding)
        paths = 3 if model.joint_norms else 0
        make = functools.partial(
            Block, model.dim, model.heads, gelu=model.get("gelu", "erf"), attention=attention
        )
        owners = self.modalities if model.weights == "separate" else ("shared",)
        self.trunk = nnx.Dict({name: stacked(make, self.depth, rngs) for name in owners})
        # The norm at the end of a modality's way alone. What leaves the joint layers has one too.
        self.norm = nnx.Dict({name: LayerNorm(model.dim) for name in owners})
        self.joint = (
            stacked(functools.partial(make, paths=paths), self.joint_depth, rngs)
            if self.joint_depth
            else None
        )
        self.joint_norm = LayerNorm(model.dim) if self.joint_depth else None
        self.joint_paths = paths

    @classmethod
    def complaints(cls, model: ConfigDict) -> list[str]:
        """What is wrong with the values that it reads."""
        found, modalities = [], tuple(model.modalities)
        if modalities not in (("video", "audio"), ("video",), ("audio",)):
            found.append(f"model.modalities is {modalities}, not video, audio or video,audio")
        for key, known in (("weights", WEIGHTS), ("positions", POSITIONS), ("gelu", GELUS)):
            if key in model and model[key] not in known:
                found.append(f"model.{key} is '{model[key]}', not one of {', '.join(known)}")
        found += [f"model.{key} {model[key]} must be at least 0" for key in _COUNTS if model[key] < 0]
        if model.joint_depth and len(modalities) == 1:
            found.append(
                f"model.joint_depth is {model.joint_depth}, and there is only {modalities[0]} to join: set it to 0, "
                "with joint_alone and joint_norms False, and add its layers to model.depth"
            )
        if (model.joint_alone or model.joint_norms) and not model.joint_depth:
            found.append("model.joint_alone and model.joint_norms need joint layers: model.joint_depth is 0")
        layers = tuple(model.get("contrast_layers", ()))
        if len(set(layers)) < len(layers) or not set(layers) <= set(range(layer_count(model))):
            found.append(
                f"model.contrast_layers {layers} must name layers in 0 … {layer_count(model) - 1}, each once"
            )
        if model.positions == "grid" and model.dim % 8:
            found.append(f"model.positions=grid needs a model.dim that is a multiple of 8, not {model.dim}")
        return found

    @property
    def grids(self) -> dict[str, tuple[int, ...]]:
        """Tokens of each modality."""
        return dict(self._grids)

    def alone(
        self, clip: Clip, modality: str, visible: Array | None = None, keys: Array | None = None
    ) -> Alone:
        """One modality by itself; `visible` int32 [B, N visible], None for all of its tokens."""
        embedding: Embedding = getattr(self, modality)
        x = embedding(patchify(clip, modality).astype(self.dtype), visible)
        keys = fold_keys(keys, _BRANCH[modality])
        rates = drop_path_rates(self.drop_path, self.depth + self.joint_depth)
        layers = run_layers(
            self.trunk[self._owner(modality)], x, rates[: self.depth], keys, self.remat_policy
        )
        if not self.joint_alone:
            return Alone(layers, self.finish(layers[-1], modality))
        more = self._jointly(layers[-1], modality, rates, keys)
        return Alone(jnp.concatenate([layers, more]), layers[-1])

    def finish(self, x: Array, modality: str) -> Array:
        """The norm that serves every layer of a modality alone."""
        return self.norm[self._owner(modality)](x)

    def together(self, trunks: dict[str, Array], keys: Array | None = None) -> dict[str, Array]:
        """What left both trunks, by modality, through the joint layers and their norm."""
        rates = drop_path_rates(self.drop_path, self.depth + self.joint_depth)
        x = jnp.concatenate(list(trunks.values()), axis=1)
        assert self.joint_norm is not None  # there are joint layers, or nobody asks
        x = self.joint_norm(self._jointly(x, "both", rates, fold_keys(keys, _BRANCH["both"]))[-1])
        first = next(iter(trunks.values())).shape[1]
        return dict(zip(trunks, (x[:, :first], x[:, first:]), strict=True))

    def encode_visible(
        self, clip: Clip, masks: Masks, keys: Array | None = None
    ) -> tuple[dict[str, Alone], dict[str, Array]]:
        """(each modality alone, what a decoder is given of each [B, R + N visible, C]): joint where there are joint
        layers, else normed trunks."""
        visible = {
            name: mask.visible for name in self.modalities if (mask := getattr(masks, name)) is not None
        }
        alone = {name: self.alone(clip, name, visible[name], keys) for name in self.modalities}
        if self.joint is None:
            return alone, {name: one.trunk for name, one in alone.items()}
        return alone, self.together({name: one.trunk for name, one in alone.items()}, keys)

    def encode(self, clip: Clip, keys: Array | None = None) -> Features:
        """Features of whole, unmasked clips, registers left out."""
        alone = {name: self.alone(clip, name, keys=keys) for name in self.modalities}
        fused = {}
        if self.joint is not None:
            fused = self.together({name: one.trunk for name, one in alone.items()}, keys)
        layers = {name: self.finish(one.layers, name)[:, :, self.registers :] for name, one in alone.items()}
        fused = {name: tokens[:, self.registers :] for name, tokens in fused.items()}
        return Features(layers.get("video"), layers.get("audio"), fused.get("video"), fused.get("audio"))

    def levels(self, one: Alone, modality: str) -> Array:
        """What clips are compared by: the mean visible token of each contrast layer on the way alone, float32
        [levels, B, C]; each layer goes through the norm at the way's end."""
        layers = (
            self.finish(one.layers[layer], modality)[:, self.registers :] for layer in self.contrast_layers
        )
        return jnp.stack([tokens.astype(jnp.float32).mean(1) for tokens in layers])

    def _owner(self, modality: str) -> str:
        return modality if modality in self.trunk else "shared"

    def _jointly(self, x: Array, way: str, rates: Array, keys: Array | None) -> Array:
        assert self.joint is not None  # there are joint layers, or nobody asks
        path = _BRANCH[way] if self.joint_paths else None
        return run_layers(
            self.joint, x, rates[self.depth :], keys, self.remat_policy, path=path, first=self.depth
        )
