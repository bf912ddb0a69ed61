"""A help desk to try a connector on: GET /v1/tickets and /v1/tickets/ID/comments.

Basic auth with `acme` and `s3cret-token`, `page` and `per_page`, `updated_since`. Needs Python 3.8 and nothing else:

    python3 acme_api.py            listens on http://127.0.0.1:8080
"""

import base64
import json
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

KEY = "Basic " + base64.b64encode(b"acme:s3cret-token").decode()
DAY = datetime(2026, 1, 1, tzinfo=timezone.utc)
TICKETS = [
    {
        "id": n,
        "subject": f"Ticket {n}",
        "status": ["open", "pending", "closed"][n % 3],
        "priority": n % 5,
        "requester": {"id": 1000 + n % 40, "vip": n % 40 == 0},
        "tags": [["billing"], ["login", "mobile"], []][n % 3],
        "created_at": (DAY + timedelta(hours=n)).isoformat(),
        "updated_at": (DAY + timedelta(hours=2 * n)).isoformat(),
    }
    for n in range(1, 451)
]


def comments(ticket):
    return [{"id": ticket * 10 + i, "body": f"Comment {i}", "public": i > 0} for i in range(ticket % 3)]


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if self.headers.get("Authorization") != KEY:
            return self.answer(401, {"error": "wrong credentials"})
        if parts == ["v1", "tickets"]:
            since = datetime.fromisoformat(query.get("updated_since", DAY.isoformat()).replace("Z", "+00:00"))
            items = [t for t in TICKETS if datetime.fromisoformat(t["updated_at"]) >= since]
        elif len(parts) == 4 and parts[:2] == ["v1", "tickets"] and parts[3] == "comments":
            items = comments(int(parts[2]))
        else:
            return self.answer(404, {"error": "no such path"})
        page, size = int(query.get("page", 1)), min(int(query.get("per_page", 20)), 100)
        self.answer(200, {"data": items[(page - 1) * size : page * size], "total": len(items)})

    def answer(self, status, body):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


ThreadingHTTPServer(("127.0.0.1", 8080), Api).serve_forever()
