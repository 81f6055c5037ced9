"""How much worse a model may be, from a file: `-P margins=FILE`. docs/gate.md says what each margin is."""

from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from registry.errors import BadInput
from registry.gate import Margins

_PARSER = TypeAdapter(Margins)


def read_margins(file: str) -> Margins:
    """The margins in the YAML `file`; what it leaves out, and all where it is empty, is the default.

    Raises:
        BadInput: it cannot be read, or has an unknown word or an impossible value.
    """
    if not file:
        return Margins()
    try:
        document = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        return _PARSER.validate_python(document)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"The margins {file} cannot be read ({error}). See examples/margins.yaml."
        raise BadInput(message) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg']}"
            for fault in error.errors(include_url=False)
        )
        message = f"The margins {file} cannot be used: {faults}. See examples/margins.yaml."
        raise BadInput(message) from error
