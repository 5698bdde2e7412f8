"""From raw media to batches of NumPy arrays; knows nothing of models and never calls jax.

media         open a video or sound file: frames on an even time grid, mono sound at 16 kHz
manifests     a CSV file of clips → rows
corpora       folders and names of a published corpus → rows, one file a corpus
dealing       speakers or other units → folds of about equal size
blazeface     a picture → the faces in it
faces         those of a clip → the one that is kept, followed over time, and how it is cut out
storing       a media file → the clip as it is stored: size, compression, common length
record        the stored clip: its fields and its pictures
records       its bytes, and random access to a folder of them
prepare       rows → a folder of shards that TFDS can read, and a list of what was left out
beam          the same by the workers of Apache Beam
stores        a prepared folder on object storage → its copy on this host
sampling      which frames and which samples of sound a training example takes
augment       where a frame is cut, and the resize
audio, video  waveform → log-mel filter bank, pixels → normalised pixels
mixtures      several prepared folders as one
orders        which clip each row of the endless stream takes: weights, balance
loader        prepared folders → endless training batches, or one pass for evaluation
talking_faces a corpus of drawn faces that speak, made on the spot; every factor known
writing       a small media file out of frames and sound
"""
