"""Grafana: dashboards made by code from the dictionary and the catalogue, and how they get into a Grafana server.

``qingtu grafana`` is the command. Dashboards read InfluxDB by InfluxQL (the v1 ``/query``), whose contract is
docs/influxdb.md; what stands here writes nothing into it.

- :mod:`qingtu.grafana.scope`: what the catalogue measures, so that no panel asks for what nobody sends.
- :mod:`qingtu.grafana.queries`: every InfluxQL text. :mod:`qingtu.grafana.units`: UCUM to Grafana's units.
- :mod:`qingtu.grafana.panels`, :mod:`qingtu.grafana.fields` (how values are shown) and
  :mod:`qingtu.grafana.dashboards`: the JSON.
- :mod:`qingtu.grafana.client`: the only module that talks to Grafana. :mod:`qingtu.grafana.provision`: what to change
  there. :mod:`qingtu.grafana.files`: the same as provisioning files.
"""
