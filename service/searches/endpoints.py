"""Searches over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Response

from service.dependencies import DatabaseDep, Reader, Searcher, ServicesDep
from service.errors import problem_responses
from service.idempotency import IdempotentRoute, RequestKeyDep
from service.paging import PageDep, PageOf
from service.searches import service
from service.searches.schemas import FrontView, SearchCreate, SearchView, TrialView
from service.targets import OnTarget

router = APIRouter(
    prefix="/v1/searches",
    tags=["searches"],
    route_class=IdempotentRoute,
    responses=problem_responses(401, 403, 404, 422),
)
SearchId = Annotated[str, Path(max_length=40, description="a search's id")]


@router.post("", summary="Start a search", status_code=202, responses=problem_responses(400, 409))
def submit_search(
    caller: Searcher, database: DatabaseDep, key: RequestKeyDep, wanted: SearchCreate, response: Response
) -> SearchView:
    """The search is a job; the target's device measures the front that it finds. The target must be ready."""
    with database.write() as session:
        search = service.submit_search(session, caller.project_id, wanted)
        response.headers["Location"] = f"/v1/searches/{search.id}"
        return key.answer(session, search)


@router.get("", summary="List searches, newest first")
def list_searches(
    caller: Reader, services: ServicesDep, page: PageDep, target: OnTarget = None
) -> PageOf[SearchView]:
    """Searches of the caller's project, each with its job."""
    return service.list_searches(services, caller.project_id, page, target=target)


@router.get("/{search_id}", summary="One search")
def get_search(caller: Reader, services: ServicesDep, search_id: SearchId) -> SearchView:
    """What was asked, how far it is, and what the verification said."""
    return service.get_search(services, caller.project_id, search_id)


@router.get("/{search_id}/trials", summary="A search's trials, oldest first")
def list_trials(
    caller: Reader, services: ServicesDep, search_id: SearchId, page: PageDep
) -> PageOf[TrialView]:
    """Every genome that was tried, with what was predicted and what was measured."""
    return service.list_trials(services, caller.project_id, search_id, page)


@router.get("/{search_id}/front", summary="A search's fronts")
def get_front(caller: Reader, services: ServicesDep, search_id: SearchId) -> FrontView:
    """The front by prediction and the front by measurement, side by side, with their rank correlation."""
    return service.get_front(services, caller.project_id, search_id)
