"""Labels as sentences: a template with a gap, and a word for each label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from avemo_jax.errors import UserError

GAP = "{}"
TEMPLATE = "The person is {}."


def words_of(text: str) -> dict[str, str]:
    """`"ANG=angry,HAP=happy"` → {"ANG": "angry", "HAP": "happy"}.

    Raises:
      UserError: a pair that is none.
    """
    pairs = [pair.partition("=") for pair in filter(None, text.split(","))]
    if wrong := [key for key, sign, word in pairs if not (key.strip() and sign and word.strip())]:
        raise UserError(f"--words: '{wrong[0]}' is no LABEL=WORD")
    return {key.strip(): word.strip() for key, _, word in pairs}


def filled(template: str, label: str, words: Mapping[str, str]) -> str:
    """The template with a label's word, or the label itself, in its gap.

    Raises:
      UserError: a template with no gap, or with several.
    """
    if template.count(GAP) != 1:
        raise UserError(f"--template '{template}' is to have {GAP} once, where the label's word goes")
    return template.replace(GAP, words.get(label, label))


def class_prompts(
    classes: Sequence[str], template: str, words: Mapping[str, str], file: str = ""
) -> dict[str, list[str]]:
    """The texts that stand for each class: of a JSON file {class: text or list of texts}, or the template filled.

    Raises:
      UserError: no such file, or one that lacks a class or has something else for it.
    """
    if not file:
        return {name: [filled(template, name, words)] for name in classes}
    try:
        said = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--prompts {file} cannot be read: {error}") from error
    if not isinstance(said, dict) or (missing := [name for name in classes if name not in said]):
        lacking = f"lacks {', '.join(missing)}" if isinstance(said, dict) else "is no JSON object"
        raise UserError(f"--prompts {file} {lacking}: it has a text, or a list of them, for each class")
    prompts = {name: [said[name]] if isinstance(said[name], str) else said[name] for name in classes}
    for name, texts in prompts.items():
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(t, str) and t.strip() for t in texts)
        ):
            raise UserError(f"--prompts {file}: class {name} has no text, or something that is none")
    return prompts
