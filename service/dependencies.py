"""What endpoints may ask for, as annotated aliases: `database: DatabaseDep`, `caller: Annotated[Principal,
caller_with(Scope.READ)]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service import security
from service.artifacts import ArtifactStore
from service.db.session import Database
from service.errors import Forbidden, Unauthenticated
from service.predictors import PredictorCache
from service.security import AgentPrincipal, Principal, Scope
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What a process has one of. Made by the composition roots: the app and the worker."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    predictors: PredictorCache


async def services_of(request: Request) -> Services:  # what waits for nothing needs no thread
    """The services of the application that got this request."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]


async def _settings(services: ServicesDep) -> Settings:
    return services.settings


async def _database(services: ServicesDep) -> Database:
    return services.database


async def _artifacts(services: ServicesDep) -> ArtifactStore:
    return services.artifacts


async def _predictors(services: ServicesDep) -> PredictorCache:
    return services.predictors


SettingsDep = Annotated[Settings, Depends(_settings)]
DatabaseDep = Annotated[Database, Depends(_database)]
ArtifactsDep = Annotated[ArtifactStore, Depends(_artifacts)]
PredictorsDep = Annotated[PredictorCache, Depends(_predictors)]

_api_key = HTTPBearer(scheme_name="ApiKey", description="an API key, `lt_key_...`", auto_error=False)
_agent_token = HTTPBearer(
    scheme_name="AgentToken", description="an agent's own token, `lt_agt_...`", auto_error=False
)
_registration_token = HTTPBearer(
    scheme_name="RegistrationToken",
    description="a registration token, `lt_tok_...`, good for once",
    auto_error=False,
)
_Credentials = HTTPAuthorizationCredentials | None


def authenticated(
    database: DatabaseDep, credentials: Annotated[_Credentials, Depends(_api_key)]
) -> Principal:
    """Whoever holds the API key that was sent, whatever its scopes."""
    token = _token(credentials)
    with database.snapshot() as snapshot:
        caller, is_touch_due = security.authenticate(snapshot.connection, token)
    if is_touch_due:
        with database.write() as session:
            security.touch(session, caller.key_id)
    return caller


def require(caller: Principal, scope: Scope) -> None:
    """Raises `Forbidden` unless the caller's API key has `scope`."""
    if scope not in caller.scopes:
        raise Forbidden(scope)


def caller_with(scope: Scope) -> Any:
    """A dependency on a caller whose API key has `scope`: `Annotated[Principal, caller_with(Scope.READ)]`."""

    async def check(caller: Annotated[Principal, Depends(authenticated)]) -> Principal:
        require(caller, scope)
        return caller

    return Depends(check)


def _agent(
    database: DatabaseDep, credentials: Annotated[_Credentials, Depends(_agent_token)]
) -> AgentPrincipal:
    token = _token(credentials)
    with database.read() as session:
        return security.authenticate_agent(session, token)


async def _registration(credentials: Annotated[_Credentials, Depends(_registration_token)]) -> str:
    return _token(credentials)


def _token(credentials: _Credentials) -> str:
    if credentials is None:
        raise Unauthenticated("send a token as `Authorization: Bearer lt_...`")
    return credentials.credentials


Caller = Annotated[Principal, Depends(authenticated)]
Reader = Annotated[Principal, caller_with(Scope.READ)]
ModelWriter = Annotated[Principal, caller_with(Scope.MODELS_WRITE)]
Measurer = Annotated[Principal, caller_with(Scope.MEASURE)]
Searcher = Annotated[Principal, caller_with(Scope.SEARCH)]
FleetAdmin = Annotated[Principal, caller_with(Scope.FLEET_ADMIN)]
KeysAdmin = Annotated[Principal, caller_with(Scope.KEYS_ADMIN)]
AgentCaller = Annotated[AgentPrincipal, Depends(_agent)]
RegistrationSecret = Annotated[str, Depends(_registration)]  # for security.consume_registration_token
