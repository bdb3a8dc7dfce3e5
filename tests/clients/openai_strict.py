"""The public Python client of this API against a server, with every answer validated by the client's own types.

    openai_strict.py URL MODEL [KEY]

The client's strict validation refuses a missing or mistyped field; on top of it, whole and streamed answers are compared.
"""
import math
import sys

import openai

FAILED = []


def check(what, ok):
    if not ok:
        FAILED.append(what)
        print("FAILED", what)


def refused(what, error, call):
    try:
        call()
    except error as e:
        check(what + ": an error object", isinstance(e.body, dict) and e.body.get("message") and e.body.get("type"))
        return
    check(what + ": refused", False)


def chat(client, model):
    ask = dict(model=model, messages=[{"role": "system", "content": "Answer in one word."},
                                      {"role": "user", "content": "The capital of France?"}],
               max_completion_tokens=12, temperature=0, seed=1)
    whole = client.chat.completions.create(**ask)
    check("chat: one choice", len(whole.choices) == 1 and whole.choices[0].message.role == "assistant")
    check("chat: usage adds up", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens)
    pieces, ends, usage, ids = [], [], None, set()
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        ids.add((chunk.id, chunk.created, chunk.model))
        usage = chunk.usage or usage
        for c in chunk.choices:
            pieces.append(c.delta.content or "")
            ends += [c.finish_reason] if c.finish_reason else []
    check("chat: streamed and whole are the same", "".join(pieces) == whole.choices[0].message.content)
    check("chat: one end", ends == [whole.choices[0].finish_reason])
    check("chat: the chunks belong together", len(ids) == 1)
    check("chat: the stream's usage", usage and usage.completion_tokens == whole.usage.completion_tokens)
    with client.chat.completions.stream(**ask) as stream:  # the client's own accumulator
        for _ in stream:
            pass
        final = stream.get_final_completion()
    check("chat: accumulated", final.choices[0].message.content == whole.choices[0].message.content)
    tops = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3, n=2).choices
    check("chat: n", [c.index for c in tops] == [0, 1])
    for c in tops:
        for t in c.logprobs.content:
            check("chat: top logprobs", len(t.top_logprobs) == 3 and t.logprob <= 0)
            check("chat: bytes", t.token.startswith("bytes:") or bytes(t.bytes).decode() == t.token)
    raw = client.chat.completions.with_raw_response.create(**ask, extra_body={"kv_method": "kivi-4"})
    check("chat: method", raw.parse().usage.model_extra["kv_method"].startswith("kivi"))


def completions(client, lenient, model):
    """lenient: the client's types have no null where the API itself sends one: the finish_reason of a text that goes on, the
    logprob of a prompt's first token."""
    ask = dict(model=model, prompt="Once upon a time", max_tokens=10, temperature=0)
    whole = client.completions.create(**ask)
    check("text: object", whole.object == "text_completion" and whole.choices[0].finish_reason == "length")
    streamed = "".join(c.choices[0].text for c in lenient.completions.create(**ask, stream=True))
    check("text: streamed and whole are the same", streamed == whole.choices[0].text)
    two = client.completions.create(model=model, prompt=["One, two,", "Red, green,"], max_tokens=3, n=2, temperature=1, seed=5)
    check("text: prompts times n", [c.index for c in two.choices] == [0, 1, 2, 3])
    echo = lenient.completions.create(model=model, prompt="A small house", max_tokens=0, echo=True, logprobs=2)
    l = echo.choices[0].logprobs
    check("text: echo", echo.choices[0].text == "A small house")
    check("text: lists of one length", len({len(l.tokens), len(l.token_logprobs), len(l.top_logprobs), len(l.text_offset)}) == 1)
    check("text: logprobs", l.token_logprobs[0] is None and all(x <= 0 and math.isfinite(x) for x in l.token_logprobs[1:]))
    check("text: offsets", "".join(l.tokens) == "A small house" and l.text_offset[0] == 0)
    stop = client.completions.create(**ask, stop=[" "])
    check("text: stop", " " not in stop.choices[0].text)
    ids = client.completions.create(model=model, prompt=[1, 2, 3], max_tokens=2, logit_bias={"5": -100})
    check("text: token ids", ids.usage.prompt_tokens == 3)


def rest(client, model, url, key):
    listed = client.models.list().data
    check("models: listed", [m.id for m in listed] == [model] and listed[0].object == "model")
    check("models: one", client.models.retrieve(model).id == model)
    refused("unknown model", openai.NotFoundError, lambda: client.models.retrieve("other"))
    refused("unknown model in a body", openai.NotFoundError,
            lambda: client.completions.create(model="other", prompt="x"))
    refused("bad field", openai.BadRequestError,
            lambda: client.completions.create(model=model, prompt="x", temperature=-1))
    refused("no messages", openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[]))
    refused("too long", openai.BadRequestError, lambda: client.completions.create(model=model, prompt="x", max_tokens=1 << 19))
    if key:
        refused("wrong key", openai.AuthenticationError,
                lambda: openai.OpenAI(base_url=url + "/v1", api_key=key + "x", max_retries=0).models.list())


def main():
    url, model, key = sys.argv[1], sys.argv[2], (sys.argv[3:] + [""])[0]
    options = dict(base_url=url + "/v1", api_key=key or "none", max_retries=0)
    client = openai.OpenAI(**options, _strict_response_validation=True)
    chat(client, model)
    completions(client, openai.OpenAI(**options), model)
    rest(client, model, url, key)
    print("openai", openai.__version__, "failed" if FAILED else "passed")
    return bool(FAILED)


sys.exit(main())
