/* What a program can tell of C's functions: each must answer with hooks as without. Returns the line that is wrong, or 0. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(what) do { if (!(what)) return __LINE__; } while (0)
#define HUGE ((size_t)PTRDIFF_MAX)

/* So that the compiler does not know what it is. */
static volatile size_t nothing = 0, much = SIZE_MAX, half = SIZE_MAX / 2 + 1, below = HUGE, quarter = SIZE_MAX / 4 * 3;

static int zeroed(const unsigned char *bytes, size_t size) {
    for (size_t n = 0; n < size; n++) if (bytes[n]) return 0;
    return 1;
}

static int failures(void) {
    void *block = malloc(100);
    size_t sizes[] = {much, half, below, quarter};
    memset(block, 7, 100);
    for (int n = 0; n < 4; n++) {
        size_t size = sizes[n];
        errno = 0; MUST(!malloc(size) && errno == ENOMEM);
        errno = 0; MUST(!calloc(1, size) && errno == ENOMEM);
        errno = 0; MUST(!calloc(size, 16) && errno == ENOMEM);
        errno = 0; MUST(!realloc(block, size) && errno == ENOMEM);
        errno = 0; MUST(!reallocarray(block, size, 4) && errno == ENOMEM);
        errno = 0; MUST(!memalign(64, size) && errno == ENOMEM);
        errno = 0; MUST(!aligned_alloc(64, size) && errno == ENOMEM);
        void *out = &sizes;
        errno = 4711;
        MUST(posix_memalign(&out, 64, size) == ENOMEM && out == &sizes);
    }
    void *out = &sizes;
    MUST(posix_memalign(&out, 3, 10) == EINVAL && out == &sizes);
    for (int n = 0; n < 100; n++) MUST(((char *)block)[n] == 7);
    free(block);
    return 0;
}

static int sizes(void) {
    errno = 4711;
    void *none = malloc(nothing), *zero = calloc(nothing, 8);
    MUST(none && zero && none != zero);
    MUST(malloc_usable_size(none) > 0 && malloc_usable_size(NULL) == 0);
    free(none); free(zero); free(NULL);
    void *block = realloc(NULL, 1000);
    MUST(block);
    memset(block, 9, 1000);
    block = realloc(block, 10);
    for (int round = 0; round < 20; round++) {
        size_t size = 10 + (size_t)round * round * round * 100;
        block = realloc(block, size);
        MUST(block && malloc_usable_size(block) >= size);
        for (int n = 0; n < 10; n++) MUST(((char *)block)[n] == 9);
    }
    block = realloc(block, (size_t)64 << 20);
    block = realloc(block, (size_t)128 << 20);
    MUST(block && ((char *)block)[9] == 9);
    block = realloc(block, 20);
    MUST(block && ((char *)block)[9] == 9);
    /* As glibc has it: to ask for nothing gives back. */
    MUST(!realloc(block, nothing));
    MUST(errno == 4711);
    for (int n = 0; n < 1000; n++) {
        size_t size = 1 + (size_t)n * 37;
        unsigned char *clear = calloc(size, 3);
        MUST(clear && zeroed(clear, 3 * size));
        memset(clear, 1, 3 * size);
        free(clear);
    }
    MUST(errno == 4711);
    return 0;
}

static int alignments(void) {
    size_t page = sysconf(_SC_PAGESIZE);
    for (size_t alignment = 8; alignment <= (size_t)4 << 20; alignment *= 2) {
        void *a = NULL, *b = aligned_alloc(alignment, alignment * 2), *c = memalign(alignment, 100);
        MUST(posix_memalign(&a, alignment, 1000) == 0);
        MUST(a && b && c);
        MUST((uintptr_t)a % alignment == 0 && (uintptr_t)b % alignment == 0 && (uintptr_t)c % alignment == 0);
        memset(a, 1, 1000); memset(b, 1, alignment * 2); memset(c, 1, 100);
        free(a); free(b); free(c);
    }
    void *a = valloc(10), *b = pvalloc(10);
    MUST(a && b && (uintptr_t)a % page == 0 && (uintptr_t)b % page == 0 && malloc_usable_size(b) >= page);
    free(a); free(b);
    return 0;
}

/* Calls of the C library to its own allocator, and blocks that it gives away. */
static int of_the_library(void) {
    char *text = strdup("everprof"), *line = NULL, *made = NULL;
    size_t room = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    MUST(text && file && strcmp(text, "everprof") == 0);
    for (int n = 0; n < 20; n++) MUST(getline(&line, &room, file) > 0);
    fclose(file);
    MUST(asprintf(&made, "%s %d", text, 42) == 11);
    FILE *memory = open_memstream(&text, &room);
    free(made); free(line);
    for (int n = 0; n < 10000; n++) fprintf(memory, "%d,", n);
    fclose(memory);
    MUST(room > 40000);
    free(text);
    MUST(setenv("EVERPROF_TEST_OF_MALLOC", "1", 1) == 0 && unsetenv("EVERPROF_TEST_OF_MALLOC") == 0);
    return 0;
}

int check(void) {
    int wrong;
    if ((wrong = failures())) return wrong;
    if ((wrong = sizes())) return wrong;
    if ((wrong = alignments())) return wrong;
    return of_the_library();
}
