"""Changes to params.yaml made by a command: its comments, quotes and nulls stay, and it is replaced in one step."""

from __future__ import annotations

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from pipeline.params import PARAMS_FILE


class _Nulls(RoundTripRepresenter):
    """Writes null as `null`, not as nothing: only what is set is to change."""


_Nulls.add_representer(
    type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
)


def set_value(*path: str, value: str) -> None:
    """Set one value of params.yaml; nothing is written where it stands already."""
    yaml = YAML()
    yaml.Representer = _Nulls
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(PARAMS_FILE.read_text(encoding="utf-8"))
    place = document
    for key in path[:-1]:
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
    if str(place.get(path[-1])) == value:
        return
    place[path[-1]] = DoubleQuotedScalarString(value) if value != "latest" else value
    fresh = PARAMS_FILE.with_suffix(".yaml.new")
    with fresh.open("w", encoding="utf-8") as handle:
        yaml.dump(document, handle)
    fresh.replace(PARAMS_FILE)
