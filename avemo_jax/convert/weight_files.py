"""Reading and writing weight files: PyTorch's `.pth` and safetensors. Never runs code from a file.

Not here: what the tensors mean (`hicmae.py`). PyTorch is imported only for `.pth` files.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import safetensors
import safetensors.numpy

from avemo_jax.errors import UserError

Check = Callable[[Path], None]

# Before 2.6 a crafted file could run code in spite of weights_only (CVE-2025-32434).
_SAFE_TORCH = (2, 6)
# Where a training checkpoint keeps its weights; the first that is there is taken, as the reference does.
_WEIGHT_KEYS = ("model", "module")
_WRAPPER = "module."  # that torch's DistributedDataParallel puts before every name


def read_weights(path: str | Path, unread: str = "") -> dict[str, np.ndarray]:
    """The named float arrays of a `.pth` or safetensors file; the content decides, not the file's name. Tensors whose
    names end in `unread` are passed over, whatever they are.

    A `.pth` may hold the weights bare, or under `model` or `module` beside other things (optimiser, epoch, an
    `argparse.Namespace`), which are dropped. Arrays may be backed by the file: leave it in place while they
    are in use.

    Raises:
      UserError: no such file, a damaged one, one that holds code or anything else that is not weights.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"cannot read weights from {path}: {error.strerror or error}") from error
    if start[8:9] == b"{":
        return _read_safetensors(path, unread)
    return _read_pth(path, unread, is_zip=start.startswith(b"PK\x03\x04"))


def write_pth(
    path: str | Path,
    state: Mapping[str, np.ndarray],
    beside: Mapping[str, Any],
    check: Check | None = None,
) -> None:
    """Writes `{"model": state, **beside}` as the reference's training does; whole or not at all.

    Args:
      path: replaced if it is there, but only by a file that passed.
      state: arrays by name.
      beside: plain values, so that the file loads with PyTorch's own default of weights only.
      check: called with the path of the finished file before it becomes `path`; raises to keep it from that.
    """
    torch = import_torch()
    model = OrderedDict((name, torch.tensor(array)) for name, array in state.items())
    write_whole(Path(path), state, lambda part: torch.save({"model": model, **beside}, part), check)


def write_safetensors(
    path: str | Path, state: Mapping[str, np.ndarray], metadata: Mapping[str, str], check: Check | None = None
) -> None:
    """Writes a safetensors file with this metadata; `path` and `check` as in `write_pth`."""
    write_whole(
        Path(path), state, lambda part: safetensors.numpy.save_file(dict(state), part, dict(metadata)), check
    )


def import_torch():
    """PyTorch, or a line that says how to get one that can be trusted with other people's files."""
    try:
        import torch
    except ImportError as error:
        raise UserError("this needs PyTorch: pip install 'avemo_jax[torch]'") from error
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} can be made to run code by a weight file: pip install 'torch>=2.6'"
        )
    return torch


def _read_safetensors(path: Path, unread: str) -> dict[str, np.ndarray]:
    try:
        state = _wanted(safetensors.numpy.load_file(path), unread)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{path} is a damaged safetensors file: {error}") from error
    odd = [f"{name} ({array.dtype})" for name, array in state.items() if array.dtype.kind not in "fV"]
    if odd:
        raise UserError(f"{path} holds tensors that are not floating point: {', '.join(odd[:4])}")
    return _without_wrapper(state)


def _read_pth(path: Path, unread: str, *, is_zip: bool) -> dict[str, np.ndarray]:
    torch = import_torch()
    if is_zip:
        _check_archive(path)
    try:
        # A reference checkpoint holds the options of its run in a Namespace, a bag of values without code.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # the one line of the error says it all
            # mmap: the optimiser's tensors, twice the weights, are never read.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # whatever a crafted or damaged file makes the reader raise
        raise UserError(_why_unreadable(path, error)) from error
    return _without_wrapper(_as_arrays(path, _wanted(_weights_in(path, content), unread), torch))


def _wanted(state: Mapping[str, Any], unread: str) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not (unread and name.endswith(unread))}


