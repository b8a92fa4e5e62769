"""Routers of the API, one file a topic. docs/api.md describes them; ``/openapi.json`` is made from them."""
