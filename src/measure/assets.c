/* assets.c - files of the repository, put into the binary by the assembler (paths count from the repository's root,
 * where make runs). */
#include "measure/assets.h"

__asm__(".section .rodata\n"
        "assets_text_begin: .incbin \"tests/data/shakespeare-40k.txt\"\n"
        "assets_text_end: .byte 0\n"
        "assets_prompts_begin: .incbin \"src/measure/prompts.jsonl\"\n"
        "assets_prompts_end: .byte 0\n"
        ".previous\n");
extern const char assets_text_begin[], assets_text_end[], assets_prompts_begin[], assets_prompts_end[];

const char *assets_text(size_t *n_bytes) {
    *n_bytes = (size_t)(assets_text_end - assets_text_begin);
    return assets_text_begin;
}

const char *assets_prompts(size_t *n_bytes) {
    *n_bytes = (size_t)(assets_prompts_end - assets_prompts_begin);
    return assets_prompts_begin;
}
