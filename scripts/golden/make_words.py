#!/usr/bin/env python3
"""Writes tests/data/golden/words.txt: texts cut by the published split patterns of four tokenizers, run by the `regex` package.

Needs regex (tried with 2026.11.19) in some Python of your own; neither pleat nor its tests depend on it.

    python3 scripts/golden/make_words.py >tests/data/golden/words.txt

"text HEX" ("-": no bytes), then for each pre-tokenizer its name and the bytes of each word."""
import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXTS = [
    "", " ", "  ", "\n", "a", "Hello, world!", "  two  spaces  ", "It's WE'RE they'Ve I'm he'll SHE'D don't 'tis o'clock",
    "0", "12", "123", "1234567", "3.14e-10 1,000,000", "v2beta x86_64 abc123def", "tab\tand\t\ttabs", "line\r\nline\n\n\n  end\r", " \n \n\t x",
    "naïve Ångström straße ИВАН Ελληνικά", "日本語123テキスト、。", "한국어 문장", "مرحبا ١٢٣", "½ Ⅷ ²³ ①②", "e\u0301a\u0308\u0304 \u0301", "😀👍🏽 👨\u200d👩\u200d👧 🇩🇪",
    "!!!???... ;;; <|im_end|>", "\u00a0nbsp\u3000wide\u2003em\u2028ls", "a" * 40 + " " * 40 + "1" * 40, "def f(x):\n    return x**2  # sq\n\n\n\tpass", "'", "''s 's", "\u2019s \u02bcn",
    "\n\n \n!\n\n?", "x \u0660\u0661 \u4e00\u4e8c", "\ufeffbom\u200bzw", "__init__ $x @y #z %d", "\U0001d518\U0001d52b \ufb01n",
]


def smollm(text):
    words = []
    for piece in regex.split(r"(\p{N})", text):
        words += [piece] if regex.fullmatch(r"\p{N}", piece) else regex.findall(GPT2, piece)
    return words


KINDS = {
    "gpt-2": lambda text: regex.findall(GPT2, text),
    "smollm": smollm,
    "qwen2": lambda text: regex.findall(LLAMA3 % "", text),
    "llama-bpe": lambda text: regex.findall(LLAMA3 % "{1,3}", text),
}

for text in TEXTS:
    print("text", text.encode().hex() or "-")
    for name, cut in KINDS.items():
        words = cut(text)
        assert "".join(words) == text
        print(name, *(len(word.encode()) for word in words))
