"""What codes mean, and the stations."""

from fastapi import APIRouter, Request, Response

from qingtu.properties import load_properties
from web import words
from web.api import answers
from web.api.answers import told
from web.context import Ctx, Person, answer

router = APIRouter(prefix="/api", tags=["catalogue"])


@router.get("/catalogue", response_class=Response, responses=told(answers.Catalogue))
def catalogue(request: Request, context: Ctx) -> Response:
    """Names of domains, properties, checks (by bit number), flags, levels and reasons, in Chinese and English."""
    current = context.service.catalogue
    used = {s.property for s in current.series}
    properties = {
        p.key: {
            "zh": p.zh, "en": p.en, "unit": p.unit, "unit_label": words.unit_label(p.unit),
            "precision": p.precision, "domain": p.domain,
        }
        for p in load_properties() if p.key in used
    }  # fmt: skip
    present = {station.domain for station in current.stations.values()}
    data = {
        "version": current.version,
        "demonstration": current.demonstration,
        "domains": [{"key": k, **words.both(w)} for k, w in words.DOMAINS.items() if k in present],
        "properties": properties,
        "tests": words.tests(),
        "flags": {str(flag): words.both(w) for flag, w in words.FLAGS.items()},
        "levels": words.levels(),
        "reasons": words.reasons(),
        "networks": {n.id: {"zh": n.zh, "en": n.en, "private": n.private} for n in current.networks.values()},
    }
    return answer(request, data)


@router.get("/stations", response_class=Response, responses=told(answers.Stations))
def stations(request: Request, context: Ctx) -> Response:
    """Stations as GeoJSON (RFC 7946, WGS84), with their state, worst alert and headline."""
    return answer(request, {"type": "FeatureCollection", "features": context.stations.features()})


@router.post("/reload", status_code=202, response_class=Response, responses=told(answers.Reloaded, 202))
def reload(request: Request, context: Ctx, person: Person) -> Response:
    """Read the catalogue's files again and use them from the next message on; 409 when they are wrong."""
    del person
    before = context.service.catalogue.version
    version = context.service.reload()
    return answer(request, {"catalogue": version, "changed": version != before}, 202)
