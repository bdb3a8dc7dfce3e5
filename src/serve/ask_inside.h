/* ask_inside.h - between ask.c and ask_prompt.c. */
#ifndef SERVE_ASK_INSIDE_H
#define SERVE_ASK_INSIDE_H
#include "serve/ask.h"

#define CODE_TOO_LONG "context_length_exceeded"

/* Fill a->prompt. Messages that are to stay are pinned; *system: where the system message stands, may be empty. */
bool ask_read_messages(const ask_world *world, ask *a, const json_t *body, token_span *system, refusal *r);
bool ask_read_prompts(const ask_world *world, ask *a, const json_t *body, refusal *r);
/* Adds a span, if it is not empty, to those of a prompt that are never evicted. */
bool ask_pin(ask_prompt *p, token_span span, refusal *r);
#endif
