"""Long files in the exported folder's pipeline: windows, each told as a clip, joined as our evaluation joins them."""

import copy

import numpy as np
import pytest
import torch

from avemo_jax import frontend
from avemo_jax.config import load_config
from avemo_jax.convert.huggingface import folder
from avemo_jax.convert.huggingface.files.configuration_hicmae import HiCMAEConfig
from avemo_jax.convert.huggingface.files.deciding import merged
from avemo_jax.convert.huggingface.files.feature_extraction_avemo import AvemoFeatureExtractor
from avemo_jax.convert.huggingface.files.modeling_hicmae import HiCMAEForVideoClassification
from avemo_jax.convert.huggingface.files.pipeline_avemo import AvemoPipeline
from avemo_jax.convert.verify import as_torch
from avemo_jax.evaluation import stitching
from avemo_jax.evaluation.windows import RULES
from input_pipeline.loader import eval_batches
from input_pipeline.manifests import Row
from input_pipeline.prepare import prepare
from input_pipeline.storing import ClipOptions
from tests.convert.small_models import CONFIGS
from tests.input_pipeline.containers import write

SECONDS, RATE = 4, 25


@pytest.fixture(scope="module")
def recognise():
    torch.manual_seed(0)
    config = load_config(*CONFIGS["finetune"])
    model = HiCMAEForVideoClassification(HiCMAEConfig(**folder.model_config(config))).eval()
    with torch.no_grad():  # a fresh head says the same of everything
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    values = folder.preprocessor_config(config, ClipOptions())
    return AvemoPipeline(model=model, feature_extractor=AvemoFeatureExtractor(**values), device="cpu")


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    """Four seconds that get brighter, with a tone that rises."""
    rng = np.random.default_rng(0)
    light = np.linspace(0, 200, SECONDS * RATE)[:, None, None, None]
    frames = (light + rng.integers(0, 50, (SECONDS * RATE, 48, 64, 3))).astype(np.uint8)
    time = np.arange(SECONDS * 16_000) / 16_000
    path = tmp_path_factory.mktemp("talk") / "talk.mkv"
    write(
        path,
        frames,
        (9000 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.int16),
        audio_rate=16_000,
    )
    return path


@pytest.mark.parametrize("rule", RULES)
def test_a_long_file_is_told_as_its_windows_are_and_joined_as_ours_are(recognise, talk, rule):
    names = recognise.names
    spans = [(0.5, 1.7), (1.3, 2.5), (2.1, 3.3), (2.3, 3.5)]  # the last ends where the part does
    told = [recognise(str(talk), start_s=start, end_s=end) for start, end in spans]
    values = np.array([[one[name] for name in names] for one in told])
    assert np.ptp(values, axis=0).max() > 1e-3
    ids = [f"talk@{start:.3f}-{end:.3f}" for start, end in spans]
    (ours,) = stitching.sequences(ids, values, values, rule, 0.25)
    found = recognise(str(talk), window_s=1.2, hop_s=0.8, step_s=0.25, rule=rule, start_s=0.5, end_s=3.5)
    np.testing.assert_allclose([one["time_s"] for one in found], ours.times)
    joined = [[one["told"][name] for name in names] for one in found]
    np.testing.assert_allclose(joined, ours.predicted, atol=1e-6)
    assert recognise.decide(found[0]["told"]) == next(iter(found[0]["told"])) in names


def test_a_list_gives_a_list_and_half_a_window_is_between_windows(recognise, talk):
    (whole,) = recognise([talk], window_s=3.0)
    assert [one["time_s"] for one in whole] == pytest.approx(np.arange(0.25, 4, 0.5))
    assert whole == recognise(talk, window_s=3.0, hop_s=1.5)
    alone = recognise(talk, window_s=60.0)
    assert alone[0]["told"] == alone[-1]["told"] == pytest.approx(recognise(str(talk)))


@pytest.fixture(scope="module")
def three(talk):
    """Parts of the file as three clips, of which each view differs."""
    return [{"files": [talk], "start_s": start, "end_s": start + 2.0} for start in (0.0, 0.7, 2.0)]


def test_clips_in_batches_are_told_as_each_alone_by_all_of_their_views(recognise, three, talk):
    assert recognise.feature_extractor.segments > 1
    alone = [recognise(clip) for clip in three]
    assert max(abs(alone[0][name] - alone[2][name]) for name in recognise.names) > 1e-3
    for size in (1, 2, 3):
        for one, other in zip(alone, recognise(three, batch_size=size), strict=True):
            assert one == pytest.approx(other, abs=1e-6)
    whole = recognise(talk)
    assert recognise([talk] * 2, batch_size=2) == [pytest.approx(whole, abs=1e-6)] * 2
    always = AvemoPipeline(model=recognise.model, feature_extractor=recognise.feature_extractor, batch_size=8)
    assert always([talk]) == [pytest.approx(whole, abs=1e-6)]
    first, _ = always([talk] * 2, window_s=2.0)
    assert first == recognise(talk, window_s=2.0)


def test_a_tuple_of_files_is_a_list_of_them(recognise, talk):
    whole = recognise(talk)
    assert recognise((talk, talk)) == [whole] * 2
    assert recognise((talk,), window_s=60.0)[0][0]["told"] == pytest.approx(whole)


