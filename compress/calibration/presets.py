"""Names data sets on the hub that suit calibration, each at a pinned revision. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set on the hub: what is read of it."""

    name: str
    """`owner/name`."""
    config: str | None = None
    split: str = "train"
    column: str | None = None
    """The column with the text; chosen from the first rows when None."""
    revision: str | None = None
    """The commit that is read; None: the newest, which the manifest records."""
    articles: bool = False
    """Whether rows are lines of articles, which begin at a line ` = Title = `."""
    chats: bool = False
    """Whether it holds conversations, for models with a chat template."""


PRESETS: dict[str, HubData] = {
    # encyclopedia articles; CC BY-SA
    "wikitext": HubData(
        "Salesforce/wikitext", "wikitext-2-raw-v1", "train", "text",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3", articles=True,
    ),
    # pages of the web; ODC-BY
    "c4": HubData("allenai/c4", "en", "train", "text", revision="1588ec454efa1a09f29cd18ddd04fe05fc8653a2"),
    # pages of the web that teach; ODC-BY
    "fineweb-edu": HubData(
        "HuggingFaceFW/fineweb-edu", "sample-10BT", "train", "text",
        revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    ),
    # conversations of several turns; MIT
    "ultrachat": HubData(
        "HuggingFaceH4/ultrachat_200k", None, "train_sft", "messages",
        revision="8049631c405ae6576f93f445c6b8166f76f5505a", chats=True,
    ),
    # questions of science and logic with reasoned answers; several licences, see its card
    "openplatypus": HubData(
        "garage-bAInd/Open-Platypus", None, "train", None,
        revision="37141edbdb7826378cce118c46a109b813e1f038", chats=True,
    ),
    # conversations, instructions, rewriting, summaries; several licences, see its card
    "smoltalk": HubData(
        "HuggingFaceTB/smoltalk", "all", "train", "messages",
        revision="5feaf2fd3ffca7c237fc38d1861bc30365d48ffa", chats=True,
    ),
}  # fmt: skip
"""Name of the preset -> its data set."""
