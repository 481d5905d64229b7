"""atlas: the bundled model, and the world of facts that it was trained on.

`world` lists the facts, `text` turns them into documents, `items` into questions, `train` into a model, and `score`
asks the model. Importing this package imports nothing heavy; `MODEL_DIR` is a plain Hugging Face folder.
"""

from pathlib import Path

MODEL_DIR: Path = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR"]
