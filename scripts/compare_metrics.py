#!/usr/bin/env python3
"""scripts/compare_metrics.py - LongBench's metrics in pleat beside the Python originals, on random and odd strings.

    scripts/compare_metrics.py [-n 10000] [--seed 1] [--metrics metrics.py]

Each pair of strings is scored by every metric twice, by `build/pleat negatives --answers` and in Python: with the PyPI
packages rouge 1.0.1 and fuzzywuzzy 0.18.0 (over difflib), put into .venv/metrics on the first run. LongBench's own few
lines around them are on no package index: --metrics takes its metrics.py (THUDM/LongBench) and runs that; without it the
same steps are spelled out below. Scores must be equal to the last bit; the exit code is 1 if one is not.
"""
import argparse
import collections
import csv
import importlib.util
import json
import os
import random
import re
import string
import subprocess
import sys
import tempfile
import unicodedata
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv", "metrics")
PACKAGES = ["rouge==1.0.1", "fuzzywuzzy==0.18.0", "jieba==0.42.1", "setuptools<80"]
SETS = ["qasper", "triviaqa", "gov_report", "samsum", "trec", "lsht", "passage_retrieval_en", "passage_retrieval_zh",
        "passage_count", "lcc"]
FIRST_LINE = {"trec", "triviaqa", "samsum", "lsht"}


def enter_venv():
    python = os.path.join(VENV, "bin", "python")
    if os.path.realpath(sys.prefix) == os.path.realpath(VENV):
        return
    if not os.path.exists(os.path.join(VENV, "done")):
        subprocess.check_call([sys.executable, "-m", "venv", VENV])
        subprocess.check_call([python, "-m", "pip", "install", "-q"] + PACKAGES)
        open(os.path.join(VENV, "done"), "w").close()
    os.execv(python, [python, os.path.abspath(__file__)] + sys.argv[1:])


# ---- the originals ----


class Spelled:
    """LongBench's metrics, step by step, over the packages."""

    def __init__(self):
        from fuzzywuzzy import fuzz
        from rouge import Rouge
        self.fuzz, self.rouge = fuzz, Rouge()

    def f1(self, answer, reference, classes):
        def words(s):
            s = "".join(c for c in s.lower() if c not in string.punctuation)
            return re.sub(r"\b(?:the|an|a)\b", " ", s).split()
        a, r = words(answer), words(reference)
        same = sum((collections.Counter(a) & collections.Counter(r)).values())
        if not same:
            return 0
        p, q = same / len(a), same / len(r)
        return 2 * p * q / (p + q)

    def rouge_l(self, answer, reference, classes):
        try:
            return self.rouge.get_scores([answer], [reference], avg=True)["rouge-l"]["f"]
        except ValueError:  # no sentence
            return 0

    def classify(self, answer, reference, classes):
        named = [c for c in classes if c in answer]
        for c in named:  # changed while it is walked, as the original does
            if c in reference and c != reference:
                named.remove(c)
        return 1 / len(named) if reference in named else 0

    def numbers(self, answer, wanted):
        found = re.findall(r"\d+", answer)
        return found.count(wanted) / len(found) if found else 0

    def retrieve(self, answer, reference, classes):
        return self.numbers(answer, re.search(r"Paragraph (\d+)", reference).group(1))

    def retrieve_zh(self, answer, reference, classes):
        return self.numbers(answer, re.search("\u6bb5\u843d" + r"(\d+)", reference).group(1))

    def count(self, answer, reference, classes):
        return self.numbers(answer, reference)

    def edit(self, answer, reference, classes):
        lines = [x for x in answer.lstrip("\n").split("\n") if not re.search("`|#|//", x)]
        return self.fuzz.ratio(lines[0] if lines else "", reference) / 100


class Original:
    """LongBench's metrics.py itself."""

    def __init__(self, path):
        spec = importlib.util.spec_from_file_location("longbench_metrics", path)
        m = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(m)

        def of(f):
            return lambda a, r, c: f(a, r, all_classes=c)
        self.f1, self.rouge_l, self.classify = of(m.qa_f1_score), of(m.rouge_score), of(m.classification_score)
        self.retrieve, self.retrieve_zh = of(m.retrieval_score), of(m.retrieval_zh_score)
        self.count, self.edit = of(m.count_score), of(m.code_sim_score)


def metric_of(judge, name):
    return {"qasper": judge.f1, "triviaqa": judge.f1, "gov_report": judge.rouge_l, "samsum": judge.rouge_l,
            "trec": judge.classify, "lsht": judge.classify, "passage_retrieval_en": judge.retrieve,
            "passage_retrieval_zh": judge.retrieve_zh, "passage_count": judge.count, "lcc": judge.edit}[name]


def score(judge, sample):
    answer = sample["pred"]
    if sample["dataset"] in FIRST_LINE:
        answer = answer.lstrip("\n").split("\n")[0]
    metric = metric_of(judge, sample["dataset"])
    return max([0.0] + [float(metric(answer, r, sample["all_classes"])) for r in sample["answers"]])


# ---- strings ----

WORDS = ("the a an The AN and of to in is was it for The. the, a-b U.S. 3.14 don't don\u2019t (the) _the_ an_ "
         "na\u00efve caf\u00e9 cafe\u0301 \u0130stanbul \u03a3\u03a3 \u039f\u0394\u039f\u03a3 \u039f\u0394\u039f\u03a3. \u03a3'\u03a3 "
         "stra\u00dfe \u2013 \u2014 \u201cthe\u201d \u4e2d\u6587 \u6bb5\u843d \u0661\u0662 \uff11\uff12 x\u00b2 \u2167 "
         "\u1e9e \u00aa \u24b6 \u1d2c\u03a3 \u01c5 "
         "Paragraph paragraph 1 2 3 12 30 007 0 def return self if for in range(10): x = y + 1 print(x)").split(" ")