def test_times_are_of_files_and_a_dict_s_own_count_before_those_of_the_call(recognise, three):
    first = {"files": three[0]["files"]}
    told = recognise(three[1])
    assert recognise(first, start_s=0.7, end_s=2.7) == recognise(three[1], start_s=0.0, end_s=9.0) == told
    decoded = {
        "frames": np.zeros((50, 48, 64, 3), np.uint8),
        "fps": 25,
        "waveform": np.zeros(32_000, np.int16),
    }
    assert recognise(decoded).keys() == told.keys()
    with pytest.raises(ValueError, match="start_s and end_s are of files"):
        recognise(decoded, start_s=0.7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_tells_about_the_same(recognise, talk, dtype):
    half = copy.deepcopy(recognise.model).to(dtype)
    rough = AvemoPipeline(model=half, feature_extractor=recognise.feature_extractor, device="cpu")
    told = recognise(talk)
    assert rough(talk) == pytest.approx(told, abs=0.05)
    assert rough([talk] * 2, batch_size=2) == [pytest.approx(told, abs=0.05)] * 2
    logits = rough.forward(rough.preprocess(talk))["logits"]
    assert logits.dtype == torch.float32 and logits.shape[:2] == (1, recognise.feature_extractor.segments)


def test_a_dict_of_several_clips_is_refused(recognise, talk):
    with pytest.raises(ValueError, match="a dict is of one clip: give a list of them"):
        recognise({"files": [talk, talk]})


def test_windows_without_sound_are_gaps_and_a_file_without_any_is_refused(recognise, tmp_path):
    frames = np.random.default_rng(1).integers(0, 255, (4 * RATE, 48, 64, 3)).astype(np.uint8)
    noise = np.random.default_rng(2).integers(-9000, 9000, 16_000).astype(np.int16)
    write(tmp_path / "begins.mkv", frames, noise, audio_rate=16_000)
    found = recognise(tmp_path / "begins.mkv", window_s=1.0, hop_s=1.0)
    assert [one["time_s"] for one in found] == [0.25, 0.75]
    write(tmp_path / "mute.mkv", frames, None)
    with pytest.raises(ValueError, match=r"mute.mkv: no sound"):
        recognise(tmp_path / "mute.mkv", window_s=1.0)


def test_files_that_lack_what_clips_of_the_training_lacked_are_told_as_their_records_are(
    recognise, talk, tmp_path
):
    noise = np.random.default_rng(3).integers(-9000, 9000, 48_000).astype(np.int16)
    write(tmp_path / "heard.wav", None, noise, audio_rate=16_000, codecs=("", "pcm_s16le"))
    frames = np.random.default_rng(4).integers(0, 255, (3 * RATE, 48, 64, 3)).astype(np.uint8)
    write(tmp_path / "seen.mkv", frames, None)
    model, sizes = recognise.model, recognise.feature_extractor
    sizes = {name: getattr(sizes, name) for name in ("frames", "image_size", "audio_frames")}
    for name, lacking in (("heard.wav", "picture"), ("seen.mkv", "sound")):
        folder_of = tmp_path / lacking
        prepare([Row(name, name)], tmp_path, folder_of, ClipOptions(allow_missing=lacking), workers=0)
        words = [*CONFIGS["finetune"][1], f"data.path={folder_of}", "data.allow_missing=true"]
        config = load_config(CONFIGS["finetune"][0], words)
        values = folder.preprocessor_config(config, ClipOptions())
        assert values["prepare"]["allow_missing"] == lacking
        lenient = AvemoPipeline(model=model, feature_extractor=AvemoFeatureExtractor(**values), device="cpu")
        views = []
        for segment in range(count := config.views.segments):
            (batch,) = eval_batches(
                str(folder_of), **sizes, batch_size=1, frame_stride=config.data.frame_stride, crop=config.data.crop,
                view="segment", segment=(segment, count), allow_missing=True,
            )  # fmt: skip
            fields = {key: batch[key] for key in ("video", "waveform", "waveform_length", "waveform_mean")}
            clip = map(torch.from_numpy, as_torch(frontend.to_clip(fields, mels=config.model.mel_bins)))
            views.append(model(*clip).logits.detach().numpy())
        expected = merged(np.concatenate(views), model.config.head)
        told = lenient(tmp_path / name)
        np.testing.assert_allclose([told[label] for label in lenient.names], expected, atol=1e-4)
        assert lenient([tmp_path / name] * 2, batch_size=2)[1] == pytest.approx(told, abs=1e-6)
        assert len(lenient(tmp_path / name, window_s=1.5)) == 6
        with pytest.raises(ValueError, match=f"{name}: no {lacking}"):
            recognise(tmp_path / name)
        other = {"heard.wav": "seen.mkv", "seen.mkv": "heard.wav"}[name]
        with pytest.raises(ValueError, match=f"{other}: no "):
            lenient(tmp_path / other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"hop_s": 1.0}, "give window_s too"),
        ({"window_s": 0.0}, "must be above 0"),
        ({"window_s": 1.0, "rule": "median"}, "rule 'median': there are mean"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(recognise, talk, call, message):
    with pytest.raises(ValueError, match=message):
        recognise(talk, **call)
    with pytest.raises(ValueError, match="from files"):
        recognise({"frames": None}, window_s=1.0)
