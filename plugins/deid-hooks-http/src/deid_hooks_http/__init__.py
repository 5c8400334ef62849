"""The log behind a deid-hooks-service, as a backend: ``deidlog+https://host:port``."""

from deid_hooks_http.backend import HTTPBackend

__all__ = ["HTTPBackend"]
