"""Start a process of Python that finds the modules of this process, whatever lies in the current folder."""

import os
import sys


def python_command(code: str, *arguments: str) -> list[str]:
    """Return the command that runs `code` with `arguments` in sys.argv[1:].

    `python -c` and `python -m` look into the current folder first: a user's jobs.py or queue.py there would be taken for a module
    of ours, or of Python's own. So the search path is that of this process, without the current folder (""), and `code` imports
    nothing before it. (Python 3.11 has PYTHONSAFEPATH for this, Python 3.10 has not.)
    """
    path = [os.path.abspath(folder) for folder in sys.path if folder]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}", *arguments]
