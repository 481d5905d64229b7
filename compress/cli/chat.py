"""`compress chat`: talks with a model, alone or beside the dense one."""

from __future__ import annotations

import sys

import click

from compress.chat import DTYPES, RECORDED


@click.command("chat")
@click.argument("folder", metavar="FOLDER", type=click.Path())
@click.option(
    "--against",
    metavar="[MODEL]",
    is_flag=False,
    flag_value=RECORDED,
    show_default=False,
    help="A second model that gets the same messages, shown beside the first. Without MODEL: the dense model that the "
    "run in FOLDER began with.",
)
@click.option("--prompt", metavar="TEXT", multiple=True, help="Send TEXT, print the answer and stop; repeatable.")
@click.option("--system", metavar="TEXT", help="System message.")
@click.option("--save", is_flag=True, help="Write the conversation into the run's report at the end, as /save does.")
@click.option(
    "--temperature", type=float, default=0.0, help="0: the most probable token each time (greedy). Above: sampled."
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, help="Longest answer, in tokens.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of the sampling.")
@click.option("--device", default="auto", help="auto, cpu, cuda[:N], xpu or mps.")
@click.option(
    "--dtype",
    metavar="DTYPE",
    default=DTYPES[0],
    help=f"Arithmetic: {', '.join(DTYPES)}. Runs are evaluated in float32.",
)
def command(
    folder: str,
    against: str | None,
    prompt: tuple[str, ...],
    system: str | None,
    save: bool,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """Talk with the model in FOLDER: a checkpoint, an export, a dense model, or a hub id.

    Messages go through the model's chat template; a model without one continues each text. /help lists the commands
    of the chat. Lines from a pipe are messages too; answers go to stdout, all else to stderr.
    """
    from pathlib import Path

    from compress.chat import loop, saving, screen
    from compress.chat.opening import open_conversation
    from compress.chat.speaker import Settings
    from compress.report.progress_bars import watch

    if save:
        saving.check(Path(folder))
    settings = Settings(temperature=temperature, max_new_tokens=max_new_tokens, seed=seed)
    conversation = open_conversation(folder, against, settings, device=device, dtype=dtype, progress=watch())
    if system:
        conversation.instruct(system)
    interactive = not prompt and sys.stdin.isatty()
    shown = screen.choose(interactive=interactive and sys.stdout.isatty(), columns=len(conversation.speakers))
    chat = loop.Chat(conversation, Path(folder), shown, interactive)
    for line in loop.opening_lines(conversation, interactive=interactive):
        shown.note(line)
    if prompt:
        for text in prompt:
            conversation.ask(text, shown)
    else:
        chat.run(loop.typed() if interactive else (line.rstrip("\n") for line in sys.stdin))
    if save:
        chat.save()
