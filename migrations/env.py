"""Run by Alembic. The connection, with its transaction open, comes from `service.db.upgrade`."""

from __future__ import annotations

from alembic import context

from service.db.tables import Table

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit(
        "migrations are run by `laptime db upgrade`, which locks the database and opens the transaction"
    )

context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    compare_type=True,
)
context.run_migrations()
