"""What one server takes at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Bounds of one server; whatever is over one of them is refused before it costs anything.

    Attributes:
        body_bytes: bytes of a request's body.
        inputs: texts in one request; for several models, each text counts once for each.
        models: models in one request.
        text_characters: characters of one text.
        connections: connections that are open at once; one more is refused.
        header_seconds: time a client has to send a request's headers, from its first byte, or from connecting.
        body_seconds: time a client has to send its body.
        send_seconds: time after which a client that does not read its answer is let go of.
        idle_seconds: time for which a connection is kept open between two requests.
        request_seconds: time from admission after which a request is dropped instead of computed.
        drain_seconds: time that accepted requests have to finish when the server stops.
        lookup_threads: threads that read the registry's database, so that the event loop never waits for it.
        lookup_seconds: time for which a name means what it meant, before the registry is asked again; 0 asks each time.
        lookup_grace_seconds: time for which names are answered as last seen when the database does not answer.
    """

    body_bytes: int = 8 * 1024 * 1024
    inputs: int = 2_048
    models: int = 64
    text_characters: int = 100_000
    connections: int = 4_096
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 30.0
    idle_seconds: float = 30.0
    request_seconds: float = 60.0
    drain_seconds: float = 30.0
    lookup_threads: int = 4
    lookup_seconds: float = 0.05
    lookup_grace_seconds: float = 300.0
