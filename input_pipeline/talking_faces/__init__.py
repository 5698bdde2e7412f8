"""A corpus of drawn faces that speak: real mp4 files, made on the spot, every factor known.

corpus   what is drawn by lot, the clip as a file, the manifest
drawing  a face, its expression and what it does at a moment → a picture
speech   a sentence, a voice and a manner → sound, and what the lips do
"""

from input_pipeline.talking_faces.corpus import MANIFEST, generate

__all__ = ["MANIFEST", "generate"]
