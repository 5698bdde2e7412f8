"""The error that is meant for the person at the terminal."""


class UserError(Exception):
    """Bad input. Its message is one line: what was wrong, where it came from, what to do about it.

    The command line prints the message without a traceback and exits with `exit_code`.
    """

    def __init__(self, message: str, exit_code: int = 2):
        super().__init__(message)
        self.exit_code = exit_code
