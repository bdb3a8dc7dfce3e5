/* assets.h - the text and the prompts that a study runs on, inside the binary. */
#ifndef MEASURE_ASSETS_H
#define MEASURE_ASSETS_H
#include <stddef.h>

/* 40,000 bytes of Shakespeare (public domain): perplexity, KL, and prompts of the throughput grid. */
const char *assets_text(size_t *n_bytes);
/* Prompts written for this, one JSON object to a line: {"id", "class", "prompt"}. */
const char *assets_prompts(size_t *n_bytes);
#endif
