"""Sends events in all three modes with the PyPI package `cloudevents`, and reads them back with it in all three.

Takes the server's URL and a topic without events; ends with an error if something comes back otherwise.
"""

import json
import sys
from datetime import datetime, timezone

import httpx
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

url, topic = sys.argv[1:]
client = httpx.Client(base_url=url, trust_env=False)
records = f"/v1/topics/{topic}/records"
batch_type = "application/cloudevents-batch+json"
time = datetime(2024, 6, 1, 10, tzinfo=timezone.utc)


def event(id, data, **attributes):
    required = {"id": id, "source": "/pypi", "type": "com.example.pypi", "specversion": "1.0", "time": time}
    return CloudEvent(attributes={**required, **attributes}, data=data)


sent = [
    event("structured", {"n": 1}, subject="a € b", partitionkey="u1", datacontenttype="application/json"),
    event("binary", {"n": 2}, subject='100% "sure" €', comexample="x", datacontenttype="application/json"),
    event("batched", "te\nxt", datacontenttype="text/plain"),
    event("bytes", b"\x00\xff\x80", datacontenttype="application/octet-stream"),
]


def post(message):
    answer = client.post(records, params={"partition": 0}, headers=message.headers, content=message.body)
    assert answer.status_code == 201, answer.text


def get(path, **headers):
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def structured(event):
    return from_http_event(HTTPMessage(headers={"content-type": "application/cloudevents+json"}, body=event))


def check(events):
    assert len(events) == len(sent), events
    for found, wanted in zip(events, sent):
        attributes = found.get_attributes()
        kept = {name: value for name, value in attributes.items() if not name.startswith("forebay")}
        assert kept == wanted.get_attributes(), (kept, wanted.get_attributes())
        assert found.get_data() == wanted.get_data(), (found.get_data(), wanted.get_data())


post(to_structured_event(sent[0]))
post(to_binary_event(sent[1]))
batch = b"[" + b",".join(to_structured_event(event).body for event in sent[2:]) + b"]"
post(HTTPMessage(headers={"content-type": batch_type}, body=batch))

batch = get(records, accept=batch_type)
assert batch.headers["content-type"] == batch_type
check([structured(json.dumps(event).encode()) for event in batch.json()])
lines = get(f"{records}?format=cloudevents", accept="application/x-ndjson")
check([structured(line) for line in lines.content.splitlines()])
binary = [get(f"/v1/topics/{topic}/partitions/0/records/{offset}") for offset in range(len(sent))]
check([from_http_event(HTTPMessage(headers=dict(answer.headers), body=answer.content)) for answer in binary])
print("ok")
