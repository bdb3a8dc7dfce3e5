/* chat_style.c - which chat format a template is, and its habits. There is no template interpreter: a format is known
 * by its marks, all of which must be there, and by the absence of what its odd relatives have. Habits are read off the
 * string literals of the template; tests compare the outcome with the models' own templates
 * (tests/data/golden/chat.txt).
 *
 * Not followed: tools, and a template that refuses a system message (gemma-2, mistral v0.1): here it goes in front of
 * the first user message, as the later templates of these families have it. */
#include "text/chat_style.h"
#include "base/status.h"
#include <string.h>

static bool holds(gguf_string s, const char *mark) {
    return memmem(s.bytes, s.n, mark, strlen(mark)) != NULL;
}

static bool holds_all(gguf_string s, const char *const *marks) {
    for (; *marks; marks++)
        if (!holds(s, *marks))
            return false;
    return true;
}

static bool holds_any(gguf_string s, const char *const *marks) {
    for (; *marks; marks++)
        if (holds(s, *marks))
            return true;
    return false;
}

static pleat_status get_template(const gguf *file, gguf_string *text, bool *found, pleat_error *error) {
    *text = (gguf_string){"", 0};
    return gguf_get_string(file, "tokenizer.chat_template", text, found, error);
}

enum { MOST_MARKS = 5 };

/* In the order of trying. without: Phi-4's separator, reasoning (its prompt ends in an open thought), and Mistral's
 * later system turns. */
static const struct {
    chat_format format;
    const char *with[MOST_MARKS], *without[MOST_MARKS];
} kinds[] = {
    {CHAT_CHATML, {"<|im_start|>", "<|im_end|>"}, {"<|im_sep|>", "<think>"}},
    {CHAT_LLAMA3, {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, {NULL}},
    {CHAT_GEMMA, {"<start_of_turn>", "<end_of_turn>", "model"}, {NULL}},
    {CHAT_LLAMA2, {"[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"}, {NULL}},
    {CHAT_MISTRAL, {"[INST]", "[/INST]"}, {"[SYSTEM_PROMPT]", "[gMASK]"}},
};

pleat_status chat_format_detect(const gguf *file, chat_format *format, pleat_error *error) {
    static const char key[] = "tokenizer.chat_template";
    gguf_string text;
    bool found;
    pleat_status status = get_template(file, &text, &found, error);
    if (status)
        return status;
    if (!found)
        return gguf_refuse(file, NULL, error, "%s is missing; name a chat format (" CHAT_NAMES ") or give the raw text",
                           key);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (holds_all(text, kinds[i].with) && !holds_any(text, kinds[i].without)) {
            *format = kinds[i].format;
            return PLEAT_OK;
        }
    return gguf_refuse(file, key, error, "%s is not one of those known (" CHAT_NAMES "); name one of them", key);
}

static bool is_quote(char c) {
    return c == '\'' || c == '"';
}

/* The literal system message of a chatml template: between "<|im_start|>system", a line break and "<|im_end|>", if no
 * quote ends it before. A quote that does is where the search goes on, so that it stays linear. */
static gguf_string default_system(gguf_string text) {
    static const char open[] = "<|im_start|>system", close[] = "<|im_end|>";
    const char *end = text.bytes + text.n, *at = text.bytes;
    while ((at = memmem(at, (size_t)(end - at), open, sizeof(open) - 1))) {
        at += sizeof(open) - 1;
        const char *from = at;
        if (end - from >= 2 && !memcmp(from, "\\n", 2))
            from += 2;
        else if (end - from >= 1 && *from == '\n')
            from++;
        const char *to = from;
        while (to < end && !is_quote(*to) &&
               ((size_t)(end - to) < sizeof(close) - 1 || memcmp(to, close, sizeof(close) - 1)))
            to++;
        if (to < end && !is_quote(*to) && from > at)
            return (gguf_string){from, (size_t)(to - from)};
        at = to;
    }
    return (gguf_string){"", 0};
}

/* The bytes beside a mark, where it stands in a literal: what is not there is a quote. */
static void beside(gguf_string text, const char *mark, char *before, char *after) {
    const char *at = memmem(text.bytes, text.n, mark, strlen(mark)), *next = at ? at + strlen(mark) : NULL;
    *before = at && at > text.bytes ? at[-1] : '"';
    *after = next && next < text.bytes + text.n ? *next : '"';
}

static void read_mistral(gguf_string text, chat_style *style) {
    char before, after, close, unused;
    beside(text, "[INST]", &before, &after);
    beside(text, "[/INST]", &close, &unused);
    style->space_before = before == ' ';
    style->space_after = !is_quote(after);
    style->space_close = !is_quote(close);
    style->space_answer = holds_any(text, (const char *const[]){"\" \" + message", "' ' + message", NULL});
    style->trim_answer =
        holds_any(text, (const char *const[]){"message[\"content\"]|trim", "message['content']|trim", NULL});
    style->system_last = holds(text, "loop.last and system_message");
}

chat_style chat_style_read(const gguf *file, chat_format format) {
    chat_style style = {.system = {"", 0}, .space_after = true, .space_close = true};
    gguf_string text;
    bool found = false;
    if (get_template(file, &text, &found, NULL) || !found)
        return style;
    if (format == CHAT_CHATML)
        style.system = default_system(text);
    else if (format == CHAT_LLAMA3)
        style.dated = holds(text, "Cutting Knowledge Date: December 2023");
    else if (format == CHAT_MISTRAL && holds(text, "[INST]") && holds(text, "[/INST]"))
        read_mistral(text, &style);
    return style;
}
