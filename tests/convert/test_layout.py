"""A layout goes there and back without changing a bit, and means what PyTorch means by it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from avemo_jax.convert import layout

sizes = st.integers(1, 5)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@given(width=sizes, heads=sizes, head_dim=sizes, parts=st.sampled_from([2, 3]))
def test_every_layout_is_its_own_way_back(width, heads, head_dim, parts):
    shapes = {
        layout.SAME: (width,),
        layout.LINEAR: (width, heads),
        layout.QKV: (width, parts, heads, head_dim),
        layout.QUERY: (width, heads, head_dim),
        layout.HEADS_BIAS: (heads, head_dim),
        layout.HEADS_OUT: (heads, head_dim, width),
        layout.TOKEN: (width,),
        layout.TUBELET_PATCH: (1536, width),
        layout.AUDIO_PATCH: (256, width),
    }
    for rule, shape in shapes.items():
        ours = draw(*shape)
        theirs = rule.to_theirs(ours)
        assert theirs.shape == rule.their_shape(shape)
        assert np.array_equal(rule.to_ours(theirs, shape), ours)


def test_a_kernel_of_heads_gives_the_projections_that_pytorch_splits_into_thirds():
    ours, x = draw(6, 3, 2, 4), draw(5, 6)
    theirs = torch.from_numpy(layout.QKV.to_theirs(ours))
    query, key, value = F.linear(torch.from_numpy(x), theirs).reshape(5, 3, 2, 4).unbind(1)
    for part, expected in enumerate((query, key, value)):
        np.testing.assert_allclose(np.einsum("nc,chd->nhd", x, ours[:, part]), expected, atol=1e-5)


def test_an_output_kernel_reads_the_concatenated_heads():
    ours, heads = draw(2, 4, 6), draw(5, 2, 4)
    theirs = torch.from_numpy(layout.HEADS_OUT.to_theirs(ours))
    expected = F.linear(torch.from_numpy(heads.reshape(5, 8)), theirs)
    np.testing.assert_allclose(np.einsum("nhd,hdc->nc", heads, ours), expected, atol=1e-5)


def test_a_patch_kernel_is_the_convolution_on_channel_last_patches():
    ours, patch = draw(1536, 7), draw(2, 16, 16, 3)
    theirs = torch.from_numpy(layout.TUBELET_PATCH.to_theirs(ours))
    assert theirs.shape == (7, 3, 2, 16, 16)
    expected = F.conv3d(torch.from_numpy(patch.transpose(3, 0, 1, 2)[None]), theirs).flatten()
    np.testing.assert_allclose(patch.reshape(-1) @ ours, expected, atol=1e-3)


def test_an_audio_kernel_is_the_convolution_on_time_by_mel_patches():
    ours, patch = draw(256, 7), draw(16, 16)
    theirs = torch.from_numpy(layout.AUDIO_PATCH.to_theirs(ours))
    expected = F.conv2d(torch.from_numpy(patch[None, None]), theirs).flatten()
    np.testing.assert_allclose(patch.reshape(-1) @ ours, expected, atol=1e-3)


def test_a_shape_that_a_layout_cannot_have_is_named():
    with pytest.raises(ValueError, match="does not have 2 axes"):
        layout.LINEAR.their_shape((3,))
    with pytest.raises(ValueError, match="not the product"):
        layout.AUDIO_PATCH.their_shape((255, 8))
