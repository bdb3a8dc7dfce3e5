/* ask_inside.h - between ask.c and ask_prompt.c. */
#ifndef SERVE_ASK_INSIDE_H
#define SERVE_ASK_INSIDE_H
#include "serve/ask.h"

/* Fill a->prompt; *n_system: leading tokens that hold the system message. */
bool ask_read_messages(const ask_world *world, ask *a, const json_t *body, int *n_system, refusal *r);
bool ask_read_prompts(const ask_world *world, ask *a, const json_t *body, refusal *r);
#endif
