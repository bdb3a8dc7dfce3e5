#!/usr/bin/env python3
"""Writes tests/data/golden/chat.txt: conversations rendered by the models' own chat templates, run by Jinja2 as the
transformers library runs them.

Needs jinja2 (tried with 3.1.6) in some Python of your own; neither pleat nor its tests depend on it.

    python3 scripts/golden/make_chat.py TEMPLATES >tests/data/golden/chat.txt

TEMPLATES is a folder with NAME.jinja for each name below: the chat_template of the tokenizer_config.json (or, of a GGUF file,
tokenizer.chat_template) of SmolLM2-135M-Instruct, Qwen2.5-7B-Instruct, Llama-2-7b-chat, Meta-Llama-3-8B-Instruct,
Llama-3.1-8B-Instruct, Llama-3.2-3B-Instruct, gemma-2-2b-it, gemma-3-1b-it, Mistral-7B-Instruct v0.1, v0.2, v0.3 and
Mistral-Nemo-Instruct-2407. The templates are their makers' and are not kept here. No clock is given to a template, so those
that write a date write their own default.

The file: "template NAME", then for each conversation "chat", one line "message ROLE HEX" each and "prompt HEX" (the assistant's
turn opened); "-" stands for no bytes. A conversation that a template refuses is left out."""
import os
import sys

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TOKENS = {
    "chatml": ("", "<|im_end|>"),
    "llama-2": ("<s>", "</s>"),
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>"),
    "gemma": ("<bos>", "<eos>"),
}
NAMES = [
    ("smollm2-135m", "chatml"), ("qwen2.5", "chatml"), ("llama-2", "llama-2"), ("llama-3", "llama-3"),
    ("llama-3.1", "llama-3"), ("llama-3.2", "llama-3"), ("gemma-2", "gemma"), ("gemma-3", "gemma"), ("mistral-v0.1", "llama-2"),
    ("mistral-v0.2", "llama-2"), ("mistral-v0.3", "llama-2"), ("mistral-nemo", "llama-2"),
]
CHATS = [
    [("user", "Hello!")],
    [("system", "Be brief."), ("user", "Who are you?")],
    [("user", "One?"), ("assistant", "Two."), ("user", "Three?")],
    [("system", "You count."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four!"), ("user", "Five?")],
    [("user", "  spaces \n around\n\n")],
    [("system", "  padded system\n"), ("user", "\n padded user ")],
    [("user", "Zażółć 日本語 😀\nsecond line\n\tthird"), ("assistant", "  padded answer \n"), ("user", "{{ not }} {% a %} template")],
    [("user", "")],
]


def fail(message):
    raise jinja2.exceptions.TemplateError(message)


def render(template, messages, bos, eos):
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.globals["raise_exception"] = fail
    dicts = [{"role": role, "content": content} for role, content in messages]
    return env.from_string(template).render(messages=dicts, bos_token=bos, eos_token=eos, add_generation_prompt=True)


def shown(text):
    return text.encode().hex() or "-"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, tokens in NAMES:
        print("template", name)
        template = open(os.path.join(sys.argv[1], name + ".jinja")).read()
        for messages in CHATS:
            try:
                prompt = render(template, messages, *TOKENS[tokens])
            except jinja2.exceptions.TemplateError:
                continue
            print("chat")
            for role, content in messages:
                print("message", role, shown(content))
            print("prompt", shown(prompt))


main()
