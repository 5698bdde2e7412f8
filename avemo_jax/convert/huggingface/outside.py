"""Loads an exported folder as somebody without JAX does, and notes what it computes. A program of its own.

    python -P outside.py FOLDER WORK CLIP

Reads WORK/tensors.npz (`video` and `audio` for the model) and the media file CLIP. Writes what the model returns
for each to WORK/tensors_outputs.npz and WORK/clip_outputs.npz (with the inputs), and WORK/versions.json.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

# Neither we nor what we stand on may be what makes the folder work.
ABSENT = (
    *("avemo_jax", "input_pipeline", "jax", "jaxlib", "flax", "optax", "orbax", "grain", "array_record"),
    *("ml_collections", "tensorflow_datasets", "tensorflow"),
)
VERSIONS_OF = ("transformers", "torch", "av", "pillow", "numpy")


def main(folder: Path, work: Path, clip: Path) -> None:
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model, loading = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    wrong = {kind: sorted(map(str, found)) for kind, found in loading.items() if found}
    if wrong:
        sys.exit(f"the weights do not fit the model: {wrong}")
    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    def run(**inputs):
        more = {} if config.head else {"output_hidden_states": True}
        with torch.inference_mode():
            outputs = model.eval()(**inputs, **more)
        stacked = {name: torch.stack(v) if isinstance(v, tuple) else v for name, v in outputs.items()}
        return {name: value.numpy() for name, value in stacked.items()}

    with np.load(work / "tensors.npz") as tensors:
        np.savez(
            work / "tensors_outputs.npz", **run(**{name: torch.from_numpy(tensors[name]) for name in tensors})
        )
    inputs = extractor([clip])
    told: dict[str, Any] = {}
    if config.head:
        import transformers

        make: Any = transformers.pipeline
        recognise = make(model=str(folder), trust_remote_code=True, device="cpu")
        result = recognise(str(clip))
        told = {"told": np.array([result[name] for name in recognise.names])[None]}
        recognise.decide(result)
    made = {f"input {name}": tensor.numpy() for name, tensor in inputs.items()}
    np.savez(work / "clip_outputs.npz", **made, **run(**inputs), **told)
    versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
    (work / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]  # None: cannot be imported
    main(*map(Path, sys.argv[1:]))
