"""One short file a verb: its flags, its messages, its exit code. No logic of its own."""
