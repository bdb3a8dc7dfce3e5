/* memory.h - aligned and huge-page memory, and growing arrays. */
#ifndef BASE_MEMORY_H
#define BASE_MEMORY_H
#include <stdbool.h>
#include <stddef.h>

/* Zeroed, 64-byte aligned; NULL when the system has none (or the size overflows). Free with mem_free. n x size,
 * checked. */
void *mem_alloc(size_t n, size_t size_bytes);
void mem_free(void *p);
/* Anonymous mapping rounded up to 2 MB and advised to huge pages; NULL when refused. Free with mem_unmap(p, same
 * bytes). */
void *mem_map(size_t bytes);
void mem_unmap(void *p, size_t bytes);
/* Grows *array (elements of size_bytes) so that it holds at least n; *cap is its capacity. false: no memory, unchanged.
 */
bool mem_grow(void *array_pointer, int *cap, int n, size_t size_bytes);
/* Free physical memory in bytes (MemAvailable). */
size_t mem_available_bytes(void);
#endif
