"""Configs: golden dumps, names, strict overrides."""

import pytest

from avemo_jax.config import configs_root, from_json, keys_of, load_config, to_json
from avemo_jax.errors import UserError
from input_pipeline.errors import DataError
from tests.golden_weights import GOLDEN

SIZES = ("demo", "tiny", "small", "base", "large", "huge")


def files(folder):
    return sorted(path.stem for path in (configs_root() / folder).glob("*.py"))


NAMES = [
    *(f"{method}:{size}" for method in files("pretrain") for size in SIZES),
    "hicmae:base,reference",
    *(f"align_text/{method}_text:{size}" for method in ("vaemo", "hicmae") for size in SIZES),
    *(
        f"align_text/text_after:{method}:{size}"
        for method in files("pretrain")
        if method not in ("vaemo", "hicmae")
        for size in ("demo", "base")
    ),
    *(
        f"finetune/{corpus}:base{variant}"
        for corpus in files("finetune")
        if corpus != "several"
        for variant in ("", ",reference")
    ),
    *(f"finetune/crema_d:{size}" for size in SIZES if size != "base"),
    "finetune/several:base,crema_d,ravdess",
]


def dump_of(name):
    return GOLDEN / "configs" / (name.replace("/", "_").replace(":", "_").replace(",", "_") + ".json")


@pytest.mark.parametrize("name", NAMES)
def test_config_resolves_to_its_committed_dump(name, request):
    """After a wanted change: `pytest tests/test_config.py --update_dumps`, then read the diff."""
    dump = dump_of(name)
    text = to_json(load_config(name))
    if request.config.getoption("--update_dumps"):
        dump.parent.mkdir(exist_ok=True)
        dump.write_text(text)
    assert text == dump.read_text()


def test_every_config_file_has_a_dump_and_every_dump_a_file():
    assert {path.stem for path in configs_root().glob("*/*.py")} == {
        name.split(":")[0].split("/")[-1] for name in NAMES
    }
    assert set((GOLDEN / "configs").iterdir()) == set(map(dump_of, NAMES))


def test_a_config_comes_back_from_its_json():
    config = load_config("hicmae:base")
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("batch_size=8", 8),
        ("optimizer.learning_rate=1", 1.0),
        ("data.audio_gain=false", False),
        ("model.skip_layers=(1,3,5)", (1, 3, 5)),
        ("data.path=/some/where=else", "/some/where=else"),
        ("data.paths=data/one,data/two", ("data/one", "data/two")),
        ("data.weights=3,0.5", (3, 0.5)),
        ("data.weights=3", (3,)),
        ("data.paths=", ()),
        ("model.skip_layers=3", (3,)),
        ("model.skip_layers=", ()),
        ("recipe augment.crop_area=0.5,1", (0.5, 1.0)),
        ("recipe augment.crop_area=1", (1.0,)),
        ("av_mae model.modalities=video", ("video",)),
        ("av_mae model.modalities=", ()),
    ],
)
def test_an_override_takes_the_type_of_the_value_it_replaces(override, expected):
    name, _, override = override.rpartition(" ")
    value = load_config(f"{name or 'hicmae'}:demo", (override,))
    for part in override.split("=")[0].split("."):
        value = value[part]
    assert value == expected and type(value) is type(expected)
    assert not isinstance(value, tuple) or list(map(type, value)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("contrast.negative=local", "contrast.negatives"),
        ("batchsize=8", "batch_size"),
        ("model=8", "model.dim"),
        ("batch_size=many", "takes a int"),
        ("batch_size=8.5", "takes a int"),
        ("data.audio_gain=1", "takes a bool"),
        ("model.skip_layers=0.5", r"takes a tuple of int \(now \(1, 3, 5\)\), got '0.5'"),
        ("model.skip_layers=1,True", "takes a tuple of int"),
        ("model.skip_layers=,", "takes a tuple of int"),
        ("recipe augment.crop_area=much", r"takes a tuple of float \(now \(0.8, 1.0\)\), got 'much'"),
        ("recipe augment.crop_area='0.5','1'", "takes a tuple of float"),
        ("recipe augment.crop_area=True", "takes a tuple of float"),
        ("av_mae model.modalities=3", "takes a tuple of str"),
        ("data.paths=True", r"takes a tuple \(now \(\)\)"),
    ],
)
def test_a_mistyped_override_names_what_is_valid(override, hint):
    name, _, override = override.rpartition(" ")
    with pytest.raises(UserError, match=hint) as error:
        load_config(f"{name or 'hicmae'}:demo", (override,))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("hicmea:base", "hicmae"),
        ("hicmae:bsae", "base"),
        ("hicmae:base,referenc", "reference"),
        ("crema_d:base,referenc", "variant"),
        ("/nowhere/else.py", "no config"),
        ("text_after:crema_d:base", "texts are aligned after pretraining, and its task is finetune"),
    ],
)
def test_a_mistyped_name_names_what_is_valid(name, hint):
    with pytest.raises(UserError, match=hint):
        load_config(name)


def test_a_config_is_found_by_path_by_name_and_by_task_and_name():
    path = configs_root() / "pretrain" / "hicmae.py"
    configs = [load_config(f"{name}:demo") for name in (str(path), "hicmae", "pretrain/hicmae")]
    assert configs[0] == configs[1] == configs[2]


def test_the_keys_that_scripts_may_set_are_in_every_config():
    promised = {"data.path", "batch_size", "total_steps", "epochs", "seed", "dtype", "remat"}
    promised |= {f"mesh.{axis}" for axis in ("replica", "data", "fsdp", "tensor")}
    promised |= {"checkpoint.every_steps", "log.every_steps"}
    for name in NAMES:
        assert promised <= set(keys_of(load_config(name)))
    assert {"contrast.negatives", "contrast.group_size"} <= set(keys_of(load_config("hicmae:base")))


OWN = """
from avemo_jax.config import load_config
from input_pipeline.errors import DataError
SIZES = {"base": 8}
def get_config(arg):
    config = load_config("hicmae:demo")
    BODY
    return config
"""


@pytest.mark.parametrize(
    "body, says",
    [
        ("return nothing", "NameError: name 'nothing' is not defined"),
        ("config.model['new'] = 1", 'KeyError: Key "new" does not exist .* config is locked.* …$'),
        ("SIZES[arg]", "KeyError: 'bsae'"),
        ("int(arg)", "ValueError: invalid literal"),
        ("assert not arg", "AssertionError$"),
        ("raise OSError('two\\nlines')", "OSError: two lines$"),
        ("config = None", "get_config gives a NoneType, not a ConfigDict"),
    ],
)
def test_a_broken_config_file_is_named_with_what_is_wrong(tmp_path, body, says):
    (tmp_path / "broken.py").write_text(OWN.replace("BODY", body))
    with pytest.raises(UserError, match=f"config file .*broken.py cannot be used: {says}") as error:
        load_config(f"{tmp_path}/broken.py:bsae")
    assert "\n" not in str(error.value)


def test_what_a_config_file_says_itself_of_data_is_said_as_it_is(tmp_path):
    (tmp_path / "mine.py").write_text(OWN.replace("BODY", "raise DataError('no clips')"))
    with pytest.raises(DataError, match=r"^no clips$"):
        load_config(f"{tmp_path}/mine.py:base")
