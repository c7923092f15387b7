// The official JavaScript client as a foreign peer: node client.mjs URL TOKEN BINDING; prints what it saw as JSON.
import { ClientFactory, JsonRpcTransportFactory, RestTransportFactory, DefaultAgentCardResolver } from "@a2a-js/sdk/client";
import { Role } from "@a2a-js/sdk";

const [url, token, binding] = process.argv.slice(2);
const fetchImpl = (address, options = {}) => {
  const headers = new Headers(options.headers);
  headers.set("Authorization", `Bearer ${token}`);
  return fetch(address, { ...options, headers });
};
const transports = { "JSONRPC": JsonRpcTransportFactory, "HTTP+JSON": RestTransportFactory };
const factory = new ClientFactory({
  transports: [new transports[binding]({ fetchImpl })],
  cardResolver: new DefaultAgentCardResolver({ fetchImpl }),
});
const client = await factory.createFromUrl(url);

const request = (text, skill, configuration = {}) => ({
  tenant: "",
  message: {
    messageId: crypto.randomUUID(),
    contextId: "",
    taskId: "",
    role: Role.ROLE_USER,
    parts: [{ content: { $case: "text", value: text }, metadata: undefined, filename: "", mediaType: "text/plain" }],
    metadata: { skill },
    extensions: [],
    referenceTaskIds: [],
  },
  configuration: { acceptedOutputModes: [], historyLength: undefined, returnImmediately: false, ...configuration },
  metadata: undefined,
});

const sent = await client.sendMessage(request("Ada", "greet"));
const streamed = [];
for await (const event of client.sendMessageStream(request("Grace", "greet"))) {
  streamed.push(event.payload);
}
const slow = await client.sendMessage(request("x", "hang", { returnImmediately: true }));
const cancelled = await client.cancelTask({ tenant: "", id: (slow.payload?.value ?? slow).id });
const kept = await client.getTask({ tenant: "", id: (sent.payload?.value ?? sent).id });
console.log(JSON.stringify({ sent, streamed, cancelled, kept }));
