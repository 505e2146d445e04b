"""The circuit breaker of one backend: does what is ready go to it, or one at a time to see? Pure.

    state    what goes to the backend
    closed   whatever has room
    open     one submission at a time, each when its own pause is over: the probe

It opens when the backend itself finds that nothing answers (``heard``), or
when ``LIMIT`` submissions in a row came back because nothing answered
(``refused``): one lost connection opens nothing. It closes as soon as a
submission is taken or judged (``took``), or, if no submission was refused
meanwhile, when the backend hears answers again. A quota or throttling opens
nothing: a server that says so is there.
"""

#: Refusals in a row, of whichever submissions.
LIMIT = 3


class Breaker:
    """Used by one thread."""

    def __init__(self) -> None:
        self.is_open = False
        #: What opened it, in words.
        self.why = ""
        #: Since when it is open, monotonic seconds.
        self.since_s = 0.0
        self._refusals = 0
        self._silent = False

    @property
    def is_clean(self) -> bool:
        """Nothing was refused since the last submission that was taken, and the backend hears answers."""
        return not self._refusals and not self._silent

    def refused(self, why: str, now_s: float) -> bool:
        """A submission came back because nothing answers; whether that opened it."""
        self._refusals += 1
        return self._settle(why, now_s)

    def took(self) -> bool:
        """A submission was taken or judged; whether that closed it."""
        self._refusals, self._silent = 0, False
        return self._settle("", 0.0)

    def heard(self, trouble: str | None, now_s: float) -> bool:
        """What the backend says of the other side as a whole; whether that opened or closed it."""
        self._silent = trouble is not None
        return self._settle(trouble or "", now_s)

    def _settle(self, why: str, now_s: float) -> bool:
        was_open, self.is_open = self.is_open, self._silent or self._refusals >= LIMIT
        if self.is_open and not was_open:
            self.why, self.since_s = why, now_s
        return self.is_open is not was_open
