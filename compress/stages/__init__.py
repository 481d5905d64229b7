"""The stages of a recipe: `pack/`, `rewrite/` and `train`, with their plan, budget, workspace, memory and proof."""
