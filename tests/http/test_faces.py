"""All faces of one runtime at once."""

from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


async def shout(context, text):
    return text.upper()


def test_what_one_face_adds_is_no_skill_of_another(board, serve):
    message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    runtime = Runtime(board, ScriptedModel(str), workflows=[shout])
    with serve(runtime, a2a=True, mcp=True) as client:
        card = client.get("/.well-known/agent-card.json").json()
        assert [skill["id"] for skill in card["skills"]] == ["shout"]
        assert [workflow["name"] for workflow in client.get("/api/v1/workflows").json()] == ["shout"]
        # Where there is one workflow, its name may be left out.
        answer = client.post("/a2a", json=call, headers={"A2A-Version": "1.0"}).json()
        assert answer["result"]["task"]["artifacts"][0]["parts"][0]["text"] == "HELLO"
