"""Import this to let transformers read compressed folders: `import compress.hf`, then `from_pretrained` as ever.

As a program it is the command line of transformers with this import: `compress-transformers serve FOLDER`, or
`python -m compress.hf serve FOLDER`.
"""

from compress.runtime.hf import register

register()


def main() -> None:
    """Runs the command line of transformers, which looks for no plugins by itself."""
    from transformers.cli.transformers import main as command_line

    command_line()


if __name__ == "__main__":
    main()
