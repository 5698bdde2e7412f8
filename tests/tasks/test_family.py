"""The methods beside HiCMAE: each one's loss beside the same in NumPy, and what every method has in common."""

from __future__ import annotations

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Clip, Masks, Outputs, Targets
from avemo_jax.config import configs_root, keys_of, load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import features
from avemo_jax.models.params import flatten, merge, split
from avemo_jax.models.positions import resized
from avemo_jax.tasks import clips, make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.gradients import loss_and_grads
from avemo_jax.training.optimizer import decay_mask
from input_pipeline.errors import DataError
from input_pipeline.records import open_records
from input_pipeline.video import IMAGENET_MEAN, IMAGENET_STD
from tests.evaluation import synthetic
from tests.models import numpy_streams as plain
from tests.objectives.test_contrastive import numpy_siglip
from tests.tasks.small import batch, check_learned_temperature, drawn, fresh

CONFIGS = {
    path.stem: load_config(f"{path.stem}:demo") for path in sorted(configs_root().glob("pretrain/*.py"))
}
METHODS = [name for name in CONFIGS if name != "hicmae"]
AUTOENCODERS = [name for name in METHODS if CONFIGS[name].assembly == "autoencoder"]
SIZES = (
    *("model.dim=16", "model.heads=2", "model.depth=2", "model.decoder_dim=8", "model.decoder_heads=2"),
    *("model.decoder_depth=1", "model.image_size=32", "model.frames=4", "model.audio_frames=32"),
    *("model.mel_bins=32", "mask.repeats=1", "mask.video_ratio=0.5", "mask.audio_ratio=0.5"),
)
# Windows that are shifted, and smaller than the grid: 8 × 2 tokens; registers by a projection of each modality.
EQUATIONS = {
    "audio_mae": ("model.decoder_depth=2", "model.audio_frames=128"),
    "av_mae": ("model.registers=1", "model.contrast_layers=(0,1)"),
    "hicmae": ("model.decoder_depth=3", "model.skip_layers=(0,1)", "model.fusion_depth=1"),
}
# What no method has: registers in a joint decoder, a layer of the trunk and one that is joint compared, some hidden
# tokens that nobody predicts.
FURTHER = ("model.registers=1", "model.contrast_layers=(2,0)", "mask.decoded=0.5", "target.error=l1")
CASES = [*((name, EQUATIONS.get(name, ())) for name in AUTOENCODERS), ("cav_mae", FURTHER)]
QUICKLY = {"xla_backend_optimization_level": 0}  # run once: compiling is what takes time


def known(method, words):
    """Those of overrides that a method has values for."""
    keys = set(keys_of(CONFIGS[method]))
    return [word for word in words if word.partition("=")[0] in keys]


@functools.cache
def task(method, *overrides, count=3):
    words = [*known(method, SIZES), f"batch_size={count}", *overrides]
    return make_task(load_config(f"{method}:demo", words))


@functools.cache
def seen(made):
    """(model whose parameters are not at their neutral start, clip, masks, outputs, targets)."""

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def compute(model, of, key):
        clip, masks = made.view(of, clips.clip_keys(key, of))
        teacher = model if made.learns_from_average else None
        return clip, masks, model(clip, masks), made.targets(clip, masks, teacher)

    model = merge(*drawn(made))
    return model, *jax.tree.map(np.asarray, compute(model, batch(3, made), jax.random.key(1)))


def differentiated(made, graphdef, devices):
    """(parameters, their average, batch, key) → (loss, gradients), on so many devices."""
    axes = {"replica": 1, "data": -1, "fsdp": min(2, devices), "tensor": min(2, devices)}
    mesh = mesh_lib.make_mesh(axes, jax.devices()[:devices])

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def compute(params, average, of, key):
        return loss_and_grads(made, graphdef, params, of, key, mesh, average)

    def run(params, average, of, key):
        of = jax.device_put(of, mesh_lib.batch_shardings(of, mesh))
        placed = [jax.device_put(tree, mesh_lib.shardings(tree, mesh)) for tree in (params, average)]
        (loss, _), grads = compute(*placed, of, key)
        return float(loss), jax.tree.map(np.asarray, grads)

    return run


