"""Who may call, how keys are made and how they end; and how the first one comes to be."""

from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path

import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient
from fleet_rows import add_project, add_target
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from service import security
from service.access import issue_registration_token
from service.app import create_app
from service.bootstrap import bootstrap
from service.db.clock import now_plus
from service.db.session import Database
from service.db.tables import Agent, ApiKey, Project
from service.dependencies import Services
from service.errors import Unauthenticated
from service.ids import new_id
from service.security import Scope, mint
from service.settings import Settings


def make_key(client: TestClient, **wanted: object) -> dict[str, object]:
    answer = client.post("/v1/api-keys", json={"name": "ci", "scopes": ["read"], **wanted})
    assert answer.status_code == 201, answer.text
    made: dict[str, object] = answer.json()
    return made


def bearer(token: object) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_new_key_opens_what_its_scopes_say(client: TestClient) -> None:
    made = make_key(client, scopes=["read"])
    assert client.get("/v1/jobs", headers=bearer(made["token"])).status_code == 200
    refused = client.get("/v1/api-keys", headers=bearer(made["token"]))
    assert refused.status_code == 403
    assert refused.json()["code"] == "forbidden"
    assert refused.json()["required_scope"] == "keys:admin"


def test_a_key_cannot_make_a_mightier_one(client: TestClient) -> None:
    made = make_key(client, scopes=["keys:admin"])
    refused = client.post(
        "/v1/api-keys", json={"name": "n", "scopes": ["measure"]}, headers=bearer(made["token"])
    )
    assert (refused.status_code, refused.json()["required_scope"]) == (403, "measure")


def test_a_revoked_key_opens_nothing_from_the_next_request_on(client: TestClient) -> None:
    made = make_key(client)
    for _ in range(2):
        assert client.delete(f"/v1/api-keys/{made['id']}").status_code == 204
    assert client.get("/v1/jobs", headers=bearer(made["token"])).status_code == 401
    shown = client.get("/v1/api-keys").json()["items"][0]
    assert shown["id"] == made["id"]
    assert shown["revoked_at"] is not None
    assert "token" not in shown


def test_an_expired_key_opens_nothing(client: TestClient, services: Services) -> None:
    made = make_key(client, expires_in_s=60)
    assert client.get("/v1/jobs", headers=bearer(made["token"])).status_code == 200
    with services.database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == made["id"]).values(expires_at=now_plus(-0.01)))
    assert client.get("/v1/jobs", headers=bearer(made["token"])).status_code == 401


def test_other_projects_keys_do_not_exist(client: TestClient, services: Services) -> None:
    with services.database.write() as session:
        other = add_project(session, "other")
        key_id = new_id("key")
        session.add(
            ApiKey(id=key_id, project_id=other, name="n", secret_sha256=mint(key_id).secret_sha256, scopes=[])
        )
    assert client.delete(f"/v1/api-keys/{key_id}").status_code == 404
    assert key_id not in client.get("/v1/api-keys").text
    with services.database.read() as session:
        assert session.get_one(ApiKey, key_id).revoked_at is None


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Bearer lt_key_" + "0" * 26 + "_" + "0" * 64 + "_00000000"},
        bearer(mint("key_" + "0" * 26).token),
        bearer(mint("agt_" + "0" * 26).token),
    ],
)
def test_no_good_token_no_answer(client: TestClient, header: dict[str, str]) -> None:
    client.headers.pop("Authorization")
    refused = client.get("/v1/jobs", headers=header)
    assert refused.status_code == 401
    assert refused.json()["code"] == "unauthenticated"
    assert refused.headers["WWW-Authenticate"] == 'Bearer realm="laptime"'


def test_a_secret_of_another_key_opens_nothing(client: TestClient) -> None:
    one, two = str(make_key(client)["token"]), str(make_key(client)["token"])
    mixed = f"lt_key_{one.split('_')[2]}_{two.split('_')[3]}"
    forged = f"{mixed}_{security._checksum(mixed)}"
    assert client.get("/v1/jobs", headers=bearer(forged)).status_code == 401


def test_the_secret_is_stored_nowhere(client: TestClient, settings: Settings, services: Services) -> None:
    made = make_key(client)
    _, _, _, secret, _ = str(made["token"]).split("_")
    answer = client.post(
        "/v1/api-keys", json={"name": "again", "scopes": ["read"]}, headers={"Idempotency-Key": "k"}
    )
    repeated = answer.json()["token"].split("_")[3]
    with services.database.engine.connect() as connection:
        for table in ("api_keys", "idempotency_keys"):
            rows = str(connection.exec_driver_sql(f"select * from {table}").all())
            assert secret not in rows
            assert repeated not in rows


