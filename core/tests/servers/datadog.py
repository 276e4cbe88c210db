"""What the test agent of Datadog got, read by Python's own parser of forms: JSON on stdout.

The argument is the agent's port. Parts that zstd has compressed are given as they were before.
"""

import base64
import email
import json
import sys
import urllib.request

import zstandard

url = f"http://127.0.0.1:{sys.argv[1]}/test/session/requests"
found = []
for request in json.load(urllib.request.urlopen(url)):
    headers = {name.lower(): value for name, value in request["headers"].items()}
    if "multipart/form-data" not in headers.get("content-type", ""):
        continue
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    parts = []
    for part in email.message_from_bytes(head + base64.b64decode(request["body"])).get_payload():
        content = part.get_payload(decode=True)
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            content = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        parts.append(
            {
                "name": part.get_param("name", header="content-disposition"),
                "file": part.get_filename(),
                "content": base64.b64encode(content).decode(),
            }
        )
    found.append({"method": request["method"], "url": request["url"], "headers": headers, "parts": parts})
json.dump(found, sys.stdout)
