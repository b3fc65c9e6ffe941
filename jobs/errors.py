"""Exceptions with a message for the user."""


class UserError(Exception):
    """A mistake that the user can correct: in a spec, a file, a flag.

    The message is complete: it says what is wrong, where, and what is allowed. The command line prints the message without a
    traceback and exits with status 2.
    """


class Busy(UserError):
    """Another process is working on the run."""


class StageFailed(Exception):
    """A stage cannot continue, and a sentence explains it better than a traceback. The exit status is 1.

    `kind` is a key of jobs.run.failures.NEXT, which has advice for each kind. `node`: the nodes to blame, if any, with commas.
    """

    def __init__(self, message: str, kind: str = "error", node: str = ""):
        super().__init__(message)
        self.kind, self.node = kind, node
