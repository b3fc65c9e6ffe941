"""The one exception that stands for bad input."""


class UserError(Exception):
    """Something the user can put right: a spec, a file, a flag.

    The message is complete as it stands (what, where, what is allowed). The command line
    prints it without a traceback and exits with status 2.
    """


class Busy(UserError):
    """Another process is at work on the run."""


class StageFailed(Exception):
    """A stage that cannot go on for a reason worth a sentence rather than a traceback. Exit status 1.

    `kind`: one of jobs.run.failures.NEXT, which says what to do about it.
    """

    def __init__(self, message: str, kind: str = "error"):
        super().__init__(message)
        self.kind = kind
