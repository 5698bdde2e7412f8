"""ONNX: the PyTorch model with a checkpoint's weights, for any number of clips.

PyTorch traces it (`torch.onnx`, by `torch.export`), so what runs elsewhere is what `torch_model` computes.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from avemo_jax.convert import hicmae
from avemo_jax.convert.graphs.about import output_names
from avemo_jax.convert.hicmae import StateDict
from avemo_jax.convert.weight_files import import_torch
from avemo_jax.errors import UserError
from avemo_jax.frontend import PATCH
from avemo_jax.models.positions import in_words

# Not `video` and `audio`: an encoder has outputs of these names, and names in a graph are one's own.
INPUTS = {
    "pixels": "float32 [batch, 3, frames, image_size, image_size], ImageNet-normalised RGB",
    "log_mel": "float32 [batch, 1, audio_frames, mel_bins], normalised log-mel",
}
OPSET = 20  # the first with an exact GELU


def check_installed() -> None:
    """Raises a UserError that names the extra to install."""
    import_torch()
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'avemo_jax[onnx]'") from error


def write(path: Path, state: StateDict, config: ConfigDict, about: dict[str, Any]) -> None:
    """Writes the file.

    Args:
      path: of the file.
      state: all weights under the reference's names.
      config: the run's.
      about: kept as the graph's metadata, a JSON text for each key.
    """
    torch = import_torch()
    import onnx

    model, config = _module(state, config), config.model
    clips = (
        torch.zeros(2, 3, config.frames, config.image_size, config.image_size),
        torch.zeros(2, 1, config.audio_frames, config.mel_bins),
    )
    batch = torch.export.Dim("batch", min=1)
    with _quietly(), torch.inference_mode():
        program = torch.onnx.export(
            model,
            clips,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(about["outputs"]),
            dynamic_shapes={"video": {0: batch}, "audio": {0: batch}},
            verbose=False,
        )
    graph = program.model_proto
    for name, value in about.items():
        graph.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    onnx.checker.check_model(graph)
    path.write_bytes(graph.SerializeToString())


def _module(state: StateDict, config: ConfigDict) -> Any:
    """The PyTorch model of a checkpoint, which returns the outputs of the graph in order."""
    torch = import_torch()
    from avemo_jax.convert import torch_model
    from avemo_jax.convert.verify import torch_twin

    names = output_names(config.task)
    sizes = {name: config.model[name] for name in ("dim", "heads", "depth", "fusion_depth")}
    bands, cells = config.model.mel_bins // PATCH, config.model.image_size // PATCH

    class Encoder(torch_model.AudioVisualEncoder):
        def forward(self, video, audio):
            features = torch_model.encode(self, video, audio)
            made = torch_model.vectors(features, bands, cells)
            made |= {"fused_video_tokens": features.fused_video, "fused_audio_tokens": features.fused_audio}
            return tuple(made[name] for name in names)

    pretrained = config.task == "pretrain"
    model = Encoder(**sizes, positions=in_words(config.model) or None) if pretrained else torch_twin(config)
    kept = hicmae.shared_keys(state) if pretrained else state
    model.load_state_dict({name: torch.tensor(array) for name, array in kept.items()}, strict=True)
    return model.eval()


@contextlib.contextmanager
def _quietly():
    """The exporter tells of every stage, and of packages that it could also serve."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
