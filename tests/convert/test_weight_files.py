"""Weight files: what the reference writes is read, anything that could run code or is damaged is refused."""

import argparse
import collections
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from avemo_jax.convert import weight_files
from avemo_jax.convert.weight_files import read_weights, write_pth, write_safetensors
from avemo_jax.errors import UserError


@pytest.fixture
def state():
    rng = np.random.default_rng(7)
    return {
        "encoder.norm.weight": rng.standard_normal(8).astype(np.float32),
        "mask_token": rng.standard_normal((1, 1, 4)).astype(np.float32),
    }


def tensors(state):
    return {name: torch.from_numpy(array) for name, array in state.items()}


def assert_same(read, state):
    assert list(read) == list(state)
    for name in state:
        assert read[name].dtype == state[name].dtype and read[name].tobytes() == state[name].tobytes()


class Calls:
    """Pickles as a call of `function(*args)`: how a hostile file runs code."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


# --- what is read


def test_a_checkpoint_as_the_reference_writes_it_is_read(state, tmp_path):
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    checkpoint = {
        "model": collections.OrderedDict(tensors(state)),
        "optimizer": optimizer.state_dict(),
        "epoch": 99,
        "scaler": {"scale": 65536.0, "growth_tracker": 12},
        "args": argparse.Namespace(
            lr=3e-4, opt_betas=[0.9, 0.95], mask_ratio=0.9, nested=argparse.Namespace(a=1)
        ),
    }
    torch.save(checkpoint, tmp_path / "checkpoint-99.pth")
    assert_same(read_weights(tmp_path / "checkpoint-99.pth"), state)


@pytest.mark.parametrize("layout", ["model", "module", "bare", "distributed", "parameters"])
def test_every_layout_that_the_reference_takes_is_read(layout, state, tmp_path):
    content = {
        "model": {"model": tensors(state), "epoch": "best"},
        "module": {"module": tensors(state)},
        "bare": tensors(state),
        "distributed": {"model": {f"module.{name}": value for name, value in tensors(state).items()}},
        "parameters": {name: torch.nn.Parameter(value) for name, value in tensors(state).items()},
    }[layout]
    torch.save(content, tmp_path / "weights.pth")
    assert_same(read_weights(tmp_path / "weights.pth"), state)


def test_the_format_before_pytorch_1_6_is_read(state, tmp_path):
    checkpoint = {"model": tensors(state), "args": argparse.Namespace(lr=1.0)}
    torch.save(checkpoint, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_same(read_weights(tmp_path / "old.pth"), state)


def test_half_precision_weights_are_read(state, tmp_path):
    torch.save({name: value.bfloat16() for name, value in tensors(state).items()}, tmp_path / "half.pth")
    read = read_weights(tmp_path / "half.pth")
    np.testing.assert_allclose(read["mask_token"], state["mask_token"], rtol=1e-2)


def test_safetensors_are_read_whatever_their_name(state, tmp_path):
    write_safetensors(tmp_path / "weights.bin", state, {"format": "pt"})
    read = read_weights(tmp_path / "weights.bin")
    assert read.keys() == state.keys() and all(
        read[name].tobytes() == state[name].tobytes() for name in state
    )


# --- what is refused


def hostile(tmp_path, name, content, **options):
    torch.save(content, tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("where", ["beside", "inside", "namespace", "key", "deep"])
def test_code_in_a_file_is_refused_by_name_and_never_run(where, new_format, state, tmp_path):
    mark = tmp_path / "it-ran"
    bomb = Calls(os.system, f"touch {mark}")
    content = {
        "beside": {"model": tensors(state), "extra": bomb},
        "inside": {"model": tensors(state) | {"encoder.norm.bias": bomb}},
        "namespace": {"model": tensors(state), "args": argparse.Namespace(lr=bomb)},
        "key": {"model": tensors(state), "args": {bomb: 1}},
        "deep": {
            "model": tensors(state),
            "args": argparse.Namespace(a=[{"b": (1, [argparse.Namespace(c=bomb)])}]),
        },
    }[where]
    path = hostile(tmp_path, "bad.pth", content, _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        UserError, match=rf"bad\.pth is refused: .* '{os.system.__module__}\.system'"
    ) as caught:
        read_weights(path)
    assert not mark.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "args", "name"),
    [
        (eval, ("1+1",), "eval"),
        (getattr, ("text", "upper"), "getattr"),
        (argparse.ArgumentParser, (), "argparse.ArgumentParser"),
        (pickle.loads, (b"N.",), r"_?pickle\.loads"),
        (torch.load, ("other.pth",), "torch.serialization.load"),
        (collections.namedtuple, ("A", "b"), "collections.namedtuple"),
        (np.frombuffer, (b"1234",), "numpy.frombuffer"),
    ],
)
def test_any_other_global_is_refused_by_name(function, args, name, state, tmp_path):
    path = hostile(tmp_path, "bad.pth", {"model": tensors(state), "args": Calls(function, *args)})
    with pytest.raises(UserError, match=rf"'{name}'"):
        read_weights(path)


def test_a_pickle_hidden_in_bytes_stays_bytes(state, tmp_path):
    mark = tmp_path / "it-ran"
    inner = pickle.dumps(Calls(os.system, f"touch {mark}"))
    path = hostile(
        tmp_path,
        "nested.pth",
        {"model": tensors(state), "args": argparse.Namespace(blob=inner.decode("latin1"))},
    )
    assert_same(read_weights(path), state)
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = hostile(tmp_path, "module.pth", {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights(path)


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused(protocol, tmp_path):
    mark = tmp_path / "it-ran"
    path = tmp_path / "bare.pth"
    path.write_bytes(pickle.dumps({"model": Calls(os.system, f"touch {mark}")}, protocol=protocol))
    with pytest.raises(UserError, match=rf"'{os.system.__module__}\.system'"):
        read_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_code_is_named_under_a_pickle_protocol_that_pytorch_does_not_read(new_format, state, tmp_path):
    content = {"model": tensors(state), "args": Calls(os.system, "true")}
    options = {"pickle_protocol": 4, "_use_new_zipfile_serialization": new_format}
    path = hostile(tmp_path, "new.pth", content, **options)
    with pytest.raises(UserError, match=rf"'{os.system.__module__}\.system'"):
        read_weights(path)


def rezip(
    source, target, *, rename=lambda name: name, compress=zipfile.ZIP_STORED, change=lambda name, data: data
):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for entry in old.infolist():
            new.writestr(rename(entry.filename), change(entry.filename, old.read(entry)))
    return target


@pytest.mark.parametrize("prefix", ["../../", "/tmp/", "..\\"])
def test_an_archive_that_points_outside_of_itself_is_refused(prefix, state, tmp_path):
    torch.save(tensors(state), tmp_path / "good.pth")
    path = rezip(tmp_path / "good.pth", tmp_path / "bad.pth", rename=lambda name: prefix + name)
    with pytest.raises(UserError, match="points outside"):
        read_weights(path)


def test_a_compressed_archive_which_could_be_a_bomb_is_refused(state, tmp_path):
    torch.save(tensors(state), tmp_path / "good.pth")
    path = rezip(tmp_path / "good.pth", tmp_path / "bad.pth", compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_weights(path)


def test_an_archive_that_claims_more_bytes_than_it_has_is_refused(state, tmp_path):
    torch.save(tensors(state), tmp_path / "good.pth")
    data = bytearray((tmp_path / "good.pth").read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 20 : central + 28] = struct.pack("<II", 10**9, 10**9)  # both sizes of the first entry
    (tmp_path / "bad.pth").write_bytes(data)
    with pytest.raises(UserError, match=r"claim more bytes|not a whole"):
        read_weights(tmp_path / "bad.pth")


def test_a_tensor_that_claims_more_numbers_than_it_brings_is_refused(state, tmp_path):
    path = hostile(tmp_path, "huge.pth", tensors(state) | {"head.bias": torch.zeros(1).expand(10**12)})
    with pytest.raises(UserError, match=r"head\.bias .claims 1000000000000 numbers"):
        read_weights(path)


def test_a_flipped_bit_anywhere_in_the_weights_is_noticed(state, tmp_path):
    torch.save(tensors(state), tmp_path / "good.pth")
    data = bytearray((tmp_path / "good.pth").read_bytes())
    data[data.index(state["mask_token"].tobytes()) + 5] ^= 8
    (tmp_path / "bad.pth").write_bytes(data)
    with pytest.raises(UserError, match="checksum"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, new_format, state, tmp_path):
    torch.save({"model": tensors(state)}, tmp_path / "good.pth", _use_new_zipfile_serialization=new_format)
    data = (tmp_path / "good.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"cut\.pth"):
        read_weights(tmp_path / "cut.pth")


@pytest.mark.parametrize("seed", range(60))
def test_garbage_never_escapes_as_another_error(seed, state, tmp_path):
    rng = np.random.default_rng(seed)
    torch.save({"model": tensors(state)}, tmp_path / "good.pth", _use_new_zipfile_serialization=False)
    data = bytearray((tmp_path / "good.pth").read_bytes())
    for place in rng.integers(0, len(data), 12):
        data[place] = rng.integers(256)
    (tmp_path / "bad.pth").write_bytes(data)
    try:  # a change may miss everything that matters
        read_weights(tmp_path / "bad.pth")
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([1, 2], "holds a list"),
        ({}, "no tensors"),
        ({"model": {}}, "no tensors"),
        ({3: torch.zeros(1)}, "no text"),
        (
            {"epoch": 3, "encoder.norm.weight": torch.zeros(1)},
            r"1 of its 2 entries are no weights: epoch \(int\)",
        ),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "torch.int64"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "torch.complex64"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "sparse"),
        ({"a": torch.zeros(2, device="meta")}, "meta"),
    ],
)
def test_what_is_no_dict_of_float_tensors_is_refused(content, problem, tmp_path):
    path = hostile(tmp_path, "odd.pth", content)
    with pytest.raises(UserError, match=problem):
        read_weights(path)


def test_a_missing_file_a_folder_and_a_web_page_are_refused(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    for path in (tmp_path / "nowhere.pth", tmp_path, tmp_path / "page.pth"):
        with pytest.raises(UserError, match=path.name):
            read_weights(path)


def test_damaged_and_integer_safetensors_are_refused(state, tmp_path):
    write_safetensors(tmp_path / "good.safetensors", state, {})
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-5])
    with pytest.raises(UserError, match="damaged safetensors"):
        read_weights(tmp_path / "cut.safetensors")
    safetensors.numpy.save_file({"a": np.zeros(3, np.int32)}, tmp_path / "ints.safetensors")
    with pytest.raises(UserError, match=r"a \(int32\)"):
        read_weights(tmp_path / "ints.safetensors")


def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pth")
    with pytest.raises(UserError, match=r"script\.pth"):
        read_weights(tmp_path / "script.pth")


def test_without_pytorch_the_extra_is_named_and_safetensors_still_work(state, tmp_path, monkeypatch):
    write_safetensors(tmp_path / "weights.safetensors", state, {})
    torch.save(tensors(state), tmp_path / "weights.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_weights(tmp_path / "weights.safetensors").keys() == state.keys()
    with pytest.raises(UserError, match=r"pip install 'avemo_jax\[torch\]'"):
        read_weights(tmp_path / "weights.pth")


def test_a_pytorch_whose_weights_only_can_be_broken_is_not_used(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(UserError, match=r"torch>=2\.6"):
        weight_files.import_torch()


# --- what is written


def test_a_written_pth_is_what_the_reference_reads_and_torch_loads_by_default(state, tmp_path):
    write_pth(tmp_path / "new" / "out.pth", state, {"epoch": 3, "run": {"lr": 0.1}})
    content = torch.load(tmp_path / "new" / "out.pth")
    assert isinstance(content["model"], collections.OrderedDict) and content["epoch"] == 3
    assert_same({name: value.numpy() for name, value in content["model"].items()}, state)


def test_one_layer_of_a_stack_is_saved_without_the_rest_of_it(tmp_path):
    stack = np.zeros((1000, 1000), np.float32)
    write_pth(tmp_path / "out.pth", {"layer": stack[3]}, {})
    assert (tmp_path / "out.pth").stat().st_size < 20_000


@pytest.mark.parametrize("write", [write_pth, write_safetensors])
def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(write, state, tmp_path, monkeypatch):
    (tmp_path / "out").write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path / "out", state, {})
    assert (tmp_path / "out").read_bytes() == b"old" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [UserError("differs"), RuntimeError("differs")])
def test_a_file_that_fails_its_check_replaces_nothing(state, tmp_path, error):
    write_pth(tmp_path / "out", state, {})
    old = (tmp_path / "out").read_bytes()

    def check(part):
        assert_same(read_weights(part), changed)
        raise error

    changed = state | {"mask_token": state["mask_token"] + 1}
    with pytest.raises(type(error), match="^differs"):  # not that the file cannot be written
        write_pth(tmp_path / "out", changed, {}, check)
    assert (tmp_path / "out").read_bytes() == old and os.listdir(tmp_path) == ["out"]


def test_a_folder_is_not_a_file_to_write(state, tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        write_pth(tmp_path, state, {})
    assert os.listdir(tmp_path) == []
