// The official JavaScript client as a foreign peer: node client.mjs URL TOKEN legacy|auto; prints what it saw as JSON.
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, token, mode] = process.argv.slice(2);
const client = new Client({ name: "peer", version: "1.0.0" }, { versionNegotiation: { mode } });
const requestInit = { headers: { Authorization: `Bearer ${token}` } };
await client.connect(new StreamableHTTPClientTransport(new URL(`${url}/mcp`), { requestInit }));

const tools = (await client.listTools()).tools.map((tool) => tool.name).sort();
const greeted = await client.callTool({ name: "run_greet", arguments: { input: "Ada" } });
const denied = await client.callTool({ name: "wipe", arguments: {} });
const version = client.getNegotiatedProtocolVersion();
console.log(JSON.stringify({ version, tools, greeted, denied }));
await client.close();
