# Writes and reads with the official client for Python. Prints what it has read as JSON.
import json, os, threading
from durable_streams import DurableStream, stream

url = os.environ["SERVER"] + "/v1/stream/clients/python"
handle = DurableStream.create(url, content_type="application/json")
read = {"sse": [], "long-poll": []}

def follow(live):
    with stream(url, offset="-1", live=live) as response:
        for item in response.iter_json():
            read[live].append(item["n"])
            if item["n"] == 49:
                return

readers = [threading.Thread(target=follow, args=[live]) for live in read]
for reader in readers:
    reader.start()
for n in range(50):
    handle.append({"n": n})
for reader in readers:
    reader.join()
with stream(url, offset="-1", live=False) as response:
    read["catch-up"] = [item["n"] for item in response.iter_json()]
handle.delete()
print(json.dumps(read))
