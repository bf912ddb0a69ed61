"""Reads BigQuery back with Google's own client, for tests.

Arguments: the endpoint's URL, the project. Each line of stdin is a JSON list of questions, each one of
{"query": SQL}, {"table": "dataset.table"}, {"tables": "dataset"}. With "missing" a query of a
table that is not there is answered with null.
Each line of stdout is {"answers": [...]} or {"error": TEXT}. Exact numbers, times, NaN and the
infinities are given as text.
"""

import base64
import datetime
import decimal
import json
import math
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
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
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
    endpoint, project = sys.argv[1:]
    client = bigquery.Client(
        project=project,
        credentials=AnonymousCredentials(),
        client_options=ClientOptions(api_endpoint=endpoint),
    )
    for line in sys.stdin:
        try:
            said = {"answers": [answer(client, q) for q in json.loads(line)]}
        except Exception as e:  # told to the test that asked
            said = {"error": repr(e)}
        print(json.dumps(said), flush=True)


main()
