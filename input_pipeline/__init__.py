"""From raw media to batches of NumPy arrays; knows nothing of models and never calls jax.

media         open a video or sound file: frames on an even time grid, mono sound at 16 kHz
manifests     a CSV file of clips → rows
records       the stored clip: its fields, encode, decode, random access
prepare       rows → a folder of shards that TFDS can read, and a list of what was left out
sampling      which frames and which samples of sound a training example takes
augment       where a frame is cut, and the resize
audio         waveform → log-mel filter bank
loader        a prepared folder → endless training batches, or one pass for evaluation
talking_faces a corpus of drawn faces that speak, made on the spot; every factor known
wheel_clips   a few real talking-face clips for trying things out
"""
