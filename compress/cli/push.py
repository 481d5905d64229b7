"""`compress push`: uploads a finished folder to the Hugging Face hub."""

from __future__ import annotations

import click


@click.command("push")
@click.argument("folder", type=click.Path())
@click.argument("repo")
@click.option("--private", is_flag=True, help="Make the repository private, if it does not exist yet.")
@click.option("--replace", is_flag=True, help="Overwrite the weights that the repository holds.")
@click.option("--revision", metavar="BRANCH", help="Branch to write.  [default: the default branch]")
@click.option("--dry-run", is_flag=True, help="Show the files and the model card, and stop.")
def command(folder: str, repo: str, private: bool, replace: bool, revision: str | None, dry_run: bool) -> None:
    """Upload FOLDER, a finished checkpoint or export, to REPO (owner/name) on the Hugging Face hub, in one commit.

    The token is that of `hf auth login`, or HF_TOKEN.
    """
    from compress.hub.upload import prepare

    push = prepare(folder, repo, private=private, replace=replace, revision=revision)
    for label, text in push.lines():
        click.echo(f"{label:<10} {text}")
    if dry_run:
        click.echo(f"\n{push.bundle.card}")
        return
    click.echo(f"{'uploaded':<10} {push.send()}")
