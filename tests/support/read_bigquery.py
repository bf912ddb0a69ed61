"""Reads BigQuery back with Google's own client, for tests.

stdin: {"endpoint": URL, "project": ID, "questions": [...]}, each question one of
{"query": SQL}, {"table": "dataset.table"}, {"tables": "dataset"}. With "missing" a query of a
table that is not there is answered with null.
stdout: a JSON list of the answers. Exact numbers and times are given as text.
"""

import base64
import datetime
import decimal
import json
import sys

from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value


def field(f):
    shown = {"name": f.name, "type": f.field_type, "mode": f.mode}
    if f.description:
        shown["description"] = f.description
    if f.fields:
        shown["fields"] = [field(child) for child in f.fields]
    return shown


def answer(client, question):
    if "query" in question:
        try:
            rows = client.query(question["query"]).result()
        except NotFound:
            if question.get("missing"):
                return None
            raise
        return [plain(dict(row.items())) for row in rows]
    if "tables" in question:
        return sorted(t.table_id for t in client.list_tables(question["tables"]))
    table = client.get_table(question["table"])
    partitioning = table.time_partitioning
    return {
        "description": table.description,
        "schema": [field(f) for f in table.schema],
        "partition": partitioning and [partitioning.type_, partitioning.field],
        "clustering": table.clustering_fields,
    }


def main():
    ask = json.load(sys.stdin)
    client = bigquery.Client(
        project=ask["project"],
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=ask["endpoint"]),
    )
    json.dump([answer(client, q) for q in ask["questions"]], sys.stdout)


main()