def marked(*slow):
    """All methods, these in CI's slow suite and the others, of the same parts, nightly."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else pytest.mark.nightly)
        for name in METHODS
    ]


def net_and_patches(made):
    model, clip, masks, outputs, targets = seen(made)
    net = plain.Net(flatten(split(model)[1]), made.config.model, made.grids)
    patches = {name: np.asarray(frontend.patchify(clip, name), np.float64) for name in made.grids}
    return net, patches, masks, outputs, targets


def near(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-5 * max(1.0, np.abs(expected).max()))


def picture_to_predict(patches, target):
    """[N, P] of one clip, from those of the picture as the network sees it."""
    if not target.standardize_video:
        patches = patches * np.tile(IMAGENET_STD, 512) + np.tile(IMAGENET_MEAN, 512)
    if target.normalize_video:
        patches = plain.standardised(patches, 3 if target.per_colour else 1)
    if target.frame_difference:  # a patch is two frames, one behind the other
        patches = np.concatenate([patches[:, :768], patches[:, 768:] - patches[:, :768]], axis=1)
    return patches


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("method", ["cav_mae", "av_mae"])  # with normalised patches and with raw ones
def test_the_picture_to_predict_is_the_standardised_one_or_pixels(method, standardised):
    made = task(method, f"target.standardize_video={standardised}")
    clip = Clip(frontend.normalise_video(batch(3, made)["video"]), None)
    masks = Masks(masking.from_boolean(np.arange(8) % 2 > np.zeros((3, 1))), None)
    found = made.targets(clip, masks).video
    for ours, patches in zip(found, np.asarray(frontend.patchify_video(clip.video), np.float64), strict=True):
        near(ours, picture_to_predict(patches, made.config.target)[1::2])


@pytest.mark.slow
@pytest.mark.parametrize("method, overrides", CASES)
def test_an_autoencoder_predicts_what_its_equations_say(method, overrides):
    made = task(method, *overrides)
    net, patches, masks, outputs, _ = net_and_patches(made)
    model = made.config.model
    for clip in range(3):
        split_of = {
            name: (getattr(masks, name).visible[clip], getattr(masks, name).masked[clip])
            for name in made.grids
        }
        tokens, means, _ = plain.encoded(
            net, {n: x[clip] for n, x in patches.items()}, {n: of[0] for n, of in split_of.items()}
        )
        registers = {name: x[: model.registers] for name, x in tokens.items()}
        tokens = {name: x[model.registers :] for name, x in tokens.items()}
        together = [tuple(made.grids)] if model.decoder == "joint" else [(name,) for name in made.grids]
        for names in together:
            path = "decoders/" + "_".join(names if model.decoder == "separate" else made.grids)
            predicted = plain.decoded(
                net,
                path,
                model.decoder_depth,
                model.positions,
                {name: tokens[name] for name in names},
                {name: split_of[name] for name in names},
                np.concatenate([registers[name] for name in names]) if model.registers else None,
            )
            for name in names:
                near(getattr(outputs, f"{name}_prediction")[clip], predicted[name])
        if len(made.grids) == 2:
            near(outputs.video_levels[:, clip], means["video"])
            near(outputs.audio_levels[:, clip], means["audio"])


@pytest.mark.slow
@pytest.mark.parametrize("method, overrides", CASES)
def test_an_autoencoder_s_loss_is_what_its_equations_say(method, overrides):
    made = task(method, *overrides)
    _, patches, masks, outputs, targets = net_and_patches(made)
    target, contrast = made.config.target, made.config.contrast
    total = 0.0
    if "video" in made.grids:
        errors = []
        for clip, place in enumerate(masks.video.masked):
            wanted = picture_to_predict(patches["video"][clip], target)
            near(targets.video[clip], wanted[place])
            errors.append(plain.error(target.error, outputs.video_prediction[clip] - wanted[place]).mean())
        total += target.video_weight * np.mean(errors)
    if "audio" in made.grids:
        errors = []
        for clip, place in enumerate(masks.audio.masked):
            wanted = patches["audio"][clip]
            wanted = plain.standardised(wanted, 1) if target.normalize_audio else wanted
            errors.append(plain.error(target.error, outputs.audio_prediction[clip] - wanted[place]).mean())
        total += target.audio_weight * np.mean(errors)
    if contrast.weight:
        for pair in zip(outputs.video_levels, outputs.audio_levels, strict=True):
            total += contrast.weight * plain.info_nce(*pair, contrast.temperature, contrast.direction)
    loss, terms = made.score(outputs, targets)
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert ("loss_contrast" in terms) == bool(contrast.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [(), ("model.crosses=False",), ("model.teacher_layers=2", "model.registers=1")],
    ids=["as it is", "within alone", "two layers and a register"],
)
def test_mjepa_predicts_the_teacher_s_tokens_within_and_across_modalities(overrides):
    made = task("mjepa", *overrides)
    net, patches, masks, outputs, targets = net_and_patches(made)
    model, total = made.config.model, 0.0
    first, other = model.registers, {"video": "audio", "audio": "video"}
    for clip in range(3):
        of = {name: x[clip] for name, x in patches.items()}
        parts = {n: (getattr(masks, n).visible[clip], getattr(masks, n).masked[clip]) for n in made.grids}
        tokens, _, _ = plain.encoded(net, of, {name: part[0] for name, part in parts.items()})
        for name in made.grids:
            every = np.arange(len(of[name]))
            layers, _, _ = plain.alone(net, name, of[name], every)
            layers = [plain.norm(x[first:]) for x in layers[-model.teacher_layers :]]
            wanted = np.mean(layers, axis=0)[parts[name][1]]
            near(getattr(targets, name)[clip], wanted)
            for seen_one in made.grids if model.crosses else (name,):
                said = plain.decoded(
                    net,
                    "predictor",
                    model.decoder_depth,
                    model.positions,
                    {seen_one: tokens[seen_one][first:]},
                    parts if model.crosses else {name: parts[name]},
                    tokens[seen_one][:first] if first else None,
                )[name]
                field = f"{name}_prediction" if seen_one == name else f"{name}_from_{other[name]}"
                near(getattr(outputs, field)[clip], said)
                total += np.abs(said - wanted).mean() / 3
    assert (outputs.video_from_audio is None) == (outputs.audio_from_video is None) == (not model.crosses)
    assert float(made.score(outputs, targets)[0]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("error", ["mse", "l1", "smooth_l1"])
def test_errors_and_weights_of_the_config_make_the_loss(error):
    weights = {"video_weight": 0.5, "audio_weight": 2.0, "cross_weight": 0.3}
    made = task("mjepa", f"target.error={error}", *(f"target.{name}={of}" for name, of in weights.items()))
    rng = np.random.default_rng(0)
    names = ("video_prediction", "audio_prediction", "video_from_audio", "audio_from_video")
    said = {name: rng.standard_normal((3, 2, 16)).astype(np.float32) for name in names}
    wanted = {name: rng.standard_normal((3, 2, 16)).astype(np.float32) for name in made.grids}
    own, other = (
        {what: plain.error(error, said[f"{what}_{by}"] - wanted[what]).mean() for what, by in pairs}
        for pairs in (
            [("video", "prediction"), ("audio", "prediction")],
            [("video", "from_audio"), ("audio", "from_video")],
        )
    )
    loss, terms = made.score(Outputs(video_levels=None, audio_levels=None, **said), Targets(**wanted))
    assert float(terms["loss_audio_from_video"]) == pytest.approx(other["audio"], rel=1e-5)
    total = 0.5 * (own["video"] + 0.3 * other["video"]) + 2.0 * (own["audio"] + 0.3 * other["audio"])
    assert float(loss) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("method", marked("cav_mae", "mjepa", "audio_mae"))
def test_every_parameter_learns_and_on_eight_devices_as_on_one(method):
    made = task(method, *EQUATIONS.get(method, ()), count=8)
    of, (graphdef, params) = batch(8, made), drawn(made)
    found = [
        differentiated(made, graphdef, devices)(params, params, of, jax.random.key(1)) for devices in (1, 8)
    ]
    found = [(loss, flatten(grads)) for loss, grads in found]
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
    for path, grad in found[0][1].items():
        assert np.abs(grad).max() > 0, path
        np.testing.assert_allclose(
            found[1][1][path], grad, atol=1e-6 + 1e-4 * np.abs(grad).max(), err_msg=path
        )


@pytest.mark.slow
def test_a_learned_temperature_begins_as_the_fixed_one_and_is_learned():
    check_learned_temperature(lambda override: task("cav_mae", "contrast.weight=1.0", override), batch())


def test_clips_are_contrasted_within_their_groups():
    """As if each group were a batch of its own; a clip that is alone in its group has nothing to be told from."""
    rng = np.random.default_rng(0)
    video, audio = jnp.asarray(rng.standard_normal((2, 5, 1, 1, 16)), jnp.float32)
    group = np.array([0, 1, 0, 7, 1])
    loss, _ = task("cav_mae", "contrast.within=speaker").comparison(
        (video, audio, None, None, jnp.asarray(group[:, None], jnp.float32))
    )
    own = task("cav_mae").comparison
    each = [
        0.0 if of == 7 else own((video[group == of], audio[group == of], None, None, None))[0] for of in group
    ]
    assert float(loss) == pytest.approx(float(np.mean(each)), rel=1e-5)


def test_siglip_has_the_bias_of_the_config():
    rng = np.random.default_rng(0)
    video, audio = rng.standard_normal((2, 5, 1, 2, 16)).astype(np.float32)
    made = task("cav_mae", "contrast.kind=siglip", "contrast.bias=-3.0", "contrast.temperature=0.2")
    loss, _ = made.comparison((video, audio, None, None, None))
    levels = [numpy_siglip(video[:, 0, of], audio[:, 0, of], 0.2, -3.0, np.zeros(5)) for of in (0, 1)]
    assert float(loss) == pytest.approx(made.config.contrast.weight * sum(levels), rel=1e-5)


def test_a_batch_knows_whose_clips_it_has(tmp_path):
    folder = tmp_path / "clips"
    synthetic.write_folder(folder)
    words = (*SIZES, "batch_size=8", f"data.path={folder}", "contrast.within=speaker")
    config = load_config("cav_mae:demo", words)
    records = open_records(folder)
    speaker_of = {name: who for name, (who, _) in zip(records.clip_ids, records.known(), strict=True)}
    with contextlib.closing(clips.make_loader(config)) as loader:
        found = next(iter(loader))
        names = loader.clip_ids(found["position"])
    assert found["group"].dtype == np.int32 and set(found) == set(make_task(config).batch_shapes())
    pairs = {(int(number), speaker_of[name]) for number, name in zip(found["group"], names, strict=True)}
    assert len(pairs) == len({number for number, _ in pairs}) == len({name for _, name in pairs}) > 1
    with pytest.raises(DataError, match="contrast.within 'mood': there are speaker, gender and label_NAME"):
        clips.make_loader(load_config("cav_mae:demo", (*words, "contrast.within=mood")))


@pytest.mark.parametrize("method", METHODS)
def test_matrices_of_every_method_have_a_rule_and_tokens_do_not_decay(method):
    made = make_task(load_config(f"{method}:base"))
    params = jax.eval_shape(lambda: split(made.init_model(jax.random.key(0)))[1])
    mesh = mesh_lib.make_mesh({"replica": 1, "data": 2, "fsdp": 2, "tensor": 2})
    small = ("bias", "scale", "registers")
    whole = [
        row.path
        for row in mesh_lib.placements(params, mesh)
        if len(row.shape) > 1 and not row.path.endswith(small) and not any(row.spec)
    ]
    assert not whole, f"matrices without a rule: {whole}"
    decays = flatten(decay_mask(params, decay_audio_mask_token=False))
    assert all(path.endswith(("kernel", "qkv")) for path, does in decays.items() if does)


@pytest.mark.parametrize(
    "method, override, words",
    [
        ("video_mae", "model.joint_depth=1", "only video to join"),
        ("cav_mae", "model.joint_depth=0", "need joint layers"),
        ("av_mae", "model.weights=tied", "not one of separate, shared"),
        ("av_mae", "model.modalities=audio,video", "not video, audio or video,audio"),
        ("av_mae", "model.modalities=", r"model.modalities is \(\), not video, audio or video,audio"),
        ("av_mae", "model.decoder=none", "not one of separate, shared, joint"),
        ("cav_mae", "model.dim=20", "a model.dim that is a multiple of 8, not 20"),
        ("mjepa", "model.decoder_dim=12", "a model.decoder_dim that is a multiple of 8, not 12"),
        ("video_mae", "model.decoder_window=(4,4)", "no sound to decode"),
        ("cav_mae", "model.decoder_window=(4,4)", "needs a decoder of the sound alone"),
        ("av_mae", "model.gelu=soft", "not one of erf, tanh"),
        ("mjepa", "model.joint_depth=1", "would see what it is to predict"),
        ("mjepa", "model.teacher_layers=0", "must lie in 1 … 6"),
        ("mjepa", "model.heads=0", "not a multiple of model.heads 0"),
        ("cav_mae", "model.learned_temperature=-1.0", "above 0, or 0 for none"),
        ("hicmae", "model.learned_temperature=-1.0", "above 0, or 0 for none"),
        ("hicmae", "model.learned_bias=-10.0", "needs model.learned_temperature"),
        ("hicmae", "model.skip_layers=(5,)", "must name model.decoder_depth"),
        (
            "hicmae",
            "model.decoder_depth=0 model.decoder_skips=False",
            "model.decoder_depth 0 must be at least 1",
        ),
        *((name, "model.decoder_depth=0", "model.decoder_depth 0 must be at least 1") for name in METHODS),
        ("cav_mae", "model.joint_depth=-1", "model.joint_depth -1 must be at least 0"),
        ("video_mae", "model.registers=-1", "model.registers -1 must be at least 0"),
        ("vaemo", "model.decoder_modality_tokens=False", "cannot tell the hidden tokens"),
        ("av_mae", "model.contrast_layers=(4,)", r"contrast_layers \(4,\) must name layers in 0 … 3"),
        ("cav_mae", "model.contrast_layers=(1,1)", "in 0 … 5, each once"),
    ],
)
def test_values_that_make_no_model_are_refused_in_one_line(method, override, words):
    made = make_task(load_config(f"{method}:demo", override.split()))
    with pytest.raises(UserError, match=words) as caught:
        jax.eval_shape(lambda: split(made.init_model(jax.random.key(0)))[1])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "method, override, words",
    [
        ("mjepa", "ema.decay=0.0", "ema.decay must be above 0"),
        ("audio_mae", "mask.complementary=True", "needs both modalities"),
        ("video_mae", "contrast.weight=1.0", "contrast.weight"),
        ("mjepa", "contrast.weight=1.0", "contrast.weight"),
        ("cav_mae", "target.kind=words", "not one of patches, latents"),
        ("cav_mae", "target.kind=both ema.decay=0.0", "moving average: ema.decay must be above 0"),
        ("mjepa", "target.kind=both", "mjepa predicts latents"),
        ("audio_mae", "model.decoder_window=(4,)", "not two numbers of tokens"),
        ("audio_mae", "mask.decoded=0.5", "mask.decoded must be 1, not 0.5"),
        ("cav_mae", "mask.choices=0.6", "pairs of a video's and a sound's ratio"),
        ("cav_mae", "mask.choices=((0.6,),)", "pairs of a video's and a sound's ratio"),
        ("cav_mae", "mask.decoded=0.0", "mask.decoded is 0.0"),
        ("cav_mae", "mask.blocks=0", "mask.blocks is 0: at least one box"),
        ("cav_mae", "mask.strip_share=1.5", "mask.strip_share is 1.5, not a share"),
        ("cav_mae", "contrast.bias=-1.0", "it is SigLIP's at a fixed temperature"),
        (
            "cav_mae",
            "contrast.kind=siglip model.learned_temperature=0.1 contrast.bias=-1.0",
            "with a learned one it is model.learned_bias",
        ),
        ("cav_mae", "target.frame_group=0", "at least one frame"),
        ("cav_mae", "target.difference_weight=0.5", "needs patches as target, frame_difference=True"),
        ("av_mae", "contrast.within=speaker", "nothing is contrasted"),
        ("cav_mae", "contrast.temperature=0.0", "contrast.temperature is 0.0, not above 0"),
        ("cav_mae", "contrast.kind=triplet", "contrast.kind is 'triplet', not one of infonce, siglip"),
        (
            "cav_mae",
            "contrast.within=speaker accumulate=2",
            "parts the clips of a group: set contrast.cached=True",
        ),
        ("av_mae", "model.learned_temperature=0.1", "learned by comparing clips, and contrast.weight is 0"),
        ("cav_mae", "objectives.ramps=(('difference',0,1,0,9),)", "no term 'difference'"),
        ("cav_mae", "objectives.ramps=5", "a ramp is"),
        ("audio_mae", "model.audio_frames=160", r"a rest of 10 × 8 tokens .*: take \(2, 4\), or \(\)"),
    ],
)
def test_values_that_make_no_task_are_refused_in_one_line(method, override, words):
    with pytest.raises(UserError, match=words) as caught:
        make_task(load_config(f"{method}:demo", override.split()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("method", [name for name in METHODS if len(CONFIGS[name].model.modalities) == 2])
def test_every_encoder_can_be_trained_and_asked_with_one_modality_alone(method, modality):
    alone = (f"model.modalities={modality}", "model.joint_depth=0", "contrast.weight=0.0", "model.depth=3")
    made = task(method, *alone, "model.joint_alone=False", "model.joint_norms=False")
    model = jax.eval_shape(made.init_model, jax.random.key(0))
    teacher = model if made.learns_from_average else None
    _, terms = jax.eval_shape(made.loss, model, made.batch_shapes(), jax.random.key(0), teacher)
    assert {name for name in terms if name.startswith("loss_")} == {f"loss_{modality}"}
    clip = jax.eval_shape(lambda of: clips.seen(of, made.config, None), made.batch_shapes())
    found = jax.eval_shape(lambda model, clip: model.encode(clip), model, clip)
    assert getattr(found, f"{modality}_layers").shape[0] == 3
    assert sum(field is not None for field in found) == 1


def test_sound_that_windows_do_not_divide_can_still_be_encoded():
    config = load_config("audio_mae:demo")
    resized(config.model, {"audio_frames": 160}, "regenerated")
    clip = jax.eval_shape(lambda of: clips.seen(of, config, None), clips.batch_shapes(config))
    found = jax.eval_shape(lambda clip: models.build(config, jax.random.key(0)).encode(clip), clip)
    assert found.audio_layers.shape[2] == 10 * 8


def test_a_method_without_a_classifier_says_so():
    config = load_config("cav_mae:demo")
    with config.unlocked():
        config.task = "finetune"
    with pytest.raises(
        UserError, match="method 'cav_mae' has no model for task 'finetune': it has one for pretrain"
    ):
        models.build(config, jax.random.key(0))


@pytest.mark.parametrize("method", CONFIGS)
def test_a_model_gives_all_features_that_are_promised_of_it_and_no_others(method):
    made = make_task(load_config(f"{method}:demo"))
    model = made.config.model
    clip = jax.eval_shape(lambda of: clips.seen(of, made.config, None), made.batch_shapes())
    promised = (*features.names(model), *features.sequences(model))

    def pooled(clip):
        encoder = made.init_model(jax.random.key(0))
        weights = features.layer_weights({}, model)
        found = encoder.encode(clip)
        for name in ("cat4", "fused", "video", "audio"):
            if name not in promised:
                with pytest.raises(KeyError):
                    features.pool(found, weights, [name], model)
        return features.pool(found, weights, promised, model)

    shapes = {name: of.shape[1:] for name, of in jax.eval_shape(pooled, clip).items()}
    assert set(shapes) == set(promised)
    assert features.default(model) == promised[: len(features.default(model))]
    for modality in ("video", "audio"):
        assert (modality in shapes) == (modality in made.grids)
        if modality in made.grids:
            count = int(np.prod(made.grids[modality]))
            assert shapes[f"{modality}_tokens"] == (1, count, model.dim)  # registers are not among them
            layers = sum(name.startswith(f"{modality}_layer_") for name in shapes)
            assert shapes[f"{modality}_layers"] == (1, layers, model.dim)
    assert ("cat4" in shapes) == any(model.get(key) for key in ("fusion_depth", "joint_depth"))


def shapes_of(made, key=0, choice=-1):
    _, masks = jax.eval_shape(
        lambda of: made.view(of, clips.clip_keys(jax.random.key(key), of), choice), batch(3)
    )
    return [None if mask is None else (mask.visible.shape[1], mask.masked.shape[1]) for mask in masks]


def test_masks_of_the_config_are_drawn_and_some_hidden_tokens_are_not_decoded():
    made = task("cav_mae", "mask.video=time", "mask.audio=frequency", "mask.decoded=0.5")
    assert shapes_of(made) == [(4, 2), (2, 1)]
    chosen = task("cav_mae", "mask.choices=((0.25,0.5),(0.75,0.25))")
    assert [shapes_of(chosen, choice=choice) for choice in (0, 1)] == [[(6, 2), (2, 2)], [(2, 6), (3, 1)]]
    assert shapes_of(task("audio_mae")) == [None, (2, 2)]
    together = task("cav_mae", "mask.complementary=True")
    assert shapes_of(together) == [(4, 4), (2, 2)]


def test_masks_have_the_shapes_of_the_config(monkeypatch):
    draw, asked = masking.independent_masks, {}

    def seen(keys, wanted, **shapes):
        asked.update(shapes)
        return draw(keys, wanted, **shapes)

    monkeypatch.setattr(masking, "independent_masks", seen)
    words = ("mask.video=blocks", "mask.audio=time_frequency", "mask.blocks=2", "mask.strip_share=0.2")
    shapes_of(task("cav_mae", *words))
    assert asked == {"blocks": 2, "strip_share": 0.2}


@pytest.mark.slow
def test_a_step_has_the_loss_of_the_ratios_that_it_drew():
    made = task("audio_mae", "mask.choices=((0.5,0.25),(0.5,0.75))")
    model, of = fresh(made), batch(3)
    each = [task("audio_mae", f"mask.audio_ratio={ratio}") for ratio in (0.25, 0.75)]

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def losses(key):
        return [one.loss(model, of, key)[0] for one in (made, *each)]

    found = np.array([losses(jax.random.key(number)) for number in range(12)])
    assert (np.abs(found[:, :1] - found[:, 1:]) < 1e-6).any(1).all()
    which = np.abs(found[:, :1] - found[:, 1:]).argmin(1)
    assert 0 < which.sum() < 12


@pytest.mark.parametrize(
    "override, words",
    [
        ("mask.audio=tube", "mask.audio is 'tube', not one of random, time, frequency"),
        ("target.error=l3", "target.error is 'l3', not one of mse, l1, smooth_l1"),
        ("batch_size=1", "contrasted with itself alone: of 1 clips"),
        ("contrast.negatives=local contrast.group_size=1", "groups of 1 are compared"),
    ],
)
def test_values_that_only_the_step_knows_are_refused_in_one_line(override, words):
    made = task("cav_mae", *override.split())
    shapes = jax.eval_shape(made.init_model, jax.random.key(0))
    with pytest.raises(UserError, match=words):
        jax.eval_shape(made.loss, shapes, made.batch_shapes(), jax.random.key(0))
