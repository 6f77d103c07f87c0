"""The one exception shown to users: what was given, why it cannot work, what to do."""


class UserError(ValueError):
    """Bad input, refused before work starts.

    Each part is one or two sentences without a trailing newline. `str()` joins them, so that a
    log line, an HTTP body and a terminal all show the same text.
    """

    def __init__(self, given: str, why: str, todo: str) -> None:
        self.given, self.why, self.todo = given, why, todo
        super().__init__(f"{given} {why} {todo}")

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        """Survive pickling between worker processes."""
        return type(self), (self.given, self.why, self.todo)
