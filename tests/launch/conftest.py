"""What the tests of launchers share with those of training: programs compiled once, and the undisturbed run."""

from tests.training.conftest import compiled_once, uninterrupted

__all__ = ["compiled_once", "uninterrupted"]
