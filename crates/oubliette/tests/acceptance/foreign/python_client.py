"""The Python SDK of MCP against a running server: lists tools, runs a session to the end of its turn, follows its events.

Arguments: address of /mcp, token, project, wire (`legacy` or a version), and for standard input and output the program and
the home. Prints one line of JSON with what it saw.
"""

import asyncio
import json
import sys

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    url, token, project, wire, program, home = sys.argv[1:7]
    pushed = []

    async def told(params) -> None:
        pushed.append(params.data)

    if program:
        server = StdioServerParameters(
            command=program, args=["--dir", home, "mcp"], env={"OUBLIETTE_TOKEN": token}
        )
    else:
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60)
        server = streamable_http_client(url, http_client=http)
    async with Client(server, mode=wire, logging_callback=told, read_timeout_seconds=60) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        spawn = {"action": "spawn", "project_id": project, "message": "Say it.", "new_session": True}
        spawned = await client.call_tool("session", spawn)
        assert not spawned.is_error, spawned
        session, cursor, events = spawned.structured_content["session_id"], -1, []
        while not any(event["type"] == "completion" for event in events):
            poll = {"action": "events", "session_id": session, "since_index": cursor, "wait_ms": 1000}
            page = (await client.call_tool("session", poll)).structured_content
            events += page["events"]
            cursor = page["last_index"]
        indices = [event["index"] for event in events]
        assert indices == list(range(len(events))), indices
        wrong = await client.call_tool("session", {"action": "get", "session_id": "nothing"})
        assert wrong.is_error and wrong.structured_content["error"]["code"] == "invalid_argument", wrong
        resource = await client.read_resource(f"oubliette://sessions/{session}/transcript")
        prompts = [prompt.name for prompt in (await client.list_prompts()).prompts]
        ended = await client.call_tool("session", {"action": "end", "session_id": session})
        assert not ended.is_error, ended
        if wire == "legacy":
            # Pushed without being asked for: the session's last word among them.
            async with asyncio.timeout(60):
                while not any(data.get("data", {}).get("state") == "ended" for data in pushed if data.get("data")):
                    await asyncio.sleep(0.01)
        print(json.dumps({
            "tools": tools,
            "prompts": prompts,
            "said": [event.get("text") for event in events if event.get("role") == "agent"],
            "transcript": resource.contents[0].text,
            "pushed": len(pushed),
        }))


asyncio.run(main())
