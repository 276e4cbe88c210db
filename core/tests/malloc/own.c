/* An allocator of its own that dies of a block which is not its. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define MARK 0x6f776e2d626c6f63ull
static char room[64 << 20] __attribute__((aligned(16)));
static size_t used;
static unsigned long given, taken;

void *malloc(size_t size) {
    size_t at = __atomic_fetch_add(&used, (size + 31) / 16 * 16, __ATOMIC_RELAXED);
    if (at + size + 32 > sizeof room) return NULL;
    uint64_t *head = (uint64_t *)(room + at);
    head[0] = MARK;
    head[1] = size;
    __atomic_fetch_add(&given, 1, __ATOMIC_RELAXED);
    return head + 2;
}

void free(void *block) {
    if (!block) return;
    if (((uint64_t *)block)[-2] != MARK) abort();
    ((uint64_t *)block)[-2] = 0;
    __atomic_fetch_add(&taken, 1, __ATOMIC_RELAXED);
}

void *realloc(void *block, size_t size) {
    char *moved = malloc(size);
    if (block && moved) {
        size_t old = ((uint64_t *)block)[-1];
        for (size_t n = 0; n < (old < size ? old : size); n++) moved[n] = ((char *)block)[n];
        free(block);
    }
    return moved;
}

void *calloc(size_t number, size_t size) { return malloc(number * size); }

/* Calls within itself are left alone. */
int own_inside(void) { void *block = malloc(100); free(block); return 0; }
unsigned long own_given(void) { return given; }
unsigned long own_taken(void) { return taken; }
