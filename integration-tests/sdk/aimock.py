"""`tidegate process` against a provider that is not ours: the batches of aimock (npm), pinned in package.json.

aimock cannot lose an answer after it accepted a batch; a relay in front of it does that.
"""

import http.client
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import rig

LINES = 6


def install():
    """Installs aimock below the folder of the checks; gives the command that starts it."""
    missing = [tool for tool in ("node", "npm") if not shutil.which(tool)]
    if missing:
        print(f"skip aimock: {' and '.join(missing)} not found, and it is an npm package", flush=True)
        sys.exit(0)
    place = Path(os.environ.get("TIDEGATE_SDK_DIR") or rig.ROOT / "target/sdk") / "aimock"
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("package.json"), place)
    argv = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(argv, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"npm install ended with {done.returncode}: {done.stderr[-2000:]}")
    return str((place / "node_modules/.bin/llmock").resolve())


class Relay(http.server.BaseHTTPRequestHandler):
    """Passes everything on, and throws the answers of the first creates away."""

    protocol_version = "HTTP/1.1"

    def pass_on(self):
        port = int(self.server.target.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=rig.PATIENCE)
        own = ("host", "connection", "content-length", "transfer-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in own}
        connection.request(self.command, self.path, self.body(), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if self.command == "POST" and self.path == "/v1/batches" and answer.status == 200 and self.server.lost > 0:
            self.server.lost -= 1
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("content-type", answer.headers.get("content-type", "application/octet-stream"))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = pass_on

    def body(self):
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0))) or None
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_):
        pass


def batches(url):
    with urllib.request.urlopen(url + "/v1/batches?limit=100", timeout=rig.PATIENCE) as answer:
        page = json.load(answer)
    assert not page["has_more"], "more batches than these checks make"
    return {batch["id"] for batch in page["data"]}


def case(name, lost, planned):
    def check(mock, relay):
        before = batches(mock.url)
        relay.lost = lost
        environment = rig.provider_environment("openai", f"http://127.0.0.1:{relay.server_address[1]}/v1", "key")
        lines = list(rig.requests("openai", LINES))
        with rig.folder() as place:
            options = ["--max-batch-requests", str(LINES // planned)]
            summary, results = rig.process(place, "openai", environment, lines, *options)
        assert [line["custom_id"] for line in results] == [line["custom_id"] for line in lines], results
        for line in results:
            answer = line["response"]["body"]["choices"][0]["message"]["content"]
            assert line["response"]["status_code"] == 200 and answer == "Mock batch completion", line
        assert summary["items"]["succeeded"] == LINES and summary["clean"], summary
        made = batches(mock.url) - before
        assert len(made) == planned, f"{len(made)} batches at the provider instead of {planned}: {summary}"

    check.__name__ = name
    return check


if __name__ == "__main__":
    command = install()
    with rig.folder() as state:
        # It insists on a file of fixtures; its batches answer without any.
        fixtures = Path(state) / "fixtures.json"
        fixtures.write_text('{"fixtures": []}')
        argv = [command, "--port", "0", "--fixtures", str(fixtures)]
        with rig.Server(argv, Path(state) / "aimock.log", cwd=state) as mock:
            relay = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Relay)
            relay.target, relay.lost, relay.daemon_threads = mock.url, 0, True
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            rig.run(
                [
                    case("results_are_complete", 0, 1),
                    case("three_batches_are_complete", 0, 3),
                    case("one_lost_answer_makes_no_second_batch", 1, 1),
                    case("two_lost_answers_make_no_second_batch", 2, 1),
                    case("ten_lost_answers_make_three_batches_of_three", 10, 3),
                ],
                mock,
                relay,
            )
