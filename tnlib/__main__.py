"""`python -m tnlib` is the command `tnlib`."""

import sys


def main() -> int:
    """Run the command line, or say what it needs."""
    try:
        from tnlib.study.cli import main as command_line
    except ModuleNotFoundError as error:
        if str(error.name).startswith("tnlib"):
            raise
        print(f"tnlib: the command line needs {error.name}: pip install 'tnlib[study]'", file=sys.stderr)
        return 1
    return command_line()


if __name__ == "__main__":
    sys.exit(main())
