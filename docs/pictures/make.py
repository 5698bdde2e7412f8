"""Makes the README's pictures from what `avemo demo` left: `python docs/pictures/make.py runs/demo`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from input_pipeline.media import read_clip

HERE = Path(__file__).parent
SIDE = 200  # pixels of a face


def faces(clips: Path) -> Image.Image:
    """One clip of each emotion, the one where it is strongest, in the middle of what is said."""
    with open(clips / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    emotions = sorted({row["label_emotion"] for row in rows})
    sheet = Image.new("RGB", (SIDE * len(emotions), SIDE + 18), "white")
    draw, taken = ImageDraw.Draw(sheet), set()
    for column, emotion in enumerate(emotions):
        own = [r for r in rows if r["label_emotion"] == emotion and r["speaker"] not in taken]
        row = max(own, key=lambda r: (r["width"] == r["height"], float(r["label_intensity"])))
        taken.add(row["speaker"])
        frames = read_clip(clips / row["path"]).frames
        picture = Image.fromarray(frames[len(frames) * 2 // 5])
        side = min(picture.size)
        left = (picture.width - side) // 2
        face = picture.crop((left, 0, left + side, side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(face, (column * SIDE, 18))
        draw.text((column * SIDE + 6, 3), emotion, fill="black")
    return sheet


def main(demo: Path) -> None:
    faces(demo / "clips").save(HERE / "faces.jpg", quality=88)
    last = sorted((demo / "run" / "samples").glob("*_reconstruction.png"))[-1]
    Image.open(last).convert("RGB").save(HERE / "reconstruction.jpg", quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
