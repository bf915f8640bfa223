"""A small MCP server: a shelf of notes that can be searched and read. A program of its own.

It could be anybody's, in any language; the researcher knows of it what MCP says.
"""

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

NOTES = {
    "Trio, nurseries": "A nursery does not end before all of its tasks have. "
    "If one fails, the others are cancelled, and the failure goes on from there.",
    "Trio, cancel scopes": "A cancel scope may have a deadline. "
    "Whatever waits inside it is cancelled when the deadline is over.",
    "Bread, sourdough": "It needs a night. The dough is folded four times in its first two hours.",
}
LOOKS = ToolAnnotations(read_only_hint=True)

server = MCPServer("shelf")


@server.tool(annotations=LOOKS)
async def search(words: str, context: Context[None]) -> list[str]:
    """Search the notes for words, and list the titles of those that have one of them."""
    asked = words.lower().split()
    found: list[str] = []
    for number, (title, text) in enumerate(NOTES.items(), 1):
        if any(word in f"{title} {text}".lower() for word in asked):
            found.append(title)
        await context.report_progress(number, len(NOTES), f"looked at {title}")
    return found


@server.tool(annotations=LOOKS)
async def read(title: str) -> str:
    """Read a note."""
    try:
        return NOTES[title]
    except KeyError:
        raise ToolError(f"There is no note {title!r}.") from None


if __name__ == "__main__":
    server.run("stdio")
