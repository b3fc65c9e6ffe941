"""Plain values as YAML on one line."""

import json
import re
from typing import Any

_NOT_TEXT = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # in one version of YAML or the other


def yaml_text(value: Any) -> str:
    """Return `value` on one line of YAML that readers of version 1.1 and 1.2 understand alike."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{yaml_text(key)}: {yaml_text(inner)}' for key, inner in value.items())}}}"
    if not isinstance(value, str):
        return str(value)
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*", value) and value.lower() not in _NOT_TEXT:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'
