"""Colours of the page, light and dark; their contrast is tested. Losses and gains also differ by sign and position."""

from __future__ import annotations

LIGHT = {
    "paper": "#f7f6f3", "card": "#ffffff", "ink": "#1d1c1a", "quiet": "#5d5a55", "rule": "#dedbd4", "grid": "#e9e6e0",
    "dense": "#838993", "packed": "#0f766e", "loss": "#b03a10", "gain": "#1d56c4", "link": "#0b6a63",
    "shade": "#1d1c1a4d", "loss-back": "#fbe9e1", "gain-back": "#e6eefc", "warn-back": "#fdf3d8", "warn": "#7a5200",
    "heat-0": "#eef6f4", "heat-1": "#d0e9e4", "heat-2": "#a5d5cc", "heat-3": "#72bbaf", "heat-4": "#4aa598",
    "heat-5": "#1a776c", "heat-6": "#0b4f48",
    "run-0": "#0f766e", "run-1": "#b4540a", "run-2": "#5b4bc4", "run-3": "#b02a6b", "run-4": "#1d6fb8",
    "run-5": "#7a6a00", "run-6": "#6b4a3a", "run-7": "#4b5563",
}  # fmt: skip
DARK = {
    "paper": "#131416", "card": "#1c1e21", "ink": "#eceae6", "quiet": "#aaa69f", "rule": "#363a40", "grid": "#2b2e33",
    "dense": "#868d98", "packed": "#2fbfae", "loss": "#ff9a73", "gain": "#8fb4ff", "link": "#5fd3c5",
    "shade": "#000000b3", "loss-back": "#41241a", "gain-back": "#1d2c4d", "warn-back": "#3a2f14", "warn": "#f0cf7f",
    "heat-0": "#22302f", "heat-1": "#234542", "heat-2": "#265a55", "heat-3": "#287068", "heat-4": "#45ad9f",
    "heat-5": "#74cfc2", "heat-6": "#b5ece3",
    "run-0": "#2fbfae", "run-1": "#f0a35c", "run-2": "#a79bff", "run-3": "#f58cbd", "run-4": "#6fb6f2",
    "run-5": "#d6c64a", "run-6": "#d0a994", "run-7": "#a3adba",
}  # fmt: skip
HEAT_STEPS = 7
DEEP = {"light": 5, "dark": 4}
"""First step of the heat scale on which text has the background colour instead of the ink."""
RUNS = 8
"""Number of colours for runs; further runs start over and differ by their letters."""


def css() -> str:
    """Returns the CSS custom properties: the theme of the system or the one chosen on the page; light in print."""
    light, dark = _properties("light", LIGHT), _properties("dark", DARK)
    return "\n".join(
        (
            f":root{{{light}}}",
            f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}",
            f"@media screen{{:root[data-theme=dark]{{{dark}}}}}",
            *(
                f".heat-{step}{{background:var(--heat-{step});color:var(--on-heat-{step})}}"
                for step in range(HEAT_STEPS)
            ),
            *(_run(f"run-{run}") for run in range(RUNS)),
        )
    )


def on_heat(name: str, theme: dict[str, str]) -> list[str]:
    """Returns the colours of text on the steps of the heat scale."""
    return [theme["ink"] if step < DEEP[name] else theme["card"] for step in range(HEAT_STEPS)]


def _properties(name: str, theme: dict[str, str]) -> str:
    colours = theme | {f"on-heat-{step}": colour for step, colour in enumerate(on_heat(name, theme))}
    return f"color-scheme:{name};" + ";".join(f"--{key}:{colour}" for key, colour in colours.items())


def _run(name: str) -> str:
    colour = f"var(--{name})"
    return f".{name}{{--own:{colour};fill:{colour};stroke:{colour}}}i.{name},.badge.{name}{{background:{colour}}}"