def test_last_use_is_noted_once_a_minute(client: TestClient, services: Services) -> None:
    made = make_key(client)

    def last_used_at() -> object:
        with services.database.read() as session:
            return session.get_one(ApiKey, made["id"]).last_used_at

    assert last_used_at() is None
    client.get("/v1/jobs", headers=bearer(made["token"]))
    noted = last_used_at()
    assert noted is not None
    client.get("/v1/jobs", headers=bearer(made["token"]))
    assert last_used_at() == noted
    with services.database.write() as session:
        session.execute(update(ApiKey).where(ApiKey.id == made["id"]).values(last_used_at=now_plus(-61.0)))
    client.get("/v1/jobs", headers=bearer(made["token"]))
    assert last_used_at() >= noted  # type: ignore[operator]


def test_a_registration_token_is_good_for_once(
    client: TestClient, services: Services, project_id: str
) -> None:
    token = client.post("/v1/registration-tokens", json={}).json()["token"]
    with services.database.write() as session:
        assert security.consume_registration_token(session, token) == project_id
    with pytest.raises(Unauthenticated), services.database.write() as session:
        security.consume_registration_token(session, token)


def test_a_registration_that_fails_does_not_use_up_the_token(database: Database) -> None:
    with database.write() as session:
        project_id = add_project(session)
        _, token = issue_registration_token(session, project_id=project_id, expires_in_s=60)

    def register_and_fail() -> None:
        with database.write() as session:
            security.consume_registration_token(session, token)
            raise RuntimeError("later in the same transaction")

    with pytest.raises(RuntimeError):
        register_and_fail()
    with database.write() as session:
        assert security.consume_registration_token(session, token) == project_id


def test_an_expired_registration_token_is_refused(database: Database) -> None:
    with database.write() as session:
        _, token = issue_registration_token(session, project_id=add_project(session), expires_in_s=-1)
    with pytest.raises(Unauthenticated), database.write() as session:
        security.consume_registration_token(session, token)


def test_one_token_used_twice_at_once_registers_once(database: Database) -> None:
    with database.write() as session:
        _, token = issue_registration_token(session, project_id=add_project(session), expires_in_s=60)
    outcomes: list[str] = []

    def register() -> None:
        try:
            with database.write() as session:
                outcomes.append(security.consume_registration_token(session, token))
        except Unauthenticated:
            outcomes.append("refused")

    threads = [threading.Thread(target=register) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == 5


def test_an_agents_token_names_its_device(database: Database) -> None:
    with database.write() as session:
        target = add_target(session, add_project(session))
        agent_id = new_id("agt")
        minted = mint(agent_id)
        session.add(
            Agent(
                id=agent_id,
                device_id=target.device_id,
                secret_sha256=minted.secret_sha256,
                version="0",
                state="idle",
            )
        )
    with database.read() as session:
        agent = security.authenticate_agent(session, minted.token)
        assert (agent.agent_id, agent.device_id) == (agent_id, target.device_id)
        with pytest.raises(Unauthenticated, match="register again"):
            security.authenticate_agent(session, mint(agent_id).token)


@given(position=st.integers(0, 200), character=st.characters(codec="ascii"))
def test_a_mistyped_token_is_recognised(position: int, character: str) -> None:
    token = mint(new_id("key")).token
    at = position % len(token)
    mistyped = token[:at] + character + token[at + 1 :]
    assert security._parse(token, "key")[0].startswith("key_")
    if mistyped != token:
        with pytest.raises(Unauthenticated):
            security._parse(mistyped, "key")


def test_the_first_start_makes_one_project_and_one_key(app: FastAPI, settings: Settings) -> None:
    with TestClient(app) as first:
        token = settings.admin_key_file.read_text()
        assert re.fullmatch(r"lt_key_\w+\n", token)
        assert stat.S_IMODE(os.stat(settings.admin_key_file).st_mode) == 0o600
        key = first.get("/v1/api-keys", headers=bearer(token.strip())).json()["items"]
        assert [one["scopes"] for one in key] == [sorted(Scope)]
    with TestClient(create_app(settings)):
        assert settings.admin_key_file.read_text() == token


def test_a_removed_key_file_does_not_bring_a_new_key(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "admin.key"
    with structlog.testing.capture_logs() as logged:
        project_id = bootstrap(database, file)
    assert [entry["file"] for entry in logged] == [str(file)], "the first start says where the key is"
    file.unlink()
    assert bootstrap(database, file) == project_id
    assert not file.exists()


def test_two_first_starts_at_once_make_one_key(database: Database, tmp_path: Path) -> None:
    barrier, found = threading.Barrier(4), []

    def start() -> None:
        barrier.wait()
        found.append(bootstrap(database, tmp_path / "admin.key"))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read() as session:
        projects = session.scalars(select(Project.id)).all()
        caller, _ = security.authenticate(session.connection(), (tmp_path / "admin.key").read_text().strip())
        assert len(session.scalars(select(ApiKey.id)).all()) == 1
    assert found == list(projects) * 4
    assert caller.scopes == frozenset(Scope)
    assert [path.name for path in tmp_path.glob("*admin*")] == ["admin.key"]
