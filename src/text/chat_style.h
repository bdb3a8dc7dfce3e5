/* chat_style.h - inside text/: what a file's chat template says beyond its format: small habits of the same family,
 * read off the template's literals. */
#ifndef TEXT_CHAT_STYLE_H
#define TEXT_CHAT_STYLE_H
#include "text/chat.h"

typedef struct chat_style {
    gguf_string system; /* chatml: the system message that stands in front when there is none; n = 0: none */
    bool dated;         /* llama-3: a system turn that begins with two dates always stands in front */
    /* mistral */
    bool space_before; /* " [INST]" */
    bool space_after;  /* "[INST] " */
    bool space_close;  /* " [/INST]" */
    bool space_answer; /* "[/INST] answer" */
    bool trim_answer;
    bool system_last; /* the system message goes in front of the last user message, else of the first */
} chat_style;
/* Of a file without a template: the plainest of the format. */
chat_style chat_style_read(const gguf *file, chat_format format);
#endif
