"""Follows a stream with the PyPI package `httpx-sse`, resuming by the last id as its documentation shows."""

import os
import sys
import threading
import time

import httpx
import httpx_sse


def end_with_stdin():
    sys.stdin.read()
    os._exit(0)


def follow(url):
    last_id, retry = "", 0.1
    with httpx.Client(timeout=httpx.Timeout(5, read=None), trust_env=False) as client:
        while True:
            headers = {"Last-Event-ID": last_id} if last_id else {}
            try:
                with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                    for event in source.iter_sse():
                        last_id = event.id
                        if event.event == "open":
                            print("open", flush=True)
                        elif event.event == "message":
                            print("record", event.id, event.data, flush=True)
            except httpx.TransportError:
                pass
            time.sleep(retry)


threading.Thread(target=end_with_stdin, daemon=True).start()
follow(sys.argv[1] + sys.argv[2])
