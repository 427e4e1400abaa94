"""Listens with one client library from PyPI and prints what the library delivers, one JSON object
per line: {"data", "event", "id"} for a message, {"end": reason} once the library has stopped.

    python3 listen.py LIBRARY URL [TOKEN]

Each function follows its library's README. Where the library leaves reconnecting to the
application, the function contains the reconnect loop.
"""

import asyncio
import json
import sys
import time

LIBRARY, URL = sys.argv[1:3]
HEADERS = {"Authorization": f"Bearer {sys.argv[3]}"} if len(sys.argv) > 3 else {}
RETRY = 1.0  # seconds before a reconnect, if the application chooses the delay


def output(**line):
    print(json.dumps(line), flush=True)


def message(data, event, id):
    output(data=data, event=event or "message", id=id)


def headers_from(last):
    return {**HEADERS, "Last-Event-ID": last} if last else dict(HEADERS)


def httpx_sse():
    import httpx
    from httpx_sse import connect_sse

    last = ""
    with httpx.Client(timeout=None) as client:
        while True:
            try:
                with connect_sse(client, "GET", URL, headers=headers_from(last)) as source:
                    if source.response.status_code != 200:
                        return output(end=source.response.status_code)
                    for sse in source.iter_sse():
                        last = sse.id or last
                        message(sse.data, sse.event, sse.id)
            except httpx.TransportError:
                pass
            time.sleep(RETRY)


def sseclient_py():
    import requests
    import sseclient

    last = ""
    while True:
        try:
            headers = {"Accept": "text/event-stream", **headers_from(last)}
            response = requests.get(URL, stream=True, headers=headers)
            if response.status_code != 200:
                return output(end=response.status_code)
            for event in sseclient.SSEClient(response).events():
                last = event.id or last
                message(event.data, event.event, event.id)
        except requests.RequestException:
            pass
        time.sleep(RETRY)


def sseclient():
    import contextlib

    import requests
    from sseclient import SSEClient

    with contextlib.redirect_stdout(sys.stderr):  # the library prints the reason of each reconnect
        try:
            for event in SSEClient(URL, retry=1000, headers=dict(HEADERS)):
                with contextlib.redirect_stdout(sys.__stdout__):
                    message(event.data, event.event, event.id)
        except requests.RequestException as error:
            with contextlib.redirect_stdout(sys.__stdout__):
                output(end=str(error))


def requests_sse():
    from datetime import timedelta

    import requests
    from requests_sse import EventSource

    try:
        with EventSource(URL, headers=HEADERS, reconnection_time=timedelta(seconds=1)) as source:
            for event in source:
                message(event.data, event.type, event.last_event_id)
    except requests.RequestException as error:
        output(end=str(error))


async def aiosseclient():
    import aiohttp
    from aiosseclient import aiosseclient

    last = None
    while True:
        try:
            async for event in aiosseclient(URL, last_id=last, headers=dict(HEADERS), raise_for_status=True):
                last = event.id or last
                message(event.data, event.event, event.id)
        except aiohttp.ClientResponseError as error:
            return output(end=error.status)
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(RETRY)


async def aiohttp_sse_client():
    from datetime import timedelta

    import aiohttp
    from aiohttp_sse_client.client import EventSource

    last = ""
    while True:
        try:
            source = EventSource(URL, reconnection_time=timedelta(seconds=1), headers=headers_from(last))
            async with source as events:
                async for event in events:
                    last = event.last_event_id or last
                    message(event.data, event.type, event.last_event_id)
            return output(end="stopped")
        except (ConnectionAbortedError, ConnectionRefusedError, ConnectionError) as error:
            return output(end=str(error))
        except aiohttp.ClientError:  # the library does not reconnect after a cut
            await asyncio.sleep(RETRY)


LIBRARIES = {
    "httpx-sse": httpx_sse,
    "sseclient-py": sseclient_py,
    "sseclient": sseclient,
    "requests-sse": requests_sse,
    "aiosseclient": aiosseclient,
    "aiohttp-sse-client": aiohttp_sse_client,
}

outcome = LIBRARIES[LIBRARY]()
if asyncio.iscoroutine(outcome):
    asyncio.run(outcome)
