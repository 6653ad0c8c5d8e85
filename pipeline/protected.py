"""Which attributes are protected: looked at for fairness, never built into a feature."""

from __future__ import annotations

from pipeline.params import overrides, read_params, source_name

DEFAULT = ("sex", "gender", "race", "ethnicity", "religion", "nationality", "marital_status", "marriage")


def names() -> tuple[str, ...]:
    """Return the columns declared under `featurise.protected`, in lower case: the source's, else the section's."""
    source = overrides(source_name()).get("featurise") or {}
    section = read_params().get("featurise") or {}
    return tuple(str(each).lower() for each in source.get("protected", section.get("protected", DEFAULT)))
