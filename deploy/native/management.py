"""RabbitMQ's management HTTP API."""

import base64
import json
import urllib.request
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Management:
    """The API at `url` (`http://host:15672`)."""

    url: str
    user: str
    password: str = field(repr=False)

    def call(self, method: str, path: str, body: object | None = None) -> Any:
        """One call, e.g. `call("PUT", "vhosts/test", {})`. Raises URLError and HTTPError."""
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def make_vhost(self, name: str, definitions: dict[str, Any]) -> None:
        """A virtual host with policies, queues and bindings in it, which this user may use."""
        self.call("PUT", f"vhosts/{name}", {})
        self.call("PUT", f"permissions/{name}/{self.user}", {"configure": ".*", "write": ".*", "read": ".*"})
        self.call("POST", f"definitions/{name}", definitions)

    def drop_vhost(self, name: str) -> None:
        """Removes a virtual host and everything in it."""
        self.call("DELETE", f"vhosts/{name}")
