"""What the scripts beside it share: a streaming client of an OpenAI-compatible server over asyncio, prompts, and servers to start."""
import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOME = os.environ.get("PLEAT_HOME") or os.path.expanduser("~/.cache/pleat")


def model_path(name):
    return name if os.path.exists(name) else os.path.join(HOME, "models", name + ".gguf")


def quantile(values, q):
    """The value at rank q of a list, by the nearest rank; NaN of none."""
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


# ---- a request ----

class Result:
    """Times in seconds of time.monotonic(); tokens: events with text; status 0: the connection broke."""
    def __init__(self):
        self.begun = time.monotonic()
        self.status, self.first, self.last, self.tokens, self.ended = 0, None, None, 0, False
        self.text, self.usage = [], {}

    @property
    def ttft(self):
        return self.first - self.begun if self.first else float("nan")


async def stream(host, port, body, leave_after=None, result=None):
    """One streamed text completion. leave_after: hangs up once so many events have come. result: filled as it goes."""
    result, writer = result or Result(), None
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(data) + data)
        result.status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]"):
                result.ended = True
                break
            event = json.loads(line[6:])
            if event.get("choices") and event["choices"][0].get("text"):
                result.last = time.monotonic()
                result.first = result.first or result.last
                result.tokens += 1
                result.text.append(event["choices"][0]["text"])
            result.usage = event.get("usage") or result.usage
            if leave_after is not None and result.tokens >= leave_after:
                break
    except (OSError, ValueError, IndexError):
        result.status = result.status if result.tokens else 0
    if writer:
        writer.close()
    return result


def whole_stream(host, port, body):
    """As stream, on the calling thread, by a client that takes no time while tokens come: it sleeps until the answer is over and reads
    it then. Gives (status, usage of the last event)."""
    data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
    with socket.create_connection((host, port)) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(data) + data)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1 << 20)  # more than an answer: only its end wakes
        answer = b""
        while piece := s.recv(1 << 20):
            answer += piece
    events = [line for line in answer.split(b"\r\n\r\n", 1)[1].splitlines() if line.startswith(b"data: {")]
    return int(answer.split()[1]), json.loads(events[-1][6:])["usage"] if events else {}


async def get(host, port, path):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer.split(b"\r\n\r\n", 1)[1].decode()


# ---- prompts ----

def sharegpt(n, seed):
    """The first n conversations' first turns: (prompt, tokens of the answer at about 4 bytes each), as they are shuffled by seed."""
    text = open(os.path.join(HOME, "data", "sharegpt.json"), encoding="utf-8").read(24 << 20)
    decoder, at, pairs = json.JSONDecoder(), 1, []
    while len(pairs) < 4 * n:
        while text[at] in " \n\r\t,":
            at += 1
        try:
            talk, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        turns = talk["conversations"]
        if len(turns) > 1 and turns[0]["from"] == "human" and 16 <= len(turns[0]["value"]) <= 4096:
            pairs.append((turns[0]["value"], max(4, min(256, len(turns[1]["value"]) // 4))))
    random.Random(seed).shuffle(pairs)
    return pairs[:n]


def long_texts(n, seed, least, most, answer=64):
    """n pieces of Shakespeare of about least to most tokens (3.2 bytes each), drawn by seed, and the tokens of an answer."""
    text = open(os.path.join(HOME, "data", "shakespeare.txt"), encoding="utf-8").read()
    draw, pairs = random.Random(seed), []
    for _ in range(n):
        length = int(draw.randint(least, most) * 3.2)
        begin = draw.randrange(len(text) - length)
        pairs.append((text[begin:begin + length], answer))
    return pairs


# ---- servers ----

class Server:
    """A server of ours or llama.cpp's, started here: KIND:KV with KIND pleat or llama; more: further options of ours."""
    def __init__(self, text, model, threads, slots, context, pool, more=()):
        self.text, (kind, kv) = text, text.split(":", 1)
        if kind == "pleat":
            command = [os.path.join(ROOT, "build", "pleat"), "serve", "-m", model, "--port", "0", "--json", "--method", kv,
                       "--threads", str(threads), "--max-running", str(slots), "--pool", pool, *more]
        else:
            binary = os.environ.get("LLAMA_SERVER") or sys.exit("LLAMA_SERVER must name llama.cpp's llama-server")
            self.port = 18200 + os.getpid() % 700
            command = [binary, "-m", model, "--port", str(self.port), "-t", str(threads), "-np", str(slots), "-c",
                       str(slots * context), "-fa", "on", "-ctk", kv, "-ctv", kv, "-cram", "0", "--no-webui"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE if kind == "pleat" else subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, text=True)
        self.plan = None
        if kind == "pleat":
            lines = ""
            while not lines.endswith("\n}\n"):
                line = self.process.stdout.readline() or sys.exit(f"{text} did not start")
                lines += line
            self.plan = json.loads(lines)
            self.port = self.plan["port"]
        else:
            self.wait_until_healthy()

    def wait_until_healthy(self):
        for _ in range(600):
            try:
                if '"ok"' in asyncio.run(get("127.0.0.1", self.port, "/health")):
                    return
            except (OSError, IndexError):
                pass
            time.sleep(0.1)
        sys.exit(f"{self.text} did not start")

    def rss(self):
        with open(f"/proc/{self.process.pid}/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def close(self):
        self.process.terminate()
        return self.process.wait(60)
