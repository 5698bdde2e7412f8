"""Progress on a terminal and in a log."""

import io

from input_pipeline import progress
from input_pipeline.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(count, total, done=0):
    with Progress(total, "clips", "prepare", done) as bar:
        for _ in range(count):
            bar.advance("2 rejected")


def test_a_terminal_gets_a_bar_with_the_count_and_the_note(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    run(3, 3)
    text = screen.getvalue()
    assert "\r" in text and "prepare: 100%" in text and "3/3" in text


def test_a_log_gets_plain_lines_now_and_then_and_one_at_the_end(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    run(2, 3, done=1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and not any("\r" in line for line in lines)
    assert lines[0].startswith("prepare: 2/3 clips") and "s left" in lines[0] and "2 rejected" in lines[0]
    assert lines[1].startswith("prepare: 3/3 clips")


def test_nothing_done_says_nothing(capsys):
    run(0, 5, done=5)
    assert capsys.readouterr().err == ""
