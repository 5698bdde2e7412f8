"""What goes wrong with data, as one kind of error that says what, where and what to do.

Not for programming mistakes: those stay ordinary Python exceptions with a traceback.
"""


class DataError(Exception):
    """Bad input: its text is one line for the reader (what was wrong, where it came from, what to try)."""


class LostWorker(DataError):
    """A process that read data was ended from outside, as for want of memory: with the next start it may go well."""

    exit_code = 1


class StoreFailed(DataError):
    """Object storage that did not answer or broke off: with the next start it may go well."""

    exit_code = 1


class MediaError(DataError):
    """One video or sound file that cannot become a clip; its text is a short reason without the path."""


def in_one_line(error: Exception) -> str:
    """What went wrong in a file of one's own, with the error's type: what a KeyError says alone is only the key."""
    # Of a sentence that a KeyError was given its text is the repr.
    sentence = isinstance(error, KeyError) and error.args and " " in str(error.args[0])
    text = " ".join(str(error.args[0] if sentence else error).split())
    text = text if len(text) <= 300 else f"{text[:300]} …"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
