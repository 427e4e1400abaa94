"""Writes a model's answer to a durable stream, and reads it with a reader that is cut in the middle.

    threadcast --durable-streams
    pip install durable-streams
    python3 durable_answer.py
"""

import os
import threading
import time
import uuid

from durable_streams import DurableStream, stream

URL = os.environ.get("THREADCAST_URL", "http://127.0.0.1:8844") + f"/v1/stream/answer-{uuid.uuid4()}"
ANSWER = "Because air scatters blue light more than red light, and so the sky is blue."


def model():
    """Appends a token at a time. Replace it by a real model."""
    for token in ANSWER.split(" "):
        answer.append({"token": token})
        time.sleep(0.05)
    answer.append({"done": True})


def read(offset, tokens, most=None):
    """Adds tokens from the offset on, at most so many, and returns the offset after them."""
    with stream(URL, offset=offset, live="sse") as response:
        for event in response.iter_events(mode="json"):
            for message in event.data:
                if message.get("done"):
                    return None
                tokens.append(message["token"])
            if most is not None and len(tokens) >= most:
                return event.next_offset


answer = DurableStream.create(URL, content_type="application/json", ttl_seconds=3600)
threading.Thread(target=model).start()

tokens = []
offset = read("-1", tokens, most=6)
print("before the cut:", " ".join(tokens))
read(offset, tokens)
print("after the cut: ", " ".join(tokens))
