/* A server that loads an interpreter late, as one with a plugin for Python does: `embedded LIBPYTHON SCRIPT ARGUMENT...` runs
 * the script in it, while threads that never heard of Python burn and ask for memory. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>

static volatile int ends;

static void *strange(void *unused) {
    while (!ends) {
        for (volatile int round = 0; round < 100000; round++) {}
        free(malloc(3000));
    }
    return unused;
}

int main(int count, char **arguments) {
    void *python = dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL);
    if (!python) { fprintf(stderr, "%s\n", dlerror()); return 2; }
    int (*run)(int, wchar_t **) = (int (*)(int, wchar_t **))dlsym(python, "Py_Main");
    wchar_t *wide[16] = {L"python"};
    for (int at = 2; at < count && at < 16; at++) {
        wide[at - 1] = malloc(4096 * sizeof(wchar_t));
        mbstowcs(wide[at - 1], arguments[at], 4096);
    }
    pthread_t threads[2];
    for (int at = 0; at < 2; at++) pthread_create(&threads[at], NULL, strange, NULL);
    int result = run(count - 1, wide);
    ends = 1;
    for (int at = 0; at < 2; at++) pthread_join(threads[at], NULL);
    return result;
}
