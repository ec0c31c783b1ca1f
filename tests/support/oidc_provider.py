"""An OpenID Connect provider as Keycloak is one: a real HTTP server on this machine, real RSA keys, real tokens."""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm

REALM = "/realms/hospital"
CLIENT_ID = "monailabel-app"
PASSWORD = "a password & more"


class OidcProvider:
    """One realm. ``broken`` makes it answer 500; ``fetches`` counts how often its keys were asked for.

    It is found at ``address``. What it calls itself, ``issuer``, can be another address, by which browsers find it.
    """

    def __init__(self) -> None:
        self.fetches = 0
        self.broken = False
        self.rotate()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*provider.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._answer(*provider.post(self.path, {key: values[0] for key, values in parse_qs(body).items()}))

            def _answer(self, status: int, content: dict[str, Any]) -> None:
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = self.issuer = f"http://127.0.0.1:{self.http.server_port}{REALM}"

    def rotate(self) -> None:
        """From now on there is another key, and it alone."""
        self.private_key: RSAPrivateKey = generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = uuid.uuid4().hex

    @property
    def public_pem(self) -> bytes:
        return self.private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if self.broken:
            return 500, {}
        if path == REALM:  # what MONAI Label's own check reads
            key = self.private_key.public_key().public_bytes(
                serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            return 200, {"realm": "hospital", "public_key": base64.b64encode(key).decode()}
        if path == f"{REALM}/.well-known/openid-configuration":
            connect = f"{self.address}/protocol/openid-connect"
            return 200, {
                "issuer": self.issuer,
                "jwks_uri": f"{connect}/certs",
                "token_endpoint": f"{connect}/token",
            }
        if path == f"{REALM}/protocol/openid-connect/certs":
            self.fetches += 1
            public = RSAAlgorithm.to_jwk(self.private_key.public_key(), as_dict=True)
            encryption = {**public, "kid": "encryption", "use": "enc"}
            return 200, {"keys": [encryption, {**public, "kid": self.key_id, "use": "sig", "alg": "RS256"}]}
        return 404, {"error": "not found"}

    def post(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.broken or path != f"{REALM}/protocol/openid-connect/token":
            return 500, {}
        if (form["client_id"], form["grant_type"]) != (CLIENT_ID, "password"):
            return 400, {"error": "unauthorized_client"}
        if form["password"] != PASSWORD:
            return 401, {"error": "invalid_grant", "error_description": "Invalid user credentials"}
        token = self.token(preferred_username=form["username"])
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 300, "refresh_expires_in": 1800}

    def claims(self, **others: Any) -> dict[str, Any]:
        """An access token's claims as Keycloak writes them; None leaves one out."""
        now = int(time.time())
        claims = {
            "exp": now + 300,
            "iat": now,
            "jti": uuid.uuid4().hex,
            "iss": self.issuer,
            "aud": "account",
            "sub": "f:1:anna",
            "typ": "Bearer",
            "azp": CLIENT_ID,
            "realm_access": {"roles": ["offline_access", "monailabel-user"]},
            "scope": "profile email",
            "name": "Anna Ather",
            "preferred_username": "anna",
            "email": "anna@hospital.example",
        }
        return {name: value for name, value in (claims | others).items() if value is not None}

    def token(self, **others: Any) -> str:
        """A token signed with the current key."""
        return jwt.encode(self.claims(**others), self.private_key, algorithm="RS256", headers={"kid": self.key_id})


@contextmanager
def running_provider() -> Iterator[OidcProvider]:
    """A provider that answers until the block ends."""
    provider = OidcProvider()
    thread = threading.Thread(target=provider.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        provider.http.shutdown()
        provider.http.server_close()
        thread.join(10)
