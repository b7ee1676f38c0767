"""An OpenID Connect provider on this machine: discovery, authorize, token, keys, end of session.

Whoever asks to log in is `person`, at once and without a password. `forged` names what is wrong
with the identity token that is handed out, to see that such a one is refused.
"""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwk, jwt

CLIENT, SECRET = "trace", "a-client-secret"
Forged = Literal["", "key", "audience", "issuer", "nonce", "expired", "alg none"]


class Provider(ThreadingHTTPServer):
    """The server and what it knows."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.issuer = f"http://localhost:{self.server_address[1]}"
        self.person = "anna"
        self.forged: Forged = ""
        self.issued = 0
        """Identity tokens."""
        self.ended = 0
        """Sessions that were ended here."""
        self.codes: dict[str, dict[str, str]] = {}
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)
        self.foreign = jwk.RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "end_session_endpoint": f"{self.issuer}/end",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "code_challenge_methods_supported": ["S256"],
        }

    def identity(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": "https://elsewhere.example" if self.forged == "issuer" else self.issuer,
            "aud": "another" if self.forged == "audience" else CLIENT,
            "sub": self.person,
            "email": f"{self.person}@example.org",
            "iat": now - 7200,
            "exp": now - 3600 if self.forged == "expired" else now + 3600,
            "nonce": "another" if self.forged == "nonce" else asked.get("nonce", ""),
        }
        if self.forged == "alg none":
            parts = ({"alg": "none"}, claims)
            return ".".join(_base64(json.dumps(part).encode()) for part in parts) + "."
        key = self.foreign if self.forged == "key" else self.key
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, key)


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        if address.path == "/.well-known/openid-configuration":
            self._answer(self.server.metadata())
        elif address.path == "/keys":
            self._answer({"keys": [self.server.key.as_dict(private=False)]})
        elif address.path == "/authorize" and asked.get("client_id") == CLIENT:
            code = secrets.token_hex(8)
            self.server.codes[code] = asked
            back = urlencode({"code": code, "state": asked["state"]})
            self._redirect(f"{asked['redirect_uri']}?{back}")
        elif address.path == "/end":
            self.server.ended += 1
            self._redirect(asked["post_logout_redirect_uri"])
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        sent = {name: values[0] for name, values in parse_qs(body).items()}
        asked = self.server.codes.pop(sent.get("code", ""), None)
        secret = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        known = self.headers.get("Authorization") == f"Basic {secret}"
        digest = hashlib.sha256(sent.get("code_verifier", "").encode()).digest()
        if asked is None or not known or _base64(digest) != asked.get("code_challenge"):
            self._answer({"error": "invalid_grant"}, 400)
            return
        self.server.issued += 1
        self._answer(
            {
                "access_token": secrets.token_hex(8),
                "token_type": "Bearer",
                "expires_in": 3600,
                "id_token": self.server.identity(asked),
            }
        )

    def _answer(self, data: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@contextmanager
def provider() -> Iterator[Provider]:
    """A provider that answers until the end of the block."""
    with Provider() as found:
        thread = Thread(target=found.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()
