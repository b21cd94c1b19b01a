"""An S3 service in this process, which can ignore conditions, alter, fail, go away and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Service:
    """A server on a free port of this machine."""

    port: int = 0
    ignores_conditions: bool = False
    failing: int = 0
    """So many requests are answered with 503."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method, and path with the query."""
    conflicting: int = 0
    """So many conditional writes are answered with 409, as where another one is under way."""
    altering: int = 0
    """So many files of artifacts have another first byte when they arrive."""
    before: Callable[[str, str], None] = lambda method, path: None
    """Called with each request, before it is answered."""

    def __post_init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server: BaseWSGIServer | None = None

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"] + (f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else "")
        self.asked.append((environ["REQUEST_METHOD"], path))
        self.before(environ["REQUEST_METHOD"], path)
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if self.conflicting > 0 and environ.get("HTTP_IF_NONE_MATCH"):
            self.conflicting -= 1
            start("409 Conflict", [("Content-Type", "application/xml")])
            return [b"<Error><Code>ConditionalRequestConflict</Code><Message>Try again.</Message></Error>"]
        if self.failing > 0:
            self.failing -= 1
            start("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b""]
        answer: Iterable[bytes] = self._moto(environ, start)
        if self.altering > 0 and environ["REQUEST_METHOD"] == "GET" and "/files/" in environ["PATH_INFO"]:
            self.altering -= 1
            content = b"".join(answer)
            return [bytes([content[0] ^ 1]) + content[1:]]
        return answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listens: the first time on a free port, then on the same one. Objects are kept while it does not."""
        self._server = make_server("127.0.0.1", self.port, self, threaded=True)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def client(self) -> Any:
        """A client that does not go through kdplan."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="tests",
            aws_secret_access_key="tests",
        )

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        """The names of all objects."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return sorted(one["Key"] for page in pages for one in page.get("Contents", []))

    def environment(self) -> dict[str, str]:
        """What a process needs to ask this service."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true"}
