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
