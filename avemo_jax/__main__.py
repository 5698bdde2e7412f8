"""`avemo VERB …`, also as `python -m avemo_jax VERB …`: `avemo_jax.cli`, and a Ctrl-C while that is still imported."""

import sys


def main() -> int:
    """Runs one verb; returns the process's exit code."""
    try:
        from avemo_jax import cli

        return cli.main()
    except KeyboardInterrupt:  # before `cli` could see to it, or while it does
        print("avemo: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