SPACES = [" ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u2028", "\x1c", "\x85", "\u200b"]
SIGNS = [".", ".", ".", "..", ". ", ",", "!", "`", "#", "//", "\n", "\n\n", "...", "'", "_", "/", ""]


def characters(r, n):
    """n characters from all planes: no surrogates, no NUL, none that only a later Unicode than Python's knows."""
    out = []
    while len(out) < n:
        kind = r.random()
        c = chr(r.randint(1, 0x7f if kind < 0.4 else 0x24ff if kind < 0.7 else 0xffff if kind < 0.85 else 0x10ffff))
        if unicodedata.category(c) not in ("Cs", "Cn"):
            out.append(c)
    return "".join(out)


def phrase(r, n):
    out = []
    for _ in range(n):
        out.append(r.choice(WORDS) if r.random() < 0.8 else r.choice(WORDS)[::-1])
        if r.random() < 0.2:
            out.append(r.choice(SIGNS))
        out.append(r.choice(SPACES))
    return "".join(out)


def code(r, n):
    return "".join(r.choice("abcde  ()=.:_0") for _ in range(n))


def mutate(r, s):
    """A string near s."""
    s = list(s)
    for _ in range(r.randint(0, 1 + len(s) // 6)):
        i = r.randint(0, len(s))
        kind = r.random()
        if kind < 0.4:
            del s[i:i + r.randint(1, 4)]
        elif kind < 0.7:
            s[i:i] = r.choice([" ", "x", ".", "\n", "the ", "7", "\u00e9"])
        else:
            k = r.randint(0, len(s))
            s[i:i] = s[k:k + r.randint(1, 12)]
    return "".join(s)


def text_of(r):
    kind, n = r.random(), int(2 ** r.uniform(0, 6))
    if kind < 0.05:
        return r.choice(["", " ", ".", "...", "\n", "\n\n\n", " . . ", "a", "the", "`", "#"])
    if kind < 0.5:
        return phrase(r, n)
    if kind < 0.7:
        return characters(r, 4 * n)
    if kind < 0.9:  # long enough for difflib's autojunk at times
        return code(r, 10 * n)
    return r.choice("ab ") * r.randint(1, 260) + code(r, n)


def reference_of(r, name, answer):
    if name.startswith("passage_retrieval"):
        mark = "Paragraph " if name.endswith("en") else "\u6bb5\u843d"
        return r.choice(["", "see ", mark]) + mark + r.choice(["1", "12", "\u0661\u0662", "3x", "30 31", "007"])
    if name == "passage_count":
        return r.choice(["1", "12", "3", "\uff11\uff12", "0", "007"])
    near = mutate(r, answer)
    return r.choice([near, near, near, answer, text_of(r)])


def sample_of(r, i):
    name = SETS[i % len(SETS)]
    answer = text_of(r)
    classes = None
    if name in ("trec", "lsht"):
        classes = [r.choice(WORDS + ["a b", "b", "ab", ""]) for _ in range(r.randint(1, 9))]
        answer = " ".join(r.choice(classes) for _ in range(r.randint(0, 4))) + r.choice(["", " " + answer])
        references = [r.choice(classes + ["other", "a b c"]) for _ in range(r.randint(1, 2))]
    else:
        references = [reference_of(r, name, answer) for _ in range(r.choice([1, 1, 1, 2, 3]))]
    return {"dataset": name, "id": str(i), "pred": answer, "answers": references, "all_classes": classes}


# ---- both ----


def pleat_scores(samples):
    with tempfile.TemporaryDirectory() as folder:
        answers, scores = os.path.join(folder, "answers.jsonl"), os.path.join(folder, "scores.csv")
        with open(answers, "w", encoding="utf-8") as f:
            for s in samples:
                f.write(json.dumps(s, ensure_ascii=False) + "\n")
        binary = os.path.join(ROOT, "build", "pleat")
        subprocess.check_call([binary, "negatives", "--answers", answers, "-o", scores], stdout=subprocess.DEVNULL)
        with open(scores, newline="", encoding="utf-8") as f:
            return [float(row["score"]) for row in csv.DictReader(f)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-n", type=int, default=10000, help="pairs for each metric")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metrics", help="LongBench's metrics.py")
    options = parser.parse_args()
    enter_venv()
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(100000)  # rouge's way back through a long table
    judge = Original(options.metrics) if options.metrics else Spelled()
    r = random.Random(options.seed)
    samples = [sample_of(r, i) for i in range(options.n * len(SETS))]
    ours = pleat_scores(samples)
    n, wrong, some, full = (collections.Counter() for _ in range(4))
    for s, x in zip(samples, ours):
        y = score(judge, s)
        n[s["dataset"]] += 1
        some[s["dataset"]] += 0 < y < 1
        full[s["dataset"]] += y == 1
        if x != y:
            wrong[s["dataset"]] += 1
            if wrong[s["dataset"]] <= 3:
                print(f"{s['dataset']}: pleat {x!r}, Python {y!r}: {s['pred']!r} | {s['answers']!r} | {s['all_classes']!r}")
    for name in SETS:
        print(f"{name:22} {n[name]:6} samples ({some[name]} between 0 and 1, {full[name]} at 1), {wrong[name]} differ")
    sys.exit(1 if sum(wrong.values()) or len(ours) != len(samples) else 0)


if __name__ == "__main__":
    main()
