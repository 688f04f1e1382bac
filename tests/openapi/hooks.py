"""How schemathesis sends bodies of lines: a text as it is, anything else as one line of JSON."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson", "application/vnd.forebay.records+x-ndjson")
def lines(ctx, value):
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else json.dumps(value).encode()
