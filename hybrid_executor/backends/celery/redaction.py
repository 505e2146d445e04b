"""Words of others made fit for logs, the ledger and Airflow's pages. Pure.

Some errors quote what they choked on, and that can be a workload with its
token. Called for every text that this backend passes on.
"""

import re

#: A JSON Web Token, or the beginning of one that was cut off.
_JWT = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*){0,2}")
#: The value of a key called token, as JSON or as a Python repr, cut off or not, quoted or escaped.
_TOKEN = re.compile(r"""(\\*["']?token\\*["']?\s*[:=]\s*\\*["']?)[^\s"'\\,)}]+""", re.IGNORECASE)
#: The user information of a URL.
_PASSWORD = re.compile(r"(\w+://)[^\s/@]*@")
MESSAGE_MAX = 500


def redacted(text: str) -> str:
    """The text without tokens and passwords, at most ``MESSAGE_MAX`` characters."""
    for pattern, shown in ((_JWT, "***"), (_TOKEN, r"\1***"), (_PASSWORD, r"\1***@")):
        text = pattern.sub(shown, text)
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 1] + "…"


def error_text(error: BaseException) -> str:
    """Type and first line of an error, redacted."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return redacted(f"{name}: {lines[0]}") if lines else name
