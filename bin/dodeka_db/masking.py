"""Mask the secrets in a text: passwords in addresses, and the values of settings that hold one."""

import json
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote, urlsplit

from dodeka_db import repository_address

# variables that name an account on a server, or give access to it
OF_A_SERVER = re.compile(r"(AWS|B2|AZURE|GOOGLE|OS|ST|RCLONE|RESTIC_REST|RESTIC_AWS)_\w+")
_SECRET = re.compile(
    r"(PASSWORD|PASSPHRASE|_PASS|SECRET|TOKEN|KEY|CREDENTIALS|SAS)(_|$)(?!FILE|COMMAND|HINT|ID)"
)
_IDENTITY = re.compile(r"_(ID|USER|USERNAME|ACCOUNT_NAME)$")
# a shorter value would mask half of every text
_SHORTEST = 4


def is_secret(name: str) -> bool:
    """Whether the variable `name` has a name that suggests a secret."""
    return bool(_SECRET.search(name))


def is_credential(name: str) -> bool:
    """Whether a backend of restic takes its account or its secret from the variable `name`."""
    return bool(OF_A_SERVER.fullmatch(name)) and (is_secret(name) or bool(_IDENTITY.search(name)))


def masked(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `***` for each password in an address, and for the value of each of `variables` that holds a secret."""
    for secret in sorted(_secrets(variables), key=len, reverse=True):  # one may be the beginning of another
        for form in (secret, json.dumps(secret)[1:-1], quote(secret, safe="", errors="surrogateescape")):
            text = text.replace(form, "***")
    return repository_address.without_password(text)


def shown(name: str, value: str, variables: Mapping[str, str]) -> str:
    """The `value` of the setting `name` as it may be printed."""
    if is_secret(name) or name == "RESTIC_PASSWORD_COMMAND":
        return "***"
    if name.startswith(("DODEKA_MONITOR", "DODEKA_PING_URL_", "DODEKA_HEALTH_URL_")):
        secret = r"\?.*" if "HEALTH" in name else r"(?<=[^/:])[/?#].*"
        value = re.sub(secret, lambda match: f"{match[0][0]}***", value)
    return masked(value, variables)


def shown_host(url: str) -> str:
    """The part of a monitor's address that is not secret: its path is."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/..."


def _secrets(variables: Mapping[str, str]) -> set[str]:
    values = {value for name, value in variables.items() if is_secret(name)}
    ours = (value for name, value in variables.items() if name.startswith(("DODEKA_", "OFFSITE_", "RESTIC_")))
    for value in ours:
        if user_info := repository_address.user_info(value):
            password = user_info.partition(":")[2] or user_info
            values |= {password, unquote(password)}
    return {value for value in values if len(value) >= _SHORTEST}
