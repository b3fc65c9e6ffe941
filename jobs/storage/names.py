"""Show names and messages that come from files: nothing in a file may steer the terminal, or fill the screen."""

from collections.abc import Iterable
from itertools import islice

from jobs.terminal import printable

_LISTED = 10  # names in a list
_LONGEST = 300  # characters of a name or a reason
_LONGEST_LISTED = 50


def shortened(text: str, longest: int = _LONGEST) -> str:
    """`text` as `printable` gives, cut after `longest` characters."""
    text = printable(text[:longest + 1])
    return text if len(text) <= longest else f"{text[:longest]}..."


def listed(names: Iterable[str]) -> str:
    """The first ten names with commas between them, "and more" if there are more; "nothing" if there are none."""
    first = [shortened(name, _LONGEST_LISTED) for name in islice(names, _LISTED + 1)]
    return ", ".join(first[:_LISTED]) + (" and more" if len(first) > _LISTED else "") or "nothing"


def reason(error: BaseException) -> str:
    """The message of `error` on one short line; the name of its class if it has no message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return shortened(str(text) or type(error).__name__)
