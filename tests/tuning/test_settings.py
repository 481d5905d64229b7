"""Settings that cannot be worked with are refused with what is allowed."""

import pytest

from compress.errors import RecipeError
from compress.tuning.settings import FullSettings, Settings


@pytest.mark.parametrize("kind", [Settings, FullSettings])
@pytest.mark.parametrize(
    "field,value", [("epochs", -1), ("batch", 0), ("micro_batch", 0), ("patience", 0), ("seed", -1), ("rate", 0.0),
                    ("rate", float("nan")), ("held_out", 0.0), ("held_out", 1.0)],
)  # fmt: skip
def test_what_cannot_be_is_refused(kind, field, value):
    with pytest.raises(RecipeError, match=f"tuning with {field}={value}. Allowed: "):
        kind(**{field: value})


@pytest.mark.parametrize(
    "field,value", [("evaluate_every", 0), ("checkpoint_every", 0), ("recode_every", 0), ("recode_share", 1.5),
                    ("recode_share", -0.1), ("code_rate", -1.0)],
)  # fmt: skip
def test_what_cannot_be_of_the_whole_model_is_refused(field, value):
    with pytest.raises(RecipeError, match=f"tuning with {field}"):
        FullSettings(**{field: value})