def _check_archive(path: Path) -> None:
    """Refuses archives that PyTorch would not have written, and damaged ones (checksums of all entries)."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                name = PurePosixPath(entry.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts:
                    raise UserError(
                        f"{path} is refused: its entry '{entry.filename}' points outside of the archive"
                    )
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise UserError(
                        f"{path} is refused: '{entry.filename}' is compressed, which PyTorch never does"
                    )
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise UserError(f"{path} is refused: its entries claim more bytes than the file has")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a whole .pth file ({error}): copy it again") from error
    if damaged:
        raise UserError(f"{path} is damaged: the checksum of '{damaged}' does not match; copy it again")


def _why_unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text)
    code = refused[1] if refused else _code_in(path)
    if code:
        return (
            f"{path} is refused: it wants to load the code object '{code}', and only weights are read; "
            "if you trust its origin, save its state dict alone"
        )
    if "TorchScript" in text:
        return f"{path} is a TorchScript program, not a checkpoint: save its state dict"
    if ".tar format" in text:
        return f"{path} has the tar format of PyTorch before 0.2: save it again with a later PyTorch"
    detail = text.strip().splitlines()[0][:160] if text.strip() else ""
    return f"{path} is not a PyTorch checkpoint, or not a whole one: {type(error).__name__} {detail}".rstrip()


def _code_in(path: Path) -> str | None:
    """The first global in a pickle that weights have no use for, None if unknown. For a message."""
    strings = ["", ""]
    try:
        with _pickle_of(path) as file:
            while True:  # the format before 1.6 has several pickles; after the last comes what is none
                for opcode, argument, _ in pickletools.genops(file):
                    if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                        name = argument.replace(" ", ".") if argument else ".".join(strings)
                        if name.split(".")[0] not in ("torch", "collections", "argparse"):
                            return name
                    elif isinstance(argument, str):
                        strings = [strings[1], argument]
    except (OSError, ValueError, OverflowError, MemoryError, zipfile.BadZipFile):
        pass
    return None


def _pickle_of(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return io.BytesIO(archive.read(names[0]) if names else b"")


def _weights_in(path: Path, content: Any) -> Mapping[str, Any]:
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    weights = next((content[key] for key in _WEIGHT_KEYS if isinstance(content.get(key), dict)), content)
    names = [name for name in weights if not isinstance(name, str)]
    if names or not weights:
        what = f"a name that is no text ({names[0]!r})" if names else "no tensors"
        raise UserError(f"{path} holds {what} where weights were expected")
    return weights


def _as_arrays(path: Path, weights: Mapping[str, Any], torch) -> dict[str, np.ndarray]:
    arrays, odd = {}, []
    for name, value in weights.items():
        problem = _not_plain(value, torch)
        if problem:
            odd.append(f"{name} ({problem})")
            continue
        tensor = value.detach().resolve_neg()
        known = tensor.dtype in (torch.float16, torch.float32, torch.float64)  # to NumPy; not bfloat16
        arrays[name] = (tensor if known else tensor.float()).numpy()
    if odd:
        raise UserError(
            f"{path}: {len(odd)} of its {len(weights)} entries are no weights: {', '.join(odd[:4])}"
        )
    return arrays


def _not_plain(value: Any, torch) -> str | None:
    """Why a value is not an ordinary float tensor; None if it is one."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"{value.layout} on {value.device}"
    if not value.dtype.is_floating_point:
        return str(value.dtype)
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return f"claims {value.numel()} numbers and brings fewer"
    return None


def _without_wrapper(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if state and all(name.startswith(_WRAPPER) for name in state):
        return {name.removeprefix(_WRAPPER): array for name, array in state.items()}
    return state


def write_whole(
    path: Path, state: Mapping[str, np.ndarray], write: Callable[[Path], None], check: Check | None
) -> None:
    """Writes beside `path` and renames at the end, so that `path` is never half a file; raises a UserError where it
    cannot be written. `state` is what is in it, for that message; `check` as in `write_pth`."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with writing(path, state):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder; give a file name")
            part.touch()
            mode = part.stat().st_mode
            write(part)
            part.chmod(mode)  # safetensors makes its files unreadable for others
            with part.open("rb") as file:
                os.fsync(file.fileno())
        if check is not None:
            check(part)
        with writing(path, state):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, state: Mapping[str, np.ndarray]) -> Iterator[None]:
    """What goes wrong inside is said to be that `path`, which holds `state`, cannot be written: a UserError."""
    try:
        yield
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        size = sum(array.nbytes for array in state.values()) / 1e6
        raise UserError(f"cannot write {path} (some {size:.0f} MB): {error}") from error
