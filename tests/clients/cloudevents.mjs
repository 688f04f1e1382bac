// Sends events in all three modes with the npm package `cloudevents`, and reads them back with it in all three.
// Takes the server's URL and a topic without events; ends with an error if something comes back otherwise.
import assert from "node:assert/strict";
import { CloudEvent, HTTP } from "cloudevents";

const [url, topic] = process.argv.slice(2);
const records = `${url}/v1/topics/${topic}/records`;
const batchType = "application/cloudevents-batch+json";

const event = (id, members) =>
  new CloudEvent({ id, source: "/npm", type: "com.example.npm", time: "2024-06-01T10:00:00.000Z", ...members });
const sent = [
  event("structured", { subject: "a € b", partitionkey: "u1", datacontenttype: "application/json", data: { n: 1 } }),
  event("binary", { comexample: "x", datacontenttype: "application/json", data: { n: 2 } }),
  event("batched", { datacontenttype: "text/plain", data: "te\nxt" }),
  event("bytes", { datacontenttype: "application/octet-stream", data: Uint8Array.from([0, 255, 128]) }),
];

const call = async (path, init) => {
  const response = await fetch(path, init);
  const body = await response.text();
  assert.ok(response.ok, `${response.status} ${body}`);
  return { headers: Object.fromEntries(response.headers), body };
};
const post = (message) => call(`${records}?partition=0`, { method: "POST", ...message });

await post(HTTP.structured(sent[0]));
await post(HTTP.binary(sent[1]));
await post({ headers: { "content-type": batchType }, body: JSON.stringify(sent.slice(2)) });

const bytes = (data) => (data instanceof Uint8Array || data instanceof Uint32Array ? Array.from(data) : data);
const check = (events, expected) => {
  assert.equal(events.length, expected.length);
  events.forEach((event, index) => {
    const wanted = expected[index];
    for (const name of ["id", "source", "type", "time", "subject", "datacontenttype", "partitionkey", "comexample"]) {
      assert.equal(event[name], wanted[name], `${wanted.id}: ${name}`);
    }
    assert.deepEqual(bytes(event.data), bytes(wanted.data), `${wanted.id}: data`);
  });
};

check(HTTP.toEvent(await call(records, { headers: { accept: batchType } })), sent);

const lines = await call(`${records}?format=cloudevents`, { headers: { accept: "application/x-ndjson" } });
const structured = { "content-type": "application/cloudevents+json" };
check(lines.body.trim().split("\n").map((body) => HTTP.toEvent({ headers: structured, body })), sent);

// The package does not undo percent-encoding, so the event with a subject is left to the other modes.
const binary = [];
for (const offset of [1, 2]) {
  binary.push(HTTP.toEvent(await call(`${url}/v1/topics/${topic}/partitions/0/records/${offset}`)));
}
check(binary, sent.slice(1, 3));
console.log("ok");
