"""Messages between workers that prove to each other that they know the token of the run.

A message is a line: a proof, a space, and JSON. The proof is an HMAC of the JSON, its purpose and random numbers of
both sides; the token is the key.
"""

import dataclasses
import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from typing import Any

from tf_simclr.config import UserError
from tf_simclr.files import Form, parse_json

TOKEN_VARIABLE = "TF_SIMCLR_CLUSTER_TOKEN"
_MIN_TOKEN_LENGTH = 16


def token_key(addresses: Sequence[str]) -> bytes:
    """Returns a hash of the token in the environment, or else of the list of workers.

    Raises:
        UserError: The token is too short to be a secret.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if 0 < len(token) < _MIN_TOKEN_LENGTH:
        raise UserError(
            f"{TOKEN_VARIABLE}: has {len(token)} characters; use at least {_MIN_TOKEN_LENGTH}, such as those that "
            "openssl rand -hex 16 prints."
        )
    return hashlib.sha256((token or json.dumps(addresses)).encode()).digest()


def digest(key: bytes, content: Any) -> str:
    """Returns an HMAC of `content`, a value that JSON can hold."""
    return hmac.digest(key, json.dumps(content, sort_keys=True).encode(), "sha256").hex()[:32]


@dataclasses.dataclass(frozen=True)
class Talk:
    """Messages of one connection, each with a proof that its sender knows the token.

    Attributes:
        key: The hash of the token.
        nonces: Random numbers of worker and chief, so that a proof is worth nothing in another connection.
    """

    key: bytes
    nonces: str

    def write(self, purpose: str, content: dict[str, Any]) -> bytes:
        """Returns the line that says `content`."""
        text = json.dumps(content)
        return f"{self._proof(purpose, text)} {text}\n".encode()

    def read(self, purpose: str, line: bytes, form: Form) -> Any:
        """Returns the content of a line; raises ValueError if it has no proof or another form."""
        proof, _, text = line.decode().strip().partition(" ")
        # A stranger's text is not parsed.
        if not hmac.compare_digest(proof.encode(), self._proof(purpose, text).encode()):
            raise ValueError("no proof of the token")
        return parse_json(text, form)

    def _proof(self, purpose: str, text: str) -> str:
        return digest(self.key, (purpose, self.nonces, text))
