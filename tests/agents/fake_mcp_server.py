"""An MCP server by hand, with every bad habit: it runs as a program, with the standard library alone.

python fake_mcp_server.py [HABIT …]: ``silent`` answers nothing, ``broken`` ends at once with 3,
``empty`` has no tools, ``pages`` has pages of them without end, ``starts=FILE`` writes a line into
FILE each time it starts.
"""

import json
import os
import sys
import time
from typing import Any

HABITS = sys.argv[1:]
ANNOTATED = {
    "echo": {"readOnlyHint": True},
    "grow": {"idempotentHint": True},
    "die": {"readOnlyHint": False, "destructiveHint": True},
}
NAMES = (
    "echo die stall cancelled grow progress flood malformed garbage long complain env fail blocks "
    "asks"
)
tools = [
    {"name": name, "inputSchema": {"type": "object"}, "annotations": ANNOTATED.get(name)}
    for name in NAMES.split()
]
for each in tools:
    if each["annotations"] is None:
        del each["annotations"]
cancelled: list[Any] = []
told: list[Any] = []


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def notify(method: str, **params: Any) -> None:
    send(method=method, params=params)


def text(value: Any) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": str(value)}]}


def call(request: dict[str, Any]) -> Any:
    params, number = request["params"], request["id"]
    given = params.get("arguments", {})
    token = params.get("_meta", {}).get("progressToken")
    match params["name"]:
        case "echo":
            return text(given.get("text"))
        case "die":
            if given.get("signal"):
                os.kill(os.getpid(), given["signal"])
            os._exit(given.get("code", 0))
        case "stall":
            return None
        case "cancelled":
            return text(json.dumps(cancelled))
        case "grow":
            tools.append({"name": given["name"], "inputSchema": {"type": "object"}})
            notify("notifications/tools/list_changed")
            return text("grown")
        case "progress":
            for step in range(1, given["steps"] + 1):
                notify(
                    "notifications/progress",
                    progressToken=token,
                    progress=step,
                    total=given["steps"],
                    message=f"step {step}",
                )
                time.sleep(given.get("seconds", 0))
            return text("done")
        case "flood":
            for step in range(given["count"]):
                notify("notifications/progress", progressToken=token, progress=step)
                notify("notifications/message", level="info", data=f"flood {step}")
                notify("notifications/tools/list_changed")
                sys.stderr.write(f"flood {step}\n")
            return text("flooded")
        case "malformed":
            return {"content": "no list"}
        case "garbage":
            sys.stdout.write("this is no JSON\n[1, 2]\n\n" + '{"jsonrpc": "2.0", "id": 99999}\n')
            return text("after the garbage")
        case "long":
            sys.stdout.write("x" * given["count"])
            sys.stdout.flush()
            return text("long")
        case "complain":
            sys.stderr.write(given["text"] + "\n")
            sys.stderr.flush()
            return text("complained")
        case "env":
            return text(json.dumps(dict(os.environ)))
        case "fail":
            return {**text(given.get("text", "")), "isError": True}
        case "blocks":
            return given["result"]
        case "asks":
            send(id="q", method=given["method"], params=given["params"])
            answer = json.loads(sys.stdin.readline())
            return text(json.dumps([told, answer["error"]["message"]]))
        case name:
            send(id=number, error={"code": -32602, "message": f"Unknown tool: {name}"})
            return None


def answer(request: dict[str, Any]) -> Any:
    match request["method"]:
        case "initialize":
            told.append(request["params"]["capabilities"])
            return {
                "protocolVersion": "2025-06-18",
                "capabilities": {} if "empty" in HABITS else {"tools": {"listChanged": True}},
                "serverInfo": {"name": "fake", "version": "1"},
            }
        case "tools/list" if "pages" in HABITS:
            page = int(request.get("params", {}).get("cursor", 0))
            more = [{"name": f"t{page}_{i}", "inputSchema": {"type": "object"}} for i in range(100)]
            return {"tools": more, "nextCursor": str(page + 1)}
        case "tools/list" if "odd" in HABITS:
            schemas: list[Any] = [{"type": "string"}, {"properties": 5}, {"$ref": "http://x"}, "x"]
            schemas += [{"type": "object", "required": 5}, None, {"properties": {"a": {}}}]
            odd: list[Any] = [
                {"name": f"odd{i}", "inputSchema": each} for i, each in enumerate(schemas)
            ]
            odd += [{"name": 7, "inputSchema": {}}, "none", tools[0]]
            return {"tools": odd}
        case "tools/list":
            return {"tools": tools}
        case "tools/call":
            return call(request)
        case method:
            send(id=request["id"], error={"code": -32601, "message": f"no {method}"})
            return None


for habit in HABITS:
    if habit.startswith("starts="):
        with open(habit.partition("=")[2], "a") as file:
            file.write(f"{os.getpid()}\n")
if "broken" in HABITS:
    sys.stderr.write("I am broken\n")
    sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    if message["method"] == "notifications/cancelled":
        cancelled.append(message["params"]["requestId"])
    if "id" in message and "silent" not in HABITS:
        result = answer(message)
        if result is not None:
            send(id=message["id"], result=result)
